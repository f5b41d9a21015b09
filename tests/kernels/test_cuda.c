/* test_cuda.c - ops of the CUDA device beside the CPU's generic ones on drawn numbers, and the same
 * bits for a row alone and among others. Says so and passes where there is no GPU. */
#include "gpu.h"
#include "sample/sample.h"

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

/* Blocks of group by group. */
static void make_fp8(struct matrix *m, const struct format *f, int64_t outs, int64_t cols) {
    const int64_t group = f->group, across = (cols + group - 1) / group;
    const size_t n = (size_t)((outs + group - 1) / group * across), size = dtype_bytes(f->scales);
    for (int64_t i = 0; i < outs * cols; i++) {
        unsigned char *at = (unsigned char *)m->at + i;
        do *at = (unsigned char)draw();
        while ((*at & 0x7f) == 0x7f);
    }
    m->scales = mem_array(n, size);
    for (size_t i = 0; i < n; i++) {
        const float v = uniform() / 256;
        const uint16_t h = bf16_of(v);
        if (f->scales == BF16) ((uint16_t *)m->scales)[i] = h;
        else ((float *)m->scales)[i] = v;
    }
    m->l.w.quant = (struct quant){ .scales = m->scales, .scale_dtype = f->scales, .cols = cols,
                                   .block_rows = group, .block_cols = group };
}

static struct matrix matrix_new(const struct format *f, int64_t outs, int64_t cols) {
    struct matrix m = { .bias = numbers(outs) };
    size_t n = (size_t)(outs * cols);
    m.l.w = tensor_2d(NULL, f->dtype, outs, cols);
    m.l.bias = tensor_1d(m.bias, F32, outs);
    size_t bytes = f->dtype == MLX_AFFINE ? n / 8 * (size_t)f->bits : n * dtype_bytes(f->dtype);
    m.l.w.at = m.at = mem_new(bytes);
    if (f->dtype == FP8) {
        make_fp8(&m, f, outs, cols);
        return m;
    }
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
    if (f->dtype == FP8) {
        const int64_t rows = m->l.w.shape[0], cols = m->l.w.shape[1], group = f->group;
        const int64_t blocks = (rows + group - 1) / group * ((cols + group - 1) / group);
        assert_true(dev->op->adopt(dev, m->scales, (size_t)blocks * dtype_bytes(f->scales)));
        return;
    }
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
    static const int64_t counts[] = { 1, 2, 8, 9, 16, 17, 32, 33, 64, 65, 130, 256 };
    enum { MOST = 260 };
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
    for (size_t i = brief() ? (size_t)outs % 4 : 0; i < COUNT(counts); i += brief() ? 4 : 1) {
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
            if (!takes(i * COUNT(shapes) + k)) continue;
            linear_of(&f32, &formats[i], shapes[k][0], shapes[k][1], 2e-4);
            linear_of(&rounding, &formats[i], shapes[k][0], shapes[k][1], 2e-2);
        }
    const struct format plain = { "bf16", BF16, F32, 0, 0 };
    if (takes(0)) linear_of(&rounding, &plain, 40, 64, 2e-2);
    if (takes(1)) linear_of(&rounding, &plain, 40, 576, 2e-2);
    if (takes(2)) linear_of(&rounding, &plain, 40, 72, 2e-2);
    if (takes(3)) linear_of(&rounding, &plain, 2063, 448, 2e-2);
    /* One slice, two, four in one warp; a tile that is cut off; columns that fill no stage. */
    static const int64_t large[][2] = { { 4096, 512 }, { 2064, 2176 }, { 10880, 256 } };
    for (size_t i = 0; i < 6; i++)
        for (size_t k = 0; k < COUNT(large) && formats[i].dtype != F16; k++)
            if (takes(i + 2 * k)) linear_of(&rounding, &formats[i], large[k][0], large[k][1], 4e-2);
}

/* ---- several products at once: the bits of the ops one by one ---- */

static void by_ops(struct device *dev, const struct products *p) {
    const int64_t rows = p->x->shape[0];
    struct tensor v[PRODUCTS_MAX];
    for (int i = 0; i < p->n; i++) {
        const int64_t outs = p->w[i]->w.shape[0];
        v[i] = tensor_2d(there(dev, NULL, (size_t)(rows * outs) * 4), F32, rows, outs);
        dev->op->linear(dev, &v[i], p->w[i], p->x);
    }
    if (p->end == PRODUCTS_GATE) dev->op->gate(dev, p->y[0], &v[0], &v[1], &p->act);
    else if (p->end == PRODUCTS_ADD) dev->op->add(dev, p->y[0], &v[0], p->scale);
    else for (int i = 0; i < p->n; i++) dev->op->copy(dev, p->y[i], &v[i]);
    for (int i = 0; i < p->n; i++) dev->op->free(dev, v[i].at, 0);
}

