/* session.h - an open engine and one request at a time on it, for every command
 * that runs a model. Single-threaded: who asks also steps. */
#pragma once
#include "cli/cli.h"
#include "engine.h"

struct session {
    struct engine *engine;
    struct term term;
    struct sample_params sample;     /* the checkpoint's, under what was given */
    struct logit_bias bias[TEXT_LIST_MAX];
    int breaker[DRY_BREAKERS_MAX];
    struct str stop[TEXT_LIST_MAX]; int n_stop;
    bool stop_owned[TEXT_LIST_MAX];  /* else a word of argv */
    struct buf dir, template_text;
    double load_s, started_s;        /* the second: of the process, nearly */
    bool bar, packing;               /* the progress bar is on the terminal; of what */
    double bar_s;                    /* when loading, or packing, began */
    bool quiet;
    unsigned n_calls;                /* tool calls so far that the model gave no id */
    void (*progress)(void *to, double done);
    void *progress_to;
};

struct session_plan {
    bool no_tokenizer;               /* ids in, ids out */
    int running, waiting;            /* requests at a time; 0: the engine's defaults */
    double slowdown;                 /* as the engine's option */
    void (*progress)(void *to, double done);     /* NULL: only the bar on a terminal */
    void *to;
};
/* --packed: where packed weights are kept. `dir` holds the text that the options point to. */
void session_packed(const char *packed, struct buf *dir, struct engine_options *);
bool session_open(struct session *, const struct args *, const struct session_plan *,
                  struct err *);
void session_close(struct session *);
void session_no_stops(struct session *);                 /* drops the stop texts */

/* One tool call that the model made; its id is the model's own, or one of nine letters and digits,
 * as some templates insist on. */
struct call { struct buf id, name, arguments; };

struct answer {                      /* zeroed before use, answer_free after */
    struct buf raw, text, reasoning;
    struct call *call; int n_calls;
    struct ids ids;                  /* generated, an end-of-text token included */
    enum finish finish;
    char error[256];
    int n_prompt, n_cached, n_generated;
    double queue_s, prefill_s, decode_s, first_token_s;
};
void answer_free(struct answer *);

struct question {
    const int *ids; int n_ids;
    struct generate_options options;
    const struct chat *chat;         /* NULL: raw text */
    const struct prompt *prompt;     /* with chat: what the answer continues */
    struct json_object *tools;       /* NULL: calls stay text */
    /* Called for every piece as it comes; NULL: nobody looks. */
    void (*show)(void *to, enum chat_kind, struct str piece);
    void (*logits)(void *to, const float *row, int vocab, int position);
    void *to;
};

/* Runs until the answer ends. Ctrl-C, noted by signal_catch, cancels it: the answer then holds
 * what there was, with FINISH_CANCELLED. False: refused or failed, err says why. */
bool session_ask(struct session *, const struct question *, struct answer *, struct err *);
struct generate_options session_options(const struct session *, const struct args *);

/* One object. A message: role, content, reasoning_content (null: none) and tool_calls, as OpenAI's
 * API has them; else text. Then finish_reason (stop, length, tool_calls, cancelled), usage, timings
 * and seed. */
void answer_json(struct buf *, const struct session *, const struct answer *, bool message);
/* One line of speeds, dimmed on a terminal; nothing when quiet or standard error is a file. */
void answer_timings(const struct session *, const struct args *, const struct answer *);
void put_ids(struct buf *, const struct ids *);          /* 1,2,3 */
