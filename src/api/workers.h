/* workers.h - threads for what takes a moment: parsing, rendering, tokenizing. */
#pragma once
#include "base/base.h"

struct workers;
struct workers *workers_open(int n_threads, int queue_max);
void workers_close(struct workers *);                     /* what was taken is done first */
bool workers_do(struct workers *, void (*run)(void *), void *to);    /* false: queue full */
