/* utf8.c - UTF-8 by RFC 3629. */
#include "base/utf8.h"

#include <string.h>

/* The length a lead byte announces and the bounds of its second byte; the table in
 * Unicode 15, 3-7. 0: not a lead byte. */
static int lead(unsigned char c, unsigned char *low, unsigned char *high) {
    *low = 0x80;
    *high = 0xbf;
    if (c < 0x80) return 1;
    if (c >= 0xc2 && c <= 0xdf) return 2;
    if (c == 0xe0) *low = 0xa0;
    if (c == 0xed) *high = 0x9f;
    if (c >= 0xe0 && c <= 0xef) return 3;
    if (c == 0xf0) *low = 0x90;
    if (c == 0xf4) *high = 0x8f;
    return c >= 0xf0 && c <= 0xf4 ? 4 : 0;
}

/* How many leading bytes of s belong to a well-formed sequence; *need is its length. */
static int well_formed(struct str s, int *need) {
    unsigned char low, high;
    *need = lead((unsigned char)s.at[0], &low, &high);
    int n = *need ? 1 : 0;
    while (n && n < *need && (size_t)n < s.len) {
        unsigned char c = (unsigned char)s.at[n];
        if (c < (n == 1 ? low : 0x80) || c > (n == 1 ? high : 0xbf)) break;
        n++;
    }
    return n;
}

int utf8_next(struct str s, uint32_t *cp) {
    int need;
    if (!s.len) return 0;
    if (!(s.at[0] & 0x80)) {
        *cp = (uint32_t)s.at[0];
        return 1;
    }
    int n = well_formed(s, &need);
    if (!n || n < need) return 0;
    uint32_t v = (uint32_t)(unsigned char)s.at[0] & (0x7fu >> n);
    for (int i = 1; i < n; i++) v = v << 6 | ((uint32_t)(unsigned char)s.at[i] & 0x3f);
    *cp = v;
    return n;
}

void utf8_put(struct buf *b, uint32_t cp) {
    char c[4];
    size_t n;
    if (cp > 0x10ffff || (cp >= 0xd800 && cp <= 0xdfff)) cp = 0xfffd;
    if (cp < 0x80) {
        c[0] = (char)cp;
        n = 1;
    } else if (cp < 0x800) {
        c[0] = (char)(0xc0 | cp >> 6);
        c[1] = (char)(0x80 | (cp & 0x3f));
        n = 2;
    } else if (cp < 0x10000) {
        c[0] = (char)(0xe0 | cp >> 12);
        c[1] = (char)(0x80 | (cp >> 6 & 0x3f));
        c[2] = (char)(0x80 | (cp & 0x3f));
        n = 3;
    } else {
        c[0] = (char)(0xf0 | cp >> 18);
        c[1] = (char)(0x80 | (cp >> 12 & 0x3f));
        c[2] = (char)(0x80 | (cp >> 6 & 0x3f));
        c[3] = (char)(0x80 | (cp & 0x3f));
        n = 4;
    }
    buf_put(b, c, n);
}

/* n < 8 bytes as a word, the first in the lowest, zeros above. */
static uint64_t few_bytes(const char *at, size_t n) {
    const unsigned char *c = (const unsigned char *)at;
    uint32_t low, high;
    if (n >= sizeof low) {           /* the two may overlap */
        memcpy(&low, at, sizeof low);
        memcpy(&high, at + n - sizeof high, sizeof high);
        return low | (uint64_t)high << 8 * (n - sizeof high);
    }
    return n ? c[0] | (uint64_t)c[n / 2] << 8 * (n / 2) | (uint64_t)c[n - 1] << 8 * (n - 1) : 0;
}

/* Whether eight bytes, the first in the lowest, are ASCII and whole characters of two bytes.
 * *open: the last byte before them began a character; and afterwards, the last of them does. */
static bool one_or_two(uint64_t x, bool *open) {
    const uint64_t tops = 0x8080808080808080u;
    uint64_t high = x & tops, sixth = x << 1 & tops, fifth = x << 2 & tops;
    uint64_t lead = high & sixth & ~fifth, follow = high & ~sixth;
    uint64_t not_c0 = ((x & 0x1e1e1e1e1e1e1e1eu) + 0x7f7f7f7f7f7f7f7fu) & tops;
    bool done = !(lead & ~not_c0) && !(high & sixth & fifth)
        && follow == (lead << 8 | (*open ? 0x80u : 0));
    *open = lead >> 63;
    return done;
}

/* Eight bytes at a time: nearly all that is checked is ASCII or, in the vocabularies of byte-level
 * tokenizers, of two bytes a character. What is neither is read again from where it began. */
bool utf8_valid(struct str s) {
    bool open = false, plain = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__;
    size_t i = 0;
    for (uint64_t x; plain && i < s.len; i += sizeof x) {
        if (s.len - i >= sizeof x) memcpy(&x, s.at + i, sizeof x);
        else x = few_bytes(s.at + i, s.len - i);
        bool was_open = open;
        if (!open && !(x & 0x8080808080808080u)) continue;
        if (!one_or_two(x, &open)) {
            plain = false;
            i -= was_open;
            break;
        }
    }
    if (plain) return !open;
    for (uint32_t cp; i < s.len;) {
        int n = utf8_next(str_from(s, i), &cp);
        if (!n) return false;
        i += (size_t)n;
    }
    return true;
}

size_t utf8_complete(struct str s) {
    for (size_t back = 1; back <= 3 && back <= s.len; back++) {
        int need;
        struct str tail = str_from(s, s.len - back);
        int n = well_formed(tail, &need);
        if (n && n < need && (size_t)n == tail.len) return s.len - back;
        if (need) break;
    }
    return s.len;
}

void utf8_repair(struct buf *b, struct str s) {
    for (size_t i = 0; i < s.len;) {
        int need;
        int n = well_formed(str_from(s, i), &need);
        if (n && n == need) buf_put(b, s.at + i, (size_t)n);
        else buf_put(b, "\xef\xbf\xbd", 3);
        i += (size_t)MAX(n, 1);
    }
}
