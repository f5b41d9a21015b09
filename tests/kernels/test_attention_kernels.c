/* test_attention_kernels.c - scores, softmax and weighted sums of every instruction set, against
 * doubles and against each other. */
#include "device/cpu/isa.h"
#include "device/small_float.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { KEYS_MAX = 33, DIM_MAX = 200, QUERIES_MAX = 17, PAST = 5 };

struct data {
    float q[QUERIES_MAX * DIM_MAX], scales[KEYS_MAX];
    unsigned char *rows;             /* its last row ends where the allocation ends */
    double *value;                   /* [rows][cols] */
};

struct out { float score[QUERIES_MAX * SCORE_ROW], y[QUERIES_MAX * DIM_MAX + PAST]; };

static float uniform(void) {
    static uint32_t seed = 12345;
    seed = seed * 1664525 + 1013904223;
    return (float)(seed >> 8) / (float)(1 << 23) - 1.0f;
}

/* Values whose row is a token (by_row), or keys whose column is one. */
static struct cpu_kv data_new(struct data *d, enum dtype dtype, int rows, int cols, bool by_row) {
    const size_t size = dtype_bytes(dtype), stride = (size_t)(cols + PAST) * size;
    d->rows = malloc(stride * (size_t)(rows - 1) + (size_t)cols * size);
    d->value = malloc((size_t)(rows * cols) * sizeof *d->value);
    assert_true(d->rows && d->value);
    for (int i = 0; i < KEYS_MAX; i++) d->scales[i] = (uniform() + 1.5f) / 127;
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < cols; c++) {
            float f = uniform();
            uint32_t bits;
            signed char byte = dtype == FP8 ? (signed char)e4m3_of(f * 448)
                                            : (signed char)lrintf(f * 127);
            memcpy(&bits, &f, sizeof bits);
            if (dtype == BF16) bits &= 0xffff0000;
            memcpy(&f, &bits, sizeof f);
            if (dtype == I8) f = byte;
            if (dtype == FP8) f = float_of_e4m3((uint8_t)byte);
            d->value[r * cols + c] = (double)f;
            if (dtype_scaled(dtype)) d->value[r * cols + c] *= (double)d->scales[by_row ? r : c];
            unsigned char *to = d->rows + (size_t)r * stride + (size_t)c * size;
            uint16_t half = (uint16_t)(bits >> 16);
            memcpy(to, size == 1 ? (void *)&byte : size == 2 ? (void *)&half : (void *)&bits, size);
        }
    const char *at = (const char *)d->rows;
    return (struct cpu_kv){ at, stride, dtype, d->scales, at };
}

static void data_free(struct data *d) {
    free(d->rows);
    free(d->value);
}

static void check_scores(enum dtype dtype, int n, int dim, int n_q, bool latent) {
    static struct data d;
    static struct out wide, out;
    struct cpu_kv k = latent ? data_new(&d, dtype, n, dim, true)
                             : data_new(&d, dtype, dim, n, false);
    for (int i = 0; i < n_q * dim; i++) d.q[i] = uniform();
    const struct cpu_kernels *set;
    for (int s = 0; (set = cpu_isa(s)); s++) {
        struct out *o = s ? &out : &wide;
        const struct cpu_attention_kernels *kernels = set->attention;
        for (int i = 0; i < n_q * SCORE_ROW; i++) o->score[i] = -7;
        (latent ? kernels->latent_scores : kernels->scores)(o->score, d.q, n_q, &k, n, dim);
        for (int j = 0; j < n_q; j++)
            for (int i = 0; i < STEP_TOKENS; i++) {
                double want = 0;
                for (int c = 0; c < dim && i < n; c++)
                    want += d.value[latent ? i * dim + c : c * n + i] * (double)d.q[j * dim + c];
                if (i >= n) want = -7;
                assert_true(fabs((double)o->score[j * SCORE_ROW + i] - want) < 1e-5 * sqrt(dim));
            }
        if (s && kernels != &cpu_attention_generic)
            assert_memory_equal(&out, &wide, (size_t)(n_q * SCORE_ROW) * sizeof(float));
    }
    data_free(&d);
}

