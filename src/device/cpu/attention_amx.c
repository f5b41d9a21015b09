/* attention_amx.c - attention over bf16 keys and values, or bytes, on the tiles of AMX: queries and
 * weights are rounded to bf16. Pages lie as tiles want them (attention.h): pairs of dimensions, or
 * of tokens, beside each other. Bytes become bf16, which is exact, a page at a time; a key's scale
 * joins its score, a value's its weight before that is rounded.
 *
 * A product of tiles adds up its 32 dimensions or tokens by itself before it adds them to the sum:
 * so tokens are always those of whole pages, and what nobody sees has the weight 0. */
#if defined __x86_64__
#include "device/cpu/amx.h"
#include "device/cpu/attention_kernels.h"
#include "device/cpu/vec_avx512.h"

#include <string.h>

#define UNSET __attribute__((uninitialized))

enum { TILE = 16, STEP = ROUNDED_TOKENS, LINE = 64, CHUNKS = STEP_TOKENS / STEP,
       PADDED = 4 * LINE,            /* bytes of a row of four tiles */
       SOON = 4 };                   /* lines of what is read soon for a tile of columns: asked for
                                        all of them the memory is slower */

/* Sums are 0 to 3, queries or weights 4 and 5, of as many rows; keys or values 6 and 7. */
static void configure(int rows) {
    struct amx_config c = { 0 };
    for (int i = 0; i < 8; i++) amx_shape(&c, i, i < 6 ? rows : TILE, LINE);
    amx_configure(&c);
}

/* 32 numbers. */
INLINE __m512i rounded(const float *from) {
    return (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(from + TILE), _mm512_loadu_ps(from));
}

/* 32 bytes. */
INLINE __m512i widened(enum dtype dtype, const char *from) {
    return (__m512i)_mm512_cvtne2ps_pbh(vec_kv(dtype, from + TILE, TILE).v,
                                        vec_kv(dtype, from, TILE).v);
}

/* A page's keys or values, whose tokens have `dim` bytes each. Those that nobody wrote become some
 * numbers. */
static const char *widen(char *to, const struct cpu_kv *from, int dim) {
    const char *at = from->at, *soon = from->soon;
    for (int i = 0; i < dim; i += 2, at += 2 * STEP, to += 2 * LINE) {
        soon = cpu_fetch(soon, 2 * STEP);
        for (int k = 0; k < 2; k++) {
            const char *own = at + k * STEP;
            _mm512_store_si512(to + k * LINE,
                               from->dtype == I8 ? widened(I8, own) : widened(FP8, own));
        }
    }
    return to - dim * LINE;
}

/* In place: what is written was read. */
static void round_queries(float *q, int n_q, int dim) {
    for (int i = 0; i < n_q * dim; i += STEP)
        _mm512_storeu_si512((char *)q + 2 * i, rounded(q + i));
}

/* One tile of queries or two, and two of tokens. As many lines of what is read soon as there are
 * dimensions. */
INLINE void scores_tiles(bool two, float *score, const char *q, const struct cpu_kv *k,
                         const char *soon, int dim) {
    const int64_t row = 2 * dim, pair = (int64_t)(2 * k->row_bytes);
    const char *keys = k->at;
    AMX_ZERO(0);
    AMX_ZERO(1);
    if (two) AMX_ZERO(2);
    if (two) AMX_ZERO(3);
    for (int s = 0; s < dim / STEP; s++, keys += TILE * pair) {
        soon = cpu_fetch(soon, STEP * LINE);
        AMX_LOAD(4, q + s * LINE, row);
        AMX_LOAD(6, keys, pair);
        AMX_BF16(0, 4, 6);
        AMX_LOAD(7, keys + LINE, pair);
        AMX_BF16(1, 4, 7);
        if (two) {
            AMX_LOAD(5, q + TILE * row + s * LINE, row);
            AMX_BF16(2, 5, 6);
            AMX_BF16(3, 5, 7);
        }
    }
    AMX_STORE(0, score, SCORE_ROW * 4);
    AMX_STORE(1, score + TILE, SCORE_ROW * 4);
    if (two) {
        AMX_STORE(2, score + TILE * SCORE_ROW, SCORE_ROW * 4);
        AMX_STORE(3, score + TILE * SCORE_ROW + TILE, SCORE_ROW * 4);
    }
}

