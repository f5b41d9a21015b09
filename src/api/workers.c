/* workers.c - a few threads and a bounded ring of things to do. */
#include "api/workers.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

enum { THREADS_MAX = 8 };

struct item { void (*run)(void *); void *to; };

struct workers {
    pthread_mutex_t lock;
    pthread_cond_t more;
    struct item *ring;
    size_t first, n, max;
    bool closing;
    pthread_t thread[THREADS_MAX];
    int n_threads;
};

static void *working(void *arg) {
    struct workers *w = arg;
    pthread_mutex_lock(&w->lock);
    for (;;) {
        while (!w->n && !w->closing) pthread_cond_wait(&w->more, &w->lock);
        if (!w->n) break;
        struct item i = w->ring[w->first];
        w->first = (w->first + 1) % w->max;
        w->n--;
        pthread_mutex_unlock(&w->lock);
        i.run(i.to);
        pthread_mutex_lock(&w->lock);
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
    w->ring = mem_array(w->max, sizeof *w->ring);
    for (int i = 0; i < n_threads && i < THREADS_MAX; i++)
        if (!start(w)) break;
    if (w->n_threads) return w;
    workers_close(w);
    return NULL;
}

void workers_close(struct workers *w) {
    if (!w) return;
    pthread_mutex_lock(&w->lock);
    w->closing = true;
    pthread_cond_broadcast(&w->more);
    pthread_mutex_unlock(&w->lock);
    for (int i = 0; i < w->n_threads; i++) pthread_join(w->thread[i], NULL);
    pthread_cond_destroy(&w->more);
    pthread_mutex_destroy(&w->lock);
    free(w->ring);
    free(w);
}

bool workers_do(struct workers *w, void (*run)(void *), void *to) {
    pthread_mutex_lock(&w->lock);
    bool room = w->n < w->max;
    if (room) {
        w->ring[(w->first + w->n++) % w->max] = (struct item){ run, to };
        pthread_cond_signal(&w->more);
    }
    pthread_mutex_unlock(&w->lock);
    return room;
}
