/* block.c - the residual wiring of a decoder block: pre, post and sandwich norms,
 * parallel halves, one-part blocks. Also the norms and the scratch that all parts use. */
#include "layers/layers.h"

#include <assert.h>

enum { AT_PRE_MIX, AT_POST_MIX, AT_PRE_FFN, AT_POST_FFN };

void *scratch_bytes(struct scratch *s, size_t bytes) {
    char *p = s->at ? s->at + s->used_bytes : NULL;
    s->used_bytes += (bytes + 63) / 64 * 64;
    assert(!s->at || s->used_bytes <= s->cap_bytes);
    if (s->used_bytes > s->peak_bytes) s->peak_bytes = s->used_bytes;
    return p;
}

struct tensor scratch_rows(struct pass *p, enum dtype dtype, int64_t cols) {
    size_t bytes = (size_t)p->rows.n_rows * (size_t)cols * dtype_bytes(dtype);
    return tensor_2d(scratch_bytes(p->scratch, bytes), dtype, p->rows.n_rows, cols);
}

struct kv_view pass_kv(const struct pass *p, int layer) {
    return p->cache ? cache_kv(p->cache, layer) : (struct kv_view){ 0 };
}

struct state_view pass_state(const struct pass *p, int layer) {
    return p->cache ? cache_state(p->cache, layer) : (struct state_view){ 0 };
}

void norm_bind(struct binder *b, const struct decoder_spec *d, struct norm_weights *w,
               enum slot slot) {
    if (d->norm_bare) return;
    bind_vector(b, &w->w, slot, d->dim);
    if (d->norm_bias) bind_bias_of(b, &w->b, slot, d->dim);
}

void norm_run(struct pass *p, const struct norm_weights *w, struct tensor *y,
              const struct tensor *x) {
    p->dev->op->norm(p->dev, y, &w->w, &w->b, x, p->spec->norm, p->spec->eps);
}

void block_bind(struct binder *b, const struct decoder_spec *d, const struct layer_spec *l,
                struct block_weights *w) {
    static const enum slot slot[] = { W_PRE_MIX, W_POST_MIX, W_PRE_FFN, W_POST_FFN };
    for (int i = 0; i < 4; i++)
        if (l->norms & 1u << i) norm_bind(b, d, &w->norm[i], slot[i]);
    if (l->mixer) {
        w->mixer = bind_new(b, l->mixer->weights_size);
        l->mixer->bind(b, d, l, w->mixer);
    }
    if (l->ffn) {
        w->ffn = bind_new(b, l->ffn->weights_size);
        l->ffn->bind(b, d, l, w->ffn);
    }
}

/* The norm at this place into scratch, or x itself where the block has none there. */
static struct tensor normed(struct pass *p, const struct layer_spec *l,
                            const struct block_weights *w, int at, const struct tensor *x) {
    if (!(l->norms & 1u << at)) return *x;
    struct tensor y = scratch_rows(p, F32, p->spec->dim);
    norm_run(p, &w->norm[at], &y, x);
    return y;
}

void out_run(struct pass *p, struct tensor *y, const struct linear *w, const struct tensor *x) {
    const struct device_ops *op = p->dev->op;
    const struct products args = { .x = x, .w = { w }, .y = { p->stream }, .n = 1,
                                   .end = PRODUCTS_ADD, .scale = p->residual };
    p->added = p->stream && op->products && op->products(p->dev, &args);
    if (!p->added) op->linear(p->dev, y, w, x);
}

/* at: the norm that stands after the part. */
static void begin_part(struct pass *p, const struct layer_spec *l, int at, struct tensor *x) {
    p->stream = l->norms & 1u << at ? NULL : x;
    p->residual = l->residual;
    p->added = false;
}

static void end_part(struct pass *p, const struct layer_spec *l, const struct block_weights *w,
                     int at, struct tensor *x, const struct tensor *y) {
    if (p->added) return;
    struct tensor out = normed(p, l, w, at, y);
    p->dev->op->add(p->dev, x, &out, l->residual);
}

void block_run(struct pass *p, const struct layer_spec *l, const struct block_weights *w,
               struct tensor *x) {
    struct tensor y = scratch_rows(p, F32, p->spec->dim);
    struct tensor in = normed(p, l, w, AT_PRE_MIX, x), to_ffn = in;
    if (l->parallel && l->norms & PRE_FFN) to_ffn = normed(p, l, w, AT_PRE_FFN, x);

    if (l->mixer) {
        size_t mark = p->scratch->used_bytes;
        begin_part(p, l, AT_POST_MIX, x);
        l->mixer->run(p, l, w->mixer, &y, &in);
        p->scratch->used_bytes = mark;
        end_part(p, l, w, AT_POST_MIX, x, &y);
    }
    if (l->ffn) {
        if (l->mixer && !l->parallel) to_ffn = normed(p, l, w, AT_PRE_FFN, x);
        begin_part(p, l, AT_POST_FFN, x);
        l->ffn->run(p, l, w->ffn, &y, &to_ffn);
        end_part(p, l, w, AT_POST_FFN, x, &y);
    }
}
