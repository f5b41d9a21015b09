/* attention_few.cu - attention of rows that stand alone, or nearly. A few rows: a block of
 * threads for a row, a kv head and 128 positions, so that long contexts are read by all
 * multiprocessors, and a kernel that folds what they leave. Many: a block for all positions of a
 * row and a kv head, which folds as it goes, and makes its heads ready before. The bits are the
 * same. */
#include "device/cuda/attention_mma.h"
#include "device/cuda/heads.h"
#include "device/cuda/once.h"

enum { THREADS = 128, WARPS = 4, HEADS = 16, RING = 3, RING_BLOCKS_MAX = 128 };

/* A box of keys or values as page_in leaves it: of bf16 it has 64 dimensions, of 8 bits all. */
typedef unsigned char box[BLOCK * ROW_BYTES];

/* What threads tell each other about a block. */
struct few_words {
    float k_scale[BLOCK], v_scale[BLOCK];        /* of 8 bits */
    __nv_bfloat16 weight[HEADS][BLOCK + 8];
    float max[WARPS][HEADS], sum[WARPS][HEADS][4];
};

template <int BOXES> struct few_memory {
    box k[BOXES], v[BOXES];
    struct few_words words;
    uint64_t k_full, v_full;
};

/* Keys of a block, its values, keys of the next... take the places of the ring in turn. */
template <int BOXES> struct ring_memory {
    box at[RING][BOXES];
    struct few_words words;
    float inverse[HEADS];
    __nv_bfloat16 fresh[2][HEADS_COLS];          /* the new key, the new value */
    float own[WARPS][HEADS_COLS], cosine[HEADS_COLS / 2], sine[HEADS_COLS / 2];
    uint64_t full[RING], empty[RING];
};

/* The threads that compute. */
__device__ static inline void meet(void) { named_sync(1, THREADS); }

/* What a block works on. */
struct few_job {
    int64_t row;
    int kv_head, first_head, heads, begin, end, block, pos, seq;
};

/* Pages that hold a visible position; the rest of the memory keeps what it had. v NULL: keys
 * alone; k NULL: values. */
template <int BOXES>
__device__ static inline void few_fetch(box *k, uint64_t *k_full, box *v, uint64_t *v_full,
                                        const struct few_job &j, const struct attend &a,
                                        const struct kv_maps &maps) {
    const int tokens = a.kv.page_tokens, first = j.begin / tokens, last = (j.end - 1) / tokens;
    const unsigned bytes = (unsigned)((last - first + 1) * tokens * ROW_BYTES * BOXES);
    if (k) barrier_expect(k_full, bytes);
    if (v) barrier_expect(v_full, bytes);
    for (int i = first; i <= last; i++) {
        const int page = page_of(a.kv, j.seq, i), at = (i * tokens - j.block * BLOCK) * ROW_BYTES;
        for (int h = 0; h < BOXES && k; h++)
            page_in(k[h] + at, &maps.k, 64 * h, j.kv_head * tokens, page, k_full);
        for (int h = 0; h < BOXES && v; h++)
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

/* Sixteen heads, 16 dimensions: what a lane holds of them, in bf16. Beside 8 bits, where a lane has
 * four neighbours of a key, they are taken in that order. */
template <bool Q8>
__device__ static inline void query(unsigned r[4], const struct tensor &q, const struct few_job &j,
                                    const struct attend &a, int dim) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < 4; k++) {
        const int i = lane / 4 + k % 2 * 8;
        const int c = dim + (Q8 ? 4 * (lane % 4) + k / 2 * 2 : 2 * (lane % 4) + k / 2 * 8);
        float u = 0, v = 0;
        if (i < j.heads && c < a.k_dim) {
            const float *from = (const float *)q.at + j.row * q.stride[0] +
                                head_of(a, j.kv_head, j.first_head + i) * q.stride[1] + c;
            u = from[0];
            v = from[1];
        }
        const __nv_bfloat162 both = __floats2bfloat162_rn(u, v);
        r[k] = *(const unsigned *)&both;
    }
}