struct products_case { enum products_end end; int n; int64_t outs[PRODUCTS_MAX], cols; };

static void products_of(const struct format *f, const struct products_case *k, int64_t rows,
                        enum act act) {
    struct device *dev = &rounding;
    struct matrix m[PRODUCTS_MAX];
    struct tensor y[PRODUCTS_MAX], x;
    float *in = numbers(rows * k->cols), *old = numbers(rows * k->outs[0]);
    const int n_y = k->end == PRODUCTS_STORE ? k->n : 1;
    struct products p = { .x = &x, .n = k->n, .end = k->end, .scale = 0.7f,
                          .act = { .act = act, .alpha = 1.702f, .limit = 1 } };
    x = tensor_2d(there(dev, in, (size_t)(rows * k->cols) * 4), F32, rows, k->cols);
    for (int i = 0; i < k->n; i++) {
        m[i] = matrix_new(f, k->outs[i], k->cols);
        adopt(dev, &m[i], f);
        p.w[i] = &m[i].l;
    }
    float *got[2][PRODUCTS_MAX];
    for (int fused = 0; fused < 2; fused++) {
        for (int i = 0; i < n_y; i++) {
            const float *from = k->end == PRODUCTS_ADD ? old : NULL;
            void *at = there(dev, from, (size_t)(rows * k->outs[i]) * 4);
            y[i] = tensor_2d(at, F32, rows, k->outs[i]);
            p.y[i] = &y[i];
        }
        if (!fused) by_ops(dev, &p);
        else if (!dev->op->products(dev, &p)) {          /* a chip before Hopper */
            for (int i = 0; i < n_y; i++) dev->op->free(dev, y[i].at, 0);
            return;
        }
        for (int i = 0; i < n_y; i++) {
            got[fused][i] = mem_array((size_t)(rows * k->outs[i]), sizeof(float));
            back(dev, got[fused][i], y[i].at, rows * k->outs[i]);
        }
    }
    for (int i = 0; i < n_y; i++) {
        if (memcmp(got[0][i], got[1][i], (size_t)(rows * k->outs[i]) * 4) != 0)
            fail_msg("%s: end %d, %d rows, matrix %d: other bits than the ops", f->name, k->end,
                     (int)rows, i);
        free(got[0][i]), free(got[1][i]);
    }
    free(in), free(old);
}

static void test_products(void **state) {
    (void)state;
    static const struct format formats[] = {
        { "bf16", BF16, F32, 0, 0 },               { "4 bits g64", MLX_AFFINE, BF16, 4, 64 },
        { "4 bits g32", MLX_AFFINE, F16, 4, 32 },  { "4 bits g128", MLX_AFFINE, BF16, 4, 128 },
        { "fp8, blocks", FP8, F32, 0, 128 },       { "fp8, bf16 scales", FP8, BF16, 0, 128 },
    };
    static const struct products_case cases[] = {
        { PRODUCTS_STORE, 3, { 4096, 1024, 1024 }, 512 },
        { PRODUCTS_STORE, 3, { 512, 64, 64 }, 384 },
        { PRODUCTS_STORE, 2, { 2048, 32 }, 1024 },
        { PRODUCTS_ADD, 1, { 1024 }, 3072 },
        { PRODUCTS_ADD, 1, { 4096 }, 256 },
        { PRODUCTS_GATE, 2, { 768, 768 }, 640 },
        { PRODUCTS_GATE, 2, { 11008, 11008 }, 256 },
        { PRODUCTS_GATE, 2, { 14336, 14336 }, 128 },
    };
    static const enum act acts[] = { ACT_SILU, ACT_GELU_TANH, ACT_SWIGLU_CLAMP };
    static const int rows[] = { 1, 2, 8, 9, 16, 17, 32, 60, 100, 200, 300 };
    for (size_t i = 0; i < COUNT(formats); i++)
        for (size_t k = 0; k < COUNT(cases); k++)
            for (size_t r = 0; r < COUNT(rows); r++)
                if (takes(i * COUNT(cases) + k) && (!brief() || r % 6 == (i + k) % 6))
                    products_of(&formats[i], &cases[k], rows[r], acts[(k + r) % COUNT(acts)]);
    /* More outputs than are unpacked at a time. */
    static const struct products_case large[] = {
        { PRODUCTS_GATE, 2, { 11008, 11008 }, 3072 },
        { PRODUCTS_STORE, 2, { 21984, 64 }, 3072 },
    };
    for (size_t k = 0; k < COUNT(large) && !brief(); k++)
        products_of(&formats[1], &large[k], 100, ACT_SILU);
    /* Rows that leave little shared memory, or too little, beside them. */
    static const struct format wide[] = {
        { "bf16", BF16, F32, 0, 0 },               { "4 bits g64", MLX_AFFINE, BF16, 4, 64 },
        { "8 bits g32", MLX_AFFINE, BF16, 8, 32 },
    };
    static const struct products_case tight[] = {
        { PRODUCTS_GATE, 2, { 8448, 8448 }, 2304 },
        { PRODUCTS_STORE, 1, { 17408 }, 2560 },
        { PRODUCTS_GATE, 2, { 8448, 8448 }, 3072 },
        { PRODUCTS_ADD, 1, { 17408 }, 3520 },
    };
    for (size_t i = 0; i < COUNT(wide); i++)
        for (size_t k = 0; k < COUNT(tight); k++)
            for (int n = 8; n <= 16 && takes(i + 2 * k); n += brief() ? 8 : 4)
                products_of(&wide[i], &tight[k], n, ACT_SILU);
}

