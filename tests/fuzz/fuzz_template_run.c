/* Fuzzes the runner of chat templates. The input is a list of choices from which a template is
 * written that compiles, with every filter, test, function and method of the tables; so most
 * inputs run. A rendering must be the same twice, and its spans lie in it and in order. */
#include "prompt/prompt.h"
#include "prompt/vm.h"
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char dialog_text[] =
    "{\"messages\": [{\"role\": \"system\", \"content\": \"sys é😀\"},"
    "{\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": \"<|x|> \\u0000 y\"}]},"
    "{\"role\": \"assistant\", \"content\": null, \"reasoning_content\": \"r\", \"tool_calls\": "
    "[{\"id\":"
    "\"1\", \"function\": {\"name\": \"f\", \"arguments\": \"{\\\"a\\\": [1.5, null]}\"}}]},"
    "{\"role\": \"tool\", \"content\": \"{}\"}, {\"role\": \"assistant\", \"content\": \" so \"}],"
    "\"tools\": [{\"type\": \"function\", \"function\": {\"name\": \"f\"}}], \"vars\": {\"n\": 3,"
    "\"big\": 9223372036854775807, \"f\": -2.5, \"l\": [3, \"b\", null, [1], {\"k\": 2}],"
    "\"d\": {\"k\": 1, \"é\": [true]}, \"s\": \"a-b <c>\\n%s {0} 12\"}}";

enum { DEPTH_MAX = 5, TEMPLATE_MAX = 1 << 16 };

struct choices { const uint8_t *at; size_t left; struct buf *out; int depth; };

static unsigned pick(struct choices *c, unsigned n) {
    if (!c->left) return 0;
    c->left--;
    return *c->at++ % n;
}

static void say(struct choices *c, const char *s) {
    if (c->out->len < TEMPLATE_MAX) buf_str(c->out, str_of(s));
}

static void one_of(struct choices *c, const char *const *words, size_t n) {
    say(c, words[pick(c, (unsigned)n)]);
}
#define ONE_OF(c, ...) \
    one_of(c, (const char *const[]){ __VA_ARGS__ }, \
           sizeof((const char *const[]){ __VA_ARGS__ }) / sizeof(char *))

static const struct builtin *one_in(struct choices *c, const struct builtin *table) {
    unsigned n = 0;
    while (table[n].name) n++;
    return &table[pick(c, n)];
}

static void expression(struct choices *);

static void arguments(struct choices *c) {
    unsigned n = pick(c, 3);
    say(c, "(");
    for (unsigned i = 0; i < n; i++) {
        if (i) say(c, ", ");
        expression(c);
    }
    say(c, ")");
}

/* A name of the table with the arguments that it needs, and some that it may have. */
static void use(struct choices *c, const struct builtin *table) {
    const struct builtin *f = one_in(c, table);
    say(c, f->name);
    say(c, "(");
    bool first = true, named = false;
    for (const char *p = f->params; *p;) {
        size_t n = strcspn(p, " ");
        char name[32];
        snprintf(name, sizeof name, "%.*s", (int)n, p);
        bool may = n && (p[n - 1] == '?' || *p == '*');
        p += n + (p[n] == ' ');
        if (may && pick(c, 3)) {
            named = true;            /* what comes after one left out is given by name */
            continue;
        }
        if (name[0] == '*' && (named || name[1])) continue;
        if (!first) say(c, ", ");
        first = false;
        name[strcspn(name, "?*")] = 0;
        if (named) say(c, name), say(c, "=");
        expression(c);
    }
    say(c, ")");
}

static void atom(struct choices *c) {
    ONE_OF(c, "s", "l", "d", "n", "f", "big", "messages", "tools", "messages[1].content", "m", "ns",
           "none", "true", "missing", "0", "1", "-1", "1000000", "0.5", "'a'", "''", "' %5d|{:>9}'",
           "[]", "{}", "loop", "x", "'é\\n'", "range(3)", "messages[2].tool_calls", "'a,b'",
           "'upper'", "'odd'", "caller", "varargs");
}

static void method(struct choices *c) {
    const struct builtin *const tables[] = { text_methods, list_methods, dict_methods,
        cycler_methods, loop_methods, int_methods, float_methods };
    say(c, ".");
    use(c, tables[pick(c, COUNT(tables))]);
}

static void compound(struct choices *c) {
    static const char *const words[] = { "defined", "none", "string", "mapping", "iterable", "odd",
        "sequence", "in l", "in s", "divisibleby 2", "sameas n", "lower", "callable", "eq s",
        "ge 1", "escaped", "filter", "float", "boolean", "true", "even" };
    switch (pick(c, 12)) {
    case 0: say(c, "|"), use(c, filters); return;
    case 1: say(c, " is "), say(c, words[pick(c, COUNT(words))]); return;
    case 2: method(c); return;
    case 3:
        ONE_OF(c, " + ", " - ", " * ", " / ", " // ", " % ", " ** ", " ~ ", " == ", " < ", " >= ",
               " in ", " not in ", " and ", " or ", " != ");
        say(c, "("), expression(c), say(c, ")");
        return;
    case 4: say(c, "["), expression(c), say(c, "]"); return;
    case 5:
        say(c, "[");
        if (pick(c, 2)) expression(c);
        say(c, ":");
        if (pick(c, 2)) expression(c);
        ONE_OF(c, "]", ":2]", ":-1]", ":]");
        return;
    case 6: ONE_OF(c, ".k", ".role", ".content", ".a", ".0", ".index", ".last", ".x"); return;
    case 7: say(c, " if "), expression(c), say(c, " else "), expression(c); return;
    case 8: say(c, "|map('"), say(c, one_in(c, filters)->name), say(c, "')|list"); return;
    case 9: say(c, "|select('"), say(c, one_in(c, tests)->name), say(c, "', 1)|list"); return;
    case 11: arguments(c); return;
    default: return;
    }
}

