/* test_sample_rows.c - the passes over a row give the same bits on every set of instructions, and
 * what is picked through them is what plain code picks that sorts everything. */
#include "sample/set.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { N_MAX = 6000, KINDS = 12 };

static uint64_t random_state;

static double random_unit(void) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (double)(random_state >> 11) * 0x1p-53;
}

static void make_logits(float *l, int n, int kind, uint64_t seed) {
    random_state = seed * 977 + (uint64_t)kind;
    for (int i = 0; i < n; i++) {
        double g = 0;
        for (int k = 0; k < 6; k++) g += random_unit() - 0.5;
        switch (kind) {
        case 0: l[i] = (float)(g * 4); break;                        /* as logits are */
        case 1: l[i] = (float)(g * 0.4); break;                      /* flat */
        case 2: l[i] = (float)(g * 1e-5); break;                     /* all in one bucket */
        case 3: l[i] = (float)(int)(g * 3); break;                   /* ties */
        case 4: l[i] = 1.5f; break;                                  /* nothing but ties */
        case 5: l[i] = i == n / 3 ? 80 : (float)g; break;            /* one far above */
        case 6: l[i] = i == n / 3 ? 8 : (float)(g * 1e-3); break;    /* and what counts below */
        case 7: l[i] = i % 3 && n > 1 ? -INFINITY : (float)(g * 3); break;
        case 8: l[i] = (float)(1e4 + g); break;                      /* few bits for differences */
        case 9: l[i] = i % 2 ? (float)g : (float)(g * 1e-4 - 20); break;
        case 10: l[i] = i % 5 ? (float)g * (FLT_MAX / 4) : (float)g; break;
        default: l[i] = -(float)exp(g * 8); break;                   /* a long tail */
        }
    }
}

/* ---- every set of instructions ---- */

static float logit[N_MAX], other[N_MAX];

static void same_bits(const void *a, const void *b, size_t n) {
    assert_memory_equal(a, b, n);
}

static void compare_passes(const struct row_ops *a, const struct row_ops *b, int n) {
    static float weight[2][N_MAX + ROW_BLOCK], top[2][N_MAX], row[2][N_MAX];
    static double mass[2][N_MAX], bucket[2][ROW_BUCKETS];
    static int id[2][N_MAX + ROW_BLOCK];
    const size_t blocks = ((size_t)n + ROW_BLOCK - 1) / ROW_BLOCK, floats = (size_t)n * 4;
    const struct row_ops *op[2] = { a, b };
    float best = -INFINITY;
    for (int i = 0; i < n; i++) best = MAX(best, logit[i]);
    const struct row_ruler ruler = { best - 1, 40 };
    double lean[2];
    struct row_sums sums[2];
    int found[2], listed[2];
    for (int k = 0; k < 2; k++) {
        assert_true(op[k]->tops(logit, n, top[k]));
        op[k]->weigh(logit, n, best, weight[k], mass[k]);
        sums[k] = op[k]->sums(logit, n, (double)best);
        lean[k] = op[k]->weighed(logit, weight[k], n, (double)best);
        op[k]->spread(logit, weight[k], n, ruler, bucket[k]);
        found[k] = op[k]->find(logit, n, ruler, 41, id[k]);
        memcpy(row[k], logit, floats);
        op[k]->temper(row[k], n, best, 0.7f);
    }
    same_bits(top[0], top[1], blocks * sizeof *top[0]);
    same_bits(weight[0], weight[1], blocks * ROW_BLOCK * sizeof *weight[0]);
    same_bits(mass[0], mass[1], blocks * sizeof *mass[0]);
    same_bits(&sums[0], &sums[1], sizeof sums[0]);
    same_bits(&lean[0], &lean[1], sizeof lean[0]);
    same_bits(bucket[0], bucket[1], sizeof bucket[0]);
    same_bits(row[0], row[1], floats);
    assert_int_equal(found[0], found[1]);
    same_bits(id[0], id[1], (size_t)found[0] * sizeof *id[0]);
    for (int k = 0; k < 2; k++) {
        op[k]->keep_near(row[k], weight[k], n, (struct row_ruler){ 0, 3 }, 9);
        op[k]->add(weight[k], n, mass[k]);
        listed[k] = op[k]->list(row[k], n, -FLT_MAX, id[k], n);
    }
    same_bits(row[0], row[1], floats);
    same_bits(mass[0], mass[1], blocks * sizeof *mass[0]);
    assert_int_equal(listed[0], listed[1]);
    same_bits(id[0], id[1], (size_t)listed[0] * sizeof *id[0]);
    for (int i = 0, at = 0; i < n; i++) {
        const bool near = -row[0][i] * 3 < 10;
        assert_true(near == (row[0][i] > -INFINITY));
        if (near) assert_int_equal(id[0][at++], i);
        else assert_true(weight[0][i] == 0);
    }
    for (int k = 0; k < 2; k++) op[k]->keep_above(row[k], weight[k], n, -1);
    same_bits(row[0], row[1], floats);
    same_bits(weight[0], weight[1], blocks * ROW_BLOCK * sizeof *weight[0]);
    for (int i = 0; i < n; i++) assert_true(row[0][i] >= -1 || isinf(row[0][i]));
    assert_int_equal(op[1]->list(row[0], n, -FLT_MAX, id[0], -1), -1);
}

