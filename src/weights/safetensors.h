/* safetensors.h - one safetensors file in memory: its header, checked whole.
 *
 * The bytes may be hostile and may lie at any address; nothing outside of them is
 * read. Inside weights/ only, and for the fuzzer. */
#pragma once
#include "base/arena.h"
#include "base/map.h"
#include "weights/weights.h"

enum {
    SAFETENSORS_HEADER_MAX = 100000000,      /* the format's own limit */
    SAFETENSORS_RANK_MAX = 8,
    SAFETENSORS_NAME_MAX = 1024,
    SAFETENSORS_TENSORS_MAX = 1000000        /* of a checkpoint */
};

struct tensor_list {
    struct weights_entry *at;                /* in order of the headers */
    size_t n, cap;
    struct map names;                        /* name to index */
    struct arena arena;                      /* the names */
    bool mlx;
};

/* Appends the tensors of one file. `path` is kept (as weights_entry.file) and named in errors. */
bool safetensors_read(struct str file, const char *path, struct tensor_list *, struct err *);
void tensor_list_free(struct tensor_list *);
