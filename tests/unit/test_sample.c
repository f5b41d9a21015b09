/* test_sample.c - every stage against plain code that sorts everything, the draw against the
 * distribution it should follow, and stop strings against every way to cut a text. */
#include "base/buf.h"
#include "sample/set.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { VOCAB = 3000 };

static uint64_t random_state;

static double random_unit(void) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (double)(random_state >> 11) * 0x1p-53;
}

/* Logits of a kind: 0 spread wide, 1 many ties, 2 nearly flat, 3 one far above, 4 some banned. */
static void make_logits(float *l, int n, int kind, uint64_t seed) {
    random_state = seed;
    for (int i = 0; i < n; i++) {
        double g = random_unit() + random_unit() + random_unit() - 1.5;
        switch (kind) {
        case 0: l[i] = (float)(g * 12); break;
        case 1: l[i] = (float)(int)(g * 4); break;
        case 2: l[i] = (float)(g * 1e-3); break;
        case 3: l[i] = i == n / 3 ? 60 : (float)g; break;
        default: l[i] = i % 3 ? (float)(g * 6) : -INFINITY; break;
        }
    }
}

/* ---- the reference: sort everything, double everywhere ---- */

struct ref { const float *logit; double p[VOCAB]; int id[VOCAB]; int n; };

static const float *sort_logit;

static int by_logit(const void *a, const void *b) {
    int i = *(const int *)a, j = *(const int *)b;
    if (sort_logit[i] != sort_logit[j]) return sort_logit[i] > sort_logit[j] ? -1 : 1;
    return i - j;
}

static void ref_fill(struct ref *r, const float *logit, int n) {
    r->logit = logit;
    r->n = 0;
    for (int i = 0; i < n; i++)
        if (isfinite(logit[i])) r->id[r->n++] = i;
    sort_logit = logit;
    qsort(r->id, (size_t)r->n, sizeof *r->id, by_logit);
    double sum = 0;
    for (int i = 0; i < r->n; i++) sum += r->p[i] = (double)expf(logit[r->id[i]] - logit[r->id[0]]);
    for (int i = 0; i < r->n; i++) r->p[i] /= sum;
}

static int ref_top_p(const struct ref *r, double share) {
    double sum = 0;
    for (int i = 0; i < r->n; i++) {
        sum += r->p[i];
        if (sum >= share) return i + 1;
    }
    return r->n;
}

static struct sampler *start(float *logit, int n) {
    struct sampler *s = sampler_open(n);
    s->logit = logit;
    assert_true(set_arg_max(s) >= 0);
    set_all(s);
    return s;
}

/* A whole set as a list. */
static void list(struct sampler *s) {
    if (!s->whole) return;
    s->n = 0;
    for (int i = 0; i < s->vocab; i++)
        if (isfinite(s->logit[i])) s->id[s->n++] = i;
    s->whole = false;
}

/* The set holds exactly the first n of the reference's order. */
static void assert_first(struct sampler *s, const struct ref *r, int n) {
    static bool wanted[VOCAB];
    memset(wanted, 0, sizeof wanted);
    list(s);
    assert_int_equal(s->n, n);
    for (int i = 0; i < n; i++) wanted[r->id[i]] = true;
    for (int i = 0; i < n; i++) {
        assert_true(wanted[s->id[i]]);
        wanted[s->id[i]] = false;
        if (s->sorted) assert_int_equal(s->id[i], r->id[i]);
    }
}

static float logit[VOCAB];
static struct ref ref;

static void top_k_keeps_the_best(void **state) {
    (void)state;
    const int ks[] = { 1, 2, 7, 40, 65, 500, VOCAB - 1, VOCAB };
    for (int kind = 0; kind < 5; kind++)
        for (size_t i = 0; i < COUNT(ks); i++) {
            make_logits(logit, VOCAB, kind, 17 + (uint64_t)kind);
            ref_fill(&ref, logit, VOCAB);
            struct sampler *s = start(logit, VOCAB);
            struct sample_params p = { .top_k = ks[i] };
            filter_top_k(s, &p);
            assert_first(s, &ref, MIN(ks[i], ref.n));
            p.top_k = 3;                             /* again, on a sorted set */
            filter_top_k(s, &p);
            assert_first(s, &ref, MIN(ks[i], 3));
            sampler_close(s);
        }
}

