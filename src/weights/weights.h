/* weights.h - a checkpoint's tensors: mapped shards and their index.
 *
 * Untrusted input: every header is checked whole before a tensor can be found
 * (no overlap, no hole, nothing past the end, shapes that multiply to the bytes
 * given). Values are used where they lie in the mapping, which may be any address: the
 * format does not align tensors, so every load from one is by memcpy or an unaligned
 * vector load, never through a typed pointer. */
#pragma once
#include "device/tensor.h"

struct weights;

/* DIR holds model.safetensors, or model.safetensors.index.json and its shards, or
 * shards alone (model-*.safetensors); the first of these that is there counts. A shard
 * is a plain file of DIR, or a symlink to one in DIR or in a download cache's
 * ../../blobs/; a link to anywhere else is refused. */
struct weights *weights_open(const char *dir, struct err *);
void weights_close(struct weights *);
const char *weights_dir(const struct weights *);  /* as opened, for messages */
bool weights_is_mlx(const struct weights *);     /* safetensors __metadata__.format is "mlx" */

struct weights_entry {
    struct str name;
    const char *file;                            /* of the shard, for messages */
    char dtype[16];                              /* as spelt in the header */
    struct tensor t;                             /* at NULL: a dtype no kernel reads, or
                                                    rank > 4 (then no shape either) */
    size_t bytes;
};
size_t weights_count(const struct weights *);
size_t weights_bytes(const struct weights *);    /* of all shards */
/* A hash that is another one when a shard was changed: of names, sizes, times of change, headers,
 * and of samples of the contents. Does not read all of them. */
void weights_identity(const struct weights *, unsigned char id[16]);
/* Where an address of a shard is, counted through all shards. False: it is in none of them. */
bool weights_place(const struct weights *, const void *at, uint64_t *place);
/* These bytes, or all of every shard, leave this process's memory until somebody reads them again.
 * Nothing happens to an address outside of the shards. */
void weights_let_go(const struct weights *, const void *at, size_t bytes);
void weights_let_go_all(const struct weights *);
const struct weights_entry *weights_entry(const struct weights *, size_t i);   /* sorted by name */
const struct weights_entry *weights_find(const struct weights *, struct str name);  /* or NULL */
