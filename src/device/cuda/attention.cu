/* attention.cu - scaled dot-product attention over cached pages. Positions are cut in splits of a
 * fixed length, a block for each row, split and group of heads that read the same keys; a second
 * kernel merges the splits in order.
 * Where a split begins depends on the position alone, so a row's sums do too. */
#include "device/cuda/heads.h"

enum { THREADS = 128, WARPS = THREADS / 32, SPLIT = 128, GROUP = 8 };

/* Eight values of a cached row from value i, a multiple of 8; past the n there are, zeros. Bytes
 * without their scale. */
template <enum dtype D, bool WHOLE>
__device__ static inline void eight_of(float v[8], const char *row, int i, int n) {
    if (!WHOLE) {
        for (int c = 0; c < 8; c++)
            v[c] = i + c >= n ? 0 : D == I8 ? (float)((const signed char *)row)[i + c]
                                            : number_at(row, D, i + c);
    } else if (D == I8) {
        const uint2 q = *(const uint2 *)(row + i);
#pragma unroll
        for (int c = 0; c < 8; c++)
            v[c] = (float)(signed char)((c < 4 ? q.x : q.y) >> (c % 4 * 8) & 255);
    } else if (D == FP8) {
        const uint2 q = *(const uint2 *)(row + i);
#pragma unroll
        for (int c = 0; c < 8; c += 2)
            *(float2 *)(v + c) = e4m3_pair((c < 4 ? q.x : q.y) >> (c % 4 * 8));
    } else if (D == BF16) {
        const uint4 q = *(const uint4 *)(row + 2 * i);
        const unsigned w[4] = { q.x, q.y, q.z, q.w };
#pragma unroll
        for (int c = 0; c < 4; c++) {
            v[2 * c] = __uint_as_float(w[c] << 16);
            v[2 * c + 1] = __uint_as_float(w[c] & 0xffff0000);
        }
    } else {
        *(float4 *)v = *(const float4 *)(row + 4 * i);
        *(float4 *)(v + 4) = *(const float4 *)(row + 4 * i + 16);
    }
}

/* What a block works on: heads that read the same cached rows, and the addresses of those, found
 * once, so that no load of a key waits for the table. */
struct split {
    const char *key[SPLIT], *value[SPLIT];
    float k_scale[SPLIT], v_scale[SPLIT];        /* of bytes */
    float score[GROUP][SPLIT];
    float gathered[THREADS * 8];
};

/* score[h][i] = q[h] . key[i]. Four lanes a key: little to add up, many loads under way. */
template <enum dtype D, bool WHOLE, int G>
__device__ static inline void scores(struct split *s, const float *q, int q_row, int n,
                                     const struct attend &a) {
    const int part = threadIdx.x % 4, own = threadIdx.x / 4, k_dim = a.k_dim;
    for (int first = 0; first < n; first += THREADS / 4) {
        const char *k = s->key[MIN(first + own, n - 1)];
        float sum[G] = {};
#pragma unroll 4
        for (int i = part * 8; i < k_dim; i += 32) {
            float v[8];
            eight_of<D, WHOLE>(v, k, i, k_dim);
#pragma unroll
            for (int h = 0; h < G; h++)
#pragma unroll
                for (int c = 0; c < 8; c++) sum[h] = fmaf(q[h * q_row + i + c], v[c], sum[h]);
        }
#pragma unroll
        for (int h = 0; h < G; h++) {
            float x = sum[h];
            x += __shfl_xor_sync(~0u, x, 1);
            x += __shfl_xor_sync(~0u, x, 2);
            if (in_bytes(D)) x *= s->k_scale[MIN(first + own, n - 1)];
            x *= a.scale;
            if (a.softcap != 0) x = a.softcap * tanhf(x / a.softcap);
            if (part == 0 && first + own < n) s->score[h][first + own] = x;
        }
    }
}

/* Scores become weights, a warp for a head; its partial begins with the largest score and the
 * sum of the weights. */
__device__ static inline void soften(float *score, float *partial, int n, const float *v_scale) {
    const int lane = threadIdx.x % 32;
    float max = -INFINITY, sum = 0;
    for (int i = lane; i < n; i += 32) max = fmaxf(max, score[i]);
    max = warp_max(max);
    for (int i = lane; i < n; i += 32) sum += score[i] = expf(score[i] - max);
    sum = warp_sum(sum);
    for (int i = lane; v_scale && i < n; i += 32) score[i] *= v_scale[i];
    if (lane) return;
    partial[0] = max;
    partial[1] = sum;
}

/* y[h] = the weighted values. A thread has eight columns of every second, fourth... token, and
 * the parts are added in their order. */
