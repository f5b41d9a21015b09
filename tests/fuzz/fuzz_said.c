/* Fuzzes the reading of what a model says: the first byte chooses a format, the second how the
 * text is cut, the rest is the text. Events must be those of the uncut text, arguments JSON
 * objects, and nothing that was said may be missing. */
#include "../prompt/heard.h"

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

/* A template for every kind of reasoning and for every format of calls. The signs are all that a
 * template is looked at for. */
static void open_chats(void) {
    struct err err = { 0 };
    struct buf b = { 0 };
    tools = json_tokener_parse(tools_text);
    chats[n_chats++] = chat_open(NULL, "<|channel|>final<|message|>", NULL, &err);
    for (const struct think *t = think_kinds; t->open; t++) {
        buf_clear(&b);
        buf_format(&b, "%s %s <tool_call>", t->sign ? t->sign : "", t->close);
        chats[n_chats++] = chat_open(NULL, buf_c(&b), NULL, &err);
    }
    for (const struct call_format *f = call_formats; f->sign; f++)
        chats[n_chats++] = chat_open(NULL, f->sign, NULL, &err);
    buf_free(&b);
    for (int i = 0; i < n_chats; i++)
        if (!chats[i]) abort();
}

struct input { const struct chat *chat; struct prompt prompt; struct json_object *tools;
               struct str text; bool control; };

/* Pieces of 1 to `step` bytes, as the text itself says; 0: uncut. */
static void run(const struct input *in, size_t step, struct heard *h) {
    struct chat_stream *s = chat_stream_open(in->chat, &in->prompt, in->tools);
    for (size_t at = 0, n; step && at < in->text.len; at += n) {
        n = MIN(1 + (unsigned char)in->text.at[at] % step, in->text.len - at);
        chat_stream_push(s, str_cut(in->text, at, at + n), in->control, false, hear, h);
    }
    chat_stream_push(s, step ? S("") : in->text, in->control, true, hear, h);
    chat_stream_close(s);
    if (h->wrong || h->ends != 1) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!n_chats) open_chats();
    if (size < 2 || size > TEXT_MAX) return 0;
    struct input in = { .chat = chats[data[0] % n_chats], .control = true,
                        .tools = data[1] & 0x80 ? NULL : tools,
                        .text = { (const char *)data + 2, size - 2 } };
    struct heard once = { 0 }, cut = { 0 }, bytes = { 0 };
    run(&in, 0, &once);
    run(&in, 1 + data[1] % 0x40, &cut);
    run(&in, 1, &bytes);
    if (!str_eq(buf_view(&once.all), buf_view(&cut.all))) abort();
    if (!str_eq(buf_view(&once.all), buf_view(&bytes.all))) abort();
    bool channels = in.chat == chats[0];
    if (!nothing_lost(in.text, 0, buf_view(&once.shown), once.n_calls > 0, channels)) abort();
    heard_free(&once);
    heard_free(&cut);
    heard_free(&bytes);
    return 0;
}
