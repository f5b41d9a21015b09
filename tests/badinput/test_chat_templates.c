/* test_chat_templates.c - hostile templates and odd dialogs: each ends as its row of the catalogue
 * says, CT-xx. All of them run on a small stack, as nothing may recurse with its input. */
#include "../maker.h"
#include "prompt/prompt.h"
#include <json-c/json.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

enum { STACK = SANITIZED ? 16 << 20 : 768 << 10 };

static const char M[] = "[{\"role\":\"user\",\"content\":\"hi\"}]";
static const char ROLES[] = "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}";
#define LINE "chat template line "

/* The template is before, part as often as said, after; so are the messages of rows without one. */
struct row {
    const char *id, *before, *part, *after;
    size_t times;
    const char *messages, *vars;     /* NULL: M, none */
    const char *refused;             /* part of the sentence; NULL: it renders */
    const char *out;                 /* NULL: whatever, at most `most` bytes */
    size_t most;
};

#define BAD(id, t, has) { id, t, "", "", 0, NULL, NULL, has, NULL, 0 }
#define DEEP(id, before, part, after) { id, before, part, after, 50000, NULL, NULL, LINE, NULL, 0 }
#define FINE(id, t, vars, out) { id, t, "", "", 0, NULL, vars, NULL, out, 0 }
#define TALK(id, messages, has) { id, ROLES, "", "", 0, messages, NULL, has, NULL, 0 }

