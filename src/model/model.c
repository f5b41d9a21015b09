/* model.c - a loaded model, and the pass of a batch through it: embedding, blocks, norm,
 * head. What a block does is in layers/; which blocks there are is in the spec. */
#include "model/load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct model {
    struct loaded is;
    struct device *dev;
    struct scratch scratch;
    float *logits, *host_logits;     /* [logits_max, vocab]; the same memory on a host device */
    char *batch, *host_batch;        /* a batch's arrays on the device; host_batch: on their way */
    int *drawn, *told;               /* tokens: [logits_max] of the last batch, where the device
                                        feeds them from; [2][logits_max] where the host reads */
    float *seen;                     /* what a probe sees of a layer; NULL: nobody looked */
    int rows_max, seqs_max, logits_max;
};

/* Rows of x whose logits are wanted, normed and through the head. */
static void run_head(const struct model *m, struct pass *p, const struct tensor *x,
                     const int *logit_row, int n) {
    const struct decoder_spec *d = &m->is.spec;
    const struct device_ops *op = p->dev->op;
    if (!n) return;
    size_t bytes = (size_t)n * (size_t)d->dim * sizeof(float);
    struct tensor last = tensor_2d(scratch_bytes(p->scratch, bytes), F32, n, d->dim);
    /* Not in place: a device may leave the norm to the product. */
    struct tensor normed = tensor_2d(scratch_bytes(p->scratch, bytes), F32, n, d->dim);
    struct tensor rows = tensor_1d((void *)(uintptr_t)logit_row, I32, n);
    struct tensor y = tensor_2d(m->logits, F32, n, d->vocab);
    if (n == p->rows.n_rows) last = *x;
    else op->embed(p->dev, &last, x, &rows, 1);
    norm_run(p, &m->is.final_norm, &normed, &last);
    op->linear(p->dev, &y, &m->is.head, &normed);
    if (d->logit_scale != 1 || d->logit_softcap != 0)
        op->scale(p->dev, &y, d->logit_scale, 0, d->logit_softcap);
}

static struct tensor run_embed(const struct model *m, struct pass *p, const int *ids) {
    const struct decoder_spec *d = &m->is.spec;
    struct device *dev = p->dev;
    struct tensor x = scratch_rows(p, F32, d->dim);
    struct tensor id = tensor_1d((void *)(uintptr_t)ids, I32, p->rows.n_rows);
    dev->op->embed(dev, &x, &m->is.embed, &id, d->embed_scale);
    if (d->positions) {
        struct tensor at = scratch_rows(p, F32, d->dim);
        struct tensor pos = tensor_1d((void *)(uintptr_t)p->rows.pos, I32, p->rows.n_rows);
        dev->op->embed(dev, &at, &m->is.positions, &pos, 1);
        dev->op->add(dev, &x, &at, 1);
    }
    if (d->embed_norm) norm_run(p, &m->is.embed_norm, &x, &x);
    return x;
}

static void show(struct model *m, const struct probe *probe, int layer, const struct tensor *x) {
    const struct device_ops *op = m->dev->op;
    struct tensor there = *x;
    size_t row = (size_t)m->is.spec.dim * sizeof(float);
    if (!probe) return;
    if (!op->host_memory) {
        if (!m->seen) m->seen = mem_array((size_t)m->rows_max, row);
        op->copy_out(m->dev, m->seen, x->at, (size_t)x->shape[0] * row);
        op->sync(m->dev, NULL);
        there.at = m->seen;
    }
    probe->layer(probe->to, layer, &there);
}

static void run_pass(struct model *m, struct pass *p, const struct batch *b,
                     const struct probe *probe) {
    const struct decoder_spec *d = &m->is.spec;
    struct tensor x = run_embed(m, p, b->ids);
    show(m, probe, -1, &x);
    size_t mark = p->scratch->used_bytes;
    for (p->layer = 0; p->layer < d->n_layers; p->layer++) {
        const struct layer_spec *l = &d->layer[p->layer];
        const struct block_weights *w = &m->is.block[p->layer];
        if (l->block) l->block(p, l, w, &x);
        else block_run(p, l, w, &x);
        p->scratch->used_bytes = mark;
        show(m, probe, p->layer, &x);
    }
    run_head(m, p, &x, b->logit_row, b->n_logits);
}

/* How tokens are drawn, then a batch's ints, one array after the other. */
static size_t batch_bytes(const struct model *m) {
    size_t ints = 3 * (size_t)m->rows_max + 2 * (size_t)m->seqs_max + 2 + (size_t)m->logits_max;
    return (size_t)m->logits_max * sizeof(struct draw) + ints * sizeof(int);
}

static const void *pack(struct model *m, size_t *used, const void *from, size_t bytes) {
    const char *there = m->batch + *used;
    if (!from) return NULL;
    memcpy(m->host_batch + *used, from, bytes);
    *used += bytes;
    return there;
}

