/* test_normal_forms.c - Unicode's normal forms of drawn texts against utf8proc's, which reads a
 * whole text at once: Chinese, which is copied where no form changes it, among marks, Hangul and
 * letters that compose. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <utf8proc.h>
#include "base/utf8.h"
#include "tokens/normalize.h"

enum { TEXTS = 4000, CHARS_MAX = 12 };

static const struct { const char *type; int options; } FORM[] = {
    { "NFC", UTF8PROC_COMPOSE }, { "NFD", UTF8PROC_DECOMPOSE },
    { "NFKC", UTF8PROC_COMPOSE | UTF8PROC_COMPAT },
    { "NFKD", UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT },
};

/* Ranges that texts are drawn from, with the borders of what is copied. */
static const uint32_t RANGE[][2] = {
    { 0x20, 0x17f }, { 0x300, 0x345 }, { 0x1100, 0x1112 }, { 0x1161, 0x1175 }, { 0x11a8, 0x11c2 },
    { 0x2ffd, 0x3030 }, { 0x3041, 0x309c }, { 0x4dfe, 0x4e20 }, { 0x9ff0, 0xa002 },
    { 0xac00, 0xac40 }, { 0xf900, 0xf910 }, { 0xfefe, 0xff62 }, { 0xff9e, 0xff9f },
    { 0x20000, 0x20010 }, { 0x2f800, 0x2f810 },
};

static void check(size_t form, struct str text) {
    struct part part = { .type = str_of(FORM[form].type) };
    struct parts parts = { &part, 1 };
    struct text in = { 0 }, spare = { 0 };
    struct err err = { 0 };
    utf8proc_uint8_t *want = NULL;
    utf8proc_ssize_t n = utf8proc_map((const utf8proc_uint8_t *)text.at,
                                      (utf8proc_ssize_t)text.len, &want,
                                      (utf8proc_option_t)(FORM[form].options | UTF8PROC_STABLE));
    assert_true(n >= 0 && normalize_bind(&parts, &err));
    text_put(&in, text.at, text.len, 0);
    normalize_run(&parts, &in, &spare);
    if (in.bytes.len != (size_t)n || memcmp(in.bytes.at, want, (size_t)n) != 0)
        fail_msg("%s of \"%.*s\"", FORM[form].type, STR_ARG(text));
    text_free(&in);
    text_free(&spare);
    free(want);
}

static void drawn_texts(void **state) {
    struct buf text = { 0 };
    uint32_t seed = 1;
    (void)state;
    for (int i = 0; i < TEXTS; i++) {
        buf_clear(&text);
        for (int k = 0; k < 1 + i % CHARS_MAX; k++) {
            seed = seed * 1664525 + 1013904223;
            const uint32_t *range = RANGE[(seed >> 8) % COUNT(RANGE)];
            seed = seed * 1664525 + 1013904223;
            utf8_put(&text, range[0] + (seed >> 8) % (range[1] - range[0] + 1));
        }
        for (size_t form = 0; form < COUNT(FORM); form++) check(form, buf_view(&text));
    }
    buf_free(&text);
}

/* Each by itself, and as what a mark follows. */
static void every_character(void **state) {
    struct buf text = { 0 };
    (void)state;
    for (uint32_t cp = 0x3000; cp < 0x10000; cp++) {
        if (cp >= 0xd800 && cp < 0xe000) continue;
        buf_clear(&text);
        utf8_put(&text, cp);
        utf8_put(&text, cp % 2 ? 0x301 : 0x3099);
        for (size_t form = 0; form < COUNT(FORM); form++) check(form, buf_view(&text));
    }
    buf_free(&text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(drawn_texts), cmocka_unit_test(every_character),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
