/* stream.c - generated text to events: reasoning, content and tool calls, found
 * by markers as they come. What might be the beginning of a marker is held
 * back; how the text is cut into pieces makes no difference to the sum of the
 * events. A call is given when it is whole and valid, else it was content. */
#include "prompt/calls.h"
#include "prompt/chat.h"
#include <stdlib.h>
#include <string.h>

struct think { const char *open, *close; };
static const struct think think_tags[] = {
    { "<think>", "</think>" },
    { "[THINK]", "[/THINK]" },
    { "<seed:think>", "</seed:think>" },
    { "<|START_THINKING|>", "<|END_THINKING|>" },
    { "<|inner_prefix|>", "<|inner_suffix|>" },
    { "<|channel>thought", "<channel|>" },
};

enum { FORMATS_MAX = 16, CALL_BYTES_MAX = 4 << 20 };
enum state { AT_START, IN_REASONING, IN_CONTENT, IN_CALL, IN_HEADER, IN_MESSAGE };

struct chat_stream {
    enum state state;
    struct think think;
    const struct call_format *format[FORMATS_MAX];
    int n_formats;
    const struct call_format *call;              /* IN_CALL: which */
    size_t searched;                             /* of the pending call, known to hold no end */
    struct buf pending;                          /* not decided yet */
    struct buf blank;                            /* white space that what follows decides on */
    bool said;                                   /* the current kind has shown something */
    bool after_call;
    int n_calls;
    bool tools;
    enum chat_kind channel;                      /* IN_MESSAGE: what its text is */
    struct buf recipient;                        /* IN_MESSAGE: of a call; else empty */
    void (*emit)(void *to, const struct chat_event *);
    void *to;
};

static struct str source_of(const struct template *t) {
    return t ? t->source.text : (struct str){ 0 };
}

static bool mentions(const struct chat *chat, const char *what) {
    return str_find(source_of(chat->plain), str_of(what), 0, SIZE_MAX) != SIZE_MAX ||
           str_find(source_of(chat->with_tools), str_of(what), 0, SIZE_MAX) != SIZE_MAX;
}