/* Which 16 bytes of a row's boxes are `unit`. JOINED: they lie side by side, not box by box. */
template <bool JOINED>
__device__ static inline unsigned char *unit_of(const box *boxes, int row, int unit) {
    const unsigned char *at = JOINED ? unit_at(boxes[0], 2 * row + unit / 8, unit)
                                     : unit_at(boxes[unit / 8], row, unit);
    return (unsigned char *)(uintptr_t)at;
}

/* score += 16 heads times 8 keys. */
template <int BOXES, bool Q8, bool JOINED = false>
__device__ static inline void few_dot(float score[4], const box *keys, const unsigned (*q)[4],
                                      int key) {
    const int lane = threadIdx.x % 32;
    unsigned b[4];
    if constexpr (Q8) {
#pragma unroll
        for (int s = 0; s < 8; s += 4) {
            matrices(b, unit_at(keys[0], key, s + lane / 8));
#pragma unroll
            for (int k = 0; k < 4; k++)
                mma(score, q[s + k], two_bytes(b[k], 0, 1), two_bytes(b[k], 2, 3));
        }
    } else {
#pragma unroll
        for (int h = 0; h < BOXES; h++)
#pragma unroll
            for (int s = 0; s < 4; s += 2) {
                matrices(b, unit_of<JOINED>(keys, key, 8 * h + 2 * s + lane / 8));
                mma(score, q[4 * h + s], b[0], b[1]);
                mma(score, q[4 * h + s + 1], b[2], b[3]);
            }
    }
}

/* A warp's 32 positions: score[n][k], of heads lane/4 and 8 more, as exponents before the largest
 * is subtracted. */
template <int BOXES, bool Q8, bool JOINED = false>
__device__ static inline void few_scores(float score[4][4], const struct few_words *m,
                                         const box *keys, const unsigned (*q)[4],
                                         const struct few_job &j, const struct attend &a) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int n = 0; n < 4; n++) {
        few_dot<BOXES, Q8, JOINED>(score[n], keys, q, warp * 32 + n * 8 + lane % 8);
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const int in = warp * 32 + n * 8 + 2 * (lane % 4) + k % 2, at = j.block * BLOCK + in;
            const float x = Q8 ? score[n][k] * m->k_scale[in] : score[n][k];
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
template <bool Q8>
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
                Q8 ? __floats2bfloat162_rn(u * m->v_scale[at], v * m->v_scale[at + 1])
                   : __floats2bfloat162_rn(u, v);
        }
        m->sum[warp][i][lane % 4] = sum;
    }
}

/* Values of positions that are not visible may be anything: their weight is 0, but 0 times that
 * need not be. */
template <int BOXES, bool JOINED = false>
__device__ static inline void few_clear(box *v, const struct few_job &j) {
    const int begin = j.begin - j.block * BLOCK, end = j.end - j.block * BLOCK;
    if (begin == 0 && end == BLOCK) return;
    for (int i = threadIdx.x; i < BLOCK * 8 * BOXES; i += THREADS) {
        const int row = i / (8 * BOXES);
        if (row < begin || row >= end)
            *(uint4 *)unit_of<JOINED>(v, row, i % (8 * BOXES)) = make_uint4(0, 0, 0, 0);
    }
    writes_are_shared();             /* before copies that come here later */
}

/* Weights times eight columns of the values, n of them. */
template <bool JOINED = false>
__device__ static inline void few_eight(float sum[4], const box *v,
                                        const unsigned (&p)[BLOCK / 16][4], int n) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int s = 0; s < BLOCK / 16; s += 2) {
        unsigned b[4];
        matrices_turned(b, unit_of<JOINED>(v, 16 * s + lane, n));
        mma(sum, p[s], b[0], b[1]);
        mma(sum, p[s + 1], b[2], b[3]);
    }
}

