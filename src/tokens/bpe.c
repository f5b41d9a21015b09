/* bpe.c - byte pair encoding: the pair of lowest rank merges first, the leftmost of equals.
 *
 * Short words scan for the lowest rank, long ones keep a heap over a linked list: n log n
 * for a megabyte of one letter. Words that repeat within a call are remembered. Words of bytes that
 * are Chinese and the like are cut where no token reaches across, and begin with characters. */
#include "tokens/model.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>
#include "base/pull.h"
#include "base/utf8.h"
#include "tokens/byte_chars.h"
#include "tokens/joints.h"
#include "tokens/text.h"

enum { SCAN_MAX = 32, MERGES_MAX = 1 << 23, CACHE_SLOTS = 1 << 12, CACHE_WORD_MAX = 64,
       CACHE_IDS_MAX = 15, FAST_CPS = 0x180, PAIR_BYTES_MAX = 1 << 9, CACHE_FROM = 32,
       LATE = 16, MERGE_BYTES_MIN = 12, WIDE_FROM = 0x800, WIDE_END = 0x10000, WIDE_BYTES = 3,
       WIDE_WORTH = 1 << 16 };

static const uint32_t NO_RANK = UINT32_MAX;

struct merge { uint32_t left, right, rank, id; };    /* rank NO_RANK: a free slot */

/* What characters of three bytes come out as where nothing reaches into them. It takes tens of
 * milliseconds to make, as long as merging WIDE_WORTH bytes of such words some times over: so it is
 * made when there were as many, and a short prompt does not wait for it. */
struct wide {
    struct joints *joints;
    /* Every merge comes after those that made its parts: then merges come in the order of their
     * ranks, and those inside a character may as well come first. */
    bool in_order;
    struct { int id[WIDE_BYTES]; } of_cp[WIDE_END - WIDE_FROM];      /* -1: no more */
};

struct bpe {
    struct merge *merge;             /* [n_slots] hash table by the pair */
    size_t n_slots, used;
    uint64_t factor;                 /* odd, drawn: a file cannot choose pairs that collide */
    struct merge late[LATE];         /* those read last: memory was asked for their slots */
    uint32_t n_merges;
    int last_id;
    bool listed;                     /* "merges" was there */
    bool over_spaces;                /* a merge goes on behind a word, over a U+2581 */
    int of_byte[256];                /* ids of the stand-ins of bytes; -1: none */
    int of_fallback[256];            /* ids of <0x00> and on */
    bool has_fallback, all_bytes;
    int of_cp[FAST_CPS];             /* ids of single characters */
    int space_id;                    /* of U+2581 */
    _Atomic(struct wide *) wide;     /* NULL: not made */
    _Atomic size_t wide_bytes;       /* of words that had to do without */
};

struct cached {
    uint64_t hash;
    uint8_t word_len, n;
    char word[CACHE_WORD_MAX];
    int id[CACHE_IDS_MAX];
};

struct space {
    int *id;                         /* [cap] symbols of the word */
    int *prev, *next;                /* [cap] */
    uint32_t *rank, *made;           /* [cap] of the pair with the next symbol */
    size_t cap, n;
    uint64_t *heap;                  /* rank << 32 | position */
    size_t heap_n, heap_cap;
    struct cached *cache;            /* [CACHE_SLOTS]; NULL while there were few words */
    int n_words;
    struct buf text;
    const struct vocab *plain;       /* its commands are not made; NULL: they are */
};

static size_t first_slot(const struct bpe *b, uint32_t left, uint32_t right) {
    uint64_t h = ((uint64_t)left << 32 | right) * b->factor;
    return (size_t)(h >> 32) & (b->n_slots - 1);
}

static size_t pair_slot(const struct bpe *b, uint32_t left, uint32_t right) {
    size_t i = first_slot(b, left, right);
    while (b->merge[i].rank != NO_RANK && (b->merge[i].left != left || b->merge[i].right != right))
        i = (i + 1) & (b->n_slots - 1);
    return i;
}

