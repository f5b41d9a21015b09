/* test_leaving.c - clients that leave, in every state of their request and in every way: the
 * request is over before the next step of the engine, and nobody else notices. And a device that
 * fails, which all of them notice.
 *
 * Rows CC-03, HT-12 and HT-13 of the catalogue. The engine stands still while a client leaves, so
 * steps are counted and no time is. */
#include "engine_inside.h"
#include "held.h"

enum way { CLOSES, RESETS, VANISHES };
enum where { IN_QUEUE, IN_PREFILL, IN_DECODE };

enum { CHUNK = 16, LONG_PROMPT = 20 * CHUNK };

static void see_left(void *to, struct call *c) {
    *(int *)to += atomic_load(&c->cancelled);
}

static int n_left(const struct held *h) {
    int n = 0;
    calls_each(h->server, see_left, &n);
    return n;
}

static int n_running(const struct held *h) { return atomic_load(&h->server->n_running); }

/* As when its machine stops: no packet says so. What is sent to it then is answered with a
 * reset. Wants a capability; without it the client closes. */
static void vanish(struct client *c) {
    int on = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_REPAIR, &on, sizeof on);
    client_close(c);
}

static void leave(const struct held *h, struct client *c, enum way way, bool stream) {
    if (way == RESETS) client_reset(c);
    /* Whoever vanishes is only noticed when something is sent, which for a reply that is not a
     * stream are the kernel's probes. */
    else if (way == VANISHES && stream) vanish(c);
    else client_close(c);
    (void)h;
}

static void leaves(enum where where, enum way way, bool stream) {
    static const char *const stage[] = { "queue", "prefill", "decode" };
    struct engine_options e = { .requests_max = 1, .chunk_max = CHUNK, .rows_max = CHUNK };
    struct server_options o = { .ping_s = 0.3 };
    struct held h;
    struct client other = { .fd = -1 };
    char line[96];
    snprintf(line, sizeof line, "mlxcel_requests_cancelled_total{stage=\"%s\"} ", stage[where]);
    held_open(&h, &e, &o);
    atomic_store(&held_permits, 0);
    if (where == IN_QUEUE) {
        other = held_ask(&h, 4, 40, true);
        AWAIT(n_running(&h) == 1);
        AWAIT(atomic_load(&held_waits));
    }
    struct client c = held_ask(&h, where == IN_PREFILL ? LONG_PROMPT : 4, 1000, stream);
    AWAIT(n_running(&h) == 1 + (where == IN_QUEUE));
    AWAIT(atomic_load(&held_waits));
    held_step_on(where == IN_QUEUE ? 2 : 5);
    assert_int_equal(n_left(&h), 0);
    leave(&h, &c, way, stream);
    AWAIT(n_left(&h) == 1);            /* while the engine stands still inside of a step */
    int before = atomic_load(&held_steps);
    if (where == IN_QUEUE) {
        held_step_on(1);
        assert_int_equal(n_running(&h), 1);
        struct reply r = { 0 };
        atomic_store(&held_permits, HELD_FREE);
        if (!client_reply(&other, &r, HELD_SECONDS)) fail_msg("%s", r.bad);
        assert_non_null(strstr(buf_c(&r.body), "\"finish_reason\":\"length\""));
        reply_free(&r);
        client_close(&other);
    } else {
        /* The step that it stood in ends, and is the last one. */
        atomic_store(&held_permits, HELD_FREE);
        AWAIT(n_running(&h) == 0);
        assert_in_range(atomic_load(&held_steps), before, before + 1);
    }
    AWAIT(atomic_load(&h.server->n_exchanges) == 0);
    assert_int_equal(held_number(&h, line), 1);
    AWAIT(held_number(&h, "mlxcel_kv_cache_pages_used ") == 0);
    held_close(&h);
}

static void test_leaves(void **state) {
    (void)state;
    for (int where = IN_QUEUE; where <= IN_DECODE; where++)
        for (int way = CLOSES; way <= VANISHES; way++)
            for (int stream = 0; stream < 2; stream++)
                leaves((enum where)where, (enum way)way, stream);
}

static int slots_have(const struct held *h, int n_prompt) {
    struct buf page = { 0 };
    char words[64];
    int n = 0;
    snprintf(words, sizeof words, "\"n_prompt_tokens\":%d,", n_prompt);
    assert_int_equal(held_get(h, "/slots", &page), 200);
    for (const char *at = buf_c(&page); (at = strstr(at, words)); at++) n++;
    buf_free(&page);
    return n;
}

/* /slots shows who was let in, not who came first: here a request of a higher priority that came
 * later, while neither has generated anything. */
static void test_slots(void **state) {
    struct engine_options e = { .requests_max = 1, .chunk_max = CHUNK, .rows_max = CHUNK };
    struct server_options o = { 0 };
    struct buf body = { 0 }, text = { 0 };
    struct held h;
    (void)state;
    held_open(&h, &e, &o);
    atomic_store(&held_permits, 0);
    struct client low = held_ask(&h, LONG_PROMPT, 4, true), high = { 0 };
    AWAIT(n_running(&h) == 1 && atomic_load(&held_waits));
    assert_int_equal(slots_have(&h, LONG_PROMPT), 1);
    high.fd = client_connect(h.port, NULL);
    held_body(&body, LONG_PROMPT + 1, 4, true);
    client_request(&text, "POST /v1/completions", "X-Priority: 5\r\n", buf_view(&body));
    assert_true(client_send(&high, buf_view(&text), HELD_SECONDS));
    AWAIT(n_running(&h) == 2);
    assert_int_equal(slots_have(&h, LONG_PROMPT + 1), 0);
    held_step_on(1);
    assert_int_equal(slots_have(&h, LONG_PROMPT), 0);
    assert_int_equal(slots_have(&h, LONG_PROMPT + 1), 1);
    client_close(&low);
    client_close(&high);
    buf_free(&body);
    buf_free(&text);
    held_close(&h);
}