/* Of 8 bits: sixteen. A matrix of 16-bit pairs, turned, gives a lane two columns of two positions:
 * even columns are one product, odd ones another. */
__device__ static inline void few_sixteen_q8(float even[4], float odd[4], const box *v,
                                             const unsigned (&p)[BLOCK / 16][4], int n) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int s = 0; s < BLOCK / 16; s += 2) {
        unsigned b[4];
        matrices_turned(b, unit_at(v[0], 16 * s + lane, n));
#pragma unroll
        for (int k = 0; k < 2; k++) {
            mma(even, p[s + k], two_bytes(b[2 * k], 0, 2), two_bytes(b[2 * k + 1], 0, 2));
            mma(odd, p[s + k], two_bytes(b[2 * k], 1, 3), two_bytes(b[2 * k + 1], 1, 3));
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

/* Of 8 bits: every fourth 16 columns. */
__device__ static inline void few_values_q8(float *partial, const box *v,
                                            const unsigned (&p)[BLOCK / 16][4],
                                            const struct few_job &j, const struct attend &a,
                                            int64_t own, int blocks) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int n = warp; n < a.v_dim / 16; n += WARPS) {
        float even[4] = {}, odd[4] = {};
        few_sixteen_q8(even, odd, v, p, n);
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

/* Of the rows of a sequence that has at most `each`: number blockIdx.x % each. -1: none. */
__device__ static inline int64_t few_row(const struct rows &rows, int each, int i) {
    if (each == 1 && rows.n_rows == rows.n_seqs) return i;
    const int seq = i / each, first = rows.first[seq], n = rows.first[seq + 1] - first;
    return n > each || i % each >= n ? -1 : first + i % each;
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

template <int BOXES, bool Q8>
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
    constexpr int STEPS = Q8 ? 8 : BOXES * 4;
    unsigned qs[STEPS][4], p[BLOCK / 16][4];
#pragma unroll
    for (int s = 0; s < STEPS; s++) query<Q8>(qs[s], q, j, a, 16 * s);
    if (Q8) few_scales(&m->words, j, a);
    float score[4][4] = {}, max[2];
    const float factor = factor_of(a);
    __syncthreads();
    barrier_wait(&m->k_full, 0);
    few_scores<BOXES, Q8>(score, &m->words, m->k, qs, j, a);
    few_max(max, &m->words, score, factor);
    few_weights<Q8>(&m->words, score, max, factor);
    barrier_wait(&m->v_full, 0);
    few_clear<BOXES>(m->v, j);
    __syncthreads();
    few_read_weights(p, &m->words);
    if constexpr (Q8) few_values_q8(partial, m->v, p, j, a, blockIdx.x, gridDim.z);
    else few_values(partial, m->v, p, j, a, blockIdx.x, gridDim.z);
    few_sums(partial, &m->words, j, a, blockIdx.x, gridDim.z, factor);
}

/* ---- all blocks of a row in turn ---- */

/* Keys or values of a block, whole rows of pages at a time. */
__device__ static inline void joined_fetch(box *to, uint64_t *full, const CUtensorMap *map,
                                           const struct few_job &j, const struct attend &a,
                                           uint64_t policy) {
    const int tokens = a.kv.page_tokens, first = j.begin / tokens, last = (j.end - 1) / tokens;
    barrier_expect(full, (unsigned)((last - first + 1) * tokens * ROW_BYTES * 2));
    for (int i = first; i <= last; i++)
        page_rows_in(to[0] + (i * tokens - j.block * BLOCK) * ROW_BYTES * 2, map,
                     j.kv_head * tokens, page_of(a.kv, j.seq, i), full, policy);
}

/* fresh: the first position of the sequence that this batch wrote, and that is not put in place by
 * the block itself. What is older is asked for while the kernels before still run. */
template <int BOXES, bool JOINED>
__device__ static inline void ring_fetch(struct ring_memory<BOXES> *m, struct few_job j, int first,
                                         int last, int fresh, const struct attend &a,
                                         const struct kv_maps &maps) {
    const uint64_t policy = read_once();
    int at = 0;
    unsigned phase = 1;
    bool waits = true;
    writes_are_global();
    for (int i = 0; i < 2 * (last + 1 - first); i++) {
        few_block(j, first + i / 2, a);
        if (waits && j.end > fresh) {
            after_previous();
            writes_are_global();
            waits = false;
        }
        barrier_wait(&m->empty[at], phase);
        box *to = m->at[at];
        if (JOINED)
            joined_fetch(to, &m->full[at], i % 2 ? &maps.v : &maps.k, j, a, policy);
        else
            few_fetch<BOXES>(i % 2 ? NULL : to, &m->full[at], i % 2 ? to : NULL, &m->full[at], j,
                             a, maps);
        if (++at == RING) at = 0, phase ^= 1;
    }
}

/* The heads of q that read the kv head, and the new key and value, are made ready as dense.cu does
 * it. Rounded queries lie where weights will. */
template <int BOXES>
__device__ static inline void ring_heads(struct ring_memory<BOXES> *m, const struct few_job &j,
                                         const struct attend &a, const struct heads &h) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, half = (int)h.dims / 2;
    for (int i = threadIdx.x; i < half; i += THREADS)
        turn_of(&m->cosine[i], &m->sine[i], h.rope, freq_of(h.rope, h.rows, half, j.row), j.pos, i);
    for (int i = threadIdx.x; i < (HEADS - j.heads) * HEADS_COLS / 8; i += THREADS)
        *(uint4 *)&m->words.weight[j.heads + i / (HEADS_COLS / 8)][i % (HEADS_COLS / 8) * 8] =
            make_uint4(0, 0, 0, 0);
    meet();
    after_previous();
    let_next_begin();
    for (int i = warp; i < j.heads + 2; i += WARPS) {
        const bool is_q = i < j.heads, is_v = i > j.heads;
        const int head = is_q ? head_of(a, j.kv_head, j.first_head + i)
                              : a.heads + is_v * a.kv_heads + j.kv_head;
        const struct one_head o = head_at_row(h, j.row, head);
        __nv_bfloat16 *kept = is_q ? m->words.weight[i] : m->fresh[is_v], *to = NULL;
        float *own = m->own[warp];
        if (!is_q && j.first_head == 0)
            to = (__nv_bfloat16 *)cached_at(h, j.row, j.kv_head, !is_v);
        warp_head(own, o, warp_gain(o.gain, o.n, h.kind), h, m->cosine, m->sine);
        for (int c = lane; c < HEADS_COLS; c += 32) {
            const __nv_bfloat16 v = __float2bfloat16_rn(c < o.n ? own[c] : 0);
            kept[c] = v;
            if (to && c < o.n) to[c] = v;
        }
        __syncwarp();
    }
    meet();
}

/* The new key or value takes its place. By a warp. */
template <bool JOINED>
__device__ static inline void put_fresh(box *to, const __nv_bfloat16 *row, int at, int dims) {
    const int unit = threadIdx.x % 32;
    if (unit < dims / 8)
        *(uint4 *)unit_of<JOINED>(to, at, unit) = *(const uint4 *)(row + 8 * unit);
}

/* A thread's columns of two heads' values, and what is folded with them; its own head's sum. */
struct ring_sums { float value[4][4], max[2], own_max, own_sum; };

template <bool JOINED>
__device__ static inline void ring_fold(struct ring_sums &sums, const struct few_words *m,
                                        const box *v, const float max[2], const struct few_job &j,
                                        const struct attend &a, float factor) {
    const int warp = threadIdx.x / 32, own = threadIdx.x;
    unsigned p[BLOCK / 16][4];
    struct fold f[2];
    few_read_weights(p, m);
#pragma unroll
    for (int r = 0; r < 2; r++) {
        f[r] = fold_of(sums.max[r], max[r]);
        sums.max[r] = f[r].max;
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int n = warp + WARPS * i;
        float now[4] = {};
        if (n >= a.v_dim / 8) break;
        few_eight<JOINED>(now, v, p, n);
#pragma unroll
        for (int k = 0; k < 4; k++)
            sums.value[i][k] = folded(f[k / 2], sums.value[i][k], now[k]);
    }
    if (own >= j.heads) return;
    const float2 block = few_sum(m, own, factor);
    const struct fold g = fold_of(sums.own_max, block.x);
    sums.own_max = g.max;
    sums.own_sum = folded(g, sums.own_sum, block.y);
}

/* A head's columns i and the next to the row, as numbers and rounded. */
__device__ static inline void put_pair(const struct tensor &y, __nv_bfloat16 *next,
                                       const struct attend &a, int64_t row, int head, int i,
                                       float u, float v) {
    *(float2 *)((float *)y.at + row * y.stride[0] + head * y.stride[1] + i) = make_float2(u, v);
    if (next)
        *(__nv_bfloat162 *)(next + (row * a.heads + head) * a.v_dim + i) =
            __floats2bfloat162_rn(u, v);
}

__device__ static inline void ring_put(const struct tensor &y, __nv_bfloat16 *next,
                                       const struct ring_sums &sums, const float *inverse,
                                       const struct few_job &j, const struct attend &a) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int h = lane / 4 + 8 * r, head = head_of(a, j.kv_head, j.first_head + h);
        struct fold f = { sums.max[r], 1, 0 };
        float total = 0;
        if (h >= j.heads) continue;
        if (a.sinks) f = fold_sink(a, head, sums.max[r], &total);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int n = warp + WARPS * i;
            if (n >= a.v_dim / 8) break;
            put_pair(y, next, a, j.row, head, 8 * n + 2 * (lane % 4),
                     __fmul_rn(sums.value[i][2 * r], f.before) * inverse[h],
                     __fmul_rn(sums.value[i][2 * r + 1], f.before) * inverse[h]);
        }
    }
}

