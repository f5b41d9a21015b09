/* rwkv.c - RWKV's world vocabulary: lines of an id, a Python string or bytes literal, and a
 * length; a text is cut greedily, the longest token first. */
#include <stdlib.h>
#include <string.h>
#include "base/utf8.h"
#include "tokens/build.h"
#include "tokens/trie.h"

/* A bound on how far one step of the walk may look ahead; the longest there are have 128. */
enum { TOKEN_BYTES_MAX = 1 << 10 };

static int hex(char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10
        : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The digits of \x, \u or \U; -1: not that many. */
static int64_t hex_number(struct str s, size_t n) {
    int64_t v = 0;
    if (s.len < n)
        return -1;
    for (size_t i = 0; i < n; i++) {
        if (hex(s.at[i]) < 0)
            return -1;
        v = v << 4 | hex(s.at[i]);
    }
    return v;
}

/* An escape; s is behind the backslash. How many bytes it has, 0: none that we know. */
static size_t escape(struct str s, bool bytes, struct buf *out) {
    static const char from[] = "ntr\\'\"", to[] = "\n\t\r\\'\"";
    char c = s.len ? s.at[0] : 0;
    const char *plain = c ? strchr(from, c) : NULL;
    if (plain) {
        buf_char(out, to[plain - from]);
        return 1;
    }
    size_t n = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    int64_t v = n ? hex_number(str_from(s, 1), n) : -1;
    if (v < 0 || v > 0x10ffff || (bytes && c != 'x'))
        return 0;
    if (bytes)
        buf_char(out, (char)v);
    else
        utf8_put(out, (uint32_t)v);
    return 1 + n;
}

static bool literal(struct str s, struct buf *out) {
    bool bytes = str_starts(s, "b");
    s = str_from(s, bytes);
    if (s.len < 2 || (s.at[0] != '\'' && s.at[0] != '"') || s.at[s.len - 1] != s.at[0])
        return false;
    s = str_cut(s, 1, s.len - 1);
    while (s.len) {
        size_t n = 1;
        if (s.at[0] != '\\')
            buf_char(out, s.at[0]);
        else if ((n = escape(str_from(s, 1), bytes, out)))
            n++;
        if (!n)
            return false;
        s = str_from(s, n);
    }
    return true;
}

bool build_rwkv_put(struct tokenizer *t, struct str bytes, uint64_t id, struct err *err) {
    struct trie *trie = t->model.own;
    if (!trie) {
        t->model.kind = &model_rwkv;
        t->model.own = trie = mem_new(sizeof *trie);
    }
    if (bytes.len > TOKEN_BYTES_MAX)
        return err_set(err, "a token of more than %d bytes", TOKEN_BYTES_MAX);
    return build_put_bytes(t, bytes, id, err)
        && (trie_put(trie, bytes, (int)id) || err_set(err, "too many tokens"));
}

bool build_rwkv_done(struct tokenizer *t, struct err *err) {
    const struct trie *trie = t->model.own;
    for (int i = 0; i < 256; i++)
        if (!trie || !trie_step(trie, TRIE_ROOT, (uint8_t)i)
            || trie->value[trie_step(trie, TRIE_ROOT, (uint8_t)i)] < 0)
            return err_set(err, "no token for the byte %d", i);
    return build_byte_level(t, NULL, 0, false, err);
}

static bool one_line(struct tokenizer *t, struct str s, struct buf *bytes, struct err *err) {
    const char *gap = memchr(s.at, ' ', s.len), *last = memrchr(s.at, ' ', s.len);
    uint64_t id, len;
    buf_clear(bytes);
    if (!gap || last == gap || !str_u64(str_cut(s, 0, (size_t)(gap - s.at)), VOCAB_ID_MAX, &id)
        || !str_u64(str_from(s, (size_t)(last - s.at) + 1), TOKEN_BYTES_MAX, &len)
        || !literal(str_cut(s, (size_t)(gap - s.at) + 1, (size_t)(last - s.at)), bytes)
        || len != bytes->len || !len)
        return err_set(err, "\"%.*s\" is not an id, a literal and its length", STR_ARG(s));
    return build_rwkv_put(t, buf_view(bytes), id, err);
}

bool rwkv_read(struct tokenizer *t, struct str file, struct err *err) {
    struct buf bytes = { 0 };
    bool done = true;
    while (done && file.len) {
        const char *end = memchr(file.at, '\n', file.len);
        struct str s = str_cut(file, 0, end ? (size_t)(end - file.at) : file.len);
        file = str_from(file, s.len + (end != NULL));
        if (str_ends(s, "\r"))
            s.len--;
        if (s.len)
            done = one_line(t, s, &bytes, err);
    }
    buf_free(&bytes);
    if (!done || !build_rwkv_done(t, err))
        return false;
    if (vocab_flags(&t->vocab, 0) & VOCAB_HERE)
        return true;
    const char *wrong = vocab_put(&t->vocab, S("<|endoftext|>"), 0);     /* 0 is in no file */
    t->eos = 0;
    return wrong ? err_set(err, "the token of id 0 %s", wrong)
        : tokenizer_add(t, S("<|endoftext|>"), ADDED_SPECIAL, false, err);
}

static void *no_space(const struct tok_model *m) {
    (void)m;
    return NULL;
}

static void no_space_free(void *space) {
    (void)space;
}

/* Every byte is a token, so there is always a way on. */
static void encode(const struct tok_model *m, void *space, struct str word, bool plain,
                   struct ids *out) {
    const struct trie *trie = m->own;
    (void)space;
    for (size_t at = 0; at < word.len;) {
        uint32_t node = TRIE_ROOT;
        size_t end = at + 1;
        int id = -1;
        for (size_t i = at; i < word.len; i++) {
            node = trie_step(trie, node, (uint8_t)word.at[i]);
            if (!node)
                break;
            int now = trie->value[node];
            if (now >= 0 && !(plain && vocab_is_command(m->vocab, now))) {
                id = now;
                end = i + 1;
            }
        }
        if (id >= 0)
            ids_put(out, id);
        at = end;
    }
}

static void close_model(struct tok_model *m) {
    trie_free(m->own);
    free(m->own);
}

const struct tok_model_kind model_rwkv = {
    .type = "RWKV", .space_new = no_space, .space_free = no_space_free, .encode = encode,
    .close = close_model,
};