static void top_p_keeps_the_mass(void **state) {
    (void)state;
    const float shares[] = { 0, 1e-6f, 0.1f, 0.5f, 0.9f, 0.95f, 0.999f, 0.99999f };
    for (int kind = 0; kind < 5; kind++)
        for (size_t i = 0; i < COUNT(shares); i++) {
            make_logits(logit, VOCAB, kind, 3 + (uint64_t)kind);
            ref_fill(&ref, logit, VOCAB);
            struct sampler *s = start(logit, VOCAB);
            struct sample_params p = { .top_p = shares[i] };
            filter_top_p(s, &p);
            assert_first(s, &ref, ref_top_p(&ref, (double)shares[i]));
            sampler_close(s);
        }
}

static void min_p_and_sigma_keep_what_is_near(void **state) {
    (void)state;
    for (int kind = 0; kind < 5; kind++)
        for (int i = 1; i <= 20; i++) {
            struct sample_params p = { .min_p = (float)i / 20, .top_n_sigma = (float)i / 5 };
            make_logits(logit, VOCAB, kind, 5);
            ref_fill(&ref, logit, VOCAB);
            int n = 0, m = 0;
            double mean = 0, variance = 0;
            for (int k = 0; k < ref.n; k++) {
                n += (double)ref.p[k] >= (double)p.min_p * ref.p[0] * (1 - 1e-6);
                mean += (double)logit[ref.id[k]] / ref.n;
            }
            for (int k = 0; k < ref.n; k++) variance += pow((double)logit[ref.id[k]] - mean, 2);
            double least = (double)logit[ref.id[0]] -
                           (double)p.top_n_sigma * sqrt(variance / ref.n);
            while (m < ref.n && (double)logit[ref.id[m]] >= least - 1e-7 * fabs(least)) m++;

            struct sampler *s = start(logit, VOCAB);
            filter_min_p(s, &p);
            assert_first(s, &ref, n);
            sampler_close(s);
            make_logits(logit, VOCAB, kind, 5);      /* a stage drops what it does not keep */
            s = start(logit, VOCAB);
            filter_top_n_sigma(s, &p);
            assert_first(s, &ref, m);
            sampler_close(s);
        }
}

static double typical_score[VOCAB];

static int by_score(const void *a, const void *b) {
    int i = *(const int *)a, j = *(const int *)b;
    float x = (float)typical_score[i], y = (float)typical_score[j];
    return x != y ? (x < y ? -1 : 1) : i - j;
}

static void typical_keeps_the_usual(void **state) {
    (void)state;
    const double shares[] = { 0.05, 0.2, 0.5, 0.9 };
    for (size_t c = 0; c < COUNT(shares); c++) {
        make_logits(logit, VOCAB, 0, 99);
        ref_fill(&ref, logit, VOCAB);
        double entropy = 0, sum = 0;
        for (int i = 0; i < ref.n; i++)
            if (ref.p[i] > 0) entropy -= ref.p[i] * log(ref.p[i]);
        /* The surprise from the logit: exact also where the weight is tiny. */
        double log_total = -log(ref.p[0]);
        for (int i = 0; i < ref.n; i++)
            typical_score[ref.id[i]] =
                fabs(log_total - (double)(logit[ref.id[i]] - logit[ref.id[0]]) - entropy);
        int order[VOCAB], n = 0;
        for (int i = 0; i < VOCAB; i++) order[i] = i;
        qsort(order, VOCAB, sizeof *order, by_score);
        while (n < VOCAB && sum <= shares[c])
            sum += (double)expf(logit[order[n++]] - logit[ref.id[0]]) * ref.p[0];

        struct sample_params p = { .typical_p = (float)shares[c] };
        struct sampler *s = start(logit, VOCAB);
        filter_typical(s, &p);
        list(s);
        assert_true(abs(s->n - n) <= 1);             /* the entropy's own rounding */
        for (int i = 0; i < s->n; i++)
            assert_true(typical_score[s->id[i]] < typical_score[order[n - 1]] + 1e-5);
        sampler_close(s);
    }
}

