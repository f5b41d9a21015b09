/* stream.c - generated text to events: reasoning, content and tool calls, found
 * by markers as they come. What might be the beginning of a marker is held
 * back; how the text is cut into pieces makes no difference to the sum of the
 * events. */
#include "prompt/stream.h"
#include "prompt/chat.h"
#include <stdlib.h>
#include <string.h>

static const struct think think_tags[] = {
    { "<think>", "</think>" },
    { "[THINK]", "[/THINK]" },
    { "<seed:think>", "</seed:think>" },
    { "<|START_THINKING|>", "<|END_THINKING|>" },
    { "<|inner_prefix|>", "<|inner_suffix|>" },
    { "<|channel>thought", "<channel|>" },
};

static const char *const channel_marks[] = {
    "<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|call|>", "<|return|>", "<|\"|>",
};

/* Parts of a mark that the vocabulary has as control tokens; they stand between brackets. */
static void add_tags(struct chat *chat, const struct tokenizer *tok, const char *mark) {
    enum { TAGS_MAX = 128 };
    struct str m = str_of(mark);
    for (size_t from = 0; from < m.len; from++) {
        if (!strchr("<[\xef", m.at[from])) continue;
        for (size_t to = from + 3; to <= m.len; to++) {
            if (!strchr(">]\x9c", m.at[to - 1])) continue;
            struct str part = str_cut(m, from, to);
            int id = tok_find(tok, part);
            bool had = id < 0 || !tok_is_control(tok, id) || chat->tags.n == TAGS_MAX;
            for (int i = 0; !had && i < chat->tags.n; i++) had = str_eq(chat->tags.at[i], part);
            if (had) continue;
            if (!chat->tags.at)
                chat->tags.at = arena_new(&chat->found.arena, TAGS_MAX * sizeof *chat->tags.at);
            chat->tags.at[chat->tags.n++] = part;        /* marks are literals */
        }
    }
}

static void add_all(struct chat *chat, const struct tokenizer *tok, const char *const *marks,
                    size_t n) {
    for (size_t i = 0; i < n; i++)
        if (marks[i]) add_tags(chat, tok, marks[i]);
}

void stream_find_tags(struct chat *chat, const struct tokenizer *tok) {
    for (size_t i = 0; i < COUNT(think_tags); i++) {
        add_tags(chat, tok, think_tags[i].open);
        add_tags(chat, tok, think_tags[i].close);
    }
    add_all(chat, tok, channel_marks, COUNT(channel_marks));
    for (const struct call_format *f = call_formats; f->sign; f++) {
        const char *const marks[] = { f->open, f->close, f->name_end, f->drop[0], f->drop[1] };
        add_all(chat, tok, marks, COUNT(marks));
        if (!f->tags) continue;
        const char *const tags[] = { f->tags->call, f->tags->key, f->tags->value_end,
                                     f->tags->call_end };
        add_all(chat, tok, tags, COUNT(tags));
    }
}

static bool mentions(const struct chat *chat, const char *what) {
    const struct template *const all[] = { chat->plain, chat->with_tools };
    for (size_t i = 0; i < COUNT(all); i++)
        if (all[i] && str_find(all[i]->source.text, str_of(what), 0, SIZE_MAX) != SIZE_MAX)
            return true;
    return false;
}

static struct str without_blanks_after(struct str s) {
    while (s.len && said_blank(s.at[s.len - 1])) s.len--;
    return s;
}

static void on_call(void *to, bool name, struct str text) {
    struct chat_stream *s = to;
    if (name) s->n_calls++;
    stream_event(s, name ? CHAT_TOOL_NAME : CHAT_TOOL_ARGS, s->n_calls - 1, text);
}

struct chat_stream *chat_stream_open(const struct chat *chat, const struct prompt *prompt,
                                     struct json_object *tools) {
    struct chat_stream *s = mem_new(sizeof *s);
    s->think = think_tags[0];
    for (size_t i = COUNT(think_tags); i-- > 0;)
        if (mentions(chat, think_tags[i].close)) s->think = think_tags[i];
    for (const struct call_format *f = call_formats; tools && f->sign; f++)
        if (mentions(chat, f->sign) && s->n_formats < FORMATS_MAX) s->format[s->n_formats++] = f;
    s->tools = json_object_get(tools);
    s->tags = &chat->tags;
    s->reader.tools = tools;
    s->reader.give = on_call;
    s->reader.to = s;
    if (mentions(chat, "<|channel|>final<|message|>")) s->state = IN_HEADER;
    struct str tail = prompt ? without_blanks_after(buf_view(&prompt->text)) : (struct str){ 0 };
    if (s->state == AT_START && str_ends(tail, s->think.open)) s->state = IN_REASONING;
    return s;
}

