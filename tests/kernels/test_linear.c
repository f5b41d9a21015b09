/* test_linear.c - the `linear` kernels of every instruction set and format: near a product in
 * double precision, and the same bits however many rows, threads and strides there are. */
#include "draws.h"
#include "device/cpu/isa.h"
#include "device/cpu/linear.h"
#include "device/cpu/pack.h"
#include "device/small_float.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { ROWS = 53, PAD = 16 };        /* more than a tile's rows; floats between strided rows */

/* Of FP8, blocks are [rows, group]. */
struct format { enum dtype dtype, scales; int bits, group, rows; };

/* A matrix with what is needed to check it. Its bytes end where the allocation ends and begin
 * at an odd address when its numbers allow for it. */
struct matrix {
    struct tensor t;
    unsigned char *blocks[3];
    double *value, *size;            /* [heads * outs * cols], and |q scale| + |bias| */
    float *bias;                     /* [outs] */
};

/* Rounds to what the dtype can hold, stores it at `to`, and says what was stored. */
static double store(unsigned char *to, enum dtype dtype, float f) {
    uint32_t bits;
    uint16_t half;
    memcpy(&bits, &f, sizeof bits);
    if (dtype == F32) {
        memcpy(to, &f, sizeof f);
    } else if (dtype == BF16) {
        half = (uint16_t)(bits >> 16);
        memcpy(to, &half, sizeof half);
        bits = (uint32_t)half << 16;
        memcpy(&f, &bits, sizeof f);
    } else {                         /* fewer digits than F16 has, subnormal ones as well */
        int e;
        int digits = (int)(frexpf(f, &e) * 1024);
        f = e < -13 ? (float)(int)(f * 0x1p24f) * 0x1p-24f : ldexpf((float)digits, e - 10);
        int mantissa = (int)fabsf(e < -13 ? f * 0x1p24f : ldexpf(f, 11 - e));
        half = (uint16_t)(e < -13 ? mantissa : ((e + 14) << 10) + (mantissa - 1024));
        if (f == 0)
            half = 0;
        half |= (uint16_t)(f < 0 ? 0x8000 : 0);
        memcpy(to, &half, sizeof half);
    }
    return (double)f;
}

static unsigned char *block(struct matrix *m, int i, size_t bytes) {
    m->blocks[i] = malloc(bytes + 1);
    assert_non_null(m->blocks[i]);
    return m->blocks[i] + 1;
}

static void fill_affine(struct matrix *m, struct format f, int64_t n) {
    size_t scale_bytes = dtype_bytes(f.scales), groups = (size_t)(n / f.group);
    unsigned char *q = block(m, 0, (size_t)n / 8 * (size_t)f.bits);
    unsigned char *scales = block(m, 1, groups * scale_bytes);
    unsigned char *biases = block(m, 2, groups * scale_bytes);
    memset(q, 0, (size_t)n / 8 * (size_t)f.bits);
    for (int64_t i = 0; i < n; i++) {
        int64_t g = i / f.group;
        uint32_t v = draw() & ((1u << f.bits) - 1);
        for (int b = 0; b < f.bits; b++)
            if (v >> b & 1)
                q[(i * f.bits + b) / 8] |= (unsigned char)(1 << (i * f.bits + b) % 8);
        static double scale, bias;
        if (i % f.group == 0) {
            scale = store(scales + (size_t)g * scale_bytes, f.scales, uniform() / 8);
            bias = store(biases + (size_t)g * scale_bytes, f.scales,
                         uniform() * (float)(1 << f.bits) / 8);
        }
        m->value[i] = (double)v * scale + bias;
        m->size[i] = fabs((double)v * scale) + fabs(bias);
    }
    m->t.at = q;
    m->t.quant = (struct quant){ .scales = scales, .biases = biases, .scale_dtype = f.scales,
                                 .group = (uint16_t)f.group, .bits = (uint8_t)f.bits };
}

/* A power of two where the dtype holds nothing else, else any scale. */
static double store_scale(unsigned char *at, enum dtype dtype) {
    if (dtype == U8) {
        at[0] = (unsigned char)(120 + draw() % 8);
        return (double)float_of_e8m0(at[0]);
    }
    if (dtype != FP8) return store(at, dtype, uniform() / 8);
    at[0] = e4m3_of(uniform());
    return (double)float_of_e4m3(at[0]);
}

static void fill_e2m1(struct matrix *m, struct format f, int64_t n) {
    unsigned char *q = block(m, 0, (size_t)n / 2);
    unsigned char *scales = block(m, 1, (size_t)(n / f.group));
    double scale = 0;
    for (int64_t i = 0; i < n; i++) {
        unsigned code = draw() & 15;
        q[i / 2] = (unsigned char)(i % 2 ? q[i / 2] | code << 4 : code);
        if (i % f.group == 0) scale = store_scale(scales + i / f.group, f.scales);
        m->value[i] = (double)float_of_e2m1(code) * scale;
        m->size[i] = fabs(m->value[i]);
    }
    m->t.at = q;
    m->t.quant = (struct quant){ .scales = scales, .scale_dtype = f.scales,
                                 .group = (uint16_t)f.group, .bits = 4 };
}

/* Rows of all heads are one matrix, as a stack that was cut has them. */
static void fill_fp8(struct matrix *m, struct format f, int64_t rows, int64_t cols) {
    int64_t across = (cols + f.group - 1) / f.group, down = (rows + f.rows - 1) / f.rows;
    size_t size = dtype_bytes(f.scales);
    unsigned char *q = block(m, 0, (size_t)(rows * cols));
    unsigned char *scales = block(m, 1, (size_t)(across * down) * size);
    double *scale = calloc((size_t)(across * down), sizeof *scale);
    for (int64_t i = 0; i < across * down; i++)
        scale[i] = store_scale(scales + (size_t)i * size, f.scales);
    for (int64_t i = 0; i < rows * cols; i++) {
        do q[i] = (unsigned char)draw();
        while ((q[i] & 0x7f) == 0x7f);
        double by = scale[i / cols / f.rows * across + i % cols / f.group];
        m->value[i] = (double)float_of_e4m3(q[i]) * by;
        m->size[i] = fabs(m->value[i]);
    }
    free(scale);
    m->t.at = q;
    m->t.quant = (struct quant){ .scales = scales, .scale_dtype = f.scales, .cols = cols,
                                 .block_rows = f.rows, .block_cols = f.group };
}