static void xtc_removes_the_likeliest(void **state) {
    (void)state;
    /* Shares: 0.4 0.3 0.2 0.1 */
    const float base[] = { logf(0.1f), logf(0.4f), logf(0.2f), logf(0.3f) };
    const struct { float threshold; double chance; int n, ids[4]; } cases[] = {
        { 0.15f, 0.0, 2, { 0, 2 } },
        { 0.25f, 0.49, 3, { 0, 2, 3 } },
        { 0.35f, 0.0, 4, { 0, 1, 2, 3 } },           /* only one above: it stays */
        { 0.05f, 0.0, 1, { 0 } },
        { 0.15f, 0.5, 4, { 0, 1, 2, 3 } },           /* the chance was not met */
        { 0.51f, 0.0, 4, { 0, 1, 2, 3 } },
    };
    for (size_t c = 0; c < COUNT(cases); c++) {
        float l[4];
        memcpy(l, base, sizeof l);
        struct sampler *s = start(l, 4);
        struct sample_params p = { .xtc_probability = 0.5f, .xtc_threshold = cases[c].threshold };
        filter_xtc(s, &p, cases[c].chance);
        list(s);
        assert_int_equal(s->n, cases[c].n);
        assert_memory_equal(s->id, cases[c].ids, (size_t)cases[c].n * sizeof(int));
        sampler_close(s);
    }
    /* Of equally likely ones the highest id is the least. */
    float ties[] = { 1, 1, 1 };
    struct sampler *s = start(ties, 3);
    struct sample_params p = { .xtc_probability = 1, .xtc_threshold = 0.2f };
    filter_xtc(s, &p, 0.5);
    list(s);
    assert_int_equal(s->n, 1);
    assert_int_equal(s->id[0], 2);
    sampler_close(s);
}

/* ---- penalties ---- */

static void penalties_count_the_window(void **state) {
    (void)state;
    const int history[] = { 3, 1, 1, 2, -1, 1, 999, 2 };
    const struct { int last; float wanted[4]; } cases[] = {
        /* repeat 2, presence 0.5, frequency 0.25; logits 4, -4, 3, 1 */
        { -1, { 4, -8 - 0.5f - 0.75f, 1.5f - 0.5f - 0.5f, 0.5f - 0.5f - 0.25f } },
        { 3,  { 4, -8 - 0.5f - 0.25f, 1.5f - 0.5f - 0.25f, 1 } },
        { 0,  { 4, -4, 3, 1 } },
    };
    for (size_t c = 0; c < COUNT(cases); c++) {
        float l[4] = { 4, -4, 3, 1 };
        struct sampler *s = start(l, 4);
        struct sample_params p = { .repeat_penalty = 2, .presence_penalty = 0.5f,
                                   .frequency_penalty = 0.25f, .penalty_last = cases[c].last };
        for (int twice = 0; twice < 2; twice++) {    /* nothing is left over from a call */
            memcpy(l, (float[]){ 4, -4, 3, 1 }, sizeof l);
            penalize_repeats(s, &p, history, COUNT(history));
            for (int i = 0; i < 4; i++) assert_float_equal(l[i], cases[c].wanted[i], 1e-6);
        }
        sampler_close(s);
    }
}

/* The longest match that ends before i and would be continued by history[i], without a Z function:
 * tried one by one, never over a breaker. */
static int longest_match(const int *h, int n, int i, int breaker) {
    int k = 0;
    while (k < i && h[i - 1 - k] == h[n - 1 - k] && h[n - 1 - k] != breaker) k++;
    return k;
}

static void dry_penalizes_by_length(void **state) {
    (void)state;
    enum { N = 200, SMALL = 6, BREAKER = 5 };
    int touched = 0;
    for (uint64_t seed = 0; seed < 60; seed++) {
        int history[N];
        random_state = seed;
        for (int i = 0; i < N; i++) history[i] = (int)(random_unit() * (seed % 2 ? 3 : SMALL));
        for (int i = 40; i < 60 && seed % 3 == 0; i++) history[N - 60 + i] = history[i];
        float l[SMALL] = { 0 }, wanted[SMALL] = { 0 };
        int best[SMALL] = { 0 }, breaker = BREAKER;
        struct sample_params p = { .dry_multiplier = 0.8f, .dry_base = 1.75f, .dry_allowed = 2,
                                   .dry_last = seed % 5 ? -1 : 50, .dry_breaker = &breaker,
                                   .n_dry_breakers = seed % 4 ? 1 : 0 };
        int from = p.dry_last < 0 ? 0 : N - p.dry_last;
        for (int i = from + 1; i < N; i++) {
            int k = longest_match(history + from, N - from, i - from,
                                  p.n_dry_breakers ? BREAKER : -1);
            best[history[i]] = MAX(best[history[i]], k);
        }
        for (int t = 0; t < SMALL; t++)
            if (best[t] >= 2) {
                wanted[t] = -0.8f * powf(1.75f, (float)(best[t] - 2));
                touched++;
            }
        struct sampler *s = start(l, SMALL);
        penalize_dry(s, &p, history, N);
        for (int t = 0; t < SMALL; t++)
            assert_float_equal(l[t], wanted[t], 1e-4f * (1 + fabsf(wanted[t])));
        sampler_close(s);
    }
    assert_true(touched > 50);
}

