/* attention_simd.h - the inner loops of attention over 16 lanes, for a file of an instruction
 * set that has included its vec_*.h and defined QUERIES (rows of a tile) and COLS (vectors of
 * output in a tile). Included by those files only.
 *
 * A tile of queries meets a vector of keys, or of columns, while that is in a register: keys
 * lie dimension by dimension, so neither product needs a sum across lanes. */
#pragma once
#include "device/cpu/attention_kernels.h"
#include "device/cpu/vec_math.h"

INLINE size_t bytes_of(enum dtype dtype) {
    return dtype == F32 ? 4 : dtype == BF16 ? 2 : 1;
}

/* nq queries and up to 2 vectors of keys. */
INLINE void scores_tile(enum dtype dtype, int nq, bool two, float *score, const float *const *q,
                        const struct cpu_kv *k, int at, int n, int dim) {
    struct vec a[QUERIES], b[QUERIES];
#pragma GCC unroll 4
    for (int j = 0; j < nq; j++) a[j] = b[j] = vec_set(0);
    const char *row = k->at + (size_t)at * bytes_of(dtype);
    for (int d = 0; d < dim; d++, row += k->row_bytes) {
        struct vec x = vec_kv(dtype, row, two ? LANES : n - at), y = x;
        if (two) y = vec_kv(dtype, row + LANES * bytes_of(dtype), LANES);
#pragma GCC unroll 4
        for (int j = 0; j < nq; j++) {
            struct vec s = vec_set(q[j][d]);
            a[j] = vec_fma(s, x, a[j]);
            if (two) b[j] = vec_fma(s, y, b[j]);
        }
    }
    struct vec lower = vec_set(1), upper = lower;
    if (dtype == I8) {
        lower = vec_kv(F32, (const char *)(k->scales + at), two ? LANES : n - at);
        if (two) upper = vec_load(k->scales + at + LANES);
    }
#pragma GCC unroll 4
    for (int j = 0; j < nq; j++) {
        if (dtype == I8) a[j] = vec_mul(a[j], lower);
        if (dtype == I8 && two) b[j] = vec_mul(b[j], upper);
        vec_store(score + j * STEP_TOKENS + at, a[j], two ? LANES : n - at);
        if (two) vec_store(score + j * STEP_TOKENS + at + LANES, b[j], LANES);
    }
}

INLINE void scores_of(enum dtype dtype, int nq, float *score, const float *const *q,
                      const struct cpu_kv *k, int n, int dim) {
    int at = 0;
    for (; at + 2 * LANES <= n; at += 2 * LANES)
        scores_tile(dtype, nq, true, score, q, k, at, n, dim);
    for (; at < n; at += LANES) scores_tile(dtype, nq, false, score, q, k, at, n, dim);
}

INLINE void scores_all(enum dtype dtype, float *score, const float *const *q, int n_q,
                       const struct cpu_kv *k, int n, int dim) {
    int j = 0;
    for (; j + QUERIES <= n_q; j += QUERIES)
        scores_of(dtype, QUERIES, score + j * STEP_TOKENS, q + j, k, n, dim);
    for (; j < n_q; j++) scores_of(dtype, 1, score + j * STEP_TOKENS, q + j, k, n, dim);
}

static void scores(float *score, const float *const *q, int n_q, const struct cpu_kv *k, int n,
                   int dim) {
    if (k->dtype == F32)
        scores_all(F32, score, q, n_q, k, n, dim);
    else if (k->dtype == BF16)
        scores_all(BF16, score, q, n_q, k, n, dim);
    else
        scores_all(I8, score, q, n_q, k, n, dim);
}

