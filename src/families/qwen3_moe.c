/* Qwen3-MoE: Qwen3 with experts in most blocks. */
#include "families/family.h"

static void describe(struct decoder_spec *d, struct config *c) {
    spec_defaults(d, c);
    const struct moe_spec moe = spec_moe(c);
    bool bias = cfg_bool(c, "attention_bias", false),
         windows = cfg_bool(c, "use_sliding_window", false);
    int window = windows ? cfg_int(c, "sliding_window", 4096) : 0;
    for (int i = 0; i < d->n_layers; i++) {
        struct layer_spec *l = &d->layer[i];
        l->attn.qk_norm = QK_NORM_HEAD;
        l->attn.bias    = bias ? BIAS_QKV | BIAS_O : 0;
        l->attn.window  = window;
        if (!spec_layer_is_sparse(c, i)) continue;
        l->ffn = &ffn_moe;
        l->moe = moe;
    }
}

const struct family family_qwen3_moe = {
    .name        = "qwen3_moe",
    .evidence    = "Transformers 5.17: logits, layers, greedy; a dense layer among sparse ones",
    .model_types = ALIASES("qwen3_moe"),
    .describe    = describe,
};
