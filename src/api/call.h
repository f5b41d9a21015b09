/* call.h - a generation that a request asks for: its prompts, its sequences, and their events
 * on the way to a wire format.
 *
 * A wire format's handler (on a worker) makes a call, fills prompts and options, and starts it.
 * From then on the engine's thread brings events: the call splits text into content, reasoning
 * and tool calls, counts, and hands each token to the wire format, which writes chunks or gathers
 * a whole reply. The functions of a wire never run at the same time for one call. */
#pragma once
#include "api/body.h"

#include <stdatomic.h>

enum { CHOICES_MAX = 128, STOPS_MAX = 64, CALL_ID_MAX = 48, PRIORITY_MAX = 10 };

struct call;
struct choice;

/* What one token added to an answer, already split; n may be 0 (text is held back). */
struct pieces { const struct chat_event *at; int n; };

struct wire {
    /* Every sequence was accepted: the head of a stream may go out. */
    void (*begin)(struct call *);
    /* Of the prompt choice->n_read tokens are read, not yet all. Only with call->progress. */
    void (*progress)(struct choice *);
    /* `e` is EVENT_TOKEN or EVENT_PROMPT. Before this the choice's buffers have grown. */
    void (*token)(struct choice *, const struct engine_event *e, struct pieces);
    /* This sequence ended: finish and the counts are set; pieces: what was held back. */
    void (*done)(struct choice *, struct pieces);
    /* All have ended: the rest of the reply. Not called after a failure, which call.c sends. */
    void (*end)(struct call *);
};

struct tool_call { struct buf id, name, arguments; };

struct choice {
    struct call *call;
    int index;                       /* in the reply */
    int prompt;                      /* which of the prompts it continues */
    _Atomic uint64_t id;             /* the engine's; 0: not submitted */
    struct chat_stream *split;       /* NULL: all text is content */
    struct buf content, reasoning;   /* gathered so far, for streams too: they may need them */
    struct tool_call *tool; int n_tools;
    struct ids ids;                  /* generated so far */
    enum finish finish;
    struct buf stop;                 /* the stop string that ended it, or empty */
    int n_prompt, n_cached, n_generated, n_reasoning;
    int n_read;                      /* of the prompt, as far as was told */
    double queue_s, prefill_s, decode_s, first_token_s;
    bool over;
    bool enough;                     /* choice_enough was called */
    bool called;                     /* a second call began, and one_call is set */
    struct buf own;                  /* the wire's: logprobs so far, say */
    size_t own_n;
    double token_s;                  /* when the last token came */
    /* call_events.c's: the pieces of the current event, and their bytes */
    struct chat_event *piece; size_t *piece_at; int n_pieces, pieces_cap;
    struct buf piece_text;
};

struct prompt_in { struct ids ids; struct prompt text; struct buf echo; };

struct call {
    struct exchange *x;              /* a reference */
    const struct wire *wire;
    char id[CALL_ID_MAX];            /* "chatcmpl-..." */
    int64_t created;                 /* Unix seconds */

    /* The wire format fills these before call_start. */
    struct prompt_in *prompt; int n_prompts;
    int n;                           /* choices of each prompt; 1 */
    bool split;                      /* by the chat template's parsers; else all is content */
    struct json_object *tools;       /* a reference, or NULL */
    bool one_call;                   /* an answer ends where a second call of a tool begins */
    struct generate_options options; /* stop and bias point into the call */
    struct str stop[STOPS_MAX];      /* into the body's JSON or the call's text */
    struct logit_bias *bias;         /* free() */
    int breaker[DRY_BREAKERS_MAX];   /* options.sample's, when the request brings its own */
    struct json_object *json;        /* a reference: the request, which views point into */
    bool stream, usage, echo;
    bool timings;                    /* timings_per_token */
    bool progress;                   /* return_progress, of a stream */
    int wire_flags;                  /* the wire's own */
    int line_ms;                     /* an answer with a line break ends after so long; 0: never */

    struct choice *choice; int n_choices, n_open;
    bool started, failed;
    struct fault why;                /* of the failure, for the client */
    _Atomic bool cancelled;
    _Atomic int refs;                /* the engine's, the exchange's for its client's leaving, and
                                        call_start's while it runs */
    pthread_mutex_t lock;            /* of everything above, once it was started */
    struct call *next;               /* of the server's list */
};

/* With an id beginning with `id_prefix` ("chatcmpl-"). `json` is taken. */
struct call *call_new(struct exchange *, const struct wire *, const char *id_prefix,
                      struct json_object *json);
void call_free(struct call *);       /* one that did not start; NULL: nothing */

/* One more prompt; the ids are taken, also when they do not fit. */
bool call_add_ids(struct call *, struct ids *, struct fault *);
/* Text without a template. specials: control tokens in it count; bos: with what the tokenizer puts
 * around a text. */
bool call_add_text(struct call *, struct str, bool specials, bool bos, struct fault *);
/* chat_render, but where the template refuses system messages, what they say is the user's. */
bool call_render(const struct chat *, const struct dialog *, struct prompt *, struct err *);
/* Messages through the chat template. The dialog is borrowed. Sets split. */
bool call_add_dialog(struct call *, const struct dialog *, struct fault *);

/* Submits every choice, or none. False: the fault says why, the call is still the caller's. True:
 * it frees itself at its end, and nothing of it may be touched any more. */
bool call_start(struct call *, struct fault *);

/* The running calls, for /slots. `line` runs under the list's lock and the call's. */
void calls_each(struct server *, void (*line)(void *to, struct call *), void *to);
/* Ends it before its time: its client gets the fault. Any thread. */
void call_end(struct call *, const struct fault *);
void call_cancel(struct call *);     /* nobody wants it any more */
engine_emit call_event;              /* call_events.c: what the engine calls, with a choice */
void call_forget(struct call *);     /* out of the server's list, and of the key's account */

/* A wire format wants no more of it: it ends as if its length was reached. In a wire's token. */
void choice_enough(struct choice *);
/* "stop", "length", "tool_calls", ... as OpenAI names it. */
const char *choice_finish(const struct choice *);
