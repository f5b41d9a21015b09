/* threads.c - the thread pool and the count of processors we may use.
 *
 * Every thread has a share of each run, always the same part of the range, so that it finds in its
 * caches and on its memory node what it read last time, as one stream. Who has done its own share
 * goes on with what is left of the others': a thread that lost its processor holds up one piece.
 * Idle helpers spin for some tens of microseconds, the pause between two ops, and then sleep. */
#include "base/threads.h"

#include <assert.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    CPUS_MAX = 8192,
    THREADS_MAX = 1024,
    CGROUP_FILE_MAX = 16 << 10,
    SPINS_A_LOOK = 64,               /* pauses between two looks at the clock */
    STACK_BYTES = 2 << 20,           /* kernels keep tiles of some 100 KiB on it */
    PIECE_BITS = 16                  /* 48 for the number of a run: it never comes round */
};

#define SPIN_S 1e-4
#define PIECES_MAX ((int64_t)1 << PIECE_BITS)

typedef void run_fn(void *to, int64_t begin, int64_t end);

/* A run, atomic because a late helper may read it while a later one is written. */
struct run {
    _Alignas(64) _Atomic int64_t n, grain;
    _Atomic(run_fn *) run;
    _Atomic(void *) to;
};

/* How far a share is: the number of the run above, the next piece below. A number that is not
 * this run's says that nobody has taken a piece yet: the first to come begins it. */
struct share { _Alignas(64) _Atomic uint64_t at; };

