/* packed.h - the packed weights of a model: which matrices, and where they lie. What a packed
 * matrix looks like is pack.h's affair.
 *
 * The payload is the packed matrices in the order of the job, each at a multiple of CPU_PACK_ALIGN.
 * It lies in memory, or in a file that is mapped. */
#pragma once
#include "base/threads.h"
#include "device/cpu/pack.h"
#include "device/device.h"

struct packed_item {
    struct tensor *w;
    size_t at, bytes;                /* in the payload */
    size_t panel_bytes;
};

struct packed_plan {
    struct packed_item *item;
    size_t n, bytes;                 /* of the whole payload */
    unsigned char id[16];            /* of source, layout, and what lies where */
};

/* A payload that is there; freed by unmapping it. */
struct packed { void *at; size_t bytes; struct packed *next; };

/* How far packing is: bytes of the payload. */
struct packed_progress { const struct pack_job *job; size_t done, all; };
void packed_advance(struct packed_progress *, size_t bytes);

/* Panels [begin, end) of an item to their place behind `to`, where its first panel belongs. */
void packed_fill(struct pool *, const struct packed_item *, unsigned char *to, int64_t begin,
                 int64_t end);
int64_t packed_panels(const struct packed_item *);

/* The payload of a file of job->place.dir, made where there is none that holds. at NULL: it cannot
 * be made, the err says why. */
struct packed packed_file(struct pool *, const struct pack_job *, const struct packed_plan *,
                          struct err *);

/* The slot of the device. */
void cpu_pack_weights(struct device *, const struct pack_job *);
