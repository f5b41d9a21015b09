/* GPT-2: learned positions, LayerNorms, biases, fused q/k/v, matrices stored
 * transposed (Conv1D). */
#include "families/family.h"

#include <math.h>

static void describe(struct decoder_spec *d, struct config *c) {
    spec_defaults(d, c);
    d->norm      = NORM_LAYER;
    d->norm_bias = true;
    d->eps       = cfg_num(c, "layer_norm_epsilon", 1e-5f);
    d->tied_head = cfg_bool(c, "tie_word_embeddings", true);
    d->positions = d->context;
    bool scaled = cfg_bool(c, "scale_attn_weights", true);
    bool by_layer = cfg_bool(c, "scale_attn_by_inverse_layer_idx", false);
    enum act act = spec_act(c, "activation_function", "gelu_new");
    int hidden = cfg_int(c, "n_inner", 4 * d->dim);
    for (int i = 0; i < d->n_layers; i++) {
        struct layer_spec *l = &d->layer[i];
        l->attn.rope.pairing = ROPE_NONE;
        l->attn.bias         = BIAS_QKV | BIAS_O;
        l->attn.scale        = scaled ? 1 / sqrtf((float)l->attn.head_dim) : 1;
        if (by_layer) l->attn.scale /= (float)(i + 1);
        l->mlp = (struct mlp_spec){ .hidden = hidden, .act = act, .bias = true };
    }
}

/* Hub files have the names with and without the "transformer." of newer ones. */
static const struct name_rule names[] = {
    { W_EMBED,      "transformer.wte",                 AS_IS },
    { W_EMBED,      "wte",                             AS_IS },
    { W_POSITIONS,  "transformer.wpe",                 AS_IS },
    { W_POSITIONS,  "wpe",                             AS_IS },
    { W_FINAL_NORM, "transformer.ln_f",                AS_IS },
    { W_FINAL_NORM, "ln_f",                            AS_IS },
    { W_PRE_MIX,    "transformer.h.{l}.ln_1",          AS_IS },
    { W_PRE_MIX,    "h.{l}.ln_1",                      AS_IS },
    { W_PRE_FFN,    "transformer.h.{l}.ln_2",          AS_IS },
    { W_PRE_FFN,    "h.{l}.ln_2",                      AS_IS },
    { W_QKV,        "transformer.h.{l}.attn.c_attn",   TRANSPOSED },
    { W_QKV,        "h.{l}.attn.c_attn",               TRANSPOSED },
    { W_O,          "transformer.h.{l}.attn.c_proj",   TRANSPOSED },
    { W_O,          "h.{l}.attn.c_proj",               TRANSPOSED },
    { W_UP,         "transformer.h.{l}.mlp.c_fc",      TRANSPOSED },
    { W_UP,         "h.{l}.mlp.c_fc",                  TRANSPOSED },
    { W_DOWN,       "transformer.h.{l}.mlp.c_proj",    TRANSPOSED },
    { W_DOWN,       "h.{l}.mlp.c_proj",                TRANSPOSED },
    { W_DROP,       "transformer.h.{l}.attn.bias",         EXACT },
    { W_DROP,       "h.{l}.attn.bias",                     EXACT },
    { W_DROP,       "transformer.h.{l}.attn.masked_bias",  EXACT },
    { W_END, NULL, AS_IS },
};

const struct family family_gpt2 = {
    .name        = "gpt2",
    .evidence    = "Transformers 5.17: logits, layers, greedy",
    .model_types = ALIASES("gpt2"),
    .describe    = describe,
    .names       = names,
};
