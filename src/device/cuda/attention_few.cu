/* attention_few.cu - attention of a few rows that stand alone, or nearly: a block of threads for a
 * row, a kv head and 128 positions, so that long contexts are read by all multiprocessors, and a
 * kernel that folds what they leave. Many rows go to attention_rows.cu. */
#include "device/cuda/attention_mma.h"

enum { THREADS = 128, WARPS = 4, HEADS = 16 };

/* A box of keys or values as page_in leaves it: of bf16 it has 64 dimensions, of bytes all. */
typedef unsigned char box[BLOCK * ROW_BYTES];

/* What threads tell each other about a block. */
struct few_words {
    float k_scale[BLOCK], v_scale[BLOCK];        /* of bytes */
    __nv_bfloat16 weight[HEADS][BLOCK + 8];
    float max[WARPS][HEADS], sum[WARPS][HEADS][4];
};

template <int BOXES> struct few_memory {
    box k[BOXES], v[BOXES];
    struct few_words words;
    uint64_t k_full, v_full;
};

/* The threads that compute. */
__device__ static inline void meet(void) { named_sync(1, THREADS); }

/* What a block works on. */
struct few_job {
    int64_t row;
    int kv_head, first_head, heads, begin, end, block, pos, seq;
};

/* Pages that hold a visible position; the rest of the memory keeps what it had. */
template <int BOXES>
__device__ static inline void few_fetch(box *k, uint64_t *k_full, box *v, uint64_t *v_full,
                                        const struct few_job &j, const struct attend &a,
                                        const struct kv_maps &maps) {
    const int tokens = a.kv.page_tokens, first = j.begin / tokens, last = (j.end - 1) / tokens;
    const unsigned bytes = (unsigned)((last - first + 1) * tokens * ROW_BYTES * BOXES);
    barrier_expect(k_full, bytes);
    barrier_expect(v_full, bytes);
    for (int i = first; i <= last; i++) {
        const int page = page_of(a.kv, j.seq, i), at = (i * tokens - j.block * BLOCK) * ROW_BYTES;
        for (int h = 0; h < BOXES; h++)
            page_in(k[h] + at, &maps.k, 64 * h, j.kv_head * tokens, page, k_full);
        for (int h = 0; h < BOXES; h++)
            page_in(v[h] + at, &maps.v, 64 * h, j.kv_head * tokens, page, v_full);
    }
}

/* A thread for each position. */
__device__ static inline void few_scales(struct few_words *m, const struct few_job &j,
                                         const struct attend &a) {
    const int pos = j.block * BLOCK + threadIdx.x;
    float k = 0, v = 0;
    if (pos >= j.begin && pos < j.end) {
        char *page = page_at(a.kv, j.seq, pos / a.kv.page_tokens);
        k = *scale_at(a, page, j.kv_head, 0, pos);
        v = *scale_at(a, page, j.kv_head, 1, pos);
    }
    m->k_scale[threadIdx.x] = k;
    m->v_scale[threadIdx.x] = v;
}

/* Sixteen heads, 16 dimensions: what a lane holds of them, in bf16. Beside bytes, where a lane has
 * four neighbours of a key, they are taken as four_bytes gives those. */
template <enum dtype D>
__device__ static inline void query(unsigned r[4], const struct tensor &q, const struct few_job &j,
                                    const struct attend &a, int dim) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < 4; k++) {
        const int i = lane / 4 + k % 2 * 8;
        const int c = dim + (in_bytes(D) ? 4 * (lane % 4) + k / 2 : 2 * (lane % 4) + k / 2 * 8);
        float u = 0, v = 0;
        if (i < j.heads && c < a.k_dim) {
            const float *from = (const float *)q.at + j.row * q.stride[0] +
                                head_of(a, j.kv_head, j.first_head + i) * q.stride[1] + c;
            u = from[0];
            v = from[in_bytes(D) ? 2 : 1];
        }
        const __nv_bfloat162 both = __floats2bfloat162_rn(u, v);
        r[k] = *(const unsigned *)&both;
    }
}

