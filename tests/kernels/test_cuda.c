/* test_cuda.c - ops of the CUDA device beside the CPU's generic ones on drawn numbers, and the same
 * bits for a row alone and among others. Says so and passes where there is no GPU. */
#include "gpu.h"

static uint16_t bf16_of(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return (uint16_t)(bits >> 16);
}

static uint16_t half_of(float f)     /* cut off; zero where it would be subnormal */
{
    int e;
    float m = frexpf(fabsf(f), &e);
    if (e < -13 || f == 0) return 0;
    return (uint16_t)((f < 0 ? 0x8000 : 0) | (e + 14) << 10 | ((int)(m * 2048) & 1023));
}

/* The largest difference, as a share of the root of the mean square. */
static double difference(const float *got, const float *want, int64_t n) {
    double most = 0, square = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - (double)want[i]);
        most = d > most || isnan(d) ? (isnan(d) ? INFINITY : d) : most;
        square += (double)want[i] * (double)want[i];
    }
    return most / (sqrt(square / (double)n) + 1e-30);
}

/* ---- linear ---- */

struct format { const char *name; enum dtype dtype, scales; int bits, group; };

struct matrix { struct linear l; void *at, *scales, *biases; float *bias; };

static uint16_t plain_of(enum dtype dtype, float f) {
    return dtype == BF16 ? bf16_of(f) : half_of(f);
}

static struct matrix matrix_new(const struct format *f, int64_t outs, int64_t cols) {
    struct matrix m = { .bias = numbers(outs) };
    size_t n = (size_t)(outs * cols);
    m.l.w = tensor_2d(NULL, f->dtype, outs, cols);
    m.l.bias = tensor_1d(m.bias, F32, outs);
    size_t bytes = f->dtype == MLX_AFFINE ? n / 8 * (size_t)f->bits : n * dtype_bytes(f->dtype);
    m.l.w.at = m.at = mem_new(bytes);
    if (f->dtype != MLX_AFFINE) {
        for (size_t i = 0; i < n; i++) ((uint16_t *)m.at)[i] = plain_of(f->dtype, uniform());
        return m;
    }
    for (size_t i = 0; i < bytes; i++) ((unsigned char *)m.at)[i] = (unsigned char)draw();
    size_t groups = n / (size_t)f->group;
    uint16_t *scales = m.scales = mem_array(groups, sizeof *scales);
    uint16_t *biases = m.biases = mem_array(groups, sizeof *biases);
    for (size_t i = 0; i < groups; i++) {
        scales[i] = plain_of(f->scales, uniform() / (float)(1 << f->bits));
        biases[i] = plain_of(f->scales, uniform() / 2);
    }
    m.l.w.quant = (struct quant){ .scales = scales, .biases = biases, .scale_dtype = f->scales,
                                  .group = (uint16_t)f->group, .bits = (uint8_t)f->bits };
    return m;
}

/* Weights stay adopted as long as the device is open, so their memory is kept as well. */
static void adopt(struct device *dev, const struct matrix *m, const struct format *f) {
    size_t groups = f->group ? (size_t)tensor_count(&m->l.w) / (size_t)f->group : 0;
    size_t n = (size_t)tensor_count(&m->l.w);
    size_t bytes = f->dtype == MLX_AFFINE ? n / 8 * (size_t)f->bits : n * dtype_bytes(f->dtype);
    assert_true(dev->op->adopt(dev, m->at, bytes));
    assert_true(dev->op->adopt(dev, m->bias, (size_t)m->l.w.shape[0] * sizeof(float)));
    if (!groups) return;
    assert_true(dev->op->adopt(dev, m->scales, groups * 2));
    assert_true(dev->op->adopt(dev, m->biases, groups * 2));
}

static void product(struct device *dev, float *y, const struct matrix *m, const float *x,
                    int64_t rows) {
    const int64_t cols = m->l.w.shape[1], outs = m->l.w.shape[0];
    void *xt = there(dev, x, (size_t)(rows * cols) * sizeof *x);
    void *yt = there(dev, NULL, (size_t)(rows * outs) * sizeof *y);
    struct tensor in = tensor_2d(xt, F32, rows, cols), out = tensor_2d(yt, F32, rows, outs);
    dev->op->linear(dev, &out, &m->l, &in);
    back(dev, y, yt, rows * outs);
    dev->op->free(dev, xt, (size_t)(rows * cols) * sizeof *x);
}

static void linear_of(struct device *dev, const struct format *f, int64_t outs, int64_t cols,
                      double bound) {
    static const int64_t counts[] = { 1, 2, 8, 9, 16, 17, 32, 33, 64, 65, 130 };
    enum { MOST = 130 };
    struct matrix m = matrix_new(f, outs, cols);
    float *x = numbers(MOST * cols), *want = mem_array((size_t)(MOST * outs), sizeof *want);
    float *got = mem_array((size_t)(MOST * outs), sizeof *got);
    float *all = mem_array((size_t)(MOST * outs), sizeof *all);
    struct tensor in = tensor_2d(x, F32, MOST, cols), out = tensor_2d(want, F32, MOST, outs);
    cpu.op->linear(&cpu, &out, &m.l, &in);
    adopt(dev, &m, f);
    product(dev, all, &m, x, MOST);
    double far = difference(all, want, MOST * outs);
    if (!(far < bound))
        fail_msg("%s [%d, %d]: %g of the size, at most %g", f->name, (int)outs, (int)cols, far,
                 bound);
    for (size_t i = 0; i < COUNT(counts); i++) {
        const int64_t skip = counts[i] < MOST ? 1 : 0;   /* the rows are others than at first */
        product(dev, got, &m, x + skip * cols, counts[i]);
        if (memcmp(got, all + skip * outs, (size_t)(counts[i] * outs) * sizeof *got) != 0)
            fail_msg("%s [%d, %d]: %d rows have other bits", f->name, (int)outs, (int)cols,
                     (int)counts[i]);
    }
    free(x), free(want), free(got), free(all);
}

