/* arena.h - memory freed as one: a model's spec, a request, a parse. */
#pragma once
#include "base/base.h"

struct arena { struct arena_block *last; size_t used_bytes; };

void *arena_new(struct arena *, size_t bytes);            /* zeroed, aligned to 64 */
char *arena_str(struct arena *, struct str);              /* terminated copy */
/* Each piece of memory that holds something. False as soon as `each` is false. */
bool arena_each(const struct arena *, bool (*each)(void *to, const void *at, size_t bytes),
                void *to);
void arena_free(struct arena *);                          /* all of it; usable again after */
