/* box.h - the box that a chat template is compiled and run in: its memory, its
 * steps, its depth, and the one way out of it when something is wrong.
 *
 * A template is somebody else's program. Whatever it asks for comes out of a
 * box with limits, and a failure anywhere inside leaves by longjmp to the one
 * place that opened the box: everything allocated on the way is in the box's
 * arena, so nothing needs to be undone. */
#pragma once
#include "base/arena.h"
#include <setjmp.h>

enum {
    BOX_BYTES_MAX = 256 << 20,       /* all values of one rendering together */
    BOX_STEPS_MAX = 20 << 20,        /* about a second or two of work */
    BOX_DEPTH_MAX = 700,             /* nested evaluations, some hundred bytes of stack each */
    BOX_OUTPUT_MAX = 64 << 20,       /* any one string, the prompt included */
    SOURCE_MAX = 1 << 20             /* bytes of a template */
};

struct source { struct str text; }; /* line ends are "\n" only */

struct box {
    struct arena arena;
    char *chunk;                     /* small things are cut from here */
    size_t chunk_left;
    size_t bytes_left;
    int64_t steps_left;
    int depth;
    const struct source *source;     /* NULL: errors name no place */
    uint32_t at;                     /* where in the source we are, for errors */
    bool over;                       /* the failure was a limit, not a mistake */
    struct err *err;
    jmp_buf exit;                    /* set by whoever opened the box */
};

/* The opener also fills in `exit`, by setjmp, before anything is done in the box. */
void box_open(struct box *, const struct source *, struct err *);
void box_close(struct box *);

/* Zeroed, aligned to 16, gone with the box. Never NULL. */
void *box_new(struct box *, size_t bytes);
void *box_array(struct box *, size_t n, size_t size);      /* the same for n of a size */

/* Counts work that grows with data; fails when the budget is used up. */
void box_work(struct box *, size_t amount);
void box_enter(struct box *);        /* one level deeper; box->depth-- leaves it */

/* Leave the box: "chat template line 3, column 7: <sentence>". */
_Noreturn void box_fail(struct box *, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
_Noreturn void box_limit(struct box *, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
