/* GPT-OSS: windows on every other layer, a sink in each softmax, experts with biases
 * and a clamped SwiGLU, gate and up in alternate rows. */
#include "families/family.h"

static void describe(struct decoder_spec *d, struct config *c) {
    spec_defaults(d, c);
    struct moe_spec moe = spec_moe(c);
    moe.route.score  = SCORE_SOFTMAX_OF_TOP;
    moe.route.bias   = true;
    moe.expert.act   = ACT_SWIGLU_CLAMP;
    moe.expert.bias  = true;
    moe.expert.alpha = cfg_num(c, "swiglu_alpha", 1.702f);
    moe.expert.limit = cfg_num(c, "swiglu_limit", 7);
    int window = cfg_int(c, "sliding_window", 128);
    bool bias  = cfg_bool(c, "attention_bias", true);
    for (int i = 0; i < d->n_layers; i++) {
        struct layer_spec *l = &d->layer[i];
        l->attn.bias   = bias ? BIAS_QKV | BIAS_O : 0;
        l->attn.sinks  = true;
        l->attn.window = spec_layer_is(c, i, "sliding_attention", i % 2 == 0) ? window : 0;
        l->ffn = &ffn_moe;
        l->moe = moe;
    }
}

static const struct name_rule names[] = {
    { W_SINKS,     "model.layers.{l}.self_attn.sinks",          EXACT },
    { W_ROUTER,    "model.layers.{l}.mlp.router",               AS_IS },
    { W_X_GATE_UP, "model.layers.{l}.mlp.experts.gate_up_proj", EXACT | TRANSPOSED | INTERLEAVED },
    { W_X_DOWN,    "model.layers.{l}.mlp.experts.down_proj",    EXACT | TRANSPOSED },
    { W_X_GATE,    "model.layers.{l}.mlp.experts.gate_proj",    AS_IS },
    { W_X_UP,      "model.layers.{l}.mlp.experts.up_proj",      AS_IS },
    { W_X_DOWN,    "model.layers.{l}.mlp.experts.down_proj",    AS_IS },
    { W_END, NULL, AS_IS },
};

const struct family family_gpt_oss = {
    .name        = "gpt_oss",
    .evidence    = "Transformers 5.17: logits, layers, greedy (bf16 experts)",
    .model_types = ALIASES("gpt_oss"),
    .describe    = describe,
    .names       = names,
};