static void dry_stays_finite(void **state) {
    (void)state;
    int history[1000] = { 0 };
    float l[2] = { 5, 1 };
    struct sampler *s = start(l, 2);
    struct sample_params p = sample_defaults();
    p.dry_multiplier = 1000;
    p.dry_base = 1000;
    penalize_dry(s, &p, history, 1000);
    assert_true(isfinite(l[0]) && l[0] < -1e30f);
    p.temperature = 1e-4f;
    assert_int_equal(sampler_pick(s, &p, l, history, 1000, 0), 1);
    sampler_close(s);
}

/* ---- the pick ---- */

static void greedy_takes_the_first_best(void **state) {
    (void)state;
    struct sampler *s = sampler_open(5);
    struct sample_params p = sample_defaults();
    p.temperature = 0;
    float l[5] = { 1, 7, 3, 7, -INFINITY };
    assert_int_equal(sampler_pick(s, &p, l, NULL, 0, 0), 1);
    struct logit_bias bias[] = { { 1, -INFINITY }, { 2, 5 }, { 9, 1 } };
    p.bias = bias;
    p.n_bias = 3;
    assert_int_equal(sampler_pick(s, &p, l, NULL, 0, 0), 2);
    float again[5] = { 1, 7, 3, 7, -INFINITY };
    p.repeat_penalty = 4;                            /* 2 has 8 / 4 = 2 then, 3 has 7 */
    assert_int_equal(sampler_pick(s, &p, again, (int[]){ 2 }, 1, 0), 3);
    sampler_close(s);
}

static void broken_logits_give_nothing(void **state) {
    (void)state;
    const float rows[][3] = { { -INFINITY, -INFINITY, -INFINITY }, { NAN, NAN, NAN },
                              { 1, NAN, 2 }, { 1, INFINITY, 2 } };
    struct sampler *s = sampler_open(3);
    struct sample_params p = sample_defaults();
    for (size_t i = 0; i < COUNT(rows); i++)
        for (int greedy = 0; greedy < 2; greedy++) {
            float l[3];
            memcpy(l, rows[i], sizeof l);
            p.temperature = greedy ? 0 : 1;
            assert_int_equal(sampler_pick(s, &p, l, NULL, 0, 0), -1);
        }
    sampler_close(s);
}

static void hostile_values_still_pick(void **state) {
    (void)state;
    const float rows[][4] = { { FLT_MAX, -FLT_MAX, 0, 1 }, { -FLT_MAX, -FLT_MAX, -INFINITY, 0 },
                              { 1e-40f, 0, -0.0f, -1e-40f } };
    const float temperatures[] = { 1e-30f, 1e-3f, 1, 100 };
    struct sampler *s = sampler_open(4);
    for (size_t r = 0; r < COUNT(rows); r++)
        for (size_t t = 0; t < COUNT(temperatures); t++)
            for (int reversed = 0; reversed < 2; reversed++) {
                struct sample_params p = sample_defaults();
                struct err err = { 0 };
                p.temperature = temperatures[t];
                p.top_n_sigma = 1;
                p.typical_p = 0.9f;
                p.repeat_penalty = 0.01f;
                p.xtc_probability = 1;
                if (reversed)
                    assert_true(sample_order(S("temperature;xtc;min_p;top_p;typ_p;top_k;"
                                               "top_n_sigma;dry;penalties"), p.order, &err));
                float l[4];
                memcpy(l, rows[r], sizeof l);
                int id = sampler_pick(s, &p, l, (int[]){ 0, 1, 0 }, 3, 1);
                assert_in_range(id, 0, 3);
                assert_true(isfinite(rows[r][id]));
            }
    sampler_close(s);
}

