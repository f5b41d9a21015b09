/* test_config.c - typed reads: what is taken, what is refused, and that every refusal names
 * the file and the key. */
#include "spec/config.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static struct config *parse(const char *json) {
    struct err err = { 0 };
    struct config *c = cfg_parse(str_of(json), "config.json", &err);
    if (!c) fail_msg("%s", err.text);
    return c;
}

/* Closes c and checks that its sentence begins so. */
static void assert_failed(struct config *c, const char *sentence) {
    struct err err = { 0 };
    assert_false(cfg_ok(c, &err));
    if (strncmp(err.text, sentence, strlen(sentence)))
        fail_msg("got \"%s\", wanted \"%s\"", err.text, sentence);
    cfg_close(c);
}

static void assert_fine(struct config *c) {
    struct err err = { 0 };
    if (!cfg_ok(c, &err)) fail_msg("%s", err.text);
    cfg_close(c);
}

static void reads_values(void **state) {
    (void)state;
    struct config *c = parse("{\"a\": 7, \"b\": {\"x\": 0.5, \"y\": null}, \"s\": \"silu\", "
                             "\"t\": true, \"f\": 4096.0, \"big\": 1e6, \"n\": -3}");
    assert_int_equal(cfg_int(c, "a", REQUIRED), 7);
    assert_int_equal(cfg_int(c, "f", REQUIRED), 4096);
    assert_int_equal(cfg_int(c, "absent", -1), -1);
    assert_int_equal(cfg_int_in(c, "n", 0, -5, 5), -3);
    assert_float_equal(cfg_num(c, "b.x", REQUIRED), 0.5, 0);
    assert_float_equal(cfg_num(c, "a", REQUIRED), 7, 0);
    assert_float_equal(cfg_num(c, "big", 0), 1e6, 0);
    assert_float_equal(cfg_num(c, "b.y", 2.5f), 2.5, 0);
    assert_true(cfg_bool(c, "t", false));
    assert_true(cfg_bool(c, "absent", true));
    assert_true(str_is(cfg_str(c, "s", NULL), "silu"));
    assert_true(str_is(cfg_str(c, "absent", "gelu"), "gelu"));
    assert_int_equal(cfg_str(c, "absent", NULL).len, 0);
    assert_true(cfg_has(c, "b.x"));
    assert_false(cfg_has(c, "b.y"));
    assert_false(cfg_has(c, "a.x"));
    assert_fine(c);
}

static void takes_the_first_alternative(void **state) {
    (void)state;
    struct config *c = parse("{\"rope_parameters\": {\"rope_theta\": null, \"kind\": \"new\"}, "
                             "\"rope_theta\": 10000, \"kind\": \"old\"}");
    assert_float_equal(cfg_num(c, "rope_parameters.rope_theta|rope_theta", REQUIRED), 10000, 0);
    assert_true(str_is(cfg_str(c, "rope_parameters.kind|kind", NULL), "new"));
    assert_true(str_is(cfg_str(c, "none|kind|rope_parameters.kind", NULL), "old"));
    assert_fine(c);
}

static void reads_lists(void **state) {
    (void)state;
    struct config *c = parse("{\"l\": [1, 2.5, \"x\"], \"n\": 3}");
    assert_int_equal(cfg_len(c, "l"), 3);
    assert_int_equal(cfg_len(c, "n"), -1);
    assert_int_equal(cfg_len(c, "absent"), -1);
    assert_int_equal(cfg_int_at(c, "l", 0), 1);
    assert_float_equal(cfg_num_at(c, "l", 1), 2.5, 0);
    assert_true(str_is(cfg_str_at(c, "l", 2), "x"));
    assert_fine(c);
}

static void shares_one_error_with_subs(void **state) {
    (void)state;
    struct config *c = parse("{\"text\": {\"hidden\": -1, \"deep\": {\"x\": 1}}, \"y\": 2}");
    struct config *text = cfg_sub(c, "text");
    assert_ptr_equal(text, cfg_sub(c, "text"));
    assert_ptr_equal(cfg_sub(c, "absent"), c);
    assert_int_equal(cfg_int(cfg_sub(text, "deep"), "x", REQUIRED), 1);
    assert_int_equal(cfg_int(text, "y", 5), 5);
    cfg_int(text, "hidden", REQUIRED);
    cfg_fail(c, "a later failure");
    assert_failed(c, "config.json: text.hidden is -1, but must be a whole number from 0 to");
}

