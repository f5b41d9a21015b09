/* build.c - tokenizers put together for formats that are not tokenizer.json. */
#include "tokens/build.h"
#include <stdlib.h>
#include <string.h>
#include "base/pull.h"
#include "base/utf8.h"
#include "tokens/byte_chars.h"
#include "tokens/decode.h"

#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define TAIL "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)"
#define CL100K_WORDS(digits) CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits \
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
#define CL100K(digits) CL100K_WORDS(digits) TAIL
/* As tiktoken has it: white space at the end of a text is one word, line ends and all. */
#define TIKTOKEN_CL100K CL100K_WORDS("\\p{N}{1,3}") "\\s++\\z|" TAIL
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define LEAD "[^\\r\\n\\p{L}\\p{N}]?"
#define O200K LEAD UPPER "*" LOWER "+" CONTRACTIONS "?|" \
    LEAD UPPER "+" LOWER "*" CONTRACTIONS "?|" \
    "\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" TAIL
#define TEKKEN LEAD UPPER "*" LOWER "+|" LEAD UPPER "+" LOWER "*|" \
    "\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" TAIL
#define NO_HAN "&&[^\\p{Han}]]"
#define KIMI_UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}" NO_HAN
#define KIMI_LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}" NO_HAN
#define KIMI "[\\p{Han}]+|" LEAD KIMI_UPPER "*" KIMI_LOWER "+" CONTRACTIONS "?|" \
    LEAD KIMI_UPPER "+" KIMI_LOWER "*" CONTRACTIONS "?|" \
    "\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" TAIL
/* Letters as DeepSeek's first tokenizer lists them, and its punctuation. */
#define DS_LETTERS "\\s?[" \
    "A-Za-z\\x{B5}\\x{C0}-\\x{D6}\\x{D8}-\\x{F6}\\x{F8}-\\x{1BA}\\x{1BC}-\\x{1BF}\\x{1C4}" \
    "-\\x{293}\\x{295}-\\x{2AF}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37B}-\\x{37D}\\x{37F}" \
    "\\x{386}\\x{388}-\\x{38A}\\x{38C}\\x{38E}-\\x{3A1}\\x{3A3}-\\x{3F5}\\x{3F7}-\\x{481}" \
    "\\x{48A}-\\x{52F}\\x{531}-\\x{556}\\x{10A0}-\\x{10C5}\\x{13A0}-\\x{13F5}\\x{13F8}-" \
    "\\x{13FD}\\x{1C90}-\\x{1CBA}\\x{1CBD}-\\x{1CBF}\\x{1D00}-\\x{1D2B}\\x{1D6B}-" \
    "\\x{1D77}\\x{1D79}-\\x{1D9A}\\x{1E00}-\\x{1F15}\\x{1F18}-\\x{1F1D}\\x{1F20}-" \
    "\\x{1F45}\\x{1F48}-\\x{1F4D}\\x{1F50}-\\x{1F57}\\x{1F59}\\x{1F5B}\\x{1F5D}\\x{1F5F}-" \
    "\\x{1F7D}\\x{1F80}-\\x{1FB4}\\x{1FB6}-\\x{1FBC}\\x{1FBE}\\x{1FC2}-\\x{1FC4}\\x{1FC6}" \
    "-\\x{1FCC}\\x{1FD0}-\\x{1FD3}\\x{1FD6}-\\x{1FDB}\\x{1FE0}-\\x{1FEC}\\x{1FF2}-" \
    "\\x{1FF4}\\x{1FF6}-\\x{1FFC}\\x{2102}\\x{2107}\\x{210A}-\\x{2113}\\x{2115}\\x{2119}-" \
    "\\x{211D}\\x{2124}\\x{2126}\\x{2128}\\x{212A}-\\x{212D}\\x{212F}-\\x{2134}\\x{2139}" \
    "\\x{213C}-\\x{213F}\\x{2145}-\\x{2149}\\x{214E}\\x{2183}\\x{2184}\\x{2C00}-\\x{2C7B}" \
    "\\x{2C7E}-\\x{2CE4}\\x{2CEB}-\\x{2CEE}\\x{2CF2}\\x{2CF3}\\x{A640}-\\x{A66D}\\x{A680}" \
    "-\\x{A69B}\\x{A722}-\\x{A76F}\\x{A771}-\\x{A787}\\x{A78B}-\\x{A78E}\\x{AB70}-" \
    "\\x{ABBF}\\x{FB00}-\\x{FB06}\\x{FB13}-\\x{FB17}\\x{FF21}-\\x{FF3A}\\x{FF41}-" \
    "\\x{FF5A}\\x{10400}-\\x{1044F}\\x{104B0}-\\x{104D3}\\x{104D8}-\\x{104FB}\\x{10C80}-" \
    "\\x{10CB2}\\x{10CC0}-\\x{10CF2}\\x{118A0}-\\x{118DF}\\x{1E900}-\\x{1E943}" "]+"
