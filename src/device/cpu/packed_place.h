/* packed_place.h - the folder of the files of packed weights: names, the lock of whoever writes,
 * and the removal of what is of no more use.
 *
 * A model's folder has one file, NAME-HASH.packed, and NAME-HASH.part while it is written, which
 * its writer holds locked: so a second program waits for the first, and a part that nobody locks
 * was left by a program that was killed. */
#pragma once
#include "base/base.h"

enum { PACKED_PATH_MAX = 4000 };

/* The first bytes of a file. Nothing but `format`, `layout` and `path` is read of the files of
 * other models. In the order of this machine: such a file is not carried elsewhere. */
struct packed_head {
    char magic[8];                   /* "mlxcelP" */
    uint32_t format, layout;
    unsigned char id[16];
    uint64_t payload_at, payload_bytes, block_bytes, n_blocks;
    uint64_t check;                  /* of this head with 0 here, and of the blocks' sums */
    uint32_t path_bytes;             /* of the model's folder; rest of path is 0 */
    char path[PACKED_PATH_MAX];
};

struct packed_place {
    int dir;                         /* descriptor */
    char name[128], part[128];
    char *path, *model;              /* of the file, for messages; of the model's folder */
};

/* Makes the folder where it is missing. False: the err says what is wrong with it. */
bool packed_place_open(struct packed_place *, const char *dir, const char *model, struct err *);
void packed_place_close(struct packed_place *);
/* A descriptor of the part, made and locked. Waits for another program that writes it; -1: that one
 * is done, as `ready` says, or else the err says what is wrong. */
int packed_place_lock(const struct packed_place *, bool (*ready)(void *), void *to, struct err *);
/* Removes what nobody will use any more: files of models that are gone or of other versions, and
 * parts that were left. `head` is that of the file which was just written. */
void packed_place_clean(const struct packed_place *, const struct packed_head *head);
