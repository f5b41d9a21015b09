/* attention.cu - scaled dot-product attention over cached pages. Positions are cut in splits of a
 * fixed length, a block for each row, head and split; a second kernel merges the splits in order.
 * Where a split begins depends on the position alone, so a row's sums do too. */
#include "device/cuda/cuda.h"

enum { THREADS = 128, WARPS = THREADS / 32, SPLIT = 128 };

__device__ static inline char *page_at(const struct kv_view &kv, int seq, int page) {
    return (char *)kv.pages + (size_t)kv.table[(int64_t)seq * kv.pages_max + page] * kv.page_bytes;
}

__device__ static inline int first_visible(const struct attend &a, int pos) {
    int low = 0;
    if (a.window && pos + 1 > a.window) low = pos + 1 - a.window;
    if (a.chunk) low = MAX(low, pos / a.chunk * a.chunk);
    return low;
}

/* What a split leaves: the largest score, the sum of weights, and the weighted values. */
__device__ static inline float *partial_at(float *partial, const struct attend &a, int64_t row,
                                           int head, int split, int splits) {
    return partial + ((row * a.heads + head) * splits + split) * (a.v_dim + 2);
}

struct keys {                        /* of one split of one row and kv head */
    const struct attend *a;
    int seq, kv_head, begin, end;
};

/* page[i] is the page of token s.begin + i: found once, by all threads together, so that no load of
 * a key waits for the table. */
__device__ static inline const char *token_at(const struct keys &s, const char *const *page, int t,
                                              bool value) {
    const struct kv_view &kv = s.a->kv;
    const int width = !value || s.a->v_in_k ? s.a->k_dim : s.a->v_dim;
    const int bytes = kv.dtype == BF16 ? 2 : 4, row = s.a->kv_heads * width;
    const int before = value && !s.a->v_in_k ? kv.page_tokens * s.a->kv_heads * s.a->k_dim : 0;
    return page[t - s.begin] + (size_t)(unsigned)(before + s.kv_head * width) * bytes +
           (size_t)(unsigned)row * bytes * (unsigned)(t % kv.page_tokens);
}

/* Four lanes a key, eight keys a warp: little to add up, many loads under way. */
__device__ static void scores(float *score, const float *q, const struct keys &s,
                              const char *const *page) {
    const int part = threadIdx.x % 4, k_dim = s.a->k_dim;
    for (int t = s.begin + (int)threadIdx.x / 4; t - (int)threadIdx.x / 4 < s.end;
         t += THREADS / 4) {
        const char *k = token_at(s, page, MIN(t, s.end - 1), false);
        float sum = 0;
        if (s.a->kv.dtype == BF16 && k_dim % 8 == 0)
#pragma unroll 4
            for (int i = part * 8; i < k_dim; i += 32) {
                const uint4 v = *(const uint4 *)(k + 2 * i);
                const unsigned w[4] = { v.x, v.y, v.z, v.w };
#pragma unroll
                for (int c = 0; c < 4; c++) {
                    sum = fmaf(q[i + 2 * c], __uint_as_float(w[c] << 16), sum);
                    sum = fmaf(q[i + 2 * c + 1], __uint_as_float(w[c] & 0xffff0000), sum);
                }
            }
        else
            for (int i = part; i < k_dim; i += 4)
                sum = fmaf(q[i], number_at(k, s.a->kv.dtype, i), sum);
        sum += __shfl_xor_sync(~0u, sum, 1);
        sum += __shfl_xor_sync(~0u, sum, 2);
        sum *= s.a->scale;
        if (s.a->softcap != 0) sum = s.a->softcap * tanhf(sum / s.a->softcap);
        if (t < s.end && part == 0) score[t - s.begin] = sum;
    }
}

__device__ static float block_max(float x, float *part) {
    x = warp_max(x);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = x;
    __syncthreads();
    for (int i = 0; i < WARPS; i++) x = fmaxf(x, part[i]);
    __syncthreads();
    return x;
}

__device__ static float block_sum(float x, float *part) {
    x = warp_sum(x);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = x;
    __syncthreads();
    x = 0;
    for (int i = 0; i < WARPS; i++) x += part[i];
    __syncthreads();
    return x;
}

/* Threads that have no column of their own take every second, fourth... token of one, and the parts
 * are added in their order. */
__device__ static void weigh(float *y, const float *weight, float *gathered, const struct keys &s,
                             const char *const *page) {
    const int v_dim = s.a->v_dim, width = v_dim >= THREADS ? THREADS : v_dim;
    const int parts = THREADS / width, part = threadIdx.x / width;
    const enum dtype dtype = s.a->kv.dtype;
    for (int first = 0; first < v_dim; first += width) {
        const int c = first + (int)threadIdx.x % width;
        float sum = 0;
        if (c < v_dim && part < parts) {
            if (dtype == BF16)
#pragma unroll 16
                for (int t = s.begin + part; t < s.end; t += parts)
                    sum = fmaf(weight[t - s.begin],
                               number_at(token_at(s, page, t, true), BF16, c), sum);
            else
                for (int t = s.begin + part; t < s.end; t += parts)
                    sum = fmaf(weight[t - s.begin],
                               number_at(token_at(s, page, t, true), F32, c), sum);
        }
        gathered[threadIdx.x] = sum;
        __syncthreads();
        if (part == 0 && c < v_dim) {
            for (int i = 1; i < parts; i++) sum += gathered[i * width + threadIdx.x];
            y[c] = sum;
        }
        __syncthreads();
    }
}

