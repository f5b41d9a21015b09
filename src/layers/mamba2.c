/* mamba2.c - the state space mixer of Mamba-2 (arXiv 2405.21060): one projection to
 * gate, convolved part and step size, a short convolution, the scan, a gated norm.
 * Its state is the tail of the convolution and one matrix a head. */
#include "layers/layers.h"

struct mamba2 {
    struct linear in;                /* [z, x, B, C, dt] rows, dim columns */
    struct tensor conv, conv_bias;   /* [channels, kernel], [channels] */
    struct tensor dt_bias, a_log, d; /* [heads] */
    struct tensor norm;              /* [inner], or [groups, inner/groups] when by group */
    struct linear out;               /* [dim, inner] */
};

static int64_t inner(const struct mamba_spec *m) {
    return (int64_t)m->heads * m->head_dim;
}

static int64_t channels(const struct mamba_spec *m) {
    return inner(m) + 2 * (int64_t)m->groups * m->state;
}

static size_t conv_bytes(const struct mamba_spec *m) {
    return (size_t)channels(m) * (size_t)(m->kernel - 1) * sizeof(float);
}

static void bind(struct binder *b, const struct decoder_spec *d, const struct layer_spec *l,
                 void *weights) {
    struct mamba2 *w = weights;
    const struct mamba_spec *m = &l->mamba;
    bind_linear(b, &w->in, W_IN, inner(m) + channels(m) + m->heads, d->dim, m->bias);
    bind_matrix(b, &w->conv, W_CONV, channels(m), m->kernel);
    if (m->conv_bias) bind_bias_of(b, &w->conv_bias, W_CONV, channels(m));
    bind_vector(b, &w->dt_bias, W_DT_BIAS, m->heads);
    bind_vector(b, &w->a_log, W_A_LOG, m->heads);
    bind_vector(b, &w->d, W_D, m->heads);
    bind_vector(b, &w->norm, W_MIX_NORM, inner(m));
    if (m->group_norm) w->norm = tensor_2d(w->norm.at, F32, m->groups, inner(m) / m->groups);
    bind_linear(b, &w->out, W_OUT, d->dim, inner(m), m->bias);
}

static struct state_need need(const struct decoder_spec *d, const struct layer_spec *l,
                              enum dtype kv) {
    (void)d;
    (void)kv;                        /* states are F32: they are summed into for ever */
    const struct mamba_spec *m = &l->mamba;
    return (struct state_need){
        .per_sequence = conv_bytes(m) + (size_t)inner(m) * (size_t)m->state * sizeof(float) };
}

/* The scan over convolved x, B and C; y [rows, inner]. */
static void scan(struct pass *p, const struct mamba_spec *m, const struct mamba2 *w,
                 struct tensor *y, const struct tensor *xbc, const struct tensor *dt) {
    struct state_view state = pass_state(p, p->layer);
    int64_t bc = (int64_t)m->groups * m->state;
    struct tensor x = tensor_part(xbc, 1, 0, inner(m)), b = tensor_part(xbc, 1, inner(m), bc);
    struct tensor c = tensor_part(xbc, 1, inner(m) + bc, bc), out = tensor_heads(y, m->heads);
    x = tensor_heads(&x, m->heads);
    b = tensor_heads(&b, m->groups);
    c = tensor_heads(&c, m->groups);
    if (state.slots) state.slots = (char *)state.slots + conv_bytes(m);
    p->dev->op->ssm(p->dev, &out, &(struct ssm_args){
        .rows = &p->rows, .state = state, .x = &x, .b = &b, .c = &c, .dt = dt,
        .dt_bias = w->dt_bias.at, .a_log = w->a_log.at, .d = w->d.at,
        .dt_min = m->dt_min, .dt_max = m->dt_max });
}

static void run(struct pass *p, const struct layer_spec *l, const void *weights,
                struct tensor *y, const struct tensor *x) {
    const struct mamba2 *w = weights;
    const struct mamba_spec *m = &l->mamba;
    struct device *dev = p->dev;
    struct state_view state = pass_state(p, p->layer);
    struct gate_args silu = { .act = ACT_SILU };

    struct tensor all = scratch_rows(p, F32, w->in.w.shape[0]);
    dev->op->linear(dev, &all, &w->in, x);
    struct tensor z = tensor_part(&all, 1, 0, inner(m));
    struct tensor raw = tensor_part(&all, 1, inner(m), channels(m));
    struct tensor dt = tensor_part(&all, 1, inner(m) + channels(m), m->heads);

    struct tensor xbc = scratch_rows(p, F32, channels(m)), mixed = scratch_rows(p, F32, inner(m));
    dev->op->conv(dev, &xbc, &w->conv, &w->conv_bias, &raw, &p->rows, &state, ACT_SILU);
    scan(p, m, w, &mixed, &xbc, &dt);

    struct tensor parts = tensor_heads(&mixed, m->group_norm ? m->groups : 1);
    if (!m->norm_before_gate) dev->op->gate(dev, &mixed, &z, &mixed, &silu);
    dev->op->norm(dev, &parts, &w->norm, NULL, &parts, NORM_RMS, m->eps);
    if (m->norm_before_gate) dev->op->gate(dev, &mixed, &z, &mixed, &silu);
    dev->op->linear(dev, y, &w->out, &mixed);
}

const struct mixer mixer_mamba2 = {
    .name = "mamba2", .weights_size = sizeof(struct mamba2),
    .bind = bind, .need = need, .run = run,
};
