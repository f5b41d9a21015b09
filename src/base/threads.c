/* threads.c - the thread pool and the count of processors we may use.
 *
 * A run is a ticket: its number in the high half, the next piece in the low
 * half of one word. A helper takes a piece by advancing the ticket it read, so
 * a late one, still looking at an earlier run, takes nothing, and the caller
 * never waits for a helper that took no piece. Idle helpers spin for some tens
 * of microseconds, the pause between two ops, and then sleep. */
#include "base/threads.h"

#include <assert.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    CPUS_MAX = 8192,
    THREADS_MAX = 1024,
    CGROUP_FILE_MAX = 16 << 10,
    SPINS = 4000,
    STACK_BYTES = 2 << 20            /* kernels keep tiles of some 100 KiB on it */
};

/* No piece has this number: nothing can be taken. */
#define CLOSED UINT32_MAX

typedef void run_fn(void *to, int64_t begin, int64_t end);

struct pool {
    _Alignas(64) _Atomic uint64_t ticket;
    _Alignas(64) _Atomic int64_t done;       /* pieces of this run that have ended */
    /* The run, atomic because a late helper may read it while the next one is written. What
     * it read counts only if the ticket is still the one it read before, so the ticket is
     * closed first: a helper that sees a new value (acquire) sees the closed ticket too. */
    _Alignas(64) _Atomic int64_t n, grain;
    _Atomic(run_fn *) run;
    _Atomic(void *) to;
    _Atomic bool stop, busy;
    _Atomic int sleeping;
    int n_helpers;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    pthread_t *helpers;
};

#if defined __x86_64__ || defined __i386__
#define PAUSE "pause"
#elif defined __aarch64__
#define PAUSE "yield"
#else
#define PAUSE ""
#endif

static void relax(void) {
    __asm__ volatile(PAUSE);
}

/* Takes and runs pieces of the run that `ticket` belongs to until none is left. */
static void work(struct pool *p) {
    uint64_t ticket = atomic_load_explicit(&p->ticket, memory_order_acquire);
    const uint64_t id = ticket >> 32;
    while (ticket >> 32 == id) {
        int64_t piece = (int64_t)(ticket & UINT32_MAX);
        int64_t n = atomic_load_explicit(&p->n, memory_order_acquire);
        int64_t grain = atomic_load_explicit(&p->grain, memory_order_acquire);
        run_fn *run = atomic_load_explicit(&p->run, memory_order_acquire);
        void *to = atomic_load_explicit(&p->to, memory_order_acquire);
        if (grain < 1 || piece >= (n + grain - 1) / grain)
            return;
        if (!atomic_compare_exchange_weak_explicit(&p->ticket, &ticket, ticket + 1,
                                                   memory_order_acq_rel, memory_order_acquire))
            continue;
        run(to, piece * grain, MIN(n, (piece + 1) * grain));
        atomic_fetch_add_explicit(&p->done, 1, memory_order_release);
        ticket = atomic_load_explicit(&p->ticket, memory_order_acquire);
    }
}

/* Until there is a run later than `seen`. False: the pool closes. */
static bool await_run(struct pool *p, uint64_t seen) {
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(&p->stop, memory_order_acquire))
            return false;
        if (atomic_load_explicit(&p->ticket, memory_order_acquire) >> 32 != seen)
            return true;
        relax();
    }
    /* Whoever publishes a run looks at `sleeping` after it wrote the ticket, and we look at the
     * ticket after we wrote `sleeping`, both sequentially consistent: one sees the other. */
    pthread_mutex_lock(&p->lock);
    atomic_fetch_add(&p->sleeping, 1);
    while (!atomic_load(&p->stop) && atomic_load(&p->ticket) >> 32 == seen)
        pthread_cond_wait(&p->wake, &p->lock);
    atomic_fetch_sub(&p->sleeping, 1);
    pthread_mutex_unlock(&p->lock);
    return !atomic_load(&p->stop);
}

