/* linear_bf16_amx.c - bf16 weights times rows of bf16 for AMX. Tiles are 16 rows of w as they lie
 * times 16 rows of x, 32 columns at a time, two by two, so that a product waits for nobody.
 *
 * x is tiles of 16 rows, the last one of what is left; a tile is [columns / 2][rows][2]. Sums are
 * [outs][rows]. Functions marked INLINE are templates. */
#if defined __x86_64__
#include "device/cpu/amx.h"
#include "device/cpu/linear.h"
#include "device/cpu/transpose_avx512.h"

#include <immintrin.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

enum {
    TILE = 16, LINE = 64, STEP = BF16_STEP,
    COLS = 1024                      /* that go by all rows of x before the next ones do */
};

typedef float sums[TILE][TILE];

/* Two tiles of rows of x. */
struct pair {
    const uint16_t *x[2];
    int rows[2];
    sums (*at)[2];                   /* [2 of x][2 of w] */
};

static int64_t padded(int64_t cols) {
    return (cols + STEP - 1) / STEP * STEP;
}

/* 32 columns are 16 pairs, which lie `rows` pairs apart. */
static void round_row(uint16_t *chunk, int rows, int r, const float *x, int64_t cols) {
    const int tile = r / TILE * TILE, n = MIN(TILE, rows - tile);
    const __m512i place = _mm512_mullo_epi32(
        _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
        _mm512_set1_epi32(n));
    uint16_t *to = chunk + tile * padded(cols) + (r - tile) * 2;
    for (int64_t c = 0; c < cols; c += STEP, to += STEP * n) {
        const uint32_t here = cols - c >= STEP ? 0xffffffff : (1u << (cols - c)) - 1;
        const __m512bh v = _mm512_cvtne2ps_pbh(
            _mm512_maskz_loadu_ps((__mmask16)(here >> 16), x + c + 16),
            _mm512_maskz_loadu_ps((__mmask16)here, x + c));
        _mm512_i32scatter_epi32(to, place, (__m512i)v, 4);
    }
}

/* Sums 0 to 3: of the rows of w in tiles 4 and 5, those of x in 6 and 7. `ahead` is where the next
 * rows of w lie: memory is asked for them in the order in which it has them. */
INLINE void products(bool two_w, bool two_x, const unsigned char *w, int64_t row_bytes,
                     const struct pair *p, int64_t steps, uintptr_t ahead) {
    const uint16_t *x0 = p->x[0], *x1 = p->x[1];
    const int n0 = p->rows[0], n1 = p->rows[1];
    for (; steps > 0; steps--) {
        if (ahead) {
            const int lines = two_w ? 2 * TILE : TILE;
            UNROLL for (int i = 0; i < lines; i++)
                _mm_prefetch((const char *)(ahead + (uintptr_t)(i * LINE)), _MM_HINT_T0);
            ahead += (uintptr_t)(lines * LINE);
        }
        AMX_LOAD(4, w, row_bytes);
        AMX_LOAD(6, x0, 4 * n0);
        AMX_BF16(0, 4, 6);
        if (two_x) {
            AMX_LOAD(7, x1, 4 * n1);
            AMX_BF16(1, 4, 7);
        }
        if (two_w) {
            AMX_LOAD(5, w + TILE * row_bytes, row_bytes);
            AMX_BF16(2, 5, 6);
            if (two_x)
                AMX_BF16(3, 5, 7);
        }
        w += STEP * 2;
        x0 += STEP * n0;
        x1 += STEP * n1;
    }
}

/* Columns [begin, end) of a block; `rest` has those that fill no step, and zeros. */
INLINE void add_columns(bool two_w, bool two_x, const struct cpu_bf16_block *b,
                        const unsigned char *rest, const struct pair *p, int64_t begin,
                        int64_t end, uintptr_t ahead) {
    struct pair here = *p;
    here.x[0] += begin * p->rows[0];
    here.x[1] += begin * p->rows[1];
    if (begin) {
        AMX_LOAD(0, p->at[0][0], LINE);
        if (two_x) AMX_LOAD(1, p->at[1][0], LINE);
        if (two_w) AMX_LOAD(2, p->at[0][1], LINE);
        if (two_w && two_x) AMX_LOAD(3, p->at[1][1], LINE);
    }
    const int64_t whole = MIN(end, b->cols / STEP * STEP);
    products(two_w, two_x, b->w + begin * 2, b->row_bytes, &here, (whole - begin) / STEP, ahead);
    if (whole < end) {
        here.x[0] = p->x[0] + whole * p->rows[0];
        here.x[1] = p->x[1] + whole * p->rows[1];
        products(two_w, two_x, rest, LINE, &here, 1, 0);
    }
    AMX_STORE(0, p->at[0][0], LINE);
    if (two_x) AMX_STORE(1, p->at[1][0], LINE);
    if (two_w) AMX_STORE(2, p->at[0][1], LINE);
    if (two_w && two_x) AMX_STORE(3, p->at[1][1], LINE);
}

