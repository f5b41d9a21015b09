/* base.h - the words every module speaks: strings as views, errors as
 * sentences, checked arithmetic, memory that cannot be NULL.
 *
 * Includes nothing of ours but its own small neighbours. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define COUNT(array) (sizeof(array) / sizeof *(array))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

/* A view of bytes that someone else owns. Not terminated, may hold NULs. */
struct str { const char *at; size_t len; };
#define S(literal) ((struct str){ (literal), sizeof(literal) - 1 })

struct str str_of(const char *c_string);                 /* NULL gives the empty view */
bool str_is(struct str, const char *c_string);
bool str_eq(struct str, struct str);
bool str_starts(struct str, const char *prefix);
bool str_ends(struct str, const char *suffix);
struct str str_from(struct str, size_t begin);           /* the rest; empty when past the end */
struct str str_cut(struct str, size_t begin, size_t end);        /* clamped to the view */

/* Decimal digits only, no sign or space; false: empty, junk, or above `max`. */
bool str_u64(struct str, uint64_t max, uint64_t *out);

/* The world is wrong (file, config, request): a sentence and the exit code that
 * a command would end with. The first failure is kept, later ones are dropped. */
enum err_code {
    ERR_NONE = 0, ERR_FAILED = 1, ERR_USAGE = 2, ERR_NOT_FOUND = 3,
    ERR_UNSUPPORTED = 4, ERR_MEMORY = 5, ERR_DEVICE = 6
};
struct err { enum err_code code; char text[512]; };

/* Both return false, so that `return err_set(...)` reads well. Control
 * characters in the finished sentence are escaped: it quotes untrusted names. */
bool err_set(struct err *, const char *format, ...) __attribute__((format(printf, 2, 3)));
bool err_code(struct err *, enum err_code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* A %.*s argument pair for a view, cut to what fits a sentence. */
#define STR_ARG(s) (int)((s).len < 200 ? (s).len : 200), (s).at ? (s).at : ""

/* Small host allocations: abort with a sentence when there is no memory.
 * Sizes that come from a file go through mul_size first. */
void *mem_new(size_t bytes);                              /* zeroed; free() */
void *mem_array(size_t n, size_t size);                   /* zeroed; free() */
void *mem_grow(void *, size_t n, size_t size);            /* realloc; new part not zeroed */
/* Advice, for a large table or text that will be filled: fewer and larger pages. */
void mem_filled_soon(void *, size_t bytes);
char *mem_str(struct str);                                /* terminated copy; free() */

/* False on overflow; *out is then unchanged. */
bool mul_size(size_t a, size_t b, size_t *out);
bool add_size(size_t a, size_t b, size_t *out);

/* Monotonic seconds; for reports, never for results. */
double clock_s(void);