/* A product of rows that the op before left, which are not rounded twice: norm, then gate, then a
 * product, are what each is by itself. Two of the same place with other numbers in between. */
static void test_rows_known(void **state) {
    (void)state;
    enum { COLS = 512, OUTS = 256 };
    const struct format f = { "bf16", BF16, F32, 0, 0 };
    struct device *dev = &rounding;
    struct matrix m = matrix_new(&f, OUTS, COLS);
    float *in = numbers(COLS), *gain = numbers(COLS), got[2][OUTS], *normed = numbers(COLS);
    adopt(dev, &m, &f);
    assert_true(dev->op->adopt(dev, gain, COLS * 4));
    struct tensor w = tensor_1d(gain, F32, COLS);
    struct tensor x = tensor_2d(there(dev, in, COLS * 4), F32, 1, COLS);
    struct tensor y = tensor_2d(there(dev, NULL, OUTS * 4), F32, 1, OUTS);
    dev->op->linear(dev, &y, &m.l, &x);              /* rows of this place are known now */
    dev->op->norm(dev, &x, &w, NULL, &x, NORM_RMS, 1e-5f);
    dev->op->linear(dev, &y, &m.l, &x);
    dev->op->copy_out(dev, got[0], y.at, sizeof got[0]);
    dev->op->copy_out(dev, normed, x.at, COLS * 4);
    assert_true(dev->op->sync(dev, NULL));
    product(dev, got[1], &m, normed, 1);
    assert_memory_equal(got[0], got[1], sizeof got[0]);
    dev->op->scale(dev, &x, 2, 0, 0);
    dev->op->linear(dev, &y, &m.l, &x);
    dev->op->copy_out(dev, got[0], y.at, sizeof got[0]);
    for (int i = 0; i < COLS; i++) normed[i] *= 2;
    assert_true(dev->op->sync(dev, NULL));
    product(dev, got[1], &m, normed, 1);
    assert_memory_equal(got[0], got[1], sizeof got[0]);
    dev->op->free(dev, x.at, 0), dev->op->free(dev, y.at, 0);
    free(in), free(normed);
}

/* A norm of few rows may wait for the product that reads it: the bits of both are those of a norm
 * that was waited for, in place or not, and other products of the same rows find it. */
static void norm_before(const struct format *f, int64_t outs, int64_t cols, int rows, bool plus1,
                        bool in_place) {
    struct device *dev = &rounding;
    struct matrix m = matrix_new(f, outs, cols);
    const size_t in_bytes = (size_t)(rows * cols) * 4, out_bytes = (size_t)(rows * outs) * 4;
    float *in = numbers(rows * cols), *gain = numbers(cols), *normed[2];
    float *got = numbers(rows * outs), *want = numbers(rows * outs);
    adopt(dev, &m, f);
    assert_true(dev->op->adopt(dev, gain, (size_t)cols * 4));
    struct tensor w = tensor_1d(gain, F32, cols);
    struct tensor x = tensor_2d(there(dev, NULL, in_bytes), F32, rows, cols), n = x;
    struct tensor y = tensor_2d(there(dev, NULL, out_bytes), F32, rows, outs);
    if (!in_place) n.at = there(dev, NULL, in_bytes);
    const enum norm kind = plus1 ? NORM_RMS_PLUS1 : NORM_RMS;
    for (int i = 0; i < 2; i++) {
        normed[i] = numbers(rows * cols);
        dev->op->copy_in(dev, x.at, in, in_bytes);
        dev->op->norm(dev, &n, &w, NULL, &x, kind, 1e-5f);
        if (i) dev->op->linear(dev, &y, &m.l, &n);
        dev->op->copy_out(dev, normed[i], n.at, in_bytes);
    }
    dev->op->copy_out(dev, got, y.at, out_bytes);
    assert_true(dev->op->sync(dev, NULL));
    assert_memory_equal(normed[0], normed[1], in_bytes);
    product(dev, want, &m, normed[0], rows);
    assert_memory_equal(want, got, out_bytes);
    dev->op->linear(dev, &y, &m.l, &n);
    dev->op->copy_out(dev, got, y.at, out_bytes);
    assert_true(dev->op->sync(dev, NULL));
    assert_memory_equal(want, got, out_bytes);
    if (!in_place) dev->op->free(dev, n.at, 0);
    dev->op->free(dev, x.at, 0), dev->op->free(dev, y.at, 0);
    free(in), free(normed[0]), free(normed[1]), free(got), free(want);
}

