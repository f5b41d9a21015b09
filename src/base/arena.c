/* arena.c - memory freed as one, in blocks that double up to a megabyte. */
#include "base/arena.h"

#include <stdlib.h>
#include <string.h>

enum { ALIGN = 64, BLOCK_FIRST = 4096, BLOCK_MAX = 1 << 20 };

struct arena_block { struct arena_block *before; size_t used, size; char *at; };

static struct arena_block *block_new(struct arena *a, size_t bytes) {
    size_t size = a->last ? MIN(a->last->size * 2, (size_t)BLOCK_MAX) : BLOCK_FIRST;
    struct arena_block *b = mem_new(sizeof *b);
    b->size = MAX(size, bytes);
    b->at = mem_new(b->size + ALIGN);
    b->before = a->last;
    a->last = b;
    return b;
}

void *arena_new(struct arena *a, size_t bytes) {
    bytes = (MAX(bytes, (size_t)1) + ALIGN - 1) / ALIGN * ALIGN;
    struct arena_block *b = a->last;
    if (!b || b->size - b->used < bytes) b = block_new(a, bytes);
    char *base = (char *)(((uintptr_t)b->at + ALIGN - 1) / ALIGN * ALIGN);
    void *p = base + b->used;
    b->used += bytes;
    a->used_bytes += bytes;
    return p;
}

char *arena_str(struct arena *a, struct str s) {
    char *c = arena_new(a, s.len + 1);
    if (s.len) memcpy(c, s.at, s.len);
    return c;
}

bool arena_each(const struct arena *a, bool (*each)(void *, const void *, size_t), void *to) {
    for (struct arena_block *b = a->last; b; b = b->before) {
        char *base = (char *)(((uintptr_t)b->at + ALIGN - 1) / ALIGN * ALIGN);
        if (b->used && !each(to, base, b->used)) return false;
    }
    return true;
}

void arena_free(struct arena *a) {
    for (struct arena_block *b = a->last, *before; b; b = before) {
        before = b->before;
        free(b->at);
        free(b);
    }
    *a = (struct arena){ 0 };
}
