/* packed.c - decides which matrices are packed and whether the result is kept in a file, and packs
 * into memory. */
#include "device/cpu/packed.h"
#include "base/log.h"
#include "device/cpu/cpu.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <xxhash.h>

enum { PIECE_BYTES = 256 << 10 };    /* what a thread packs at a time */

static size_t aligned(size_t n) {
    return (n + CPU_PACK_ALIGN - 1) & ~(size_t)(CPU_PACK_ALIGN - 1);
}

int64_t packed_panels(const struct packed_item *i) {
    return (int64_t)(i->bytes / i->panel_bytes);
}

void packed_advance(struct packed_progress *p, size_t bytes) {
    p->done += bytes;
    if (p->job->progress && p->all)
        p->job->progress(p->job->to, (double)p->done / (double)p->all);
}

/* ---- what is packed ---- */

/* All that decides the bytes of a payload. A matrix is known by the place that it has in its file,
 * so that parts of one tensor, or two tensors that changed places, are told apart. */
static void hash_item(XXH3_state_t *hash, const struct pack_item *i, size_t bytes) {
    const struct quant *q = &i->w->quant;
    const uint64_t word[] = { i->at, (uint64_t)i->w->shape[0], (uint64_t)i->w->shape[1], q->bits,
                              q->group, (uint64_t)q->scale_dtype, bytes };
    XXH3_128bits_update(hash, word, sizeof word);
}

static struct packed_plan plan(const struct pack_job *job) {
    struct packed_plan p = { .item = mem_array(MAX(job->n, (size_t)1), sizeof *p.item) };
    const uint64_t layout = CPU_PACK_VERSION;
    XXH3_state_t *hash = XXH3_createState();
    if (!hash)
        abort();
    XXH3_128bits_reset(hash);
    XXH3_128bits_update(hash, job->source, sizeof job->source);
    XXH3_128bits_update(hash, &layout, sizeof layout);
    for (size_t i = 0; i < job->n; i++) {
        struct tensor *w = job->item[i].w;
        size_t bytes = cpu_packed_bytes(w);
        if (!bytes)
            continue;
        int64_t panels = (w->shape[0] + QUANT_PANEL - 1) / QUANT_PANEL;
        hash_item(hash, &job->item[i], bytes);
        p.item[p.n++] = (struct packed_item){ .w = w, .at = p.bytes, .bytes = bytes,
                                              .panel_bytes = bytes / (size_t)panels };
        p.bytes = aligned(p.bytes + bytes);
    }
    XXH128_canonical_t id;
    XXH128_canonicalFromHash(&id, XXH3_128bits_digest(hash));
    memcpy(p.id, id.digest, sizeof p.id);
    XXH3_freeState(hash);
    return p;
}

/* ---- in memory ---- */

struct fill { unsigned char *to; const struct tensor *w; int64_t first; };

static void fill_panels(void *to, int64_t begin, int64_t end) {
    const struct fill *f = to;
    cpu_pack(f->to, f->w, f->first + begin, f->first + end);
}

void packed_fill(struct pool *pool, const struct packed_item *i, unsigned char *to, int64_t begin,
                 int64_t end) {
    struct fill f = { to, i->w, begin };
    pool_run(pool, end - begin, (int64_t)MAX(PIECE_BYTES / i->panel_bytes, (size_t)1), fill_panels,
             &f);
}

/* Each thread packs its share of a matrix, so on a machine of several nodes the memory is near
 * the thread that will read it. */
static struct packed in_memory(struct pool *pool, const struct pack_job *job,
                               const struct packed_plan *p) {
    struct packed_progress progress = { job, 0, p->bytes };
    void *at = mmap(NULL, p->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        return (struct packed){ 0 };
    mem_filled_soon(at, p->bytes);
    for (size_t i = 0; i < p->n; i++) {
        packed_fill(pool, &p->item[i], (unsigned char *)at + p->item[i].at, 0,
                    packed_panels(&p->item[i]));
        job->let_go(job->to, p->item[i].w);
        packed_advance(&progress, p->item[i].bytes);
    }
    return (struct packed){ .at = at, .bytes = p->bytes };
}

/* ---- the device's slot ---- */

void cpu_pack_weights(struct device *dev, const struct pack_job *job) {
    struct cpu *cpu = cpu_of(dev);
    /* Only rows that are rounded meet packed panels. */
    if (job->place.off || cpu->scratch.exact)
        return;
    struct packed_plan p = plan(job);
    struct packed got = { 0 };
    struct err err = { 0 };
    if (p.n && job->place.dir && p.bytes >= job->place.file_min)
        got = packed_file(cpu->pool, job, &p, &err);
    else if (p.n && !(got = in_memory(cpu->pool, job, &p)).at)
        err_code(&err, ERR_MEMORY, "no memory for %zu MiB of packed weights", p.bytes >> 20);
    if (p.n && !got.at)
        log_line(LOG_WARN, "%s; the weights are used as they are, which is slower", err.text);
    for (size_t i = 0; got.at && i < p.n; i++)
        p.item[i].w->quant.packed = (const char *)got.at + p.item[i].at;
    if (got.at) {
        struct packed *kept = mem_new(sizeof *kept);
        *kept = got;
        kept->next = cpu->packed;
        cpu->packed = kept;
    }
    free(p.item);
}