template <enum dtype D, bool WHOLE, int G>
__device__ static inline void weigh(struct split *s, float *const *y, int n, int heads, int v_dim) {
    for (int first = 0; first < v_dim; first += THREADS * 8) {
        const int width = MIN(v_dim - first, THREADS * 8), lanes = (width + 7) / 8;
        const int parts = THREADS / lanes, part = threadIdx.x / lanes;
        const int col = (int)threadIdx.x % lanes * 8;
        float sum[G][8] = {};
        if (part < parts) {
#pragma unroll 8
            for (int i = part; i < n; i += parts) {
                float v[8];
                eight_of<D, WHOLE>(v, s->value[i], first + col, v_dim);
#pragma unroll
                for (int h = 0; h < G; h++)
#pragma unroll
                    for (int c = 0; c < 8; c++) sum[h][c] = fmaf(s->score[h][i], v[c], sum[h][c]);
            }
        }
#pragma unroll
        for (int h = 0; h < G; h++) {
            if (h >= heads) break;
            __syncthreads();
            for (int c = 0; c < 8 && part < parts; c++)
                s->gathered[part * lanes * 8 + col + c] = sum[h][c];
            __syncthreads();
            for (int c = threadIdx.x; c < width; c += THREADS) {
                float total = 0;
                for (int i = 0; i < parts; i++) total += s->gathered[i * lanes * 8 + c];
                y[h][first + c] = total;
            }
        }
        __syncthreads();
    }
}

/* Dynamic shared memory: q [G][k_dim, to a multiple of 8, zeros behind]. */
template <enum dtype D, bool WHOLE, int G>
__global__ static void __launch_bounds__(THREADS) attend_split(
    float *partial, struct tensor q, struct attend a, struct rows rows, int64_t first_row) {
    let_next_begin();
    after_previous();
    extern __shared__ float4 dynamic[];
    __shared__ struct split s;
    float *qs = (float *)dynamic, *out[G];
    const int64_t row = first_row + blockIdx.x;
    const int group = a.heads / a.kv_heads, chunks = (group + G - 1) / G;
    const int kv_head = blockIdx.y / chunks, first = blockIdx.y % chunks * G;
    const int heads = MIN(G, group - first), split = blockIdx.z, pos = rows.pos[row];
    const int begin = MAX(first_visible(a, pos), split * SPLIT);
    const int n = MIN(pos + 1, (split + 1) * SPLIT) - begin, q_row = (a.k_dim + 7) / 8 * 8;
    if (n <= 0) return;
    for (int h = 0; h < G; h++) {
        const int head = a.tiled ? (first + h) * a.kv_heads + kv_head
                                 : kv_head * group + first + h;
        const float *from = (const float *)q.at + row * q.stride[0] + head * q.stride[1];
        for (int i = threadIdx.x; i < q_row; i += THREADS)
            qs[h * q_row + i] = h < heads && i < a.k_dim ? from[i] : 0;
        if (h < heads) out[h] = partial_at(partial, a, blockIdx.x, head, split, gridDim.z);
    }
    const size_t bytes = cached_bytes(D), tokens = a.kv.page_tokens;
    for (int i = threadIdx.x; i < n; i += THREADS) {
        char *page = page_at(a.kv, rows.seq[row], (begin + i) / a.kv.page_tokens);
        const size_t t = (size_t)((begin + i) % a.kv.page_tokens);
        s.key[i] = page + (kv_head * tokens + t) * bytes * a.k_dim;
        if (in_bytes(D)) {
            s.k_scale[i] = *scale_at(a, page, kv_head, 0, begin + i);
            s.v_scale[i] = *scale_at(a, page, kv_head, 1, begin + i);
        }
        s.value[i] = a.v_in_k ? s.key[i] : page + values_at(a, bytes) +
                                           (kv_head * tokens + t) * bytes * a.v_dim;
    }
    __syncthreads();
    scores<D, WHOLE, G>(&s, qs, q_row, n, a);
    __syncthreads();
#pragma unroll
    for (int h = 0; h < G; h++)
        if (h < heads && h % WARPS == threadIdx.x / 32)
            soften(s.score[h], out[h], n, in_bytes(D) ? s.v_scale : NULL);
#pragma unroll
    for (int h = 0; h < G; h++)
        if (h < heads) out[h] += 2;
    __syncthreads();
    weigh<D, WHOLE, G>(&s, out, n, heads, a.v_dim);
}

