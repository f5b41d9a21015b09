/* packed_file.c - the cache file of packed weights: a head, the sums of the payload's blocks, and
 * the payload at a multiple of 2 MiB.
 *
 * Nothing is taken from a file's head: it is compared with the one that this model's file has to
 * have, and the payload counts once the sums of all its blocks are right. So a file that is cut,
 * old, broken, or of another model is never used, and made anew. Verifying it also maps its pages,
 * which the first token would have to wait for anyway. */
#include "base/log.h"
#include "device/cpu/packed.h"
#include "device/cpu/packed_place.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

/* Blocks and the payload begin at huge pages, and are written in pieces no smaller: so the page
 * cache can hold them in huge pages, on file systems that know how. */
enum { FORMAT = 1, HUGE_PAGE = 2 << 20, BLOCK_BYTES = 4 << 20, STAGE_BLOCKS_MIN = 8 };

/* A head and its sums in one piece of memory, as they lie in the file. */
struct front { struct packed_head *head; uint64_t *sum; size_t bytes; };

static uint64_t n_blocks(size_t bytes) {
    return (bytes + BLOCK_BYTES - 1) / BLOCK_BYTES;
}

static struct front front_new(const struct packed_place *place, const struct packed_plan *p) {
    size_t sums = (size_t)n_blocks(p->bytes) * sizeof(uint64_t);
    struct front f = { .bytes = sizeof *f.head + sums };
    f.head = mem_new(f.bytes);
    f.sum = (uint64_t *)(void *)(f.head + 1);
    *f.head = (struct packed_head){
        .magic = "mlxcelP", .format = FORMAT, .layout = CPU_PACK_VERSION,
        .payload_at = (f.bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE,
        .payload_bytes = p->bytes, .block_bytes = BLOCK_BYTES, .n_blocks = n_blocks(p->bytes),
        .path_bytes = (uint32_t)strlen(place->model),
    };
    memcpy(f.head->id, p->id, sizeof p->id);
    memcpy(f.head->path, place->model, strlen(place->model));
    return f;
}

/* The sum that belongs into head.check. */
static uint64_t front_check(const struct front *f) {
    struct packed_head *h = f->head;
    uint64_t kept = h->check;
    h->check = 0;
    uint64_t sum = XXH3_64bits(h, f->bytes);
    h->check = kept;
    return sum;
}

/* ---- reading ---- */

/* The payload of an open file, at an address that huge pages can have; NULL: errno. */
static void *map_payload(int fd, const struct packed_head *h) {
    const size_t bytes = h->payload_bytes, room = bytes + HUGE_PAGE;
    char *at = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED)
        return NULL;
    char *begin = at + (HUGE_PAGE - (uintptr_t)at % HUGE_PAGE) % HUGE_PAGE;
    void *got = mmap(begin, bytes, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, (off_t)h->payload_at);
    if (got == MAP_FAILED) {
        munmap(at, room);
        return NULL;
    }
    /* What is left of the room on both sides. */
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), used = (bytes + page - 1) / page * page;
    if (begin > at)
        munmap(at, (size_t)(begin - at));
    munmap(begin + used, room - (size_t)(begin - at) - used);
    madvise(begin, bytes, MADV_HUGEPAGE);    /* for pages that are yet to be read from the disk */
    return begin;
}

struct verify { const unsigned char *at; const struct front *f; _Atomic bool bad; };

static size_t block_bytes(const struct packed_head *h, int64_t block) {
    size_t before = (size_t)block * BLOCK_BYTES;
    return MIN((size_t)h->payload_bytes - before, (size_t)BLOCK_BYTES);
}

/* Pages are asked for in one call, which fails, rather than a read that kills, where the disk
 * does or the file became shorter. A kernel that does not know the call reads them one by one. */
static void verify_blocks(void *to, int64_t begin, int64_t end) {
    struct verify *v = to;
    for (int64_t i = begin; i < end && !v->bad; i++) {
        const unsigned char *at = v->at + i * BLOCK_BYTES;
        size_t bytes = block_bytes(v->f->head, i);
        if ((madvise((void *)(uintptr_t)at, bytes, MADV_POPULATE_READ) && errno != EINVAL) ||
            XXH3_64bits(at, bytes) != v->f->sum[i])
            v->bad = true;
    }
}