static void check_weigh(enum dtype dtype, int n, int dim, int n_q) {
    static struct data d;
    static struct out wide, out;
    float p[QUERIES_MAX * SCORE_ROW];
    struct cpu_kv v = data_new(&d, dtype, n, dim, true);
    for (int i = 0; i < n_q * SCORE_ROW; i++) p[i] = uniform();
    const struct cpu_kernels *set;
    for (int s = 0; (set = cpu_isa(s)); s++) {
        struct out *o = s ? &out : &wide;
        for (int i = 0; i < n_q * dim + PAST; i++) o->y[i] = 0.25f;
        set->attention->weigh(o->y, p, n_q, &v, n, dim);
        for (int j = 0; j < n_q; j++)
            for (int c = 0; c < dim; c++) {
                double want = 0.25;
                for (int i = 0; i < n; i++)
                    want += d.value[i * dim + c] * (double)p[j * SCORE_ROW + i];
                assert_true(fabs((double)o->y[j * dim + c] - want) < 1e-5);
            }
        for (int i = 0; i < PAST; i++) assert_true(o->y[n_q * dim + i] == 0.25f);
        if (s && set->attention != &cpu_attention_generic)
            assert_memory_equal(out.y, wide.y, (size_t)(n_q * dim) * sizeof *out.y);
    }
    data_free(&d);
}

static void sets_agree(void **state) {
    (void)state;
    static const int dims[] = { 1, 7, 16, 17, 24, 64, 80, 96, 128, 192, 200 };
    static const int counts[] = { 1, 2, 4, 15, 16, 32, 33 };
    static const enum dtype dtypes[] = { F32, BF16, I8, FP8 };
    for (size_t i = 0; i < COUNT(dtypes) * COUNT(dims) * COUNT(counts); i++) {
        enum dtype dtype = dtypes[i % COUNT(dtypes)];
        const size_t shape = i / COUNT(dtypes);
        int dim = dims[shape % COUNT(dims)], n = counts[shape / COUNT(dims)];
        int n_q = 1 + (int)(i % QUERIES_MAX);
        check_scores(dtype, n, dim, n_q, false);
        if (!dtype_scaled(dtype)) check_scores(dtype, n, dim, n_q, true);
        check_weigh(dtype, n, dim, n_q);
    }
}

/* Two steps, so that the maximum may grow; what is not visible is not a number. */
static void check_softmax(int begin, int end, int n, float softcap, float spread) {
    float x[2][STEP_TOKENS], wide[2][STEP_TOKENS], p[2][STEP_TOKENS];
    struct cpu_running first = { 0 };
    const struct cpu_softmax how = { 0.125f, softcap };
    for (int s = 0; s < 2; s++)
        for (int i = 0; i < STEP_TOKENS; i++)
            x[s][i] = i >= begin && i < end ? spread * (uniform() + (float)s) : NAN;
    const struct cpu_kernels *set;
    for (int k = 0; (set = cpu_isa(k)); k++) {
        struct cpu_running r = { -INFINITY, 0 };
        double max = -INFINITY, sum = 0;
        memcpy(p, x, sizeof p);
        for (int s = 0; s < 2; s++) {
            const double was = max;
            float shrink = set->attention->soften(p[s], begin, end, n, &how, &r);
            for (int i = begin; i < end; i++) {
                double v = (double)x[s][i] * 0.125;
                if (softcap != 0) v = (double)softcap * tanh(v / (double)softcap);
                max = fmax(max, v);
            }
            if (begin < end && s) assert_true(fabs((double)shrink - exp(was - max)) < 1e-5);
            sum *= begin < end ? exp(was - max) : 1;
            for (int i = 0; i < n; i++) {
                double v = (double)x[s][i] * 0.125;
                if (softcap != 0) v = (double)softcap * tanh(v / (double)softcap);
                double want = i >= begin && i < end ? exp(v - max) : 0;
                assert_true(fabs((double)p[s][i] - want) < 1e-5);
                sum += want;
            }
        }
        assert_true(fabs((double)r.sum - sum) < 1e-4);
        if (k && set->attention != &cpu_attention_generic) {
            for (int s = 0; s < 2; s++)
                assert_memory_equal(p[s], wide[s], (size_t)n * sizeof **p);
            assert_memory_equal(&r, &first, sizeof r);
        }
        if (!k) {
            memcpy(wide, p, sizeof p);
            first = r;
        }
    }
}

