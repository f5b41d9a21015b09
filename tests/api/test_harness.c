/* test_harness.c - the harness of the exchanges itself: what it accepts, and above all that it
 * refuses what it must, against a scripted server of a few lines. */
#include "case.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>

static void test_patterns(void **state) {
    (void)state;
    static const struct { const char *want, *got; bool ok; } row[] = {
        { "{\"a\":1}", "{\"a\":1}", true },
        { "{\"a\":1}", "{\"a\":2}", false },
        { "{\"a\":1}", "{\"a\":1.0}", true },
        { "{\"a\":1}", "{\"a\":\"1\"}", false },
        { "{\"a\":1}", "{\"a\":1,\"b\":2}", false },
        { "{\"a\":1,\"...\":0}", "{\"a\":1,\"b\":2}", true },
        { "{\"a\":null}", "{}", false },
        { "{\"a\":null}", "{\"a\":null}", true },
        { "{\"a\":\"<absent>\"}", "{}", true },
        { "{\"a\":\"<absent>\"}", "{\"a\":null}", false },
        { "[\"<any>\",\"<text>\"]", "[null,\"x\"]", true },
        { "[\"<any>\",\"<text>\"]", "[null,\"\"]", false },
        { "[1,2]", "[1,2,3]", false },
        { "[1,2,\"...\"]", "[1,2,3]", true },
        { "[1,2,\"...\"]", "[1]", false },
        { "[\"<each>\",\"<int>\"]", "[1,2,3]", true },
        { "[\"<each>\",\"<int>\"]", "[1,2,\"3\"]", false },
        { "[\"<each>\",\"<int>\"]", "[]", false },
        { "\"<1..5>\"", "5", true },
        { "\"<1..5>\"", "5.5", false },
        { "\"<-2..-1>\"", "-1.5", true },
        { "\"<has or>\"", "\"word\"", true },
        { "\"<has or>\"", "\"letter\"", false },
        { "\"<starts wo>\"", "\"word\"", true },
        { "\"<starts or>\"", "\"word\"", false },
        { "[\"<same a>\",\"<same a>\"]", "[7,7]", true },
        { "[\"<same a>\",\"<same a>\"]", "[7,8]", false },
        { "[\"<same a>\",\"<same b>\"]", "[7,8]", true },
        { "\"<|end|>\"", "\"<|end|>\"", true },
        { "\"<|end|>\"", "\"else\"", false },
        { "\"<nothing>\"", "\"<nothing>\"", false },
    };
    for (size_t i = 0; i < COUNT(row); i++) {
        struct pattern p = { 0 };
        bool want_ok, got_ok;
        struct json_object *want = json_read(str_of(row[i].want), &want_ok);
        struct json_object *got = json_read(str_of(row[i].got), &got_ok);
        assert_true(want_ok && got_ok);
        if (pattern_json(&p, want, got, "") != row[i].ok)
            fail_msg("%s against %s: not %d", row[i].want, row[i].got, row[i].ok);
        assert_int_equal(p.why.len == 0, row[i].ok);
        json_object_put(want), json_object_put(got);
        pattern_free(&p);
    }
}

static void test_json_is_strict(void **state) {
    (void)state;
    static const char *const bad[] = { "", "{", "{} x", "[1,]", "\"\xff\"", "nul" };
    for (size_t i = 0; i < COUNT(bad); i++) {
        bool ok;
        struct json_object *o = json_read(str_of(bad[i]), &ok);
        if (ok) fail_msg("%s passes for JSON", bad[i]);
        json_object_put(o);
    }
}

/* A reply is the same whether its bytes come at once or one by one. */
static void test_replies(void **state) {
    (void)state;
#define OK "HTTP/1.1 200 OK\r\n"
    static const struct { const char *bytes; int status; const char *body, *bad; } row[] = {
        { OK "Content-Length: 2\r\n\r\nhi", 200, "hi", NULL },
        { OK "Content-Length: 0\r\n\r\n", 200, "", NULL },
        { OK "Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\nA\r\n0123456789\r\n0\r\n\r\n", 200,
          "hi0123456789", NULL },
        { OK "Connection: close\r\n\r\nto the end", 200, "to the end", NULL },
        { "HTTP/1.1 100 Continue\r\n\r\n" OK "Content-Length: 1\r\n\r\nx", 200, "x", NULL },
        { OK "Content-Length: 3\r\n\r\nhi", 200, NULL, "closed in the middle of a reply" },
        { OK "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 200, NULL,
          "Content-Length and Transfer-Encoding" },
        { OK "Content-Length: -1\r\n\r\n", 200, NULL, "Content-Length is no number" },
        { OK "Transfer-Encoding: chunked\r\n\r\n1\r\nhi\r\n", 200, NULL,
          "a chunk longer than it said" },
        { OK "Transfer-Encoding: chunked\r\n\r\nx\r\n", 200, NULL, "chunk without a size" },
        { "nonsense\r\n\r\n", 0, NULL, "no status line" },
        { "", 0, NULL, "closed without a reply" },
    };
    for (size_t i = 0; i < COUNT(row); i++)
        for (size_t step = 1; step < 100; step += 98) {
            struct reply r = { 0 };
            size_t n = strlen(row[i].bytes);
            for (size_t at = 0; at < n; at += step)
                reply_feed(&r, row[i].bytes + at, MIN(step, n - at));
            reply_closed(&r);
            assert_int_equal(r.status, row[i].status);
            assert_int_equal(r.state == REPLY_BAD, row[i].bad != NULL);
            if (row[i].bad) assert_string_equal(r.bad, row[i].bad);
            else assert_string_equal(buf_c(&r.body), row[i].body);
            reply_free(&r);
        }
}

