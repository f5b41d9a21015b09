/* sched.c - who runs, with how many rows, and who gives up its pages.
 *
 * Requests have an order of worth: level, the turn of their client, arrival. Everything
 * follows it: who starts, who gets rows, who is preempted (from the other end). The most worthy
 * request always moves, so every request ends. Of the rows for prompts a half goes another
 * way, to the shortest one, so that nobody waits long behind a long prompt. Nothing that a request
 * generates depends on these choices. Those who wait cost a step nothing: they are looked at when
 * one of them may leave, and now and then for their age. */
#include "batch/batch.h"

#include <assert.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum { TURN_BITS = 6, TURN_BITS_MAX = 20, TURN_PROBES = 8, ANSWER_USUAL = 256,
       AGE_CHECKS = 8,                 /* checks per patience */
       STUCK_STEPS = 8 };

struct turn { uint64_t client, end; };           /* end 0: nobody's */

struct sched {
    struct cache *cache;
    struct sched_options options;
    struct request **running;        /* [requests_max] by worth */
    int n_running, n_waiting;
    int n_gathering;                 /* of them all: whose prompts hold up those that decode */
    struct request *waiting;         /* by worth */
    struct request *done, *done_last;
    uint64_t arrivals, preempted, restarted, aged;
    uint64_t steps, age_check;       /* that had rows; the step of the next look at ages */
    bool look;                       /* one of those who wait may leave */
    const struct request *stuck;     /* found no room, and nobody has left since: looking again */
    uint64_t stuck_until;            /*   costs a hash of its prompt, so not before this step */
    uint64_t now;                    /* the turn of the last request that started */
    struct turn *turn; int turn_bits;        /* a hash table of those whose end is still ahead of
                                                now; it grows where they do not fit */
    bool reuse;
    int tokens_max;                  /* longest sequence that fits the cache alone */
    /* the batch that sched_next fills */
    struct request **req;
    int *ids, *pos, *seq, *first, *logit_row, *logit_req, *variant;
    struct cache_seq **seqs;         /* [requests_max], also for cache_fits with length */
    int *length;
};

struct sched *sched_open(struct cache *cache, const struct sched_options *o) {
    assert(o->rows_max > 0 && o->requests_max > 0 && o->waiting_max >= 0);
    struct sched *s = mem_new(sizeof *s);
    struct cache_stats stats = cache_stats(cache);
    *s = (struct sched){ .cache = cache, .options = *o, .reuse = stats.reuse,
                         .tokens_max = stats.tokens_max };
    if (o->chunk_max < 1 || o->chunk_max > o->rows_max) s->options.chunk_max = o->rows_max;
    if (o->logits_max < 1 || o->logits_max > o->rows_max) s->options.logits_max = o->rows_max;
    size_t rows = (size_t)o->rows_max, requests = (size_t)o->requests_max;
    s->turn_bits = TURN_BITS;
    s->turn = mem_array((size_t)1 << TURN_BITS, sizeof *s->turn);
    s->running = mem_array(requests, sizeof *s->running);
    s->req = mem_array(requests, sizeof *s->req);
    s->seqs = mem_array(requests, sizeof *s->seqs);
    s->length = mem_array(requests, sizeof(int));
    s->variant = mem_array(requests, sizeof(int));
    s->first = mem_array(requests + 1, sizeof(int));
    s->ids = mem_array(rows, sizeof(int));
    s->pos = mem_array(rows, sizeof(int));
    s->seq = mem_array(rows, sizeof(int));
    s->logit_row = mem_array(rows, sizeof(int));
    s->logit_req = mem_array(rows, sizeof(int));
    return s;
}

void sched_close(struct sched *s) {
    if (!s) return;
    for (int i = 0; i < s->n_running; i++) cache_release(s->cache, &s->running[i]->seq);
    free(s->logit_req);
    free(s->logit_row);
    free(s->seq);
    free(s->pos);
    free(s->ids);
    free(s->first);
    free(s->variant);
    free(s->length);
    free(s->seqs);
    free(s->req);
    free(s->running);
    free(s->turn);
    free(s);
}

static bool worthier(const struct request *a, const struct request *b) {
    if (a->level != b->level) return a->level > b->level;
    if (a->turn != b->turn) return a->turn < b->turn;
    return a->arrival < b->arrival;
}

/* The client's entry, or one that nobody needs; NULL: there is neither where it could be. */
static struct turn *turn_place(struct sched *s, uint64_t client) {
    struct turn *empty = NULL;
    uint64_t mask = ((uint64_t)1 << s->turn_bits) - 1;
    uint64_t at = client * 0x9e3779b97f4a7c15u >> (64 - s->turn_bits);
    for (uint64_t i = 0; i < TURN_PROBES; i++) {
        struct turn *t = &s->turn[(at + i) & mask];
        if (t->end > s->now && t->client == client) return t;
        if (!empty && t->end <= s->now) empty = t;
    }
    return empty;
}