static void softmaxes_agree(void **state) {
    (void)state;
    static const int range[][3] = { { 0, 1, 1 }, { 0, 16, 16 }, { 3, 17, 32 }, { 20, 33, 33 },
                                    { 0, 128, 128 }, { 8, 8, 32 }, { 127, 128, 128 } };
    static const float spreads[] = { 1, 30, 2000 };
    for (size_t i = 0; i < COUNT(range); i++)
        for (size_t j = 0; j < COUNT(spreads); j++) {
            check_softmax(range[i][0], range[i][1], range[i][2], 0, spreads[j]);
            check_softmax(range[i][0], range[i][1], range[i][2], 1.5f, spreads[j]);
        }
}

/* A query's scores and sums do not depend on those that go with it. */
static void alone_is_the_same(void **state) {
    (void)state;
    enum { N = 32, DIM = 72 };
    static struct data d;
    static struct out whole;
    float p[QUERIES_MAX * SCORE_ROW], score[STEP_TOKENS], y[DIM];
    const struct cpu_kernels *set;
    struct cpu_kv v = data_new(&d, BF16, N, DIM, true), k = v;
    for (int i = 0; i < QUERIES_MAX * SCORE_ROW; i++) p[i] = uniform();
    for (int i = 0; i < QUERIES_MAX * DIM; i++) d.q[i] = uniform();
    for (int s = 0; (set = cpu_isa(s)); s++) {
        memset(&whole, 0, sizeof whole);
        set->attention->scores(whole.score, d.q, QUERIES_MAX, &k, N, N);
        set->attention->weigh(whole.y, p, QUERIES_MAX, &v, N, DIM);
        for (int j = 0; j < QUERIES_MAX; j++) {
            memset(y, 0, sizeof y);
            set->attention->scores(score, d.q + j * N, 1, &k, N, N);
            set->attention->weigh(y, p + j * SCORE_ROW, 1, &v, N, DIM);
            assert_memory_equal(score, whole.score + j * SCORE_ROW, N * sizeof *score);
            assert_memory_equal(y, whole.y + j * DIM, sizeof y);
        }
        set->attention->latent_scores(whole.score, d.q, QUERIES_MAX, &k, N, DIM);
        for (int j = 0; j < QUERIES_MAX; j++) {
            set->attention->latent_scores(score, d.q + j * DIM, 1, &k, N, DIM);
            assert_memory_equal(score, whole.score + j * SCORE_ROW, N * sizeof *score);
        }
    }
    data_free(&d);
}

/* ---- kernels that round: given what bf16 has, they are as near as the others ---- */

static float bf16_of(float f, uint16_t *half) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    bits &= 0xffff0000;
    *half = (uint16_t)(bits >> 16);
    memcpy(&f, &bits, sizeof f);
    return f;
}

static float *bf16_numbers(int n) {
    float *x = mem_array((size_t)n, sizeof *x);
    uint16_t half;
    for (int i = 0; i < n; i++) x[i] = bf16_of(uniform(), &half);
    return x;
}

/* Number `at` of a page, drawn. */
static float drawn_into(void *page, int at, enum dtype dtype) {
    const float f = uniform();
    uint8_t byte = dtype == FP8 ? e4m3_of(f * 448) : (uint8_t)(signed char)lrintf(f * 127);
    if (dtype == BF16) return bf16_of(f, (uint16_t *)page + at);
    ((uint8_t *)page)[at] = byte;
    return dtype == FP8 ? float_of_e4m3(byte) : (float)(signed char)byte;
}

/* Scales of n tokens, those of others no numbers; of bytes so small that products are as large as
 * those of bf16, and powers of two, for a weight times its value's scale is rounded. */
static void draw_scales(float *scales, int n, enum dtype dtype) {
    const float top = dtype == I8 ? 128 : dtype == FP8 ? 512 : 1;
    for (int i = 0; i < ROUNDED_TOKENS; i++)
        scales[i] = i >= n ? NAN : dtype == BF16 ? 1 : ldexpf(1 / top, -(i % 3));
}

