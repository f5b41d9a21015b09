/* calls_tags.c - calls written as tags: Qwen3-Coder, GLM, MiniMax, DeepSeek V3.2 and
 * their like. A parameter's value is text; the tool's schema says what it stands for.
 *
 * A value that can only be a string is given out as it comes, all others when they are whole. */
#include "prompt/calls.h"
#include "base/utf8.h"
#include <string.h>

enum { BEGIN, NAME, CALL_ATTRIBUTES, PARAMETER, KEY, ATTRIBUTES, VALUE_MARK, VALUE, TEXT,
       CALL_ENDED };

/* Text up to a mark, which r->at then follows. NO: it is too long, or the text is over. */
static enum match up_to(struct reader *r, const struct said *s, const char *mark,
                        struct str *text) {
    size_t hold, end = said_find_near(s, r->at, mark, CALL_NAME_MAX, &hold);
    if (end == SIZE_MAX)
        return s->last || hold - r->at > CALL_NAME_MAX ? MATCH_NO : MATCH_MORE;
    *text = trimmed(str_cut(s->text, r->at, end));
    if (text->len > CALL_NAME_MAX) return MATCH_NO;
    r->at = end + strlen(mark);
    return MATCH_YES;
}

static bool is_name(struct str s) {
    for (size_t i = 0; i < s.len; i++)
        if (s.at[i] == '<' || s.at[i] == '{' || said_blank(s.at[i])) return false;
    return s.len > 0;
}

/* With the name in r->name. */
static enum reading begin_call(struct reader *r) {
    struct str name = buf_view(&r->name);
    if (!is_name(name) || !reader_known(r, name)) return READ_BROKEN;
    reader_name(r, name);
    reader_give(r, S("{"));
    r->in_string = r->some = false;
    r->state = PARAMETER;
    return READ_DONE;
}

static void end_call(struct reader *r) {
    reader_give(r, S("}"));
    r->named = r->open = false;
    r->done = r->at;
    r->state = CALL_ENDED;
}

static enum reading name(struct reader *r, const struct said *s) {
    struct str text;
    const struct call_tags *t = r->tags;
    if (t->name_end) {
        enum match f = up_to(r, s, t->name_end, &text);
        if (f != MATCH_YES) return f == MATCH_MORE ? READ_MORE : READ_BROKEN;
        buf_clear(&r->name);
        buf_str(&r->name, text);
        r->state = t->call_attributes_end ? CALL_ATTRIBUTES : PARAMETER;
        return t->call_attributes_end ? READ_DONE : begin_call(r);
    }
    /* A bare name: what follows is a key or the end of it all. */
    size_t hold, end = said_find_near(s, r->at, "<", CALL_NAME_MAX, &hold);
    if (end == SIZE_MAX) return s->last || hold - r->at > CALL_NAME_MAX ? READ_BROKEN : READ_MORE;
    enum match key = said_at(s, end, t->key), close = said_at(s, end, r->format->close);
    text = trimmed(str_cut(s->text, r->at, end));
    if (text.len > CALL_NAME_MAX || !is_name(text)) return READ_BROKEN;
    if (key != MATCH_YES && close != MATCH_YES)
        return key == MATCH_MORE || close == MATCH_MORE ? READ_MORE : READ_BROKEN;
    /* Just a word between tags is a call only if there is such a tool. */
    if (key != MATCH_YES && !schema_tool(r->tools, text)) return READ_BROKEN;
    buf_clear(&r->name);
    buf_str(&r->name, text);
    r->at = end;
    return begin_call(r);
}

static enum reading call_attributes(struct reader *r, const struct said *s) {
    struct str text;
    enum match f = up_to(r, s, r->tags->call_attributes_end, &text);
    if (f != MATCH_YES) return f == MATCH_MORE ? READ_MORE : READ_BROKEN;
    return begin_call(r);
}

static enum reading parameter(struct reader *r, const struct said *s) {
    const struct call_tags *t = r->tags;
    const char *ends[] = { t->call_end, r->format->close };
    r->done = r->at;
    enum match f = reader_mark(r, s, t->key);
    if (f == MATCH_YES) {
        r->state = KEY;
        return READ_DONE;
    }
    bool more = f == MATCH_MORE;
    for (size_t i = 0; i < COUNT(ends); i++) {
        if (!ends[i]) continue;
        size_t before = r->at;
        f = reader_mark(r, s, ends[i]);
        more |= f == MATCH_MORE;
        if (f != MATCH_YES) continue;
        if (ends[i] != t->call_end) r->at = before;      /* the stretch ends, and so the call */
        end_call(r);
        return READ_DONE;
    }
    return more ? READ_MORE : READ_BROKEN;
}

static enum reading key(struct reader *r, const struct said *s) {
    struct str text;
    enum match f = up_to(r, s, r->tags->key_end, &text);
    if (f == MATCH_MORE) return READ_MORE;
    if (f == MATCH_NO || !text.len || memchr(text.at, '<', text.len)) return READ_BROKEN;
    buf_clear(&r->key);
    buf_str(&r->key, text);
    r->types = schema_types(r->tools, buf_view(&r->name), text);
    r->state = r->tags->attributes_end ? ATTRIBUTES : r->tags->value ? VALUE_MARK : VALUE;
    return READ_DONE;
}