static bool blank(char c) {
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

static struct str without_blanks_after(struct str s) {
    while (s.len && blank(s.at[s.len - 1])) s.len--;
    return s;
}

struct chat_stream *chat_stream_open(const struct chat *chat, const struct prompt *prompt,
                                     struct json_object *tools) {
    struct chat_stream *s = mem_new(sizeof *s);
    s->think = think_tags[0];
    for (size_t i = COUNT(think_tags); i-- > 0;)
        if (mentions(chat, think_tags[i].close)) s->think = think_tags[i];
    for (const struct call_format *f = call_formats; tools && f->sign; f++)
        if (mentions(chat, f->sign) && s->n_formats < FORMATS_MAX) s->format[s->n_formats++] = f;
    s->tools = tools != NULL;
    if (mentions(chat, "<|channel|>final<|message|>")) s->state = IN_HEADER;
    struct str tail = prompt ? without_blanks_after(buf_view(&prompt->text)) : (struct str){ 0 };
    if (s->state == AT_START && str_ends(tail, s->think.open)) s->state = IN_REASONING;
    return s;
}

void chat_stream_close(struct chat_stream *s) {
    if (!s) return;
    buf_free(&s->pending);
    buf_free(&s->blank);
    buf_free(&s->recipient);
    free(s);
}

static void event(struct chat_stream *s, enum chat_kind kind, int index, struct str text) {
    s->emit(s->to, &(struct chat_event){ kind, index, text });
}

/* Shows text of the current kind. White space at its beginning (after a marker) goes, and such at
 * its end waits: before a marker it is layout, not text. */
static void show(struct chat_stream *s, struct str text) {
    enum chat_kind kind = s->state == IN_REASONING ? CHAT_REASONING
                        : s->state == IN_MESSAGE ? s->channel : CHAT_TEXT;
    bool strips = s->state == IN_REASONING || s->after_call;
    while (!s->said && strips && text.len && blank(text.at[0])) text = str_from(text, 1);
    struct str solid = without_blanks_after(text);
    if (solid.len) {
        if (s->blank.len) event(s, kind, 0, buf_view(&s->blank));
        buf_clear(&s->blank);
        event(s, kind, 0, solid);
        s->said = true;
    }
    buf_put(&s->blank, text.at + solid.len, text.len - solid.len);
}

static void enter(struct chat_stream *s, enum state state) {
    buf_clear(&s->blank);
    s->state = state;
    s->said = false;
}

static void drop_front(struct chat_stream *s, size_t n) {
    if (!n) return;
    memmove(s->pending.at, s->pending.at + n, s->pending.len - n);
    s->pending.len -= n;
}

/* The longest end of `text` that a marker may begin with. */
static size_t may_begin(struct str text, const char *marker) {
    size_t most = MIN(text.len, strlen(marker) - 1);
    for (size_t n = most; n > 0; n--)
        if (!memcmp(text.at + text.len - n, marker, n)) return n;
    return 0;
}

struct place { size_t at, len; const struct call_format *call; };

/* The first marker of content, and how much of the text's end may become one. */
static struct place next_marker(const struct chat_stream *s, struct str text, size_t *hold) {
    struct place first = { SIZE_MAX, 0, NULL };
    *hold = 0;
    for (int i = 0; i < s->n_formats; i++) {
        const struct call_format *f = s->format[i];
        const char *marks[] = { f->open, f->drop[0], f->drop[1] };
        for (size_t k = 0; k < COUNT(marks); k++) {
            if (!marks[k]) continue;
            size_t at = str_find(text, str_of(marks[k]), 0, SIZE_MAX);
            if (at < first.at) first = (struct place){ at, strlen(marks[k]), k ? NULL : f };
            *hold = MAX(*hold, may_begin(text, marks[k]));
        }
    }
    return first;
}

/* A format without an opening marker: the answer itself is the call. */
static const struct call_format *unmarked(const struct chat_stream *s) {
    for (int i = 0; i < s->n_formats; i++)
        if (!s->format[i]->open) return s->format[i];
    return NULL;
}

/* Each of these handles what is pending and says whether there is more it can do. */
static bool start(struct chat_stream *s, bool last) {
    struct str text = buf_view(&s->pending);
    size_t skip = 0;
    while (skip < text.len && blank(text.at[skip])) skip++;
    struct str rest = str_from(text, skip);
    if (str_starts(rest, s->think.open)) {
        drop_front(s, skip + strlen(s->think.open));
        enter(s, IN_REASONING);
        return true;
    }
    bool undecided = rest.len < strlen(s->think.open) &&
                     !strncmp(s->think.open, rest.at ? rest.at : "", rest.len);
    if (undecided && !last) return false;
    const struct call_format *bare = unmarked(s);
    enter(s, IN_CONTENT);
    if (bare && rest.len && rest.at[0] == '{') {
        s->state = IN_CALL;
        s->call = bare;
        s->searched = 0;
    }
    return true;
}

static bool reasoning(struct chat_stream *s, bool last) {
    struct str text = buf_view(&s->pending);
    size_t at = str_find(text, str_of(s->think.close), 0, SIZE_MAX);
    size_t end = at != SIZE_MAX ? at : last ? text.len : text.len - may_begin(text, s->think.close);
    show(s, str_cut(text, 0, end));
    drop_front(s, at == SIZE_MAX ? end : end + strlen(s->think.close));
    if (at == SIZE_MAX) return false;
    enter(s, IN_CONTENT);
    s->after_call = true;            /* white space after the tag is layout */
    return true;
}

static bool content(struct chat_stream *s, bool last) {
    struct str text = buf_view(&s->pending);
    size_t hold;
    struct place mark = next_marker(s, text, &hold);
    if (mark.at == SIZE_MAX) {
        size_t end = last ? text.len : text.len - hold;
        show(s, str_cut(text, 0, end));
        drop_front(s, end);
        return false;
    }
    show(s, str_cut(text, 0, mark.at));
    drop_front(s, mark.at + mark.len);
    if (!mark.call) return true;
    s->state = IN_CALL;
    s->call = mark.call;
    s->searched = 0;
    return true;
}

static void on_call(void *to, struct str name, struct str arguments) {
    struct chat_stream *s = to;
    event(s, CHAT_TOOL_NAME, s->n_calls, name);
    event(s, CHAT_TOOL_ARGS, s->n_calls, arguments);
    s->n_calls++;
}

/* What looked like a call was text, its marker included. */
static bool give_up(struct chat_stream *s) {
    s->state = IN_CONTENT;
    if (s->call->open) show(s, str_of(s->call->open));
    else show(s, str_cut(buf_view(&s->pending), 0, 1));
    if (!s->call->open && s->pending.len) drop_front(s, 1);
    return true;
}

static bool finish_call(struct chat_stream *s, size_t body, size_t all) {
    struct call_sink sink = { on_call, s };
    if (!calls_read(s->call, str_cut(buf_view(&s->pending), 0, body), &sink)) return false;
    drop_front(s, all);
    enter(s, IN_CONTENT);
    s->after_call = true;
    return true;
}

static bool call(struct chat_stream *s, bool last) {
    struct str text = buf_view(&s->pending);
    if (!s->call->close) {
        size_t n = call_length(s->call, text);
        if (n == 0 && !last && text.len < CALL_BYTES_MAX) return false;
        bool whole = n != 0 && n != SIZE_MAX;
        return (whole && finish_call(s, n, n)) || give_up(s);
    }
    size_t n = strlen(s->call->close), at;
    /* The marker may also stand inside of a string of the arguments: try each. */
    while ((at = str_find(text, str_of(s->call->close), s->searched, SIZE_MAX)) != SIZE_MAX) {
        if (finish_call(s, at, at + n)) return true;
        s->searched = at + n;
    }
    if (!last && text.len < CALL_BYTES_MAX) return false;
    /* Some models end their turn without the closing tag. */
    return (last && finish_call(s, text.len, text.len)) || give_up(s);
}

/* gpt-oss: "<|channel|>commentary to=functions.f <|constrain|>json<|message|>", from the start of
 * a turn or after "<|start|>assistant". */
static bool header(struct chat_stream *s, bool last) {
    struct str text = buf_view(&s->pending);
    size_t end = str_find(text, S("<|message|>"), 0, SIZE_MAX), begin = 0, at;
    while (begin < text.len && blank(text.at[begin])) begin++;
    struct str rest = str_from(text, begin);
    bool short_to = rest.len < 3 && !last && !strncmp("to=", rest.at ? rest.at : "", rest.len);
    bool marked = short_to || str_starts(rest, "<") || str_starts(rest, "to=");
    if (begin < text.len && !marked && !s->said && !s->n_calls) {
        enter(s, IN_CONTENT);        /* not in this format at all */
        return true;
    }
    if (end == SIZE_MAX) {
        if (last) drop_front(s, text.len);
        return false;
    }
    struct str head = str_cut(text, 0, end);
    bool analysis = str_find(head, S("<|channel|>analysis"), 0, SIZE_MAX) != SIZE_MAX;
    buf_clear(&s->recipient);
    at = str_find(head, S("to="), 0, SIZE_MAX);
    for (size_t i = at == SIZE_MAX ? end : at + 3; i < end && !blank(text.at[i]) &&
         text.at[i] != '<'; i++)
        buf_char(&s->recipient, text.at[i]);
    s->channel = analysis ? CHAT_REASONING : CHAT_TEXT;
    drop_front(s, end + strlen("<|message|>"));
    s->state = IN_MESSAGE;
    return true;
}

static bool message(struct chat_stream *s, bool last) {
    static const char *const ends[] = { "<|end|>", "<|call|>", "<|return|>", "<|start|>",
                                       "<|channel|>" };
    struct str text = buf_view(&s->pending);
    size_t end = SIZE_MAX, hold = 0, len = 0;
    for (size_t i = 0; i < COUNT(ends); i++) {
        size_t at = str_find(text, str_of(ends[i]), 0, SIZE_MAX);
        hold = MAX(hold, may_begin(text, ends[i]));
        if (at >= end) continue;
        end = at;
        len = i < 3 ? strlen(ends[i]) : 0;       /* the others open the next header */
    }
    bool ended = end != SIZE_MAX;
    if (!ended) end = last ? text.len : text.len - hold;
    bool is_call = s->recipient.len && s->tools;
    if (is_call && !ended && !last && text.len < CALL_BYTES_MAX) return false;
    struct call_sink sink = { on_call, s };
    struct str body = str_cut(text, 0, end);
    if (!is_call || !calls_read_to(buf_view(&s->recipient), body, &sink)) show(s, body);
    drop_front(s, ended ? end + len : end);
    if (!ended) return false;
    if (s->blank.len) event(s, s->channel, 0, buf_view(&s->blank));
    buf_clear(&s->blank);
    s->state = IN_HEADER;
    s->said = true;
    return true;
}

void chat_stream_push(struct chat_stream *s, struct str piece, bool control, bool last,
                      void (*emit)(void *to, const struct chat_event *), void *to) {
    static bool (*const step[])(struct chat_stream *, bool) = {
        [AT_START] = start, [IN_REASONING] = reasoning, [IN_CONTENT] = content, [IN_CALL] = call,
        [IN_HEADER] = header, [IN_MESSAGE] = message,
    };
    (void)control;
    s->emit = emit;
    s->to = to;
    buf_str(&s->pending, piece);
    while ((s->pending.len || s->state == AT_START) && step[s->state](s, last)) {}
    if (!last) return;
    bool text = s->state == IN_CONTENT && !s->n_calls;
    if (s->blank.len && (text || s->state == IN_MESSAGE))
        event(s, text ? CHAT_TEXT : s->channel, 0, buf_view(&s->blank));
    buf_clear(&s->blank);
    event(s, CHAT_END, 0, (struct str){ 0 });
}
