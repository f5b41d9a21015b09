/* load.c - from a folder to a spec and bound weights. */
#include "model/load.h"

#include <stdlib.h>
#include <string.h>

/* A path below dir; free it. */
static char *below(const char *dir, const char *name) {
    struct buf b = { 0 };
    buf_format(&b, "%s/%s", dir, name);
    buf_c(&b);
    return b.at;
}

static bool unsupported(struct config *c, struct str type) {
    struct buf list = { .max = 400 };
    for (const struct family *f = family_next(NULL); f; f = family_next(f))
        for (const char *const *t = f->model_types; *t; t++)
            buf_format(&list, "%s%s", list.len ? ", " : "", *t);
    if (type.len)
        cfg_fail(c, "model_type: \"%.*s\" is not supported; there is: %s", STR_ARG(type),
                 buf_c(&list));
    else cfg_fail(c, "model_type: missing; there is: %s", buf_c(&list));
    buf_free(&list);
    return false;
}

static bool find_family(struct loaded *m) {
    struct str type = cfg_str(m->config, "model_type", "");
    if (!cfg_ok(m->config, NULL)) return false;
    m->family = family_find(type);
    return m->family || unsupported(m->config, type);
}

bool load_spec(struct loaded *m, const char *dir, struct err *err) {
    char *path = below(dir, "config.json");
    m->config = cfg_open(path, err);
    free(path);
    if (!m->config) return false;
    m->spec.arena = &m->arena;
    if (find_family(m)) {
        m->family->describe(&m->spec, m->config);
        spec_check(&m->spec, m->config);
    }
    return cfg_ok(m->config, err);
}

static void bind_ends(struct loaded *m, struct binder *b) {
    const struct decoder_spec *d = &m->spec;
    bind_table(b, &m->embed, W_EMBED, d->vocab, d->dim);
    if (d->positions) bind_table(b, &m->positions, W_POSITIONS, d->positions, d->dim);
    if (d->embed_norm) norm_bind(b, d, &m->embed_norm, W_EMBED_NORM);
    norm_bind(b, d, &m->final_norm, W_FINAL_NORM);
    if (d->tied_head) {
        m->head.w = m->embed;
        bind_product(b, &m->head.w);
    } else bind_linear(b, &m->head, W_HEAD, d->vocab, d->dim, d->head_bias);
}

static void bind_all(struct loaded *m, struct binder *b, void (*progress)(void *, double),
                     void *to) {
    const struct decoder_spec *d = &m->spec;
    bind_ends(m, b);
    m->block = bind_new(b, (size_t)d->n_layers * sizeof *m->block);
    for (int i = 0; i < d->n_layers; i++) {
        binder_layer(b, i);
        block_bind(b, d, &d->layer[i], &m->block[i]);
        if (progress) progress(to, (double)(i + 1) / d->n_layers);
    }
}

bool load_record(struct loaded *m, bind_want *want, void *to, struct err *err) {
    struct binder *b = binder_record(&m->arena, m->family->names, m->spec.n_layers, want, to);
    bind_all(m, b, NULL, NULL);
    return binder_finish(b, err);
}

static void add_params(void *to, const struct bind_want *want) {
    int64_t n = 1;
    for (int i = 0; i < want->rank; i++) n *= want->shape[i];
    *(int64_t *)to += n;
}

int64_t load_params(const struct loaded *m) {
    struct loaded plain = { .family = m->family, .spec = m->spec };
    int64_t n = 0;
    load_record(&plain, add_params, &n, NULL);
    arena_free(&plain.arena);
    return n;
}

bool load_bind(struct loaded *m, const char *dir, struct device *dev,
               void (*progress)(void *, double), void *to, struct err *err) {
    m->weights = weights_open(dir, err);
    if (!m->weights) return false;
    m->binder = binder_open(m->weights, m->config, dev, &m->arena, m->family->names,
                            m->spec.n_layers, err);
    if (!m->binder) return false;
    bind_all(m, m->binder, progress, to);
    return true;
}

/* A tied embedding is read where the head is: in one place, not in two. */
void load_pack(struct loaded *m, const struct pack_place *place, void (*progress)(void *, double),
               void *to) {
    binder_pack(m->binder, place, progress, to);
    if (m->spec.tied_head) m->embed = m->head.w;
}

bool load_finish(struct loaded *m, struct err *err) {
    struct binder *b = m->binder;
    m->binder = NULL;
    bool adopted = binder_adopt(b, err);
    return binder_finish(b, err) && adopted && cfg_ok(m->config, err);
}

void load_close(struct loaded *m) {
    if (m->binder) binder_finish(m->binder, NULL);
    weights_close(m->weights);
    cfg_close(m->config);
    arena_free(&m->arena);
    *m = (struct loaded){ 0 };
}
