/* test_tokens.c - every folder beside this file: a tokenizer, texts, and the ids and texts that the
 * `tokenizers` package gives for them.
 *
 * Made by tools/make_tokenizer_data.py and make_gguf_vocabs.py. Each text is also decoded as a
 * stream, token by token. */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "base/pull.h"
#include "base/utf8.h"
#include "tokens/tokens.h"

#define FOLDER "tests/tokens"

struct example {
    struct buf text, decoded;
    struct ids ids, bos, literal;
    bool has_text, has_decoded, skip;
};

static void read_ids(struct pull *j, struct ids *out) {
    uint64_t id;
    out->len = 0;
    assert_true(pull_array(j));
    while (pull_next(j)) {
        assert_true(pull_u64(j, INT32_MAX, &id));
        ids_put(out, (int)id);
    }
}

static void copy_ids(struct ids *to, const struct ids *from) {
    for (int i = 0; i < from->len; i++)
        ids_put(to, from->at[i]);
}

static void read_example(struct pull *j, struct example *e) {
    struct str key, s;
    bool bos = false, literal = false;
    assert_true(pull_object(j));
    while (pull_key(j, &key)) {
        if (str_is(key, "text")) {
            assert_true(pull_string(j, &s));
            buf_str(&e->text, s);
            e->has_text = true;
        } else if (str_is(key, "decoded")) {
            assert_true(pull_string(j, &s));
            buf_str(&e->decoded, s);
            e->has_decoded = true;
        } else if (str_is(key, "ids")) {
            read_ids(j, &e->ids);
        } else if (str_is(key, "bos")) {
            bos = true;
            read_ids(j, &e->bos);
        } else if (str_is(key, "literal")) {
            literal = true;
            read_ids(j, &e->literal);
        } else {
            assert_true(pull_bool(j, &e->skip));
        }
    }
    if (!bos)
        copy_ids(&e->bos, &e->ids);
    if (!literal)
        copy_ids(&e->literal, &e->ids);
}

static void show(const char *what, const struct ids *ids) {
    print_message("%s:", what);
    for (int i = 0; i < ids->len; i++)
        print_message(" %d", ids->at[i]);
    print_message("\n");
}

static bool check_ids(const char *what, struct str text, const struct ids *got,
                      const struct ids *want) {
    if (got->len == want->len
        && (!got->len || !memcmp(got->at, want->at, (size_t)got->len * sizeof *got->at)))
        return true;
    print_message("%s of \"%.*s\"\n", what, STR_ARG(text));
    show("  got ", got);
    show("  want", want);
    return false;
}

/* Control tokens; the one that stands for what the vocabulary has not is no command. */
static int commands(const struct tokenizer *t, const struct ids *ids) {
    int n = 0, unk = tok_find(t, S("<unk>")), bert = tok_find(t, S("[UNK]"));
    for (int i = 0; i < ids->len; i++)
        n += tok_is_control(t, ids->at[i]) && ids->at[i] != unk && ids->at[i] != bert;
    return n;
}

/* As the original is asked, a literal text may still become control tokens where the model's own
 * pieces are such: there we differ, and give none. */
static bool check_literal(const struct tokenizer *t, const char *what, struct str text,
                          const struct ids *got, const struct ids *want) {
    int found = commands(t, got);
    if (found)
        print_message("%s: %d control tokens\n", what, found);
    return !found && (commands(t, want) || check_ids(what, text, got, want));
}

static bool check_encode(const struct tokenizer *t, const struct example *e) {
    struct ids got = { 0 };
    struct str text = buf_view(&e->text);
    struct literal_span whole = { 0, text.len };
    tok_encode(t, text, TOK_SPECIALS, NULL, 0, &got);
    bool same = check_ids("ids", text, &got, &e->ids);
    got.len = 0;
    tok_encode(t, text, TOK_SPECIALS | TOK_ADD_BOS, NULL, 0, &got);
    same &= check_ids("ids with bos", text, &got, &e->bos);
    got.len = 0;
    tok_encode(t, text, 0, NULL, 0, &got);
    same &= check_literal(t, "literal ids", text, &got, &e->literal);
    got.len = 0;
    tok_encode(t, text, TOK_SPECIALS, &whole, 1, &got);
    same &= check_literal(t, "ids of a span", text, &got, &e->literal);
    ids_free(&got);
    return same;
}

static bool check_decode(const struct tokenizer *t, const struct example *e) {
    struct buf all = { 0 }, stream = { 0 };
    tok_decode(t, e->ids.at, e->ids.len, !e->skip, &all);
    bool same = !e->has_decoded || str_eq(buf_view(&all), buf_view(&e->decoded));
    if (!same)
        print_message("decoded \"%.*s\"\n   want \"%.*s\"\n", STR_ARG(buf_view(&all)),
                      STR_ARG(buf_view(&e->decoded)));
    struct detok *d = detok_open(t, !e->skip);
    for (int i = 0; i < e->ids.len; i++) {
        size_t old = stream.len;
        detok_push(d, e->ids.at[i], &stream);
        assert_true(utf8_valid(str_from(buf_view(&stream), old)));
    }
    detok_flush(d, &stream);
    detok_close(d);
    assert_true(str_eq(buf_view(&all), buf_view(&stream)));
    buf_free(&all);
    buf_free(&stream);
    return same;
}

static int run_folder(const char *name) {
    struct err err = { 0 };
    struct buf path = { 0 }, file = { 0 };
    int n = 0, wrong = 0;
    buf_format(&path, FOLDER "/%s%s", name, str_starts(str_of(name), "gguf-") ? "/vocab.gguf" : "");
    struct tokenizer *t = tok_open(buf_c(&path), &err);
    if (!t)
        fail_msg("%s: %s", name, err.text);
    buf_clear(&path);
    buf_format(&path, FOLDER "/%s/cases.json", name);
    if (!buf_read_file(&file, buf_c(&path), 1 << 24, &err))
        fail_msg("%s", err.text);
    struct pull j = pull_open(buf_view(&file));
    assert_true(pull_array(&j));
    for (; pull_next(&j); n++) {
        struct example e = { 0 };
        read_example(&j, &e);
        bool same = !e.has_text || check_encode(t, &e);
        same &= check_decode(t, &e);
        if (!same)
            print_message("  in %s\n", name);
        wrong += !same;
        buf_free(&e.text);
        buf_free(&e.decoded);
        ids_free(&e.ids);
        ids_free(&e.bos);
        ids_free(&e.literal);
    }
    assert_true(pull_end(&j));
    assert_true(n > 20);
    pull_close(&j);
    buf_free(&file);
    buf_free(&path);
    tok_close(t);
    return wrong;
}

static void test_folders(void **state) {
    (void)state;
    DIR *dir = opendir(FOLDER);
    assert_non_null(dir);
    int n = 0, wrong = 0;
    for (struct dirent *e; (e = readdir(dir));) {
        if (strchr(e->d_name, '.'))
            continue;
        wrong += run_folder(e->d_name);
        n++;
    }
    closedir(dir);
    assert_true(n >= 20);
    assert_int_equal(wrong, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_folders) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
