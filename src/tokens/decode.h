/* decode.h - the decoders as one stream: spellings of tokens in, UTF-8 out.
 *
 * Decoding all at once is a stream that is pushed and flushed, so the two cannot differ. */
#pragma once
#include "base/buf.h"
#include "tokens/part.h"

/* Finds each part's row; refuses what is unknown. */
bool decode_bind(struct parts *, struct err *);

struct decode;
struct decode *decode_open(const struct parts *);
void decode_push(struct decode *, struct str token, struct buf *out);
void decode_flush(struct decode *, struct buf *out);              /* and starts over */
void decode_close(struct decode *);