enum read { READ_INT, READ_NUM, READ_INF, READ_BOOL, READ_STR, READ_SUB, READ_INT_AT, READ_ONLY };
static const struct { const char *json; enum read read; const char *path, *sentence; } refused[] = {
    { "{}", READ_INT, "a|b", "config.json: the key a/b is missing" },
    { "{}", READ_NUM, "a", "config.json: the key a is missing" },
    { "{\"a\": null}", READ_INT, "a", "config.json: the key a is missing" },
    { "{\"a\": 1.5}", READ_INT, "a", "config.json: a is 1.5, but" },
    { "{\"a\": \"4096\"}", READ_INT, "a", "config.json: a is \"4096\", but must be a whole" },
    { "{\"a\": true}", READ_INT, "a", "config.json: a is true, but" },
    { "{\"a\": [1]}", READ_INT, "a", "config.json: a is [1], but" },
    { "{\"a\": -1}", READ_INT, "a", "config.json: a is -1, but" },
    { "{\"a\": 2147483648}", READ_INT, "a", "config.json: a is 2147483648, but" },
    { "{\"a\": 4611686018427387904}", READ_INT, "a", "config.json: a is 4611686018427387904, but" },
    { "{\"a\": 99999999999999999999999}", READ_INT, "a", "config.json: a is" },
    { "{\"a\": NaN}", READ_INT, "a", "config.json: a is NaN, but" },
    { "{\"a\": NaN}", READ_NUM, "a", "config.json: a is NaN, but" },
    { "{\"a\": Infinity}", READ_NUM, "a", "config.json: a is Infinity, but must be a finite" },
    { "{\"a\": 1e400}", READ_NUM, "a", "config.json: a is" },
    { "{\"a\": 1e308}", READ_NUM, "a", "config.json: a is" },
    { "{\"a\": \"1\"}", READ_NUM, "a", "config.json: a is \"1\", but" },
    { "{\"a\": {\"__float__\": \"Infinity\"}}", READ_NUM, "a", "config.json: a is {" },
    { "{\"a\": {\"__float__\": \"NaN\"}}", READ_INF, "a", "config.json: a is {" },
    { "{\"a\": {\"__float__\": \"Infinity\", \"b\": 1}}", READ_INF, "a", "config.json: a is {" },
    { "{\"a\": NaN}", READ_INF, "a", "config.json: a is NaN" },
    { "{\"a\": 1}", READ_BOOL, "a", "config.json: a is 1, but must be true or false" },
    { "{\"a\": 1}", READ_STR, "a", "config.json: a is 1, but must be a string" },
    { "{\"a\": 1}", READ_SUB, "a", "config.json: a is 1, but must be an object" },
    { "{\"a\": [1]}", READ_INT_AT, "a", "config.json: a has 1 entries, but entry 1 is needed" },
    { "{\"a\": [1, null]}", READ_INT_AT, "a", "config.json: a[1] is null" },
    { "{\"a\": [1, \"x\"]}", READ_INT_AT, "a", "config.json: a[1] is \"x\"" },
    { "{\"a\": 1}", READ_INT_AT, "a", "config.json: a is 1, but must be a list" },
    { "{}", READ_INT_AT, "a", "config.json: the key a is missing" },
    { "{\"a\": \"odd\"}", READ_ONLY, "a", "config.json: a is \"odd\"; only usual is supported" },
    { "{\"a\": 3}", READ_ONLY, "a", "config.json: a is 3; only usual is supported" },
    { "{\"a\": \"usual\\u0000\"}", READ_ONLY, "a", "config.json: a is" },
};

static void refuses_values(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(refused); i++) {
        struct config *c = parse(refused[i].json);
        const char *path = refused[i].path;
        switch (refused[i].read) {
        case READ_INT:    cfg_int(c, path, REQUIRED); break;
        case READ_NUM:    cfg_num(c, path, REQUIRED); break;
        case READ_INF:    cfg_inf(c, path, REQUIRED); break;
        case READ_BOOL:   cfg_bool(c, path, false); break;
        case READ_STR:    cfg_str(c, path, NULL); break;
        case READ_SUB:    cfg_sub(c, path); break;
        case READ_INT_AT: cfg_int_at(c, path, 1); break;
        case READ_ONLY:   cfg_only(c, path, "usual"); break;
        }
        assert_failed(c, refused[i].sentence);
    }
}

static void reads_infinity_where_asked(void **state) {
    (void)state;
    struct config *c = parse("{\"a\": {\"__float__\": \"Infinity\"}, \"b\": Infinity, \"c\": 2}");
    assert_true(isinf(cfg_inf(c, "a", 0)));
    assert_true(isinf(cfg_inf(c, "b", 0)));
    assert_float_equal(cfg_inf(c, "c", 0), 2, 0);
    cfg_only(c, "c", "2");
    cfg_only(c, "absent", "x");
    assert_fine(c);
}

static const struct { const char *json, *sentence; } bad[] = {
    { "", "config.json: not valid JSON" },
    { "[]", "config.json: not valid JSON" },
    { "7", "config.json: not valid JSON" },
    { "{", "config.json: not valid JSON" },
    { "{\"a\": 1} x", "config.json: not valid JSON" },
    { "{\"a\": 01}", "config.json: not valid JSON" },
    { "{'a': 1}", "config.json: not valid JSON" },
    { "{\"a\": /* c */ 1}", "config.json: not valid JSON" },
    { "{\"a\": \"\xff\"}", "config.json: not valid JSON: invalid UTF-8" },
    { "{\"a\": 1, \"b\": 2, \"a\": 1}", "config.json: duplicate key \"a\" at byte" },
    { "{\"x\": [{\"a\": 1}, {\"a\": 1, \"\\u0061\": 2}]}", "config.json: duplicate key \"a\"" },
    { "{\"a\\u0000b\": 1}", "config.json: NUL in a key \"a\"" },
};

