/* calls_text.c - calls that begin with a bare name: name and JSON with some mark in
 * between, Python calls, Gemma's; and the choice between spellings that share a tag. */
#include "prompt/calls.h"
#include <string.h>

enum { BEGIN, NAME, FENCE, ARGUMENTS, STREAM, AFTER, ENDED };

static const struct call_tags coder_tags = {
    .call = "<function=", .name_end = ">", .key = "<parameter=", .key_end = ">",
    .value_end = "</parameter>", .call_end = "</function>", .lines = true,
};
static const struct call_tags glm_tags = {
    .key = "<arg_key>", .key_end = "</arg_key>", .value = "<arg_value>",
    .value_end = "</arg_value>",
};

static enum reading stream(struct reader *r, const struct said *s) {
    enum reading result = reader_value(r, s);
    if (result == READ_DONE) r->state = AFTER;
    return result;
}

/* At the brace (or parenthesis) that opens the arguments. */
static enum reading begin_call(struct reader *r, enum dialect dialect) {
    if (!r->name.len || !reader_known(r, buf_view(&r->name))) return READ_BROKEN;
    reader_name(r, buf_view(&r->name));
    if (dialect == LITERAL_PYTHON) literal_open_keywords(&r->value);
    else literal_open(&r->value, dialect);
    r->state = STREAM;
    return READ_DONE;
}

/* "0" or "call00003": where ids of a dialog looked so, the model makes more of that kind. */
static bool bare_id(struct str id) {
    static const char call[] = "call";
    if (str_starts(id, call)) id = str_from(id, strlen(call));
    for (size_t i = 0; i < id.len; i++)
        if (id.at[i] < '0' || id.at[i] > '9') return false;
    return id.len > 0;
}

/* "name:0" and "functions.name:0" without the number; "functionsname0", which is also said, is
 * only understood where there is such a tool, and an id alone where there is but one. */
static struct str name_in_id(struct reader *r, struct str id) {
    static const char prefix[] = "functions";
    size_t end = id.len;
    struct str only = schema_only(r->tools);
    if (only.len && bare_id(id) && !str_eq(id, only)) {
        reader_id(r, id);
        return only;
    }
    while (end && id.at[end - 1] >= '0' && id.at[end - 1] <= '9') end--;
    if (end == id.len || !end) return id;
    struct str name = str_cut(id, 0, id.at[end - 1] == ':' ? end - 1 : end);
    if (name.len == end) {
        if (!str_starts(name, prefix) || schema_tool(r->tools, id)) return id;
        name = str_from(name, strlen(prefix));
        if (str_starts(name, ".")) name = str_from(name, 1);
        if (!schema_tool(r->tools, name)) return id;
    }
    reader_id(r, id);
    return name;
}

static bool keep_name(struct reader *r, struct str name) {
    name = plain_name(r->format && r->format->ids ? name_in_id(r, trimmed(name)) : name);
    buf_clear(&r->name);
    buf_str(&r->name, name);
    for (size_t i = 0; i < name.len; i++)
        if (said_blank(name.at[i]) || strchr("<>{}[]()\"", name.at[i])) return false;
    return name.len > 0 && name.len <= CALL_NAME_MAX;
}

/* DeepSeek R1 and V3: "function", the mark, then the name and a fenced block. */
static enum reading fence(struct reader *r, const struct said *s) {
    static const char mark[] = "```json";
    size_t hold, end = said_find_near(s, r->at, mark, CALL_NAME_MAX, &hold);
    if (end == SIZE_MAX) return s->last || hold - r->at > CALL_NAME_MAX ? READ_BROKEN : READ_MORE;
    if (!keep_name(r, str_cut(s->text, r->at, end))) return READ_BROKEN;
    r->at = end + strlen(mark);
    r->list = true;                  /* the fence has to close */
    r->state = ARGUMENTS;
    return READ_DONE;
}

static enum reading name(struct reader *r, const struct said *s) {
    const char *mark = r->format->name_end;
    size_t hold, end = said_find_near(s, r->at, mark, CALL_NAME_MAX, &hold);
    if (end == SIZE_MAX) return s->last || hold - r->at > CALL_NAME_MAX ? READ_BROKEN : READ_MORE;
    if (!keep_name(r, str_cut(s->text, r->at, end))) return READ_BROKEN;
    r->at = end + strlen(mark);
    r->state = str_is(buf_view(&r->name), "function") ? FENCE : ARGUMENTS;
    return READ_DONE;
}

