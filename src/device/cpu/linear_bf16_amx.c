/* linear_bf16_amx.c - bf16 weights times rows of bf16 for AMX. Tiles are 16 rows of w as they lie
 * times 16 rows of x, 32 columns at a time, two by two, so that a product waits for nobody. For
 * many rows of x the tiles of w are put together before: rows of w may lie a power of two apart,
 * and such lines drive each other out of the first-level cache.
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
#define UNSET __attribute__((uninitialized))

enum {
    TILE = 16, LINE = 64, STEP = BF16_STEP,
    OUTS = 2 * TILE, FEW_ROWS = 2 * TILE,
    OUTS_MANY = 256,                 /* for which rows of x are fetched once */
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

/* Rows of w in two tiles: the first, and bytes from row to row, from tile to tile, and to the next
 * columns. */
struct side {
    const unsigned char *at;
    int64_t row, tile, step;
};

/* What memory is asked for at a step: an address that is not read, so many lines that lie `row`
 * bytes apart, and bytes to what is asked for at the next step. */
struct ahead {
    uintptr_t at;
    int lines;
    int64_t row, step;
};

INLINE __m512 load_step(const float *x, uint32_t here) {
    return (__m512)_mm512_cvtne2ps_pbh(_mm512_maskz_loadu_ps((__mmask16)(here >> 16), x + 16),
                                       _mm512_maskz_loadu_ps((__mmask16)here, x));
}

INLINE uint32_t first(int64_t n) {
    return n >= STEP ? 0xffffffff : (1u << n) - 1;
}

/* 32 columns are 16 pairs, which lie a tile's rows apart. */
static void round_rows(uint16_t *chunk, int rows, int r, int n, const float *const *x,
                       int64_t cols) {
    const int tile = r / TILE * TILE, tile_rows = MIN(TILE, rows - tile);
    const __m512i place = _mm512_mullo_epi32(
        _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
        _mm512_set1_epi32(tile_rows));
    uint16_t *to = chunk + tile * padded(cols) + (r - tile) * 2;
    for (int64_t c = 0; c < cols; c += STEP, to += STEP * tile_rows) {
        const uint32_t here = first(cols - c);
        if (n < TILE) {
            for (int i = 0; i < n; i++)
                _mm512_i32scatter_epi32(to + 2 * i, place, (__m512i)load_step(x[i] + c, here), 4);
            continue;
        }
        __m512 v[TILE];
        UNROLL for (int i = 0; i < TILE; i++)
            v[i] = load_step(x[i] + c, here);
        transpose_16(v);
        UNROLL for (int i = 0; i < TILE; i++)
            _mm512_store_ps(to + i * TILE * 2, v[i]);
    }
}

/* Sums 0 to 3: of the rows of w in tiles 4 and 5, those of x in 6 and 7. */
INLINE void products(bool two_w, bool two_x, struct side w, const struct pair *p, int64_t steps,
                     struct ahead ahead) {
    const uint16_t *x0 = p->x[0], *x1 = p->x[1];
    const int n0 = p->rows[0], n1 = p->rows[1];
    for (; steps > 0; steps--) {
        for (int i = 0; i < ahead.lines; i++)
            _mm_prefetch((const char *)(ahead.at + (uintptr_t)(i * ahead.row)), _MM_HINT_T0);
        ahead.at += (uintptr_t)ahead.step;
        AMX_LOAD(4, w.at, w.row);
        AMX_LOAD(6, x0, 4 * n0);
        AMX_BF16(0, 4, 6);
        if (two_x) {
            AMX_LOAD(7, x1, 4 * n1);
            AMX_BF16(1, 4, 7);
        }
        if (two_w) {
            AMX_LOAD(5, w.at + w.tile, w.row);
            AMX_BF16(2, 5, 6);
            if (two_x)
                AMX_BF16(3, 5, 7);
        }
        w.at += w.step;
        x0 += STEP * n0;
        x1 += STEP * n1;
    }
}

/* Some columns of a block: whole steps of w, and `rest`, one step more, unless it is NULL. */
struct columns {
    struct side w;
    const unsigned char *rest;
    int64_t begin, steps;            /* without the rest */
    struct ahead ahead;              /* of the first rows of x, */
    int64_t next;                    /* and bytes from there to that of the next ones */
};

INLINE void add_columns(bool two_w, bool two_x, const struct columns *c, const struct pair *p,
                        int pair) {
    struct pair here = *p;
    here.x[0] += c->begin * p->rows[0];
    here.x[1] += c->begin * p->rows[1];
    if (c->begin) {
        AMX_LOAD(0, p->at[0][0], LINE);
        if (two_x) AMX_LOAD(1, p->at[1][0], LINE);
        if (two_w) AMX_LOAD(2, p->at[0][1], LINE);
        if (two_w && two_x) AMX_LOAD(3, p->at[1][1], LINE);
    } else {
        AMX_ZERO(0);
        if (two_x) AMX_ZERO(1);
        if (two_w) AMX_ZERO(2);
        if (two_w && two_x) AMX_ZERO(3);
    }
    struct ahead ahead = c->ahead;
    ahead.at += (uintptr_t)(pair * c->next);
    products(two_w, two_x, c->w, &here, c->steps, ahead);
    if (c->rest) {
        here.x[0] += c->steps * STEP * p->rows[0];
        here.x[1] += c->steps * STEP * p->rows[1];
        products(two_w, two_x, (struct side){ c->rest, LINE, TILE * LINE, 0 }, &here, 1,
                 (struct ahead){ 0 });
    }
    AMX_STORE(0, p->at[0][0], LINE);
    if (two_x) AMX_STORE(1, p->at[1][0], LINE);
    if (two_w) AMX_STORE(2, p->at[0][1], LINE);
    if (two_w && two_x) AMX_STORE(3, p->at[1][1], LINE);
}