/* [heads, outs, cols], or [outs, cols] when heads is 0. */
static struct matrix matrix_new(struct format f, int64_t heads, int64_t outs, int64_t cols) {
    struct matrix m = { 0 };
    int64_t n = MAX(1, heads) * outs * cols;
    m.value = calloc((size_t)n, sizeof *m.value);
    m.size = calloc((size_t)n, sizeof *m.size);
    m.bias = calloc((size_t)outs, sizeof *m.bias);
    m.t = heads ? tensor_3d(NULL, f.dtype, heads, outs, cols)
                : tensor_2d(NULL, f.dtype, outs, cols);
    if (f.dtype == MLX_AFFINE) {
        fill_affine(&m, f, n);
    } else if (f.dtype == MXFP4 || f.dtype == NVFP4) {
        fill_e2m1(&m, f, n);
    } else if (f.dtype == FP8) {
        fill_fp8(&m, f, n / cols, cols);
    } else {
        size_t size = dtype_bytes(f.dtype);
        unsigned char *at = block(&m, 0, (size_t)n * size);
        for (int64_t i = 0; i < n; i++) {
            float v = uniform();
            if (draw() % 16 == 0)
                v *= 0x1p-17f;
            m.value[i] = store(at + (size_t)i * size, f.dtype, v);
            m.size[i] = fabs(m.value[i]);
        }
        m.t.at = at;
    }
    for (int64_t i = 0; i < outs; i++)
        m.bias[i] = uniform();
    return m;
}

static void matrix_free(struct matrix *m) {
    for (int i = 0; i < 3; i++)
        free(m->blocks[i]);
    free(m->value);
    free(m->size);
    free(m->bias);
}

static struct linear linear_of(struct matrix *m, bool with_bias) {
    struct linear l = { .w = m->t };
    if (with_bias)
        l.bias = tensor_1d(m->bias, F32, m->t.shape[m->t.rank - 2]);
    return l;
}

/* Products in double precision, and for each the sum of the sizes of what was added up. */
struct exact { double *want, *size; };           /* [ROWS * outs] */

static struct exact exact_of(const struct matrix *m, bool with_bias, const float *x) {
    const int64_t outs = m->t.shape[0], cols = m->t.shape[1];
    struct exact e = { calloc((size_t)(ROWS * outs), sizeof *e.want),
                       calloc((size_t)(ROWS * outs), sizeof *e.size) };
    assert_true(e.want && e.size);
    for (int64_t i = 0; i < ROWS * outs; i++) {
        const int64_t r = i / outs, o = i % outs;
        e.want[i] = with_bias ? (double)m->bias[o] : 0;
        e.size[i] = fabs(e.want[i]);
        for (int64_t c = 0; c < cols; c++) {
            e.want[i] += m->value[o * cols + c] * (double)x[r * cols + c];
            e.size[i] += m->size[o * cols + c] * fabs((double)x[r * cols + c]);
        }
    }
    return e;
}

/* The error may be some roundings. */
static void check_near(const struct exact *e, const float *y, int64_t outs) {
    for (int64_t i = 0; i < ROWS * outs; i++)
        if (!(fabs((double)y[i] - e->want[i]) <= 3e-7 * e->size[i]))
            fail_msg("row %lld out %lld of %lld: %g, not %g", (long long)(i / outs),
                     (long long)(i % outs), (long long)outs, (double)y[i], e->want[i]);
}

/* The order of sums that linear.h promises, one rounding for a product and its sum. */
static float fused(const double *w, const float *x, int64_t cols) {
    float lane[CPU_LANES] = { 0 };
    for (int64_t c = 0; c < cols; c++)
        lane[c % CPU_LANES] = fmaf((float)w[c], x[c], lane[c % CPU_LANES]);
    for (int half = CPU_LANES / 2; half > 0; half /= 2)
        for (int l = 0; l < half; l++)
            lane[l] += lane[l + half];
    return lane[0];
}

/* Of the first row and a later one, which lie in different tiles. */
static void check_fused(const struct matrix *m, bool with_bias, const float *y, const float *x) {
    int64_t outs = m->t.shape[0], cols = m->t.shape[1];
    for (int64_t r = 0; r < ROWS; r += ROWS - 2)
        for (int64_t o = 0; o < outs; o++) {
            float want = fused(m->value + o * cols, x + r * cols, cols);
            if (with_bias)
                want += m->bias[o];
            if (memcmp(&want, &y[r * outs + o], sizeof want) != 0)
                fail_msg("row %lld out %lld of %lldx%lld: %.9g, fused %.9g", (long long)r,
                         (long long)o, (long long)outs, (long long)cols,
                         (double)y[r * outs + o], (double)want);
        }
}

static void check_bits(const float *a, const float *b, int64_t n, const char *what) {
    if (memcmp(a, b, (size_t)n * sizeof *a) != 0)
        fail_msg("other bits: %s", what);
}

/* The same rows a few at a time, in strided memory, on `pool`. */
static void check_rows(struct pool *pool, const struct cpu_kernels *k,
                       const struct cpu_scratch *scratch, const struct linear *l,
                       const float *want, const float *x) {
    static const int counts[] = { 1, 2, 3, 4, 5, 7, 8, 9, 13, 16, 33, ROWS };
    int64_t outs = l->w.shape[0], cols = l->w.shape[1];
    float *wide_x = numbers(ROWS * (cols + PAD)), *wide_y = numbers(ROWS * (outs + PAD));
    for (int64_t r = 0; r < ROWS; r++)
        memcpy(wide_x + r * (cols + PAD), x + r * cols, (size_t)cols * sizeof *x);
    for (size_t i = 0; i < COUNT(counts); i++) {
        int64_t n = counts[i], begin = (int64_t)(draw() % (uint32_t)(ROWS - n + 1));
        struct tensor xs = tensor_2d(wide_x, F32, ROWS, cols + PAD);
        struct tensor ys = tensor_2d(wide_y, F32, ROWS, outs + PAD);
        xs = tensor_part(&xs, 1, 0, cols);
        ys = tensor_part(&ys, 1, 0, outs);
        xs = tensor_part(&xs, 0, begin, n);
        ys = tensor_part(&ys, 0, begin, n);
        float after = wide_y[begin * (outs + PAD) + outs];
        cpu_linear(pool, k, scratch, &ys, l, &xs);
        for (int64_t r = begin; r < begin + n; r++)
            check_bits(wide_y + r * (outs + PAD), want + r * outs, outs, "fewer, strided rows");
        assert_true(after == wide_y[begin * (outs + PAD) + outs]);
    }
    free(wide_x);
    free(wide_y);
}