static void merges_reserve(struct bpe *b, size_t n) {
    size_t n_slots = b->n_slots ? b->n_slots : 64;
    while (n_slots < n * 2)
        n_slots *= 2;
    if (n_slots == b->n_slots)
        return;
    struct merge *old = b->merge;
    size_t n_old = b->n_slots;
    b->n_slots = n_slots;
    b->merge = mem_array(n_slots, sizeof *b->merge);
    mem_filled_soon(b->merge, n_slots * sizeof *b->merge);
    memset(b->merge, 0xff, n_slots * sizeof *b->merge);
    for (size_t i = 0; i < n_old; i++)
        if (old[i].rank != NO_RANK)
            b->merge[pair_slot(b, old[i].left, old[i].right)] = old[i];
    free(old);
}

static struct bpe *own(struct tok_model *m) {
    if (!m->own) {
        struct bpe *b = m->own = mem_new(sizeof *b);
        b->factor = vocab_seed() | 1;
        merges_reserve(b, 32);
    }
    return m->own;
}

static void put_merge(struct bpe *b, struct merge m) {
    size_t slot = pair_slot(b, m.left, m.right);
    b->used += b->merge[slot].rank == NO_RANK;
    b->merge[slot] = m;              /* of a pair that is there twice, the last counts */
}

static const char SPACE[] = "\xe2\x96\x81";         /* SentencePiece's sign for one */

static void note_spaces(struct bpe *b, struct str left, struct str right) {
    b->over_spaces |= str_starts(right, SPACE) && !str_ends(left, SPACE);
}

static bool add_merge(struct tok_model *m, struct str left, struct str right, int l, int r,
                      struct err *err) {
    struct bpe *b = m->own;
    struct str tail = m->prefix.len ? str_from(right, m->prefix.len) : right;
    int id = vocab_find_joined(m->vocab, left, tail, b->last_id + 1);
    if (l < 0 || r < 0 || id < 0)
        return err_set(err, "tokenizer.json: merge %u (\"%.*s\" and \"%.*s\"): %s is not in the "
                       "vocabulary", b->n_merges, STR_ARG(left), STR_ARG(right),
                       l < 0 ? "the first" : r < 0 ? "the second" : "what they make");
    if (b->n_merges >= MERGES_MAX)
        return err_set(err, "tokenizer.json: more than %d merges", MERGES_MAX);
    b->last_id = id;
    note_spaces(b, left, tail);
    struct merge *late = &b->late[b->n_merges % LATE];
    merges_reserve(b, b->used + LATE);
    if (b->n_merges >= LATE)
        put_merge(b, *late);
    *late = (struct merge){ (uint32_t)l, (uint32_t)r, b->n_merges++, (uint32_t)id };
    __builtin_prefetch(&b->merge[first_slot(b, late->left, late->right)], 1);
    return true;
}

bool bpe_add_merge(struct tok_model *m, struct str left, struct str right, struct err *err) {
    own(m);
    return add_merge(m, left, right, vocab_find(m->vocab, left), vocab_find(m->vocab, right), err);
}

static void put_late(struct bpe *b) {
    for (uint32_t i = b->n_merges - MIN(b->n_merges, (uint32_t)LATE); i < b->n_merges; i++)
        put_merge(b, b->late[i % LATE]);
}

void bpe_no_more_merges(struct tok_model *m) {
    own(m)->listed = true;
}

bool bpe_all_pairs(struct tok_model *m, const uint32_t *rank, struct err *err) {
    struct bpe *b = own(m);
    b->listed = true;
    for (int id = 0; id < m->vocab->n; id++) {
        struct str text = vocab_text(m->vocab, id);
        uint32_t cp;
        if (rank[id] == NO_RANK || text.len > PAIR_BYTES_MAX)
            continue;
        for (size_t at = 0; at < text.len;) {
            at += (size_t)cp_at(text, at, &cp);
            int l = vocab_find(m->vocab, str_cut(text, 0, at));
            int r = at < text.len && l >= 0 ? vocab_find(m->vocab, str_from(text, at)) : -1;
            if (r < 0)
                continue;
            if (b->used == MERGES_MAX)
                return err_set(err, "more than %d pairs of tokens make a token", MERGES_MAX);
            merges_reserve(b, b->used + 1);
            note_spaces(b, str_cut(text, 0, at), str_from(text, at));
            put_merge(b, (struct merge){ (uint32_t)l, (uint32_t)r, rank[id], (uint32_t)id });
        }
    }
    return true;
}

/* Merges on their way: what was read waits until memory has brought what finding it takes. */
enum { WAY = 32, WAY_STEP = WAY / 3 };
struct half { struct str text; uint32_t hash; int likely; struct buf copy; };
struct way { struct half half[WAY][2]; size_t n, done; };        /* merge i is at i % WAY */