/* What a pass reads beside the batch. */
struct extra { const struct draw *draw; const int *turn; };

/* The batch with its arrays where the device reads them. */
static struct batch moved(struct model *m, const struct batch *from, struct extra *x) {
    struct batch b = *from;
    size_t used = 0, rows = (size_t)b.n_rows, seqs = (size_t)b.rows.n_seqs;
    if (m->dev->op->host_memory) return b;
    const int **array[] = { &b.ids, &b.rows.pos, &b.rows.seq, &b.rows.first, &b.variant,
                            &b.logit_row, &x->turn };
    const size_t n[] = { rows, rows, rows, seqs + 1, seqs, (size_t)b.n_logits, 1 };
    x->draw = pack(m, &used, x->draw, (size_t)b.n_logits * sizeof *x->draw);
    for (size_t i = 0; i < COUNT(array); i++)
        *array[i] = pack(m, &used, *array[i], n[i] * sizeof(int));
    m->dev->op->copy_in(m->dev, m->batch, m->host_batch, used);
    return b;
}

static void run_draw(struct model *m, const struct batch *b, const struct extra *x) {
    struct tensor logits = tensor_2d(m->logits, F32, b->n_logits, m->is.spec.vocab);
    const struct draws draws = { x->draw, b->n_logits, m->drawn, m->told, m->logits_max, x->turn };
    if (x->draw && b->n_logits) m->dev->op->sample(m->dev, &logits, &draws);
}

/* All that decides which ops a step of decoding has, and which addresses and counts they get. */
struct step_key {
    const struct model *m;
    const struct cache *cache;
    int rows, logits, width, variants, draws;
};

enum { REPLAY_ROWS_MAX = 64 };

/* Steps of decoding are short and alike: a device may start one as a whole. */
static void run_step(struct model *m, struct pass *p, const struct batch *b,
                     const struct extra *x, const struct probe *probe) {
    const struct device_ops *op = m->dev->op;
    bool alike = op->replay && p->cache && !probe && b->n_rows == b->rows.n_seqs &&
                 b->n_rows <= REPLAY_ROWS_MAX;
    if (alike) {
        const struct step_key key = { m, p->cache, b->n_rows, b->n_logits, cache_width(p->cache),
                                      b->variant != NULL, x->draw != NULL };
        if (op->replay(m->dev, &key, sizeof key)) return;
    }
    if (x->draw) op->feed(m->dev, (int *)(uintptr_t)b->ids, b->n_rows, m->drawn);
    run_pass(m, p, b, probe);
    run_draw(m, b, x);
    if (alike) op->record_end(m->dev);
}

bool model_draws(const struct model *m) {
    return m->dev->op->sample != NULL;
}

void model_queue(struct model *m, struct cache *cache, const struct batch *batch,
                 const struct draw *draw, int turn, const struct probe *probe) {
    struct extra x = { model_draws(m) ? draw : NULL, &turn };
    struct batch there = moved(m, batch, &x), *b = &there;
    struct pass p = {
        .dev = m->dev, .cache = cache, .spec = &m->is.spec, .scratch = &m->scratch,
        .rows = b->rows, .variant = b->variant,
    };
    m->scratch.used_bytes = 0;
    run_step(m, &p, b, &x, probe);
    if (model_draws(m)) m->dev->op->mark(m->dev, turn);
}

const int *model_tokens(struct model *m, int turn, struct err *err) {
    return m->dev->op->reached(m->dev, turn, err) ? m->told + turn * m->logits_max : NULL;
}

float *model_logits(struct model *m, int n, struct err *err) {
    if (n && !m->dev->op->host_memory)
        m->dev->op->copy_out(m->dev, m->host_logits, m->logits,
                             (size_t)n * (size_t)m->is.spec.vocab * sizeof(float));
    return m->dev->op->sync(m->dev, err) ? m->host_logits : NULL;
}

/* The largest batch on the device that does nothing tells how much scratch it takes. */
static size_t measure_scratch(struct model *m) {
    struct device null = { .op = &device_null };
    struct scratch scratch = { 0 };
    struct batch b = { .n_rows = m->rows_max, .n_logits = m->logits_max };
    struct pass p = { .dev = &null, .spec = &m->is.spec, .scratch = &scratch,
                      .rows = { .n_rows = m->rows_max, .n_seqs = m->seqs_max } };
    run_pass(m, &p, &b, NULL);
    return scratch.peak_bytes;
}

