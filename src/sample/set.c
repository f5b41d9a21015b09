/* set.c - selecting and sorting candidates.
 *
 * A key is 64 bits: the logit turned so that higher logits give lower numbers, then the id. So
 * keys are all different, sorting them needs no stability, and ties cannot depend on the order
 * in which candidates came. */
#include "sample/set.h"

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

void set_all(struct sampler *s) {
    s->n = 0;
    for (int i = 0; i < s->vocab; i++)
        if (isfinite(s->logit[i])) s->id[s->n++] = i;
    s->sorted = false;
}

float set_best(const struct sampler *s) {
    float best = s->logit[s->id[0]];
    if (s->sorted) return best;
    for (int i = 1; i < s->n; i++) best = MAX(best, s->logit[s->id[i]]);
    return best;
}

double set_weigh(struct sampler *s) {
    float best = set_best(s);
    double sum = 0;
    for (int i = 0; i < s->n; i++) {
        s->weight[i] = expf(s->logit[s->id[i]] - best);
        sum += (double)s->weight[i];
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
}

void set_sort_by(struct sampler *s, const float *rank) {
    for (int i = 0; i < s->n; i++) s->key[i] = key_of(rank[i], s->id[i]);
    ids_from_keys(s, radix_sort(s->key, s->spare, s->n), s->n);
    s->sorted = false;
}
