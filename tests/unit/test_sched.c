/* test_sched.c - whatever the scheduler does, a request gives what it would give alone.
 *
 * The ledger model checks every number that a batch can read; the rest here is about
 * who runs when. */
#include "batch/batch.h"
#include "ledger.h"

enum { VOCAB = 50, REQUESTS = 48 };

struct model { struct state_need layer[LEDGER_LAYERS]; int n_layers; };

struct rig {
    struct model model;
    struct device dev;
    struct cache *cache;
    struct sched *sched;
    int token[256];
    int next_logit[REQUESTS + 1];    /* by id: nothing is given twice, nothing left out */
    int restart_at, steps;
    int rows, logits;                /* so far */
};

static void rig_open(struct rig *r, const struct model *m, const struct cache_options *co,
                     const struct sched_options *so) {
    struct err err = { 0 };
    *r = (struct rig){ .model = *m, .dev = { .op = &ledger_ops } };
    r->cache = cache_open(&r->dev, m->layer, m->n_layers, co, &err);
    assert_string_equal(err.text, "");
    assert_non_null(r->cache);
    r->sched = sched_open(r->cache, so);
    r->restart_at = so->restart_at;
}

static void rig_close(struct rig *r) {
    ledger_check_empty(r->cache);
    sched_close(r->sched);
    cache_close(r->cache);
    assert_int_equal(ledger_alloc_bytes, 0);
}

static bool rig_add(struct rig *r, struct request *q) {
    if (!sched_add(r->sched, q)) return false;
    assert_in_range(q->id, 1, REQUESTS);
    r->next_logit[q->id] = q->logits_from;
    return true;
}

/* One step, computed and committed. False: nothing ran. */
static bool rig_step(struct rig *r, struct batch *b) {
    if (!sched_next(r->sched, b)) return false;
    int logit = 0;
    for (int i = 0; i < b->n_req; i++) {
        const struct request *q = b->req[i];
        assert_int_equal(b->variant[i], r->restart_at && q->ids.len > r->restart_at);
        assert_int_equal(b->rows.first[i + 1] - b->rows.first[i], q->n_now);
        assert_int_equal(q->phase, RUNNING);
        for (int row = b->rows.first[i]; row < b->rows.first[i + 1]; row++) {
            int pos = b->rows.pos[row];
            assert_int_equal(b->rows.seq[row], i);
            assert_int_equal(pos, q->n_done + row - b->rows.first[i]);
            assert_int_equal(b->ids[row], q->ids.at[pos]);
            uint64_t y = ledger_row(r->cache, r->model.layer, r->model.n_layers, i, q->ids.at, pos,
                                    b->variant[i]);
            if (logit < b->n_logits && b->logit_row[logit] == row) {
                assert_int_equal(b->logit_req[logit], i);
                assert_int_equal(pos, r->next_logit[q->id]++);
                bool last = pos == q->ids.len - 1;
                r->token[logit++] = last ? (int)(y % VOCAB) : -1;
            }
        }
    }
    assert_int_equal(logit, b->n_logits);
    r->rows += b->n_rows;
    r->logits += b->n_logits;
    r->steps++;
    sched_commit(r->sched, b, r->token);
    return true;
}

static struct request *request_new(uint64_t id, const int *ids, int n, int n_max, uint64_t salt) {
    struct request *r = calloc(1, sizeof *r);
    r->id = id;
    for (int i = 0; i < n; i++) ids_put(&r->ids, ids[i]);
    r->n_prompt = n;
    r->n_max = n_max;
    r->logits_from = n - 1;
    r->seq.salt = salt;
    return r;
}

static void request_free(struct request *r) {
    ids_free(&r->ids);
    free(r);
}

/* The ids must be what the model says one after another, each with the variant of its time. */
static void check_outcome(const struct rig *r, const struct request *q, int restart_at) {
    for (int n = q->n_prompt; n < q->ids.len; n++) {
        int variant = restart_at && n > restart_at;
        uint64_t y = ledger_expect(r->model.layer, r->model.n_layers, q->ids.at, n - 1, variant);
        assert_int_equal(q->ids.at[n], y % VOCAB);
    }
}

static const struct model full = { { { .per_token = 8 } }, 1 };
static const struct model windows = {
    { { .per_token = 8 }, { .per_token = 8, .window = 40 }, { 0 }, { .per_token = 8, .window = 7 },
      { .per_token = 16, .window = 40 } }, 5 };
static const struct model hybrid = {
    { { .per_token = 8 }, { .per_sequence = 16 }, { .per_sequence = 24, .per_token = 8 } }, 3 };
static const struct model recurrent = { { { .per_sequence = 16 } }, 1 };
static const struct model only_window = { { { .per_token = 8, .window = 33 } }, 1 };
static const struct model mixed = {
    { { .per_token = 8, .window = 20 }, { .per_sequence = 16 }, { .per_token = 8 } }, 3 };