/* NEWS: heads are not ready yet. Then nothing waits for the kernels before but they: a step's first
 * kernel waited for all of the step before, and nobody reads what another row of it writes. */
template <int BOXES, bool JOINED, bool NEWS>
__device__ static inline void ring_attend(struct ring_memory<BOXES> *m, const struct tensor &y,
                                          __nv_bfloat16 *next, const struct tensor &q,
                                          struct few_job j, int first, int last,
                                          const struct attend &a, const struct heads &h) {
    constexpr int STEPS = BOXES * 4;
    const int news = j.pos % BLOCK;
    const bool mine = NEWS && news / 32 == threadIdx.x / 32;
    const float factor = factor_of(a);
    struct ring_sums sums = { {}, { -INFINITY, -INFINITY }, -INFINITY, 0 };
    unsigned qs[STEPS][4], phase = 0;
    int at = 0;
    if constexpr (NEWS) ring_heads<BOXES>(m, j, a, h);
#pragma unroll
    for (int s = 0; s < STEPS; s++)
        if constexpr (NEWS)
            matrices(qs[s], &m->words.weight[threadIdx.x % 16][16 * s + threadIdx.x % 32 / 16 * 8]);
        else query<false>(qs[s], q, j, a, 16 * s);
    for (int b = first; b <= last; b++) {
        float score[4][4] = {}, max[2];
        few_block(j, b, a);
        barrier_wait(&m->full[at], phase);
        if (mine && b == last) put_fresh<JOINED>(m->at[at], m->fresh[0], news, a.k_dim);
        __syncwarp();
        few_scores<BOXES, false, JOINED>(score, &m->words, m->at[at], qs, j, a);
        few_max(max, &m->words, score, factor);
        if (threadIdx.x == 0) barrier_arrive(&m->empty[at]);
        if (++at == RING) at = 0, phase ^= 1;
        few_weights<false>(&m->words, score, max, factor);
        barrier_wait(&m->full[at], phase);
        few_clear<BOXES, JOINED>(m->at[at], j);
        if (mine && b == last) put_fresh<JOINED>(m->at[at], m->fresh[1], news, a.v_dim);
        meet();
        ring_fold<JOINED>(sums, &m->words, m->at[at], max, j, a, factor);
        meet();                      /* nobody reads the block any more */
        if (threadIdx.x == 0) barrier_arrive(&m->empty[at]);
        if (++at == RING) at = 0, phase ^= 1;
    }
    if (threadIdx.x < j.heads) {
        const int head = head_of(a, j.kv_head, j.first_head + threadIdx.x);
        if (a.sinks) fold_sink(a, head, sums.own_max, &sums.own_sum);
        m->inverse[threadIdx.x] = 1.0f / sums.own_sum;
    }
    meet();
    ring_put(y, next, sums, m->inverse, j, a);
}

