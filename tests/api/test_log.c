/* test_log.c - the server's log: what a line about a request says, in both forms, that nothing of
 * a client breaks out of its line, and that neither keys nor prompts get in. */
#include "pattern.h"
#include "server_process.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/stat.h>

#include <cmocka.h>

static char *home;

/* Words that stand in requests and must not stand in a log. */
static const char *const secret[] = {
    "sk-first-0123456789", "sk-other-0123456789", "sk-inquery", "sk-inbody", "promptmark",
    "Bearer", "Authorization", "user:pass",
};

/* Requests with a secret in every place where clients put one. */
static const struct { const char *head, *headers, *body; int status; const char *id; } session[] = {
    { "POST /v1/chat/completions?api_key=sk-inquery",
      "Authorization: Bearer sk-first-0123456789\r\nx-request-id: trace-1.a:B_2\r\n",
      "{\"messages\":[{\"role\":\"user\",\"content\":\"promptmark\"}],\"max_tokens\":3,"
      "\"api_key\":\"sk-inbody\",\"model\":\"m\\u001b[31m\\u0085\\n\\u00e9\"}", 200,
      "trace-1.a:B_2" },
    { "POST /v1/chat/completions", "Authorization: Bearer sk-other-0123456789\r\n", "{}", 401,
      NULL },
    { "POST /v1/chat/completions", "X-Api-Key: sk-first-0123456789\r\nx-request-id: a b\r\n",
      "{\"messages\":\"promptmark\"}", 400, NULL },
    { "POST /v1/completions", "api-key: sk-first-0123456789\r\nx-request-id: a\x1b[2J\r\n",
      "{\"prompt\":\"promptmark\",\"temperature\":\"promptmark\"}", 400, NULL },
    { "GET /nowhere\"=%0a\x7f\xc2\x9b?key=sk-inquery", "Authorization: Basic user:pass\r\n"
      "x-request-id: 0123456789012345678901234567890123456789012345678901234567890123-\r\n", "",
      400, NULL },
    { "GET /health", "", "", 200, NULL },
};

static void ask(struct served *s, size_t i, struct reply *r) {
    struct buf text = { 0 };
    *r = (struct reply){ 0 };
    client_request(&text, session[i].head, session[i].headers, str_of(session[i].body));
    if (!client_ask(s->port, buf_view(&text), r, 20)) fail_msg("%s: %s", session[i].head, r->bad);
    buf_free(&text);
}

static void check_clean(const struct buf *log) {
    struct buf copy = { 0 };
    buf_str(&copy, buf_view(log));
    for (size_t i = 0; i < COUNT(secret); i++)
        if (strcasestr(buf_c(&copy), secret[i])) fail_msg("%s in\n%s", secret[i], copy.at);
    for (size_t i = 0; i < log->len; i++) {
        unsigned char c = (unsigned char)log->at[i];
        bool c1 = i && c >= 0x80 && c < 0xa0 && (unsigned char)log->at[i - 1] == 0xc2;
        if ((c < 0x20 && c != '\n') || c == 0x7f || c1) fail_msg("byte %d of the log: %02x",
                                                                  (int)i, c);
    }
    buf_free(&copy);
}

/* The line of a request is written after its client has the reply. */
static void await_log(const struct served *s, const char *path, const char *text, struct buf *log) {
    struct err err = { 0 };
    for (double until = clock_s() + 10; clock_s() < until; usleep(5000)) {
        buf_clear(log);
        if (!path) served_log(s, log);
        else if (!buf_read_file(log, path, 1 << 20, &err)) buf_clear(log);
        if (strstr(buf_c(log), text)) return;
    }
    fail_msg("no \"%s\" in\n%s", text, log->at);
}

static struct served start(const char *options) {
    char line[600];
    snprintf(line, sizeof line, "-m models/demo --compute f32 --temp 0 %s", options);
    struct served s = served_start(line, home, "MLXCEL_API_KEY=sk-first-0123456789");
    if (!served_ready(&s, SERVER_SECONDS)) fail_msg("no server with %s", options);
    return s;
}

