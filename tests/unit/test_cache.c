/* test_cache.c - what a prompt finds, what stays when memory is short, what the plan takes.
 *
 * Sequences are driven by hand here, as the scheduler would; the ledger model checks
 * what the views show. */
#include "ledger.h"

enum { ROWS = 64 };

struct rig {
    const struct state_need *layer;
    int n_layers;
    struct device dev;
    struct cache *cache;
};

static void rig_open(struct rig *r, const struct state_need *layer, int n_layers,
                     const struct cache_options *o) {
    struct err err = { 0 };
    *r = (struct rig){ .layer = layer, .n_layers = n_layers, .dev = { .op = &ledger_ops } };
    r->cache = cache_open(&r->dev, layer, n_layers, o, &err);
    assert_string_equal(err.text, "");
    assert_non_null(r->cache);
}

static void rig_close(struct rig *r) {
    ledger_check_empty(r->cache);
    cache_close(r->cache);
    assert_int_equal(ledger_alloc_bytes, 0);
}

/* Computes ids up to n, in steps of at most `step` that heed cache_stop. */
static bool feed(struct rig *r, struct cache_seq *seq, const int *ids, int n, int step) {
    while (seq->n_tokens < n) {
        int begin = seq->n_tokens;
        int end = MIN(cache_stop(r->cache, seq, n), begin + step);
        assert_in_range(end, begin + 1, n);
        if (!cache_extend(r->cache, seq, end - begin)) return false;
        cache_bind(r->cache, &seq, 1);
        for (int p = begin; p < end; p++)
            ledger_row(r->cache, r->layer, r->n_layers, 0, ids, p, 0);
        cache_commit(r->cache, seq, ids + begin, end - begin);
    }
    return true;
}

/* A whole life: begins, computes n ids in one prefill, leaves. What was reused. */
static int visit(struct rig *r, uint64_t salt, const int *ids, int n) {
    struct cache_seq seq = { .salt = salt };
    assert_true(cache_begin(r->cache, &seq, ids, n));
    int reused = seq.n_reused;
    assert_int_equal(seq.n_tokens, reused);
    assert_true(reused < n);
    assert_true(feed(r, &seq, ids, n, ROWS));
    cache_release(r->cache, &seq);
    assert_false(seq.open);
    assert_int_equal(seq.salt, salt);
    return reused;
}

/* What a prompt would reuse, without computing anything. */
static int peek(struct rig *r, uint64_t salt, const int *ids, int n) {
    struct cache_seq seq = { .salt = salt };
    assert_true(cache_begin(r->cache, &seq, ids, n));
    int reused = seq.n_reused;
    cache_release(r->cache, &seq);
    return reused;
}

/* The prefix of `same` ids that everybody has, then ids of one's own. */
static void prompt(int *ids, int n, int same, int own) {
    for (int i = 0; i < n; i++) ids[i] = i < same ? i * 7 % 101 : 1000 * own + i;
}

static const struct state_need full[] = { { .per_token = 8 }, { 0 }, { .per_token = 40 } };
static const struct state_need window40[] = { { .per_token = 8 },
                                              { .per_token = 8, .window = 40 } };
static const struct state_need only40[] = { { .per_token = 8, .window = 40 } };
static const struct state_need hybrid[] = { { .per_token = 8 }, { .per_sequence = 16 } };
static const struct state_need recurrent[] = { { .per_sequence = 16 } };

static const struct cache_options roomy = { .bytes = 1 << 24, .seqs_max = 4, .tokens_max = 4096,
                                            .rows_max = ROWS, .reuse = true };

/* --- prefixes --- */

struct reuse_case {
    const struct state_need *layer;
    int n_layers, n_first, same, n_second, reused;
};