static void test_norm_before(void **state) {
    (void)state;
    static const struct format formats[] = { { "bf16", BF16, F32, 0, 0 },
                                             { "4 bits g64", MLX_AFFINE, BF16, 4, 64 } };
    static const int64_t shapes[][2] = { { 16, 64 }, { 4112, 2048 }, { 528, 4096 }, { 80, 192 } };
    for (size_t f = 0; f < COUNT(formats); f++)
        for (size_t i = 0; i < COUNT(shapes); i++)
            for (int rows = 1; rows <= 3; rows++)
                for (size_t how = 0; how < 4 && takes(4 * f + i); how += brief() ? 3 : 1)
                    norm_before(&formats[f], shapes[i][0], shapes[i][1], rows, how & 1, how & 2);
}

/* The same of many rows, where only the rounded rows of gate and up reach the last product. */
static void rows_passed(const struct format *f, int64_t rows) {
    enum { COLS = 512, HIDDEN = 1024 };
    struct device *dev = &rounding;
    const size_t n = (size_t)rows;
    struct matrix m[3] = { matrix_new(f, HIDDEN, COLS), matrix_new(f, HIDDEN, COLS),
                           matrix_new(f, COLS, HIDDEN) };
    float *in = numbers(rows * COLS), *gain = numbers(COLS), *got = numbers(rows * COLS);
    float *want = numbers(rows * COLS), *hidden = numbers(rows * HIDDEN);
    for (int i = 0; i < 3; i++) adopt(dev, &m[i], f);
    assert_true(dev->op->adopt(dev, gain, COLS * 4));
    struct tensor w = tensor_1d(gain, F32, COLS);
    struct tensor x = tensor_2d(there(dev, in, n * COLS * 4), F32, rows, COLS);
    struct tensor h = tensor_2d(there(dev, NULL, n * HIDDEN * 4), F32, rows, HIDDEN);
    struct tensor y = tensor_2d(there(dev, NULL, n * COLS * 4), F32, rows, COLS);
    struct products p = { .x = &x, .w = { &m[0].l, &m[1].l }, .y = { &h }, .n = 2,
                          .then = &m[2].l, .end = PRODUCTS_GATE, .act = { .act = ACT_SILU } };
    dev->op->norm(dev, &x, &w, NULL, &x, NORM_RMS, 1e-5f);
    if (!dev->op->products(dev, &p)) by_ops(dev, &p);
    dev->op->linear(dev, &y, &m[2].l, &h);
    back(dev, got, y.at, rows * COLS);
    p.then = NULL;
    by_ops(dev, &p);
    back(dev, hidden, h.at, rows * HIDDEN);
    product(dev, want, &m[2], hidden, rows);
    assert_memory_equal(got, want, n * COLS * 4);
    dev->op->free(dev, x.at, 0);
    free(in), free(got), free(want), free(hidden);
}

static void test_rows_passed(void **state) {
    (void)state;
    static const struct format formats[] = { { "bf16", BF16, F32, 0, 0 },
                                             { "4 bits g64", MLX_AFFINE, BF16, 4, 64 } };
    static const int64_t rows[] = { 1, 17, 40, 200 };
    for (size_t i = 0; i < COUNT(formats); i++)
        for (size_t r = 0; r < COUNT(rows); r++)
            if (takes(4 * i + r)) rows_passed(&formats[i], rows[r]);
}

