/* Mistral: Llama that sees a window on every layer. */
#include "families/family.h"

static void describe(struct decoder_spec *d, struct config *c) {
    spec_defaults(d, c);
    int window = cfg_int(c, "sliding_window", 0);
    EACH_LAYER(d, l) l->attn.window = window;
}

const struct family family_mistral = {
    .name        = "mistral",
    .evidence    = "Transformers 5.17: logits, layers, greedy; the window is passed",
    .model_types = ALIASES("mistral"),
    .describe    = describe,
};
