/* workers.h - threads for what takes a moment: parsing, rendering, tokenizing. */
#pragma once
#include "base/base.h"

struct workers;
/* One thread for each CPU, but at least WORKERS_MIN and at most WORKERS_MAX. */
enum { WORKERS_MIN = 4, WORKERS_MAX = 8 };
int workers_wanted(void);
struct workers *workers_open(int n_threads, int queue_max);
void workers_close(struct workers *);                     /* what was taken is done first */
/* False: the queue is full. `big`: it takes long. Such things never hold more than half of the
 * threads (but one at least), so that small ones need not wait for them. */
bool workers_do(struct workers *, void (*run)(void *), void *to, bool big);