/* q: as round_queries leaves them. k: bf16. */
static void scores_bf16(float *score, const float *q, int n_q, const struct cpu_kv *k, int dim) {
    const char *at = (const char *)q, *soon = k->soon;
    const int64_t row = 2 * dim;
    int j = 0;
    if (n_q >= TILE) configure(TILE);
    for (; n_q - j >= 2 * TILE; j += 2 * TILE, soon = NULL)
        scores_tiles(true, score + j * SCORE_ROW, at + j * row, k, soon, dim);
    for (; n_q - j >= TILE; j += TILE, soon = NULL)
        scores_tiles(false, score + j * SCORE_ROW, at + j * row, k, soon, dim);
    if (j < n_q) {
        configure(n_q - j);
        scores_tiles(false, score + j * SCORE_ROW, at + j * row, k, soon, dim);
    }
    amx_release();
}

static void scores(float *score, const float *q, int n_q, const struct cpu_kv *k, int dim) {
    UNSET _Alignas(64) char wide[LINE * ROUNDED_BYTES_DIM];
    if (k->dtype == BF16) {
        scores_bf16(score, q, n_q, k, dim);
        return;
    }
    const struct cpu_kv keys = { .at = widen(wide, k, dim), .row_bytes = LINE, .dtype = BF16 };
    const __m512 low = _mm512_loadu_ps(k->scales), high = _mm512_loadu_ps(k->scales + TILE);
    scores_bf16(score, q, n_q, &keys, dim);
    for (int j = 0; j < n_q; j++, score += SCORE_ROW) {
        _mm512_storeu_ps(score, _mm512_mul_ps(_mm512_loadu_ps(score), low));
        _mm512_storeu_ps(score + TILE, _mm512_mul_ps(_mm512_loadu_ps(score + TILE), high));
    }
}

/* `tiles` tiles of values of which n tokens were written: the others may be anything, and are zeros
 * here. */
static const char *pad(char *to, const char *from, int64_t row, int n, int tiles) {
    for (int r = 0; r < TILE; r++) {
        const __m512i keep = _mm512_set1_epi32(2 * r + 1 < n ? -1 : 2 * r < n ? 0xffff : 0);
        for (int t = 0; t < tiles; t++) {
            const __m512i x = _mm512_loadu_si512(from + r * row + t * LINE);
            _mm512_store_si512(to + r * PADDED + t * LINE, _mm512_and_si512(keep, x));
        }
    }
    return to;
}

/* One tile of queries and up to four of columns. */
INLINE void weigh_tiles(int tiles, float *y, const uint16_t (*weights)[TILE * STEP],
                        const char *const *values, const int64_t *value_row, const char **soon,
                        int chunks, int dim) {
    const int64_t row = 4 * dim;
    AMX_LOAD(0, y, row);
    if (tiles > 1) AMX_LOAD(1, y + TILE, row);
    if (tiles > 2) AMX_LOAD(2, y + 2 * TILE, row);
    if (tiles > 3) AMX_LOAD(3, y + 3 * TILE, row);
    for (int c = 0; c < chunks; c++) {
        soon[c] = cpu_fetch(soon[c], (size_t)(tiles * SOON * LINE));
        AMX_LOAD(4, weights[c], LINE);
        AMX_LOAD(6, values[c], value_row[c]);
        AMX_BF16(0, 4, 6);
        if (tiles > 1) {
            AMX_LOAD(7, values[c] + LINE, value_row[c]);
            AMX_BF16(1, 4, 7);
        }
        if (tiles > 2) {
            AMX_LOAD(6, values[c] + 2 * LINE, value_row[c]);
            AMX_BF16(2, 4, 6);
        }
        if (tiles > 3) {
            AMX_LOAD(7, values[c] + 3 * LINE, value_row[c]);
            AMX_BF16(3, 4, 7);
        }
    }
    AMX_STORE(0, y, row);
    if (tiles > 1) AMX_STORE(1, y + TILE, row);
    if (tiles > 2) AMX_STORE(2, y + 2 * TILE, row);
    if (tiles > 3) AMX_STORE(3, y + 3 * TILE, row);
}

