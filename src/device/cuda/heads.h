/* heads.h - the arithmetic of what stands between the products of q, k, v and attention: the norm
 * of a head, its turn, its place in the cache. It is done by heads.cu's kernels or by those of
 * attention: attention_one.cu's of one row, attention_rows.cu's of many. */
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

/* The place of a head in the cache, and that of its scale, of bytes. NULL: none. */
struct place_of_head { char *at; float *scale; };

/* Of position `pos` in its page; k: a key, else a value. */
__device__ static inline struct place_of_head head_in_page(const struct attend &a, int page,
                                                           int pos, int head, bool k) {
    const struct kv_view &kv = a.kv;
    const size_t bytes = cached_bytes(kv.dtype);
    const size_t t = (size_t)head * kv.page_tokens + pos % kv.page_tokens;
    char *at = (char *)kv.pages + (size_t)page * kv.page_bytes;
    return { k ? at + t * a.k_dim * bytes : at + values_at(a, bytes) + t * a.v_dim * bytes,
             scale_at(a, at, head, !k, pos) };
}

/* Of row r. */
__device__ static inline struct place_of_head cached_at(const struct attend &a,
                                                        const struct rows &rows, int64_t r,
                                                        int head, bool k) {
    const int pos = rows.pos[r];
    return head_in_page(a, page_of(a.kv, rows.seq[r], pos / a.kv.page_tokens), pos, head, k);
}

/* Bytes are numbers over a scale, of which the largest is 127 of whole ones, 448 of e4m3. Numbers
 * too large for F32 divided by a scale too small for it: neither may overflow. */
struct scaling { float scale, inverse; };

__device__ static inline struct scaling scaling_of(float most, enum dtype dtype) {
    const float top = dtype == I8 ? 127 : 448;
    return { most / top, most > 1e-30f && most < 1e30f ? top / most : 0 };
}

__device__ static inline unsigned char byte_of(float v, const struct scaling &e,
                                               enum dtype dtype) {
    if (dtype == I8) return (unsigned char)__float2int_rn(v * e.inverse);
    return __nv_cvt_float_to_fp8(v * e.inverse, __NV_SATFINITE, __NV_E4M3);
}

__device__ static inline void put_cached(char *to, enum dtype dtype, int c, float v,
                                         const struct scaling &e) {
    if (dtype == BF16) ((__nv_bfloat16 *)to)[c] = __float2bfloat16_rn(v);
    else if (in_bytes(dtype)) ((unsigned char *)to)[c] = byte_of(v, e, dtype);
    else ((float *)to)[c] = v;
}

/* A head of n numbers to its place, by a block of threads: any number of them. */
__device__ static inline void block_put(const struct place_of_head &to, enum dtype dtype,
                                        const float *from, int n) {
    __shared__ float part[32];
    struct scaling e = {};
    if (in_bytes(dtype)) {
        float most = 0;
        for (int c = threadIdx.x; c < n; c += blockDim.x) most = fmaxf(most, fabsf(from[c]));
        most = warp_max(most);
        __syncthreads();
        if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = most;
        __syncthreads();
        for (unsigned i = 0; i < blockDim.x / 32; i++) most = fmaxf(most, part[i]);
        e = scaling_of(most, dtype);
        if (threadIdx.x == 0) *to.scale = e.scale;
    }
    for (int c = threadIdx.x; c < n; c += blockDim.x) put_cached(to.at, dtype, c, from[c], e);
}

/* What the bytes of a warp's head are; n numbers in shared memory. */
__device__ static inline struct scaling warp_scaling(const float *own, int n, enum dtype dtype) {
    float most = 0;
    for (int c = threadIdx.x % 32; c < n; c += 32) most = fmaxf(most, fabsf(own[c]));
    return scaling_of(warp_max(most), dtype);
}

/* Sine and cosine of what lies below 2^30 or so, to half a unit of F32 and little more: a quarter
 * turn is taken off as often as it goes, in two parts of 53 bits, and polynomials do the rest (the
 * coefficients are fdlibm's). The library's answer for any number is a kilobyte of code, which the
 * first blocks of a kernel wait for. */