/* Rows by an index list, a part of the columns at a time. */
static void check_listed(struct pool *pool, const struct cpu_kernels *k, const struct linear *l,
                         const float *want, const float *x) {
    static const int32_t x_row[] = { 7, 0, 52, 7, 31, 30 }, y_row[] = { 1, 4, 0, 3, 5, 2 };
    int64_t outs = l->w.shape[0], cols = l->w.shape[1];
    for (int64_t n = 1; n <= (int64_t)COUNT(x_row); n += 5) {
        float *y = numbers((int64_t)COUNT(x_row) * outs);
        struct cpu_rows rows = { .x = x, .y = y, .x_stride = cols, .y_stride = outs,
                                 .x_row = x_row, .y_row = y_row, .n = n };
        int64_t cut = outs / 3;
        cpu_linear_rows(pool, k, NULL, l, &rows, cut, outs);
        cpu_linear_rows(NULL, k, NULL, l, &rows, 0, cut);
        for (int64_t i = 0; i < n; i++)
            check_bits(y + y_row[i] * outs, want + x_row[i] * outs, outs, "listed rows");
        free(y);
    }
}

/* Room for a tile's rows and no more than some others, so that crowds go through it in runs. */
static struct cpu_scratch exact_scratch(const struct cpu_kernels *k, int threads, int64_t cols) {
    struct cpu_scratch s = { .bytes = 64, .exact = true };
    if (k->chains)
        s.bytes = cpu_chains_bytes(k->chains, threads, cols, CPU_TILE_ROWS);
    s.at = aligned_alloc(64, s.bytes);
    return s;
}

/* y of the best set seen so far whose bits this one must have as well, or NULL. */
static float *check_set(const struct cpu_kernels *k, struct matrix *m, const struct exact *e,
                        const float *x, bool bias) {
    int64_t outs = m->t.shape[0], cols = m->t.shape[1];
    struct linear l = linear_of(m, bias);
    float *y = numbers(ROWS * outs);
    struct tensor xs = tensor_2d((float *)(uintptr_t)x, F32, ROWS, cols);
    struct tensor ys = tensor_2d(y, F32, ROWS, outs);
    struct pool *one = pool_open(1), *three = pool_open(3);
    struct cpu_scratch scratch = exact_scratch(k, 3, cols);
    cpu_linear(one, k, NULL, &ys, &l, &xs);
    check_near(e, y, outs);
    if (k != &cpu_kernels_generic)
        check_fused(m, bias, y, x);
    check_rows(one, k, NULL, &l, y, x);
    check_rows(three, k, NULL, &l, y, x);
    if (k->chains)
        check_rows(three, k, &scratch, &l, y, x);
    check_listed(three, k, &l, y, x);
    free(scratch.at);
    pool_close(one);
    pool_close(three);
    return y;
}

static void check_format(struct format f, int64_t outs, int64_t cols) {
    struct matrix m = matrix_new(f, 0, outs, cols);
    float *x = numbers(ROWS * cols), *wide = NULL;
    bool bias = outs % 2;
    struct exact e = exact_of(&m, bias, x);
    const struct cpu_kernels *k;
    for (int i = 0; (k = cpu_isa(i)); i++) {
        /* Some sets differ in the products of rounded rows alone. */
        if (i && k->unpack == cpu_isa(i - 1)->unpack && k->tile == cpu_isa(i - 1)->tile
            && k->sum == cpu_isa(i - 1)->sum && k->few == cpu_isa(i - 1)->few
            && k->chains == cpu_isa(i - 1)->chains)
            continue;
        float *y = check_set(k, &m, &e, x, bias);
        if (wide && strcmp(k->name, "generic") != 0)
            check_bits(wide, y, ROWS * outs, "two sets");
        if (wide)
            free(y);
        else
            wide = y;
    }
    free(wide);
    free(e.want);
    free(e.size);
    free(x);
    matrix_free(&m);
}

static void plain_formats(void **state) {
    (void)state;
    static const enum dtype dtypes[] = { F32, F16, BF16 };
    static const int64_t shapes[][2] = { { 1, 1 }, { 3, 7 }, { 16, 16 }, { 37, 17 }, { 5, 24 },
                                         { 18, 31 }, { 4, 512 }, { 33, 513 }, { 7, 1003 },
                                         { 51, 1040 }, { 2, 2049 } };
    for (size_t d = 0; d < COUNT(dtypes); d++)
        for (size_t i = 0; i < COUNT(shapes); i++)
            check_format((struct format){ .dtype = dtypes[d] }, shapes[i][0], shapes[i][1]);
}

static void affine_formats(void **state) {
    (void)state;
    static const int bits[] = { 2, 3, 4, 5, 6, 8 }, groups[] = { 32, 64, 128 };
    static const enum dtype scales[] = { F32, F16, BF16 };
    static const int64_t shapes[][2] = { { 1, 1 }, { 19, 3 }, { 36, 9 } };   /* outs, groups */
    for (size_t b = 0; b < COUNT(bits); b++)
        for (size_t g = 0; g < COUNT(groups); g++)
            for (size_t i = 0; i < COUNT(shapes); i++)
                check_format((struct format){ MLX_AFFINE, scales[(b + g + i) % 3], bits[b],
                                              groups[g], 0 },
                             shapes[i][0], shapes[i][1] * groups[g]);
    /* More groups than the kernels convert at a time, and a last tile that is not full. */
    for (size_t b = 0; b < COUNT(bits); b++)
        check_format((struct format){ MLX_AFFINE, BF16, bits[b], 32, 0 }, 70, 32 * 35);
}

