/* moe.c - a mixture of experts: a router picks a few for each row, their outputs are
 * summed by share, a shared expert may be added, gated or not. */
#include "layers/mlp.h"

struct moe {
    struct linear router;            /* [experts, dim] */
    struct tensor choice_bias;       /* [experts], added for choosing only */
    struct linear *gate, *up, *down; /* [experts] matrices each */
    struct mlp shared;
    struct linear shared_gate;       /* [1, dim] */
};

static void bind(struct binder *b, const struct decoder_spec *d, const struct layer_spec *l,
                 void *weights) {
    static const enum slot shared[] = { W_S_GATE, W_S_UP, W_S_DOWN };
    struct moe *w = weights;
    const struct moe_spec *m = &l->moe;
    bind_linear(b, &w->router, W_ROUTER, m->route.experts, d->dim, m->route.bias);
    if (m->route.choice_bias) bind_vector(b, &w->choice_bias, W_ROUTER_BIAS, m->route.experts);
    bind_experts(b, m->expert.gated ? &w->gate : NULL, &w->up, &w->down, m->route.experts,
                 m->expert.hidden, d->dim, m->expert.bias);
    for (int e = 0; e < m->route.experts; e++) w->down[e].fine = true;
    if (m->shared.hidden) mlp_bind(b, d, &m->shared, shared, &w->shared);
    if (m->shared_gate) bind_linear(b, &w->shared_gate, W_S_MIX, 1, d->dim, false);
}

/* stream: what y is added to and nothing else; NULL: more happens to it. */
static void run_experts(struct pass *p, const struct moe_spec *m, const struct moe *w,
                        struct tensor *y, const struct tensor *x, struct tensor *stream) {
    struct device *dev = p->dev;
    const struct route_spec *r = &m->route;
    size_t pairs = (size_t)p->rows.n_rows * (size_t)r->active;
    size_t width = 2 * (size_t)m->expert.hidden + (size_t)p->spec->dim;
    struct tensor logits = scratch_rows(p, F32, r->experts);
    struct tensor ids = scratch_rows(p, I32, r->active), share = scratch_rows(p, F32, r->active);
    dev->op->linear(dev, &logits, &w->router, x);
    dev->op->route(dev, &ids, &share, &logits, &(struct route_args){
        .experts = r->experts, .active = r->active, .groups = r->groups,
        .groups_active = r->groups_active, .group_top = r->group_top, .score = r->score,
        .renormalize = r->renormalize, .renormalize_eps = r->renormalize_eps, .scale = r->scale,
        .bias = w->choice_bias.at });
    dev->op->experts(dev, y, x, &(struct expert_args){
        .gate = w->gate, .up = w->up, .down = w->down, .ids = &ids, .share = &share,
        .experts = r->experts,
        .hidden = scratch_bytes(p->scratch, pairs * width * sizeof(float)),
        .order = scratch_bytes(p->scratch, (2 * pairs + (size_t)r->experts + 1) * sizeof(int)),
        .act = { m->expert.act, m->expert.alpha, m->expert.limit },
        .stream = stream, .residual = p->residual, .added = &p->added });
}

static void run(struct pass *p, const struct layer_spec *l, const void *weights,
                struct tensor *y, const struct tensor *x) {
    const struct moe *w = weights;
    const struct moe_spec *m = &l->moe;
    struct device *dev = p->dev;
    struct tensor *stream = m->shared.hidden ? NULL : p->stream;
    p->stream = NULL;                /* the shared expert is added to the others */
    run_experts(p, m, w, y, x, stream);
    if (!m->shared.hidden) return;
    struct tensor shared = scratch_rows(p, F32, p->spec->dim);
    mlp_run(p, &m->shared, &w->shared, &shared, x);
    if (m->shared_gate) {
        struct tensor g = scratch_rows(p, F32, 1);
        dev->op->linear(dev, &g, &w->shared_gate, x);
        dev->op->gate(dev, &shared, &g, &shared, &(struct gate_args){ .act = ACT_SIGMOID });
    }
    dev->op->add(dev, y, &shared, 1);
}

const struct ffn ffn_moe = {
    .name = "moe", .weights_size = sizeof(struct moe), .bind = bind, .run = run,
};
