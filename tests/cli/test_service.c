/* test_service.c - the server as a service: what it tells systemd, sockets it is handed, its end
 * while streams run, what it leaves behind, and settings that reach it from all sides. */
#include "../api/server_process.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/stat.h>

#include <cmocka.h>

static char *home;
static const char demo[] = "-m models/demo --compute f32 --temp 0 ";

static struct served start(const char *options, const char *setting) {
    char line[600];
    snprintf(line, sizeof line, "%s%s", demo, options);
    return served_start(line, home, setting);
}

static struct served start_ready(const char *options, const char *setting) {
    struct served s = start(options, setting);
    if (served_ready(&s, SERVER_SECONDS)) return s;
    struct buf log = { 0 };
    served_log(&s, &log);
    fail_msg("%s: %s", options, buf_c(&log));
    return s;
}

static void ask(struct client *c, const char *head, const char *headers, const char *body,
                struct reply *r) {
    struct buf text = { 0 };
    *r = (struct reply){ 0 };
    client_request(&text, head, headers, str_of(body));
    client_send(c, buf_view(&text), 10);
    if (!client_reply(c, r, 20)) fail_msg("%s: %s", head, r->bad);
    buf_free(&text);
}

static int status_of(int port, const char *path, const char *head, const char *headers) {
    struct client c = { .fd = client_connect(port, path) };
    struct reply r;
    if (c.fd < 0) return -1;
    ask(&c, head, headers, "", &r);
    int status = r.status;
    reply_free(&r);
    client_close(&c);
    return status;
}

/* ---- systemd ---- */

static int notify_socket(const char *name) {
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    struct timeval wait = { .tv_sec = 20 };
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    size_t n = strlen(name);
    memcpy(a.sun_path, name, n);
    if (name[0] == '@') a.sun_path[0] = 0;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
    if (bind(fd, (const void *)&a, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n)))
        fail_msg("%s: %s", name, strerror(errno));
    return fd;
}

/* Reads messages until one has the word; each line of all must be NAME=value. */
static void await_notice(int fd, const char *word, struct buf *seen) {
    for (;;) {
        char text[1024];
        ssize_t n = recv(fd, text, sizeof text - 1, 0);
        if (n <= 0) fail_msg("no \"%s\" after %s", word, buf_c(seen));
        text[n] = 0;
        if (!strchr(text, '=') || text[n - 1] == '\n') fail_msg("notice \"%s\"", text);
        buf_format(seen, "%s\n", text);
        if (strstr(text, word)) return;
    }
}

static void test_notify(void **state) {
    char path[600], abstract[64];
    (void)state;
    snprintf(path, sizeof path, "%s/notify", home);
    snprintf(abstract, sizeof abstract, "@mlxcel-test-%d", (int)getpid());
    const char *const name[] = { path, abstract };
    for (size_t i = 0; i < COUNT(name); i++) {
        int fd = notify_socket(name[i]);
        struct buf seen = { 0 };
        setenv("NOTIFY_SOCKET", name[i], 1);
        setenv("WATCHDOG_USEC", "600000", 1);
        struct served s = start("", NULL);
        unsetenv("NOTIFY_SOCKET");
        unsetenv("WATCHDOG_USEC");
        await_notice(fd, "READY=1", &seen);
        assert_non_null(strstr(buf_c(&seen), "STATUS=loading "));
        assert_non_null(strstr(buf_c(&seen), "STATUS=serving\n"));
        assert_true(served_ready(&s, 20));     /* READY means that it serves */
        await_notice(fd, "WATCHDOG=1", &seen);
        await_notice(fd, "WATCHDOG=1", &seen);
        kill(s.pid, SIGTERM);
        await_notice(fd, "STOPPING=1", &seen);
        assert_int_equal(served_stop(&s, 0, 20), 0);
        buf_free(&seen);
        close(fd);
    }
}

