/* test_threads.c - the pool runs every piece once, and quotas are read as the kernel writes
 * them. */
#include "base/threads.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

enum { N_MAX = 1000 };

struct seen {
    int64_t n, grain;
    int threads;
    _Atomic int hits[N_MAX], working[5];         /* by its index: no two threads have one */
    _Atomic int bad_pieces;
};

static void mark(void *to, int64_t begin, int64_t end) {
    struct seen *s = to;
    if (begin % s->grain != 0 || end <= begin || end > s->n
        || (end - begin != s->grain && end != s->n))
        s->bad_pieces++;
    const int me = pool_index();
    if (me < 0 || me >= s->threads || s->working[me]++)
        s->bad_pieces++;
    for (int64_t i = begin; i < end; i++)
        s->hits[i]++;
    if (me >= 0 && me < s->threads)
        s->working[me]--;
}

static void every_piece_runs_once(void **state) {
    (void)state;
    static const int64_t ns[] = { 0, 1, 2, 7, 64, 999, N_MAX };
    static const int64_t grains[] = { 1, 3, 64, 5000 };
    for (int threads = 1; threads <= 5; threads++) {
        struct pool *p = pool_open(threads);
        assert_int_equal(pool_threads(p), threads);
        for (size_t i = 0; i < COUNT(ns); i++) {
            for (size_t j = 0; j < COUNT(grains); j++) {
                struct seen s = { .n = ns[i], .grain = grains[j], .threads = threads };
                pool_run(p, s.n, s.grain, mark, &s);
                assert_int_equal(s.bad_pieces, 0);
                for (int64_t k = 0; k < N_MAX; k++)
                    assert_int_equal(s.hits[k], k < s.n);
            }
        }
        pool_close(p);
    }
}

struct sum {
    int64_t parts[64];
    int64_t factor;
};

static void fill(void *to, int64_t begin, int64_t end) {
    struct sum *s = to;
    for (int64_t i = begin; i < end; i++)
        s->parts[i] = s->factor * i;
}

/* Runs follow each other with no pause, on plain memory: a helper that still works on the last
 * run, or takes a piece with the arguments of another, shows up here and under TSan. */
static void runs_do_not_mix(void **state) {
    (void)state;
    struct pool *p = pool_open(4);
    for (int64_t round = 1; round <= 20000; round++) {
        struct sum s = { .factor = round };
        int64_t n = 2 + round % 63, total = 0;
        pool_run(p, n, 1 + round % 3, fill, &s);
        for (int64_t i = 0; i < n; i++)
            total += s.parts[i];
        assert_int_equal(total, round * n * (n - 1) / 2);
        if (round % 5000 == 0)
            usleep(2000);            /* long enough for the helpers to fall asleep */
    }
    pool_close(p);
    pool_close(NULL);
}

struct held { _Atomic int64_t ended; int64_t n; _Atomic bool holds; };

/* The first piece to begin ends as the last. */
static void hold_one(void *to, int64_t begin, int64_t end) {
    struct held *h = to;
    if (!atomic_exchange(&h->holds, true))
        while (h->ended < h->n - 1)
            usleep(100);
    h->ended += end - begin;
}

/* A thread that lost its processor in the middle of a piece: the rest of its share is done by the
 * others. A pool that left it to its owner would wait here until the alarm. */
static void one_thread_stops_no_other(void **state) {
    (void)state;
    alarm(60);
    for (int threads = 2; threads <= 5; threads++) {
        struct pool *p = pool_open(threads);
        for (int64_t n = 2; n < 100; n += 7) {
            struct held h = { .n = n };
            pool_run(p, n, 1, hold_one, &h);
            assert_int_equal(h.ended, n);
        }
        pool_close(p);
    }
    alarm(0);
}

static void count(void *to, int64_t begin, int64_t end) {
    unsigned char *hits = to;
    for (int64_t i = begin; i < end; i++)
        hits[i]++;
}

/* More pieces than a share's word can number. */
static void very_many_pieces(void **state) {
    (void)state;
    const int64_t n = 300001;
    unsigned char *hits = mem_new((size_t)n);
    struct pool *p = pool_open(3);
    pool_run(p, n, 1, count, hits);
    pool_run(p, n, 3, count, hits);
    for (int64_t i = 0; i < n; i++)
        assert_int_equal(hits[i], 2);
    pool_close(p);
    free(hits);
}

static void put(const char *root, const char *name, const char *text) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", root, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void quotas_are_read(void **state) {
    (void)state;
    char root[] = "/tmp/test_threads_XXXXXX", path[512];
    assert_non_null(mkdtemp(root));
    static const char *const dirs[] = { "a", "a/b", "a/free", "cpu", "cpu/x" };
    for (size_t i = 0; i < COUNT(dirs); i++) {
        snprintf(path, sizeof path, "%s/%s", root, dirs[i]);
        assert_int_equal(mkdir(path, 0700), 0);
    }
    static const char *const files[][2] = {
        { "a/cpu.max", "350000 100000\n" },
        { "a/b/cpu.max", "800000 100000\n" },
        { "a/free/cpu.max", "max 100000\n" },
        { "cpu/cpu.cfs_quota_us", "-1\n" },
        { "cpu/cpu.cfs_period_us", "100000\n" },
        { "cpu/x/cpu.cfs_quota_us", "200000\n" },
        { "cpu/x/cpu.cfs_period_us", "100000\n" },
    };
    for (size_t i = 0; i < COUNT(files); i++)
        put(root, files[i][0], files[i][1]);

    static const struct { const char *groups; int want; } cases[] = {
        { "0::/a\n", 4 },                            /* 3.5, rounded up */
        { "0::/a/b\n", 4 },                          /* the parent is tighter */
        { "0::/a/free\n", 4 },
        { "0::/\n", 0 },
        { "0::/not/mounted\n", 0 },
        { "0::/a/not/mounted\n", 4 },
        { "3:cpu,cpuacct:/x\n0::/\n", 2 },
        { "4:cpuset:/x\n3:cpuacct,cpu:/\n0::/\n", 0 },
        { "4:cpuset:/x\n", 0 },
        { "3:cpu:/x\n0::/a\n", 2 },
        { "", 0 },
        { "junk\n:\n0:\n", 0 },
    };
    for (size_t i = 0; i < COUNT(cases); i++)
        assert_int_equal(threads_quota(root, str_of(cases[i].groups)), cases[i].want);

    put(root, "a/cpu.max", "100000 0\n");
    assert_int_equal(threads_quota(root, S("0::/a\n")), 0);
    put(root, "a/cpu.max", "99999999999999999999 100000\n");
    assert_int_equal(threads_quota(root, S("0::/a\n")), 0);

    for (size_t i = COUNT(files); i-- > 0;) {
        snprintf(path, sizeof path, "%s/%s", root, files[i][0]);
        unlink(path);
    }
    for (size_t i = COUNT(dirs); i-- > 0;) {
        snprintf(path, sizeof path, "%s/%s", root, dirs[i]);
        rmdir(path);
    }
    assert_int_equal(rmdir(root), 0);
    assert_true(threads_available() >= 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_piece_runs_once),
        cmocka_unit_test(runs_do_not_mix),
        cmocka_unit_test(one_thread_stops_no_other),
        cmocka_unit_test(very_many_pieces),
        cmocka_unit_test(quotas_are_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
