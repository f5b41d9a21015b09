/* Qwen3-Next: three gated-delta layers to one gated attention layer, experts
 * with a gated shared expert in every block. */
#include "families/family.h"

static bool is_full(struct config *c, int i) {
    int interval = cfg_int_in(c, "full_attention_interval", 4, 1, 1024);
    return spec_layer_is(c, i, "full_attention", (i + 1) % interval == 0);
}

static void describe(struct decoder_spec *d, struct config *c) {
    d->rope_share = 0.25f;
    spec_defaults(d, c);
    cfg_only(c, "hidden_act", "silu");
    const struct delta_spec delta = {
        .k_heads = cfg_int(c, "linear_num_key_heads", 16),
        .v_heads = cfg_int(c, "linear_num_value_heads", 32),
        .k_dim   = cfg_int(c, "linear_key_head_dim", 128),
        .v_dim   = cfg_int(c, "linear_value_head_dim", 128),
        .kernel  = cfg_int(c, "linear_conv_kernel_dim", 4),
    };
    struct moe_spec moe = spec_moe(c);
    moe.shared_gate       = true;
    moe.route.renormalize = cfg_bool(c, "norm_topk_prob", true);
    bool bias = cfg_bool(c, "attention_bias", false);

    for (int i = 0; i < d->n_layers; i++) {
        struct layer_spec *l = &d->layer[i];
        if (is_full(c, i)) {
            l->attn.qk_norm  = QK_NORM_HEAD;
            l->attn.out_gate = OUT_GATE_IN_Q;
            l->attn.bias     = bias ? BIAS_QKV | BIAS_O : 0;
        } else {
            l->mixer = &mixer_delta;
            l->delta = delta;
        }
        if (spec_layer_is_sparse(c, i)) {
            l->ffn = &ffn_moe;
            l->moe = moe;
        }
    }
}

static const struct name_rule names[] = {
    { W_PRE_MIX,    "model.layers.{l}.input_layernorm",          PLUS_ONE },
    { W_PRE_FFN,    "model.layers.{l}.post_attention_layernorm", PLUS_ONE },
    { W_Q_NORM,     "model.layers.{l}.self_attn.q_norm",         PLUS_ONE },
    { W_K_NORM,     "model.layers.{l}.self_attn.k_norm",         PLUS_ONE },
    { W_FINAL_NORM, "model.norm",                                PLUS_ONE },
    { W_IN,         "model.layers.{l}.linear_attn.in_proj_qkvz", AS_IS },
    { W_BA,         "model.layers.{l}.linear_attn.in_proj_ba",   AS_IS },
    { W_CONV,       "model.layers.{l}.linear_attn.conv1d",       CONV },
    { W_DT_BIAS,    "model.layers.{l}.linear_attn.dt_bias",      EXACT },
    { W_A_LOG,      "model.layers.{l}.linear_attn.A_log",        EXACT },
    { W_MIX_NORM,   "model.layers.{l}.linear_attn.norm",         AS_IS },
    { W_OUT,        "model.layers.{l}.linear_attn.out_proj",     AS_IS },
    { W_S_MIX,      "model.layers.{l}.mlp.shared_expert_gate",   AS_IS },
    { W_DROP,       "mtp.*",                                     AS_IS },
    { W_END, NULL, AS_IS },
};

const struct family family_qwen3_next = {
    .name        = "qwen3_next",
    .evidence    = "Transformers 5.17: logits, layers, greedy",
    .model_types = ALIASES("qwen3_next"),
    .describe    = describe,
    .names       = names,
};
