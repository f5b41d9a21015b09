/* text.h - a text on its way through normalizers and pre-tokenizers, and its pieces.
 *
 * Where asked for, every byte knows the offset in the caller's text that it came
 * from: Metaspace's "first" asks what starts at 0, literal spans ask as well. */
#pragma once
#include "base/buf.h"

struct text {
    struct buf bytes;
    uint32_t *origin;                /* [bytes.len] when track */
    size_t origin_cap, max;          /* max: bytes it may have, what comes beyond is left out; 0:
                                      * as many as offsets can count */
    bool track;
};
/* The max of a text that steps make of n bytes. Unicode's forms and charsmaps stay below 12 times,
 * the other steps add a few bytes to a character. */
size_t text_bound(size_t n);

void text_put(struct text *, const char *bytes, size_t n, uint32_t origin);
void text_cp(struct text *, uint32_t cp, uint32_t origin);
/* Bytes [begin, end) of another text, with their origins. */
void text_copy(struct text *, const struct text *from, size_t begin, size_t end);
uint32_t text_origin(const struct text *, size_t at);             /* 0 when it does not track */
void text_clear(struct text *);
void text_free(struct text *);

struct piece { uint32_t begin, end; };
struct pieces { struct piece *at; size_t n, cap; };

void pieces_put(struct pieces *, size_t begin, size_t end);       /* empty ones are dropped */
void pieces_free(struct pieces *);

/* The Unicode property White_Space. */
bool cp_is_space(uint32_t cp);
/* What cp_at leaves. */
int cp_at_slowly(struct str, size_t at, uint32_t *cp);
/* The code point at `at`, and its length; text is valid UTF-8. Here what most texts are made of:
 * ASCII, and three bytes whose second one no rule narrows. */
static inline int cp_at(struct str s, size_t at, uint32_t *cp) {
    const unsigned char *c = (const unsigned char *)s.at + at;
    if (*c < 0x80) {
        *cp = *c;
        return 1;
    }
    bool three = *c > 0xe0 && *c < 0xf0 && *c != 0xed && s.len - at > 2;
    if (!three || (c[1] & 0xc0) != 0x80 || (c[2] & 0xc0) != 0x80) return cp_at_slowly(s, at, cp);
    *cp = (c[0] & 15u) << 12 | (c[1] & 63u) << 6 | (c[2] & 63u);
    return 3;
}
/* The length of the last code point before `end` (> 0). */
int cp_before(struct str, size_t end, uint32_t *cp);