/* Variables for another process are not for us. */
static void test_watchdog_of_others(void **state) {
    char path[600], rest[256];
    struct buf seen = { 0 };
    (void)state;
    snprintf(path, sizeof path, "%s/notify2", home);
    int fd = notify_socket(path);
    setenv("NOTIFY_SOCKET", path, 1);
    setenv("WATCHDOG_USEC", "200000", 1);
    setenv("WATCHDOG_PID", "1", 1);
    struct served s = start("", NULL);
    unsetenv("NOTIFY_SOCKET");
    unsetenv("WATCHDOG_USEC");
    unsetenv("WATCHDOG_PID");
    await_notice(fd, "READY=1", &seen);
    usleep(700000);
    assert_true(recv(fd, rest, sizeof rest, MSG_DONTWAIT) < 0);
    assert_int_equal(served_stop(&s, SIGTERM, 20), 0);
    buf_free(&seen);
    close(fd);
}

/* A socket that listens, on a free port or at a path. */
static int listening(const char *path, int *port) {
    struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    struct sockaddr_un un = { .sun_family = AF_UNIX };
    socklen_t n = sizeof in;
    if (path) snprintf(un.sun_path, sizeof un.sun_path, "%s", path);
    int fd = socket(path ? AF_UNIX : AF_INET, SOCK_STREAM, 0);
    if (bind(fd, path ? (const void *)&un : (const void *)&in, path ? sizeof un : sizeof in) ||
        listen(fd, 64))
        fail_msg("%s", strerror(errno));
    if (port && !getsockname(fd, (void *)&in, &n)) *port = ntohs(in.sin_port);
    return fd;
}

/* Runs the server with the sockets as descriptors 3 and 4, as systemd would. */
static pid_t start_handed(const char *line, const int fd[2], bool ours) {
    char *copy = program_line(line, home), *word[PROGRAM_WORDS_MAX + 1], number[16];
    program_words(copy, word);
    pid_t pid = fork();
    if (!pid) {
        int a = fcntl(fd[0], F_DUPFD, 50), b = fcntl(fd[1], F_DUPFD, 50);
        dup2(a, 3), dup2(b, 4), close(a), close(b);
        int null = open("/dev/null", O_RDWR);
        dup2(null, 0), dup2(null, 1), dup2(null, 2);
        program_setting(home, NULL);
        snprintf(number, sizeof number, "%d", ours ? (int)getpid() : 1);
        setenv("LISTEN_PID", number, 1);
        setenv("LISTEN_FDS", "2", 1);
        execv(word[0], word);
        _exit(127);
    }
    free(copy);
    return pid;
}

static void test_socket_activation(void **state) {
    static const struct { const char *line; bool ours; } row[] = {
        { "serve -m models/demo", true },
        { "serve -m models/demo --host fd:3 --host fd:4", false },
    };
    char path[600];
    (void)state;
    snprintf(path, sizeof path, "%s/handed.sock", home);
    for (size_t i = 0; i < COUNT(row); i++) {
        int port = 0, fd[2] = { listening(NULL, &port), listening(path, NULL) };
        pid_t pid = start_handed(row[i].line, fd, row[i].ours);
        int tcp = 0, local = 0;
        /* The request waits in the socket until the server has it. */
        for (double until = clock_s() + 20; tcp != 200 && clock_s() < until; usleep(5000))
            tcp = status_of(port, NULL, "GET /health", "");
        local = status_of(0, path, "GET /health", "");
        if (tcp != 200 || local != 200) fail_msg("%s: %d %d", row[i].line, tcp, local);
        kill(pid, SIGTERM);
        assert_int_equal(program_status(pid), 0);
        assert_int_equal(access(path, F_OK), 0);       /* it is not ours to remove */
        unlink(path);
        close(fd[0]), close(fd[1]);
    }
}

/* ---- the end, while streams run ---- */

struct stream { struct client c; struct reply r; };

static void stream_start(struct stream *t, int port, int tokens) {
    char body[256];
    struct buf text = { 0 };
    struct str event;
    *t = (struct stream){ .c.fd = client_connect(port, NULL) };
    snprintf(body, sizeof body, "{\"prompt\":\"A\",\"max_tokens\":%d,\"ignore_eos\":true,"
             "\"stream\":true}", tokens);
    client_request(&text, "POST /v1/completions", "", str_of(body));
    client_send(&t->c, buf_view(&text), 10);
    while (!reply_event(&t->r, &event)) {
        if (client_more(&t->c, clock_s() + 20) != CLIENT_DATA) fail_msg("no event");
        client_feed(&t->c, &t->r);
    }
    buf_free(&text);
}