/* "<function=name>" may go on in either of two spellings. */
static enum reading arguments(struct reader *r, const struct said *s) {
    size_t at = said_skip(s, r->at);
    if (at == s->text.len) return READ_MORE;
    if (s->text.at[at] == '{') {
        r->at = at;
        return begin_call(r, LITERAL_JSON);
    }
    if (!r->tags) return READ_BROKEN;
    enum match key = said_at(s, at, r->tags->key), end = said_at(s, at, r->tags->call_end);
    if (key != MATCH_YES && end != MATCH_YES)
        return key == MATCH_MORE || end == MATCH_MORE ? READ_MORE : READ_BROKEN;
    return read_parameters(r, s);
}

enum reading read_named(struct reader *r, const struct said *s) {
    if (r->read) return r->read(r, s);
    for (;;) {
        enum reading result = READ_DONE;
        switch (r->state) {
        case BEGIN: case NAME: result = name(r, s); break;
        case FENCE: result = fence(r, s); break;
        case ARGUMENTS:
            result = arguments(r, s);
            if (r->read) return result;
            break;
        case STREAM: result = stream(r, s); break;
        case AFTER:
            if (r->list) {
                enum match f = reader_mark(r, s, "```");
                if (f != MATCH_YES) return f == MATCH_MORE ? READ_MORE : READ_BROKEN;
                r->done = r->at;
            }
            r->state = ENDED;
            break;
        default:
            if (!r->tags) return READ_DONE;
            enum match f = reader_mark(r, s, r->tags->call_end);
            if (f != MATCH_YES) return f == MATCH_MORE ? READ_MORE : READ_BROKEN;
            r->done = r->at;
            return READ_DONE;
        }
        if (result != READ_DONE) return result;
    }
}

/* [TOOL_CALLS] then a list of objects, or name[CALL_ID]id[ARGS]{...}; the brace may follow the
 * name at once. */
static enum reading mistral_name(struct reader *r, const struct said *s) {
    enum { CALL_ID_BYTES = 9 };
    static const char args[] = "[ARGS]", call_id[] = "[CALL_ID]";
    size_t brace = r->at, hold;
    while (brace < s->text.len && s->text.at[brace] != '{') brace++;
    if (brace - r->at > CALL_NAME_MAX) return READ_BROKEN;
    if (brace == s->text.len) return s->last ? READ_BROKEN : READ_MORE;
    size_t end = MIN(brace, said_find_near(s, r->at, args, CALL_NAME_MAX, &hold));
    size_t id = said_find_near(s, r->at, call_id, CALL_NAME_MAX, &hold);
    if (id < end) {
        struct str own = trimmed(str_cut(s->text, id + strlen(call_id), end));
        if (own.len == CALL_ID_BYTES) reader_id(r, own);         /* no other can be sent back */
    }
    if (!keep_name(r, str_cut(s->text, r->at, MIN(id, end)))) return READ_BROKEN;
    r->at = brace;
    return begin_call(r, LITERAL_JSON);
}

enum reading read_mistral(struct reader *r, const struct said *s) {
    if (r->read) return r->read(r, s);
    for (;;) {
        enum reading result = READ_DONE;
        switch (r->state) {
        case BEGIN:
            r->at = said_skip(s, r->at);
            if (r->at == s->text.len) return READ_MORE;
            if (s->text.at[r->at] == '[') {
                r->read = read_json;
                return read_json(r, s);
            }
            r->state = NAME;
            break;
        case NAME: result = mistral_name(r, s); break;
        case STREAM: result = stream(r, s); break;
        default: return READ_DONE;
        }
        if (result != READ_DONE) return result;
    }
}

