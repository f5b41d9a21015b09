/* test_deadlines.c - clients that are slow in every direction, clients in crowds, and clients
 * beside a long prompt. Rows HT-10, HT-11, CC-02, CC-07 and CC-14 of the catalogue.
 *
 * That something comes to an end at all is what the limits of time are tested for, never how soon;
 * everything else is counted in steps. */
#include "api/inside.h"
#include "held.h"

#include <dirent.h>

enum { CROWD = 40, ROUNDS = 3, LONG_PROMPT = 800, STEPS = 12 };

static int n_running(const struct held *h) { return atomic_load(&h->server->n_running); }

/* Sends a byte now and then, as long as it is let: a client that would take minutes. */
static void dribble(const struct held *h, const char *at_once, size_t n_slow, struct reply *r) {
    struct client c = { .fd = client_connect(h->port, NULL) };
    assert_true(client_send(&c, str_of(at_once), HELD_SECONDS));
    enum client_more more = CLIENT_LATE;
    for (size_t i = 0; i < n_slow && more == CLIENT_LATE; i++) {
        client_send(&c, S("x"), HELD_SECONDS);
        more = client_more(&c, clock_s() + 0.02);
    }
    /* Here the reply is there, or it never comes. */
    if (!client_reply(&c, r, n_slow ? 1 : HELD_SECONDS)) fail_msg("%s: %s", at_once, r->bad);
    assert_int_equal(client_more(&c, clock_s() + HELD_SECONDS), CLIENT_END);
    client_close(&c);
}

static void test_slow_senders(void **state) {
    static const char *const row[][2] = {
        { "", "x" }, { "", "" },
        { "POST /v1/completions HTTP/1.1\r\n", "x" },
        { "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nX-Slow: ", "x" },
        { "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nX-Silent: ", "" },
        { "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
          "Content-Length: 9000\r\n\r\n", "x" },
        { "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
          "Content-Length: 9000\r\n\r\n{", "" },
        { "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
          "Transfer-Encoding: chunked\r\n\r\n2328\r\n{", "x" },
    };
    struct engine_options e = { .requests_max = 1 };
    struct server_options o = { .header_s = 0.5, .body_s = 0.5 };
    struct held h;
    (void)state;
    held_open(&h, &e, &o);
    for (size_t i = 0; i < COUNT(row); i++) {
        struct reply r = { 0 };
        dribble(&h, row[i][0], *row[i][1] ? 3000 : 0, &r);
        assert_int_equal(r.status, 408);
        assert_non_null(strstr(buf_c(&r.body), "\"timeout_error\""));
        assert_non_null(strstr(buf_c(&r.body), "\"request_id\":\"req_"));
        assert_non_null(strstr(buf_c(&r.head), "x-request-id: req_"));
        assert_true(r.closes);
        reply_free(&r);
        assert_int_equal(held_get(&h, "/health", NULL), 200);
    }
    AWAIT(atomic_load(&h.server->n_connections) == 0);
    held_close(&h);
}

/* Between requests: the connection ends and nothing is said. */
static void test_idle(void **state) {
    struct engine_options e = { .requests_max = 1 };
    struct server_options o = { .idle_s = 0.5 };
    struct held h;
    struct reply r = { 0 };
    (void)state;
    held_open(&h, &e, &o);
    struct client c = { .fd = client_connect(h.port, NULL) };
    client_send(&c, S("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"), HELD_SECONDS);
    assert_true(client_reply(&c, &r, HELD_SECONDS));
    assert_int_equal(r.status, 200);
    assert_int_equal(client_more(&c, clock_s() + HELD_SECONDS), CLIENT_END);
    AWAIT(atomic_load(&h.server->n_connections) == 0);
    reply_free(&r);
    client_close(&c);
    held_close(&h);
}

