/* names.h - from checkpoint tensor names to weight slots.
 *
 * For a slot the first rule whose tensor exists wins, so one table serves the
 * Hugging Face and the MLX layout and no conversion can run twice. {l} is the
 * layer, {past} any layer after the last, {e} the expert; a final * any rest.
 * The binder adds .weight, .bias, .scales and .biases. */
#pragma once
#include "base/base.h"

enum slot {
    W_END, W_EMBED, W_EMBED_NORM, W_POSITIONS, W_HEAD, W_FINAL_NORM,
    W_PRE_MIX, W_POST_MIX, W_PRE_FFN, W_POST_FFN,
    W_Q, W_K, W_V, W_QKV, W_O, W_Q_NORM, W_K_NORM, W_SINKS, W_OUT_GATE, W_OUT_NORM,
    W_Q_A, W_Q_A_NORM, W_Q_B, W_KV_A, W_KV_A_NORM, W_KV_B, W_K_UP, W_V_UP,
    W_IN, W_BA, W_OUT, W_CONV, W_DT_BIAS, W_A_LOG, W_D, W_MIX_NORM,
    W_GATE, W_UP, W_DOWN, W_GATE_UP, W_MLP_NORM,
    W_ROUTER, W_ROUTER_BIAS, W_X_GATE, W_X_UP, W_X_DOWN, W_X_GATE_UP,
    W_S_GATE, W_S_UP, W_S_DOWN, W_S_MIX,
    W_DROP                           /* known and unused: rotary tables, MTP heads */
};
enum fix {                           /* bits */
    AS_IS       = 0,
    EXACT       = 1,                 /* the name is complete: add no suffix; a bias is name_bias */
    CONV        = 2,                 /* [C,1,K] or [C,K,1] to [C,K] */
    PLUS_ONE    = 4,                 /* only when the file is not MLX: stored as w - 1 */
    TRANSPOSED  = 8,                 /* stored [in, out] (GPT-2's Conv1D; stacked [E, in, out]) */
    INTERLEAVED = 16                 /* of a fused pair: rows alternate, do not lie in blocks */
};
struct name_rule { enum slot slot; const char *name; unsigned fix; };

extern const struct name_rule names_hf[];        /* the layout most families share */
const char *slot_name(enum slot);                /* "q", "gate_up": for messages and inspect */