/* Counts of draws at positions 0..n-1 against the shares; a bound that a sound draw misses once
 * in 10^9, and the seeds are fixed anyway. */
static void assert_follows(const struct sample_params *p, const float *l, int n,
                           const double *share) {
    enum { DRAWS = 20000 };
    int seen[16] = { 0 };
    double chi = 0;
    struct sampler *s = sampler_open(n);
    for (uint64_t i = 0; i < DRAWS; i++) {
        float row[16];
        memcpy(row, l, (size_t)n * sizeof *l);
        int id = sampler_pick(s, p, row, NULL, 0, i);
        assert_in_range(id, 0, n - 1);
        seen[id]++;
    }
    for (int i = 0; i < n; i++) {
        if (share[i] == 0) assert_int_equal(seen[i], 0);
        else chi += pow(seen[i] - share[i] * DRAWS, 2) / (share[i] * DRAWS);
    }
    assert_true(chi < 60);
    sampler_close(s);
}

static void draws_follow_the_distribution(void **state) {
    (void)state;
    float l[6];
    const double share[6] = { 0.02, 0.4, 0.08, 0.3, 0.15, 0.05 };
    for (int i = 0; i < 6; i++) l[i] = (float)log(share[i]) + 3;
    for (uint64_t seed = 0; seed < 4; seed++) {
        struct sample_params p = sample_defaults();
        p.seed = seed * 0x123456789abcdefu;
        p.temperature = 1;
        p.top_k = 0;
        p.top_p = 1;
        p.min_p = 0;
        assert_follows(&p, l, 6, share);
        p.top_k = 2;
        assert_follows(&p, l, 6, (const double[]){ 0, 4 / 7.0, 0, 3 / 7.0, 0, 0 });
        p.top_k = 0;
        p.temperature = 0.5f;                        /* squares of the shares */
        double square[6], sum = 0;
        for (int i = 0; i < 6; i++) sum += square[i] = share[i] * share[i];
        for (int i = 0; i < 6; i++) square[i] /= sum;
        assert_follows(&p, l, 6, square);
    }
}

static void draws_depend_on_seed_and_position(void **state) {
    (void)state;
    enum { N = 64 };
    float l[N] = { 0 }, row[N];
    struct sampler *s = sampler_open(N);
    struct sample_params p = sample_defaults();
    int first[100], same_seed = 0, other_seed = 0;
    p.top_k = 0;
    for (int i = 0; i < 100; i++) {
        p.seed = 1;
        memcpy(row, l, sizeof l);
        first[i] = sampler_pick(s, &p, row, NULL, 0, (uint64_t)i);
    }
    for (int i = 99; i >= 0; i--) {                  /* the order of calls is nothing */
        p.seed = 1;
        memcpy(row, l, sizeof l);
        same_seed += sampler_pick(s, &p, row, NULL, 0, (uint64_t)i) == first[i];
        p.seed = 2;
        memcpy(row, l, sizeof l);
        other_seed += sampler_pick(s, &p, row, NULL, 0, (uint64_t)i) == first[i];
    }
    assert_int_equal(same_seed, 100);
    assert_true(other_seed < 15);
    sampler_close(s);
}

/* The order of stages is what the user said: top_k before temperature or after is the same, but
 * min_p sees the logits of its own place. */
static void stages_run_in_the_order_given(void **state) {
    (void)state;
    struct err err = { 0 };
    struct sample_params p = sample_defaults();
    const float l[3] = { 0, -2, -4 };
    p.temperature = 4;
    p.min_p = 0.2f;                                  /* keeps 1.6 below the best */
    p.top_k = 0;
    p.top_p = 1;
    assert_true(sample_order(S("min_p;temperature"), p.order, &err));
    assert_follows(&p, l, 3, (const double[]){ 1, 0, 0 });
    assert_true(sample_order(S("temperature,min-p"), p.order, &err));
    double a = 1, b = exp(-0.5), c = exp(-1), sum = a + b + c;
    assert_follows(&p, l, 3, (const double[]){ a / sum, b / sum, c / sum });
}

