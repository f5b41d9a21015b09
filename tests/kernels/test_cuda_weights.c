/* test_cuda_weights.c - weights on the CUDA device: small floats beside the CPU's generic kernels,
 * experts and their choice, loading, memory that runs out, and a thousand loads that leave none
 * behind. Says so and passes where there is no GPU. */
#include "../maker.h"
#include "draws.h"
#include "device/device.h"
#include "device/small_float.h"
#include "engine.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static struct device cpu, gpu, rounding, fast;  /* rounding, and --fast */

static unsigned char *bytes_of(size_t n, bool finite) {
    unsigned char *x = mem_array(n, 1);
    for (size_t i = 0; i < n; i++) {
        do x[i] = (unsigned char)draw();
        while (finite && (x[i] & 0x7f) == 0x7f);
    }
    return x;
}

/* ---- a matrix of each kind ---- */

struct format { const char *name; enum dtype dtype, scales; int bits, group, rows; };

static const struct format formats[] = {
    { "fp8, blocks", FP8, F32, 0, 128, 128 },  { "fp8, a scale", FP8, BF16, 0, 1 << 30, 1 << 30 },
    { "fp8, rows", FP8, F32, 0, 1 << 30, 1 },  { "fp8, odd blocks", FP8, F32, 0, 24, 5 },
    { "mxfp8", FP8, U8, 0, 32, 1 },            { "mxfp4", MXFP4, U8, 4, 32, 0 },
    { "nvfp4", NVFP4, FP8, 4, 16, 0 },         { "4 bits", MLX_AFFINE, BF16, 4, 64, 0 },
    { "4 bits, f16", MLX_AFFINE, F16, 4, 32, 0 }, { "8 bits", MLX_AFFINE, BF16, 8, 64, 0 },
    { "8 bits, f16", MLX_AFFINE, F16, 8, 32, 0 }, { "fp8, rows, bf16", FP8, BF16, 0, 1 << 30, 1 },
    { "3 bits", MLX_AFFINE, BF16, 3, 64, 0 },  { "bf16", BF16, F32, 0, 0, 0 },
    { "fp8, blocks, bf16", FP8, BF16, 0, 128, 128 },
};

static float scales_times = 1;       /* what scales are multiplied by */

static void *scales_of(enum dtype dtype, size_t n) {
    unsigned char *at = mem_array(n, dtype_bytes(dtype));
    for (size_t i = 0; i < n; i++) {
        float f = uniform() / 8 * scales_times;
        uint32_t bits;
        memcpy(&bits, &f, sizeof bits);
        uint16_t half = dtype == F16 ? (uint16_t)(0x2000 | (draw() & 0x83ff))
                                     : (uint16_t)(bits >> 16);
        if (dtype == F32) memcpy(at + 4 * i, &f, 4);
        else if (dtype == U8) at[i] = (unsigned char)(122 + draw() % 6);
        else if (dtype == FP8) at[i] = e4m3_of(f);
        else memcpy(at + 2 * i, &half, 2);
    }
    return at;
}

static void adopt(const void *at, size_t bytes) {
    assert_true(gpu.op->adopt(&gpu, at, bytes));
    assert_true(rounding.op->adopt(&rounding, at, bytes));
    assert_true(fast.op->adopt(&fast, at, bytes));
}

