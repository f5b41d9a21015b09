/* test_recurrent_kernels.c - convolutions, recurrent states and gates of every instruction set:
 * near generic C, the same bits on all sets but that, and however rows are cut. */
#include "device/cpu/isa.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { DEPTH_MAX = 130, STRIDE = 19, KINDS = 3 };

struct data {
    float x[SCAN_ROWS * STRIDE], q[SCAN_ROWS * DEPTH_MAX], k[SCAN_ROWS * DEPTH_MAX];
    float state[DEPTH_MAX * SCAN_LANES], keep[SCAN_ROWS], gain[SCAN_ROWS];
    float w[SCAN_TAPS + 1][SCAN_LANES], bias[SCAN_LANES], tail[SCAN_TAPS][SCAN_LANES];
};

struct out {
    float y[SCAN_ROWS * STRIDE], state[DEPTH_MAX * SCAN_LANES], tail[SCAN_TAPS][SCAN_LANES];
};

static float uniform(void) {
    static uint32_t seed = 12345;
    seed = seed * 1664525 + 1013904223;
    return (float)(seed >> 8) / (float)(1 << 23) - 1.0f;
}

static void fill(struct data *d, int depth) {
    float *f = (float *)d;
    for (size_t i = 0; i < sizeof *d / sizeof *f; i++) f[i] = uniform();
    for (int i = 0; i < SCAN_ROWS; i++) d->keep[i] = 0.5f + 0.5f * fabsf(d->keep[i]);
    /* Keys of length 1, or the states of the delta rule would grow. */
    for (int i = 0; i < SCAN_ROWS * depth; i++) d->k[i] /= sqrtf((float)depth);
}

/* Rows [begin, end). */
static void run(const struct cpu_recurrent_kernels *set, int kind, const struct data *d, int depth,
                int width, int begin, int end, struct out *o) {
    const struct cpu_scan_rows rows = { d->x + begin * STRIDE, o->y + begin * STRIDE, STRIDE,
                                        STRIDE, end - begin, width };
    const float *q = d->q + begin * depth, *k = d->k + begin * depth;
    if (kind == 0) {
        struct cpu_conv_block b = { .rows = rows, .taps = 1 + depth % SCAN_TAPS };
        memcpy(b.w, d->w, sizeof b.w);
        memcpy(b.bias, d->bias, sizeof b.bias);
        memcpy(b.tail, o->tail, sizeof b.tail);
        set->conv(&b);
        for (int i = 0; i < b.taps; i++)
            memcpy(o->tail[i], b.tail[i], (size_t)width * sizeof **b.tail);
    }
    if (kind == 1)
        set->ssm(&(struct cpu_ssm_block){ rows, o->state, depth, q, k, d->keep + begin,
                                          d->gain + begin, 0.5f });
    if (kind == 2)
        set->delta(&(struct cpu_delta_block){ rows, o->state, depth, q, k, d->keep + begin,
                                              d->gain + begin });
}

static struct out start(const struct data *d) {
    struct out o = { .y = { 0 } };
    memcpy(o.state, d->state, sizeof o.state);
    memcpy(o.tail, d->tail, sizeof o.tail);
    for (int i = 0; i < SCAN_ROWS * STRIDE; i++) o.y[i] = 7;
    return o;
}

static void check(int kind, int depth, int width, int n) {
    static struct data d;
    static struct out generic, first, o;
    const struct cpu_kernels *set;
    fill(&d, depth);
    generic = start(&d);
    run(&cpu_recurrent_generic, kind, &d, depth, width, 0, n, &generic);
    for (int s = 0; (set = cpu_isa(s)); s++) {
        o = start(&d);
        run(set->recurrent, kind, &d, depth, width, 0, n / 3, &o);
        run(set->recurrent, kind, &d, depth, width, n / 3, n, &o);
        for (int i = 0; i < SCAN_ROWS * STRIDE; i++)
            assert_true(fabs((double)o.y[i] - (double)generic.y[i]) < 1e-5 * sqrt(depth));
        for (int i = 0; i < DEPTH_MAX * SCAN_LANES; i++)
            assert_true(fabs((double)o.state[i] - (double)generic.state[i]) < 1e-5);
        if (s == 0) first = o;
        if (set->recurrent != &cpu_recurrent_generic) assert_memory_equal(&o, &first, sizeof o);
        const struct out cut = o;
        o = start(&d);
        run(set->recurrent, kind, &d, depth, width, 0, n, &o);
        assert_memory_equal(&o, &cut, sizeof o);
    }
}

static void sets_agree(void **state) {
    (void)state;
    static const int depths[] = { 1, 3, 4, 6, 16, 64, 127, 128 }, widths[] = { 16, 1, 5, 15 };
    static const int counts[] = { 1, 2, 7, SCAN_ROWS };
    for (int kind = 0; kind < KINDS; kind++)
        for (size_t d = 0; d < COUNT(depths); d++)
            for (size_t w = 0; w < COUNT(widths); w++)
                for (size_t n = 0; n < COUNT(counts); n++)
                    check(kind, depths[d], widths[w], counts[n]);
}

static double act(enum act a, double x) {
    if (a == ACT_SILU) return x / (1 + exp(-x));
    if (a == ACT_QUICK_GELU) return x / (1 + exp(-(double)1.702f * x));
    return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

static void gates(void **state) {
    (void)state;
    static const enum act acts[] = { ACT_SILU, ACT_QUICK_GELU, ACT_GELU_TANH };
    static const float edges[] = { 0, -0.0f, 1e-30f, -100, 100, 3e38f, -3e38f, -87, 88.5f };
    enum { N = 77 };
    float g[N], up[N], y[N], first[N];
    const struct cpu_kernels *set;
    for (size_t a = 0; a < COUNT(acts); a++) {
        for (int i = 0; i < N; i++) {
            g[i] = i < (int)COUNT(edges) ? edges[i] : 12 * uniform();
            up[i] = uniform();
        }
        for (int s = 0; (set = cpu_isa(s)) && set->gate; s++) {
            for (int with = 0; with < 2; with++) {
                assert_true(set->gate(y, g, with ? up : NULL, N, acts[a]));
                for (int i = 0; i < N; i++) {
                    double want = act(acts[a], (double)g[i]) * (with ? (double)up[i] : 1);
                    assert_true(fabs((double)y[i] - want) <= 1e-6 * fabs(want) + 1e-7);
                }
            }
            if (s == 0) memcpy(first, y, sizeof y);
            assert_memory_equal(y, first, sizeof y);
            float odd[] = { NAN, INFINITY };
            assert_true(set->gate(odd, odd, NULL, 2, acts[a]));
            assert_true(isnan(odd[0]) && odd[1] == INFINITY);
            assert_false(set->gate(y, g, up, N, ACT_RELU));
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sets_agree),
        cmocka_unit_test(gates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
