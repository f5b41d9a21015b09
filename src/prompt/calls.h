/* calls.h - how models write tool calls: a table of formats, and the readers that turn
 * one marked stretch of text, which may hold several calls, into names and arguments while it
 * comes. The stream (stream.c) finds where such a stretch begins.
 *
 * A name is given when nothing can take it back: it is complete and what follows begins its
 * arguments (or ends a call without any). From then on the call exists, and what is given of its
 * arguments always adds up to a JSON object; reader_end closes them. */
#pragma once
#include "prompt/literal.h"
#include "prompt/schema.h"

struct reader;
enum reading { READ_MORE, READ_DONE, READ_BROKEN };
/* Reads on at r->at. BROKEN: from r->done on, the text is no call. */
typedef enum reading call_read(struct reader *, const struct said *);

/* Calls as tags: CALL name NAME_END (KEY key KEY_END [VALUE] value VALUE_END)* CALL_END. */
struct call_tags {
    const char *call, *name_end;     /* NULL: a bare name, up to the first key or the end */
    const char *call_attributes_end;             /* NULL, or what ends attributes after the name */
    const char *key, *key_end;
    const char *attributes_end;      /* NULL, or what ends attributes after the key */
    const char *value;               /* NULL: follows the key at once */
    const char *value_end, *call_end;            /* call_end NULL: the stretch ends the call */
    bool lines;                      /* a newline at either end of a value is layout */
};

enum { DROPS_MAX = 4 };
struct call_format {
    const char *sign;                /* a template with this text makes the model write so */
    const char *open;                /* before each stretch; NULL: the answer is one itself */
    char begins;                     /* open NULL: the first character of such an answer */
    const char *close;               /* after it; NULL: nothing */
    call_read *read;
    const struct call_tags *tags;
    const char *name_end;            /* read_named: between name and arguments; read_typed: after
                                        the word before the call */
    bool ids;                        /* "functions.name:0" is the call's id */
    const char *quote;               /* read_gemma: around strings; NULL: as Gemma 4 has it */
    const char *drop[DROPS_MAX];     /* said around calls, and nothing in themselves */
    bool aloud;                      /* those marks are said without tools, too */
    bool known_only;                 /* the mark is ordinary text: only tools' names are calls */
};
extern const struct call_format call_formats[];          /* ends with a NULL sign */

struct reader {
    const struct call_format *format;            /* NULL: a message to `name` (channels.c) */
    const struct call_tags *tags;
    struct json_object *tools;
    void (*give)(void *to, bool name, struct str);       /* a name, or more of its arguments */
    void *to;
    bool known_only;                 /* the name of no tool begins no call */
    call_read *read;                 /* what read_auto chose */
    size_t at, done;                 /* bytes of the undecided text: read; given out or needless */
    size_t searched;                 /* up to here there is no... */
    const char *searched_for;        /* ...such mark; kept when another call opens */
    size_t inner;                    /* read of arguments that are JSON in a string */
    int state;
    bool named, open, list;          /* name given; arguments open; several in brackets */
    bool have_name, have_arguments;
    bool in_string, some;            /* read_tags: a string is open; a key was given */
    struct buf name, key, scratch;
    struct buf id;                   /* of the call that is named next: the model's own, or empty */
    struct literal value;
    struct types types;              /* read_tags: of the parameter */
    int calls;
};

void reader_open(struct reader *, const struct call_format *);   /* keeps tools, give, to */
void reader_free(struct reader *);
/* Closes the arguments of a call that was named; nothing otherwise. */
void reader_end(struct reader *);
/* The caller dropped so many bytes of the undecided text's front. */
void reader_dropped(struct reader *, size_t n);

call_read read_auto, read_json, read_keyed, read_named, read_mistral, read_tags, read_typed,
    read_python, read_ipython, read_gemma, read_message;
/* Goes on as read_tags does behind a name, which is in r->name. */
call_read read_parameters;

/* What readers share. */
enum { CALL_ID_MAX_BYTES = 128, CALL_NAME_MAX = 256, CALL_KEY_MAX = 4096, CALL_HELD_MAX = 4 << 20 };
void reader_name(struct reader *, struct str name);      /* gives it; arguments are open */
void reader_give(struct reader *, struct str arguments);
/* Reads the value as arguments and, once named, gives what is safe of it. */
enum reading reader_value(struct reader *, const struct said *);
void reader_empty(struct reader *);                      /* "{}", closed */
bool reader_known(const struct reader *, struct str name);
/* Steps over white space and then the mark, if it is there. */
enum match reader_mark(struct reader *, const struct said *, const char *mark);
/* A whole JSON string at r->at, decoded into `out`; NO: there is none, or it is too long. */
enum match reader_string(struct reader *, const struct said *, struct buf *out, size_t max);
/* Some of the inside of such a string; *at moves behind it. NO: there is half of an escape. */
enum match reader_unit(const struct said *, size_t *at, struct buf *out);
/* Notes the model's id of the call, unless nobody could use it as one. */
void reader_id(struct reader *, struct str id);
/* "functions.name:0" (Kimi, gpt-oss) is just `name`. */
struct str plain_name(struct str);
struct str trimmed(struct str);