/* Adopted, so its memory is kept as long as the devices are open. */
static struct linear matrix_new(const struct format *f, int64_t outs, int64_t cols, bool bias) {
    size_t n = (size_t)(outs * cols), size = dtype_bytes(f->scales), scales;
    size_t bytes = dtype_grouped(f->dtype) ? n * (size_t)f->bits / 8 : n * dtype_bytes(f->dtype);
    struct linear l = { .w = tensor_2d(bytes_of(bytes, f->dtype == FP8), f->dtype, outs, cols) };
    if (f->dtype == BF16)
        for (size_t i = 0; i < n; i++) {
            float v = uniform();
            memcpy((char *)l.w.at + 2 * i, (char *)&v + 2, 2);
        }
    adopt(l.w.at, bytes);
    if (bias) l.bias = tensor_1d(numbers(outs), F32, outs);
    if (bias) adopt(l.bias.at, (size_t)outs * 4);
    if (f->dtype == BF16) return l;
    struct quant *q = &l.w.quant;
    if (f->dtype == FP8) {
        *q = (struct quant){ .scale_dtype = f->scales, .cols = cols, .block_rows = f->rows,
                             .block_cols = f->group };
        scales = (size_t)((cols + f->group - 1) / f->group * ((outs + f->rows - 1) / f->rows));
    } else {
        *q = (struct quant){ .scale_dtype = f->scales, .group = (uint16_t)f->group,
                             .bits = (uint8_t)f->bits };
        scales = n / (size_t)f->group;
    }
    q->scales = scales_of(f->scales, scales);
    adopt(q->scales, scales * size);
    if (f->dtype != MLX_AFFINE) return l;
    q->biases = scales_of(f->scales, scales);
    adopt(q->biases, scales * size);
    return l;
}

static void *there(struct device *dev, const void *from, size_t bytes) {
    void *p = dev->op->alloc(dev, bytes);
    assert_non_null(p);
    if (from) dev->op->copy_in(dev, p, from, bytes);
    return p;
}

static void back(struct device *dev, void *to, void *from, size_t bytes) {
    struct err err = { 0 };
    if (to) dev->op->copy_out(dev, to, from, bytes);
    if (!dev->op->sync(dev, &err)) fail_msg("%s", err.text);
    dev->op->free(dev, from, bytes);
}

/* The largest difference, as a share of the number and the root of the mean square of all. */
static double difference(const float *got, const float *want, int64_t n) {
    double most = 0, square = 1e-300;
    for (int64_t i = 0; i < n; i++) square += (double)want[i] * (double)want[i];
    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - (double)want[i]) /
                   (sqrt(square / (double)n) + fabs((double)want[i]));
        if (!(d <= most)) most = isnan(d) ? INFINITY : d;
    }
    return most;
}

/* The error as a whole: of roots of mean squares. One output of many thousands may be a difference
 * of large terms, and far off where rows were rounded; all of them together are not. */
static double difference_whole(const float *got, const float *want, int64_t n) {
    double square = 1e-300, error = 0;
    for (int64_t i = 0; i < n; i++) {
        const double d = (double)got[i] - (double)want[i];
        square += (double)want[i] * (double)want[i];
        error += d * d;
    }
    return sqrt(error / square);
}

static void product(struct device *dev, float *y, const struct linear *l, const float *x,
                    int64_t rows) {
    const int64_t outs = l->w.shape[0], cols = l->w.shape[1];
    void *dx = there(dev, x, (size_t)(rows * cols) * 4), *dy;
    dy = there(dev, NULL, (size_t)(rows * outs) * 4);
    struct tensor xs = tensor_2d(dx, F32, rows, cols), ys = tensor_2d(dy, F32, rows, outs);
    dev->op->linear(dev, &ys, l, &xs);
    back(dev, y, dy, (size_t)(rows * outs) * 4);
    back(dev, NULL, dx, (size_t)(rows * cols) * 4);
}

/* ---- tests; GPU_BRIEF is as gpu.h says ---- */

enum { BRIEF_PARTS = 6 };

static int part = -1;                /* -1: all of them */

static bool takes(size_t n) {
    return part < 0 || n % BRIEF_PARTS == (size_t)part;
}

enum { MOST = 40 };

static void check_rows(struct device *dev, const struct linear *l) {
    const int64_t cols = l->w.shape[1];
    const int ids[] = { (int)l->w.shape[0] - 1, 0, (int)l->w.shape[0] / 2 };
    const size_t bytes = 3 * (size_t)cols * 4;
    float *want = numbers(3 * cols), *got = numbers(3 * cols);
    void *dids = there(dev, ids, sizeof ids), *dy = there(dev, NULL, bytes);
    struct tensor it = tensor_1d((void *)(uintptr_t)ids, I32, 3), gt = tensor_1d(dids, I32, 3);
    struct tensor y = tensor_2d(want, F32, 3, cols), gy = tensor_2d(dy, F32, 3, cols);
    cpu.op->embed(&cpu, &y, &l->w, &it, 2);
    dev->op->embed(dev, &gy, &l->w, &gt, 2);
    back(dev, got, dy, bytes);
    back(dev, NULL, dids, sizeof ids);
    if (!(difference(got, want, 3 * cols) < 1e-6)) fail_msg("a row of a packed table");
    free(want), free(got);
}