/* Row HT-15: a connection has its share of requests; the last reply says so. */
static void test_share(void **state) {
    struct engine_options e = { .requests_max = 1 };
    struct server_options o = { 0 };
    struct held h;
    int n = 0;
    (void)state;
    held_open(&h, &e, &o);
    struct client c = { .fd = client_connect(h.port, NULL) };
    for (bool closes = false; !closes && n < 20000; n++) {
        struct reply r = { 0 };
        client_send(&c, S("GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"), HELD_SECONDS);
        if (!client_reply(&c, &r, HELD_SECONDS)) fail_msg("%d: %s", n, r.bad);
        assert_int_equal(r.status, 200);
        closes = r.closes;
        reply_free(&r);
    }
    assert_int_equal(n, 10000);
    assert_int_equal(client_more(&c, clock_s() + HELD_SECONDS), CLIENT_END);
    client_close(&c);
    held_close(&h);
}

/* More than the kernel's buffers and ours take, and nobody reads it. */
static void test_slow_readers(void **state) {
    struct engine_options e = { .requests_max = 8 };
    struct server_options o = { .stall_s = 0.5 };
    struct held h;
    (void)state;
    held_open(&h, &e, &o);
    for (int stream = 0; stream < 2; stream++) {
        struct buf body = { 0 }, text = { 0 };
        buf_format(&body, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"n\":8,"
                   "\"max_tokens\":%d,\"ignore_eos\":true,\"logprobs\":true,\"top_logprobs\":20,"
                   "\"stream\":%s}", stream ? 1900 : 300, stream ? "true" : "false");
        client_request(&text, "POST /v1/chat/completions", "", buf_view(&body));
        struct client c = { .fd = client_connect(h.port, NULL) };
        int small = 4096;
        setsockopt(c.fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
        assert_true(client_send(&c, buf_view(&text), HELD_SECONDS));
        AWAIT(n_running(&h) == 8);
        AWAIT(n_running(&h) == 0);
        AWAIT(atomic_load(&h.server->n_exchanges) == 0);
        AWAIT(atomic_load(&h.server->n_connections) == 0);
        /* What was not streamed was done before anybody could see that it is not read. */
        long cut = held_number(&h, "mlxcel_requests_cancelled_total{stage=\"decode\"} ");
        assert_true(stream ? cut > 0 : cut == 0);
        assert_int_equal(held_get(&h, "/health", NULL), 200);
        client_close(&c);
        buf_free(&body);
        buf_free(&text);
    }
    held_close(&h);
}

static void see_exchange(void *to, struct call *c) {
    *(struct exchange **)to = c->x;
}

static bool is_sent(struct exchange *x) {
    pthread_mutex_lock(&x->inside->lock);
    bool sent = x->inside->out.len == x->inside->out_at;
    pthread_mutex_unlock(&x->inside->lock);
    return sent;
}

/* A comment in a stream that was silent for long has not waited as long as the silence: who is a
 * moment late to read it is no client that does not read, nor does a server's own pause count. */
static void test_late_comment(void **state) {
    struct engine_options e = { .requests_max = 1 };
    struct server_options o = { 0 };
    struct held h;
    struct exchange *x = NULL;
    struct reply r = { 0 };
    (void)state;
    held_open(&h, &e, &o);
    atomic_store(&held_permits, 0);
    struct client c = held_ask(&h, 4, 4, true);
    AWAIT(n_running(&h) == 1 && atomic_load(&held_waits));
    calls_each(h.server, see_exchange, &x);
    double now = clock_s();
    for (int i = 1; i <= 20; i++) {
        exchange_tick(x, now + i * 100, 0);
        exchange_tick(x, now + i * 100 + 0.25, 0);
        exchange_tick(x, now + i * 100 + 50, 49.5);
        assert_false(exchange_is_gone(x));
        AWAIT(is_sent(x));
    }
    atomic_store(&held_permits, HELD_FREE);
    if (!client_reply(&c, &r, HELD_SECONDS)) fail_msg("%s", r.bad);
    assert_non_null(strstr(buf_c(&r.body), ": keepalive\n\n"));
    assert_non_null(strstr(r.body.at, "[DONE]"));
    reply_free(&r);
    client_close(&c);
    held_close(&h);
}

static int n_entries(const char *folder) {
    int n = 0;
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d));) n += e->d_name[0] != '.';
    if (d) closedir(d);
    return n;
}

