/* attention_simd.h - the inner loops of attention over 16 lanes, for a file of an instruction
 * set that has included its vec_*.h and defined QUERIES, the most of a tile, and QUERIES_OF_TWO, up
 * to which a tile is two vectors wide and not one. Included by those files only.
 *
 * A tile of queries meets a vector of keys, or of columns, while that is in a register: keys
 * lie dimension by dimension, so neither product needs a sum across lanes. */
#pragma once
#include "device/cpu/attention_kernels.h"
#include "device/cpu/vec_math.h"

#define UNROLL _Pragma("GCC unroll 8")

/* dtype_scaled, known when this is compiled. */
#define SCALED(dtype) ((dtype) == I8 || (dtype) == FP8)

INLINE size_t bytes_of(enum dtype dtype) {
    return dtype == F32 ? 4 : dtype == BF16 ? 2 : 1;
}

/* Of so many queries, those of the next tile. */
INLINE int tile_of(int n_q) {
    return n_q >= QUERIES ? QUERIES : n_q >= 4 ? 4 : n_q >= 2 ? 2 : 1;
}

/* nq queries and `vecs` vectors of keys, of which the last has `width` keys. */
INLINE void scores_tile(enum dtype dtype, int nq, int vecs, int width, float *score,
                        const float *q, const struct cpu_kv *k, const char *soon,
                        int at, int dim) {
    struct vec a[QUERIES][2];
    UNROLL for (int j = 0; j < nq; j++)
        UNROLL for (int i = 0; i < vecs; i++) a[j][i] = vec_set(0);
    const char *row = k->at + (size_t)at * bytes_of(dtype);
    for (int d = 0; d < dim; d++, row += k->row_bytes) {
        struct vec x[2];
        soon = cpu_fetch(soon, k->row_bytes);
        UNROLL for (int i = 0; i < vecs; i++)
            x[i] = vec_kv(dtype, row + (size_t)(i * LANES) * bytes_of(dtype),
                          i + 1 == vecs ? width : LANES);
        UNROLL for (int j = 0; j < nq; j++) {
            struct vec s = vec_set(q[j * dim + d]);
            UNROLL for (int i = 0; i < vecs; i++) a[j][i] = vec_fma(s, x[i], a[j][i]);
        }
    }
    UNROLL for (int i = 0; i < vecs; i++) {
        const int from = at + i * LANES, n = i + 1 == vecs ? width : LANES;
        struct vec scale = vec_set(1);
        if (SCALED(dtype)) scale = vec_kv(F32, (const char *)(k->scales + from), n);
        UNROLL for (int j = 0; j < nq; j++) {
            if (SCALED(dtype)) a[j][i] = vec_mul(a[j][i], scale);
            vec_store(score + j * SCORE_ROW + from, a[j][i], n);
        }
    }
}

/* A tile of few queries takes two vectors at a time: its sums would wait for each other. */
INLINE void scores_of(enum dtype dtype, int nq, float *score, const float *q,
                      const struct cpu_kv *k, const char *soon, int n, int dim) {
    for (int at = 0, width; at < n; at += width, soon = NULL) {
        const bool two = nq <= QUERIES_OF_TWO && n - at >= 2 * LANES;
        width = two ? 2 * LANES : MIN(LANES, n - at);
        if (two)
            scores_tile(dtype, nq, 2, LANES, score, q, k, soon, at, dim);
        else if (width == LANES)
            scores_tile(dtype, nq, 1, LANES, score, q, k, soon, at, dim);
        else
            scores_tile(dtype, nq, 1, width, score, q, k, soon, at, dim);
    }
}

INLINE void scores_all(enum dtype dtype, float *score, const float *q, int n_q,
                       const struct cpu_kv *k, int n, int dim) {
    const char *soon = k->soon;
    for (int nq; n_q > 0; n_q -= nq, score += nq * SCORE_ROW, q += nq * dim, soon = NULL) {
        nq = tile_of(n_q);
        if (nq == QUERIES)
            scores_of(dtype, QUERIES, score, q, k, soon, n, dim);
        else if (nq == 4)
            scores_of(dtype, 4, score, q, k, soon, n, dim);
        else if (nq == 2)
            scores_of(dtype, 2, score, q, k, soon, n, dim);
        else
            scores_of(dtype, 1, score, q, k, soon, n, dim);
    }
}

static void scores(float *score, const float *q, int n_q, const struct cpu_kv *k, int n, int dim) {
    if (k->dtype == F32)
        scores_all(F32, score, q, n_q, k, n, dim);
    else if (k->dtype == BF16)
        scores_all(BF16, score, q, n_q, k, n, dim);
    else if (k->dtype == I8)
        scores_all(I8, score, q, n_q, k, n, dim);
    else
        scores_all(FP8, score, q, n_q, k, n, dim);
}