static void check_linear(const struct format *f, int64_t outs, int64_t cols) {
    static const int64_t counts[] = { 1, 2, 3, 4, 7, 16, 17, 39 };
    struct linear l = matrix_new(f, outs, cols, outs % 2);
    float *x = numbers(MOST * cols), *want = numbers(MOST * outs), *all = numbers(MOST * outs);
    float *got = numbers(MOST * outs);
    struct tensor xs = tensor_2d(x, F32, MOST, cols), ys = tensor_2d(want, F32, MOST, outs);
    cpu.op->linear(&cpu, &ys, &l, &xs);
    for (int round = 0; round < 2; round++) {
        struct device *dev = round ? &rounding : &gpu;
        product(dev, all, &l, x, MOST);
        double far = difference(all, want, MOST * outs), bound = round ? 3e-2 : 2e-5;
        if (!(far < bound))
            fail_msg("%s [%d, %d]%s: off by %g", f->name, (int)outs, (int)cols,
                     round ? ", rounded" : "", far);
        for (size_t i = 0; i < COUNT(counts); i++) {
            product(dev, got, &l, x + cols, counts[i]);
            if (memcmp(got, all + outs, (size_t)(counts[i] * outs) * sizeof *got))
                fail_msg("%s [%d, %d]: %d rows have other bits", f->name, (int)outs, (int)cols,
                         (int)counts[i]);
        }
    }
    free(x), free(want), free(all), free(got);
    check_rows(&rounding, &l);       /* of a table that products have had rearranged */
}

static void test_formats(void **state) {
    (void)state;
    static const int64_t shapes[][2] = { { 1, 64 }, { 33, 192 }, { 300, 640 }, { 256, 2048 },
                                         { 528, 1216 }, { 4208, 256 }, { 4272, 192 },
                                         { 4208, 1024 }, { 4240, 1024 } };
    for (size_t f = 0; f < COUNT(formats); f++) {
        for (size_t i = 0; i < COUNT(shapes); i++)
            if (takes(f + i)) check_linear(&formats[f], shapes[i][0], shapes[i][1]);
        if (!dtype_grouped(formats[f].dtype) && takes(f)) check_linear(&formats[f], 19, 77);
    }
}

/* The chips of which linear_many.cu takes many rows. */
static bool is_hopper(void) {
    char name[128];
    fast.op->describe(&fast, name, sizeof name);
    return strstr(name, "NVIDIA H") || strstr(name, "GH200");
}

/* --fast: many rows beside the CPU, with other bits than without it where slices would have been
 * added up, fewer with the bits of always. */
static void check_fast(const struct format *f, int64_t outs, int64_t cols) {
    enum { MANY = 1030, FEWER = 300 };
    struct linear l = matrix_new(f, outs, cols, true);
    float *x = numbers(MANY * cols), *want = numbers(MANY * outs), *got = numbers(MANY * outs);
    struct tensor xs = tensor_2d(x, F32, MANY, cols), ys = tensor_2d(want, F32, MANY, outs);
    cpu.op->linear(&cpu, &ys, &l, &xs);
    product(&fast, got, &l, x, MANY);
    const double far = difference(got, want, MANY * outs);
    if (!(far < 3e-2)) fail_msg("%s [%d, %d], fast: off by %g", f->name, (int)outs, (int)cols, far);
    if (is_hopper() && ((f->bits == 4 && f->dtype != NVFP4) || f->dtype == BF16)) {
        product(&rounding, want, &l, x, MANY);
        assert_memory_not_equal(got, want, (size_t)(MANY * outs) * sizeof *got);
    }
    product(&fast, got, &l, x, FEWER);
    product(&rounding, want, &l, x, FEWER);
    assert_memory_equal(got, want, (size_t)(FEWER * outs) * sizeof *got);
    free(x), free(want), free(got);
}