static const struct row rows[] = {
    /* Broken or of an odd size. */
    BAD("CT-01", "", "chat template: it is empty"),
    { "CT-01", "", "0123456789abcdef", "", 1 << 20, NULL, NULL, "bytes, more than", NULL, 0 },
    BAD("CT-01", "a\nb\xFF", LINE "2: it is not valid UTF-8"),
    BAD("CT-01", "a\n{% if 1 %}", LINE "2"), BAD("CT-01", "a\n\n{# x", LINE "3, column 1"),
    BAD("CT-01", "{% raw %}x", LINE "1, column 1: a raw block is not closed"),
    BAD("CT-01", "{% nope %}", LINE "1, column 4: unknown statement \"nope\""),
    BAD("CT-01", "{{ 1|nope }}", LINE "1, column 6: there is no filter \"nope\""),
    BAD("CT-01", "{{ 1 is nope }}", LINE "1, column 9: there is no test \"nope\""),
    BAD("CT-01", "{{ 1", LINE), BAD("CT-01", "{{ 'a", LINE "1, column 4: a string is not closed"),
    BAD("CT-01", "ok\n  {{ 1 + }}", LINE "2, column 10: an expression expected"),
    BAD("CT-01", "{% for x in y %}{% endif %}", LINE), BAD("CT-01", "{% endfor %}", LINE),

    BAD("CT-02", "\n{% for i in range(1000000000) %}{% endfor %}", LINE "2, column 18: a range of"),
    BAD("CT-02", "{% for i in range(0, 1000000000000000000, 1) %}{% endfor %}", "a range of more"),
    BAD("CT-02", "{% for i in range(0, 5, 0) %}{% endfor %}", "the step cannot be zero"),
    FINE("CT-02", "{{ range(5, 0)|list }}{{ range(-9223372036854775807, 9223372036854775807, "
         "9223372036854775807)|list|length }}{{ range(3, 0, -2)|list }}", NULL, "[]2[3, 1]"),

    { "CT-03", "", "{% for i in range(100) %}", "{% endfor %}{% endfor %}{% endfor %}{% endfor %}"
      "{% endfor %}{% endfor %}{% endfor %}{% endfor %}{% endfor %}{% endfor %}", 10, NULL, NULL,
      "too many steps", NULL, 0 },

    BAD("CT-04", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "nested too deeply"),
    BAD("CT-04", "{% macro f() %}{{ g() }}{% endmacro %}{% macro g() %}{{ f() }}{% endmacro %}"
        "{{ f() }}", "nested too deeply"),
    BAD("CT-04", "{% for x in [1] recursive %}{{ loop([x]) }}{% endfor %}", "nested too deeply"),
    BAD("CT-04", "{% macro f() %}{{ caller }}{% call f() %}{% endcall %}{% endmacro %}{{ f() }}",
        "nested too deeply"),

    DEEP("CT-05", "{{ ", "(", ""), DEEP("CT-05", "{{ ", "[", ""), DEEP("CT-05", "{{ ", "{1:", ""),
    DEEP("CT-05", "{{ ", "-", "1 }}"), DEEP("CT-05", "{{ ", "not ", "1 }}"),
    DEEP("CT-05", "", "{% if 1 %}", ""), DEEP("CT-05", "", "{% for x in y %}", ""),
    DEEP("CT-05", "{{ 1", "|abs", " }}"), DEEP("CT-05", "{{ ''", " + ''", " }}"),
    DEEP("CT-05", "{{ 1", " ** 1", " }}"), DEEP("CT-05", "{{ a", ".b", " }}"),
    DEEP("CT-05", "{{ a", "[0]", " }}"), DEEP("CT-05", "{{ a", "()", " }}"),
    DEEP("CT-05", "{{ 1", " if 1 else 1", " }}"), DEEP("CT-05", "{{ 1", " is odd", " }}"),
    DEEP("CT-05", "{{ 1", " < 1", " }}"), DEEP("CT-05", "{{ 1", " and 1", " }}"),
    DEEP("CT-05", "{% set ", "(", ""), DEEP("CT-05", "", "{% filter upper %}", ""),
    DEEP("CT-05", "{{ f(", "f(", ""), DEEP("CT-05", "", "{% block a %}", ""),
    DEEP("CT-05", "", "{% macro f() %}", ""), DEEP("CT-05", "{% print 1", "|abs", " %}"),
    /* These are lists to the parser, and so have no depth. */
    { "CT-05", "{{ ('x'", " ~ 'a'", ")|length }}", 50000, NULL, NULL, NULL, "50001", 0 },
    { "CT-05", "{% if 0 %}", "{% elif 0 %}", "{% else %}x{% endif %}", 20000, NULL, NULL, NULL, "x",
      0 },
    { "CT-05", "{{ [", "1,", "]|length }}", 50000, NULL, NULL, NULL, "50000", 0 },

    BAD("CT-06", "{% set ns = namespace(s='ab') %}{% for i in range(99) %}"
        "{% set ns.s = ns.s ~ ns.s %}{% endfor %}", LINE),
    BAD("CT-06", "{% set ns = namespace(s='ab') %}{% for i in range(99) %}"
        "{% set ns.s = ns.s + ns.s %}{% endfor %}", LINE),
    BAD("CT-06", "{{ 'a' * 1000000000 }}", LINE), BAD("CT-06", "{{ [1] * 1000000000 }}", LINE),
    BAD("CT-06", "{{ 9223372036854775807 * 'ab' }}", LINE),
    BAD("CT-06", "{{ ('a' * 60000)|replace('a', 'b' * 60000) }}", LINE),
    BAD("CT-06", "{{ ('a' * 60000).replace('', 'b' * 60000) }}", LINE),
    BAD("CT-06", "{{ range(99999)|join('b' * 60000) }}", LINE),
    BAD("CT-06", "{{ ('\\n' * 60000)|indent(60000, blank=true) }}", LINE),
    BAD("CT-06", "{{ 'a'|center(1000000000) }}", LINE),
    BAD("CT-06", "{{ 'a'.ljust(1000000000) }}", LINE),
    BAD("CT-06", "{{ 'a'.zfill(1000000000) }}", LINE),
    BAD("CT-06", "{{ [1]|batch(1000000000, 'x')|list }}", LINE),
    BAD("CT-06", "{{ [1]|slice(1000000000)|list }}", LINE),
    BAD("CT-06", "{{ [1]|tojson(indent=1000000000) }}", LINE),
    BAD("CT-06", "{{ ('a' * 9999999).strip('b' * 9999999 ~ 'a') }}", LINE),
    BAD("CT-06", "{{ ('a' * 9999999).rfind('b' ~ 'a' * 999999) }}", LINE),
    BAD("CT-06", "{{ ('a' * 9999999).rpartition('b' ~ 'a' * 999999) }}", LINE),
    BAD("CT-06", "{{ ('a' * 9999999).translate({97: 'b' * 99999}) }}", LINE),
    BAD("CT-06", "{{ ('a ' * 9999999)|wordwrap(1, wrapstring='b' * 99999) }}", LINE),
    BAD("CT-06", "{{ ('a\\t' * 9999).expandtabs(1000000000) }}", LINE),
    BAD("CT-06", "{% set ns = namespace(t=(1,)) %}{% for i in range(60) %}"
        "{% set ns.t = (ns.t, ns.t) %}{% endfor %}{{ {ns.t: 1}|length }}", LINE),
    BAD("CT-06", "{% for i in range(99999) %}{{ 'a' * 10000 }}{% endfor %}", LINE),
    BAD("CT-06", "{{ 'a'.join([('b' * 50000000), ('b' * 50000000)]) }}", LINE),

    BAD("CT-07", "{% set ns = namespace(a=[1]) %}{% for i in range(99999) %}"
        "{% set ns.a = ns.a + ns.a %}{% endfor %}", "too "),
    BAD("CT-07", "{% for i in range(99999) %}{% for j in range(99999) %}{{ 'x' * 1000 }}"
        "{% endfor %}{% endfor %}", LINE "1"),
    BAD("CT-07", "{% set ns = namespace() %}{% set ns.ns = ns %}{{ ns }}", "nested too deeply"),
    BAD("CT-07", "{% set ns = namespace() %}{% set ns.f = [ns] %}{% for x in ns.f recursive %}"
        "{{ loop(x.f) }}{% endfor %}", "nested too deeply"),

    BAD("CT-08", "{{ 1 / 0 }}", LINE "1, column 6: division by zero"), BAD("CT-08", "{{ 1 // 0 }}",
        LINE), BAD("CT-08", "{{ 1 % 0 }}", LINE), BAD("CT-08", "{{ 1.0 % 0 }}", LINE),
    BAD("CT-08", "{{ 1.0 / 0 }}", LINE), BAD("CT-08", "{{ 0 ** -1 }}", LINE),
    BAD("CT-08", "{{ 9223372036854775807 + 1 }}", "an integer beyond 64 bits"),
    BAD("CT-08", "{{ -9223372036854775807 - 2 }}", "an integer beyond 64 bits"),
    BAD("CT-08", "{{ 9223372036854775807 * 2 }}", "an integer beyond 64 bits"),
    BAD("CT-08", "{{ 9223372036854775808 }}", "an integer beyond 64 bits"),
    BAD("CT-08", "{{ 10 ** 10 ** 10 }}", LINE), BAD("CT-08", "{{ 2 ** 63 }}", LINE),
    BAD("CT-08", "{{ (-9223372036854775807 - 1) // -1 }}", LINE),
    BAD("CT-08", "{{ -(-9223372036854775807 - 1) }}", LINE),
    BAD("CT-08", "{{ (-9223372036854775807 - 1)|abs }}", LINE),
    BAD("CT-08", "{{ 1e400|int }}", LINE), BAD("CT-08", "{{ 10.0 ** 400 }}", LINE),
    FINE("CT-08", "{{ (-9223372036854775807 - 1) % -1 }}{{ (1e400 - 1e400)|int }}", NULL, "00"),

    BAD("CT-09", "{{ [1][::0] }}", "a slice's step cannot be zero"),
    BAD("CT-09", "{{ 'a'[::0] }}", LINE), BAD("CT-09", "{{ none.x.y }}", LINE),
    BAD("CT-09", "{{ [][0].x }}", LINE), BAD("CT-09", "{{ nope.x }}", "'nope' is undefined"),
    FINE("CT-09", "{{ [1, 2][5] }}{{ [1, 2][-1] }}{{ [1, 2][-9] }}{{ none.x }}{{ 'é'[1] }}"
         "{{ [1, 2, 3][9:] }}{{ 'abc'[-9:2] }}", NULL, "2[]ab"),

    BAD("CT-10", "{% include 'a' %}", "is not supported: a chat template stands alone"),
    BAD("CT-10", "{% import 'a' as b %}", "is not supported"),
    BAD("CT-10", "{% from 'a' import b %}", "is not supported"),
    BAD("CT-10", "\n{% extends 'a' %}", LINE "2, column 4: {% extends %} is not supported"),

    /* Nothing leads out of the data. */
    FINE("CT-20", "{{ ''.__class__ }}{{ [].__class__ is defined }}{{ messages.__len__ is defined }}"
         "{{ range.__globals__ is defined }}{{ ''|attr('__class__') }}{{ ''['__class__'] }}"
         "{{ {}['mro'] }}{{ self is defined }}{{ cycler.__init__ }}{{ (1).__class__ }}", NULL,
         "FalseFalseFalseFalse"),
    BAD("CT-20", "{{ ''.__class__.__mro__ }}", LINE), BAD("CT-20", "{{ ''.__class__() }}", LINE),
    BAD("CT-20", "{{ range.__globals__.x }}", LINE), BAD("CT-20", "{{ messages.append(1) }}", LINE),
    BAD("CT-20", "{{ [1]|map(attribute='__class__.__mro__')|list }}", LINE),
    BAD("CT-20", "{{ namespace(__class__=1) }}", "cannot start with '_'"),
    BAD("CT-20", "{% set n = namespace() %}{% set n._x = 1 %}", "cannot start with '_'"),
    FINE("CT-20", "{% set f = '{0.__class__}{0.x}'.format %}{{ f({'x': 1}) }}", NULL, "1"),

    BAD("CT-21", "{{ '{0.__class__.__mro__}'.format(1) }}", LINE),
    FINE("CT-21", "{{ '{0.__class__}'.format(1) }}", NULL, ""),
    BAD("CT-21", "{{ '%1000000000d' % 1 }}", LINE), BAD("CT-21", "{{ '%.1000000000f' % 1 }}", LINE),
    BAD("CT-21", "{{ '{:1000000000}'.format(1) }}", LINE),
    BAD("CT-21", "{{ '{:{}}'.format(1, 1000000000) }}", LINE),
    { "CT-21", "{{ '{:", "{:", "'.format(1) }}", 50000, NULL, NULL, LINE, NULL, 0 },

    { "CT-22", "{{ strftime_now('", "%c%Q%", "') }}", 1000, NULL, NULL, NULL, NULL, 100000 },
    { "CT-22", "{{ strftime_now('", "%", "') }}", 1001, NULL, NULL, NULL, NULL, 2000 },
    BAD("CT-22", "{{ strftime_now(5) }}", LINE),

    BAD("CT-23", "{% set ns = namespace(n=[1]) %}{% for i in range(9999) %}{% set ns.n = [ns.n] %}"
        "{% endfor %}{{ ns.n|tojson }}", "nested too deeply"),
    BAD("CT-23", "{% set ns = namespace(n=[1], m=[1]) %}{% for i in range(9999) %}"
        "{% set ns.n = [ns.n] %}{% set ns.m = [ns.m] %}{% endfor %}{{ ns.n == ns.m }}",
        "nested too deeply"),
    BAD("CT-23", "{{ {(1, 2): 3}|tojson }}", LINE), BAD("CT-23", "{{ nope|tojson }}", LINE),
    /* As the runner of transformers: NaN by name, and nothing escaped for HTML. */
    FINE("CT-23", "{{ [1e400 - 1e400, 1e400, '</script>\\u0001\"']|tojson }}", NULL,
         "[NaN, Infinity, \"</script>\\u0001\\\"\"]"),

    BAD("CT-24", "a\n{{ raise_exception('no ' ~ 'é' * 5000000) }}",
        LINE "2, column 19: the template refuses this dialog: no é"),
    BAD("CT-24", "{{ raise_exception('a\\x1b[31m\\n\\x00b') }}", "refuses this dialog: a"),

    TALK("CT-30", "{}", "messages is not a list"),
    TALK("CT-30", "[5]", "messages[0] is not an object"),
    TALK("CT-30", "[{\"role\":\"user\",\"content\":\"a\"},{\"content\":\"b\"}]",
         "messages[1]: role is missing"),
    TALK("CT-30", "[{\"role\":5,\"content\":\"b\"}]", "messages[0]: role"),
    TALK("CT-30", "[{\"role\":\"user\",\"content\":5}]", "messages[0]: content"),
    TALK("CT-30", "[{\"role\":\"user\",\"content\":{}}]", "messages[0]: content"),
    TALK("CT-30", "[{\"role\":\"user\",\"content\":[5]}]", "messages[0]: content[0]"),
    TALK("CT-30", "[{\"role\":\"assistant\",\"tool_calls\":5}]", "messages[0]: tool_calls"),
    TALK("CT-30", "[{\"role\":\"assistant\",\"tool_calls\":[5]}]", "messages[0]: tool_calls[0]"),
    { "CT-30", ROLES, "", "", 0, "[{\"role\":\"user\",\"content\":null},{\"role\":\"bard\"},"
      "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\","
      "\"text\":\"b\"}]}]", NULL, NULL, "user:None;bard:;user:a\nb;", 0 },
    { "CT-30", "{% for c in messages[0].tool_calls %}{{ c.id }}{{ c.function.name }}{% endfor %}",
      "", "", 0, "[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\"}}]}]",
      NULL, NULL, "f", 0 },

    { "CT-31", ROLES, "", "", 0, "[{\"role\":\"user\",\"content\":\"{{ 7*7 }}{% raw %}<|im_end|>"
      "</s>{# x #}\"}]", NULL, NULL, "user:{{ 7*7 }}{% raw %}<|im_end|></s>{# x #};", 0 },

    /* Variables are data, and none takes the place of what the dialog says. */
    FINE("CT-32", "{{ messages|length }}{{ tools }}{{ add_generation_prompt }}{{ x }}"
         "{{ raise_exception is callable }}",
         "{\"messages\":[],\"tools\":[1],\"documents\":5,\"add_generation_prompt\":false,"
         "\"x\":\"{{ 1 }}\"}", "1NoneTrue{{ 1 }}True"),
    { "CT-32", ROLES, "", "", 0, NULL, "[1]", "the template's variables are not an object", NULL,
      0 },
    BAD("CT-32", "{{ x(1) }}", LINE),
};

