/* attention.cu - scaled dot-product attention over cached pages, softmax online, a block for
 * each row and head. Keys are taken a page at a time, in position order, so a row's sums depend
 * on its position and window alone. */
#include "device/cuda/cuda.h"

enum { THREADS = 128, WARPS = THREADS / 32, PAGE_TOKENS_MAX = 64, EACH_MAX = 8 };

__device__ static inline char *page_at(const struct kv_view &kv, int seq, int page) {
    return (char *)kv.pages + (size_t)kv.table[(int64_t)seq * kv.pages_max + page] * kv.page_bytes;
}

__device__ static inline int first_visible(const struct attend &a, int pos) {
    int low = 0;
    if (a.window && pos + 1 > a.window) low = pos + 1 - a.window;
    if (a.chunk) low = MAX(low, pos / a.chunk * a.chunk);
    return low;
}

/* Dynamic shared memory: q [k_dim]. A thread owns the columns threadIdx.x + i THREADS of y. */
__global__ static void attention(struct tensor y, struct tensor q, struct attend a,
                                 struct rows rows) {
    extern __shared__ float qs[];
    __shared__ float score[PAGE_TOKENS_MAX];
    const struct kv_view &kv = a.kv;
    const int row = blockIdx.x, head = blockIdx.y, lane = threadIdx.x % 32;
    const int pos = rows.pos[row], seq = rows.seq[row], low = first_visible(a, pos);
    const int tokens = kv.page_tokens, v_width = a.v_in_k ? a.k_dim : a.v_dim;
    const int kv_head = a.tiled ? head % a.kv_heads : head / (a.heads / a.kv_heads);
    const int64_t k_row = (int64_t)a.kv_heads * a.k_dim, v_row = (int64_t)a.kv_heads * v_width;
    const size_t bytes = kv.dtype == BF16 ? 2 : 4;
    const float *from = (const float *)q.at + row * q.stride[0] + head * q.stride[1];
    for (int i = threadIdx.x; i < a.k_dim; i += THREADS) qs[i] = from[i];
    float own[EACH_MAX] = {}, max = a.sinks ? a.sinks[head] : -INFINITY, sum = a.sinks ? 1 : 0;

    for (int page = low / tokens; page <= pos / tokens; page++) {
        const int begin = MAX(low - page * tokens, 0), end = MIN(pos + 1 - page * tokens, tokens);
        const char *k = page_at(kv, seq, page), *v = k + (a.v_in_k ? 0 : tokens * k_row * bytes);
        __syncthreads();
        for (int t = begin + (int)threadIdx.x / 32; t < end; t += WARPS) {
            float s = 0;
            for (int i = lane; i < a.k_dim; i += 32)
                s = fmaf(qs[i], number_at(k, kv.dtype, t * k_row + kv_head * a.k_dim + i), s);
            s = warp_sum(s) * a.scale;
            if (a.softcap != 0) s = a.softcap * tanhf(s / a.softcap);
            if (lane == 0) score[t] = s;
        }
        __syncthreads();
        float top = max;
        for (int t = begin; t < end; t++) top = fmaxf(top, score[t]);
        const float shrink = expf(max - top);
        max = top;
        sum *= shrink;
        for (int i = 0; i < EACH_MAX; i++) own[i] *= shrink;
        for (int t = begin; t < end; t++) {
            const float p = expf(score[t] - max);
            sum += p;
            for (int i = 0; i < EACH_MAX; i++) {
                const int c = threadIdx.x + i * THREADS;
                if (c < a.v_dim)
                    own[i] = fmaf(p, number_at(v, kv.dtype, t * v_row + kv_head * v_width + c),
                                  own[i]);
            }
        }
    }
    float *out = (float *)y.at + row * y.stride[0] + head * y.stride[1];
    for (int i = 0; i < EACH_MAX; i++) {
        const int c = threadIdx.x + i * THREADS;
        if (c < a.v_dim) out[c] = own[i] / sum;
    }
}

void cuda_attention(struct device *dev, struct tensor *y, const struct tensor *q,
                    const struct attend *args) {
    struct attend a = *args;
    a.sinks = (const float *)cuda_there(dev, a.sinks);
    dim3 grid((unsigned)a.rows->n_rows, (unsigned)a.heads);
    attention<<<grid, THREADS, (size_t)a.k_dim * sizeof(float), cuda_of(dev)->stream>>>(
        *y, *q, a, *args->rows);
    cuda_check(dev);
}

__device__ static void store_row(char *to, const struct tensor &x, int64_t row,
                                 enum dtype dtype) {
    const int64_t n = x.shape[1] * x.shape[2];
    for (int64_t i = threadIdx.x; i < n; i += THREADS) {
        const int64_t h = i / x.shape[2], c = i % x.shape[2];
        const float f = ((const float *)x.at)[row * x.stride[0] + h * x.stride[1] + c];
        if (dtype == BF16) ((__nv_bfloat16 *)to)[i] = __float2bfloat16_rn(f);
        else ((float *)to)[i] = f;
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
    kv_store<<<(unsigned)a->rows->n_rows, THREADS, 0, cuda_of(dev)->stream>>>(
        *a, *a->rows, *k, v ? *v : *k);
    cuda_check(dev);
}