void chat_stream_close(struct chat_stream *s) {
    if (!s) return;
    json_object_put(s->tools);
    reader_free(&s->reader);
    buf_free(&s->pending);
    buf_free(&s->control);
    buf_free(&s->blank);
    buf_free(&s->recipient);
    free(s);
}

struct said stream_said(const struct chat_stream *s, bool last) {
    return (struct said){ buf_view(&s->pending), s->control.at, s->tags, last };
}

void stream_event(struct chat_stream *s, enum chat_kind kind, int index, struct str text) {
    s->emit(s->to, &(struct chat_event){ kind, index, text });
}

/* Shows text of the current kind. White space at its beginning (after a marker) goes, and such at
 * its end waits: before a marker it is layout, not text. */
void stream_show(struct chat_stream *s, struct str text) {
    enum chat_kind kind = s->state == IN_REASONING ? CHAT_REASONING
                        : s->state == IN_MESSAGE ? s->channel : CHAT_TEXT;
    bool strips = s->state == IN_REASONING || s->after_call;
    while (!s->said && strips && text.len && said_blank(text.at[0])) text = str_from(text, 1);
    struct str solid = without_blanks_after(text);
    if (solid.len) {
        if (s->blank.len) stream_event(s, kind, 0, buf_view(&s->blank));
        buf_clear(&s->blank);
        stream_event(s, kind, 0, solid);
        s->said = true;
    }
    buf_put(&s->blank, text.at + solid.len, text.len - solid.len);
}

void stream_enter(struct chat_stream *s, enum stream_state state) {
    buf_clear(&s->blank);
    s->state = state;
    s->said = false;
    s->after_call = false;
}

static void drop_front(struct buf *b, size_t n) {
    memmove(b->at, b->at + n, b->len - n);
    b->len -= n;
}

void stream_drop(struct chat_stream *s, size_t n) {
    if (!n) return;
    drop_front(&s->pending, n);
    drop_front(&s->control, n);
}

/* The first marker of content. `hold`: where one may begin that the text's end cuts. */
struct place { size_t at, len, hold; const struct call_format *call; bool stray; };

static void look_for(struct place *p, const struct said *view, const char *mark,
                     const struct call_format *call) {
    size_t hold, at = said_find(view, 0, mark, &hold), len = strlen(mark);
    p->hold = MIN(p->hold, hold);
    if (at == SIZE_MAX || at > p->at || (at == p->at && len <= p->len)) return;
    p->at = at;
    p->len = len;
    p->call = call;
}

static struct place next_marker(const struct chat_stream *s, const struct said *view) {
    struct place p = { SIZE_MAX, 0, view->text.len, NULL, false };
    for (int i = 0; i < s->n_formats; i++) {
        const struct call_format *f = s->format[i];
        const char *marks[] = { f->open, f->drop[0], f->drop[1] };
        for (size_t k = 0; k < COUNT(marks); k++)
            if (marks[k]) look_for(&p, view, marks[k], k ? NULL : f);
    }
    size_t before = p.at;
    if (s->stray) look_for(&p, view, s->stray, NULL);
    p.stray = p.at != before;
    if (p.at >= p.hold) p.at = SIZE_MAX;         /* a longer one may begin earlier */
    return p;
}

static void enter_call(struct chat_stream *s, const struct call_format *f) {
    s->state = IN_CALL;
    reader_open(&s->reader, f);
}

/* The answer itself may be the call. */
static const struct call_format *unmarked(const struct chat_stream *s, char c) {
    for (int i = 0; i < s->n_formats; i++)
        if (!s->format[i]->open && s->format[i]->begins == c) return s->format[i];
    return NULL;
}

static bool start(struct chat_stream *s, bool last) {
    struct said view = stream_said(s, last);
    size_t skip = said_skip(&view, 0);
    enum match think = said_at(&view, skip, s->think.open);
    if (think == MATCH_MORE) return false;
    if (think == MATCH_YES) {
        stream_drop(s, skip + strlen(s->think.open));
        stream_enter(s, IN_REASONING);
        return true;
    }
    stream_enter(s, IN_CONTENT);
    const struct call_format *bare = skip < view.text.len ? unmarked(s, view.text.at[skip]) : NULL;
    if (bare) enter_call(s, bare);
    return true;
}

