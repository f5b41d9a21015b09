/* plan.c - divides a number of bytes into pages and slots.
 *
 * Wanted is room for seqs_max sequences of tokens_max; what does not fit shrinks every
 * group by the same share, down to what one sequence needs to move at all. */
#include "cache/plan.h"

#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

enum { PAGES_LIMIT = 1 << 26, SHARES = 1 << 20, SNAPSHOTS_MAX = 64 };

static int pages_of(int64_t tokens) {
    return (int)((tokens + CACHE_PAGE_TOKENS - 1) / CACHE_PAGE_TOKENS);
}

/* The first number in a file of the kernel's, after `key`; SIZE_MAX: no such thing. */
static size_t kernel_number(const char *path, const char *key) {
    char text[4096];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return SIZE_MAX;
    ssize_t got = read(fd, text, sizeof text - 1);
    close(fd);
    if (got <= 0) return SIZE_MAX;
    text[got] = 0;
    const char *at = strstr(text, key);
    if (!at) return SIZE_MAX;
    at += strlen(key);
    while (*at == ' ') at++;
    size_t digits = strspn(at, "0123456789");
    uint64_t n = 0;
    return str_u64((struct str){ at, digits }, SIZE_MAX, &n) ? (size_t)n : SIZE_MAX;
}

/* What this process may still use, by the machine and by its container. SIZE_MAX: unknown. */
static size_t free_bytes(void) {
    static const char *const limit[][2] = {
        { "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current" },
        { "/sys/fs/cgroup/memory/memory.limit_in_bytes",
          "/sys/fs/cgroup/memory/memory.usage_in_bytes" },
    };
    size_t kib = kernel_number("/proc/meminfo", "MemAvailable:");
    size_t least = SIZE_MAX;
    if (kib != SIZE_MAX && !mul_size(kib, 1024, &least)) least = SIZE_MAX;
    for (size_t i = 0; i < COUNT(limit); i++) {
        size_t max = kernel_number(limit[i][0], ""), used = kernel_number(limit[i][1], "");
        if (max == SIZE_MAX || used == SIZE_MAX) continue;
        least = MIN(least, max > used ? max - used : 0);
    }
    return least;
}

/* A window as long as the context is none. */
static int window_of(const struct state_need *l, int tokens_max) {
    return l->window > 0 && l->window < tokens_max ? l->window : 0;
}

/* Distinct windows, the shortest ones when there are too many: they save the most. The
 * other layers then count as full, which costs memory but no correctness. */
static void find_groups(struct plan *p, const struct state_need *layer, int n_layers,
                        int tokens_max) {
    int window[CACHE_GROUPS_MAX + 1], n = 0, last = 0;
    bool full = false;
    for (int i = 0; i < n_layers; i++)
        full |= layer[i].per_token && !window_of(&layer[i], tokens_max);
    while (n <= CACHE_GROUPS_MAX) {
        int next = INT_MAX;
        for (int i = 0; i < n_layers; i++) {
            int w = window_of(&layer[i], tokens_max);
            if (layer[i].per_token && w > last) next = MIN(next, w);
        }
        if (next == INT_MAX) break;
        window[n++] = last = next;
    }
    if (n + full > CACHE_GROUPS_MAX) {
        full = true;
        n = CACHE_GROUPS_MAX - 1;
    }
    if (full) p->window[p->n_groups++] = 0;
    for (int i = 0; i < n; i++) p->window[p->n_groups++] = window[i];
}

int plan_group(const struct plan *p, const struct state_need *l) {
    if (!l->per_token) return -1;
    int full = -1;
    for (int g = 0; g < p->n_groups; g++) {
        if (p->window[g] && p->window[g] == l->window) return g;
        if (!p->window[g]) full = g;
    }
    return full;
}

/* Reserves n * size bytes at *end, aligned. */
static bool place(size_t *end, size_t n, size_t size, size_t *at) {
    size_t bytes = 0, begin = 0;
    if (!add_size(*end, CACHE_ALIGN - 1, &begin) || !mul_size(n, size, &bytes)) return false;
    begin -= begin % CACHE_ALIGN;
    *at = begin;
    return add_size(begin, bytes, end);
}

size_t plan_tables_bytes(const struct plan *p) {
    size_t entries = (size_t)p->n_groups * (size_t)p->n_slots * (size_t)p->pages_max;
    return (entries + (size_t)p->n_slots) * sizeof(int);
}

bool plan_layout(const struct plan *p, const struct state_need *layer, int n_layers,
                 struct plan_layer *out, size_t *bytes) {
    size_t end = 0, tables = 0;
    for (int i = 0; i < n_layers; i++) {
        struct plan_layer l = { .group = plan_group(p, &layer[i]), .dtype = layer[i].dtype };
        if (l.group >= 0) {
            /* Pages begin where vector loads like them to. */
            if (!mul_size(layer[i].per_token, CACHE_PAGE_TOKENS, &l.page_bytes) ||
                !add_size(l.page_bytes, 63, &l.page_bytes)) return false;
            l.page_bytes -= l.page_bytes % 64;
            if (!place(&end, (size_t)p->pages[l.group], l.page_bytes, &l.pages_at)) return false;
        }
        if (layer[i].per_sequence) {
            if (!add_size(layer[i].per_sequence, 63, &l.slot_bytes)) return false;
            l.slot_bytes -= l.slot_bytes % 64;
            if (!place(&end, (size_t)(p->n_slots + p->n_snapshots), l.slot_bytes, &l.slots_at))
                return false;
        }
        if (out) out[i] = l;
    }
    if (!place(&end, plan_tables_bytes(p), 1, &tables)) return false;
    *bytes = end;
    return true;
}