/* Answers GETs in order, by their paths, until the peer closes; one connection after the other. */
static void *serve(void *to) {
    static const struct { const char *path, *reply; bool closes; } script[] = {
        { "GET /json ", OK "Content-Length: 17\r\nX-Name: a-1\r\n\r\n"
          "{\"id\":7,\"t\":\"ab\"}", false },
        { "GET /stream ", OK "Transfer-Encoding: chunked\r\n\r\n"
          "e\r\ndata: {\"t\":\"a\"\r\n3\r\n}\n\n\r\n5\r\n: k\n\n\r\n"
          "11\r\ndata: {\"t\":\"b\"}\n\n\r\n"
          "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n", false },
        { "GET /last ", OK "Content-Length: 2\r\nConnection: close\r\n\r\n{}", true },
        { "GET /none ", "", true },
    };
    for (int fd; (fd = accept(*(int *)to, NULL, NULL)) >= 0; close(fd)) {
        char in[8192];
        size_t n = 0;
        for (bool open = true; open;) {
            ssize_t got = recv(fd, in + n, sizeof in - 1 - n, 0);
            if (got <= 0) break;
            in[n += (size_t)got] = 0;
            for (char *end; open && (end = strstr(in, "\r\n\r\n"));) {
                size_t head = (size_t)(end + 4 - in);
                for (size_t i = 0; i < COUNT(script); i++) {
                    if (strncmp(in, script[i].path, strlen(script[i].path))) continue;
                    const char *reply = script[i].reply;
                    if (send(fd, reply, strlen(reply), MSG_NOSIGNAL) < 0) open = false;
                    open = open && !script[i].closes;
                }
                memmove(in, in + head, n - head + 1);
                n -= head;
            }
        }
    }
    return NULL;
}

/* Of a case's text: NULL when it holds, or the sentence it must end with. */
static const struct { const char *text, *why; } cases[] = {
    { "> GET /json\n< 200\n< x-name: a-*\n< !x-other\n< open\n{\"id\":\"<int>\",\n \"t\":\"ab\"}\n"
      "text t \"ab\"\n~ \"id\"\n!~ nothing\n= {\"id\":7,\"t\":\"ab\"}", NULL },
    { "> GET /json\n< 200\n> GET /stream\n< 200\n> GET /last\n< 200\n< closes\n> GET /json\n< 200",
      NULL },
    { "> raw\nGET /json HTTP/1.1\\r\\n\\r\\n@{2|GET /last HTTP/1.1\\r\\n\\r\\n}\n"
      "< 200\n< 200\n{}\n< closed", NULL },
    { "> GET /none\n< closed", NULL },
    { "> GET /stream\n< 200\ncomment\ndata+ {\"t\":\"<text>\"}\ndata [DONE]\ndata end\n"
      "text t \"ab\"", NULL },
    { "> GET /stream\n> read 2\n> close\n> on B\n> GET /json\n< 200\n> eventually GET /last\n< 200",
      NULL },
    { "> GET /json\n< 404", "x:2: status 200, wanted 404" },
    { "> GET /none\n< 200", "x:2: wanted 200, but closed without a reply" },
    { "> GET /json\n< 200\n< x-name: b", "x:3: x-name: a-1, wanted  b" },
    { "> GET /json\n< 200\n< x-other: *", "x:3: no header x-other" },
    { "> GET /json\n< 200\n< !x-name", "x:3: there is a header x-name" },
    { "> GET /json\n< 200\n< closes", "x:3: not: closes" },
    { "> GET /json\n< 200\n{\"id\":8,\n\"t\":\"ab\"}", "x:4: at id: wanted 8, got 7" },
    { "> GET /json\n< 200\ntext t \"abc\"", "x:3: at the top: wanted \"abc\"" },
    { "> GET /json\n< 200\nempty", "x:3: a body" },
    { "> GET /json\n< 200\n~ nothing", "x:3: no \"nothing\"" },
    { "> GET /stream\n< 200\ndata {\"t\":\"a\"}\ndata [DONE]", "x:4: event {\"t\":\"b\"}" },
    { "> GET /stream\n< 200\ndata* {\"t\":\"<any>\"}\ndata end", "x:4: one more event: [DONE]" },
    { "> GET /stream\n< 200\ndata+ {\"u\":\"<any>\"}", "x:3: no event such as" },
    { "> GET /stream\n< 200\ntext t \"ba\"", "x:3: at the top: wanted \"ba\"" },
    { "> GET /stream\n> read 4", "x:2: the reply ended early" },
    { "something", "x:1: a line of no kind" },
};

static void test_cases(void **state) {
    (void)state;
    struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t size = sizeof in;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    pthread_t thread;
    assert_int_equal(bind(fd, (const void *)&in, size) || listen(fd, 16), 0);
    assert_int_equal(getsockname(fd, (void *)&in, &size), 0);
    assert_int_equal(pthread_create(&thread, NULL, serve, &fd), 0);
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct case_run k = { .name = "x", .port = ntohs(in.sin_port), .seconds = 5 };
        char *text = mem_str(str_of(cases[i].text));
        case_lines(&k, text);
        bool ok = case_run(&k);
        const char *why = ok ? "nothing wrong" : buf_c(&k.why);
        if (ok != !cases[i].why || (cases[i].why && !strstr(why, cases[i].why)))
            fail_msg("case %zu: %s\nwanted: %s\nin\n%s", i, why, cases[i].why, cases[i].text);
        case_free(&k);
        free(text);
    }
    shutdown(fd, SHUT_RDWR);
    pthread_join(thread, NULL);
    close(fd);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_patterns), cmocka_unit_test(test_json_is_strict),
        cmocka_unit_test(test_replies), cmocka_unit_test(test_cases) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