static void refuses_bad_json(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(bad); i++) {
        struct err err = { 0 };
        struct config *c = cfg_parse(str_of(bad[i].json), "config.json", &err);
        if (c) fail_msg("taken: %s", bad[i].json);
        if (strncmp(err.text, bad[i].sentence, strlen(bad[i].sentence)))
            fail_msg("%s: got \"%s\"", bad[i].json, err.text);
    }
}

/* n opening brackets and as many closing ones, as the value of a key. */
static bool nests(int n) {
    struct buf b = { 0 };
    struct err err = { 0 };
    buf_str(&b, S("{\"a\":"));
    for (int i = 0; i < n; i++) buf_str(&b, i % 2 ? S("{\"b\":") : S("["));
    buf_char(&b, '1');
    for (int i = n; i-- > 0;) buf_char(&b, i % 2 ? '}' : ']');
    buf_char(&b, '}');
    struct config *c = cfg_parse(buf_view(&b), "config.json", &err);
    cfg_close(c);
    buf_free(&b);
    if (!c) assert_non_null(strstr(err.text, "deep"));
    return c != NULL;
}

static void bounds_the_depth(void **state) {
    (void)state;
    assert_true(nests(20));
    assert_true(nests(63));
    assert_false(nests(64));
    assert_false(nests(100000));
}

static void refuses_files(void **state) {
    (void)state;
    struct err err = { 0 };
    assert_null(cfg_open("/nonexistent/config.json", &err));
    assert_non_null(strstr(err.text, "/nonexistent/config.json"));
    err = (struct err){ 0 };
    assert_null(cfg_open("/tmp", &err));
    assert_non_null(strstr(err.text, "/tmp"));
    size_t n = (16u << 20) + 1;
    char *big = mem_new(n);
    memset(big, ' ', n);
    memcpy(big, "{}", 2);
    err = (struct err){ 0 };
    assert_null(cfg_parse((struct str){ big, n }, "config.json", &err));
    assert_non_null(strstr(err.text, "16 MiB"));
    struct config *c = cfg_parse((struct str){ big, n - 1 }, "config.json", &err);
    assert_non_null(c);
    cfg_close(c);
    free(big);
}

static void note(void *to, struct str path) {
    buf_str(to, path);
    buf_char(to, ' ');
}

static void lists_unread_keys(void **state) {
    (void)state;
    struct config *c = parse(
        "{\"architectures\": [\"X\"], \"hidden_dropout\": 0.1, \"use_cache\": true, \"read\": 1, "
        "\"odd\": 2, \"nil\": null, \"sub\": {\"read\": 1, \"odd\": 2, \"torch_dtype\": \"f\"}, "
        "\"alt\": 3, \"other\": 4, \"list\": [1], \"inf\": {\"__float__\": \"Infinity\"}, "
        "\"empty\": {}, \"new\": {\"a\": {\"b\": 1}}, \"old\": {\"a\": {\"b\": 1}}, "
        "\"older\": {\"a\": {\"b\": 2}}}");
    cfg_int(c, "read", 0);
    cfg_int(c, "alt|other", 0);
    cfg_int(cfg_sub(c, "new|old|older"), "a.b", 0);      /* old repeats new, older does not */
    cfg_int(cfg_sub(c, "sub"), "read", 0);
    cfg_inf(c, "inf", 0);
    struct buf names = { 0 };
    cfg_unread(cfg_sub(c, "sub"), note, &names);
    assert_string_equal(buf_c(&names), "odd sub.odd list empty older.a.b ");
    buf_free(&names);
    assert_fine(c);
}

static void note_member(void *to, struct str key, struct config *value) {
    buf_format(to, "%.*s=%d/%d ", STR_ARG(key), cfg_int(value, "bits", -1),
               cfg_len(value, ""));
}

static void visits_members(void **state) {
    (void)state;
    struct config *c = parse("{\"q\": {\"a.b\": {\"bits\": 4}, \"c\": [1, 2], \"d\": null}}");
    struct buf text = { 0 };
    cfg_each(c, "q", note_member, &text);
    cfg_each(c, "absent", note_member, &text);
    assert_string_equal(buf_c(&text), "a.b=4/-1 c=-1/2 d=-1/-1 ");
    buf_clear(&text);
    cfg_unread(c, note, &text);
    assert_string_equal(buf_c(&text), "");
    buf_free(&text);
    assert_fine(c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_values),
        cmocka_unit_test(takes_the_first_alternative),
        cmocka_unit_test(reads_lists),
        cmocka_unit_test(shares_one_error_with_subs),
        cmocka_unit_test(refuses_values),
        cmocka_unit_test(reads_infinity_where_asked),
        cmocka_unit_test(refuses_bad_json),
        cmocka_unit_test(bounds_the_depth),
        cmocka_unit_test(refuses_files),
        cmocka_unit_test(lists_unread_keys),
        cmocka_unit_test(visits_members),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