static void take_half(struct pull *j, struct half *h, struct str text) {
    h->text = text;
    if (text.at < j->text.at || text.at >= j->text.at + j->text.len) {
        buf_clear(&h->copy);         /* in the scratch, which the next string overwrites */
        buf_str(&h->copy, text);
        h->text = buf_view(&h->copy);
    }
}

/* "a b" or ["a", "b"]. */
static bool read_merge(struct pull *j, struct half half[2], struct err *err) {
    struct str s;
    if (pull_pair(j, &half[0].text, &half[1].text))
        return true;
    if (pull_peek(j) == PULL_STRING) {
        if (!pull_string(j, &s))
            return false;
        take_half(j, &half[0], s);
        s = half[0].text;
        const char *gap = memchr(s.at, ' ', s.len);
        size_t at = gap ? (size_t)(gap - s.at) : 0;
        if (!at || at + 1 >= s.len || memchr(gap + 1, ' ', s.len - at - 1))
            return err_set(err, "tokenizer.json: merge \"%.*s\" is not two parts", STR_ARG(s));
        half[0].text = str_cut(s, 0, at);
        half[1].text = str_from(s, at + 1);
        return true;
    }
    if (!pull_array(j))
        return pull_fail(j, "expected a merge of two parts");
    for (int i = 0; i < 2; i++) {
        if (!pull_next(j) || !pull_string(j, &s))
            return pull_fail(j, "expected a merge of two parts");
        take_half(j, &half[i], s);
    }
    return (!pull_next(j) && !j->error) || pull_fail(j, "expected a merge of two parts");
}

/* Merge `now` came: one step for each that is on the way, and the oldest arrives. Numbers that
 * there is no merge for yet, or any more, name half of the ring that asks for what it asked for. */
static bool step_way(struct tok_model *m, struct way *w, size_t now, struct err *err) {
    const struct vocab *v = m->vocab;
    struct half *slot = w->half[now % WAY], *entry = w->half[(now - WAY_STEP) % WAY];
    struct half *text = w->half[(now - 2 * WAY_STEP) % WAY];
    for (int i = 0; i < 2; i++) {
        vocab_ask_slot(v, slot[i].hash);
        entry[i].likely = vocab_ask_entry(v, entry[i].hash);
        vocab_ask_text(v, text[i].likely);
    }
    if (now + 1 < WAY)
        return true;
    const struct half *h = w->half[w->done++ % WAY];
    return add_merge(m, h[0].text, h[1].text,
                     vocab_find_likely(v, h[0].text, h[0].hash, h[0].likely),
                     vocab_find_likely(v, h[1].text, h[1].hash, h[1].likely), err);
}

/* The vocabulary must have been read: the reader sees to it. */
static bool read_merges(struct tok_model *m, struct pull *j, struct err *err) {
    struct way w = { .n = 0 };
    bool done = pull_array(j);
    own(m)->listed = true;
    /* One for each token, if that many can follow: room at once, where memory is asked ahead. */
    size_t n_left = (j->text.len - j->offset) / MERGE_BYTES_MIN;
    merges_reserve(m->own, MIN((size_t)m->vocab->count, n_left));
    while (done && pull_next(j)) {
        struct half *h = w.half[w.n % WAY];
        done = read_merge(j, h, err);
        if (!done)
            break;
        h[0].hash = vocab_hash(h[0].text);
        h[1].hash = vocab_hash(h[1].text);
        w.n++;
        done = step_way(m, &w, w.n - 1, err);
    }
    for (size_t now = w.n; done && !j->error && w.done < w.n; now++)
        done = step_way(m, &w, now, err);
    for (int i = 0; i < WAY; i++) {
        buf_free(&w.half[i][0].copy);
        buf_free(&w.half[i][1].copy);
    }
    return done && !j->error;
}

static bool field(struct tok_model *m, struct pull *j, struct str key, bool *known,
                  struct err *err) {
    *known = true;
    if (str_is(key, "merges"))
        return read_merges(m, j, err);
    if (str_is(key, "dropout")) {
        double p = 0;
        if (pull_peek(j) == PULL_NULL)
            return pull_null(j);
        if (!pull_double(j, &p))
            return false;
        return p == 0 || err_code(err, ERR_UNSUPPORTED, "tokenizer.json: BPE with dropout");
    }
    *known = false;
    return true;
}