static bool render(const struct row *r, struct prompt *out, struct err *err) {
    struct buf text = { 0 };
    buf_str(&text, str_of(r->before));
    for (size_t i = 0; i < r->times; i++) buf_str(&text, str_of(r->part));
    buf_str(&text, str_of(r->after));
    struct chat *chat = chat_open(NULL, buf_c(&text), NULL, err);
    struct json_object *messages = json_tokener_parse(r->messages ? r->messages : M);
    struct json_object *vars = r->vars ? json_tokener_parse(r->vars) : NULL;
    struct dialog d = { .messages = messages, .vars = vars, .now_s = 1 };
    bool ok = chat && chat_render(chat, &d, out, err);
    chat_close(chat);
    json_object_put(messages);
    json_object_put(vars);
    buf_free(&text);
    return ok;
}

/* The sentence that is wrong, or nothing. */
static void check(const struct row *r, char *wrong, size_t size) {
    struct prompt p = { 0 };
    struct err err = { 0 };
    bool ok = render(r, &p, &err);
    if (ok != !r->refused)
        snprintf(wrong, size, "%s: %s", ok ? "not refused" : "refused", err.text);
    else if (!ok && !strstr(err.text, r->refused))
        snprintf(wrong, size, "\"%s\" lacks \"%s\"", err.text, r->refused);
    else if (!ok && (strchr(err.text, '\x1b') || strchr(err.text, '\n') || p.text.len))
        snprintf(wrong, size, "control characters in \"%s\", or text beside it", err.text);
    else if (ok && r->out && !str_is(buf_view(&p.text), r->out))
        snprintf(wrong, size, "\"%.200s\" for \"%s\"", buf_c(&p.text), r->out);
    else if (ok && r->most && p.text.len > r->most)
        snprintf(wrong, size, "%zu bytes", p.text.len);
    prompt_free(&p);
}

