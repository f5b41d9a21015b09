/* test_hardship.c - the server as a process in a poor place: no descriptors, little memory and
 * stack, output that goes nowhere, signals at any moment, an odd environment. Rows HT-50, RS-05,
 * RS-09, RS-10, RS-11, RS-15, RS-16, RS-20 and RS-21 of the catalogue. */
#include "server_process.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>

#include <cmocka.h>

#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__
enum { SANITIZED = 1 };
#elif defined __has_feature
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif
#else
enum { SANITIZED = 0 };
#endif

enum { CLIENTS = 60, CROWD = 200, PLACES = 20, LINGER = 64, SECONDS = 60 };

static char *home;
static const char demo[] = "-m models/demo --compute f32 --temp 0 ";
static const char health[] = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
static const char health_once[] =
    "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

static struct served start(const char *options) {
    char line[600];
    snprintf(line, sizeof line, "%s%s", demo, options);
    struct served s = served_start(line, home, NULL);
    if (served_ready(&s, SERVER_SECONDS)) return s;
    struct buf log = { 0 };
    served_log(&s, &log);
    fail_msg("%s: %s", options, buf_c(&log));
    return s;
}

static void stop(struct served *s) {
    struct buf log = { 0 };
    int code = served_stop(s, SIGTERM, 30);
    served_log(s, &log);
    if (code) fail_msg("exit %d: %s", code, buf_c(&log));
    buf_free(&log);
}

/* The body of a completion's reply, which the caller frees. */
static struct reply complete(int port, int n, bool stream) {
    struct buf text = { 0 }, body = { 0 };
    struct reply r = { 0 };
    buf_format(&body, "{\"prompt\":\"Once\",\"max_tokens\":%d,\"logprobs\":3,\"ignore_eos\":true,"
               "\"stream\":%s}", n, stream ? "true" : "false");
    client_request(&text, "POST /v1/completions", "", buf_view(&body));
    if (!client_ask(port, buf_view(&text), &r, SECONDS)) fail_msg("%s", r.bad);
    buf_free(&text);
    buf_free(&body);
    return r;
}

static void serves(struct served *s) {
    struct reply r = complete(s->port, 8, true);
    assert_true(served_alive(s));
    assert_int_equal(r.status, 200);
    assert_true(str_ends(buf_view(&r.body), "data: [DONE]\n\n"));
    reply_free(&r);
}

/* ---- descriptors ---- */

static void answered(struct client *c, int *n_ok) {
    struct reply r = { 0 };
    client_reply(c, &r, SECONDS);
    if (r.status == 200) ++*n_ok;
    reply_free(&r);
    client_close(c);
}

/* An unsent request has an answer as well: the 503 waits for nothing. */
static void turned_away(int port, bool asks) {
    struct client c = { .fd = client_connect(port, NULL) };
    struct reply r = { 0 };
    if (asks) client_send(&c, str_of(health_once), SECONDS);
    if (!client_reply(&c, &r, SECONDS)) fail_msg("%s", r.bad);
    assert_int_equal(r.status, 503);
    assert_non_null(strstr(buf_c(&r.head), "Retry-After: 1"));
    assert_true(str_starts(buf_view(&r.body), "{\"error\":{\"message\":\""));
    assert_non_null(strstr(buf_c(&r.body), ",\"type\":\"unavailable_error\",\"param\":null,"
                                           "\"code\":null},\"request_id\":\"req_"));
    assert_non_null(strstr(buf_c(&r.head), "x-request-id: req_"));
    reply_free(&r);
    client_close(&c);
}