static void passes_give_the_same_bits(void **state) {
    (void)state;
    const int sizes[] = { 1, 3, 15, 63, 64, 65, 130, 1000 };
    for (int i = 0; row_ops_here(i); i++)
        for (int kind = 0; kind < KINDS; kind++)
            for (size_t s = 0; s < COUNT(sizes); s++) {
                make_logits(logit, sizes[s], kind, s);
                compare_passes(&row_ops_generic, row_ops_here(i), sizes[s]);
            }
}

static void broken_rows_are_seen(void **state) {
    (void)state;
    float top[4];
    for (int i = 0; row_ops_here(i); i++)
        for (int at = 0; at < 200; at += 7)
            for (int kind = 0; kind < 3; kind++) {
                make_logits(logit, 200, 7, 1);
                logit[at] = (const float[]){ NAN, INFINITY, -INFINITY }[kind];
                assert_true(row_ops_here(i)->tops(logit, 200, top) == (kind == 2));
            }
}

static void weights_are_exponentials(void **state) {
    (void)state;
    float weight[N_MAX + ROW_BLOCK];
    double mass[N_MAX / ROW_BLOCK + 1];
    for (int i = 0; i < N_MAX; i++) logit[i] = -(float)i / 60;
    row_ops_generic.weigh(logit, N_MAX, 0, weight, mass);
    assert_true(weight[0] == 1);
    for (int i = 0; i < N_MAX; i++) {
        const double exact = exp((double)logit[i]);
        if (logit[i] < -86) assert_true(weight[i] == 0);
        else assert_true(fabs((double)weight[i] / exact - 1) < 2.5e-7);
    }
}

/* ---- plain code: a list, sorted by each stage that wants an order ---- */

struct plain { float *logit; int id[N_MAX], n, vocab; };

static float rank[N_MAX];

static int by_rank(const void *a, const void *b) {
    const int i = *(const int *)a, j = *(const int *)b;
    return rank[i] != rank[j] ? (rank[i] < rank[j] ? -1 : 1) : i - j;
}

static float plain_best(const struct plain *s) {
    float best = -INFINITY;
    for (int i = 0; i < s->n; i++) best = MAX(best, s->logit[s->id[i]]);
    return best;
}

/* Keeps the first n of the ids that are in order[], in the order they have. */
static void plain_keep(struct plain *s, const int *order, int n) {
    static bool kept[N_MAX];
    int left = 0;
    memset(kept, 0, sizeof kept);
    for (int i = 0; i < n; i++) kept[order[i]] = true;
    for (int i = 0; i < s->n; i++)
        if (kept[s->id[i]]) s->id[left++] = s->id[i];
    s->n = left;
}

static void plain_mass(struct plain *s, double share, bool more) {
    static double weight[N_MAX];
    static int order[N_MAX];
    const double best = (double)plain_best(s);
    double total = 0, sum = 0;
    for (int i = 0; i < s->n; i++) {
        order[i] = s->id[i];
        weight[order[i]] = exp((double)(s->logit[order[i]] - (float)best));
        total += weight[order[i]];
    }
    qsort(order, (size_t)s->n, sizeof *order, by_rank);
    for (int i = 0; i < s->n; i++) {
        sum += weight[order[i]];
        if (more ? sum <= share * total : sum < share * total) continue;
        plain_keep(s, order, i + 1);
        return;
    }
}

static void plain_typical(struct plain *s, float share) {
    const float best = plain_best(s);
    double total = 0, lean = 0;
    for (int i = 0; i < s->n; i++) {
        const double x = (double)s->logit[s->id[i]] - (double)best, w = exp(x);
        total += w;
        lean += w * x;
    }
    const float center = (float)((double)best + lean / total);
    for (int i = 0; i < s->n; i++)
        rank[s->id[i]] = center >= best ? -s->logit[s->id[i]] : fabsf(center - s->logit[s->id[i]]);
    plain_mass(s, (double)share, true);
}

static void plain_above(struct plain *s, float least) {
    int n = 0;
    for (int i = 0; i < s->n; i++)
        if (s->logit[s->id[i]] >= least) s->id[n++] = s->id[i];
    s->n = n;
}

static void plain_sigma(struct plain *s, float sigmas) {
    double mean = 0, variance = 0;
    for (int i = 0; i < s->n; i++) mean += (double)s->logit[s->id[i]] / s->n;
    for (int i = 0; i < s->n; i++) variance += pow((double)s->logit[s->id[i]] - mean, 2) / s->n;
    const double least = (double)plain_best(s) - (double)sigmas * sqrt(variance);
    plain_above(s, nextafterf((float)least, -INFINITY));
}

