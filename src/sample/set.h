/* set.h - the candidates that one stage of the sampler hands to the next.
 *
 * A set is a list of ids into the row of logits; the logits stay where they are, so a penalty
 * touches the tokens of the history and not the vocabulary. Nothing here is exact by luck: an
 * order is always (higher logit, then lower id), and every sum is in double, in the order of the
 * list, or where the whole vocabulary is summed, of four lists. The selections sort only what can
 * be kept, found with a histogram of distances to the best logit, or by the best of each block. */
#pragma once
#include "sample/sample.h"

struct sampler {
    int vocab;
    float *logit;                    /* [vocab] borrowed for one call */
    int *id;                         /* [n] the candidates */
    int n;
    bool sorted;                     /* id is in order of logits, best first */
    bool whole;                      /* id[i] is i for the whole vocabulary: no need to look */
    float *block;                    /* the highest logit of each SET_BLOCK */
    float *weight;                   /* [vocab] exp(logit - best) of each candidate */
    uint64_t *key, *spare;           /* [vocab] for sorting */
    int *count;                      /* [vocab] zero between stages */
    int *reversed, *match;           /* [n_history] for DRY */
    size_t n_history;
};

enum { SET_BLOCK = 64 };

/* The lowest id of the highest logit. -1: nothing is finite, or a NaN or +inf is there, which a
 * sound model never gives. */
int   set_arg_max(struct sampler *);
void  set_all(struct sampler *);                     /* every id with a finite logit */
/* set_all and set_keep_best in one, which looks at few of them. set_arg_max must have been called
 * since the logits changed: it says which. */
void  set_all_best(struct sampler *, int k);
float set_best(const struct sampler *);              /* the highest logit of a set of 1 or more */
double set_weigh(struct sampler *);                  /* fills weight; the sum of them */
void  set_keep_best(struct sampler *, int k);        /* the k best, sorted */
/* The shortest sorted beginning that holds at least `share` of the mass; one at least. */
void  set_keep_mass(struct sampler *, float share);
void  set_keep_above(struct sampler *, float least); /* logit >= least; order unchanged */
/* By rank[i] of candidate i, ascending, equal ones by id. The weights are then out of step. */
void  set_sort_by(struct sampler *, const float *rank);

/* Divides the logits around the best, which becomes 0, so a tiny temperature overflows nothing
 * upwards; and what it pushes down stays finite for the sums of later stages. */
void  set_temper(struct sampler *, float temperature);

/* sample/filters.c: each changes the set, and leaves one candidate at least. */
void filter_top_k(struct sampler *, const struct sample_params *);
void filter_top_p(struct sampler *, const struct sample_params *);
void filter_min_p(struct sampler *, const struct sample_params *);
void filter_typical(struct sampler *, const struct sample_params *);
void filter_top_n_sigma(struct sampler *, const struct sample_params *);
void filter_temperature(struct sampler *, const struct sample_params *);
/* chance: uniform in [0, 1). */
void filter_xtc(struct sampler *, const struct sample_params *, double chance);

/* sample/penalties.c and dry.c: change logits of tokens of the history. Ids outside of the
 * vocabulary (placeholders of media) are passed over. */
void penalize_bias(struct sampler *, const struct sample_params *);
void penalize_repeats(struct sampler *, const struct sample_params *, const int *history, int n);
void penalize_dry(struct sampler *, const struct sample_params *, const int *history, int n);