bool model_byte_tokens(const struct vocab *v, int to[256]) {
    static const char hex[] = "0123456789ABCDEF";
    bool all = true;
    for (int i = 0; i < 256; i++) {
        char text[] = { '<', '0', 'x', hex[i >> 4], hex[i & 15], '>' };
        to[i] = vocab_find(v, (struct str){ text, sizeof text });
        all &= to[i] >= 0;
    }
    return all;
}

static bool ready(struct tok_model *m, struct err *err) {
    struct bpe *b = own(m);
    struct buf cp = { 0 };
    if (!b->listed)
        return err_set(err, "tokenizer.json: a BPE model without merges");
    put_late(b);
    b->space_id = vocab_find(m->vocab, str_of(SPACE));
    model_byte_tokens(m->vocab, b->of_fallback);
    b->all_bytes = !m->prefix.len && !m->suffix.len;
    for (uint32_t i = 0; i < FAST_CPS; i++) {
        buf_clear(&cp);
        utf8_put(&cp, i);
        b->of_cp[i] = vocab_find(m->vocab, buf_view(&cp));
    }
    for (int i = 0; i < 256; i++) {
        b->of_byte[i] = b->of_cp[byte_to_cp((uint8_t)i)];
        b->all_bytes &= b->of_byte[i] >= 0;
    }
    buf_free(&cp);
    return true;
}

static void *space_new(const struct tok_model *m) {
    (void)m;
    struct space *s = mem_new(sizeof *s);
    return s;
}

static void space_free(void *space) {
    struct space *s = space;
    if (!s)
        return;
    free(s->id);
    free(s->prev);
    free(s->next);
    free(s->rank);
    free(s->made);
    free(s->heap);
    free(s->cache);
    buf_free(&s->text);
    free(s);
}

static void put_symbol(struct space *s, int id) {
    if (s->n == s->cap) {
        s->cap = s->cap ? s->cap * 2 : 64;
        s->id = mem_grow(s->id, s->cap, sizeof *s->id);
        s->prev = mem_grow(s->prev, s->cap, sizeof *s->prev);
        s->next = mem_grow(s->next, s->cap, sizeof *s->next);
        s->rank = mem_grow(s->rank, s->cap, sizeof *s->rank);
        s->made = mem_grow(s->made, s->cap, sizeof *s->made);
    }
    s->id[s->n++] = id;
}

/* False: a byte is not in the vocabulary. */
static bool put_bytes(const struct bpe *b, struct space *s, struct str bytes) {
    for (size_t i = 0; i < bytes.len; i++) {
        int id = b->of_byte[(uint8_t)bytes.at[i]];
        if (id < 0)
            return false;
        put_symbol(s, id);
    }
    return true;
}

/* The characters of a word as symbols. An unknown one waits for the next known one, so that a run
 * can be fused; a run of byte tokens does not let it out, as in the original. */
static void put_chars(const struct tok_model *m, struct space *s, struct str word) {
    const struct bpe *b = m->own;
    int waiting = -1;
    for (size_t at = 0; at < word.len;) {
        uint32_t cp;
        size_t n = (size_t)cp_at(word, at, &cp);
        struct str c = str_cut(word, at, at + n);
        bool bare = !(m->prefix.len && at) && !(m->suffix.len && at + n == word.len);
        if (!bare) {
            buf_clear(&s->text);
            if (at)
                buf_str(&s->text, m->prefix);
            buf_str(&s->text, c);
            if (at + n == word.len)
                buf_str(&s->text, m->suffix);
            c = buf_view(&s->text);
        }
        at += n;
        int id = bare && cp < FAST_CPS ? b->of_cp[cp] : vocab_find(m->vocab, c);
        if (id >= 0 && !(s->plain && vocab_is_command(m->vocab, id))) {
            if (waiting >= 0)
                put_symbol(s, waiting);
            waiting = -1;
            put_symbol(s, id);
            continue;
        }
        bool bytes = m->byte_fallback;
        for (size_t i = 0; bytes && i < c.len; i++)
            bytes = b->of_fallback[(uint8_t)c.at[i]] >= 0;
        for (size_t i = 0; bytes && i < c.len; i++)
            put_symbol(s, b->of_fallback[(uint8_t)c.at[i]]);
        if (bytes || m->unk < 0)
            continue;
        if (waiting >= 0 && !m->fuse_unk)
            put_symbol(s, waiting);
        waiting = m->unk;
    }
    if (waiting >= 0)
        put_symbol(s, waiting);
}

