/* test_loading.c - a server without a model yet: what answers, and what says that it cannot. */
#include "api/api.h"
#include "client.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>

static const struct { const char *head, *body; int status; const char *says; } row[] = {
    { "GET /health", "", 503, "Loading model" },
    { "GET /v1/health", "", 503, "unavailable_error" },
    { "GET /health", "", 503, "\"progress\":0.425}" },
    { "GET /readyz", "", 503, "Loading model" },
    { "GET /livez", "", 200, "{\"status\":\"ok\"}" },
    { "GET /metrics", "", 200, "\nmlxcel_load_progress_ratio 0.425\n" },
    { "GET /metrics", "", 200, "\nmlxcel_ready 0\n" },
    { "GET /metrics", "", 200, "model=\"some/name\"} 1\n" },
    { "GET /v1/models", "", 200, "\"id\":\"some/name\"" },
    { "GET /models", "", 200, "\"status\":{\"value\":\"loading\"},\"meta\":null" },
    { "GET /v1/models/some/name", "", 200, "\"object\":\"model\"" },
    { "GET /v1/models/other", "", 404, "model_not_found" },
    { "POST /v1/chat/completions", "{\"messages\":[]}", 503, "Loading model" },
    { "POST /v1/completions", "{}", 503, "\"code\":null" },
    { "POST /completion", "{}", 503, "\"code\":503" },
    { "POST /tokenize", "{}", 503, "Loading model" },
    { "POST /apply-template", "{}", 503, "Loading model" },
    { "GET /props", "", 503, "Loading model" },
    { "GET /slots", "", 503, "Loading model" },
};

static void test_answers(void **state) {
    struct err err = { 0 };
    struct server_options o = { .model_path = "/srv/x", .alias = "some/name", .quiet = true };
    struct server *s = server_open(&o, &err);
    (void)state;
    if (!s) fail_msg("%s", err.text);
    server_progress(s, 0.425);
    for (size_t i = 0; i < COUNT(row); i++) {
        struct buf ask = { 0 };
        struct reply r = { 0 };
        buf_format(&ask, "%s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                   "Content-Length: %zu\r\n\r\n%s", row[i].head, strlen(row[i].body), row[i].body);
        client_ask(server_port(s), buf_view(&ask), &r, 10);
        if (r.status != row[i].status || !strstr(buf_c(&r.body), row[i].says))
            fail_msg("%s: %d %s", row[i].head, r.status, buf_c(&r.body));
        reply_free(&r);
        buf_free(&ask);
    }
    server_close(s);
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_answers) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
