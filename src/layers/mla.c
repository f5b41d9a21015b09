/* mla.c - multi-head latent attention (DeepSeek-V2, arXiv 2405.04434), absorbed: the
 * cache holds one latent and one rope key a token, shared by all heads, and queries
 * are taken into the latent space. To the attention op that is one kv head whose
 * value is the first kv_rank numbers of its key. */
#include "layers/layers.h"

struct mla {
    struct linear q;                 /* [heads*(nope+rope), dim], without q_rank */
    struct linear q_a, q_b;          /* [q_rank, dim], [heads*(nope+rope), q_rank] */
    struct tensor q_norm, kv_norm;   /* [q_rank], [kv_rank] */
    struct linear kv_a;              /* [kv_rank + rope, dim] */
    struct linear k_up, v_up;        /* [heads, kv_rank, nope], [heads, v_dim, kv_rank] */
    struct linear o;                 /* [dim, heads*v_dim] */
    float *freq;                     /* [rope/2] */
};

static void bind(struct binder *b, const struct decoder_spec *d, const struct layer_spec *l,
                 void *weights) {
    struct mla *w = weights;
    const struct mla_spec *a = &l->mla;
    int64_t q = (int64_t)a->heads * (a->nope_dim + a->rope_dim);
    if (a->q_rank) {
        bind_linear(b, &w->q_a, W_Q_A, a->q_rank, d->dim, a->bias);
        bind_vector(b, &w->q_norm, W_Q_A_NORM, a->q_rank);
        bind_linear(b, &w->q_b, W_Q_B, q, a->q_rank, false);
    } else {
        bind_linear(b, &w->q, W_Q, q, d->dim, false);
    }
    bind_linear(b, &w->kv_a, W_KV_A, a->kv_rank + a->rope_dim, d->dim, a->bias);
    bind_vector(b, &w->kv_norm, W_KV_A_NORM, a->kv_rank);
    bind_heads(b, &w->k_up, W_K_UP, a->heads, a->kv_rank, a->nope_dim);
    bind_heads(b, &w->v_up, W_V_UP, a->heads, a->v_dim, a->kv_rank);
    bind_linear(b, &w->o, W_O, d->dim, (int64_t)a->heads * a->v_dim, a->bias);
    if (a->rope.pairing != ROPE_NONE) {
        w->freq = bind_new(b, (size_t)a->rope_dim / 2 * sizeof(float));
        rope_frequencies(&a->rope, 0, w->freq);
    }
}

static struct state_need need(const struct decoder_spec *d, const struct layer_spec *l,
                              enum dtype kv) {
    (void)d;
    /* All heads read one latent, which is small: 8 bits would save little and cost all of them. */
    if (dtype_scaled(kv)) kv = BF16;
    return (struct state_need){
        .per_token = (size_t)(l->mla.kv_rank + l->mla.rope_dim) * dtype_bytes(kv), .dtype = kv };
}

static void turn(struct pass *p, const struct mla_spec *a, const float *freq, struct tensor *x) {
    if (!freq) return;
    p->dev->op->rope(p->dev, x, &(struct rope_args){
        .rows = &p->rows, .freq = freq, .pairing = a->rope.pairing,
        .magnitude = a->rope.magnitude });
}

static struct tensor queries(struct pass *p, const struct mla_spec *a, const struct mla *w,
                             const struct tensor *x) {
    struct device *dev = p->dev;
    struct tensor q = scratch_rows(p, F32, (int64_t)a->heads * (a->nope_dim + a->rope_dim));
    if (!a->q_rank) {
        dev->op->linear(dev, &q, &w->q, x);
        return tensor_heads(&q, a->heads);
    }
    struct tensor latent = scratch_rows(p, F32, a->q_rank);
    dev->op->linear(dev, &latent, &w->q_a, x);
    dev->op->norm(dev, &latent, &w->q_norm, NULL, &latent, NORM_RMS, a->eps);
    if (a->q_scale != 0) dev->op->scale(dev, &latent, a->q_scale, 0, 0);
    dev->op->linear(dev, &q, &w->q_b, &latent);
    return tensor_heads(&q, a->heads);
}

/* [rows, 1, kv_rank + rope]: what the cache keeps of each token. */
static struct tensor latents(struct pass *p, const struct mla_spec *a, const struct mla *w,
                             const struct tensor *x) {
    struct device *dev = p->dev;
    struct tensor kv = scratch_rows(p, F32, a->kv_rank + a->rope_dim);
    dev->op->linear(dev, &kv, &w->kv_a, x);
    struct tensor latent = tensor_part(&kv, 1, 0, a->kv_rank);
    dev->op->norm(dev, &latent, &w->kv_norm, NULL, &latent, NORM_RMS, a->eps);
    if (a->kv_scale != 0) dev->op->scale(dev, &latent, a->kv_scale, 0, 0);
    struct tensor row = tensor_heads(&kv, 1), key = tensor_part(&row, 2, a->kv_rank, a->rope_dim);
    turn(p, a, w->freq, &key);
    return row;
}

static void run(struct pass *p, const struct layer_spec *l, const void *weights,
                struct tensor *y, const struct tensor *x) {
    const struct mla *w = weights;
    const struct mla_spec *a = &l->mla;
    struct device *dev = p->dev;
    struct attend args = {
        .rows = &p->rows, .kv = pass_kv(p, p->layer), .heads = a->heads, .kv_heads = 1,
        .k_dim = a->kv_rank + a->rope_dim, .v_dim = a->kv_rank, .v_in_k = true, .scale = a->scale,
    };
    struct tensor q = queries(p, a, w, x), kv = latents(p, a, w, x);
    dev->op->kv_store(dev, &args, &kv, NULL);

    struct tensor flat = scratch_rows(p, F32, (int64_t)a->heads * args.k_dim);
    struct tensor absorbed = tensor_heads(&flat, a->heads);
    struct tensor q_nope = tensor_part(&q, 2, 0, a->nope_dim);
    struct tensor q_rope = tensor_part(&q, 2, a->nope_dim, a->rope_dim);
    struct tensor to_nope = tensor_part(&absorbed, 2, 0, a->kv_rank);
    struct tensor to_rope = tensor_part(&absorbed, 2, a->kv_rank, a->rope_dim);
    dev->op->linear(dev, &to_nope, &w->k_up, &q_nope);
    turn(p, a, w->freq, &q_rope);
    dev->op->copy(dev, &to_rope, &q_rope);

    struct tensor latent = scratch_rows(p, F32, (int64_t)a->heads * a->kv_rank);
    struct tensor mixed = scratch_rows(p, F32, (int64_t)a->heads * a->v_dim);
    struct tensor latent_heads = tensor_heads(&latent, a->heads);
    struct tensor mixed_heads = tensor_heads(&mixed, a->heads);
    dev->op->attention(dev, &latent_heads, &absorbed, &args);
    dev->op->linear(dev, &mixed_heads, &w->v_up, &latent_heads);
    out_run(p, y, &w->o, &mixed);
}

const struct mixer mixer_mla = {
    .name = "mla", .weights_size = sizeof(struct mla), .bind = bind, .need = need, .run = run,
};