/* Only a plain file of this user, or of the system's, can be what we wrote. */
static bool is_ours(int fd, uint64_t bytes) {
    struct stat st;
    return !fstat(fd, &st) && S_ISREG(st.st_mode) && (uint64_t)st.st_size == bytes &&
           (st.st_uid == geteuid() || st.st_uid == 0);
}

struct opening { const struct packed_place *place; struct pool *pool; struct front *want;
                 struct packed got; };

/* The file's payload, if it is the one of this model and whole. */
static bool open_payload(struct opening *o) {
    struct packed_head *want = o->want->head;
    struct front is = { .head = mem_new(o->want->bytes), .bytes = o->want->bytes };
    is.sum = (uint64_t *)(void *)(is.head + 1);
    int fd = openat(o->place->dir, o->place->name,
                    O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    bool ok = fd >= 0 && is_ours(fd, want->payload_at + want->payload_bytes) &&
              pread(fd, is.head, is.bytes, 0) == (ssize_t)is.bytes &&
              is.head->check == front_check(&is);
    if (ok) {
        want->check = is.head->check;
        ok = !memcmp(want, is.head, sizeof *want);
        want->check = 0;
    }
    void *at = ok ? map_payload(fd, is.head) : NULL;
    if (at) {
        struct verify v = { .at = at, .f = &is };
        pool_run(o->pool, (int64_t)is.head->n_blocks, 1, verify_blocks, &v);
        if (v.bad)
            munmap(at, want->payload_bytes);
        else
            o->got = (struct packed){ .at = at, .bytes = want->payload_bytes };
    }
    if (fd >= 0)
        close(fd);
    free(is.head);
    return o->got.at != NULL;
}

static bool ready(void *to) {
    return open_payload(to);
}

/* ---- writing ---- */

struct writer {
    struct pool *pool;
    struct front *front;
    int fd;
    unsigned char *stage;
    size_t stage_bytes, used;        /* of the stage */
    size_t written;                  /* of the payload: where the stage begins */
    _Atomic int error;               /* errno of the first write that failed */
};

static int write_at(int fd, const void *from, size_t bytes, size_t at) {
    for (const char *p = from; bytes;) {
        ssize_t n = pwrite(fd, p, bytes, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n ? errno : ENOSPC;
        p += n, at += (size_t)n, bytes -= (size_t)n;
    }
    return 0;
}

static void write_blocks(void *to, int64_t begin, int64_t end) {
    struct writer *w = to;
    const struct packed_head *h = w->front->head;
    for (int64_t i = begin; i < end && !w->error; i++) {
        const size_t in_stage = (size_t)i * BLOCK_BYTES, at = w->written + in_stage;
        const size_t bytes = MIN(w->used - in_stage, (size_t)BLOCK_BYTES);
        w->front->sum[at / BLOCK_BYTES] = XXH3_64bits(w->stage + in_stage, bytes);
        int error = write_at(w->fd, w->stage + in_stage, bytes, (size_t)h->payload_at + at);
        if (error)
            w->error = error;
        else                         /* the disk begins now, so that fsync waits for less */
            sync_file_range(w->fd, (off_t)(h->payload_at + at), (off_t)bytes,
                            SYNC_FILE_RANGE_WRITE);
    }
}

/* Whole blocks of the stage go to the file, and with `last` the rest too. */
static void flush(struct writer *w, bool last) {
    size_t bytes = last ? w->used : w->used / BLOCK_BYTES * BLOCK_BYTES;
    pool_run(w->pool, (int64_t)n_blocks(bytes), 1, write_blocks, w);
    memmove(w->stage, w->stage + bytes, w->used - bytes);
    w->written += bytes;
    w->used -= bytes;
}

static void write_item(struct writer *w, const struct packed_item *i,
                       struct packed_progress *progress) {
    const int64_t panels = packed_panels(i);
    for (int64_t p = 0; p < panels && !w->error;) {
        size_t room = (w->stage_bytes - w->used) / i->panel_bytes;
        int64_t n = MIN(panels - p, (int64_t)room);
        /* Where panel 0 would lie. */
        uintptr_t to = (uintptr_t)w->stage + w->used - (size_t)p * i->panel_bytes;
        packed_fill(w->pool, i, (unsigned char *)to, p, p + n);
        w->used += (size_t)n * i->panel_bytes;
        p += n;
        packed_advance(progress, (size_t)n * i->panel_bytes);
        if (p < panels)
            flush(w, false);
    }
}

/* The whole payload, then the head: a part that has one is complete. */
static int write_all(struct writer *w, const struct pack_job *job, const struct packed_plan *p) {
    struct packed_head *h = w->front->head;
    struct packed_progress progress = { job, 0, p->bytes };
    const off_t bytes = (off_t)(h->payload_at + h->payload_bytes);
    /* Room is asked for before the work is done; a file system that cannot say is believed. */
    if (ftruncate(w->fd, 0) || (fallocate(w->fd, 0, 0, bytes) && errno != EOPNOTSUPP))
        return errno;
    for (size_t i = 0; i < p->n && !w->error; i++) {
        write_item(w, &p->item[i], &progress);
        job->let_go(job->to, p->item[i].w);
    }
    flush(w, true);
    if (w->error)
        return w->error;
    h->check = front_check(w->front);
    int error = write_at(w->fd, h, w->front->bytes, 0);
    h->check = 0;
    return error ? error : fsync(w->fd) ? errno : 0;
}

/* A limit on the size of files is told by a signal, which would end the program: this thread does
 * not take it now. Helpers of the pool take none ever. */
static int write_quietly(struct writer *w, const struct pack_job *job,
                         const struct packed_plan *p) {
    sigset_t size, before;
    sigemptyset(&size);
    sigaddset(&size, SIGXFSZ);
    pthread_sigmask(SIG_BLOCK, &size, &before);
    int error = write_all(w, job, p);
    while (sigtimedwait(&size, NULL, &(struct timespec){ 0 }) == SIGXFSZ)
        ;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

/* Room for a few blocks of each thread, and for the widest panel. */
static size_t stage_bytes(const struct pool *pool, const struct packed_plan *p) {
    size_t most = 0;
    for (size_t i = 0; i < p->n; i++)
        most = MAX(most, p->item[i].panel_bytes);
    size_t blocks = MAX((size_t)pool_threads(pool) * 2, (size_t)STAGE_BLOCKS_MIN);
    return blocks * BLOCK_BYTES + n_blocks(most) * BLOCK_BYTES;
}

static bool write_file(struct opening *o, int fd, const struct pack_job *job,
                       const struct packed_plan *p, struct err *err) {
    const double begin = clock_s();
    struct writer w = { .pool = o->pool, .front = o->want, .fd = fd,
                        .stage_bytes = stage_bytes(o->pool, p) };
    w.stage = mmap(NULL, w.stage_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int error = w.stage == MAP_FAILED ? ENOMEM : write_quietly(&w, job, p);
    if (w.stage != MAP_FAILED)
        munmap(w.stage, w.stage_bytes);
    const struct packed_place *place = o->place;
    if (!error && renameat(place->dir, place->part, place->dir, place->name))
        error = errno;
    if (!error) {
        o->got.at = map_payload(fd, o->want->head);
        o->got.bytes = p->bytes;
        error = o->got.at ? 0 : errno;
    } else {
        unlinkat(place->dir, place->part, 0);
    }
    if (error)
        return err_set(err, "packed weights: %s: %s", place->path, strerror(error));
    log_line(LOG_INFO, "packed %zu MiB of weights into %s in %.1f s", p->bytes >> 20, place->path,
             clock_s() - begin);
    packed_place_clean(place, o->want->head);
    return true;
}

struct packed packed_file(struct pool *pool, const struct pack_job *job,
                          const struct packed_plan *p, struct err *err) {
    struct packed_place place;
    struct opening o = { .place = &place, .pool = pool };
    if (!packed_place_open(&place, job->place.dir, job->model, err)) {
        packed_place_close(&place);
        return o.got;
    }
    struct front want = front_new(&place, p);
    o.want = &want;
    if (!open_payload(&o)) {
        int fd = packed_place_lock(&place, ready, &o, err);
        /* Whoever held the lock before may have written the file meanwhile. */
        if (fd >= 0 && open_payload(&o))
            unlinkat(place.dir, place.part, 0);
        else if (fd >= 0)
            write_file(&o, fd, job, p, err);
        if (fd >= 0)
            close(fd);
    }
    free(want.head);
    packed_place_close(&place);
    return o.got;
}
