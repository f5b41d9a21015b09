/* OLMo 2: norms after each half only, and over all of q and of k at once. */
#include "families/family.h"

static void describe(struct decoder_spec *d, struct config *c) {
    spec_defaults(d, c);
    bool bias = cfg_bool(c, "attention_bias", false);
    EACH_LAYER(d, l) {
        l->norms        = POST_MIX | POST_FFN;
        l->attn.qk_norm = QK_NORM_FULL;
        l->attn.bias    = bias ? BIAS_QKV | BIAS_O : 0;
    }
}

static const struct name_rule names[] = {
    { W_POST_MIX, "model.layers.{l}.post_attention_layernorm",   AS_IS },
    { W_POST_FFN, "model.layers.{l}.post_feedforward_layernorm", AS_IS },
    { W_END, NULL, AS_IS },
};

const struct family family_olmo2 = {
    .name        = "olmo2",
    .evidence    = "Transformers 5.17: logits, layers, greedy",
    .model_types = ALIASES("olmo2"),
    .describe    = describe,
    .names       = names,
};
