/* test_cli.c - the built program from outside, without a model running: help, errors,
 * exit codes, where a model is looked for, tokens, templates, completion. A row each. */
#include "program.h"

#include <setjmp.h>
#include <stdarg.h>
#include <sys/stat.h>

#include <cmocka.h>

/* out, err: a part that standard output and standard error must hold; "" means nothing at all,
 * NULL means anything. */
struct row { const char *line, *input; int code; const char *out, *err; };

static const struct row rows[] = {
    { "", NULL, 2, "usage: mlxcel COMMAND", "" },
    { "--help", NULL, 0, "usage: mlxcel COMMAND", "" },
    { "--version", NULL, 0, "mlxcel " MLXCEL_VERSION "\n", "" },
    { "--version --json", NULL, 0,
      "{\"name\":\"mlxcel\",\"version\":\"" MLXCEL_VERSION "\"}\n", "" },
    { "--version --jsn", NULL, 2, "", "not '--jsn'" },
    { "runn", NULL, 2, "", "mlxcel: unknown command 'runn'; did you mean 'run'?\n" },
    { "xyzzy", NULL, 2, "", "mlxcel: unknown command 'xyzzy' ('mlxcel help' lists them)\n" },
    { "'a\tb'", NULL, 2, "", "unknown command 'a" },
    { "-m x", NULL, 2, "", "a command comes first" },
    { "help run", NULL, 0, "usage: mlxcel run", "" },
    { "run --help", NULL, 0, "--temperature", "" },
    { "help nothing", NULL, 2, "", "no command 'nothing'" },
    { "help --man", NULL, 0, ".TH MLXCEL 1", "" },
    { "help --man run", NULL, 0, ".TH MLXCEL-RUN 1", "" },
    { "--man", NULL, 0, ".SH EXIT STATUS", "" },
    { "run --temprature 1", NULL, 2, "",
      "mlxcel: unknown option --temprature; did you mean --temp" },
    { "run -ngl 99", NULL, 2, "", "option -ngl is not supported: " },
    { "run --mmproj a.gguf", NULL, 2, "", "option --mmproj is not supported: " },
    { "run --json", "", 2, "", "the prompt is empty" },
    { "run -p x -- y", NULL, 2, "", "give the prompt once" },
    { "generate -p x --ids 1", NULL, 2, "", "give one of" },
    { "generate --ids 1,x", NULL, 2, "", "--ids: 'x' is not a token id" },
    { "generate --ids @@H/none.json", NULL, 1, "", "none.json" },
    { "inspect a b", NULL, 2, "", "'inspect' does not take 'b'" },
    { "arch x", NULL, 2, "", "'arch' does not take 'x'" },
    { "logits --ids 1", NULL, 2, "", "logits needs --ids LIST and -o FILE" },
    { "bench -b 0", NULL, 2, "", "--batch: sizes are 1 to" },
    { "bench -b 1,,x", NULL, 2, "", "'x' is not a token id" },
    { "apply-template", NULL, 2, "", "apply-template needs --messages FILE" },
    { "completion tcsh", NULL, 2, "", "bash, zsh or fish, not 'tcsh'" },
    { "health http://127.0.0.1:1", NULL, 1, "", "no server at 127.0.0.1:1: " },
    { "health unix:@H/none.sock", NULL, 1, "", "none.sock: " },
    { "health [::1", NULL, 2, "", "'[::1' is no address of a server" },
    { "run --config @H/none -p x", NULL, 1, "", "none" },
    { "run --chat-template chatml -p x", NULL, 2, "", "--chat-template takes Jinja text" },
    /* where a model is looked for */
    { "tokenize -m @H/nowhere", "x", 3, "", "mlxcel: no folder " },
    { "tokenize -m some/model", "x", 3, "",
      "neither a folder of that name nor @H/.cache/huggingface/hub/models--some--model" },
    { "tokenize -m ../../no", "x", 3, "", "no folder ../../no" },
    { "tokenize -m some/model@../../x", "x", 3, "", "models--some--model" },
    { "run -m some/model -p x", NULL, 3, "", "no model some/model" },
    { "run some/model x", NULL, 3, "", "no model some/model" },
    { "tokenize -m owner/name --json", "Hi", 0, "{\"ids\":[", "" },
    { "tokenize -m hf.co/owner/name@main --json", "Hi", 0, "{\"ids\":[", "" },
    { "tokenize -m owner/name@abc --json", "Hi", 0, "{\"ids\":[", "" },
    { "tokenize -m owner/name@other --json", "Hi", 3, "", "has no snapshot of revision other" },
    { "tokenize -m owner/bad --json", "Hi", 3, "", "has no snapshot of revision main" },
    /* tokens */
    { "tokenize --json", "", 0, "{\"ids\":[", "" },
    { "tokenize --decode --ids 1,99999999", NULL, 0, NULL, "" },
    { "tokenize --decode", "[1,2", 1, "", "standard input: " },
    { "tokenize --decode", "{\"no\":[1]}", 1, "", "the object has no list \"ids\"" },
    { "tokenize --decode", "1 2 -3", 2, "", "'-3' is not a token id" },
    { "tokenize --ids 1", NULL, 2, "", "--ids goes with --decode" },
};