static bool allocate(struct model *m, struct err *err) {
    struct device *dev = m->dev;
    size_t logits = (size_t)m->logits_max * (size_t)m->is.spec.vocab * sizeof(float);
    m->scratch.cap_bytes = measure_scratch(m);
    m->scratch.at = dev->op->alloc(dev, m->scratch.cap_bytes);
    m->logits = dev->op->alloc(dev, logits);
    if (!m->scratch.at || !m->logits)
        return err_code(err, ERR_MEMORY,
                        "no memory for %zu MiB of activations and %zu MiB of logits",
                        m->scratch.cap_bytes >> 20, logits >> 20);
    m->host_logits = dev->op->host_memory ? m->logits : mem_new(logits);
    if (dev->op->host_memory) return true;
    size_t bytes = batch_bytes(m), tokens = (size_t)m->logits_max * sizeof(int);
    m->batch = dev->op->alloc(dev, bytes);
    m->host_batch = mem_new(bytes);
    if (model_draws(m)) {
        m->drawn = dev->op->alloc(dev, tokens);
        m->told = dev->op->shared(dev, 2 * tokens);
        if (!m->drawn || !m->told)
            return err_code(err, ERR_MEMORY, "no device memory for a batch's tokens");
    }
    return m->batch || err_code(err, ERR_MEMORY, "no device memory for a batch's rows");
}

struct model *model_open(const char *dir, const struct model_options *o, struct err *err) {
    struct model *m = mem_new(sizeof *m);
    m->dev = o->device;
    m->rows_max = o->rows_max;
    m->seqs_max = o->seqs_max;
    m->logits_max = o->logits_max;
    if (load_spec(&m->is, dir, err) && load_bind(&m->is, dir, m->dev, o->progress, o->to, err)) {
        load_pack(&m->is, &o->pack, o->packing, o->to);
        if (load_finish(&m->is, err) && allocate(m, err)) return m;
    }
    model_close(m);
    return NULL;
}

void model_close(struct model *m) {
    if (!m) return;
    if (m->host_logits != m->logits) free(m->host_logits);
    if (m->logits)
        m->dev->op->free(m->dev, m->logits,
                         (size_t)m->logits_max * (size_t)m->is.spec.vocab * sizeof(float));
    if (m->batch) m->dev->op->free(m->dev, m->batch, batch_bytes(m));
    if (m->drawn) m->dev->op->free(m->dev, m->drawn, (size_t)m->logits_max * sizeof(int));
    if (m->told) m->dev->op->unshare(m->dev, m->told);
    free(m->host_batch);
    free(m->seen);
    if (m->scratch.at) m->dev->op->free(m->dev, m->scratch.at, m->scratch.cap_bytes);
    load_close(&m->is);
    free(m);
}

const struct decoder_spec *model_spec(const struct model *m) {
    return &m->is.spec;
}

const struct family *model_family(const struct model *m) {
    return m->is.family;
}

int64_t model_params(const struct model *m) {
    return load_params(&m->is);
}

size_t model_weights_bytes(const struct model *m) {
    return weights_bytes(m->is.weights);
}

/* Where a config says how weights are quantized. */
static const char bits[] = "quantization.bits|quantization_config.bits",
                  mode[] = "quantization.mode|quantization_config.mode",
                  quant_method[] = "quantization_config.quant_method";

void model_format(const struct model *m, char *text, size_t size) {
    struct config *q = m->is.config;
    struct str method = cfg_str(q, quant_method, "");
    const struct tensor *w = &m->is.embed;
    /* Of compressed-tensors FP8 alone is loaded. */
    if (method.len)
        snprintf(text, size, "%s", str_is(method, "mxfp4") ? "mxfp4" : "fp8");
    else if (cfg_has(q, mode) && !str_is(cfg_str(q, mode, ""), "affine"))
        snprintf(text, size, "%.*s", STR_ARG(cfg_str(q, mode, "")));
    else if (cfg_has(q, bits))
        snprintf(text, size, "affine %d-bit g%d", cfg_int(q, bits, 0),
                 cfg_int(q, "quantization.group_size|quantization_config.group_size", 64));
    else if (w->dtype == MLX_AFFINE)
        snprintf(text, size, "affine %d-bit g%d", w->quant.bits, w->quant.group);
    else snprintf(text, size, "%s", dtype_name(w->dtype));
}

bool model_quantized(const struct model *m) {
    struct config *q = m->is.config;
    const enum dtype embed = m->is.embed.dtype;
    return cfg_str(q, quant_method, "").len > 0 || cfg_has(q, mode) || cfg_has(q, bits) ||
           (embed != F32 && embed != F16 && embed != BF16);
}

void load_need(const struct loaded *is, struct state_need *need, enum dtype kv) {
    const struct decoder_spec *d = &is->spec;
    for (int i = 0; i < d->n_layers; i++) {
        const struct layer_spec *l = &d->layer[i];
        need[i] = l->mixer && l->mixer->need ? l->mixer->need(d, l, kv)
                                             : (struct state_need){ 0 };
    }
}

void model_need(const struct model *m, struct state_need *need, enum dtype kv) {
    load_need(&m->is, need, kv);
}
