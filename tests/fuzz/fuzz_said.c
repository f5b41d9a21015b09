/* Fuzzes the reading of what a model says: the first byte chooses a format, and whether its tags
 * are tokens; the second how the text is cut, whether there are tools, and which tags are but
 * letters; the rest is the text. Events must be those of the uncut text, arguments JSON objects,
 * and nothing that was said may be missing. */
#include "../maker.h"
#include "../prompt/heard.h"
#include "prompt/chat.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char tools_text[] =
    "[{\"function\": {\"name\": \"weather\", \"parameters\": {\"properties\": {"
    "\"city\": {\"type\": \"string\"}, \"s\": {\"type\": \"string\"},"
    "\"n\": {\"type\": \"integer\"}, \"o\": {\"type\": \"object\"}, \"l\": {\"type\": \"array\"},"
    "\"e\": {\"type\": [\"string\", \"null\"]}}}}}, {\"name\": \"now\"}]";

enum { TEXT_MAX = 1024 };
static struct json_object *tools;
static struct chat *chats[256];
static int n_chats;

/* What stands between brackets in marks, as added tokens. */
static struct tokenizer *vocabulary(void) {
    static const char *const tags[] = {
        "<think>", "</think>", "[THINK]", "[/THINK]", "<|channel>", "<channel|>", "<tool_call>",
        "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|tool_call_begin|>", "<|tool_call_end|>",
        "<|tool_call_argument_begin|>", "<|tool_calls_section_begin|>", "<|channel|>",
        "<|message|>", "<|start|>", "<|end|>", "<|call|>", "<arg_key>", "</arg_key>",
        "<arg_value>", "</arg_value>", "<|tool_call>", "<tool_call|>", "<|\\\"|>",
        "<|START_ACTION|>", "<|END_ACTION|>", "<|END_THINKING|>", "<|python_tag|>", "｜DSML｜",
        "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>",
        "<|tool_call|>", "[CALL_ID]", "<｜tool_call_begin｜>", "<｜tool_sep｜>",
        "<｜tool_call_end｜>" };
    struct buf b = { 0 };
    struct err err = { 0 };
    buf_str(&b, S("{\"version\":\"1.0\",\"model\":{\"type\":\"WordLevel\","
                  "\"unk_token\":\"?\",\"vocab\":{\"?\":0}},\"added_tokens\":["));
    for (size_t i = 0; i < COUNT(tags); i++)
        buf_format(&b, "%s{\"id\":%zu,\"content\":\"%s\",\"special\":%s}", i ? "," : "", i + 1,
                   tags[i], i % 2 ? "true" : "false");
    buf_str(&b, S("]}"));
    char *dir = temp_dir();
    temp_write(dir, "tokenizer.json", buf_view(&b));
    struct tokenizer *t = tok_open(dir, &err);
    if (!t) abort();
    temp_free(dir);
    buf_free(&b);
    return t;
}

/* A template for every kind of reasoning and for every format of calls. The signs are all that a
 * template is looked at for. */
static void open_some(const struct tokenizer *t) {
    struct err err = { 0 };
    struct buf b = { 0 };
    chats[n_chats++] = chat_open(NULL, "<|channel|>final<|message|>", t, &err);
    for (const struct think *k = think_kinds; k->open; k++) {
        buf_clear(&b);
        buf_format(&b, "%s %s <tool_call>", k->sign ? k->sign : "", k->close);
        chats[n_chats++] = chat_open(NULL, buf_c(&b), t, &err);
    }
    for (const struct call_format *f = call_formats; f->sign; f++)
        chats[n_chats++] = chat_open(NULL, f->sign, t, &err);
    buf_free(&b);
}

static void open_chats(void) {
    struct tokenizer *t = vocabulary();
    tools = json_tokener_parse(tools_text);
    open_some(NULL);
    open_some(t);
    for (int i = 0; i < n_chats; i++)
        if (!chats[i]) abort();
    tok_close(t);
}

struct input {
    const struct chat *chat;
    struct prompt prompt;
    struct json_object *tools;
    struct str text;
    char control[TEXT_MAX];          /* by byte */
};

/* Of every eight tags, the bits say which are tokens. */
static void flag(struct input *in, unsigned bits) {
    const struct tags *tags = &in->chat->tags;
    unsigned n = 0;
    for (size_t at = 0, len; at < in->text.len; at += len) {
        len = 1;
        for (int i = 0; i < tags->n; i++) {
            struct str rest = str_from(in->text, at), tag = tags->at[i].text;
            if (rest.len >= tag.len && !memcmp(rest.at, tag.at, tag.len)) len = MAX(len, tag.len);
        }
        bool token = !tags->n || (len > 1 && !(bits >> n++ % 8 & 1));
        memset(in->control + at, token, len);
    }
}

static void push(struct chat_stream *s, const struct input *in, size_t from, size_t to, bool last,
                 struct heard *h) {
    do {
        size_t end = from;
        while (end < to && in->control[end] == in->control[from]) end++;
        chat_stream_push(s, str_cut(in->text, from, end), from < to && in->control[from],
                         last && end == to, hear, h);
        from = end;
    } while (from < to);
}

/* Pieces of 1 to `step` bytes, as the text itself says; 0: uncut. */
static void run(const struct input *in, size_t step, struct heard *h) {
    struct chat_stream *s = chat_stream_open(in->chat, &in->prompt, in->tools);
    for (size_t at = 0, n; step && at < in->text.len; at += n) {
        n = MIN(1 + (unsigned char)in->text.at[at] % step, in->text.len - at);
        push(s, in, at, at + n, false, h);
    }
    push(s, in, step ? in->text.len : 0, in->text.len, true, h);
    chat_stream_close(s);
    if (h->wrong || h->ends != 1) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct input in;
    if (!n_chats) open_chats();
    if (size < 2 || size > TEXT_MAX) return 0;
    in.chat = chats[data[0] % n_chats];
    in.tools = data[1] & 0x80 ? NULL : tools;
    in.text = (struct str){ (const char *)data + 2, size - 2 };
    flag(&in, data[1] >> 3 & 0xf);
    struct heard once = { 0 }, cut = { 0 }, bytes = { 0 };
    run(&in, 0, &once);
    run(&in, 1 + data[1] % 0x40, &cut);
    run(&in, 1, &bytes);
    if (!str_eq(buf_view(&once.all), buf_view(&cut.all))) abort();
    if (!str_eq(buf_view(&once.all), buf_view(&bytes.all))) abort();
    bool channels = in.chat == chats[0] || in.chat == chats[n_chats / 2];
    if (!nothing_lost(in.text, 0, buf_view(&once.shown), once.n_calls > 0, channels)) abort();
    heard_free(&once);
    heard_free(&cut);
    heard_free(&bytes);
    return 0;
}
