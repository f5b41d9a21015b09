/* linear.cu - a matrix times rows. A warp computes a few outputs for up to eight rows: each lane
 * sums eight columns in every 256, and the lanes are added in one tree, so a row's bits do not
 * depend on how many rows there are, nor on how many outputs a warp takes. */
#include "device/cuda/linear.h"

enum { WARPS = 4, ROWS = 8 };

struct job {
    struct tensor w;                 /* [heads, out, in] */
    const float *bias, *x;
    float *y;
    int64_t bias_head, x_row, x_head, y_row, y_head, n_rows;
};

/* How eight weights are read. All but ANY expect what reading_of checks; the dtype is in the name,
 * because a branch between two loads makes the second wait for the first. */
enum reading { ANY, BF16_8, F16_8, AFFINE_4_BF16, AFFINE_4_F16, AFFINE_8_BF16, AFFINE_8_F16 };

template <bool BF>
__device__ static inline float half_of(unsigned bits) {
    return BF ? __uint_as_float(bits << 16)
              : __half2float(__ushort_as_half((unsigned short)bits));
}

template <enum reading HOW>
__device__ static inline void read_eight(float v[8], const struct tensor &w, int64_t i) {
    const bool bf = HOW == BF16_8 || HOW == AFFINE_4_BF16 || HOW == AFFINE_8_BF16;
    if (HOW == ANY) {
        eight_at(v, w, i);
    } else if (HOW == BF16_8 || HOW == F16_8) {
        const uint4 q = *(const uint4 *)((const char *)w.at + 2 * i);
        const unsigned word[4] = { q.x, q.y, q.z, q.w };
#pragma unroll
        for (int k = 0; k < 8; k++) v[k] = half_of<bf>(word[k / 2] >> (k % 2 * 16) & 0xffff);
    } else {
        const int64_t group = i >> (31 - __clz(w.quant.group));          /* a power of two */
        const unsigned s = ((const unsigned short *)w.quant.scales)[group];
        const unsigned b = ((const unsigned short *)w.quant.biases)[group];
        if (HOW == AFFINE_4_BF16 || HOW == AFFINE_4_F16) {
            const unsigned q = *(const unsigned *)((const char *)w.at + i / 2);
#pragma unroll
            for (int k = 0; k < 8; k++)
                v[k] = (float)(q >> 4 * k & 15) * half_of<bf>(s) + half_of<bf>(b);
        } else {
            const uint2 q = *(const uint2 *)((const char *)w.at + i);
#pragma unroll
            for (int k = 0; k < 8; k++)
                v[k] = (float)((k < 4 ? q.x : q.y) >> (k % 4 * 8) & 255) * half_of<bf>(s) +
                       half_of<bf>(b);
        }
    }
}

/* sum[o][r] += row o of w times x[r], in the lane's columns; lanes are added at the end. Columns
 * past a multiple of eight go to the lane whose turn it is. */
template <enum reading HOW, int R, int N>
__device__ static inline void dot(float sum[N][R], const struct tensor &w, const int64_t *row,
                                  const float *x, int64_t x_row, const int *own, int64_t cols) {
    const int64_t whole = cols / 8 * 8;
#pragma unroll (N == 1 ? 8 : 2)
    for (int64_t c = threadIdx.x % 32 * 8; c < whole; c += 256) {
        float v[N][8];
#pragma unroll
        for (int o = 0; o < N; o++) read_eight<HOW>(v[o], w, row[o] + c);
#pragma unroll
        for (int r = 0; r < R; r++) {
            const float *from = x + own[r] * x_row + c;
            float in[8];
            if (HOW == ANY) {
                for (int k = 0; k < 8; k++) in[k] = from[k];
            } else {
                *(float4 *)in = *(const float4 *)from;
                *(float4 *)(in + 4) = *(const float4 *)(from + 4);
            }
#pragma unroll
            for (int o = 0; o < N; o++)
#pragma unroll
                for (int k = 0; k < 8; k++) sum[o][r] = fmaf(v[o][k], in[k], sum[o][r]);
        }
    }
    if (HOW == ANY && threadIdx.x % 32 == whole / 8 % 32)
        for (int64_t c = whole; c < cols; c++)
            for (int o = 0; o < N; o++)
                for (int r = 0; r < R; r++)
                    sum[o][r] = fmaf(number_at(w.at, w.dtype, row[o] + c), x[own[r] * x_row + c],
                                     sum[o][r]);
#pragma unroll
    for (int o = 0; o < N; o++)
#pragma unroll
        for (int r = 0; r < R; r++) sum[o][r] = warp_sum(sum[o][r]);
}

/* Outputs and rows past the end are computed again as the last one, and not written. One row
 * leaves a warp one output: what counts there is how many loads are under way. */
