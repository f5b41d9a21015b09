/* text.c - texts with origins, lists of pieces, and the few questions about code
 * points that need no table. */
#include "tokens/text.h"
#include <stdlib.h>
#include <string.h>
#include "base/utf8.h"

/* Offsets have 32 bits, one of which is a flag; GROWTH times is what a hostile chain of steps gets
 * out of a text. */
enum { BYTES_MAX = 1 << 29, GROWTH = 64, BYTES_MIN = 1 << 12 };

size_t text_bound(size_t n) {
    return n < (BYTES_MAX - BYTES_MIN) / GROWTH ? BYTES_MIN + n * GROWTH : BYTES_MAX;
}

static bool fits(const struct text *t, size_t n) {
    return n <= (t->max ? t->max : BYTES_MAX) - t->bytes.len;
}

void text_put(struct text *t, const char *bytes, size_t n, uint32_t origin) {
    if (!fits(t, n))
        return;
    if (t->track) {
        if (t->bytes.len + n > t->origin_cap) {
            t->origin_cap = (t->bytes.len + n) * 2 + 64;
            t->origin = mem_grow(t->origin, t->origin_cap, sizeof *t->origin);
        }
        for (size_t i = 0; i < n; i++)
            t->origin[t->bytes.len + i] = origin;
    }
    buf_put(&t->bytes, bytes, n);
}

void text_cp(struct text *t, uint32_t cp, uint32_t origin) {
    char c[4];
    size_t n;
    if (cp < 0x80) {
        c[0] = (char)cp;
        n = 1;
    } else if (cp < 0x800) {
        c[0] = (char)(0xc0 | cp >> 6);
        c[1] = (char)(0x80 | (cp & 63));
        n = 2;
    } else if (cp < 0x10000) {
        c[0] = (char)(0xe0 | cp >> 12);
        c[1] = (char)(0x80 | (cp >> 6 & 63));
        c[2] = (char)(0x80 | (cp & 63));
        n = 3;
    } else {
        c[0] = (char)(0xf0 | cp >> 18);
        c[1] = (char)(0x80 | (cp >> 12 & 63));
        c[2] = (char)(0x80 | (cp >> 6 & 63));
        c[3] = (char)(0x80 | (cp & 63));
        n = 4;
    }
    text_put(t, c, n, origin);
}

void text_copy(struct text *t, const struct text *from, size_t begin, size_t end) {
    if (begin == end) return;                    /* an empty text has no address to add to */
    if (!t->track) {
        if (!fits(t, end - begin))
            return;
        buf_put(&t->bytes, from->bytes.at + begin, end - begin);
        return;
    }
    size_t old = t->bytes.len;
    text_put(t, from->bytes.at + begin, end - begin, 0);
    if (from->track && t->bytes.len > old)
        memcpy(t->origin + old, from->origin + begin, (end - begin) * sizeof *t->origin);
}

uint32_t text_origin(const struct text *t, size_t at) {
    return t->track && at < t->bytes.len ? t->origin[at] : 0;
}

void text_clear(struct text *t) {
    buf_clear(&t->bytes);
}

void text_free(struct text *t) {
    buf_free(&t->bytes);
    free(t->origin);
    memset(t, 0, sizeof *t);
}

void pieces_put(struct pieces *p, size_t begin, size_t end) {
    if (begin == end)
        return;
    if (p->n == p->cap) {
        p->cap = p->cap ? p->cap * 2 : 64;
        p->at = mem_grow(p->at, p->cap, sizeof *p->at);
    }
    p->at[p->n++] = (struct piece){ (uint32_t)begin, (uint32_t)end };
}

void pieces_free(struct pieces *p) {
    free(p->at);
    memset(p, 0, sizeof *p);
}

bool cp_is_space(uint32_t cp) {
    if (cp < 0x85)
        return cp == ' ' || (cp >= '\t' && cp <= '\r');
    return cp == 0x85 || cp == 0xa0 || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200a)
        || cp == 0x2028 || cp == 0x2029 || cp == 0x202f || cp == 0x205f || cp == 0x3000;
}

int cp_at_slowly(struct str s, size_t at, uint32_t *cp) {
    int n = utf8_next(str_from(s, at), cp);
    if (n)
        return n;
    *cp = 0xfffd;
    return 1;
}

int cp_before(struct str s, size_t end, uint32_t *cp) {
    size_t at = end - 1;
    while (at > 0 && end - at < 4 && ((unsigned char)s.at[at] & 0xc0) == 0x80)
        at--;
    cp_at(s, at, cp);
    return (int)(end - at);
}