__global__ static void merge(struct tensor y, float *partial, struct attend a, struct rows rows,
                             int64_t first_row, int splits) {
    let_next_begin();
    after_previous();
    const int64_t row = first_row + blockIdx.x;
    const int head = blockIdx.y, pos = rows.pos[row];
    const int first = first_visible(a, pos) / SPLIT, last = pos / SPLIT;
    float max = a.sinks ? a.sinks[head] : -INFINITY, sum = 0;
    for (int i = first; i <= last; i++)
        max = fmaxf(max, partial_at(partial, a, blockIdx.x, head, i, splits)[0]);
    if (a.sinks) sum = expf(a.sinks[head] - max);
    for (int i = first; i <= last; i++) {
        const float *p = partial_at(partial, a, blockIdx.x, head, i, splits);
        sum += p[1] * expf(p[0] - max);
    }
    float *out = (float *)y.at + row * y.stride[0] + head * y.stride[1];
    for (int c = threadIdx.x; c < a.v_dim; c += THREADS) {
        float v = 0;
        for (int i = first; i <= last; i++) {
            const float *p = partial_at(partial, a, blockIdx.x, head, i, splits);
            v = fmaf(p[2 + c], expf(p[0] - max), v);
        }
        out[c] = v / sum;
    }
}

struct launch {
    struct cuda *c;
    struct attend a;
    struct tensor q;
    int64_t row;
    unsigned rows, splits;
};

template <enum dtype D, bool WHOLE, int G>
static void start(const struct launch &l) {
    const unsigned chunks = blocks_of(l.a.heads / l.a.kv_heads, G);
    const size_t bytes = (size_t)G * (size_t)((l.a.k_dim + 7) / 8 * 8) * sizeof(float);
    cuda_start(l.c, attend_split<D, WHOLE, G>,
               dim3(l.rows, (unsigned)l.a.kv_heads * chunks, l.splits), THREADS, bytes,
               l.c->partial, l.q, l.a, *l.a.rows, l.row);
}

template <enum dtype D>
static void by_group(const struct launch &l, bool whole) {
    const int group = l.a.heads / l.a.kv_heads;
    if (!whole) start<D, false, 1>(l);
    else if (group == 1) start<D, true, 1>(l);
    else if (group == 2) start<D, true, 2>(l);
    else if (group <= 4) start<D, true, 4>(l);
    else start<D, true, GROUP>(l);
}

static void by_dtype(const struct launch &l) {
    const struct attend &a = l.a;
    const bool whole = a.k_dim % 8 == 0 && a.v_dim % 8 == 0 && a.kv.page_bytes % 16 == 0 &&
                       (uintptr_t)a.kv.pages % 16 == 0;
    if (a.kv.dtype == BF16) by_group<BF16>(l, whole);
    else if (a.kv.dtype == I8) by_group<I8>(l, whole);
    else if (a.kv.dtype == FP8) by_group<FP8>(l, whole);
    else by_group<F32>(l, whole);
}

/* As many rows at a time as their splits have room. The host does not know positions, but it knows
 * how long a table is. */
void cuda_attention(struct device *dev, struct tensor *y, const struct tensor *q,
                    const struct attend *args) {
    struct cuda *c = cuda_of(dev);
    struct launch l = { c, *args, *q };
    if (cuda_attention_mma(dev, y, q, args)) return;
    l.a.sinks = (const float *)cuda_there(dev, l.a.sinks);
    l.splits = blocks_of((int64_t)l.a.kv.pages_max * l.a.kv.page_tokens, SPLIT);
    const int64_t room = PARTIAL_FLOATS / ((int64_t)l.a.heads * l.splits * (l.a.v_dim + 2));
    const int64_t n = args->rows->n_rows, step = MIN(room, n);
    if (room < 1 && c->error == cudaSuccess) c->error = cudaErrorMemoryAllocation;
    for (l.row = 0; room > 0 && l.row < n; l.row += step) {
        l.rows = (unsigned)MIN(step, n - l.row);
        by_dtype(l);
        cuda_start(c, merge, dim3(l.rows, (unsigned)l.a.heads), THREADS, 0, *y, c->partial, l.a,
                   *args->rows, l.row, (int)l.splits);
    }
    cuda_check(dev);
}

__global__ static void kv_store(struct attend a, struct rows rows, struct tensor k,
                                struct tensor v) {
    let_next_begin();
    after_previous();
    const int64_t r = blockIdx.x;
    const int head = blockIdx.y;
    for (int i = 0; i < (a.v_in_k ? 1 : 2); i++) {
        const struct tensor &x = i ? v : k;
        block_put(cached_at(a, rows, r, head, i == 0), a.kv.dtype, head_at(x, r, head),
                  (int)x.shape[2]);
    }
}

void cuda_kv_store(struct device *dev, const struct attend *a, const struct tensor *k,
                   const struct tensor *v) {
    const dim3 grid((unsigned)a->rows->n_rows, (unsigned)a->kv_heads);
    cuda_start(cuda_of(dev), kv_store, grid, THREADS, 0, *a, *a->rows, *k, v ? *v : *k);
    cuda_check(dev);
}
