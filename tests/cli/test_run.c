/* test_run.c - the commands that run a model, from outside, with the built-in one: what
 * they print where, and that they agree with each other. */
#include "program.h"

#include <json-c/json.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/stat.h>

#include <cmocka.h>

static char *home;

static struct ran run(const char *line, const char *input, int code) {
    struct ran r = program_run(line, input, home, NULL);
    if (r.code != code)
        fail_msg("mlxcel %s: exit %d, not %d\nstdout: %s\nstderr: %s", line, r.code, code,
                 buf_c(&r.out), buf_c(&r.err));
    return r;
}

static struct json_object *json_of(const char *line, const char *input) {
    struct ran r = run(line, input, 0);
    struct json_object *o = json_tokener_parse(buf_c(&r.out));
    if (!o) fail_msg("mlxcel %s: not JSON: %s", line, buf_c(&r.out));
    if (r.err.len) fail_msg("mlxcel %s: on standard error: %s", line, buf_c(&r.err));
    ran_free(&r);
    return o;
}

/* The value at a path such as "usage.prompt_tokens"; fails when it is not there. */
static struct json_object *at(struct json_object *o, const char *path) {
    char copy[128];
    snprintf(copy, sizeof copy, "%s", path);
    for (char *save = NULL, *k = strtok_r(copy, ".", &save); k; k = strtok_r(NULL, ".", &save))
        if (!json_object_object_get_ex(o, k, &o)) fail_msg("no %s in %s", path, k);
    return o;
}

static void test_answer(void **state) {
    (void)state;
    struct ran a = run("run --temp 0 -n 24 -p 'What is mlxcel?'", NULL, 0);
    struct ran b = run("run --temp 0 -n 24", "What is mlxcel?\n", 0);
    struct ran c = run("run --temp 0 -n 24 What is 'mlxcel?'", NULL, 0);
    assert_true(a.out.len > 1);
    assert_string_equal(buf_c(&a.out), buf_c(&b.out));
    assert_string_equal(buf_c(&a.out), buf_c(&c.out));
    /* Nothing but the answer, on either channel, when nobody watches. */
    assert_int_equal(a.err.len, 0);
    assert_null(strchr(a.out.at, '\033'));
    assert_null(strstr(a.out.at, "<|"));

    struct json_object *o = json_of("run --temp 0 -n 24 --json -p 'What is mlxcel?'", NULL);
    const char *text = json_object_get_string(at(o, "content"));
    assert_memory_equal(a.out.at, text, strlen(text));
    assert_true(json_object_is_type(at(o, "tool_calls"), json_type_array));
    assert_true(json_object_get_int(at(o, "usage.prompt_tokens")) > 0);
    assert_true(json_object_get_int(at(o, "usage.completion_tokens")) <= 24);
    assert_true(json_object_is_type(at(o, "timings.first_token_s"), json_type_double));
    at(o, "reasoning_content"), at(o, "finish_reason");
    json_object_put(o);
    ran_free(&a), ran_free(&b), ran_free(&c);
}

/* A checkpoint without a template completes text, and says why it cannot chat; a template given
 * on the command line helps. */
static void test_no_template(void **state) {
    (void)state;
    static const char *const names[] = { "config.json", "model.safetensors", "tokenizer.json" };
    char plain[400], path[64];
    struct err err = { 0 };
    snprintf(plain, sizeof plain, "%.300s/plain", home);
    assert_int_equal(mkdir(plain, 0700), 0);
    for (size_t i = 0; i < COUNT(names); i++) {
        struct buf file = { 0 };
        snprintf(path, sizeof path, "models/demo/%s", names[i]);
        if (!buf_read_file(&file, path, 64 << 20, &err)) fail_msg("%s", err.text);
        temp_write(plain, names[i], buf_view(&file));
        buf_free(&file);
    }
    struct json_object *config = json_object_from_file("models/demo/tokenizer_config.json");
    assert_non_null(config);
    json_object_object_del(config, "chat_template");
    temp_write(plain, "tokenizer_config.json", str_of(json_object_to_json_string(config)));
    json_object_put(config);

    struct ran text = run("generate -m @H/plain --temp 0 -n 4 -p 'Once upon a time'", NULL, 0);
    assert_true(text.out.len > 1);
    struct ran chat = run("run -m @H/plain -n 4 -p Hello", NULL, 1);
    assert_non_null(strstr(buf_c(&chat.err), "has no chat template, so it can complete text"));
    assert_int_equal(chat.out.len, 0);
    struct ran given = run("run -m @H/plain --temp 0 -n 4 -p Hello "
                           "--chat-template '{{ messages[0].content }}'", NULL, 0);
    assert_true(given.out.len > 1);
    struct ran named = run("run -m @H/plain -n 4 -p Hello --chat-template rag", NULL, 1);
    assert_non_null(strstr(buf_c(&named.err), "no chat template is called rag; there is none"));
    ran_free(&text);
    ran_free(&chat);
    ran_free(&given);
    ran_free(&named);
}

