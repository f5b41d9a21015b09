/* sampler.c - runs the stages in the order of the request and draws.
 *
 * What it picks is a function of the logits, the parameters, the history and the position,
 * nothing else: no state outlives a call. */
#include "sample/set.h"

#include <math.h>
#include <stdlib.h>

struct sampler *sampler_open(int vocab) {
    struct sampler *s = mem_new(sizeof *s);
    size_t n = (size_t)vocab, blocks = n / ROW_BLOCK + 1;
    s->row    = row_ops_here(0);
    s->vocab  = vocab;
    s->id     = mem_array(n + ROW_BLOCK, sizeof *s->id);
    s->block  = mem_array(blocks, sizeof *s->block);
    s->weight = mem_array(n + ROW_BLOCK, sizeof *s->weight);
    s->mass   = mem_array(blocks, sizeof *s->mass);
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
    free(s->mass);
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

/* The penalties of a step. Whether there are any. */
static bool penalize(struct sampler *s, const struct sample_params *p, enum sampler_step step,
                     const int *history, int n) {
    if (step == STEP_PENALTIES) return penalize_repeats(s, p, history, n);
    return step == STEP_DRY && penalize_dry(s, p, history, n);
}

static void run_step(struct sampler *s, const struct sample_params *p, enum sampler_step step,
                     const int *history, int n, uint64_t position) {
    switch (step) {
    case STEP_END:         break;
    case STEP_PENALTIES:
    case STEP_DRY:
        if (!penalize(s, p, step, history, n)) break;
        s->sorted = s->weighed = false;
        if (s->whole) set_arg_max(s);
        break;
    case STEP_TOP_N_SIGMA: filter_top_n_sigma(s, p); break;
    case STEP_TOP_K:       filter_top_k(s, p); break;
    case STEP_TYPICAL:     filter_typical(s, p); break;
    case STEP_TOP_P:       filter_top_p(s, p); break;
    case STEP_MIN_P:       filter_min_p(s, p); break;
    case STEP_XTC:         filter_xtc(s, p, uniform(p->seed, position, DRAW_XTC)); break;
    case STEP_TEMPERATURE: filter_temperature(s, p); break;
    }
}

/* Draws: of the ids (NULL: 0, 1, ...), the first at whose end more weight has passed than `left`;
 * the last one with any where rounding leaves none. */
static int passed(const int *id, int n, const float *weight, double left) {
    int last = 0;
    for (int i = 0; i < n; i++) {
        const float w = weight[id ? id[i] : i];
        if (w <= 0) continue;
        last = i;
        left -= (double)w;
        if (left < 0) break;
    }
    return id ? id[last] : last;
}

/* Of a whole set first the block. */
static int draw(struct sampler *s, double chance) {
    double left = set_weigh(s) * chance, before = 0;
    if (!s->whole) return passed(s->id, s->n, s->weight, left);
    int block = 0;
    for (int b = 0; b * ROW_BLOCK < s->vocab; b++) {
        if (s->mass[b] <= 0) continue;
        block = b * ROW_BLOCK;
        before = left;
        left -= s->mass[b];
        if (left < 0) break;
    }
    return block + passed(NULL, MIN(ROW_BLOCK, s->vocab - block), s->weight + block, before);
}

int sampler_pick(struct sampler *s, const struct sample_params *p, float *logits,
                 const int *history, int n, uint64_t position) {
    s->logit = logits;
    penalize_bias(s, p);
    /* Penalties need no set; at temperature 0 nothing else matters. */
    int i = 0;
    for (; i < SAMPLER_STEPS_MAX && p->order[i] != STEP_END; i++) {
        const bool penalty = p->order[i] == STEP_PENALTIES || p->order[i] == STEP_DRY;
        if (penalty) penalize(s, p, p->order[i], history, n);
        else if (p->temperature != 0) break;
    }
    const int best = set_arg_max(s);
    if (best < 0 || p->temperature == 0) return best;
    set_all(s);
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