static void small_formats(void **state) {
    (void)state;
    static const struct format formats[] = {
        { FP8, F32, 0, 128, 128 }, { FP8, BF16, 0, 128, 128 }, { FP8, F16, 0, 1 << 30, 1 },
        { FP8, F32, 0, 1 << 30, 1 << 30 }, { FP8, U8, 0, 32, 1 }, { FP8, F32, 0, 24, 5 } };
    static const int64_t shapes[][2] = { { 1, 1 }, { 3, 7 }, { 37, 48 }, { 5, 129 }, { 18, 512 },
                                         { 131, 528 }, { 5, 1040 }, { 7, 1003 }, { 2, 2049 } };
    for (size_t f = 0; f < COUNT(formats); f++)
        for (size_t i = 0; i < COUNT(shapes); i++)
            check_format(formats[f], shapes[i][0], shapes[i][1]);
    for (int64_t groups = 1; groups < 80; groups += 13) {
        check_format((struct format){ MXFP4, U8, 4, 32, 0 }, 3 + groups % 20, groups * 32);
        check_format((struct format){ NVFP4, FP8, 4, 16, 0 }, 3 + groups % 20, groups * 16);
    }
}

enum { CROWD = 601, CROWD_OUTS = 37, CROWD_COLS = 83 };

/* More rows than a thread keeps sums of, listed, on a pool and on this thread alone, with room for
 * all and for some, and every number that a last group can have: the bits of one row after the
 * other. */
static void check_crowd(const struct cpu_kernels *k, const struct linear *l, const float *x,
                        bool exact) {
    enum { OUTS = CROWD_OUTS, COLS = CROWD_COLS, MOST = CHAINS_ROWS_MAX };
    float *want = numbers(CROWD * OUTS), *y = numbers(CROWD * OUTS);
    int32_t x_row[CROWD], y_row[CROWD];
    struct pool *pool = pool_open(2);
    struct cpu_scratch some = exact_scratch(k, 2, COLS), all = { .bytes = 4 << 20 };
    all.at = aligned_alloc(64, all.bytes);
    some.exact = all.exact = exact;
    struct cpu_rows rows = { .x = x, .y = want, .x_stride = COLS, .y_stride = OUTS };
    for (int r = 0; r < CROWD; r++) {
        x_row[r] = r * 7 % CROWD;
        y_row[r] = CROWD - 1 - r;
        rows.n = 1;
        rows.x_row = &x_row[r];
        rows.y_row = &y_row[r];
        cpu_linear_rows(NULL, k, &all, l, &rows, 0, OUTS);
    }
    rows = (struct cpu_rows){ .x = x, .y = y, .x_stride = COLS, .y_stride = OUTS, .x_row = x_row,
                              .y_row = y_row, .n = CROWD };
    for (int way = 0; way < 4; way++) {
        const struct cpu_scratch *s = way % 2 ? &some : &all;
        memset(y, 0, CROWD * OUTS * sizeof *y);
        cpu_linear_rows(way / 2 ? pool : NULL, k, s, l, &rows, 0, 19);
        cpu_linear_rows(way / 2 ? pool : NULL, k, s, l, &rows, 19, OUTS);
        check_bits(y, want, CROWD * OUTS, "a crowd");
    }
    for (int last = 1; last <= MOST; last++) {
        rows.n = MOST * (MOST - 1) + last;
        memset(y, 0, CROWD * OUTS * sizeof *y);
        cpu_linear_rows(NULL, k, &all, l, &rows, 0, OUTS);
        check_bits(y + (CROWD - rows.n) * OUTS, want + (CROWD - rows.n) * OUTS, rows.n * OUTS,
                   "a last group");
    }
    free(some.at);
    free(all.at);
    free(want);
    free(y);
    pool_close(pool);
}

static void crowds_of_rows(void **state) {
    (void)state;
    struct matrix m = matrix_new((struct format){ .dtype = BF16 }, 0, CROWD_OUTS, CROWD_COLS);
    struct linear l = linear_of(&m, true);
    float *x = numbers(CROWD * CROWD_COLS);
    const struct cpu_kernels *k;
    for (int i = 0; (k = cpu_isa(i)); i++) {
        check_crowd(k, &l, x, true);
        check_crowd(k, &l, x, false);
    }
    free(x);
    matrix_free(&m);
}

/* All codes, and what is not a number: it stays visible, whichever kernel reads it. */
static void every_code_is_read(void **state) {
    (void)state;
    unsigned char codes[256];
    float one = 1, row[256], w[CPU_TILE_COLS];
    for (int i = 0; i < 256; i++) codes[i] = (unsigned char)i;
    struct tensor t = tensor_2d(codes, FP8, 1, 256);
    t.quant = (struct quant){ .scales = &one, .scale_dtype = F32, .cols = 256, .block_rows = 1,
                              .block_cols = 256 };
    cpu_dequantize_row(&t, 0, row);
    const struct cpu_kernels *k;
    for (int j = 0; (k = cpu_isa(j)); j++) {
        struct cpu_matrix m = { .at = codes, .scales = (unsigned char *)&one, .dtype = FP8,
                                .scale_dtype = F32, .cols = 256, .block_rows = 1,
                                .block_cols = 256 };
        k->unpack(w, &m, 0, 0, 256);
        for (int i = 0; i < 256; i++) {
            if ((i & 0x7f) == 0x7f) assert_true(isnan(w[i]));
            else assert_memory_equal(&w[i], &row[i], sizeof w[i]);
        }
    }
    assert_true(isnan(row[127]) && row[126] == 448 && row[1] == 0x1p-9f && row[0x88] == -0x1p-6f);
}

/* As far from exact as half a step of each rounded value, and some roundings of the sums. */
static void check_rounded(const struct matrix *m, const float *y, const float *x, int64_t rows,
                          int group, int finer) {
    int64_t outs = m->t.shape[0], cols = m->t.shape[1];
    double *tops = calloc((size_t)(cols / group), sizeof *tops);
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t c = 0; c < cols; c++)
            tops[c / group] = fmax(c % group ? tops[c / group] : 0, fabs((double)x[r * cols + c]));
        for (int64_t o = 0; o < outs; o++) {
            double want = 0, allowed = 0;
            for (int64_t c = 0; c < cols; c++) {
                const double top = tops[c / group];
                want += m->value[o * cols + c] * (double)x[r * cols + c];
                allowed += fabs(m->value[o * cols + c]) * top / 253.9 / finer
                    + 4e-7 * m->size[o * cols + c] * top;
            }
            double error = fabs((double)y[r * outs + o] - want);
            if (!(error <= allowed))
                fail_msg("row %lld out %lld of %lldx%lld: %g, not %g", (long long)r, (long long)o,
                         (long long)outs, (long long)cols, (double)y[r * outs + o], want);
        }
    }
    free(tops);
}