static void test_fast(void **state) {
    (void)state;
    static const int64_t shapes[][2] = { { 256, 640 }, { 544, 256 } };
    for (size_t f = 0; f < COUNT(formats); f++)
        for (size_t i = 0; i < COUNT(shapes); i++)
            if (takes(f + i)) check_fast(&formats[f], shapes[i][0], shapes[i][1]);
}

/* Scales of FP8 that a sum of two bf16 does not reach. */
static void test_extremes(void **state) {
    (void)state;
    static const float times[] = { 0x1p12f, 0x1p-70f };
    for (size_t i = 0; i < COUNT(times); i++) {
        scales_times = times[i];
        if (takes(i)) check_linear(&formats[0], 528, 1216);
        if (takes(2 + i)) check_linear(&formats[2], 4272, 192);
    }
    scales_times = 1;
}

/* A code that is no number spoils its output, and no other. */
static void test_no_number(void **state) {
    (void)state;
    enum { OUTS = 64, COLS = 256, BAD = 21 };
    float y[OUTS];
    struct linear l = matrix_new(&formats[0], OUTS, COLS, false);
    float *x = numbers(COLS);
    ((unsigned char *)l.w.at)[BAD * COLS + 77] = 0xff;
    for (int round = 0; round < 2; round++) {
        product(round ? &rounding : &gpu, y, &l, x, 1);
        for (int i = 0; i < OUTS; i++)
            if (isnan(y[i]) != (i == BAD)) fail_msg("output %d is %g", i, (double)y[i]);
    }
    free(x);
}

/* Rows of tables, and every second row of FP8: a view that begins inside a block. */
static void test_tables(void **state) {
    (void)state;
    if (!takes(1)) return;
    enum { ROWS = 50, COLS = 256 };
    static const int ids[] = { 3, 49, 0, 17 };
    float want[4 * COLS], got[4 * COLS];
    for (size_t f = 0; f < COUNT(formats); f++) {
        struct linear l = matrix_new(&formats[f], ROWS, COLS, false);
        void *dids = there(&gpu, ids, sizeof ids), *dy = there(&gpu, NULL, sizeof got);
        struct tensor it = tensor_1d((void *)(uintptr_t)ids, I32, 4);
        struct tensor gt = tensor_1d(dids, I32, 4), y = tensor_2d(want, F32, 4, COLS);
        cpu.op->embed(&cpu, &y, &l.w, &it, 2);
        y = tensor_2d(dy, F32, 4, COLS);
        gpu.op->embed(&gpu, &y, &l.w, &gt, 2);
        back(&gpu, got, dy, sizeof got);
        back(&gpu, NULL, dids, sizeof ids);
        if (!(difference(got, want, 4 * COLS) < 1e-6)) fail_msg("%s: a row", formats[f].name);
        struct linear odd = { .w = tensor_every(&l.w, 1, 2) };
        struct tensor x = tensor_2d(numbers(COLS), F32, 1, COLS);
        y = tensor_2d(want, F32, 1, ROWS / 2);
        cpu.op->linear(&cpu, &y, &odd, &x);
        product(&gpu, got, &odd, x.at, 1);
        if (!(difference(got, want, ROWS / 2) < 2e-5)) fail_msg("%s: odd rows", formats[f].name);
        free(x.at);
    }
}

struct mixture { int rows, experts, active; int64_t dim, hidden; bool gated, bias; };

