/* dry.c - DRY ("don't repeat yourself"): a token that would go on with something already said
 * is penalized, exponentially in the length of what it would repeat.
 *
 * The text is taken backwards. Then the length of the match that ends before each earlier place
 * is the Z function: how long the text from there on equals its own beginning. */
#include "sample/set.h"

#include <float.h>
#include <math.h>

/* z[i]: how many of t[i..] equal t[0..]; z[0] is n. Linear time. */
static void z_function(const int *t, int n, int *z) {
    int left = 0, right = 0;         /* t[left..right) equals t[0..right-left) */
    z[0] = n;
    for (int i = 1; i < n; i++) {
        int k = i < right ? MIN(right - i, z[i - left]) : 0;
        while (i + k < n && t[k] == t[i + k]) k++;
        z[i] = k;
        if (i + k > right) {
            left = i;
            right = i + k;
        }
    }
}

static bool is_breaker(const struct sample_params *p, int token) {
    for (int i = 0; i < p->n_dry_breakers; i++)
        if (p->dry_breaker[i] == token) return true;
    return false;
}

static float penalty(const struct sample_params *p, int length) {
    double e = (double)p->dry_multiplier *
               pow((double)p->dry_base, (double)(length - p->dry_allowed));
    return e < (double)FLT_MAX ? (float)e : FLT_MAX;
}

bool penalize_dry(struct sampler *s, const struct sample_params *p, const int *history, int n) {
    if (p->dry_multiplier == 0 || p->dry_base < 1) return false;
    if (p->dry_last >= 0 && n > p->dry_last) {
        history += n - p->dry_last;
        n = p->dry_last;
    }
    if (n <= p->dry_allowed || n < 2) return false;
    if (s->n_history < (size_t)n) {
        size_t room = (size_t)n + (size_t)n / 2;
        s->reversed = mem_grow(s->reversed, room, sizeof *s->reversed);
        s->match = mem_grow(s->match, room, sizeof *s->match);
        s->n_history = room;
    }
    /* A match may not reach over a breaker, such as a new line or a quote. */
    int longest = n;
    for (int i = 0; i < n; i++) {
        s->reversed[i] = history[n - 1 - i];
        if (longest == n && is_breaker(p, s->reversed[i])) longest = i;
    }
    if (longest < p->dry_allowed || longest < 1) return false;
    z_function(s->reversed, n, s->match);

    /* The token after the match that begins (backwards) at i is the one before i. */
    for (int i = 1; i < n; i++) {
        int next = s->reversed[i - 1], length = MIN(s->match[i], longest);
        if (next < 0 || next >= s->vocab || length < MAX(1, p->dry_allowed)) continue;
        s->count[next] = MAX(s->count[next], length);
    }
    for (int i = 1; i < n; i++) {
        int next = s->reversed[i - 1];
        if (next < 0 || next >= s->vocab || !s->count[next]) continue;
        if (isfinite(s->logit[next]))
            s->logit[next] = MAX(-FLT_MAX, s->logit[next] - penalty(p, s->count[next]));
        s->count[next] = 0;
    }
    return true;
}
