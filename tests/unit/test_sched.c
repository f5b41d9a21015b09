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
    int rows_seen, steps;
};

static void rig_open(struct rig *r, const struct model *m, const struct cache_options *co,
                     const struct sched_options *so) {
    struct err err = { 0 };
    *r = (struct rig){ .model = *m, .dev = { .op = &ledger_ops } };
    r->cache = cache_open(&r->dev, m->layer, m->n_layers, co, &err);
    assert_string_equal(err.text, "");
    assert_non_null(r->cache);
    r->sched = sched_open(r->cache, so);
}

static void rig_close(struct rig *r) {
    ledger_check_empty(r->cache);
    sched_close(r->sched);
    cache_close(r->cache);
    assert_int_equal(ledger_alloc_bytes, 0);
}

/* One step; the logits of inner positions are checked, too. False: nothing ran. */
static bool rig_step(struct rig *r, struct batch *b) {
    if (!sched_next(r->sched, b)) return false;
    int logit = 0;
    for (int i = 0; i < b->n_req; i++) {
        const struct request *q = b->req[i];
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
                bool last = pos == q->ids.len - 1;
                r->token[logit++] = last ? (int)(y % VOCAB) : -1;
            }
        }
    }
    assert_int_equal(logit, b->n_logits);
    r->rows_seen += b->n_rows;
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
static struct request *random_request(uint64_t *seed, struct request *const *earlier, int n, int longest) {
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
            assert_true(sched_add(r.sched, q[n++]));
        }
        if (!ledger_draw(&seed, 40)) sched_cancel(r.sched, 1 + (uint64_t)ledger_draw(&seed, n));
        if (!ledger_draw(&seed, 40)) sched_finish(r.sched, q[ledger_draw(&seed, n)]);
        rig_step(&r, &b);
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
        cmocka_unit_test(test_random),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
