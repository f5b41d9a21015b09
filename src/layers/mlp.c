/* mlp.c - the feed-forward network: gated (SwiGLU and kin) or plain, with optional
 * biases and inner norm. Also the shared expert of moe.c, which is one of these. */
#include "layers/mlp.h"

void mlp_bind(struct binder *b, const struct decoder_spec *d, const struct mlp_spec *m,
              const enum slot slot[3], struct mlp *w) {
    struct linear *part[] = { &w->gate, &w->up };
    if (m->gated)
        bind_parts(b, part, slot[0] == W_GATE ? W_GATE_UP : W_END, slot,
                   (int64_t[]){ m->hidden, m->hidden }, 2, d->dim, m->bias ? 3 : 0);
    else
        bind_linear(b, &w->up, slot[1], m->hidden, d->dim, m->bias);
    bind_linear(b, &w->down, slot[2], d->dim, m->hidden, m->bias);
    w->down.fine = true;             /* a few products are far larger than the others */
    if (m->inner_norm) bind_vector(b, &w->norm, W_MLP_NORM, m->hidden);
}

void mlp_run(struct pass *p, const struct mlp_spec *m, const struct mlp *w, struct tensor *y,
             const struct tensor *x) {
    struct device *dev = p->dev;
    struct gate_args act = { .act = m->act, .alpha = m->alpha, .limit = m->limit };
    struct tensor up = scratch_rows(p, F32, m->hidden), gate = up;
    const struct products both = { .x = x, .w = { &w->gate, &w->up }, .y = { &up }, .n = 2,
                                   .then = m->inner_norm ? NULL : &w->down,
                                   .end = PRODUCTS_GATE, .act = act };
    if (!m->gated || !dev->op->products || !dev->op->products(dev, &both)) {
        dev->op->linear(dev, &up, &w->up, x);
        if (m->gated) {
            gate = scratch_rows(p, F32, m->hidden);
            dev->op->linear(dev, &gate, &w->gate, x);
        }
        dev->op->gate(dev, &up, &gate, m->gated ? &up : NULL, &act);
    }
    if (m->inner_norm) dev->op->norm(dev, &up, &w->norm, NULL, &up, NORM_RMS, p->spec->eps);
    out_run(p, y, &w->down, &up);
}

static void bind(struct binder *b, const struct decoder_spec *d, const struct layer_spec *l,
                 void *weights) {
    static const enum slot slot[] = { W_GATE, W_UP, W_DOWN };
    mlp_bind(b, d, &l->mlp, slot, weights);
}

static void run(struct pass *p, const struct layer_spec *l, const void *weights,
                struct tensor *y, const struct tensor *x) {
    mlp_run(p, &l->mlp, weights, y, x);
}

const struct ffn ffn_mlp = {
    .name = "mlp", .weights_size = sizeof(struct mlp), .bind = bind, .run = run,
};