/* Before its request is whole: nothing was begun, nothing is kept. */
static void test_unfinished(void **state) {
    static const char *const sent[] = {
        "", "POST /v1/comp", "POST /v1/completions HTTP/1.1\r\nHost: loc",
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        "Content-Length: 100\r\n\r\n",
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        "Content-Length: 100\r\n\r\n{\"prompt\":",
    };
    struct engine_options e = { .requests_max = 1 };
    struct server_options o = { 0 };
    struct held h;
    (void)state;
    held_open(&h, &e, &o);
    int before = atomic_load(&held_steps);
    for (size_t i = 0; i < COUNT(sent); i++)
        for (int way = CLOSES; way <= RESETS; way++) {
            struct client c = { .fd = client_connect(h.port, NULL) };
            client_send(&c, str_of(sent[i]), HELD_SECONDS);
            if (way == RESETS) client_reset(&c);
            else client_close(&c);
        }
    AWAIT(atomic_load(&h.server->n_connections) == 0);
    AWAIT(atomic_load(&h.server->n_exchanges) == 0);
    assert_int_equal(atomic_load(&held_steps), before);
    held_close(&h);
}

/* Peers that neither read nor acknowledge: the kernel gives up after the time for stalled clients,
 * and asks those who are silent. */
static void test_kernel_limits(void **state) {
    struct engine_options e = { .requests_max = 1 };
    struct server_options o = { .stall_s = 7 };
    struct held h;
    int n = 0;
    (void)state;
    held_open(&h, &e, &o);
    struct client c = { .fd = client_connect(h.port, NULL) };
    AWAIT(atomic_load(&h.server->n_connections) == 1);
    for (int fd = 3; fd < 1024; fd++) {
        struct sockaddr_in at = { 0 }, peer;
        socklen_t size = sizeof at, peer_size = sizeof peer, word = sizeof(int);
        int alive = 0, idle = 0, limit = 0;
        if (getsockname(fd, (void *)&at, &size) || at.sin_family != AF_INET ||
            ntohs(at.sin_port) != h.port || getpeername(fd, (void *)&peer, &peer_size))
            continue;
        getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &alive, &word);
        getsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, &word);
        getsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &limit, &word);
        assert_int_equal(alive, 1);
        assert_in_range(idle, 1, 60);
        assert_int_equal(limit, 7000);
        n++;
    }
    assert_int_equal(n, 1);
    client_close(&c);
    held_close(&h);
}

/* Row RS-13: the device fails in the middle of a step. Streams end with an error event, replies
 * with a 500, who waits is told as well, and the program that serves hears why. */
static bool fail_sync(struct device *d, struct err *err) {
    (void)d;
    return !err || err_set(err, "the device went away");
}

static void test_device_fails(void **state) {
    struct engine_options e = { .requests_max = 2 };
    struct server_options o = { 0 };
    struct held h;
    (void)state;
    held_open(&h, &e, &o);
    struct device_ops failing = *h.engine->dev.op;
    failing.sync = fail_sync;
    atomic_store(&held_permits, 0);
    struct client c[4];
    for (int i = 0; i < 4; i++) c[i] = held_ask(&h, 4 + i, 500, i % 2);
    AWAIT(atomic_load(&h.server->n_running) == 4 && atomic_load(&held_waits));
    h.engine->dev.op = &failing;
    atomic_store(&held_permits, HELD_FREE);
    for (int i = 0; i < 4; i++) {
        struct reply r = { 0 };
        if (!client_reply(&c[i], &r, HELD_SECONDS)) fail_msg("%d: %s", i, r.bad);
        assert_int_equal(r.status, i % 2 ? 200 : 500);
        assert_non_null(strstr(buf_c(&r.body), "{\"error\":{\"message\":\"the device failed\""));
        assert_null(strstr(r.body.at, "[DONE]"));
        /* Who was told knows it no sooner than these. */
        assert_int_equal(held_get(&h, "/livez", NULL), 503);
        assert_int_equal(held_get(&h, "/health", NULL), 503);
        reply_free(&r);
        client_close(&c[i]);
    }
    /* The server stays, to say so, until it is stopped. */
    AWAIT(atomic_load(&h.server->state) == SERVER_FAILED);
    assert_int_equal(held_get(&h, "/health", NULL), 503);
    server_stop(h.server);
    pthread_join(h.thread, NULL);
    assert_false(h.ok);
    server_close(h.server);
    engine_close(h.engine);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_leaves), cmocka_unit_test(test_slots),
        cmocka_unit_test(test_unfinished), cmocka_unit_test(test_device_fails),
        cmocka_unit_test(test_kernel_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
