/* linear.cu - a matrix times rows. A warp computes one output for up to eight rows: each lane
 * sums eight columns in every 256, and the lanes are added in one tree, so a row's bits do not
 * depend on how many rows there are. */
#include "device/cuda/cuda.h"

enum { WARPS = 4, ROWS = 8 };

struct job {
    struct tensor w;                 /* [heads, out, in] */
    const float *bias, *x;
    float *y;
    int64_t bias_head, x_row, x_head, y_row, y_head, n_rows;
};

__device__ static inline void dot(float sum[ROWS], const struct tensor &w, int64_t row,
                                  const float *const x[ROWS], int n_rows, int64_t cols) {
    const int lane = threadIdx.x % 32;
    for (int64_t c = lane * 8; c < cols; c += 256) {
        float v[8];
        const int n = (int)MIN((int64_t)8, cols - c);
        if (n == 8) eight_at(v, w, row + c);
        else for (int k = 0; k < 8; k++)
            v[k] = k < n ? number_at(w.at, w.dtype, row + c + k) : 0;
        for (int r = 0; r < ROWS; r++) {
            if (r >= n_rows) break;
            for (int k = 0; k < n; k++) sum[r] = fmaf(v[k], x[r][c + k], sum[r]);
        }
    }
    for (int r = 0; r < ROWS; r++)
        if (r < n_rows) sum[r] = warp_sum(sum[r]);
}

__global__ static void linear(struct job j) {
    const int64_t out = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32, head = blockIdx.z;
    const int64_t first = (int64_t)blockIdx.y * ROWS;
    if (out >= j.w.shape[1]) return;
    const int n = (int)MIN((int64_t)ROWS, j.n_rows - first);
    const float *x[ROWS];
    float sum[ROWS] = {};
    for (int r = 0; r < ROWS; r++)
        x[r] = j.x + (first + MIN(r, n - 1)) * j.x_row + head * j.x_head;
    dot(sum, j.w, head * j.w.stride[0] + out * j.w.stride[1], x, n, j.w.shape[2]);
    const float bias = j.bias ? j.bias[head * j.bias_head + out] : 0;
    if (threadIdx.x % 32 == 0)
        for (int r = 0; r < n; r++)
            j.y[(first + r) * j.y_row + head * j.y_head + out] = sum[r] + bias;
}

void cuda_linear(struct device *dev, struct tensor *y, const struct linear *l,
                 const struct tensor *x) {
    struct job j = {};
    j.w = cuda_view(dev, &l->w);
    j.bias = (const float *)cuda_there(dev, l->bias.at);
    j.x = (const float *)x->at;
    j.y = (float *)y->at;
    j.x_row = x->stride[0];
    j.y_row = y->stride[0];
    j.n_rows = x->shape[0];
    if (j.w.rank == 3) {
        j.x_head = x->stride[1];
        j.y_head = y->stride[1];
        j.bias_head = l->bias.rank == 2 ? l->bias.stride[0] : 0;
    } else {
        j.w.shape[2] = j.w.shape[1];
        j.w.shape[1] = j.w.shape[0];
        j.w.shape[0] = 1;
        j.w.stride[1] = j.w.stride[0];
        j.w.stride[0] = 0;
    }
    dim3 grid(blocks_of(j.w.shape[1], WARPS), blocks_of(j.n_rows, ROWS), (unsigned)j.w.shape[0]);
    linear<<<grid, WARPS * 32, 0, cuda_of(dev)->stream>>>(j);
    cuda_check(dev);
}

/* ---- experts: the same product, the matrix chosen by the row ---- */

struct choice {
    const struct linear *w;          /* [experts], with addresses of the device */
    const int *ids;                  /* [pairs] */
    const float *x;
    float *y;
    int64_t x_row, y_row;
    int per_row;                     /* pairs that share a row of x */
};