/* nq queries and 1 or 2 tokens from `at` on. */
INLINE void latent_tile(enum dtype dtype, int nq, int tokens, float *score, const float *q,
                        const struct cpu_kv *k, int at, int dim) {
    struct vec a[QUERIES][2];
    UNROLL for (int j = 0; j < nq; j++)
        UNROLL for (int i = 0; i < tokens; i++) a[j][i] = vec_set(0);
    const char *row = k->at + (size_t)at * k->row_bytes;
    int d = 0;
    for (; d + LANES <= dim; d += LANES, row += LANES * bytes_of(dtype)) {
        struct vec x[2];
        UNROLL for (int i = 0; i < tokens; i++)
            x[i] = vec_kv(dtype, row + (size_t)i * k->row_bytes, LANES);
        UNROLL for (int j = 0; j < nq; j++) {
            struct vec s = vec_load(q + j * dim + d);
            UNROLL for (int i = 0; i < tokens; i++) a[j][i] = vec_fma(s, x[i], a[j][i]);
        }
    }
    for (int i = 0; d < dim && i < tokens; i++) {
        struct vec x = vec_kv(dtype, row + (size_t)i * k->row_bytes, dim - d);
        for (int j = 0; j < nq; j++)
            a[j][i] = vec_fma(vec_kv(F32, (const char *)(q + j * dim + d), dim - d), x, a[j][i]);
    }
    UNROLL for (int j = 0; j < nq; j++)
        UNROLL for (int i = 0; i < tokens; i++) score[j * SCORE_ROW + at + i] = vec_sum(a[j][i]);
}

INLINE void latent_of(enum dtype dtype, int nq, float *score, const float *q,
                      const struct cpu_kv *k, int n, int dim) {
    int at = 0;
    if (nq <= QUERIES_OF_TWO)
        for (; at + 2 <= n; at += 2) latent_tile(dtype, nq, 2, score, q, k, at, dim);
    for (; at < n; at++) latent_tile(dtype, nq, 1, score, q, k, at, dim);
}

INLINE void latent_all(enum dtype dtype, float *score, const float *q, int n_q,
                       const struct cpu_kv *k, int n, int dim) {
    for (int nq; n_q > 0; n_q -= nq, score += nq * SCORE_ROW, q += nq * dim) {
        nq = tile_of(n_q);
        if (nq == QUERIES)
            latent_of(dtype, QUERIES, score, q, k, n, dim);
        else if (nq == 4)
            latent_of(dtype, 4, score, q, k, n, dim);
        else if (nq == 2)
            latent_of(dtype, 2, score, q, k, n, dim);
        else
            latent_of(dtype, 1, score, q, k, n, dim);
    }
}

static void latent_scores(float *score, const float *q, int n_q, const struct cpu_kv *k, int n,
                          int dim) {
    if (k->dtype == F32)
        latent_all(F32, score, q, n_q, k, n, dim);
    else
        latent_all(BF16, score, q, n_q, k, n, dim);
}

/* Scaled and capped, with -inf outside of [begin, end). */
INLINE void prepare(float *score, int begin, int end, int n, const struct cpu_softmax *s) {
    for (int i = 0; i < n; i += LANES) {
        struct vec x = vec_mul(vec_load(score + i), vec_set(s->scale));
        if (s->softcap != 0) {
            const struct vec cap = vec_set(s->softcap);
            x = vec_mul(cap, vec_tanh(vec_div(x, cap)));
        }
        vec_store(score + i, vec_keep(x, begin - i, end - i, vec_set(-INFINITY)), LANES);
    }
}

/* A step that is seen as a whole, as most are, is scaled on the way: the largest product with a
 * positive number is that of the largest. */
static float soften(float *score, int begin, int end, int n, const struct cpu_softmax *s,
                    struct cpu_running *r) {
    const bool plain = begin <= 0 && end >= n && n % LANES == 0 && s->softcap == 0 && s->scale > 0;
    const float scale = plain ? s->scale : 1;
    struct vec most = vec_set(-INFINITY), sum = vec_set(0);
    if (begin >= end) {
        for (int i = 0; i < n; i += LANES) vec_store(score + i, sum, LANES);
        return 1;
    }
    if (!plain) prepare(score, begin, end, n, s);
    for (int i = 0; i < n; i += LANES) most = vec_max(most, vec_load(score + i));
    const float max = fmaxf(r->max, vec_largest(most) * scale);
    for (int i = 0; i < n; i += LANES) {
        struct vec x = vec_mul(vec_load(score + i), vec_set(scale));
        struct vec p = vec_exp(vec_sub(x, vec_set(max)));
        vec_store(score + i, p, LANES);
        sum = vec_add(sum, p);
    }
    float shrink = r->max == max ? 1 : vec_first(vec_exp(vec_set(r->max - max)));
    r->sum = r->sum * shrink + vec_sum(sum);
    r->max = max;
    return shrink;
}