/* --- gathered --- */

/* Nobody goes on before all prompts are read, also one of a single token and one that waits. */
static void test_gathers(void **state) {
    (void)state;
    static const int lengths[] = { 3, 90, 1, 40 };
    struct rig r;
    struct batch b;
    struct request *q[COUNT(lengths)];
    rig_open(&r, &full, &(struct cache_options){ .bytes = SIZE_MAX, .seqs_max = 8,
                                                 .tokens_max = 200, .rows_max = 16 },
             &(struct sched_options){ .rows_max = 16, .requests_max = 4, .waiting_max = 8 });
    int ids[90];
    for (int i = 0; i < 90; i++) ids[i] = i % VOCAB;
    for (size_t i = 0; i < COUNT(lengths); i++) {
        q[i] = request_new(i + 1, ids + i, lengths[i] - (lengths[i] == 90) * 5, 130, i);
        q[i]->gather = true;
        assert_true(rig_add(&r, q[i]));
    }
    bool reading = true;
    while (reading) {
        assert_true(rig_step(&r, &b));
        reading = false;
        for (size_t i = 0; i < COUNT(q); i++) reading |= q[i]->ids.len == q[i]->n_prompt;
        for (size_t i = 0; i < COUNT(q); i++) assert_true(q[i]->ids.len <= q[i]->n_prompt + 1);
    }
    assert_true(rig_step(&r, &b));
    assert_int_equal(b.n_rows, COUNT(q));
    while (rig_step(&r, &b)) continue;
    for (struct request *done; (done = sched_done(r.sched));) {
        check_outcome(&r, done, 0);
        request_free(done);
    }
    rig_close(&r);
}

/* --- random runs --- */

struct random_case {
    const char *name;
    const struct model *model;
    int pages;                       /* of the first group; 0: as many as wanted */
    int seqs, rows, chunk, logits, restart_at;
    bool reuse;
};

static const struct random_case cases[] = {
    { "roomy",              &full,        0,  8, 64,  0, 0,   0, true },
    { "tiny pool",          &full,        9,  8, 40,  0, 0,   0, true },
    { "tiny, no reuse",     &full,        9,  8, 40,  0, 0,   0, false },
    { "one row a step",     &full,       12,  4,  1,  0, 0,   0, true },
    { "fewer rows than requests", &full, 20,  8,  3,  0, 2,   0, true },
    { "chunks of 7",        &full,       10,  6, 64,  7, 0,   0, true },
    { "windows",            &windows,     0,  6, 64,  0, 0,   0, true },
    { "windows, tiny",      &windows,    10,  6, 50, 33, 0,   0, true },
    { "only a window",      &only_window, 0,  6, 50,  0, 0,   0, true },
    { "hybrid",             &hybrid,      0,  6, 64,  0, 0,   0, true },
    { "hybrid, tiny",       &hybrid,     10,  6, 64, 20, 0,   0, true },
    { "recurrent",          &recurrent,   0,  5, 64,  0, 0,   0, true },
    { "mixed, tiny",        &mixed,      12,  6, 48,  0, 0,   0, true },
    { "restart",            &full,        0,  6, 64,  0, 0, 100, true },
    { "restart, tiny",      &mixed,      11,  6, 48,  0, 0, 100, true },
    { "few logits",         &full,       12,  6, 64,  0, 3,   0, true },
};

/* Prompts begin alike more often than not: with a part of an earlier request, answer included. */
static struct request *random_request(uint64_t *seed, struct request *const *earlier, int n,
                                      int longest) {
    int ids[512], len = 0, want = 1 + ledger_draw(seed, longest);
    if (n && ledger_draw(seed, 4)) {
        const struct request *from = earlier[ledger_draw(seed, n)];
        int part = ledger_draw(seed, 2) ? from->ids.len : 1 + ledger_draw(seed, from->ids.len);
        while (len < MIN(part, want)) { ids[len] = from->ids.at[len]; len++; }
    }
    while (len < want) ids[len++] = ledger_draw(seed, VOCAB);
    struct request *r = request_new((uint64_t)n + 1, ids, len, len + 1 + ledger_draw(seed, 140),
                                    (uint64_t)ledger_draw(seed, 8) / 7);
    r->priority = ledger_draw(seed, 6) / 5;
    r->client = (uint64_t)ledger_draw(seed, 3);
    r->gather = ledger_draw(seed, 9) == 8;
    if (!ledger_draw(seed, 4)) r->logits_from = ledger_draw(seed, len);
    return r;
}

/* What happened in the runs of a case, so that a case that tests nothing shows. */
struct tally { uint64_t steps, preempted, restarted, reused, asked, evicted; };

