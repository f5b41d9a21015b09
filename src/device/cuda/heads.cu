/* heads.cu - rope, and all that stands between the products of q, k, v and attention in one kernel,
 * where attention does not do it itself (heads.h). */
#include "device/cuda/norm.h"

/* The turns of a thread's pairs, i of them, blockDim.x apart; positions are there before any kernel
 * of the batch begins. */
enum { TURNS = 4 };
struct turns { float c[TURNS], s[TURNS]; };

__device__ static inline struct turns turns_of(int64_t dims, const struct rope_args &a,
                                               const struct rows &rows, int64_t r) {
    struct turns t = {};
    const float *freq = freq_of(a, rows, dims / 2, r);
#pragma unroll
    for (int k = 0; k < TURNS; k++) {
        const int64_t i = threadIdx.x + k * blockDim.x;
        if (i < dims / 2) turn_of(&t.c[k], &t.s[k], a, freq, rows.pos[r], i);
    }
    return t;
}

__device__ static inline void rope_row(float *head, int64_t dims, const struct turns &t,
                                       const struct rope_args &a, const struct rows &rows,
                                       int64_t r) {
    const int64_t half = dims / 2;
    const bool pairs = a.pairing == ROPE_PAIRS;
#pragma unroll
    for (int k = 0; k < TURNS; k++) {
        const int64_t i = threadIdx.x + k * blockDim.x;
        if (i < half) turn_pair(head, i, half, pairs, t.c[k], t.s[k]);
    }
    for (int64_t i = threadIdx.x + TURNS * blockDim.x; i < half; i += blockDim.x) {
        float c, s;
        turn_of(&c, &s, a, freq_of(a, rows, half, r), rows.pos[r], i);
        turn_pair(head, i, half, pairs, c, s);
    }
}

__global__ static void rope(struct tensor x, struct rope_args a, struct rows rows) {
    let_next_begin();
    const struct turns t = turns_of(x.shape[2], a, rows, blockIdx.x);
    after_previous();
    rope_row(head_at(x, blockIdx.x, blockIdx.y), x.shape[2], t, a, rows, blockIdx.x);
}

void cuda_rope(struct device *dev, struct tensor *x, const struct rope_args *args) {
    struct rope_args a = *args;
    struct tensor t = cuda_heads(dev, x);
    a.freq = (const float *)cuda_there(dev, a.freq);
    cuda_start(cuda_of(dev), rope, grid_of(t), 64, 0, t, a, *args->rows);
    cuda_check(dev);
}

/* ---- what stands between the products of q, k, v and attention ---- */

/* A block for a head of q, of k, or of v, in that order. */
__global__ static void heads(struct heads h) {
    let_next_begin();
    const int64_t r = blockIdx.x;
    const int nq = (int)h.q.shape[1], nk = h.a.kv_heads, y = blockIdx.y;
    const bool is_v = y >= nq + nk, is_q = y < nq;
    const int head = is_q ? y : is_v ? y - nq - nk : y - nq;
    const struct tensor &x = is_q ? h.q : is_v ? h.v : h.k;
    const struct tensor &w = is_q ? h.q_gain : h.k_gain;
    const float *gain = (const float *)w.at;
    if (gain && w.rank == 2) gain += head * w.stride[0];
    const struct kept g = gain_of(is_v ? NULL : gain, (int)x.shape[2], h.kind);
    struct turns t = {};
    if (!is_v) t = turns_of(h.dims, h.rope, h.rows, r);
    struct place_of_head to = {};
    if (!is_q) to = cached_at(h.a, h.rows, r, head, !is_v);
    float *from = head_at(x, r, head);
    after_previous();
    if (!is_v && h.normed) {
        norm_row(from, from, gain, g, NULL, (int)x.shape[2], h.kind, h.eps, {}, 0);
        __syncthreads();
    }
    if (!is_v) rope_row(from, h.dims, t, h.rope, h.rows, r);
    if (is_q) return;
    __syncthreads();
    block_put(to, h.a.kv.dtype, from, (int)x.shape[2]);
}

/* The same for many rows, and heads of at most as many columns as a warp keeps: a block for a row,
 * whose turns are found once; a warp for a head at a time. */
enum { HEADS_WARPS = 8, HEADS_ROWS = 64 };

