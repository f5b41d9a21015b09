/* calls_json.c - calls that are JSON objects with a name and arguments, alone or in a
 * list, and the variant whose only key is the name. The keys' order is the model's. */
#include "prompt/calls.h"
#include <string.h>

enum { BEGIN, ITEM, ITEM_OR_END, OPEN, KEY, COLON, VALUE, HELD, SKIP, STREAM, TEXT, TEXT_HELD,
       TEXT_STREAM, TEXT_OVER, AFTER, ENDED };

/* Nothing of it may be left over when the text is over: white space apart. */
static bool over(const struct reader *r, const struct said *s, size_t *at) {
    *at = said_skip(s, r->at);
    return *at == s->text.len;
}

/* Names come with arguments that begin; `{` after them or the object's end makes them certain. */
static enum reading begin_call(struct reader *r) {
    if (!r->name.len || r->name.len > CALL_NAME_MAX) return READ_BROKEN;
    if (!reader_known(r, buf_view(&r->name))) return READ_BROKEN;
    reader_name(r, buf_view(&r->name));
    return READ_DONE;
}

static void new_object(struct reader *r) {
    r->have_name = r->have_arguments = r->some = false;
    buf_clear(&r->name);
    buf_clear(&r->scratch);
    buf_clear(&r->id);
    r->state = KEY;
}

/* Arguments that came before the name. */
static void give_held(struct reader *r) {
    reader_give(r, r->scratch.len ? buf_view(&r->scratch) : S("{}"));
    r->named = r->open = false;
    r->done = r->at;
}

static enum reading end_object(struct reader *r) {
    if (!r->have_name) return READ_BROKEN;
    if (!r->have_arguments || r->scratch.len) {
        if (begin_call(r) != READ_DONE) return READ_BROKEN;
        give_held(r);
    }
    r->done = r->at;
    r->state = r->list ? ITEM_OR_END : ENDED;
    return READ_DONE;
}

/* JSON in a string: `scratch` becomes the object. */
static bool is_object_text(struct reader *r) {
    struct literal l = { 0 };
    struct said said = { .text = trimmed(buf_view(&r->scratch)), .last = true };
    size_t at = 0;
    bool ok = said.text.len && said.text.at[0] == '{';
    literal_open(&l, LITERAL_JSON);
    ok = ok && literal_read(&l, &said, &at) == LITERAL_DONE && at == said.text.len;
    buf_clear(&r->scratch);
    if (ok) buf_str(&r->scratch, buf_view(&l.json));
    else if (!said.text.len) buf_str(&r->scratch, S("{}"));
    literal_free(&l);
    return r->scratch.len > 0;
}

static enum reading begin_arguments(struct reader *r, const struct said *s, char c) {
    if (r->have_arguments) return READ_BROKEN;
    r->have_arguments = true;
    if (c == '{') {
        literal_open(&r->value, LITERAL_JSON);
        r->state = r->have_name ? STREAM : HELD;
        return r->have_name ? begin_call(r) : READ_DONE;
    }
    if (c == 'n') {                  /* null */
        enum match f = said_at(s, r->at, "null");
        if (f != MATCH_YES) r->have_arguments = false;
        if (f != MATCH_YES) return f == MATCH_MORE ? READ_MORE : READ_BROKEN;
        r->at += 4;
        buf_str(&r->scratch, S("{}"));
        r->state = AFTER;
        return READ_DONE;
    }
    if (c != '"') return READ_BROKEN;
    r->at++;
    buf_clear(&r->scratch);
    r->state = r->have_name ? TEXT : TEXT_HELD;
    return READ_DONE;
}

/* The name comes later: the text is kept until then. */
static enum reading text_held(struct reader *r, const struct said *s) {
    while (r->at < s->text.len && s->text.at[r->at] != '"') {
        enum match f = reader_unit(s, &r->at, &r->scratch);
        if (f != MATCH_YES) return f == MATCH_MORE ? READ_MORE : READ_BROKEN;
        if (r->at - r->done > CALL_HELD_MAX) return READ_BROKEN;
    }
    if (r->at == s->text.len) return READ_MORE;
    r->at++;
    r->state = AFTER;
    return is_object_text(r) ? READ_DONE : READ_BROKEN;
}