static const struct reuse_case reuse_cases[] = {
    /* layers        first same second reused */
    { full, 3,       100, 100, 100,  96 },
    { full, 3,        64,  64,  64,  32 },       /* never all of a prompt */
    { full, 3,        65,  65,  65,  64 },
    { full, 3,        31,  31,  31,   0 },
    { full, 3,        33,  33,  33,  32 },
    { full, 3,       200,  95, 200,  64 },       /* whole pages only */
    { full, 3,       200,  96, 200,  96 },
    { full, 3,       200, 200,  50,  32 },
    { full, 3,       100, 100, 300,  96 },
    { full, 3,       200,   0, 200,   0 },
    { window40, 2,   200, 200, 200, 192 },
    { window40, 2,   200,  96, 200,  96 },       /* what the window let go is still there */
    { only40, 1,     200, 128, 200, 128 },
    { hybrid, 2,     200, 200, 200, 192 },
    { hybrid, 2,     200, 190, 200,   0 },       /* no state was kept there */
    { hybrid, 2,    1500, 1400, 1500, 1024 },    /* but at lengths that double */
    { hybrid, 2,     200, 200, 400, 192 },
    { recurrent, 1,  200, 200, 200, 192 },
    { recurrent, 1,  200, 190, 200,   0 },
    { recurrent, 1, 1200, 1100, 1200, 1024 },
};

static void test_reuse(void **state) {
    (void)state;
    static int a[2048], b[2048];
    for (size_t i = 0; i < COUNT(reuse_cases); i++) {
        const struct reuse_case *c = &reuse_cases[i];
        struct rig r;
        rig_open(&r, c->layer, c->n_layers, &roomy);
        prompt(a, c->n_first, c->same, 1);
        prompt(b, c->n_second, c->same, 2);
        assert_int_equal(visit(&r, 5, a, c->n_first), 0);
        int reused = visit(&r, 5, b, c->n_second);
        if (reused != c->reused) print_message("case %zu\n", i);
        assert_int_equal(reused, c->reused);
        struct cache_stats stats = cache_stats(r.cache);
        assert_int_equal(stats.tokens_reused, c->reused);
        assert_int_equal(stats.tokens_asked, c->n_first + c->n_second);
        rig_close(&r);
    }
}

static void test_salts_share_nothing(void **state) {
    (void)state;
    struct rig r;
    int ids[100];
    prompt(ids, 100, 100, 0);
    rig_open(&r, full, 3, &roomy);
    assert_int_equal(visit(&r, 1, ids, 100), 0);
    assert_int_equal(visit(&r, 2, ids, 100), 0);
    assert_int_equal(visit(&r, 1, ids, 100), 96);
    assert_int_equal(visit(&r, 2, ids, 100), 96);
    rig_close(&r);
}

static void test_reuse_off(void **state) {
    (void)state;
    struct cache_options o = roomy;
    struct rig r;
    int ids[100];
    prompt(ids, 100, 100, 0);
    o.reuse = false;
    rig_open(&r, hybrid, 2, &o);
    assert_int_equal(visit(&r, 1, ids, 100), 0);
    assert_int_equal(visit(&r, 1, ids, 100), 0);
    assert_int_equal(cache_stats(r.cache).pages_kept, 0);
    assert_int_equal(cache_stats(r.cache).snapshots, 0);
    rig_close(&r);
}

/* The place where a second prompt parts from a first gets a snapshot: the third finds it. */
static void test_branch_is_remembered(void **state) {
    (void)state;
    struct rig r;
    int ids[300];
    rig_open(&r, hybrid, 2, &roomy);
    for (int i = 0; i < 3; i++) {
        prompt(ids, 300, 170, i);
        assert_int_equal(visit(&r, 0, ids, 300), i < 2 ? 0 : 160);
    }
    rig_close(&r);
}

/* While it generates, a sequence keeps the state of its last full page, and only that one. */
static void test_next_turn(void **state) {
    (void)state;
    struct rig r;
    struct cache_seq seq = { 0 };
    int ids[400];
    prompt(ids, 400, 400, 0);
    rig_open(&r, hybrid, 2, &roomy);
    assert_true(cache_begin(r.cache, &seq, ids, 100));
    assert_true(feed(&r, &seq, ids, 100, ROWS));
    for (int n = 101; n <= 300; n++) assert_true(feed(&r, &seq, ids, n, ROWS));
    cache_release(r.cache, &seq);
    assert_int_equal(cache_stats(r.cache).snapshots_kept, 2);
    assert_int_equal(visit(&r, 0, ids, 100), 96);
    assert_int_equal(visit(&r, 0, ids, 400), 288);
    rig_close(&r);
}

