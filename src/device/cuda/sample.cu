/* sample.cu - a token for each row of logits, as sample/ draws it: the same stages in the same
 * order, ties to the lower id, sums in double; only expf rounds as this device does.
 *
 * A first kernel finds the best of each of PARTS parts of a row. The k-th best of those bounds the
 * k best of the row from below, so one block then gathers few candidates, and sorts them. */
#include "device/cuda/cuda.h"

#include <cfloat>

enum { PARTS = DRAW_TOP_K_MAX, PART_WARPS = 8, AT_ONCE = 4, THREADS = 512, CANDIDATES = 2048 };

/* Higher for higher logits, and for the lower of equal ones' ids. 0: not finite. */
typedef unsigned long long key_of_token;

__device__ static inline key_of_token key_of(float logit, int id) {
    if (!(fabsf(logit) <= FLT_MAX)) return 0;
    const unsigned bits = __float_as_uint(logit + 0.0f);
    const unsigned high = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (key_of_token)high << 32 | (unsigned)~id;
}

__device__ static inline int id_of(key_of_token key) { return (int)~(unsigned)key; }

__device__ static inline key_of_token warp_most(key_of_token k) {
    for (int i = 16; i > 0; i /= 2) {
        const key_of_token other = __shfl_xor_sync(~0u, k, i);
        k = other > k ? other : k;
    }
    return k;
}

/* The most of a block, in every thread; `part` is shared. */
__device__ static inline key_of_token block_most(key_of_token k, key_of_token part[32]) {
    k = warp_most(k);
    __syncthreads();
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = k;
    __syncthreads();
    k = 0;
    for (int i = 0; i < blockDim.x / 32; i++) k = part[i] > k ? part[i] : k;
    return k;
}

/* A row with NaN or +inf has no token: its parts are marked. */
static const key_of_token BROKEN = ~0ull;

/* Parts begin at multiples of four. */
__device__ static inline int part_at(int i, int vocab) {
    return i == PARTS ? vocab : (int)((int64_t)vocab * i / PARTS / 4 * 4);
}

/* Up to four neighbours; fours: they lie as vectors. What there is not is the least. */
__device__ static inline float4 four_of(const float *from, int i, int end, bool fours) {
    float4 v = make_float4(-INFINITY, -INFINITY, -INFINITY, -INFINITY);
    if (fours && i + 4 <= end) return *(const float4 *)(from + i);
    if (i < end) v.x = from[i];
    if (i + 1 < end) v.y = from[i + 1];
    if (i + 2 < end) v.z = from[i + 2];
    if (i + 3 < end) v.w = from[i + 3];
    return v;
}

struct best_logit { float logit; int id; bool broken; };

__device__ static inline void meet_logit(struct best_logit &b, float logit, int id) {
    b.broken |= !(logit <= FLT_MAX);
    if (!(logit > b.logit)) return;
    b.logit = logit;
    b.id = id;
}

/* A warp has a part. */
__global__ static void __launch_bounds__(PART_WARPS * 32)
best_of_parts(key_of_token *best, const float *logits, int64_t row, int vocab, bool fours) {
    let_next_begin();
    after_previous();
    const int lane = threadIdx.x % 32, part = blockIdx.x * PART_WARPS + threadIdx.x / 32;
    const float *from = logits + blockIdx.y * row;
    const int begin = part_at(part, vocab), end = part_at(part + 1, vocab);
    struct best_logit b = { -INFINITY, -1, false };
    for (int first = begin; first < end; first += AT_ONCE * 128) {
        float4 v[AT_ONCE];
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++)
            v[k] = four_of(from, first + k * 128 + lane * 4, end, fours);
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) {
            const int i = first + k * 128 + lane * 4;
            meet_logit(b, v[k].x, i);
            meet_logit(b, v[k].y, i + 1);
            meet_logit(b, v[k].z, i + 2);
            meet_logit(b, v[k].w, i + 3);
        }
    }
    const key_of_token most = warp_most(b.broken ? BROKEN : b.id < 0 ? 0 : key_of(b.logit, b.id));
    if (lane == 0) best[blockIdx.y * PARTS + part] = most;
}

