/* stream.h - the insides of a chat_stream, for stream.c and those that read whole
 * other ways of marking a turn (channels.c). */
#pragma once
#include "prompt/calls.h"
#include "prompt/prompt.h"

struct think { const char *open, *close; };

enum { FORMATS_MAX = 16 };
enum stream_state {
    AT_START, IN_REASONING, IN_CONTENT, IN_CALL, AFTER_CALL, IN_HEADER, IN_MESSAGE,
    IN_MESSAGE_CALL, STREAM_STATES
};

struct chat_stream {
    enum stream_state state;
    struct think think;
    const struct call_format *format[FORMATS_MAX];
    int n_formats;
    struct reader reader;                        /* IN_CALL, IN_MESSAGE_CALL */
    const char *stray;                           /* a broken call's close, dropped when it comes */
    struct buf pending, control;                 /* not decided yet, and its control bytes */
    const struct tags *tags;
    struct buf blank;                            /* white space that what follows decides on */
    bool said;                                   /* the current kind has shown something */
    bool after_call;
    int n_calls;
    struct json_object *tools;
    enum chat_kind channel;                      /* IN_MESSAGE: what its text is */
    struct buf recipient;                        /* IN_MESSAGE: of a call; else empty */
    void (*emit)(void *to, const struct chat_event *);
    void *to;
};

struct said stream_said(const struct chat_stream *, bool last);
void stream_event(struct chat_stream *, enum chat_kind, int index, struct str);
void stream_show(struct chat_stream *, struct str);
void stream_enter(struct chat_stream *, enum stream_state);
void stream_drop(struct chat_stream *, size_t n);        /* of the pending text's front */
/* Reads on; drops what is decided. */
enum reading stream_read(struct chat_stream *, call_read *, const struct said *);

/* Each state handles what is pending and says whether there is more it can do. */
typedef bool stream_step(struct chat_stream *, bool last);
stream_step channel_header, channel_message, channel_call;
