/* set.h - the candidates that one stage of the sampler hands to the next.
 *
 * A set is `whole`, which is every id with a finite logit, or a list of ids into the row of logits.
 * It begins whole, and stages drop candidates where they stand, since passes over a row (row.h)
 * cost less than a list of it; few that are left become a list. Candidates are in the order of ids
 * until top-k sorts them, and one is drawn in that order.
 *
 * Nothing here is exact by luck: an order is always (higher logit, then lower id), and every sum is
 * in double and in a fixed order: that of the list, or for a whole set that of row.h. No stage
 * sorts the vocabulary: what the border of a stage falls into is found with a histogram of the
 * distances to the best logit, or by the best of each block, and only that is sorted. */
#pragma once
#include "sample/row.h"

struct sampler {
    const struct row_ops *row;
    int vocab;
    float *logit;                    /* [vocab] borrowed for one call */
    bool whole;                      /* no list: n is vocab, and says nothing */
    int *id;                         /* [n] the candidates of a list */
    int n;
    bool sorted;                     /* id is in order of logits, best first */
    float best;                      /* of a whole set: its highest logit */
    bool topped;                     /* block is that of the logits as they are */
    bool weighed;                    /* weight is that of a whole set as it is, up to a factor */
    float *block;                    /* the highest logit of each block */
    float *weight;                   /* [vocab] exp(logit - best) of a candidate, by its id */
    double *mass;                    /* of each block of a whole set */
    uint64_t *key, *spare;           /* [vocab] for sorting */
    int *count;                      /* [vocab] zero between stages */
    int *reversed, *match;           /* [n_history] for DRY */
    size_t n_history;
};

/* The lowest id of the highest logit. -1: nothing is finite, or a NaN or +inf is there, which a
 * sound model never gives. */
int   set_arg_max(struct sampler *);
/* Every id with a finite logit. set_arg_max must have been called since the logits changed. */
void  set_all(struct sampler *);
float set_best(const struct sampler *);              /* the highest logit of a set of 1 or more */
double set_weigh(struct sampler *);                  /* fills weight (and mass); the sum of them */
void  set_keep_best(struct sampler *, int k);        /* the k best, a sorted list */
/* After set_weigh: the candidates nearest to `center`, of equally near ones the lower id, that
 * together hold at least `wanted` of what it gave; one at least. Order unchanged. With the best
 * logit as the center those are the best ones. */
void  set_keep_nearest(struct sampler *, float center, double wanted);
void  set_keep_above(struct sampler *, float least); /* logit >= least; order unchanged */
void  set_drop(struct sampler *, int id);            /* of a whole set; set_arg_max follows */
struct row_sums set_sums(struct sampler *, double center);
/* After set_weigh: the sum of weight * (logit - center). */
double set_weighed(struct sampler *, double center);

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
 * vocabulary (placeholders of media) are passed over. Whether they may have changed any. */
void penalize_bias(struct sampler *, const struct sample_params *);
bool penalize_repeats(struct sampler *, const struct sample_params *, const int *history, int n);
bool penalize_dry(struct sampler *, const struct sample_params *, const int *history, int n);
