/* Gemma 2: norms before and after both halves, soft-capped scores, window
 * attention on every even layer, embeddings scaled by sqrt(dim). */
#include "families/family.h"

#include <math.h>

static void describe(struct decoder_spec *d, struct config *c) {
    spec_defaults(d, c);
    d->norm          = NORM_RMS_PLUS1;
    d->tied_head     = cfg_bool(c, "tie_word_embeddings", true);
    d->embed_scale   = sqrtf((float)d->dim);
    d->logit_softcap = cfg_num(c, "final_logit_softcapping", 0);

    float scalar  = cfg_num(c, "query_pre_attn_scalar", 256);
    float softcap = cfg_num(c, "attn_logit_softcapping", 0);
    int window    = cfg_int(c, "sliding_window", 4096);
    enum act act  = spec_act(c, "hidden_activation", "gelu_pytorch_tanh");
    bool bias     = cfg_bool(c, "attention_bias", false);
    for (int i = 0; i < d->n_layers; i++) {
        struct layer_spec *l = &d->layer[i];
        l->norms        = PRE_MIX | POST_MIX | PRE_FFN | POST_FFN;
        l->mlp.act      = act;
        l->attn.bias    = bias ? BIAS_QKV | BIAS_O : 0;
        l->attn.scale   = 1 / sqrtf(scalar);
        l->attn.softcap = softcap;
        l->attn.window  = spec_layer_is(c, i, "sliding_attention", i % 2 == 0) ? window : 0;
    }
}

static const struct name_rule names[] = {
    { W_POST_MIX, "model.layers.{l}.post_attention_layernorm",   AS_IS },
    { W_PRE_FFN,  "model.layers.{l}.pre_feedforward_layernorm",  AS_IS },
    { W_POST_FFN, "model.layers.{l}.post_feedforward_layernorm", AS_IS },
    { W_END, NULL, AS_IS },
};

const struct family family_gemma2 = {
    .name        = "gemma2",
    .evidence    = "Transformers 5.17: logits, layers, greedy",
    .model_types = ALIASES("gemma2"),
    .describe    = describe,
    .names       = names,
};
