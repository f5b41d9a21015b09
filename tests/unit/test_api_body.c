/* test_api_body.c - which bodies are taken, which are refused and with what words, and the typed
 * readers of fields. Rows JS-01 to JS-08 of the catalogue. */
#include "api/body.h"
#include "base/buf.h"

#include <json-c/json.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static const struct { const char *text; size_t len; const char *words; } bad[] = {
#define BAD(text, words) { text, sizeof(text) - 1, words }
    BAD("", "no body"),
    BAD(" \n\t ", "no body"),
    BAD("nul", "at byte 0"),
    BAD("null", "must be a JSON object"),
    BAD("[]", "must be a JSON object"),
    BAD("[{}]", "must be a JSON object"),
    BAD("\"a\"", "must be a JSON object"),
    BAD("12", "must be a JSON object"),
    BAD("true", "must be a JSON object"),
    BAD("{", "at byte 1"),
    BAD("{\"a\":1,}", "at byte 7"),
    BAD("{\"a\":[1,]}", "at byte 8"),
    BAD("{\"a\" 1}", "colon at byte 5"),
    BAD("{'a':1}", "at byte 1"),
    BAD("{a:1}", "at byte 1"),
    BAD("{\"a\":1} {}", "follows the value at byte 8"),
    BAD("{\"a\":1}x", "at byte 7"),
    BAD("{\"a\":1}\0", "at byte 7"),
    BAD("\xef\xbb\xbf{}", "at byte 0"),
    BAD("{/**/}", "at byte 1"),
    BAD("{\"a\":tru}", "at byte 5"),
    BAD("{\"a\":True}", "at byte 5"),
    BAD("{\"a\":NaN}", "at byte 5"),
    BAD("{\"a\":Infinity}", "at byte 5"),
    BAD("{\"a\":-Infinity}", "at byte 5"),
    BAD("{\"a\":0123}", "at byte 5"),
    BAD("{\"a\":1.}", "at byte 5"),
    BAD("{\"a\":.5}", "at byte 5"),
    BAD("{\"a\":+1}", "at byte 5"),
    BAD("{\"a\":1e}", "at byte 5"),
    BAD("{\"a\":0x10}", "at byte 6"),
    BAD("{\"a\":1e400}", "out of range"),
    BAD("{\"a\":-1e400}", "out of range"),
    BAD("{\"a\":18446744073709551616}", "out of range"),
    BAD("{\"a\":-9223372036854775809}", "out of range"),
    BAD("{\"a\":\"\x01\"}", "control character"),
    BAD("{\"a\":\"\n\"}", "control character"),
    BAD("{\"a\":\"\\x\"}", "bad escape"),
    BAD("{\"a\":\"\\u12\"}", "bad \\u escape"),
    BAD("{\"a\":\"\\ud800\"}", "lone surrogate"),
    BAD("{\"a\":\"\\udc00\\ud800\"}", "lone surrogate"),
    BAD("{\"a\":\"\xff\"}", "invalid UTF-8"),
    BAD("{\"a\":\"\xc0\xaf\"}", "invalid UTF-8"),
    BAD("{\"a\":\"\xed\xa0\x80\"}", "invalid UTF-8"),
    BAD("{\"a\":\"\xe2\x82\"}", "invalid UTF-8"),
    BAD("{\"a\xff\":1}", "invalid UTF-8"),
    BAD("{\"a\":\"b", "unterminated string"),
    BAD("{\"a\":1,\"a\":1}", "has already at byte 11"),
    BAD("{\"a\":1,\"\\u0061\":2}", "has already"),
    BAD("{\"x\":[{\"b\":{}, \"c\":1, \"b\":2}]}", "has already"),
    BAD("{\"\":1,\"\":2}", "has already"),
    BAD("{\"a\\u0000b\":1}", "NUL character in a key"),
};

static void refuses(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(bad); i++) {
        struct fault f = { 0 };
        struct json_object *body = body_parse((struct str){ bad[i].text, bad[i].len }, &f);
        if (body || f.status != 400 || !strstr(f.err.text, bad[i].words))
            fail_msg("%s: %d %s", bad[i].text, f.status, f.err.text);
    }
}