static char *home;

/* The sentence of a row may name the folder of this run. */
static bool holds(struct buf *all, const char *part) {
    if (!part) return true;
    if (!*part) return !all->len;
    char *line = program_line(part, home);
    bool found = strstr(buf_c(all), line + strlen(program_path()) + 1) != NULL;
    free(line);
    return found;
}

static void test_rows(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct ran r = program_run(rows[i].line, rows[i].input, home, NULL);
        if (r.code != rows[i].code || !holds(&r.out, rows[i].out) || !holds(&r.err, rows[i].err))
            fail_msg("mlxcel %s: exit %d (not %d)\nstdout: %s\nstderr: %s", rows[i].line, r.code,
                     rows[i].code, buf_c(&r.out), buf_c(&r.err));
        /* One sentence for one mistake, and nothing a terminal would act on. */
        if (rows[i].code == 2 && r.err.len) {
            assert_ptr_equal(strchr(r.err.at, '\n'), r.err.at + r.err.len - 1);
            for (size_t k = 0; k + 1 < r.err.len; k++)
                assert_true((unsigned char)r.err.at[k] >= 32);
        }
        ran_free(&r);
    }
}

static void test_round_trip(void **state) {
    (void)state;
    static const char text[] =
        "What is mlxcel?\n\tD\xc3\xbc \xe4\xbd\xa0 \xf0\x9f\x8c\xb1 <|im_start|> x";
    struct ran ids = program_run("tokenize --json --no-bos", text, home, NULL);
    assert_int_equal(ids.code, 0);
    struct ran back = program_run("tokenize --decode --specials", buf_c(&ids.out), home, NULL);
    assert_int_equal(back.code, 0);
    assert_string_equal(buf_c(&back.out), text);
    ran_free(&ids);
    ran_free(&back);
}

/* A template alone renders without any model, and only the text comes out. */
static void test_template(void **state) {
    (void)state;
    temp_write(home, "t.jinja", S("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
                                  "{% if tools %}T{{ tools|length }}{% endif %}{{ who }}"
                                  "{% if add_generation_prompt %}>{% endif %}"));
    temp_write(home, "m.json", S("[{\"role\":\"user\",\"content\":\"a\\nb\"}]"));
    temp_write(home, "r.json", S("{\"messages\":[{\"role\":\"user\",\"content\":\"c\"}],"
                                 "\"tools\":[{\"type\":\"function\"}]}"));
    temp_write(home, "bad.json", S("[{\"role\":}]"));
    temp_write(home, "one.json", S("{\"role\":\"user\",\"content\":\"c\"}"));
    temp_write(home, "empty.json", S("[]"));
    temp_write(home, "nobody.json", S("[{\"content\":\"c\"}]"));
    temp_write(home, "v.jinja", S("{{ enable_thinking }}/{{ thinking }}/{{ reasoning_effort }}/"
                                  "{{ x.y is defined and x.y }}/{{ bos_token is defined }}"));
    temp_write(home, "brace.jinja", S("\n{{ messages[0].content }"));
    temp_write(home, "no.jinja", S("\n{{ raise_exception('roles must alternate') }}"));
    static const struct { const char *line; int code; const char *out, *err; } row[] = {
        { "apply-template --template @H/t.jinja --messages @H/m.json", 0, "<user>a\nb>", "" },
        { "apply-template --template @H/t.jinja --messages @H/m.json --no-generation-prompt", 0,
          "<user>a\nb", "" },
        { "apply-template --template @H/t.jinja --messages @H/r.json --var 'who=\"me\"'", 0,
          "<user>cT1me>", "" },
        { "apply-template --template @H/t.jinja --messages @H/r.json --var who=7", 0,
          "<user>cT17>", "" },
        { "apply-template --template @H/t.jinja --messages @H/bad.json", 1, "", "bad.json" },
        { "apply-template --template @H/t.jinja --messages @H/m.json --var who", 2, "",
          "--var takes NAME=JSON" },
        { "apply-template --template @H/none --messages @H/m.json", 1, "", "none" },
        { "apply-template --template @H/t.jinja --messages @H/nothing.json", 1, "",
          "nothing.json: No such file" },
        { "apply-template --template @H/t.jinja --messages @H/one.json", 1, "",
          "one.json: neither a list of messages" },
        { "apply-template --template @H/t.jinja --messages @H/empty.json", 1, "",
          "empty.json: the list of messages is empty" },
        { "apply-template --template @H/t.jinja --messages @H/nobody.json", 1, "",
          "messages[0]: role is missing" },
        { "apply-template --template @H/brace.jinja --messages @H/m.json", 1, "",
          "brace.jinja: chat template line 2, column 24: an unexpected '}'" },
        { "apply-template --template @H/v.jinja --messages @H/m.json", 1, "", "'x' is undefined" },
        { "apply-template --template @H/v.jinja --messages @H/m.json --think high "
          "--var 'x={\"y\":[1.0,null]}'", 0, "True/True/high/[1.0, None]/False", "" },
        { "apply-template --template @H/v.jinja --messages @H/m.json --think off --var x={} "
          "--reasoning-effort low", 0, "False/False/low/False/False", "" },
        { "apply-template --template @H/v.jinja --messages @H/m.json --chat-template-kwargs "
          "'{\"x\":{},\"enable_thinking\":null}'", 0, "None///False/False", "" },
        { "apply-template --template @H/no.jinja --messages @H/m.json", 1, "",
          "no.jinja: chat template line 2, column 19: the template refuses this dialog: roles must "
          "alternate" },
        { "apply-template --chat-template rag --messages @H/m.json", 2, "", "takes Jinja text" },
    };
    for (size_t i = 0; i < COUNT(row); i++) {
        struct ran r = program_run(row[i].line, NULL, home, NULL);
        if (r.code != row[i].code || strcmp(buf_c(&r.out), row[i].out) != 0
            || !holds(&r.err, row[i].err))
            fail_msg("%s: exit %d\nstdout: %s\nstderr: %s", row[i].line, r.code, buf_c(&r.out),
                     buf_c(&r.err));
        ran_free(&r);
    }
}

