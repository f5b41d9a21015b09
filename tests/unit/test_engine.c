/* test_engine.c - the engine's promises to those who hand in requests, on the built-in model:
 * events, their order and their numbers, cancelling, the bound of the queue, statistics. */
#include "engine.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include "../maker.h"

enum { IDS_MAX = 512, TOP = 3 };

struct seen { int token; float logprob; struct token_prob top[TOP]; int n_top; };

struct client {                      /* what one request was told */
    struct seen prompt[IDS_MAX], answer[IDS_MAX];
    int n_prompt, n_answer, n_logits, n_done, n_cached, n_tokens;
    int n_progress, n_read;
    enum finish finish;
    struct buf text, pieces, prompt_text;
    double first_token_s;
};

static void note(struct seen *s, const struct engine_event *ev) {
    *s = (struct seen){ ev->token, ev->logprob, .n_top = ev->n_top };
    assert_in_range(ev->n_top, 0, TOP);
    if (ev->n_top) memcpy(s->top, ev->top, (size_t)ev->n_top * sizeof *s->top);
}

static void on_event(void *to, const struct engine_event *ev) {
    struct client *c = to;
    assert_int_equal(c->n_done, 0);
    switch (ev->kind) {
    case EVENT_LOGITS: c->n_logits++; break;
    case EVENT_PROGRESS:
        assert_int_equal(c->n_answer, 0);
        assert_in_range(ev->position, c->n_read + 1, ev->n_prompt - 1);
        c->n_read = ev->position;
        c->n_progress++;
        break;
    case EVENT_PROMPT:
        assert_int_equal(c->n_answer, 0);
        assert_int_equal(ev->position, c->n_prompt);
        note(&c->prompt[c->n_prompt++], ev);
        buf_str(&c->prompt_text, ev->text);
        break;
    case EVENT_TOKEN:
        if (c->n_answer) assert_int_equal(ev->position, c->n_tokens + 1);
        c->n_tokens = ev->position;
        note(&c->answer[c->n_answer++], ev);
        buf_str(&c->text, ev->text);
        buf_str(&c->pieces, ev->piece);
        break;
    case EVENT_DONE:
        buf_str(&c->text, ev->text);
        c->n_cached = ev->n_cached;
        c->finish = ev->finish;
        c->n_done++;
        break;
    }
}

static void client_free(struct client *c) {
    buf_free(&c->text);
    buf_free(&c->pieces);
    buf_free(&c->prompt_text);
    *c = (struct client){ 0 };
}

/* Every test runs twice: with steps that are asked for when the last one's tokens are not known. */
static int ahead;

/* No limit on the time of a step: how many steps a prompt takes must not depend on the clock. */
static struct engine *open_with(struct engine_options o) {
    struct err err = { 0 };
    if (!o.dir) o.dir = "models/demo";
    o.ahead = ahead;
    o.slowdown = -1;
    struct engine *e = engine_open(&o, &err);
    if (!e) fail_msg("%s", err.text);
    return e;
}

static struct generate_options greedy(int n_max) {
    struct generate_options o = { .sample = sample_defaults(), .n_max = n_max, .ignore_eos = true };
    o.sample.temperature = 0;
    return o;
}

static uint64_t submit(struct engine *e, const int *ids, int n, const struct generate_options *o,
                       struct client *c) {
    struct err err = { 0 };
    uint64_t id = engine_submit(e, ids, n, o, on_event, c, &err);
    if (!id) fail_msg("%s", err.text);
    return id;
}

static void run_all(struct engine *e) {
    struct err err = { 0 };
    int rows;
    while ((rows = engine_step(e, &err))) assert_true(rows > 0);
}

static void fill(int *ids, int n, int seed) {
    for (int i = 0; i < n; i++) ids[i] = (seed * 131 + i * 37) % 3000;
}

static void check_top(const struct seen *s) {
    for (int i = 0; i < s->n_top; i++) {
        assert_true(i == 0 || s->top[i].logprob <= s->top[i - 1].logprob);
        if (s->top[i].token == s->token) assert_true(s->top[i].logprob == s->logprob);
    }
}

/* What a token of a text is worth is the same number whether it was generated or given, and
 * however the prompt was cut. */