/* What of the text has been read leaves; the text as it was said is done with when all has. */
static enum reading text_value(struct reader *r) {
    struct said inner = { .text = buf_view(&r->scratch) };
    enum literal_result result = literal_read(&r->value, &inner, &r->inner);
    bool safe = r->value.safe_at == r->inner;
    reader_give(r, str_cut(buf_view(&r->value.json), 0, r->value.safe));
    size_t left = r->value.json.len - r->value.safe;
    if (left) memmove(r->value.json.at, r->value.json.at + r->value.safe, left);
    r->value.json.len = left;
    r->value.safe = 0;
    if (result == LITERAL_BAD) return READ_BROKEN;
    if (r->inner == r->scratch.len) {
        if (safe) r->done = r->at;
        buf_clear(&r->scratch);
        r->inner = r->value.safe_at = 0;
    }
    if (result == LITERAL_MORE) return READ_DONE;
    r->done = r->at;
    r->named = r->open = false;
    r->state = TEXT_OVER;
    return READ_DONE;
}

/* Arguments that are JSON in a string, behind the name: given as they come, too. */
static enum reading text(struct reader *r, const struct said *s) {
    if (s->text.at[r->at] == '"') {
        bool empty = r->state == TEXT;
        if (r->state == TEXT_STREAM) return READ_BROKEN;
        r->at++;
        if (empty) buf_str(&r->scratch, S("{}"));
        r->state = AFTER;
        return READ_DONE;
    }
    size_t before = r->scratch.len;
    enum match f = reader_unit(s, &r->at, &r->scratch);
    if (f != MATCH_YES) return f == MATCH_MORE ? READ_MORE : READ_BROKEN;
    if (r->state == TEXT_STREAM) return text_value(r);
    char c = r->scratch.at[before];
    bool blank = said_blank(c);
    r->scratch.len = before;
    if (blank) return READ_DONE;
    if (c != '{' || r->state == TEXT_OVER) return READ_BROKEN;
    literal_open(&r->value, LITERAL_JSON);
    r->inner = 0;
    r->state = TEXT_STREAM;
    buf_char(&r->scratch, c);
    if (begin_call(r) != READ_DONE) return READ_BROKEN;
    return text_value(r);
}

static enum reading begin_value(struct reader *r, const struct said *s, char c) {
    struct str key = buf_view(&r->key);
    if (str_is(key, "arguments") || str_is(key, "parameters")) return begin_arguments(r, s, c);
    bool is_name = str_is(key, "name") || str_is(key, "tool_name") ||
                   (str_is(key, "function") && c == '"');
    if (is_name && !r->have_name) {
        enum match f = reader_string(r, s, &r->name, CALL_KEY_MAX);
        if (f != MATCH_YES) return f == MATCH_MORE ? READ_MORE : READ_BROKEN;
        r->have_name = true;
        r->state = AFTER;
        return READ_DONE;
    }
    /* An id behind the arguments would come too late for whoever was told of the call. */
    if (str_is(key, "id") && c == '"' && !r->have_arguments) {
        enum match f = reader_string(r, s, &r->scratch, CALL_KEY_MAX);
        if (f != MATCH_YES) return f == MATCH_MORE ? READ_MORE : READ_BROKEN;
        reader_id(r, buf_view(&r->scratch));
        buf_clear(&r->scratch);
        r->state = AFTER;
        return READ_DONE;
    }
    literal_open(&r->value, LITERAL_JSON);
    r->state = SKIP;
    return READ_DONE;
}

static enum reading skip_value(struct reader *r, const struct said *s) {
    enum literal_result result = literal_read(&r->value, s, &r->at);
    if (result == LITERAL_BAD || r->at - r->done > CALL_HELD_MAX) return READ_BROKEN;
    if (result == LITERAL_MORE) return READ_MORE;
    if (r->state == HELD) {
        buf_clear(&r->scratch);
        buf_str(&r->scratch, buf_view(&r->value.json));
        if (r->have_name) return READ_BROKEN;
    }
    r->state = AFTER;
    return READ_DONE;
}

static enum reading key(struct reader *r, const struct said *s, char c) {
    if (c == '}' && !r->some) {
        r->at++;
        return end_object(r);
    }
    enum match f = reader_string(r, s, &r->key, CALL_KEY_MAX);
    if (f != MATCH_YES) return f == MATCH_MORE ? READ_MORE : READ_BROKEN;
    r->state = COLON;
    return READ_DONE;
}

static enum reading after(struct reader *r, char c) {
    if (c != ',' && c != '}') return READ_BROKEN;
    r->at++;
    if (c == '}') return end_object(r);
    r->some = true;                  /* a key has to follow */
    r->state = KEY;
    return READ_DONE;
}

static enum reading item(struct reader *r, char c) {
    bool end = c == ']' && r->list && r->state == ITEM_OR_END;
    if (end && !r->calls) return READ_BROKEN;
    r->at++;
    if (end) {
        r->done = r->at;
        r->state = ENDED;
        r->list = false;
        return READ_DONE;
    }
    if (c == ',' && r->state == ITEM_OR_END && r->calls) {
        r->state = ITEM;
        return READ_DONE;
    }
    if (c != '{' || (r->state == ITEM_OR_END && r->calls)) return READ_BROKEN;
    new_object(r);
    return READ_DONE;
}