/* A table that is also a matrix: rows read before it was packed and after. */
static void test_packed_table(void **state) {
    (void)state;
    enum { OUTS = 64, COLS = 256 };
    const struct format f = { "4 bits g64", MLX_AFFINE, BF16, 4, 64 };
    struct device *dev = &rounding;
    struct matrix m = matrix_new(&f, OUTS, COLS);
    int ids[OUTS];
    float *got[2], *in = numbers(COLS), y[OUTS];
    for (int i = 0; i < OUTS; i++) ids[i] = (i * 37 + 5) % OUTS;
    adopt(dev, &m, &f);
    struct tensor id = tensor_1d(there(dev, ids, sizeof ids), I32, OUTS);
    for (int k = 0; k < 2; k++) {
        got[k] = numbers(OUTS * COLS);
        struct tensor t = tensor_2d(there(dev, NULL, OUTS * COLS * 4), F32, OUTS, COLS);
        dev->op->embed(dev, &t, &m.l.w, &id, 1);
        back(dev, got[k], t.at, OUTS * COLS);
        product(dev, y, &m, in, 1);
    }
    assert_memory_equal(got[0], got[1], OUTS * COLS * 4);
    free(got[0]), free(got[1]), free(in);
    dev->op->free(dev, id.at, 0);
}

/* ---- norm ---- */

static void test_norm(void **state) {
    (void)state;
    static const int64_t sizes[] = { 10, 128, 512, 600, 4096, 5120, 9000 };
    for (size_t i = 0; i < COUNT(sizes); i++)
        for (int kind = NORM_RMS; kind <= NORM_LAYER && takes(i); kind++) {
            const int64_t n = sizes[i], rows = 70;
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
            assert_true(difference(got, want, rows * n) < 1e-5);
            in.shape[0] = out.shape[0] = 1;
            out.at = there(&f32, NULL, (size_t)n * sizeof *x);
            f32.op->norm(&f32, &out, &wt, &bt, &in, (enum norm)kind, 1e-5f);
            back(&f32, want, out.at, n);
            assert_memory_equal(got, want, (size_t)n * sizeof *x);
            f32.op->free(&f32, in.at, 0);
            free(x), free(want), free(got);
        }
}

/* A sum may wait for the norm of its rows: the bits of both are those of a sum and a norm of their
 * own. Of a product it is that of slices, too; of others what was added is there afterwards, also
 * if the device has just written it. */
static void sum_before(int64_t cols, int64_t rows, enum norm kind, bool of_product) {
    enum { OUTS_COLS = 512 };
    const struct format f = { "bf16", BF16, F32, 0, 0 };
    struct device *dev = &rounding;
    const size_t bytes = (size_t)(rows * cols) * 4;
    float *old = numbers(rows * cols), *more = numbers(rows * cols), *gain = numbers(cols);
    float *in = numbers(rows * OUTS_COLS), *got[2][2], *after = mem_array((size_t)(rows * cols), 4);
    struct matrix m = matrix_new(&f, cols, OUTS_COLS);
    adopt(dev, &m, &f);
    assert_true(dev->op->adopt(dev, gain, (size_t)cols * 4));
    struct tensor w = tensor_1d(gain, F32, cols);
    for (int apart = 0; apart < 2; apart++) {
        struct tensor x = tensor_2d(there(dev, old, bytes), F32, rows, cols);
        struct tensor v = tensor_2d(there(dev, more, bytes), F32, rows, cols);
        struct tensor y = tensor_2d(there(dev, NULL, bytes), F32, rows, cols);
        struct tensor from = tensor_2d(there(dev, in, (size_t)(rows * OUTS_COLS) * 4), F32, rows,
                                       OUTS_COLS);
        const struct products p = { .x = &from, .w = { &m.l }, .y = { &x }, .n = 1,
                                    .end = PRODUCTS_ADD, .scale = 0.7f };
        dev->op->scale(dev, &v, 1, 0, 0);
        if (!of_product || !dev->op->products(dev, &p)) dev->op->add(dev, &x, &v, 0.7f);
        if (apart) assert_true(dev->op->sync(dev, NULL));
        dev->op->norm(dev, &y, &w, NULL, &x, kind, 1e-5f);
        for (int i = 0; i < 2; i++) got[apart][i] = mem_array((size_t)(rows * cols), 4);
        back(dev, got[apart][0], x.at, rows * cols);
        back(dev, got[apart][1], y.at, rows * cols);
        back(dev, after, v.at, rows * cols);
        assert_memory_equal(after, more, bytes);
        dev->op->free(dev, from.at, 0);
    }
    for (int i = 0; i < 2; i++) {
        assert_memory_equal(got[0][i], got[1][i], bytes);
        free(got[0][i]), free(got[1][i]);
    }
    free(old), free(more), free(in), free(after);
}

static void test_sum_before(void **state) {
    (void)state;
    static const int64_t cols[] = { 512, 600, 1024, 4096, 5120 };
    static const int64_t rows[] = { 30, 70, 200, 256, 300 };
    for (size_t c = 0; c < COUNT(cols); c++)
        for (size_t r = 0; r < COUNT(rows); r++)
            for (int how = 0; how < 2 && takes(c + r); how++)
                sum_before(cols[c], rows[r], (enum norm)((c + r) % 3), how);
}