static void rounded_scores(const struct cpu_attention_rounded *kernels, enum dtype dtype, int dim,
                           int n_q) {
    enum { N = ROUNDED_TOKENS };
    const int all = (n_q + 1) * SCORE_ROW;
    float *q = bf16_numbers(n_q * dim), *score = mem_array((size_t)all, sizeof *score);
    double *want = mem_array((size_t)(n_q * N), sizeof *want);
    const size_t bytes = dtype_bytes(dtype);
    float scales[N];
    void *page = mem_array((size_t)(dim * N), bytes);
    const struct cpu_kv k = { page, N * bytes, dtype, scales, NULL };
    draw_scales(scales, N, dtype);
    for (int d = 0; d < dim; d++)
        for (int i = 0; i < N; i++) {
            const float f = drawn_into(page, (d / 2 * N + i) * 2 + d % 2, dtype) * scales[i];
            for (int j = 0; j < n_q; j++) want[j * N + i] += (double)f * (double)q[j * dim + d];
        }
    for (int i = 0; i < all; i++) score[i] = -7;
    kernels->round(q, n_q, dim);
    kernels->scores(score, q, n_q, &k, dim);
    for (int i = 0; i < all; i++) {
        const int j = i / SCORE_ROW, at = i % SCORE_ROW;
        if (j < n_q && at < N) assert_true(fabs((double)score[i] - want[j * N + at]) < 1e-4);
        else assert_true(score[i] == -7);
    }
    free(q), free(score), free(want), free(page);
}

/* n tokens of several pages; the others of the last one are no numbers. */
static void rounded_weigh(const struct cpu_attention_rounded *kernels, enum dtype dtype, int dim,
                          int n, int n_q) {
    enum { N = ROUNDED_TOKENS, PAGES = STEP_TOKENS / N };
    float *p = bf16_numbers(n_q * SCORE_ROW);
    float *y = mem_array((size_t)(n_q * dim + PAST), sizeof *y);
    double *want = mem_array((size_t)(n_q * dim), sizeof *want);
    const size_t bytes = dtype_bytes(dtype);
    float scales[PAGES][N];
    void *page[PAGES];
    struct cpu_kv v[PAGES];
    for (int i = 0; i < PAGES; i++) {
        page[i] = mem_array((size_t)(dim * N), bytes);
        v[i] = (struct cpu_kv){ page[i], (size_t)dim * bytes, dtype, scales[i], NULL };
        memset(page[i], 0xff, (size_t)(dim * N) * bytes);
        draw_scales(scales[i], n - i * N, dtype);
    }
    for (int j = 0; j < n_q; j++)
        for (int t = n; t < SCORE_ROW; t++) p[j * SCORE_ROW + t] = 0;
    for (int t = 0; t < n; t++)
        for (int c = 0; c < dim; c++) {
            const int at = (t % N / 2 * dim + c) * 2 + t % 2;
            const float f = drawn_into(page[t / N], at, dtype) * scales[t / N][t % N];
            for (int j = 0; j < n_q; j++)
                want[j * dim + c] += (double)f * (double)p[j * SCORE_ROW + t];
        }
    for (int i = 0; i < n_q * dim + PAST; i++) y[i] = 0.25f;
    kernels->weigh(y, p, n_q, v, n, dim);
    for (int i = 0; i < n_q * dim; i++)
        assert_true(fabs((double)y[i] - 0.25 - want[i]) < 1e-4);
    for (int i = 0; i < PAST; i++) assert_true(y[n_q * dim + i] == 0.25f);
    for (int i = 0; i < PAGES; i++) free(page[i]);
    free(p), free(y), free(want);
}

static void rounding_is_right(void **state) {
    (void)state;
    static const int dims[] = { 32, 64, 96, 128, 256 }, columns[] = { 16, 48, 80, 128, 256 };
    static const int counts[] = { 1, 31, 32, 33, 97, 128 };
    static const int queries[] = { 1, 4, 15, 16, 17, 33, 48 };
    static const enum dtype dtypes[] = { BF16, I8, FP8 };
    const struct cpu_kernels *set;
    for (int s = 0; (set = cpu_isa(s)); s++)
        for (size_t i = 0; i < COUNT(queries) * COUNT(dtypes) && set->attention_rounded; i++) {
            const struct cpu_attention_rounded *kernels = set->attention_rounded;
            const enum dtype dtype = dtypes[i % COUNT(dtypes)];
            const int n_q = queries[i / COUNT(dtypes)];
            const int most = dtype == BF16 ? ROUNDED_DIM : ROUNDED_BYTES_DIM;
            for (size_t k = 0; k < COUNT(dims) && dims[k] <= most; k++)
                rounded_scores(kernels, dtype, dims[k], n_q);
            for (size_t k = 0; k < COUNT(columns) * COUNT(counts); k++)
                if (columns[k % COUNT(columns)] <= most)
                    rounded_weigh(kernels, dtype, columns[k % COUNT(columns)],
                                  counts[k / COUNT(columns)], n_q);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sets_agree),
        cmocka_unit_test(softmaxes_agree),
        cmocka_unit_test(alone_is_the_same),
        cmocka_unit_test(rounding_is_right),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