/* The same rows of x as `want` was made of, some at a time and listed. */
static void check_same(struct pool *pool, const struct cpu_kernels *k,
                       const struct cpu_scratch *scratch, const struct linear *l,
                       const struct tensor *xs, const float *want) {
    static const int counts[] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 16, 17, 26, 30, 32, 36,
                                  ROWS };
    static const int32_t x_row[] = { 7, 0, 52, 7, 31, 30 }, y_row[] = { 1, 4, 0, 3, 5, 2 };
    const int64_t outs = l->w.shape[0], cols = l->w.shape[1];
    float *y = numbers(ROWS * outs);
    for (size_t c = 0; c < COUNT(counts); c++) {
        int64_t n = counts[c], begin = (int64_t)(draw() % (uint32_t)(ROWS - n + 1));
        struct tensor some = tensor_part(xs, 0, begin, n), ys = tensor_2d(y, F32, n, outs);
        cpu_linear(pool, k, scratch, &ys, l, &some);
        check_bits(y, want + begin * outs, n * outs, "rounded rows");
    }
    for (int64_t cut = 16; cut < 20 && outs > 20; cut += 3) {   /* at a panel, and inside one */
        struct cpu_rows rows = { .x = xs->at, .y = y, .x_stride = cols, .y_stride = outs,
                                 .x_row = x_row, .y_row = y_row, .n = 6 };
        cpu_linear_rows(NULL, k, scratch, l, &rows, 0, cut);
        cpu_linear_rows(pool, k, scratch, l, &rows, cut, outs);
        for (int j = 0; j < 6; j++)
            check_bits(y + y_row[j] * outs, want + x_row[j] * outs, outs, "listed, rounded");
    }
    free(y);
}

/* Rounded rows: every set gives the bits of generic C, however many rows go together, packed or
 * not. */
static void check_int8(struct format f, int64_t outs, int64_t cols, struct pool *pool) {
    struct matrix m = matrix_new(f, 0, outs, cols);
    struct linear l = linear_of(&m, outs % 2), packed;
    l.fine = outs % 3 == 0;
    packed = l;
    const size_t bytes = cpu_packed_bytes(&l.w);
    void *panels = aligned_alloc(CPU_PACK_ALIGN, bytes);
    if (bytes) cpu_pack(panels, &l.w, 0, (outs + QUANT_PANEL - 1) / QUANT_PANEL);
    packed.w.quant.packed = panels;
    /* Room for some rows only: many go through it in several runs. */
    struct cpu_scratch scratch = { .bytes = (size_t)(36 * (cols + 256) * 2 + 192) };
    scratch.bytes = (scratch.bytes + 63) & ~(size_t)63;
    scratch.at = aligned_alloc(64, scratch.bytes);
    float *x = numbers(ROWS * cols), *want = numbers(ROWS * outs);
    for (int i = 0; i < f.group; i++)
        x[i] = i % 2 ? 0 : 1e-35f;   /* a group of next to nothing */
    struct tensor xs = tensor_2d(x, F32, ROWS, cols), ys = tensor_2d(want, F32, ROWS, outs);
    cpu_linear(pool, &cpu_kernels_generic, &scratch, &ys, &l, &xs);
    if (outs % 2 == 0)
        check_rounded(&m, want, x, ROWS, f.group, f.bits == 8 || l.fine ? 256 : 1);
    const struct cpu_kernels *k;
    for (int i = 0; (k = cpu_isa(i)); i++) {
        check_same(pool, k, &scratch, &l, &xs, want);
        if (bytes) check_same(pool, k, &scratch, &packed, &xs, want);
    }
    free(scratch.at);
    free(panels);
    free(x);
    free(want);
    matrix_free(&m);
}

static void rounded_rows(void **state) {
    (void)state;
    static const int bits[] = { 2, 3, 4, 5, 6, 8 }, groups[] = { 32, 64, 128 };
    static const enum dtype scales[] = { F32, F16, BF16 };
    static const int64_t shapes[][2] = { { 1, 1 }, { 36, 9 }, { 70, 3 } };   /* outs, groups */
    struct pool *pool = pool_open(2);
    for (size_t b = 0; b < COUNT(bits); b++) {
        for (size_t g = 0; g < COUNT(groups); g++)
            for (size_t i = 0; i < COUNT(shapes); i++)
                check_int8((struct format){ MLX_AFFINE, scales[(b + g + i) % 3], bits[b],
                                            groups[g], 0 }, shapes[i][0], shapes[i][1] * groups[g],
                           pool);
        /* More columns than are woven at a time. */
        check_int8((struct format){ MLX_AFFINE, BF16, bits[b], 64, 0 }, 18, 2048 + 64, pool);
    }
    check_int8((struct format){ MLX_AFFINE, BF16, 4, 64, 0 }, 5, 4 * 2048 + 192, pool);
    check_int8((struct format){ MLX_AFFINE, F16, 4, 32, 0 }, 33, 2048 + 32 * 17, pool);
    for (size_t i = 0; i < COUNT(shapes); i++)
        check_int8((struct format){ MXFP4, U8, 4, 32, 0 }, shapes[i][0], shapes[i][1] * 32, pool);
    check_int8((struct format){ MXFP4, U8, 4, 32, 0 }, 18, 2048 + 96, pool);
    pool_close(pool);
}

/* The largest weights, and rows whose numbers are all as large as can be: no sum overflows where it
 * is kept in few bits. Of wide rows both parts are at their ends, 127 and -128. */
