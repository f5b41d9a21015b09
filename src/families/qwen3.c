/* Qwen3: Llama with RMS norms on q and k. */
#include "families/family.h"

static void describe(struct decoder_spec *d, struct config *c) {
    spec_defaults(d, c);
    spec_optional_window(d, c);
    bool bias = cfg_bool(c, "attention_bias", false);
    EACH_LAYER(d, l) {
        l->attn.qk_norm = QK_NORM_HEAD;
        l->attn.bias    = bias ? BIAS_QKV | BIAS_O : 0;
    }
}

const struct family family_qwen3 = {
    .name        = "qwen3",
    .evidence    = "Transformers 5.17: logits, layers, greedy; the built-in model",
    .model_types = ALIASES("qwen3"),
    .describe    = describe,
};