/* The 16 bytes `unit` of a row. */
__device__ static inline unsigned char *unit_of(const box *boxes, int row, int unit) {
    return (unsigned char *)(uintptr_t)unit_at(boxes[unit / 8], row, unit);
}

/* score += 16 heads times 8 keys. */
template <int BOXES, enum dtype D>
__device__ static inline void few_dot(float score[4], const box *keys, const unsigned (*q)[4],
                                      int key) {
    const int lane = threadIdx.x % 32;
    unsigned b[4];
    if constexpr (in_bytes(D)) {
#pragma unroll
        for (int s = 0; s < 8; s += 4) {
            matrices(b, unit_at(keys[0], key, s + lane / 8));
#pragma unroll
            for (int k = 0; k < 4; k++) {
                const struct four x = four_bytes<D>(b[k]);
                mma(score, q[s + k], x.even, x.odd);
            }
        }
    } else {
#pragma unroll
        for (int h = 0; h < BOXES; h++)
#pragma unroll
            for (int s = 0; s < 4; s += 2) {
                matrices(b, unit_of(keys, key, 8 * h + 2 * s + lane / 8));
                mma(score, q[4 * h + s], b[0], b[1]);
                mma(score, q[4 * h + s + 1], b[2], b[3]);
            }
    }
}

/* A warp's 32 positions: score[n][k], of heads lane/4 and 8 more, as exponents before the largest
 * is subtracted. */
template <int BOXES, enum dtype D>
__device__ static inline void few_scores(float score[4][4], const struct few_words *m,
                                         const box *keys, const unsigned (*q)[4],
                                         const struct few_job &j, const struct attend &a) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int n = 0; n < 4; n++) {
        few_dot<BOXES, D>(score[n], keys, q, warp * 32 + n * 8 + lane % 8);
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const int in = warp * 32 + n * 8 + 2 * (lane % 4) + k % 2, at = j.block * BLOCK + in;
            const float x = in_bytes(D) ? score[n][k] * m->k_scale[in] : score[n][k];
            score[n][k] = at < j.begin || at >= j.end ? -INFINITY : capped(a, x);
        }
    }
}

/* The largest score of each head in the block, times the factor. */
__device__ static inline void few_max(float max[2], struct few_words *m, const float score[4][4],
                                      float factor) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float x = -INFINITY;
#pragma unroll
        for (int n = 0; n < 4; n++)
            x = fmaxf(x, fmaxf(score[n][2 * r], score[n][2 * r + 1]));
        x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
        x = fmaxf(x, __shfl_xor_sync(~0u, x, 2));
        if (lane % 4 == 0) m->max[warp][lane / 4 + 8 * r] = x;
    }
    meet();
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int i = lane / 4 + 8 * r;
        max[r] = fmaxf(fmaxf(m->max[0][i], m->max[1][i]), fmaxf(m->max[2][i], m->max[3][i])) *
                 factor;
    }
}

/* Scores become weights in shared memory, and lanes' parts of their sums. */
template <enum dtype D>
__device__ static inline void few_weights(struct few_words *m, const float score[4][4],
                                          const float max[2], float factor) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int i = lane / 4 + 8 * r;
        float sum = 0;
#pragma unroll
        for (int n = 0; n < 4; n++) {
            const float u = power_of_2(fmaf(score[n][2 * r], factor, -finite(max[r])));
            const float v = power_of_2(fmaf(score[n][2 * r + 1], factor, -finite(max[r])));
            sum = add_weights(sum, u, v);
            const int at = warp * 32 + n * 8 + 2 * (lane % 4);
            *(__nv_bfloat162 *)&m->weight[i][at] =
                in_bytes(D) ? __floats2bfloat162_rn(u * m->v_scale[at], v * m->v_scale[at + 1])
                            : __floats2bfloat162_rn(u, v);
        }
        m->sum[warp][i][lane % 4] = sum;
    }
}

/* Values of positions that are not visible may be anything: their weight is 0, but 0 times that
 * need not be. */