/* ---- norm, rope and store of heads at once ---- */

enum { PAGE = 16, SEQS = 3, PAGES_MAX = 50, PAGES = SEQS * PAGES_MAX };

struct heads_case { int heads, kv_heads, dim, dims; bool normed, bare; enum rope pairing;
                    enum dtype dtype; };

/* N rows: of three sequences, where they begin. */
static void heads_of(const struct heads_case *k, int N) {
    const int begin[SEQS] = { 0, 17, 40 }, first[] = { 0, N / 3, 2 * (N / 3), N };
    int *pos = mem_array((size_t)N, sizeof *pos), *seq = mem_array((size_t)N, sizeof *seq);
    for (int i = 0; i < N; i++) {
        seq[i] = MIN(i / (N / 3), SEQS - 1);
        pos[i] = begin[seq[i]] + i - first[seq[i]];
    }
    const size_t ints = (size_t)N * sizeof *pos;
    const size_t head = (size_t)k->dim * dtype_bytes(k->dtype) +
                        (dtype_scaled(k->dtype) ? sizeof(float) : 0);
    const size_t page_bytes = (size_t)PAGE * (size_t)k->kv_heads * 2 * head;
    int table[PAGES];
    for (int i = 0; i < PAGES; i++) table[i] = PAGES - 1 - i;
    struct device *dev = &f32;
    struct rows rows = { N, SEQS, there(dev, pos, ints), there(dev, seq, ints),
                         there(dev, first, sizeof first) };
    float *freq = numbers(k->dims), *gain = numbers(k->dim);
    assert_true(dev->op->adopt(dev, freq, (size_t)k->dims * 4));
    assert_true(dev->op->adopt(dev, gain, (size_t)k->dim * 4));
    const int width[] = { k->heads * k->dim, k->kv_heads * k->dim, k->kv_heads * k->dim };
    float *in[3], *q[2];
    char *pages[2];
    struct tensor w = tensor_1d(gain, F32, k->dim);
    for (int i = 0; i < 3; i++) in[i] = numbers((int64_t)N * width[i]);
    for (int fused = 0; fused < 2; fused++) {
        struct tensor t[3];
        for (int i = 0; i < 3; i++)
            t[i] = tensor_3d(there(dev, in[i], (size_t)(N * width[i]) * 4), F32, N,
                             i ? k->kv_heads : k->heads, k->dim);
        struct attend a = { .rows = &rows,
                            .kv = { there(dev, NULL, page_bytes * PAGES), page_bytes,
                                    there(dev, table, sizeof table), PAGES_MAX, PAGE, k->dtype },
                            .heads = k->heads, .kv_heads = k->kv_heads, .k_dim = k->dim,
                            .v_dim = k->dim };
        struct heads_args args = { &t[0], &t[1], &t[2], k->bare ? NULL : &w, k->bare ? NULL : &w,
                                   k->normed, NORM_RMS, 1e-6f,
                                   { &rows, freq, NULL, k->pairing, 1.1f }, k->dims, &a };
        if (fused) assert_true(dev->op->heads(dev, &args));
        for (int i = 0; !fused && i < 2; i++) {
            struct tensor part = tensor_part(&t[i], 2, 0, k->dims);
            if (k->normed)
                dev->op->norm(dev, &t[i], k->bare ? NULL : &w, NULL, &t[i], NORM_RMS, 1e-6f);
            dev->op->rope(dev, &part, &args.rope);
        }
        if (!fused) dev->op->kv_store(dev, &a, &t[1], &t[2]);
        q[fused] = numbers((int64_t)N * width[0]);
        pages[fused] = mem_new(page_bytes * PAGES);
        back(dev, (float *)(void *)pages[fused], a.kv.pages, (int64_t)page_bytes * PAGES / 4);
        back(dev, q[fused], t[0].at, (int64_t)N * width[0]);
        dev->op->free(dev, t[1].at, 0), dev->op->free(dev, t[2].at, 0);
    }
    assert_memory_equal(q[0], q[1], (size_t)(N * width[0]) * 4);
    assert_memory_equal(pages[0], pages[1], page_bytes * PAGES);
    for (int i = 0; i < 2; i++) free(q[i]), free(pages[i]);
    for (int i = 0; i < 3; i++) free(in[i]);
    free(pos), free(seq);
}

