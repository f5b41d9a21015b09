/* metrics.h - counters and histograms of the server, for /metrics and the log. Lock-free to
 * add to; any thread. metrics_write.c has the table of names under which they are shown. */
#pragma once
#include "api/exchange.h"
#include "engine.h"

#include <stdatomic.h>

struct metrics;
struct choice;
/* All counters at zero. */
struct metrics *metrics_open(void);
void metrics_close(struct metrics *);

/* status 499: the client left before the reply was whole. */
void metrics_reply(struct metrics *, const struct route *, int status, double seconds);
/* A choice came to its end. */
void metrics_choice(struct metrics *, const struct choice *);
void metrics_gap(struct metrics *, double seconds);       /* between two tokens of one choice */
void metrics_cancelled(struct metrics *, const char *stage);     /* "queue", "prefill", "decode" */
/* What the engine has counted before the first request: the warm-up. Called once. */
void metrics_base(struct metrics *, const struct engine_stats *);
bool metrics_has_engine(const struct metrics *);          /* that was called */
void metrics_write(struct metrics *, struct server *, struct buf *);

/* ---- for metrics_write.c and docs ---- */

enum { BOUNDS_MAX = 48, STATUSES = 24, STAGES = 3 };
enum reason { REASON_STOP, REASON_LENGTH, REASON_TOOLS, REASON_CANCELLED, REASON_ERROR, REASONS };
enum unit { UNIT_SECONDS, UNIT_TOKENS };

/* One scale of bounds serves all histograms of a unit; each name shows some of them. `shown` are
 * bits of enum scale. */
enum scale { SCALE_OURS = 1, SCALE_FIRST = 2, SCALE_GAP = 4, SCALE_REQUEST = 8 };
struct bound { uint64_t value; const char *text; unsigned shown; };   /* value: in microseconds */
extern const struct bound seconds_bounds[], tokens_bounds[];
extern const int n_seconds_bounds, n_tokens_bounds;

/* Sums are in nanoseconds, or in tokens; bucket i counts what is in (bound[i - 1], bound[i]]. */
struct histogram { _Atomic uint64_t bucket[BOUNDS_MAX + 1], sum; };

enum histogram_id { H_FIRST, H_GAP, H_REQUEST, H_QUEUE, H_PREFILL, H_DECODE, H_INFERENCE,
                    H_PROMPT, H_GENERATION, HISTOGRAMS };

extern const char *const reason_names[REASONS], *const stage_names[STAGES];
extern const short known_status[STATUSES];     /* the last, 0, stands for all others */

struct route_counts { _Atomic uint64_t status[STATUSES]; struct histogram seconds; };

struct metrics {
    struct histogram histogram[HISTOGRAMS];
    _Atomic uint64_t finished[REASONS], cancelled[STAGES];
    _Atomic uint64_t tokens_max;     /* of one sequence */
    struct route_counts *route;      /* by row of the table; the last one: no route */
    struct engine_stats base;
    _Atomic bool has_base;
};

enum metric_kind { METRIC_COUNTER, METRIC_GAUGE, METRIC_HISTOGRAM };
struct metric_writer;
struct metric {
    const char *name;
    enum metric_kind kind;
    const char *help;
    void (*write)(struct metric_writer *, const struct metric *);
    int what;                        /* of `write`: which value, which histogram */
    unsigned shown;                  /* of a histogram: enum scale */
};
extern const struct metric metric_table[];
extern const int n_metrics;
