/* rope.c - rotary embeddings: from config keys to radians per position.
 *
 * Follows Transformers' modeling_rope_utils in every rule and default, for the keys
 * of today (rope_parameters) and of older configs (rope_theta, rope_scaling).
 * YaRN: arXiv 2309.00071. LongRoPE: arXiv 2402.13753. */
#include "base/arena.h"
#include "spec/spec.h"

#include <math.h>

static enum stretch stretch_named(struct config *c, struct str type) {
    static const struct { const char *name; enum stretch stretch; } known[] = {
        { "default", STRETCH_NONE }, { "linear", STRETCH_LINEAR }, { "llama3", STRETCH_LLAMA3 },
        { "yarn", STRETCH_YARN }, { "longrope", STRETCH_LONG }, { "su", STRETCH_LONG },
        { "dynamic", STRETCH_DYNAMIC }, { "mrope", STRETCH_NONE },
    };
    for (size_t i = 0; i < COUNT(known); i++)
        if (str_is(type, known[i].name)) return known[i].stretch;
    cfg_fail(c, "rope_type: \"%.*s\" is not implemented", STR_ARG(type));
    return STRETCH_NONE;
}

static float log_scale(float factor, float mscale) {
    return factor <= 1 ? 1.0f : 0.1f * mscale * logf(factor) + 1.0f;
}

/* YaRN's attention factor: given, or from the factor and the two mscales. */
static float yarn_magnitude(struct config *c, float factor) {
    float all = cfg_num(c, "mscale_all_dim", 0), one = cfg_num(c, "mscale", 0);
    float usual = one != 0 && all != 0 ? log_scale(factor, one) / log_scale(factor, all)
                                       : log_scale(factor, 1);
    return cfg_num(c, "attention_factor", usual);
}

static void read_yarn(struct rope_spec *r, struct config *c) {
    r->low       = cfg_num(c, "beta_fast", 32);
    r->high      = cfg_num(c, "beta_slow", 1);
    r->truncate  = cfg_bool(c, "truncate", true);
    r->magnitude = yarn_magnitude(c, r->factor);
}

static void read_llama3(struct rope_spec *r, struct config *c) {
    r->low  = cfg_num(c, "low_freq_factor", (float)REQUIRED);
    r->high = cfg_num(c, "high_freq_factor", (float)REQUIRED);
    if (r->low <= 0 || r->high <= r->low)
        cfg_fail(c, "high_freq_factor: must be above low_freq_factor, and both above 0");
}

static const float *read_factors(struct decoder_spec *d, struct config *c, const char *key, int n) {
    if (cfg_len(c, key) != n) {
        cfg_fail(c, "%s: has %d entries, but half of the rotary dimensions are %d", key,
                 cfg_len(c, key), n);
        return NULL;
    }
    float *factor = arena_new(d->arena, (size_t)n * sizeof *factor);
    for (int i = 0; i < n; i++) {
        factor[i] = cfg_num_at(c, key, i);
        if (!(factor[i] > 0)) cfg_fail(c, "%s: entry %d must be above 0", key, i);
    }
    return factor;
}

/* The factor of the attention is the stretch of the context, unless it is given. */
static void read_long(struct decoder_spec *d, struct rope_spec *r, struct config *c) {
    float stretch = cfg_num(c, "factor", (float)d->context / (float)r->original_context);
    float usual = stretch <= 1 ? 1.0f
                               : sqrtf(1.0f + logf(stretch) / logf((float)r->original_context));
    r->magnitude    = cfg_num(c, "attention_factor", usual);
    r->short_factor = read_factors(d, c, "short_factor", r->dims / 2);
    r->long_factor  = read_factors(d, c, "long_factor", r->dims / 2);
    d->restart_at   = r->original_context;
}

struct rope_spec spec_rope(struct decoder_spec *d, struct config *c, int dims, enum rope pairing) {
    struct config *s = cfg_sub(c, "rope_parameters|rope_scaling");
    bool scaled = cfg_has(c, "rope_parameters") || cfg_has(c, "rope_scaling") ||
                  cfg_has(c, "rope_type");
    struct rope_spec r = {
        .pairing = pairing, .dims = dims, .magnitude = 1, .factor = 1,
        .base = cfg_num(c, "rope_parameters.rope_theta|rope_theta", 10000),
        .original_context = d->context,
    };
    if (!(r.base > 1)) cfg_fail(c, "rope_theta: must be above 1");
    if (dims < 2 || dims % 2) cfg_fail(c, "rotary dimensions: %d must be even and above 0", dims);
    if (!scaled) return r;

    r.stretch = stretch_named(c, cfg_str(s, "rope_type|type", "default"));
    if (r.stretch == STRETCH_NONE) return r;
    bool own_factor = r.stretch != STRETCH_LONG;
    if (own_factor) r.factor = cfg_num(s, "factor", (float)REQUIRED);
    if (!(r.factor > 0)) cfg_fail(c, "rope factor: must be above 0");
    if (cfg_has(s, "original_max_position_embeddings"))
        r.original_context = cfg_int(s, "original_max_position_embeddings", d->context);
    else
        r.original_context = cfg_int(c, "original_max_position_embeddings", d->context);
    if (r.original_context < 2) cfg_fail(c, "original_max_position_embeddings: must be above 1");
    if (!cfg_ok(c, NULL)) return r;
    if (r.stretch == STRETCH_YARN) read_yarn(&r, s);
    if (r.stretch == STRETCH_LLAMA3) read_llama3(&r, s);
    if (r.stretch == STRETCH_LONG) read_long(d, &r, s);
    return r;
}

/* Where a dimension turns `turns` times over the original context. */
static double yarn_dim(const struct rope_spec *r, double turns) {
    return r->dims * log(r->original_context / (turns * 2 * M_PI)) / (2 * log((double)r->base));
}

static void stretch_yarn(const struct rope_spec *r, float *f) {
    double low = yarn_dim(r, (double)r->low), high = yarn_dim(r, (double)r->high);
    if (r->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, r->dims - 1);
    if (low == high) high += 0.001;
    for (int i = 0; i < r->dims / 2; i++) {
        double ramp = fmin(fmax((i - low) / (high - low), 0), 1);
        f[i] = (float)((double)f[i] / (double)r->factor * ramp + (double)f[i] * (1 - ramp));
    }
}

static void stretch_llama3(const struct rope_spec *r, float *f) {
    double context = r->original_context, low = (double)r->low, high = (double)r->high;
    for (int i = 0; i < r->dims / 2; i++) {
        double wave = 2 * M_PI / (double)f[i], slow = (double)f[i] / (double)r->factor;
        double smooth = (context / wave - low) / (high - low);
        if (wave > context / low) f[i] = (float)slow;
        else if (wave >= context / high)
            f[i] = (float)((1 - smooth) * slow + smooth * (double)f[i]);
    }
}

void rope_frequencies(const struct rope_spec *r, int variant, float *f) {
    const float *factor = variant ? r->long_factor : r->short_factor;
    for (int i = 0; i < r->dims / 2; i++) {
        f[i] = (float)pow((double)r->base, -2.0 * i / r->dims);
        if (r->stretch == STRETCH_LINEAR) f[i] /= r->factor;
        if (r->stretch == STRETCH_LONG) f[i] /= factor[i];
        if (r->reverse) f[i] = -f[i];
    }
    if (r->stretch == STRETCH_YARN) stretch_yarn(r, f);
    if (r->stretch == STRETCH_LLAMA3) stretch_llama3(r, f);
}
