/* calls.c - one tool call's text to a name and JSON arguments; see calls.h. */
#include "prompt/calls.h"
#include "base/pull.h"
#include <stdlib.h>
#include <string.h>

const struct call_format call_formats[] = {
    /* Hermes, Qwen (JSON), Qwen3-Coder (<function=...>), GLM (<arg_key>...) */
    { "<tool_call>", "<tool_call>", NULL, "</tool_call>", CALL_AUTO, { 0 } },
    { "[TOOL_CALLS]", "[TOOL_CALLS]", NULL, NULL, CALL_MISTRAL, { 0 } },
    { "<|tool_call_argument_begin|>", "<|tool_call_begin|>", "<|tool_call_argument_begin|>",
      "<|tool_call_end|>", CALL_NAMED,
      { "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>" } },
    { "<｜tool▁sep｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>",
      "<｜tool▁call▁end｜>", CALL_NAMED,
      { "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>" } },
    { "<seed:tool_call>", "<seed:tool_call>", NULL, "</seed:tool_call>", CALL_AUTO, { 0 } },
    /* Granite */
    { "<|tool_call|>", "<|tool_call|>", NULL, NULL, CALL_JSON, { 0 } },
    /* Command R */
    { "<|START_ACTION|>", "<|START_ACTION|>", NULL, "<|END_ACTION|>", CALL_AUTO,
      { "<|START_RESPONSE|>", "<|END_RESPONSE|>" } },
    /* LFM2 says nothing of it in its template but the list of tools */
    { "<|tool_list_start|>", "<|tool_call_start|>", NULL, "<|tool_call_end|>", CALL_PYTHON, { 0 } },
    { "<tool_calls>", "<tool_calls>", NULL, "</tool_calls>", CALL_AUTO, { 0 } },   /* Apriel */
    { "functools[", "functools", NULL, NULL, CALL_JSON, { 0 } },     /* FireFunction */
    { "<|tools_prefix|>", "<|tools_prefix|>", NULL, "<|tools_suffix|>", CALL_KEYED, { 0 } },
    { "<minimax:tool_call>", "<minimax:tool_call>", NULL, "</minimax:tool_call>", CALL_INVOKES,
      { 0 } },
    { "<|tool_call>call:", "<|tool_call>", NULL, "<tool_call|>", CALL_GEMMA, { 0 } },
    { "<function=example_function_name>", "<function=", ">", "</function>", CALL_NAMED, { 0 } },
    { "<|python_tag|>", "<|python_tag|>", NULL, NULL, CALL_JSON, { 0 } },
    { "\"parameters\": dictionary of argument name", NULL, NULL, NULL, CALL_JSON, { 0 } },
    { 0 },
};

static struct str trimmed(struct str s) {
    while (s.len && strchr(" \n\r\t", s.at[0]) && s.at[0]) s = str_from(s, 1);
    while (s.len && strchr(" \n\r\t", s.at[s.len - 1]) && s.at[s.len - 1]) s.len--;
    return s;
}

static size_t find(struct str s, const char *what) {
    const char *at = s.len ? memmem(s.at, s.len, what, strlen(what)) : NULL;
    return at ? (size_t)(at - s.at) : SIZE_MAX;
}

size_t json_length(struct str s) {
    size_t depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < s.len; i++) {
        char c = s.at[i];
        if (in_string) {
            if (c == '\\') i++;
            else if (c == '"') in_string = false;
        } else if (c == '"') {
            if (!depth) return SIZE_MAX;
            in_string = true;
        } else if (c == '{' || c == '[') {
            depth++;
        } else if (c == '}' || c == ']') {
            if (!depth) return SIZE_MAX;
            if (!--depth) return i + 1;
        } else if (!depth && !(c == ' ' || c == '\n' || c == '\r' || c == '\t')) {
            return SIZE_MAX;
        }
    }
    return 0;
}

static const char args_mark[] = "[ARGS]";

