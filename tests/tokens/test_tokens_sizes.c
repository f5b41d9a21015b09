/* test_tokens_sizes.c - TK-05, TK-10, TK-15 and TK-19 by numbers: files that hold very much or make
 * very much of little, and long texts for every tokenizer beside this file. Each ends soon or is
 * refused; what is quadratic here would not end within a test's time. */
#include <dirent.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include "tokens/normalize.h"
#include "tokens/tokens.h"

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

#define FOLDER "tests/tokens"
/* The smallest stack that frames with red zones fit as well. */
enum { STACK = SANITIZED ? 512 << 10 : 64 << 10, LONG = SANITIZED ? 1 << 13 : 1 << 16 };

static char folder[64], path[96];

static int make_folder(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/tokens-sizes-XXXXXX");
    if (!mkdtemp(folder)) return -1;
    snprintf(path, sizeof path, "%s/tokenizer.json", folder);
    return 0;
}

static int drop_folder(void **state) {
    (void)state;
    unlink(path);
    return rmdir(folder);
}

/* begin, then `times` parts with their number at each "%d", then end. */
struct row {
    const char *id, *begin, *part, *between, *end;
    int times;
    const char *says;                /* part of the sentence; NULL: it opens */
    const char *text;                /* encoded then, and decoded */
    size_t ids_min, ids_max, text_max;
};

#define PLAIN "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"\u00e9\":2},\"merges\":[]}"
#define BYTES "{\"type\":\"ByteLevel\",\"use_regex\":false}"
#define META "{\"type\":\"FixedLength\",\"length\":1},{\"type\":\"Metaspace\"}"

static const struct row rows[] = {
    { "TK-05 ten million merges", "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"aa\":1},"
      "\"merges\":[", "\"a a\"", ",", "]}}", 10000000, "more than 8388608 merges", NULL, 0, 0, 0 },
    { "TK-05 a million merges", "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"aa\":1},"
      "\"merges\":[", "\"a a\"", ",", "]}}", 1000000, NULL, "aaa", 2, 2, 4 },
    { "TK-05 a token of 1 MiB", "{\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":{\"b\":0,\"",
      "a", "", "\":1}}}", 1 << 20, NULL, "bb", 2, 2, 3 },
    { "TK-05 a longer token", "{\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":{\"b\":0,\"",
      "a", "", "\":1}}}", (1 << 20) + 1, "too long", NULL, 0, 0, 0 },
    { "TK-05 a piece of 1 MiB", "{\"model\":{\"type\":\"Unigram\",\"unk_id\":0,\"vocab\":[[\"", "a",
      "", "\",0]]}}", 1 << 20, "more than 1024", NULL, 0, 0, 0 },
    { "TK-05 a piece of 1 MiB", "{\"model\":{\"type\":\"WordPiece\",\"unk_token\":\"u\",\"vocab\":"
      "{\"u\":0,\"", "a", "", "\":1}}}", 1 << 20, "too long", NULL, 0, 0, 0 },
    { "TK-05 a long added token", "{" PLAIN ",\"added_tokens\":[{\"id\":9,\"content\":\"", "a", "",
      "\"}]}", 1025, "1025 bytes", NULL, 0, 0, 0 },
    /* Ids from the model's end on are taken, so that the free ones are far away. */
    { "TK-05 a million added tokens", "{\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":{"
      "\"a\":2,\"b\":1,\"c\":3}},\"added_tokens\":[", "{\"id\":0,\"content\":\"<%d>\"}", ",", "]}",
      1000000, NULL, "a<999999><7>", 3, 3, 14 },
    { "TK-05 two million", "{" PLAIN ",\"added_tokens\":[", "{\"id\":0,\"content\":\"<%d>\"}", ",",
      "]}", 2000000, "more than 1048576 added tokens", NULL, 0, 0, 0 },
    { "TK-09 a regex of 1 MiB", "{" PLAIN ",\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":"
      "\"Isolated\",\"pattern\":{\"Regex\":\"", "a?", "", "\"}}}", 1 << 19, "more than 65536",
      NULL, 0, 0, 0 },
    { "TK-09 repeats of repeats", "{" PLAIN ",\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":"
      "\"Isolated\",\"pattern\":{\"Regex\":\"(((a{99}){99}){99}", "){99}(((a)", "", ")))\"}}}", 1,
      "not supported", NULL, 0, 0, 0 },
    { "TK-10 40 times as long", "{" PLAIN ",\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":"
      "[", "{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"},\"content\":\"aa\"}", ",", "]}}",
      40, "too long", NULL, 0, 0, 0 },
    { "TK-10 by decoders", "{" PLAIN ",\"decoder\":{\"type\":\"Sequence\",\"decoders\":[",
      "{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"},\"content\":\"aa\"}", ",", "]}}", 40,
      "too long", NULL, 0, 0, 0 },
    { "TK-10 by twelve decoders", "{" PLAIN ",\"decoder\":{\"type\":\"Sequence\",\"decoders\":[",
      "{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"},\"content\":\"aa\"}", ",", "]}}", 12,
      NULL, "a", 1, 1, 4096 },
    /* Each of these doubles a text, or more: a bound on the text ends it. */
    { "TK-10 by stand-ins", "{" PLAIN ",\"pre_tokenizer\":{\"type\":\"Sequence\","
      "\"pretokenizers\":[", BYTES, ",", "]}}", 40, NULL, "\u00e9", 0, 1 << 13, 1 << 13 },
    { "TK-10 by spaces", "{" PLAIN ",\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[",
      META, ",", "]}}", 20, NULL, "ab", 0, 1 << 13, 1 << 13 },
    { "TK-10 there and back", "{" PLAIN ",\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[",
      "{\"type\":\"NFKC\"},{\"type\":\"Replace\",\"pattern\":{\"String\":\"\u0635\u0644\u0649 "
      "\u0627\u0644\u0644\u0647 \u0639\u0644\u064a\u0647 \u0648\u0633\u0644\u0645\"},\"content\":"
      "\"\ufdfa\ufdfa\ufdfa\ufdfa\ufdfa\ufdfa\ufdfa\ufdfa\ufdfa\ufdfa\ufdfa\"}", ",", "]}}", 30,
      NULL, "\ufdfa", 0, 1 << 13, 1 << 16 },
};