static void test_generate(void **state) {
    (void)state;
    struct ran text = run("generate --temp 0 -n 12 -p 'Once upon a time'", NULL, 0);
    assert_true(text.out.len > 1);
    temp_write(home, "ids.json", S("{\"ids\":[383,310,298]}"));
    struct ran ids = run("generate --ids @@H/ids.json -n 8 --temp 0 --print-ids --ignore-eos", NULL,
                         0);
    struct ran same = run("generate --ids 383,310,298 -n 8 --temp 0 --print-ids --ignore-eos", NULL,
                          0);
    assert_string_equal(buf_c(&ids.out), buf_c(&same.out));
    int commas = 0;
    for (size_t i = 0; i < ids.out.len; i++) commas += ids.out.at[i] == ',';
    assert_int_equal(commas, 7);
    assert_int_equal(ids.out.at[ids.out.len - 1], '\n');
    /* A seed fixes a draw; the prefix cache and chunks do not change it. */
    struct ran one = run("generate --temp 1.5 -s 5 -n 16 -p Hello --print-ids", NULL, 0);
    struct ran two = run("generate --temp 1.5 -s 5 -n 16 -p Hello --print-ids --chunk 1 "
                         "--no-prefix-cache -t 1", NULL, 0);
    assert_string_equal(buf_c(&one.out), buf_c(&two.out));
    ran_free(&text), ran_free(&ids), ran_free(&same), ran_free(&one), ran_free(&two);
}

/* The stop text ends an answer and is not part of it. */
static void test_stop(void **state) {
    (void)state;
    struct ran all = run("generate --temp 0 -n 12 --ignore-eos -p 'Once upon a time'", NULL, 0);
    size_t middle = all.out.len / 2;
    while (middle && (all.out.at[middle] == ' ' || (signed char)all.out.at[middle] <= ' '))
        middle--;
    char line[200], stop[2] = { all.out.at[middle], 0 };
    const char *first = strchr(all.out.at, stop[0]);
    snprintf(line, sizeof line, "generate --temp 0 -n 12 --ignore-eos --stop '%s' -p "
             "'Once upon a time'", stop);
    struct ran cut = run(line, NULL, 0);
    assert_int_equal(cut.out.len, (size_t)(first - all.out.at) + 1);
    assert_memory_equal(cut.out.at, all.out.at, cut.out.len - 1);
    ran_free(&all), ran_free(&cut);
}

/* The tensor of a logits file. Its header is JSON of the length that comes first. */
static float *logits_of(const char *line, int *rows, int *vocab) {
    struct ran r = run(line, NULL, 0);
    ran_free(&r);
    char path[600];
    snprintf(path, sizeof path, "%s/l.safetensors", home);
    struct buf file = { 0 };
    struct err err = { 0 };
    assert_true(buf_read_file(&file, path, 1 << 26, &err));
    uint64_t n;
    memcpy(&n, file.at, 8);
    assert_int_equal(n % 8, 0);
    char *header = mem_str((struct str){ file.at + 8, n });
    struct json_object *o = json_tokener_parse(header);
    assert_string_equal(json_object_get_string(at(o, "logits.dtype")), "F32");
    *rows = json_object_get_int(json_object_array_get_idx(at(o, "logits.shape"), 0));
    *vocab = json_object_get_int(json_object_array_get_idx(at(o, "logits.shape"), 1));
    size_t bytes = (size_t)*rows * (size_t)*vocab * sizeof(float);
    assert_int_equal(file.len, 8 + n + bytes);
    float *at_logits = mem_new(bytes);
    memcpy(at_logits, file.at + 8 + n, bytes);
    json_object_put(o);
    free(header);
    buf_free(&file);
    return at_logits;
}