/* What is taken, and what json-c then makes of it. */
static const char *const good[][2] = {
    { "{}", "{ }" },
    { " {\"a\" : 1 }\r\n", "{ \"a\": 1 }" },
    { "{\"a\":1,\"b\":{\"a\":1,\"b\":{\"a\":2}},\"c\":[{\"a\":1},{\"a\":1}]}",
      "{ \"a\": 1, \"b\": { \"a\": 1, \"b\": { \"a\": 2 } }, \"c\": [ { \"a\": 1 }, { \"a\": 1 } "
      "] }" },
    { "{\"a\":-0,\"b\":9007199254740993,\"c\":18446744073709551615,\"d\":-9223372036854775808}",
      "{ \"a\": 0, \"b\": 9007199254740993, \"c\": 18446744073709551615, "
      "\"d\": -9223372036854775808 }" },
    { "{\"a\":1e308,\"b\":1e-400}", "{ \"a\": 1e308, \"b\": 1e-400 }" },
    { "{\"a\":\"\\ud83d\\ude00\\u0000\xc3\xa9\"}",
      "{ \"a\": \"\xf0\x9f\x98\x80\\u0000\xc3\xa9\" }" },
    { "{\"a\":null,\"unknown\":[true,false,null]}",
      "{ \"a\": null, \"unknown\": [ true, false, null ] }" },
};

static void takes(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(good); i++) {
        struct fault f = { 0 };
        struct json_object *body = body_parse(str_of(good[i][0]), &f);
        if (!body) fail_msg("%s: %s", good[i][0], f.err.text);
        assert_string_equal(json_object_to_json_string_ext(body, JSON_C_TO_STRING_SPACED),
                            good[i][1]);
        json_object_put(body);
    }
}

/* {"a": begin repeated n times, then end repeated n times } */
static const char *refusal_of(const char *begin, const char *end, size_t n, struct fault *f) {
    struct buf b = { 0 };
    buf_str(&b, S("{\"a\":"));
    for (size_t i = 0; i < n; i++) buf_str(&b, str_of(begin));
    for (size_t i = 0; i < n; i++) buf_str(&b, str_of(end));
    buf_char(&b, '}');
    *f = (struct fault){ 0 };
    struct json_object *body = body_parse(buf_view(&b), f);
    bool taken = body != NULL;
    json_object_put(body);
    buf_free(&b);
    assert_true(taken == !f->status);
    return taken ? NULL : f->err.text;
}

static void has_limits(void **state) {
    (void)state;
    struct fault f;
    assert_null(refusal_of("[", "]", JSON_DEPTH_MAX - 1, &f));
    assert_non_null(strstr(refusal_of("[", "]", JSON_DEPTH_MAX, &f), "nested too deep"));
    assert_non_null(strstr(refusal_of("[", "]", 1000000, &f), "nested too deep"));
    assert_non_null(strstr(refusal_of("[", "", 10000000, &f), "nested too deep"));
    assert_non_null(strstr(refusal_of("{\"a\":", "}", 100000, &f), "nested too deep"));
    assert_non_null(strstr(refusal_of("1", "", 100000, &f), "whole number out of range"));
    assert_non_null(strstr(refusal_of("1", ".5", 2000, &f), "too long"));
    assert_null(refusal_of("1", "e1", 1, &f));

    struct buf b = { 0 };
    buf_str(&b, S("{\"a\":[1"));
    for (int i = 1; i < JSON_VALUES_MAX - 9; i++) buf_str(&b, S(",1"));
    size_t begin = b.len;
    buf_str(&b, S("]}"));
    f = (struct fault){ 0 };
    struct json_object *body = body_parse(buf_view(&b), &f);
    assert_non_null(body);
    json_object_put(body);
    b.len = begin;
    buf_str(&b, S(",1]}"));
    assert_null(body_parse(buf_view(&b), &f));
    assert_non_null(strstr(f.err.text, "too many values"));
    buf_clear(&b);
    /* Keys alone: their values count. */
    buf_char(&b, '{');
    for (int i = 0; i < JSON_VALUES_MAX; i++) buf_format(&b, "%s\"%x\":0", i ? "," : "", i);
    buf_char(&b, '}');
    f = (struct fault){ 0 };
    assert_null(body_parse(buf_view(&b), &f));
    assert_non_null(strstr(f.err.text, "too many values"));
    buf_free(&b);
}

/* ---- fields ---- */

static const char fields_text[] =
    "{\"null\":null,\"yes\":true,\"n\":5,\"whole\":100.0,\"half\":1.5,\"huge\":1e308,"
    "\"big\":9223372036854775807,\"over\":9223372036854775808,\"least\":-9223372036854775808,"
    "\"text\":\"a\\u0000b\",\"list\":[1],\"map\":{},\"extra_body\":{\"n\":6,\"more\":7}}";