__global__ static void __launch_bounds__(HEADS_WARPS * 32) heads_of_row(struct heads h) {
    __shared__ float cosine[HEADS_COLS / 2], sine[HEADS_COLS / 2], kept[HEADS_WARPS][HEADS_COLS];
    const int64_t r = blockIdx.x, half = h.dims / 2;
    const int nq = (int)h.q.shape[1], nk = h.a.kv_heads, all = nq + 2 * nk;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    let_next_begin();
    for (int64_t i = threadIdx.x; i < half; i += blockDim.x)
        turn_of(&cosine[i], &sine[i], h.rope, freq_of(h.rope, h.rows, half, r), h.rows.pos[r], i);
    after_previous();
    __syncthreads();
    for (int y = warp; y < all; y += HEADS_WARPS) {
        const struct one_head o = head_at_row(h, r, y);
        float *own = kept[warp], v[KEPT];
        warp_read(v, o);
        warp_head(own, v, o, warp_gain(o.gain, o.n, h.kind), h, cosine, sine);
        if (o.is_q) {
            for (int i = lane; i < o.n; i += 32) ((float *)(uintptr_t)o.at)[i] = own[i];
            continue;
        }
        const struct place_of_head to = cached_at(h.a, h.rows, r, (y - nq) % nk, !o.is_v);
        struct scaling e = {};
        if (in_bytes(h.a.kv.dtype)) {
            e = warp_scaling(own, o.n, h.a.kv.dtype);
            if (lane == 0) *to.scale = e.scale;
        }
        for (int i = lane; i < o.n; i += 32) put_cached(to.at, h.a.kv.dtype, i, own[i], e);
    }
}

/* The same where everything lies in vectors: a lane has four neighbours of a head, and a warp asks
 * for all of its heads at once. */
enum { HEADS_AT_ONCE = 6 };

/* Sums of squares in the order of warp_norm: lane 8 k + i has columns 4 i + 32 k and three more. */
__device__ static inline float4 four_norm(float4 v, float4 gain, int n, float eps) {
    const int lane = threadIdx.x % 32;
    const float d[4] = { v.x, v.y, v.z, v.w };
    float sum[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        sum[i] = fmaf(d[i], d[i], 0.0f);
        for (int k = 1; k < KEPT; k++) {
            const float before = __shfl_up_sync(~0u, sum[i], 8);
            if (lane / 8 == k) sum[i] = fmaf(d[i], d[i], before);
        }
        sum[i] = __shfl_sync(~0u, sum[i], 24 + lane % 8);
        for (int k = 4; k > 0; k /= 2) sum[i] += __shfl_xor_sync(~0u, sum[i], k);
    }
    const float square = (sum[0] + sum[2]) + (sum[1] + sum[3]);
    const float inverse = norm_inverse(square, 1.0f / (float)n, eps);
    return make_float4(v.x * inverse * gain.x, v.y * inverse * gain.y, v.z * inverse * gain.z,
                       v.w * inverse * gain.w);
}

/* c, s: of the lane's numbers, or of its two pairs; partner: the lane that has the others. */
__device__ static inline float4 four_turned(float4 v, float4 c, float4 s, bool pairs, int partner) {
    if (pairs)
        return make_float4(turned(v.x, v.y, c.x, -s.x), turned(v.y, v.x, c.x, s.x),
                           turned(v.z, v.w, c.y, -s.y), turned(v.w, v.z, c.y, s.y));
    const float4 w = make_float4(__shfl_sync(~0u, v.x, partner), __shfl_sync(~0u, v.y, partner),
                                 __shfl_sync(~0u, v.z, partner), __shfl_sync(~0u, v.w, partner));
    return make_float4(turned(v.x, w.x, c.x, s.x), turned(v.y, w.y, c.y, s.y),
                       turned(v.z, w.z, c.z, s.z), turned(v.w, w.w, c.w, s.w));
}

/* A lane's four numbers of a head of n to their place. By a warp. */
template <bool BYTES>
__device__ static inline void put_four(const struct place_of_head &to, enum dtype dtype, int column,
                                       float4 v, int n) {
    if constexpr (BYTES) {
        const float most = fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w)));
        const struct scaling e = scaling_of(warp_max(column < n ? most : 0), dtype);
        if (column == 0) *to.scale = e.scale;
        if (column < n)
            *(uchar4 *)(to.at + column) =
                make_uchar4(byte_of(v.x, e, dtype), byte_of(v.y, e, dtype),
                            byte_of(v.z, e, dtype), byte_of(v.w, e, dtype));
    } else if (column < n) {
        if (dtype == BF16) rounded_quad((__nv_bfloat16 *)to.at + column, v);
        else *(float4 *)((float *)to.at + column) = v;
    }
}

