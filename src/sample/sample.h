/* sample.h - logits to a token. Parameters are data, state is per request.
 *
 * Random numbers are counter-based, a function of (seed, position), so neither the
 * order of work nor preemption changes a draw. Ties go to the lower id; sums run in a
 * fixed order in double. */
#pragma once
#include "base/base.h"

enum sampler_step {                  /* one stage; the user may order them */
    STEP_END, STEP_PENALTIES, STEP_DRY, STEP_TOP_N_SIGMA, STEP_TOP_K, STEP_TYPICAL, STEP_TOP_P,
    STEP_MIN_P, STEP_XTC, STEP_TEMPERATURE
};
enum { SAMPLER_STEPS_MAX = 16, DRY_BREAKERS_MAX = 16 };

struct logit_bias { int token; float bias; };

struct sample_params {               /* a zeroed one is not valid: start from sample_defaults() */
    float temperature;               /* 0: greedy, exactly the arg max after biases and penalties */
    float top_p, min_p, typical_p, top_n_sigma;  /* 1, 0, 1, 0 (or -1): off */
    int top_k;                       /* 0 or -1: off */
    float repeat_penalty, presence_penalty, frequency_penalty;   /* 1, 0, 0: off */
    int penalty_last;                /* tokens looked back at; -1: all */
    float dry_multiplier, dry_base;
    int dry_allowed, dry_last;       /* multiplier 0: off */
    const int *dry_breaker; int n_dry_breakers;  /* token ids that end a match */
    float xtc_probability, xtc_threshold;
    const struct logit_bias *bias; int n_bias;   /* borrowed for the request's life; -inf bans */
    enum sampler_step order[SAMPLER_STEPS_MAX];  /* STEP_END ends it */
    uint64_t seed;
};

struct sample_params sample_defaults(void);
/* "penalties;dry;top_n_sigma;top_k;typ_p;top_p;min_p;xtc;temperature" and llama.cpp's spellings. */
bool sample_order(struct str text, enum sampler_step order[SAMPLER_STEPS_MAX], struct err *);
const char *sample_step_name(enum sampler_step);          /* as sample_order reads it; "": none */
bool sample_check(const struct sample_params *, struct err *);   /* ranges; names the parameter */

struct sampler;                      /* holds scratch for one vocabulary; serves any request */
struct sampler *sampler_open(int vocab);
void sampler_close(struct sampler *);

/* Picks from logits [vocab], which are changed. `history` is prompt then answer (n ids);
 * `position` numbers the draw. Returns the token, or -1 when no token has a finite
 * logit or one is NaN or +inf: the numbers broke, and nothing may be drawn from them. */
int sampler_pick(struct sampler *, const struct sample_params *, float *logits,
                 const int *history, int n, uint64_t position);

/* Where the stages that do anything are top_k, top_p, min_p, temperature, in this order and no
 * others: what they are, off being 0, 1, 0, 1; temperature 0 is the best token. */
struct sample_plain { float temperature, top_p, min_p; int top_k; };
bool sample_is_plain(const struct sample_params *, struct sample_plain *);
/* The number in [0, 1) that sampler_pick draws a token with. */
double sample_chance(uint64_t seed, uint64_t position);

struct token_prob { int token; float logprob; };
/* The n most likely tokens of unchanged logits, best first, and the logprob of `token`. */
float sampler_logprobs(struct sampler *, const float *logits, int token,
                       struct token_prob *top, int n);

/* Stop strings across token borders: feed text, get back what may be shown. */
struct stopper { const struct str *stop; int n_stop; char *held; size_t n_held, cap; };
/* Appends to `show` what can no longer belong to a stop string. Returns the index of the stop
 * string that was completed (what follows it is dropped), or -1. last: nothing more comes. */
struct buf;
int  stopper_push(struct stopper *, struct str piece, bool last, struct buf *show);
void stopper_free(struct stopper *);
