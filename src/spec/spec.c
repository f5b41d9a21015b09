/* spec.c - what the usual Hugging Face keys say, and the bounds that make a spec safe
 * to allocate and index by. */
#include "base/arena.h"
#include "spec/spec.h"

#include <math.h>

enum {
    LAYERS_MAX = 1024, DIM_MAX = 1 << 20, HEADS_MAX = 4096, HEAD_DIM_MAX = 1024,
    VOCAB_MAX = 1 << 24, CONTEXT_MAX = 1 << 28, EXPERTS_MAX = 4096, STATE_MAX = 1024,
    KERNEL_MAX = 9,                  /* of a convolution: what the devices have kernels for */
    LATENT_MAX = 640                 /* of MLA: a page of it must fit a thread's stack */
};

enum act spec_act(struct config *c, const char *path, const char *otherwise) {
    static const struct { const char *name; enum act act; } known[] = {
        { "silu", ACT_SILU }, { "swish", ACT_SILU }, { "gelu", ACT_GELU },
        { "gelu_new", ACT_GELU_TANH }, { "gelu_pytorch_tanh", ACT_GELU_TANH },
        { "gelu_fast", ACT_GELU_TANH }, { "quick_gelu", ACT_QUICK_GELU }, { "relu", ACT_RELU },
        { "relu2", ACT_RELU2 },
    };
    struct str name = cfg_str(c, path, otherwise);
    for (size_t i = 0; i < COUNT(known); i++)
        if (str_is(name, known[i].name)) return known[i].act;
    cfg_fail(c, "%s: activation \"%.*s\" is not implemented", path, STR_ARG(name));
    return ACT_SILU;
}

bool spec_layer_is(struct config *c, int i, const char *word, bool otherwise) {
    if (cfg_len(c, "layer_types") < 0) return otherwise;
    return str_is(cfg_str_at(c, "layer_types", i), word);
}

/* Layer types that plain attention families have; others belong to a family that reads the
 * list itself before this would refuse. */
static void check_layer_types(const struct decoder_spec *d, struct config *c) {
    static const char *const known[] = { "full_attention", "sliding_attention",
                                         "chunked_attention", "linear_attention" };
    int n = cfg_len(c, "layer_types");
    if (n < 0) return;
    if (n != d->n_layers)
        cfg_fail(c, "layer_types: %d entries for %d layers", n, d->n_layers);
    for (int i = 0; i < n && cfg_ok(c, NULL); i++) {
        struct str type = cfg_str_at(c, "layer_types", i);
        bool found = false;
        for (size_t k = 0; k < COUNT(known); k++) found = found || str_is(type, known[k]);
        if (!found) cfg_fail(c, "layer_types[%d]: \"%.*s\" is not implemented", i, STR_ARG(type));
    }
}

static struct attn_spec usual_attention(struct decoder_spec *d, struct config *c) {
    int heads = cfg_int_in(c, "num_attention_heads|n_head", REQUIRED, 1, HEADS_MAX);
    int head_dim = cfg_int_in(c, "head_dim", d->dim / MAX(heads, 1), 1, HEAD_DIM_MAX);
    if (!cfg_has(c, "head_dim") && d->dim % MAX(heads, 1))
        cfg_fail(c, "hidden_size: %d is not a multiple of num_attention_heads %d", d->dim, heads);
    struct attn_spec a = {
        .heads = heads, .head_dim = head_dim, .v_dim = head_dim, .kv_from = -1,
        .kv_heads = cfg_int_in(c, "num_key_value_heads", heads, 1, HEADS_MAX),
        .scale = 1.0f / sqrtf((float)head_dim),
    };
    float part = cfg_num(c, "rope_parameters.partial_rotary_factor|partial_rotary_factor",
                         d->rope_share > 0 ? d->rope_share : 1);
    if (!(part > 0) || part > 1)
        cfg_fail(c, "partial_rotary_factor: must be above 0 and at most 1");
    else a.rope = spec_rope(d, c, (int)((float)head_dim * part), ROPE_HALVES);
    return a;
}

void spec_base(struct decoder_spec *d, struct config *c) {
    d->n_layers  = cfg_int_in(c, "num_hidden_layers|n_layer", REQUIRED, 1, LAYERS_MAX);
    d->dim       = cfg_int_in(c, "hidden_size|n_embd", REQUIRED, 1, DIM_MAX);
    d->vocab     = cfg_int_in(c, "vocab_size", REQUIRED, 1, VOCAB_MAX);
    d->context   = cfg_int_in(c, "max_position_embeddings|n_positions", 2048, 1, CONTEXT_MAX);
    d->eps       = cfg_num(c, "rms_norm_eps|layer_norm_epsilon|norm_epsilon", 1e-6f);
    d->tied_head = cfg_bool(c, "tie_word_embeddings", false);
    d->embed_scale = d->logit_scale = 1;
    if (!cfg_ok(c, NULL)) d->n_layers = 0;
    d->layer = arena_new(d->arena, (size_t)MAX(d->n_layers, 1) * sizeof *d->layer);

    struct layer_spec l = {
        .ffn = &ffn_mlp, .norms = PRE_MIX | PRE_FFN, .residual = 1,
        .mlp = { .gated = true, .act = spec_act(c, "hidden_act|hidden_activation", "silu") },
    };
    l.mlp.hidden = cfg_int_in(c, "intermediate_size", 4 * d->dim, 1, DIM_MAX * 8);
    if (!cfg_ok(c, NULL)) d->n_layers = 0;
    EACH_LAYER(d, each) *each = l;
}

