/* filters.c - the stages that remove unlikely candidates (or, for XTC, the likeliest), and the
 * temperature.
 *
 * Definitions are those of llama.cpp, whose users know them. Each returns at once when its
 * parameter says off. */
#include "sample/set.h"

#include <math.h>

void filter_top_k(struct sampler *s, const struct sample_params *p) {
    if (p->top_k > 0 && p->top_k < s->n) set_keep_best(s, p->top_k);
}

void filter_top_p(struct sampler *s, const struct sample_params *p) {
    if (p->top_p < 1) set_keep_mass(s, p->top_p);
}

/* At least min_p times as likely as the best: a distance of logits, so no sum is needed. */
void filter_min_p(struct sampler *s, const struct sample_params *p) {
    if (p->min_p > 0) set_keep_above(s, set_best(s) + logf(p->min_p));
}

/* Locally typical sampling, arXiv 2202.00666: the candidates whose surprise is nearest to the
 * entropy, until they hold typical_p of the mass. */
void filter_typical(struct sampler *s, const struct sample_params *p) {
    if (p->typical_p >= 1) return;
    double total = set_weigh(s), log_total = log(total), entropy = 0, sum = 0;
    float best = set_best(s);
    for (int i = 0; i < s->n; i++) {
        if (s->weight[i] <= 0) continue;
        double share = (double)s->weight[i] / total;
        entropy += share * (log_total - (double)(s->logit[s->id[i]] - best));
    }
    for (int i = 0; i < s->n; i++) {
        double surprise = log_total - (double)(s->logit[s->id[i]] - best);
        s->weight[i] = (float)fabs(surprise - entropy);
    }
    set_sort_by(s, s->weight);
    for (int i = 0; i < s->n; i++) {
        sum += (double)expf(s->logit[s->id[i]] - best);
        if (sum > total * (double)p->typical_p) {
            s->n = i + 1;
            return;
        }
    }
}

/* Top-n-sigma, arXiv 2411.07641: logits within n standard deviations of the best one. */
void filter_top_n_sigma(struct sampler *s, const struct sample_params *p) {
    if (p->top_n_sigma <= 0) return;
    double mean = 0, variance = 0;
    for (int i = 0; i < s->n; i++) mean += (double)s->logit[s->id[i]];
    mean /= s->n;
    for (int i = 0; i < s->n; i++) {
        double d = (double)s->logit[s->id[i]] - mean;
        variance += d * d;
    }
    double least = (double)set_best(s) - (double)p->top_n_sigma * sqrt(variance / s->n);
    /* Rounded downwards, so that a deviation of 0 keeps the best. */
    set_keep_above(s, nextafterf((float)least, -INFINITY));
}

/* Exclude top choices: of all candidates above the threshold only the least likely stays. */
void filter_xtc(struct sampler *s, const struct sample_params *p, double chance) {
    if (p->xtc_probability <= 0 || chance >= (double)p->xtc_probability) return;
    if (p->xtc_threshold > 0.5f || s->n < 2) return;
    double least = set_weigh(s) * (double)p->xtc_threshold;
    int last = -1;
    for (int i = 0; i < s->n; i++) {
        if ((double)s->weight[i] < least) continue;
        float here = s->logit[s->id[i]], there = last < 0 ? INFINITY : s->logit[s->id[last]];
        if (here < there || (here == there && s->id[i] > s->id[last])) last = i;
    }
    if (last < 0) return;
    int kept = s->id[last], n = 0;
    s->whole = false;
    for (int i = 0; i < s->n; i++)
        if ((double)s->weight[i] < least || s->id[i] == kept) s->id[n++] = s->id[i];
    s->n = n;
}

void filter_temperature(struct sampler *s, const struct sample_params *p) {
    if (p->temperature == 1) return;
    set_temper(s, p->temperature);
}