/* Descending, n a power of two, by the whole block. */
__device__ static void sort(key_of_token *key, int n) {
    for (int size = 2; size <= n; size *= 2)
        for (int step = size / 2; step > 0; step /= 2) {
            __syncthreads();
            for (int i = threadIdx.x; i < n; i += blockDim.x) {
                const int other = i ^ step;
                const bool down = (i & size) == 0;
                if (other > i && (key[i] < key[other]) == down) {
                    const key_of_token k = key[i];
                    key[i] = key[other];
                    key[other] = k;
                }
            }
        }
    __syncthreads();
}

struct chosen {                      /* of one block */
    key_of_token part[32], key[CANDIDATES];
    float logit[DRAW_TOP_K_MAX], weight[DRAW_TOP_K_MAX];
    int n;
};

/* key[0..k) = the k best, sorted. Less where the row has fewer finite ones. */
__device__ static void choose(struct chosen *s, const float *row, int vocab,
                              const key_of_token *best, int k) {
    for (int i = threadIdx.x; i < PARTS; i += blockDim.x) s->key[i] = best[i];
    sort(s->key, PARTS);
    const key_of_token least = s->key[k - 1] ? s->key[k - 1] : 1;
    __syncthreads();
    if (threadIdx.x == 0) s->n = 0;
    for (int i = threadIdx.x; i < CANDIDATES; i += blockDim.x) s->key[i] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < vocab; i += blockDim.x) {
        const key_of_token key = key_of(row[i], i);
        if (key < least) continue;
        const int at = atomicAdd(&s->n, 1);
        if (at < CANDIDATES) s->key[at] = key;
    }
    __syncthreads();
    if (s->n <= CANDIDATES) {
        int n = 2;
        while (n < s->n) n *= 2;
        sort(s->key, n);
        return;
    }
    /* Very many are equal: one at a time. */
    key_of_token above = BROKEN;
    for (int found = 0; found < k; found++) {
        key_of_token most = 0;
        for (int i = threadIdx.x; i < vocab; i += blockDim.x) {
            const key_of_token key = key_of(row[i], i);
            if (key < above && key > most) most = key;
        }
        above = block_most(most, s->part);
        if (threadIdx.x == 0) s->key[found] = above;
    }
    __syncthreads();
}

/* The stages on sorted candidates, by one thread: there are few. */
__device__ static int draw_sorted(struct chosen *s, const float *row, int k, const struct draw &d) {
    int n = 0;
    for (; n < k && s->key[n]; n++) s->logit[n] = row[id_of(s->key[n])];
    const float best = s->logit[0];
    if (d.top_p < 1) {
        double total = 0, sum = 0;
        for (int i = 0; i < n; i++) total += (double)(s->weight[i] = expf(s->logit[i] - best));
        const double wanted = total * (double)d.top_p;
        for (int i = 0; i < n; i++) {
            sum += (double)s->weight[i];
            if (sum >= wanted) n = i + 1;
        }
    }
    if (d.min_p > 0) {
        const float least = best + logf(d.min_p);
        while (n > 1 && s->logit[n - 1] < least) n--;
    }
    double left = 0;
    for (int i = 0; i < n; i++) {
        float l = s->logit[i] - best;
        if (d.temperature != 1) l = fmaxf(-FLT_MAX, l / d.temperature);
        left += (double)(s->weight[i] = expf(l));
    }
    int last = 0;
    left *= d.chance;
    for (int i = 0; i < n; i++) {
        if (s->weight[i] <= 0) continue;
        last = i;
        left -= (double)s->weight[i];
        if (left < 0) break;
    }
    return id_of(s->key[last]);
}

/* Without top_k: in the order of ids, each warp a run of them. */
__device__ static inline float weight_of(float logit, float best, float least,
                                         const struct draw &d) {
    if (!(fabsf(logit) <= FLT_MAX) || logit < least) return 0;
    const float l = logit - best;
    return expf(d.temperature != 1 ? fmaxf(-FLT_MAX, l / d.temperature) : l);
}

