/* set.c - selecting and sorting candidates.
 *
 * A key is 64 bits: the logit turned so that higher logits give lower numbers, then the id. So
 * keys are all different, sorting them needs no stability, and ties cannot depend on the order
 * in which candidates came. */
#include "sample/set.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* Distances to the best logit are counted in 1024 steps of 1/32; all that is farther shares the
 * last one. Division by a constant and rounding are monotone, so a better logit never falls
 * into a later bucket. */
enum { BUCKETS = 1024, BUCKETS_PER_UNIT = 32 };

static int bucket_of(float best, float logit) {
    float at = (best - logit) * BUCKETS_PER_UNIT;
    return at < BUCKETS - 1 ? (int)at : BUCKETS - 1;
}

/* Ascending for floats of either sign. -0 counts as 0. */
static uint32_t ascending(float f) {
    uint32_t bits;
    f += 0.0f;
    memcpy(&bits, &f, sizeof bits);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

static void insertion_sort(uint64_t *key, int n) {
    for (int i = 1; i < n; i++) {
        uint64_t k = key[i];
        int j = i;
        for (; j > 0 && key[j - 1] > k; j--) key[j] = key[j - 1];
        key[j] = k;
    }
}

/* Least significant digit first; a digit that all keys share is skipped, so the upper bytes of
 * ids and the like cost a count only. The result is in a or b: which one is returned. */
static uint64_t *radix_sort(uint64_t *a, uint64_t *b, int n) {
    if (n <= 64) {
        insertion_sort(a, n);
        return a;
    }
    for (int shift = 0; shift < 64; shift += 8) {
        int at[256] = { 0 };
        for (int i = 0; i < n; i++) at[a[i] >> shift & 255]++;
        if (at[a[0] >> shift & 255] == n) continue;
        int sum = 0;
        for (int d = 0; d < 256; d++) {
            int here = at[d];
            at[d] = sum;
            sum += here;
        }
        for (int i = 0; i < n; i++) b[at[a[i] >> shift & 255]++] = a[i];
        uint64_t *t = a;
        a = b;
        b = t;
    }
    return a;
}

static void ids_from_keys(struct sampler *s, const uint64_t *key, int n) {
    for (int i = 0; i < n; i++) s->id[i] = (int)(key[i] & 0xffffffffu);
}

static uint64_t key_of(float rank, int id) {
    return (uint64_t)ascending(rank) << 32 | (uint32_t)id;
}

/* ---- passes over the whole vocabulary ---- */

/* So many numbers at a time, in the vectors of the compiler: they become whatever the processor
 * that is compiled for has. */
enum { LANES = 4 };
typedef float floats __attribute__((vector_size(LANES * 4)));
typedef int32_t ints __attribute__((vector_size(LANES * 4)));
_Static_assert(SET_BLOCK % LANES == 0, "a block is whole vectors");

static floats load(const float *at) {
    floats v;
    memcpy(&v, at, sizeof v);
    return v;
}

/* a where the mask has ones, else b. */
static floats choose(ints mask, floats a, floats b) {
    return (floats)(((ints)a & mask) | ((ints)b & ~mask));
}

static floats all(float x) {
    return (floats){ x, x, x, x };
}

/* The highest of n logits; *bad when one of them is NaN or +inf. */
static float highest(const float *logit, int n, bool *bad) {
    floats most = all(-INFINITY);
    ints good = (ints)(most == most);
    int i = 0;
    for (; i + LANES <= n; i += LANES) {
        floats x = load(logit + i);
        most = choose((ints)(x > most), x, most);
        good &= (ints)(x <= all(FLT_MAX));
    }
    for (int l = 0; i + l < n; l++) {
        float x = logit[i + l];
        most[l] = MAX(x, most[l]);
        good[l] &= -(x <= FLT_MAX);
    }
    for (int l = 1; l < LANES; l++) {
        most[0] = MAX(most[0], most[l]);
        good[0] &= good[l];
    }
    *bad |= !good[0];
    return most[0];
}

static int n_blocks(const struct sampler *s) {
    return (s->vocab + SET_BLOCK - 1) / SET_BLOCK;
}

static int block_end(const struct sampler *s, int block) {
    return MIN(s->vocab, (block + 1) * SET_BLOCK);
}

int set_arg_max(struct sampler *s) {
    int best = -1;
    bool bad = false;
    for (int b = 0; b < n_blocks(s); b++) {
        const int begin = b * SET_BLOCK;
        s->block[b] = highest(s->logit + begin, block_end(s, b) - begin, &bad);
        if (s->block[b] > (best < 0 ? -INFINITY : s->block[best])) best = b;
    }
    if (bad || best < 0) return -1;
    for (int i = best * SET_BLOCK;; i++)
        if (s->logit[i] == s->block[best]) return i;
}

/* Whether no logit is -inf; the others are finite, which set_arg_max saw to. */
static bool all_finite(const struct sampler *s) {
    ints good = (ints)(all(0) == all(0));
    int i = 0;
    for (; i + LANES <= s->vocab; i += LANES) good &= (ints)(load(s->logit + i) >= all(-FLT_MAX));
    for (int l = 0; i + l < s->vocab; l++) good[l] &= -(s->logit[i + l] >= -FLT_MAX);
    return good[0] & good[1] & good[2] & good[3];
}

void set_all(struct sampler *s) {
    s->sorted = false;
    s->whole = all_finite(s);
    int n = 0, *id = s->id;
    for (int i = 0; i < s->vocab; i++) {
        id[n] = i;
        n += s->whole || isfinite(s->logit[i]);
    }
    s->n = n;
}

/* The k-th highest of the blocks' best ones is a bound: k logits at least are no lower. So only
 * blocks that reach it need to be looked at, which are about k. */
void set_all_best(struct sampler *s, int k) {
    const int blocks = n_blocks(s);
    float bound = -FLT_MAX;
    if (k < blocks) {
        for (int b = 0; b < blocks; b++) s->key[b] = key_of(-s->block[b], b);
        int block = (int)(radix_sort(s->key, s->spare, blocks)[k - 1] & 0xffffffffu);
        bound = MAX(bound, s->block[block]);
    }
    int n = 0;
    for (int b = 0; b < blocks; b++)
        for (int i = b * SET_BLOCK; s->block[b] >= bound && i < block_end(s, b); i++)
            if (s->logit[i] >= bound) s->key[n++] = key_of(-s->logit[i], i);
    s->n = MIN(n, k);
    ids_from_keys(s, radix_sort(s->key, s->spare, n), s->n);
    s->sorted = true;
    s->whole = false;
}

float set_best(const struct sampler *s) {
    bool bad = false;
    if (s->whole) return highest(s->logit, s->n, &bad);
    float best = s->logit[s->id[0]];
    if (s->sorted) return best;
    for (int i = 1; i < s->n; i++) best = MAX(best, s->logit[s->id[i]]);
    return best;
}

/* e^x for x <= 0, to some 1e-7 of it: 2^n times a polynomial; 0 where the result would not be a
 * normal number. A candidate's weight is the same in a vector and alone. */
static floats exp_of(floats x) {
    const ints small = (ints)(x < all(-87));
    x = choose(small, all(-87), x);
    const ints n = __builtin_convertvector(x * 1.44269504f - 0.5f, ints);
    const floats whole = __builtin_convertvector(n, floats);
    const floats r = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
    floats p = r * 1.9875691e-4f + 1.3981999e-3f;
    p = p * r + 8.3334519e-3f;
    p = p * r + 4.1665796e-2f;
    p = p * r + 1.6666665e-1f;
    p = p * r + 5.0000001e-1f;
    p = p * r * r + r + 1;
    return choose(small, all(0), p * (floats)((n + 127) << 23));
}

/* Sums lane by lane, and the lanes in a fixed tree. */
static double weigh_whole(struct sampler *s, float best) {
    typedef double doubles __attribute__((vector_size(LANES * 8)));
    doubles sum = { 0 };
    for (int i = 0; i < s->n; i += LANES) {
        floats x = all(-INFINITY);
        const size_t n = (size_t)MIN(LANES, s->n - i);
        if (n == LANES) x = load(s->logit + i) - best;
        for (size_t l = 0; n < LANES && l < n; l++) x[l] = s->logit[(size_t)i + l] - best;
        floats w = exp_of(x);
        sum += __builtin_convertvector(w, doubles);
        memcpy(s->weight + i, &w, n * sizeof *s->weight);
    }
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int l = 0; l < half; l++) sum[l] += sum[l + half];
    return sum[0];
}

