/* set.c - selecting and sorting candidates.
 *
 * A key is 64 bits: the logit turned so that higher logits give lower numbers, then the id. So
 * keys are all different, sorting them needs no stability, and ties cannot depend on the order
 * in which candidates came. */
#include "sample/set.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* What is sorted rather than narrowed down once more; a list is at most a FEW-th of a whole set. */
enum { SORT_MAX = 512, NARROWINGS = 8, FEW = 16 };

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

static bool is_sorted(const uint64_t *key, int n) {
    int i = 1;
    while (i < n && key[i - 1] <= key[i]) i++;
    return i >= n;
}

/* Least significant digit first; a digit that all keys share is skipped, so the upper bytes of
 * ids and the like cost a count only. The result is in a or b: which one is returned. Many equal
 * logits come in order of their ids, and need nothing. */
static uint64_t *radix_sort(uint64_t *a, uint64_t *b, int n) {
    if (n <= 64) insertion_sort(a, n);
    if (is_sorted(a, n)) return a;
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

static int n_blocks(const struct sampler *s) {
    return (s->vocab + ROW_BLOCK - 1) / ROW_BLOCK;
}

static int block_end(const struct sampler *s, int block) {
    return MIN(s->vocab, (block + 1) * ROW_BLOCK);
}

int set_arg_max(struct sampler *s) {
    int best = -1;
    const bool sound = s->row->tops(s->logit, s->vocab, s->block);
    for (int b = 0; b < n_blocks(s); b++)
        if (s->block[b] > (best < 0 ? -INFINITY : s->block[best])) best = b;
    s->topped = true;
    if (!sound || best < 0) return -1;
    s->best = s->block[best];
    for (int i = best * ROW_BLOCK;; i++)
        if (s->logit[i] == s->best) return i;
}

void set_all(struct sampler *s) {
    s->whole = true;
    s->sorted = s->weighed = false;
    s->n = s->vocab;
}

float set_best(const struct sampler *s) {
    if (s->whole) return s->best;
    float best = s->logit[s->id[0]];
    if (s->sorted) return best;
    for (int i = 1; i < s->n; i++) best = MAX(best, s->logit[s->id[i]]);
    return best;
}

/* The k-th highest of the blocks' best ones is a bound: k logits at least are no lower. So only
 * blocks that reach it need to be looked at, which are about k. */
static void list_best(struct sampler *s, int k) {
    const int blocks = n_blocks(s);
    float bound = -FLT_MAX;
    if (!s->topped) set_arg_max(s);
    if (k < blocks) {
        for (int b = 0; b < blocks; b++) s->key[b] = key_of(-s->block[b], b);
        int block = (int)(radix_sort(s->key, s->spare, blocks)[k - 1] & 0xffffffffu);
        bound = MAX(bound, s->block[block]);
    }
    int n = 0;
    for (int b = 0; b < blocks; b++)
        for (int i = b * ROW_BLOCK; s->block[b] >= bound && i < block_end(s, b); i++)
            if (s->logit[i] >= bound) s->key[n++] = key_of(-s->logit[i], i);
    s->n = MIN(n, k);
    ids_from_keys(s, radix_sort(s->key, s->spare, n), s->n);
    s->sorted = true;
    s->whole = false;
}

/* Of a list, by its distances from the center. With the best as the center that is the order of
 * logits, which a distance may round to the same. */
static float rank_of(const struct sampler *s, float center, float best, int id) {
    return center >= best ? -s->logit[id] : fabsf(center - s->logit[id]);
}

/* The list's keys, sorted. */
static const uint64_t *sort_list(struct sampler *s, float center, float best) {
    for (int i = 0; i < s->n; i++)
        s->key[i] = key_of(rank_of(s, center, best, s->id[i]), s->id[i]);
    return radix_sort(s->key, s->spare, s->n);
}

void set_keep_best(struct sampler *s, int k) {
    const float best = set_best(s);
    if (s->whole) list_best(s, k);
    else if (!s->sorted) ids_from_keys(s, sort_list(s, best, best), s->n);
    s->sorted = true;
    s->n = MIN(s->n, k);
}

/* By the passes over a row, so that a weight is the same in every set. */
static double weigh_list(struct sampler *s, float best) {
    double mass, sum = 0;
    float far[ROW_BLOCK], weight[ROW_BLOCK];
    for (int begin = 0; begin < s->n; begin += ROW_BLOCK) {
        const int n = MIN(ROW_BLOCK, s->n - begin);
        for (int i = 0; i < n; i++) far[i] = s->logit[s->id[begin + i]];
        s->row->weigh(far, n, best, weight, &mass);
        for (int i = 0; i < n; i++) {
            s->weight[s->id[begin + i]] = weight[i];
            sum += (double)weight[i];
        }
    }
    return sum;
}

double set_weigh(struct sampler *s) {
    double sum = 0;
    if (!s->whole) return weigh_list(s, set_best(s));
    if (s->weighed) s->row->add(s->weight, s->vocab, s->mass);
    else s->row->weigh(s->logit, s->vocab, s->best, s->weight, s->mass);
    s->weighed = true;
    for (int b = 0; b < n_blocks(s); b++) sum += s->mass[b];
    return sum;
}

struct row_sums set_sums(struct sampler *s, double center) {
    if (s->whole) return s->row->sums(s->logit, s->vocab, center);
    struct row_sums sums = { .n = s->n };
    for (int i = 0; i < s->n; i++) {
        const double x = (double)s->logit[s->id[i]] - center;
        sums.x += x;
        sums.xx += x * x;
    }
    return sums;
}

double set_weighed(struct sampler *s, double center) {
    if (s->whole) return s->row->weighed(s->logit, s->weight, s->vocab, center);
    double sum = 0;
    for (int i = 0; i < s->n; i++)
        sum += (double)s->weight[s->id[i]] * ((double)s->logit[s->id[i]] - center);
    return sum;
}

void set_temper(struct sampler *s, float temperature) {
    const float best = set_best(s);
    if (s->whole) {
        s->row->temper(s->logit, s->vocab, best, temperature);
        s->best = 0;
        s->topped = s->weighed = false;
        return;
    }
    for (int i = 0; i < s->n; i++) {
        float *l = &s->logit[s->id[i]];
        *l = MAX(-FLT_MAX, (*l - best) / temperature);
    }
}

/* Makes a list of what is no lower, where that is few: then passes over the row would cost more. */
static bool list_few(struct sampler *s, float least) {
    const int n = s->row->list(s->logit, s->vocab, least, s->id, s->vocab / FEW);
    if (n < 0) return false;
    s->n = n;
    s->whole = s->sorted = false;
    return true;
}

void set_keep_above(struct sampler *s, float least) {
    if (s->whole && list_few(s, least)) return;
    if (s->whole) {
        s->row->keep_above(s->logit, s->weight, s->vocab, least);
        s->topped = false;
        return;
    }
    int n = 0;
    for (int i = 0; i < s->n; i++)
        if (s->logit[s->id[i]] >= least) s->id[n++] = s->id[i];
    s->n = n;
}

void set_drop(struct sampler *s, int id) {
    s->logit[id] = -INFINITY;
    s->weight[id] = 0;
}

/* ---- up to a mass ---- */

/* The buckets reach three times as far as the blocks' best ones do: about as far as all logits
 * where they are spread like a bell. What is e^-32 as likely as the best needs none of its own. */
static struct row_ruler ruler_of(struct sampler *s, float center) {
    const float most = 32, least = 0x1p-20f;
    float far = least;
    if (!s->topped) set_arg_max(s);
    for (int b = 0; b < n_blocks(s); b++)
        if (s->block[b] >= -FLT_MAX) far = MAX(far, 3 * (s->best - s->block[b]));
    return (struct row_ruler){ center, ROW_BUCKETS / MIN(far, most) };
}

/* The first bucket at whose end there is `wanted`, of which the ones before have *sum; the last
 * one with any where rounding leaves less. */
static int border_of(const double mass[ROW_BUCKETS], double wanted, double *sum) {
    int last = 0;
    double before = *sum, here = *sum;
    for (int b = 0; b < ROW_BUCKETS; b++) {
        if (b > 0 && mass[b] <= 0) continue;
        last = b;
        before = here;
        here += mass[b];
        if (here >= wanted) break;
    }
    *sum = before;
    return last;
}

/* key[0..n) are candidates in whose midst the border falls; all before them hold *sum. Divides the
 * distance between the first and the last of them into buckets, drops what is behind that of the
 * border and leaves the candidates in it. How many; n where it is no use. */
static int narrow(struct sampler *s, int n, double wanted, double *sum) {
    uint64_t low = s->key[0], high = low;
    for (int i = 1; i < n; i++) {
        low = MIN(low, s->key[i]);
        high = MAX(high, s->key[i]);
    }
    /* Half of the ranks: those are 32 bits that ascend with it, which are whole numbers. */
    const uint64_t first = low >> 32, span = (high >> 32) - first + 1;
    double mass[ROW_BUCKETS] = { 0 };
    if (span == 1) return n;
    for (int i = 0; i < n; i++) {
        const uint64_t b = ((s->key[i] >> 32) - first) * ROW_BUCKETS / span;
        mass[b] += (double)s->weight[s->key[i] & 0xffffffffu];
    }
    const uint64_t last = (uint64_t)border_of(mass, wanted, sum);
    int left = 0;
    for (int i = 0; i < n; i++) {
        const uint64_t b = ((s->key[i] >> 32) - first) * ROW_BUCKETS / span;
        if (b > last) set_drop(s, (int)(s->key[i] & 0xffffffffu));
        else if (b == last) s->key[left++] = s->key[i];
    }
    return left;
}

static void keep_nearest_whole(struct sampler *s, float center, double wanted) {
    double mass[ROW_BUCKETS], sum = 0;
    const struct row_ruler ruler = ruler_of(s, center);
    s->row->spread(s->logit, s->weight, s->vocab, ruler, mass);
    const int border = border_of(mass, wanted, &sum);
    int n = s->row->find(s->logit, s->vocab, ruler, border, s->id);
    for (int i = 0; i < n; i++)
        s->key[i] = key_of(rank_of(s, center, s->best, s->id[i]), s->id[i]);
    for (int i = 0, before = 0; i < NARROWINGS && n > SORT_MAX && n != before; i++) {
        before = n;
        n = narrow(s, n, wanted, &sum);
    }
    const uint64_t *key = radix_sort(s->key, s->spare, n);
    int last = -1;
    for (int i = 0; i < n; i++) {
        const int id = (int)(key[i] & 0xffffffffu);
        if (last >= 0) set_drop(s, id);
        else if ((sum += (double)s->weight[id]) >= wanted || i == n - 1) last = id;
    }
    if (center >= s->best) {
        set_keep_above(s, s->logit[last]);
        return;
    }
    s->row->keep_near(s->logit, s->weight, s->vocab, ruler, border);
    set_arg_max(s);
    list_few(s, -FLT_MAX);
}

void set_keep_nearest(struct sampler *s, float center, double wanted) {
    if (s->whole) {
        keep_nearest_whole(s, center, wanted);
        return;
    }
    const float best = set_best(s);
    const uint64_t *key = sort_list(s, center, best);
    double sum = 0;
    int kept = 0, n = 0;
    while (kept < s->n && (kept == 0 || sum < wanted))
        sum += (double)s->weight[key[kept++] & 0xffffffffu];
    const uint64_t last = key[kept - 1];
    for (int i = 0; i < s->n; i++)
        if (key_of(rank_of(s, center, best, s->id[i]), s->id[i]) <= last)
            s->id[n++] = s->id[i];
    s->n = n;
}