static void stream_free(struct stream *t) {
    reply_free(&t->r);
    client_close(&t->c);
}

/* One SIGTERM: streams go on to their end, nobody new gets in, the exit code is 0. */
static void test_drain(void **state) {
    struct served s = start_ready("--drain-timeout 120", NULL);
    struct client kept = { .fd = client_connect(s.port, NULL) };
    struct stream t[2];
    struct reply r;
    (void)state;
    ask(&kept, "GET /health", "", "", &r);
    reply_free(&r);
    for (size_t i = 0; i < COUNT(t); i++) stream_start(&t[i], s.port, 250);
    kill(s.pid, SIGTERM);
    /* A connection from before is told; a new one finds nobody. */
    ask(&kept, "GET /v1/models", "", "", &r);
    for (double until = clock_s() + 10; r.status == 200 && !r.closes && clock_s() < until;) {
        reply_free(&r);
        ask(&kept, "GET /health", "", "", &r);
    }
    if (r.status == 200 && !r.closes) fail_msg("it still says that it serves");
    reply_free(&r);
    client_close(&kept);
    for (double until = clock_s() + 10; clock_s() < until; usleep(2000)) {
        int fd = client_connect(s.port, NULL);
        if (fd < 0) break;
        close(fd);
    }
    assert_true(client_connect(s.port, NULL) < 0);
    for (size_t i = 0; i < COUNT(t); i++) {
        if (!client_reply(&t[i].c, &t[i].r, 120)) fail_msg("stream: %s", t[i].r.bad);
        assert_non_null(strstr(buf_c(&t[i].r.body), "\"finish_reason\":\"length\""));
        assert_true(str_ends(buf_view(&t[i].r.body), "data: [DONE]\n\n"));
        stream_free(&t[i]);
    }
    assert_int_equal(served_stop(&s, 0, 20), 0);
}

/* A second one, or the time to drain: streams end with a frame that says why. */
static void test_hurry(void **state) {
    static const struct { const char *options; int signals; } row[] = {
        { "--drain-timeout 60", 2 }, { "--drain-timeout 0.3", 1 },
    };
    (void)state;
    for (size_t i = 0; i < COUNT(row); i++) {
        struct served s = start_ready(row[i].options, NULL);
        struct stream t;
        stream_start(&t, s.port, 2000);
        for (int k = 0; k < row[i].signals; k++) {
            kill(s.pid, SIGTERM);
            usleep(50000);             /* two that are pending at a time are one */
        }
        double begun = clock_s();
        bool whole = client_reply(&t.c, &t.r, 30);
        if (!whole || !strstr(buf_c(&t.r.body), "the server is shutting down"))
            fail_msg("%s: %s %.2000s", row[i].options, t.r.bad ? t.r.bad : "",
                     t.r.body.at + (t.r.body.len > 300 ? t.r.body.len - 300 : 0));
        assert_null(strstr(t.r.body.at, "[DONE]"));
        assert_int_equal(served_stop(&s, 0, 20), 0);
        assert_true(clock_s() - begun < 15);
        stream_free(&t);
    }
}

/* ---- sockets and instances ---- */

