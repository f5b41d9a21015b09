/* test_serve.c - the server as a process: what it refuses to start with, that it listens, and
 * how it ends, by signals in several states. What it answers is tested elsewhere. */
#include "program.h"

#include <setjmp.h>
#include <stdarg.h>
#include <sys/stat.h>

#include <cmocka.h>

static char *home;

static void test_refused(void **state) {
    (void)state;
    static const struct { const char *line; int code; const char *says; } row[] = {
        { "serve --prot 1", 2, "did you mean --port" },
        { "serve --port 70000", 2, "from 0 to 65535" },
        { "serve -m @H/nowhere", 3, "no folder" },
        /* Row SE-09. */
        { "serve --host 0.0.0.0 --port 0", 2, "can be reached from other machines" },
        { "serve --api-key-file @H/open", 2, "everyone may read the key file" },
        { "serve --api-key-file @H/empty", 2, "holds no key" },
        { "serve --api-key-file @H/none", 1, "none" },
        { "serve --api-key a --no-api-key", 2, "exclude each other" },
        { "serve --api-key a,,b", 2, "an empty one" },
        { "serve --host fd:77", 2, "fd:77" },
        { "serve --host unix:@H/open", 1, "it is not a socket" },
        { "serve --host unix:@H/nowhere/x", 1, "the folder does not exist" },
        { "serve --host 203.0.113.9 --no-api-key", 1, "does not have that address" },
        { "serve --log-file @H/nowhere/x", 1, "cannot open the log file" },
        { "serve --log-file @H", 1, "cannot open the log file" },
        { "serve --api-prefix llm", 2, "--api-prefix begins with a slash" },
        { "serve --api-prefix /llm/", 2, "--api-prefix begins with a slash" },
        { "serve --header-timeout 0", 2, "--header-timeout: more than 0 seconds" },
        { "serve --stall-timeout -1", 2, "--stall-timeout: more than 0 seconds" },
        { "serve --log-level loud", 2, "error|warning|info|debug" },
        { "serve --chat-template-kwargs [1]", 2, "takes a JSON object" },
        { "serve --var x", 2, "takes NAME=JSON" },
        { "serve -ngl 9", 2, "not supported" },
        { "serve --ssl-key-file x", 2, "plain HTTP" },
    };
    char path[600];
    temp_write(home, "open", S("key\n"));
    temp_write(home, "empty", S("# nothing\n\n"));
    snprintf(path, sizeof path, "%s/open", home);
    chmod(path, 0644);
    snprintf(path, sizeof path, "%s/empty", home);
    chmod(path, 0600);
    for (size_t i = 0; i < COUNT(row); i++) {
        struct ran r = program_run(row[i].line, NULL, home, NULL);
        if (r.code != row[i].code || !strstr(buf_c(&r.err), row[i].says))
            fail_msg("%s: exit %d\n%s", row[i].line, r.code, buf_c(&r.err));
        ran_free(&r);
    }
}

static void test_print_config(void **state) {
    (void)state;
    struct ran r = program_run("serve --print-config --temp 0.5 --api-key hunter22", NULL, home,
                               "LLAMA_ARG_PORT=9001");
    assert_int_equal(r.code, 0);
    assert_non_null(strstr(buf_c(&r.out), "# variable LLAMA_ARG_PORT\nport = 9001\n"));
    assert_non_null(strstr(buf_c(&r.out), "# flag --temp\ntemp = 0.5\n"));
    assert_null(strstr(buf_c(&r.out), "hunter22"));
    ran_free(&r);
}

/* Signals when it serves, and before: the exit code is 0, also for two of them. */
static void test_signals(void **state) {
    (void)state;
    static const struct { const char *line, *wait; int number, times; } row[] = {
        { "serve --port 0", "listening on http://127.0.0.1:", SIGTERM, 1 },
        { "serve --port 0", "listening on http://127.0.0.1:", SIGINT, 1 },
        { "serve --port 0 --drain-timeout 5", "listening on ", SIGTERM, 2 },
        { "serve --host unix:@H/s.sock", "listening on ", SIGTERM, 1 },
        { "serve --host @H/s.sock --no-warmup", "listening on ", SIGTERM, 1 },
    };
    for (size_t i = 0; i < COUNT(row); i++) {
        struct terminal t = terminal_open(row[i].line, home, "LC_ALL=de_DE.UTF-8");
        if (!terminal_finds(&t, row[i].wait, 40)) fail_msg("%s: %s", row[i].line, t.seen.at);
        for (int k = 0; k < row[i].times; k++) kill(t.pid, row[i].number);
        int code = terminal_close(&t);
        if (code) fail_msg("%s: exit %d", row[i].line, code);
        char path[600];
        snprintf(path, sizeof path, "%s/s.sock", home);
        assert_int_not_equal(access(path, F_OK), 0);
    }
}

static int make_home(void **state) {
    (void)state;
    home = temp_dir();
    return 0;
}

static int drop_home(void **state) {
    (void)state;
    temp_free(home);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused), cmocka_unit_test(test_print_config),
        cmocka_unit_test(test_signals),
    };
    return cmocka_run_group_tests(tests, make_home, drop_home);
}