static void random_run(const struct random_case *c, uint64_t seed, struct tally *t) {
    struct cache_options co = { .bytes = (size_t)1 << 24, .seqs_max = c->seqs, .tokens_max = 300,
                                .rows_max = c->rows, .reuse = c->reuse };
    struct sched_options so = { .rows_max = c->rows, .chunk_max = c->chunk, .requests_max = c->seqs,
                                .waiting_max = REQUESTS, .logits_max = c->logits,
                                .restart_at = c->restart_at };
    struct budget budget = { .slowdown = 2 };
    if (c->chunk) so.budget = &budget;
    so.patience = c->chunk;
    if (c->pages) co.bytes = ledger_bytes(c->model->layer, c->model->n_layers, co, c->pages);
    struct rig r;
    struct batch b;
    struct request *q[REQUESTS];
    bool done[REQUESTS] = { false };
    int n = 0, n_done = 0;
    rig_open(&r, c->model, &co, &so);
    int fits = cache_stats(r.cache).tokens_max;
    while (n_done < REQUESTS) {
        while (n < REQUESTS && (n - n_done < c->seqs + 2 || !ledger_draw(&seed, 8))) {
            q[n] = random_request(&seed, q, n, 200);
            assert_true(rig_add(&r, q[n++]));
        }
        if (!ledger_draw(&seed, 40)) sched_cancel(r.sched, 1 + (uint64_t)ledger_draw(&seed, n));
        if (!ledger_draw(&seed, 40)) sched_finish(r.sched, q[ledger_draw(&seed, n)]);
        if (!ledger_draw(&seed, 60)) sched_preempt(r.sched, 1 + (uint64_t)ledger_draw(&seed, n));
        /* A step that the device lost: its rows come again. */
        if (!ledger_draw(&seed, 30)) sched_next(r.sched, &b);
        if (rig_step(&r, &b))
            budget_note(&budget, b.n_decoding, b.n_rows - b.n_decoding, ledger_draw(&seed, 100));
        for (struct request *d; (d = sched_done(r.sched)); n_done++) {
            assert_false(done[d->id - 1]);
            done[d->id - 1] = true;
            assert_int_equal(d->phase, FINISHED);
            assert_false(d->seq.open);
            assert_true(d->starved ? d->ids.len > fits
                                   : d->cancelled || d->over || d->ids.len == d->n_max);
            check_outcome(&r, d, c->restart_at);
        }
        assert_true(r.steps < 100000);
    }
    struct cache_stats stats = cache_stats(r.cache);
    t->steps += (uint64_t)r.steps;
    t->preempted += sched_stats(r.sched).preempted;
    t->restarted += sched_stats(r.sched).restarted;
    t->reused += stats.tokens_reused;
    t->asked += stats.tokens_asked;
    t->evicted += stats.evictions;
    assert_int_equal(sched_stats(r.sched).running + sched_stats(r.sched).waiting, 0);
    rig_close(&r);
    for (int i = 0; i < REQUESTS; i++) request_free(q[i]);
}

/* --- who runs when --- */

static const struct cache_options roomy = { .bytes = 1 << 22, .seqs_max = 4, .tokens_max = 2048,
                                            .rows_max = 64, .reuse = true };
static const struct sched_options usual = { .rows_max = 64, .requests_max = 4, .waiting_max = 8 };

/* A prompt of n ids, all its own but for the first `same`. */
static struct request *prompt(uint64_t id, int n, int same, int n_new) {
    int ids[2048];
    for (int i = 0; i < n; i++) ids[i] = i < same ? i % 11 : (int)id * 100 + i % 13;
    return request_new(id, ids, n, n + n_new, 0);
}

/* Steps until everyone is done; the ids in the order in which they left. */
static int finish_all(struct rig *r, uint64_t *left) {
    struct batch b;
    int n = 0;
    for (int idle = 0; idle < 2; idle += !rig_step(r, &b)) {
        for (struct request *d; (d = sched_done(r->sched));) left[n++] = d->id;
        assert_true(r->steps < 10000);
    }
    return n;
}

static int rows_of(const struct batch *b, const struct request *q) {
    for (int i = 0; i < b->n_req; i++)
        if (b->req[i] == q) return b->rows.first[i + 1] - b->rows.first[i];
    return 0;
}

