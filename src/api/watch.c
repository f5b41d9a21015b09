/* watch.c - epoll over the sockets of clients that wait, edge-triggered, and a slow clock. */
#include "api/watch.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { TICK_MS = 250, EVENTS = 64 };

struct watch {
    int epoll, wake;
    pthread_t thread;
    _Atomic bool closing;
    void (*event)(void *to, uint64_t key, enum watch_event);
    void (*tick)(void *to);
    void *to;
};

static void *watching(void *arg) {
    struct watch *w = arg;
    double next = clock_s();
    while (!atomic_load(&w->closing)) {
        struct epoll_event e[EVENTS];
        double wait = (next - clock_s()) * 1e3;
        int n = epoll_wait(w->epoll, e, EVENTS, wait > 0 ? (int)wait + 1 : 0);
        bool woken = false;
        for (int i = 0; i < n; i++) {
            uint64_t key = e[i].data.u64;
            if (!key) woken = true;
            else if (e[i].events & (EPOLLERR | EPOLLHUP)) w->event(w->to, key, WATCH_GONE);
            else if (e[i].events & EPOLLRDHUP) w->event(w->to, key, WATCH_HALF);
        }
        uint64_t count;
        if (woken && read(w->wake, &count, sizeof count) < 0) woken = false;
        if (!woken && clock_s() < next) continue;
        w->tick(w->to);
        next = clock_s() + TICK_MS * 1e-3;
    }
    return NULL;
}

struct watch *watch_open(void (*event)(void *to, uint64_t key, enum watch_event),
                         void (*tick)(void *to), void *to, struct err *err) {
    struct watch *w = mem_new(sizeof *w);
    struct epoll_event wake = { .events = EPOLLIN };      /* key 0 is ours */
    *w = (struct watch){ .event = event, .tick = tick, .to = to };
    w->epoll = epoll_create1(EPOLL_CLOEXEC);
    w->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    bool ok = w->epoll >= 0 && w->wake >= 0 &&
              !epoll_ctl(w->epoll, EPOLL_CTL_ADD, w->wake, &wake) &&
              !pthread_create(&w->thread, NULL, watching, w);
    if (ok) return w;
    err_set(err, "the watcher of connections did not start: %s", strerror(errno));
    if (w->epoll >= 0) close(w->epoll);
    if (w->wake >= 0) close(w->wake);
    free(w);
    return NULL;
}

void watch_wake(struct watch *w) {
    static const uint64_t one = 1;
    ssize_t n = write(w->wake, &one, sizeof one);
    (void)n;                           /* full means that it is awake already */
}

void watch_close(struct watch *w) {
    if (!w) return;
    atomic_store(&w->closing, true);
    watch_wake(w);
    pthread_join(w->thread, NULL);
    close(w->epoll);
    close(w->wake);
    free(w);
}

void watch_add(struct watch *w, int fd, uint64_t key) {
    struct epoll_event e = { .events = EPOLLRDHUP | EPOLLET, .data.u64 = key };
    epoll_ctl(w->epoll, EPOLL_CTL_ADD, fd, &e);
}

void watch_remove(struct watch *w, int fd) {
    epoll_ctl(w->epoll, EPOLL_CTL_DEL, fd, NULL);
}