static enum reading begin(struct reader *r, const struct said *s) {
    static const char fence[] = "```json";
    enum match f = reader_mark(r, s, fence);
    if (f == MATCH_MORE) return READ_MORE;
    r->at = said_skip(s, r->at);
    if (r->at == s->text.len) return READ_MORE;
    r->list = s->text.at[r->at] == '[';
    r->state = r->list ? ITEM_OR_END : ITEM;
    if (r->list) r->at++;
    return READ_DONE;
}

static enum reading json_step(struct reader *r, const struct said *s) {
    char c = s->text.at[r->at];
    switch (r->state) {
    case ITEM: case ITEM_OR_END: return item(r, c);
    case KEY: return key(r, s, c);
    case COLON:
        r->at++;
        r->state = VALUE;
        return c == ':' ? READ_DONE : READ_BROKEN;
    case VALUE: return begin_value(r, s, c);
    case HELD: case SKIP: return skip_value(r, s);
    case TEXT: case TEXT_STREAM: case TEXT_OVER: return text(r, s);
    case TEXT_HELD: return text_held(r, s);
    case AFTER: return after(r, c);
    default: return READ_BROKEN;
    }
}

/* Llama separates several bare objects by ';' or nothing, others write several in a stretch without
 * a list: true when another one follows. */
static bool another(struct reader *r, const struct said *s, enum reading *result) {
    size_t at = said_skip(s, r->at);
    *result = READ_DONE;
    if (!r->known_only && !r->format->close) return false;
    if (r->known_only && at < s->text.len && s->text.at[at] == ';') at = said_skip(s, at + 1);
    if (at == s->text.len && !s->last) *result = READ_MORE;
    if (at == s->text.len || s->text.at[at] != '{') return false;
    r->at = at;
    r->state = ITEM;
    return true;
}

/* In these states white space counts. */
static bool within(const struct reader *r) {
    return r->state == HELD || r->state == SKIP || (r->state >= TEXT && r->state <= TEXT_OVER);
}

enum reading read_json(struct reader *r, const struct said *s) {
    for (;;) {
        enum reading result = READ_DONE;
        size_t at;
        if (r->state == ENDED) {
            if (!another(r, s, &result)) return result;
            continue;
        }
        if (r->state == BEGIN) {
            result = begin(r, s);
        } else if (r->state == STREAM) {
            result = reader_value(r, s);
            if (result == READ_DONE) r->state = AFTER;
        } else if (over(r, s, &at) && !within(r)) {
            return READ_MORE;
        } else {
            if (!within(r)) r->at = at;
            result = r->at < s->text.len ? json_step(r, s) : READ_MORE;
        }
        if (result != READ_DONE) return result;
    }
}

/* {"name": {...}}, perhaps several in one object. */
enum reading read_keyed(struct reader *r, const struct said *s) {
    for (;;) {
        if (r->state == STREAM) {
            enum reading result = reader_value(r, s);
            if (result != READ_DONE) return result;
            r->state = AFTER;
        }
        r->at = said_skip(s, r->at);
        if (r->state == ENDED) return READ_DONE;
        if (r->at == s->text.len) return READ_MORE;
        char c = s->text.at[r->at];
        enum match f;
        switch (r->state) {
        case BEGIN:
            if (c != '[') return READ_BROKEN;
            r->at++;
            r->state = OPEN;
            break;
        case OPEN:
            if (c != '{') return READ_BROKEN;
            r->at++;
            r->state = KEY;
            break;
        case KEY:
            f = reader_string(r, s, &r->name, CALL_KEY_MAX);
            if (f == MATCH_MORE) return READ_MORE;
            if (f == MATCH_NO) return READ_BROKEN;
            r->state = COLON;
            break;
        case COLON:
            if (c != ':') return READ_BROKEN;
            r->at++;
            r->state = VALUE;
            break;
        case VALUE:
            if (c != '{' || begin_call(r) != READ_DONE) return READ_BROKEN;
            literal_open(&r->value, LITERAL_JSON);
            r->state = STREAM;
            break;
        case AFTER:
            if (c != ',' && c != '}') return READ_BROKEN;
            r->at++;
            r->state = c == ',' ? KEY : ITEM;
            break;
        default:                     /* ITEM: between the objects of the list */
            if (c != ',' && c != ']') return READ_BROKEN;
            r->at++;
            if (c == ']') r->done = r->at;
            r->state = c == ',' ? OPEN : ENDED;
        }
    }
}
