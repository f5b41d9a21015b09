/* experts.cu - rows through the experts they chose. A few rows: a warp for each output of each pair
 * of a row and an expert. More: pairs are sorted by expert, and an expert's weights are read once
 * for four of its rows. A product is dot.h's either way, so a row gives the same bits. What the
 * tensor cores can take goes to experts_mma.cu. */
#include "device/cuda/experts.h"

enum { WARPS = 4, ROWS = 4, FEW = 8, SORT_THREADS = 512, SHARE_THREADS = 128, EXPERTS_MAX = 4096 };

template <enum reading HOW, int R>
__device__ static inline void products(float sum[1][R], const struct linear &l, int64_t out,
                                       const float *x, int64_t x_row, const int *own) {
    const int64_t row[1] = { out * l.w.stride[0] };
#pragma unroll
    for (int r = 0; r < R; r++) sum[0][r] = 0;
    dot<HOW, R, 1>(sum, l.w, row, x, x_row, own, l.w.shape[1]);
}

/* Gate, up and what becomes of them, for up to R pairs of expert e. */
template <enum reading HOW, int R>
__device__ static inline void gate_up_rows(const struct expert_job &j, int e, int64_t out,
                                           const int *pair, int n) {
    float gate[1][R], up[1][R];
    int own[R];
#pragma unroll
    for (int r = 0; r < R; r++) own[r] = pair[MIN(r, n - 1)] / j.active;
    if (j.gate) products<HOW, R>(gate, j.gate[e], out, j.x, j.x_row, own);
    products<HOW, R>(up, j.up[e], out, j.x, j.x_row, own);
    if (threadIdx.x % 32) return;
#pragma unroll
    for (int r = 0; r < R; r++) {
        if (r >= n) break;
        const float u = up[0][r] + expert_bias(j.up[e], out);
        float *to = j.hidden + pair[r] * j.width + out;
        *to = j.gate ? gated(gate[0][r] + expert_bias(j.gate[e], out), u, j.act)
                     : act_of(j.act.act, u);
    }
}

template <enum reading HOW, int R>
__device__ static inline void down_rows(const struct expert_job &j, int e, int64_t out,
                                        const int *pair, int n) {
    float sum[1][R];
    int own[R];
#pragma unroll
    for (int r = 0; r < R; r++) own[r] = pair[MIN(r, n - 1)];
    products<HOW, R>(sum, j.down[e], out, j.hidden, j.width, own);
    if (threadIdx.x % 32) return;
#pragma unroll
    for (int r = 0; r < R; r++)
        if (r < n)
            j.hidden[pair[r] * j.width + 2 * j.n_hidden + out] =
                sum[0][r] + expert_bias(j.down[e], out);
}

/* A block is some outputs of an expert and its rows, or of one pair. */
template <enum reading HOW, bool DOWN>
__global__ static void __launch_bounds__(WARPS * 32) run(struct expert_job j) {
    let_next_begin();
    after_previous();
    const int y = (int)blockIdx.y;
    const int64_t out = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    if (out >= (DOWN ? j.dim : j.n_hidden)) return;
    if (!j.first) {
        if (DOWN) down_rows<HOW, 1>(j, j.ids[y], out, &y, 1);
        else gate_up_rows<HOW, 1>(j, j.ids[y], out, &y, 1);
        return;
    }
    const int end = j.first[y + 1];
    for (int at = j.first[y]; at < end; at += ROWS) {
        const int n = MIN(ROWS, end - at);
        if (DOWN) down_rows<HOW, ROWS>(j, y, out, j.pair + at, n);
        else gate_up_rows<HOW, ROWS>(j, y, out, j.pair + at, n);
    }
}

__global__ static void share_out(struct expert_job j) {
    after_previous();
    let_next_begin();
    const int64_t r = blockIdx.y, i = (int64_t)blockIdx.x * SHARE_THREADS + threadIdx.x;
    const float *part = j.share + r * j.share_row;
    const float *out = j.hidden + r * j.active * j.width + 2 * j.n_hidden + i;
    float sum = 0;
    if (i >= j.dim) return;
#pragma unroll 8
    for (int k = 0; k < j.active; k++) sum += part[k] * out[k * j.width];
    float *y = &j.y[r * j.y_row + i];
    *y = j.residual != 0 ? fmaf(j.residual, sum, *y) : sum;
}

/* to[0] = 0, to[i] = to[i - 1] + tiles that from[i] rows fill. A warp takes 32 at a time, and adds
 * up as it goes. */
__device__ static inline void add_up(int *to, const int *from, int n_to, int tile_rows) {
    int before = 0;
    if (threadIdx.x == 0) to[0] = 0;
    for (int first = 1; first <= n_to; first += 32) {
        const int i = first + (int)threadIdx.x;
        int n = i <= n_to ? (from[i] + tile_rows - 1) / tile_rows : 0;
        for (int k = 1; k < 32; k *= 2) {
            const int other = __shfl_up_sync(~0u, n, k);
            if ((int)threadIdx.x >= k) n += other;
        }
        if (i <= n_to) to[i] = before + n;
        before += __shfl_sync(~0u, n, 31);
    }
}