void spec_defaults(struct decoder_spec *d, struct config *c) {
    spec_base(d, c);
    struct attn_spec attn = d->n_layers ? usual_attention(d, c) : (struct attn_spec){ 0 };
    check_layer_types(d, c);
    if (!cfg_ok(c, NULL)) d->n_layers = 0;
    int window = cfg_int(c, "sliding_window", 0);
    for (int i = 0; i < d->n_layers; i++) {
        d->layer[i].mixer = &mixer_attention;
        d->layer[i].attn = attn;
        if (spec_layer_is(c, i, "sliding_attention", false)) d->layer[i].attn.window = window;
    }
}

void spec_optional_window(struct decoder_spec *d, struct config *c) {
    bool used = cfg_bool(c, "use_sliding_window", false);
    int window = used ? cfg_int(c, "sliding_window", 4096) : 0;
    int from = cfg_int(c, "max_window_layers", 28);
    for (int i = 0; i < d->n_layers; i++)
        d->layer[i].attn.window = spec_layer_is(c, i, "sliding_attention", i >= from) ? window : 0;
}

bool spec_layer_is_sparse(struct config *c, int i) {
    int step = cfg_int_in(c, "decoder_sparse_step", 1, 1, LAYERS_MAX);
    for (int k = 0; k < cfg_len(c, "mlp_only_layers"); k++)
        if (cfg_int_at(c, "mlp_only_layers", k) == i) return false;
    return (i + 1) % step == 0;
}

struct moe_spec spec_moe(struct config *c) {
    struct moe_spec m = {
        .route = {
            .experts = cfg_int_in(c, "num_local_experts|num_experts|n_routed_experts", REQUIRED, 1,
                                  EXPERTS_MAX),
            .active = cfg_int_in(c, "num_experts_per_tok", REQUIRED, 1, EXPERTS_MAX),
            .groups = cfg_int_in(c, "n_group", 1, 1, EXPERTS_MAX),
            .groups_active = cfg_int_in(c, "topk_group", 1, 1, EXPERTS_MAX),
            .group_top = 1, .scale = cfg_num(c, "routed_scaling_factor", 1),
            .renormalize = cfg_bool(c, "norm_topk_prob", false),
        },
        .expert = { .gated = true, .act = spec_act(c, "hidden_act", "silu"),
                    .hidden = cfg_int_in(c, "moe_intermediate_size|intermediate_size", REQUIRED, 1,
                                         DIM_MAX) },
    };
    m.shared = m.expert;
    m.shared.hidden = cfg_int_in(c, "shared_expert_intermediate_size", 0, 0, DIM_MAX);
    int shared = cfg_int_in(c, "n_shared_experts|num_shared_experts", 0, 0, 64);
    if (!m.shared.hidden) m.shared.hidden = shared * m.expert.hidden;
    return m;
}

static bool between(struct config *c, int layer, const char *what, int64_t v, int64_t min,
                    int64_t max) {
    if (v >= min && v <= max) return true;
    return cfg_fail(c, "layer %d: %s is %lld, but must be %lld to %lld", layer, what, (long long)v,
                    (long long)min, (long long)max);
}

static void check_rope(const struct rope_spec *r, int room, int layer, struct config *c) {
    if (r->pairing == ROPE_NONE) return;
    between(c, layer, "rotary dimensions", r->dims, 2, room);
    if (r->dims % 2) cfg_fail(c, "layer %d: %d rotary dimensions are odd", layer, r->dims);
    if (!(r->base > 1)) cfg_fail(c, "layer %d: rope_theta must be above 1", layer);
}

static void check_attention(const struct attn_spec *a, int layer, struct config *c) {
    if (!between(c, layer, "num_attention_heads", a->heads, 1, HEADS_MAX) ||
        !between(c, layer, "num_key_value_heads", a->kv_heads, 1, a->heads) ||
        !between(c, layer, "head_dim", a->head_dim, 1, HEAD_DIM_MAX) ||
        !between(c, layer, "v_head_dim", a->v_dim, 1, HEAD_DIM_MAX)) return;
    if (a->heads % a->kv_heads)
        cfg_fail(c, "num_attention_heads: %d is not a multiple of num_key_value_heads %d", a->heads,
                 a->kv_heads);
    if (a->kv_from >= layer) cfg_fail(c, "layer %d: shares the cache of a later layer", layer);
    check_rope(&a->rope, a->head_dim, layer, c);
}

