/* recurrent.cu - the ops whose state is a slot per sequence. Rows of a sequence go in order;
 * sequences, heads and channels are independent. */
#include "device/cuda/cuda.h"

enum { DIM_MAX = 1024 };

__device__ static inline float *row_at(const struct tensor &t, int64_t r) {
    return (float *)t.at + r * t.stride[0];
}

__device__ static inline float *state_at(const struct state_view &v, int seq, int64_t at) {
    return (float *)((char *)v.slots + (size_t)v.slot[seq] * v.slot_bytes) + at;
}

__device__ static inline bool begins(const struct rows &rows, int seq) {
    return rows.pos[rows.first[seq]] == 0;
}

/* A thread for each channel. The tail holds its last kernel-1 inputs, oldest first. */
__global__ static void conv(struct tensor y, struct tensor w, const float *bias, struct tensor x,
                            struct rows rows, struct state_view state, enum act act) {
    const int64_t c = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, taps = w.shape[1] - 1;
    const int seq = blockIdx.y;
    if (c >= x.shape[1]) return;
    float *tail = state_at(state, seq, c * taps);
    const float *k = row_at(w, c);
    if (begins(rows, seq))
        for (int64_t i = 0; i < taps; i++) tail[i] = 0;
    for (int r = rows.first[seq]; r < rows.first[seq + 1]; r++) {
        const float in = row_at(x, r)[c];
        float sum = 0;
        for (int64_t i = 0; i < taps; i++) sum += k[i] * tail[i];
        sum += k[taps] * in;
        if (bias) sum += bias[c];
        row_at(y, r)[c] = act_of(act, sum);
        for (int64_t i = 0; i + 1 < taps; i++) tail[i] = tail[i + 1];
        tail[taps - 1] = in;
    }
}

void cuda_conv(struct device *dev, struct tensor *y, const struct tensor *w,
               const struct tensor *bias, const struct tensor *x, const struct rows *rows,
               const struct state_view *state, enum act act) {
    const float *b = bias ? (const float *)cuda_there(dev, bias->at) : NULL;
    cuda_settle(cuda_of(dev));
    conv<<<dim3(blocks_of(x->shape[1], 128), (unsigned)rows->n_seqs), 128, 0,
           cuda_of(dev)->stream>>>(*y, cuda_view(dev, w), b, *x, *rows, *state, act);
    cuda_check(dev);
}

/* h = exp(dt A) h + dt x B;  y = C h + D x: a block for each head, a warp for a row of h. */
__global__ static void ssm(struct tensor y, struct ssm_args a, struct rows rows, struct tensor x,
                           struct tensor b, struct tensor c, struct tensor dts) {
    const int head = blockIdx.x, seq = blockIdx.y, lane = threadIdx.x % 32;
    const int warps = blockDim.x / 32;
    const int64_t dim = x.shape[2], n = b.shape[2], group = head / (x.shape[1] / b.shape[1]);
    const float rate = -expf(a.a_log[head]);
    for (int64_t i = threadIdx.x / 32; i < dim; i += warps) {
        float *h = state_at(a.state, seq, (head * dim + i) * n);
        if (begins(rows, seq))
            for (int64_t j = lane; j < n; j += 32) h[j] = 0;
        for (int r = rows.first[seq]; r < rows.first[seq + 1]; r++) {
            float dt = softplus(row_at(dts, r)[head] + a.dt_bias[head]);
            dt = fminf(fmaxf(dt, a.dt_min), a.dt_max);
            const float keep = expf(dt * rate);
            const float xi = row_at(x, r)[head * x.stride[1] + i], in = dt * xi;
            const float *br = row_at(b, r) + group * b.stride[1];
            const float *cr = row_at(c, r) + group * c.stride[1];
            float sum = 0;
            for (int64_t j = lane; j < n; j += 32) {
                h[j] = h[j] * keep + in * br[j];
                sum = fmaf(h[j], cr[j], sum);
            }
            sum = warp_sum(sum);
            if (lane == 0) row_at(y, r)[head * y.stride[1] + i] = sum + a.d[head] * xi;
        }
    }
}

