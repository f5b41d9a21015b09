/* test_attention_kernels.c - scores and weighted sums of every instruction set, against doubles
 * and against each other. */
#include "device/cpu/isa.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { KEYS_MAX = 33, DIM_MAX = 200, STRIDE = 211 };

struct data {
    float q[DIM_MAX], p[KEYS_MAX], y[DIM_MAX];
    unsigned char *rows;             /* its last row ends where the allocation ends */
    double value[KEYS_MAX][DIM_MAX];
};

static float uniform(void) {
    static uint32_t seed = 12345;
    seed = seed * 1664525 + 1013904223;
    return (float)(seed >> 8) / (float)(1 << 23) - 1.0f;
}

static struct cpu_kv data_new(struct data *d, enum dtype dtype, int n, int dim) {
    const size_t size = dtype_bytes(dtype), stride = STRIDE * size;
    d->rows = malloc(stride * (size_t)(n - 1) + (size_t)dim * size);
    assert_non_null(d->rows);
    for (int c = 0; c < dim; c++) {
        d->q[c] = uniform();
        d->y[c] = uniform();
    }
    for (int i = 0; i < n; i++) {
        d->p[i] = uniform();
        for (int c = 0; c < dim; c++) {
            float f = uniform();
            uint32_t bits;
            memcpy(&bits, &f, sizeof bits);
            if (dtype == BF16) bits &= 0xffff0000;
            memcpy(&f, &bits, sizeof f);
            d->value[i][c] = (double)f;
            unsigned char *to = d->rows + (size_t)i * stride + (size_t)c * size;
            uint16_t half = (uint16_t)(bits >> 16);
            memcpy(to, dtype == BF16 ? (void *)&half : (void *)&bits, size);
        }
    }
    return (struct cpu_kv){ (const char *)d->rows, stride, dtype };
}

/* The scores and then the sums of one set; what lies after them must stay. */
static void run(float *out, const struct cpu_attention_kernels *k, const struct data *d,
                const struct cpu_kv *kv, int n, int dim) {
    out[n] = -7;
    k->scores(out, d->q, kv, n, dim);
    assert_true(out[n] == -7);
    float *y = out + n;
    memcpy(y, d->y, (size_t)dim * sizeof *y);
    y[dim] = -7;
    k->weigh(y, d->p, kv, n, dim);
    assert_true(y[dim] == -7);
}

static void check(const float *out, const struct data *d, int n, int dim) {
    for (int i = 0; i < n; i++) {
        double want = 0;
        for (int c = 0; c < dim; c++) want += d->value[i][c] * (double)d->q[c];
        assert_true(fabs((double)out[i] - want) < 2e-6 * sqrt(dim));
    }
    for (int c = 0; c < dim; c++) {
        double want = (double)d->y[c];
        for (int i = 0; i < n; i++) want += d->value[i][c] * (double)d->p[i];
        assert_true(fabs((double)out[n + c] - want) < 2e-6 * sqrt(n));
    }
}

static void sets_agree(void **state) {
    (void)state;
    static const int dims[] = { 1, 7, 8, 16, 17, 24, 64, 80, 96, 128, 192, 200 };
    static const int counts[] = { 1, 2, 3, 4, 5, 16, 33 };
    static struct data d;
    for (size_t i = 0; i < 2 * COUNT(dims) * COUNT(counts); i++) {
        int dim = dims[i / 2 % COUNT(dims)], n = counts[i / 2 / COUNT(dims)];
        float wide[KEYS_MAX + DIM_MAX + 1], out[KEYS_MAX + DIM_MAX + 1];
        struct cpu_kv kv = data_new(&d, i % 2 ? BF16 : F32, n, dim);
        const struct cpu_kernels *k;
        for (int j = 0; (k = cpu_isa(j)); j++) {
            run(j ? out : wide, k->attention, &d, &kv, n, dim);
            check(j ? out : wide, &d, n, dim);
            if (j && k->attention != &cpu_attention_generic)
                assert_memory_equal(out, wide, (size_t)(n + dim) * sizeof *out);
        }
        free(d.rows);
    }
}

/* A row's score and sum do not depend on how many keys are taken at a time. */
static void pieces_agree(void **state) {
    (void)state;
    enum { N = 23, DIM = 72 };
    static struct data d;
    const struct cpu_kernels *k;
    struct cpu_kv kv = data_new(&d, BF16, N, DIM);
    for (int j = 0; (k = cpu_isa(j)); j++) {
        float whole[N + DIM + 1], score[N], y[DIM];
        run(whole, k->attention, &d, &kv, N, DIM);
        memcpy(y, d.y, sizeof y);
        for (int i = 0, n; i < N; i += n) {
            n = MIN(1 + i % 6, N - i);
            struct cpu_kv part = { kv.at + (size_t)i * kv.row_bytes, kv.row_bytes, BF16 };
            k->attention->scores(score + i, d.q, &part, n, DIM);
            k->attention->weigh(y, d.p + i, &part, n, DIM);
        }
        assert_memory_equal(score, whole, sizeof score);
        assert_memory_equal(y, whole + N, sizeof y);
    }
    free(d.rows);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sets_agree),
        cmocka_unit_test(pieces_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
