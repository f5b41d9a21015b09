/* delta.c - the gated delta net (arXiv 2412.06464) as Qwen3-Next wires it: q, k, v and
 * the gate z come from one projection grouped by key head, q, k and v pass a short
 * convolution, the output is normed per head and gated by silu(z). */
#include "layers/layers.h"

struct delta {
    struct linear in;                /* [k_heads * (q, k, v's, z's), dim] */
    struct linear ba;                /* [k_heads * (b's, a's), dim] */
    struct tensor conv;              /* [channels, kernel]: all q, all k, all v */
    struct tensor dt_bias, a_log;    /* [v_heads] */
    struct tensor norm;              /* [v_dim] */
    struct linear out;               /* [dim, v_heads*v_dim] */
};

static int64_t channels(const struct delta_spec *m) {
    return 2 * (int64_t)m->k_heads * m->k_dim + (int64_t)m->v_heads * m->v_dim;
}

static size_t conv_bytes(const struct delta_spec *m) {
    return (size_t)channels(m) * (size_t)(m->kernel - 1) * sizeof(float);
}

static void bind(struct binder *b, const struct decoder_spec *d, const struct layer_spec *l,
                 void *weights) {
    struct delta *w = weights;
    const struct delta_spec *m = &l->delta;
    int64_t v = (int64_t)m->v_heads * m->v_dim;
    bind_linear(b, &w->in, W_IN, channels(m) + v, d->dim, false);
    bind_linear(b, &w->ba, W_BA, 2 * m->v_heads, d->dim, false);
    bind_matrix(b, &w->conv, W_CONV, channels(m), m->kernel);
    bind_vector(b, &w->dt_bias, W_DT_BIAS, m->v_heads);
    bind_vector(b, &w->a_log, W_A_LOG, m->v_heads);
    bind_vector(b, &w->norm, W_MIX_NORM, m->v_dim);
    bind_linear(b, &w->out, W_OUT, d->dim, v, false);
}

static struct state_need need(const struct decoder_spec *d, const struct layer_spec *l,
                              enum dtype kv) {
    (void)d;
    (void)kv;
    const struct delta_spec *m = &l->delta;
    size_t matrix = (size_t)m->v_heads * (size_t)m->k_dim * (size_t)m->v_dim * sizeof(float);
    return (struct state_need){ .per_sequence = conv_bytes(m) + matrix };
}

/* Columns [begin, begin + n) of each key head, laid side by side in `to`. */
static void gather(struct pass *p, const struct tensor *from, int64_t begin, int64_t n,
                   struct tensor *to) {
    struct tensor part = tensor_part(from, 2, begin, n), out = tensor_heads(to, from->shape[1]);
    p->dev->op->copy(p->dev, &out, &part);
}

static void run(struct pass *p, const struct layer_spec *l, const void *weights,
                struct tensor *y, const struct tensor *x) {
    const struct delta *w = weights;
    const struct delta_spec *m = &l->delta;
    struct device *dev = p->dev;
    struct state_view state = pass_state(p, p->layer);
    int64_t each = m->v_heads / m->k_heads, q_all = (int64_t)m->k_heads * m->k_dim;
    int64_t v_each = each * m->v_dim, v_all = (int64_t)m->v_heads * m->v_dim;

    struct tensor in = scratch_rows(p, F32, w->in.w.shape[0]);
    struct tensor ba = scratch_rows(p, F32, w->ba.w.shape[0]);
    dev->op->linear(dev, &in, &w->in, x);
    dev->op->linear(dev, &ba, &w->ba, x);
    in = tensor_heads(&in, m->k_heads);
    ba = tensor_heads(&ba, m->k_heads);

    struct tensor raw = scratch_rows(p, F32, channels(m)), qkv = scratch_rows(p, F32, channels(m));
    struct tensor q = tensor_part(&raw, 1, 0, q_all), k = tensor_part(&raw, 1, q_all, q_all);
    struct tensor v = tensor_part(&raw, 1, 2 * q_all, v_all), z = scratch_rows(p, F32, v_all);
    struct tensor a = scratch_rows(p, F32, m->v_heads), b = scratch_rows(p, F32, m->v_heads);
    gather(p, &in, 0, m->k_dim, &q);
    gather(p, &in, m->k_dim, m->k_dim, &k);
    gather(p, &in, 2 * m->k_dim, v_each, &v);
    gather(p, &in, 2 * m->k_dim + v_each, v_each, &z);
    gather(p, &ba, 0, each, &b);
    gather(p, &ba, each, each, &a);

    dev->op->conv(dev, &qkv, &w->conv, NULL, &raw, &p->rows, &state, ACT_SILU);
    q = tensor_part(&qkv, 1, 0, q_all);
    k = tensor_part(&qkv, 1, q_all, q_all);
    v = tensor_part(&qkv, 1, 2 * q_all, v_all);
    q = tensor_heads(&q, m->k_heads);
    k = tensor_heads(&k, m->k_heads);
    v = tensor_heads(&v, m->v_heads);
    if (state.slots) state.slots = (char *)state.slots + conv_bytes(m);

    struct tensor flat = scratch_rows(p, F32, v_all), mixed = tensor_heads(&flat, m->v_heads);
    dev->op->delta(dev, &mixed, &(struct delta_args){
        .rows = &p->rows, .state = state, .q = &q, .k = &k, .v = &v, .a = &a, .b = &b,
        .dt_bias = w->dt_bias.at, .a_log = w->a_log.at });
    dev->op->norm(dev, &mixed, &w->norm, NULL, &mixed, NORM_RMS, p->spec->eps);
    dev->op->gate(dev, &flat, &z, &flat, &(struct gate_args){ .act = ACT_SILU });
    dev->op->linear(dev, y, &w->out, &flat);
}

const struct mixer mixer_delta = {
    .name = "delta", .weights_size = sizeof(struct delta), .bind = bind, .need = need, .run = run,
};