#define DS_MARKS "\\s?[!-/:-~\\x{FF01}-\\x{FF0F}\\x{FF1A}-" \
    "\\x{FF5E}\\x{2018}-\\x{201F}\\x{3000}-\\x{3002}]+"
#define DS_CJK "[\\x{4E00}-\\x{9FA5}\\x{800}-\\x{4E00}\\x{AC00}-\\x{D7FF}]+"
#define DS3_CJK "[\\x{4E00}-\\x{9FA5}\\x{3040}-\\x{309F}\\x{30A0}-\\x{30FF}]+"
#define DS3_WORDS "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|" \
    "[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|" TAIL

/* Names that stand for the same regexes are one row. */
static const struct build_pre pres[] = {
    { .names = "default gpt-2 mpt olmo phi-2 jais trillion granite-docling jina-es jina-de "
               "jina-v2-es jina-v2-de gigachat a.x-4.0 mellum exaone4",
      .regex = { GPT2 } },
    { .names = "starcoder refact command-r smollm codeshell exaone minerva-7b",
      .regex = { GPT2 }, .digits = true },
    { .names = "falcon",
      .regex = { "[\\p{P}\\$\\+<=>\\^~\\|`]+", GPT2, "[0-9][0-9][0-9]" } },
    { .names = "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2",
      .regex = { CL100K("\\p{N}{1,3}") }, .whole_words = true, .bos = true },
    { .names = "cl100k", .regex = { TIKTOKEN_CL100K }, .whole_words = true },
    { .names = "smaug-bpe dbrx glm4 chatglm-bpe", .regex = { CL100K("\\p{N}{1,3}") } },
    { .names = "qwen2 stablelm2 deepseek-r1-qwen megrez kormo hunyuan grok-2",
      .regex = { CL100K("\\p{N}") } },
    { .names = "gpt-4o llama4 minimax-m2", .regex = { O200K } },
    { .names = "o200k", .regex = { O200K }, .whole_words = true },
    { .names = "tekken", .regex = { TEKKEN }, .whole_words = true, .bos = true },
    { .names = "kimi-k2", .regex = { KIMI }, .whole_words = true },
    { .names = "deepseek-llm", .regex = { "[\\r\\n]", DS_LETTERS, DS_MARKS "|\\s+$", DS_CJK },
      .digits = true },
    { .names = "deepseek-coder", .regex = { "[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", DS_CJK },
      .digits = true },
    { .names = "deepseek-v3", .regex = { "\\p{N}{1,3}", DS3_CJK, DS3_WORDS } },
};

static bool has_word(struct str words, struct str word) {
    while (words.len) {
        const char *gap = memchr(words.at, ' ', words.len);
        struct str first = str_cut(words, 0, gap ? (size_t)(gap - words.at) : words.len);
        if (str_eq(first, word))
            return true;
        words = str_from(words, first.len + 1);
    }
    return false;
}

const struct build_pre *build_pre_find(struct str name) {
    for (size_t i = 0; i < COUNT(pres); i++)
        if (has_word(str_of(pres[i].names), name))
            return &pres[i];
    return NULL;
}

bool build_parts(struct tokenizer *t, struct parts *list, const char *json, struct err *err) {
    struct pull j = pull_open(str_of(json));
    bool done = parts_read(list, &j, &t->arena, "built in", err);
    pull_close(&j);
    return done;
}

bool build_byte_level(struct tokenizer *t, const char *const *regex, int n, bool digits,
                      struct err *err) {
    struct buf json = { 0 };
    buf_str(&json, S("{\"type\":\"Sequence\",\"pretokenizers\":["));
    if (digits && n < 2)
        buf_str(&json, S("{\"type\":\"Digits\",\"individual_digits\":true},"));
    for (int i = 0; i < n; i++) {
        buf_str(&json, S("{\"type\":\"Split\",\"pattern\":{\"Regex\":"));
        buf_json(&json, str_of(regex[i]));
        buf_str(&json, S("},\"behavior\":\"Isolated\",\"invert\":false},"));
    }
    if (digits && n >= 2)
        buf_str(&json, S("{\"type\":\"Digits\",\"individual_digits\":true},"));
    buf_str(&json, S("{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}]}"));
    bool done = build_parts(t, &t->presplits, buf_c(&json), err)
        && presplit_bind(&t->presplits, err)
        && build_parts(t, &t->decoders, "{\"type\":\"ByteLevel\"}", err)
        && decode_bind(&t->decoders, err);
    buf_free(&json);
    return done;
}

bool build_put_bytes(struct tokenizer *t, struct str bytes, uint64_t id, struct err *err) {
    struct buf text = { 0 };
    byte_chars_put(&text, bytes);
    const char *wrong = vocab_put(&t->vocab, buf_view(&text), id);
    buf_free(&text);
    return !wrong || err_set(err, "the token of rank %llu %s", (unsigned long long)id, wrong);
}

