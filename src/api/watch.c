/* watch.c - epoll over the sockets of clients that wait, edge-triggered; a slow clock; a timer. */
#include "api/watch.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum { TICK_MS = 250, EVENTS = 64, KEY_WAKE = 0, KEY_SOON = 1,
       KEY_LISTEN = 2 };

struct watch {
    int epoll, wake, timer;
    pthread_t thread;
    _Atomic bool closing, armed;
    struct watch_calls calls;
    void *to;
};

/* Disarmed first: who comes from now on is not seen by this call, and arms it again. */
static void on_timer(struct watch *w) {
    uint64_t count;
    atomic_store(&w->armed, false);
    if (read(w->timer, &count, sizeof count) > 0) w->calls.soon(w->to);
}

static void on_socket(struct watch *w, const struct epoll_event *e) {
    if (e->events & (EPOLLERR | EPOLLHUP)) w->calls.event(w->to, e->data.u64, WATCH_GONE);
    else if (e->events & EPOLLRDHUP) w->calls.event(w->to, e->data.u64, WATCH_HALF);
}

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
            if (key == KEY_WAKE) woken = true;
            else if (key == KEY_SOON) on_timer(w);
            else if (key <= UINT32_MAX) w->calls.knock(w->to, (int)key - KEY_LISTEN);
            else on_socket(w, &e[i]);
        }
        uint64_t count;
        if (woken && read(w->wake, &count, sizeof count) < 0) woken = false;
        double late = clock_s() - next;
        if (!woken && late < 0) continue;
        w->calls.tick(w->to, MAX(late, 0));
        next = clock_s() + TICK_MS * 1e-3;
    }
    return NULL;
}

struct watch *watch_open(const struct watch_calls *calls, void *to, struct err *err) {
    struct watch *w = mem_new(sizeof *w);
    struct epoll_event wake = { .events = EPOLLIN, .data.u64 = KEY_WAKE };
    struct epoll_event timer = { .events = EPOLLIN, .data.u64 = KEY_SOON };
    *w = (struct watch){ .calls = *calls, .to = to };
    w->epoll = epoll_create1(EPOLL_CLOEXEC);
    w->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    w->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    bool ok = w->epoll >= 0 && w->wake >= 0 && w->timer >= 0 &&
              !epoll_ctl(w->epoll, EPOLL_CTL_ADD, w->timer, &timer) &&
              !epoll_ctl(w->epoll, EPOLL_CTL_ADD, w->wake, &wake) &&
              !pthread_create(&w->thread, NULL, watching, w);
    if (ok) return w;
    err_set(err, "the watcher of connections did not start: %s", strerror(errno));
    if (w->epoll >= 0) close(w->epoll);
    if (w->wake >= 0) close(w->wake);
    if (w->timer >= 0) close(w->timer);
    free(w);
    return NULL;
}

void watch_wake(struct watch *w) {
    static const uint64_t one = 1;
    ssize_t n = write(w->wake, &one, sizeof one);
    (void)n;                           /* full means that it is awake already */
}

void watch_soon(struct watch *w, int ms) {
    struct itimerspec once = { .it_value = { ms / 1000, ms % 1000 * 1000000L } };
    if (!atomic_exchange(&w->armed, true)) timerfd_settime(w->timer, 0, &once, NULL);
}

void watch_stop(struct watch *w) {
    if (!w) return;
    atomic_store(&w->closing, true);
    watch_wake(w);
    pthread_join(w->thread, NULL);
}

void watch_close(struct watch *w) {
    if (!w) return;
    close(w->epoll);
    close(w->wake);
    close(w->timer);
    free(w);
}

void watch_add(struct watch *w, int fd, uint64_t key) {
    struct epoll_event e = { .events = EPOLLRDHUP | EPOLLET, .data.u64 = key };
    /* Either way what has happened already is told, once more if need be. */
    if (epoll_ctl(w->epoll, EPOLL_CTL_MOD, fd, &e)) epoll_ctl(w->epoll, EPOLL_CTL_ADD, fd, &e);
}

void watch_listen(struct watch *w, int fd, int index, bool on) {
    uint64_t key = (uint64_t)index + KEY_LISTEN;
    struct epoll_event e = { .events = EPOLLIN | EPOLLET, .data.u64 = key };
    epoll_ctl(w->epoll, on ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, fd, &e);
}

void watch_remove(struct watch *w, int fd) {
    epoll_ctl(w->epoll, EPOLL_CTL_DEL, fd, NULL);
}
