/* metrics.h - counters and histograms of the server, for /metrics and the log. Lock-free to
 * add to; any thread. */
#pragma once
#include "api/exchange.h"

struct metrics;
/* All counters at zero. */
struct metrics *metrics_open(void);
void metrics_close(struct metrics *);

void metrics_reply(struct metrics *, const struct route *, int status, double seconds);
/* A choice came to its end. */
struct choice;
void metrics_choice(struct metrics *, const struct choice *);
void metrics_gap(struct metrics *, double seconds);       /* between two tokens of one choice */
void metrics_cancelled(struct metrics *, const char *stage);     /* "queue", "prefill", "decode" */
void metrics_write(struct metrics *, struct server *, struct buf *);