/* nq queries and `vecs` vectors of columns from `begin` on, of which the last has `width`. */
INLINE void weigh_tile(enum dtype dtype, int nq, int vecs, int width, float *y, const float *p,
                       const struct cpu_kv *v, const char *soon, int n, int begin, int dim) {
    struct vec a[QUERIES][2];
    UNROLL for (int j = 0; j < nq; j++)
        UNROLL for (int c = 0; c < vecs; c++)
            a[j][c] = vec_kv(F32, (const char *)(y + j * dim + begin + c * LANES),
                             c + 1 == vecs ? width : LANES);
    const char *row = v->at + (size_t)begin * bytes_of(dtype);
    for (int i = 0; i < n; i++, row += v->row_bytes) {
        struct vec x[2];
        soon = cpu_fetch(soon, v->row_bytes);
        UNROLL for (int c = 0; c < vecs; c++)
            x[c] = vec_kv(dtype, row + (size_t)(c * LANES) * bytes_of(dtype),
                          c + 1 == vecs ? width : LANES);
        UNROLL for (int j = 0; j < nq; j++) {
            struct vec s = vec_set(p[j * SCORE_ROW + i]);
            UNROLL for (int c = 0; c < vecs; c++) a[j][c] = vec_fma(s, x[c], a[j][c]);
        }
    }
    UNROLL for (int j = 0; j < nq; j++)
        UNROLL for (int c = 0; c < vecs; c++)
            vec_store(y + j * dim + begin + c * LANES, a[j][c], c + 1 == vecs ? width : LANES);
}

INLINE void weigh_of(enum dtype dtype, int nq, float *y, const float *p, const struct cpu_kv *v,
                     const char *soon, int n, int dim) {
    for (int begin = 0, width; begin < dim; begin += width, soon = NULL) {
        const bool two = nq <= QUERIES_OF_TWO && dim - begin >= 2 * LANES;
        width = two ? 2 * LANES : MIN(LANES, dim - begin);
        if (two)
            weigh_tile(dtype, nq, 2, LANES, y, p, v, soon, n, begin, dim);
        else if (width == LANES)
            weigh_tile(dtype, nq, 1, LANES, y, p, v, soon, n, begin, dim);
        else
            weigh_tile(dtype, nq, 1, width, y, p, v, soon, n, begin, dim);
    }
}

/* The weights of a tile times the values' scales, [nq] rows like those of p. */
INLINE void scale_weights(float *scaled, const float *p, int nq, const struct cpu_kv *v, int n) {
    for (int j = 0; j < nq; j++)
        for (int i = 0; i < n; i += LANES) {
            struct vec s = vec_kv(F32, (const char *)(v->scales + i), n - i);
            struct vec w = vec_kv(F32, (const char *)(p + j * SCORE_ROW + i), n - i);
            vec_store(scaled + j * SCORE_ROW + i, vec_mul(w, s), LANES);
        }
}

/* scaled: room for a tile's weights, which all dtypes share, for the stack may be small. */
INLINE void weigh_all(enum dtype dtype, float *scaled, float *y, const float *p, int n_q,
                      const struct cpu_kv *v, int n, int dim) {
    const char *soon = v->soon;
    for (int nq; n_q > 0; n_q -= nq, y += nq * dim, p += nq * SCORE_ROW, soon = NULL) {
        const float *w = SCALED(dtype) ? scaled : p;
        nq = tile_of(n_q);
        if (SCALED(dtype)) scale_weights(scaled, p, nq, v, n);
        if (nq == QUERIES)
            weigh_of(dtype, QUERIES, y, w, v, soon, n, dim);
        else if (nq == 4)
            weigh_of(dtype, 4, y, w, v, soon, n, dim);
        else if (nq == 2)
            weigh_of(dtype, 2, y, w, v, soon, n, dim);
        else
            weigh_of(dtype, 1, y, w, v, soon, n, dim);
    }
}

static void weigh(float *y, const float *p, int n_q, const struct cpu_kv *v, int n, int dim) {
    float scaled[QUERIES * SCORE_ROW];
    if (v->dtype == F32)
        weigh_all(F32, scaled, y, p, n_q, v, n, dim);
    else if (v->dtype == BF16)
        weigh_all(BF16, scaled, y, p, n_q, v, n, dim);
    else if (v->dtype == I8)
        weigh_all(I8, scaled, y, p, n_q, v, n, dim);
    else
        weigh_all(FP8, scaled, y, p, n_q, v, n, dim);
}
