/* Real chat templates, and how the model behind each marks reasoning and calls: signs.json says
 * what is expected of a file of ../shared/data/templates, which is not part of the project.
 *
 * What a template makes of an earlier answer is what its model writes: so a call and reasoning,
 * rendered and then read, have to come back. */
#include "heard.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

static const char folder[] = "../shared/data/templates";

static const char dialog_text[] =
    "{\"tools\": [{\"type\": \"function\", \"function\": {\"name\": \"weather\", \"description\": "
    "\"Weather.\", \"parameters\": {\"type\": \"object\", \"properties\": {\"city\": {\"type\": "
    "\"string\", \"description\": \"A city.\"}, \"days\": {\"type\": \"integer\", \"description\": "
    "\"How many.\"}}, \"required\": [\"city\"]}}}],"
    "\"vars\": {\"enable_thinking\": true, \"thinking\": true, \"bos_token\": \"<s>\", "
    "\"eos_token\": \"</s>\", \"functions\": \"[]\", \"datetime\": \"now\"},"
    "\"asked\": [{\"role\": \"user\", \"content\": \"Hi!\"}],"
    "\"answered\": [{\"role\": \"user\", \"content\": \"Hi!\"}, {\"role\": \"assistant\", "
    "\"content\": \"\", \"reasoning_content\": \"They ask.\", \"tool_calls\": [{\"id\": "
    "\"abcdefghi\", \"type\": \"function\", \"function\": {\"name\": \"weather\", \"arguments\": "
    "{\"city\": \"Zürich\", \"days\": 3}}}]}]}";
static const char call_text[] = "\nweather {\"city\": \"Zürich\", \"days\": 3}";

static struct json_object *dialog;

static const char *string(struct json_object *j, const char *key) {
    return json_object_get_string(json_object_object_get(j, key));
}

static bool render(const struct chat *chat, const char *messages, bool open, struct prompt *p) {
    struct err err = { 0 };
    struct dialog d = { .messages = json_object_object_get(dialog, messages),
                        .tools = json_object_object_get(dialog, "tools"),
                        .vars = json_object_object_get(dialog, "vars"),
                        .now_s = 1700000000, .no_generation_prompt = !open };
    return chat_render(chat, &d, p, &err);
}

static void put_word(struct buf *b, const char *word) {
    if (b->len) buf_char(b, ' ');
    buf_str(b, str_of(word));
}

/* The marks that a stream looks for, and whether the prompt has begun the reasoning. */
static void marks(struct chat_stream *s, struct buf *reasoning, struct buf *calls) {
    for (int i = 0; i < s->n_thinks; i++) put_word(reasoning, s->think[i]->open);
    if (s->state == IN_HEADER) put_word(reasoning, "channels");
    if (s->state == IN_REASONING) put_word(reasoning, "opened");
    for (int i = 0; i < s->n_formats; i++)
        put_word(calls, s->format[i]->open ? s->format[i]->open
                                           : (char[]){ s->format[i]->begins, 0 });
}

/* How far both are the same, up to the end of a line or tag. */
static size_t common(struct str a, struct str b) {
    size_t n = 0;
    while (n < MIN(a.len, b.len) && a.at[n] == b.at[n]) n++;
    while (n && n < a.len && a.at[n - 1] != '\n' && a.at[n - 1] != '>') n--;
    return n;
}

/* What of a rendered call and its reasoning came back. Where the prompt of an answer begins other
 * than the answer itself, what follows their common beginning is read. */
static void round_trip(const struct chat *chat, struct buf *b) {
    struct prompt before = { 0 }, after = { 0 };
    struct heard h = { 0 };
    if (render(chat, "asked", true, &before) && render(chat, "answered", false, &after)) {
        size_t same = common(buf_view(&before.text), buf_view(&after.text));
        struct prompt *prompt = same == before.text.len ? &before : NULL;
        struct chat_stream *s =
            chat_stream_open(chat, prompt, json_object_object_get(dialog, "tools"));
        chat_stream_push(s, str_from(buf_view(&after.text), same), true, true, hear, &h);
        chat_stream_close(s);
        if (h.wrong) put_word(b, h.wrong);
        if (str_starts(buf_view(&h.reasoning), "They ask.")) put_word(b, "reasoning");
        if (str_is(buf_view(&h.calls), call_text)) put_word(b, "call");
    } else {
        put_word(b, "refused");
    }
    prompt_free(&before);
    prompt_free(&after);
    heard_free(&h);
}

static bool check(struct json_object *want, const struct buf *have, const char *key) {
    if (str_is(buf_view(have), string(want, key))) return true;
    print_message("%s: %s is \"%.*s\", not \"%s\"\n", string(want, "template"), key,
                  STR_ARG(buf_view(have)), string(want, key));
    return false;
}

static bool one(struct json_object *want) {
    struct buf path = { 0 }, text = { 0 }, reasoning = { 0 }, calls = { 0 }, back = { 0 };
    struct err err = { 0 };
    struct prompt prompt = { 0 };
    buf_format(&path, "%s/%s", folder, string(want, "template"));
    if (!buf_read_file(&text, buf_c(&path), 1 << 20, &err)) fail_msg("%s", err.text);
    struct chat *chat = chat_open(NULL, buf_c(&text), NULL, &err);
    if (!chat) fail_msg("%s: %s", buf_c(&path), err.text);
    render(chat, "asked", true, &prompt);
    struct chat_stream *s =
        chat_stream_open(chat, &prompt, json_object_object_get(dialog, "tools"));
    marks(s, &reasoning, &calls);
    chat_stream_close(s);
    round_trip(chat, &back);
    bool good = check(want, &reasoning, "reasoning");
    good = check(want, &calls, "calls") && good;
    good = check(want, &back, "back") && good;
    chat_close(chat);
    prompt_free(&prompt);
    buf_free(&path);
    buf_free(&text);
    buf_free(&reasoning);
    buf_free(&calls);
    buf_free(&back);
    return good;
}

static void every_template_is_known(void **state) {
    (void)state;
    if (access(folder, R_OK) != 0) {
        print_message("%s is not there: not one real template was looked at\n", folder);
        skip();
    }
    struct json_object *table = json_object_from_file("tests/prompt/signs.json");
    if (!table) fail_msg("%s", json_util_get_last_err());
    dialog = json_tokener_parse(dialog_text);
    int wrong = 0;
    size_t n = json_object_array_length(table);
    for (size_t i = 0; i < n; i++) wrong += !one(json_object_array_get_idx(table, i));
    json_object_put(table);
    json_object_put(dialog);
    assert_true(n >= 40);
    assert_int_equal(wrong, 0);
}

int main(void) {
    const struct CMUnitTest all[] = { cmocka_unit_test(every_template_is_known) };
    return cmocka_run_group_tests(all, NULL, NULL);
}
