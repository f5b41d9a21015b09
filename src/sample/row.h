/* row.h - passes over a whole row of logits, a block of 64 after the other, for each kind of
 * vectors that there is. A candidate is a token whose logit is finite: those that a stage drops
 * become -inf.
 *
 * Every set of instructions gives the same bits: what is done to one logit is the same for all, and
 * sums are in double, in four columns (i mod 4), which are then added as (0 + 2) + (1 + 3). */
#pragma once
#include "sample/sample.h"

enum { ROW_BLOCK = 64, ROW_BUCKETS = 1024, ROW_COLUMNS = 4 };

/* Logits by their distance from a place: bucket |center - logit| * per, and the last one for all
 * that is farther. Its steps are monotone, so a nearer logit never falls into a later bucket. */
struct row_ruler { float center, per; };

struct row_sums { double n, x, xx; };                /* over candidates, of x = logit - center */

/* n: of logits. Weights and ids have room for a block more, and weights are 0 where there is no
 * candidate. */
struct row_ops {
    /* The highest of each block. false: one of them is NaN or +inf. */
    bool (*tops)(const float *logit, int n, float *top);
    /* weight = exp(logit - best), to some 1e-7 of it, and the mass of each block. */
    void (*weigh)(const float *logit, int n, float best, float *weight, double *mass);
    void (*add)(const float *weight, int n, double *mass);           /* of each block */
    struct row_sums (*sums)(const float *logit, int n, double center);
    /* Of weight * (logit - center). */
    double (*weighed)(const float *logit, const float *weight, int n, double center);
    void (*temper)(float *logit, int n, float best, float temperature);
    /* The mass of each bucket. */
    void (*spread)(const float *logit, const float *weight, int n, struct row_ruler,
                   double mass[ROW_BUCKETS]);
    /* The candidates of a bucket, ascending; how many. */
    int  (*find)(const float *logit, int n, struct row_ruler, int bucket, int *id);
    /* The candidates that are no lower, ascending; how many. -1: more than most. */
    int  (*list)(const float *logit, int n, float least, int *id, int most);
    /* Drops what is farther than bucket `last`, or lower than `least`. */
    void (*keep_near)(float *logit, float *weight, int n, struct row_ruler, int last);
    void (*keep_above)(float *logit, float *weight, int n, float least);
};

extern const struct row_ops row_ops_generic, row_ops_avx2, row_ops_avx512;
/* Those of this processor, the fastest first; NULL: no more. */
const struct row_ops *row_ops_here(int i);
