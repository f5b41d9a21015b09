/* What a model says, taken apart: each case of streams.json whole, cut in two at
 * every byte, and byte by byte must give the same. */
#include "prompt/prompt.h"
#include <json-c/json.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct heard { struct buf reasoning, content, calls; int ends, last_index; };

static void hear(void *to, const struct chat_event *e) {
    struct heard *h = to;
    assert_int_equal(h->ends, 0);
    assert_true(e->kind == CHAT_END || e->text.len > 0);
    switch (e->kind) {
    case CHAT_TEXT: buf_str(&h->content, e->text); break;
    case CHAT_REASONING: buf_str(&h->reasoning, e->text); break;
    case CHAT_TOOL_NAME:
        assert_int_equal(e->index, ++h->last_index);
        buf_char(&h->calls, '\n');
        buf_str(&h->calls, e->text);
        buf_char(&h->calls, ' ');
        break;
    case CHAT_TOOL_ARGS:
        assert_int_equal(e->index, h->last_index);
        buf_str(&h->calls, e->text);
        break;
    case CHAT_END: h->ends++; break;
    }
}

static const char *string(struct json_object *j, const char *key) {
    return json_object_get_string(json_object_object_get(j, key));
}

static bool same(struct buf *have, const char *want) {
    return str_is(buf_view(have), want);
}

/* Pieces end at `cut` and at the end; cut SIZE_MAX: each byte is one. */
static bool run(const struct chat *chat, struct json_object *one, size_t cut) {
    struct prompt prompt = { 0 };
    struct heard h = { .last_index = -1 };
    struct buf calls = { 0 };
    buf_str(&prompt.text, str_of(string(one, "prompt")));
    struct json_object *list = json_object_object_get(one, "tools"), *some = NULL;
    if (json_object_is_type(list, json_type_boolean)) {      /* true: any tools, false: none */
        if (json_object_get_boolean(list))
            some = json_tokener_parse("[{\"type\": \"function\", \"function\": "
                                      "{\"name\": \"f\"}}, {\"name\": \"g\"}]");
        list = some;
    }
    struct chat_stream *s = chat_stream_open(chat, &prompt, list);
    struct str text = str_of(string(one, "text"));
    if (cut == SIZE_MAX) {
        for (size_t i = 0; i < text.len; i++)
            chat_stream_push(s, str_cut(text, i, i + 1), false, false, hear, &h);
        chat_stream_push(s, S(""), false, true, hear, &h);
    } else {
        chat_stream_push(s, str_cut(text, 0, cut), false, false, hear, &h);
        chat_stream_push(s, str_from(text, cut), false, true, hear, &h);
    }
    struct json_object *want = json_object_object_get(one, "calls");
    for (size_t i = 0; i < json_object_array_length(want); i++) {
        struct json_object *call = json_object_array_get_idx(want, i);
        buf_format(&calls, "\n%s %s", json_object_get_string(json_object_array_get_idx(call, 0)),
                   json_object_get_string(json_object_array_get_idx(call, 1)));
    }
    bool good = h.ends == 1 && same(&h.reasoning, string(one, "reasoning")) &&
                same(&h.content, string(one, "content")) && same(&h.calls, buf_c(&calls));
    if (!good)
        print_message("%s, cut at %zd: reasoning \"%s\", content \"%s\", calls \"%s\"\n",
                      string(one, "name"), (ssize_t)cut, buf_c(&h.reasoning), buf_c(&h.content),
                      buf_c(&h.calls));
    chat_stream_close(s);
    json_object_put(some);
    prompt_free(&prompt);
    buf_free(&h.reasoning);
    buf_free(&h.content);
    buf_free(&h.calls);
    buf_free(&calls);
    return good;
}

static void every_case_however_cut(void **state) {
    (void)state;
    struct json_object *cases = json_object_from_file("tests/prompt/streams.json");
    if (!cases) fail_msg("%s", json_util_get_last_err());
    int wrong = 0;
    size_t n = json_object_array_length(cases);
    for (size_t i = 0; i < n; i++) {
        struct json_object *one = json_object_array_get_idx(cases, i);
        struct err err = { 0 };
        struct chat *chat = chat_open(NULL, string(one, "template"), NULL, &err);
        if (!chat) fail_msg("%s: %s", string(one, "name"), err.text);
        size_t len = strlen(string(one, "text"));
        bool good = run(chat, one, SIZE_MAX);
        for (size_t cut = 0; good && cut <= len; cut++) good = run(chat, one, cut);
        wrong += !good;
        chat_close(chat);
    }
    assert_true(n > 40);
    json_object_put(cases);
    assert_int_equal(wrong, 0);
}

int main(void) {
    const struct CMUnitTest all[] = { cmocka_unit_test(every_case_however_cut) };
    return cmocka_run_group_tests(all, NULL, NULL);
}
