/* Fuzzes the chat template's compiler and runner with any text as a template, and
 * the stream parser with any text as a model's answer, cut as the input says.
 * Renderings are checked for spans that lie in the text and in order. */
#include "base/pull.h"
#include "prompt/prompt.h"
#include <json-c/json.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char dialog_text[] =
    "{\"messages\": [{\"role\": \"system\", \"content\": \"sys é😀\"},"
    "{\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": \"<|x|> \\u0000 y\"}]},"
    "{\"role\": \"assistant\", \"content\": null, \"reasoning_content\": \"r\", \"tool_calls\": "
    "[{\"id\":"
    "\"1\", \"function\": {\"name\": \"f\", \"arguments\": \"{\\\"a\\\": [1.5, null]}\"}}]},"
    "{\"role\": \"tool\", \"content\": \"{}\"}, {\"role\": \"assistant\", \"content\": \" so \"}],"
    "\"tools\": [{\"type\": \"function\", \"function\": {\"name\": \"f\"}}], \"vars\": {\"x\": 3}}";

static const char channel_template[] = "<|channel|>final<|message|>";
static const char answer_template[] =
    "<seed:tool_call><|tool_call|><|START_ACTION|><minimax:tool_call><|tool_call>call:"
    "<think></think><tool_call>[TOOL_CALLS]<|python_tag|><|tool_call_argument_begin|>"
    "<｜tool▁sep｜>｜DSML｜<|tool_list_start|><|tools_prefix|>[func_name1(params_name1="
    "\"parameters\": dictionary of argument name";

static struct json_object *member(struct json_object *j, const char *key) {
    return json_object_object_get(j, key);
}

static void run_template(const char *text) {
    static struct json_object *j;
    if (!j) j = json_tokener_parse(dialog_text);
    struct err err = { 0 };
    struct chat *chat = chat_open(NULL, text, NULL, &err);
    if (!chat) {
        if (!err.text[0]) abort();
        return;
    }
    struct dialog d = { .messages = member(j, "messages"), .tools = member(j, "tools"),
                        .vars = member(j, "vars"), .now_s = 1 };
    struct prompt p = { 0 };
    bool ok = chat_render(chat, &d, &p, &err);
    if (!ok && !err.text[0]) abort();
    for (int i = 0; ok && i < p.n_spans; i++)
        if (p.span[i].begin >= p.span[i].end || p.span[i].end > p.text.len ||
            (i && p.span[i].begin <= p.span[i - 1].end)) abort();
    prompt_free(&p);
    chat_close(chat);
}

/* Whatever was said, the arguments of every call add up to an object. */
static void check_call(struct buf *arguments) {
    struct pull j = pull_open(buf_view(arguments));
    bool ok = pull_peek(&j) == PULL_OBJECT && pull_skip(&j) && pull_end(&j);
    pull_close(&j);
    if (!ok) abort();
    buf_clear(arguments);
}

struct listening { struct buf arguments; int calls; };

static void listen(void *to, const struct chat_event *e) {
    struct listening *l = to;
    if ((e->kind == CHAT_TOOL_NAME || e->kind == CHAT_END) && l->calls) check_call(&l->arguments);
    if (e->kind == CHAT_TOOL_NAME && e->index != l->calls++) abort();
    if (e->kind == CHAT_TOOL_ARGS) buf_str(&l->arguments, e->text);
}

static void run_stream(struct str text, size_t step) {
    static struct chat *chats[2];
    static struct json_object *tools;
    struct err err = { 0 };
    if (!chats[0]) {
        chats[0] = chat_open(NULL, answer_template, NULL, &err);
        tools = json_tokener_parse("[{\"name\": \"f\"}]");
        chats[1] = chat_open(NULL, channel_template, NULL, &err);
    }
    struct chat_stream *s = chat_stream_open(chats[step > 64], NULL, tools);
    if (step > 64) step -= 64;
    struct listening l = { 0 };
    for (size_t i = 0; i < text.len; i += step)
        chat_stream_push(s, str_cut(text, i, i + step), false, false, listen, &l);
    chat_stream_push(s, S(""), false, true, listen, &l);
    chat_stream_close(s);
    buf_free(&l.arguments);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 2) return 0;
    struct str text = { (const char *)data + 1, size - 1 };
    if (data[0] >= 0x80) {
        run_stream(text, data[0] - 0x80u + 1);
    } else {
        char *c = mem_str(text);
        run_template(c);
        free(c);
    }
    return 0;
}
