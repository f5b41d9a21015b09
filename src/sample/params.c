/* params.c - defaults, ranges and the order of the stages. */
#include "sample/sample.h"

#include <limits.h>
#include <math.h>
#include <string.h>

/* Those of llama.cpp, where a checkpoint's generation_config.json says nothing else. */
struct sample_params sample_defaults(void) {
    return (struct sample_params){
        .temperature = 0.8f, .top_k = 40, .top_p = 0.95f, .min_p = 0.05f, .typical_p = 1,
        .repeat_penalty = 1, .penalty_last = 64,
        .dry_base = 1.75f, .dry_allowed = 2, .dry_last = -1,
        .xtc_threshold = 0.1f,
        .order = { STEP_PENALTIES, STEP_DRY, STEP_TOP_N_SIGMA, STEP_TOP_K, STEP_TYPICAL,
                   STEP_TOP_P, STEP_MIN_P, STEP_XTC, STEP_TEMPERATURE, STEP_END },
    };
}

/* The spelling of an order's step; llama.cpp's other spellings follow the first. */
static const struct { const char *name; enum sampler_step step; } steps[] = {
    { "penalties", STEP_PENALTIES },
    { "dry", STEP_DRY },
    { "top_n_sigma", STEP_TOP_N_SIGMA },
    { "top_k", STEP_TOP_K },
    { "typ_p", STEP_TYPICAL }, { "typical_p", STEP_TYPICAL }, { "typical", STEP_TYPICAL },
    { "typ", STEP_TYPICAL },
    { "top_p", STEP_TOP_P }, { "nucleus", STEP_TOP_P },
    { "min_p", STEP_MIN_P },
    { "xtc", STEP_XTC },
    { "temperature", STEP_TEMPERATURE }, { "temp", STEP_TEMPERATURE },
};

