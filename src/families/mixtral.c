/* Mixtral: Mistral with experts in every block. */
#include "families/family.h"

static void describe(struct decoder_spec *d, struct config *c) {
    spec_defaults(d, c);
    struct moe_spec moe = spec_moe(c);
    moe.route.renormalize = true;
    int window = cfg_int(c, "sliding_window", 0);
    EACH_LAYER(d, l) {
        l->attn.window = window;
        l->ffn = &ffn_moe;
        l->moe = moe;
    }
}

const struct family family_mixtral = {
    .name        = "mixtral",
    .evidence    = "Transformers 5.17: logits, layers, greedy",
    .model_types = ALIASES("mixtral"),
    .describe    = describe,
};