static void largest_sums(void **state) {
    (void)state;
    enum { OUTS = 19, COLS = 256 };      /* 18 rows are fine, and 19 are not */
    static const int bits[] = { 2, 3, 4, 5, 6, 8 }, groups[] = { 32, 64, 128 };
    static const float parts[][2] = { { 127, 127 }, { -127, -127 }, { 127, -127 },
                                      { 127, 126.5f }, { -127, -126.5f } };
    struct cpu_scratch scratch = { .at = aligned_alloc(64, 1 << 16), .bytes = 1 << 16 };
    float *x = numbers(ROWS * COLS), *want = numbers(ROWS * OUTS);
    for (int i = 0; i < ROWS * COLS; i++)
        x[i] = parts[i / COLS % (int)COUNT(parts)][i % COLS % 32 > 0] * 256;
    for (size_t i = 0; i < 2 * COUNT(bits) * COUNT(groups); i++) {
        const int64_t outs = OUTS - (int64_t)(i % 2);
        const struct format f = { MLX_AFFINE, F32, bits[i / 2 % COUNT(bits)],
                                  groups[i / 2 / COUNT(bits)], 0 };
        struct matrix m = matrix_new(f, 0, outs, COLS);
        struct linear l = linear_of(&m, false), packed = l;
        memset(m.blocks[0] + 1, 0xff, (size_t)(outs * COLS / 8 * f.bits));
        l.fine = packed.fine = i % 2;
        void *panels = aligned_alloc(CPU_PACK_ALIGN, cpu_packed_bytes(&l.w));
        cpu_pack(panels, &l.w, 0, 2);
        packed.w.quant.packed = panels;
        struct tensor xs = tensor_2d(x, F32, ROWS, COLS), ys = tensor_2d(want, F32, ROWS, outs);
        cpu_linear(NULL, &cpu_kernels_generic, &scratch, &ys, &l, &xs);
        const struct cpu_kernels *k;
        for (int s = 0; (k = cpu_isa(s)); s++) {
            check_same(NULL, k, &scratch, &l, &xs, want);
            check_same(NULL, k, &scratch, &packed, &xs, want);
        }
        free(panels);
        matrix_free(&m);
    }
    free(scratch.at);
    free(want);
    free(x);
}

/* The orders of sums that linear_bf16.h has, of numbers that are bf16 already. */
static float pairs(const double *w, const float *x, int64_t cols) {
    float lane[CPU_LANES] = { 0 };
    for (int64_t c = 0; c < cols; c += 2) {
        float *sum = &lane[c / 2 % CPU_LANES];
        if (c + 1 < cols)
            *sum = fmaf((float)w[c + 1], x[c + 1], *sum);
        *sum = fmaf((float)w[c], x[c], *sum);
    }
    for (int half = CPU_LANES / 2; half > 0; half /= 2)
        for (int l = 0; l < half; l++)
            lane[l] += lane[l + half];
    return lane[0];
}

static float chains(const double *w, const float *x, int64_t cols) {
    float sum = 0;
    for (int64_t begin = 0; begin < cols; begin += BF16_STEP) {
        float chain[2] = { 0 };
        for (int64_t c = begin; c < MIN(cols, begin + BF16_STEP); c++)
            chain[c % 2] = fmaf((float)w[c], x[c], chain[c % 2]);
        sum += chain[0] + chain[1];
    }
    return sum;
}

static void check_order(const struct cpu_kernels *k, const struct matrix *m, bool bias,
                        const float *y, const float *x, int64_t rows) {
    const int64_t outs = m->t.shape[0], cols = m->t.shape[1];
    for (int64_t r = 0; r < rows; r += MAX(1, rows - 2))
        for (int64_t o = 0; o < outs; o++) {
            const double *w = m->value + o * cols;
            float want = strstr(k->name, "amx") ? chains(w, x + r * cols, cols)
                                                : pairs(w, x + r * cols, cols);
            if (bias)
                want += m->bias[o];
            if (memcmp(&want, &y[r * outs + o], sizeof want) != 0)
                fail_msg("%s: row %lld out %lld of %lldx%lld: %.9g, in its order %.9g", k->name,
                         (long long)r, (long long)o, (long long)outs, (long long)cols,
                         (double)y[r * outs + o], (double)want);
        }
}

/* bf16 weights and rows that are rounded to bf16: near a product in double precision of the rounded
 * rows, in the order that is promised, and the same bits however many rows there are. */
static void check_bf16(const struct cpu_kernels *k, struct pool *pool, int64_t rows, int64_t outs,
                       int64_t cols, int chunks) {
    struct matrix m = matrix_new((struct format){ .dtype = BF16 }, 0, outs, cols);
    struct linear l = linear_of(&m, outs % 2);
    struct cpu_scratch scratch = { .bytes = (size_t)(chunks * k->bf16->rows
                                                     * ((cols + 31) / 32 * 32) * 2) };
    scratch.at = aligned_alloc(64, scratch.bytes);
    float *x = numbers(rows * cols), *rounded = numbers(rows * cols), *y = numbers(rows * outs);
    for (int64_t i = 0; i < rows * cols; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000;
        memcpy(&rounded[i], &bits, sizeof bits);
    }
    struct tensor xs = tensor_2d(x, F32, rows, cols), ys = tensor_2d(y, F32, rows, outs);
    cpu_linear(pool, k, &scratch, &ys, &l, &xs);
    struct exact e = exact_of(&m, outs % 2, rounded);
    check_near(&e, y, outs);
    free(e.want);
    free(e.size);
    check_order(k, &m, outs % 2, y, rounded, rows);
    if (rows >= ROWS)
        check_same(pool, k, &scratch, &l, &xs, y);
    if (rows >= ROWS && k->bf16->chains) {       /* which have little room above, or none */
        scratch.bytes += cpu_chains_bytes(k->bf16->chains, 2, cols, rows);
        free(scratch.at);
        scratch.at = aligned_alloc(64, scratch.bytes);
        check_same(pool, k, &scratch, &l, &xs, y);
    }
    free(scratch.at);
    free(rounded);
    free(x);
    free(y);
    matrix_free(&m);
}