static void reads(void **state) {
    (void)state;
    struct fault f = { 0 };
    struct fields r = { body_parse(str_of(fields_text), &f), &f };
    assert_non_null(r.object);
    assert_false(field_has(&r, "null"));
    assert_false(field_has(&r, "none"));
    assert_true(field_has(&r, "yes"));
    assert_true(field_bool(&r, "yes", false));
    assert_true(field_bool(&r, "null", true));
    assert_int_equal(field_int(&r, "n", 0, 10, 3), 5);
    assert_int_equal(field_int(&r, "null", 0, 10, 3), 3);
    assert_int_equal(field_int(&r, "more", 0, 10, 3), 7);
    assert_int_equal(field_int(&r, "whole", 0, 100, 3), 100);
    assert_true(field_int(&r, "big", INT64_MIN, INT64_MAX, 3) == INT64_MAX);
    assert_true(field_int(&r, "least", INT64_MIN, INT64_MAX, 3) == INT64_MIN);
    assert_true(field_real(&r, "half", 0, 2, 3) == 1.5);
    assert_true(field_real(&r, "n", 0, 5, 3) == 5);
    assert_true(field_real(&r, "null", 0, 5, 3) == 3);
    assert_int_equal(field_str(&r, "text").len, 3);
    assert_null(field_str(&r, "null").at);
    assert_non_null(field_list(&r, "list"));
    assert_non_null(field_object(&r, "map"));
    assert_null(field_list(&r, "none"));
    assert_int_equal(f.status, 0);
    json_object_put(r.object);
}

/* A reader on a field that it must refuse. */
static void names_the_field(void **state) {
    (void)state;
    static const char *const names[] = { "yes", "n", "half", "huge", "over", "text", "list",
                                         "map" };
    struct fault ignored = { 0 };
    struct json_object *object = body_parse(str_of(fields_text), &ignored);
    for (size_t i = 0; i < COUNT(names); i++)
        for (int reader = 0; reader < 6; reader++) {
            struct fault f = { 0 };
            struct fields r = { object, &f };
            const char *n = names[i];
            bool fits = (reader == 0 && !strcmp(n, "yes")) || (reader == 1 && !strcmp(n, "n")) ||
                        (reader == 2 && (!strcmp(n, "n") || !strcmp(n, "half"))) ||
                        (reader == 3 && !strcmp(n, "text")) ||
                        (reader == 4 && !strcmp(n, "list")) || (reader == 5 && !strcmp(n, "map"));
            switch (reader) {
            case 0: assert_true(field_bool(&r, n, false) == fits); break;
            case 1: assert_int_equal(field_int(&r, n, 0, INT64_MAX, -3), fits ? 5 : -3); break;
            case 2: assert_true((field_real(&r, n, 0, 10, -3) > 0) == fits); break;
            case 3: assert_true((field_str(&r, n).at != NULL) == fits); break;
            case 4: assert_true((field_list(&r, n) != NULL) == fits); break;
            default: assert_true((field_object(&r, n) != NULL) == fits); break;
            }
            if (fits) {
                assert_int_equal(f.status, 0);
                continue;
            }
            assert_int_equal(f.status, 400);
            assert_string_equal(f.param, n);
            assert_non_null(strstr(f.err.text, n));
        }
    json_object_put(object);
}

static void has_ranges(void **state) {
    (void)state;
    struct fault f = { 0 }, g = { 0 };
    struct fields r = { body_parse(S("{\"n\":5,\"d\":0.5}"), &f), &f };
    assert_int_equal(field_int(&r, "n", 6, 9, 6), 6);
    assert_non_null(strstr(f.err.text, "5 is below the minimum of 6"));
    f = g;
    assert_int_equal(field_int(&r, "n", 0, 4, 1), 1);
    assert_non_null(strstr(f.err.text, "5 is above the maximum of 4"));
    f = g;
    assert_true(field_real(&r, "d", 1, 2, 1) == 1);
    assert_non_null(strstr(f.err.text, "0.5 is not between 1 and 2"));
    /* The first fault stays. */
    field_int(&r, "n", 9, 9, 9);
    assert_string_equal(f.param, "d");
    json_object_put(r.object);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses), cmocka_unit_test(takes), cmocka_unit_test(has_limits),
        cmocka_unit_test(reads), cmocka_unit_test(names_the_field), cmocka_unit_test(has_ranges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
