/* names.c - the tensor names that most families share, and the names of the slots.
 *
 * A family's own rules come before these. Where several spellings serve a slot, the
 * rarer one stands first and the plain Hugging Face one last: a checkpoint that has
 * both (pre_feedforward_layernorm beside post_attention_layernorm) means the rarer. */
#include "weights/names.h"

#define L "model.layers.{l}."

const struct name_rule names_hf[] = {
    { W_EMBED,       "model.embed_tokens",                    AS_IS },
    { W_HEAD,        "lm_head",                               AS_IS },
    { W_FINAL_NORM,  "model.norm",                            AS_IS },

    { W_PRE_MIX,     L "input_layernorm",                     AS_IS },
    { W_POST_MIX,    L "post_self_attn_layernorm",            AS_IS },
    { W_POST_MIX,    L "post_attention_layernorm",            AS_IS },
    { W_PRE_FFN,     L "pre_feedforward_layernorm",           AS_IS },
    { W_PRE_FFN,     L "post_attention_layernorm",            AS_IS },
    { W_POST_FFN,    L "post_mlp_layernorm",                  AS_IS },
    { W_POST_FFN,    L "post_feedforward_layernorm",          AS_IS },

    { W_Q,           L "self_attn.q_proj",                    AS_IS },
    { W_K,           L "self_attn.k_proj",                    AS_IS },
    { W_V,           L "self_attn.v_proj",                    AS_IS },
    { W_QKV,         L "self_attn.qkv_proj",                  AS_IS },
    { W_O,           L "self_attn.o_proj",                    AS_IS },
    { W_Q_NORM,      L "self_attn.q_norm",                    AS_IS },
    { W_K_NORM,      L "self_attn.k_norm",                    AS_IS },
    { W_SINKS,       L "self_attn.sinks",                     EXACT },
    { W_OUT_GATE,    L "self_attn.gate_proj",                 AS_IS },

    /* latent attention; a converted file has kv_b cut in two */
    { W_Q_A,         L "self_attn.q_a_proj",                  AS_IS },
    { W_Q_A_NORM,    L "self_attn.q_a_layernorm",             AS_IS },
    { W_Q_B,         L "self_attn.q_b_proj",                  AS_IS },
    { W_KV_A,        L "self_attn.kv_a_proj_with_mqa",        AS_IS },
    { W_KV_A_NORM,   L "self_attn.kv_a_layernorm",            AS_IS },
    { W_KV_B,        L "self_attn.kv_b_proj",                 AS_IS },
    { W_K_UP,        L "self_attn.embed_q",                   AS_IS },
    { W_V_UP,        L "self_attn.unembed_out",               AS_IS },

    /* gated delta rule */
    { W_IN,          L "linear_attn.in_proj_qkvz",            AS_IS },
    { W_BA,          L "linear_attn.in_proj_ba",              AS_IS },
    { W_OUT,         L "linear_attn.out_proj",                AS_IS },
    { W_CONV,        L "linear_attn.conv1d",                  CONV },
    { W_DT_BIAS,     L "linear_attn.dt_bias",                 EXACT },
    { W_A_LOG,       L "linear_attn.A_log",                   EXACT },
    { W_MIX_NORM,    L "linear_attn.norm",                    AS_IS },

    { W_GATE,        L "mlp.gate_proj",                       AS_IS },
    { W_UP,          L "mlp.up_proj",                         AS_IS },
    { W_DOWN,        L "mlp.down_proj",                       AS_IS },
    { W_GATE_UP,     L "mlp.gate_up_proj",                    AS_IS },

    { W_ROUTER,      L "mlp.router",                          AS_IS },
    { W_ROUTER,      L "block_sparse_moe.gate",               AS_IS },
    { W_ROUTER,      L "mlp.gate",                            AS_IS },
    { W_ROUTER_BIAS, L "block_sparse_moe.e_score_correction_bias", EXACT },
    { W_ROUTER_BIAS, L "mlp.gate.e_score_correction_bias",    EXACT },

    /* experts: stacked by MLX, one by one with Mixtral's names, one by one */
    { W_X_GATE,      L "mlp.switch_mlp.gate_proj",            AS_IS },
    { W_X_GATE,      L "block_sparse_moe.switch_mlp.gate_proj", AS_IS },
    { W_X_GATE,      L "block_sparse_moe.experts.{e}.w1",     AS_IS },
    { W_X_GATE,      L "mlp.experts.{e}.gate_proj",           AS_IS },
    { W_X_UP,        L "mlp.switch_mlp.up_proj",              AS_IS },
    { W_X_UP,        L "block_sparse_moe.switch_mlp.up_proj", AS_IS },
    { W_X_UP,        L "block_sparse_moe.experts.{e}.w3",     AS_IS },
    { W_X_UP,        L "mlp.experts.{e}.up_proj",             AS_IS },
    { W_X_DOWN,      L "mlp.switch_mlp.down_proj",            AS_IS },
    { W_X_DOWN,      L "block_sparse_moe.switch_mlp.down_proj", AS_IS },
    { W_X_DOWN,      L "block_sparse_moe.experts.{e}.w2",     AS_IS },
    { W_X_DOWN,      L "mlp.experts.down_proj",               EXACT },
    { W_X_DOWN,      L "mlp.experts.{e}.down_proj",           AS_IS },
    { W_X_GATE_UP,   L "mlp.experts.gate_up_proj",            EXACT },

    { W_S_GATE,      L "mlp.shared_expert.gate_proj",         AS_IS },
    { W_S_GATE,      L "mlp.shared_experts.gate_proj",        AS_IS },
    { W_S_UP,        L "mlp.shared_expert.up_proj",           AS_IS },
    { W_S_UP,        L "mlp.shared_experts.up_proj",          AS_IS },
    { W_S_DOWN,      L "mlp.shared_expert.down_proj",         AS_IS },
    { W_S_DOWN,      L "mlp.shared_experts.down_proj",        AS_IS },
    { W_S_MIX,       L "mlp.shared_expert_gate",              AS_IS },

    /* A tied head may still be in the file. Of a model with towers the decoder alone is run. */
    { W_DROP,        "lm_head.*",                             EXACT },
    { W_DROP,        "rotary_emb.inv_freq",                   EXACT },
    { W_DROP,        "model.rotary_emb.inv_freq",             EXACT },
    { W_DROP,        L "self_attn.rotary_emb.inv_freq",       EXACT },
    { W_DROP,        L "self_attn.k_scale",                   EXACT },   /* of a KV cache in FP8 */
    { W_DROP,        L "self_attn.v_scale",                   EXACT },
    { W_DROP,        "model.layers.{past}.*",                 EXACT },
    { W_DROP,        "mtp.*",                                 EXACT },
    { W_DROP,        "model.mtp.*",                           EXACT },
    { W_DROP,        "visual.*",                              EXACT },
    { W_DROP,        "model.visual.*",                        EXACT },
    { W_DROP,        "vision_tower.*",                        EXACT },
    { W_DROP,        "model.vision_tower.*",                  EXACT },
    { W_DROP,        "vision_model.*",                        EXACT },
    { W_DROP,        "multi_modal_projector.*",               EXACT },
    { W_DROP,        "model.multi_modal_projector.*",         EXACT },
    { W_DROP,        "audio_tower.*",                         EXACT },
    { W_END, NULL, AS_IS },
};