static void test_json(void **state) {
    struct served s = start("--log-format json -v");
    struct buf log = { 0 };
    struct pattern p = { 0 };
    int n_requests = 0;
    bool ok, found = false;
    (void)state;
    for (size_t i = 0; i < COUNT(session); i++) {
        struct reply r;
        ask(&s, i, &r);
        if (r.status != session[i].status) fail_msg("%s: %d", session[i].head, r.status);
        struct str id = reply_header(&r, "x-request-id");
        bool ours = str_starts(id, "req_");
        if (session[i].id ? !str_is(id, session[i].id) : !ours)
            fail_msg("%s: id %.*s", session[i].head, STR_ARG(id));
        char in_log[100];
        snprintf(in_log, sizeof in_log, "\"id\":\"%.*s\"", STR_ARG(id));
        await_log(&s, NULL, in_log, &log);
        reply_free(&r);
    }
    check_clean(&log);
    struct str rest = buf_view(&log);
    while (rest.len) {
        const char *end = memchr(rest.at, '\n', rest.len);
        struct str line = str_cut(rest, 0, end ? (size_t)(end - rest.at) : rest.len);
        rest = str_from(rest, line.len + 1);
        struct json_object *o = json_read(line, &ok), *want, *message;
        if (!ok) fail_msg("no JSON: %.*s", STR_ARG(line));
        want = json_read(S("{\"time\":\"<text>\",\"level\":\"<text>\",\"message\":\"<text>\","
                           "\"...\":0}"), &ok);
        if (!pattern_json(&p, want, o, "")) fail_msg("%s", buf_c(&p.why));
        json_object_put(want);
        json_object_object_get_ex(o, "message", &message);
        if (!strcmp(json_object_get_string(message), "request")) {
            want = json_read(S("{\"id\":\"<text>\",\"peer\":\"<has 127.0.0.1:>\","
                               "\"method\":\"<text>\",\"path\":\"<has />\","
                               "\"status\":\"<200..599>\",\"ms\":\"<number>\",\"...\":0}"), &ok);
            if (!pattern_json(&p, want, o, "")) fail_msg("%s", buf_c(&p.why));
            json_object_put(want);
            n_requests++;
        }
        if (memmem(line.at, line.len, "trace-1", 7)) {
            found = true;
            want = json_read(S("{\"status\":200,\"path\":\"/v1/chat/completions\","
                               "\"model\":\"m\\u001b[31m\\u0085\\n\\u00e9\","
                               "\"tokens_in\":\"<1..99>\","
                               "\"tokens_cached\":0,\"tokens_out\":3,\"queue_ms\":\"<number>\","
                               "\"prefill_ms\":\"<number>\",\"decode_ms\":\"<number>\","
                               "\"ttft_ms\":\"<number>\",\"finish\":\"length\",\"...\":0}"), &ok);
            if (!pattern_json(&p, want, o, "")) fail_msg("%s", buf_c(&p.why));
            json_object_put(want);
        }
        json_object_put(o);
    }
    assert_true(found);
    assert_true(n_requests >= (int)COUNT(session));
    buf_free(&log);
    pattern_free(&p);
    assert_int_equal(served_stop(&s, SIGTERM, 20), 0);
}

static void test_text(void **state) {
    struct served s = start("");
    struct buf log = { 0 };
    (void)state;
    for (size_t i = 0; i < COUNT(session); i++) {
        struct reply r;
        ask(&s, i, &r);
        reply_free(&r);
    }
    await_log(&s, NULL, "id=trace-1.a:B_2 peer=127.0.0.1:", &log);
    await_log(&s, NULL, " tokens_out=3 ", &log);
    await_log(&s, NULL, " finish=length\n", &log);
    await_log(&s, NULL, " method=GET path=\"/nowhere\\\"=", &log);
    check_clean(&log);
    assert_null(strstr(buf_c(&log), "/health"));       /* at level debug only */
    buf_free(&log);
    assert_int_equal(served_stop(&s, SIGTERM, 20), 0);
}

