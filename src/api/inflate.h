/* inflate.h - request bodies that came compressed: gzip and deflate by zlib, zstd by libzstd. */
#pragma once
#include "api/exchange.h"

/* The values of Content-Encoding that are taken, for a 415's Accept-Encoding. */
extern const char inflate_names[];

/* Whether a body under this Content-Encoding can be read; NULL, "" and "identity": as it is. */
bool inflate_knows(const char *encoding);

/* Appends what `from` holds, at most `max` bytes of it: the memory needed is that and a few
 * hundred KiB (zlib) or 8 MiB (zstd, the window that RFC 9659 allows), whatever `from` says.
 * False: 413, beyond the limit; 400, damaged, cut short, or something follows. */
bool inflate_body(struct str from, const char *encoding, size_t max, struct buf *to,
                  struct fault *);
