/* DeepSeek-V3, R1 and Kimi K2: latent attention, experts chosen by sigmoid in groups,
 * the first layers dense. */
#include "families/family.h"

#include <math.h>

static struct mla_spec latent(struct decoder_spec *d, struct config *c) {
    struct mla_spec m = {
        .heads    = cfg_int(c, "num_attention_heads", REQUIRED),
        .q_rank   = cfg_int(c, "q_lora_rank", 0),
        .kv_rank  = cfg_int(c, "kv_lora_rank", REQUIRED),
        .nope_dim = cfg_int(c, "qk_nope_head_dim", REQUIRED),
        .rope_dim = cfg_int(c, "qk_rope_head_dim", REQUIRED),
        .v_dim    = cfg_int(c, "v_head_dim", REQUIRED),
        .bias     = cfg_bool(c, "attention_bias", false),
        .eps      = 1e-6f,             /* Transformers gives these norms no eps of the config */
    };
    bool pairs = cfg_bool(c, "rope_interleave", true);
    m.rope  = spec_rope(d, c, m.rope_dim, pairs ? ROPE_PAIRS : ROPE_HALVES);
    m.scale = 1 / sqrtf((float)m.nope_dim + (float)m.rope_dim);
    float all = cfg_num(c, "rope_parameters.mscale_all_dim|rope_scaling.mscale_all_dim", 0);
    if (m.rope.stretch != STRETCH_NONE && all != 0 && m.rope.factor > 1) {
        float stretch = 0.1f * all * logf(m.rope.factor) + 1;
        m.scale *= stretch * stretch;
    }
    return m;
}

static void describe(struct decoder_spec *d, struct config *c) {
    spec_base(d, c);
    const struct mla_spec mla = latent(d, c);
    struct moe_spec moe = spec_moe(c);
    moe.route.score           = SCORE_SIGMOID;
    moe.route.choice_bias     = true;
    moe.route.group_top       = 2;
    moe.route.groups          = cfg_int(c, "n_group", 8);
    moe.route.groups_active   = cfg_int(c, "topk_group", 4);
    moe.route.renormalize     = cfg_bool(c, "norm_topk_prob", true);
    moe.route.renormalize_eps = 1e-20f;
    moe.route.scale           = cfg_num(c, "routed_scaling_factor", 2.5f);
    int dense = cfg_int(c, "first_k_dense_replace", 3);
    for (int i = 0; i < d->n_layers; i++) {
        struct layer_spec *l = &d->layer[i];
        l->mixer = &mixer_mla;
        l->mla   = mla;
        if (i < dense) continue;
        l->ffn = &ffn_moe;
        l->moe = moe;
    }
}

const struct family family_deepseek_v3 = {
    .name        = "deepseek_v3",
    .evidence    = "Transformers 5.17: logits, layers, greedy (bf16)",
    .model_types = ALIASES("deepseek_v3", "kimi_k2"),
    .describe    = describe,
};
