/* Hostile templates and odd dialogs end in a sentence, within limits; what came
 * from outside is marked; templates are found where checkpoints keep them. The
 * names in brackets are rows of the catalogue of bad inputs. */
#include "base/buf.h"
#include "prompt/prompt.h"
#include <json-c/json.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct json_object *json(const char *text) {
    struct json_object *j = json_tokener_parse(text);
    if (!j) fail_msg("bad JSON in a test: %s", text);
    return j;
}

/* Opens and renders; NULL text in `out` and the sentence in err when refused. */
static bool render(const char *template, const char *messages, const char *vars, struct prompt *out,
                   struct err *err) {
    *err = (struct err){ 0 };
    struct chat *chat = chat_open(NULL, template, NULL, err);
    if (!chat) return false;
    struct json_object *m = json(messages), *v = vars ? json(vars) : NULL;
    struct dialog d = { .messages = m, .vars = v, .now_s = 1 };
    bool ok = chat_render(chat, &d, out, err);
    chat_close(chat);
    json_object_put(m);
    json_object_put(v);
    return ok;
}

static void refused(const char *template, const char *sentence_has) {
    struct prompt p = { 0 };
    struct err err;
    if (render(template, "[]", NULL, &p, &err)) fail_msg("not refused: %.100s", template);
    if (!strstr(err.text, sentence_has))
        fail_msg("%.100s: \"%s\" lacks \"%s\"", template, err.text, sentence_has);
    assert_int_equal(p.text.len, 0);
    prompt_free(&p);
}

static void refused_with_line(const char *template) {
    refused(template, "chat template line ");
}

static void gives(const char *template, const char *messages, const char *vars, const char *want) {
    struct prompt p = { 0 };
    struct err err;
    if (!render(template, messages, vars, &p, &err)) fail_msg("%s: %s", template, err.text);
    if (!str_is(buf_view(&p.text), want))
        fail_msg("%s: \"%s\", not \"%s\"", template, buf_c(&p.text), want);
    prompt_free(&p);
}

static char *repeated(const char *before, const char *part, size_t times, const char *after) {
    struct buf b = { 0 };
    buf_str(&b, str_of(before));
    while (times--) buf_str(&b, str_of(part));
    buf_str(&b, str_of(after));
    buf_c(&b);
    return b.at;
}

static void broken_templates(void **state) {                       /* CT-01, CT-10 */
    (void)state;
    refused("", "empty");
    char *large = repeated("", "0123456789abcdef", 1 << 20, "");
    refused(large, "bytes");
    free(large);
    refused("a\nb\xFF", "line 2: it is not valid UTF-8");
    static const char *const broken[] = {
        "{% if 1 %}", "{# x", "{% raw %}x", "{% nope %}", "{{ 1|nope }}", "{{ 1 is nope }}", "{{ 1",
        "{{ 'a", "{% include 'a' %}", "{% import 'a' as b %}", "{% extends 'a' %}",
        "{% from 'a' import b %}",
    };
    for (size_t i = 0; i < COUNT(broken); i++) refused_with_line(broken[i]);
    refused("ok\n  {{ 1 + }}", "line 2, column 10");
}

static void endless_work(void **state) {                           /* CT-02, CT-03, CT-07 */
    (void)state;
    refused("{% for i in range(1000000000) %}{% endfor %}", "range of more than");
    refused("{% for i in range(0, 1000000000000000000, 1) %}{% endfor %}", "range of more than");
    refused("{% for i in range(0, 5, 0) %}{% endfor %}", "step cannot be zero");
    gives("{{ range(5, 0)|list }}{{ range(-9223372036854775807, 9223372036854775807, "
          "9223372036854775807)|list|length }}", "[]", NULL, "[]2");
    struct buf deep = { 0 };
    for (int i = 0; i < 10; i++) buf_format(&deep, "{%% for i%d in range(100) %%}", i);
    for (int i = 0; i < 10; i++) buf_str(&deep, S("{% endfor %}"));
    refused(buf_c(&deep), "too many steps");
    buf_free(&deep);
    refused("{% set ns = namespace(a=[1]) %}{% for i in range(99999) %}"
            "{% set ns.a = ns.a + ns.a %}{% endfor %}", "too ");
    refused("{% for i in range(99999) %}{% for j in range(99999) %}{{ 'x' * 1000 }}"
            "{% endfor %}{% endfor %}", "line 1");
}