/* 32 weights, each times its scale; NULL: 1. */
INLINE __m512i rounded_weights(const float *p, const float *scales) {
    if (!scales) return rounded(p);
    const __m512 low = _mm512_mul_ps(_mm512_loadu_ps(p), _mm512_loadu_ps(scales));
    const __m512 high = _mm512_mul_ps(_mm512_loadu_ps(p + TILE), _mm512_loadu_ps(scales + TILE));
    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

/* One tile of queries or less. soon: a page's keys for each chunk, or NULL. scales: of a page of
 * bytes, which is all then; NULL. */
static __attribute__((noinline)) void weigh_rows(float *y, const float *p, int rows,
                                                 const char *const *values, const char **soon,
                                                 const float *scales, int n, int dim) {
    UNSET _Alignas(64) uint16_t weights[CHUNKS][TILE * STEP];
    UNSET _Alignas(64) char padded[TILE * PADDED];
    const int chunks = (n + STEP - 1) / STEP;
    const char *at[CHUNKS];
    int64_t row[CHUNKS];
    for (int c = 0; c < chunks; c++)
        for (int i = 0; i < rows; i++)
            _mm512_store_si512(weights[c] + i * STEP,
                               rounded_weights(p + i * SCORE_ROW + c * STEP, scales));
    for (int d = 0; d < dim; d += 4 * TILE) {
        const int tiles = MIN(4, (dim - d) / TILE);
        for (int c = 0; c < chunks; c++) at[c] = values[c] + 4 * d, row[c] = 4 * dim;
        if (!scales && n % STEP) {
            at[chunks - 1] = pad(padded, at[chunks - 1], 4 * dim, n % STEP, tiles);
            row[chunks - 1] = PADDED;
        }
        if (tiles == 4) weigh_tiles(4, y + d, weights, at, row, soon, chunks, dim);
        else if (tiles == 3) weigh_tiles(3, y + d, weights, at, row, soon, chunks, dim);
        else if (tiles == 2) weigh_tiles(2, y + d, weights, at, row, soon, chunks, dim);
        else weigh_tiles(1, y + d, weights, at, row, soon, chunks, dim);
    }
}

/* All queries. shaped: rows that tiles have. */
static void weigh_queries(float *y, const float *p, int n_q, const char *const *values,
                          const char **soon, const float *scales, int n, int dim, int *shaped) {
    const char *none[CHUNKS] = { NULL };
    for (int j = 0; j < n_q; j += TILE) {
        const int rows = MIN((int)TILE, n_q - j);
        if (rows != *shaped) configure(*shaped = rows);
        weigh_rows(y + j * dim, p + j * SCORE_ROW, rows, values, j ? none : soon, scales, n, dim);
    }
}

static void weigh_bf16(float *y, const float *p, int n_q, const struct cpu_kv *v, int n, int dim) {
    const char *values[CHUNKS], *soon[CHUNKS];
    int shaped = 0;
    for (int c = 0; c * STEP < n; c++) values[c] = v[c].at, soon[c] = v[c].soon;
    weigh_queries(y, p, n_q, values, soon, NULL, n, dim, &shaped);
}

/* A page after the other. The scales of tokens that nobody wrote may be anything. */
static void weigh_bytes(float *y, const float *p, int n_q, const struct cpu_kv *v, int n, int dim) {
    UNSET _Alignas(64) char wide[LINE * ROUNDED_BYTES_DIM];
    const char *none = NULL;
    int shaped = 0;
    for (; n > 0; n -= STEP, p += STEP, v++) {
        const char *values = widen(wide, v, dim);
        const int own = MIN((int)STEP, n);
        float scales[STEP] = { 0 };
        memcpy(scales, v->scales, (size_t)own * sizeof *scales);
        weigh_queries(y, p, n_q, &values, &none, scales, own, dim, &shaped);
    }
}

static void weigh(float *y, const float *p, int n_q, const struct cpu_kv *v, int n, int dim) {
    if (v->dtype == BF16) weigh_bf16(y, p, n_q, v, n, dim);
    else weigh_bytes(y, p, n_q, v, n, dim);
    amx_release();
}

const struct cpu_attention_rounded cpu_attention_amx = { round_queries, scores, weigh };
#endif
