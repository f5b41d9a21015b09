/* pull.h - a pull reader for JSON in memory: bytes in, views out, no tree.
 *
 * For the two large files, tokenizer.json and safetensors headers, and to check
 * small ones before json-c builds a tree. It never recurses and holds nothing
 * but a bit per open level. Strict RFC 8259, UTF-8 checked in strings, except
 * that `lenient` also takes NaN and Infinity, as configs hold them.
 *
 *     struct pull j = pull_open(text);
 *     if (pull_object(&j))
 *         while (pull_key(&j, &key))
 *             if (str_is(key, "dtype")) pull_string(&j, &value); else pull_skip(&j);
 *     if (!pull_end(&j)) ... j.error says what, j.offset where
 *
 * Errors stick: after the first, every call returns false and *_next loops end.
 * A key or string without escapes is a view into the text; one with escapes is
 * decoded into `scratch`, valid until the next key or string call. */
#pragma once
#include "base/buf.h"

enum { PULL_DEPTH_MAX = 64 };
enum pull_kind { PULL_NONE, PULL_NULL, PULL_BOOL, PULL_NUMBER, PULL_STRING, PULL_ARRAY,
                 PULL_OBJECT };

struct pull {
    struct str text;
    size_t offset;
    const char *error;               /* NULL: none so far */
    struct buf scratch;              /* pull_close frees it */
    uint64_t in_object;              /* a bit per level: object or array */
    int depth;
    bool first, lenient;
};

struct pull pull_open(struct str text);
void pull_close(struct pull *);
bool pull_fail(struct pull *, const char *what);          /* false; what must be a literal */

enum pull_kind pull_peek(struct pull *);                  /* of the value that comes next */
bool pull_object(struct pull *);                          /* enters */
bool pull_key(struct pull *, struct str *key);            /* false: end of object, left */
bool pull_array(struct pull *);                           /* enters */
bool pull_next(struct pull *);                            /* false: end of array, left */
bool pull_string(struct pull *, struct str *);
/* A list of two strings without escapes, as files hold by the 100,000; false: another value, or one
 * to read with the calls above; nothing was moved. */
bool pull_pair(struct pull *, struct str *left, struct str *right);
bool pull_number(struct pull *, struct str *);            /* the spelling, checked */
bool pull_u64(struct pull *, uint64_t max, uint64_t *);   /* digits only */
bool pull_double(struct pull *, double *);
bool pull_bool(struct pull *, bool *);
bool pull_null(struct pull *);
bool pull_skip(struct pull *);                            /* one value of any kind, checked */
bool pull_value(struct pull *, struct str *);             /* skips it, gives its text */
bool pull_end(struct pull *);                             /* only white space is left */
