/* Qwen2 and 2.5: Llama with biases on q, k and v; windows only when asked for. */
#include "families/family.h"

static void describe(struct decoder_spec *d, struct config *c) {
    spec_defaults(d, c);
    spec_optional_window(d, c);
    EACH_LAYER(d, l) l->attn.bias = BIAS_QKV;
}

const struct family family_qwen2 = {
    .name        = "qwen2",
    .evidence    = "Transformers 5.17: logits, layers, greedy; YaRN",
    .model_types = ALIASES("qwen2"),
    .describe    = describe,
};