/* Neither a partial page nor someone else's is ever written to by two. */
static void test_shared_pages(void **state) {
    (void)state;
    struct rig r;
    struct cache_seq seq[3] = { { .salt = 0 } };
    int ids[3][200];
    rig_open(&r, full, 3, &roomy);
    for (int i = 0; i < 3; i++) {
        prompt(ids[i], 200, 100, i);
        assert_true(cache_begin(r.cache, &seq[i], ids[i], 150));
        assert_int_equal(seq[i].n_reused, i ? 96 : 0);
        assert_true(feed(&r, &seq[i], ids[i], 150, ROWS));
    }
    for (int p = 0; p < 3; p++) {
        assert_int_equal(seq[0].page[0][p], seq[1].page[0][p]);
        assert_int_equal(r.cache->pool[0].at[seq[0].page[0][p]].holders, 3);
    }
    assert_int_not_equal(seq[0].page[0][3], seq[1].page[0][3]);
    for (int n = 151; n <= 200; n++)
        for (int i = 0; i < 3; i++) assert_true(feed(&r, &seq[i], ids[i], n, ROWS));
    assert_int_equal(cache_stats(r.cache).pages_held, 7 + 4 + 4);
    for (int i = 0; i < 3; i++) cache_release(r.cache, &seq[i]);
    rig_close(&r);
}

/* --- short of memory --- */

static void test_full(void **state) {
    (void)state;
    struct cache_options o = { .seqs_max = 2, .tokens_max = 200, .rows_max = ROWS, .reuse = true };
    struct rig r;
    struct cache_seq a = { 0 }, b = { 0 }, c = { 0 };
    int x[200], y[200];
    prompt(x, 200, 0, 1);
    prompt(y, 200, 0, 2);
    o.bytes = ledger_bytes(full, 3, o, 6);
    rig_open(&r, full, 3, &o);
    assert_int_equal(cache_stats(r.cache).pages, 6);
    assert_int_equal(cache_stats(r.cache).tokens_max, 192);
    assert_true(cache_begin(r.cache, &a, x, 128));
    assert_true(cache_begin(r.cache, &b, y, 64));
    assert_false(cache_begin(r.cache, &c, x, 64));                    /* no place */
    assert_false(c.open);
    assert_true(feed(&r, &a, x, 128, ROWS));
    struct cache_seq *both[] = { &a, &b };
    assert_true(cache_fits(r.cache, both, (int[]){ 128, 64 }, 2));
    assert_false(cache_fits(r.cache, both, (int[]){ 129, 64 }, 2));
    assert_false(cache_fits(r.cache, both, (int[]){ 128, 65 }, 2));
    assert_true(feed(&r, &b, y, 64, ROWS));
    assert_false(cache_extend(r.cache, &b, 1));
    assert_int_equal(b.n_pages, 2);
    assert_int_equal(cache_stats(r.cache).pages_held, 6);
    cache_release(r.cache, &a);
    assert_true(cache_fits(r.cache, (struct cache_seq *[]){ &b }, (int[]){ 192 }, 1));
    assert_true(feed(&r, &b, y, 96, ROWS));
    cache_release(r.cache, &b);
    /* b took the last page of a, and nothing else. */
    assert_int_equal(cache_stats(r.cache).evictions, 1);
    assert_int_equal(peek(&r, 0, y, 97), 96);
    assert_int_equal(peek(&r, 0, x, 200), 96);
    rig_close(&r);
}

/* The pool forgets whom nobody asked for longest, and ends of prompts before beginnings. */
static void test_least_recently_used(void **state) {
    (void)state;
    struct cache_options o = { .seqs_max = 1, .tokens_max = 320, .rows_max = ROWS, .reuse = true };
    struct rig r;
    int ids[4][200];
    for (int i = 0; i < 4; i++) prompt(ids[i], 200, 0, i + 1);
    o.bytes = ledger_bytes(full, 3, o, 10);
    rig_open(&r, full, 3, &o);
    visit(&r, 0, ids[0], 96);
    visit(&r, 0, ids[1], 96);
    visit(&r, 0, ids[2], 96);                                         /* 9 of 10 */
    assert_int_equal(visit(&r, 0, ids[0], 96), 64);                   /* the oldest is the newest */
    assert_int_equal(cache_stats(r.cache).evictions, 0);
    visit(&r, 0, ids[3], 96);
    assert_int_equal(cache_stats(r.cache).evictions, 2);              /* both from the end of 1 */
    assert_int_equal(peek(&r, 0, ids[2], 97), 96);
    assert_int_equal(peek(&r, 0, ids[0], 97), 96);
    assert_int_equal(peek(&r, 0, ids[3], 97), 96);
    assert_int_equal(peek(&r, 0, ids[1], 97), 32);
    rig_close(&r);
}