static float soften(float *score, int begin, int end, int n, const struct cpu_softmax *s,
                    struct cpu_running *r) {
    const struct vec none = vec_set(-INFINITY);
    struct vec most = none, sum = vec_set(0);
    if (begin >= end) {
        for (int i = 0; i < n; i += LANES) vec_store(score + i, sum, LANES);
        return 1;
    }
    for (int i = 0; i < n; i += LANES) {
        struct vec x = vec_mul(vec_load(score + i), vec_set(s->scale));
        if (s->softcap != 0) {
            const struct vec cap = vec_set(s->softcap);
            x = vec_mul(cap, vec_tanh(vec_div(x, cap)));
        }
        x = vec_keep(x, begin - i, end - i, none);
        vec_store(score + i, x, LANES);
        most = vec_max(most, x);
    }
    const float max = fmaxf(r->max, vec_largest(most));
    for (int i = 0; i < n; i += LANES) {
        struct vec p = vec_exp(vec_sub(vec_load(score + i), vec_set(max)));
        vec_store(score + i, p, LANES);
        sum = vec_add(sum, p);
    }
    float shrink = r->max == max ? 1 : vec_first(vec_exp(vec_set(r->max - max)));
    r->sum = r->sum * shrink + vec_sum(sum);
    r->max = max;
    return shrink;
}

INLINE void weigh_tile(enum dtype dtype, int nq, int nc, float *y, const float *p, size_t p_row,
                       const struct cpu_kv *v, int n, int begin, int dim) {
    struct vec a[QUERIES][COLS];
    const int width = nc == COLS ? LANES : dim - begin;
#pragma GCC unroll 4
    for (int j = 0; j < nq; j++)
#pragma GCC unroll 4
        for (int c = 0; c < nc; c++)
            a[j][c] = vec_kv(F32, (const char *)(y + j * dim + begin + c * LANES), width);
    for (int i = 0; i < n; i++) {
        const char *row = v->at + (size_t)i * v->row_bytes + (size_t)begin * bytes_of(dtype);
        struct vec x[COLS];
#pragma GCC unroll 4
        for (int c = 0; c < nc; c++)
            x[c] = vec_kv(dtype, row + (size_t)(c * LANES) * bytes_of(dtype), width);
#pragma GCC unroll 4
        for (int j = 0; j < nq; j++) {
            struct vec s = vec_set(p[(size_t)j * p_row + (size_t)i]);
#pragma GCC unroll 4
            for (int c = 0; c < nc; c++) a[j][c] = vec_fma(s, x[c], a[j][c]);
        }
    }
#pragma GCC unroll 4
    for (int j = 0; j < nq; j++)
#pragma GCC unroll 4
        for (int c = 0; c < nc; c++)
            vec_store(y + j * dim + begin + c * LANES, a[j][c], width);
}

INLINE void weigh_of(enum dtype dtype, int nq, float *y, const float *p, const struct cpu_kv *v,
                     int n, int dim) {
    float scaled[QUERIES * STEP_TOKENS];
    int begin = 0;
    if (dtype == I8) {
        for (int j = 0; j < nq; j++)
            for (int i = 0; i < n; i += LANES) {
                struct vec s = vec_kv(F32, (const char *)(v->scales + i), n - i);
                struct vec w = vec_kv(F32, (const char *)(p + j * STEP_TOKENS + i), n - i);
                vec_store(scaled + j * STEP_TOKENS + i, vec_mul(w, s), LANES);
            }
        p = scaled;
    }
    for (; begin + COLS * LANES <= dim; begin += COLS * LANES)
        weigh_tile(dtype, nq, COLS, y, p, STEP_TOKENS, v, n, begin, dim);
    for (; begin < dim; begin += LANES)
        weigh_tile(dtype, nq, 1, y, p, STEP_TOKENS, v, n, begin, dim);
}

INLINE void weigh_all(enum dtype dtype, float *y, const float *p, int n_q, const struct cpu_kv *v,
                      int n, int dim) {
    int j = 0;
    for (; j + QUERIES <= n_q; j += QUERIES)
        weigh_of(dtype, QUERIES, y + (size_t)j * (size_t)dim, p + j * STEP_TOKENS, v, n, dim);
    for (; j < n_q; j++)
        weigh_of(dtype, 1, y + (size_t)j * (size_t)dim, p + j * STEP_TOKENS, v, n, dim);
}

static void weigh(float *y, const float *p, int n_q, const struct cpu_kv *v, int n, int dim) {
    if (v->dtype == F32)
        weigh_all(F32, y, p, n_q, v, n, dim);
    else if (v->dtype == BF16)
        weigh_all(BF16, y, p, n_q, v, n, dim);
    else
        weigh_all(I8, y, p, n_q, v, n, dim);
}