/* The bash script, run by bash: what it offers for a line. */
static void complete(const char *words, int at, const char *wanted) {
    struct buf command = { 0 };
    buf_format(&command, "source <('%s' completion bash); compopt() { :; }; COMP_WORDS=(%s); "
               "COMP_CWORD=%d; _mlxcel; echo \"${COMPREPLY[*]}\"", program_path(), words, at);
    temp_write(home, "script", buf_view(&command));
    buf_free(&command);
    char line[700], got[8192];
    snprintf(line, sizeof line, "bash %s/script", home);
    FILE *p = popen(line, "r");
    assert_non_null(p);
    size_t n = fread(got, 1, sizeof got - 1, p);
    got[n] = 0;
    assert_int_equal(pclose(p), 0);
    if (!strstr(got, wanted)) fail_msg("%s: offered '%s', not '%s'", words, got, wanted);
}

static void test_completion(void **state) {
    (void)state;
    if (system("command -v bash >/dev/null 2>&1")) skip();
    complete("mlxcel apply", 1, "apply-template\n");
    complete("mlxcel run --repeat-p", 2, "--repeat-penalty\n");
    complete("mlxcel run --compute ''", 3, "auto f32\n");
    complete("mlxcel completion z", 2, "zsh\n");
    struct ran z = program_run("completion zsh", NULL, home, NULL);
    assert_non_null(strstr(buf_c(&z.out), "#compdef mlxcel"));
    struct ran f = program_run("completion fish", NULL, home, NULL);
    assert_non_null(strstr(buf_c(&f.out), "-l temperature"));
    ran_free(&z);
    ran_free(&f);
}

/* A full disk is told of, not slept through. */
static void test_full(void **state) {
    (void)state;
    char line[600];
    snprintf(line, sizeof line, "'%s' help >/dev/full 2>/dev/null", program_path());
    int status = system(line);
    assert_int_equal(WEXITSTATUS(status), 1);
}

/* A Hugging Face cache in HOME, with one good repository and one whose ref leaves its folder. */
static int make_home(void **state) {
    (void)state;
    char line[2000];
    home = temp_dir();
    snprintf(line, sizeof line,
             "c=%s/.cache/huggingface/hub; d=$PWD/models/demo; "
             "mkdir -p $c/models--owner--name/refs $c/models--owner--name/snapshots/abc "
             "$c/models--owner--bad/refs $c/models--owner--bad/snapshots $c/secret && "
             "printf 'abc\\n' >$c/models--owner--name/refs/main && "
             "printf '../../secret' >$c/models--owner--bad/refs/main && "
             "ln -s $d/* $c/models--owner--name/snapshots/abc/ && ln -s $d/* $c/secret/", home);
    return system(line);
}

static int drop_home(void **state) {
    (void)state;
    temp_free(home);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows), cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_template), cmocka_unit_test(test_completion),
        cmocka_unit_test(test_full),
    };
    return cmocka_run_group_tests(tests, make_home, drop_home);
}