/* A long sequence with a window holds no more than the window and a step. */
static void test_window_lets_go(void **state) {
    (void)state;
    struct cache_options o = { .bytes = 1 << 24, .seqs_max = 2, .tokens_max = 2000,
                               .rows_max = ROWS, .reuse = false };
    struct rig r;
    struct cache_seq seq = { 0 };
    int ids[2000];
    prompt(ids, 2000, 0, 1);
    rig_open(&r, only40, 1, &o);
    assert_true(cache_begin(r.cache, &seq, ids, 2000));
    for (int n = 1; n <= 2000; n++) {
        assert_true(feed(&r, &seq, ids, n, ROWS));
        assert_true(cache_stats(r.cache).pages_held <= 3);
    }
    assert_false(cache_extend(r.cache, &seq, 1));                     /* tokens_max */
    assert_int_equal(seq.page[0][0], -1);
    assert_int_equal(seq.page[0][(2000 - 40) / 32 - 1], -1);
    assert_int_not_equal(seq.page[0][(2000 - 40) / 32], -1);
    cache_release(r.cache, &seq);
    rig_close(&r);
}

/* Groups lose pages independently: a window's page is gone, the prefix is cut before it. */
static void test_window_page_lost(void **state) {
    (void)state;
    struct rig r;
    struct page_key key;
    int ids[200];
    prompt(ids, 200, 200, 0);
    rig_open(&r, window40, 2, &roomy);
    visit(&r, 0, ids, 200);
    assert_int_equal(r.cache->plan.n_groups, 2);
    assert_int_equal(r.cache->plan.window[1], 40);
    uint64_t parent[2] = { 0 };
    for (int i = 0; i < 5; i++) {
        prefix_key(r.cache, &key, 0, parent, ids + 32 * i);
        memcpy(parent, key.hash, sizeof parent);
    }
    /* Page 4 (128..159) of the window's: 192 reads from 152 on, 160 from 120, 128 from 88. */
    int page = pages_find(&r.cache->pool[1], &key);
    assert_true(page >= 0);
    pages_forget(&r.cache->pool[1], page);
    assert_int_equal(visit(&r, 0, ids, 200), 128);
    assert_int_equal(visit(&r, 0, ids, 200), 192);
    pages_forget(&r.cache->pool[0], pages_find(&r.cache->pool[0], &key));
    assert_int_equal(visit(&r, 0, ids, 200), 128);
    rig_close(&r);
}

static void test_snapshots_are_bounded(void **state) {
    (void)state;
    struct rig r;
    static int ids[4000];
    rig_open(&r, recurrent, 1, &roomy);
    int n = cache_stats(r.cache).snapshots;
    assert_in_range(n, 8, 64);
    for (int i = 0; i < 2 * n; i++) {
        prompt(ids, 40, 0, i);
        assert_int_equal(visit(&r, 0, ids, 40), 0);
    }
    assert_int_equal(cache_stats(r.cache).snapshots_kept, n);
    for (int i = 2 * n; i-- > n;) {
        prompt(ids, 40, 0, i);
        assert_int_equal(visit(&r, 0, ids, 40), 32);
    }
    /* One long prompt takes few of them: lengths that double, a rolling one, its end. */
    prompt(ids, 4000, 0, 99);
    visit(&r, 0, ids, 4000);
    for (int i = n; i < 2 * n; i++) {
        prompt(ids, 40, 0, i);
        assert_int_equal(peek(&r, 0, ids, 40), i < 2 * n - 5 ? 32 : 0);
    }
    rig_close(&r);
}

/* A sequence replaces its own last rolling snapshot, not what others put in its place, nor what
 * the one before it in its seat has left. */