static void test_linear(void **state) {
    (void)state;
    static const struct format formats[] = {
        { "bf16", BF16, F32, 0, 0 },          { "f16", F16, F32, 0, 0 },
        { "4 bits g64", MLX_AFFINE, BF16, 4, 64 }, { "4 bits g32", MLX_AFFINE, BF16, 4, 32 },
        { "4 bits g128", MLX_AFFINE, F16, 4, 128 }, { "8 bits g64", MLX_AFFINE, BF16, 8, 64 },
        { "3 bits g64", MLX_AFFINE, F16, 3, 64 },
    };
    static const int64_t shapes[][2] = { { 1, 128 }, { 17, 384 }, { 300, 640 }, { 131, 2048 },
                                         { 64, 4096 } };
    for (size_t i = 0; i < COUNT(formats); i++)
        for (size_t k = 0; k < COUNT(shapes); k++) {
            linear_of(&f32, &formats[i], shapes[k][0], shapes[k][1], 2e-4);
            linear_of(&rounding, &formats[i], shapes[k][0], shapes[k][1], 2e-2);
        }
    const struct format plain = { "bf16", BF16, F32, 0, 0 };
    linear_of(&rounding, &plain, 40, 64, 2e-2);
    linear_of(&rounding, &plain, 40, 576, 2e-2);
    linear_of(&rounding, &plain, 40, 72, 2e-2);
}

/* ---- norm ---- */

static void test_norm(void **state) {
    (void)state;
    static const int64_t sizes[] = { 10, 128, 600, 4096, 9000 };
    for (size_t i = 0; i < COUNT(sizes); i++)
        for (int kind = NORM_RMS; kind <= NORM_LAYER; kind++) {
            const int64_t n = sizes[i], rows = 5;
            float *x = numbers(rows * n), *w = numbers(n), *b = numbers(n);
            float *want = numbers(rows * n), *got = numbers(rows * n);
            struct tensor in = tensor_2d(x, F32, rows, n), out = tensor_2d(want, F32, rows, n);
            struct tensor wt = tensor_1d(w, F32, n), bt = tensor_1d(b, F32, n);
            cpu.op->norm(&cpu, &out, &wt, &bt, &in, (enum norm)kind, 1e-5f);
            assert_true(f32.op->adopt(&f32, w, (size_t)n * sizeof *w));
            assert_true(f32.op->adopt(&f32, b, (size_t)n * sizeof *b));
            in.at = there(&f32, x, (size_t)(rows * n) * sizeof *x);
            out.at = there(&f32, NULL, (size_t)(rows * n) * sizeof *x);
            f32.op->norm(&f32, &out, &wt, &bt, &in, (enum norm)kind, 1e-5f);
            back(&f32, got, out.at, rows * n);
            f32.op->free(&f32, in.at, 0);
            assert_true(difference(got, want, rows * n) < 1e-5);
            free(x), free(want), free(got);
        }
}

/* ---- lists of ops ---- */

/* The second run is recorded, the third started from the list: on other numbers each time. What is
 * freed takes the list along. */
static void test_replay(void **state) {
    (void)state;
    enum { N = 300 };
    const int key = 7;
    void *at = there(&f32, NULL, N * sizeof(float)), *spare = there(&f32, NULL, sizeof(float));
    struct tensor t = tensor_2d(at, F32, 1, N);
    float got[N];
    for (int run = 0; run < 5; run++) {
        float *x = numbers(N);
        if (run == 4) f32.op->free(&f32, spare, sizeof(float));
        f32.op->copy_in(&f32, at, x, N * sizeof *x);
        bool again = f32.op->replay(&f32, &key, sizeof key);
        assert_int_equal(again, run == 2 || run == 3);
        if (!again) {
            f32.op->scale(&f32, &t, 3, 0, 0);
            f32.op->scale(&f32, &t, 2, 0, 0);
            f32.op->record_end(&f32);
        }
        f32.op->copy_out(&f32, got, at, N * sizeof *x);
        assert_true(f32.op->sync(&f32, NULL));
        for (int i = 0; i < N; i++) assert_true(got[i] == x[i] * 3 * 2);
        free(x);
    }
    f32.op->free(&f32, at, N * sizeof(float));
}

/* Keys and values of 8 bits have no kernel there yet: a sentence, not a wrong answer. */
static void test_no_q8(void **state) {
    (void)state;
    struct err err = { 0 };
    struct engine_options o = { .dir = "models/demo", .device = "cuda", .kv = "q8" };
    assert_false(f32.op->kv_i8);
    assert_null(engine_open(&o, &err));
    assert_string_equal(err.text, "device cuda: it cannot keep keys and values as q8 yet; "
                                  "there is: --kv bf16 and f32");
}

static int run(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linear), cmocka_unit_test(test_norm),
        cmocka_unit_test(test_replay), cmocka_unit_test(test_no_q8),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

int main(void) {
    return run_all("test_cuda", run);
}