template <bool BYTES>
__global__ static void __launch_bounds__(HEADS_WARPS * 32)
heads_in_fours(const __grid_constant__ struct heads h) {
    __shared__ alignas(16) float cosine[HEADS_COLS / 2], sine[HEADS_COLS / 2];
    const int64_t r = blockIdx.x;
    const int half = (int)h.dims / 2, nq = (int)h.q.shape[1], nk = h.a.kv_heads, all = nq + 2 * nk;
    const int warp = threadIdx.x / 32, column = threadIdx.x % 32 * 4;
    const bool pairs = h.rope.pairing == ROPE_PAIRS, second = !pairs && column >= half;
    const int partner = column < h.dims ? (second ? column - half : column + half) / 4 : 0;
    let_next_begin();
    for (int i = threadIdx.x; i < half; i += blockDim.x)
        turn_of(&cosine[i], &sine[i], h.rope, freq_of(h.rope, h.rows, half, r), h.rows.pos[r], i);
    after_previous();
    __syncthreads();
    float4 c = make_float4(1, 1, 1, 1), s = make_float4(0, 0, 0, 0);
    if (column < h.dims && pairs) {
        c.x = cosine[column / 2], c.y = cosine[column / 2 + 1];
        s.x = sine[column / 2], s.y = sine[column / 2 + 1];
    } else if (column < h.dims) {
        c = *(const float4 *)(cosine + column - (second ? half : 0));
        s = *(const float4 *)(sine + column - (second ? half : 0));
        if (!second) s = make_float4(-s.x, -s.y, -s.z, -s.w);
    }
    for (int first = warp; first < all; first += HEADS_WARPS * HEADS_AT_ONCE) {
        float4 v[HEADS_AT_ONCE];
#pragma unroll
        for (int k = 0; k < HEADS_AT_ONCE; k++) {
            const int y = first + k * HEADS_WARPS;
            const struct tensor &x = y < nq ? h.q : y < nq + nk ? h.k : h.v;
            const int head = y < nq ? y : y < nq + nk ? y - nq : y - nq - nk;
            v[k] = make_float4(0, 0, 0, 0);
            if (y < all && column < x.shape[2])
                v[k] = *(const float4 *)(head_at(x, r, head) + column);
        }
#pragma unroll
        for (int k = 0; k < HEADS_AT_ONCE; k++) {
            const int y = first + k * HEADS_WARPS;
            const bool is_q = y < nq, is_v = y >= nq + nk;
            const struct tensor &x = is_q ? h.q : is_v ? h.v : h.k;
            const int head = is_q ? y : is_v ? y - nq - nk : y - nq, n = (int)x.shape[2];
            if (y >= all) break;
            if (!is_v && h.normed) {
                const struct tensor &w = is_q ? h.q_gain : h.k_gain;
                const int64_t at = (w.rank == 2 ? head * w.stride[0] : 0) + column;
                float4 g = make_float4(1, 1, 1, 1);
                if (column < n)
                    g = norm_gains((const float *)w.at, at, h.kind == NORM_RMS_PLUS1);
                v[k] = four_norm(v[k], g, n, h.eps);
            }
            if (!is_v) {
                const float4 w = four_turned(v[k], c, s, pairs, partner);
                if (column < h.dims) v[k] = w;
            }
            if (is_q && column < n) *(float4 *)(head_at(x, r, head) + column) = v[k];
            if (!is_q)
                put_four<BYTES>(cached_at(h.a, h.rows, r, head, !is_v), h.a.kv.dtype, column, v[k],
                                n);
        }
    }
}

static bool takes_fours(const struct heads &h) {
    const uintptr_t at = (uintptr_t)h.q_gain.at | (uintptr_t)h.k_gain.at | h.a.kv.page_bytes;
    return in_vectors(h.q) && in_vectors(h.k) && in_vectors(h.v) && at % 16 == 0 &&
           h.dims % 8 == 0 && (!h.normed || h.kind != NORM_LAYER) &&
           (!h.q_gain.at || h.q_gain.rank == 1 || h.q_gain.stride[0] % 4 == 0) &&
           (!h.k_gain.at || h.k_gain.rank == 1 || h.k_gain.stride[0] % 4 == 0);
}

void cuda_start_heads(struct cuda *c, const struct heads &h) {
    const unsigned rows = (unsigned)h.rows.n_rows;
    const dim3 grid(rows, (unsigned)(h.q.shape[1] + 2 * h.a.kv_heads));
    const bool warps = rows > HEADS_ROWS && MAX(h.q.shape[2], h.v.shape[2]) <= HEADS_COLS;
    if (warps && takes_fours(h)) {
        const auto kernel = in_bytes(h.a.kv.dtype) ? heads_in_fours<true> : heads_in_fours<false>;
        cuda_start(c, kernel, rows, HEADS_WARPS * 32, 0, h);
    } else if (warps) cuda_start(c, heads_of_row, rows, HEADS_WARPS * 32, 0, h);
    else cuda_start(c, heads, grid, norm_threads(h.q.shape[2]), 0, h);
}

bool cuda_heads_ready(struct device *dev, const struct heads_args *a) {
    struct cuda *c = cuda_of(dev);
    struct tensor none = {};
    const enum dtype dtype = a->attend->kv.dtype;
    if (dtype != BF16 && dtype != F32 && !in_bytes(dtype)) return false;
    struct heads h = { *a->q, *a->k, *a->v, a->q_norm ? cuda_view(dev, a->q_norm) : none,
                       a->k_norm ? cuda_view(dev, a->k_norm) : none, a->normed, a->kind, a->eps,
                       a->rope, a->dims, *a->attend->rows, *a->attend };
    h.rope.freq = (const float *)cuda_there(dev, a->rope.freq);
    cuda_settle(c);
    c->heads_wait = cuda_one_waits(c, h) || cuda_rows_waits(c, h);
    if (c->heads_wait) *c->heads = h;
    else cuda_start_heads(c, h);
    cuda_check(dev);
    return true;
}