static void test_heads(void **state) {
    (void)state;
    static const struct heads_case cases[] = {
        { 8, 2, 64, 64, false, false, ROPE_HALVES, BF16 },
        { 4, 4, 128, 128, true, false, ROPE_HALVES, BF16 },
        { 32, 8, 128, 128, false, false, ROPE_HALVES, BF16 },
        { 8, 2, 128, 64, true, false, ROPE_HALVES, BF16 },
        { 4, 2, 96, 96, true, true, ROPE_PAIRS, BF16 },
        { 6, 3, 80, 20, true, true, ROPE_PAIRS, F32 },
        { 2, 1, 256, 64, true, false, ROPE_HALVES, F32 },
        { 32, 8, 128, 128, true, false, ROPE_HALVES, I8 },
        { 6, 3, 80, 20, true, true, ROPE_PAIRS, I8 },
        { 3, 1, 90, 90, false, true, ROPE_HALVES, I8 },
        { 2, 1, 256, 64, true, false, ROPE_HALVES, I8 },
        { 32, 8, 128, 128, true, false, ROPE_HALVES, FP8 },
        { 6, 3, 80, 20, true, true, ROPE_PAIRS, FP8 },
        { 3, 1, 90, 90, false, true, ROPE_HALVES, FP8 },
    };
    for (size_t i = 0; i < COUNT(cases); i++)
        if (takes(i)) heads_of(&cases[i], 5), heads_of(&cases[i], 70);
}

