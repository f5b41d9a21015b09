/* What a model says, taken apart: a folder of tests/prompt/said for each way of marking, with a
 * file for each case. Every case is cut in two at every byte, short ones at every pair of bytes,
 * and gives the same events; and so does every beginning of it, of which nothing may be lost. All
 * of it twice: with letters deciding on marks, and with a vocabulary that has them as tokens. A
 * call is [name, arguments] and, where the model has given one, its id. */
#include "../maker.h"
#include "heard.h"
#include "base/utf8.h"
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

enum { PAIRS_BELOW = 48, CASES_MAX = 1024 };

struct said_case {
    const char *name;
    struct json_object *file, *tools;
    struct chat *chat;
    struct prompt prompt;
    struct buf text, control;        /* a flag for each byte */
    const char *begun;               /* the mark that the prompt ends with */
    bool channels;
};

static const char *string(struct json_object *j, const char *key) {
    const char *s = json_object_get_string(json_object_object_get(j, key));
    return s ? s : "";
}

static struct json_object *load(const char *path) {
    struct json_object *j = json_object_from_file(path);
    if (!j) fail_msg("%s: %s", path, json_util_get_last_err());
    return j;
}

/* ---- running ---- */

/* Pushes [from, to) in pieces that are all control or all not. */
static void push(struct chat_stream *s, const struct said_case *c, size_t from, size_t to,
                 bool last, struct heard *h) {
    struct str text = buf_view(&c->text);
    do {
        size_t end = from;
        while (end < to && c->control.at[end] == c->control.at[from]) end++;
        bool control = from < to && c->control.at[from];
        chat_stream_push(s, str_cut(text, from, end), control, last && end == to, hear, h);
        from = end;
    } while (from < to);
}

/* The first `len` bytes, cut at a and at b; a SIZE_MAX: at each. */
static void run(const struct said_case *c, size_t len, size_t a, size_t b, struct heard *h) {
    struct chat_stream *s = chat_stream_open(c->chat, &c->prompt, c->tools);
    if (a == SIZE_MAX) {
        for (size_t i = 0; i < len; i++) push(s, c, i, i + 1, false, h);
        push(s, c, len, len, true, h);
    } else {
        push(s, c, 0, a, false, h);
        push(s, c, a, b, false, h);
        push(s, c, b, len, true, h);
    }
    chat_stream_close(s);
    if (!h->wrong && h->ends != 1) h->wrong = "no end";
}

static bool complain(const struct said_case *c, const char *what, size_t len, size_t a, size_t b,
                     struct heard *h) {
    print_message("%s: %s\n  first %zu bytes, cut at %zd and %zd:%s\n", c->name, what, len,
                  (ssize_t)a, (ssize_t)b, buf_c(&h->all));
    return false;
}

/* The events are those of `as`, or just sound where that is empty. */
static bool same(const struct said_case *c, size_t len, size_t a, size_t b, struct heard *as) {
    struct heard h = { 0 };
    run(c, len, a, b, &h);
    bool good = !h.wrong || complain(c, h.wrong, len, a, b, &h);
    if (good && !str_eq(buf_view(&h.all), buf_view(&as->all)))
        good = complain(c, "other events than uncut", len, a, b, &h);
    heard_free(&h);
    return good;
}

static bool expected(const struct said_case *c, struct heard *h) {
    struct json_object *want = json_object_object_get(c->file, "calls");
    struct buf calls = { 0 }, ids = { 0 };
    for (size_t i = 0; want && i < json_object_array_length(want); i++) {
        struct json_object *call = json_object_array_get_idx(want, i);
        buf_format(&calls, "\n%s %s", json_object_get_string(json_object_array_get_idx(call, 0)),
                   json_object_get_string(json_object_array_get_idx(call, 1)));
        const char *id = json_object_get_string(json_object_array_get_idx(call, 2));
        buf_format(&ids, "%s\n", id ? id : "");
    }
    bool good = str_is(buf_view(&h->reasoning), string(c->file, "reasoning")) &&
                str_is(buf_view(&h->content), string(c->file, "content")) &&
                str_eq(buf_view(&h->calls), buf_view(&calls)) &&
                str_eq(buf_view(&h->ids), buf_view(&ids));
    buf_free(&calls);
    buf_free(&ids);
    return good;
}

static bool whole(const struct said_case *c, bool pairs) {
    struct heard once = { 0 }, bytes = { 0 };
    size_t len = c->text.len;
    run(c, len, 0, 0, &once);
    run(c, len, SIZE_MAX, 0, &bytes);
    bool good = !once.wrong || complain(c, once.wrong, len, 0, 0, &once);
    if (once.cut_character) good = complain(c, "a character is cut", len, 0, 0, &once);
    if (good && !expected(c, &once)) good = complain(c, "not as expected", len, 0, 0, &once);
    good = good && same(c, len, SIZE_MAX, 0, &once);
    for (size_t a = 1; good && a < len; a++) good = same(c, len, a, a, &once);
    for (size_t a = 1; good && pairs && a < len && len < PAIRS_BELOW; a++)
        for (size_t b = a + 1; good && b < len; b++) good = same(c, len, a, b, &once);
    int fragments = json_object_get_int(json_object_object_get(c->file, "fragments"));
    if (good && bytes.fragments < fragments)
        good = complain(c, "arguments do not come as they are said", len, SIZE_MAX, 0, &bytes);
    int texts = json_object_get_int(json_object_object_get(c->file, "texts"));
    if (good && bytes.texts < texts)
        good = complain(c, "text does not come as it is said", len, SIZE_MAX, 0, &bytes);
    heard_free(&once);
    heard_free(&bytes);
    return good;
}

