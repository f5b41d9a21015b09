/* params.h - the fields about sampling and length that all dialects share, over the model's
 * and the server's defaults. */
#pragma once
#include "api/call.h"

/* Reads temperature, top_p, top_k, min_p, typical_p, penalties, dry_*, xtc_*, samplers, seed, stop,
 * logit_bias, ignore_eos, n, stream and stream_options into call->options and the call; what
 * cannot be done yet (grammars) is a fault. Sets call->options.n_max from max_completion_tokens,
 * max_tokens or n_predict. */
void params_read(struct call *, struct fields *);