const char *slot_name(enum slot slot) {
    static const char *const names[] = {
        [W_END] = "none", [W_EMBED] = "embed", [W_EMBED_NORM] = "embed_norm",
        [W_POSITIONS] = "positions", [W_HEAD] = "head", [W_FINAL_NORM] = "final_norm",
        [W_PRE_MIX] = "pre_mix", [W_POST_MIX] = "post_mix", [W_PRE_FFN] = "pre_ffn",
        [W_POST_FFN] = "post_ffn", [W_Q] = "q", [W_K] = "k", [W_V] = "v", [W_QKV] = "qkv",
        [W_O] = "o", [W_Q_NORM] = "q_norm", [W_K_NORM] = "k_norm", [W_SINKS] = "sinks",
        [W_OUT_GATE] = "out_gate", [W_OUT_NORM] = "out_norm", [W_Q_A] = "q_a",
        [W_Q_A_NORM] = "q_a_norm", [W_Q_B] = "q_b", [W_KV_A] = "kv_a",
        [W_KV_A_NORM] = "kv_a_norm", [W_KV_B] = "kv_b", [W_K_UP] = "k_up", [W_V_UP] = "v_up",
        [W_IN] = "in", [W_BA] = "ba", [W_OUT] = "out", [W_CONV] = "conv",
        [W_DT_BIAS] = "dt_bias", [W_A_LOG] = "a_log", [W_D] = "d", [W_MIX_NORM] = "mix_norm",
        [W_GATE] = "gate", [W_UP] = "up", [W_DOWN] = "down", [W_GATE_UP] = "gate_up",
        [W_MLP_NORM] = "mlp_norm", [W_ROUTER] = "router", [W_ROUTER_BIAS] = "router_bias",
        [W_X_GATE] = "experts_gate", [W_X_UP] = "experts_up", [W_X_DOWN] = "experts_down",
        [W_X_GATE_UP] = "experts_gate_up", [W_S_GATE] = "shared_gate", [W_S_UP] = "shared_up",
        [W_S_DOWN] = "shared_down", [W_S_MIX] = "shared_mix", [W_DROP] = "drop",
    };
    const char *name = (size_t)slot < COUNT(names) ? names[slot] : NULL;
    return name ? name : "unknown";
}