static void grow_turns(struct sched *s) {
    struct turn *before = s->turn;
    size_t n = (size_t)1 << s->turn_bits++;
    s->turn = mem_array(2 * n, sizeof *s->turn);
    for (size_t i = 0; i < n; i++) {
        struct turn *t = before[i].end > s->now ? turn_place(s, before[i].client) : NULL;
        if (t) *t = before[i];
    }
    free(before);
}

/* Beyond a million clients with work ahead of them one may lose its place, and so come early. */
static struct turn *turn_of(struct sched *s, uint64_t client) {
    struct turn *t = turn_place(s, client);
    for (; !t && s->turn_bits < TURN_BITS_MAX; t = turn_place(s, client)) grow_turns(s);
    if (!t) t = &s->turn[client & (((uint64_t)1 << s->turn_bits) - 1)];
    if (t->client != client || t->end <= s->now) *t = (struct turn){ .client = client };
    return t;
}

static void take_turn(struct sched *s, struct request *r) {
    struct turn *t = turn_of(s, r->client);
    int answer = MIN(MAX(r->n_max - r->ids.len, 0), ANSWER_USUAL);
    r->turn = MAX(s->now, t->end);
    t->end = r->turn + (uint64_t)r->ids.len + (uint64_t)answer;
}

static void queue(struct sched *s, struct request *r) {
    struct request **at = &s->waiting;
    while (*at && worthier(*at, r)) at = &(*at)->next;
    r->next = *at;
    *at = r;
    r->phase = WAITING;
    r->since = s->steps;
    s->n_waiting++;
    s->look |= r->cancelled || r->over || r->ids.len > s->tokens_max;
}

/* The caller unlinks it. */
static void leave_queue(struct sched *s, struct request *r) {
    s->n_waiting--;
    r->waited += s->steps - r->since;
}

bool sched_add(struct sched *s, struct request *r) {
    assert(r->ids.len > 0 && !r->seq.open);
    if (s->n_waiting >= s->options.waiting_max) return false;
    r->arrival = ++s->arrivals;
    r->level = r->priority;
    take_turn(s, r);
    s->n_gathering += r->gather;
    /* The last id's logits are the point of it all. */
    r->logits_from = MAX(MIN(r->logits_from, r->ids.len - 1), 0);
    queue(s, r);
    return true;
}

void sched_cancel(struct sched *s, uint64_t id) {
    sched_look(s);
    for (struct request *r = s->waiting; r; r = r->next)
        if (r->id == id) r->cancelled = true;
    for (int i = 0; i < s->n_running; i++)
        if (s->running[i]->id == id) s->running[i]->cancelled = true;
}

void sched_look(struct sched *s) {
    s->look = true;
}

void sched_finish(struct sched *s, struct request *r) {
    r->over = true;
    s->look |= r->phase == WAITING;
}

static void run(struct sched *s, struct request *r) {
    int i = s->n_running++;
    for (; i > 0 && worthier(r, s->running[i - 1]); i--) s->running[i] = s->running[i - 1];
    s->running[i] = r;
    r->phase = RUNNING;
}

/* Out of the running ones, without its pages; they stay findable. */
static void stop(struct sched *s, struct request *r) {
    int i = 0;
    while (s->running[i] != r) i++;
    memmove(&s->running[i], &s->running[i + 1],
            (size_t)(--s->n_running - i) * sizeof(struct request *));
    cache_release(s->cache, &r->seq);
    s->stuck = NULL;
    r->n_done = r->n_now = 0;
}

/* Its prompt is read, or never will be. */
static void gathered(struct sched *s, struct request *r) {
    s->n_gathering -= r->gather;
    r->gather = false;
}

static void finish(struct sched *s, struct request *r) {
    gathered(s, r);
    r->phase = FINISHED;
    r->n_now = 0;
    r->next = NULL;
    if (s->done) s->done_last->next = r;
    else s->done = r;
    s->done_last = r;
}

struct request *sched_done(struct sched *s) {
    struct request *r = s->done;
    if (!r) return NULL;
    s->done = r->next;
    r->next = NULL;
    return r;
}

static void preempt(struct sched *s, struct request *r) {
    stop(s, r);
    queue(s, r);
    r->n_preempted++;
    s->preempted++;
}

