/* How much a stream looks at the text: counted, not timed. Whatever is said, in tokens of four
 * bytes or at once, four times the text is about four times the work; long answers that are held
 * back, broken or made of marks included. */
#include "heard.h"
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

enum { SHORT = 16 << 10, LONG = 1 << 20, PER_BYTE_MAX = 500 };

static void ignore(void *to, const struct chat_event *e) {
    size_t *given = to;
    *given += e->text.len;
}

/* The work on `unit` again and again, behind `first`, until there are `len` bytes. */
static size_t work(const struct chat *chat, struct json_object *tools, struct str first,
                   struct str unit, size_t len, bool at_once) {
    struct chat_stream *s = chat_stream_open(chat, NULL, tools);
    struct buf text = { 0 };
    size_t given = 0;
    buf_str(&text, first);
    while (text.len < len) buf_str(&text, unit);
    for (size_t at = 0; !at_once && at < text.len; at += 4)
        chat_stream_push(s, str_cut(buf_view(&text), at, at + 4), true, false, ignore, &given);
    chat_stream_push(s, at_once ? buf_view(&text) : S(""), true, true, ignore, &given);
    size_t n = s->work;
    chat_stream_close(s);
    buf_free(&text);
    return n;
}

static bool linear(const char *name, const struct chat *chat, struct json_object *tools,
                   struct str first, struct str unit, size_t len) {
    bool good = true;
    for (int at_once = 0; good && at_once < 2; at_once++) {
        size_t one = work(chat, tools, first, unit, len, at_once);
        size_t four = work(chat, tools, first, unit, 4 * len, at_once);
        good = four < 5 * one + 1000000 / 4 && four / (4 * len) < PER_BYTE_MAX;
        if (!good)
            print_message("%s, \"%.*s\" again%s: %zu for %zu bytes, %zu for four times as many\n",
                          name, STR_ARG(unit), at_once ? " at once" : "", one, len, four);
    }
    return good;
}

static struct json_object *load(const char *dir, const char *name) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    struct json_object *j = json_object_from_file(path);
    if (!j) fail_msg("%s: %s", path, json_util_get_last_err());
    return j;
}

static const char *string(struct json_object *j, const char *key) {
    return json_object_get_string(json_object_object_get(j, key));
}

/* A format's call, cut at several places, over and over; and a long value in it. */
static int one_format(const char *dir, struct json_object *tools) {
    struct json_object *format = load(dir, "format.json"), *one = load(dir, "streams.json");
    struct err err = { 0 };
    struct chat *chat = chat_open(NULL, string(format, "template"), NULL, &err);
    if (!chat) fail_msg("%s: %s", dir, err.text);
    struct str text = str_of(string(one, "text"));
    int wrong = 0;
    for (size_t i = 1; i <= 8; i++)
        wrong += !linear(dir, chat, tools, S(""), str_cut(text, 0, text.len * i / 8), SHORT);
    const char *fox = strstr(text.at, "fox");
    size_t n = fox ? (size_t)(fox - text.at) : text.len;
    wrong += !linear(dir, chat, tools, str_cut(text, 0, n), S("fox "), SHORT);
    wrong += !linear(dir, chat, tools, str_cut(text, 0, n), S("\\u00e9<\n "), SHORT);
    chat_close(chat);
    json_object_put(format);
    json_object_put(one);
    return wrong;
}

static int by_name(const struct dirent **a, const struct dirent **b) {
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int formats_only(const struct dirent *d) {
    return !strchr(d->d_name, '.') && !str_starts(str_of(d->d_name), "more_");
}

static void every_format(void **state) {
    static const char all[] = "tests/prompt/said";
    (void)state;
    struct json_object *tools = load(all, "tools.json");
    struct dirent **dir;
    int n = scandir(all, &dir, formats_only, by_name), wrong = 0;
    for (int i = 0; i < n; i++) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", all, dir[i]->d_name);
        wrong += one_format(path, tools);
        free(dir[i]);
    }
    if (n >= 0) free(dir);
    json_object_put(tools);
    assert_true(n > 40);
    assert_int_equal(wrong, 0);
}

/* A megabyte and more of what is held longest. */
static void long_answers(void **state) {
    static const struct { const char *sign, *first, *unit; } rows[] = {
        { "<tool_call></think>", "", "An answer of many words, <b>some</b> of them marked.\n" },
        { "<tool_call></think>", "<think>", "A thought of many words, {none} of them said.\n" },
        { "<tool_call>", "", "<tool_call>" },
        { "<tool_call>", "", "<tool_call>{\"x\": \"" },
        { "<tool_call>", "<tool_call>{\"x\": \"", "<tool_call>" },
        { "<tool_call>", "<tool_call>{\"arguments\": {\"x\": \"", "y" },
        { "<tool_call>", "<tool_call>{\"arguments\": \"", "y" },
        { "<tool_call>", "<tool_call>{\"name\": \"now\", \"arguments\": \"{\\\"a\\\": \\\"", "y" },
        { "<tool_call>", "<tool_call>{\"name\": \"now\", \"arguments\": {\"a\": \"", "y " },
        { "<tool_call>", "", "<tool_call><function=note><parameter=meta>" },
        { "<tool_call>", "<tool_call><function=note><parameter=meta>", "<tool_call>" },
        { "<tool_call>", "<tool_call>", " " },
        { "[TOOL_CALLS]", "[TOOL_CALLS]", "x" },
        { "<|channel|>final<|message|>", "<|channel|>", "x" },
        { "<|channel|>final<|message|>", "<|channel|>final<|message|>", "x <" },
        { "<|channel|>final<|message|>", "", "<|start|>assistant" },
        { "<|channel|>final<|message|>", "", "<|channel|>commentary to=now<|message|>{" },
        { "<tool_call>", "<tool_call>{\"name\": \"now\", \"arguments\": {\"a\": ", "[" },
        { "<tool_call>", "<tool_call>{\"x\": ", "{\"a\": [" },
        { "[func_name1(params_name1=", "[now(a=", "[1, " },
        { "<|tool_call>call:", "<|tool_call>call:now{a:", "x" },
        { ">>>all", "", ">>>now\n" },
    };
    (void)state;
    struct json_object *tools = load("tests/prompt/said", "tools.json");
    int wrong = 0;
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct err err = { 0 };
        struct chat *chat = chat_open(NULL, rows[i].sign, NULL, &err);
        if (!chat) fail_msg("%s", err.text);
        wrong += !linear(rows[i].first, chat, tools, str_of(rows[i].first), str_of(rows[i].unit),
                         LONG / 4);
        chat_close(chat);
    }
    json_object_put(tools);
    assert_int_equal(wrong, 0);
}

int main(void) {
    const struct CMUnitTest all[] = {
        cmocka_unit_test(every_format), cmocka_unit_test(long_answers),
    };
    return cmocka_run_group_tests(all, NULL, NULL);
}
