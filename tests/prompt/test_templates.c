/* Chat templates against Jinja2 as Hugging Face's runner sets it up: expected
 * texts were made by tools/make_template_vectors.py. Templates of real models
 * are not ours to keep; they are run where a folder of them is found. */
#include "base/buf.h"
#include "prompt/prompt.h"
#include <json-c/json.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static const char data[] = "tests/prompt", real[] = "../shared/data/templates";
enum { NOW = 1720105569 };           /* 2024-07-04 15:06:09 UTC, as in the script */
static char folder[] = "/tmp/mlxcel-templates-XXXXXX";

static struct json_object *load(const char *dir, const char *name) {
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    struct json_object *j = json_object_from_file(path);
    if (!j) fail_msg("%s: %s", path, json_util_get_last_err());
    return j;
}

static struct json_object *member(struct json_object *j, const char *key) {
    struct json_object *value = NULL;
    json_object_object_get_ex(j, key, &value);
    return value;
}

static const char *string(struct json_object *j, const char *key) {
    struct json_object *value = member(j, key);
    return value ? json_object_get_string(value) : NULL;
}

static int set_up(void **state) {
    (void)state;
    char path[1024];
    setenv("TZ", "UTC", 1);
    if (!mkdtemp(folder)) return -1;
    snprintf(path, sizeof path, "%s/tokenizer_config.json", folder);
    FILE *f = fopen(path, "w");
    if (!f) return -1;
    fputs("{\"bos_token\": \"<s>\", \"eos_token\": {\"content\": \"</s>\"},"
          "\"unk_token\": \"<unk>\"}", f);
    return fclose(f);
}

static int tear_down(void **state) {
    (void)state;
    char path[1024];
    snprintf(path, sizeof path, "%s/tokenizer_config.json", folder);
    unlink(path);
    return rmdir(folder);
}

/* Spans are ordered, apart, inside of the text, and end on whole code points. */
static void check_spans(const struct prompt *p) {
    size_t end = 0;
    for (int i = 0; i < p->n_spans; i++) {
        assert_true(i == 0 || p->span[i].begin > end);
        assert_true(p->span[i].begin < p->span[i].end);
        end = p->span[i].end;
        assert_true(end <= p->text.len);
        assert_true(end == p->text.len || (p->text.at[end] & 0xC0) != 0x80);
    }
}

/* Whether the dialog renders to `want` (NULL: is refused); says so when not. */
static bool same(const struct chat *chat, const struct dialog *d, struct json_object *want,
                 const char *template, const char *name) {
    struct prompt p = { 0 };
    struct err err = { 0 };
    bool ok = chat_render(chat, d, &p, &err);
    bool good;
    if (!want) {
        good = !ok;
        if (ok) print_message("%s, %s: should be refused\n", template, name);
    } else if (!ok) {
        good = false;
        print_message("%s, %s: %s\n", template, name, err.text);
    } else {
        size_t n = (size_t)json_object_get_string_len(want), i = 0;
        const char *text = json_object_get_string(want);
        while (i < n && i < p.text.len && text[i] == p.text.at[i]) i++;
        good = i == n && n == p.text.len;
        size_t from = i > 40 ? i - 40 : 0;
        if (!good)
            print_message("%s, %s: differs at byte %zu\n  want %.*s\n  have %.*s\n", template,
                          name, i,
                          (int)(n - from < 120 ? n - from : 120), text + from,
                          (int)(p.text.len - from < 120 ? p.text.len - from : 120),
                              p.text.at + from);
        check_spans(&p);
    }
    prompt_free(&p);
    return good;
}

static struct dialog dialog_of(struct json_object *j) {
    return (struct dialog){
        .messages = member(j, "messages"), .tools = member(j, "tools"),
        .documents = member(j, "documents"), .vars = member(j, "vars"),
        .no_generation_prompt = json_object_get_boolean(member(j, "no_generation_prompt")),
        .now_s = NOW,
    };
}

static int compare_way(const struct chat *chat, struct json_object *dialogs,
                       struct json_object *results, bool as_given, const char *file, int *cases) {
    int wrong = 0;
    size_t n = json_object_array_length(dialogs);
    assert_int_equal(n, json_object_array_length(results));
    for (size_t i = 0; i < n; i++, ++*cases) {
        struct json_object *one = json_object_array_get_idx(dialogs, i);
        struct dialog d = dialog_of(one);
        d.as_given = as_given;
        wrong += !same(chat, &d, json_object_array_get_idx(results, i), file, string(one, "name"));
    }
    return wrong;
}