void set_temper(struct sampler *s, float temperature) {
    const float best = set_best(s);
    int i = 0;
    for (; s->whole && i + LANES <= s->n; i += LANES) {
        floats x = (load(s->logit + i) - best) / temperature;
        x = choose((ints)(x < all(-FLT_MAX)), all(-FLT_MAX), x);
        memcpy(s->logit + i, &x, sizeof x);
    }
    for (; i < s->n; i++) {
        float *l = &s->logit[s->id[i]];
        *l = MAX(-FLT_MAX, (*l - best) / temperature);
    }
}

double set_weigh(struct sampler *s) {
    float best = set_best(s);
    double sum = 0;
    if (s->whole) return weigh_whole(s, best);
    for (int i = 0; i < s->n; i += LANES) {
        const size_t n = (size_t)MIN(LANES, s->n - i);
        floats x = all(-INFINITY);
        for (size_t l = 0; l < n; l++) x[l] = s->logit[s->id[(size_t)i + l]] - best;
        floats w = exp_of(x);
        memcpy(s->weight + i, &w, n * sizeof *s->weight);
        for (size_t l = 0; l < n; l++) sum += (double)s->weight[(size_t)i + l];
    }
    return sum;
}

/* Leaves the candidates of the buckets up to `last`, sorted. */
static void sort_up_to(struct sampler *s, float best, int last) {
    int n = 0;
    for (int i = 0; i < s->n; i++) {
        float l = s->logit[s->id[i]];
        if (last >= BUCKETS - 1 || bucket_of(best, l) <= last) s->key[n++] = key_of(-l, s->id[i]);
    }
    s->n = n;
    ids_from_keys(s, radix_sort(s->key, s->spare, n), n);
    s->sorted = true;
    s->whole = false;
}

