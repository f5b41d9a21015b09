/* workers.c - a few threads and two bounded rings of things to do, for small and for big ones. */
#include "api/workers.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

struct item { void (*run)(void *); void *to; };
struct ring { struct item *at; size_t first, n; };

struct workers {
    pthread_mutex_t lock;
    pthread_cond_t more;
    struct ring small, big;          /* [max] each */
    size_t max;                      /* of both together */
    int n_big, big_max;              /* big ones that run */
    bool closing;
    pthread_t thread[WORKERS_MAX];
    int n_threads;
};

int workers_wanted(void) {
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return (int)MIN(MAX(n, WORKERS_MIN), WORKERS_MAX);
}

/* Under the lock: what this thread shall do next; NULL: nothing for now. Small ones go first. */
static struct ring *next_ring(struct workers *w) {
    if (w->small.n) return &w->small;
    return w->big.n && w->n_big < w->big_max ? &w->big : NULL;
}

static void *working(void *arg) {
    struct workers *w = arg;
    pthread_mutex_lock(&w->lock);
    for (;;) {
        struct ring *r;
        while (!(r = next_ring(w)) && !w->closing) pthread_cond_wait(&w->more, &w->lock);
        if (!r) break;                 /* who runs a big one takes the next one of them, too */
        struct item i = r->at[r->first];
        bool big = r == &w->big;
        r->first = (r->first + 1) % w->max;
        r->n--;
        w->n_big += big;
        pthread_mutex_unlock(&w->lock);
        i.run(i.to);
        pthread_mutex_lock(&w->lock);
        w->n_big -= big;
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

/* Signals are for the main thread. */
static bool start(struct workers *w) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    bool ok = !pthread_create(&w->thread[w->n_threads], NULL, working, w);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (ok) w->n_threads++;
    return ok;
}

struct workers *workers_open(int n_threads, int queue_max) {
    struct workers *w = mem_new(sizeof *w);
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->more, NULL);
    w->max = (size_t)queue_max;
    w->small.at = mem_array(w->max, sizeof *w->small.at);
    w->big.at = mem_array(w->max, sizeof *w->big.at);
    w->big_max = MAX(MIN(n_threads, WORKERS_MAX) / 2, 1);
    for (int i = 0; i < n_threads && i < WORKERS_MAX; i++)
        if (!start(w)) break;
    if (w->n_threads) return w;
    workers_close(w);
    return NULL;
}

void workers_stop(struct workers *w) {
    if (!w) return;
    pthread_mutex_lock(&w->lock);
    w->closing = true;
    pthread_cond_broadcast(&w->more);
    pthread_mutex_unlock(&w->lock);
    for (int i = 0; i < w->n_threads; i++) pthread_join(w->thread[i], NULL);
}

void workers_close(struct workers *w) {
    if (!w) return;
    pthread_cond_destroy(&w->more);
    pthread_mutex_destroy(&w->lock);
    free(w->small.at);
    free(w->big.at);
    free(w);
}

bool workers_do(struct workers *w, void (*run)(void *), void *to, bool big) {
    pthread_mutex_lock(&w->lock);
    bool room = !w->closing && w->small.n + w->big.n < w->max;
    struct ring *r = big ? &w->big : &w->small;
    if (room) {
        r->at[(r->first + r->n++) % w->max] = (struct item){ run, to };
        pthread_cond_signal(&w->more);
    }
    pthread_mutex_unlock(&w->lock);
    return room;
}
