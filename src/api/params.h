/* params.h - the fields about sampling and length that all dialects share, over the model's
 * and the server's defaults.
 *
 *     temperature 0 to 100 (0: greedy)        top_p, min_p, typical_p 0 to 1      top_k -1 or more
 *     repeat_penalty = repetition_penalty 0.01 to 100       repeat_last_n -1 (all) or more
 *     presence_penalty, frequency_penalty -100 to 100       top_n_sigma -1 to 1000
 *     dry_multiplier 0 to 1000, dry_base 1 to 1000, dry_allowed_length, dry_penalty_last_n,
 *     dry_sequence_breakers: at most 16 texts, of each the last token counts
 *     xtc_probability, xtc_threshold 0 to 1   samplers: names as a list or "a;b"
 *     seed: 64 bits with sign; -1 and none draw one
 *     stop: a string or at most 64, each of 1 to 256 bytes
 *     logit_bias: {"id": bias} or [[id or text, bias or false]], -100 to 100, at most 1,024 tokens
 *     max_completion_tokens, else max_tokens, else n_predict: 0 only reads the prompt; -1, null and
 *     none go on until the end of the text or of the context, as what is beyond it does
 *     n 1 to 128; best_of only if it equals n
 *     cache_prompt: false finds no kept prefix and leaves none
 *     stream; stream_options.include_usage, only with stream; timings_per_token;
 *     return_progress; ignore_eos
 *
 * Of user, metadata, store, service_tier and others that change no answer here only the type is
 * looked at.
 * Refused unless off: mirostat, dynatemp_range, adaptive_target, grammars and schemas,
 * response_format other than text, lora, use_beam_search. */
#pragma once
#include "api/call.h"

enum { STOP_BYTES_MAX = 256, BIAS_MAX = 1024 };

/* Reads all that into call->options and the call, whose options hold the defaults. */
void params_read(struct call *, struct fields *);