static void logprobs_are_those_of_the_row(void **state) {
    (void)state;
    make_logits(logit, VOCAB, 4, 8);
    ref_fill(&ref, logit, VOCAB);
    struct sampler *s = sampler_open(VOCAB);
    struct token_prob top[20];
    for (int n = 0; n <= 20; n += 5) {
        float given = sampler_logprobs(s, logit, ref.id[7], top, n);
        assert_float_equal(given, (float)log(ref.p[7]), 1e-5);
        for (int i = 0; i < n; i++) {
            assert_int_equal(top[i].token, ref.id[i]);
            assert_float_equal(top[i].logprob, (float)log(ref.p[i]), 1e-5);
        }
    }
    assert_true(isinf(sampler_logprobs(s, logit, 0, top, 1)));      /* banned */
    assert_int_equal(top[0].token, ref.id[0]);
    sampler_close(s);

    float two[2] = { 1, -INFINITY };
    s = sampler_open(2);
    assert_float_equal(sampler_logprobs(s, two, 0, top, 3), 0, 1e-6);
    assert_int_equal(top[0].token, 0);
    assert_int_equal(top[1].token, -1);
    sampler_close(s);
}

/* ---- parameters ---- */

static void orders_are_parsed(void **state) {
    (void)state;
    struct err err = { 0 };
    enum sampler_step order[SAMPLER_STEPS_MAX];
    struct sample_params d = sample_defaults();
    assert_true(sample_order(S("penalties;dry;top_n_sigma;top_k;typ_p;top_p;min_p;xtc;temperature"),
                             order, &err));
    assert_memory_equal(order, d.order, sizeof order);
    assert_true(sample_order(S("Top-K;nucleus,typical-p;;temp;"), order, &err));
    const enum sampler_step wanted[] = { STEP_TOP_K, STEP_TOP_P, STEP_TYPICAL, STEP_TEMPERATURE,
                                         STEP_END };
    assert_memory_equal(order, wanted, sizeof wanted);
    assert_true(sample_order(S(""), order, &err));
    assert_int_equal(order[0], STEP_END);
    assert_true(sample_order(S("dry;dry;dry;dry;dry;dry;dry;dry;dry;dry;dry;dry;dry;dry;dry"),
                             order, &err));
    assert_int_equal(order[14], STEP_DRY);
    assert_int_equal(order[15], STEP_END);
    order[0] = STEP_XTC;
    assert_false(sample_order(S("top_k;mirostat"), order, &err));
    assert_int_equal(err.code, ERR_USAGE);
    assert_non_null(strstr(err.text, "'mirostat'"));
    assert_int_equal(order[0], STEP_XTC);
    err.code = ERR_NONE;
    assert_false(sample_order(S("dry;dry;dry;dry;dry;dry;dry;dry;dry;dry;dry;dry;dry;dry;dry;dry"),
                              order, &err));
}

static void ranges_are_checked(void **state) {
    (void)state;
    const struct logit_bias ban = { 3, -INFINITY }, no_token = { -1, 0 }, no_number = { 1, NAN };
    struct sample_params d = sample_defaults();
    struct err err = { 0 };
    assert_true(sample_check(&d, &err));
    d.bias = &ban;
    d.n_bias = 1;
    assert_true(sample_check(&d, &err));
    d.n_bias = 0;

#define CASE(word, change) { struct sample_params p = d; p.change; struct err e = { 0 }; \
        assert_false(sample_check(&p, &e)); assert_int_equal(e.code, ERR_USAGE); \
        assert_non_null(strstr(e.text, word)); }
    CASE("temperature", temperature = -0.1f)
    CASE("temperature", temperature = NAN)
    CASE("temperature", temperature = INFINITY)
    CASE("top_p", top_p = 1.1f)
    CASE("min_p", min_p = -1)
    CASE("typical_p", typical_p = 2)
    CASE("top_n_sigma", top_n_sigma = -2)
    CASE("top_k", top_k = -2)
    CASE("repeat_penalty", repeat_penalty = 0)
    CASE("repeat_penalty", repeat_penalty = 1e30f)
    CASE("presence_penalty", presence_penalty = NAN)
    CASE("frequency_penalty", frequency_penalty = 1e30f)
    CASE("penalty_last", penalty_last = -2)
    CASE("dry_multiplier", dry_multiplier = -1)
    CASE("dry_base", dry_base = 0.5f)
    CASE("dry_allowed", dry_allowed = -1)
    CASE("dry_last", dry_last = -2)
    CASE("dry_breaker", n_dry_breakers = DRY_BREAKERS_MAX + 1)
    CASE("xtc_probability", xtc_probability = 1.5f)
    CASE("xtc_threshold", xtc_threshold = -0.5f)
    CASE("samplers", order[2] = (enum sampler_step)77)
    d.n_bias = 1;
    CASE("logit_bias", bias = &no_token)
    CASE("logit_bias", bias = &no_number)
