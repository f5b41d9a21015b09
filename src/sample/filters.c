/* filters.c - the stages that remove unlikely candidates (or, for XTC, the likeliest), and the
 * temperature.
 *
 * Definitions are those of llama.cpp, whose users know them. Each returns at once when its
 * parameter says off. */
#include "sample/set.h"

#include <float.h>
#include <math.h>

/* Sorts even where fewer are left: a draw must not depend on how many other stages leave. */
void filter_top_k(struct sampler *s, const struct sample_params *p) {
    if (p->top_k > 0 && p->top_k < s->vocab) set_keep_best(s, p->top_k);
}

void filter_top_p(struct sampler *s, const struct sample_params *p) {
    if (p->top_p >= 1) return;
    const double total = set_weigh(s);
    set_keep_nearest(s, set_best(s), total * (double)p->top_p);
}

/* At least min_p times as likely as the best: a distance of logits, so no sum is needed. */
void filter_min_p(struct sampler *s, const struct sample_params *p) {
    if (p->min_p > 0) set_keep_above(s, set_best(s) + logf(p->min_p));
}

/* Locally typical sampling, arXiv 2202.00666: the candidates whose surprise is nearest to the
 * entropy, until they hold more than typical_p of the mass. A surprise is log(total) - x, and the
 * entropy their mean, so those are the x that are nearest to the mean x. */
void filter_typical(struct sampler *s, const struct sample_params *p) {
    if (p->typical_p >= 1) return;
    const double total = set_weigh(s), best = (double)set_best(s);
    const float center = (float)(best + set_weighed(s, best) / total);
    set_keep_nearest(s, center, nextafter(total * (double)p->typical_p, INFINITY));
}

/* Top-n-sigma, arXiv 2411.07641: logits within n standard deviations of the best one. */
void filter_top_n_sigma(struct sampler *s, const struct sample_params *p) {
    if (p->top_n_sigma <= 0) return;
    const double best = (double)set_best(s);
    const struct row_sums sums = set_sums(s, best);
    const double mean = sums.x / sums.n, variance = MAX(0, sums.xx / sums.n - mean * mean);
    const double least = best - (double)p->top_n_sigma * sqrt(variance);
    /* Rounded downwards, so that a deviation of 0 keeps the best. */
    set_keep_above(s, nextafterf((float)least, -INFINITY));
}

/* Exclude top choices: of all candidates above the threshold only the least likely stays. */
void filter_xtc(struct sampler *s, const struct sample_params *p, double chance) {
    if (p->xtc_probability <= 0 || chance >= (double)p->xtc_probability) return;
    if (p->xtc_threshold > 0.5f || s->n < 2) return;
    const double least = set_weigh(s) * (double)p->xtc_threshold;
    int last = -1, n = 0;
    for (int i = 0; i < s->n; i++) {
        const int id = s->whole ? i : s->id[i];
        const float here = s->logit[id], there = last < 0 ? INFINITY : s->logit[last];
        if (here < -FLT_MAX || (double)s->weight[id] < least) continue;
        if (here < there || (here == there && id > last)) last = id;
    }
    if (last < 0) return;
    for (int i = 0; i < s->n; i++) {
        const int id = s->whole ? i : s->id[i];
        const bool stays = (double)s->weight[id] < least || id == last;
        if (!s->whole && stays) s->id[n++] = id;
        if (s->whole && !stays) set_drop(s, id);
    }
    if (s->whole) set_arg_max(s);
    else s->n = n;
    s->weighed = false;              /* what is left may have been too light beside the best */
}

void filter_temperature(struct sampler *s, const struct sample_params *p) {
    if (p->temperature == 1) return;
    set_temper(s, p->temperature);
}
