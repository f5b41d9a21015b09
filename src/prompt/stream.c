/* stream.c - generated text to events: reasoning, content and tool calls, found
 * by markers as they come. What might be the beginning of a marker is held
 * back; how the text is cut into pieces makes no difference to the sum of the
 * events. */
#include "prompt/stream.h"
#include "base/utf8.h"
#include "prompt/chat.h"
#include <stdlib.h>
#include <string.h>

static const char *const channel_marks[] = {
    "<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|call|>", "<|return|>", "<|\"|>",
};

/* Parts of a mark that the vocabulary has as added tokens, which ordinary text never becomes; they
 * stand between brackets. */
static void add_tags(struct chat *chat, const struct tokenizer *tok, const char *mark) {
    enum { TAGS_MAX = 128 };
    struct str m = str_of(mark);
    for (size_t from = 0; from < m.len; from++) {
        if (!strchr("<[\xef\xe2", m.at[from])) continue;
        for (size_t to = from + 3; to <= m.len; to++) {
            if (!strchr(">]\x9c\xb7", m.at[to - 1])) continue;
            struct str part = str_cut(m, from, to);
            int id = tok_find(tok, part);
            bool had = id < 0 || !tok_is_added(tok, id) || chat->tags.n == TAGS_MAX;
            for (int i = 0; !had && i < chat->tags.n; i++) had = chat->tags.at[i].id == id;
            if (had) continue;
            if (!chat->tags.at)
                chat->tags.at = arena_new(&chat->found.arena, TAGS_MAX * sizeof *chat->tags.at);
            chat->tags.at[chat->tags.n++] = (struct tag){ part, id };    /* marks are literals */
        }
    }
}

static void add_all(struct chat *chat, const struct tokenizer *tok, const char *const *marks,
                    size_t n) {
    for (size_t i = 0; i < n; i++)
        if (marks[i]) add_tags(chat, tok, marks[i]);
}