static char folded(char c) {
    if (c == '-') return '_';
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

static enum sampler_step step_named(struct str name) {
    for (size_t i = 0; i < COUNT(steps); i++) {
        if (strlen(steps[i].name) != name.len) continue;
        size_t k = 0;
        while (k < name.len && folded(name.at[k]) == steps[i].name[k]) k++;
        if (k == name.len) return steps[i].step;
    }
    return STEP_END;
}

const char *sample_step_name(enum sampler_step step) {
    for (size_t i = 0; i < COUNT(steps); i++)
        if (steps[i].step == step) return steps[i].name;
    return "";
}

bool sample_order(struct str text, enum sampler_step order[SAMPLER_STEPS_MAX], struct err *err) {
    enum sampler_step found[SAMPLER_STEPS_MAX] = { STEP_END };
    size_t n = 0, begin = 0;
    for (size_t i = 0; i <= text.len; i++) {
        if (i < text.len && text.at[i] != ';' && text.at[i] != ',') continue;
        struct str name = str_cut(text, begin, i);
        begin = i + 1;
        if (!name.len) continue;
        if (n == SAMPLER_STEPS_MAX - 1)
            return err_code(err, ERR_USAGE, "samplers: more than %d steps", SAMPLER_STEPS_MAX - 1);
        found[n] = step_named(name);
        if (found[n++] == STEP_END)
            return err_code(err, ERR_USAGE, "samplers: no step is called '%.*s'; there are "
                            "penalties, dry, top_n_sigma, top_k, typ_p, top_p, min_p, xtc, "
                            "temperature", STR_ARG(name));
    }
    memcpy(order, found, sizeof found);
    return true;
}

/* NaN is in no range. */
static bool in(const char *name, float value, float least, float most, struct err *err) {
    if (value >= least && value <= most) return true;
    return err_code(err, ERR_USAGE, "%s must be between %g and %g, not %g", name, (double)least,
                    (double)most, (double)value);
}

static bool at_least(const char *name, int value, int least, struct err *err) {
    return value >= least || err_code(err, ERR_USAGE, "%s must be at least %d, not %d", name, least,
                                      value);
}

static bool check_order(const struct sample_params *p, struct err *err) {
    for (int i = 0; i < SAMPLER_STEPS_MAX; i++) {
        if (p->order[i] == STEP_END) return true;
        if (p->order[i] > STEP_TEMPERATURE)
            return err_code(err, ERR_USAGE, "samplers: step %d is unknown", i);
    }
    return err_code(err, ERR_USAGE, "samplers: more than %d steps", SAMPLER_STEPS_MAX - 1);
}

static bool check_bias(const struct sample_params *p, struct err *err) {
    for (int i = 0; i < p->n_bias; i++) {
        if (!at_least("logit_bias: a token", p->bias[i].token, 0, err)) return false;
        float b = p->bias[i].bias;
        if (isinf(b) && b < 0) continue;
        if (!in("logit_bias", b, -1e4f, 1e4f, err)) return false;
    }
    return true;
}

bool sample_check(const struct sample_params *p, struct err *err) {
    return in("temperature", p->temperature, 0, 100, err) &&
           in("top_p", p->top_p, 0, 1, err) &&
           in("min_p", p->min_p, 0, 1, err) &&
           in("typical_p", p->typical_p, 0, 1, err) &&
           in("top_n_sigma", p->top_n_sigma, -1, 1000, err) &&
           at_least("top_k", p->top_k, -1, err) &&
           in("repeat_penalty", p->repeat_penalty, 0.01f, 100, err) &&
           in("presence_penalty", p->presence_penalty, -100, 100, err) &&
           in("frequency_penalty", p->frequency_penalty, -100, 100, err) &&
           at_least("penalty_last", p->penalty_last, -1, err) &&
           in("dry_multiplier", p->dry_multiplier, 0, 1000, err) &&
           in("dry_base", p->dry_base, 1, 1000, err) &&
           at_least("dry_allowed", p->dry_allowed, 0, err) &&
           at_least("dry_last", p->dry_last, -1, err) &&
           (p->n_dry_breakers <= DRY_BREAKERS_MAX ||
            err_code(err, ERR_USAGE, "dry_breaker: more than %d", DRY_BREAKERS_MAX)) &&
           in("xtc_probability", p->xtc_probability, 0, 1, err) &&
           in("xtc_threshold", p->xtc_threshold, 0, 1, err) &&
           check_bias(p, err) && check_order(p, err);
}

static bool penalizes(const struct sample_params *p) {
    return p->n_bias > 0 || p->repeat_penalty != 1 || p->presence_penalty != 0 ||
           p->frequency_penalty != 0 || p->dry_multiplier != 0;
}

/* Whether the stage changes anything under these parameters. */
static bool acts(const struct sample_params *p, enum sampler_step step) {
    switch (step) {
    case STEP_TOP_N_SIGMA: return p->top_n_sigma > 0;
    case STEP_TOP_K:       return p->top_k > 0;
    case STEP_TYPICAL:     return p->typical_p < 1;
    case STEP_TOP_P:       return p->top_p < 1;
    case STEP_MIN_P:       return p->min_p > 0;
    case STEP_XTC:         return p->xtc_probability > 0;
    case STEP_TEMPERATURE: return p->temperature != 1;
    default:               return false;
    }
}

bool sample_is_plain(const struct sample_params *p, struct sample_plain *plain) {
    static const enum sampler_step usual[] = { STEP_TOP_K, STEP_TOP_P, STEP_MIN_P,
                                               STEP_TEMPERATURE };
    *plain = (struct sample_plain){ .temperature = p->temperature == 0 ? 0 : 1, .top_p = 1 };
    size_t next = 0;
    if (penalizes(p)) return false;
    for (int i = 0; p->temperature != 0 && i < SAMPLER_STEPS_MAX && p->order[i] != STEP_END; i++) {
        if (!acts(p, p->order[i])) continue;
        while (next < COUNT(usual) && usual[next] != p->order[i]) next++;
        if (next++ == COUNT(usual)) return false;
        if (p->order[i] == STEP_TOP_K) plain->top_k = p->top_k;
        if (p->order[i] == STEP_TOP_P) plain->top_p = p->top_p;
        if (p->order[i] == STEP_MIN_P) plain->min_p = p->min_p;
        if (p->order[i] == STEP_TEMPERATURE) plain->temperature = p->temperature;
    }
    return true;
}