template <int BOXES>
__device__ static inline void few_clear(box *v, const struct few_job &j) {
    const int begin = j.begin - j.block * BLOCK, end = j.end - j.block * BLOCK;
    if (begin == 0 && end == BLOCK) return;
    for (int i = threadIdx.x; i < BLOCK * 8 * BOXES; i += THREADS) {
        const int row = i / (8 * BOXES);
        if (row < begin || row >= end)
            *(uint4 *)unit_of(v, row, i % (8 * BOXES)) = make_uint4(0, 0, 0, 0);
    }
    writes_are_shared();             /* before copies that come here later */
}

/* Weights times eight columns of the values, n of them. */
__device__ static inline void few_eight(float sum[4], const box *v,
                                        const unsigned (&p)[BLOCK / 16][4], int n) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int s = 0; s < BLOCK / 16; s += 2) {
        unsigned b[4];
        matrices_turned(b, unit_of(v, 16 * s + lane, n));
        mma(sum, p[s], b[0], b[1]);
        mma(sum, p[s + 1], b[2], b[3]);
    }
}

/* Of bytes: sixteen. A matrix of 16-bit pairs, turned, gives a lane two columns of two positions:
 * even columns are one product, odd ones another. */
template <enum dtype D>
__device__ static inline void few_sixteen(float even[4], float odd[4], const box *v,
                                          const unsigned (&p)[BLOCK / 16][4], int n) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int s = 0; s < BLOCK / 16; s += 2) {
        unsigned b[4];
        matrices_turned(b, unit_at(v[0], 16 * s + lane, n));
#pragma unroll
        for (int k = 0; k < 2; k++) {
            const struct four x = four_bytes<D>(b[2 * k]), y = four_bytes<D>(b[2 * k + 1]);
            mma(even, p[s + k], x.even, y.even);
            mma(odd, p[s + k], x.odd, y.odd);
        }
    }
}

__device__ static inline void few_read_weights(unsigned (&p)[BLOCK / 16][4],
                                               const struct few_words *m) {
#pragma unroll
    for (int s = 0; s < BLOCK / 16; s++)
        matrices(p[s], &m->weight[threadIdx.x % 16][16 * s + threadIdx.x % 32 / 16 * 8]);
}

__device__ static inline float *few_values_at(float *partial, const struct few_job &j,
                                              const struct attend &a, int64_t own, int blocks,
                                              int i) {
    return partial_at(partial, a, own, head_of(a, j.kv_head, j.first_head + i), j.block, blocks) +
           2;
}

/* A warp has every fourth eight of the values' columns. */
__device__ static inline void few_values(float *partial, const box *v,
                                         const unsigned (&p)[BLOCK / 16][4],
                                         const struct few_job &j, const struct attend &a,
                                         int64_t own, int blocks) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int n = warp; n < a.v_dim / 8; n += WARPS) {
        float sum[4] = {};
        few_eight(sum, v, p, n);
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const int i = lane / 4 + 8 * r;
            if (i >= j.heads) continue;
            float *to = few_values_at(partial, j, a, own, blocks, i) + 8 * n + 2 * (lane % 4);
            *(float2 *)to = make_float2(sum[2 * r], sum[2 * r + 1]);
        }
    }
}

/* Of bytes: every fourth 16 columns. */
template <enum dtype D>
__device__ static inline void few_values_bytes(float *partial, const box *v,
                                               const unsigned (&p)[BLOCK / 16][4],
                                               const struct few_job &j, const struct attend &a,
                                               int64_t own, int blocks) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int n = warp; n < a.v_dim / 16; n += WARPS) {
        float even[4] = {}, odd[4] = {};
        few_sixteen<D>(even, odd, v, p, n);
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const int i = lane / 4 + 8 * r;
            if (i >= j.heads) continue;
            float *to = few_values_at(partial, j, a, own, blocks, i) + 16 * n + 4 * (lane % 4);
            *(float2 *)to = make_float2(even[2 * r], odd[2 * r]);
            *(float2 *)(to + 2) = make_float2(even[2 * r + 1], odd[2 * r + 1]);
        }
    }
}

/* Head i's largest exponent and its sum: what the four warps and the four lanes have, in order. */
__device__ static inline float2 few_sum(const struct few_words *m, int i, float factor) {
    float part[4], max = m->max[0][i];
    for (int w = 1; w < WARPS; w++) max = fmaxf(max, m->max[w][i]);
    for (int t = 0; t < 4; t++)
        part[t] = m->sum[0][i][t] + m->sum[1][i][t] + m->sum[2][i][t] + m->sum[3][i][t];
    return make_float2(max * factor, (part[0] + part[1]) + (part[2] + part[3]));
}

