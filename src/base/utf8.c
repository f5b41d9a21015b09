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

/* Eight ASCII bytes at a time: nearly all that is checked is ASCII. */
bool utf8_valid(struct str s) {
    uint32_t cp;
    for (size_t i = 0; i < s.len;) {
        uint64_t eight;
        if (s.len - i >= sizeof eight) {
            memcpy(&eight, s.at + i, sizeof eight);
            if (!(eight & 0x8080808080808080u)) {
                i += sizeof eight;
                continue;
            }
        }
        if (!(s.at[i] & 0x80)) {
            i++;
            continue;
        }
        if ((unsigned char)s.at[i] - 0xc2u <= 0xdf - 0xc2u && i + 1 < s.len &&
            ((unsigned char)s.at[i + 1] & 0xc0) == 0x80) {
            i += 2;
            continue;
        }
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
