/* penalties.c - what changes the logit of a token before candidates are chosen: the request's
 * biases and the penalties for having been said already. */
#include "sample/set.h"

#include <float.h>
#include <math.h>

void penalize_bias(struct sampler *s, const struct sample_params *p) {
    for (int i = 0; i < p->n_bias; i++)
        if (p->bias[i].token >= 0 && p->bias[i].token < s->vocab)
            s->logit[p->bias[i].token] += p->bias[i].bias;
}

/* Repetition as in CTRL (arXiv 1909.05858), which makes a logit smaller on either side of zero;
 * frequency and presence as OpenAI defines them. Over prompt and answer alike. */
bool penalize_repeats(struct sampler *s, const struct sample_params *p, const int *history, int n) {
    if (p->repeat_penalty == 1 && p->presence_penalty == 0 && p->frequency_penalty == 0)
        return false;
    int first = p->penalty_last < 0 ? 0 : MAX(0, n - p->penalty_last);
    for (int i = first; i < n; i++)
        if (history[i] >= 0 && history[i] < s->vocab) s->count[history[i]]++;
    for (int i = first; i < n; i++) {
        int id = history[i];
        if (id < 0 || id >= s->vocab || !s->count[id]) continue;
        float l = s->logit[id];
        l = l > 0 ? l / p->repeat_penalty : l * p->repeat_penalty;
        l -= (float)s->count[id] * p->frequency_penalty + p->presence_penalty;
        /* A banned token stays banned; a finite one stays finite. */
        if (isfinite(s->logit[id])) s->logit[id] = MAX(-FLT_MAX, MIN(FLT_MAX, l));
        s->count[id] = 0;
    }
    return true;
}
