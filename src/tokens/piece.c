/* piece.c - one token's own bytes, apart from its place in a text.
 *
 * The decoders of decode.c see whole texts: they strip the first token's space and repair what is
 * not UTF-8. Here only those steps count that say how a token is spelt. */
#include <stdlib.h>
#include <string.h>
#include "tokens/byte_chars.h"
#include "tokens/text.h"
#include "tokens/tokenizer.h"

/* What is not spelt in stand-ins is taken as it is, as the decoder does. */
static void from_stand_ins(struct buf *b) {
    struct buf out = { 0 };
    if (!byte_chars_read(&out, buf_view(b))) {
        buf_free(&out);
        return;
    }
    buf_free(b);
    *b = out;
}

static int hex_digit(char c) {
    const char *digits = "0123456789ABCDEFabcdef", *at = c ? strchr(digits, c) : NULL;
    if (!at) return -1;
    int value = (int)(at - digits);
    return value < 16 ? value : value - 6;
}

/* "<0x0A>" */
static bool from_fallback(struct buf *b) {
    struct str s = buf_view(b);
    if (s.len != 6 || !str_starts(s, "<0x") || s.at[5] != '>') return false;
    int high = hex_digit(s.at[3]), low = hex_digit(s.at[4]);
    if (high < 0 || low < 0) return false;
    buf_clear(b);
    buf_char(b, (char)(high << 4 | low));
    return true;
}

static void replace(struct buf *b, struct str from, struct str to) {
    struct buf out = { 0 };
    struct str s = buf_view(b);
    const char *hit;
    while (s.len && from.len && (hit = memmem(s.at, s.len, from.at, from.len))) {
        size_t n = (size_t)(hit - s.at);
        buf_str(&out, str_cut(s, 0, n));
        buf_str(&out, to);
        s = str_from(s, n + from.len);
    }
    buf_str(&out, s);
    buf_free(b);
    *b = out;
}

static void from_word_piece(struct buf *b, struct str prefix) {
    struct buf out = { 0 };
    struct str s = buf_view(b);
    bool tail = s.len >= prefix.len && !memcmp(s.at, prefix.at, prefix.len);
    if (!tail) buf_char(&out, ' ');
    buf_str(&out, tail ? str_from(s, prefix.len) : s);
    buf_free(b);
    *b = out;
}

/* False: the bytes are final. */
static bool apply(const struct part *p, struct buf *b) {
    if (str_is(p->type, "ByteFallback")) return !from_fallback(b);
    if (str_is(p->type, "ByteLevel")) from_stand_ins(b);
    else if (str_is(p->type, "WordPiece")) from_word_piece(b, p->prefix);
    else if (str_is(p->type, "BPEDecoder")) replace(b, p->suffix, S(" "));
    else if (str_is(p->type, "Replace") && !p->pattern_is_regex) replace(b, p->pattern, p->content);
    else if (str_is(p->type, "Metaspace")) {
        struct text sign = { 0 };
        text_cp(&sign, p->replacement, 0);
        replace(b, buf_view(&sign.bytes), S(" "));
        text_free(&sign);
    }
    return true;
}

void tok_piece(const struct tokenizer *t, int id, struct buf *out) {
    uint8_t flags = vocab_flags(&t->vocab, id);
    struct buf b = { 0 };
    if (!(flags & VOCAB_HERE)) return;
    buf_str(&b, vocab_text(&t->vocab, id));
    for (int i = 0; i < t->decoders.n && !(flags & VOCAB_CONTROL); i++)
        if (!apply(&t->decoders.at[i], &b)) break;
    buf_str(out, buf_view(&b));
    buf_free(&b);
}
