/* part.h - one step of a pipeline as tokenizer.json describes it: a normalizer,
 * pre-tokenizer, post-processor or decoder.
 *
 * All kinds share one flat struct, as their fields hardly differ; a Sequence is read
 * as its members. The strings are in the tokenizer's arena. */
#pragma once
#include "base/base.h"

struct regex;
struct charsmap;
struct arena;
struct pull;

enum { PARTS_MAX = 64, TEMPLATE_MAX = 16 };

enum behavior { REMOVED, ISOLATED, MERGED_WITH_PREVIOUS, MERGED_WITH_NEXT, CONTIGUOUS };
enum prepend { PREPEND_ALWAYS, PREPEND_FIRST, PREPEND_NEVER };

struct template_piece { bool is_text; struct str token; int id; };

struct part {
    struct str type;
    int row;                         /* of its kind's table, set by whoever owns the table */
    struct str content, prefix, suffix, pad_token, word_delimiter;
    struct str pattern;
    bool has_pattern, pattern_is_regex;
    struct regex *regex;             /* of the pattern; regex_free */
    struct str charsmap_text;        /* base64 */
    struct charsmap *charsmap;       /* charsmap_free */
    uint32_t replacement;            /* a code point */
    enum behavior behavior;
    enum prepend prepend;
    bool invert, add_prefix_space, add_prefix_space_false, use_regex, individual_digits, split;
    bool strip_left, strip_right, cleanup, clean_text, chinese_chars, lowercase;
    int strip_accents;               /* -1: as lowercase */
    int start, stop, length;
    struct template_piece single[TEMPLATE_MAX];      /* post-processors only */
    int n_single;
    struct { struct str name; int id; } special[TEMPLATE_MAX];       /* and the ids of its tokens */
    int n_special;
    int sep, cls;                    /* -1: none given */
};

struct parts { struct part *at; int n; };

/* Reads one value: null, or an object, maybe a Sequence of more. `where` is "normalizer" and the
 * like, for the err. Regexes and charsmaps are not compiled yet. */
bool parts_read(struct parts *, struct pull *, struct arena *, const char *where, struct err *);
void parts_free(struct parts *);

/* By how much a Replace can make a text longer, at least 1. A chain may do so by PART_GROWTH_MAX,
 * or it is refused. */
enum { PART_GROWTH_MAX = 1 << 12 };
size_t part_growth(const struct part *);