static void *check_all(void *failures) {
    for (size_t i = 0; i < COUNT(rows); i++) {
        char wrong[1024] = "";
        check(&rows[i], wrong, sizeof wrong);
        if (!wrong[0]) continue;
        print_message("%s: %.100s...: %s\n", rows[i].id, rows[i].before, wrong);
        ++*(int *)failures;
    }
    return NULL;
}

static void every_row(void **state) {
    (void)state;
    pthread_t thread;
    pthread_attr_t small;
    int failures = 0;
    assert_int_equal(pthread_attr_init(&small), 0);
    assert_int_equal(pthread_attr_setstacksize(&small, STACK), 0);
    assert_int_equal(pthread_create(&thread, &small, check_all, &failures), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    pthread_attr_destroy(&small);
    assert_int_equal(failures, 0);
}

static void every_id(void **state) {
    (void)state;
    static const int ids[] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 20, 21, 22, 23, 24, 30, 31, 32 };
    for (size_t i = 0; i < COUNT(ids); i++) {
        char id[16];
        size_t n = 0;
        snprintf(id, sizeof id, "CT-%02d", ids[i]);
        for (size_t k = 0; k < COUNT(rows); k++) n += !strcmp(rows[k].id, id);
        if (!n) fail_msg("%s has no row", id);
    }
}

/* CT-30: as many messages as a request may hold. */
static void many_messages(void **state) {
    (void)state;
    enum { N = 100000 };
    struct json_object *messages = json_object_new_array();
    for (int i = 0; i < N; i++)
        json_object_array_add(messages,
                              json_tokener_parse("{\"role\":\"user\",\"content\":\"x\"}"));
    struct err err = { 0 };
    struct prompt p = { 0 };
    struct chat *chat = chat_open(NULL, ROLES, NULL, &err);
    struct dialog d = { .messages = messages };
    if (!chat || !chat_render(chat, &d, &p, &err)) fail_msg("%s", err.text);
    assert_int_equal(p.text.len, N * strlen("user:x;"));
    assert_int_equal(p.n_spans, N);
    prompt_free(&p);
    chat_close(chat);
    json_object_put(messages);
}

int main(void) {
    const struct CMUnitTest all[] = {
        cmocka_unit_test(every_row), cmocka_unit_test(every_id), cmocka_unit_test(many_messages),
    };
    return cmocka_run_group_tests(all, NULL, NULL);
}