static void configure(int n_outs, const struct pair *p) {
    const int outs[2] = { MIN(TILE, n_outs), MAX(0, n_outs - TILE) };
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
}

/* All rows of x. */
static void run_columns(const struct cpu_bf16_block *b, sums (*all)[2], const struct columns *c) {
    const int64_t x_cols = padded(b->cols);
    int configured = 0;              /* for so many rows */
    for (int r = 0; r < b->rows; r += 2 * TILE) {
        const int rows = MIN(2 * TILE, b->rows - r);
        const struct pair p = {
            .x = { b->x + r * x_cols, b->x + (r + TILE) * x_cols },
            .rows = { MIN(TILE, rows), MAX(0, rows - TILE) },
            .at = &all[r / TILE],
        };
        if (rows != configured)
            configure(b->outs, &p);
        configured = rows;
        if (b->outs > TILE && rows > TILE)
            add_columns(true, true, c, &p, r / (2 * TILE));
        else if (b->outs > TILE)
            add_columns(true, false, c, &p, r / (2 * TILE));
        else if (rows > TILE)
            add_columns(false, true, c, &p, r / (2 * TILE));
        else
            add_columns(false, false, c, &p, r / (2 * TILE));
    }
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

typedef unsigned char tiles[COLS / STEP][2 * TILE][LINE];

/* Columns [begin, end) of a block in tiles, with zeros behind them. */
static void gather(tiles to, const struct cpu_bf16_block *b, int64_t begin, int64_t end) {
    for (int o = 0; o < b->outs; o++) {
        const unsigned char *w = b->w + o * b->row_bytes;
        for (int64_t c = begin; c < end; c += STEP) {
            _mm512_store_si512(to[(c - begin) / STEP][o],
                               _mm512_maskz_loadu_epi16(first(end - c), w + c * 2));
        }
    }
}

/* Few rows take all columns at once from where they lie, so that memory is read in one stream: it
 * is asked for the next rows of w in the order in which it has them. */
static void multiply_few(const struct cpu_bf16_block *b, sums (*all)[2]) {
    _Alignas(LINE) unsigned char rest[2 * TILE][LINE];
    const int64_t steps = b->cols / STEP, whole = steps * STEP;
    const struct columns c = {
        .w = { b->w, b->row_bytes, TILE * b->row_bytes, STEP * 2 },
        .rest = whole < b->cols ? rest[0] : NULL,
        .steps = steps,
        .ahead = { (uintptr_t)(b->w + b->outs * b->row_bytes), b->outs, LINE, b->outs * LINE },
    };
    if (whole < b->cols) {
        memset(rest, 0, sizeof rest);
        for (int o = 0; o < b->outs; o++)
            memcpy(rest[o], b->w + o * b->row_bytes + whole * 2, (size_t)(b->cols - whole) * 2);
    }
    run_columns(b, all, &c);
}

/* While some rows of w are multiplied, memory is asked for those that are put together next. */
static void multiply_many(const struct cpu_bf16_block *b, sums (*all)[BF16_ROWS / TILE][2]) {
    _Alignas(LINE) UNSET tiles w;
    const int pairs = (b->rows + 2 * TILE - 1) / (2 * TILE), lines = (OUTS + pairs - 1) / pairs;
    for (int64_t begin = 0; begin < b->cols; begin += COLS) {
        const int64_t end = MIN(begin + COLS, b->cols);
        struct columns c = {
            .w = { w[0][0], LINE, TILE * LINE, 2 * TILE * LINE },
            .begin = begin,
            .steps = padded(end - begin) / STEP,
            .ahead = { 0, lines, b->row_bytes, LINE },
            .next = lines * b->row_bytes,
        };
        for (int o = 0; o < b->outs; o += OUTS) {
            struct cpu_bf16_block part = *b;
            part.w += o * b->row_bytes;
            part.outs = MIN(OUTS, b->outs - o);
            const bool last = o + OUTS >= b->outs;
            c.ahead.at = (uintptr_t)(last ? b->w + end * 2
                                          : part.w + OUTS * b->row_bytes + begin * 2);
            gather(w, &part, begin, end);
            run_columns(&part, all[o / OUTS], &c);
        }
    }
}

static void multiply(float *const *y, const struct cpu_bf16_block *b) {
    _Alignas(LINE) UNSET sums all[OUTS_MANY / OUTS][BF16_ROWS / TILE][2];
    /* Of many rows of x the last chunk may have few, and as many rows of w as the others. */
    if (b->rows > FEW_ROWS || b->outs > OUTS)
        multiply_many(b, all);
    else
        multiply_few(b, all[0]);
    for (int r = 0; r < b->rows; r += TILE)
        for (int o = 0; o < b->outs; o += TILE)
            put(y + r, MIN(TILE, b->rows - r), o, MIN(TILE, b->outs - o),
                all[o / OUTS][r / TILE][o / TILE % 2]);
}

const struct cpu_bf16_kernels cpu_bf16_amx = {
    .rows = BF16_ROWS, .outs = OUTS, .few_rows = FEW_ROWS, .outs_many = OUTS_MANY,
    .round = round_rows, .multiply = multiply,
};
#endif