static void test_rolling_snapshots(void **state) {
    (void)state;
    struct rig r;
    struct cache_seq seq = { 0 };
    int a[200], ids[40];
    prompt(a, 200, 0, 500);
    rig_open(&r, recurrent, 1, &roomy);
    int n = cache_stats(r.cache).snapshots;
    assert_true(cache_begin(r.cache, &seq, a, 20));
    for (int i = 20; i <= 64; i++) assert_true(feed(&r, &seq, a, i, ROWS));
    assert_int_equal(cache_stats(r.cache).snapshots_kept, 1);         /* that at 32 went */
    for (int i = 0; i < n; i++) {
        prompt(ids, 40, 0, i);
        assert_int_equal(visit(&r, 0, ids, 40), 0);
    }
    /* The last one sits where a's was. */
    assert_int_equal(peek(&r, 0, ids, 40), 32);
    for (int i = 65; i <= 100; i++) assert_true(feed(&r, &seq, a, i, ROWS));
    assert_int_equal(peek(&r, 0, ids, 40), 32);
    cache_release(r.cache, &seq);
    assert_int_equal(peek(&r, 0, a, 100), 96);
    prompt(ids, 40, 0, 1000);
    assert_true(cache_begin(r.cache, &seq, ids, 20));
    assert_int_equal(seq.slot, 0);
    for (int i = 20; i <= 40; i++) assert_true(feed(&r, &seq, ids, i, ROWS));
    cache_release(r.cache, &seq);
    assert_int_equal(peek(&r, 0, a, 100), 96);
    assert_int_equal(peek(&r, 0, ids, 40), 32);
    rig_close(&r);
}

/* A hash stands for nothing alone: salt, parent and ids must be the same. */
static void test_forged_hash(void **state) {
    (void)state;
    struct pages p;
    struct page_key key = { .salt = 1, .parent = { 2, 3 }, .hash = { 4, 5 }, .ids = { 6 } }, other;
    pages_open(&p, 2);
    int page = pages_take(&p);
    pages_keep(&p, page, &key);
    assert_int_equal(pages_find(&p, &key), page);
    other = key;
    other.salt++;
    assert_int_equal(pages_find(&p, &other), -1);
    other = key;
    other.parent[1]++;
    assert_int_equal(pages_find(&p, &other), -1);
    other = key;
    other.hash[1]++;
    assert_int_equal(pages_find(&p, &other), -1);
    other = key;
    other.ids[31]++;
    assert_int_equal(pages_find(&p, &other), -1);
    pages_drop(&p, page);
    ledger_check_pool(&p, 0);
    pages_close(&p);
    pages_open(&p, 0);
    assert_int_equal(pages_find(&p, &key), -1);
    assert_int_equal(pages_take(&p), -1);
    pages_close(&p);
}

/* Two caches hash the same prompt differently: nobody can prepare collisions. */
static void test_secret(void **state) {
    (void)state;
    struct rig a, b;
    struct page_key x, y, z;
    const int ids[CACHE_PAGE_TOKENS] = { 1, 2, 3 };
    const uint64_t root[2] = { 0 };
    rig_open(&a, full, 3, &roomy);
    rig_open(&b, full, 3, &roomy);
    prefix_key(a.cache, &x, 0, root, ids);
    prefix_key(b.cache, &y, 0, root, ids);
    prefix_key(a.cache, &z, 1, root, ids);
    assert_memory_not_equal(x.hash, y.hash, sizeof x.hash);
    assert_memory_not_equal(x.hash, z.hash, sizeof x.hash);
    cache_close(a.cache);
    cache_close(b.cache);
}

/* The least that a plan gives a window lets one sequence of any length move. */
static void test_least_window(void **state) {
    (void)state;
    int ids[400];
    uint64_t seed = 3;
    prompt(ids, 400, 0, 1);
    for (int window = 31; window <= 65; window++) {
        for (int rows = 1; rows <= 64; rows += 21) {
            const struct state_need layer = { .per_token = 8, .window = window };
            struct cache_options o = { .bytes = 1, .seqs_max = 1, .tokens_max = 400,
                                       .rows_max = rows };
            struct cache_seq seq = { 0 };
            struct rig r;
            o.bytes = cache_bytes(&layer, 1, &o);
            rig_open(&r, &layer, 1, &o);
            assert_true(cache_begin(r.cache, &seq, ids, 400));
            struct cache_seq *one = &seq;
            assert_true(cache_fits(r.cache, &one, (int[]){ 400 }, 1));
            while (seq.n_tokens < 400) {
                int to = seq.n_tokens + 1 + ledger_draw(&seed, 100);
                assert_true(feed(&r, &seq, ids, MIN(to, 400), rows));
            }
            cache_release(r.cache, &seq);
            rig_close(&r);
        }
    }
}