bool sched_preempt(struct sched *s, uint64_t id) {
    for (int i = 0; i < s->n_running; i++)
        if (s->running[i]->id == id) {
            preempt(s, s->running[i]);
            return true;
        }
    return false;
}

/* The rope factors of the whole sequence depend on its length. */
static int variant_of(const struct sched *s, const struct request *r) {
    return s->options.restart_at > 0 && r->ids.len > s->options.restart_at;
}

/* Sequences of another variant hold other numbers for the same ids, so they get another salt. */
static void set_variant(struct request *r, int variant) {
    if (r->variant == variant) return;
    assert(!r->seq.open && variant == 1);
    r->variant = variant;
    r->seq.salt = (r->seq.salt ^ 0x9e3779b97f4a7c15u) * 0xff51afd7ed558ccdu + 1;
}

/* Whether a request leaves. One that cannot fit is found out here, before it takes the pages
 * of everyone else. */
static bool leaves(const struct sched *s, struct request *r) {
    if (r->cancelled || r->over) return true;
    r->starved = r->ids.len > s->tokens_max;
    return r->starved;
}

static void sweep_waiting(struct sched *s) {
    for (struct request **at = &s->waiting; s->look && *at;) {
        struct request *r = *at;
        if (!leaves(s, r)) {
            at = &r->next;
            continue;
        }
        *at = r->next;
        leave_queue(s, r);
        finish(s, r);
    }
    s->look = false;
}

/* Those that waited for too long rise to the level of the most worthy. They stay there, or
 * the next urgent request would send them back. */
static void raise_aged(struct sched *s) {
    uint64_t patience = (uint64_t)s->options.patience;
    if (!patience || s->steps < s->age_check) return;
    s->age_check = s->steps + MAX(patience / AGE_CHECKS, 1);
    int top = s->waiting ? s->waiting->level : INT_MIN;
    if (s->n_running) top = MAX(top, s->running[0]->level);
    struct request *aged = NULL;
    for (struct request **at = &s->waiting; *at;) {
        struct request *r = *at;
        if (r->level == top || r->waited + s->steps - r->since < patience) {
            at = &r->next;
            continue;
        }
        *at = r->next;
        leave_queue(s, r);
        r->next = aged;
        aged = r;
    }
    for (struct request *r = aged, *next; r; r = next) {
        next = r->next;
        r->level = top;
        s->stuck = NULL;
        s->aged++;
        queue(s, r);
    }
}

/* Those that are over leave; those that grew past restart_at begin anew. */
static void sweep(struct sched *s) {
    sweep_waiting(s);
    for (int i = 0; i < s->n_running;) {
        struct request *r = s->running[i];
        r->n_now = 0;
        if (leaves(s, r)) {
            stop(s, r);
            finish(s, r);
        } else if (variant_of(s, r) != r->variant) {
            stop(s, r);
            queue(s, r);
            s->restarted++;
        } else i++;
    }
}

/* What is left of the batch while it is put together. */
struct room { int rows, logits; };

/* How many rows of r the batch can take: its logits must have room as well, and a chunk
 * should end where the cache can keep the state. */
static int rows_for(struct sched *s, struct request *r, const struct room *room) {
    int left = r->ids.len - r->n_done;
    int n = MIN(MIN(left, room->rows), s->options.chunk_max);
    if (n < 1) return 0;
    n = MIN(n, cache_stop(s->cache, &r->seq, r->ids.len) - r->n_done);
    int silent = MAX(r->logits_from - r->n_done, 0);     /* rows without logits come first */
    return n > silent ? MIN(n, silent + room->logits) : n;
}

static void take_rows(struct request *r, int n, struct room *room) {
    r->n_now = n;
    room->rows -= n;
    room->logits -= MAX(r->n_done + n - MAX(r->logits_from, r->n_done), 0);
}

static void give_back(struct request *r, struct room *room) {
    room->rows += r->n_now;
    room->logits += MAX(r->n_done + r->n_now - MAX(r->logits_from, r->n_done), 0);
    r->n_now = 0;
}

static void starve(struct sched *s, struct request *r) {
    r->starved = true;
    stop(s, r);
    finish(s, r);
}

/* Rows for a running request, if need be with the pages of less worthy ones. The least worthy
 * one itself keeps its pages and sits out a step. False: r has left the running ones. */
static bool give_rows(struct sched *s, struct request *r, struct room *room) {
    int n = rows_for(s, r, room);
    if (n < 1) return true;
    while (!cache_extend(s->cache, &r->seq, n)) {
        struct request *victim = s->running[s->n_running - 1];
        if (victim == r && s->n_running > 1) return true;
        if (victim == r) {
            starve(s, r);
            return false;
        }
        give_back(victim, room);
        preempt(s, victim);
    }
    take_rows(r, n, room);
    return true;
}