/* A block for a row and a kv head, whose neighbours have the same pages. The last warp fetches. */
template <int BOXES, bool JOINED, bool NEWS>
__global__ static void __launch_bounds__(THREADS + 32)
attend_ring(struct tensor y, __nv_bfloat16 *next, struct tensor q, struct attend a,
            struct rows rows, int each, const __grid_constant__ struct heads h,
            const __grid_constant__ struct kv_maps maps) {
    extern __shared__ unsigned char memory[];
    struct ring_memory<BOXES> *m =
        (struct ring_memory<BOXES> *)(memory + (1024 - shared_at(memory) % 1024) % 1024);
    if (threadIdx.x == 0) {
        for (int i = 0; i < RING; i++) {
            barrier_init(&m->full[i], 1);
            barrier_init(&m->empty[i], 1);
        }
        barriers_are_set();
    }
    __syncthreads();
    const int64_t row = few_row(rows, each, (int)blockIdx.y);
    if (row < 0) return;
    const struct few_job j = few_job_of(row, blockIdx.x, rows, a);
    const int first = first_visible(a, j.pos) / BLOCK, last = j.pos / BLOCK;
    if (threadIdx.x < THREADS) {
        if (!NEWS) after_previous();
        if (!NEWS) let_next_begin();
        ring_attend<BOXES, JOINED, NEWS>(m, y, next, q, j, first, last, a, h);
    } else if (threadIdx.x == THREADS) {
        const int fresh = NEWS ? j.pos + 1 : rows.pos[rows.first[j.seq]];
        ring_fetch<BOXES, JOINED>(m, j, first, last, fresh, a, maps);
    }
}

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