/* string="true" or type="string" is the model's word on what the value is. */
static enum reading attributes(struct reader *r, const struct said *s) {
    struct str text;
    enum match f = up_to(r, s, r->tags->attributes_end, &text);
    if (f == MATCH_MORE) return READ_MORE;
    if (f == MATCH_NO) return READ_BROKEN;
    if (str_starts(text, "string=\"true\"") || str_starts(text, "type=\"string\""))
        r->types = (struct types){ .known = true, .string = true };
    else if (str_starts(text, "string=\"false\"") || str_starts(text, "type=\""))
        r->types = (struct types){ .known = false };
    r->state = VALUE;
    return READ_DONE;
}

static void give_key(struct reader *r) {
    struct buf *b = &r->scratch;
    buf_clear(b);
    if (r->some) buf_str(b, S(", "));
    buf_char(b, '"');
    literal_put(b, buf_view(&r->key));
    buf_str(b, S("\": "));
    r->some = true;
}

/* Whether a value of any type can only be a string, by how it begins. */
static bool surely_text(char c) { return !strchr("{[\"-0123456789tfnTFN<", c) || !c; }

/* The value as text between its tags, without the newlines that are layout. */
static struct str inner(const struct reader *r, struct str text) {
    if (r->tags->lines && text.len && text.at[0] == '\n') text = str_from(text, 1);
    if (r->tags->lines && text.len && text.at[text.len - 1] == '\n') text.len--;
    return text;
}

static enum reading whole_value(struct reader *r, const struct said *s) {
    const char *mark = r->tags->value_end;
    size_t from = r->searched_for == mark ? MAX(r->searched, r->at) : r->at;
    size_t hold, end = said_find(s, from, mark, &hold);
    r->searched = hold;
    r->searched_for = end == SIZE_MAX ? mark : NULL;
    if (end == SIZE_MAX) return s->last || hold - r->at > CALL_HELD_MAX ? READ_BROKEN : READ_MORE;
    give_key(r);
    schema_put(&r->scratch, &r->types, inner(r, str_cut(s->text, r->at, end)));
    reader_give(r, buf_view(&r->scratch));
    r->at = end + strlen(r->tags->value_end);
    r->state = PARAMETER;
    return READ_DONE;
}

static enum reading value(struct reader *r, const struct said *s) {
    size_t first = said_skip(s, r->at);
    if (!types_string_only(&r->types)) {
        if (r->types.known) return whole_value(r, s);
        if (first == s->text.len) return READ_MORE;
        if (!surely_text(s->text.at[first])) return whole_value(r, s);
    }
    if (r->at == s->text.len) return READ_MORE;
    if (r->tags->lines && s->text.at[r->at] == '\n') r->at++;
    give_key(r);
    buf_char(&r->scratch, '"');
    reader_give(r, buf_view(&r->scratch));
    r->in_string = true;
    r->state = TEXT;
    r->done = r->at;
    return READ_DONE;
}

static enum reading text(struct reader *r, const struct said *s) {
    size_t hold, end = said_find(s, r->at, r->tags->value_end, &hold);
    bool ended = end != SIZE_MAX;
    if (!ended) end = hold;
    struct str piece = str_cut(s->text, r->at, end);
    size_t taken = piece.len;
    if (!ended && !s->last) taken = piece.len = utf8_complete(piece);
    /* A newline may turn out to be the last one. */
    if (r->tags->lines && piece.len && piece.at[piece.len - 1] == '\n') {
        piece.len--;
        if (!ended) taken--;
    }
    buf_clear(&r->scratch);
    literal_put(&r->scratch, piece);
    reader_give(r, buf_view(&r->scratch));
    r->at += taken;
    r->done = r->at;
    if (!ended) return READ_MORE;
    r->at += strlen(r->tags->value_end);
    r->done = r->at;
    reader_give(r, S("\""));
    r->in_string = false;
    r->state = PARAMETER;
    return READ_DONE;
}

enum reading read_tags(struct reader *r, const struct said *s) {
    for (;;) {
        enum reading result = READ_DONE;
        enum match f;
        switch (r->state) {
        case BEGIN: case CALL_ENDED:
            if (!r->tags->call) {
                if (r->state == CALL_ENDED) return READ_DONE;
                r->state = NAME;
                break;
            }
            f = reader_mark(r, s, r->tags->call);
            if (f == MATCH_MORE) return READ_MORE;
            if (f == MATCH_NO) return r->state == BEGIN ? READ_BROKEN : READ_DONE;
            r->state = NAME;
            break;
        case NAME: result = name(r, s); break;
        case CALL_ATTRIBUTES: result = call_attributes(r, s); break;
        case PARAMETER: result = parameter(r, s); break;
        case KEY: result = key(r, s); break;
        case ATTRIBUTES: result = attributes(r, s); break;
        case VALUE_MARK:
            f = reader_mark(r, s, r->tags->value);
            if (f == MATCH_MORE) return READ_MORE;
            if (f == MATCH_NO) return READ_BROKEN;
            r->state = VALUE;
            break;
        case VALUE: result = value(r, s); break;
        default: result = text(r, s);
        }
        if (result != READ_DONE) return result;
    }
}

/* Step 3: what kind of call it is comes first, and there is but one kind. */
enum reading read_typed(struct reader *r, const struct said *s) {
    const char *const marks[] = { "function", r->format->name_end };
    for (size_t i = 0; !r->read && i < COUNT(marks); i++)
        if (reader_mark(r, s, marks[i]) == MATCH_MORE) return READ_MORE;
    r->read = read_tags;
    return read_tags(r, s);
}

enum reading read_parameters(struct reader *r, const struct said *s) {
    r->read = read_tags;
    enum reading begun = begin_call(r);
    return begun == READ_DONE ? read_tags(r, s) : begun;
}