size_t call_length(const struct call_format *f, struct str s) {
    enum { NAME_MAX_BYTES = 256 };
    struct str rest = s;
    while (rest.len && strchr(" \n\r\t", rest.at[0]) && rest.at[0]) rest = str_from(rest, 1);
    if (f->body == CALL_JSON || !rest.len || rest.at[0] == '[') return json_length(s);
    /* A name: up to [ARGS], or to the brace itself. */
    size_t mark = find(rest, args_mark), brace = find(rest, "{");
    size_t name = MIN(mark, brace);
    if (MIN(name, rest.len) > NAME_MAX_BYTES) return SIZE_MAX;
    if (name == SIZE_MAX) return 0;
    size_t from = name == mark ? name + strlen(args_mark) : name;
    size_t n = json_length(str_from(rest, from));
    return n == 0 || n == SIZE_MAX ? n : s.len - rest.len + from + n;
}

/* Whether a text is one whole JSON object. */
static bool is_object(struct str s) {
    struct pull j = pull_open(s);
    bool ok = pull_peek(&j) == PULL_OBJECT && pull_skip(&j) && pull_end(&j);
    pull_close(&j);
    return ok;
}

/* Names and arguments one after the other; begin and end of both in `at`. */
struct calls { struct buf text; size_t (*at)[4]; size_t n, cap; };

static void keep(struct calls *c, struct str name, struct str arguments) {
    enum { CALLS_MAX = 256 };
    if (c->n == CALLS_MAX) return;
    if (c->n == c->cap) c->at = mem_grow(c->at, c->cap = MAX(2 * c->cap, (size_t)4), sizeof *c->at);
    size_t *at = c->at[c->n++];
    at[0] = c->text.len;
    buf_str(&c->text, name);
    at[1] = at[2] = c->text.len;
    buf_str(&c->text, arguments);
    at[3] = c->text.len;
}

/* {"name": ..., "arguments": {...}}; they may be called tool_name and parameters, and arguments
 * may be JSON in a string. */
static bool read_object(struct str s, struct calls *out) {
    struct pull j = pull_open(s);
    struct buf name = { 0 }, arguments = { 0 };
    struct str key, value;
    bool named = false, given = false, ok = pull_object(&j);
    while (ok && pull_key(&j, &key)) {
        bool is_arguments = str_is(key, "arguments") || str_is(key, "parameters");
        bool is_name = str_is(key, "name") || str_is(key, "tool_name");
        if (is_name && !named) {
            named = pull_string(&j, &value);
            if (named) buf_str(&name, value);
        } else if (is_arguments && !given) {
            given = pull_peek(&j) == PULL_STRING ? pull_string(&j, &value) : pull_value(&j, &value);
            if (given) buf_str(&arguments, trimmed(value));
        } else if (!pull_skip(&j)) {
            break;
        }
    }
    ok = pull_end(&j) && named && name.len;
    if (!given || !arguments.len || str_is(buf_view(&arguments), "null")) {
        buf_clear(&arguments);
        buf_str(&arguments, S("{}"));
    }
    ok = ok && is_object(buf_view(&arguments));
    if (ok) keep(out, buf_view(&name), buf_view(&arguments));
    buf_free(&name);
    buf_free(&arguments);
    pull_close(&j);
    return ok;
}

/* {"name": {...}}, perhaps several in one. */
static bool read_keyed(struct str s, struct calls *out) {
    struct pull j = pull_open(s);
    struct str name, arguments;
    bool ok = pull_object(&j);
    while (ok && pull_key(&j, &name)) {
        struct buf kept = { 0 };
        buf_str(&kept, name);        /* the key lives until the value is read */
        ok = pull_peek(&j) == PULL_OBJECT && pull_value(&j, &arguments) && kept.len;
        if (ok) keep(out, buf_view(&kept), arguments);
        buf_free(&kept);
    }
    ok = ok && pull_end(&j);
    pull_close(&j);
    return ok;
}

static bool read_list(struct str s, struct calls *out,
                      bool (*read)(struct str, struct calls *)) {
    struct pull j = pull_open(s);
    struct str one;
    bool ok = pull_array(&j);
    size_t n = 0;
    while (ok && pull_next(&j)) {
        ok = pull_value(&j, &one) && read(trimmed(one), out);
        n++;
    }
    ok = ok && pull_end(&j) && n > 0;
    pull_close(&j);
    return ok;
}

static bool read_json(struct str s, struct calls *out) {
    s = trimmed(s);
    return s.len && s.at[0] == '[' ? read_list(s, out, read_object) : read_object(s, out);
}