__device__ static inline void few_sums(float *partial, const struct few_words *m,
                                       const struct few_job &j, const struct attend &a,
                                       int64_t own, int blocks, float factor) {
    const int i = threadIdx.x;
    if (i >= j.heads) return;
    float *to = partial_at(partial, a, own, head_of(a, j.kv_head, j.first_head + i), j.block,
                           blocks);
    *(float2 *)to = few_sum(m, i, factor);
}

/* part: which kv head, and which 16 of the heads that read it. */
__device__ static inline struct few_job few_job_of(int64_t row, int part, const struct rows &rows,
                                                   const struct attend &a) {
    struct few_job j = { row };
    const int group = a.heads / a.kv_heads, chunks = (group + HEADS - 1) / HEADS;
    j.pos = rows.pos[row];
    j.seq = rows.seq[row];
    j.kv_head = part / chunks;
    j.first_head = part % chunks * HEADS;
    j.heads = MIN((int)HEADS, group - j.first_head);
    return j;
}

__device__ static inline void few_block(struct few_job &j, int block, const struct attend &a) {
    j.block = block;
    j.begin = MAX(first_visible(a, j.pos), block * BLOCK);
    j.end = MIN(j.pos + 1, (block + 1) * BLOCK);
}

template <int BOXES, enum dtype D>
__global__ static void __launch_bounds__(THREADS)
attend_few(float *partial, struct tensor q, struct attend a, struct rows rows, int each,
           int64_t begin, const __grid_constant__ struct kv_maps maps) {
    extern __shared__ unsigned char memory[];
    struct few_memory<BOXES> *m =
        (struct few_memory<BOXES> *)(memory + (1024 - shared_at(memory) % 1024) % 1024);
    let_next_begin();
    after_previous();
    const int64_t row = few_row(rows, each, (int)(begin + blockIdx.x));
    if (row < 0) return;
    struct few_job j = few_job_of(row, blockIdx.y, rows, a);
    few_block(j, blockIdx.z, a);
    if (j.begin >= j.end) return;
    if (threadIdx.x == 0) {
        barrier_init(&m->k_full, 1);
        barrier_init(&m->v_full, 1);
        barriers_are_set();
        writes_are_global();
        few_fetch<BOXES>(m->k, &m->k_full, m->v, &m->v_full, j, a, maps);
    }
    constexpr int STEPS = in_bytes(D) ? 8 : BOXES * 4;
    unsigned qs[STEPS][4], p[BLOCK / 16][4];
#pragma unroll
    for (int s = 0; s < STEPS; s++) query<D>(qs[s], q, j, a, 16 * s);
    if (in_bytes(D)) few_scales(&m->words, j, a);
    float score[4][4] = {}, max[2];
    const float factor = factor_of(a);
    __syncthreads();
    barrier_wait(&m->k_full, 0);
    few_scores<BOXES, D>(score, &m->words, m->k, qs, j, a);
    few_max(max, &m->words, score, factor);
    few_weights<D>(&m->words, score, max, factor);
    barrier_wait(&m->v_full, 0);
    few_clear<BOXES>(m->v, j);
    __syncthreads();
    few_read_weights(p, &m->words);
    if constexpr (in_bytes(D)) few_values_bytes<D>(partial, m->v, p, j, a, blockIdx.x, gridDim.z);
    else few_values(partial, m->v, p, j, a, blockIdx.x, gridDim.z);
    few_sums(partial, &m->words, j, a, blockIdx.x, gridDim.z, factor);
}

/* ---- the fold ---- */

/* The blocks of a row and head, folded. A thread has a column; what they are multiplied with is
 * found for 128 blocks at a time. few, next: the rows as
 * fragments too, or rounded; NULL: not wanted. */