static void plain_step(struct plain *s, const struct sample_params *p, enum sampler_step step) {
    const float best = plain_best(s);
    for (int i = 0; i < s->n; i++) rank[s->id[i]] = -s->logit[s->id[i]];
    if (step == STEP_TOP_K && p->top_k && p->top_k < s->vocab) {
        qsort(s->id, (size_t)s->n, sizeof *s->id, by_rank);
        s->n = MIN(s->n, p->top_k);
    }
    if (step == STEP_TOP_P && p->top_p < 1) plain_mass(s, (double)p->top_p, false);
    if (step == STEP_MIN_P && p->min_p > 0) plain_above(s, best + logf(p->min_p));
    if (step == STEP_TYPICAL && p->typical_p < 1) plain_typical(s, p->typical_p);
    if (step == STEP_TOP_N_SIGMA && p->top_n_sigma > 0) plain_sigma(s, p->top_n_sigma);
    for (int i = 0; step == STEP_TEMPERATURE && i < s->n; i++)
        s->logit[s->id[i]] = MAX(-FLT_MAX, (s->logit[s->id[i]] - best) / p->temperature);
}

/* Whether plain code draws that token too, but for what rounding may move a border. */
static bool plain_draws(float *l, int n, const struct sample_params *p, double chance, int token) {
    static struct plain s;
    s.logit = l;
    s.n = 0;
    s.vocab = n;
    for (int i = 0; i < n; i++)
        if (isfinite(l[i])) s.id[s.n++] = i;
    for (int i = 0; p->order[i] != STEP_END && s.n > 1; i++) plain_step(&s, p, p->order[i]);
    const float best = plain_best(&s);
    double total = 0, sum = 0;
    for (int i = 0; i < s.n; i++) total += exp((double)(l[s.id[i]] - best));
    for (int i = 0; i < s.n; i++) {
        const double w = exp((double)(l[s.id[i]] - best)), slack = 1e-6 * total;
        if (s.id[i] == token)
            return sum - slack <= chance * total && chance * total <= sum + w + slack;
        sum += w;
    }
    return false;
}

static const struct chain { const char *order; float temperature, p; int k; } chains[] = {
    { "temperature", 1, 1, 0 },
    { "temperature", 0.6f, 1, 0 },
    { "top_p;temperature", 1, 0.9f, 0 },
    { "top_p;temperature", 0.7f, 0.5f, 0 },
    { "temperature;top_p", 1.5f, 0.97f, 0 },
    { "top_p;min_p;temperature", 0.8f, 0.95f, 0 },
    { "min_p;temperature", 1, 0.3f, 0 },
    { "min_p;top_p;temperature", 2, 0.8f, 0 },
    { "typ_p", 1, 0.9f, 0 },
    { "typ_p;top_p;temperature", 0.7f, 0.6f, 0 },
    { "top_n_sigma;temperature", 1.2f, 0.9f, 0 },
    { "top_n_sigma;top_p;top_k", 1, 0.9f, 300 },
    { "top_p;top_k;temperature", 0.9f, 0.9f, 7 },
    { "top_k;typ_p;top_p;min_p;temperature", 0.8f, 0.9f, 900 },
    { "top_p", 1, 0, 0 },
};

static struct sample_params params_of(const struct chain *c) {
    struct sample_params p = sample_defaults();
    struct err err = { 0 };
    assert_true(sample_order(str_of(c->order), p.order, &err));
    p.temperature = c->temperature;
    p.top_p = p.typical_p = c->p;
    p.min_p = 1 - c->p;
    p.top_n_sigma = 3 * c->p;
    p.top_k = c->k;
    return p;
}

static void compare_picks(int n, int kind, const struct chain *c) {
    struct sample_params p = params_of(c);
    struct sampler *s = sampler_open(n);
    for (uint64_t position = 0; position < 5; position++) {
        int token = -1;
        p.seed = position * 71 + (uint64_t)kind;
        for (int i = 0; row_ops_here(i); i++) {
            make_logits(logit, n, kind, position);
            s->row = row_ops_here(i);
            const int here = sampler_pick(s, &p, logit, NULL, 0, position);
            if (i > 0) assert_int_equal(here, token);
            token = here;
        }
        make_logits(other, n, kind, position);
        if (!plain_draws(other, n, &p, sample_chance(p.seed, position), token))
            fail_msg("%s of %d logits, kind %d, position %d: plain code does not draw %d",
                     c->order, n, kind, (int)position, token);
    }
    sampler_close(s);
}

static void picks_are_those_of_plain_code(void **state) {
    (void)state;
    const int sizes[] = { 1, 2, 63, 64, 65, 700, N_MAX };
    for (int kind = 0; kind < KINDS; kind++)
        for (size_t c = 0; c < COUNT(chains); c++)
            for (size_t i = 0; i < COUNT(sizes); i++) compare_picks(sizes[i], kind, &chains[c]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(passes_give_the_same_bits),
        cmocka_unit_test(broken_rows_are_seen),
        cmocka_unit_test(weights_are_exponentials),
        cmocka_unit_test(picks_are_those_of_plain_code),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