static bool decodes(const struct request *r) {
    return r->ids.len - r->n_done == 1;
}

/* Decoding requests first, or else a long prompt would hold up everyone's next token. `hold`: but
 * for the last row of a prompt that is gathered, they get none. */
static void feed_running(struct sched *s, bool decoding, bool hold, struct room *room) {
    for (int i = 0; i < s->n_running;) {
        struct request *r = s->running[i];
        bool skip = r->n_now || decodes(r) != decoding || (decoding && hold && !r->gather);
        if (skip || give_rows(s, r, room)) i++;
    }
}

/* Whether a running request of this batch is about to compute full pages that r could use
 * instead of computing them, beyond those it has found. */
static bool is_being_computed(const struct sched *s, const struct request *r) {
    int found = r->seq.n_tokens, limit = MIN(r->ids.len - 1, r->logits_from);
    for (int i = 0; s->reuse && i < s->n_running; i++) {
        const struct request *q = s->running[i];
        if (!q->n_now || q->seq.salt != r->seq.salt) continue;
        int n = MIN(q->ids.len, limit), same = 0;
        while (same < n && q->ids.at[same] == r->ids.at[same]) same++;
        same -= same % CACHE_PAGE_TOKENS;
        if (same > found && q->n_done < same) return true;
    }
    return false;
}

/* Room for everyone who runs and for r, to the ends of what they have and a page more. A
 * request that starts without it would soon be preempted, and its work be lost. */
static bool fits_beside(struct sched *s, struct request *r) {
    for (int i = 0; i <= s->n_running; i++) {
        struct request *q = i < s->n_running ? s->running[i] : r;
        s->seqs[i] = &q->seq;
        s->length[i] = MIN(q->ids.len + CACHE_PAGE_TOKENS, MAX(q->n_max, q->ids.len));
    }
    return cache_fits(s->cache, s->seqs, s->length, s->n_running + 1);
}

enum verdict { STARTED, LATER, NO_ROOM };

static enum verdict try_start(struct sched *s, struct request *r) {
    set_variant(r, variant_of(s, r));
    /* Positions whose logits are wanted have to be computed. */
    if (!cache_begin(s->cache, &r->seq, r->ids.at, MIN(r->ids.len, r->logits_from + 1)))
        return NO_ROOM;
    enum verdict verdict = STARTED;
    if (s->n_running && is_being_computed(s, r)) verdict = LATER;
    else if (s->n_running && !fits_beside(s, r)) verdict = NO_ROOM;
    if (verdict != STARTED) {
        cache_release(s->cache, &r->seq);
        return verdict;
    }
    r->n_done = r->seq.n_tokens;
    if (!r->started) r->n_cached = r->n_done;
    r->started = true;
    return STARTED;
}

/* The least worthy running request makes way, if its level is lower than that of r. */
static bool make_way(struct sched *s, const struct request *r, struct room *room) {
    struct request *victim = s->n_running ? s->running[s->n_running - 1] : NULL;
    if (!victim || victim->level >= r->level) return false;
    give_back(victim, room);
    preempt(s, victim);
    return true;
}

/* In order of worth, none past one that finds no room. Those who wait for somebody else's
 * pages count as if they ran, which bounds the looking. */
static void start_waiting(struct sched *s, struct room *room) {
    int n_later = 0;
    for (struct request **at = &s->waiting; *at;) {
        struct request *r = *at;
        if (room->rows < 1) return;
        if (s->n_running + n_later >= s->options.requests_max && !make_way(s, r, room)) return;
        if (r == s->stuck && s->steps < s->stuck_until) return;
        enum verdict verdict = try_start(s, r);
        if (verdict == NO_ROOM && make_way(s, r, room)) continue;
        if (verdict == NO_ROOM) {
            s->stuck = r;
            s->stuck_until = s->steps + STUCK_STEPS;
            return;
        }
        if (verdict == LATER) {
            n_later++;
            at = &r->next;
            continue;
        }
        *at = r->next;
        leave_queue(s, r);
        s->now = MAX(s->now, r->turn);
        run(s, r);
        give_rows(s, r, room);
    }
}

static void put_request(struct sched *s, struct batch *b, struct request *r) {
    int i = b->n_req++;
    s->req[i] = r;
    s->seqs[i] = &r->seq;
    s->variant[i] = r->variant;
    s->first[i] = b->n_rows;
    b->n_decoding += decodes(r);
    for (int p = r->n_done; p < r->n_done + r->n_now; p++) {
        int row = b->n_rows++;
        s->ids[row] = r->ids.at[p];
        s->pos[row] = p;
        s->seq[row] = i;
        if (p < r->logits_from) continue;
        s->logit_row[b->n_logits] = row;
        s->logit_req[b->n_logits++] = i;
    }
    s->first[i + 1] = b->n_rows;
}