static void set_pair(const struct bpe *b, struct space *s, size_t at, size_t next) {
    const struct merge *m = &b->merge[pair_slot(b, (uint32_t)s->id[at], (uint32_t)s->id[next])];
    bool never = s->plain && m->rank != NO_RANK && vocab_is_command(s->plain, (int)m->id);
    s->rank[at] = never ? NO_RANK : m->rank;
    s->made[at] = m->id;
}

/* The symbols are kept dense: words are short. */
static void merge_scan(const struct bpe *b, struct space *s) {
    for (size_t i = 0; i + 1 < s->n; i++)
        set_pair(b, s, i, i + 1);
    while (s->n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < s->n; i++)
            if (s->rank[i] < s->rank[best])
                best = i;
        if (s->rank[best] == NO_RANK)
            return;
        s->id[best] = (int)s->made[best];
        size_t tail = s->n - best - 2;
        memmove(s->id + best + 1, s->id + best + 2, tail * sizeof *s->id);
        memmove(s->rank + best + 1, s->rank + best + 2, tail * sizeof *s->rank);
        memmove(s->made + best + 1, s->made + best + 2, tail * sizeof *s->made);
        s->n--;
        if (best + 1 < s->n)
            set_pair(b, s, best, best + 1);
        if (best)
            set_pair(b, s, best - 1, best);
    }
}

static void heap_put(struct space *s, uint32_t rank, size_t at) {
    if (rank == NO_RANK)
        return;
    if (s->heap_n == s->heap_cap) {
        s->heap_cap = s->heap_cap ? s->heap_cap * 2 : 256;
        s->heap = mem_grow(s->heap, s->heap_cap, sizeof *s->heap);
    }
    uint64_t key = (uint64_t)rank << 32 | at;
    size_t i = s->heap_n++;
    for (; i && s->heap[(i - 1) / 4] > key; i = (i - 1) / 4)
        s->heap[i] = s->heap[(i - 1) / 4];
    s->heap[i] = key;
}

static uint64_t heap_take(struct space *s) {
    uint64_t top = s->heap[0], key = s->heap[--s->heap_n];
    size_t i = 0;
    for (;;) {
        size_t child = i * 4 + 1, least = child;
        if (child >= s->heap_n)
            break;
        for (size_t k = child + 1; k < child + 4 && k < s->heap_n; k++)
            if (s->heap[k] < s->heap[least])
                least = k;
        if (s->heap[least] >= key)
            break;
        s->heap[i] = s->heap[least];
        i = least;
    }
    s->heap[i] = key;
    return top;
}

/* An entry of the heap is alive while the pair at its position still has its rank; a symbol that
 * was merged away has none. */
static void merge_heap(const struct bpe *b, struct space *s) {
    int n = (int)s->n;
    s->heap_n = 0;
    for (int i = 0; i < n; i++) {
        s->prev[i] = i - 1;
        s->next[i] = i + 1;
        s->rank[i] = NO_RANK;
        if (i + 1 < n) {
            set_pair(b, s, (size_t)i, (size_t)i + 1);
            heap_put(s, s->rank[i], (size_t)i);
        }
    }
    while (s->heap_n) {
        uint64_t top = heap_take(s);
        int at = (int)(uint32_t)top;
        if (s->rank[at] != top >> 32)
            continue;
        int gone = s->next[at], next = s->next[gone], prev = s->prev[at];
        s->id[at] = (int)s->made[at];
        s->next[at] = next;
        s->rank[gone] = s->rank[at] = NO_RANK;
        s->id[gone] = -1;
        if (next < n) {
            s->prev[next] = at;
            set_pair(b, s, (size_t)at, (size_t)next);
            heap_put(s, s->rank[at], (size_t)at);
        }
        if (prev >= 0) {
            set_pair(b, s, (size_t)prev, (size_t)at);
            heap_put(s, s->rank[prev], (size_t)prev);
        }
    }
    size_t out = 0;
    for (int i = 0; i < n; i++)
        if (s->id[i] >= 0)
            s->id[out++] = s->id[i];
    s->n = out;
}