static void test_decode_first(void **state) {
    (void)state;
    struct rig r;
    struct batch b;
    uint64_t left[4];
    struct sched_options so = usual;
    so.rows_max = 20;
    so.chunk_max = 12;
    rig_open(&r, &full, &roomy, &so);
    struct request *first = prompt(1, 100, 0, 30), *second = prompt(2, 10, 0, 30);
    struct request *third = prompt(3, 100, 0, 30);
    assert_true(rig_add(&r, first) && rig_add(&r, second));
    assert_true(rig_step(&r, &b));
    assert_int_equal(rows_of(&b, first), 12);
    assert_int_equal(rows_of(&b, second), 8);
    assert_int_equal(first->phase, RUNNING);
    assert_true(rig_step(&r, &b));
    assert_int_equal(rows_of(&b, first), 12);
    assert_int_equal(rows_of(&b, second), 2);
    assert_true(rig_add(&r, third));
    assert_int_equal(third->phase, WAITING);
    for (int i = 0; i < 6; i++) {      /* no prompt has it all while another one waits */
        assert_true(rig_step(&r, &b));
        assert_int_equal(rows_of(&b, second), 1);
        assert_int_equal(rows_of(&b, first), i ? 12 : 10);
        assert_int_equal(rows_of(&b, third), i ? 7 : 9);
    }
    assert_true(rig_step(&r, &b));
    assert_int_equal(rows_of(&b, first), 6);
    assert_int_equal(rows_of(&b, third), 12);
    assert_int_equal(finish_all(&r, left), 3);
    assert_int_equal(first->n_preempted + second->n_preempted + third->n_preempted, 0);
    check_outcome(&r, first, 0);
    rig_close(&r);
    request_free(first);
    request_free(second);
    request_free(third);
}

/* A long prompt, however important, leaves the others their next token. */
static void test_decode_beside_priority(void **state) {
    (void)state;
    struct rig r;
    struct batch b;
    uint64_t left[2];
    struct sched_options so = usual;
    so.rows_max = 20;
    rig_open(&r, &full, &roomy, &so);
    struct request *talks = prompt(1, 10, 0, 30), *reads = prompt(2, 200, 0, 5);
    reads->priority = 1;
    assert_true(rig_add(&r, talks));
    assert_true(rig_step(&r, &b));
    assert_true(rig_add(&r, reads));
    for (int i = 0; i < 10; i++) {
        assert_true(rig_step(&r, &b));
        assert_int_equal(rows_of(&b, talks), 1);
        assert_int_equal(rows_of(&b, reads), 19);
    }
    assert_int_equal(finish_all(&r, left), 2);
    rig_close(&r);
    request_free(talks);
    request_free(reads);
}

/* Equal prompts at once are computed once, but for what nobody can share. */
static void test_equal_prompts(void **state) {
    (void)state;
    const struct model *const models[] = { &full, &windows, &hybrid, &recurrent };
    for (size_t m = 0; m < COUNT(models); m++) {
        struct rig r;
        struct request *q[4];
        uint64_t left[4];
        rig_open(&r, models[m], &roomy, &usual);
        for (int i = 0; i < 4; i++)
            assert_true(rig_add(&r, q[i] = prompt(1 + (uint64_t)i, 300, 300, 5)));
        assert_int_equal(finish_all(&r, left), 4);
        /* 288 of 300 are shared; of 5 new ids 4 are computed. */
        assert_int_equal(r.rows, 288 + 4 * (12 + 4));
        assert_int_equal(q[0]->n_cached, 0);
        for (int i = 1; i < 4; i++) {
            assert_int_equal(q[i]->n_cached, 288);
            assert_int_equal(q[i]->ids.len, 305);
            assert_memory_equal(q[i]->ids.at, q[0]->ids.at, 305 * sizeof(int));
        }
        rig_close(&r);
        for (int i = 0; i < 4; i++) request_free(q[i]);
    }
}

/* Nobody waits for a prompt of another salt, nor where nothing is kept, nor for less than a
 * page. */
static void test_no_waiting_for_others(void **state) {
    (void)state;
    for (int i = 0; i < 3; i++) {
        struct rig r;
        struct batch b;
        uint64_t left[2];
        struct cache_options co = roomy;
        struct sched_options so = usual;
        co.reuse = i != 0;
        so.chunk_max = 32;
        rig_open(&r, &full, &co, &so);
        int same = i == 2 ? 31 : 100;
        struct request *one = prompt(1, 100, same, 5), *two = prompt(2, 100, same, 5);
        two->seq.salt = i == 1;
        assert_true(rig_add(&r, one) && rig_add(&r, two));
        assert_true(rig_step(&r, &b));
        assert_int_equal(b.n_req, 2);
        assert_int_equal(finish_all(&r, left), 2);
        assert_int_equal(two->n_cached, 0);
        rig_close(&r);
        request_free(one);
        request_free(two);
    }
}