static void test_two_instances(void **state) {
    struct served s = start_ready("", NULL), u;
    char line[200], path[600];
    (void)state;
    snprintf(line, sizeof line, "serve -m models/demo --port %d", s.port);
    struct ran r = program_run(line, NULL, home, NULL);
    if (r.code != 1 || !strstr(buf_c(&r.err), "another program listens there"))
        fail_msg("exit %d: %s", r.code, r.err.at);
    ran_free(&r);
    assert_int_equal(status_of(s.port, NULL, "GET /health", ""), 200);
    assert_int_equal(served_stop(&s, SIGTERM, 20), 0);

    snprintf(path, sizeof path, "%s/one.sock", home);
    u = start("--host unix:@H/one.sock", NULL);
    for (double until = clock_s() + 20; clock_s() < until; usleep(5000))
        if (status_of(0, path, "GET /health", "") == 200) break;
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    r = program_run("serve -m models/demo --host unix:@H/one.sock", NULL, home, NULL);
    if (r.code != 1 || !strstr(buf_c(&r.err), "another server listens there"))
        fail_msg("exit %d: %s", r.code, r.err.at);
    ran_free(&r);
    assert_int_equal(status_of(0, path, "GET /health", ""), 200);
    /* Killed, it leaves its socket, which the next one takes over and removes. */
    assert_int_equal(served_stop(&u, SIGKILL, 20), 128 + SIGKILL);
    assert_int_equal(access(path, F_OK), 0);
    u = start("--host unix:@H/one.sock", NULL);
    for (double until = clock_s() + 20; clock_s() < until; usleep(5000))
        if (status_of(0, path, "GET /health", "") == 200) break;
    assert_int_equal(served_stop(&u, SIGTERM, 20), 0);
    assert_int_not_equal(access(path, F_OK), 0);
}

/* From the first moment at which the socket is there a signal removes it, also while loading. */
static void test_killed_while_loading(void **state) {
    char path[600];
    (void)state;
    snprintf(path, sizeof path, "%s/early.sock", home);
    for (int i = 0; i < 8; i++) {
        struct served s = start("--host unix:@H/early.sock", NULL);
        for (double until = clock_s() + 20; access(path, F_OK) && clock_s() < until;) usleep(200);
        usleep((useconds_t)i * 2000);
        int code = served_stop(&s, i % 2 ? SIGINT : SIGTERM, 20);
        if (code || !access(path, F_OK)) fail_msg("%d: exit %d", i, code);
    }
}

/* ---- settings ---- */

static void check_model(int port, const char *headers, const char *name) {
    struct client c = { .fd = client_connect(port, NULL) };
    struct reply r;
    char id[100];
    ask(&c, "GET /v1/models", headers, "", &r);
    snprintf(id, sizeof id, "\"id\":\"%s\"", name);
    if (!strstr(buf_c(&r.body), id)) fail_msg("no %s in %s", id, r.body.at);
    reply_free(&r);
    client_close(&c);
}

static void test_settings(void **state) {
    char path[600];
    (void)state;
    struct served s = start_ready("", "LLAMA_ARG_ALIAS=from-llama");
    check_model(s.port, "", "from-llama");
    assert_int_equal(served_stop(&s, SIGTERM, 20), 0);

    temp_write(home, "keys", S("# two\nsk-one-0123456789abc\r\n\n  sk-two-0123456789abc  \n"));
    snprintf(path, sizeof path, "%s/keys", home);
    chmod(path, 0600);
    temp_write(home, "conf", S("[*]\nalias = common\nprops = on\n[models/demo]\n"
                               "alias = its-own\n"));
    s = start_ready("--api-key-file @H/keys --config @H/conf --no-warmup", "MLXCEL_NO_SLOTS=1");
    static const struct { const char *head, *headers; int status; } row[] = {
        { "GET /v1/models", "", 401 },
        { "GET /v1/models", "Authorization: Bearer sk-one-0123456789abc\r\n", 200 },
        { "GET /v1/models", "x-api-key: sk-two-0123456789abc\r\n", 200 },
        { "GET /v1/models", "Authorization: Bearer # two\r\n", 401 },
        { "GET /slots", "Authorization: Bearer sk-one-0123456789abc\r\n", 403 },
        { "GET /props", "Authorization: Bearer sk-one-0123456789abc\r\n", 200 },
    };
    for (size_t i = 0; i < COUNT(row); i++)
        assert_int_equal(status_of(s.port, NULL, row[i].head, row[i].headers), row[i].status);
    check_model(s.port, "Authorization: Bearer sk-one-0123456789abc\r\n", "its-own");
    assert_int_equal(served_stop(&s, SIGTERM, 20), 0);
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
        cmocka_unit_test(test_notify), cmocka_unit_test(test_watchdog_of_others),
        cmocka_unit_test(test_socket_activation), cmocka_unit_test(test_drain),
        cmocka_unit_test(test_hurry), cmocka_unit_test(test_two_instances),
        cmocka_unit_test(test_killed_while_loading), cmocka_unit_test(test_settings),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
