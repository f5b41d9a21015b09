/* calls.c - what the readers of tool calls share; see calls.h. */
#include "prompt/calls.h"
#include "base/utf8.h"
#include <string.h>

void reader_open(struct reader *r, const struct call_format *f) {
    struct reader fresh = {
        .format = f, .tags = f ? f->tags : NULL, .tools = r->tools, .give = r->give, .to = r->to,
        .name = r->name, .key = r->key, .scratch = r->scratch, .id = r->id, .value = r->value,
        .known_only = f && (!f->open || f->known_only), .searched = r->searched,
        .searched_for = r->searched_for,
    };
    buf_clear(&fresh.name);
    buf_clear(&fresh.key);
    buf_clear(&fresh.scratch);
    buf_clear(&fresh.id);
    *r = fresh;
}

void reader_free(struct reader *r) {
    buf_free(&r->name);
    buf_free(&r->key);
    buf_free(&r->scratch);
    buf_free(&r->id);
    literal_free(&r->value);
}

void reader_dropped(struct reader *r, size_t n) {
    r->at -= n;
    r->done -= n;
    r->value.safe_at -= MIN(n, r->value.safe_at);
}

void reader_name(struct reader *r, struct str name) {
    r->give(r->to, true, name);
    r->named = r->open = true;
    r->calls++;
    r->done = r->at;
}

void reader_id(struct reader *r, struct str id) {
    id = trimmed(id);
    buf_clear(&r->id);
    bool plain = id.len <= CALL_ID_MAX_BYTES;
    for (size_t i = 0; plain && i < id.len; i++)
        plain = id.at[i] > ' ' && id.at[i] < 0x7F && !strchr("\"\\<>{}[]", id.at[i]);
    if (plain) buf_str(&r->id, id);
}

void reader_give(struct reader *r, struct str arguments) {
    if (arguments.len) r->give(r->to, false, arguments);
}

void reader_empty(struct reader *r) {
    reader_give(r, S("{}"));
    r->named = r->open = false;
    r->done = r->at;
}

/* What is safe leaves the value's buffer, so that it stays small. */
static void give_safe(struct reader *r) {
    struct literal *v = &r->value;
    reader_give(r, str_cut(buf_view(&v->json), 0, v->safe));
    if (v->safe) memmove(v->json.at, v->json.at + v->safe, v->json.len - v->safe);
    v->json.len -= v->safe;
    v->safe = 0;
    r->done = MAX(r->done, v->safe_at);
}

enum reading reader_value(struct reader *r, const struct said *s) {
    enum literal_result result = literal_read(&r->value, s, &r->at);
    if (r->named) give_safe(r);
    if (result == LITERAL_BAD) return READ_BROKEN;
    if (result == LITERAL_MORE) return r->at - r->done > CALL_HELD_MAX ? READ_BROKEN : READ_MORE;
    if (!r->named) return READ_DONE;
    r->named = r->open = false;
    r->done = r->at;
    return READ_DONE;
}

void reader_end(struct reader *r) {
    if (!r->open) return;
    r->named = r->open = false;
    if (r->read == read_tags || (r->format && r->format->read == read_tags)) {
        reader_give(r, r->in_string ? S("\"}") : S("}"));
        return;
    }
    literal_close(&r->value);
    reader_give(r, buf_view(&r->value.json));
}

bool reader_known(const struct reader *r, struct str name) {
    return !r->known_only || schema_tool(r->tools, name) != NULL;
}

enum match reader_mark(struct reader *r, const struct said *s, const char *mark) {
    size_t at = said_skip(s, r->at);
    enum match f = said_at(s, at, mark);
    if (f == MATCH_YES) r->at = at + strlen(mark);
    return f;
}

static int hex4(const char *at) {
    int value = 0;
    for (int i = 0; i < 4; i++) {
        char c = at[i];
        int digit = c >= '0' && c <= '9' ? c - '0' : (c | 0x20) >= 'a' && (c | 0x20) <= 'f'
                  ? (c | 0x20) - 'a' + 10 : -1;
        if (digit < 0) return -1;
        value = value << 4 | digit;
    }
    return value;
}

/* A code unit, or two that are one code point; *n grows by their bytes. -1: it is none. */
static int64_t escaped_point(struct str s, size_t *n) {
    int unit = s.len >= 6 ? hex4(s.at + 2) : -1;
    if (unit < 0) return -1;
    *n += 6;
    int low = s.len >= 12 && s.at[6] == '\\' && s.at[7] == 'u' ? hex4(s.at + 8) : -1;
    if (unit < 0xD800 || unit >= 0xDC00 || low < 0xDC00 || low >= 0xE000) return unit;
    *n += 6;
    return 0x10000 + ((int64_t)(unit - 0xD800) << 10) + (low - 0xDC00);
}

enum match reader_unit(const struct said *s, size_t *at, struct buf *out) {
    static const char from[] = "bfnrt", to[] = "\b\f\n\r\t";
    struct str text = str_from(s->text, *at);
    enum match short_of = s->last ? MATCH_NO : MATCH_MORE;
    size_t n = 0;
    if (s->work) ++*s->work;
    if (!text.len) return short_of;
    if (text.at[0] != '\\') {
        buf_char(out, text.at[0]);
        ++*at;
        return MATCH_YES;
    }
    if (text.len < 2) return short_of;
    if (text.at[1] != 'u') {
        const char *known = text.at[1] ? strchr(from, text.at[1]) : NULL;
        buf_char(out, known ? to[known - from] : text.at[1]);
        *at += 2;
        return MATCH_YES;
    }
    /* The first half of a pair waits for the second. */
    bool half = text.len >= 6 && hex4(text.at + 2) >= 0xD800 && hex4(text.at + 2) < 0xDC00;
    static const char second[] = "\\u";
    bool follows = half && !memcmp(text.at + 6, second, MIN(text.len - 6, strlen(second)));
    if (!s->last && (text.len < 6 || (follows && text.len < 12))) return MATCH_MORE;
    int64_t cp = escaped_point(text, &n);
    if (cp < 0) return MATCH_NO;
    utf8_put(out, (uint32_t)cp);
    *at += n;
    return MATCH_YES;
}

enum match reader_string(struct reader *r, const struct said *s, struct buf *out, size_t max) {
    size_t at = r->at;
    buf_clear(out);
    if (at == s->text.len) return s->last ? MATCH_NO : MATCH_MORE;
    if (s->text.at[at] != '"') return MATCH_NO;
    for (at++; at == s->text.len || s->text.at[at] != '"';) {
        if (at - r->at > max) return MATCH_NO;
        enum match f = reader_unit(s, &at, out);
        if (f != MATCH_YES) return f;
    }
    r->at = at + 1;
    return MATCH_YES;
}

struct str trimmed(struct str s) {
    while (s.len && said_blank(s.at[0])) s = str_from(s, 1);
    while (s.len && said_blank(s.at[s.len - 1])) s.len--;
    return s;
}

struct str plain_name(struct str name) {
    name = trimmed(name);
    if (str_starts(name, "functions.")) {
        name = str_from(name, strlen("functions."));
        const char *colon = memchr(name.at, ':', name.len);
        if (colon) name.len = (size_t)(colon - name.at);
    }
    return name;
}
