/* test_settings.c - variables and the config file: what they set, who wins, and the sentence
 * for what means nothing. */
#include "../maker.h"
#include "cli/options.h"

#include <setjmp.h>
#include <stdarg.h>
#include <sys/stat.h>

#include <cmocka.h>

static char *home;
static char path[600];

/* `words` are cut in place; `config` (NULL: none) is written to the file first. */
static bool read_settings(struct args *a, char **word, int n, const char *config, struct err *err) {
    *err = (struct err){ 0 };
    args_init(a);
    a->command = "serve";
    if (config) {
        temp_write(home, "conf", str_of(config));
        chmod(path, 0600);
        a->config = path;
    }
    return options_parse(a, CMD_SERVE, n, word, err) && settings_read(a, CMD_SERVE, true, err);
}

static void test_precedence(void **state) {
    (void)state;
    static const char config[] =
        "port = 1\nparallel = 2\n; a comment\n[*]\nalias = common\ntemp = 0.5\n"
        "[small]\nmodel = /models/s\nport = 3\nhost = a\nhost = b\ntop-k = 7\n"
        "[large]\nport = 4\n";
    struct args a;
    struct err err;
    char *word[] = { (char[]){ "--queue" }, (char[]){ "9" }, (char[]){ "small" } };
    setenv("MLXCEL_QUEUE", "5", 1);
    setenv("LLAMA_ARG_TEMPERATURE", "0.25", 1);
    setenv("LLAMA_ARG_ENDPOINT_SLOTS", "0", 1);
    if (!read_settings(&a, word, 3, config, &err)) fail_msg("%s", err.text);
    assert_int_equal(a.queue, 9);                    /* flag before variable */
    assert_true(a.sample.temperature == 0.25F);      /* variable before file */
    assert_int_equal(a.port, 3);                     /* section before common part */
    assert_int_equal(a.parallel, 2);
    assert_int_equal(a.hosts.n, 2);
    assert_true(a.no_slots);
    assert_string_equal(a.model, "/models/s");
    assert_string_equal(a.alias, "common");
    assert_int_equal(a.n_positionals, 0);
    struct buf out = { 0 };
    struct sample_params model = sample_defaults();
    model.top_p = 0.125F;
    settings_print(&out, &a, CMD_SERVE, &model);
    static const char *const part[] = {
        "# flag --queue\nqueue = 9\n", "# variable LLAMA_ARG_TEMPERATURE\ntemp = 0.25\n",
        "conf:9\nport = 3\n", "# checkpoint\ntop-p = 0.125\n", "# built in\ndrain-timeout = 30\n",
    };
    for (size_t i = 0; i < COUNT(part); i++)
        if (!strstr(buf_c(&out), part[i])) fail_msg("no '%s' in\n%s", part[i], buf_c(&out));
    buf_free(&out);
    args_free(&a);
    unsetenv("MLXCEL_QUEUE");
    unsetenv("LLAMA_ARG_TEMPERATURE");
    unsetenv("LLAMA_ARG_ENDPOINT_SLOTS");
}

static void test_refused(void **state) {
    (void)state;
    static const struct { const char *config, *says; } row[] = {
        { "port = 1\nprot = 2\n", "conf:2: unknown option --prot; did you mean" },
        { "port = x\n", "conf:1: option --port takes a whole number from 0 to 65535, not 'x'" },
        { "[a\n", "conf:1: a section ends with ]" },
        { "hello\n", "conf:1: neither" },
        { "port =\n", "conf:1: a value is missing" },
        { "port = 1\nport = 2\n", "conf:2: this option was set" },
        { "n-gpu-layers = 9\n", "conf:1: option --n-gpu-layers is not supported: " },
        { "[a]\nport = 1\n[b]\nport = 2\n", "several models" },
        { "jinja = false\n", "cannot be off" },
        { "no-slots = maybe\n", "on or off" },
        { "drain-timeout = 5x\n", "seconds, or a time" },
    };
    for (size_t i = 0; i < COUNT(row); i++) {
        struct args a;
        struct err err;
        assert_false(read_settings(&a, NULL, 0, row[i].config, &err));
        assert_int_equal(err.code, ERR_USAGE);
        if (!strstr(err.text, row[i].says)) fail_msg("'%s', not '%s'", err.text, row[i].says);
        args_free(&a);
    }
}

/* A file with keys is for its owner; keys are not printed. */
static void test_secrets(void **state) {
    (void)state;
    struct args a;
    struct err err;
    assert_true(read_settings(&a, NULL, 0, "api-key = hunter22\n", &err));
    struct buf out = { 0 };
    struct sample_params model = sample_defaults();
    settings_print(&out, &a, CMD_SERVE, &model);
    assert_null(strstr(buf_c(&out), "hunter22"));
    buf_free(&out);
    args_free(&a);
    chmod(path, 0644);
    args_init(&a);
    a.command = "serve";
    a.config = path;
    assert_false(settings_read(&a, CMD_SERVE, true, &err));
    assert_non_null(strstr(err.text, "everyone may read it"));
    args_free(&a);
}

static int make_home(void **state) {
    (void)state;
    home = temp_dir();
    snprintf(path, sizeof path, "%s/conf", home);
    return 0;
}

static int drop_home(void **state) {
    (void)state;
    temp_free(home);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_precedence), cmocka_unit_test(test_refused),
        cmocka_unit_test(test_secrets),
    };
    return cmocka_run_group_tests(tests, make_home, drop_home);
}