static void *helper(void *arg) {
    struct pool *p = arg;
    uint64_t seen = 0;
    while (await_run(p, seen)) {
        seen = atomic_load_explicit(&p->ticket, memory_order_acquire) >> 32;
        work(p);
    }
    return NULL;
}

static void wake_sleepers(struct pool *p) {
    if (atomic_load(&p->sleeping) == 0)
        return;
    pthread_mutex_lock(&p->lock);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
}

struct pool *pool_open(int n_threads) {
    n_threads = MAX(1, MIN(n_threads, THREADS_MAX));
    struct pool *p = aligned_alloc(64, sizeof *p);
    if (!p)
        abort();
    memset(p, 0, sizeof *p);
    p->helpers = mem_array((size_t)n_threads, sizeof *p->helpers);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    /* Signals are for the threads that wait for input: a Ctrl-C that a helper took would not
     * interrupt their read. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    /* A system that refuses another thread leaves us with fewer, which is slower, not wrong. */
    while (p->n_helpers < n_threads - 1
           && pthread_create(&p->helpers[p->n_helpers], &attr, helper, p) == 0)
        p->n_helpers++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    return p;
}

void pool_close(struct pool *p) {
    if (!p)
        return;
    atomic_store(&p->stop, true);
    wake_sleepers(p);
    for (int i = 0; i < p->n_helpers; i++)
        pthread_join(p->helpers[i], NULL);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
    free(p->helpers);
    free(p);
}

int pool_threads(const struct pool *p) {
    return p->n_helpers + 1;
}

void pool_run(struct pool *p, int64_t n, int64_t grain, run_fn *run, void *to) {
    assert(grain > 0 && n <= INT64_MAX - grain);
    if (n <= 0)
        return;
    int64_t pieces = (n + grain - 1) / grain;
    assert(pieces < INT32_MAX);
    if (pieces == 1 || p->n_helpers == 0) {
        for (int64_t begin = 0; begin < n; begin += grain)
            run(to, begin, MIN(n, begin + grain));
        return;
    }
    bool busy = atomic_exchange(&p->busy, true);
    assert(!busy && "pool_run inside pool_run");
    (void)busy;
    uint64_t id = (atomic_load_explicit(&p->ticket, memory_order_relaxed) >> 32) + 1;
    atomic_store(&p->ticket, (id - 1) << 32 | CLOSED);
    atomic_store_explicit(&p->n, n, memory_order_release);
    atomic_store_explicit(&p->grain, grain, memory_order_release);
    atomic_store_explicit(&p->run, run, memory_order_release);
    atomic_store_explicit(&p->to, to, memory_order_release);
    atomic_store_explicit(&p->done, 0, memory_order_relaxed);
    atomic_store(&p->ticket, id << 32);
    wake_sleepers(p);
    work(p);
    for (int i = 0; atomic_load_explicit(&p->done, memory_order_acquire) < pieces;) {
        if (i < SPINS) {
            relax();
            i++;
        } else {
            sched_yield();           /* a helper lost its processor: lend it ours */
        }
    }
    atomic_store(&p->busy, false);
}

/* The first bytes of a small file of /proc or /sys, terminated; empty when there is none. */
static void read_small(const char *path, char *text, size_t size) {
    size_t len = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    for (ssize_t got; fd >= 0 && len < size - 1; len += (size_t)got)
        if ((got = read(fd, text + len, size - 1 - len)) <= 0)
            break;
    if (fd >= 0)
        close(fd);
    text[len] = 0;
}

/* Decimal digits at the front of *text, which moves past them and the white space after.
 * False: none ("max", "-1"). */
static bool take_u64(struct str *text, uint64_t *value) {
    size_t digits = 0, end;
    while (digits < text->len && text->at[digits] >= '0' && text->at[digits] <= '9')
        digits++;
    if (!str_u64(str_cut(*text, 0, digits), INT64_MAX, value))
        return false;
    for (end = digits; end < text->len && (text->at[end] == ' ' || text->at[end] == '\n'); end++)
        ;
    *text = str_from(*text, end);
    return true;
}