static void run_experts(struct device *dev, float *y, const float *x, const int *ids,
                        const float *share, const struct mixture *m, const struct expert_args *w) {
    const size_t pairs = (size_t)(m->rows * m->active), rows = (size_t)m->rows;
    const size_t width = (size_t)(2 * m->hidden + m->dim), dim = (size_t)m->dim;
    const size_t order = 2 * pairs + (size_t)m->experts + 1;
    const size_t sizes[] = { rows * dim * 4, pairs * 4, pairs * 4, pairs * width * 4, order * 4,
                             rows * dim * 4 };
    const void *from[] = { x, ids, share, NULL, NULL, NULL };
    void *at[6];
    for (int i = 0; i < 6; i++) at[i] = there(dev, from[i], sizes[i]);
    struct tensor xt = tensor_2d(at[0], F32, m->rows, m->dim), yt = xt;
    struct tensor it = tensor_2d(at[1], I32, m->rows, m->active);
    struct tensor st = tensor_2d(at[2], F32, m->rows, m->active);
    yt.at = at[5];
    struct expert_args a = *w;
    a.ids = &it, a.share = &st, a.hidden = at[3], a.order = at[4];
    dev->op->experts(dev, &yt, &xt, &a);
    for (int i = 5; i >= 0; i--) back(dev, i == 5 ? y : NULL, at[i], sizes[i]);
}

static struct linear *stack(const struct format *f, const struct mixture *m, int64_t outs,
                            int64_t cols) {
    struct linear *l = mem_array((size_t)m->experts, sizeof *l);
    for (int e = 0; e < m->experts; e++) l[e] = matrix_new(f, outs, cols, m->bias);
    return l;
}

static void check_experts(const struct format *f, const struct mixture *m) {
    struct expert_args w = { .experts = m->experts, .act = { .act = ACT_SILU } };
    if (m->gated) w.gate = stack(f, m, m->hidden, m->dim);
    w.up = stack(f, m, m->hidden, m->dim);
    w.down = stack(f, m, m->dim, m->hidden);
    if (m->bias) w.act = (struct gate_args){ ACT_SWIGLU_CLAMP, 1.702f, 7 };
    int n = m->rows * m->active, *ids = mem_array((size_t)n, sizeof *ids);
    float *x = numbers(m->rows * m->dim), *share = numbers(n), *want = numbers(m->rows * m->dim);
    float *got = numbers(m->rows * m->dim), *one = numbers(m->dim);
    for (int r = 0; r < m->rows; r++)        /* different experts; one of them is everybody's */
        for (int k = 0; k < m->active; k++)
            ids[r * m->active + k] = k ? (r * 5 + k * 7) % (m->experts - 1) + 1 : 0;
    run_experts(&cpu, want, x, ids, share, m, &w);
    struct mixture alone = *m;
    alone.rows = 1;
    for (int round = 0; round < 2; round++) {
        struct device *dev = round ? &rounding : &gpu;
        const char *how = round ? "rounded" : "f32";
        run_experts(dev, got, x, ids, share, m, &w);
        const double far = difference(got, want, m->rows * m->dim);
        const double whole = difference_whole(got, want, m->rows * m->dim);
        if (!(far < (round ? 0.3 : 5e-5)) || !(whole < (round ? 0.02 : 5e-5)))
            fail_msg("%s, %s, %d rows: off by %g, as a whole by %g", f->name, how, m->rows, far,
                     whole);
        for (int r = 0; r < m->rows; r += 1 + m->rows / 7) {
            run_experts(dev, one, x + r * m->dim, ids + r * m->active, share + r * m->active,
                        &alone, &w);
            if (memcmp(one, got + r * m->dim, (size_t)m->dim * sizeof *one))
                fail_msg("%s, %s: row %d of %d has other bits alone", f->name, how, r, m->rows);
        }
    }
    free(x), free(share), free(want), free(got), free(one), free(ids);
}

static void test_experts(void **state) {
    (void)state;
    static const struct mixture mixtures[] = {
        { 1, 8, 2, 128, 64, true, false },   { 5, 8, 8, 64, 128, true, true },
        { 9, 40, 3, 192, 64, false, false }, { 70, 16, 4, 128, 192, true, true },
        /* Many rows an expert: tiles that are full and not, and experts that nobody chose. */
        { 150, 11, 2, 192, 320, true, false }, { 260, 5, 2, 576, 192, false, false },
        { 700, 6, 2, 128, 256, true, true },
    };
    for (size_t f = 0; f < COUNT(formats); f++)
        for (size_t i = 0; i < COUNT(mixtures); i++)
            if (takes(f + i)) check_experts(&formats[f], &mixtures[i]);
    /* Columns that fill no vector, and more experts a row than a block of warps takes. */
    check_experts(&formats[COUNT(formats) - 1], &(struct mixture){ 20, 7, 2, 30, 50, true, true });
    check_experts(&formats[COUNT(formats) - 1],
                  &(struct mixture){ 3, 60, 24, 64, 64, true, false });
}

