/* metrics.c - counters and histograms of the server. Adding is lock-free. */
#include "api/metrics.h"
#include "api/server.h"

#include <stdlib.h>
#include <string.h>

enum { STATUS_CLASSES = 6, STAGES = 3 };

struct metrics {
    _Atomic uint64_t replies[STATUS_CLASSES];     /* by the first digit of the status */
    _Atomic uint64_t choices, cancelled[STAGES];
};

struct metrics *metrics_open(void) {
    return mem_new(sizeof(struct metrics));
}

void metrics_close(struct metrics *m) {
    free(m);
}

void metrics_reply(struct metrics *m, const struct route *route, int status, double seconds) {
    (void)route;
    (void)seconds;
    int class = status / 100;
    if (class > 0 && class < STATUS_CLASSES) atomic_fetch_add(&m->replies[class], 1);
}

void metrics_choice(struct metrics *m, const struct choice *o) {
    (void)o;
    atomic_fetch_add(&m->choices, 1);
}

void metrics_gap(struct metrics *m, double seconds) {
    (void)m;
    (void)seconds;
}

void metrics_cancelled(struct metrics *m, const char *stage) {
    static const char *const name[STAGES] = { "queue", "prefill", "decode" };
    for (int i = 0; i < STAGES; i++)
        if (!strcmp(stage, name[i])) atomic_fetch_add(&m->cancelled[i], 1);
}
