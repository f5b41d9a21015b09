/* heads.h - the arithmetic of what stands between the products of q, k, v and attention: the norm
 * of a head, its turn, its place in the cache. It is done by dense.cu's kernels or by those of
 * attention: attention_one.cu's of one row, attention_few.cu's of many. */
#pragma once
#include "device/cuda/attention.h"

/* Columns of a row that a thread keeps; of a head that a warp does. */
enum { KEPT = 4, HEADS_COLS = KEPT * 32 };

/* Gains at NULL: none. */
struct heads {
    struct tensor q, k, v, q_gain, k_gain;
    bool normed;
    enum norm kind;
    float eps;
    struct rope_args rope;
    int64_t dims;                                /* that turn */
    struct rows rows;
    struct attend a;
};

/* The place of a head in the cache; k: a key, else a value. */
__device__ static inline char *cached_at(const struct heads &h, int64_t r, int head, bool k) {
    const struct kv_view &kv = h.a.kv;
    const int pos = h.rows.pos[r], page = page_of(kv, h.rows.seq[r], pos / kv.page_tokens);
    const size_t bytes = kv.dtype == BF16 ? 2 : 4;
    const size_t t = (size_t)head * kv.page_tokens + pos % kv.page_tokens;
    char *at = (char *)kv.pages + (size_t)page * kv.page_bytes;
    return k ? at + t * h.a.k_dim * bytes : at + values_at(h.a, bytes) + t * h.a.v_dim * bytes;
}

__device__ static inline void turn_of(float *c, float *s, const struct rope_args &a,
                                      const float *freq, int pos, int64_t i) {
    double sine, cosine;
    sincos((double)((float)pos * freq[i]), &sine, &cosine);
    *c = (float)cosine * a.magnitude;
    *s = (float)sine * a.magnitude;
}

__device__ static inline const float *freq_of(const struct rope_args &a, const struct rows &rows,
                                              int64_t half, int64_t r) {
    return a.freq + (a.variant ? a.variant[rows.seq[r]] * half : 0);
}

/* One number of a pair by its other; s < 0: the first. */
__device__ static inline float turned(float own, float other, float c, float s) {
    return fmaf(own, c, __fmul_rn(other, s));
}

__device__ static inline void turn_pair(float *head, int64_t i, int64_t half, bool pairs, float c,
                                        float s) {
    float *first = pairs ? head + 2 * i : head + i, *second = pairs ? first + 1 : first + half;
    const float u = *first, v = *second;
    *first = turned(u, v, c, -s);
    *second = turned(v, u, c, s);
}

/* What the norm multiplies a lane's columns with. gain NULL: 1. share: 1 / columns. */
struct kept { float v[KEPT], share; };

__device__ static inline struct kept warp_gain(const float *gain, int n, enum norm kind) {
    struct kept g;
    g.share = 1.0f / (float)n;
#pragma unroll
    for (int k = 0; k < KEPT; k++) {
        const int i = threadIdx.x % 32 + 32 * k;
        const float w = gain && i < n ? gain[i] : 1.0f;
        g.v[k] = gain && kind == NORM_RMS_PLUS1 ? 1.0f + w : w;
    }
    return g;
}

/* The norm's sums are those of a block of one warp. */
__device__ static inline void warp_norm(float (&v)[KEPT], const struct kept &g, int n,
                                        enum norm kind, float eps) {
    const int lane = threadIdx.x % 32;
    float mean = 0, square = 0;
    if (kind == NORM_LAYER) {
#pragma unroll
        for (int k = 0; k < KEPT; k++) mean += v[k];
        for (int k = 16; k > 0; k /= 2) mean += __shfl_xor_sync(~0u, mean, k);
        mean *= g.share;
    }
#pragma unroll
    for (int k = 0; k < KEPT; k++) {
        const float d = lane + 32 * k < n ? v[k] - mean : 0;
        square = fmaf(d, d, square);
    }
    for (int k = 16; k > 0; k /= 2) square += __shfl_xor_sync(~0u, square, k);
    const float inverse = norm_inverse(square, g.share, eps);
#pragma unroll
    for (int k = 0; k < KEPT; k++) v[k] = (v[k] - mean) * inverse * g.v[k];
}

/* A head of q, of k, or of v, in that order: number i of a row's, as the products left it. */
struct one_head { const float *at, *gain; int n; bool is_q, is_v; };

__device__ static inline struct one_head head_at_row(const struct heads &h, int64_t r, int i) {
    const int nq = (int)h.q.shape[1], nk = h.a.kv_heads;
    struct one_head o = {};
    o.is_q = i < nq, o.is_v = i >= nq + nk;
    const struct tensor &x = o.is_q ? h.q : o.is_v ? h.v : h.k;
    const struct tensor &w = o.is_q ? h.q_gain : h.k_gain;
    const int head = o.is_q ? i : o.is_v ? i - nq - nk : i - nq;
    o.at = (const float *)x.at + r * x.stride[0] + head * x.stride[1];
    o.gain = o.is_v ? NULL : (const float *)w.at;
    if (o.gain && w.rank == 2) o.gain += head * w.stride[0];
    o.n = (int)x.shape[2];
    return o;
}

/* The head made ready by a warp, in `own` of shared memory, [HEADS_COLS]. g: warp_gain of it. */
__device__ static inline void warp_head(float *own, const struct one_head &o, const struct kept &g,
                                        const struct heads &h, const float *cosine,
                                        const float *sine) {
    const int lane = threadIdx.x % 32, half = (int)h.dims / 2;
    const bool pairs = h.rope.pairing == ROPE_PAIRS;
    float v[KEPT];
#pragma unroll
    for (int k = 0; k < KEPT; k++) v[k] = lane + 32 * k < o.n ? o.at[lane + 32 * k] : 0;
    if (!o.is_v && h.normed) warp_norm(v, g, o.n, h.kind, h.eps);
    __syncwarp();
#pragma unroll
    for (int k = 0; k < KEPT; k++) own[lane + 32 * k] = v[k];
    __syncwarp();
    for (int i = lane; !o.is_v && i < half; i += 32)
        turn_pair(own, i, half, pairs, cosine[i], sine[i]);
    __syncwarp();
}

/* Heads may wait for attention, which makes them ready by itself; whatever else starts before
 * starts their kernel (cuda_settle). */
void cuda_start_heads(struct cuda *, const struct heads &);
/* Whether they should wait for attention_one.cu; for attention_few.cu's blocks of many rows. */
bool cuda_one_waits(const struct cuda *, const struct heads &);
bool cuda_ring_waits(const struct cuda *, const struct heads &);
