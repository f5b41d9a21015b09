/* SmolLM3: Llama without rotary embedding on every fourth layer. */
#include "families/family.h"

static void describe(struct decoder_spec *d, struct config *c) {
    spec_defaults(d, c);
    d->tied_head = cfg_bool(c, "tie_word_embeddings", true);
    int interval = cfg_int_in(c, "no_rope_layer_interval", 4, 1, 1024);
    int listed   = cfg_len(c, "no_rope_layers");          /* 1: this layer has rope */
    bool windows = cfg_bool(c, "use_sliding_window", false);
    bool bias = cfg_bool(c, "attention_bias", false), mlp_bias = cfg_bool(c, "mlp_bias", false);
    if (listed >= 0 && listed != d->n_layers)
        cfg_fail(c, "no_rope_layers: %d entries for %d layers", listed, d->n_layers);
    for (int i = 0; i < d->n_layers; i++) {
        struct layer_spec *l = &d->layer[i];
        bool rope = listed >= 0 ? cfg_int_at(c, "no_rope_layers", i) != 0 : (i + 1) % interval != 0;
        if (!rope) l->attn.rope.pairing = ROPE_NONE;
        if (!windows) l->attn.window = 0;
        l->attn.bias = bias ? BIAS_QKV | BIAS_O : 0;
        l->mlp.bias  = mlp_bias;
    }
}

const struct family family_smollm3 = {
    .name        = "smollm3",
    .evidence    = "Transformers 5.17: logits, layers, greedy",
    .model_types = ALIASES("smollm3"),
    .describe    = describe,
};