static void test_prompt_logprobs(void **state) {
    (void)state;
    static const int chunk[] = { 0, 1, 7, 32 };
    for (size_t i = 0; i < COUNT(chunk); i++) {
        struct engine *e = open_with((struct engine_options){ .chunk_max = chunk[i] });
        struct client a = { 0 }, b = { 0 }, c = { 0 };
        int ids[IDS_MAX], n = 40, more = 30;
        struct generate_options o = greedy(more);
        fill(ids, n, 1);
        o.logprobs = TOP;
        submit(e, ids, n, &o, &a);
        run_all(e);
        assert_int_equal(a.n_answer, more);
        assert_int_equal(a.n_prompt, 0);
        for (int k = 0; k < more; k++) ids[n++] = a.answer[k].token;
        o.prompt_logprobs = true;
        o.n_max = 0;
        submit(e, ids, n, &o, &b);
        o.logprobs = 0;
        o.n_max = 2;
        submit(e, ids, n, &o, &c);
        run_all(e);
        assert_int_equal(b.n_prompt, n);
        assert_int_equal(b.n_answer, 0);
        assert_int_equal(b.n_logits, 0);
        assert_int_equal(b.finish, FINISH_LENGTH);
        assert_int_equal(b.n_cached, 0);
        assert_true(isnan(b.prompt[0].logprob));
        assert_int_equal(b.prompt[0].n_top, 0);
        for (int k = 0; k < n; k++) {
            assert_int_equal(b.prompt[k].token, ids[k]);
            if (k) assert_int_equal(b.prompt[k].n_top, TOP);
            if (k) check_top(&b.prompt[k]);
        }
        for (int k = 0; k < more; k++) {
            const struct seen *given = &b.prompt[n - more + k];
            assert_true(given->logprob == a.answer[k].logprob && given->logprob < 0);
            assert_memory_equal(given->top, a.answer[k].top, sizeof given->top);
        }
        assert_int_equal(c.n_prompt, n);
        assert_int_equal(c.n_answer, 2);
        for (int k = 1; k < n; k++) assert_true(c.prompt[k].logprob == b.prompt[k].logprob);
        assert_int_equal(c.prompt[n - 1].n_top, 0);
        client_free(&a);
        client_free(&b);
        client_free(&c);
        engine_close(e);
    }
}

/* One token is a prompt too; logits and prompt events may both be wanted. */
static void test_shortest_prompt(void **state) {
    (void)state;
    struct engine *e = open_with((struct engine_options){ 0 });
    struct client c = { 0 };
    struct generate_options o = greedy(0);
    int ids[40];
    o.prompt_logprobs = true;
    submit(e, (int[]){ 17 }, 1, &o, &c);
    run_all(e);
    assert_int_equal(c.n_prompt, 1);
    assert_int_equal(c.n_done, 1);
    client_free(&c);
    fill(ids, 40, 2);
    o.logits_last = 5;
    submit(e, ids, 40, &o, &c);
    run_all(e);
    assert_int_equal(c.n_prompt, 40);
    assert_int_equal(c.n_logits, 5);
    client_free(&c);
    engine_close(e);
}

/* The pieces of an answer add up to its text, and those of a prompt to the prompt. */
static void test_pieces(void **state) {
    (void)state;
    struct engine *e = open_with((struct engine_options){ 0 });
    struct client c = { 0 };
    struct ids ids = { 0 };
    struct generate_options o = greedy(40);
    struct str text = S("The caf\xc3\xa9 is \xe2\x82\xac" "5 <b>bold</b>\n\n  twice.");
    tok_encode(engine_tokenizer(e), text, 0, NULL, 0, &ids);
    struct buf pieces = { 0 };
    for (int i = 0; i < ids.len; i++) engine_token_text(e, ids.at[i], &pieces);
    assert_true(str_eq(buf_view(&pieces), text));
    /* The end of the text is not a part of it. */
    struct logit_bias bias[4];
    o.sample.bias = bias;
    for (int i = 0; i < engine_info(e).vocab; i++)
        if (engine_is_eos(e, i)) bias[o.sample.n_bias++] = (struct logit_bias){ i, -INFINITY };
    o.prompt_logprobs = o.specials = true;
    submit(e, ids.at, ids.len, &o, &c);
    run_all(e);
    assert_int_equal(c.n_answer, 40);
    assert_true(c.text.len > 0);
    assert_true(str_eq(buf_view(&c.pieces), buf_view(&c.text)));
    assert_true(c.prompt_text.len > 0);
    client_free(&c);
    buf_free(&pieces);
    ids_free(&ids);
    engine_close(e);
}

