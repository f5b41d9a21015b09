/* recurrent.cu - the ops whose state is a slot per sequence: causal convolution, Mamba-2's state
 * space and the gated delta rule. Rows of a sequence go in order; sequences, heads and columns are
 * independent.
 *
 * States of heads lie as [heads, columns, depth]. A few lanes share a column: each takes four
 * numbers of its depth out of every `lanes` times four, which stay in registers while the rows go
 * by. What all columns of a head need of a row lies in shared memory, some rows at a time. The
 * order of a sum is that of one row, however many there are. */
#include "device/cuda/cuda.h"

enum { THREADS = 128, STAGED_ROWS = 16, STAGED_FLOATS = 4096, CONV_ROWS = 32, TAPS_MAX = 8 };

__device__ static inline float *row_at(const struct tensor &t, int64_t r) {
    return (float *)t.at + r * t.stride[0];
}

__device__ static inline float *state_at(const struct state_view &v, int seq, int64_t at) {
    return (float *)((char *)v.slots + (size_t)v.slot[seq] * v.slot_bytes) + at;
}

__device__ static inline bool begins(const struct rows &rows, int seq) {
    return rows.pos[rows.first[seq]] == 0;
}

/* ---- convolution ---- */

/* A thread for a channel and CONV_ROWS rows. The tail holds the last inputs, oldest first; only
 * the thread of a sequence's first rows looks at it, and it renews it. */
template <int TAPS>
__global__ static void conv(struct tensor y, struct tensor w, const float *bias, struct tensor x,
                            struct rows rows, struct state_view state, enum act act) {
    const int64_t c = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    const int seq = blockIdx.z, first = rows.first[seq], last = rows.first[seq + 1];
    const int begin = first + (int)blockIdx.y * CONV_ROWS, end = min(begin + CONV_ROWS, last);
    if (c >= x.shape[1] || begin >= last) return;
    float k[TAPS + 1], past[TAPS];
    float *tail = state_at(state, seq, c * TAPS);
#pragma unroll
    for (int i = 0; i <= TAPS; i++) k[i] = row_at(w, c)[i];
#pragma unroll
    for (int i = 0; i < TAPS; i++)
        past[i] = begin > first ? row_at(x, begin - TAPS + i)[c] : begins(rows, seq) ? 0 : tail[i];
    const float b = bias ? bias[c] : 0;
    for (int r = begin; r < end; r++) {
        const float in = row_at(x, r)[c];
        float sum = 0;
#pragma unroll
        for (int i = 0; i < TAPS; i++) sum = fmaf(k[i], past[i], sum);
        sum = fmaf(k[TAPS], in, sum);
        row_at(y, r)[c] = act_of(act, sum + b);
#pragma unroll
        for (int i = 0; i + 1 < TAPS; i++) past[i] = past[i + 1];
        past[TAPS - 1] = in;
    }
    if (begin > first) return;
#pragma unroll
    for (int i = 0; i < TAPS; i++) tail[i] = end < last ? row_at(x, last - TAPS + i)[c] : past[i];
}

typedef void conv_kernel(struct tensor, struct tensor, const float *, struct tensor, struct rows,
                         struct state_view, enum act);
static conv_kernel *const convs[TAPS_MAX] = { conv<1>, conv<2>, conv<3>, conv<4>,
                                               conv<5>, conv<6>, conv<7>, conv<8> };

void cuda_conv(struct device *dev, struct tensor *y, const struct tensor *w,
               const struct tensor *bias, const struct tensor *x, const struct rows *rows,
               const struct state_view *state, enum act act) {
    const float *b = bias ? (const float *)cuda_there(dev, bias->at) : NULL;
    const dim3 grid(blocks_of(x->shape[1], THREADS), blocks_of(rows->n_rows, CONV_ROWS),
                    (unsigned)rows->n_seqs);
    cuda_settle(cuda_of(dev));
    convs[w->shape[1] - 2]<<<grid, THREADS, 0, cuda_of(dev)->stream>>>(
        *y, cuda_view(dev, w), b, *x, *rows, *state, act);
    cuda_check(dev);
}

/* ---- states of heads ---- */