static bool reasoning(struct chat_stream *s, bool last) {
    struct said view = stream_said(s, last);
    size_t hold, at = said_find(&view, 0, s->think.close, &hold);
    size_t end = at == SIZE_MAX ? hold : at;
    stream_show(s, str_cut(view.text, 0, end));
    stream_drop(s, at == SIZE_MAX ? end : end + strlen(s->think.close));
    if (at == SIZE_MAX) return false;
    stream_enter(s, IN_CONTENT);
    s->after_call = true;            /* white space after the tag is layout */
    return true;
}

static bool content(struct chat_stream *s, bool last) {
    struct said view = stream_said(s, last);
    struct place mark = next_marker(s, &view);
    bool found = mark.at != SIZE_MAX;
    size_t end = found ? mark.at : mark.hold;
    stream_show(s, str_cut(view.text, 0, end));
    stream_drop(s, found ? end + mark.len : end);
    if (mark.call && found) enter_call(s, mark.call);
    if (found && mark.stray) s->stray = NULL;
    return found;
}

/* What looked like a call was text, its marker included. */
static bool give_up(struct chat_stream *s) {
    const char *open = s->reader.format->open;
    s->state = IN_CONTENT;
    if (open) {
        stream_show(s, str_of(open));
    } else if (s->pending.len) {
        stream_show(s, str_cut(buf_view(&s->pending), 0, 1));
        stream_drop(s, 1);
    }
    return true;
}

enum reading stream_read(struct chat_stream *s, call_read *read, const struct said *view) {
    struct reader *r = &s->reader;
    if (!view->text.len) return READ_MORE;
    enum reading result = read(r, view);
    size_t n = r->done;
    if (r->calls && n) {
        stream_drop(s, n);
        reader_dropped(r, n);
    }
    return result;
}

/* Between calls of a list, when the text is over, nothing but punctuation may be left. */
static bool only_punctuation(struct str s) {
    for (size_t i = 0; i < s.len; i++)
        if (!said_blank(s.at[i]) && !strchr(",;]}", s.at[i])) return false;
    return true;
}

static bool call(struct chat_stream *s, bool last) {
    struct reader *r = &s->reader;
    struct said view = stream_said(s, last);
    enum reading result = stream_read(s, r->format->read, &view);
    if (result == READ_MORE && !last) return false;
    if (!r->calls) return give_up(s);
    bool cut = result == READ_MORE &&
               (r->open || only_punctuation(buf_view(&s->pending)));
    reader_end(r);
    if (cut) stream_drop(s, s->pending.len);     /* the beginning of what never came */
    stream_enter(s, result == READ_DONE ? AFTER_CALL : IN_CONTENT);
    s->after_call = true;
    if (result == READ_BROKEN) s->stray = r->format->close;
    return true;
}

static bool after_call(struct chat_stream *s, bool last) {
    const char *close = s->reader.format->close;
    struct said view = stream_said(s, last);
    size_t skip = said_skip(&view, 0);
    enum match f = close ? said_at(&view, skip, close) : MATCH_NO;
    if (f == MATCH_MORE) return false;
    if (f == MATCH_YES) stream_drop(s, skip + strlen(close));
    else s->stray = close;
    stream_enter(s, IN_CONTENT);
    s->after_call = true;
    return true;
}

void chat_stream_push(struct chat_stream *s, struct str piece, bool control, bool last,
                      void (*emit)(void *to, const struct chat_event *), void *to) {
    static stream_step *const step[STREAM_STATES] = {
        [AT_START] = start, [IN_REASONING] = reasoning, [IN_CONTENT] = content, [IN_CALL] = call,
        [AFTER_CALL] = after_call, [IN_HEADER] = channel_header, [IN_MESSAGE] = channel_message,
        [IN_MESSAGE_CALL] = channel_call,
    };
    s->emit = emit;
    s->to = to;
    buf_str(&s->pending, piece);
    for (size_t i = 0; i < piece.len; i++) buf_char(&s->control, control);
    bool more = true;
    while (more && (s->pending.len || s->state == AT_START || s->state == IN_CALL ||
                    s->state == IN_MESSAGE_CALL))
        more = step[s->state](s, last);
    if (!last) return;
    bool text = s->state == IN_CONTENT && !s->n_calls;
    if (s->blank.len && (text || s->state == IN_MESSAGE))
        stream_event(s, text ? CHAT_TEXT : s->channel, 0, buf_view(&s->blank));
    buf_clear(&s->blank);
    stream_event(s, CHAT_END, 0, (struct str){ 0 });
}