template <int BOXES, bool Q8>
static void start_few(struct cuda *c, const struct attention_job &j, int64_t begin, unsigned n) {
    const int chunks = (int)blocks_of(j.a.heads / j.a.kv_heads, HEADS);
    const size_t bytes = sizeof(struct few_memory<BOXES>) + 1024;
    cudaFuncSetAttribute(attend_few<BOXES, Q8>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                         (int)bytes);
    cuda_start(c, attend_few<BOXES, Q8>,
               dim3(n, (unsigned)(j.a.kv_heads * chunks), (unsigned)j.blocks), THREADS, bytes,
               c->partial, j.q, j.a, *j.a.rows, j.each, begin, j.maps);
}

template <int BOXES, bool JOINED, bool NEWS>
static void start_ring_of(struct cuda *c, const struct attention_job &j, unsigned rows,
                          const struct kv_maps &maps) {
    const unsigned parts = (unsigned)j.a.kv_heads * blocks_of(j.a.heads / j.a.kv_heads, HEADS);
    const size_t bytes = sizeof(struct ring_memory<BOXES>) + 1024;
    const struct heads h = *c->heads;
    c->heads_wait = false;
    cudaFuncSetAttribute(attend_ring<BOXES, JOINED, NEWS>,
                         cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    cuda_start(c, attend_ring<BOXES, JOINED, NEWS>, dim3(parts, rows), THREADS + 32, bytes, j.y,
               j.next, j.q, j.a, *j.a.rows, j.each, h, maps);
}

template <int BOXES, bool JOINED>
static void start_ring(struct cuda *c, const struct attention_job &j, unsigned rows,
                       const struct kv_maps &maps) {
    if (c->heads_wait) start_ring_of<BOXES, JOINED, true>(c, j, rows, maps);
    else start_ring_of<BOXES, JOINED, false>(c, j, rows, maps);
}

/* Pages whose rows are two whole boxes come in one piece each, as they lie: half as many copies. */
static bool join(struct kv_maps &maps, const struct attend &a) {
    const int64_t rows = (int64_t)a.kv_heads * a.kv.page_tokens, bytes = (int64_t)a.kv.page_bytes;
    const char *values = (const char *)a.kv.pages + values_at(a, 2);
    return a.k_dim == 128 && a.v_dim == 128 &&
           cuda_page_map_rows(&maps.k, a.kv.pages, rows, a.k_dim, bytes, a.kv.page_tokens) &&
           cuda_page_map_rows(&maps.v, values, rows, a.v_dim, bytes, a.kv.page_tokens);
}

static void by_dims(struct cuda *c, const struct attention_job &j, unsigned rows) {
    struct kv_maps maps = j.maps;
    if (j.a.k_dim <= 64 && j.a.v_dim <= 64) start_ring<1, false>(c, j, rows, j.maps);
    else if (join(maps, j.a)) start_ring<2, true>(c, j, rows, maps);
    else start_ring<2, false>(c, j, rows, j.maps);
}

/* One long row among short ones would be alone at the end: not where contexts may be that long. Of
 * 8 bits the arithmetic counts, and more blocks of threads are better. */
static bool takes_ring(const struct cuda *c, const struct attend &a, int64_t rows) {
    return a.kv.dtype != I8 && 2 * rows * a.kv_heads >= 3 * c->processors &&
           blocks_of((int64_t)a.kv.pages_max * a.kv.page_tokens, BLOCK) <= RING_BLOCKS_MAX;
}

bool cuda_ring_waits(const struct cuda *c, const struct heads &h) {
    const struct attend &a = h.a;
    return c->hopper && c->rounded && h.rows.n_rows > 1 && h.rows.n_rows == h.rows.n_seqs &&
           !a.v_in_k && a.kv.dtype == BF16 && takes_ring(c, a, h.rows.n_rows) &&
           a.k_dim <= HEADS_COLS && a.v_dim <= HEADS_COLS && h.q.shape[1] == a.heads &&
           h.q.shape[2] == a.k_dim && h.k.shape[2] == a.k_dim && h.v.shape[2] == a.v_dim;
}

/* As many rows at a time as their partial results have room. */
bool cuda_attention_few(struct cuda *c, const struct attention_job &j) {
    const int64_t rows = (int64_t)j.a.rows->n_seqs * j.each;
    const bool small = j.a.k_dim <= 64 && j.a.v_dim <= 64;
    if (takes_ring(c, j.a, rows)) {
        by_dims(c, j, (unsigned)rows);
        return false;
    }
    const int64_t room = PARTIAL_FLOATS / ((int64_t)j.a.heads * j.blocks * (j.a.v_dim + 2));
    if (room < 1 && c->error == cudaSuccess) c->error = cudaErrorMemoryAllocation;
    for (int64_t i = 0; room > 0 && i < rows; i += room) {
        const unsigned n = (unsigned)MIN(room, rows - i);
        if (j.a.kv.dtype == I8) start_few<1, true>(c, j, i, n);
        else if (small) start_few<1, false>(c, j, i, n);
        else start_few<2, false>(c, j, i, n);
        cuda_start(c, fold_few, dim3(n, (unsigned)j.a.heads), THREADS, 0, j.y, j.few,
                   j.next, c->partial, j.a, *j.a.rows, j.each, i, j.blocks);
    }
    return j.few != NULL;
}