/* LANES share a column, N numbers of it each; those beyond the depth are 0. Staged rows are PITCH
 * floats apart, so that rows that groups of lanes read at a time lie in different banks. */
template <int N, int LANES> struct scan {
    enum { DEPTH = N * LANES, PITCH = DEPTH + 4, COLUMNS = THREADS / LANES,
           ROWS = STAGED_FLOATS / DEPTH < STAGED_ROWS ? STAGED_FLOATS / DEPTH : STAGED_ROWS };
    int lane, group;                 /* the group's column is one of the block's */

    __device__ scan() : lane((int)threadIdx.x % LANES), group((int)threadIdx.x / LANES) {}

    /* Where the lane's four numbers i to i + 3 lie. */
    __device__ int place(int i) const { return i * LANES + 4 * lane; }

    __device__ void load(float h[N], const float *column, int64_t depth) const {
#pragma unroll
        for (int i = 0; i < N; i++) {
            const int j = place(i / 4 * 4) + i % 4;
            h[i] = j < depth ? column[j] : 0;
        }
    }

    __device__ void store(float *column, const float h[N], int64_t depth) const {
#pragma unroll
        for (int i = 0; i < N; i++) {
            const int j = place(i / 4 * 4) + i % 4;
            if (j < depth) column[j] = h[i];
        }
    }

    /* Rows [r, r + n) of a head of t. */
    __device__ void stage(float *to, const struct tensor &t, int r, int n, int64_t head) const {
        for (int i = threadIdx.x; i < n * DEPTH; i += THREADS)
            to[i / DEPTH * PITCH + i % DEPTH] =
                i % DEPTH < t.shape[2] ? head_at(t, r + i / DEPTH, head)[i % DEPTH] : 0;
    }

    /* The block's columns of the same, from column `from` on. */
    __device__ void stage_columns(float *to, const struct tensor &t, int r, int n, int64_t head,
                                  int64_t from) const {
        for (int i = threadIdx.x; i < n * COLUMNS; i += THREADS) {
            const int64_t c = from + i % COLUMNS;
            to[i] = c < t.shape[2] ? head_at(t, r + i / COLUMNS, head)[c] : 0;
        }
    }

    __device__ float4 four(const float *row, int i) const {
        return *(const float4 *)(row + place(i));
    }

    /* The sum over a column's lanes, in each of them. */
    __device__ float total(const float sum[4]) const {
        float s = (sum[0] + sum[1]) + (sum[2] + sum[3]);
        for (int k = LANES / 2; k > 0; k /= 2) s += __shfl_xor_sync(~0u, s, k);
        return s;
    }

    /* row = row / sqrt(sum of squares + 1e-6) * scale */
    __device__ void unit(float *row, float scale) const {
        double square = 0;
        for (int i = 0; i < N; i += 4) {
            const float4 v = four(row, i);
            square += (double)v.x * (double)v.x + (double)v.y * (double)v.y +
                      (double)v.z * (double)v.z + (double)v.w * (double)v.w;
        }
        for (int k = LANES / 2; k > 0; k /= 2) square += __shfl_xor_sync(~0u, square, k);
        const float f = (float)(1.0 / sqrt(square + 1e-6)) * scale;
        for (int i = 0; i < N; i += 4) {
            const float4 v = four(row, i);
            *(float4 *)(row + place(i)) = make_float4(v.x * f, v.y * f, v.z * f, v.w * f);
        }
    }
};