/* Beyond a sequence's pages the table names none. */
static void test_tables(void **state) {
    (void)state;
    struct rig r;
    struct cache_seq a = { 0 }, b = { 0 }, *both[] = { &a, &b };
    int ids[300];
    prompt(ids, 300, 0, 1);
    rig_open(&r, window40, 2, &roomy);
    assert_true(cache_begin(r.cache, &a, ids, 300));
    assert_true(cache_begin(r.cache, &b, ids, 300));
    assert_true(feed(&r, &a, ids, 150, ROWS) && feed(&r, &b, ids, 40, ROWS));
    cache_bind(r.cache, both, 2);
    struct kv_view full_view = cache_kv(r.cache, 0), window_view = cache_kv(r.cache, 1);
    assert_in_range(full_view.pages_max, 5, 8);
    assert_int_equal(full_view.page_tokens, 32);
    for (int p = 0; p < full_view.pages_max; p++) {
        const int *second = full_view.table + full_view.pages_max;
        assert_int_equal(full_view.table[p] >= 0, p < 5);
        assert_int_equal(second[p] >= 0, p < 2);
        assert_int_equal(window_view.table[p] >= 0, p >= 3 && p < 5);
    }
    cache_release(r.cache, &a);
    cache_release(r.cache, &b);
    rig_close(&r);
}

/* --- the plan --- */

static void test_groups(void **state) {
    (void)state;
    struct state_need l[7] = { { 0 } };
    struct cache_options o = roomy;
    struct plan plan;
    const int windows[7] = { 512, 64, 4096, 128, 256, 64, 1024 };
    for (int i = 0; i < 7; i++) l[i] = (struct state_need){ .per_token = 8, .window = windows[i] };
    assert_true(plan_make(&plan, l, 7, &o, NULL));
    /* 4096 is all of the context; five windows are too many, the longest count as full. */
    assert_int_equal(plan.n_groups, 4);
    const int want[4] = { 0, 64, 128, 256 }, group[7] = { 0, 1, 0, 2, 3, 1, 0 };
    for (int g = 0; g < 4; g++) assert_int_equal(plan.window[g], want[g]);
    for (int i = 0; i < 7; i++) assert_int_equal(plan_group(&plan, &l[i]), group[i]);
    assert_int_equal(plan.pages[0], 4 * 128);
    for (int g = 1; g < 4; g++) {
        assert_true(plan.pages[g] >= plan.working[g] * 4);
        assert_true(plan.pages[g] <= plan.pages[0]);
    }
    l[2].window = 0;
    assert_true(plan_make(&plan, l + 1, 3, &o, NULL));
    assert_int_equal(plan.n_groups, 3);
}

struct bad_case {
    struct state_need layer;
    struct cache_options options;
    enum err_code code;
    const char *says;
};

static const struct bad_case bad_cases[] = {
    { { .per_token = 8 }, { .bytes = 500, .seqs_max = 3, .tokens_max = 777, .rows_max = 8 },
      ERR_MEMORY, "500" },
    { { .per_sequence = 5000 }, { .bytes = 14999, .seqs_max = 3, .tokens_max = 777, .rows_max = 8 },
      ERR_MEMORY, "14999" },
    { { .per_token = SIZE_MAX / 16 }, { .seqs_max = 3, .tokens_max = 777, .rows_max = 8 },
      ERR_MEMORY, "777" },
    { { .per_sequence = SIZE_MAX - 3 }, { .seqs_max = 3, .tokens_max = 777, .rows_max = 8 },
      ERR_MEMORY, "777" },
    { { .per_token = 8 }, { .seqs_max = 0, .tokens_max = 8, .rows_max = 8 }, ERR_FAILED, "0 seq" },
    { { .per_token = 8 }, { .seqs_max = 1, .tokens_max = -8, .rows_max = 8 }, ERR_FAILED, "-8" },
    { { .per_token = 8 }, { .seqs_max = 1, .tokens_max = 8, .rows_max = 0 }, ERR_FAILED, "range" },
    { { .per_token = 8, .window = -1 }, { .seqs_max = 1, .tokens_max = 8, .rows_max = 8 },
      ERR_FAILED, "range" },
};

