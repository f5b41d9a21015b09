/* sampler.c - runs the stages in the order of the request and draws.
 *
 * What it picks is a function of the logits, the parameters, the history and the position,
 * nothing else: no state outlives a call. */
#include "sample/set.h"

#include <math.h>
#include <stdlib.h>

struct sampler *sampler_open(int vocab) {
    struct sampler *s = mem_new(sizeof *s);
    size_t n = (size_t)vocab;
    s->vocab  = vocab;
    s->id     = mem_array(n, sizeof *s->id);
    s->block  = mem_array(n / SET_BLOCK + 1, sizeof *s->block);
    s->weight = mem_array(n, sizeof *s->weight);
    s->key    = mem_array(n, sizeof *s->key);
    s->spare  = mem_array(n, sizeof *s->spare);
    s->count  = mem_array(n, sizeof *s->count);
    return s;
}

void sampler_close(struct sampler *s) {
    if (!s) return;
    free(s->match);
    free(s->reversed);
    free(s->count);
    free(s->spare);
    free(s->key);
    free(s->weight);
    free(s->block);
    free(s->id);
    free(s);
}

/* The finalizer of splitmix64: every bit of x reaches every bit of the result. */
static uint64_t mix(uint64_t x) {
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

enum draw { DRAW_TOKEN, DRAW_XTC };

/* Uniform in [0, 1), 53 bits. Mixed twice, so that neighbouring seeds share nothing with
 * neighbouring positions. */
static double uniform(uint64_t seed, uint64_t position, enum draw what) {
    uint64_t x = mix(seed + 0x9e3779b97f4a7c15u);
    x = mix(x ^ mix(position * 2 + (uint64_t)what + 0x9e3779b97f4a7c15u));
    return (double)(x >> 11) * 0x1p-53;
}

double sample_chance(uint64_t seed, uint64_t position) {
    return uniform(seed, position, DRAW_TOKEN);
}

static void run_step(struct sampler *s, const struct sample_params *p, enum sampler_step step,
                     const int *history, int n, uint64_t position) {
    switch (step) {
    case STEP_END:         break;
    case STEP_PENALTIES:   penalize_repeats(s, p, history, n); s->sorted = false; break;
    case STEP_DRY:         penalize_dry(s, p, history, n); s->sorted = false; break;
    case STEP_TOP_N_SIGMA: filter_top_n_sigma(s, p); break;
    case STEP_TOP_K:       filter_top_k(s, p); break;
    case STEP_TYPICAL:     filter_typical(s, p); break;
    case STEP_TOP_P:       filter_top_p(s, p); break;
    case STEP_MIN_P:       filter_min_p(s, p); break;
    case STEP_XTC:         filter_xtc(s, p, uniform(p->seed, position, DRAW_XTC)); break;
    case STEP_TEMPERATURE: filter_temperature(s, p); break;
    }
}

static int draw(struct sampler *s, double chance) {
    double left = set_weigh(s) * chance;
    int last = 0;
    for (int i = 0; i < s->n; i++) {
        if (s->weight[i] <= 0) continue;
        last = i;
        left -= (double)s->weight[i];
        if (left < 0) break;
    }
    return s->id[last];
}

/* Runs the steps until there is a set: penalties need none, and where top-k comes first it can be
 * had without one of the whole vocabulary. The step to go on with. */
static int open_set(struct sampler *s, const struct sample_params *p, const int *history, int n) {
    for (int i = 0; i < SAMPLER_STEPS_MAX; i++) {
        enum sampler_step step = p->order[i];
        if (step == STEP_PENALTIES) {
            penalize_repeats(s, p, history, n);
        } else if (step == STEP_DRY) {
            penalize_dry(s, p, history, n);
        } else if (step == STEP_TOP_K && p->top_k > 0 && p->top_k < s->vocab) {
            if (i > 0) set_arg_max(s);       /* penalties may have changed some */
            set_all_best(s, p->top_k);
            return i + 1;
        } else if (step != STEP_TOP_N_SIGMA || p->top_n_sigma > 0) {
            set_all(s);
            return i;
        }
    }
    set_all(s);
    return SAMPLER_STEPS_MAX;
}

int sampler_pick(struct sampler *s, const struct sample_params *p, float *logits,
                 const int *history, int n, uint64_t position) {
    s->logit = logits;
    penalize_bias(s, p);
    if (p->temperature == 0) {
        for (int i = 0; i < SAMPLER_STEPS_MAX && p->order[i] != STEP_END; i++) {
            if (p->order[i] == STEP_PENALTIES) penalize_repeats(s, p, history, n);
            if (p->order[i] == STEP_DRY) penalize_dry(s, p, history, n);
        }
        return set_arg_max(s);
    }
    if (set_arg_max(s) < 0) return -1;
    int i = open_set(s, p, history, n);
    for (; i < SAMPLER_STEPS_MAX && p->order[i] != STEP_END && s->n > 1; i++)
        run_step(s, p, p->order[i], history, n, position);
    return draw(s, uniform(p->seed, position, DRAW_TOKEN));
}

float sampler_logprobs(struct sampler *s, const float *logits, int token,
                       struct token_prob *top, int n) {
    for (int i = 0; i < n; i++) top[i] = (struct token_prob){ -1, -INFINITY };
    s->logit = (float *)(uintptr_t)logits;           /* only read below */
    if (token < 0 || token >= s->vocab || set_arg_max(s) < 0) return -INFINITY;
    set_all(s);
    float best = set_best(s);
    double log_sum = log(set_weigh(s));
    float given = logits[token];
    if (n > 0) set_keep_best(s, n);
    for (int i = 0; i < MIN(n, s->n); i++) {
        double far = (double)logits[s->id[i]] - (double)best;
        top[i] = (struct token_prob){ s->id[i], (float)(far - log_sum) };
    }
    return isfinite(given) ? (float)((double)given - (double)best - log_sum) : -INFINITY;
}