static void bf16_rows(void **state) {
    (void)state;
    static const int64_t shapes[][2] = { { 1, 1 }, { 3, 7 }, { 16, 32 }, { 37, 17 }, { 5, 24 },
                                         { 18, 31 }, { 33, 513 }, { 70, 1030 }, { 33, 2049 } };
    struct pool *pool = pool_open(2);
    const struct cpu_kernels *k;
    bool any = false;
    for (int i = 0; (k = cpu_isa(i)); i++) {
        if (!k->bf16)
            continue;
        for (size_t j = 0; j < COUNT(shapes); j++)
            check_bf16(k, pool, ROWS, shapes[j][0], shapes[j][1], 1 + (int)(j % 3));
        /* More rows than a chunk or two. */
        check_bf16(k, pool, 2 * BF16_ROWS + 37, 20, 70, 1);
        check_bf16(k, pool, BF16_ROWS + 1, 35, 65, 3);
        check_bf16(k, pool, BF16_ROWS + 20, 1500, 70, 3);    /* large blocks, then few rows */
        /* More rows of w and more columns than are taken together. */
        check_bf16(k, pool, ROWS, 603, 1100, 3);
        any = true;
    }
    if (!any)
        print_message("no set here multiplies bf16 with bf16\n");
    pool_close(pool);
    if (!any)
        skip();
}

/* Matrices of one input together: as many as fit, others between them, packed or not. */
static void many_matrices(void **state) {
    (void)state;
    enum { N = 7, COLS = 384, MOST = 70 };
    static const struct format formats[N] = {
        { MLX_AFFINE, BF16, 4, 64, 0 }, { MLX_AFFINE, BF16, 6, 64, 0 },
        { MLX_AFFINE, F16, 2, 64, 0 },
        { MLX_AFFINE, F16, 4, 64, 0 }, { MLX_AFFINE, BF16, 3, 64, 0 }, { .dtype = BF16 },
        { MLX_AFFINE, BF16, 8, 64, 0 },
    };
    static const int64_t outs[N] = { 40, 16, 1, 33, 70, 5, 17 };
    struct matrix m[N];
    struct linear l[N];
    const struct linear *w[N];
    float *x = numbers(ROWS * COLS), *got[N], *want = numbers(ROWS * MOST);
    struct tensor ys[N], *y[N], xs = tensor_2d(x, F32, ROWS, COLS);
    struct cpu_scratch scratch = { .at = aligned_alloc(64, 1 << 18), .bytes = 1 << 18 };
    struct pool *pool = pool_open(2);
    const struct cpu_kernels *k;
    void *panels = NULL;
    for (int i = 0; i < N; i++) {
        m[i] = matrix_new(formats[i], 0, outs[i], COLS);
        l[i] = linear_of(&m[i], i % 2);
        got[i] = numbers(ROWS * outs[i]);
        ys[i] = tensor_2d(got[i], F32, ROWS, outs[i]);
        w[i] = &l[i];
        y[i] = &ys[i];
        if (i == 1) {
            panels = aligned_alloc(CPU_PACK_ALIGN, cpu_packed_bytes(&l[i].w));
            cpu_pack(panels, &l[i].w, 0, 1);
            l[i].w.quant.packed = panels;
        }
    }
    for (int s = 0; (k = cpu_isa(s)); s++) {
        cpu_linear_many(pool, k, &scratch, y, w, N, &xs);
        for (int i = 0; i < N; i++) {
            struct tensor alone = tensor_2d(want, F32, ROWS, outs[i]);
            cpu_linear(pool, k, &scratch, &alone, &l[i], &xs);
            check_bits(got[i], want, ROWS * outs[i], "a matrix among others");
        }
    }
    for (int i = 0; i < N; i++) {
        free(got[i]);
        matrix_free(&m[i]);
    }
    free(panels);
    free(scratch.at);
    free(want);
    free(x);
    pool_close(pool);
}

/* What is not a number stays visible. */
static void rounded_rows_keep_nan(void **state) {
    (void)state;
    struct matrix m = matrix_new((struct format){ MLX_AFFINE, BF16, 4, 64, 0 }, 0, 20, 128);
    struct linear l = linear_of(&m, false);
    struct cpu_scratch scratch = { .at = aligned_alloc(64, 1 << 20), .bytes = 1 << 20 };
    const struct cpu_kernels *k;
    for (int i = 0; (k = cpu_isa(i)); i++) {
        float *x = numbers(7 * 128), y[7 * 20];
        x[130] = NAN;
        x[3 * 128 + 5] = INFINITY;
        struct tensor xs = tensor_2d(x, F32, 7, 128), ys = tensor_2d(y, F32, 7, 20);
        cpu_linear(NULL, k, &scratch, &ys, &l, &xs);
        for (int r = 0; r < 7; r++)
            for (int o = 0; o < 20; o++)
                assert_true(isfinite(y[r * 20 + o]) == (r != 1 && r != 3));
        free(x);
    }
    free(scratch.at);
    matrix_free(&m);
}

/* A matrix for each head gives what the matrices give alone, also through views. */
static void matrices_of_heads(void **state) {
    (void)state;
    enum { HEADS = 3, OUTS = 21, COLS = 192 };
    static const struct format formats[] = { { .dtype = BF16 }, { MLX_AFFINE, F16, 4, 64, 0 },
                                             { MLX_AFFINE, BF16, 6, 32, 0 },
                                             { MXFP4, U8, 4, 32, 0 }, { FP8, F32, 0, 128, 16 } };
    const struct cpu_kernels *k;
    struct pool *pool = pool_open(2);
    for (size_t i = 0; i < 2 * COUNT(formats); i++) {
        struct matrix m = matrix_new(formats[i / 2], HEADS, OUTS, COLS);
        struct linear l = linear_of(&m, i % 2), alone = l;
        int64_t n_rows = i % 2 ? 1 : 5;
        float *x = numbers(5 * HEADS * (COLS + PAD)), *y = numbers(HEADS * 5 * (OUTS + 2));
        float one[OUTS];
        struct tensor xs = tensor_3d(x, F32, 5, HEADS, COLS + PAD);
        struct tensor ys = tensor_3d(y, F32, HEADS, 5, OUTS + 2);
        xs = tensor_part(&xs, 2, 0, COLS);
        xs = tensor_part(&xs, 0, 0, n_rows);
        /* y lies head by head: the rows of a head are neighbours. */
        ys = (struct tensor){ y, F32, 3, { n_rows, HEADS, OUTS }, { OUTS + 2, 5 * (OUTS + 2), 1 },
                              { 0 } };
        for (int j = 0; (k = cpu_isa(j)); j++) {
            cpu_linear(pool, k, NULL, &ys, &l, &xs);
            for (int64_t r = 0; r < n_rows; r++) {
                for (int64_t h = 0; h < HEADS; h++) {
                    struct tensor xr = tensor_2d(x + (r * HEADS + h) * (COLS + PAD), F32, 1, COLS);
                    struct tensor yr = tensor_2d(one, F32, 1, OUTS);
                    alone.w = tensor_at(&l.w, h);
                    cpu_linear(pool, k, NULL, &yr, &alone, &xr);
                    check_bits(one, y + (h * 5 + r) * (OUTS + 2), OUTS, "a head alone");
                }
            }
        }
        free(x);
        free(y);
        matrix_free(&m);
    }
    pool_close(pool);
}