static void expression(struct choices *c) {
    if (c->depth >= DEPTH_MAX) {
        atom(c);
        return;
    }
    c->depth++;
    say(c, "((");
    switch (pick(c, 6)) {
    case 0: use(c, functions); break;
    case 1: say(c, "["), expression(c), say(c, ", "), expression(c), say(c, "]"); break;
    case 2: say(c, "{'k': "), expression(c), say(c, ", 'j': "), expression(c), say(c, "}"); break;
    case 3: ONE_OF(c, "-", "not ", "+"), expression(c); break;
    default: atom(c);
    }
    say(c, ")");
    for (unsigned n = pick(c, 4); n > 0; n--) compound(c);
    say(c, ")");
    c->depth--;
}

static void body(struct choices *);

static void block(struct choices *c, const char *open, bool value, const char *close) {
    say(c, open);
    if (value) expression(c);
    say(c, " %}");
    body(c);
    say(c, close);
}

static void statement(struct choices *c) {
    switch (pick(c, 14)) {
    case 0: block(c, "{% for x in ", true, "{% endfor %}"); return;
    case 1: block(c, "{% for x, y in ", true, "{% else %}-{%- endfor %}"); return;
    case 2: block(c, "{% for x in l if ", true, "{{ loop.index }}{% endfor %}"); return;
    case 3: block(c, "{%- if ", true, "{% elif x %}2{% endif %}"); return;
    case 4: block(c, "{% if ", true, "{% else %}e{% endif -%}"); return;
    case 5: ONE_OF(c, "{% set x = ", "{% set ns.x = ", "{% set s = ", "{% set x, y = "); break;
    case 6: block(c, "{% set x", false, "{% endset %}"); return;
    case 7: block(c, "{% macro m(a, b=2)", false, "{{ a }}{{ varargs }}{% endmacro %}"); return;
    case 8: block(c, "{% call(q) m(1)", false, "{% endcall %}"); return;
    case 9:
        say(c, "{% filter "), use(c, filters);
        block(c, "", false, "{% endfilter %}");
        return;
    case 10: block(c, "{% with x = ", true, "{% endwith %}"); return;
    case 11: block(c, "{% generation", false, "{% endgeneration %}"); return;
    case 12: say(c, "text\n  "); return;
    default: say(c, "{{ "), expression(c), say(c, " }}"); return;
    }
    expression(c);
    say(c, " %}");
}

static void body(struct choices *c) {
    if (c->depth >= DEPTH_MAX) return;
    c->depth++;
    for (unsigned n = pick(c, 4); n > 0; n--) statement(c);
    c->depth--;
}

static void check(const struct chat *chat, const struct dialog *d) {
    struct prompt p = { 0 }, q = { 0 };
    struct err err = { 0 };
    bool ok = chat_render(chat, d, &p, &err);
    if (!ok && !err.text[0]) abort();
    for (int i = 0; ok && i < p.n_spans; i++)
        if (p.span[i].begin >= p.span[i].end || p.span[i].end > p.text.len ||
            (i && p.span[i].begin <= p.span[i - 1].end)) abort();
    if (ok && (!chat_render(chat, d, &q, &err) || !str_eq(buf_view(&p.text), buf_view(&q.text))))
        abort();
    prompt_free(&p);
    prompt_free(&q);
}

static void run(const struct buf *text, unsigned flags) {
    static struct json_object *j;
    if (!j) j = json_tokener_parse(dialog_text);
    struct err err = { 0 };
    struct chat *chat = chat_open(NULL, text->at, NULL, &err);
    struct dialog d = {
        .messages = json_object_object_get(j, "messages"), .now_s = 1,
        .tools = json_object_object_get(j, "tools"), .vars = json_object_object_get(j, "vars"),
        .no_generation_prompt = (flags & 7) != 0, .as_given = (flags & 8) != 0,
    };
    if (chat) check(chat, &d);
    else if (!err.text[0]) abort();
    chat_close(chat);
}

/* Each statement is a template of its own, as the first mistake ends one. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    enum { TEMPLATES_MAX = 16 };
    if (size < 2) return 0;
    struct buf text = { 0 };
    struct choices c = { .at = data + 1, .left = size - 1, .out = &text };
    for (int i = 0; c.left && i < TEMPLATES_MAX; i++) {
        buf_clear(&text);
        say(&c, "{% set ns = namespace(x=1) %}{% macro m(a=0, b=1) %}<{{ a }}>{% endmacro %}");
        statement(&c);
        buf_c(&text);
        run(&text, data[0]);
    }
    buf_free(&text);
    return 0;
}
