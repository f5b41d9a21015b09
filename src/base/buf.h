/* buf.h - a growing byte buffer with a limit and a sticky error.
 *
 * Append freely, check `failed` once. A zeroed buf is empty and usable with no
 * limit; set `max` to bound what an untrusted source can make us hold. */
#pragma once
#include "base/base.h"

struct buf { char *at; size_t len, cap, max; bool failed; };

void buf_put(struct buf *, const void *bytes, size_t n);
void buf_str(struct buf *, struct str);
void buf_char(struct buf *, char);
void buf_format(struct buf *, const char *format, ...) __attribute__((format(printf, 2, 3)));
void buf_json(struct buf *, struct str);                  /* quoted, escaped JSON string */
const char *buf_c(struct buf *);                          /* terminated; valid until next append */
struct str buf_view(const struct buf *);                  /* valid until next append */
void buf_clear(struct buf *);                             /* empty, memory kept */
void buf_free(struct buf *);

/* The whole of a regular file, at most `max` bytes. False: the err names the path.
 * A directory, FIFO or device is refused before anything is read. */
bool buf_read_file(struct buf *, const char *path, size_t max, struct err *);