template <enum reading HOW, int R, int OUTS>
__global__ static void __launch_bounds__(WARPS * 32) linear(struct job j) {
    const int64_t first = ((int64_t)blockIdx.x * WARPS + threadIdx.x / 32) * OUTS;
    const int64_t head = blockIdx.z, outs = j.w.shape[1], top = (int64_t)blockIdx.y * ROWS;
    if (first >= outs) return;
    const int n = (int)MIN((int64_t)R, j.n_rows - top);
    int64_t row[OUTS];
    int own[R];
    float sum[OUTS][R] = {};
#pragma unroll
    for (int o = 0; o < OUTS; o++)
        row[o] = head * j.w.stride[0] + MIN(first + o, outs - 1) * j.w.stride[1];
#pragma unroll
    for (int r = 0; r < R; r++) own[r] = MIN(r, n - 1);
    dot<HOW, R, OUTS>(sum, j.w, row, j.x + top * j.x_row + head * j.x_head, j.x_row, own,
                      j.w.shape[2]);
    if (threadIdx.x % 32) return;
#pragma unroll
    for (int o = 0; o < OUTS; o++) {
        if (first + o >= outs) break;
        const float bias = j.bias ? j.bias[head * j.bias_head + first + o] : 0;
        float *y = j.y + top * j.y_row + head * j.y_head + first + o;
#pragma unroll
        for (int r = 0; r < R; r++)
            if (r < n) y[r * j.y_row] = sum[o][r] + bias;
    }
}

static bool aligned(const void *p, size_t bytes) {
    return (uintptr_t)p % bytes == 0;
}

/* Vectors of 16 bytes need such addresses, of rows too. */
static enum reading reading_of(const struct tensor &w, int64_t cols, bool x_fits) {
    bool rows_fit = cols % 8 == 0 && x_fits;
    for (int i = 0; i + 1 < w.rank; i++) rows_fit = rows_fit && w.stride[i] % 8 == 0;
    if (!rows_fit) return ANY;
    if ((w.dtype == BF16 || w.dtype == F16) && aligned(w.at, 16))
        return w.dtype == BF16 ? BF16_8 : F16_8;
    if (w.dtype != MLX_AFFINE || !aligned(w.at, 8) || w.quant.scale_dtype == F32) return ANY;
    const bool bf = w.quant.scale_dtype == BF16;
    if (w.quant.bits == 4) return bf ? AFFINE_4_BF16 : AFFINE_4_F16;
    if (w.quant.bits == 8) return bf ? AFFINE_8_BF16 : AFFINE_8_F16;
    return ANY;
}

static bool rows_fit(const float *x, int64_t row, int64_t head) {
    return aligned(x, 16) && row % 4 == 0 && head % 4 == 0;
}

template <enum reading HOW, int R, int OUTS>
static void start(const struct job &j, cudaStream_t stream) {
    const dim3 grid(blocks_of(j.w.shape[1], WARPS * OUTS), blocks_of(j.n_rows, ROWS),
                    (unsigned)j.w.shape[0]);
    linear<HOW, R, OUTS><<<grid, WARPS * 32, 0, stream>>>(j);
}

template <enum reading HOW>
static void launch(const struct job &j, cudaStream_t stream) {
    if (j.n_rows == 1) start<HOW, 1, 1>(j, stream);
    else if (j.n_rows == 2) start<HOW, 2, 2>(j, stream);
    else if (j.n_rows <= 4) start<HOW, 4, 4>(j, stream);
    else start<HOW, ROWS, 4>(j, stream);
}

/* Few rows at a time, however many there are: it reads the weights again for each FEW_ROWS, but
 * packed ones are small, and bits are the same as those of linear_wgmma.cu. */
static void stream_rows(struct cuda *c, const struct tensor &w, const struct cuda_rows &r) {
    struct cuda_products a = {};
    if (r.n > FEW_ROWS && w.dtype == BF16 && cuda_linear_many(c, w, r)) return;
    a.n = 1;
    a.w[0] = w;
    a.bias[0] = r.bias;
    a.x_row = r.x_row;
    a.y_row[0] = r.y_row;
    for (int64_t row = 0; row < r.n; row += FEW_ROWS) {
        a.n_rows = (int)MIN((int64_t)FEW_ROWS, r.n - row);
        a.x = r.x + row * r.x_row;
        a.y[0] = r.y + row * r.y_row;
        cuda_linear_few(c, a);
    }
}

/* One format and one width, so that one kernel reads all. */
static bool alike(const struct tensor &a, const struct tensor &b) {
    return a.dtype == b.dtype && a.shape[1] == b.shape[1] &&
           (a.dtype == BF16 || (a.quant.bits == b.quant.bits && a.quant.group == b.quant.group &&
                                a.quant.scale_dtype == b.quant.scale_dtype));
}

