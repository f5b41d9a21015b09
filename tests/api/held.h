/* held.h - a server inside of the test, whose engine takes a step only when the test lets it: what
 * happens between two steps can be looked at without any clock. */
#pragma once
#include "../maker.h"
#include "api/server.h"
#include "client.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>

#include <cmocka.h>

enum { HELD_FREE = 1 << 30, HELD_SECONDS = 100 };

static _Atomic int held_permits = HELD_FREE;         /* steps that may still begin */
static _Atomic int held_steps;                       /* that have begun */
static _Atomic bool held_waits;                      /* one wants to begin and may not */

/* Called inside of each step; the first layer stands for the step. */
static void held_layer(void *to, int layer, const struct tensor *x) {
    (void)to;
    (void)x;
    if (layer) return;
    while (atomic_load(&held_permits) <= 0) {
        atomic_store(&held_waits, true);
        usleep(500);
    }
    atomic_store(&held_waits, false);
    if (atomic_load(&held_permits) < HELD_FREE) atomic_fetch_sub(&held_permits, 1);
    atomic_fetch_add(&held_steps, 1);
}

struct held { struct server *server; struct engine *engine; struct sample_params sampling;
              pthread_t thread; int port; bool ok; };

static void *held_serving(void *to) {
    struct held *h = to;
    struct err err = { 0 };
    h->ok = server_serve(h->server, h->engine, &h->sampling, &err);
    return NULL;
}

/* Whether `holds` comes true before a time that no sane machine needs. */
#define AWAIT(holds) do { \
        double until_ = clock_s() + HELD_SECONDS; \
        while (!(holds) && clock_s() < until_) usleep(1000); \
        if (!(holds)) fail_msg("never: %s", #holds); \
    } while (0)

static void held_open(struct held *h, const struct engine_options *e, struct server_options *o) {
    struct err err = { 0 };
    struct engine_options with = *e;
    with.dir = "models/demo";
    with.threads = 1;
    with.no_reuse = true;
    with.layer = held_layer;
    o->model_path = "demo";
    o->quiet = true;
    *h = (struct held){ .engine = engine_open(&with, &err), .server = server_open(o, &err) };
    if (!h->engine || !h->server) fail_msg("%s", err.text);
    h->sampling = engine_sampling(h->engine);
    h->port = server_port(h->server);
    pthread_create(&h->thread, NULL, held_serving, h);
    AWAIT(atomic_load(&h->server->state) == SERVER_READY);
}

static void held_close(struct held *h) {
    atomic_store(&held_permits, HELD_FREE);
    server_stop(h->server);
    pthread_join(h->thread, NULL);
    assert_true(h->ok);
    server_close(h->server);
    engine_close(h->engine);
}

/* The body of a completion of so many prompt tokens. */
static void held_body(struct buf *to, int n_prompt, int n_answer, bool stream) {
    buf_format(to, "{\"max_tokens\":%d,\"ignore_eos\":true,\"stream\":%s,\"prompt\":[", n_answer,
               stream ? "true" : "false");
    for (int i = 0; i < n_prompt; i++) buf_format(to, "%s%d", i ? "," : "", 20 + i % 50);
    buf_str(to, S("]}"));
}

static struct client held_ask(const struct held *h, int n_prompt, int n_answer, bool stream) {
    struct client c = { .fd = client_connect(h->port, NULL) };
    struct buf body = { 0 }, text = { 0 };
    held_body(&body, n_prompt, n_answer, stream);
    client_request(&text, "POST /v1/completions", "", buf_view(&body));
    assert_true(c.fd >= 0 && client_send(&c, buf_view(&text), HELD_SECONDS));
    buf_free(&body);
    buf_free(&text);
    return c;
}

/* The status of a GET; `page`: its body is put there. */
static int held_get(const struct held *h, const char *path, struct buf *page) {
    struct buf text = { 0 };
    struct reply r = { 0 };
    buf_format(&text, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", path);
    if (!client_ask(h->port, buf_view(&text), &r, HELD_SECONDS)) fail_msg("%s: %s", path, r.bad);
    int status = r.status;
    if (page) buf_clear(page), buf_str(page, buf_view(&r.body));
    reply_free(&r);
    buf_free(&text);
    return status;
}

/* A number of /metrics, by the beginning of its line. */
static long held_number(const struct held *h, const char *line) {
    struct buf page = { 0 };
    long n = 0;
    assert_int_equal(held_get(h, "/metrics", &page), 200);
    const char *at = buf_c(&page);
    while (at && strncmp(at, line, strlen(line))) at = strchr(at, '\n') ? strchr(at, '\n') + 1 : 0;
    if (!at) fail_msg("no %s in %s", line, page.at);
    for (at += strlen(line); isdigit((unsigned char)*at); at++) n = n * 10 + *at - '0';
    buf_free(&page);
    return n;
}

/* Lets the engine go on until it is about to begin one more step. */
static void held_step_on(int n) {
    int before = atomic_load(&held_steps);
    atomic_fetch_add(&held_permits, n);
    AWAIT(atomic_load(&held_steps) == before + n && atomic_load(&held_waits));
}