enum reading read_gemma(struct reader *r, const struct said *s) {
    for (;;) {
        enum reading result = READ_DONE;
        size_t hold, brace;
        enum match f;
        switch (r->state) {
        case BEGIN:
            f = reader_mark(r, s, ":");          /* a stray one, which is said at times */
            if (f != MATCH_MORE) f = reader_mark(r, s, "call:");
            if (f != MATCH_YES) return f == MATCH_MORE ? READ_MORE : READ_BROKEN;
            r->state = NAME;
            break;
        case NAME:
            brace = said_find_near(s, r->at, "{", CALL_NAME_MAX, &hold);
            if (brace == SIZE_MAX)
                return s->last || hold - r->at > CALL_NAME_MAX ? READ_BROKEN : READ_MORE;
            if (!keep_name(r, str_cut(s->text, r->at, brace))) return READ_BROKEN;
            r->at = brace;
            result = begin_call(r, LITERAL_GEMMA);
            if (r->format->quote) r->value.mark = r->format->quote;
            break;
        case STREAM: result = stream(r, s); break;
        default: return READ_DONE;
        }
        if (result != READ_DONE) return result;
    }
}

/* name(key=value, ...): in brackets and separated by commas, or each on its own line. */
static enum reading python_name(struct reader *r, const struct said *s) {
    static const char call[] = ".call";
    size_t hold, at = said_skip(s, r->at);
    size_t end = said_find_near(s, at, "(", CALL_NAME_MAX, &hold);
    if (end == SIZE_MAX) return s->last || hold - at > CALL_NAME_MAX ? READ_BROKEN : READ_MORE;
    struct str name = str_cut(s->text, at, end);
    if (str_ends(name, call)) name.len -= strlen(call);
    if (!keep_name(r, name)) return READ_BROKEN;
    r->at = end + 1;
    return begin_call(r, LITERAL_PYTHON);
}

static enum reading python_begin(struct reader *r, const struct said *s) {
    size_t at = said_skip(s, r->at);
    if (at == s->text.len) return READ_MORE;
    r->list = s->text.at[at] == '[';
    r->at = at + r->list;
    r->state = NAME;
    return READ_DONE;
}

static enum reading python_after(struct reader *r, const struct said *s) {
    size_t at = said_skip(s, r->at);
    if (at == s->text.len && (r->list || !s->last)) return READ_MORE;
    char c = at < s->text.len ? s->text.at[at] : '<';
    if (r->list && c != ',' && c != ']') return READ_BROKEN;
    if (c == ']' && r->list) r->done = r->at = at + 1;
    if (c == ']' || (!r->list && (c == '<' || r->known_only))) {
        r->state = ENDED;
        return READ_DONE;
    }
    r->at = at + r->list;
    r->state = NAME;
    return READ_DONE;
}

enum reading read_python(struct reader *r, const struct said *s) {
    for (;;) {
        enum reading result = READ_DONE;
        switch (r->state) {
        case BEGIN: result = python_begin(r, s); break;
        case NAME: result = python_name(r, s); break;
        case STREAM: result = stream(r, s); break;
        case AFTER: result = python_after(r, s); break;
        default: return READ_DONE;
        }
        if (result != READ_DONE) return result;
    }
}

/* Llama 3: JSON, or name.call(...) of a tool. Other Python is no call. */
enum reading read_ipython(struct reader *r, const struct said *s) {
    if (!r->read) {
        size_t at = said_skip(s, r->at);
        if (at == s->text.len) return READ_MORE;
        bool json = s->text.at[at] == '{' || s->text.at[at] == '[';
        r->read = json ? read_json : read_python;
        r->known_only = !json;
    }
    return r->read(r, s);
}

/* A message to a tool: what says whether it is one is its first character. */
enum reading read_message(struct reader *r, const struct said *s) {
    for (;;) {
        enum reading result = READ_DONE;
        switch (r->state) {
        case BEGIN: result = arguments(r, s); break;
        case STREAM: result = stream(r, s); break;
        default: return READ_DONE;
        }
        if (result != READ_DONE) return result;
    }
}

/* JSON, Qwen3-Coder's tags or GLM's: the first character says which. */
enum reading read_auto(struct reader *r, const struct said *s) {
    if (!r->read) {
        r->at = said_skip(s, r->at);
        if (r->at == s->text.len) return READ_MORE;
        char c = s->text.at[r->at];
        r->tags = c == '<' ? &coder_tags : r->format->tags ? r->format->tags : &glm_tags;
        r->read = c == '{' || c == '[' || c == '`' ? read_json : read_tags;
    }
    return r->read(r, s);
}