static void check_route(int experts, const struct route_args *args) {
    enum { ROWS = 33 };
    const int active = args->active;
    float *logits = numbers(ROWS * experts), *bias = numbers(experts), share[2][ROWS * 32];
    int ids[2][ROWS * 32];
    for (int i = 0; i < experts; i += 3) logits[i] = logits[0];          /* ties */
    struct route_args a = *args;
    adopt(bias, (size_t)experts * 4);
    if (args->bias) a.bias = bias;
    const size_t n = (size_t)(ROWS * active) * 4;
    struct tensor lt = tensor_2d(logits, F32, ROWS, experts);
    struct tensor it = tensor_2d(ids[0], I32, ROWS, active), st = it;
    st = tensor_2d(share[0], F32, ROWS, active);
    cpu.op->route(&cpu, &it, &st, &lt, &a);
    lt.at = there(&gpu, logits, (size_t)(ROWS * experts) * 4);
    it.at = there(&gpu, NULL, n), st.at = there(&gpu, NULL, n);
    gpu.op->route(&gpu, &it, &st, &lt, &a);
    back(&gpu, ids[1], it.at, n);
    back(&gpu, share[1], st.at, n);
    back(&gpu, NULL, lt.at, (size_t)(ROWS * experts) * 4);
    for (int i = 0; i < ROWS * active; i++)
        if (ids[0][i] != ids[1][i] || !(fabsf(share[0][i] - share[1][i]) < 1e-6f))
            fail_msg("%d experts: choice %d is %d (%g), not %d (%g)", experts, i, ids[1][i],
                     (double)share[1][i], ids[0][i], (double)share[0][i]);
    free(logits);
}

static void test_route(void **state) {
    (void)state;
    static const float some[1] = { 0 };
    const struct route_args kinds[] = {
        { .active = 8, .score = SCORE_SOFTMAX, .renormalize = true, .scale = 1 },
        { .active = 4, .score = SCORE_SOFTMAX_OF_TOP, .scale = 1 },
        { .active = 6, .score = SCORE_SIGMOID, .scale = 2.5f, .bias = some, .groups = 4,
          .groups_active = 2, .group_top = 2, .renormalize = true },
    };
    static const int experts[] = { 8, 32, 60, 128, 256 };
    for (size_t k = 0; k < COUNT(kinds); k++)
        for (size_t i = 0; i < COUNT(experts); i++) {
            struct route_args a = kinds[k];
            a.experts = experts[i];
            if (takes(k + i)) check_route(experts[i], &a);
        }
}

/* Large and small pieces together: every byte arrives, whichever thread carries it. */
static void test_loading(void **state) {
    (void)state;
    if (!takes(0)) return;
    static const size_t sizes[] = { 100 << 20, 3, 1, 20 << 20, 257, (8 << 20) - 256, 8 << 20, 5 };
    struct device dev = { .op = gpu.op };
    struct err err = { 0 };
    unsigned char *at[COUNT(sizes)];
    assert_true(dev.op->open(&dev, &(struct device_options){ 0 }, &err));
    for (size_t i = 0; i < COUNT(sizes); i++) {
        at[i] = mem_array(sizes[i], 1);
        for (size_t k = 0; k < sizes[i]; k++) at[i][k] = (unsigned char)(k * 31 + (k >> 13) + i);
        assert_true(dev.op->adopt(&dev, at[i], sizes[i]));
    }
    if (!dev.op->adopted(&dev, &err)) fail_msg("%s", err.text);
    unsigned char *copy = mem_array(sizes[0], 1);
    for (size_t i = 0; i < COUNT(sizes); i++) {
        /* Read by an op, for an address of the host stands for the device's only there. */
        const int64_t n = (int64_t)sizes[i] / 4;
        if (!n) continue;
        void *y = there(&dev, NULL, (size_t)n * 4);
        struct tensor yt = tensor_2d(y, F32, 1, n), xt = tensor_2d(at[i], F32, 1, n);
        dev.op->copy(&dev, &yt, &xt);
        back(&dev, copy, y, (size_t)n * 4);
        if (memcmp(copy, at[i], (size_t)n * 4)) fail_msg("piece %d is other bytes", (int)i);
    }
    dev.op->close(&dev);
    for (size_t i = 0; i < COUNT(sizes); i++) free(at[i]);
    free(copy);
}