/* As an engine tells it: token by token, the text up to `late` bytes later. Letters are a token
 * each, so that they never are a tag. */
static void run_tokens(const struct said_case *c, const struct tokenizer *tok, size_t late,
                       struct heard *h) {
    struct ids ids = { 0 };
    struct buf text = { 0 };
    for (size_t i = 0, end; i < c->text.len; i = end) {
        uint32_t cp;
        struct str rest = str_from(buf_view(&c->text), i);
        end = i + (size_t)utf8_next(rest, &cp);
        while (c->control.at[i] && end < c->text.len && c->control.at[end]) end++;
        tok_encode(tok, str_cut(rest, 0, end - i), TOK_SPECIALS, NULL, 0, &ids);
    }
    struct chat_stream *s = chat_stream_open(c->chat, &c->prompt, c->tools);
    struct detok *d = detok_open(tok, true);
    size_t told = 0;
    for (int i = 0; i <= ids.len; i++) {
        bool last = i == ids.len;
        if (last) detok_flush(d, &text);
        else detok_push(d, ids.at[i], &text);
        size_t end = last ? text.len : text.len - MIN(text.len, late);
        end = MAX(end, told);
        chat_stream_token(s, tok, last ? -1 : ids.at[i], str_cut(buf_view(&text), told, end), last,
                          hear, h);
        told = end;
    }
    if (h->cut_character && !late) h->wrong = "a character is cut";
    if (!str_eq(buf_view(&text), buf_view(&c->text))) h->wrong = "the tokens are of another text";
    detok_close(d);
    chat_stream_close(s);
    ids_free(&ids);
    buf_free(&text);
}

static bool tokens(const struct said_case *c, const struct tokenizer *tok) {
    struct heard once = { 0 };
    bool good = true;
    run(c, c->text.len, 0, 0, &once);
    for (size_t late = 0; good && late < 20; late += 1 + late) {
        struct heard h = { 0 };
        run_tokens(c, tok, late, &h);
        if (h.wrong) good = complain(c, h.wrong, c->text.len, late, 0, &h);
        else if (!str_eq(buf_view(&h.all), buf_view(&once.all)))
            good = complain(c, "other events from tokens", c->text.len, late, 0, &h);
        heard_free(&h);
    }
    heard_free(&once);
    return good;
}

/* Every beginning, as where a limit cuts the answer. */
static bool beginnings(const struct said_case *c) {
    bool good = true;
    for (size_t len = 0; good && len <= c->text.len; len++) {
        struct heard h = { 0 };
        run(c, len, 0, 0, &h);
        if (h.wrong) good = complain(c, h.wrong, len, 0, 0, &h);
        struct buf said = { 0 };
        buf_str(&said, str_of(c->begun));
        buf_str(&said, str_cut(buf_view(&c->text), 0, len));
        if (good && !nothing_lost(buf_view(&said), strlen(c->begun), buf_view(&h.shown),
                                  h.n_calls > 0, c->channels))
            good = complain(c, "something is lost", len, 0, 0, &h);
        buf_free(&said);
        good = good && same(c, len, SIZE_MAX, 0, &h) && same(c, len, len / 2, len / 2, &h);
        heard_free(&h);
    }
    return good;
}

/* ---- cases ---- */

/* The built-in model's vocabulary with more added tokens; not all of them are special. */
static struct tokenizer *vocabulary(struct json_object *control) {
    struct json_object *file = load("models/demo/tokenizer.json");
    struct json_object *added = json_object_object_get(file, "added_tokens");
    for (size_t i = 0; i < json_object_array_length(control); i++) {
        struct json_object *one = json_object_new_object();
        json_object_object_add(one, "id", json_object_new_int((int)i + 4000));
        json_object_object_add(one, "content",
                               json_object_get(json_object_array_get_idx(control, i)));
        json_object_object_add(one, "special", json_object_new_boolean(i % 2 == 0));
        json_object_array_add(added, one);
    }
    char *dir = temp_dir();
    temp_write(dir, "tokenizer.json", str_of(json_object_to_json_string(file)));
    struct err err = { 0 };
    struct tokenizer *t = tok_open(dir, &err);
    if (!t) fail_msg("%s", err.text);
    temp_free(dir);
    json_object_put(file);
    return t;
}

static void append(struct said_case *c, struct str text, bool control) {
    buf_str(&c->text, text);
    for (size_t i = 0; i < text.len; i++) buf_char(&c->control, control);
}