/* More connections than there is room for: the others are told so at once, and cost nothing. */
static void test_many_connections(void **state) {
    struct served s = start("--connections 20");
    struct client idle[PLACES];
    int before = served_count(&s, "fd");
    (void)state;
    for (int i = 0; i < PLACES; i++) {
        struct reply r = { 0 };
        idle[i] = (struct client){ .fd = client_connect(s.port, NULL) };
        client_send(&idle[i], str_of(health), SECONDS);
        if (!client_reply(&idle[i], &r, SECONDS)) fail_msg("%d: %s", i, r.bad);
        reply_free(&r);
    }
    for (int i = 0; i < CROWD; i++) turned_away(s.port, i % 2);
    assert_in_range(served_count(&s, "fd"), before, before + PLACES + LINGER);
    /* Who is in notices nothing. */
    for (int i = 0; i < PLACES; i++) {
        struct reply r = { 0 };
        client_send(&idle[i], str_of(health), SECONDS);
        if (!client_reply(&idle[i], &r, SECONDS)) fail_msg("%d: %s", i, r.bad);
        assert_int_equal(r.status, 200);
        reply_free(&r);
        client_close(&idle[i]);
    }
    int status = 503;
    for (double end = clock_s() + SECONDS; status == 503 && clock_s() < end; usleep(1000)) {
        struct reply r = { 0 };
        client_ask(s.port, str_of(health_once), &r, SECONDS);
        status = r.status;
        reply_free(&r);
    }
    serves(&s);
    stop(&s);
}