__device__ static int draw_all(const float *row, int vocab, float best, const struct draw &d) {
    __shared__ double mass[THREADS / 32];
    __shared__ int found;
    const int warps = THREADS / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int each = (vocab + warps * 32 - 1) / (warps * 32) * 32, begin = warp * each;
    const int end = MIN(vocab, begin + each);
    const float least = d.min_p > 0 ? best + logf(d.min_p) : -INFINITY;
    double sum = 0;
    for (int i = begin + lane; i < end; i += 32) sum += (double)weight_of(row[i], best, least, d);
    for (int i = 16; i > 0; i /= 2) sum += __shfl_xor_sync(~0u, sum, i);
    if (lane == 0) mass[warp] = sum;
    if (threadIdx.x == 0) found = -1;
    __syncthreads();
    double left = 0, before = 0;
    for (int i = 0; i < warps; i++) left += mass[i];
    left *= d.chance;
    int own = 0;                     /* the run that holds it, or the last that has any */
    for (int i = 0; i < warps; i++) {
        if (mass[i] <= 0) continue;
        own = i;
        if (left - before < mass[i]) break;
        before += mass[i];
    }
    if (before > left) before = left;
    if (warp != own) {
        __syncthreads();
        return found;
    }
    left -= before;
    int last = -1;
    for (int first = begin; first < end; first += 32) {
        const float w = first + lane < end ? weight_of(row[first + lane], best, least, d) : 0;
        double upto = (double)w;
        for (int i = 1; i < 32; i *= 2) {
            const double other = __shfl_up_sync(~0u, upto, i);
            if (lane >= i) upto += other;
        }
        const unsigned some = __ballot_sync(~0u, w > 0);
        const unsigned over = __ballot_sync(~0u, w > 0 && left - upto < 0);
        if (over) {
            last = first + __ffs((int)over) - 1;
            break;
        }
        if (some) last = first + 31 - __clz((int)some);
        left -= __shfl_sync(~0u, upto, 31);
    }
    if (lane == 0) found = last;
    __syncthreads();
    return found;
}

__global__ static void __launch_bounds__(THREADS) draw_row(
    const key_of_token *best, const float *logits, int64_t row_floats, int vocab,
    struct draws a) {
    let_next_begin();
    after_previous();
    __shared__ struct chosen s;
    const int r = blockIdx.x;
    const float *row = logits + r * row_floats;
    const struct draw d = a.how[r];
    key_of_token most = 0;
    for (int i = threadIdx.x; i < PARTS; i += THREADS)
        most = best[r * PARTS + i] > most ? best[r * PARTS + i] : most;
    most = block_most(most, s.part);
    int token = -1;
    if (most != 0 && most != BROKEN) {
        if (d.temperature == 0) token = id_of(most);
        else if (d.top_k > 0) {
            choose(&s, row, vocab, best + r * PARTS, d.top_k);
            if (threadIdx.x == 0) token = draw_sorted(&s, row, d.top_k, d);
        } else token = draw_all(row, vocab, row[id_of(most)], d);
    }
    if (threadIdx.x) return;
    a.drawn[r] = token;
    a.told[*a.turn * a.told_max + r] = token;
    __threadfence_system();
}

void cuda_sample(struct device *dev, const struct tensor *logits, const struct draws *a) {
    struct cuda *c = cuda_of(dev);
    key_of_token *best = (key_of_token *)c->partial;
    const float *from = (const float *)logits->at;
    const int vocab = (int)logits->shape[1];
    const bool fours = (uintptr_t)from % 16 == 0 && logits->stride[0] % 4 == 0;
    cuda_start(c, best_of_parts, dim3(PARTS / PART_WARPS, (unsigned)a->n), PART_WARPS * 32, 0,
               best, from, logits->stride[0], vocab, fours);
    cuda_start(c, draw_row, (unsigned)a->n, THREADS, 0, best, from, logits->stride[0], vocab, *a);
    cuda_check(dev);
}

/* A token that could not be drawn ends its request; until the host knows, 0 stands for it. */
__global__ static void feed(int *ids, int n, const int *drawn) {
    let_next_begin();
    after_previous();
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n && ids[i] <= DRAWN) ids[i] = MAX(0, drawn[DRAWN - ids[i]]);
}

void cuda_feed(struct device *dev, int *ids, int n, const int *drawn) {
    cuda_start(cuda_of(dev), feed, blocks_of(n, 128), 128, 0, ids, n, drawn);
    cuda_check(dev);
}
