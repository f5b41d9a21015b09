/* test_stuck.c - an engine that does not come back from a step: /health and /livez say so,
 * systemd's watchdog hears nothing, everything else goes on, and all is well when it is back. */
#include "../maker.h"
#include "api/api.h"
#include "client.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>

#include <cmocka.h>

static _Atomic bool hold, held;

/* Called inside of each step. */
static void on_layer(void *to, int layer, const struct tensor *x) {
    (void)to;
    (void)layer;
    (void)x;
    while (atomic_load(&hold)) {
        atomic_store(&held, true);
        usleep(1000);
    }
}

struct serving { struct server *server; struct engine *engine; struct sample_params sampling;
                 bool ok; };

static void *serving(void *to) {
    struct serving *s = to;
    struct err err = { 0 };
    s->ok = server_serve(s->server, s->engine, &s->sampling, &err);
    return NULL;
}

static int get(int port, const char *path, const char *says) {
    struct buf text = { 0 };
    struct reply r = { 0 };
    buf_format(&text, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", path);
    if (!client_ask(port, buf_view(&text), &r, 10)) fail_msg("%s: %s", path, r.bad);
    int status = r.status;
    if (!strstr(buf_c(&r.body), says)) fail_msg("%s: %d %s", path, status, r.body.at);
    reply_free(&r);
    buf_free(&text);
    return status;
}

/* Until the path has this status. */
static void await(int port, const char *path, int status) {
    for (double until = clock_s() + 20; clock_s() < until; usleep(5000))
        if (get(port, path, "") == status) return;
    fail_msg("%s: never %d", path, status);
}

static int n_notices(int fd) {
    char text[512];
    int n = 0;
    while (recv(fd, text, sizeof text, MSG_DONTWAIT) > 0) n++;
    return n;
}

static void test_stuck(void **state) {
    struct err err = { 0 };
    char *home = temp_dir();
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    snprintf(a.sun_path, sizeof a.sun_path, "%s/notify", home);
    int notify = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    (void)state;
    assert_int_equal(bind(notify, (const void *)&a, sizeof a), 0);
    struct engine_options e = { .dir = "models/demo", .threads = 1, .layer = on_layer };
    struct server_options o = { .model_path = "demo", .quiet = true, .stuck_s = 0.3,
                                .notify = a.sun_path, .watchdog_s = 0.2 };
    struct serving s = { .engine = engine_open(&e, &err), .server = server_open(&o, &err) };
    if (!s.engine || !s.server) fail_msg("%s", err.text);
    s.sampling = engine_sampling(s.engine);
    int port = server_port(s.server);
    pthread_t thread;
    pthread_create(&thread, NULL, serving, &s);
    await(port, "/health", 200);

    atomic_store(&hold, true);
    struct client c = { .fd = client_connect(port, NULL) };
    struct buf text = { 0 };
    struct reply r = { 0 };
    client_request(&text, "POST /v1/completions", "", S("{\"prompt\":\"A\",\"max_tokens\":2}"));
    client_send(&c, buf_view(&text), 10);
    for (double until = clock_s() + 20; !atomic_load(&held) && clock_s() < until;) usleep(1000);
    assert_true(atomic_load(&held));
    await(port, "/livez", 503);
    assert_int_equal(get(port, "/health", "has not ended a step"), 503);
    assert_int_equal(get(port, "/readyz", "has not ended a step"), 503);
    assert_int_equal(get(port, "/metrics", "\nmlxcel_engine_stepping 1\n"), 200);
    assert_int_equal(get(port, "/v1/models", "demo"), 200);
    n_notices(notify);
    usleep(600000);                    /* six of them would have come */
    assert_int_equal(n_notices(notify), 0);

    atomic_store(&hold, false);
    if (!client_reply(&c, &r, 20)) fail_msg("%s", r.bad);
    assert_int_equal(r.status, 200);
    await(port, "/livez", 200);
    await(port, "/health", 200);
    for (double until = clock_s() + 20; !n_notices(notify) && clock_s() < until;) usleep(5000);
    server_stop(s.server);
    pthread_join(thread, NULL);
    assert_true(s.ok);
    server_close(s.server);
    engine_close(s.engine);
    reply_free(&r);
    client_close(&c);
    buf_free(&text);
    close(notify);
    temp_free(home);
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_stuck) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
