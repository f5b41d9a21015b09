/* Mamba-2: state space layers only, one part a block. */
#include "families/family.h"

#include <math.h>

static void describe(struct decoder_spec *d, struct config *c) {
    spec_base(d, c);
    d->eps     = cfg_num(c, "layer_norm_epsilon|rms_norm_eps", 1e-5f);
    d->context = cfg_int_in(c, "max_position_embeddings", 1 << 20, 1, 1 << 28);
    cfg_only(c, "hidden_act", "silu");
    bool limits = cfg_len(c, "time_step_limit") >= 0;
    const struct mamba_spec mamba = {
        .heads      = cfg_int(c, "num_heads", REQUIRED),
        .head_dim   = cfg_int(c, "head_dim", REQUIRED),
        .groups     = cfg_int(c, "n_groups", 8),
        .state      = cfg_int(c, "state_size", 128),
        .kernel     = cfg_int(c, "conv_kernel", 4),
        .dt_min     = limits ? cfg_inf_at(c, "time_step_limit", 0) : 0,
        .dt_max     = limits ? cfg_inf_at(c, "time_step_limit", 1) : INFINITY,
        .conv_bias  = cfg_bool(c, "use_conv_bias", true),
        .bias       = cfg_bool(c, "use_bias", false),
        .group_norm = false,
        .eps        = d->eps,
    };
    EACH_LAYER(d, l) {
        l->mixer = &mixer_mamba2;
        l->mamba = mamba;
        l->ffn   = NULL;
        l->norms = PRE_MIX;
    }
}

static const struct name_rule names[] = {
    { W_EMBED,      "backbone.embeddings",                AS_IS },
    { W_FINAL_NORM, "backbone.norm_f",                    AS_IS },
    { W_PRE_MIX,    "backbone.layers.{l}.norm",           AS_IS },
    { W_IN,         "backbone.layers.{l}.mixer.in_proj",  AS_IS },
    { W_CONV,       "backbone.layers.{l}.mixer.conv1d",   CONV },
    { W_DT_BIAS,    "backbone.layers.{l}.mixer.dt_bias",  EXACT },
    { W_A_LOG,      "backbone.layers.{l}.mixer.A_log",    EXACT },
    { W_D,          "backbone.layers.{l}.mixer.D",        EXACT },
    { W_MIX_NORM,   "backbone.layers.{l}.mixer.norm",     AS_IS },
    { W_OUT,        "backbone.layers.{l}.mixer.out_proj", AS_IS },
    { W_END, NULL, AS_IS },
};

const struct family family_mamba2 = {
    .name        = "mamba2",
    .evidence    = "Transformers 5.17: logits, layers, greedy",
    .model_types = ALIASES("mamba2"),
    .describe    = describe,
    .names       = names,
};