/* Views of a matrix: some of its rows, every second one, a part of its columns. */
static void views_of_a_matrix(void **state) {
    (void)state;
    enum { OUTS = 40, COLS = 256 };
    static const struct format formats[] = { { .dtype = F32 }, { .dtype = F16 },
                                             { MLX_AFFINE, BF16, 4, 64, 0 },
                                             { MLX_AFFINE, F32, 3, 32, 0 }, { MXFP4, U8, 4, 32, 0 },
                                             { FP8, BF16, 0, 128, 16 } };
    const struct cpu_kernels *k;
    struct pool *pool = pool_open(2);
    for (size_t i = 0; i < COUNT(formats); i++) {
        struct matrix m = matrix_new(formats[i], 0, OUTS, COLS);
        float *x = numbers(ROWS * COLS), whole[3 * OUTS], part[3 * OUTS];
        for (int j = 0; (k = cpu_isa(j)); j++) {
            struct tensor xs = tensor_2d(x, F32, 3, COLS), ys = tensor_2d(whole, F32, 3, OUTS);
            struct linear l = linear_of(&m, false), view = l;
            cpu_linear(pool, k, NULL, &ys, &l, &xs);

            view.w = tensor_every(&l.w, 1, 2);
            ys = tensor_2d(part, F32, 3, OUTS / 2);
            cpu_linear(pool, k, NULL, &ys, &view, &xs);
            for (int r = 0; r < 3; r++)
                for (int o = 0; o < OUTS / 2; o++)
                    assert_memory_equal(&part[r * OUTS / 2 + o], &whole[r * OUTS + 2 * o + 1], 4);

            view.w = tensor_part(&l.w, 1, 64, 128);
            xs = tensor_2d(x, F32, 1, 128);
            ys = tensor_2d(part, F32, 1, OUTS);
            cpu_linear(pool, k, NULL, &ys, &view, &xs);
            for (int o = 0; o < OUTS; o++) {
                double want = 0;
                for (int c = 0; c < 128; c++)
                    want += m.value[o * COLS + 64 + c] * (double)x[c];
                assert_true(fabs((double)part[o] - want) < 1e-4);
            }
        }
        free(x);
        matrix_free(&m);
    }
    pool_close(pool);
}

static void rows_become_floats(void **state) {
    (void)state;
    static const struct format formats[] = { { .dtype = F32 }, { .dtype = F16 }, { .dtype = BF16 },
                                             { MLX_AFFINE, BF16, 4, 64, 0 },
                                             { MLX_AFFINE, F16, 5, 32, 0 }, { MXFP4, U8, 4, 32, 0 },
                                             { NVFP4, FP8, 4, 16, 0 }, { FP8, F32, 0, 128, 2 } };
    for (size_t i = 0; i < COUNT(formats); i++) {
        struct matrix m = matrix_new(formats[i], 0, 3, 640);
        float out[640];
        cpu_dequantize_row(&m.t, 2, out);
        for (int c = 0; c < 640; c++)
            assert_true(fabs((double)out[c] - m.value[2 * 640 + c]) <= 1e-7 * m.size[2 * 640 + c]);
        const struct cpu_kernels *k;
        for (int j = 0; (k = cpu_isa(j)); j++) {
            struct cpu_matrix raw = { .at = m.t.at, .scales = m.t.quant.scales,
                .biases = m.t.quant.biases, .dtype = m.t.dtype, .bits = m.t.quant.bits,
                .row_bytes = (int64_t)(formats[i].bits ? 80 * (size_t)formats[i].bits
                                                       : 640 * dtype_bytes(m.t.dtype)),
                .scale_row_bytes = formats[i].group ? 640 / formats[i].group
                    * (int64_t)dtype_bytes(formats[i].scales) : 0,
                .scale_dtype = m.t.quant.scale_dtype, .group = m.t.quant.group,
                .cols = 640, .block_rows = m.t.quant.block_rows,
                .block_cols = m.t.quant.block_cols };
            float w[CPU_TILE_COLS];
            k->unpack(w, &raw, 2, CPU_TILE_COLS, 128);
            check_bits(w, out + CPU_TILE_COLS, 128, "unpacked");
        }
        matrix_free(&m);
    }
}

static void sets_have_names(void **state) {
    (void)state;
    struct err e = { 0 };
    assert_ptr_equal(cpu_isa_find("generic", &e), &cpu_kernels_generic);
    assert_ptr_equal(cpu_isa_find(NULL, &e), cpu_isa(0));
    assert_int_equal(e.code, ERR_NONE);
    assert_null(cpu_isa_find("mmx", &e));
    assert_int_equal(e.code, ERR_DEVICE);
    assert_non_null(strstr(e.text, "mmx"));
    assert_non_null(strstr(e.text, "generic"));
}

/* Says which sets there are; an argument is a pattern of tests. */
int main(int argc, char **argv) {
    const struct cpu_kernels *k;
    printf("sets:");
    for (int i = 0; (k = cpu_isa(i)); i++) printf(" %s", k->name);
    printf("\n");
    fflush(stdout);
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_formats),
        cmocka_unit_test(affine_formats),
        cmocka_unit_test(small_formats),
        cmocka_unit_test(crowds_of_rows),
        cmocka_unit_test(every_code_is_read),
        cmocka_unit_test(rounded_rows),
        cmocka_unit_test(largest_sums),
        cmocka_unit_test(bf16_rows),
        cmocka_unit_test(many_matrices),
        cmocka_unit_test(rounded_rows_keep_nan),
        cmocka_unit_test(matrices_of_heads),
        cmocka_unit_test(views_of_a_matrix),
        cmocka_unit_test(rows_become_floats),
        cmocka_unit_test(sets_have_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
