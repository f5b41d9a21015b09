/* bound.h - for tests of the binder: a checkpoint in memory, opened at layer 0, and how its binding
 * ended. */
#pragma once
#include "../maker.h"
#include "weights/bind.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

struct fixture {
    char *dir;
    struct maker m;
    struct weights *w;
    struct config *c;
    struct arena arena;
    struct binder *b;
    struct err err;
};

/* Opens what was added, whose model has n_layers, and takes the embedding [2, 4]. False: the config
 * was refused. */
static inline bool open_bound(struct fixture *f, const struct name_rule *rules, const char *config,
                              int n_layers) {
    struct tensor embed;
    maker_write(&f->m, f->dir, "model.safetensors");
    f->w = weights_open(f->dir, &f->err);
    f->c = cfg_parse(str_of(config), "config.json", &f->err);
    if (!f->w || !f->c) fail_msg("%s", f->err.text);
    f->b = binder_open(f->w, f->c, NULL, &f->arena, rules, n_layers, &f->err);
    if (!f->b) return false;
    bind_table(f->b, &embed, W_EMBED, 2, 4);
    binder_layer(f->b, 0);
    return true;
}

static inline void end(struct fixture *f) {
    cfg_close(f->c);
    weights_close(f->w);
    arena_free(&f->arena);
    temp_free(f->dir);
}

static inline void finish_fine(struct fixture *f) {
    if (!binder_finish(f->b, &f->err)) fail_msg("%s", f->err.text);
    end(f);
}

static inline void finish_failed(struct fixture *f, const char *part) {
    assert_false(binder_finish(f->b, &f->err));
    if (!strstr(f->err.text, part)) fail_msg("got \"%s\", wanted \"%s\"", f->err.text, part);
    end(f);
}