static void test_priority_and_order(void **state) {
    (void)state;
    struct rig r;
    struct batch b;
    struct request *q[5];
    uint64_t left[5];
    struct sched_options so = usual;
    so.requests_max = 2;
    so.waiting_max = 4;
    rig_open(&r, &full, &roomy, &so);
    const int priority[5] = { 0, 0, 0, 7, 7 };
    for (int i = 0; i < 5; i++) {
        q[i] = prompt(1 + (uint64_t)i, 40, 0, 10);
        q[i]->priority = priority[i];
        assert_int_equal(rig_add(&r, q[i]), i < 4);
    }
    assert_true(rig_step(&r, &b));
    assert_int_equal(b.n_req, 2);
    assert_ptr_equal(b.req[0], q[3]);
    assert_ptr_equal(b.req[1], q[0]);
    assert_int_equal(sched_stats(r.sched).waiting, 2);
    assert_true(rig_add(&r, q[4]));
    assert_int_equal(finish_all(&r, left), 5);
    /* The second urgent one did not wait for a place, and what made way lost nothing. */
    const uint64_t want[5] = { 4, 5, 1, 2, 3 };
    assert_memory_equal(left, want, sizeof want);
    assert_int_equal(q[0]->n_preempted, 1);
    for (int i = 1; i < 5; i++) assert_int_equal(q[i]->n_preempted, 0);
    for (int i = 0; i < 5; i++) check_outcome(&r, q[i], 0);
    rig_close(&r);
    for (int i = 0; i < 5; i++) request_free(q[i]);
}

/* Pages are taken from lower priorities as well, before the urgent one runs, and never from its
 * equals. */
static void test_urgent_takes_pages(void **state) {
    (void)state;
    struct rig r;
    struct batch b;
    struct request *q[3];
    uint64_t left[3];
    struct cache_options co = { .seqs_max = 4, .tokens_max = 320, .rows_max = 64, .reuse = true };
    co.bytes = ledger_bytes(full.layer, full.n_layers, co, 10);
    rig_open(&r, &full, &co, &usual);
    for (int i = 0; i < 2; i++) {
        q[i] = prompt(1 + (uint64_t)i, 100, 0, 40);
        q[i]->priority = i;
        assert_true(rig_add(&r, q[i]));
    }
    for (int i = 0; i < 8; i++) assert_true(rig_step(&r, &b));
    q[2] = prompt(3, 100, 0, 40);
    q[2]->priority = 1;
    assert_true(rig_add(&r, q[2]));
    assert_true(rig_step(&r, &b));
    assert_int_equal(q[0]->phase, WAITING);
    assert_int_equal(q[1]->phase, RUNNING);
    assert_int_equal(q[2]->phase, RUNNING);
    assert_int_equal(finish_all(&r, left), 3);
    const uint64_t want[3] = { 2, 3, 1 };
    assert_memory_equal(left, want, sizeof want);
    assert_int_equal(q[0]->n_preempted, 1);
    assert_int_equal(q[1]->n_preempted + q[2]->n_preempted, 0);
    for (int i = 0; i < 3; i++) check_outcome(&r, q[i], 0);
    rig_close(&r);
    for (int i = 0; i < 3; i++) request_free(q[i]);
}

/* One client fills the queue; another's request does not wait for all that, nor does one of a
 * third, whose many small ones cost as much as a few large ones. */
static void test_clients_take_turns(void **state) {
    (void)state;
    enum { MANY = 20 };
    struct rig r;
    struct batch b;
    struct request *q[MANY + 2];
    uint64_t left[MANY + 2];
    struct sched_options so = usual;
    so.requests_max = 1;
    so.waiting_max = MANY + 2;
    rig_open(&r, &full, &roomy, &so);
    for (int i = 0; i < MANY; i++) {
        q[i] = prompt(1 + (uint64_t)i, 40, 0, 4);
        q[i]->client = 7;
        assert_true(rig_add(&r, q[i]));
    }
    for (int i = 0; i < 3; i++) assert_true(rig_step(&r, &b));
    for (int i = MANY; i < MANY + 2; i++) {
        q[i] = prompt(1 + (uint64_t)i, 40, 0, 4);
        q[i]->client = 8;
        assert_true(rig_add(&r, q[i]));
    }
    assert_int_equal(finish_all(&r, left), MANY + 2);
    assert_int_equal(left[0], 1);                    /* it ran, and nobody is thrown out for this */
    assert_int_equal(left[1], MANY + 1);             /* the other client's first */
    assert_int_equal(left[2], 2);
    assert_int_equal(left[3], MANY + 2);             /* and its second, in turn */
    for (int i = 3; i < MANY + 1; i++) assert_int_equal(left[i + 1], i);
    rig_close(&r);
    for (int i = 0; i < MANY + 2; i++) request_free(q[i]);
}

/* However many clients have work ahead of them, each one's second request comes after its first. */
static void test_many_clients(void **state) {
    (void)state;
    enum { CLIENTS = 5000 };
    struct rig r;
    static struct request *q[2 * CLIENTS];
    struct sched_options so = usual;
    so.waiting_max = 2 * CLIENTS;
    rig_open(&r, &full, &roomy, &so);
    for (int i = 0; i < 2 * CLIENTS; i++) {
        q[i] = prompt(1 + (uint64_t)i, 3, 0, 4);
        q[i]->client = 1 + (uint64_t)(i % CLIENTS) * 64;
        assert_true(sched_add(r.sched, q[i]));
        assert_int_equal(q[i]->turn, i < CLIENTS ? 0 : 3 + 4);
    }
    rig_close(&r);
    for (int i = 0; i < 2 * CLIENTS; i++) request_free(q[i]);
}