void cuda_ssm(struct device *dev, struct tensor *y, const struct ssm_args *args) {
    struct ssm_args a = *args;
    a.dt_bias = (const float *)cuda_there(dev, a.dt_bias);
    a.a_log = (const float *)cuda_there(dev, a.a_log);
    a.d = (const float *)cuda_there(dev, a.d);
    cuda_settle(cuda_of(dev));
    ssm<<<dim3((unsigned)a.x->shape[1], (unsigned)a.rows->n_seqs), 256, 0,
          cuda_of(dev)->stream>>>(*y, a, *a.rows, *a.x, *a.b, *a.c, *a.dt);
    cuda_check(dev);
}

/* x / sqrt(sum of squares + 1e-6) * scale, by one warp. */
__device__ static void unit(float *to, const float *x, int64_t n, float scale) {
    double square = 0;
    const int lane = threadIdx.x % 32;
    for (int64_t i = lane; i < n; i += 32) square += (double)x[i] * (double)x[i];
    for (int k = 16; k > 0; k /= 2) square += __shfl_xor_sync(~0u, square, k);
    const float f = (float)(1.0 / sqrt(square + 1e-6)) * scale;
    for (int64_t i = lane; i < n; i += 32) to[i] = x[i] * f;
}

/* S = decay S;  S += k (beta (v - k S));  y = q S: a thread for each column of S. */
__global__ static void delta(struct tensor y, struct delta_args a, struct rows rows,
                             struct tensor qt, struct tensor kt, struct tensor vt,
                             struct tensor at, struct tensor bt) {
    __shared__ float q[DIM_MAX], k[DIM_MAX];
    const int head = blockIdx.x, seq = blockIdx.y;
    const int64_t k_dim = kt.shape[2], v_dim = vt.shape[2];
    const int64_t k_head = head / (vt.shape[1] / kt.shape[1]);
    float *s = state_at(a.state, seq, head * k_dim * v_dim);
    const float rate = expf(a.a_log[head]);
    if (begins(rows, seq))
        for (int64_t j = threadIdx.x; j < v_dim; j += blockDim.x)
            for (int64_t i = 0; i < k_dim; i++) s[i * v_dim + j] = 0;
    for (int r = rows.first[seq]; r < rows.first[seq + 1]; r++) {
        __syncthreads();
        if (threadIdx.x < 32)
            unit(q, row_at(qt, r) + k_head * qt.stride[1], k_dim, 1.0f / sqrtf((float)k_dim));
        else if (threadIdx.x < 64)
            unit(k, row_at(kt, r) + k_head * kt.stride[1], k_dim, 1.0f);
        __syncthreads();
        const float decay = expf(-rate * softplus(row_at(at, r)[head] + a.dt_bias[head]));
        const float beta = sigmoid(row_at(bt, r)[head]);
        const float *v = row_at(vt, r) + head * vt.stride[1];
        float *out = row_at(y, r) + head * y.stride[1];
        for (int64_t j = threadIdx.x; j < v_dim; j += blockDim.x) {
            float seen = 0, sum = 0;
            for (int64_t i = 0; i < k_dim; i++)
                seen = fmaf(k[i], s[i * v_dim + j] *= decay, seen);
            const float change = beta * (v[j] - seen);
            for (int64_t i = 0; i < k_dim; i++)
                sum = fmaf(q[i], s[i * v_dim + j] += k[i] * change, sum);
            out[j] = sum;
        }
    }
}

void cuda_delta(struct device *dev, struct tensor *y, const struct delta_args *args) {
    struct delta_args a = *args;
    a.dt_bias = (const float *)cuda_there(dev, a.dt_bias);
    a.a_log = (const float *)cuda_there(dev, a.a_log);
    cuda_settle(cuda_of(dev));
    delta<<<dim3((unsigned)a.v->shape[1], (unsigned)a.rows->n_seqs), 128, 0,
            cuda_of(dev)->stream>>>(*y, a, *a.rows, *a.q, *a.k, *a.v, *a.a, *a.b);
    cuda_check(dev);
}
