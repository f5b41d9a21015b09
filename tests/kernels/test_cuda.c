/* test_cuda.c - ops of the CUDA device beside the CPU's generic ones on drawn numbers, and the same
 * bits for a row alone and among others. Says so and passes where there is no GPU. */
#include "device/device.h"
#include "engine.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct device cpu, f32, rounding;         /* rounding: rows may become bf16 */
static uint64_t seed = 88172645463325252u;

static uint32_t draw(void) {
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (uint32_t)(seed >> 16);
}

static float uniform(void)           /* -1 to 1 */
{
    return (float)((double)draw() / 2147483648.0 - 1.0);
}

static float *numbers(int64_t n) {
    float *x = mem_array((size_t)n, sizeof *x);
    for (int64_t i = 0; i < n; i++) x[i] = uniform();
    return x;
}

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

/* Memory of the device, filled with NaN where there is nothing to copy. */
static void *there(struct device *dev, const void *from, size_t bytes) {
    void *p = dev->op->alloc(dev, bytes);
    assert_non_null(p);
    if (from) {
        dev->op->copy_in(dev, p, from, bytes);
        return p;
    }
    float *poison = mem_array(bytes / sizeof(float), sizeof(float));
    for (size_t i = 0; i < bytes / sizeof(float); i++) poison[i] = NAN;
    dev->op->copy_in(dev, p, poison, bytes);
    assert_true(dev->op->sync(dev, NULL));
    free(poison);
    return p;
}