#undef CASE
}

/* ---- stop strings ---- */

static void stops_do_not_depend_on_the_cut(void **state) {
    (void)state;
    const struct { const char *text; struct str stop[3]; int found; const char *shown; } cases[] = {
        { "one two three", { S("two") }, 0, "one " },
        { "one two three", { S("four") }, -1, "one two three" },
        { "ababac", { S("abac") }, 0, "ab" },
        { "aaab", { S("aab"), S("b") }, 0, "a" },            /* end together: the longest */
        { "xabcdy", { S("abcd"), S("bc") }, 1, "xa" },       /* ends first */
        { "xabcdy", { S("abcx"), S("cd") }, 1, "xab" },
        { "</s", { S("</s>") }, -1, "</s" },                 /* never completed: shown at last */
        { "a\n\nUser: b", { S("\nUser:"), S("\n\n\n") }, 0, "a\n" },
        { "text", { S(""), S("ex") }, 1, "t" },
        { "\xc3\xa9\xe2\x82\xac", { S("\xe2\x82\xac") }, 0, "\xc3\xa9" },
        { "", { S("x") }, -1, "" },
    };
    for (size_t c = 0; c < COUNT(cases); c++) {
        struct str text = str_of(cases[c].text);
        /* Every set of borders between bytes. */
        for (unsigned cut = 0; cut < 1u << (text.len ? text.len - 1 : 0); cut++) {
            struct stopper s = { .stop = cases[c].stop, .n_stop = COUNT(cases[c].stop) };
            struct buf show = { 0 };
            int found = -1;
            size_t begin = 0;
            for (size_t i = 1; i <= text.len && found < 0; i++) {
                if (i < text.len && !(cut >> (i - 1) & 1)) continue;
                found = stopper_push(&s, str_cut(text, begin, i), false, &show);
                begin = i;
                /* Nothing is shown that a stop string may still take back. */
                assert_true(show.len <= strlen(cases[c].shown));
            }
            if (found < 0) found = stopper_push(&s, S(""), true, &show);
            assert_int_equal(found, cases[c].found);
            assert_string_equal(buf_c(&show), cases[c].shown);
            stopper_free(&s);
            buf_free(&show);
        }
    }
}

static void without_stops_text_passes(void **state) {
    (void)state;
    struct stopper s = { 0 };
    struct buf show = { 0 };
    assert_int_equal(stopper_push(&s, S("ab"), false, &show), -1);
    assert_int_equal(stopper_push(&s, S("c"), true, &show), -1);
    assert_string_equal(buf_c(&show), "abc");
    assert_int_equal(s.cap, 0);
    stopper_free(&s);
    buf_free(&show);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(top_k_keeps_the_best),
        cmocka_unit_test(top_p_keeps_the_mass),
        cmocka_unit_test(min_p_and_sigma_keep_what_is_near),
        cmocka_unit_test(typical_keeps_the_usual),
        cmocka_unit_test(xtc_removes_the_likeliest),
        cmocka_unit_test(penalties_count_the_window),
        cmocka_unit_test(dry_penalizes_by_length),
        cmocka_unit_test(dry_stays_finite),
        cmocka_unit_test(greedy_takes_the_first_best),
        cmocka_unit_test(broken_logits_give_nothing),
        cmocka_unit_test(hostile_values_still_pick),
        cmocka_unit_test(draws_follow_the_distribution),
        cmocka_unit_test(draws_depend_on_seed_and_position),
        cmocka_unit_test(stages_run_in_the_order_given),
        cmocka_unit_test(logprobs_are_those_of_the_row),
        cmocka_unit_test(orders_are_parsed),
        cmocka_unit_test(ranges_are_checked),
        cmocka_unit_test(stops_do_not_depend_on_the_cut),
        cmocka_unit_test(without_stops_text_passes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