static void test_logits(void **state) {
    (void)state;
    int rows, vocab, last_rows, same_vocab;
    float *all = logits_of("logits --compute f32 --ids 383,310,298,30 -o @H/l.safetensors", &rows,
                           &vocab);
    assert_int_equal(rows, 4);
    float *last = logits_of("logits --compute f32 --ids 383,310,298,30 --last 2 -o "
                            "@H/l.safetensors", &last_rows, &same_vocab);
    assert_int_equal(last_rows, 2);
    assert_int_equal(vocab, same_vocab);
    assert_memory_equal(last, all + 2 * vocab, 2 * (size_t)vocab * sizeof *all);

    /* The likeliest of the last row is what greedy generation takes. */
    int best = 0;
    for (int i = 1; i < vocab; i++)
        if (all[3 * vocab + i] > all[3 * vocab + best]) best = i;
    struct ran g = run("generate --compute f32 --ids 383,310,298,30 -n 1 --temp 0 --print-ids",
                        NULL,
                       0);
    char wanted[32];
    snprintf(wanted, sizeof wanted, "%d\n", best);
    assert_string_equal(buf_c(&g.out), wanted);
    free(all), free(last);
    ran_free(&g);

    struct ran bad = run("logits --ids 1,2 -o @H/none/x.safetensors", NULL, 1);
    assert_non_null(strstr(buf_c(&bad.err), "cannot create"));
    ran_free(&bad);
    bad = run("logits --ids 1,99999999 -o @H/y.safetensors", NULL, 1);
    char path[600];
    snprintf(path, sizeof path, "%s/y.safetensors", home);
    assert_int_equal(access(path, F_OK), -1);
    ran_free(&bad);
}

static void test_reports(void **state) {
    (void)state;
    struct json_object *o = json_of("bench -p 16 -n 4 -b 1,3 -r 1 --json", NULL);
    struct json_object *results = at(o, "results");
    assert_int_equal(json_object_array_length(results), 2);
    struct json_object *second = json_object_array_get_idx(results, 1);
    assert_int_equal(json_object_get_int(at(second, "batch")), 3);
    assert_true(json_object_get_double(at(second, "decode_tokens_per_s")) > 0);
    assert_true(json_object_get_double(at(second, "prefill_tokens_per_s")) > 0);
    assert_true(json_object_get_int64(at(o, "peak_rss_bytes")) > 1 << 20);
    at(o, "load_s");
    json_object_put(o);

    o = json_of("inspect --json", NULL);
    assert_true(json_object_array_length(at(o, "tensors")) > 4);
    at(o, "family"), at(o, "spec"), at(o, "unread"), at(o, "memory");
    json_object_put(o);
    o = json_of("arch --json", NULL);
    assert_true(json_object_array_length(o) > 5);
    for (size_t i = 0; i < json_object_array_length(o); i++) {
        struct json_object *family = json_object_array_get_idx(o, i);
        assert_true(json_object_array_length(at(family, "model_types")) > 0);
        at(family, "name"), at(family, "evidence");
    }
    json_object_put(o);
    static const char *const readable[] = { "inspect", "arch", "bench -p 8 -n 2 -r 1" };
    for (size_t i = 0; i < COUNT(readable); i++) {
        struct ran r = run(readable[i], NULL, 0);
        assert_true(r.out.len > 50 && !r.err.len);
        ran_free(&r);
    }
}

static void test_refused(void **state) {
    (void)state;
    static const struct { const char *line; int code; const char *err; } row[] = {
        { "run -p x --temp -1", 2, "temperature" },
        { "run -p x --samplers nonsense", 2, "nonsense" },
        { "run -p x --logit-bias 5x", 2, "--logit-bias takes" },
        { "run -p x --logit-bias 99999999+1", 2, "the vocabulary has" },
        { "run -p x --stop ''", 2, "--stop takes some text" },
        { "run -p x --chat-template '{% if %}'", 1, "" },
        { "run -p x --tools @H/none.json", 1, "none.json" },
        { "run -p x --device tpu", 2, "tpu" },
        { "generate --ids 99999999 --print-ids", 1, "99999999" },
    };
    for (size_t i = 0; i < COUNT(row); i++) {
        struct ran r = run(row[i].line, NULL, row[i].code);
        if (!strstr(buf_c(&r.err), row[i].err) || r.out.len)
            fail_msg("mlxcel %s:\nstdout: %s\nstderr: %s", row[i].line, buf_c(&r.out),
                     buf_c(&r.err));
        ran_free(&r);
    }
}

/* Who stops reading ends the program, without a word. */
static void test_closed_pipe(void **state) {
    (void)state;
    char line[900];
    snprintf(line, sizeof line, "'%s' generate --temp 1 --ignore-eos -p a 2>%s/said | head -c 1 "
             ">/dev/null; test ! -s %s/said", program_path(), home, home);
    assert_int_equal(system(line), 0);
}

static int make_home(void **state) {
    (void)state;
    home = temp_dir();
    return 0;
}

static int drop_home(void **state) {
    (void)state;
    temp_free(home);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answer), cmocka_unit_test(test_generate),
        cmocka_unit_test(test_no_template),
        cmocka_unit_test(test_stop), cmocka_unit_test(test_logits),
        cmocka_unit_test(test_reports), cmocka_unit_test(test_refused),
        cmocka_unit_test(test_closed_pipe),
    };
    return cmocka_run_group_tests(tests, make_home, drop_home);
}