/* Once those that decode have their rows: what prompts may have, and which part of that is
 * kept from the order of worth when more than one prompt is to be read. */
static int limit_prompts(const struct sched *s, struct room *room) {
    int n_decoding = 0, n_reading = 0;
    for (int i = 0; i < s->n_running; i++) {
        bool decoding = decodes(s->running[i]);
        n_decoding += s->running[i]->n_now && decoding;
        n_reading += !decoding;
    }
    if (s->options.budget) room->rows = budget_rows(s->options.budget, n_decoding, room->rows);
    return n_reading && n_reading + s->n_waiting > 1 ? room->rows / 2 : 0;
}

static int rows_left(const struct request *r) {
    return r->ids.len - r->n_done - r->n_now;
}

/* What is left of the rows goes to the prompts that need the fewest, each asked once. */
static void feed_shortest(struct sched *s, struct room *room) {
    int last = 0;
    uint64_t last_arrival = 0;
    while (room->rows > 0) {
        struct request *r = NULL;
        for (int i = 0; i < s->n_running; i++) {
            struct request *q = s->running[i];
            int left = rows_left(q);
            bool asked = left < last || (left == last && q->arrival <= last_arrival);
            if (!decodes(q) && !asked && (!r || left < rows_left(r))) r = q;
        }
        if (!r) return;
        last = rows_left(r);
        last_arrival = r->arrival;
        give_back(r, room);
        give_rows(s, r, room);
    }
}

/* Rows for all who run, and for those who can start. */
static void feed(struct sched *s, bool hold) {
    struct room room = { .rows = s->options.rows_max, .logits = s->options.logits_max };
    feed_running(s, true, hold, &room);
    int reserve = limit_prompts(s, &room);
    room.rows -= reserve;
    feed_running(s, false, hold, &room);
    room.rows += reserve;
    start_waiting(s, &room);
    feed_shortest(s, &room);
}

static bool any_rows(const struct sched *s) {
    for (int i = 0; i < s->n_running; i++)
        if (s->running[i]->n_now) return true;
    return false;
}

bool sched_next(struct sched *s, struct batch *b) {
    *b = (struct batch){ .req = s->req, .ids = s->ids, .logit_row = s->logit_row,
                         .logit_req = s->logit_req, .variant = s->variant };
    sweep(s);
    raise_aged(s);
    feed(s, s->n_gathering);
    /* Prompts that found no pages wait for those that decode. */
    if (s->n_gathering && !any_rows(s)) feed(s, false);
    for (int i = 0; i < s->n_running; i++)
        if (s->running[i]->n_now) put_request(s, b, s->running[i]);
    b->rows = (struct rows){ .n_rows = b->n_rows, .n_seqs = b->n_req, .pos = s->pos,
                             .seq = s->seq, .first = s->first };
    assert(b->n_rows <= s->options.rows_max && b->n_logits <= s->options.logits_max);
    if (!b->n_rows) return false;
    s->steps++;
    cache_bind(s->cache, s->seqs, b->n_req);
    return true;
}

void sched_commit(struct sched *s, const struct batch *b, const int *token) {
    for (int i = 0; i < b->n_req; i++) {
        struct request *r = b->req[i];
        cache_commit(s->cache, &r->seq, r->ids.at + r->n_done, r->n_now);
        r->n_done += r->n_now;
        r->n_now = 0;
        if (r->n_done >= r->n_prompt) gathered(s, r);
        r->logits_from = MAX(r->logits_from, r->n_done);
    }
    for (int i = 0; i < b->n_logits; i++) {
        struct request *r = b->req[b->logit_req[i]];
        if (b->rows.pos[b->logit_row[i]] != r->ids.len - 1) continue;
        if (token[i] == -1 || r->ids.len >= r->n_max) r->over = true;
        else ids_put(&r->ids, token[i]);
        r->over |= r->ids.len >= r->n_max;
    }
}

void sched_know(struct request *r, int position, int token) {
    assert(position < r->ids.len && r->ids.at[position] <= DRAWN);
    r->ids.at[position] = token;
}

struct sched_stats sched_stats(const struct sched *s) {
    return (struct sched_stats){ .waiting = s->n_waiting, .running = s->n_running,
                                 .preempted = s->preempted, .restarted = s->restarted,
                                 .aged = s->aged };
}