__device__ static inline void sine_and_cosine(double x, float *sine, float *cosine) {
    const double n = rint(x * 0.63661977236758134308);
    double r = fma(-n, 1.57079632679489655800, x);
    r = fma(-n, 6.12323399573676603587e-17, r);
    const double z = r * r;
    double s = 1.58969099521155010221e-10, c = -1.13596475577881948265e-11;
    s = fma(s, z, -2.50507602534068634195e-08), c = fma(c, z, 2.08757232129817482790e-09);
    s = fma(s, z, 2.75573137070700676789e-06), c = fma(c, z, -2.75573143513906633035e-07);
    s = fma(s, z, -1.98412698298579493134e-04), c = fma(c, z, 2.48015872894767294178e-05);
    s = fma(s, z, 8.33333333332248946124e-03), c = fma(c, z, -1.38888888888741095749e-03);
    s = fma(s, z, -1.66666666666666324348e-01), c = fma(c, z, 4.16666666666666019037e-02);
    s = fma(s * z, r, r), c = fma(c * z, z, fma(z, -0.5, 1.0));
    const int quarter = (int)n;
    const float u = (float)(quarter % 2 ? c : s), v = (float)(quarter % 2 ? s : c);
    *sine = quarter & 2 ? -u : u;
    *cosine = (quarter + 1) & 2 ? -v : v;
}

__device__ static inline void turn_of(float *c, float *s, const struct rope_args &a,
                                      const float *freq, int pos, int64_t i) {
    float sine, cosine;
    sine_and_cosine((double)((float)pos * freq[i]), &sine, &cosine);
    *c = cosine * a.magnitude;
    *s = sine * a.magnitude;
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

/* Number i of those that a block makes ready: `heads` of q that read a kv head, from first on, then
 * its key, then its value. */
__device__ static inline struct one_head head_of_block(const struct heads &h,
                                                       const struct attend &a, int64_t r,
                                                       int kv_head, int first, int heads, int i) {
    const int which = i - heads;
    return head_at_row(h, r, which < 0 ? head_of(a, kv_head, first + i)
                                       : a.heads + which * a.kv_heads + kv_head);
}

/* What a lane has of a head. */
__device__ static inline void warp_read(float (&v)[KEPT], const struct one_head &o) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < KEPT; k++) v[k] = lane + 32 * k < o.n ? o.at[lane + 32 * k] : 0;
}

/* The head made ready by a warp, in `own` of shared memory, [HEADS_COLS]. v: warp_read of it,
 * g: warp_gain. */
__device__ static inline void warp_head(float *own, float (&v)[KEPT], const struct one_head &o,
                                        const struct kept &g, const struct heads &h,
                                        const float *cosine, const float *sine) {
    const int lane = threadIdx.x % 32, half = (int)h.dims / 2;
    const bool pairs = h.rope.pairing == ROPE_PAIRS;
    if (!o.is_v && h.normed) warp_norm(v, g, o.n, h.kind, h.eps);
    __syncwarp();
#pragma unroll
    for (int k = 0; k < KEPT; k++) own[lane + 32 * k] = v[k];
    __syncwarp();
    for (int i = lane; !o.is_v && i < half; i += 32)
        turn_pair(own, i, half, pairs, cosine[i], sine[i]);
    __syncwarp();
}

/* A head that is ready, rounded: for those who attend now, [HEADS_COLS] with zeros behind its n,
 * and to its place in the cache (NULL: nowhere). By a warp. */
__device__ static inline void warp_keep(__nv_bfloat16 *kept, __nv_bfloat16 *cached,
                                        const float *own, int n) {
    for (int c = threadIdx.x % 32; c < HEADS_COLS; c += 32) {
        const __nv_bfloat16 v = __float2bfloat16_rn(c < n ? own[c] : 0);
        kept[c] = v;
        if (cached && c < n) cached[c] = v;
    }
    __syncwarp();
}

/* The same of bytes, whose scale goes to *scale. */
__device__ static inline void warp_keep_bytes(unsigned char *kept, float *scale,
                                              const struct place_of_head &cached,
                                              const float *own, int n, enum dtype dtype) {
    const int lane = threadIdx.x % 32;
    const struct scaling e = warp_scaling(own, n, dtype);
    for (int c = lane; c < HEADS_COLS; c += 32) {
        const unsigned char v = c < n ? byte_of(own[c], e, dtype) : 0;
        kept[c] = v;
        if (cached.at && c < n) cached.at[c] = (char)v;
    }
    if (lane == 0) *scale = e.scale;
    if (lane == 0 && cached.at) *cached.scale = e.scale;
    __syncwarp();
}

/* Whether attention takes heads of the size that they are made with. */
static inline bool heads_as_attended(const struct heads &h) {
    return h.q.shape[1] == h.a.heads && h.q.shape[2] == h.a.k_dim && h.k.shape[2] == h.a.k_dim &&
           h.v.shape[2] == h.a.v_dim;
}

/* Heads may wait for attention, which makes them ready by itself; whatever else starts before
 * starts their kernel (cuda_settle). */
void cuda_start_heads(struct cuda *, const struct heads &);
/* Whether they should wait for attention_one.cu; for attention_rows.cu. */
bool cuda_one_waits(const struct cuda *, const struct heads &);
bool cuda_rows_waits(const struct cuda *, const struct heads &);