void set_keep_best(struct sampler *s, int k) {
    if (!s->sorted) {
        int held[BUCKETS] = { 0 }, sum = 0, last = 0;
        float best = set_best(s);
        for (int i = 0; i < s->n; i++) held[bucket_of(best, s->logit[s->id[i]])]++;
        for (; last < BUCKETS - 1; last++) {
            sum += held[last];
            if (sum >= k) break;
        }
        sort_up_to(s, best, last);
    }
    s->n = MIN(s->n, k);
}

void set_keep_mass(struct sampler *s, float share) {
    double total = set_weigh(s), wanted = total * (double)share, sum = 0;
    if (!s->sorted) {
        double mass[BUCKETS] = { 0 };
        float best = set_best(s);
        int last = 0;
        for (int i = 0; i < s->n; i++)
            mass[bucket_of(best, s->logit[s->id[i]])] += (double)s->weight[i];
        /* This sum is not in the order of the exact one below and may round to the other side of
         * `wanted`: one more bucket than needed makes up for it. */
        for (; last < BUCKETS - 1 && sum < wanted; last++) sum += mass[last];
        sort_up_to(s, best, last);
        set_weigh(s);
        sum = 0;
    }
    for (int i = 0; i < s->n; i++) {
        sum += (double)s->weight[i];
        if (sum >= wanted) {
            s->n = i + 1;
            return;
        }
    }
}

void set_keep_above(struct sampler *s, float least) {
    int n = 0;
    for (int i = 0; i < s->n; i++)
        if (s->logit[s->id[i]] >= least) s->id[n++] = s->id[i];
    s->n = n;
    s->whole = false;
}

void set_sort_by(struct sampler *s, const float *rank) {
    for (int i = 0; i < s->n; i++) s->key[i] = key_of(rank[i], s->id[i]);
    ids_from_keys(s, radix_sort(s->key, s->spare, s->n), s->n);
    s->sorted = false;
    s->whole = false;
}
