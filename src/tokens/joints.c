/* joints.c - filters of what the tokens of a vocabulary have on both sides of a place. */
#include "tokens/joints.h"
#include <stdlib.h>
#include "base/utf8.h"
#include "tokens/byte_chars.h"

/* 128 KiB: with a hundred thousand places, one in ten others is taken for one of them. */
enum { PLACES_LOG2 = 20, CHAR_BYTES_MAX = 4 };

struct joints {
    uint64_t place[(1 << PLACES_LOG2) / 64];         /* by the bytes of both characters there */
    uint64_t torn[256 * 256 / 64];   /* where one is not whole: by the two bytes at the place */
};

/* Bytes of a character, up to four, as a number. */
static uint64_t packed(const char *bytes, size_t n) {
    uint64_t x = n;
    for (size_t i = 0; i < n; i++) x = x << 8 | (unsigned char)bytes[i];
    return x;
}

static uint32_t place_bit(uint64_t left, uint64_t right) {
    uint64_t x = left * 0x9e3779b97f4a7c15u ^ right * 0xd6e8feb86659fd93u;
    return (uint32_t)((x ^ x >> 32) * 0xff51afd7ed558ccdu >> (64 - PLACES_LOG2));
}

static bool has(const uint64_t *bits, uint32_t bit) {
    return bits[bit / 64] >> bit % 64 & 1;
}

static bool goes_on(struct str s, size_t at) {
    return ((unsigned char)s.at[at] & 0xc0) == 0x80;
}

/* The place before byte `at`, where a character begins. What is not valid UTF-8 in a token on both
 * sides of a place is in no text; noting it does no harm. */
static void note(struct joints *j, struct str token, size_t at) {
    size_t from = at - 1, to = at + 1;
    uint32_t cp;
    while (from && goes_on(token, from)) from--;
    while (to < token.len && goes_on(token, to)) to++;
    unsigned char last = (unsigned char)token.at[at - 1], lead = (unsigned char)token.at[at];
    if ((last < 0x80 && lead < 0x80) || at - from > CHAR_BYTES_MAX || to - at > CHAR_BYTES_MAX)
        return;
    bool whole = utf8_next(str_cut(token, from, at), &cp) == (int)(at - from) &&
                 utf8_next(str_cut(token, at, to), &cp) == (int)(to - at);
    uint32_t torn = (uint32_t)last << 8 | lead;
    uint32_t bit = place_bit(packed(token.at + from, at - from), packed(token.at + at, to - at));
    if (!whole) j->torn[torn / 64] |= 1ull << torn % 64;
    j->place[bit / 64] |= 1ull << bit % 64;
}

struct joints *joints_new(const struct vocab *v) {
    struct joints *j = mem_new(sizeof *j);
    struct buf bytes = { 0 };
    for (int id = 0; id < v->n; id++) {
        buf_clear(&bytes);
        /* What is not spelt in stand-ins no merge of bytes makes. */
        if (!byte_chars_read(&bytes, vocab_text(v, id))) continue;
        for (size_t at = 1; at < bytes.len; at++)
            if (!goes_on(buf_view(&bytes), at)) note(j, buf_view(&bytes), at);
    }
    buf_free(&bytes);
    return j;
}

void joints_free(struct joints *j) {
    free(j);
}

/* A token that begins inside the left character, or ends inside the right one. */
static bool torn(const struct joints *j, struct str left, struct str right) {
    for (size_t i = 1; i <= left.len; i++) {
        uint64_t l = packed(left.at + left.len - i, i);
        for (size_t k = 1; k <= right.len; k++)
            if ((i < left.len || k < right.len) && has(j->place, place_bit(l, packed(right.at, k))))
                return true;
    }
    return false;
}

enum joint joints_between(const struct joints *j, struct str left, struct str right) {
    unsigned char last = (unsigned char)left.at[left.len - 1], lead = (unsigned char)right.at[0];
    if (last < 0x80 && lead < 0x80) return JOINT_TORN;
    if (has(j->torn, (uint32_t)last << 8 | lead) && torn(j, left, right)) return JOINT_TORN;
    uint32_t bit = place_bit(packed(left.at, left.len), packed(right.at, right.len));
    return has(j->place, bit) ? JOINT_WHOLE : JOINT_FREE;
}