/* Each template with each dialog, with messages as they are and as chat_render adapts them. */
static int compare_all(const char *dir, struct json_object *expected, int *cases) {
    struct json_object *dialogs = load(data, "dialogs.json");
    int wrong = 0;
    json_object_object_foreach(expected, file, results) {
        char path[1024];
        struct buf text = { 0 };
        struct err err = { 0 };
        snprintf(path, sizeof path, "%s/%s", dir, file);
        if (!buf_read_file(&text, path, 1 << 20, &err)) fail_msg("%s", err.text);
        struct chat *chat = chat_open(folder, buf_c(&text), NULL, &err);
        if (!chat) fail_msg("%s: %s", file, err.text);
        wrong += compare_way(chat, dialogs, member(results, "given"), true, file, cases);
        wrong += compare_way(chat, dialogs, member(results, "adapted"), false, file, cases);
        chat_close(chat);
        buf_free(&text);
    }
    json_object_put(dialogs);
    return wrong;
}

/* How many of a file's templates render to something else than they should; a refusal must name
 * the line. */
static int compare_file(const char *name, const char *vars_text, size_t *n) {
    struct json_object *cases = load(data, name), *none = json_object_new_array();
    struct json_object *vars = json_tokener_parse(vars_text);
    int wrong = 0;
    *n = json_object_array_length(cases);
    for (size_t i = 0; i < *n; i++) {
        struct json_object *one = json_object_array_get_idx(cases, i), *want = member(one, "want");
        const char *text = string(one, "t");
        struct prompt p = { 0 };
        struct err err = { 0 };
        struct json_object *own = member(one, "v");
        struct dialog d = { .messages = none, .vars = own ? own : vars, .now_s = NOW };
        struct chat *chat = chat_open(folder, text, NULL, &err);
        assert_true(want || string(one, "fails") || string(one, "refused"));
        if (chat && want) {
            wrong += !same(chat, &d, want, name, text);
        } else if (want) {
            print_message("%s: %s\n", text, err.text);
            wrong++;
        } else if ((chat && chat_render(chat, &d, &p, &err)) ||
                   !strstr(err.text, "chat template line ")) {
            print_message("%s: should be refused: %s\n", text, err.text);
            wrong++;
        }
        prompt_free(&p);
        chat_close(chat);
    }
    json_object_put(cases);
    json_object_put(none);
    json_object_put(vars);
    return wrong;
}

static void every_feature(void **state) {
    (void)state;
    size_t n;
    assert_int_equal(compare_file("features.json", "{}", &n), 0);
    assert_true(n > 100);
}

/* Each name that Jinja2 and Python's data know; the script sees to it that none is missing. */
static void every_name(void **state) {
    (void)state;
    size_t n;
    assert_int_equal(compare_file("builtins.json", "{\"l\": [3, 1, 2], \"n\": 6, \"f\": 2.5,"
        "\"d\": {\"b\": 1, \"a\": \"x\"}, \"ld\": [{\"k\": \"x\", \"v\": 3},"
        "{\"k\": \"y\", \"v\": 1}, {\"k\": \"x\", \"v\": 2}]}", &n), 0);
    assert_true(n > 200);
}

static void own_templates(void **state) {
    (void)state;
    struct json_object *expected = load(data, "expected.json");
    int cases = 0, wrong = compare_all(data, expected, &cases);
    json_object_put(expected);
    assert_true(cases > 100);
    assert_int_equal(wrong, 0);
}

/* Has the script write what it expects of the folder of real templates. */
static bool ask_python(const char *path) {
    int status = 1;
    pid_t child = fork();
    assert_true(child >= 0);
    if (!child) {
        bool ok = freopen(path, "w", stdout) && freopen("/dev/null", "w", stderr);
        static const char script[] = "tools/make_template_vectors.py";
        if (ok) execlp("python3", "python3", script, "--over", real, NULL);
        _exit(127);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void templates_of_real_models(void **state) {
    (void)state;
    struct stat st;
    if (stat(real, &st) != 0) {
        print_message("%s is not there: templates of real models are not run\n", real);
        skip();
    }
    char path[1024];
    snprintf(path, sizeof path, "%s/real.json", folder);
    bool made = ask_python(path);
    struct json_object *expected = made ? load(folder, "real.json") : NULL;
    unlink(path);
    if (!made) {
        print_message("no python3 with jinja2 and transformers: real models' are not run\n");
        skip();
    }
    int cases = 0, wrong = compare_all(real, expected, &cases);
    print_message("%d renderings of real models' templates compared\n", cases);
    json_object_put(expected);
    assert_int_equal(wrong, 0);
}

int main(void) {
    const struct CMUnitTest all[] = {
        cmocka_unit_test(every_feature),
        cmocka_unit_test(every_name),
        cmocka_unit_test(own_templates),
        cmocka_unit_test(templates_of_real_models),
    };
    return cmocka_run_group_tests(all, set_up, tear_down);
}