static void merge(const struct bpe *b, struct space *s) {
    if (s->n <= SCAN_MAX)
        merge_scan(b, s);
    else
        merge_heap(b, s);
}

static int whole_word(const struct tok_model *m, struct space *s, struct str word) {
    if (!m->bytes)
        return vocab_find(m->vocab, word);
    buf_clear(&s->text);
    byte_chars_put(&s->text, word);
    return vocab_find(m->vocab, buf_view(&s->text));
}

static void encode_word(const struct tok_model *m, struct space *s, struct str word) {
    const struct bpe *b = m->own;
    s->n = 0;
    int whole = m->ignore_merges ? whole_word(m, s, word) : -1;
    if (whole >= 0 && !(s->plain && vocab_is_command(m->vocab, whole))) {
        put_symbol(s, whole);
        return;
    }
    if (m->bytes && b->all_bytes) {
        put_bytes(b, s, word);
    } else if (m->bytes) {
        struct buf mapped = { 0 };
        byte_chars_put(&mapped, word);
        put_chars(m, s, buf_view(&mapped));
        buf_free(&mapped);
    } else {
        put_chars(m, s, word);
    }
    merge(b, s);
}

/* ---- words of bytes with characters of three ---- */

static bool merges_in_order(const struct bpe *b, int n_ids) {
    uint32_t *made = mem_array((size_t)n_ids, sizeof *made);     /* 1 + the last rank, by id */
    bool ok = true;
    for (size_t i = 0; i < b->n_slots; i++) {
        const struct merge *m = &b->merge[i];
        if (m->rank != NO_RANK)
            made[m->id] = MAX(made[m->id], m->rank + 1);
    }
    for (size_t i = 0; ok && i < b->n_slots; i++) {
        const struct merge *m = &b->merge[i];
        ok = m->rank == NO_RANK || MAX(made[m->left], made[m->right]) <= m->rank;
    }
    free(made);
    return ok;
}

static struct wide *wide_new(const struct tok_model *m) {
    const struct bpe *b = m->own;
    struct wide *w = mem_new(sizeof *w);
    struct space *s = space_new(m);
    struct buf c = { 0 };
    w->joints = joints_new(m->vocab);
    w->in_order = merges_in_order(b, m->vocab->n);
    for (uint32_t cp = WIDE_FROM; cp < WIDE_END; cp++) {
        int *id = w->of_cp[cp - WIDE_FROM].id;
        buf_clear(&c);
        utf8_put(&c, cp);            /* surrogates, which no text has, as U+FFFD */
        s->n = 0;
        if (put_bytes(b, s, buf_view(&c)))
            merge(b, s);
        else
            s->n = 0;
        for (size_t i = 0; i < WIDE_BYTES; i++)
            id[i] = i < s->n ? s->id[i] : -1;
    }
    space_free(s);
    buf_free(&c);
    return w;
}

/* NULL: there is none yet; `n` bytes are merged without. */
static const struct wide *wide_of(const struct tok_model *m, size_t n) {
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    struct bpe *b = m->own;
    struct wide *w = atomic_load_explicit(&b->wide, memory_order_acquire);
    if (w || atomic_fetch_add(&b->wide_bytes, n) < WIDE_WORTH)
        return w;
    pthread_mutex_lock(&lock);
    w = atomic_load(&b->wide);
    if (!w)
        atomic_store_explicit(&b->wide, w = wide_new(m), memory_order_release);
    pthread_mutex_unlock(&lock);
    return w;
}

/* A run of characters that tokens join: symbols were put for it, unless it is `torn` or has
 * characters of other lengths; then its bytes are. */
struct run { size_t from; bool torn; };

static bool end_run(const struct bpe *b, struct space *s, struct run *run, struct str word,
                    size_t end, struct ids *out) {
    if (run->torn)
        s->n = 0;
    if (run->torn && !put_bytes(b, s, str_cut(word, run->from, end)))
        return false;
    if (s->n > 1)
        merge(b, s);
    for (size_t i = 0; i < s->n; i++)
        ids_put(out, s->id[i]);
    *run = (struct run){ end, false };
    s->n = 0;
    return true;
}