/* Lines go to the file; after a rename and SIGHUP to a new one. */
static void test_file(void **state) {
    struct served s = start("--log-file @H/a.log --log-format text");
    char path[600], moved[600];
    struct buf log = { 0 };
    struct reply r;
    struct stat st;
    (void)state;
    snprintf(path, sizeof path, "%s/a.log", home);
    snprintf(moved, sizeof moved, "%s/b.log", home);
    await_log(&s, path, "listening on http://127.0.0.1:", &log);
    ask(&s, 0, &r);
    reply_free(&r);
    await_log(&s, path, "id=trace-1", &log);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(rename(path, moved), 0);
    kill(s.pid, SIGHUP);
    for (double until = clock_s() + 10; access(path, F_OK) && clock_s() < until;) usleep(5000);
    ask(&s, 0, &r);
    reply_free(&r);
    await_log(&s, path, "id=trace-1", &log);
    assert_null(strstr(buf_c(&log), "listening"));
    check_clean(&log);
    served_log(&s, &log);
    assert_null(strstr(buf_c(&log), "trace-1"));
    assert_int_equal(served_stop(&s, SIGTERM, 20), 0);
    await_log(&s, moved, "id=trace-1", &log);
    buf_free(&log);
}

static void test_level(void **state) {
    struct served s = start("--log-level warning");
    struct buf log = { 0 };
    (void)state;
    for (size_t i = 0; i < COUNT(session); i++) {
        struct reply r;
        ask(&s, i, &r);
        reply_free(&r);
    }
    assert_int_equal(served_stop(&s, SIGTERM, 20), 0);
    served_log(&s, &log);
    assert_null(strstr(buf_c(&log), "path="));
    buf_free(&log);
}

/* Reads what is there now. */
static void drain(int fd, struct buf *to) {
    struct pollfd p = { .fd = fd, .events = POLLIN };
    while (poll(&p, 1, 200) == 1 && program_drain(fd, to)) continue;
}

/* Nobody reads the log: the server goes on, and says later what was lost. */
static void test_full_pipe(void **state) {
    static char line[] = "serve -m models/demo --port 0 --log-format json";
    char *copy = program_line(line, home), *word[PROGRAM_WORDS_MAX + 1];
    struct served s = { 0 };
    struct buf log = { 0 };
    int end[2];
    (void)state;
    program_words(copy, word);
    if (pipe(end)) fail_msg("no pipe");
    s.pid = fork();
    if (!s.pid) {
        dup2(end[1], 2);
        close(end[0]), close(end[1]);
        program_setting(home, NULL);
        execv(word[0], word);
        _exit(127);
    }
    close(end[1]);
    for (const char *at = NULL; !at; at = strstr(buf_c(&log), "http://127.0.0.1:")) {
        if (!program_drain(end[0], &log)) fail_msg("it ended: %s", buf_c(&log));
    }
    for (const char *at = strstr(log.at, "http://127.0.0.1:") + 17; isdigit((unsigned char)*at);)
        s.port = s.port * 10 + *at++ - '0';
    struct client c = { .fd = client_connect(s.port, NULL) };
    for (int i = 0; i < 600; i++) {
        struct reply r = { 0 };
        client_send(&c, S("GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n"), 10);
        if (!client_reply(&c, &r, 20)) fail_msg("request %d: %s", i, r.bad);
        reply_free(&r);
    }
    buf_clear(&log);
    drain(end[0], &log);
    int n = 0;
    for (const char *at = buf_c(&log); (at = strstr(at, "\"message\":\"request\"")); at++) n++;
    assert_in_range(n, 100, 599);      /* a pipe has 64 KiB */
    struct reply r;
    ask(&s, 5, &r);                    /* /health is not logged, */
    reply_free(&r);
    ask(&s, 4, &r);                    /* this is */
    reply_free(&r);
    drain(end[0], &log);
    assert_non_null(strstr(buf_c(&log), " log lines were lost\"}\n"));
    assert_int_equal(log.at[log.len - 1], '\n');
    client_close(&c);
    assert_int_equal(served_stop(&s, SIGTERM, 20), 0);
    close(end[0]);
    buf_free(&log);
    free(copy);
}

static int begin(void **state) {
    (void)state;
    home = temp_dir();
    return 0;
}

static int end(void **state) {
    (void)state;
    temp_free(home);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_json), cmocka_unit_test(test_text), cmocka_unit_test(test_file),
        cmocka_unit_test(test_level), cmocka_unit_test(test_full_pipe),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
