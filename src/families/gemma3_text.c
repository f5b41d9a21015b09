/* Gemma 3, the text model: Gemma 2 with norms on q and k instead of soft caps, five
 * window layers to one full one, and a rope of its own for each kind. */
#include "families/family.h"

#include <math.h>

/* Older configs keep the window layers' base in a key of its own and never scale it. */
static struct rope_spec window_rope(struct decoder_spec *d, struct config *c, int head_dim) {
    if (cfg_has(c, "rope_parameters.sliding_attention"))
        return spec_rope(d, cfg_sub(c, "rope_parameters.sliding_attention"), head_dim, ROPE_HALVES);
    struct rope_spec rope = spec_rope(d, c, head_dim, ROPE_HALVES);
    rope.stretch = STRETCH_NONE;
    rope.base    = cfg_num(c, "rope_local_base_freq", 10000);
    return rope;
}

static struct rope_spec full_rope(struct decoder_spec *d, struct config *c, int head_dim) {
    bool both = cfg_has(c, "rope_parameters.full_attention");
    if (!both && !cfg_has(c, "rope_theta")) {
        struct rope_spec rope = spec_rope(d, c, head_dim, ROPE_HALVES);
        rope.base = 1000000;
        return rope;
    }
    return spec_rope(d, both ? cfg_sub(c, "rope_parameters.full_attention") : c, head_dim,
                     ROPE_HALVES);
}

static void describe(struct decoder_spec *d, struct config *c) {
    spec_defaults(d, c);
    d->norm          = NORM_RMS_PLUS1;
    d->tied_head     = cfg_bool(c, "tie_word_embeddings", true);
    d->embed_scale   = sqrtf((float)d->dim);
    d->logit_softcap = cfg_num(c, "final_logit_softcapping", 0);
    if (cfg_bool(c, "use_bidirectional_attention", false))
        cfg_fail(c, "use_bidirectional_attention: true is not implemented");

    float scalar  = cfg_num(c, "query_pre_attn_scalar", 256);
    float softcap = cfg_num(c, "attn_logit_softcapping", 0);
    int window    = cfg_int(c, "sliding_window", 4096);
    int pattern   = cfg_int_in(c, "sliding_window_pattern|_sliding_window_pattern", 6, 1, 1024);
    enum act act  = spec_act(c, "hidden_activation", "gelu_pytorch_tanh");
    bool bias     = cfg_bool(c, "attention_bias", false);
    for (int i = 0; i < d->n_layers; i++) {
        struct layer_spec *l = &d->layer[i];
        bool near = spec_layer_is(c, i, "sliding_attention", (i + 1) % pattern != 0);
        l->norms        = PRE_MIX | POST_MIX | PRE_FFN | POST_FFN;
        l->mlp.act      = act;
        l->attn.bias    = bias ? BIAS_QKV | BIAS_O : 0;
        l->attn.scale   = 1 / sqrtf(scalar);
        l->attn.softcap = softcap;
        l->attn.qk_norm = QK_NORM_HEAD;
        l->attn.window  = near ? window : 0;
        l->attn.rope    = near ? window_rope(d, c, l->attn.head_dim)
                               : full_rope(d, c, l->attn.head_dim);
    }
}

static const struct name_rule names[] = {
    { W_POST_MIX, "model.layers.{l}.post_attention_layernorm",   AS_IS },
    { W_PRE_FFN,  "model.layers.{l}.pre_feedforward_layernorm",  AS_IS },
    { W_POST_FFN, "model.layers.{l}.post_feedforward_layernorm", AS_IS },
    { W_END, NULL, AS_IS },
};

const struct family family_gemma3_text = {
    .name        = "gemma3_text",
    .evidence    = "Transformers 5.17: logits, layers, greedy",
    .model_types = ALIASES("gemma3_text"),
    .describe    = describe,
    .names       = names,
};