bool cuda_products(struct device *dev, const struct products *p) {
    struct cuda *c = cuda_of(dev);
    struct cuda_products a = {};
    a.n = p->n;
    a.n_rows = (int)p->x->shape[0];
    if (p->x->shape[0] > FEW_ROWS) return false;
    for (int i = 0; i < p->n; i++) {
        a.w[i] = cuda_view_any(dev, &p->w[i]->w);
        a.bias[i] = (const float *)cuda_there(dev, p->w[i]->bias.at);
        a.y[i] = p->y[i] ? (float *)p->y[i]->at : NULL;
        a.y_row[i] = p->y[i] ? p->y[i]->stride[0] : 0;
        if (!cuda_streams(c, a.w[i]) || !alike(a.w[0], a.w[i])) return false;
    }
    a.x = (const float *)p->x->at;
    a.x_row = p->x->stride[0];
    a.end = p->end;
    a.act = p->act;
    a.scale = p->scale;
    const bool done = cuda_linear_few(c, a);
    cuda_check(dev, true);
    return done;
}

void cuda_linear(struct device *dev, struct tensor *y, const struct linear *l,
                 const struct tensor *x) {
    struct job j = {};
    j.w = cuda_view_any(dev, &l->w);
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
    struct cuda *c = cuda_of(dev);
    const struct tensor w = cuda_view_any(dev, &l->w);
    const struct cuda_rows r = { j.x, j.bias, j.y, j.x_row, j.y_row, j.n_rows };
    if (cuda_streams(c, w)) {
        stream_rows(c, w, r);
        cuda_check(dev, true);
        return;
    }
    cuda_view(dev, &l->w);           /* who comes here knows no packed matrices */
    if (c->rounded && l->w.rank == 2 && cuda_linear_mma(c, w, r)) {
        cuda_check(dev);
        return;
    }
    cudaStream_t stream = c->stream;
    switch (reading_of(j.w, j.w.shape[2], rows_fit(j.x, j.x_row, j.x_head))) {
    case BF16_8:        launch<BF16_8>(j, stream); break;
    case F16_8:         launch<F16_8>(j, stream); break;
    case AFFINE_4_BF16: launch<AFFINE_4_BF16>(j, stream); break;
    case AFFINE_4_F16:  launch<AFFINE_4_F16>(j, stream); break;
    case AFFINE_8_BF16: launch<AFFINE_8_BF16>(j, stream); break;
    case AFFINE_8_F16:  launch<AFFINE_8_F16>(j, stream); break;
    case ANY:           launch<ANY>(j, stream); break;
    }
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

template <enum reading HOW>
__global__ static void linear_of_pair(struct choice j) {
    const int pair = blockIdx.y, own[1] = { 0 };
    const struct linear &l = j.w[j.ids[pair]];
    const int64_t out = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    if (out >= l.w.shape[0]) return;
    const int64_t row = out * l.w.stride[0];
    float sum[1][1] = {};
    dot<HOW, 1, 1>(sum, l.w, &row, j.x + pair / j.per_row * j.x_row, 0, own, l.w.shape[1]);
    if (threadIdx.x % 32 == 0)
        j.y[pair * j.y_row + out] = sum[0][0] + (l.bias.at ? ((const float *)l.bias.at)[out] : 0);
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
    size_t bytes = (size_t)n * sizeof *own;
    cudaError_t e = cudaMalloc((void **)&table.at, bytes);
    if (e == cudaSuccess) e = cudaMemcpy(table.at, own, bytes, cudaMemcpyHostToDevice);
    if (c->error == cudaSuccess) c->error = e;
    delete[] own;
    if (e == cudaSuccess) (*c->experts)[w] = table;
    return table;
}

static void run_pairs(struct device *dev, const struct linear *w, int experts, struct choice j,
                      unsigned pairs) {
    const struct cuda_table table = table_of(dev, w, experts);
    const dim3 grid(blocks_of(w[0].w.shape[0], WARPS), pairs);
    j.w = table.at;
    if (!j.w) return;
    cudaStream_t stream = cuda_of(dev)->stream;
    const dim3 block(WARPS * 32);
    switch (rows_fit(j.x, j.x_row, 0) ? table.reading : ANY) {
    case BF16_8:        linear_of_pair<BF16_8><<<grid, block, 0, stream>>>(j); break;
    case F16_8:         linear_of_pair<F16_8><<<grid, block, 0, stream>>>(j); break;
    case AFFINE_4_BF16: linear_of_pair<AFFINE_4_BF16><<<grid, block, 0, stream>>>(j); break;
    case AFFINE_4_F16:  linear_of_pair<AFFINE_4_F16><<<grid, block, 0, stream>>>(j); break;
    case AFFINE_8_BF16: linear_of_pair<AFFINE_8_BF16><<<grid, block, 0, stream>>>(j); break;
    case AFFINE_8_F16:  linear_of_pair<AFFINE_8_F16><<<grid, block, 0, stream>>>(j); break;
    case ANY:           linear_of_pair<ANY><<<grid, block, 0, stream>>>(j); break;
    }
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
