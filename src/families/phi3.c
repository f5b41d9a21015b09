/* Phi-3 and Phi-4: Llama with q/k/v and gate/up fused, LongRoPE, a window. */
#include "families/family.h"

static void describe(struct decoder_spec *d, struct config *c) {
    spec_defaults(d, c);
    int window = cfg_int(c, "sliding_window", 0);
    EACH_LAYER(d, l) l->attn.window = window;
}

const struct family family_phi3 = {
    .name        = "phi3",
    .evidence    = "Transformers 5.17: logits, layers, greedy; both sides of the LongRoPE switch",
    .model_types = ALIASES("phi3"),
    .describe    = describe,
};
