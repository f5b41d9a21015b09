/* recurrent_simd.h - the inner loops of recurrent states over 16 lanes, for a file of an
 * instruction set that has included its vec_*.h. Included by those files only. */
#pragma once
#include "device/cpu/recurrent_kernels.h"
#include "device/cpu/vec_math.h"

INLINE struct vec vec_some(const float *p, int n) {
    return vec_kv(F32, (const char *)p, n);
}

/* Called with a constant number of taps, what slides lies in registers. */
INLINE void conv_rows(struct cpu_conv_block *o, int taps, int width) {
    struct vec w[SCAN_TAPS + 1], tail[SCAN_TAPS];
    const struct vec bias = vec_load(o->bias);
#pragma GCC unroll 4
    for (int i = 0; i < taps; i++) {
        w[i] = vec_load(o->w[i]);
        tail[i] = vec_load(o->tail[i]);
    }
    w[taps] = vec_load(o->w[taps]);
    for (int r = 0; r < o->rows.n; r++) {
        const struct vec x = vec_some(o->rows.x + r * o->rows.x_stride, width);
        struct vec sum = vec_mul(w[0], tail[0]);
#pragma GCC unroll 4
        for (int i = 1; i < taps; i++) {
            sum = vec_fma(w[i], tail[i], sum);
            tail[i - 1] = tail[i];
        }
        tail[taps - 1] = x;
        sum = vec_fma(w[taps], x, sum);
        vec_store(o->rows.y + r * o->rows.y_stride, vec_add(sum, bias), width);
    }
#pragma GCC unroll 4
    for (int i = 0; i < taps; i++) vec_store(o->tail[i], tail[i], LANES);
}

static void conv(struct cpu_conv_block *o) {
    if (o->taps == 3 && o->rows.width == LANES)
        conv_rows(o, 3, LANES);
    else
        conv_rows(o, o->taps, o->rows.width);
}

/* States [j, j + n) of a block, 4 or 1 of them, go through all rows in registers. */
INLINE void ssm_four(const struct cpu_ssm_block *o, int j, int n, int width, const float *in,
                     float *sum) {
    struct vec h[4];
#pragma GCC unroll 4
    for (int i = 0; i < n; i++) h[i] = vec_some(o->h + (j + i) * width, width);
    for (int r = 0; r < o->rows.n; r++) {
        const struct vec keep = vec_set(o->keep[r]), x = vec_load(in + r * LANES);
        const float *b = o->b + r * o->states + j, *c = o->c + r * o->states + j;
        struct vec four = keep;
#pragma GCC unroll 4
        for (int i = 0; i < n; i++) {
            h[i] = vec_fma(vec_set(b[i]), x, vec_mul(h[i], keep));
            four = i ? vec_fma(vec_set(c[i]), h[i], four) : vec_mul(vec_set(c[i]), h[i]);
        }
        vec_store(sum + r * LANES, vec_add(vec_load(sum + r * LANES), four), LANES);
    }
#pragma GCC unroll 4
    for (int i = 0; i < n; i++) vec_store(o->h + (j + i) * width, h[i], width);
}

INLINE void ssm_block(const struct cpu_ssm_block *o, int width) {
    float in[SCAN_ROWS * LANES], sum[SCAN_ROWS * LANES];
    int j = 0;
    for (int r = 0; r < o->rows.n; r++) {
        const struct vec x = vec_some(o->rows.x + r * o->rows.x_stride, width);
        vec_store(in + r * LANES, vec_mul(vec_set(o->dt[r]), x), LANES);
        vec_store(sum + r * LANES, vec_mul(vec_set(o->d), x), LANES);
    }
    for (; j + 4 <= o->states; j += 4) ssm_four(o, j, 4, width, in, sum);
    for (; j < o->states; j++) ssm_four(o, j, 1, width, in, sum);
    for (int r = 0; r < o->rows.n; r++)
        vec_store(o->rows.y + r * o->rows.y_stride, vec_load(sum + r * LANES), width);
}

static void ssm(const struct cpu_ssm_block *o) {
    if (o->rows.width == LANES)
        ssm_block(o, LANES);
    else
        ssm_block(o, o->rows.width);
}

/* sum + the products of n rows of s and numbers, 4 or 1. */
INLINE struct vec by_four(struct vec sum, const float *a, const float *s, int n, int width) {
    struct vec four = vec_mul(vec_set(a[0]), vec_some(s, width));
#pragma GCC unroll 4
    for (int i = 1; i < n; i++) four = vec_fma(vec_set(a[i]), vec_some(s + i * width, width), four);
    return vec_add(sum, four);
}

/* s = decay s + k change, and the sum of q s. */
INLINE struct vec delta_four(struct vec sum, const float *q, const float *k, float *s, int n,
                             int width, struct vec decay, struct vec change) {
    struct vec four = decay;
#pragma GCC unroll 4
    for (int i = 0; i < n; i++) {
        const struct vec old = vec_mul(vec_some(s + i * width, width), decay);
        const struct vec new = vec_fma(vec_set(k[i]), change, old);
        vec_store(s + i * width, new, width);
        four = i ? vec_fma(vec_set(q[i]), new, four) : vec_mul(vec_set(q[i]), new);
    }
    return vec_add(sum, four);
}

INLINE void delta_rows(const struct cpu_delta_block *o, int width) {
    const int n = o->k_dim;
    for (int r = 0; r < o->rows.n; r++) {
        const float *q = o->q + r * n, *k = o->k + r * n;
        const struct vec x = vec_some(o->rows.x + r * o->rows.x_stride, width);
        const struct vec decay = vec_set(o->decay[r]);
        struct vec seen = vec_set(0), sum = vec_set(0);
        int i = 0;
        for (; i + 4 <= n; i += 4) seen = by_four(seen, k + i, o->s + i * width, 4, width);
        for (; i < n; i++) seen = by_four(seen, k + i, o->s + i * width, 1, width);
        const struct vec change =
            vec_mul(vec_set(o->beta[r]), vec_fma(vec_set(-o->decay[r]), seen, x));
        for (i = 0; i + 4 <= n; i += 4)
            sum = delta_four(sum, q + i, k + i, o->s + i * width, 4, width, decay, change);
        for (; i < n; i++)
            sum = delta_four(sum, q + i, k + i, o->s + i * width, 1, width, decay, change);
        vec_store(o->rows.y + r * o->rows.y_stride, sum, width);
    }
}

static void delta(const struct cpu_delta_block *o) {
    if (o->rows.width == LANES)
        delta_rows(o, LANES);
    else
        delta_rows(o, o->rows.width);
}