struct sizes { int least[CACHE_GROUPS_MAX], wanted[CACHE_GROUPS_MAX]; };

static struct sizes pool_sizes(struct plan *p, const struct cache_options *o) {
    struct sizes s = { .least = { 0 } };
    for (int g = 0; g < p->n_groups; g++) {
        int64_t full = MIN((int64_t)o->seqs_max * p->pages_max, PAGES_LIMIT);
        int span = pages_of((int64_t)p->window[g] + o->rows_max) + 1;
        p->working[g] = p->window[g] ? MIN(span, p->pages_max) : p->pages_max;
        s.least[g] = p->window[g] ? p->working[g] : 1;
        /* As much again as the sequences hold, so that a prefix outlives its window. */
        s.wanted[g] = (int)(p->window[g] ? MIN(2 * (int64_t)o->seqs_max * span, full) : full);
    }
    return s;
}

/* The pages for a share of what is wanted; false: more than `budget` bytes, or overflow. */
static bool try_share(struct plan *p, const struct sizes *s, int share,
                      const struct state_need *layer, int n_layers, size_t budget) {
    for (int g = 0; g < p->n_groups; g++) {
        int64_t more = s->wanted[g] - s->least[g];
        p->pages[g] = (int)(s->least[g] + MAX(more, 0) * share / SHARES);
    }
    return plan_layout(p, layer, n_layers, NULL, &p->bytes) && p->bytes <= budget;
}

static bool in_range(const struct state_need *layer, int n_layers, const struct cache_options *o) {
    if (n_layers < 1 || o->seqs_max < 1 || o->seqs_max > 1 << 12 || o->tokens_max < 1 ||
        o->tokens_max > 1 << 28 || o->rows_max < 1 || o->rows_max > 1 << 20) return false;
    for (int i = 0; i < n_layers; i++)
        if (layer[i].window < 0) return false;
    return true;
}

/* Snapshots get a quarter of the budget at most; pages serve everyone. */
static int snapshots_wanted(const struct plan *p, const struct cache_options *o, size_t budget) {
    if (!o->reuse || !p->recurrent) return 0;
    int wanted = MIN(MAX(4 * o->seqs_max, 8), SNAPSHOTS_MAX);
    return (int)MIN((size_t)wanted, budget / 4 / p->slot_bytes);
}

/* A device's own memory is nobody else's: what is left serves what is made at its first use. */
static size_t budget_of(const struct cache_options *o, const char **why) {
    size_t half = o->bytes || o->device_free ? 0 : free_bytes();
    *why = o->bytes ? "allowed"
           : o->device_free ? "7/8 of the device's free memory" : "half of the free memory";
    if (o->bytes) return o->bytes;
    if (o->device_free) return o->device_free - o->device_free / 8;
    return half != SIZE_MAX ? half / 2 : half;
}

bool plan_make(struct plan *p, const struct state_need *layer, int n_layers,
               const struct cache_options *o, struct err *err) {
    *p = (struct plan){ .n_slots = o->seqs_max };
    if (!in_range(layer, n_layers, o))
        return err_set(err, "a cache of %d sequences of %d tokens, %d a step, is out of range",
                       o->seqs_max, o->tokens_max, o->rows_max);
    const char *why;
    size_t budget = budget_of(o, &why);
    p->pages_max = pages_of(o->tokens_max);
    find_groups(p, layer, n_layers, o->tokens_max);
    for (int i = 0; i < n_layers; i++)
        if (!add_size(p->slot_bytes, layer[i].per_sequence, &p->slot_bytes))
            return err_set(err, "the state of one sequence exceeds all memory");
    p->recurrent = p->slot_bytes > 0;
    struct sizes s = pool_sizes(p, o);

    p->n_snapshots = snapshots_wanted(p, o, budget);
    if (!try_share(p, &s, 0, layer, n_layers, budget)) {
        p->n_snapshots = 0;
        p->bytes = 0;
        if (!try_share(p, &s, 0, layer, n_layers, budget))
            return err_code(err, ERR_MEMORY, "a cache for %d sequences of up to %d tokens needs "
                            "at least %zu bytes, and %zu are %s", o->seqs_max, o->tokens_max,
                            p->bytes, budget, why);
    }
    int low = 0, high = SHARES;
    while (low < high) {
        int middle = low + (high - low + 1) / 2;
        if (try_share(p, &s, middle, layer, n_layers, budget)) low = middle;
        else high = middle - 1;
    }
    return try_share(p, &s, low, layer, n_layers, budget);
}
