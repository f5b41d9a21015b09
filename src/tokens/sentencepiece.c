/* sentencepiece.c - reads a SentencePiece model: a protobuf of pieces and two specs.
 *
 * A field is a number, a wire type and a value; those we do not know are passed over. */
#include <stdlib.h>
#include <string.h>
#include "tokens/build.h"

enum { PIECES_MAX = 1 << 22 };

struct field { uint32_t number; int wire; uint64_t value; struct str bytes; };

static bool varint(struct str *s, uint64_t *out) {
    *out = 0;
    for (int shift = 0; shift < 64 && s->len; shift += 7) {
        uint8_t b = (uint8_t)s->at[0];
        *s = str_from(*s, 1);
        *out |= (uint64_t)(b & 0x7f) << shift;
        if (!(b & 0x80))
            return true;
    }
    return false;
}

/* 1: a field, 0: the end, -1: broken. */
static int next_field(struct str *s, struct field *f) {
    uint64_t key, n;
    if (!s->len)
        return 0;
    if (!varint(s, &key) || key >> 3 == 0 || key >> 35)
        return -1;
    *f = (struct field){ .number = (uint32_t)(key >> 3), .wire = (int)(key & 7) };
    switch (f->wire) {
    case 0: return varint(s, &f->value) ? 1 : -1;
    case 1: n = 8; break;
    case 2:
        if (!varint(s, &n))
            return -1;
        break;
    case 5: n = 4; break;
    default: return -1;
    }
    if (n > s->len)
        return -1;
    f->bytes = str_cut(*s, 0, (size_t)n);
    *s = str_from(*s, (size_t)n);
    return 1;
}

static bool read_piece(struct str s, struct build_piece *p) {
    struct field f;
    float score = 0;
    int more;
    *p = (struct build_piece){ .type = PIECE_NORMAL };
    while ((more = next_field(&s, &f)) > 0) {
        if (f.number == 1 && f.wire == 2)
            p->text = f.bytes;
        else if (f.number == 2 && f.wire == 5)
            memcpy(&score, f.bytes.at, sizeof score);
        else if (f.number == 3 && f.wire == 0)
            p->type = f.value <= PIECE_BYTE ? (enum piece_type)f.value : PIECE_UNUSED;
    }
    p->score = (double)score;
    return more == 0;
}

/* Ids are written as 64-bit two's complement: -1 says none. */
static int id_of(uint64_t v) {
    return v <= VOCAB_ID_MAX ? (int)v : -1;
}

static bool read_trainer(struct str s, struct build_spm *spm, uint64_t *kind, bool *suffix) {
    struct field f;
    int more;
    while ((more = next_field(&s, &f)) > 0) {
        if (f.wire)
            continue;
        switch (f.number) {
        case 3: *kind = f.value; break;
        case 24: *suffix = f.value; break;
        case 35: spm->byte_fallback = f.value; break;
        case 40: spm->unk = id_of(f.value); break;
        case 41: spm->bos = id_of(f.value); break;
        case 42: spm->eos = id_of(f.value); break;
        default: break;
        }
    }
    return more == 0;
}

static bool read_normalizer(struct str s, struct build_spm *spm, bool *escapes) {
    struct field f;
    int more;
    while ((more = next_field(&s, &f)) > 0) {
        if (f.number == 2 && f.wire == 2)
            spm->charsmap = f.bytes;
        else if (f.number == 3 && f.wire == 0)
            spm->dummy_prefix = f.value;
        else if (f.number == 4 && f.wire == 0)
            spm->remove_extra_spaces = f.value;
        else if (f.number == 5 && f.wire == 0)
            *escapes = f.value;
    }
    return more == 0;
}

bool sentencepiece_read(struct tokenizer *t, struct str file, struct err *err) {
    struct build_spm spm = { .dummy_prefix = true, .remove_extra_spaces = true, .unk = 0, .bos = 1,
                             .eos = 2 };
    struct build_piece *piece = NULL;
    struct field f;
    size_t n = 0, cap = 0;
    uint64_t kind = 1;
    bool done = true, suffix = false, escapes = true;
    int more;
    while ((more = next_field(&file, &f)) > 0 && done) {
        if (f.wire != 2)
            continue;
        if (f.number == 1) {
            if (n == cap) {
                cap = cap ? cap * 2 : 1024;
                piece = mem_grow(piece, cap, sizeof *piece);
            }
            done = n < PIECES_MAX && read_piece(f.bytes, &piece[n++]);
        } else if (f.number == 2) {
            done = read_trainer(f.bytes, &spm, &kind, &suffix);
        } else if (f.number == 3) {
            done = read_normalizer(f.bytes, &spm, &escapes);
        }
    }
    if (!done || more < 0 || !n)
        done = err_set(err, "not a SentencePiece model, or cut off");
    else if ((kind != 1 && kind != 2) || suffix || !escapes)
        done = err_code(err, ERR_UNSUPPORTED, "a SentencePiece model that is neither Unigram nor "
                        "BPE, or marks word ends");
    spm.piece = piece;
    spm.n = n;
    spm.unigram = kind == 1;
    done = done && build_sentencepiece(t, &spm, err);
    if (done && !spm.unigram && spm.bos >= 0) {
        t->before[0] = spm.bos;      /* as Llama's tokenizer does unless its config says no */
        t->n_before = 1;
    }
    free(piece);
    return done;
}