static void endless_depth(void **state) {                          /* CT-04, CT-05 */
    (void)state;
    refused("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "nested too deeply");
    refused("{% macro f() %}{{ g() }}{% endmacro %}{% macro g() %}{{ f() }}{% endmacro %}{{ f() }}",
            "nested too deeply");
    refused("{% set ns = namespace(n=[1]) %}{% for i in range(9999) %}{% set ns.n = [ns.n] %}"
            "{% endfor %}{% for x in ns.n recursive %}{{ loop(x) }}{% endfor %}",
                "nested too deeply");
    refused("{% set ns = namespace(n=[1]) %}{% for i in range(9999) %}{% set ns.n = [ns.n] %}"
            "{% endfor %}{{ ns.n|tojson }}", "nested too deeply");            /* CT-23 */
    refused("{% set ns = namespace(n=[1], m=[1]) %}{% for i in range(9999) %}"
            "{% set ns.n = [ns.n] %}{% set ns.m = [ns.m] %}{% endfor %}{{ ns.n == ns.m }}",
            "nested too deeply");
    refused("{% set ns = namespace() %}{% set ns.ns = ns %}{{ ns }}", "nested too deeply");
    static const struct { const char *before, *part, *after; } deep[] = {
        { "{{ ", "(", "" }, { "{{ ", "[", "" }, { "{{ ", "{1:", "" }, { "{{ ", "-", "1 }}" },
        { "{{ ", "not ", "1 }}" }, { "", "{% if 1 %}", "" }, { "", "{% for x in y %}", "" },
        { "{{ 1", "|abs", " }}" }, { "{{ ''", " + ''", " }}" }, { "{{ 1", " ** 1", " }}" },
        { "{{ a", ".b", " }}" }, { "{{ a", "[0]", " }}" }, { "{{ a", "()", " }}" },
        { "{{ 1", " if 1 else 1", " }}" }, { "{{ 1", " is odd", " }}" }, { "{{ 1", " < 1", " }}" },
        { "{{ 1", " and 1", " }}" }, { "{% set ", "(", "" }, { "", "{% filter upper %}", "" },
        { "{{ f(", "f(", "" },
    };
    for (size_t i = 0; i < COUNT(deep); i++) {
        char *t = repeated(deep[i].before, deep[i].part, 50000, deep[i].after);
        refused_with_line(t);
        free(t);
    }
    char *long_chain = repeated("{{ ''", " ~ 'a'", 50000, " }}");  /* a list, so no depth at all */
    struct prompt p = { 0 };
    struct err err;
    assert_true(render(long_chain, "[]", NULL, &p, &err));
    assert_int_equal(p.text.len, 50000);
    prompt_free(&p);
    free(long_chain);
    char *elifs = repeated("{% if 0 %}", "{% elif 0 %}", 20000, "{% else %}x{% endif %}");
    gives(elifs, "[]", NULL, "x");
    free(elifs);
}

static void too_much_text(void **state) {                          /* CT-06, CT-21, CT-22 */
    (void)state;
    static const char *const large[] = {
        "{% set ns = namespace(s='ab') %}{% for i in range(99) %}"
            "{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{% set ns = namespace(s='ab') %}{% for i in range(99) %}"
            "{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{{ 'a' * 1000000000 }}", "{{ [1] * 1000000000 }}", "{{ 9223372036854775807 * 'ab' }}",
        "{{ ('a' * 60000)|replace('a', 'b' * 60000) }}",
            "{{ ('a' * 60000).replace('', 'b' * 60000) }}",
        "{{ range(99999)|join('b' * 60000) }}", "{{ ('\\n' * 60000)|indent(60000, blank=true) }}",
        "{{ 'a'|center(1000000000) }}", "{{ 'a'.ljust(1000000000) }}",
            "{{ 'a'.zfill(1000000000) }}",
        "{{ '%1000000000d' % 1 }}", "{{ '%.1000000000f' % 1 }}", "{{ '{:1000000000}'.format(1) }}",
        "{{ [1]|batch(1000000000, 'x')|list }}", "{{ [1]|slice(1000000000)|list }}",
        "{{ [1]|tojson(indent=1000000000) }}", "{{ ('a' * 9999999).strip('b' * 9999999 ~ 'a') }}",
        "{{ ('a' * 9999999).rfind('b' ~ 'a' * 999999) }}",
        "{{ ('a' * 9999999).rpartition('b' ~ 'a' * 999999) }}",
        "{% set ns = namespace(t=(1,)) %}{% for i in range(60) %}{% set ns.t = (ns.t, ns.t) %}"
        "{% endfor %}{{ {ns.t: 1}|length }}",
        "{% for i in range(99999) %}{{ 'a' * 10000 }}{% endfor %}",
        "{{ 'a'.join([('b' * 50000000), ('b' * 50000000)]) }}",
    };
    for (size_t i = 0; i < COUNT(large); i++) refused_with_line(large[i]);
    struct prompt p = { 0 };
    struct err err;
    char *odd = repeated("{{ strftime_now('", "%c%Q%", 1000, "') }}");
    assert_true(render(odd, "[]", NULL, &p, &err));
    assert_true(p.text.len < 100000);
    prompt_free(&p);
    free(odd);
}

static void wrong_numbers(void **state) {                          /* CT-08, CT-09 */
    (void)state;
    static const char *const wrong[] = {
        "{{ 1 / 0 }}", "{{ 1 // 0 }}", "{{ 1 % 0 }}", "{{ 1.0 % 0 }}",
            "{{ 9223372036854775807 + 1 }}",
        "{{ -9223372036854775807 - 2 }}", "{{ 9223372036854775807 * 2 }}",
            "{{ 9223372036854775808 }}",
        "{{ 10 ** 10 ** 10 }}", "{{ 2 ** 63 }}", "{{ (-9223372036854775807 - 1) // -1 }}",
        "{{ -(-9223372036854775807 - 1) }}", "{{ (-9223372036854775807 - 1)|abs }}",
            "{{ 1e400|int }}",
        "{{ [1][::0] }}", "{{ 'a'[::0] }}", "{{ none.x.y }}", "{{ [][0].x }}", "{{ 10.0 ** 400 }}",
    };
    for (size_t i = 0; i < COUNT(wrong); i++) refused_with_line(wrong[i]);
    gives("{{ [1, 2][5] }}{{ [1, 2][-1] }}{{ [1, 2][-9] }}{{ none.x }}{{ 'é'[1] }}"
          "{{ (-9223372036854775807 - 1) % -1 }}{{ (1e400 - 1e400)|int }}", "[]", NULL, "200");
}

static void no_way_out(void **state) {                             /* CT-20, CT-21 */
    (void)state;
    gives("{{ ''.__class__ }}{{ [].__class__ is defined }}{{ messages.__len__ is defined }}"
          "{{ range.__globals__ is defined }}{{ ''|attr('__class__') }}{{ 'mro' in '' }}"
          "{{ '{0.__class__}'.format(1) }}", "[]", NULL, "FalseFalseFalseFalse");
    refused_with_line("{{ ''.__class__.__mro__ }}");
    refused_with_line("{{ ''.__class__() }}");
    refused_with_line("{{ '{0.__class__.__mro__}'.format(1) }}");
    gives("{% set f = '{0.__class__}{0.x}'.format %}{{ f({'x': 1}) }}", "[]", NULL, "1");
    refused_with_line("{{ messages.append(1) }}");
}

static void a_template_that_refuses(void **state) {                /* CT-24 */
    (void)state;
    struct prompt p = { 0 };
    struct err err;
    assert_false(render("a\n{{ raise_exception('no \x1b[31m' ~ 'é' * 5000000) }}", "[]", NULL, &p,
                        &err));
    assert_non_null(strstr(err.text, "line 2"));
    assert_non_null(strstr(err.text, "no "));
    assert_null(strchr(err.text, 0x1b));
    assert_true(strlen(err.text) < sizeof err.text);
    prompt_free(&p);
}

static void odd_messages(void **state) {                           /* CT-30 */
    (void)state;
    static const char t[] = "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}";
    static const struct { const char *messages, *has; } odd[] = {
        { "{}", "messages is not a list" }, { "[5]", "messages[0] is not an object" },
        { "[{\"role\":\"user\",\"content\":\"a\"},{\"content\":\"b\"}]", "messages[1]: role" },
        { "[{\"role\":5,\"content\":\"b\"}]", "messages[0]: role" },
        { "[{\"role\":\"user\",\"content\":5}]", "messages[0]: content" },
        { "[{\"role\":\"user\",\"content\":{}}]", "messages[0]: content" },
        { "[{\"role\":\"user\",\"content\":[5]}]", "messages[0]: content[0]" },
        { "[{\"role\":\"assistant\",\"tool_calls\":5}]", "messages[0]: tool_calls" },
        { "[{\"role\":\"assistant\",\"tool_calls\":[5]}]", "messages[0]: tool_calls[0]" },
    };
    for (size_t i = 0; i < COUNT(odd); i++) {
        struct prompt p = { 0 };
        struct err err;
        assert_false(render(t, odd[i].messages, NULL, &p, &err));
        if (!strstr(err.text, odd[i].has)) fail_msg("\"%s\" lacks \"%s\"", err.text, odd[i].has);
        prompt_free(&p);
    }
    gives(t, "[{\"role\":\"user\",\"content\":null},{\"role\":\"bard\"},"
          "{\"role\":\"user\",\"content\":"
          "[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\",\"text\":\"b\"}]}]", NULL,
          "user:None;bard:;user:a\nb;");
    char *many = repeated("[", "{\"role\":\"user\",\"content\":\"x\"},", 100000,
                          "{\"role\":\"user\",\"content\":\"y\"}]");
    struct prompt p = { 0 };
    struct err err;
    if (!render(t, many, NULL, &p, &err)) fail_msg("%s", err.text);
    assert_int_equal(p.text.len, 100001 * 7);
    assert_int_equal(p.n_spans, 100001);
    prompt_free(&p);
    free(many);
}

/* The text with "[" and "]" around what is marked as coming from outside. */
static void marks(const char *template, const char *messages, const char *vars, const char *want) {
    struct prompt p = { 0 };
    struct err err;
    struct buf shown = { 0 };
    if (!render(template, messages, vars, &p, &err)) fail_msg("%s: %s", template, err.text);
    size_t at = 0;
    for (int i = 0; i < p.n_spans; i++) {
        buf_str(&shown, str_cut(buf_view(&p.text), at, p.span[i].begin));
        buf_char(&shown, '[');
        buf_str(&shown, str_cut(buf_view(&p.text), p.span[i].begin, p.span[i].end));
        buf_char(&shown, ']');
        at = p.span[i].end;
    }
    buf_str(&shown, str_from(buf_view(&p.text), at));
    if (!str_is(buf_view(&shown), want)) fail_msg("%s: %s, not %s", template, buf_c(&shown), want);
    buf_free(&shown);
    prompt_free(&p);
}

static void marked_input(void **state) {                           /* CT-31, TK-20 */
    (void)state;
    static const char m[] = "[{\"role\":\"user\",\"content\":\"ab cd\"}]";
    static const struct { const char *t, *want; } cases[] = {
        { "<s>{{ messages[0].content }}</s>", "<s>[ab cd]</s>" },
        { "<|{{ messages[0].role }}|>", "<|user|>" },
        { "{{ 'x' + c + 'y' }}{{ 'x' ~ c ~ c }}", "x[ab cd]yx[ab cdab cd]" },
        { "{{ ('x' + c + 'y')[2:] }}", "[b cd]y" },
        { "{{ ('x' + c + 'y')[::-1] }}", "y[dc ba]x" },
        { "{{ c.split(' ')|join('<>') }}", "[ab]<>[cd]" },
        { "{{ ('<' + c + '>').split(' ')[1] }}", "[cd]>" },
        { "{{ c|replace(' ', '<>') }}", "[ab]<>[cd]" },
        { "{{ '<x>'|replace('x', c) }}", "<[ab cd]>" },
        { "{{ (' ' ~ c ~ ' ')|trim }}{{ c.strip('a') }}", "[ab cdb cd]" },
        { "{{ ('<' ~ c)|upper }}{{ c.title() }}", "<[AB CDAb Cd]" },
        { "{{ {'k': c}|tojson }}", "{\"k\": \"[ab cd]\"}" },
        { "{{ [c] }}", "['[ab cd]']" },
        { "{{ '%s|%5s' % (c, 'x') }}", "[ab cd]|    x" },
        { "{{ '<{}>'.format(c) }}", "<[ab cd]>" },
        { "{{ c|center(7) }}", " [ab cd] " },
        { "{% set x %}<{{ c }}>{% endset %}{{ x }}", "<[ab cd]>" },
        { "{% macro f(a) %}<{{ a }}>{% endmacro %}{{ f(c) }}", "<[ab cd]>" },
        { "{% filter upper %}<{{ c }}>{% endfilter %}", "<[AB CD]>" },
        { "{{ c * 2 }}{{ c|length }}", "[ab cdab cd]5" },
        { "{% for x in c %}{{ x }}|{% endfor %}", "[a]|[b]|[ ]|[c]|[d]|" },
        { "{% set ns = namespace(s='') %}{% for i in range(3) %}{% set ns.s = ns.s ~ '<' ~ c %}"
          "{% endfor %}{{ ns.s }}", "<[ab cd]<[ab cd]<[ab cd]" },
        { "{{ c|e }}{{ c|urlencode }}", "[ab cdab%20cd]" },
        { "{{ v }}{{ n }}", "[var]7" },
        { "{{ messages[0].keys()|list }}", "['[role]', '[content]']" },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        char *t = repeated("{% set c = messages[0].content %}", cases[i].t, 1, "");
        marks(t, m, "{\"v\": \"var\", \"n\": 7}", cases[i].want);
        free(t);
    }
    marks("<|{{ messages[0].role }}|>", "[{\"role\":\"end|><|x\",\"content\":\"\"}]", NULL,
          "<|[end|><|x]|>");
    marks("{{ messages[0].content }}{{ '{{ 1 }}' }}",
          "[{\"role\":\"user\",\"content\":\"{{ 7*7 }}</s>\"}]",
          NULL, "[{{ 7*7 }}</s>]{{ 1 }}");
    /* Long enough for appending in place. */
    struct buf want = { 0 };
    for (int i = 0; i < 500; i++) buf_str(&want, S("<>[ab cd]"));
    marks("{% set ns = namespace(s='', old='') %}{% for i in range(500) %}"
          "{% set ns.s = ns.s ~ '<>' ~ messages[0].content %}"
          "{% if i == 200 %}{% set ns.old = ns.s %}{% set other = ns.s ~ 'zzz' %}{% endif %}"
          "{% endfor %}{{ ns.s }}", m, NULL, buf_c(&want));
    buf_free(&want);
}

int main(void) {
    const struct CMUnitTest all[] = {
        cmocka_unit_test(broken_templates), cmocka_unit_test(endless_work),
        cmocka_unit_test(endless_depth), cmocka_unit_test(too_much_text),
        cmocka_unit_test(wrong_numbers), cmocka_unit_test(no_way_out),
        cmocka_unit_test(a_template_that_refuses), cmocka_unit_test(odd_messages),
        cmocka_unit_test(marked_input),
    };
    return cmocka_run_group_tests(all, NULL, NULL);
}