struct pool {
    /* The last run's number. A reader that finds the same number after it read runs[number % 2]
     * has read that run: the same place is written again only two runs later. */
    _Alignas(64) _Atomic uint64_t number;
    _Atomic uint32_t wake;           /* changes when sleepers are woken */
    struct run runs[2];
    _Alignas(64) _Atomic int64_t done;       /* pieces of this run that have ended */
    _Atomic int sleeping;
    _Atomic bool stop, busy;
    int n_helpers;
    struct helper { struct pool *pool; int index; pthread_t thread; } *helpers;
    struct share *shares;            /* [n_helpers + 1]; the caller's is the first */
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

static void futex(_Atomic uint32_t *word, int what, uint32_t value) {
    syscall(SYS_futex, word, what | FUTEX_PRIVATE_FLAG, value, NULL, NULL, 0);
}

/* The next piece of the share [first, end) in run `number`; -1: none is left, or it is over. */
static int64_t take(struct share *s, uint64_t number, int64_t first, int64_t end) {
    uint64_t at = atomic_load_explicit(&s->at, memory_order_relaxed);
    for (;;) {
        uint64_t of = at >> PIECE_BITS;
        int64_t piece = of == number ? (int64_t)(at & (uint64_t)(PIECES_MAX - 1)) : first;
        if (of > number || piece >= end)
            return -1;
        uint64_t next = number << PIECE_BITS | (uint64_t)(piece + 1);
        if (atomic_compare_exchange_weak_explicit(&s->at, &at, next, memory_order_relaxed,
                                                  memory_order_relaxed))
            return piece;
    }
}

/* Runs pieces of run `number`, those of the share `mine` first, until none is left. A helper that
 * comes when that run is over finds its number gone, or all of its shares done: while a piece
 * that somebody took is not counted in `done`, no other run begins. */
static void work(struct pool *p, uint64_t number, int mine) {
    const struct run *r = &p->runs[number % 2];
    const int64_t n = atomic_load_explicit(&r->n, memory_order_acquire);
    const int64_t grain = atomic_load_explicit(&r->grain, memory_order_acquire);
    run_fn *run = atomic_load_explicit(&r->run, memory_order_acquire);
    void *to = atomic_load_explicit(&r->to, memory_order_acquire);
    if (atomic_load_explicit(&p->number, memory_order_acquire) != number)
        return;
    const int64_t pieces = (n + grain - 1) / grain;
    const int threads = p->n_helpers + 1;
    int64_t done = 0, piece;
    for (int i = 0; i < threads; i++) {
        int owner = mine + i < threads ? mine + i : mine + i - threads;
        int64_t first = pieces * owner / threads, end = pieces * (owner + 1) / threads;
        while ((piece = take(&p->shares[owner], number, first, end)) >= 0) {
            run(to, piece * grain, MIN(n, (piece + 1) * grain));
            done++;
        }
    }
    if (done)
        atomic_fetch_add_explicit(&p->done, done, memory_order_release);
}

/* Until there is a run later than `seen`, whose number it returns. 0: the pool closes. */
static uint64_t await_run(struct pool *p, uint64_t seen) {
    double begin = clock_s();
    do
        for (int i = 0; i < SPINS_A_LOOK; i++) {
            uint64_t number = atomic_load_explicit(&p->number, memory_order_acquire);
            if (atomic_load_explicit(&p->stop, memory_order_relaxed))
                return 0;
            if (number != seen)
                return number;
            relax();
        }
    while (clock_s() - begin < SPIN_S);
    /* Whoever begins a run looks at `sleeping` after it wrote the number, and we look at the
     * number after we wrote `sleeping`, both sequentially consistent: one sees the other. And
     * `wake` changes before the call that wakes, so a sleep that would begin after it does not. */
    atomic_fetch_add(&p->sleeping, 1);
    uint32_t wake = atomic_load(&p->wake);
    while (!atomic_load(&p->stop) && atomic_load(&p->number) == seen) {
        futex(&p->wake, FUTEX_WAIT, wake);
        wake = atomic_load(&p->wake);
    }
    atomic_fetch_sub(&p->sleeping, 1);
    return atomic_load(&p->stop) ? 0 : atomic_load(&p->number);
}

static _Thread_local int thread_index;

int pool_index(void) {
    return thread_index;
}

static void *helper(void *arg) {
    const struct helper *h = arg;
    thread_index = h->index;
    for (uint64_t seen = 0; (seen = await_run(h->pool, seen)) != 0;)
        work(h->pool, seen, h->index);
    return NULL;
}

static void wake_sleepers(struct pool *p) {
    if (atomic_load(&p->sleeping) == 0)
        return;
    atomic_fetch_add(&p->wake, 1);
    futex(&p->wake, FUTEX_WAKE, INT_MAX);
}

struct pool *pool_open(int n_threads) {
    n_threads = MAX(1, MIN(n_threads, THREADS_MAX));
    struct pool *p = aligned_alloc(64, sizeof *p);
    struct share *shares = aligned_alloc(64, (size_t)n_threads * sizeof *shares);
    if (!p || !shares)
        abort();
    memset(p, 0, sizeof *p);
    memset(shares, 0, (size_t)n_threads * sizeof *shares);
    p->shares = shares;
    p->helpers = mem_array((size_t)n_threads, sizeof *p->helpers);
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    /* Signals are for the threads that wait for input: a Ctrl-C that a helper took would not
     * interrupt their read. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    /* A system that refuses another thread leaves us with fewer, which is slower, not wrong. No
     * run begins before all are counted, so none of them sees the count change. */
    int n = 0;
    for (; n < n_threads - 1; n++) {
        struct helper *h = &p->helpers[n];
        *h = (struct helper){ .pool = p, .index = n + 1 };
        if (pthread_create(&h->thread, &attr, helper, h) != 0)
            break;
    }
    p->n_helpers = n;
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
        pthread_join(p->helpers[i].thread, NULL);
    free(p->helpers);
    free(p->shares);
    free(p);
}

int pool_threads(const struct pool *p) {
    return p->n_helpers + 1;
}

/* At most PIECES_MAX pieces, which is what a share's word has room for. */
static void run_pieces(struct pool *p, int64_t n, int64_t grain, run_fn *run, void *to) {
    const int64_t pieces = (n + grain - 1) / grain;
    const uint64_t number = atomic_load_explicit(&p->number, memory_order_relaxed) + 1;
    struct run *r = &p->runs[number % 2];
    atomic_store_explicit(&r->n, n, memory_order_release);
    atomic_store_explicit(&r->grain, grain, memory_order_release);
    atomic_store_explicit(&r->run, run, memory_order_release);
    atomic_store_explicit(&r->to, to, memory_order_release);
    atomic_store_explicit(&p->done, 0, memory_order_relaxed);
    atomic_store(&p->number, number);
    wake_sleepers(p);
    work(p, number, 0);
    for (int i = 0; atomic_load_explicit(&p->done, memory_order_acquire) < pieces;) {
        if (i < SPINS_A_LOOK * SPINS_A_LOOK) {
            relax();
            i++;
        } else {
            sched_yield();           /* a helper lost its processor: lend it ours */
        }
    }
}

struct shifted { run_fn *run; void *to; int64_t by; };

static void run_shifted(void *to, int64_t begin, int64_t end) {
    const struct shifted *s = to;
    s->run(s->to, begin + s->by, end + s->by);
}

void pool_run(struct pool *p, int64_t n, int64_t grain, run_fn *run, void *to) {
    assert(grain > 0 && n <= INT64_MAX - grain);
    if (n <= grain || p->n_helpers == 0) {
        for (int64_t begin = 0; begin < n; begin += grain)
            run(to, begin, MIN(n, begin + grain));
        return;
    }
    bool busy = atomic_exchange(&p->busy, true);
    assert(!busy && "pool_run inside pool_run");
    (void)busy;
    struct shifted s = { run, to, 0 };
    const int64_t most = grain > INT64_MAX / PIECES_MAX ? n : grain * (PIECES_MAX - 1);
    if (n <= most)
        run_pieces(p, n, grain, run, to);
    else
        for (; s.by < n; s.by += most)
            run_pieces(p, MIN(most, n - s.by), grain, run_shifted, &s);
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