/* Pairs by expert; those of one expert in any order, for none of them sees another. */
__global__ static void __launch_bounds__(SORT_THREADS) sort_pairs(const int *ids, int pairs,
                                                                  int experts, int *first,
                                                                  int *pair, int *tiles,
                                                                  int tile_rows) {
    __shared__ int at[EXPERTS_MAX + 1];
    let_next_begin();
    after_previous();
    for (int e = threadIdx.x; e <= experts; e += SORT_THREADS) at[e] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < pairs; i += SORT_THREADS) atomicAdd(&at[ids[i] + 1], 1);
    __syncthreads();
    if (threadIdx.x < 32 && tiles) add_up(tiles, at, experts, tile_rows);
    __syncwarp();
    if (threadIdx.x < 32) add_up(at, at, experts, 1);
    __syncthreads();
    for (int e = threadIdx.x; e <= experts; e += SORT_THREADS) first[e] = at[e];
    __syncthreads();
    for (int i = threadIdx.x; i < pairs; i += SORT_THREADS)
        pair[atomicAdd(&at[ids[i]], 1)] = i;
}

/* The experts' views with the device's addresses, made at their first use. */
static struct cuda_table table_of(struct device *dev, const struct linear *w, int n) {
    struct cuda *c = cuda_of(dev);
    auto found = c->experts->find(w);
    if (found != c->experts->end()) return found->second;
    struct cuda_table table = {};
    struct linear *own = new struct linear[n];
    for (int i = 0; i < n; i++) {
        own[i].w = cuda_view(dev, &w[i].w);
        own[i].bias = cuda_view(dev, &w[i].bias);
        /* They share a kernel: the one that all of them allow. */
        enum reading how = reading_of(own[i].w, w[i].w.shape[1], true);
        table.reading = i && how != table.reading ? ANY : how;
    }
    table.mma = cuda_experts_fit(own, n, table.reading);
    size_t bytes = (size_t)n * sizeof *own;
    cudaError_t e = cudaMalloc((void **)&table.at, bytes);
    /* In the order of the stream: a copy outside it may not be over when it returns. */
    if (e == cudaSuccess)
        e = cudaMemcpyAsync(table.at, own, bytes, cudaMemcpyHostToDevice, c->stream);
    cuda_note(dev, e);
    delete[] own;
    if (e == cudaSuccess) (*c->experts)[w] = table;
    return table;
}

template <enum reading HOW, bool DOWN>
static void start(const struct cuda *c, const struct expert_job &j, unsigned many) {
    cuda_start(c, run<HOW, DOWN>, dim3(blocks_of(DOWN ? j.dim : j.n_hidden, WARPS), many),
               WARPS * 32, 0, j);
}

/* F32 is for comparison: one reading for the commonest format, one for all others. */
template <bool DOWN>
static void start_f32(const struct cuda *c, const struct expert_job &j, unsigned many, int how) {
    if (how == AFFINE_4_BF16) start<AFFINE_4_BF16, DOWN>(c, j, many);
    else start<ANY, DOWN>(c, j, many);
}

void cuda_experts(struct device *dev, struct tensor *y, const struct tensor *x,
                  const struct expert_args *a) {
    const struct cuda *c = cuda_of(dev);
    const int rows = (int)x->shape[0], active = (int)a->ids->shape[1], pairs = rows * active;
    const struct cuda_table up = table_of(dev, a->up, a->experts);
    const struct cuda_table down = table_of(dev, a->down, a->experts);
    const struct cuda_table gate = a->gate ? table_of(dev, a->gate, a->experts) : up;
    if (!up.at || !down.at || !gate.at) return;
    struct expert_job j = {};
    j.gate = a->gate ? gate.at : NULL;
    j.up = up.at;
    j.down = down.at;
    j.ids = (const int *)a->ids->at;
    j.x = (const float *)x->at;
    j.share = (const float *)a->share->at;
    j.hidden = a->hidden;
    const bool adds = a->stream && a->residual != 0;
    if (adds) j.residual = a->residual, *a->added = true;
    j.y = (float *)(adds ? a->stream : y)->at;
    j.x_row = x->stride[0];
    j.y_row = (adds ? a->stream : y)->stride[0];
    j.share_row = a->share->stride[0];
    j.n_hidden = a->up[0].w.shape[0];
    j.dim = y->shape[1];
    j.width = 2 * j.n_hidden + j.dim;
    j.active = active;
    j.experts = a->experts;
    j.act = a->act;
    const bool even = rows_fit(j.x, j.x_row, 0) && gate.reading == up.reading;
    const bool even_down = rows_fit(j.hidden, j.width, 0);
    const bool tensors = c->rounded && even && even_down && gate.mma && up.mma && down.mma &&
                         j.dim >= 64;
    if (rows > FEW) {
        int *first = a->order, *pair = first + a->experts + 1, *tiles = pair + pairs;
        j.tile_rows = tensors ? cuda_experts_wide(c, pairs, a->experts) : 0;
        j.tiles = j.tile_rows ? tiles : NULL;
        cuda_start(c, sort_pairs, 1, SORT_THREADS, 0, j.ids, pairs, a->experts, first, pair,
                   j.tile_rows ? tiles : NULL, j.tile_rows);
        j.first = first;
        j.pair = pair;
    }
    const unsigned many = (unsigned)(j.first ? a->experts : pairs);
    if (j.tile_rows) {
        cuda_experts_wgmma(c, j, (unsigned)rows, up.reading, down.reading);
    } else if (tensors) {
        cuda_experts_mma(c, j, (unsigned)rows, many, up.reading, down.reading);
    } else {
        start_f32<false>(c, j, many, even ? up.reading : ANY);
        start_f32<true>(c, j, many, even_down ? down.reading : ANY);
    }
    cuda_start(c, share_out, dim3(blocks_of(j.dim, SHARE_THREADS), (unsigned)rows), SHARE_THREADS,
               0, j);
    cuda_check(dev);
}
