/* channels.c - gpt-oss: an answer is a row of messages, each with a header that names
 * its channel and, for a call, whom it is for:
 * "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{...}<|call|>", from the start
 * of a turn or after "<|start|>assistant". */
#include "prompt/stream.h"
#include <string.h>

static const char *const header_tags[] = { "<|start|>", "<|channel|>", "<|constrain|>" };

static bool has(struct str s, const char *what) {
    return s.len && memmem(s.at, s.len, what, strlen(what)) != NULL;
}

/* Whether the text begins as a header does: a tag or a recipient, perhaps after the role. MORE: it
 * is too short to say. */
static enum match begins_header(const struct said *view) {
    static const char *const begins[] = { "<|channel|>", "<|constrain|>", "<|message|>", "to=" };
    static const char role[] = "assistant";
    size_t at = said_skip(view, 0);
    enum match start = said_at(view, at, header_tags[0]);
    if (start == MATCH_MORE) return MATCH_MORE;
    if (start == MATCH_YES) {
        at += strlen(header_tags[0]);
        enum match named = said_at(view, at, role);
        if (named == MATCH_MORE) return MATCH_MORE;
        at = said_skip(view, at + (named == MATCH_YES ? strlen(role) : 0));
    }
    bool more = false;
    for (size_t i = 0; i < COUNT(begins); i++) {
        enum match f = said_at(view, at, begins[i]);
        if (f == MATCH_YES) return MATCH_YES;
        more |= f == MATCH_MORE;
    }
    return more ? MATCH_MORE : MATCH_NO;
}

static bool is_name_char(char c) {
    return (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') || c == '_' ||
           c == '.' || c == '-';
}

/* Whether what the end of the text left of a header says nothing of itself. */
static bool mere_header(struct str text) {
    enum { RECIPIENT_MAX = 64 };
    static const char *const words[] = {
        "<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "assistant", "analysis",
        "commentary", "final", "json",
    };
    while (text.len) {
        size_t n = 1;
        bool known = said_blank(text.at[0]);
        if (str_starts(text, "to=")) {
            for (n = 3; n < text.len && is_name_char(text.at[n]);) n++;
            known = n < 3 + RECIPIENT_MAX;
        }
        for (size_t i = 0; !known && i < COUNT(words); i++) {
            n = MIN(strlen(words[i]), text.len);
            /* The last word may be cut, a tag is a token. */
            known = !memcmp(text.at, words[i], n) &&
                    (n == strlen(words[i]) || text.at[0] != '<');
        }
        if (!known) return false;
        text = str_from(text, n);
    }
    return true;
}

/* What is no header is content, a tag at its front included. */
static bool no_header(struct chat_stream *s, const struct said *view) {
    size_t skip = said_skip(view, 0);
    s->state = IN_MESSAGE;
    s->channel = CHAT_TEXT;
    if (skip == view->text.len || view->text.at[skip] != '<') return true;
    stream_show(s, str_cut(view->text, 0, skip + 1));
    stream_drop(s, skip + 1);
    return true;
}

bool channel_header(struct chat_stream *s, bool last) {
    struct said view = stream_said(s, last);
    struct str text = view.text;
    view.last = false;               /* the end makes no text foreign that was none before */
    if (begins_header(&view) == MATCH_NO) return no_header(s, &view);
    size_t hold, end = said_find_near(&view, 0, "<|message|>", HEADER_MAX, &hold);
    if (end == SIZE_MAX) {
        if (hold > HEADER_MAX) return no_header(s, &view);
        if (!last) return false;
        if (!mere_header(text)) return no_header(s, &view);
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
    s->unsaid = 0;
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
    s->after_call = false;
}

bool channel_message(struct chat_stream *s, bool last) {
    bool cut;
    struct said view = stream_window(s, last, &cut);
    size_t hold, len, end = message_end(&view, &hold, &len);
    bool ended = end != SIZE_MAX;
    if (!ended) end = hold;
    stream_show(s, str_cut(view.text, 0, end));
    if (ended) end_message(s, end + len);
    else stream_drop(s, end);
    return ended || cut;
}

/* A message that ends as a call does, and has nothing in it: a call without arguments. */
static bool empty_call(struct chat_stream *s, const struct said *view, size_t end) {
    struct reader *r = &s->reader;
    if (said_at(view, end, "<|call|>") != MATCH_YES || said_skip(view, 0) < end) return false;
    if (r->calls || !r->name.len) return false;
    reader_name(r, buf_view(&r->name));
    reader_empty(r);
    stream_drop(s, end);
    s->state = IN_MESSAGE;
    return true;
}

/* What is no JSON object is text of the channel. */
bool channel_call(struct chat_stream *s, bool last) {
    struct said view = stream_said(s, last), body = view;
    size_t hold, len, end = message_end(&view, &hold, &len);
    bool ended = end != SIZE_MAX;
    if (ended && empty_call(s, &view, end)) return true;
    body.text.len = ended ? end : hold;
    body.last = ended || last;
    enum reading result = stream_read(s, read_message, &body);
    if (result == READ_MORE && !body.last) return false;
    bool cut = result == READ_MORE && s->reader.open;
    size_t dropped = view.text.len - stream_left(s).len;
    reader_end(&s->reader);
    if (cut) stream_drop(s, body.text.len - dropped);
    s->state = IN_MESSAGE;
    s->said = false;
    s->after_call = result == READ_DONE;         /* white space behind the JSON is layout */
    return true;
}