static void write_row(const struct row *row) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    const char *number = strstr(row->part, "%d");
    size_t n = strlen(row->part), front = number ? (size_t)(number - row->part) : n;
    fputs(row->begin, f);
    for (int i = 0; i < row->times; i++) {
        if (i) fputs(row->between, f);
        fwrite(row->part, 1, front, f);
        if (number) fprintf(f, "%d%s", i, number + 2);
    }
    fputs(row->end, f);
    assert_int_equal(fclose(f), 0);
}

static void large_files(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        const struct row *row = &rows[i];
        struct err err = { 0 };
        struct ids ids = { 0 };
        struct buf out = { 0 };
        write_row(row);
        struct tokenizer *t = tok_open(folder, &err);
        if (!t != !!row->says) fail_msg("%s: %s", row->id, t ? "opened" : err.text);
        if (row->says && !strstr(err.text, row->says))
            fail_msg("%s: \"%.200s\" does not say \"%s\"", row->id, err.text, row->says);
        if (!t) continue;
        tok_encode(t, str_of(row->text), TOK_SPECIALS, NULL, 0, &ids);
        assert_in_range((size_t)ids.len, row->ids_min, row->ids_max);
        tok_decode(t, ids.at, ids.len, true, &out);
        assert_in_range(out.len, 0, row->text_max);
        ids_free(&ids);
        buf_free(&out);
        tok_close(t);
    }
}

static struct tokenizer *open_one(const char *name) {
    struct err err = { 0 };
    struct buf dir = { 0 };
    buf_format(&dir, FOLDER "/%s%s", name, str_starts(str_of(name), "gguf-") ? "/vocab.gguf" : "");
    struct tokenizer *t = tok_open(buf_c(&dir), &err);
    if (!t) fail_msg("%s", err.text);
    buf_free(&dir);
    return t;
}

/* One thing over and over, and then something else: what a search that looks back or ahead from
 * each place would suffer from. */
static const struct { const char *unit, *tail; } texts[] = {
    { "a", "" }, { "a", "!" }, { "A", "1" }, { " ", "" }, { " ", "x" }, { " ", "1" },
    { "\n", "" }, { " \n", "x" }, { "\r\n", "" }, { "\xf0\x9f\xa6\x99", "" },
    { "\xcc\x81\xcc\xa3", "a" }, { "\xe5\xa4\xa9", "a" }, { "9", "" }, { "ab ", "" },
    { "<|en", "d|>" }, { "<", "s>" }, { "'s", "" }, { "\xe2\x96\x81", "a" }, { "!", "a" },
    { "\xff", "a" }, { "\xe1\x84\x80", "\xe1\x85\xa1" }, { "\xf0\x9f\x87\xa6", "" },
    { "\xef\xb7\xba", "" }, { "<0x41>", "" }, { "##a", "" },
};

static bool stands(const struct tokenizer *t, const char *unit, const char *tail) {
    struct buf text = { 0 }, back = { 0 };
    struct ids ids = { 0 };
    while (text.len < LONG) buf_str(&text, str_of(unit));
    buf_str(&text, str_of(tail));
    tok_encode(t, buf_view(&text), 0, NULL, 0, &ids);
    bool good = true;
    for (int i = 0; i < ids.len; i++) good = good && ids.at[i] >= 0 && ids.at[i] < tok_vocab(t);
    tok_decode(t, ids.at, ids.len, true, &back);
    ids_free(&ids);
    buf_free(&text);
    buf_free(&back);
    return good;
}

