/* Llama and the checkpoints that are one under another name. */
#include "families/family.h"

static void describe(struct decoder_spec *d, struct config *c) {
    spec_defaults(d, c);
    bool bias = cfg_bool(c, "attention_bias", false), mlp_bias = cfg_bool(c, "mlp_bias", false);
    EACH_LAYER(d, l) {
        l->attn.bias = bias ? BIAS_QKV | BIAS_O : 0;
        l->mlp.bias  = mlp_bias;
    }
}

const struct family family_llama = {
    .name        = "llama",
    .evidence    = "Transformers 5.17: logits, layers, greedy; also with biases and linear rope",
    .model_types = ALIASES("llama"),
    .describe    = describe,
};