/* The text of a case: control tokens are where their spelling is, or, where it is a list, in the
 * pieces that are lists themselves. */
static void read_text(struct said_case *c, struct json_object *control) {
    struct json_object *text = json_object_object_get(c->file, "text");
    bool list = json_object_is_type(text, json_type_array);
    for (size_t i = 0; list && i < json_object_array_length(text); i++) {
        struct json_object *piece = json_object_array_get_idx(text, i);
        bool token = json_object_is_type(piece, json_type_array);
        if (token) piece = json_object_array_get_idx(piece, 0);
        append(c, str_of(json_object_get_string(piece)), token);
    }
    struct str rest = list ? S("") : str_of(json_object_get_string(text));
    while (rest.len) {
        size_t n = 0;
        for (size_t i = 0; i < json_object_array_length(control); i++) {
            const char *t = json_object_get_string(json_object_array_get_idx(control, i));
            if (str_starts(rest, t)) n = MAX(n, strlen(t));
        }
        append(c, str_cut(rest, 0, MAX(n, (size_t)1)), n > 0);
        rest = str_from(rest, MAX(n, (size_t)1));
    }
}

static bool one_case(const char *path, struct json_object *format, struct json_object *tools,
                     const struct tokenizer *tok) {
    struct said_case c = { .name = path, .file = load(path) };
    struct json_object *control = json_object_object_get(format, "control");
    struct json_object *own = json_object_object_get(c.file, "tools");
    struct err err = { 0 };
    read_text(&c, control);
    bool pieces = json_object_is_type(json_object_object_get(c.file, "text"), json_type_array);
    c.tools = own ? own : tools;
    if (json_object_is_type(own, json_type_boolean)) c.tools = NULL;
    struct json_object *prompt = json_object_object_get(c.file, "prompt");
    if (!prompt) prompt = json_object_object_get(format, "prompt");
    buf_str(&c.prompt.text, str_of(json_object_get_string(prompt)));
    c.channels = strstr(string(format, "template"), "<|channel|>final") != NULL;
    c.begun = "";
    for (const struct call_format *f = call_formats; f->sign; f++)
        if (f->open && str_ends(buf_view(&c.prompt.text), f->open)) c.begun = f->open;
    c.chat = chat_open(NULL, string(format, "template"), tok, &err);
    if (!c.chat) fail_msg("%s: %s", path, err.text);
    bool good = (pieces && !tok) || whole(&c, !tok);
    if (good && pieces == (tok != NULL)) good = beginnings(&c);
    if (good && tok) good = tokens(&c, tok);
    chat_close(c.chat);
    prompt_free(&c.prompt);
    buf_free(&c.text);
    buf_free(&c.control);
    json_object_put(c.file);
    return good;
}

static int by_name(const struct dirent **a, const struct dirent **b) {
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int json_only(const struct dirent *d) {
    return str_ends(str_of(d->d_name), ".json") && strcmp(d->d_name, "format.json") != 0;
}

static int folder_only(const struct dirent *d) { return d->d_name[0] != '.' && !json_only(d); }

static int one_format(const char *dir, struct json_object *tools, int *n) {
    struct buf path = { 0 };
    struct dirent **file;
    buf_format(&path, "%s/format.json", dir);
    struct json_object *format = load(buf_c(&path));
    struct tokenizer *tok = vocabulary(json_object_object_get(format, "control"));
    int n_files = scandir(dir, &file, json_only, by_name), wrong = 0;
    for (int i = 0; i < n_files; i++) {
        buf_clear(&path);
        buf_format(&path, "%s/%s", dir, file[i]->d_name);
        bool good = one_case(buf_c(&path), format, tools, NULL);
        wrong += !good || !one_case(buf_c(&path), format, tools, tok);
        free(file[i]);
    }
    *n += n_files;
    if (n_files >= 0) free(file);
    tok_close(tok);
    json_object_put(format);
    buf_free(&path);
    return wrong;
}

static void every_case_however_cut(void **state) {
    (void)state;
    struct json_object *tools = load("tests/prompt/said/tools.json");
    struct dirent **dir;
    int n = 0, wrong = 0, n_dirs = scandir("tests/prompt/said", &dir, folder_only, by_name);
    for (int i = 0; i < n_dirs; i++) {
        struct buf path = { 0 };
        if (!strchr(dir[i]->d_name, '.')) {
            buf_format(&path, "tests/prompt/said/%s", dir[i]->d_name);
            wrong += one_format(buf_c(&path), tools, &n);
        }
        buf_free(&path);
        free(dir[i]);
    }
    if (n_dirs >= 0) free(dir);
    json_object_put(tools);
    print_message("%d cases in %d formats\n", n, n_dirs);
    assert_true(n > 300);
    assert_int_equal(wrong, 0);
}

int main(void) {
    const struct CMUnitTest all[] = { cmocka_unit_test(every_case_however_cut) };
    return cmocka_run_group_tests(all, NULL, NULL);
}