static void back(struct device *dev, float *to, void *from, int64_t n) {
    struct err err = { 0 };
    dev->op->copy_out(dev, to, from, (size_t)n * sizeof *to);
    if (!dev->op->sync(dev, &err)) fail_msg("%s", err.text);
    dev->op->free(dev, from, (size_t)n * sizeof *to);
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

/* ---- attention ---- */

enum { PAGE = 16, SEQS = 3, PAGES_MAX = 50, PAGES = SEQS * PAGES_MAX };

struct shape { int heads, kv_heads, k_dim, v_dim, window; bool v_in_k, sinks, tiled;
               float softcap; enum dtype dtype; };

/* Caches the tokens before and answers the rows, all at once or a row at a time. */
static void attend_on(struct device *dev, const struct shape *s, const float *k, const float *v,
                      const float *q, const float *sinks, const int *table, bool one_by_one,
                      float *y) {
    static const int length[SEQS] = { 3, 141, 790 };
    int pos[1000], seq[1000], first[SEQS + 1] = { 0 }, n = 0;
    for (int i = 0; i < SEQS; first[++i] = n)
        for (int p = 0; p < length[i]; p++, n++) pos[n] = p, seq[n] = i;
    const size_t width = s->dtype == BF16 ? 2 : 4;
    const size_t page_bytes = (size_t)PAGE * (size_t)s->kv_heads *
                              (size_t)(s->k_dim + (s->v_in_k ? 0 : s->v_dim)) * width;
    const int64_t q_row = s->heads * s->k_dim, y_row = s->heads * s->v_dim;
    struct rows rows = { n, SEQS, there(dev, pos, sizeof pos), there(dev, seq, sizeof seq),
                         there(dev, first, sizeof first) };
    struct attend a = { &rows,
                        { there(dev, NULL, page_bytes * PAGES), page_bytes,
                          there(dev, table, PAGES * sizeof *table), PAGES_MAX, PAGE, s->dtype },
                        s->heads, s->kv_heads, s->k_dim, s->v_dim, s->v_in_k, s->tiled, s->window,
                        0, sinks, 0.1f, s->softcap };
    struct tensor kt = tensor_3d(there(dev, k, (size_t)(n * s->kv_heads * s->k_dim) * 4), F32, n,
                                 s->kv_heads, s->k_dim);
    struct tensor vt = tensor_3d(there(dev, v, (size_t)(n * s->kv_heads * s->v_dim) * 4), F32, n,
                                 s->kv_heads, s->v_dim);
    dev->op->kv_store(dev, &a, &kt, s->v_in_k ? NULL : &vt);
    void *yt = there(dev, NULL, (size_t)(n * y_row) * 4);
    void *qt = there(dev, q, (size_t)(n * q_row) * 4);
    struct tensor in = tensor_3d(qt, F32, n, s->heads, s->k_dim);
    struct tensor out = tensor_3d(yt, F32, n, s->heads, s->v_dim);
    if (!one_by_one) dev->op->attention(dev, &out, &in, &a);
    for (int r = 0; one_by_one && r < n; r++) {
        struct rows one = rows;
        struct tensor in_one = tensor_part(&in, 0, r, 1), out_one = tensor_part(&out, 0, r, 1);
        one.n_rows = 1;
        one.pos += r;
        one.seq += r;
        a.rows = &one;
        dev->op->attention(dev, &out_one, &in_one, &a);
    }
    back(dev, y, yt, n * y_row);
    void *used[] = { (void *)(uintptr_t)rows.pos, (void *)(uintptr_t)rows.seq,
                     (void *)(uintptr_t)rows.first, a.kv.pages, (void *)(uintptr_t)a.kv.table,
                     kt.at, vt.at, qt };
    for (size_t i = 0; i < COUNT(used); i++) f32.op->free(dev, used[i], 0);
}

/* The textbook, in double, over what was cached (bf16 cuts by rounding to nearest even). */
static double cached(enum dtype dtype, float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    if (dtype == BF16) bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000;
    memcpy(&f, &bits, sizeof f);
    return (double)f;
}

static void textbook(const struct shape *s, const float *k, const float *v, const float *q,
                     const float *sinks, int first, int pos, int head, double *y) {
    const int kv = s->tiled ? head % s->kv_heads : head / (s->heads / s->kv_heads);
    const int low = s->window && pos + 1 > s->window ? pos + 1 - s->window : 0;
    const float *from = q + ((int64_t)(first + pos) * s->heads + head) * s->k_dim;
    double weight[1000], max = sinks ? (double)sinks[head] : -INFINITY;
    for (int t = low; t <= pos; t++) {
        double sum = 0;
        for (int c = 0; c < s->k_dim; c++)
            sum += (double)from[c] *
                   cached(s->dtype, k[((int64_t)(first + t) * s->kv_heads + kv) * s->k_dim + c]);
        sum *= (double)0.1f;
        if (s->softcap != 0) sum = (double)s->softcap * tanh(sum / (double)s->softcap);
        weight[t] = sum;
        max = fmax(max, sum);
    }
    double total = sinks ? exp((double)sinks[head] - max) : 0;
    for (int t = low; t <= pos; t++) total += weight[t] = exp(weight[t] - max);
    for (int c = 0; c < s->v_dim; c++) {
        y[c] = 0;
        for (int t = low; t <= pos; t++) {
            const float *row = s->v_in_k ? k + ((int64_t)(first + t) * s->kv_heads + kv) * s->k_dim
                                         : v + ((int64_t)(first + t) * s->kv_heads + kv) * s->v_dim;
            y[c] += weight[t] / total * cached(s->dtype, row[c]);
        }
    }
}

static void check_attention(const struct shape *s) {
    static const int begin[] = { 0, 3, 144 }, rows_of[] = { 3, 141, 790 };
    const int n = 934;
    float *k = numbers((int64_t)n * s->kv_heads * s->k_dim), *q = numbers((int64_t)n * s->heads *
                                                                          s->k_dim);
    float *v = numbers((int64_t)n * s->kv_heads * s->v_dim), *sinks = numbers(s->heads);
    float *got = numbers((int64_t)n * s->heads * s->v_dim);
    float *alone = numbers((int64_t)n * s->heads * s->v_dim);
    int table[PAGES];
    for (int i = 0; i < PAGES; i++) table[i] = PAGES - 1 - i;
    assert_true(f32.op->adopt(&f32, sinks, (size_t)s->heads * sizeof *sinks));
    attend_on(&f32, s, k, v, q, s->sinks ? sinks : NULL, table, false, got);
    attend_on(&f32, s, k, v, q, s->sinks ? sinks : NULL, table, true, alone);
    if (memcmp(got, alone, (size_t)(n * s->heads * s->v_dim) * sizeof *got) != 0)
        fail_msg("%d/%d heads of %d: a row alone has other bits", s->heads, s->kv_heads, s->k_dim);
    double *want = mem_array((size_t)s->v_dim, sizeof *want);
    for (int i = 0; i < 60; i++) {
        const int seq = i % 3, pos = i < 6 ? rows_of[seq] - 1 : (int)draw() % rows_of[seq];
        const int p = pos < 0 ? -pos : pos, head = i % s->heads;
        textbook(s, k, v, q, s->sinks ? sinks : NULL, begin[seq], p, head, want);
        for (int c = 0; c < s->v_dim; c++) {
            float y = got[((int64_t)(begin[seq] + p) * s->heads + head) * s->v_dim + c];
            if (!(fabs((double)y - want[c]) < 2e-5))
                fail_msg("%d/%d heads of %d, position %d: %g, expected %g", s->heads, s->kv_heads,
                         s->k_dim, p, (double)y, want[c]);
        }
    }
    free(k), free(v), free(q), free(got), free(alone), free(want);
}

static void test_attention(void **state) {
    (void)state;
    static const struct shape shapes[] = {
        { 8, 2, 64, 64, 0, false, false, false, 0, BF16 },
        { 8, 8, 128, 128, 0, false, true, false, 0, BF16 },
        { 6, 2, 10, 12, 100, false, false, true, 0, F32 },
        { 6, 2, 10, 12, 0, false, false, false, 30, BF16 },
        { 16, 2, 256, 256, 200, false, true, false, 0, F32 },
        { 10, 1, 576, 512, 0, true, false, false, 0, BF16 },
        { 4, 2, 80, 80, 0, false, false, false, 0, F32 },
    };
    for (size_t i = 0; i < COUNT(shapes); i++) check_attention(&shapes[i]);
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

static bool open_all(void) {
    const struct device_ops *gpu = device_find("cuda", NULL);
    const struct device_options plain = { .threads = 2, .isa = "generic" };
    const struct device_options rounded = { .rounded = true };
    cpu.op = &device_cpu;
    f32.op = rounding.op = gpu;
    return gpu && cpu.op->open(&cpu, &plain, NULL) && gpu->open(&f32, &plain, NULL) &&
           gpu->open(&rounding, &rounded, NULL);
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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linear), cmocka_unit_test(test_norm),
        cmocka_unit_test(test_attention), cmocka_unit_test(test_replay),
        cmocka_unit_test(test_no_q8),
    };
    if (!open_all()) {
        puts("test_cuda: no GPU here, or built without CUDA=1: nothing was tested");
        return 0;
    }
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    f32.op->close(&f32);
    rounding.op->close(&rounding);
    cpu.op->close(&cpu);
    return failed;
}