/* "functions.name:0" (Kimi) is just `name`. */
static struct str plain_name(struct str name) {
    name = trimmed(name);
    if (str_starts(name, "functions.")) {
        name = str_from(name, strlen("functions."));
        size_t colon = find(name, ":");
        if (colon != SIZE_MAX) name.len = colon;
    }
    return name;
}

static bool read_coder(struct str name, struct str s, struct calls *out);

static bool read_named(struct str s, const char *separator, struct calls *out) {
    size_t at = find(s, separator);
    if (at == SIZE_MAX) return false;
    struct str name = plain_name(str_cut(s, 0, at));
    struct str arguments = trimmed(str_from(s, at + strlen(separator)));
    size_t fence = find(arguments, "```json");       /* DeepSeek R1 and V3 */
    if (str_is(name, "function") && fence != SIZE_MAX) {
        name = trimmed(str_cut(arguments, 0, fence));
        arguments = str_from(arguments, fence + strlen("```json"));
        size_t end = find(arguments, "```");
        arguments = trimmed(str_cut(arguments, 0, end));
    }
    if (!name.len) return false;
    if (!is_object(arguments)) return read_coder(name, arguments, out);
    keep(out, name, arguments);
    return true;
}

/* A value as it stands between tags: JSON if it is that, else a string. */
static void put_loose(struct buf *b, struct str s) {
    struct str bare = trimmed(s);
    struct pull j = pull_open(bare);
    bool json = bare.len && bare.at[0] != '"' && pull_skip(&j) && pull_end(&j);
    pull_close(&j);
    if (json) {
        buf_str(b, bare);
        return;
    }
    if (s.len && s.at[0] == '\n') s = str_from(s, 1);
    if (s.len && s.at[s.len - 1] == '\n') s.len--;
    buf_json(b, s);
}

/* Pairs between tags: <key_open>key<key_close>value<value_close>; with value_open in between. */
struct tags { const char *key_open, *key_close, *value_open, *value_close; };

static bool read_tags(struct str name, struct str s, const struct tags *t, struct calls *out) {
    struct buf arguments = { 0 };
    bool ok = name.len > 0;
    buf_char(&arguments, '{');
    for (s = trimmed(s); ok && s.len; s = trimmed(s)) {
        size_t key_end = find(s, t->key_close), value_end;
        ok = str_starts(s, t->key_open) && key_end != SIZE_MAX;
        if (!ok) break;
        struct str key = trimmed(str_cut(s, strlen(t->key_open), key_end));
        s = str_from(s, key_end + strlen(t->key_close));
        if (t->value_open) {
            s = trimmed(s);
            ok = str_starts(s, t->value_open);
            s = str_from(s, strlen(t->value_open));
        }
        value_end = find(s, t->value_close);
        ok = ok && value_end != SIZE_MAX && key.len;
        if (!ok) break;
        if (arguments.len > 1) buf_str(&arguments, S(", "));
        buf_json(&arguments, key);
        buf_str(&arguments, S(": "));
        put_loose(&arguments, str_cut(s, 0, value_end));
        s = str_from(s, value_end + strlen(t->value_close));
    }
    buf_char(&arguments, '}');
    ok = ok && is_object(buf_view(&arguments));
    if (ok) keep(out, name, buf_view(&arguments));
    buf_free(&arguments);
    return ok;
}

static bool read_coder(struct str name, struct str s, struct calls *out) {
    static const struct tags coder = { "<parameter=", ">", NULL, "</parameter>" };
    return read_tags(name, s, &coder, out);
}

static bool read_auto(struct str s, struct calls *out) {
    static const struct tags glm = { "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>" };
    s = trimmed(s);
    if (s.len && (s.at[0] == '{' || s.at[0] == '[')) return read_json(s, out);
    if (str_starts(s, "<function=")) {
        size_t end = find(s, ">"), close = find(s, "</function>");
        if (end == SIZE_MAX || close == SIZE_MAX || close < end) return false;
        struct str name = trimmed(str_cut(s, strlen("<function="), end));
        return read_coder(name, str_cut(s, end + 1, close), out);
    }
    size_t end = MIN(find(s, "<arg_key>"), s.len);
    struct str name = trimmed(str_cut(s, 0, end));
    if (find(name, "\n") != SIZE_MAX || find(name, " ") != SIZE_MAX || find(name, "<") != SIZE_MAX)
        return false;
    return read_tags(name, str_from(s, end), &glm, out);
}