void stream_find_tags(struct chat *chat, const struct tokenizer *tok) {
    for (const struct think *t = think_kinds; t->open; t++) {
        const char *const marks[] = { t->open, t->close, t->drop[0], t->drop[1] };
        add_all(chat, tok, marks, COUNT(marks));
    }
    add_all(chat, tok, channel_marks, COUNT(channel_marks));
    for (const struct call_format *f = call_formats; f->sign; f++) {
        const char *const marks[] = { f->open, f->close, f->name_end };
        add_all(chat, tok, marks, COUNT(marks));
        add_all(chat, tok, f->drop, COUNT(f->drop));
        if (!f->tags) continue;
        const char *const tags[] = { f->tags->call, f->tags->key, f->tags->value,
                                     f->tags->value_end, f->tags->call_end };
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

/* The model's id, if no call before had the same: models count, and not all of them count well. */
static struct str own_id(struct chat_stream *s) {
    enum { IDS_MAX = 256 };
    struct str id = buf_view(&s->reader.id), none = { 0 };
    if (!id.len || s->n_calls >= IDS_MAX) return none;
    for (struct str had = buf_view(&s->call_ids); had.len;) {
        size_t end = str_find(had, S("\n"), 0, SIZE_MAX);
        if (str_eq(str_cut(had, 0, end), id)) return none;
        had = str_from(had, end + 1);
    }
    buf_format(&s->call_ids, "%.*s\n", STR_ARG(id));
    return id;
}

static void on_call(void *to, bool name, struct str text) {
    struct chat_stream *s = to;
    if (!name) {
        stream_event(s, CHAT_TOOL_ARGS, s->n_calls - 1, text);
        return;
    }
    struct chat_event e = { CHAT_TOOL_NAME, s->n_calls++, text, own_id(s) };
    if (s->emit) s->emit(s->to, &e);
}

static struct str without_blanks_before(struct str s) {
    while (s.len && said_blank(s.at[0])) s = str_from(s, 1);
    return s;
}

static bool is_token(const struct tags *tags, const char *mark) {
    for (int i = 0; mark && i < tags->n; i++)
        if (str_is(tags->at[i].text, mark)) return true;
    return false;
}

/* The template says how its model marks things, and so does a token that is such a mark. */
static void choose(struct chat_stream *s, const struct chat *chat) {
    for (const struct think *t = think_kinds; t->open; t++) {
        bool chosen = t == think_kinds || mentions(chat, t->sign ? t->sign : t->close) ||
                      (!t->sign && said_by_token(s->tags, t->open));
        if (chosen && s->n_thinks < THINKS_MAX) s->think[s->n_thinks++] = t;
    }
    for (const struct call_format *f = call_formats; f->sign; f++) {
        bool chosen = (s->tools || f->aloud) && (mentions(chat, f->sign) ||
                                                 is_token(s->tags, f->open));
        if (chosen && s->n_formats < FORMATS_MAX) s->format[s->n_formats++] = f;
    }
}

static void append(struct chat_stream *s, struct str text, bool control) {
    buf_str(&s->pending, text);
    for (size_t i = 0; i < text.len; i++) buf_char(&s->control, control);
}

static void decide(struct chat_stream *s, bool last);

/* What the prompt's end has begun goes on in the answer: reasoning, a message with its header
 * (so that one that is continued keeps its channel), or a call. */
static void take_up(struct chat_stream *s, struct str prompt) {
    struct str tail = without_blanks_after(prompt);
    for (int i = 0; s->state == AT_START && i < s->n_thinks; i++)
        if (str_ends(tail, s->think[i]->open)) {
            s->state = IN_REASONING;
            s->close = s->think[i]->close;
        }
    if (s->state == IN_HEADER) {
        static const char start[] = "<|start|>assistant";
        size_t at = SIZE_MAX;
        for (size_t i = tail.len; at == SIZE_MAX && i-- > 0;)
            if (str_starts(str_from(tail, i), start)) at = i;
        if (at == SIZE_MAX) return;
        append(s, str_from(prompt, at), true);
        decide(s, false);
        buf_clear(&s->blank);
        s->unsaid = stream_left(s).len;
        s->said = false;
        s->n_calls = 0;
    }
    for (int i = 0; s->state == AT_START && i < s->n_formats; i++) {
        const char *open = s->format[i]->open;
        if (!open || !str_ends(tail, open)) continue;
        s->unsaid = strlen(open);
        append(s, str_of(open), true);
        return;
    }
}

struct chat_stream *chat_stream_open(const struct chat *chat, const struct prompt *prompt,
                                     struct json_object *tools) {
    struct chat_stream *s = mem_new(sizeof *s);
    s->tools = json_object_get(tools);
    s->tags = &chat->tags;
    s->reader.tools = tools;
    s->reader.give = on_call;
    s->reader.to = s;
    choose(s, chat);
    if (mentions(chat, "<|channel|>final<|message|>")) s->state = IN_HEADER;
    if (prompt) take_up(s, buf_view(&prompt->text));
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
    buf_free(&s->call_ids);
    detok_close(s->mirror);
    buf_free(&s->mirrored);
    free(s->range);
    free(s);
}

struct str stream_left(const struct chat_stream *s) {
    return str_from(buf_view(&s->pending), s->head);
}

struct said stream_said(const struct chat_stream *s, bool last) {
    const char *control = s->control.len ? s->control.at + s->head : NULL;
    return (struct said){ stream_left(s), control, s->tags, last, (size_t *)&s->work };
}

struct said stream_window(const struct chat_stream *s, bool last, bool *cut) {
    enum { WINDOW = 512 };
    struct said view = stream_said(s, last);
    *cut = view.text.len > WINDOW;
    if (!*cut) return view;
    view.text.len = WINDOW;
    view.text.len = utf8_complete(view.text);
    view.last = false;
    return view;
}

void stream_event(struct chat_stream *s, enum chat_kind kind, int index, struct str text) {
    if (s->emit) s->emit(s->to, &(struct chat_event){ .kind = kind, .index = index, .text = text });
}

/* Shows text of the current kind. White space at its beginning (after a marker) goes, and such at
 * its end waits: before a marker it is layout, not text. */
void stream_show(struct chat_stream *s, struct str text) {
    enum chat_kind kind = s->state == IN_REASONING ? CHAT_REASONING
                        : s->state == IN_MESSAGE ? s->channel : CHAT_TEXT;
    bool strips = s->state == IN_REASONING || s->after_call;
    size_t unsaid = MIN(s->unsaid, text.len);
    text = str_from(text, unsaid);
    s->unsaid -= unsaid;
    if (!s->said && strips) text = without_blanks_before(text);
    struct str solid = without_blanks_after(text);
    if (solid.len) {
        if (s->blank.len) stream_event(s, kind, 0, buf_view(&s->blank));
        buf_clear(&s->blank);
        stream_event(s, kind, 0, solid);
        s->said = true;
    }
    buf_str(&s->blank, str_from(text, solid.len));
}

void stream_enter(struct chat_stream *s, enum stream_state state) {
    buf_clear(&s->blank);
    s->state = state;
    s->said = false;
    s->after_call = false;
}

/* Only when half of the buffer is over, what is left moves to its front. */
void stream_drop(struct chat_stream *s, size_t n) {
    s->head += n;
    s->reader.searched -= MIN(n, s->reader.searched);
    if (s->head < s->pending.len - s->head) return;
    size_t left = s->pending.len - s->head;
    s->work += left;
    if (left) {
        memmove(s->pending.at, s->pending.at + s->head, left);
        memmove(s->control.at, s->control.at + s->head, left);
    }
    s->pending.len = s->control.len = left;
    s->head = 0;
}

/* The first marker of content. `hold`: where one may begin that the text's end cuts. */
struct place {
    size_t at, len, hold;
    const char *mark;
    const struct call_format *call;
    const struct think *think;       /* it opens reasoning */
    bool stray;
};

static void look_for(struct place *p, const struct said *view, const char *mark,
                     const struct call_format *call) {
    size_t hold, at = said_find(view, 0, mark, &hold), len = strlen(mark);
    p->hold = MIN(p->hold, hold);
    if (at == SIZE_MAX || at > p->at || (at == p->at && len <= p->len)) return;
    p->at = at;
    p->len = len;
    p->mark = mark;
    p->call = call;
    p->think = NULL;
}

static struct place next_marker(const struct chat_stream *s, const struct said *view) {
    struct place p = { .at = SIZE_MAX, .hold = view->text.len };
    for (int i = 0; i < s->n_formats; i++) {
        const struct call_format *f = s->format[i];
        if (f->open && s->tools) look_for(&p, view, f->open, f);
        for (size_t k = 0; k < COUNT(f->drop) && f->drop[k]; k++)
            look_for(&p, view, f->drop[k], NULL);
    }
    for (int i = 0; i < s->n_thinks; i++) {
        const struct think *t = s->think[i];
        for (size_t k = 0; k < COUNT(t->drop); k++)
            if (t->drop[k]) look_for(&p, view, t->drop[k], NULL);
        /* Behind the answer's beginning letters are text, but a token is what it says; one that
         * closes what nothing has opened says nothing. */
        if (said_by_token(s->tags, t->close)) look_for(&p, view, t->close, NULL);
        if (!said_by_token(s->tags, t->open)) continue;
        size_t old = p.at;
        look_for(&p, view, t->open, NULL);
        if (p.at != old) p.think = t;
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
    bool more = false;
    for (int i = 0; i < s->n_thinks; i++) {
        enum match think = said_at(&view, skip, s->think[i]->open);
        more |= think == MATCH_MORE;
        if (think != MATCH_YES) continue;
        stream_drop(s, skip + strlen(s->think[i]->open));
        stream_enter(s, IN_REASONING);
        s->close = s->think[i]->close;
        return true;
    }
    if (more) return false;
    stream_enter(s, IN_CONTENT);
    const struct call_format *bare = skip < view.text.len ? unmarked(s, view.text.at[skip]) : NULL;
    if (bare) enter_call(s, bare);
    return true;
}

/* A call that tokens of their own begin ends reasoning that was not closed. */
static void look_for_call(struct place *p, const struct chat_stream *s, const struct said *view) {
    for (int i = 0; s->tools && i < s->n_formats; i++) {
        const char *const marks[] = { s->format[i]->open, s->format[i]->drop[0] };
        for (size_t k = 0; k < COUNT(marks); k++)
            if (marks[k] && said_by_token(s->tags, marks[k])) look_for(p, view, marks[k], NULL);
    }
}

/* The prompt may have opened what the model opens once more. */
static enum match opened_again(struct chat_stream *s, const struct said *view) {
    size_t skip = said_skip(view, 0);
    for (int i = 0; !s->said && i < s->n_thinks; i++) {
        if (s->think[i]->close != s->close) continue;
        enum match again = said_at(view, skip, s->think[i]->open);
        if (again == MATCH_YES) stream_drop(s, skip + strlen(s->think[i]->open));
        return again;
    }
    return MATCH_NO;
}

static bool reasoning(struct chat_stream *s, bool last) {
    bool cut;
    struct said view = stream_window(s, last, &cut);
    enum match again = opened_again(s, &view);
    if (again != MATCH_NO) return again == MATCH_YES;
    struct place p = { .at = SIZE_MAX, .hold = view.text.len };
    look_for(&p, &view, s->close, NULL);
    size_t closed = p.at;
    look_for_call(&p, s, &view);
    if (p.at >= p.hold) p.at = SIZE_MAX;
    bool found = p.at != SIZE_MAX;
    size_t end = found ? p.at : p.hold;
    stream_show(s, str_cut(view.text, 0, end));
    stream_drop(s, found && p.at == closed ? end + strlen(s->close) : end);
    if (!found) return cut;
    stream_enter(s, IN_CONTENT);
    s->after_call = true;            /* white space after the tag is layout */
    return true;
}

/* Whether white space before the mark and after it is layout: where it closes an answer, or
 * reasoning of which nothing was said. */
static bool closes(const struct chat_stream *s, const char *mark) {
    for (int i = 0; i < s->n_thinks; i++)
        if (mark == s->think[i]->drop[1] || (mark == s->think[i]->close && !s->said)) return true;
    return false;
}

static bool content(struct chat_stream *s, bool last) {
    bool cut;
    struct said view = stream_window(s, last, &cut);
    struct place mark = next_marker(s, &view);
    bool found = mark.at != SIZE_MAX;
    size_t end = found ? mark.at : mark.hold;
    stream_show(s, str_cut(view.text, 0, end));
    bool layout = found && closes(s, mark.mark);
    stream_drop(s, found ? end + mark.len : end);
    if (mark.call && found) enter_call(s, mark.call);
    if (mark.think && found) {
        if (s->said && s->blank.len) stream_event(s, CHAT_TEXT, 0, buf_view(&s->blank));
        stream_enter(s, IN_REASONING);
        s->close = mark.think->close;
    }
    if (found && !mark.call) s->unsaid = 0;
    if (layout) {
        stream_enter(s, IN_CONTENT);
        s->after_call = true;        /* white space around is layout */
    }
    if (found && mark.stray) s->stray = NULL;
    return found || cut;
}

/* What looked like a call was text, its marker included. */
static bool give_up(struct chat_stream *s) {
    const char *open = s->reader.format->open;
    s->state = IN_CONTENT;
    if (open) {
        stream_show(s, str_of(open));
    } else if (stream_left(s).len) {
        stream_show(s, str_cut(stream_left(s), 0, 1));
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
    s->unsaid = 0;
    bool cut = result == READ_MORE &&
               (r->open || only_punctuation(stream_left(s)));
    reader_end(r);
    if (cut) stream_drop(s, stream_left(s).len);     /* the beginning of what never came */
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

static void decide(struct chat_stream *s, bool last) {
    static stream_step *const step[STREAM_STATES] = {
        [AT_START] = start, [IN_REASONING] = reasoning, [IN_CONTENT] = content, [IN_CALL] = call,
        [AFTER_CALL] = after_call, [IN_HEADER] = channel_header, [IN_MESSAGE] = channel_message,
        [IN_MESSAGE_CALL] = channel_call,
    };
    bool more = true;
    while (more && (stream_left(s).len || s->state == AT_START || s->state == IN_CALL ||
                    s->state == IN_MESSAGE_CALL))
        more = step[s->state](s, last);
}

void chat_stream_push(struct chat_stream *s, struct str piece, bool control, bool last,
                      void (*emit)(void *to, const struct chat_event *), void *to) {
    enum { SLICE = 1024 };
    s->emit = emit;
    s->to = to;
    do {
        struct str slice = str_cut(piece, 0, SLICE);
        if (slice.len < piece.len) slice.len = utf8_complete(slice);
        piece = str_from(piece, slice.len);
        append(s, slice, control);
        decide(s, last && !piece.len);
    } while (piece.len);
    if (!last) return;
    bool text = s->state == IN_CONTENT && !s->n_calls;
    if (s->blank.len && (text || s->state == IN_MESSAGE))
        stream_event(s, text ? CHAT_TEXT : s->channel, 0, buf_view(&s->blank));
    buf_clear(&s->blank);
    stream_event(s, CHAT_END, 0, (struct str){ 0 });
}