/* h = exp(dt A) h + dt x B;  y = C h + D x */
template <int N, int LANES>
__global__ static void __launch_bounds__(THREADS)
ssm(struct tensor y, struct ssm_args a, struct rows rows, struct tensor x, struct tensor b,
    struct tensor c, struct tensor dts) {
    typedef scan<N, LANES> S;
    __shared__ __align__(16) float bs[S::ROWS * S::PITCH], cs[S::ROWS * S::PITCH];
    __shared__ float xs[S::ROWS * S::COLUMNS], keeps[S::ROWS], dt[S::ROWS];
    const S s;
    const int head = blockIdx.x, seq = blockIdx.z, last = rows.first[seq + 1];
    const int64_t dim = x.shape[2], depth = b.shape[2], group = head / (x.shape[1] / b.shape[1]);
    const int64_t from = (int64_t)blockIdx.y * S::COLUMNS, column = from + s.group;
    const float rate = -expf(a.a_log[head]), d = a.d[head];
    float *state = state_at(a.state, seq, (head * dim + column) * depth), h[N];
    s.load(h, state, column < dim && !begins(rows, seq) ? depth : 0);
    for (int r = rows.first[seq]; r < last; r += S::ROWS) {
        const int n = min((int)S::ROWS, last - r), t = threadIdx.x;
        __syncthreads();
        s.stage(bs, b, r, n, group);
        s.stage(cs, c, r, n, group);
        s.stage_columns(xs, x, r, n, head, from);
        if (t < n) {
            const float step = softplus(row_at(dts, r + t)[head] + a.dt_bias[head]);
            dt[t] = fminf(fmaxf(step, a.dt_min), a.dt_max);
            keeps[t] = expf(dt[t] * rate);
        }
        __syncthreads();
        for (int i = 0; i < n; i++) {
            const float xi = xs[i * S::COLUMNS + s.group], in = dt[i] * xi, keep = keeps[i];
            float sum[4] = {};
#pragma unroll
            for (int j = 0; j < N; j += 4) {
                const float4 bv = s.four(bs + i * S::PITCH, j), cv = s.four(cs + i * S::PITCH, j);
                h[j] = fmaf(in, bv.x, h[j] * keep), sum[0] = fmaf(h[j], cv.x, sum[0]);
                h[j + 1] = fmaf(in, bv.y, h[j + 1] * keep), sum[1] = fmaf(h[j + 1], cv.y, sum[1]);
                h[j + 2] = fmaf(in, bv.z, h[j + 2] * keep), sum[2] = fmaf(h[j + 2], cv.z, sum[2]);
                h[j + 3] = fmaf(in, bv.w, h[j + 3] * keep), sum[3] = fmaf(h[j + 3], cv.w, sum[3]);
            }
            const float all = s.total(sum);
            if (s.lane == 0 && column < dim)
                row_at(y, r + i)[head * y.stride[1] + column] = fmaf(d, xi, all);
        }
    }
    if (column < dim) s.store(state, h, depth);
}