__global__ static void __launch_bounds__(THREADS)
fold_few(struct tensor y, char *few, __nv_bfloat16 *next, float *partial, struct attend a,
         struct rows rows, int each, int64_t begin, int blocks) {
    __shared__ struct fold fold[THREADS];
    __shared__ float top[THREADS], sums[THREADS];
    after_previous();
    let_next_begin();
    const int64_t row = few_row(rows, each, (int)(begin + blockIdx.x));
    if (row < 0) return;
    const int head = blockIdx.y, pos = rows.pos[row], i = threadIdx.x;
    const int first = first_visible(a, pos) / BLOCK, last = pos / BLOCK;
    float max = -INFINITY, sum = 0, value[2] = {};
    for (int b = first; b <= last; b += THREADS) {
        const int n = MIN((int)THREADS, last + 1 - b);
        const float *p = partial_at(partial, a, blockIdx.x, head, b, blocks);
        __syncthreads();
        if (i < n) {
            top[i] = p[i * (a.v_dim + 2)];
            sums[i] = p[i * (a.v_dim + 2) + 1];
        }
        __syncthreads();
        float before = max;
        for (int k = 0; k < i && k < n; k++) before = fmaxf(before, top[k]);
        if (i < n) fold[i] = fold_of(before, top[i]);
        __syncthreads();
        for (int k = 0; k < n; k++) {
            max = fold[k].max;
            sum = folded(fold[k], sum, sums[k]);
            for (int c = 0; c < 2; c++)
                if (i + c * THREADS < a.v_dim)
                    value[c] = folded(fold[k], value[c],
                                      p[k * (a.v_dim + 2) + 2 + i + c * THREADS]);
        }
    }
    struct fold f = { max, 1, 0 };
    if (a.sinks) f = fold_sink(a, head, max, &sum);
    float *out = (float *)y.at + row * y.stride[0] + head * y.stride[1];
    for (int c = 0; c < 2; c++) {
        const int at = i + c * THREADS;
        if (at >= a.v_dim) break;
        const float v = __fmul_rn(value[c], f.before) * (1.0f / sum);
        out[at] = v;
        if (few) few_put(few, row, head * a.v_dim + at, a.heads * a.v_dim, v);
        if (next) next[(row * a.heads + head) * a.v_dim + at] = __float2bfloat16_rn(v);
    }
}

template <int BOXES, enum dtype D>
static void start_few(struct cuda *c, const struct attention_job &j, int64_t begin, unsigned n) {
    const int chunks = (int)blocks_of(j.a.heads / j.a.kv_heads, HEADS);
    const size_t bytes = sizeof(struct few_memory<BOXES>) + 1024;
    cudaFuncSetAttribute(attend_few<BOXES, D>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                         (int)bytes);
    cuda_start(c, attend_few<BOXES, D>,
               dim3(n, (unsigned)(j.a.kv_heads * chunks), (unsigned)j.blocks), THREADS, bytes,
               c->partial, j.q, j.a, *j.a.rows, j.each, begin, j.maps);
}

/* As many rows at a time as their partial results have room. */
bool cuda_attention_few(struct cuda *c, const struct attention_job &j) {
    const int64_t rows = (int64_t)j.a.rows->n_seqs * j.each;
    const bool small = j.a.k_dim <= 64 && j.a.v_dim <= 64;
    if (cuda_attention_rows(c, j)) return false;
    const int64_t room = PARTIAL_FLOATS / ((int64_t)j.a.heads * j.blocks * (j.a.v_dim + 2));
    if (room < 1 && c->error == cudaSuccess) c->error = cudaErrorMemoryAllocation;
    for (int64_t i = 0; room > 0 && i < rows; i += room) {
        const unsigned n = (unsigned)MIN(room, rows - i);
        if (j.a.kv.dtype == I8) start_few<1, I8>(c, j, i, n);
        else if (j.a.kv.dtype == FP8) start_few<1, FP8>(c, j, i, n);
        else if (small) start_few<1, BF16>(c, j, i, n);
        else start_few<2, BF16>(c, j, i, n);
        cuda_start(c, fold_few, dim3(n, (unsigned)j.a.heads), THREADS, 0, j.y, j.few,
                   j.next, c->partial, j.a, *j.a.rows, j.each, i, j.blocks);
    }
    return j.few != NULL;
}
