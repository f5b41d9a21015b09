/* fuzz_plan.c - any bytes as config.json, from the text to a checked spec, by whichever family it
 * names: what passes spec_check must be bounded, and its rope tables computable. */
#include "families/family.h"
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void ropes(const struct decoder_spec *d) {
    float *table = mem_array(1 << 16, sizeof *table);
    for (int i = 0; i < d->n_layers && i < 4; i++) {
        const struct layer_spec *l = &d->layer[i];
        if (l->mixer != &mixer_attention || l->attn.rope.pairing == ROPE_NONE) continue;
        if (l->attn.rope.dims < 0 || l->attn.rope.dims > 1 << 16) abort();
        rope_frequencies(&l->attn.rope, 0, table);
        rope_frequencies(&l->attn.rope, 1, table);
    }
    free(table);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct err err = { 0 };
    struct arena arena = { 0 };
    struct decoder_spec d = { .arena = &arena };
    struct config *c = cfg_parse((struct str){ (const char *)data, size }, "fuzz", &err);
    if (!c) return 0;
    const struct family *f = family_find(cfg_str(c, "model_type", ""));
    if (f) {
        f->describe(&d, c);
        spec_check(&d, c);
        if (cfg_ok(c, &err)) {
            if (d.n_layers < 1 || d.dim < 1 || d.vocab < 1 || !d.layer) abort();
            ropes(&d);
        } else if (!err.text[0]) {
            abort();
        }
    }
    cfg_close(c);
    arena_free(&arena);
    return 0;
}
