/* test_workers.c - the server's workers: small things do not wait for big ones, nothing is lost,
 * the queue has an end. */
#include "api/workers.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

enum { THREADS = 4, BIG = 10, SMALL = 50, QUEUE = 64 };

static _Atomic bool hold;
static _Atomic int n_big, n_big_most, n_big_done, n_small_done;

static void run_big(void *to) {
    int n = atomic_fetch_add(&n_big, 1) + 1, most = atomic_load(&n_big_most);
    while (n > most && !atomic_compare_exchange_weak(&n_big_most, &most, n)) continue;
    while (atomic_load(&hold)) usleep(500);
    atomic_fetch_sub(&n_big, 1);
    atomic_fetch_add(&n_big_done, 1);
    (void)to;
}

static void run_small(void *to) {
    (void)to;
    atomic_fetch_add(&n_small_done, 1);
}

static bool await(_Atomic int *n, int value) {
    for (double until = clock_s() + 60; atomic_load(n) != value && clock_s() < until;) usleep(500);
    return atomic_load(n) == value;
}

/* More big ones than threads, all of them stuck: the small ones that come later are done. */
static void test_small_beside_big(void **state) {
    (void)state;
    struct workers *w = workers_open(THREADS, QUEUE);
    assert_non_null(w);
    atomic_store(&hold, true);
    for (int i = 0; i < BIG; i++) assert_true(workers_do(w, run_big, NULL, true));
    assert_true(await(&n_big, THREADS / 2));
    for (int i = 0; i < SMALL; i++) assert_true(workers_do(w, run_small, NULL, false));
    assert_true(await(&n_small_done, SMALL));
    assert_int_equal(atomic_load(&n_big_done), 0);
    /* Those that wait count for the end of the queue, whatever their kind. */
    int n = 0;
    while (n < 2 * QUEUE && workers_do(w, run_big, NULL, true)) n++;
    assert_int_equal(n, QUEUE - (BIG - THREADS / 2));
    assert_false(workers_do(w, run_small, NULL, false));
    atomic_store(&hold, false);
    workers_stop(w);                   /* does what was taken */
    assert_false(workers_do(w, run_small, NULL, false));
    assert_int_equal(atomic_load(&n_big_done), BIG + n);
    assert_int_equal(atomic_load(&n_big_most), THREADS / 2);
    workers_close(w);
}

static void test_one_thread(void **state) {
    (void)state;
    atomic_store(&n_big_done, 0);
    struct workers *w = workers_open(1, QUEUE);
    for (int i = 0; i < BIG; i++) assert_true(workers_do(w, run_big, NULL, true));
    workers_stop(w);
    workers_close(w);
    assert_int_equal(atomic_load(&n_big_done), BIG);
    assert_in_range(workers_wanted(), WORKERS_MIN, WORKERS_MAX);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_small_beside_big), cmocka_unit_test(test_one_thread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