/* More than there is: a sentence with both numbers, and the device goes on. */
static void test_no_room(void **state) {
    (void)state;
    struct device dev = { .op = gpu.op };
    struct err err = { 0 };
    static char nothing[16];
    assert_true(dev.op->open(&dev, &(struct device_options){ 0 }, &err));
    /* Never read, for the room is asked for first. */
    assert_true(dev.op->adopt(&dev, nothing, (size_t)1 << 40));
    assert_false(dev.op->adopted(&dev, &err));
    assert_int_equal(err.code, ERR_MEMORY);
    assert_non_null(strstr(err.text, "the weights need 1024.00 GiB, but "));
    assert_non_null(strstr(err.text, " GiB are free"));
    assert_null(dev.op->alloc(&dev, (size_t)1 << 40));
    assert_true(dev.op->sync(&dev, NULL));
    dev.op->close(&dev);
}

/* A thousand models come and go. What the driver keeps for itself is there after the first. */
static void test_cycles(void **state) {
    (void)state;
    size_t before = 0, after = 0, all;
    const char *times = getenv("CUDA_CYCLES");
    const int n = times ? (int)strlen(times) * 100 : 20;         /* a letter is a hundred */
    for (int i = 0; i <= n; i++) {
        struct err err = { 0 };
        struct engine_options o = { .dir = "models/demo", .device = "cuda", .context = 64 };
        struct generate_options g = { .sample = sample_defaults(), .n_max = 3 };
        int ids[] = { 5, 6, 7 };
        struct engine *e = engine_open(&o, &err);
        uint64_t id = e ? engine_submit(e, ids, 3, &g, NULL, NULL, &err) : 0;
        if (!id || !engine_finish(e, id, &err)) fail_msg("cycle %d: %s", i, err.text);
        engine_close(e);
        gpu.op->memory(&gpu, i ? &after : &before, &all);
    }
    printf("test_cuda_weights: %d cycles, %zu bytes free before, %zu after\n", n, before, after);
    if (after + (4 << 20) < before)
        fail_msg("%d cycles took %zu bytes of the device", n, before - after);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_formats), cmocka_unit_test(test_fast),
        cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_no_number), cmocka_unit_test(test_tables),
        cmocka_unit_test(test_experts), cmocka_unit_test(test_route),
        cmocka_unit_test(test_loading), cmocka_unit_test(test_no_room),
        cmocka_unit_test(test_cycles),
    };
    struct device_options plain = { .threads = 1, .isa = "generic" }, rounded = { .rounded = true };
    struct device_options faster = { .rounded = true, .fast = true };
    struct err err = { 0 };
    const struct device_ops *op = device_find("cuda", &err);
    cpu.op = &device_cpu;
    gpu.op = rounding.op = fast.op = op;
    if (!op) {
        printf("test_cuda_weights: %s: nothing was tested\n", err.text);
        return 0;
    }
    if (!cpu.op->open(&cpu, &plain, &err) || !op->open(&gpu, &plain, &err) ||
        !op->open(&rounding, &rounded, &err) || !op->open(&fast, &faster, &err)) {
        puts(err.text);
        return 1;
    }
    if (getenv("GPU_ONLY")) cmocka_set_test_filter(getenv("GPU_ONLY"));
    if (getenv("GPU_BRIEF")) {
        part = (getenv("GPU_BRIEF")[0] - '0') % BRIEF_PARTS;
        cmocka_set_skip_filter("test_cycles");   /* others that run beside take memory as well */
    }
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    op->close(&gpu);
    op->close(&rounding);
    op->close(&fast);
    cpu.op->close(&cpu);
    return failed;
}