/* Many begin and all leave at once, again and again: everything is as it was. */
static void test_storm(void **state) {
    struct engine_options e = { .requests_max = 8, .waiting_max = 200 };
    struct server_options o = { 0 };
    struct held h;
    struct client c[CROWD];
    (void)state;
    held_open(&h, &e, &o);
    assert_int_equal(held_get(&h, "/health", NULL), 200);
    AWAIT(atomic_load(&h.server->n_connections) == 0);
    int fds = n_entries("/proc/self/fd"), threads = n_entries("/proc/self/task");
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < CROWD; i++) c[i] = held_ask(&h, 4 + i, 500, i % 2);
        if (round % 2) AWAIT(n_running(&h) > CROWD / 2);
        for (int i = 0; i < CROWD; i++)
            if (i % 3) client_close(&c[i]);
            else client_reset(&c[i]);
        AWAIT(n_running(&h) == 0);
        AWAIT(atomic_load(&h.server->n_exchanges) == 0);
        AWAIT(atomic_load(&h.server->n_connections) == 0);
    }
    AWAIT(held_number(&h, "mlxcel_kv_cache_pages_used ") == 0);
    AWAIT(atomic_load(&h.server->n_connections) == 0);
    assert_int_equal(n_entries("/proc/self/fd"), fds);
    assert_int_equal(n_entries("/proc/self/task"), threads);
    held_close(&h);
}

/* Each step of a long prompt gives a token to those who decode beside it; and while the engine
 * stands still in one, everything that is not generated is answered. */
static void test_long_prompt(void **state) {
    static const char *const page[] = { "/health", "/metrics", "/livez", "/readyz", "/v1/models",
                                        "/slots" };
    struct engine_options e = { .requests_max = 4, .rows_max = 64, .chunk_max = 32 };
    struct server_options o = { 0 };
    struct held h;
    struct str event;
    struct reply r = { 0 };
    int n_events = 0;
    (void)state;
    held_open(&h, &e, &o);
    atomic_store(&held_permits, 0);
    struct client short_one = held_ask(&h, 4, 1000, true);
    AWAIT(n_running(&h) == 1 && atomic_load(&held_waits));
    held_step_on(2);
    struct client long_one = held_ask(&h, LONG_PROMPT, 4, true);
    AWAIT(n_running(&h) == 2);
    held_step_on(STEPS);
    for (double until = clock_s() + HELD_SECONDS; n_events < STEPS && clock_s() < until;) {
        client_more(&short_one, until);
        client_feed(&short_one, &r);
        while (reply_event(&r, &event)) n_events++;
    }
    assert_in_range(n_events, STEPS, STEPS + 2);
    for (int i = 0; i < 100; i++)
        assert_int_equal(held_get(&h, page[i % (int)COUNT(page)], NULL), 200);
    assert_int_equal(held_number(&h, "mlxcel_requests_running "), 2);
    assert_true(atomic_load(&held_waits));
    client_close(&short_one);
    reply_free(&r);
    atomic_store(&held_permits, HELD_FREE);
    if (!client_reply(&long_one, &r, HELD_SECONDS)) fail_msg("%s", r.bad);
    assert_non_null(strstr(buf_c(&r.body), "\"finish_reason\":\"length\""));
    reply_free(&r);
    client_close(&long_one);
    held_close(&h);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_slow_senders), cmocka_unit_test(test_idle),
        cmocka_unit_test(test_share),
        cmocka_unit_test(test_slow_readers), cmocka_unit_test(test_late_comment),
        cmocka_unit_test(test_storm),
        cmocka_unit_test(test_long_prompt),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
