/* threads.h - a pool that runs one function over a range, and how many threads
 * this process may use. */
#pragma once
#include "base/base.h"

/* From affinity mask and cgroup quota (v1 and v2), at least 1. */
int threads_available(void);

/* The processors a quota in `groups`, the text of /proc/self/cgroup, allows; `root` is where
 * cgroups are mounted. A part of one counts as one. 0: no quota. */
int threads_quota(const char *root, struct str groups);

struct pool;
struct pool *pool_open(int n_threads);                    /* n - 1 helpers; the caller is one */
void pool_close(struct pool *);
int pool_threads(const struct pool *);

/* Which of its pool's threads this one is, 0 for a caller: finds what threads do not share. */
int pool_index(void);

/* run(to, begin, end) over [0, n) in pieces of `grain` (the last may be smaller),
 * on all threads, returning when all are done; a piece never crosses a multiple of
 * `grain`. Which thread runs a piece is not fixed, so a result must not depend on
 * it. Not reentrant, and for one caller at a time. */
void pool_run(struct pool *, int64_t n, int64_t grain,
              void (*run)(void *to, int64_t begin, int64_t end), void *to);