/* Urgent requests come without end, yet one that nobody hurries has its turn, keeps its place once
 * it has it, and still answers as if alone. */
static void test_patience(void **state) {
    (void)state;
    enum { URGENT = 30, PATIENCE = 40 };
    struct rig r;
    struct batch b;
    struct request *q[URGENT + 1];
    uint64_t left[URGENT + 1];
    struct sched_options so = usual;
    so.requests_max = 1;
    so.waiting_max = URGENT + 1;
    for (int patience = 0; patience <= PATIENCE; patience += PATIENCE) {
        so.patience = patience;
        rig_open(&r, &full, &roomy, &so);
        assert_true(rig_add(&r, q[0] = prompt(1, 40, 0, 25)));
        for (int i = 0; i < 5; i++) assert_true(rig_step(&r, &b));
        for (int i = 1; i <= URGENT; i++) {
            q[i] = prompt(1 + (uint64_t)i, 40, 0, 10);
            q[i]->priority = 5;
            assert_true(rig_add(&r, q[i]));
        }
        assert_int_equal(finish_all(&r, left), URGENT + 1);
        int place = 0;
        while (left[place] != 1) place++;
        assert_int_equal(place, patience ? 4 : URGENT);      /* of 10 steps each */
        assert_int_equal(sched_stats(r.sched).aged, patience > 0);
        assert_int_equal(q[0]->n_preempted, 1);
        check_outcome(&r, q[0], 0);
        rig_close(&r);
        for (int i = 0; i <= URGENT; i++) request_free(q[i]);
    }
}

/* Cancelled from outside while it waits: one look finds it. */
static void test_look(void **state) {
    (void)state;
    struct rig r;
    struct batch b;
    uint64_t left[2];
    struct sched_options so = usual;
    so.requests_max = 1;
    rig_open(&r, &full, &roomy, &so);
    struct request *runs = prompt(1, 40, 0, 20), *waits = prompt(2, 40, 0, 20);
    assert_true(rig_add(&r, runs) && rig_add(&r, waits));
    assert_true(rig_step(&r, &b));
    waits->cancelled = true;
    sched_look(r.sched);
    assert_true(rig_step(&r, &b));
    assert_ptr_equal(sched_done(r.sched), waits);
    assert_int_equal(sched_stats(r.sched).waiting, 0);
    assert_int_equal(finish_all(&r, left), 1);
    rig_close(&r);
    request_free(runs);
    request_free(waits);
}

/* Without anyone decoding a prompt has all rows; beside somebody, what the budget allows. */
static void test_budget(void **state) {
    (void)state;
    struct rig r;
    struct batch b;
    uint64_t left[3];
    struct budget budget = { .slowdown = 2 };
    struct sched_options so = usual;
    so.budget = &budget;
    rig_open(&r, &full, &roomy, &so);
    struct request *talks = prompt(1, 100, 0, 60), *reads = prompt(2, 300, 0, 5);
    struct request *more = prompt(3, 20, 0, 5);
    assert_true(rig_add(&r, talks));
    assert_true(rig_step(&r, &b));
    assert_int_equal(rows_of(&b, talks), 64);
    assert_true(rig_step(&r, &b));
    assert_true(rig_add(&r, reads) && rig_add(&r, more));
    budget_note(&budget, 1, 0, 0.030);
    budget_note(&budget, 1, 10, 0.080);              /* 5 ms for a row: 6 rows double a step */
    for (int i = 0; i < 7; i++) {
        assert_true(rig_step(&r, &b));
        assert_int_equal(b.n_decoding, 1);
        assert_int_equal(rows_of(&b, talks), 1);
        assert_int_equal(rows_of(&b, reads), i ? 3 : 6);     /* the short one came too late */
        assert_int_equal(rows_of(&b, more), i ? 3 : 0);
    }
    assert_true(rig_step(&r, &b));
    assert_int_equal(rows_of(&b, reads), 4);
    assert_int_equal(rows_of(&b, more), 2);
    assert_true(rig_step(&r, &b));
    assert_int_equal(b.n_decoding, 2);
    assert_int_equal(rows_of(&b, reads), 6);
    budget.slowdown = 0;
    assert_true(rig_step(&r, &b));
    assert_int_equal(rows_of(&b, reads), 62);
    assert_int_equal(finish_all(&r, left), 3);
    check_outcome(&r, talks, 0);
    check_outcome(&r, reads, 0);
    check_outcome(&r, more, 0);
    rig_close(&r);
    request_free(talks);
    request_free(reads);
    request_free(more);
}