/* False: it is not this kind of word, or too early, and nothing was put. */
static bool encode_wide(const struct tok_model *m, struct space *s, struct str word,
                        struct ids *out) {
    const struct bpe *b = m->own;
    const struct wide *w = wide_of(m, word.len);
    struct run run = { 0, false };
    int before = out->len;
    struct str left = { 0 };
    bool ok = w != NULL;
    s->n = 0;
    for (size_t at = 0, n; ok && at < word.len; at += n) {
        uint32_t cp;
        n = (size_t)cp_at(word, at, &cp);
        struct str c = str_cut(word, at, at + n);
        bool wide = n == WIDE_BYTES && w->in_order;
        const int *id = wide ? w->of_cp[cp - WIDE_FROM].id : NULL;
        if (at) {
            enum joint joint = joints_between(w->joints, left, c);
            if (joint == JOINT_FREE)
                ok = end_run(b, s, &run, word, at, out);
            run.torn |= joint == JOINT_TORN;
        }
        run.torn |= !wide;
        ok = ok && (n > 1 || !(word.at[at] & 0x80)) && (!wide || id[0] >= 0);
        for (int i = 0; wide && i < WIDE_BYTES && id[i] >= 0; i++)
            put_symbol(s, id[i]);
        left = c;
    }
    ok = ok && end_run(b, s, &run, word, word.len, out);
    if (!ok)
        out->len = before;
    return ok;
}

/* Where a whole word is looked for before its merges, remembering words is faster. */
static bool may_be_wide(const struct tok_model *m, struct str word, bool plain) {
    return m->bytes && !plain && !m->ignore_merges && !m->prefix.len && !m->suffix.len
        && word.len >= WIDE_BYTES && word.at[word.len - 1] & 0x80;
}

/* Plain words are rare (most make no command anyway), so the words remembered are the others. */
static void encode_remembered(const struct tok_model *m, struct space *s, struct str word,
                              bool plain, struct ids *out) {
    struct cached *hit = NULL;
    uint64_t hash = 0;
    s->plain = plain ? m->vocab : NULL;
    if (may_be_wide(m, word, plain) && encode_wide(m, s, word, out))
        return;
    if (word.len <= CACHE_WORD_MAX && !plain && s->n_words++ >= CACHE_FROM) {
        if (!s->cache)
            s->cache = mem_array(CACHE_SLOTS, sizeof *s->cache);
        hash = XXH3_64bits(word.at, word.len) | 1;
        hit = &s->cache[hash >> 1 & (CACHE_SLOTS - 1)];
        if (hit->hash == hash && hit->word_len == word.len
            && !memcmp(hit->word, word.at, word.len)) {
            for (int i = 0; i < hit->n; i++)
                ids_put(out, hit->id[i]);
            return;
        }
    }
    encode_word(m, s, word);
    for (size_t i = 0; i < s->n; i++)
        ids_put(out, s->id[i]);
    if (hit && s->n <= CACHE_IDS_MAX) {
        hit->hash = hash;
        hit->word_len = (uint8_t)word.len;
        hit->n = (uint8_t)s->n;
        memcpy(hit->word, word.at, word.len);
        if (s->n)
            memcpy(hit->id, s->id, s->n * sizeof *s->id);
    }
}

/* Where no merge leads from a word over the space that follows, what is around that place comes out
 * as it does alone: a text without a pre-tokenizer is cut there, into words that repeat. */
static void encode(const struct tok_model *m, void *space, struct str word, bool plain,
                   struct ids *out) {
    const struct bpe *b = m->own;
    const size_t n = sizeof SPACE - 1;
    bool whole = m->bytes || b->over_spaces || b->space_id < 0 || m->prefix.len || m->suffix.len
        || m->ignore_merges;
    while (!whole) {
        size_t end = 0;
        while (str_starts(str_from(word, end), SPACE))
            end += n;
        const char *next = end < word.len
            ? memmem(word.at + end, word.len - end, SPACE, n) : NULL;
        if (!next)
            break;
        end = (size_t)(next - word.at);
        encode_remembered(m, space, str_cut(word, 0, end), plain, out);
        word = str_from(word, end);
    }
    encode_remembered(m, space, word, plain, out);
}

static void close_model(struct tok_model *m) {
    struct bpe *b = m->own;
    struct wide *w = b ? atomic_load(&b->wide) : NULL;
    if (w)
        joints_free(w->joints);
    free(w);
    if (b)
        free(b->merge);
    free(b);
}

const struct tok_model_kind model_bpe = {
    .type = "BPE", .field = field, .ready = ready, .space_new = space_new,
    .space_free = space_free, .encode = encode, .close = close_model,
};
