/* stream.h - the insides of a chat_stream, for stream.c and those that read whole
 * other ways of marking a turn (channels.c). */
#pragma once
#include "prompt/calls.h"
#include "prompt/prompt.h"

/* How a model marks what it thinks. `drop` may be said before and after the answer and is nothing
 * in itself. */
struct think { const char *sign, *open, *close, *drop[2]; };
extern const struct think think_kinds[];                 /* ends with a NULL open */

enum { FORMATS_MAX = 16, THINKS_MAX = 8, HEADER_MAX = 256 };
enum stream_state {
    AT_START, IN_REASONING, IN_CONTENT, IN_CALL, AFTER_CALL, IN_HEADER, IN_MESSAGE,
    IN_MESSAGE_CALL, STREAM_STATES
};

struct chat_stream {
    enum stream_state state;
    const struct think *think[THINKS_MAX];       /* what the answer may begin with */
    int n_thinks;
    const char *close;                           /* IN_REASONING: what ends it */
    const struct call_format *format[FORMATS_MAX];
    int n_formats;
    struct reader reader;                        /* IN_CALL, IN_MESSAGE_CALL */
    const char *stray;                           /* a broken call's close, dropped when it comes */
    struct buf pending, control;                 /* not decided yet from `head` on, and its control
                                                    bytes */
    size_t head;
    size_t unsaid;                               /* so much of it the prompt had said already */
    size_t work;                                 /* bytes looked at, for tests */
    const struct tags *tags;
    struct buf blank;                            /* white space that what follows decides on */
    bool said;                                   /* the current kind has shown something */
    bool after_call;
    int n_calls;
    struct buf call_ids;                         /* the model's own, a line each */
    struct json_object *tools;
    enum chat_kind channel;                      /* IN_MESSAGE: what its text is */
    struct buf recipient;                        /* IN_MESSAGE: of a call; else empty */
    /* chat_stream_token: the text of all tokens so far, and which of it tags' tokens wrote. */
    struct detok *mirror;
    struct buf mirrored;                         /* of the last token */
    size_t n_mirrored, n_told;
    struct { size_t begin, end; } *range;        /* what was not told yet, in order */
    int n_ranges, cap_ranges;
    void (*emit)(void *to, const struct chat_event *);   /* NULL: the prompt is read again */
    void *to;
};

struct str stream_left(const struct chat_stream *);      /* the undecided text */
struct said stream_said(const struct chat_stream *, bool last);
/* The same, but no more than some hundred bytes of it, so that text that was held for long is not
 * searched to its end again for every mark in it. *cut: there is more. */
struct said stream_window(const struct chat_stream *, bool last, bool *cut);
void stream_event(struct chat_stream *, enum chat_kind, int index, struct str);
void stream_show(struct chat_stream *, struct str);
void stream_enter(struct chat_stream *, enum stream_state);
void stream_drop(struct chat_stream *, size_t n);        /* of the undecided text's front */
/* Reads on; drops what is decided. */
enum reading stream_read(struct chat_stream *, call_read *, const struct said *);

/* Each state handles what is pending and says whether there is more it can do. */
typedef bool stream_step(struct chat_stream *, bool last);
stream_step channel_header, channel_message, channel_call;