static void test_budget_learns(void **state) {
    (void)state;
    struct budget b = { .slowdown = 3 };
    assert_int_equal(budget_rows(&b, 0, 256), 256);  /* nobody is slowed down */
    assert_int_equal(budget_rows(&b, 1, 256), 16);   /* nothing is known */
    assert_int_equal(budget_rows(&b, 1, 8), 8);
    budget_note(&b, 0, 100, 0.2);                    /* a row costs 2 ms */
    assert_int_equal(budget_rows(&b, 1, 256), 16);
    budget_note(&b, 3, 0, 0.020);
    assert_int_equal(budget_rows(&b, 4, 256), 20);
    assert_int_equal(budget_rows(&b, 1, 256), 20);   /* the nearest that is known */
    assert_int_equal(budget_rows(&b, 64, 256), 20);
    budget_note(&b, 16, 0, 0.050);
    assert_int_equal(budget_rows(&b, 16, 256), 50);
    assert_int_equal(budget_rows(&b, 4, 256), 20);
    assert_int_equal(budget_rows(&b, 16, 30), 30);
    for (int i = 0; i < 200; i++) budget_note(&b, 16, 10, 0.060);    /* now it is 1 ms */
    assert_in_range(budget_rows(&b, 16, 256), 98, 100);
    budget_note(&b, 16, 0, 10);                      /* one step that was held up is little */
    assert_in_range(budget_rows(&b, 16, 256), 105, 112);
    for (int i = 0; i < 200; i++) budget_note(&b, 16, 1, 5);
    assert_int_equal(budget_rows(&b, 16, 256), 1);   /* a prompt always moves */
}

/* Three that fit at first and then grow: the last to come gives way, the first never does. */
static void test_preemption(void **state) {
    (void)state;
    struct rig r;
    struct request *q[3];
    uint64_t left[3];
    struct cache_options co = { .seqs_max = 3, .tokens_max = 320, .rows_max = 64, .reuse = true };
    co.bytes = ledger_bytes(full.layer, full.n_layers, co, 10);
    rig_open(&r, &full, &co, &usual);
    for (int i = 0; i < 3; i++)
        assert_true(rig_add(&r, q[i] = prompt(1 + (uint64_t)i, 60, 0, 120)));
    assert_int_equal(finish_all(&r, left), 3);
    assert_int_equal(q[0]->n_preempted, 0);
    assert_true(q[2]->n_preempted > 0);
    assert_true(q[2]->n_preempted < 6);              /* no thrashing */
    assert_int_equal(left[0], 1);
    assert_int_equal(left[1], 2);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(q[i]->ids.len, 180);
        assert_int_equal(q[i]->n_cached, 0);
        check_outcome(&r, q[i], 0);
    }
    rig_close(&r);
    for (int i = 0; i < 3; i++) request_free(q[i]);
}

/* What cannot fit even alone leaves as starved, without taking anyone's pages. */
static void test_starved(void **state) {
    (void)state;
    struct rig r;
    struct batch b;
    uint64_t left[3];
    struct cache_options co = { .seqs_max = 3, .tokens_max = 2048, .rows_max = 64, .reuse = true };
    co.bytes = ledger_bytes(full.layer, full.n_layers, co, 10);
    rig_open(&r, &full, &co, &usual);
    assert_int_equal(cache_stats(r.cache).tokens_max, 320);
    struct request *small = prompt(1, 100, 0, 100), *grows = prompt(2, 60, 0, 1000);
    struct request *large = prompt(3, 321, 0, 5);
    large->priority = 9;
    assert_true(rig_add(&r, small) && rig_add(&r, grows) && rig_add(&r, large));
    assert_true(rig_step(&r, &b));
    assert_ptr_equal(sched_done(r.sched), large);
    assert_int_equal(large->phase, FINISHED);
    assert_true(large->starved);
    assert_int_equal(finish_all(&r, left), 2);
    assert_false(small->starved);
    assert_int_equal(small->ids.len, 200);
    assert_int_equal(small->n_preempted, 0);
    assert_true(grows->starved);
    assert_int_equal(grows->ids.len, 321);
    check_outcome(&r, grows, 0);
    rig_close(&r);
    request_free(small);
    request_free(grows);
    request_free(large);
}

