/* Granite 3: Llama with four scalars: on embeddings, scores, residuals and logits. */
#include "families/family.h"

static void describe(struct decoder_spec *d, struct config *c) {
    spec_defaults(d, c);
    float divisor  = cfg_num(c, "logits_scaling", 1);
    float residual = cfg_num(c, "residual_multiplier", 1);
    float scale    = cfg_num(c, "attention_multiplier", 1);
    bool bias = cfg_bool(c, "attention_bias", false), mlp_bias = cfg_bool(c, "mlp_bias", false);
    if (!(divisor > 0)) cfg_fail(c, "logits_scaling: must be above 0");
    d->embed_scale = cfg_num(c, "embedding_multiplier", 1);
    d->logit_scale = 1 / divisor;
    EACH_LAYER(d, l) {
        l->residual   = residual;
        l->attn.scale = scale;
        l->attn.bias  = bias ? BIAS_QKV | BIAS_O : 0;
        l->mlp.bias   = mlp_bias;
    }
}

const struct family family_granite = {
    .name        = "granite",
    .evidence    = "Transformers 5.17: logits, layers, greedy",
    .model_types = ALIASES("granite"),
    .describe    = describe,
};