__global__ static void linear_of_pair(struct choice j) {
    const int pair = blockIdx.y;
    const struct linear &l = j.w[j.ids[pair]];
    const int64_t out = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    if (out >= l.w.shape[0]) return;
    const float *x[ROWS] = { j.x + pair / j.per_row * j.x_row };
    float sum[ROWS] = {};
    dot(sum, l.w, out * l.w.stride[0], x, 1, l.w.shape[1]);
    if (threadIdx.x % 32 == 0)
        j.y[pair * j.y_row + out] = sum[0] + (l.bias.at ? ((const float *)l.bias.at)[out] : 0);
}

__global__ static void gate_pair(float *hidden, int64_t width, int64_t n, bool two,
                                 struct gate_args a) {
    float *h = hidden + (int64_t)blockIdx.x * width;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x)
        h[i] = two ? gated(h[i], h[n + i], a) : act_of(a.act, h[i]);
}

__global__ static void share_out(struct tensor y, struct tensor share, const float *out,
                                 int64_t width) {
    const int64_t r = blockIdx.x, active = share.shape[1];
    float *to = (float *)y.at + r * y.stride[0];
    const float *part = (const float *)share.at + r * share.stride[0];
    for (int64_t i = threadIdx.x; i < y.shape[1]; i += blockDim.x) {
        float sum = 0;
        for (int64_t k = 0; k < active; k++) sum += part[k] * out[(r * active + k) * width + i];
        to[i] = sum;
    }
}

/* The experts' views with the device's addresses, made at their first use. */
static const struct linear *table_of(struct device *dev, const struct linear *w, int n) {
    struct cuda *c = cuda_of(dev);
    auto found = c->experts->find(w);
    if (found != c->experts->end()) return found->second;
    struct linear *there = NULL, *own = new struct linear[n];
    for (int i = 0; i < n; i++) {
        own[i].w = cuda_view(dev, &w[i].w);
        own[i].bias = cuda_view(dev, &w[i].bias);
    }
    size_t bytes = (size_t)n * sizeof *own;
    cudaError_t e = cudaMalloc((void **)&there, bytes);
    if (e == cudaSuccess) e = cudaMemcpy(there, own, bytes, cudaMemcpyHostToDevice);
    if (c->error == cudaSuccess) c->error = e;
    delete[] own;
    if (e == cudaSuccess) (*c->experts)[w] = there;
    return there;
}

static void run_pairs(struct device *dev, const struct linear *w, int experts, struct choice j,
                      unsigned pairs) {
    j.w = table_of(dev, w, experts);
    if (!j.w) return;
    linear_of_pair<<<dim3(blocks_of(w[0].w.shape[0], WARPS), pairs), WARPS * 32, 0,
                     cuda_of(dev)->stream>>>(j);
}

void cuda_experts(struct device *dev, struct tensor *y, const struct tensor *x,
                  const struct expert_args *a) {
    const int64_t active = a->ids->shape[1], dim = y->shape[1], hidden = a->up[0].w.shape[0];
    const int64_t width = 2 * hidden + dim;
    const unsigned pairs = (unsigned)(x->shape[0] * active);
    struct choice in = {}, out;
    in.ids = (const int *)a->ids->at;
    in.x = (const float *)x->at;
    in.x_row = x->stride[0];
    in.y_row = width;
    in.per_row = (int)active;
    in.y = a->hidden;
    if (a->gate) {
        run_pairs(dev, a->gate, a->experts, in, pairs);
        in.y = a->hidden + hidden;
    }
    run_pairs(dev, a->up, a->experts, in, pairs);
    gate_pair<<<pairs, 128, 0, cuda_of(dev)->stream>>>(a->hidden, width, hidden, a->gate != NULL,
                                                       a->act);
    out = in;
    out.x = a->hidden;
    out.x_row = width;
    out.per_row = 1;
    out.y = a->hidden + 2 * hidden;
    run_pairs(dev, a->down, a->experts, out, pairs);
    share_out<<<(unsigned)x->shape[0], 128, 0, cuda_of(dev)->stream>>>(
        *y, *a->share, a->hidden + 2 * hidden, width);
    cuda_check(dev);
}