/* Sines and cosines of positions beside the library's: pairs of 1 and 0 become them. */
static void test_turns(void **state) {
    (void)state;
    static const int at[] = { 0, 1, 2, 3, 11, 355, 710, 4095, 131071, 1048575, 16777215 };
    enum { N = COUNT(at), HALF = 64 };
    struct device *dev = &f32;
    float *freq = mem_array(HALF, sizeof *freq), x[N][2 * HALF];
    for (int i = 0; i < HALF; i++) {
        freq[i] = i < 2 ? (float)(1 - 0.5 * i) : (float)pow(1e6, -i / (double)HALF);
        for (int r = 0; r < N; r++) x[r][i] = 1, x[r][HALF + i] = 0;
    }
    assert_true(dev->op->adopt(dev, freq, HALF * sizeof *freq));
    struct rows rows = { .n_rows = N, .n_seqs = N, .pos = there(dev, at, sizeof at) };
    struct tensor t = tensor_3d(there(dev, x, sizeof x), F32, N, 1, 2 * HALF);
    dev->op->rope(dev, &t, &(struct rope_args){ &rows, freq, NULL, ROPE_HALVES, 1 });
    back(dev, x[0], t.at, N * 2 * HALF);
    for (int r = 0; r < N; r++)
        for (int i = 0; i < HALF; i++) {
            const double angle = (double)((float)at[r] * freq[i]);
            const double want[2] = { cos(angle), sin(angle) };
            for (int k = 0; k < 2; k++) {
                const double got = (double)x[r][k * HALF + i];
                if (!(fabs(got - want[k]) <= 6.1e-8 * fabs(want[k]) + 4e-16))
                    fail_msg("%s of %.9g is %.9g, not %.9g", k ? "sine" : "cosine", angle, got,
                             want[k]);
            }
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

/* ---- tokens drawn on the device: what the host's sampler draws ---- */

static const struct draw_case { struct draw how; enum sampler_step order[5]; } draw_cases[] = {
    { { 0, 0, 1, 0, 0 }, { STEP_END } },
    { { 0, 0.8f, 0.95f, 0.05f, 40 }, { STEP_TOP_K, STEP_TOP_P, STEP_MIN_P, STEP_TEMPERATURE } },
    { { 0, 1, 1, 0, 1 }, { STEP_TOP_K } },
    { { 0, 1.7f, 1, 0, DRAW_TOP_K_MAX }, { STEP_TOP_K, STEP_TEMPERATURE } },
    { { 0, 1, 0.3f, 0, 100 }, { STEP_TOP_K, STEP_TOP_P } },
    { { 0, 0.7f, 1, 0, 0 }, { STEP_TEMPERATURE } },
    { { 0, 1.2f, 1, 0.02f, 0 }, { STEP_MIN_P, STEP_TEMPERATURE } },
};

/* Row i is drawn as case i says; how many tokens differ. */
static int draw_rows(const float *logits, int vocab, uint64_t seed_of, int *tokens) {
    enum { N = (int)COUNT(draw_cases) };
    struct device *dev = &f32;
    struct draw how[N];
    int turn = 1, differ = 0, told_turn[N];
    struct sampler *sampler = sampler_open(vocab);
    for (int i = 0; i < N; i++) {
        how[i] = draw_cases[i].how;
        how[i].chance = sample_chance(seed_of, (uint64_t)i);
    }
    struct tensor t = tensor_2d(there(dev, logits, (size_t)N * (size_t)vocab * 4), F32, N, vocab);
    int *told = dev->op->shared(dev, 2 * N * sizeof *told);
    struct draws d = { there(dev, how, sizeof how), N, there(dev, NULL, N * sizeof(int)), told, N,
                       there(dev, &turn, sizeof turn) };
    memset(told, 0xab, 2 * N * sizeof *told);
    dev->op->sample(dev, &t, &d);
    dev->op->mark(dev, 1);
    assert_true(dev->op->reached(dev, 1, NULL));
    memcpy(tokens, told + N, sizeof told_turn);
    dev->op->copy_out(dev, told_turn, d.drawn, sizeof told_turn);
    assert_true(dev->op->sync(dev, NULL));
    assert_memory_equal(told_turn, tokens, sizeof told_turn);
    for (int i = 0; i < N; i++) {
        struct sample_params p = sample_defaults();
        float *row = mem_array((size_t)vocab, sizeof *row);
        memcpy(row, logits + (size_t)i * (size_t)vocab, (size_t)vocab * sizeof *row);
        p.temperature = how[i].temperature;
        p.top_p = how[i].top_p;
        p.min_p = how[i].min_p;
        p.top_k = how[i].top_k;
        p.seed = seed_of;
        memcpy(p.order, draw_cases[i].order, sizeof draw_cases[i].order);
        differ += sampler_pick(sampler, &p, row, NULL, 0, (uint64_t)i) != tokens[i];
        free(row);
    }
    void *used[] = { t.at, (void *)(uintptr_t)d.how, d.drawn, (void *)(uintptr_t)d.turn };
    for (size_t i = 0; i < COUNT(used); i++) dev->op->free(dev, used[i], 0);
    dev->op->unshare(dev, told);
    sampler_close(sampler);
    return differ;
}

static void test_draws(void **state) {
    (void)state;
    enum { N = (int)COUNT(draw_cases) };
    static const int vocabs[] = { 1, 300, 4099, 151936 };
    int tokens[N], differ = 0, drawn = 0;
    for (size_t v = 0; v < (brief() ? 3 : COUNT(vocabs)); v++)
        for (uint64_t seed_of = brief() ? 7 : 0; seed_of < 8 && takes(v); seed_of++) {
            const int vocab = vocabs[v];
            float *logits = numbers((int64_t)N * vocab);
            for (int64_t i = 0; i < (int64_t)N * vocab; i++) logits[i] *= 9 + logits[i];
            if (vocab > 300 && seed_of == 7) logits[vocab + 5] = logits[2 * vocab + 7] = -INFINITY;
            differ += draw_rows(logits, vocab, seed_of, tokens);
            drawn += N;
            free(logits);
        }
    /* Only where a number falls on the border of two tokens may another expf choose the other. */
    if (differ > MAX(1, drawn / 50)) fail_msg("%d of %d tokens differ", differ, drawn);
    if (!takes(4)) return;
    float *same = mem_array((size_t)N * 5000, sizeof *same);
    for (int i = 0; i < N * 5000; i++) same[i] = -3;         /* the k best are the first */
    assert_int_equal(draw_rows(same, 5000, 3, tokens), 0);
    assert_int_equal(tokens[0], 0);
    same[4000] = NAN;                                        /* of row 0 */
    same[5000 + 4999] = INFINITY;
    for (int i = 0; i < 5000; i++) same[2 * 5000 + i] = -INFINITY;
    draw_rows(same, 5000, 3, tokens);
    for (int i = 0; i < 3; i++) assert_int_equal(tokens[i], -1);
    assert_true(tokens[3] >= 0);
    free(same);
}

/* Tokens that the host does not know yet are fed from those that were drawn. */
static void test_feed(void **state) {
    (void)state;
    int ids[] = { 5, DRAWN, 9, DRAWN - 2, DRAWN - 1 }, drawn[] = { 70, -1, 72 }, got[5];
    const int want[] = { 5, 70, 9, 72, 0 };
    void *at = there(&f32, ids, sizeof ids), *from = there(&f32, drawn, sizeof drawn);
    f32.op->feed(&f32, at, 5, from);
    f32.op->copy_out(&f32, got, at, sizeof got);
    assert_true(f32.op->sync(&f32, NULL));
    assert_memory_equal(got, want, sizeof want);
    f32.op->free(&f32, at, 0), f32.op->free(&f32, from, 0);
}

static int run(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linear), cmocka_unit_test(test_products),
        cmocka_unit_test(test_rows_passed), cmocka_unit_test(test_rows_known),
        cmocka_unit_test(test_norm_before), cmocka_unit_test(test_packed_table),
        cmocka_unit_test(test_norm), cmocka_unit_test(test_sum_before),
        cmocka_unit_test(test_heads), cmocka_unit_test(test_turns),
        cmocka_unit_test(test_draws), cmocka_unit_test(test_feed),
        cmocka_unit_test(test_replay),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

int main(void) {
    return run_all("test_cuda", run);
}