/* Seconds that the process has computed. */
static double computed_s(const struct served *s) {
    struct timespec t;
    clockid_t clock;
    assert_int_equal(clock_getcpuclockid(s->pid, &clock), 0);
    assert_int_equal(clock_gettime(clock, &t), 0);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* accept fails: nobody spins, those who are in are served, and the others when there is room. */
static void test_no_descriptors(void **state) {
    struct served s = start("");
    struct client c[CLIENTS];
    struct rlimit before, few;
    int n_ok = 0;
    (void)state;
    assert_int_equal(prlimit(s.pid, RLIMIT_NOFILE, NULL, &before), 0);
    few = (struct rlimit){ .rlim_cur = (rlim_t)served_count(&s, "fd") + 8,
                           .rlim_max = before.rlim_max };
    assert_int_equal(prlimit(s.pid, RLIMIT_NOFILE, &few, NULL), 0);
    for (int i = 0; i < CLIENTS; i++) {
        c[i] = (struct client){ .fd = client_connect(s.port, NULL) };
        client_send(&c[i], str_of(i < 4 ? health : health_once), SECONDS);
    }
    for (int i = 0; i < 4; i++) {
        struct reply r = { 0 };
        if (!client_reply(&c[i], &r, SECONDS)) fail_msg("%d: %s", i, r.bad);
        reply_free(&r);
    }
    double from = computed_s(&s);
    usleep(500000);
    assert_true(computed_s(&s) - from < 0.25);       /* a thread that spins has 0.5 */
    for (int i = 0; i < 4; i++) client_close(&c[i]);
    for (int i = 4; i < CLIENTS; i++) answered(&c[i], &n_ok);
    assert_int_equal(n_ok, CLIENTS - 4);
    assert_int_equal(prlimit(s.pid, RLIMIT_NOFILE, &before, NULL), 0);
    serves(&s);
    stop(&s);
}

/* ---- memory and stack ---- */

/* A tenth more than it has: with little room it serves or says that it cannot, and lives. */
static void test_little_memory(void **state) {
    struct client c[16];
    struct buf text = { 0 };
    (void)state;
    if (SANITIZED) skip();             /* they reserve terabytes */
    struct served s = start("--parallel 4");
    serves(&s);
    rlim_t bytes = (rlim_t)served_kib(&s, "VmSize") * 1024 / 10 * 11;
    struct rlimit limit = { bytes, bytes };
    assert_int_equal(prlimit(s.pid, RLIMIT_AS, &limit, NULL), 0);
    client_request(&text, "POST /v1/completions", "",
                   S("{\"prompt\":\"Once\",\"max_tokens\":100,\"ignore_eos\":true}"));
    for (int i = 0; i < 16; i++) {
        c[i] = (struct client){ .fd = client_connect(s.port, NULL) };
        client_send(&c[i], buf_view(&text), SECONDS);
    }
    for (int i = 0; i < 16; i++) {
        struct reply r = { 0 };
        if (!client_reply(&c[i], &r, SECONDS)) fail_msg("%d: %s", i, r.bad);
        if (r.status != 200 && r.status != 503) fail_msg("%d", r.status);
        reply_free(&r);
        client_close(&c[i]);
    }
    buf_free(&text);
    serves(&s);
    stop(&s);
}

/* Threads have as much stack as the limit says; with 64 KiB the program does not start. */
static void little_stack(const char *options) {
    struct rlimit before, small;
    struct buf body = { 0 }, text = { 0 };
    struct reply r = { 0 };
    getrlimit(RLIMIT_STACK, &before);
    small = (struct rlimit){ 192 << 10, before.rlim_max };
    setrlimit(RLIMIT_STACK, &small);
    struct served s = served_start(options, home, NULL);
    setrlimit(RLIMIT_STACK, &before);
    if (!served_ready(&s, SERVER_SECONDS)) fail_msg("it does not start");
    serves(&s);
    /* The deepest JSON and a template, on a worker. */
    buf_str(&body, S("{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"max_tokens\":2,"
                     "\"nested\":"));
    for (int i = 0; i < 60; i++) buf_char(&body, '[');
    for (int i = 0; i < 60; i++) buf_char(&body, ']');
    buf_char(&body, '}');
    client_request(&text, "POST /v1/chat/completions", "", buf_view(&body));
    if (!client_ask(s.port, buf_view(&text), &r, SECONDS)) fail_msg("%s", r.bad);
    assert_int_equal(r.status, 200);
    reply_free(&r);
    buf_free(&body);
    buf_free(&text);
    stop(&s);
}

/* Kernels that round, of 8-bit keys and values, and those of F32 have frames of their own. */
static void test_little_stack(void **state) {
    (void)state;
    if (SANITIZED) skip();             /* their frames are several times as large */
    little_stack("-m models/demo --compute f32 --temp 0");
    little_stack("-m models/demo --temp 0");
    little_stack("-m models/demo --kv q8 --temp 0");
}

/* ---- output, signals, surroundings ---- */

/* Standard output and error that are closed, full, or read by nobody. */
static void test_output(void **state) {
    static const char *const to[] = { ">&- 2>&-", ">/dev/full 2>/dev/full", "2>&1 | true",
                                      "2>&1 >&- | true" };
    (void)state;
    for (size_t i = 0; i < COUNT(to); i++) {
        char command[900], path[100];
        const char *program = getenv("MLXCEL") ? getenv("MLXCEL") : "build/mlxcel";
        snprintf(path, sizeof path, "%.80s/out.sock", home);
        snprintf(command, sizeof command, "%s serve %s --host unix:%s %s", program, demo, path,
                 to[i]);
        pid_t pid = fork();
        if (!pid) {
            setpgid(0, 0);
            execl("/bin/sh", "sh", "-c", command, (char *)NULL);
            _exit(127);
        }
        int fd = -1, status = 0, n_ok = 0;
        for (double until = clock_s() + SERVER_SECONDS; n_ok < 3 && clock_s() < until;) {
            struct client c = { .fd = fd = client_connect(0, path) };
            struct reply r = { 0 };
            if (fd >= 0) client_send(&c, str_of(health_once), SECONDS);
            if (fd >= 0 && client_reply(&c, &r, SECONDS) && r.status == 200) n_ok++;
            else usleep(5000);
            reply_free(&r);
            client_close(&c);
        }
        if (n_ok < 3) fail_msg("%s: it does not serve", to[i]);
        kill(-pid, SIGTERM);
        waitpid(pid, &status, 0);
        for (double until = clock_s() + 30; !access(path, F_OK) && clock_s() < until;)
            usleep(2000);
        assert_int_not_equal(access(path, F_OK), 0);
    }
}

/* A stop at any moment of loading, serving and ending, once or twice: always 0, always soon. */
static void test_stops(void **state) {
    (void)state;
    for (int i = 0; i < 24; i++) {
        char line[200];
        snprintf(line, sizeof line, "%s --host unix:@H/stop.sock", demo);
        struct served s = served_start(line, home, NULL);
        usleep((useconds_t)(20000 + i * 7919 % 150000));
        struct client c = { .fd = client_connect(0, "nowhere") };
        char path[100];
        snprintf(path, sizeof path, "%.80s/stop.sock", home);
        if (c.fd < 0) c.fd = client_connect(0, path);
        if (c.fd >= 0)
            client_send(&c, S("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
                              "Content-Type: application/json\r\nContent-Length: 32\r\n\r\n"
                              "{\"prompt\":\"a\",\"max_tokens\":200} "), 1);
        bool early = access(path, F_OK) != 0;
        kill(s.pid, i % 2 ? SIGTERM : SIGINT);
        if (i % 3 == 0) usleep(1000), kill(s.pid, SIGTERM);
        int code = served_stop(&s, 0, 40);       /* a third signal means at once */
        /* Before it has seen to its signals it simply ends. */
        bool plain = early && (code == 128 + SIGTERM || code == 128 + SIGINT);
        struct buf said = { 0 };
        served_log(&s, &said);
        if (code && !plain) fail_msg("%d: exit %d, having said: %s", i, code, buf_c(&said));
        buf_free(&said);
        assert_int_not_equal(access(path, F_OK), 0);
        client_close(&c);
    }
}

/* The whole time for ending passes in one step: the engine lets go before anything closes. */
static void test_late_stop(void **state) {
    struct served s = start("--drain-timeout 0.01");
    struct buf text = { 0 };
    struct reply r = { 0 };
    (void)state;
    struct client c = { .fd = client_connect(s.port, NULL) };
    client_request(&text, "POST /v1/completions", "",
                   S("{\"prompt\":\"a\",\"max_tokens\":2000,\"ignore_eos\":true,\"stream\":true}"));
    client_send(&c, buf_view(&text), SECONDS);
    assert_int_equal(client_more(&c, clock_s() + SECONDS), CLIENT_DATA);
    kill(s.pid, SIGTERM);
    usleep(5000);
    kill(s.pid, SIGSTOP);
    usleep(1200000);                   /* clients may read for a second more */
    kill(s.pid, SIGCONT);
    stop(&s);
    client_reply(&c, &r, SECONDS);
    reply_free(&r);
    client_close(&c);
    buf_free(&text);
}

static void copy_model(const char *from, const char *to) {
    static const char *const names[] = { "config.json", "generation_config.json", "tokenizer.json",
                                         "tokenizer_config.json", "model.safetensors" };
    assert_int_equal(mkdir(to, 0700), 0);
    for (size_t i = 0; i < COUNT(names); i++) {
        char path[600];
        struct buf file = { 0 };
        struct err err = { 0 };
        snprintf(path, sizeof path, "%s/%s", from, names[i]);
        if (!buf_read_file(&file, path, (size_t)64 << 20, &err)) fail_msg("%s", err.text);
        temp_write(to, names[i], buf_view(&file));
        buf_free(&file);
    }
}

/* The weights' file is cut short under a server that has it mapped: it goes on, or ends and says
 * why, but is not killed. */
static void test_cut_weights(void **state) {
    char folder[400], path[600];
    struct reply r = { 0 };
    struct buf log = { 0 }, text = { 0 };
    (void)state;
    snprintf(folder, sizeof folder, "%s/cut", home);
    copy_model("models/demo", folder);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    struct served s = served_start("-m @H/cut --compute f32 --temp 0", home, NULL);
    assert_true(served_ready(&s, SERVER_SECONDS));
    assert_int_equal(truncate(path, 0), 0);
    client_request(&text, "POST /v1/completions", "", S("{\"prompt\":\"Once\",\"max_tokens\":8}"));
    client_ask(s.port, buf_view(&text), &r, SECONDS);
    int code = served_stop(&s, SIGTERM, 30);
    served_log(&s, &log);
    bool told = strstr(buf_c(&log), "was cut short") != NULL;
    if (code != (told ? 1 : 0) || told == (r.status == 200))
        fail_msg("exit %d, status %d: %s", code, r.status, log.at);
    reply_free(&r);
    buf_free(&log);
    buf_free(&text);
}

/* Signals that mean nothing here, and a long sleep in the middle of a stream. */
static void test_signals(void **state) {
    static const int ignored[] = { SIGHUP, SIGUSR1, SIGUSR2, SIGCHLD, SIGPIPE, SIGWINCH, SIGURG };
    struct served s = start("--idle-timeout 1 --stall-timeout 1");
    struct buf text = { 0 };
    struct reply r = { 0 };
    (void)state;
    for (size_t i = 0; i < COUNT(ignored); i++) {
        kill(s.pid, ignored[i]);
        serves(&s);
    }
    struct client c = { .fd = client_connect(s.port, NULL) };
    client_request(&text, "POST /v1/completions", "",
                   S("{\"prompt\":\"a\",\"max_tokens\":600,\"ignore_eos\":true,\"stream\":true}"));
    client_send(&c, buf_view(&text), SECONDS);
    assert_int_equal(client_more(&c, clock_s() + SECONDS), CLIENT_DATA);
    kill(s.pid, SIGSTOP);
    usleep(1500000);                   /* longer than every limit of time it has */
    kill(s.pid, SIGCONT);
    if (!client_reply(&c, &r, SECONDS)) fail_msg("%s", r.bad);
    assert_true(str_ends(buf_view(&r.body), "data: [DONE]\n\n"));
    client_close(&c);
    reply_free(&r);
    buf_free(&text);
    serves(&s);
    stop(&s);
}

/* What the reply says, without its id and its time. */
static void choices(struct reply *r, struct buf *to) {
    const char *at = strstr(buf_c(&r->body), "\"choices\"");
    const char *end = at ? strstr(at, "\"usage\"") : NULL;
    if (!end) fail_msg("%s", r->body.at);
    buf_str(to, (struct str){ at, (size_t)(end - at) });
}

static void test_surroundings(void **state) {
    static const char *const name[] = { "LC_ALL", "LC_NUMERIC", "LANG", "TZ" };
    static const char *const value[] = { "de_DE.UTF-8", "de_DE.UTF-8", "tr_TR", "Mars/Phobos-99" };
    struct served s = start("");
    struct reply r = complete(s.port, 12, false);
    struct buf usual = { 0 }, odd = { 0 };
    struct stat st;
    char path[600];
    (void)state;
    choices(&r, &usual);
    reply_free(&r);
    stop(&s);
    for (size_t i = 0; i < COUNT(name); i++) setenv(name[i], value[i], 1);
    unsetenv("TMPDIR");
    mode_t before = umask(0);
    s = start("--log-file @H/odd.log --host 127.0.0.1 --host unix:@H/odd.sock");
    umask(before);
    r = complete(s.port, 12, false);
    choices(&r, &odd);
    assert_string_equal(buf_c(&usual), buf_c(&odd));
    static const char *const file[] = { "odd.log", "odd.sock" };
    for (size_t i = 0; i < COUNT(file); i++) {
        snprintf(path, sizeof path, "%s/%s", home, file[i]);
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_mode & 0777, 0600);
    }
    for (size_t i = 0; i < COUNT(name); i++) unsetenv(name[i]);
    reply_free(&r);
    buf_free(&usual);
    buf_free(&odd);
    stop(&s);
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
        cmocka_unit_test(test_many_connections), cmocka_unit_test(test_no_descriptors),
        cmocka_unit_test(test_little_memory), cmocka_unit_test(test_little_stack),
        cmocka_unit_test(test_output), cmocka_unit_test(test_stops),
        cmocka_unit_test(test_late_stop),
        cmocka_unit_test(test_cut_weights), cmocka_unit_test(test_signals),
        cmocka_unit_test(test_surroundings),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