static void test_stats(void **state) {
    (void)state;
    struct engine *e = open_with((struct engine_options){ .requests_max = 2 });
    struct client c[3];
    int ids[100];
    memset(c, 0, sizeof c);
    struct generate_options o = greedy(10);
    struct engine_stats s = engine_stats(e);
    double before = s.heartbeat_s;
    assert_true(before > 0 && before <= clock_s());
    assert_int_equal(s.waiting + s.running, 0);
    fill(ids, 100, 3);
    for (int i = 0; i < 3; i++) submit(e, ids, 100, &o, &c[i]);
    assert_int_equal(engine_stats(e).waiting, 3);
    assert_int_equal(engine_step(e, NULL), 100);
    s = engine_stats(e);
    assert_int_equal(s.running, 1);
    assert_int_equal(s.waiting, 2);
    assert_true(s.pages_used >= 4 && s.pages_used < s.pages);
    assert_true(s.cache_used_bytes > 0 && s.cache_used_bytes < s.cache_bytes);
    assert_false(s.stepping);
    run_all(e);
    s = engine_stats(e);
    assert_int_equal(s.running + s.waiting + s.pages_used, 0);
    assert_int_equal(s.tokens_prompt, 300);
    assert_int_equal(s.tokens_cached, 2 * 96);
    for (int i = 0; i < 3; i++) assert_int_equal(c[i].n_cached, i ? 96 : 0);
    assert_int_equal(s.tokens_generated, 30);
    /* The last token of an answer is not computed any more. */
    assert_int_equal(s.rows, 100 + 2 * 4 + 3 * 9);
    assert_true(s.steps >= 10 && s.steps <= 40);
    assert_int_equal(s.sequences, 3 * 10);
    assert_int_equal(s.page_tokens, 32);
    assert_true(s.step_s > 0 && s.heartbeat_s >= before);
    assert_int_equal(engine_info(e).tokens_reused, 2 * 96);
    for (int i = 0; i < 3; i++) client_free(&c[i]);
    engine_close(e);
}

/* A prompt's reading is told step by step, but for the last one, and not more often than for every
 * hundredth of a long one. */
static void test_progress(void **state) {
    (void)state;
    struct engine *e = open_with((struct engine_options){ .chunk_max = 1, .rows_max = 8 });
    static int ids[700];
    struct generate_options o = greedy(1);
    struct client c = { 0 };
    fill(ids, COUNT(ids), 5);
    submit(e, ids, 10, &o, &c);
    run_all(e);
    assert_int_equal(c.n_progress, 0);
    client_free(&c);
    o.progress = true;
    o.salt = 1;
    submit(e, ids, 10, &o, &c);
    run_all(e);
    assert_int_equal(c.n_progress, 9);
    assert_int_equal(c.n_read, 9);
    client_free(&c);
    submit(e, ids, COUNT(ids), &o, &c);
    run_all(e);
    assert_int_equal(c.n_progress, 99);
    client_free(&c);
    engine_close(e);
}

/* So many may wait, and those that run do not count; an id lives as long as its request. */
static void test_queue(void **state) {
    (void)state;
    struct err err = { 0 };
    struct engine *e = open_with((struct engine_options){ .requests_max = 1, .waiting_max = 3 });
    struct client c[5];
    uint64_t id[5];
    int ids[20];
    memset(c, 0, sizeof c);
    struct generate_options o = greedy(5);
    for (int i = 0; i < 3; i++) {
        fill(ids, 20, i);
        id[i] = submit(e, ids, 20, &o, &c[i]);
    }
    assert_int_equal(engine_submit(e, ids, 20, &o, on_event, &c[3], &err), 0);
    assert_int_equal(err.code, ERR_MEMORY);
    assert_true(engine_step(e, NULL) > 0);
    fill(ids, 20, 3);
    id[3] = submit(e, ids, 20, &o, &c[3]);
    assert_int_equal(engine_submit(e, ids, 20, &o, on_event, &c[4], &err), 0);
    engine_cancel(e, 0);
    engine_cancel(e, id[3] + 100);
    engine_cancel(e, UINT64_MAX);
    run_all(e);
    for (int i = 0; i < 4; i++) assert_int_equal(c[i].finish, FINISH_LENGTH);
    id[4] = submit(e, ids, 20, &o, &c[4]);
    for (int i = 0; i < 4; i++) {
        assert_true(id[i] != id[4]);
        engine_cancel(e, id[i]);
    }
    run_all(e);
    assert_int_equal(c[4].finish, FINISH_LENGTH);
    for (int i = 0; i < 5; i++) client_free(&c[i]);
    engine_close(e);
}