static void test_cancel(void **state) {
    (void)state;
    struct rig r;
    struct batch b;
    uint64_t left[2];
    struct sched_options so = usual;
    so.requests_max = 1;
    rig_open(&r, &full, &roomy, &so);
    struct request *runs = prompt(1, 200, 0, 100), *waits = prompt(2, 40, 0, 10);
    struct request *last = prompt(3, 40, 0, 10);
    assert_true(rig_add(&r, runs) && rig_add(&r, waits) && rig_add(&r, last));
    assert_true(rig_step(&r, &b));
    sched_cancel(r.sched, 1);
    sched_cancel(r.sched, 2);
    sched_cancel(r.sched, 77);
    assert_null(sched_done(r.sched));
    assert_true(rig_step(&r, &b));
    assert_int_equal(b.n_req, 1);
    assert_ptr_equal(b.req[0], last);
    assert_ptr_equal(sched_done(r.sched), waits);
    assert_ptr_equal(sched_done(r.sched), runs);
    assert_true(runs->cancelled && waits->cancelled && !last->cancelled);
    assert_null(sched_done(r.sched));
    sched_finish(r.sched, last);
    assert_false(rig_step(&r, &b));
    assert_ptr_equal(sched_done(r.sched), last);
    assert_int_equal(finish_all(&r, left), 0);
    rig_close(&r);
    request_free(runs);
    request_free(waits);
    request_free(last);
}

/* Logits of a whole prompt: what the cache has is computed again as far as they are wanted. */
static void test_scoring(void **state) {
    (void)state;
    struct rig r;
    struct batch b;
    uint64_t left[2];
    struct sched_options so = usual;
    so.logits_max = 10;
    rig_open(&r, &full, &roomy, &so);
    struct request *one = prompt(1, 100, 100, 1), *two = prompt(2, 100, 100, 1);
    one->logits_from = 0;
    two->logits_from = 70;
    assert_true(rig_add(&r, one));
    assert_true(rig_step(&r, &b));
    assert_int_equal(b.n_rows, 10);
    assert_int_equal(finish_all(&r, left), 1);
    assert_int_equal(r.logits, 100);
    assert_true(rig_add(&r, two));
    assert_true(rig_step(&r, &b));
    assert_int_equal(two->n_cached, 64);
    assert_int_equal(b.n_rows, 16);
    assert_int_equal(finish_all(&r, left), 1);
    assert_int_equal(r.logits, 130);
    rig_close(&r);
    request_free(one);
    request_free(two);
}

/* Past restart_at everything is computed again, once, and shares nothing with before. */
static void test_restart(void **state) {
    (void)state;
    struct rig r;
    struct request *q[2];
    uint64_t left[2];
    struct sched_options so = usual;
    so.restart_at = 100;
    rig_open(&r, &full, &roomy, &so);
    assert_true(rig_add(&r, q[0] = prompt(1, 90, 90, 20)));
    assert_int_equal(finish_all(&r, left), 1);
    assert_int_equal(sched_stats(r.sched).restarted, 1);
    assert_int_equal(q[0]->variant, 1);
    assert_int_equal(r.rows, 100 + 109);
    check_outcome(&r, q[0], 100);
    /* A longer prompt begins with the second variant, and finds its pages. */
    assert_true(rig_add(&r, q[1] = prompt(2, 101, 90, 5)));
    assert_int_equal(finish_all(&r, left), 1);
    assert_int_equal(q[1]->n_cached, 64);
    assert_int_equal(sched_stats(r.sched).restarted, 1);
    check_outcome(&r, q[1], 100);
    rig_close(&r);
    request_free(q[0]);
    request_free(q[1]);
}

/* sched_close with requests under way leaves no pages behind. */
static void test_close_early(void **state) {
    (void)state;
    struct rig r;
    struct batch b;
    rig_open(&r, &full, &roomy, &usual);
    struct request *one = prompt(1, 100, 0, 5);
    assert_true(rig_add(&r, one));
    assert_true(rig_step(&r, &b));
    sched_close(r.sched);
    r.sched = NULL;
    rig_close(&r);
    request_free(one);
}

static void test_random(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct tally t = { 0 };
        for (uint64_t seed = 1; seed <= 6; seed++) random_run(&cases[i], seed * 1000 + i, &t);
        print_message("%s: %d steps, %d preempted, %d restarted, %d of %d reused, %d evicted\n",
                      cases[i].name, (int)t.steps, (int)t.preempted, (int)t.restarted,
                      (int)t.reused, (int)t.asked, (int)t.evicted);
        assert_int_equal(t.reused > 0, cases[i].reuse);
        assert_int_equal(t.restarted > 0, cases[i].restart_at > 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decode_first),
        cmocka_unit_test(test_gathers),
        cmocka_unit_test(test_decode_beside_priority),
        cmocka_unit_test(test_equal_prompts),
        cmocka_unit_test(test_no_waiting_for_others),
        cmocka_unit_test(test_priority_and_order),
        cmocka_unit_test(test_urgent_takes_pages),
        cmocka_unit_test(test_clients_take_turns),
        cmocka_unit_test(test_many_clients),
        cmocka_unit_test(test_patience),
        cmocka_unit_test(test_look),
        cmocka_unit_test(test_budget),
        cmocka_unit_test(test_budget_learns),
        cmocka_unit_test(test_preemption),
        cmocka_unit_test(test_starved),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_scoring),
        cmocka_unit_test(test_restart),
        cmocka_unit_test(test_close_early),
        cmocka_unit_test(test_random),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
