/* attention_amx.c - attention over bf16 keys and values on the tiles of AMX: queries and weights
 * are rounded to bf16. Pages lie as tiles want them (attention.h): pairs of dimensions, or of
 * tokens, beside each other.
 *
 * A product of tiles adds up its 32 dimensions or tokens by itself before it adds them to the sum:
 * so tokens are always those of whole pages, and what nobody sees has the weight 0. */
#if defined __x86_64__
#include "device/cpu/amx.h"
#include "device/cpu/attention_kernels.h"

#include <immintrin.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define UNSET __attribute__((uninitialized))

enum { TILE = 16, STEP = ROUNDED_TOKENS, LINE = 64, CHUNKS = STEP_TOKENS / STEP,
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

/* q: as round_queries leaves them. */
static void scores(float *score, const float *q, int n_q, const struct cpu_kv *k, int dim) {
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

/* Values of which n tokens were written: the others may be anything, and are zeros here. */
static const char *pad(char *to, const char *from, int n, int dim) {
    const int row = 4 * dim;
    memset(to, 0, (size_t)(TILE * row));
    memcpy(to, from, (size_t)(n / 2 * row));
    if (n % 2) {
        const __m512i first = _mm512_set1_epi32(0xffff);
        for (int i = n / 2 * row; i < (n / 2 + 1) * row; i += LINE)
            _mm512_store_si512(to + i, _mm512_and_si512(first, _mm512_loadu_si512(from + i)));
    }
    return to;
}

/* One tile of queries and up to four of columns. */
INLINE void weigh_tiles(int tiles, float *y, const uint16_t (*weights)[TILE * STEP],
                        const char *const *values, const char **soon, int chunks, int dim) {
    const int64_t row = 4 * dim;
    AMX_LOAD(0, y, row);
    if (tiles > 1) AMX_LOAD(1, y + TILE, row);
    if (tiles > 2) AMX_LOAD(2, y + 2 * TILE, row);
    if (tiles > 3) AMX_LOAD(3, y + 3 * TILE, row);
    for (int c = 0; c < chunks; c++) {
        soon[c] = cpu_fetch(soon[c], (size_t)(tiles * SOON * LINE));
        AMX_LOAD(4, weights[c], LINE);
        AMX_LOAD(6, values[c], row);
        AMX_BF16(0, 4, 6);
        if (tiles > 1) {
            AMX_LOAD(7, values[c] + LINE, row);
            AMX_BF16(1, 4, 7);
        }
        if (tiles > 2) {
            AMX_LOAD(6, values[c] + 2 * LINE, row);
            AMX_BF16(2, 4, 6);
        }
        if (tiles > 3) {
            AMX_LOAD(7, values[c] + 3 * LINE, row);
            AMX_BF16(3, 4, 7);
        }
    }
    AMX_STORE(0, y, row);
    if (tiles > 1) AMX_STORE(1, y + TILE, row);
    if (tiles > 2) AMX_STORE(2, y + 2 * TILE, row);
    if (tiles > 3) AMX_STORE(3, y + 3 * TILE, row);
}

/* soon: a page's keys for each chunk, or NULL. */
static void weigh_rows(float *y, const float *p, int rows, const char *const *values,
                       const char **soon, int n, int dim) {
    UNSET _Alignas(64) uint16_t weights[CHUNKS][TILE * STEP];
    const int chunks = (n + STEP - 1) / STEP;
    const char *at[CHUNKS];
    for (int c = 0; c < chunks; c++)
        for (int i = 0; i < rows; i++)
            _mm512_store_si512(weights[c] + i * STEP, rounded(p + i * SCORE_ROW + c * STEP));
    for (int d = 0; d < dim; d += 4 * TILE) {
        const int tiles = MIN(4, (dim - d) / TILE);
        for (int c = 0; c < chunks; c++) at[c] = values[c] + 4 * d;
        if (tiles == 4) weigh_tiles(4, y + d, weights, at, soon, chunks, dim);
        else if (tiles == 3) weigh_tiles(3, y + d, weights, at, soon, chunks, dim);
        else if (tiles == 2) weigh_tiles(2, y + d, weights, at, soon, chunks, dim);
        else weigh_tiles(1, y + d, weights, at, soon, chunks, dim);
    }
}

static void weigh(float *y, const float *p, int n_q, const struct cpu_kv *v, int n, int dim) {
    UNSET _Alignas(64) char padded[4 * TILE * ROUNDED_DIM];
    const char *values[CHUNKS], *soon[CHUNKS], *none[CHUNKS] = { NULL };
    const int chunks = (n + STEP - 1) / STEP;
    int j = 0;
    for (int c = 0; c < chunks; c++) values[c] = v[c].at, soon[c] = v[c].soon;
    if (n % STEP) values[chunks - 1] = pad(padded, v[chunks - 1].at, n % STEP, dim);
    if (n_q >= TILE) configure(TILE);
    for (; n_q - j >= TILE; j += TILE)
        weigh_rows(y + j * dim, p + j * SCORE_ROW, TILE, values, j ? none : soon, n, dim);
    if (j < n_q) {
        configure(n_q - j);
        weigh_rows(y + j * dim, p + j * SCORE_ROW, n_q - j, values, j ? none : soon, n, dim);
    }
    amx_release();
}

const struct cpu_attention_rounded cpu_attention_amx = { round_queries, scores, weigh };
#endif
