/* GLM-4: norms around both halves, gate and up fused, half of each head turned by
 * pairs. */
#include "families/family.h"

static void describe(struct decoder_spec *d, struct config *c) {
    d->rope_share = 0.5f;
    spec_defaults(d, c);
    bool bias = cfg_bool(c, "attention_bias", false);
    EACH_LAYER(d, l) {
        l->norms             = PRE_MIX | POST_MIX | PRE_FFN | POST_FFN;
        l->attn.bias         = bias ? BIAS_QKV : 0;
        l->attn.rope.pairing = ROPE_PAIRS;
    }
}

static const struct name_rule names[] = {
    { W_POST_MIX, "model.layers.{l}.post_self_attn_layernorm", AS_IS },
    { W_POST_FFN, "model.layers.{l}.post_mlp_layernorm",       AS_IS },
    { W_END, NULL, AS_IS },
};

const struct family family_glm4 = {
    .name        = "glm4",
    .evidence    = "Transformers 5.17: logits, layers, greedy",
    .model_types = ALIASES("glm4"),
    .describe    = describe,
    .names       = names,
};