static bool read_invokes(struct str s, struct calls *out) {
    static const struct tags tags = { "<parameter name=\"", "\">", NULL, "</parameter>" };
    static const char open[] = "<invoke name=\"", close[] = "</invoke>";
    s = trimmed(s);
    bool ok = s.len > 0;
    while (ok && s.len) {
        size_t name_end = find(s, "\">"), end = find(s, close);
        ok = str_starts(s, open) && name_end != SIZE_MAX && end != SIZE_MAX && name_end < end;
        if (!ok) break;
        struct str name = str_cut(s, strlen(open), name_end);
        ok = read_tags(name, str_cut(s, name_end + 2, end), &tags, out);
        s = trimmed(str_from(s, end + strlen(close)));
    }
    return ok;
}

/* Gemma's objects, which are JSON but for bare keys and odd quotation marks, as JSON. */
static void put_gemma(struct buf *b, struct str s) {
    static const char quote[] = "<|\"|>";
    while (s.len) {
        if (str_starts(s, quote)) {
            s = str_from(s, strlen(quote));
            size_t end = MIN(find(s, quote), s.len);
            buf_json(b, str_cut(s, 0, end));
            s = str_from(s, end + strlen(quote));
            continue;
        }
        size_t n = 0;
        while (n < s.len && !strchr("{}[],:", s.at[n]) && !str_starts(str_from(s, n), quote)) n++;
        struct str word = trimmed(str_cut(s, 0, n));
        bool key = n < s.len && s.at[n] == ':';
        if (word.len && key) buf_json(b, word);
        else if (word.len) put_loose(b, word);
        if (n < s.len && s.at[n] != '<') buf_char(b, s.at[n++]);
        s = str_from(s, MAX(n, (size_t)(word.len == 0)));
    }
}

static bool read_gemma(struct str s, struct calls *out) {
    s = trimmed(s);
    size_t brace = find(s, "{");
    if (!str_starts(s, "call:") || brace == SIZE_MAX) return false;
    struct buf arguments = { 0 };
    struct str name = trimmed(str_cut(s, strlen("call:"), brace));
    put_gemma(&arguments, str_from(s, brace));
    bool ok = name.len && is_object(buf_view(&arguments));
    if (ok) keep(out, name, buf_view(&arguments));
    buf_free(&arguments);
    return ok;
}

/* A Python string literal at the start of `s`, as JSON; its bytes, 0: it is none. */
static size_t put_python_string(struct buf *b, struct str s) {
    struct buf text = { 0 };
    char quote = s.at[0];
    size_t i = 1;
    for (; i < s.len && s.at[i] != quote; i++) {
        char c = s.at[i];
        if (c == '\\' && i + 1 < s.len) {
            c = s.at[++i];
            if (c == 'n') c = '\n';
            else if (c == 'r') c = '\r';
            else if (c == 't') c = '\t';
            else if (c != '\\' && c != '\'' && c != '"') buf_char(&text, '\\');
        }
        buf_char(&text, c);
    }
    if (i < s.len) buf_json(b, buf_view(&text));
    buf_free(&text);
    return i < s.len ? i + 1 : 0;
}

/* A Python value at the start of `s`, as JSON: up to the ',' or bracket that ends it. What it
 * writes need not be JSON, the caller checks. Its bytes, 0: it does not end. */
static size_t put_python(struct buf *b, struct str s) {
    size_t depth = 0;
    for (size_t i = 0, n; i < s.len; i += n) {
        char c = s.at[i];
        n = 1;
        if (!depth && (c == ',' || c == ')')) return i;
        if (c == '"' || c == '\'') {
            n = put_python_string(b, str_from(s, i));
            if (!n) return 0;
        } else if (c == '[' || c == '{' || c == '(') {
            depth++;
            buf_char(b, c == '{' ? '{' : '[');
        } else if (c == ']' || c == '}' || c == ')') {
            if (!depth--) return 0;
            buf_char(b, c == '}' ? '}' : ']');
        } else if (c >= 'A' && c <= 'Z') {
            static const char *const words[][2] = {
                { "True", "true" }, { "False", "false" }, { "None", "null" } };
            size_t w = 0;
            while (w < COUNT(words) && !str_starts(str_from(s, i), words[w][0])) w++;
            if (w == COUNT(words)) return 0;
            buf_str(b, str_of(words[w][1]));
            n = strlen(words[w][0]);
        } else {
            buf_char(b, c);
        }
    }
    return 0;
}

