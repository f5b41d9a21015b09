/* StarCoder2: LayerNorms, biases everywhere, a plain MLP, a window. */
#include "families/family.h"

static void describe(struct decoder_spec *d, struct config *c) {
    spec_defaults(d, c);
    d->norm      = NORM_LAYER;
    d->norm_bias = true;
    d->eps       = cfg_num(c, "norm_epsilon", 1e-5f);
    d->tied_head = cfg_bool(c, "tie_word_embeddings", true);
    bool bias    = cfg_bool(c, "use_bias", true);
    int window   = cfg_int(c, "sliding_window", 0);
    enum act act = spec_act(c, "hidden_act", "gelu_pytorch_tanh");
    EACH_LAYER(d, l) {
        l->attn.window = window;
        l->attn.bias   = bias ? BIAS_QKV | BIAS_O : 0;
        l->mlp.bias    = bias;
        l->mlp.gated   = false;
        l->mlp.act     = act;
    }
}

static const struct name_rule names[] = {
    { W_UP,   "model.layers.{l}.mlp.c_fc",   AS_IS },
    { W_DOWN, "model.layers.{l}.mlp.c_proj", AS_IS },
    { W_END, NULL, AS_IS },
};

const struct family family_starcoder2 = {
    .name        = "starcoder2",
    .evidence    = "Transformers 5.17: logits, layers, greedy",
    .model_types = ALIASES("starcoder2"),
    .describe    = describe,
    .names       = names,
};