/* Several ids of generation_config.json end a text, each of them, and config.json has no say where
 * that file names some. */
static void test_ends_of_text(void **state) {
    (void)state;
    static const char *const files[] = { "config.json", "model.safetensors", "tokenizer.json",
                                         "tokenizer_config.json", "special_tokens_map.json",
                                         "chat_template.jinja" };
    struct engine *e = open_with((struct engine_options){ 0 });
    struct client all = { 0 };
    int ids[20];
    struct generate_options o = greedy(12);
    fill(ids, 20, 5);
    submit(e, ids, 20, &o, &all);
    run_all(e);
    engine_close(e);
    int last = 1;                    /* of the first token that differs from the first */
    while (last < all.n_answer && all.answer[last].token == all.answer[0].token) last++;
    assert_in_range(last, 1, 11);

    char *dir = temp_dir(), path[200], text[100];
    for (size_t i = 0; i < COUNT(files); i++) {
        struct buf copy = { 0 };
        struct err err = { 0 };
        snprintf(path, sizeof path, "models/demo/%s", files[i]);
        assert_true(buf_read_file(&copy, path, 8 << 20, &err));
        temp_write(dir, files[i], buf_view(&copy));
        buf_free(&copy);
    }
    for (int first = 0; first < 2; first++) {
        const int end = all.answer[last].token, never = (end + 1) % 3000;
        snprintf(text, sizeof text, "{\"eos_token_id\":[%d,%d]}", first ? end : never,
                 first ? never : end);
        temp_write(dir, "generation_config.json", str_of(text));
        e = open_with((struct engine_options){ .dir = dir });
        assert_true(engine_is_eos(e, end) && engine_is_eos(e, never));
        assert_false(engine_is_eos(e, 3071));
        struct client c = { 0 };
        o.ignore_eos = false;
        submit(e, ids, 20, &o, &c);
        run_all(e);
        assert_int_equal(c.finish, FINISH_STOP);
        assert_int_equal(c.n_answer, last + 1);
        client_free(&c);
        engine_close(e);
    }
    temp_free(dir);
    client_free(&all);
}

/* In the queue, while its prompt is computed, while it decodes: gone with the next step, and the
 * others do not notice. */
static void test_cancel(void **state) {
    (void)state;
    struct engine *e = open_with((struct engine_options){ .requests_max = 2, .chunk_max = 20 });
    struct client alone = { 0 }, stays = { 0 }, c[3];
    int ids[200];
    memset(c, 0, sizeof c);
    struct generate_options o = greedy(30);
    fill(ids, 200, 1);
    submit(e, ids, 50, &o, &alone);
    run_all(e);
    submit(e, ids, 50, &o, &stays);
    assert_true(engine_step(e, NULL) > 0);
    for (int when = 0; when < 3; when++) {
        fill(ids, 200, 5 + when);
        uint64_t id = submit(e, ids, when == 2 ? 10 : 200, &o, &c[when]);
        for (int i = 0; i < 2 * when; i++) assert_true(engine_step(e, NULL) > 0);
        assert_int_equal(c[when].n_answer > 0, when == 2);
        engine_cancel(e, id);
        engine_cancel(e, id);
        int n = c[when].n_answer;
        assert_true(engine_step(e, NULL) > 0);
        assert_int_equal(c[when].n_done, 1);
        assert_int_equal(c[when].finish, FINISH_CANCELLED);
        assert_int_equal(c[when].n_answer, n);
        assert_int_equal(engine_stats(e).running, 1);
    }
    run_all(e);
    assert_int_equal(stays.n_answer, alone.n_answer);
    assert_memory_equal(stays.answer, alone.answer, sizeof alone.answer);
    client_free(&alone);
    client_free(&stays);
    for (int i = 0; i < 3; i++) client_free(&c[i]);
    engine_close(e);
}