static int cpus(uint64_t quota, uint64_t period) {
    if (quota == 0 || period == 0)
        return 0;
    uint64_t n = quota / period + (quota % period != 0);
    return n < INT_MAX ? (int)n : INT_MAX;
}

/* Quota of one group, 0: none. v2 has "quota period" in one file, v1 a file for each. */
static int group_quota(const char *dir, bool v2) {
    char path[2 * PATH_MAX + 64], text[128];
    uint64_t quota, period;
    snprintf(path, sizeof path, "%s/%s", dir, v2 ? "cpu.max" : "cpu.cfs_quota_us");
    read_small(path, text, sizeof text);
    struct str rest = str_of(text);
    if (!take_u64(&rest, &quota))
        return 0;
    if (!v2) {
        snprintf(path, sizeof path, "%s/cpu.cfs_period_us", dir);
        read_small(path, text, sizeof text);
        rest = str_of(text);
    }
    return take_u64(&rest, &period) ? cpus(quota, period) : 0;
}

/* The tightest quota of a group and all above it. In a container the path may name a group of
 * the host that is not mounted here; then the levels that are missing say nothing. */
static int path_quota(const char *mount, struct str path, bool v2) {
    int least = 0;
    for (;;) {
        char dir[2 * PATH_MAX];
        snprintf(dir, sizeof dir, "%s%.*s", mount, (int)MIN(path.len, PATH_MAX - 1), path.at);
        int n = group_quota(dir, v2);
        if (n > 0 && (least == 0 || n < least))
            least = n;
        if (path.len == 0)
            return least;
        do
            path.len--;
        while (path.len > 0 && path.at[path.len] != '/');
    }
}

/* True when `name` is one of the comma-separated controllers. */
static bool lists(struct str controllers, const char *name) {
    while (controllers.len > 0) {
        const char *comma = memchr(controllers.at, ',', controllers.len);
        size_t len = comma ? (size_t)(comma - controllers.at) : controllers.len;
        if (str_is(str_cut(controllers, 0, len), name))
            return true;
        controllers = str_from(controllers, len + 1);
    }
    return false;
}

int threads_quota(const char *root, struct str groups) {
    int least = 0;
    while (groups.len > 0) {
        const char *newline = memchr(groups.at, '\n', groups.len);
        size_t len = newline ? (size_t)(newline - groups.at) : groups.len;
        struct str line = str_cut(groups, 0, len);
        groups = str_from(groups, len + 1);

        /* number:controllers:path, with no controllers in v2 */
        const char *first = line.len ? memchr(line.at, ':', line.len) : NULL;
        if (!first)
            continue;
        struct str rest = str_from(line, (size_t)(first - line.at) + 1);
        const char *second = rest.len ? memchr(rest.at, ':', rest.len) : NULL;
        if (!second)
            continue;
        struct str names = str_cut(rest, 0, (size_t)(second - rest.at));
        struct str path = str_from(rest, names.len + 1);
        bool v2 = names.len == 0;
        if (!v2 && !lists(names, "cpu"))
            continue;
        char mount[PATH_MAX - 1];
        snprintf(mount, sizeof mount, "%s%s", root, v2 ? "" : "/cpu");
        int n = path_quota(mount, path, v2);
        if (n > 0 && (least == 0 || n < least))
            least = n;
    }
    return least;
}

int threads_available(void) {
    int n = 0;
    size_t size = CPU_ALLOC_SIZE(CPUS_MAX);
    cpu_set_t *set = CPU_ALLOC(CPUS_MAX);
    if (set && sched_getaffinity(0, size, set) == 0)
        n = CPU_COUNT_S(size, set);
    CPU_FREE(set);
    char groups[CGROUP_FILE_MAX];
    read_small("/proc/self/cgroup", groups, sizeof groups);
    int quota = threads_quota("/sys/fs/cgroup", str_of(groups));
    if (quota > 0)
        n = MIN(n, quota);
    return MAX(1, MIN(n, THREADS_MAX));
}