/* S = decay S;  S += k (beta (v - k S));  y = q S: columns are those of v. */
template <int N, int LANES>
__global__ static void __launch_bounds__(THREADS)
delta(struct tensor y, struct delta_args a, struct rows rows, struct tensor qt, struct tensor kt,
      struct tensor vt, struct tensor at, struct tensor bt) {
    typedef scan<N, LANES> S;
    __shared__ __align__(16) float qs[S::ROWS * S::PITCH], ks[S::ROWS * S::PITCH];
    __shared__ float vs[S::ROWS * S::COLUMNS], decays[S::ROWS], betas[S::ROWS];
    const S s;
    const int head = blockIdx.x, seq = blockIdx.z, last = rows.first[seq + 1];
    const int64_t depth = kt.shape[2], dim = vt.shape[2], from = (int64_t)blockIdx.y * S::COLUMNS;
    const int64_t k_head = head / (vt.shape[1] / kt.shape[1]), column = from + s.group;
    const float rate = expf(a.a_log[head]), scale = 1.0f / sqrtf((float)depth);
    float *state = state_at(a.state, seq, (head * dim + column) * depth), h[N];
    s.load(h, state, column < dim && !begins(rows, seq) ? depth : 0);
    for (int r = rows.first[seq]; r < last; r += S::ROWS) {
        const int n = min((int)S::ROWS, last - r), t = threadIdx.x;
        __syncthreads();
        s.stage(qs, qt, r, n, k_head);
        s.stage(ks, kt, r, n, k_head);
        s.stage_columns(vs, vt, r, n, head, from);
        if (t < n) {
            decays[t] = expf(-rate * softplus(row_at(at, r + t)[head] + a.dt_bias[head]));
            betas[t] = sigmoid(row_at(bt, r + t)[head]);
        }
        __syncthreads();
        static_assert(2 * S::ROWS % S::COLUMNS == 0, "no row is scaled twice");
        /* Rows beyond n as well: lanes of a warp have to shuffle together. */
        for (int i = 0; i < 2 * S::ROWS; i += S::COLUMNS) {
            const int one = (i + s.group) % (2 * S::ROWS);
            s.unit((one % 2 ? ks : qs) + one / 2 * S::PITCH, one % 2 ? 1.0f : scale);
        }
        __syncthreads();
        for (int i = 0; i < n; i++) {
            const float decay = decays[i];
            float seen[4] = {}, sum[4] = {};
            float4 k[N / 4];
#pragma unroll
            for (int j = 0; j < N; j += 4) {
                const float4 v = k[j / 4] = s.four(ks + i * S::PITCH, j);
                seen[0] = fmaf(v.x, h[j] *= decay, seen[0]);
                seen[1] = fmaf(v.y, h[j + 1] *= decay, seen[1]);
                seen[2] = fmaf(v.z, h[j + 2] *= decay, seen[2]);
                seen[3] = fmaf(v.w, h[j + 3] *= decay, seen[3]);
            }
            const float change = betas[i] * (vs[i * S::COLUMNS + s.group] - s.total(seen));
#pragma unroll
            for (int j = 0; j < N; j += 4) {
                const float4 q = s.four(qs + i * S::PITCH, j), v = k[j / 4];
                h[j] = fmaf(v.x, change, h[j]), sum[0] = fmaf(q.x, h[j], sum[0]);
                h[j + 1] = fmaf(v.y, change, h[j + 1]), sum[1] = fmaf(q.y, h[j + 1], sum[1]);
                h[j + 2] = fmaf(v.z, change, h[j + 2]), sum[2] = fmaf(q.z, h[j + 2], sum[2]);
                h[j + 3] = fmaf(v.w, change, h[j + 3]), sum[3] = fmaf(q.w, h[j + 3], sum[3]);
            }
            const float all = s.total(sum);
            if (s.lane == 0 && column < dim)
                row_at(y, r + i)[head * y.stride[1] + column] = all;
        }
    }
    if (column < dim) s.store(state, h, depth);
}

/* The narrowest of the kernels of a name that the depth fits into. */
#define BY_DEPTH(kernel, depth) ((depth) <= 16 ? kernel<4, 4> : (depth) <= 64 ? kernel<16, 4> : \
    (depth) <= 128 ? kernel<32, 4> : (depth) <= 256 ? kernel<64, 4> : kernel<64, 16>)

static dim3 scan_grid(const struct rows *rows, const struct tensor *columns, int64_t depth) {
    const int lanes = depth <= 256 ? 4 : 16;
    return dim3((unsigned)columns->shape[1], blocks_of(columns->shape[2], THREADS / lanes),
                (unsigned)rows->n_seqs);
}

void cuda_ssm(struct device *dev, struct tensor *y, const struct ssm_args *args) {
    struct ssm_args a = *args;
    const int64_t depth = a.b->shape[2];
    a.dt_bias = (const float *)cuda_there(dev, a.dt_bias);
    a.a_log = (const float *)cuda_there(dev, a.a_log);
    a.d = (const float *)cuda_there(dev, a.d);
    cuda_settle(cuda_of(dev));
    BY_DEPTH(ssm, depth)<<<scan_grid(a.rows, a.x, depth), THREADS, 0, cuda_of(dev)->stream>>>(
        *y, a, *a.rows, *a.x, *a.b, *a.c, *a.dt);
    cuda_check(dev);
}

void cuda_delta(struct device *dev, struct tensor *y, const struct delta_args *args) {
    struct delta_args a = *args;
    const int64_t depth = a.k->shape[2];
    a.dt_bias = (const float *)cuda_there(dev, a.dt_bias);
    a.a_log = (const float *)cuda_there(dev, a.a_log);
    cuda_settle(cuda_of(dev));
    BY_DEPTH(delta, depth)<<<scan_grid(a.rows, a.v, depth), THREADS, 0, cuda_of(dev)->stream>>>(
        *y, a, *a.rows, *a.q, *a.k, *a.v, *a.a, *a.b);
    cuda_check(dev);
}