static void run_pair(const struct cpu_bf16_block *b, const unsigned char *rest,
                     const struct pair *p, int64_t begin, int64_t end, uintptr_t ahead) {
    const bool two_w = b->outs > TILE, two_x = p->rows[1] > 0;
    const int outs[2] = { MIN(TILE, b->outs), MAX(0, b->outs - TILE) };
    struct amx_config c = { 0 };
    for (int i = 0; i < 2; i++) {
        if (outs[i] > 0)
            amx_shape(&c, 4 + i, outs[i], LINE);
        if (p->rows[i] > 0)
            amx_shape(&c, 6 + i, TILE, 4 * p->rows[i]);
        for (int k = 0; k < 2; k++)
            if (outs[i] > 0 && p->rows[k] > 0)
                amx_shape(&c, 2 * i + k, outs[i], 4 * p->rows[k]);
    }
    amx_configure(&c);
    if (two_w && two_x)
        add_columns(true, true, b, rest, p, begin, end, ahead);
    else if (two_w)
        add_columns(true, false, b, rest, p, begin, end, ahead);
    else if (two_x)
        add_columns(false, true, b, rest, p, begin, end, ahead);
    else
        add_columns(false, false, b, rest, p, begin, end, ahead);
    amx_release();
}

/* y[r][begin + o] = s[o][r]. What s has past outs and rows may be anything. */
static void put(float *const *y, int rows, int begin, int outs, sums s) {
    if (rows < 4) {
        for (int r = 0; r < rows; r++)
            for (int o = 0; o < outs; o++)
                y[r][begin + o] = s[o][r];
        return;
    }
    const __mmask16 mask = (__mmask16)(0xffff >> (TILE - outs));
    _Alignas(LINE) float rows_of[TILE][TILE];
    __m512 a[TILE];
    UNROLL for (int o = 0; o < TILE; o++)
        a[o] = _mm512_load_ps(s[o]);
    transpose_16(a);
    UNROLL for (int r = 0; r < TILE; r++)
        _mm512_store_ps(rows_of[r], a[r]);
    for (int r = 0; r < rows; r++)
        _mm512_mask_storeu_ps(y[r] + begin, mask, _mm512_load_ps(rows_of[r]));
}

/* Few rows take all columns at once, so that memory is read in one stream. */
static void multiply(float *const *y, const struct cpu_bf16_block *b) {
    _Alignas(LINE) sums all[BF16_ROWS / TILE][2];
    _Alignas(LINE) unsigned char rest[2 * TILE][LINE];
    const int64_t x_cols = padded(b->cols), whole = b->cols / STEP * STEP;
    const int64_t step = b->rows > 2 * TILE ? COLS : x_cols;
    const uintptr_t ahead = b->rows > 2 * TILE ? 0 : (uintptr_t)(b->w + b->outs * b->row_bytes);
    if (whole < b->cols) {
        memset(rest, 0, sizeof rest);
        for (int o = 0; o < b->outs; o++)
            memcpy(rest[o], b->w + o * b->row_bytes + whole * 2, (size_t)(b->cols - whole) * 2);
    }
    for (int64_t begin = 0; begin < x_cols; begin += step) {
        for (int r = 0; r < b->rows; r += 2 * TILE) {
            const struct pair p = {
                .x = { b->x + r * x_cols, b->x + (r + TILE) * x_cols },
                .rows = { MIN(TILE, b->rows - r), MIN(TILE, MAX(0, b->rows - r - TILE)) },
                .at = &all[r / TILE],
            };
            run_pair(b, rest[0], &p, begin, MIN(begin + step, x_cols), ahead);
        }
    }
    for (int r = 0; r < b->rows; r += TILE)
        for (int o = 0; o < b->outs; o += TILE)
            put(y + r, MIN(TILE, b->rows - r), o, MIN(TILE, b->outs - o),
                all[r / TILE][o / TILE]);
}

const struct cpu_bf16_kernels cpu_bf16_amx = {
    .rows = BF16_ROWS, .outs = 2 * TILE, .round = round_row, .multiply = multiply,
};
#endif