static void test_bad_options(void **state) {
    (void)state;
    struct device dev = { .op = &ledger_ops };
    for (size_t i = 0; i < COUNT(bad_cases); i++) {
        const struct bad_case *c = &bad_cases[i];
        struct err err = { 0 };
        assert_null(cache_open(&dev, &c->layer, 1, &c->options, &err));
        assert_int_equal(err.code, c->code);
        assert_non_null(strstr(err.text, c->says));
    }
    struct err err = { 0 };
    ledger_alloc_limit = 1 << 20;
    assert_null(cache_open(&dev, full, 3, &(struct cache_options){ .bytes = 1 << 22, .seqs_max = 64,
                           .tokens_max = 65536, .rows_max = 8 }, &err));
    ledger_alloc_limit = SIZE_MAX;
    assert_int_equal(err.code, ERR_MEMORY);
    assert_non_null(strstr(err.text, "65536"));
}

/* What is opened takes what was estimated, never more than allowed, and nearly all of it. */
static void test_budget(void **state) {
    (void)state;
    struct device dev = { .op = &ledger_ops };
    const struct state_need l[] = { { .per_token = 512 }, { .per_token = 512, .window = 100 },
                                    { .per_sequence = 3000 } };
    struct cache_options o = { .seqs_max = 8, .tokens_max = 8192, .rows_max = 64, .reuse = true };
    size_t last = 0;
    for (o.bytes = 1 << 20; o.bytes <= (size_t)1 << 27; o.bytes *= 2) {
        struct cache *c = cache_open(&dev, l, 3, &o, NULL);
        assert_non_null(c);
        struct cache_stats s = cache_stats(c);
        assert_int_equal(s.bytes, ledger_alloc_bytes);
        assert_int_equal(s.bytes, cache_bytes(l, 3, &o));
        assert_true(s.bytes <= o.bytes && s.bytes >= last);
        if (s.pages < 8 * 256) assert_true(s.bytes > o.bytes - 3 * 512 * 32);
        assert_int_equal(s.tokens_max, MIN(s.pages * 32, 8192));
        last = s.bytes;
        cache_close(c);
    }
    assert_int_equal(cache_bytes(l, 3, &o), last);
    assert_true(last < o.bytes / 2);
    o.bytes = 0;
    o.tokens_max = 256;
    assert_true(cache_bytes(l, 3, &o) > 8 * 256 * 512);
    struct state_need huge = { .per_token = SIZE_MAX / 16 };
    assert_int_equal(cache_bytes(&huge, 1, &o), 0);
    o.bytes = 1000;
    assert_true(cache_bytes(l, 3, &o) > 1000);
}

static size_t free_there;

static void memory_there(const struct device *dev, size_t *free_bytes, size_t *all_bytes) {
    (void)dev;
    *free_bytes = free_there;
    *all_bytes = 2 * free_there;
}

/* Where a device has memory of its own, 7/8 of what is free there, whatever the host has; what the
 * user says comes first. */
static void test_device_memory(void **state) {
    (void)state;
    struct device_ops ops = ledger_ops;
    struct device dev = { .op = &ops };
    const struct state_need l[] = { { .per_token = 512 } };
    struct cache_options o = { .seqs_max = 8, .tokens_max = 8192, .rows_max = 64 };
    struct err err = { 0 };
    ops.memory = memory_there;
    for (free_there = 1 << 20; free_there <= 1 << 23; free_there *= 2) {
        struct cache *c = cache_open(&dev, l, 1, &o, NULL);
        assert_non_null(c);
        const size_t bytes = cache_stats(c).bytes, most = free_there / 8 * 7;
        assert_true(bytes <= most && bytes > most - 3 * 512 * 32);
        cache_close(c);
    }
    free_there = 1000;
    assert_null(cache_open(&dev, l, 1, &o, &err));
    assert_non_null(strstr(err.text, "875 are 7/8 of the device's free memory"));
    o.bytes = 1 << 20;
    struct cache *c = cache_open(&dev, l, 1, &o, NULL);
    assert_non_null(c);
    cache_close(c);
}