static void *long_texts(void *arg) {
    for (size_t i = 0; i < COUNT(texts); i++)
        if (!stands(arg, texts[i].unit, texts[i].tail)) return NULL;
    return arg;                      /* cmocka's asserts are for its own thread only */
}

static void long_texts_for_all(void **state) {
    (void)state;
    DIR *dir = opendir(FOLDER);
    int n = 0;
    assert_non_null(dir);
    for (struct dirent *e; (e = readdir(dir)); ) {
        if (strchr(e->d_name, '.')) continue;
        struct tokenizer *t = open_one(e->d_name);
        pthread_attr_t small;
        pthread_t thread;
        void *good = NULL;
        pthread_attr_init(&small);
        pthread_attr_setstacksize(&small, STACK);
        assert_int_equal(pthread_create(&thread, &small, long_texts, t), 0);
        pthread_join(thread, &good);
        if (!good) fail_msg("%s", e->d_name);
        pthread_attr_destroy(&small);
        tok_close(t);
        n++;
    }
    closedir(dir);
    assert_true(n >= 40);
}

/* TK-15: each of many tokens strips the white space behind it, in which the next ones stand. */
static void stripped_white_space(void **state) {
    (void)state;
    struct err err = { 0 };
    struct buf text = { 0 };
    struct ids ids = { 0 };
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    fputs("{" PLAIN ",\"added_tokens\":[{\"id\":3,\"content\":\"\\n\",\"rstrip\":true,"
          "\"normalized\":false}]}", f);
    assert_int_equal(fclose(f), 0);
    struct tokenizer *t = tok_open(folder, &err);
    assert_non_null(t);
    for (int i = 0; i < 1 << 20; i++) buf_char(&text, '\n');
    buf_char(&text, 'a');
    tok_encode(t, buf_view(&text), 0, NULL, 0, &ids);
    assert_int_equal(ids.len, (1 << 20) + 1);
    assert_int_equal(ids.at[1 << 20], 0);
    ids_free(&ids);
    buf_free(&text);
    tok_close(t);
}

/* TK-13: a trie in which the letter a leads back to where it came from. A search that followed it
 * would go through all of the text from each of its places. */
static void charsmap_with_a_circle(void **state) {
    (void)state;
    enum { UNITS = 'a' + 1 };
    struct err err = { 0 };
    struct buf map = { 0 }, text = { 0 };
    for (uint32_t i = 0; i <= UNITS; i++) {
        uint32_t word = i == 0 ? UNITS * 4 : i - 1 == 'a' ? (uint32_t)'a' << 10 | 'a' : 0;
        for (int k = 0; k < 32; k += 8) buf_char(&map, (char)(word >> k));
    }
    buf_str(&map, S("x"));
    struct charsmap *m = charsmap_from(buf_view(&map), &err);
    if (!m) fail_msg("%s", err.text);
    for (int i = 0; i < 1 << 20; i++) buf_char(&text, 'a');
    for (size_t i = 0; i < text.len; i += SANITIZED ? 16 : 1) {
        struct str to;
        assert_int_equal(charsmap_longest(m, str_from(buf_view(&text), i), &to), 0);
    }
    charsmap_free(m);
    buf_free(&map);
    buf_free(&text);
}

/* TK-19: a million ids, none or some of which the vocabulary has, in one go and one by one. */
static void a_million_ids(void **state) {
    (void)state;
    enum { N = 1000000 };
    static const char *const names[] = { "gpt2", "llama2", "unigram", "bert", "rwkv", "plamo" };
    int *ids = malloc(N * sizeof *ids);
    assert_non_null(ids);
    for (size_t k = 0; k < COUNT(names); k++) {
        struct tokenizer *t = open_one(names[k]);
        struct buf out = { 0 }, stream = { 0 };
        for (int i = 0; i < N; i++)
            ids[i] = i % 4 == 0 ? -1 - i : i % 4 == 1 ? INT32_MAX - i : tok_vocab(t) + i;
        tok_decode(t, ids, N, true, &out);
        assert_int_equal(out.len, 0);
        for (int i = 0; i < N; i += 2) ids[i] = i % tok_vocab(t);
        tok_decode(t, ids, N, true, &out);
        struct detok *d = detok_open(t, true);
        for (int i = 0; i < N; i++) detok_push(d, ids[i], &stream);
        detok_flush(d, &stream);
        detok_close(d);
        assert_true(out.len > N / 4 && str_eq(buf_view(&out), buf_view(&stream)));
        buf_free(&out);
        buf_free(&stream);
        tok_close(t);
    }
    free(ids);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(large_files), cmocka_unit_test(long_texts_for_all),
        cmocka_unit_test(stripped_white_space), cmocka_unit_test(charsmap_with_a_circle),
        cmocka_unit_test(a_million_ids),
    };
    return cmocka_run_group_tests(tests, make_folder, drop_folder);
}
