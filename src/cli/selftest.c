/* selftest.c - the engine's promise of exactness, checked on a real checkpoint. */
#include "cli/session.h"
#include "cli/dialog.h"
#include "engine.h"
#include <stdio.h>
#include <string.h>

struct counting { struct term term; int n, failed; };

static void line(void *to, const char *name, bool ok, const char *detail) {
    struct counting *c = to;
    const char *on = !c->term.out_color ? "" : ok ? "\033[32m" : "\033[31m";
    const char *off = c->term.out_color ? "\033[0m" : "";
    printf("%s%s%s %s%s%s\n", on, ok ? "ok    " : "FAILED", off, name,
           detail && *detail ? ": " : "", detail ? detail : "");
    fflush(stdout);
    c->n++;
    if (!ok) c->failed++;
}

int cli_selftest(struct args *a) {
    struct err err = { 0 };
    struct buf dir = { 0 };
    struct counting c = { .term = term_of(a->color) };
    model_from_words(a, true);
    bool ok = model_find(a->model, &dir, &err);
    if (ok) {
        struct buf packed = { 0 };
        struct engine_options o = {
            .dir = buf_c(&dir), .device = a->device, .isa = a->isa, .threads = a->threads,
            .context = a->context, .chunk_max = a->chunk, .cache_bytes = a->cache_bytes,
            .f32 = !strcmp(a->compute, "f32"), .kv = a->kv, .fast = a->fast,
            .no_reuse = a->no_prefix_cache,
        };
        session_packed(a->packed, &packed, &o);
        ok = engine_selftest(&o, line, &c, &err);
        buf_free(&packed);
    }
    buf_free(&dir);
    if (ok && !a->quiet) printf("%d checks, all passed\n", c.n);
    if (!ok && !err.code && c.failed) err_set(&err, "%d of %d checks failed", c.failed, c.n);
    return ok ? 0 : cli_fail(&err);
}
