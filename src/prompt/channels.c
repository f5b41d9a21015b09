/* channels.c - gpt-oss: an answer is a row of messages, each with a header that names
 * its channel and, for a call, whom it is for:
 * "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{...}<|call|>", from the start
 * of a turn or after "<|start|>assistant". */
#include "prompt/stream.h"
#include <string.h>

/* Not in this format at all: neither a tag nor a recipient begins the answer. */
static bool foreign(const struct chat_stream *s, struct str text, bool last) {
    while (text.len && said_blank(text.at[0])) text = str_from(text, 1);
    if (!text.len || s->said || s->n_calls) return false;
    bool short_to = text.len < 3 && !last && !strncmp("to=", text.at, text.len);
    return !short_to && text.at[0] != '<' && !str_starts(text, "to=");
}

static bool has(struct str s, const char *what) {
    return s.len && memmem(s.at, s.len, what, strlen(what)) != NULL;
}

bool channel_header(struct chat_stream *s, bool last) {
    struct said view = stream_said(s, last);
    struct str text = view.text;
    if (foreign(s, text, last)) {
        stream_enter(s, IN_CONTENT);
        return true;
    }
    size_t hold, end = said_find(&view, 0, "<|message|>", &hold);
    if (end == SIZE_MAX) {
        /* A header that never ends says nothing of itself, but it was said. */
        if (text.len < CALL_HELD_MAX && !last) return false;
        if (!last || (text.len && text.at[0] != '<')) stream_show(s, text);
        stream_drop(s, text.len);
        return false;
    }
    struct str head = str_cut(text, 0, end);
    const char *to = head.len ? memmem(head.at, head.len, "to=", 3) : NULL;
    buf_clear(&s->recipient);
    for (size_t i = to ? (size_t)(to - head.at) + 3 : end; i < end && !said_blank(text.at[i]) &&
         text.at[i] != '<'; i++)
        buf_char(&s->recipient, text.at[i]);
    s->channel = has(head, "<|channel|>analysis") ? CHAT_REASONING : CHAT_TEXT;
    stream_drop(s, end + strlen("<|message|>"));
    s->state = IN_MESSAGE;
    if (s->recipient.len && s->tools) {
        reader_open(&s->reader, NULL);
        buf_str(&s->reader.name, plain_name(buf_view(&s->recipient)));
        s->state = IN_MESSAGE_CALL;
    }
    return true;
}

/* Where the message ends; *hold: how much of the text surely belongs to it. *len: of the mark. */
static size_t message_end(const struct said *view, size_t *hold, size_t *len) {
    static const char *const ends[] = { "<|end|>", "<|call|>", "<|return|>", "<|start|>",
                                        "<|channel|>" };
    size_t end = SIZE_MAX;
    *hold = view->text.len;
    *len = 0;
    for (size_t i = 0; i < COUNT(ends); i++) {
        size_t maybe, at = said_find(view, 0, ends[i], &maybe);
        *hold = MIN(*hold, maybe);
        if (at >= end) continue;
        end = at;
        *len = i < 3 ? strlen(ends[i]) : 0;      /* the others open the next header */
    }
    return end;
}

static void end_message(struct chat_stream *s, size_t n) {
    stream_drop(s, n);
    if (s->blank.len) stream_event(s, s->channel, 0, buf_view(&s->blank));
    buf_clear(&s->blank);
    s->state = IN_HEADER;
    s->said = true;
}

bool channel_message(struct chat_stream *s, bool last) {
    struct said view = stream_said(s, last);
    size_t hold, len, end = message_end(&view, &hold, &len);
    bool ended = end != SIZE_MAX;
    if (!ended) end = hold;
    stream_show(s, str_cut(view.text, 0, end));
    if (ended) end_message(s, end + len);
    else stream_drop(s, end);
    return ended;
}

/* What is no JSON object is text of the channel. */
bool channel_call(struct chat_stream *s, bool last) {
    struct said view = stream_said(s, last), body = view;
    size_t hold, len, end = message_end(&view, &hold, &len);
    bool ended = end != SIZE_MAX;
    body.text.len = ended ? end : hold;
    body.last = ended || last;
    enum reading result = stream_read(s, read_message, &body);
    if (result == READ_MORE && !body.last) return false;
    bool cut = result == READ_MORE && s->reader.open;
    size_t dropped = view.text.len - s->pending.len;
    reader_end(&s->reader);
    if (cut) stream_drop(s, body.text.len - dropped);
    s->state = IN_MESSAGE;
    return true;
}
