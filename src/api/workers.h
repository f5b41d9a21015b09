/* workers.h - threads for what takes a moment: parsing, rendering, tokenizing. */
#pragma once
#include "base/base.h"

struct workers;
/* One thread for each CPU, but at least WORKERS_MIN and at most WORKERS_MAX. */
enum { WORKERS_MIN = 4, WORKERS_MAX = 8 };
int workers_wanted(void);
struct workers *workers_open(int n_threads, int queue_max);
/* What was taken is done first; nothing more is taken. NULL: nothing. */
void workers_stop(struct workers *);
void workers_close(struct workers *);          /* after workers_stop; NULL: nothing */
/* False: the queue is full, or the workers have stopped. `big`: it takes long. Such things never
 * hold more than half of the threads (but one at least), so that small ones need not wait. */
bool workers_do(struct workers *, void (*run)(void *), void *to, bool big);