/* "key=value, ...)" after the '(' of a call, as a JSON object; its bytes with the ')'. */
static size_t put_keywords(struct buf *b, struct str s) {
    buf_char(b, '{');
    for (size_t i = 0; i < s.len;) {
        struct str rest = trimmed(str_from(s, i));
        if (rest.len) i = (size_t)(rest.at - s.at);
        if (str_starts(rest, ")")) {
            buf_char(b, '}');
            return i + 1;
        }
        if (b->len && b->at[b->len - 1] != '{') {
            if (!str_starts(rest, ",")) return 0;
            buf_char(b, ',');
            rest = str_from(rest, 1);
        }
        size_t equals = find(rest, "=");
        if (equals == SIZE_MAX) return 0;
        buf_json(b, trimmed(str_cut(rest, 0, equals)));
        buf_char(b, ':');
        size_t n = put_python(b, str_from(rest, equals + 1));
        if (!n) return 0;
        i = (size_t)(rest.at - s.at) + equals + 1 + n;
    }
    return 0;
}

static bool read_python(struct str s, struct calls *out) {
    s = trimmed(s);
    bool ok = s.len > 2 && s.at[0] == '[' && s.at[s.len - 1] == ']';
    if (ok) s = trimmed(str_cut(s, 1, s.len - 1));
    while (ok && s.len) {
        struct buf arguments = { 0 };
        size_t open = find(s, "("), n = 0;
        struct str name = trimmed(str_cut(s, 0, open));
        if (open != SIZE_MAX) n = put_keywords(&arguments, str_from(s, open + 1));
        ok = n && name.len && is_object(buf_view(&arguments));
        if (ok) keep(out, name, buf_view(&arguments));
        buf_free(&arguments);
        if (!ok) break;
        s = trimmed(str_from(s, open + 1 + n));
        if (s.len && s.at[0] != ',') ok = false;
        s = trimmed(str_from(s, 1));
    }
    return ok && out->n > 0;
}

static bool read_mistral(struct str s, struct calls *out) {
    s = trimmed(s);
    if (s.len && s.at[0] == '[') return read_list(s, out, read_object);
    size_t mark = find(s, args_mark), brace = find(s, "{");
    if (brace == SIZE_MAX) return false;
    struct str name = trimmed(str_cut(s, 0, MIN(mark, brace)));
    size_t id = find(name, "[CALL_ID]");
    if (id != SIZE_MAX) name.len = id;
    struct str arguments = trimmed(str_from(s, mark < brace ? mark + strlen(args_mark) : brace));
    if (!name.len || !is_object(arguments)) return false;
    keep(out, name, arguments);
    return true;
}

bool calls_read(const struct call_format *f, struct str body, const struct call_sink *sink) {
    struct calls c = { 0 };
    bool ok = false;
    switch (f->body) {
    case CALL_AUTO: ok = read_auto(body, &c); break;
    case CALL_NAMED: ok = read_named(body, f->separator, &c); break;
    case CALL_JSON: ok = read_json(body, &c); break;
    case CALL_MISTRAL: ok = read_mistral(body, &c); break;
    case CALL_INVOKES: ok = read_invokes(body, &c); break;
    case CALL_KEYED: ok = read_list(trimmed(body), &c, read_keyed); break;
    case CALL_PYTHON: ok = read_python(body, &c); break;
    case CALL_GEMMA: ok = read_gemma(body, &c); break;
    }
    struct str text = buf_view(&c.text);
    for (size_t i = 0; ok && i < c.n; i++)
        sink->call(sink->to, str_cut(text, c.at[i][0], c.at[i][1]),
                   str_cut(text, c.at[i][2], c.at[i][3]));
    buf_free(&c.text);
    free(c.at);
    return ok;
}

bool calls_read_to(struct str recipient, struct str body, const struct call_sink *sink) {
    struct str name = plain_name(recipient), arguments = trimmed(body);
    if (!name.len || !is_object(arguments)) return false;
    sink->call(sink->to, name, arguments);
    return true;
}