bool build_ranked(struct tokenizer *t, int first, struct err *err) {
    struct tok_model *m = &t->model;
    uint32_t *rank = mem_array((size_t)t->vocab.n + 1, sizeof *rank);
    m->kind = &model_bpe;
    for (int id = 0; id < t->vocab.n; id++)
        rank[id] = id < first ? UINT32_MAX : (uint32_t)id;
    bool done = bpe_all_pairs(m, rank, err);
    free(rank);
    return done && m->kind->ready(m, err);
}

static int by_score(const void *a, const void *b) {
    double x = (*(const struct build_piece *const *)a)->score;
    double y = (*(const struct build_piece *const *)b)->score;
    return x > y ? -1 : x < y;
}

/* The higher the score the lower the rank; equal scores are equal ranks, where position decides. */
static bool spm_bpe(struct tokenizer *t, const struct build_spm *s, struct err *err) {
    struct tok_model *m = &t->model;
    const struct build_piece **order = mem_array(s->n + 1, sizeof *order);
    uint32_t *rank = mem_array(s->n + 1, sizeof *rank);
    bool done = true;
    for (size_t i = 0; i < s->n; i++)
        order[i] = &s->piece[i];
    qsort(order, s->n, sizeof *order, by_score);
    for (size_t i = 0, now = 0; i < s->n; i++) {
        now = i && order[i]->score < order[i - 1]->score ? i : now;
        size_t id = (size_t)(order[i] - s->piece);
        rank[id] = order[i]->type == PIECE_NORMAL ? (uint32_t)now : UINT32_MAX;
    }
    for (size_t i = 0; done && i < s->n; i++) {
        const char *wrong = vocab_put(&t->vocab, s->piece[i].text, i);
        if (wrong)
            done = err_set(err, "the token \"%.*s\" %s", STR_ARG(s->piece[i].text), wrong);
    }
    done = done && bpe_all_pairs(m, rank, err);
    free(order);
    free(rank);
    return done;
}

static bool spm_unigram(struct tokenizer *t, const struct build_spm *s, struct err *err) {
    for (size_t i = 0; i < s->n; i++)
        if (!unigram_put(&t->model, s->piece[i].text, s->piece[i].score,
                         s->piece[i].type == PIECE_NORMAL, err))
            return false;
    return true;
}

bool build_sentencepiece(struct tokenizer *t, const struct build_spm *s, struct err *err) {
    struct tok_model *m = &t->model;
    for (size_t i = 0; i < s->n; i++)
        if (!utf8_valid(s->piece[i].text) || s->piece[i].score != s->piece[i].score)
            return err_set(err, "token %zu is not UTF-8, or has no score", i);
    m->kind = s->unigram ? &model_unigram : &model_bpe;
    m->fuse_unk = true;
    m->byte_fallback = s->byte_fallback;
    m->unk = s->unk;
    if (!(s->unigram ? spm_unigram(t, s, err) : spm_bpe(t, s, err)))
        return false;
    if (m->unk >= t->vocab.n || s->bos >= t->vocab.n || s->eos >= t->vocab.n)
        return err_set(err, "the id of unk, bos or eos is not in the vocabulary");
    /* Before there are normalizers: what users defined is spelt as normalized texts are. */
    for (size_t i = 0; i < s->n; i++)
        if (s->piece[i].type == PIECE_USER && !tokenizer_add(t, s->piece[i].text, 0, true, err))
            return false;
    if (!m->kind->ready(m, err)
        || !build_parts(t, &t->normalizers, "{\"type\":\"SentencePiece\"}", err)
        || !normalize_bind(&t->normalizers, err))
        return false;
    struct part *norm = &t->normalizers.at[0];
    norm->add_prefix_space = s->dummy_prefix;
    norm->strip_left = s->remove_extra_spaces;
    if (s->charsmap.len && !(norm->charsmap = charsmap_from(s->charsmap, err)))
        return false;
    for (size_t i = 0; i < s->n; i++)
        if (s->piece[i].type == PIECE_CONTROL
            && !tokenizer_add(t, s->piece[i].text, ADDED_SPECIAL, false, err))
            return false;
    t->bos = s->bos;
    t->eos = s->eos;
    /* Of leading spaces the one that was put there goes; all, where a text could have none. */
    static const char decoders[] = "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\","
        "\"pattern\":{\"String\":\"\\u2581\"},\"content\":\" \"},{\"type\":\"ByteFallback\"},"
        "{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\" \",\"start\":0,\"stop\":0}]}";
    if (!build_parts(t, &t->decoders, decoders, err))
        return false;
    t->decoders.at[t->decoders.n - 1].start = s->remove_extra_spaces ? 1 << 20 : s->dummy_prefix;
    return decode_bind(&t->decoders, err);
}
