/* metrics.c - what the server counts: lock-free additions to counters and histograms.
 *
 * A histogram's bounds are whole microseconds or tokens and its sum is a whole number, so that one
 * atomic addition each is enough, no addition is lost, and the same requests give the same text. */
#include "api/metrics.h"
#include "api/server.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The bounds that vLLM's dashboards expect of each kind of time, and finer ones for ours. */
#define O SCALE_OURS
#define F SCALE_FIRST
#define G SCALE_GAP
#define R SCALE_REQUEST
const struct bound seconds_bounds[] = {
    { 500, "0.0005", O }, { 1000, "0.001", O | F }, { 2500, "0.0025", O },
    { 5000, "0.005", O | F }, { 10000, "0.01", O | F | G }, { 20000, "0.02", F },
    { 25000, "0.025", O | G }, { 40000, "0.04", F }, { 50000, "0.05", O | G },
    { 60000, "0.06", F }, { 75000, "0.075", G }, { 80000, "0.08", F },
    { 100000, "0.1", O | F | G }, { 150000, "0.15", G }, { 200000, "0.2", G },
    { 250000, "0.25", O | F }, { 300000, "0.3", G | R }, { 400000, "0.4", G },
    { 500000, "0.5", O | F | G | R }, { 750000, "0.75", F | G }, { 800000, "0.8", R },
    { 1000000, "1.0", O | F | G | R }, { 1500000, "1.5", R }, { 2000000, "2.0", R },
    { 2500000, "2.5", O | F | G | R }, { 5000000, "5.0", O | F | G | R },
    { 7500000, "7.5", F | G }, { 10000000, "10.0", O | F | G | R }, { 15000000, "15.0", R },
    { 20000000, "20.0", F | G | R }, { 30000000, "30.0", O | R },
    { 40000000, "40.0", F | G | R }, { 50000000, "50.0", R }, { 60000000, "60.0", O | R },
    { 80000000, "80.0", F | G }, { 120000000, "120.0", O | R }, { 160000000, "160.0", F },
    { 240000000, "240.0", R }, { 480000000, "480.0", R }, { 640000000, "640.0", F },
    { 960000000, "960.0", O | R }, { 1920000000, "1920.0", R }, { 2560000000, "2560.0", F },
    { 7680000000, "7680.0", O | R },
};
#undef O
#undef F
#undef G
#undef R
const int n_seconds_bounds = COUNT(seconds_bounds);
_Static_assert(COUNT(seconds_bounds) <= BOUNDS_MAX, "a histogram has place for every bound");

const struct bound tokens_bounds[] = {
    { 1, "1.0", 15 }, { 2, "2.0", 15 }, { 5, "5.0", 15 }, { 10, "10.0", 15 },
    { 20, "20.0", 15 }, { 50, "50.0", 15 }, { 100, "100.0", 15 }, { 200, "200.0", 15 },
    { 500, "500.0", 15 }, { 1000, "1000.0", 15 }, { 2000, "2000.0", 15 },
    { 5000, "5000.0", 15 }, { 10000, "10000.0", 15 }, { 20000, "20000.0", 15 },
    { 50000, "50000.0", 15 }, { 100000, "100000.0", 15 }, { 200000, "200000.0", 15 },
    { 500000, "500000.0", 15 }, { 1000000, "1000000.0", 15 },
};
const int n_tokens_bounds = COUNT(tokens_bounds);

const char *const reason_names[REASONS] = { "stop", "length", "tool_calls", "cancelled",
                                            "error" };
const char *const stage_names[STAGES] = { "queue", "prefill", "decode" };
const short known_status[STATUSES] = { 200, 204, 400, 401, 403, 404, 405, 408, 411, 413, 414, 415,
                                       417, 422, 429, 431, 499, 500, 501, 503, 504, 505, 529, 0 };

struct metrics *metrics_open(void) {
    struct metrics *m = mem_new(sizeof *m);
    m->route = mem_array((size_t)n_routes + 1, sizeof *m->route);
    return m;
}

void metrics_close(struct metrics *m) {
    if (!m) return;
    free(m->route);
    free(m);
}

static void add(_Atomic uint64_t *to, uint64_t n) {
    atomic_fetch_add_explicit(to, n, memory_order_relaxed);
}

/* The first bound that is not below the value; n: none. */
static int bucket_of(const struct bound *bound, int n, uint64_t value) {
    int low = 0;
    for (int high = n; low < high;) {
        int middle = (low + high) / 2;
        if (bound[middle].value < value) low = middle + 1;
        else high = middle;
    }
    return low;
}

static void add_seconds(struct histogram *h, double seconds) {
    uint64_t ns = seconds > 0 ? (uint64_t)llround(MIN(seconds, 1e9) * 1e9) : 0;
    /* A bound belongs to its bucket, so a part of a microsecond is one more. */
    add(&h->bucket[bucket_of(seconds_bounds, n_seconds_bounds, (ns + 999) / 1000)], 1);
    add(&h->sum, ns);
}

static void add_tokens(struct histogram *h, int n) {
    uint64_t tokens = (uint64_t)MAX(n, 0);
    add(&h->bucket[bucket_of(tokens_bounds, n_tokens_bounds, tokens)], 1);
    add(&h->sum, tokens);
}

void metrics_reply(struct metrics *m, const struct route *route, int status, double seconds) {
    struct route_counts *r = &m->route[route ? route - routes : n_routes];
    int i = 0;
    while (i < STATUSES - 1 && known_status[i] != status) i++;
    add(&r->status[i], 1);
    add_seconds(&r->seconds, seconds);
}

static enum reason reason_of(const struct choice *o) {
    if (o->finish == FINISH_CANCELLED) return REASON_CANCELLED;
    if (o->finish == FINISH_ERROR) return REASON_ERROR;
    if (o->finish == FINISH_LENGTH) return REASON_LENGTH;
    return o->n_tools ? REASON_TOOLS : REASON_STOP;
}

void metrics_choice(struct metrics *m, const struct choice *o) {
    struct histogram *h = m->histogram;
    add(&m->finished[reason_of(o)], 1);
    add_seconds(&h[H_REQUEST], clock_s() - o->call->x->begun_s);
    add_seconds(&h[H_QUEUE], o->queue_s);
    if (o->prefill_s > 0) add_seconds(&h[H_PREFILL], o->prefill_s);
    if (o->n_generated) {
        add_seconds(&h[H_FIRST], o->first_token_s);
        add_seconds(&h[H_DECODE], o->decode_s);
    }
    add_seconds(&h[H_INFERENCE], o->prefill_s + o->decode_s);
    add_tokens(&h[H_PROMPT], o->n_prompt);
    add_tokens(&h[H_GENERATION], o->n_generated);
    uint64_t n = (uint64_t)MAX(o->n_prompt + o->n_generated, 0);
    for (uint64_t max = atomic_load(&m->tokens_max);
         n > max && !atomic_compare_exchange_weak(&m->tokens_max, &max, n);)
        continue;
}

void metrics_gap(struct metrics *m, double seconds) {
    add_seconds(&m->histogram[H_GAP], seconds);
}

void metrics_cancelled(struct metrics *m, const char *stage) {
    for (int i = 0; i < STAGES; i++)
        if (!strcmp(stage, stage_names[i])) add(&m->cancelled[i], 1);
}

void metrics_base(struct metrics *m, const struct engine_stats *now) {
    m->base = *now;
    atomic_store(&m->has_base, true);
}

bool metrics_has_engine(const struct metrics *m) {
    return atomic_load(&m->has_base);
}