/* Dynamic shared memory: q [k_dim]. */
__global__ static void __launch_bounds__(THREADS) attend_split(
    float *partial, struct tensor q, struct attend a, struct rows rows, int64_t first_row) {
    extern __shared__ float qs[];
    __shared__ float score[SPLIT], part[WARPS], gathered[THREADS];
    __shared__ const char *page[SPLIT];
    const int64_t row = first_row + blockIdx.x;
    const int head = blockIdx.y, split = blockIdx.z, pos = rows.pos[row];
    const int begin = MAX(first_visible(a, pos), split * SPLIT);
    const int end = MIN(pos + 1, (split + 1) * SPLIT);
    if (begin >= end) return;
    const struct keys s = { &a, rows.seq[row],
                            a.tiled ? head % a.kv_heads : head / (a.heads / a.kv_heads),
                            begin, end };
    const float *from = (const float *)q.at + row * q.stride[0] + head * q.stride[1];
    float *out = partial_at(partial, a, blockIdx.x, head, split, gridDim.z);
    for (int i = threadIdx.x; i < a.k_dim; i += THREADS) qs[i] = from[i];
    for (int i = threadIdx.x; i < end - begin; i += THREADS)
        page[i] = page_at(a.kv, s.seq, (begin + i) / a.kv.page_tokens);
    __syncthreads();
    scores(score, qs, s, page);
    __syncthreads();
    float max = -INFINITY, sum = 0;
    for (int i = threadIdx.x; i < end - begin; i += THREADS) max = fmaxf(max, score[i]);
    max = block_max(max, part);
    for (int i = threadIdx.x; i < end - begin; i += THREADS)
        sum += score[i] = expf(score[i] - max);
    sum = block_sum(sum, part);
    __syncthreads();
    weigh(out + 2, score, gathered, s, page);
    if (threadIdx.x == 0) {
        out[0] = max;
        out[1] = sum;
    }
}

__global__ static void merge(struct tensor y, float *partial, struct attend a, struct rows rows,
                             int64_t first_row, int splits) {
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

/* As many rows at a time as their splits have room. The host does not know positions, but it knows
 * how long a table is. */
void cuda_attention(struct device *dev, struct tensor *y, const struct tensor *q,
                    const struct attend *args) {
    struct attend a = *args;
    struct cuda *c = cuda_of(dev);
    a.sinks = (const float *)cuda_there(dev, a.sinks);
    const unsigned splits = blocks_of((int64_t)a.kv.pages_max * a.kv.page_tokens, SPLIT);
    const int64_t room = PARTIAL_FLOATS / ((int64_t)a.heads * splits * (a.v_dim + 2));
    const int64_t n = a.rows->n_rows, step = room < 1 ? 1 : room < n ? room : n;
    if (room < 1 && c->error == cudaSuccess) c->error = cudaErrorMemoryAllocation;
    for (int64_t row = 0; room > 0 && row < n; row += step) {
        const unsigned some = (unsigned)MIN(step, n - row), heads = (unsigned)a.heads;
        attend_split<<<dim3(some, heads, splits), THREADS, (size_t)a.k_dim * sizeof(float),
                       c->stream>>>(c->partial, *q, a, *args->rows, row);
        merge<<<dim3(some, heads), THREADS, 0, c->stream>>>(*y, c->partial, a, *args->rows, row,
                                                            (int)splits);
    }
    cuda_check(dev);
}

__device__ static void store_row(char *to, const struct tensor &x, int64_t row,
                                 enum dtype dtype) {
    const int64_t head = blockIdx.y, begin = head * x.shape[2];
    const float *from = (const float *)x.at + row * x.stride[0] + head * x.stride[1];
    for (int c = threadIdx.x; c < x.shape[2]; c += THREADS) {
        if (dtype == BF16) ((__nv_bfloat16 *)to)[begin + c] = __float2bfloat16_rn(from[c]);
        else ((float *)to)[begin + c] = from[c];
    }
}

__global__ static void kv_store(struct attend a, struct rows rows, struct tensor k,
                                struct tensor v) {
    const struct kv_view &kv = a.kv;
    const int64_t r = blockIdx.x;
    const size_t bytes = kv.dtype == BF16 ? 2 : 4;
    const size_t k_row = (size_t)(a.kv_heads * a.k_dim) * bytes;
    const size_t v_row = (size_t)(a.kv_heads * a.v_dim) * bytes;
    const int pos = rows.pos[r];
    char *page = page_at(kv, rows.seq[r], pos / kv.page_tokens);
    const size_t at = (size_t)(pos % kv.page_tokens);
    store_row(page + at * k_row, k, r, kv.dtype);
    if (!a.v_in_k) store_row(page + kv.page_tokens * k_row + at * v_row, v, r, kv.dtype);
}

void cuda_kv_store(struct device *dev, const struct attend *a, const struct tensor *k,
                   const struct tensor *v) {
    const dim3 grid((unsigned)a->rows->n_rows, (unsigned)a->kv_heads);
    kv_store<<<grid, THREADS, 0, cuda_of(dev)->stream>>>(
        *a, *a->rows, *k, v ? *v : *k);
    cuda_check(dev);
}