static void check_mla(const struct mla_spec *m, int layer, struct config *c) {
    between(c, layer, "num_attention_heads", m->heads, 1, HEADS_MAX);
    between(c, layer, "q_lora_rank", m->q_rank, 0, DIM_MAX);
    between(c, layer, "qk_nope_head_dim", m->nope_dim, 1, HEAD_DIM_MAX);
    if (between(c, layer, "kv_lora_rank", m->kv_rank, 1, HEAD_DIM_MAX) &&
        between(c, layer, "qk_rope_head_dim", m->rope_dim, 2, HEAD_DIM_MAX))
        between(c, layer, "kv_lora_rank + qk_rope_head_dim", m->kv_rank + m->rope_dim, 1,
                LATENT_MAX);
    between(c, layer, "v_head_dim", m->v_dim, 1, HEAD_DIM_MAX);
    if (!(m->eps > 0)) cfg_fail(c, "layer %d: the norms on the latents have no eps", layer);
    check_rope(&m->rope, m->rope_dim, layer, c);
}

static void check_mamba(const struct mamba_spec *m, int layer, struct config *c) {
    if (!between(c, layer, "num_heads", m->heads, 1, HEADS_MAX) ||
        !between(c, layer, "n_groups", m->groups, 1, m->heads)) return;
    between(c, layer, "head_dim", m->head_dim, 1, HEAD_DIM_MAX);
    between(c, layer, "state_size", m->state, 1, STATE_MAX);
    between(c, layer, "conv_kernel", m->kernel, 2, KERNEL_MAX);
    if (m->heads % m->groups)
        cfg_fail(c, "num_heads: %d is not a multiple of n_groups %d", m->heads, m->groups);
}

static void check_delta(const struct delta_spec *m, int layer, struct config *c) {
    if (!between(c, layer, "linear_num_key_heads", m->k_heads, 1, HEADS_MAX) ||
        !between(c, layer, "linear_num_value_heads", m->v_heads, 1, HEADS_MAX)) return;
    between(c, layer, "linear_key_head_dim", m->k_dim, 1, HEAD_DIM_MAX);
    between(c, layer, "linear_value_head_dim", m->v_dim, 1, HEAD_DIM_MAX);
    between(c, layer, "linear_conv_kernel_dim", m->kernel, 2, KERNEL_MAX);
    if (m->v_heads % m->k_heads)
        cfg_fail(c, "linear_num_value_heads: %d is not a multiple of linear_num_key_heads %d",
                 m->v_heads, m->k_heads);
}

static void check_moe(const struct moe_spec *m, int layer, struct config *c) {
    const struct route_spec *r = &m->route;
    if (!between(c, layer, "experts", r->experts, 1, EXPERTS_MAX) ||
        !between(c, layer, "num_experts_per_tok", r->active, 1, r->experts)) return;
    between(c, layer, "expert width", m->expert.hidden, 1, DIM_MAX);
    between(c, layer, "shared expert width", m->shared.hidden, 0, DIM_MAX);
    if (r->groups > 1 && (r->experts % r->groups || r->groups_active > r->groups ||
                          r->experts / r->groups * r->groups_active < r->active))
        cfg_fail(c, "n_group: %d experts in %d groups, %d of them chosen, do not give %d experts",
                 r->experts, r->groups, r->groups_active, r->active);
}

void spec_check(const struct decoder_spec *d, struct config *c) {
    if (!cfg_ok(c, NULL)) return;
    if (!(d->eps > 0) || d->eps > 1) cfg_fail(c, "norm eps: must be above 0 and at most 1");
    if (!isfinite(d->embed_scale) || !isfinite(d->logit_scale) || d->logit_softcap < 0)
        cfg_fail(c, "a scale of embeddings or logits is not finite");
    for (int i = 0; i < d->n_layers && cfg_ok(c, NULL); i++) {
        const struct layer_spec *l = &d->layer[i];
        if (l->mixer == &mixer_attention) check_attention(&l->attn, i, c);
        if (l->mixer == &mixer_mla) check_mla(&l->mla, i, c);
        if (l->mixer == &mixer_mamba2) check_mamba(&l->mamba, i, c);
        if (l->mixer == &mixer_delta) check_delta(&l->delta, i, c);
        if (l->ffn == &ffn_mlp) between(c, i, "intermediate_size", l->mlp.hidden, 1, DIM_MAX * 8);
        if (l->ffn == &ffn_moe) check_moe(&l->moe, i, c);
    }
}