/* --- random lives --- */

/* Sequences of two salts that begin alike, grow by turns, end at any time. */
static void random_lives(const struct state_need *layer, int n_layers, int pages, uint64_t seed) {
    enum { SEQS = 5, LENGTH = 260 };
    struct cache_options o = { .bytes = 1 << 22, .seqs_max = SEQS, .tokens_max = LENGTH,
                               .rows_max = 48, .reuse = true };
    struct rig r;
    struct cache_seq seq[SEQS] = { { .salt = 0 } };
    int ids[SEQS][LENGTH], n[SEQS];
    o.bytes = pages ? ledger_bytes(layer, n_layers, o, pages) : o.bytes;
    rig_open(&r, layer, n_layers, &o);
    for (int turn = 0; turn < 1500; turn++) {
        int i = ledger_draw(&seed, SEQS);
        struct cache_seq *s = &seq[i];
        if (!s->open) {
            int other = ledger_draw(&seed, SEQS), same = ledger_draw(&seed, LENGTH);
            for (int p = 0; p < LENGTH; p++)
                ids[i][p] = turn > 50 && p < same ? ids[other][p] : ledger_draw(&seed, 3);
            n[i] = 1 + ledger_draw(&seed, LENGTH);
            s->salt = (uint64_t)ledger_draw(&seed, 2);
            assert_true(cache_begin(r.cache, s, ids[i], n[i]));
        }
        int to = s->n_tokens + 1 + ledger_draw(&seed, 60), step = 1 + ledger_draw(&seed, 48);
        bool ok = s->n_tokens >= n[i] || feed(&r, s, ids[i], MIN(n[i], to), step);
        int more = ledger_draw(&seed, 3);
        if (ok && s->n_tokens >= n[i]) n[i] = MIN(LENGTH, n[i] + more);
        if (!ok || s->n_tokens >= LENGTH || !ledger_draw(&seed, 12)) cache_release(r.cache, s);
    }
    for (int i = 0; i < SEQS; i++) cache_release(r.cache, &seq[i]);
    assert_true(cache_stats(r.cache).tokens_reused > 0);
    rig_close(&r);
}

static void test_random_lives(void **state) {
    (void)state;
    const struct state_need mixed[] = { { .per_token = 8, .window = 20 }, { .per_sequence = 16 },
                                        { .per_token = 8 }, { .per_token = 8, .window = 70 } };
    for (uint64_t seed = 1; seed <= 5; seed++) {
        random_lives(full, 3, 0, seed);
        random_lives(full, 3, 12, seed);
        random_lives(window40, 2, 14, seed);
        random_lives(only40, 1, 0, seed);
        random_lives(hybrid, 2, 20, seed);
        random_lives(recurrent, 1, 0, seed);
        random_lives(mixed, 4, 14, seed);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reuse),
        cmocka_unit_test(test_salts_share_nothing),
        cmocka_unit_test(test_reuse_off),
        cmocka_unit_test(test_branch_is_remembered),
        cmocka_unit_test(test_next_turn),
        cmocka_unit_test(test_shared_pages),
        cmocka_unit_test(test_full),
        cmocka_unit_test(test_least_recently_used),
        cmocka_unit_test(test_window_lets_go),
        cmocka_unit_test(test_window_page_lost),
        cmocka_unit_test(test_snapshots_are_bounded),
        cmocka_unit_test(test_rolling_snapshots),
        cmocka_unit_test(test_forged_hash),
        cmocka_unit_test(test_secret),
        cmocka_unit_test(test_least_window),
        cmocka_unit_test(test_tables),
        cmocka_unit_test(test_groups),
        cmocka_unit_test(test_bad_options),
        cmocka_unit_test(test_budget),
        cmocka_unit_test(test_device_memory),
        cmocka_unit_test(test_random_lives),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