/* Closing ends what is under way, each request once. */
static void test_close(void **state) {
    (void)state;
    struct engine *e = open_with((struct engine_options){ .requests_max = 2 });
    struct client c[5];
    int ids[20];
    memset(c, 0, sizeof c);
    struct generate_options o = greedy(5);
    fill(ids, 20, 1);
    for (int i = 0; i < 5; i++) submit(e, ids, 20, &o, &c[i]);
    assert_true(engine_step(e, NULL) > 0);
    engine_close(e);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(c[i].n_done, 1);
        assert_int_equal(c[i].finish, FINISH_CANCELLED);
        client_free(&c[i]);
    }
}

static void same_answers(const struct client *a, const struct client *b) {
    assert_int_equal(a->n_answer, b->n_answer);
    for (int i = 0; i < a->n_answer; i++) assert_int_equal(a->answer[i].token, b->answer[i].token);
    assert_true(str_eq(buf_view(&a->text), buf_view(&b->text)));
    assert_int_equal(a->finish, b->finish);
    assert_int_equal(b->n_done, 1);
}

/* Going ahead changes nothing that a client sees: drawn and greedy answers, a stop string that is
 * found a step late, penalties that need the text so far beside those that do not, a prompt that
 * has its first token while others decode; and no row too many is counted as a token. */
static void test_ahead(void **state) {
    (void)state;
    enum { N = 6 };
    static const struct str stop[] = { { "e", 1 } };
    struct client c[3][N];
    uint64_t generated[3];
    memset(c, 0, sizeof c);
    for (int run = 0; run < 3; run++) {  /* alone; side by side; side by side and ahead */
        struct engine_options eo = { .dir = "models/demo", .slowdown = -1, .threads = 1,
                                     .chunk_max = 9, .ahead = run < 2 ? -1 : 1 };
        struct engine *e = engine_open(&eo, NULL);
        assert_non_null(e);
        for (int i = 0; i < N; i++) {
            struct generate_options o = greedy(12 + 3 * i);
            int ids[40];
            fill(ids, 40, i);
            if (i % 2) o.sample.temperature = 0.9f, o.sample.seed = (uint64_t)i;
            if (i == 1) o.sample.top_k = 0, o.sample.top_p = 1;
            if (i == 3) o.sample.repeat_penalty = 1.3f;
            if (i == 2 || i == 5) o.stop = stop, o.n_stop = 1;
            submit(e, ids, 10 + 5 * i, &o, &c[run][i]);
            if (!run) run_all(e);
        }
        run_all(e);
        generated[run] = engine_stats(e).tokens_generated;
        assert_int_equal(engine_stats(e).pages_used, 0);
        engine_close(e);
    }
    for (int i = 0; i < N; i++) {
        same_answers(&c[0][i], &c[1][i]);
        same_answers(&c[0][i], &c[2][i]);
    }
    assert_int_equal(generated[0], generated[2]);
    for (int run = 0; run < 3; run++)
        for (int i = 0; i < N; i++) client_free(&c[run][i]);
}

/* A stop that comes before the wait is not lost. (A wait that ignored it would take an hour.) */
static void test_wait(void **state) {
    (void)state;
    struct engine *e = open_with((struct engine_options){ .requests_max = 1 });
    struct client c = { 0 };
    struct generate_options o = greedy(1);
    engine_wait(e, 0);
    engine_stop(e);
    engine_wait(e, 3600);
    uint64_t id = submit(e, (int[]){ 5 }, 1, &o, &c);
    engine_wait(e, 3600);
    run_all(e);
    id = submit(e, (int[]){ 5 }, 1, &o, &c);
    client_free(&c);
    assert_true(engine_step(e, NULL) > 0);
    engine_cancel(e, id);
    client_free(&c);
    engine_close(e);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prompt_logprobs),
        cmocka_unit_test(test_shortest_prompt),
        cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_stats),
        cmocka_unit_test(test_progress),
        cmocka_unit_test(test_queue),
        cmocka_unit_test(test_ends_of_text),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_close),
        cmocka_unit_test(test_wait),
        cmocka_unit_test(test_ahead),
    };
    for (ahead = -1; ahead <= 1; ahead += 2)
        if (cmocka_run_group_tests(tests, NULL, NULL)) return 1;
    return 0;
}
