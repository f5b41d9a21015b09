/* spec.h - what a decoder is, as plain data.
 *
 * A family fills this from config.json. Weights, caches and kernels are built
 * from it; nothing in it points at a weight or a device. Zero means "the
 * usual": no window, no cap, no bias. spec_check bounds every number, so the
 * layers may trust them. */
#pragma once
#include "device/device.h"
#include "spec/config.h"

enum stretch  { STRETCH_NONE, STRETCH_LINEAR, STRETCH_DYNAMIC, STRETCH_LLAMA3,
                STRETCH_YARN, STRETCH_LONG };
enum norms_at { PRE_MIX = 1, POST_MIX = 2, PRE_FFN = 4, POST_FFN = 8 };
enum bias     { BIAS_Q = 1, BIAS_K = 2, BIAS_V = 4, BIAS_O = 8,
                BIAS_QKV = BIAS_Q | BIAS_K | BIAS_V };
enum qk_norm  { QK_NORM_NONE, QK_NORM_HEAD, QK_NORM_FULL, QK_NORM_BARE, QK_NORM_HEAD_LAYER,
                QK_NORM_EACH_HEAD };   /* [head_dim]; [heads*head_dim]; no weight; LayerNorm;
                                          [heads, head_dim] */
enum out_gate { OUT_GATE_NONE, OUT_GATE_IN_Q, OUT_GATE_OWN, OUT_GATE_HEAD_SIGMOID,
                OUT_GATE_HEAD_SOFTPLUS };

struct rope_spec {
    enum rope pairing;
    enum stretch stretch;
    int dims, original_context;
    float base, factor, low, high;           /* low and high: YaRN's betas, Llama 3's factors */
    float magnitude;                         /* of cos and sin; 1 for almost everyone */
    bool truncate, reverse;                  /* YaRN rounds its range; turns the other way */
    const float *short_factor, *long_factor; /* [dims/2] each; STRETCH_LONG */
};

/* one struct per mixer kind */
struct attn_spec {
    int heads, kv_heads, head_dim, v_dim, window, chunk;
    int kv_from;                             /* reuse an earlier layer's cache; -1: own */
    unsigned bias;                           /* enum bias */
    float scale, softcap, v_scale, clip;     /* scale 0: 1/sqrt(head_dim); v_scale 0: 1 */
    enum qk_norm qk_norm;
    enum out_gate out_gate;
    bool qk_norm_after_rope, v_norm, k_is_v, sinks, out_norm, kv_tiled;
    float temperature, temperature_original; /* beta; 0: none */
    int temperature_shift;
    struct rope_spec rope;
};
/* eps: of the norms on the latents, which need not be the model's */
struct mla_spec   { int heads, q_rank, kv_rank, nope_dim, rope_dim, v_dim; bool bias; float scale;
                    float q_scale, kv_scale, eps; struct rope_spec rope; };
struct mamba_spec { int heads, head_dim, groups, state, kernel; float dt_min, dt_max;
                    bool conv_bias, bias, group_norm, norm_before_gate; float eps; };
struct delta_spec { int k_heads, v_heads, k_dim, v_dim, kernel; };

/* one struct per ffn kind */
struct mlp_spec   { int hidden; enum act act; bool gated, bias, inner_norm; float alpha, limit; };
struct route_spec { int experts, active, groups, groups_active, group_top; enum score score;
                    bool renormalize, choice_bias, bias; float renormalize_eps, scale; };
struct moe_spec   { struct route_spec route; struct mlp_spec expert, shared; bool shared_gate; };

struct mixer; struct ffn; struct pass; struct block_weights;

/* The parts to choose from, each a file in layers/. Here they are only names. */
extern const struct mixer mixer_attention, mixer_mla, mixer_mamba2, mixer_delta;
extern const struct ffn   ffn_mlp, ffn_moe;

struct layer_spec {
    const struct mixer *mixer;               /* NULL: this block does not mix */
    const struct ffn *ffn;                   /* NULL: this block has no ffn */
    union { struct attn_spec attn; struct mla_spec mla; struct mamba_spec mamba;
            struct delta_spec delta; };
    union { struct mlp_spec mlp; struct moe_spec moe; };
    unsigned norms;                          /* enum norms_at */
    bool parallel;                           /* mixer and ffn both read the block's input */
    float residual;                          /* 1 for almost everyone */
    void (*block)(struct pass *, const struct layer_spec *, const struct block_weights *,
                  struct tensor *x);         /* NULL: block_run; a family may bring its own */
};

struct decoder_spec {
    int n_layers, dim, vocab, context;
    enum norm norm;
    bool norm_bias, norm_bare;               /* LayerNorm with bias; norms without weights */
    float eps, embed_scale, logit_scale, logit_softcap;
    float rope_share;                        /* of a head, when the config is silent; 0: all */
    bool tied_head, head_bias, embed_norm;
    int positions;                           /* rows of a learned position table; 0: none */
    int restart_at;                          /* beyond this many tokens the rope factors of the
                                                whole sequence change (STRETCH_LONG); 0: never */
    struct layer_spec *layer;                /* [n_layers], in the arena */
    struct arena *arena;                     /* of the model; for lists that a spec points at */
};

/* Everything the usual Hugging Face keys say: attention and gated MLP with an
 * RMS norm before each, rope_parameters or rope_scaling, layer_types with
 * sliding_window, tie_word_embeddings. Allocates d->layer. */
void spec_defaults(struct decoder_spec *, struct config *);
/* Only what is not attention or ffn: sizes, eps, tying, and layers with a gated MLP, an RMS norm
 * before each half and no mixer yet. */
void spec_base(struct decoder_spec *, struct config *);
/* A rope of `dims` turning dimensions. c: the object with rope_theta and the rest. */
struct rope_spec spec_rope(struct decoder_spec *, struct config *c, int dims, enum rope pairing);
struct moe_spec  spec_moe(struct config *);
enum act         spec_act(struct config *, const char *path, const char *otherwise);
/* Whether layer_types[i] is `word`; `otherwise` when there is no list. */
bool spec_layer_is(struct config *, int i, const char *word, bool otherwise);

/* Qwen's rule: sliding_window counts only with use_sliding_window, and without layer_types from
 * max_window_layers on. */
void spec_optional_window(struct decoder_spec *, struct config *);
/* Qwen's rule for experts: decoder_sparse_step and mlp_only_layers. */
bool spec_layer_is_sparse(struct config *, int i);

/* Bounds everything that a division, an allocation or an index depends on. The
 * sentence goes into the config's error. */
void spec_check(const struct decoder_spec *, struct config *);

/* spec/rope.c: radians per position, [dims/2], of the short (0) or long (1) variant. */
void rope_frequencies(const struct rope_spec *, int variant, float *out);

#define EACH_LAYER(d, l) \
    for (struct layer_spec *l = (d)->layer; l < (d)->layer + (d)->n_layers; l++)
