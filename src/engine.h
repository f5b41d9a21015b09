/* engine.h - the owner of everything, and the loop. What the CLI and the server see. */
#pragma once
#include "prompt/prompt.h"
#include "sample/sample.h"
#include "tokens/tokens.h"

struct engine;
struct tensor;

struct engine_options {              /* zeroed: defaults */
    const char *dir;                 /* of the checkpoint */
    const char *device;              /* NULL or "auto", "cpu", ... */
    const char *isa;                 /* NULL: the best; "generic", "avx2", ...: --isa has all */
    const char *chat_template;       /* text or a name, as chat_open; NULL: the checkpoint's */
    int threads;                     /* 0: as many as this process may use */
    int context;                     /* of the longest sequence; 0: the model's, if it fits */
    int rows_max, chunk_max;         /* of a step; of one prompt in a step. 0: 512, of quantized
                                        weights 256, on a GPU 2048; rows_max */
    int requests_max;                /* running at a time; 0: 16 */
    int waiting_max;                 /* requests that may wait beyond those; 0: 512 */
    size_t cache_bytes;              /* 0: fitting context and requests_max */
    double slowdown;                 /* how much longer prompts may make a step in which others
                                        decode, at least 1; 0: 2; negative: no limit */
    bool f32;                        /* parity mode: f32 activations, arithmetic and KV */
    bool fast;                       /* as device_options says: a reply then depends on what it was
                                        computed with */
    const char *kv;                  /* "f32", "bf16", "q8", "fp8"; NULL or "auto": bf16, with
                                        f32 f32 */
    int ahead;                       /* asks for a step before the tokens of the last one have come:
                                        1 yes, -1 no, 0: where the device works by itself */
    bool no_reuse;                   /* never look for kept prefixes */
    bool no_tokenizer;               /* ids in, ids out */
    bool unpacked;                   /* weights are read as the checkpoint has them */
    const char *packed_dir;          /* of files of packed weights; NULL: they are packed in memory,
                                        at every start */
    size_t packed_min;               /* bytes from which on packed weights are kept in a file */
    void (*progress)(void *to, double done);     /* of loading */
    void (*packing)(void *to, double done);      /* and of packing, where there is no file yet */
    void (*layer)(void *to, int layer, const struct tensor *x);      /* probe */
    void *to;
};

enum finish { FINISH_NONE, FINISH_STOP, FINISH_LENGTH, FINISH_CANCELLED, FINISH_ERROR };

struct generate_options {            /* everything is copied by engine_submit */
    struct sample_params sample;
    int n_max;                       /* tokens to generate; -1: until end of text or context */
    const struct str *stop; int n_stop;
    bool ignore_eos;                 /* end-of-text ids are tokens like others */
    bool specials;                   /* control tokens appear in the text */
    int logprobs;                    /* alternatives per token; 0: none, and no logprob either */
    bool prompt_logprobs;            /* an EVENT_PROMPT for every token of the prompt, in order and
                                        before the first EVENT_TOKEN, with `logprobs` alternatives;
                                        n_max may be 0. The whole prompt is computed: no reuse */
    bool progress;                   /* an EVENT_PROGRESS after steps that read of the prompt, at
                                        most one for each hundredth of it, and none for its end */
    int logits_last;                 /* EVENT_LOGITS for so many last positions of the prompt, and
                                        for every position after it; 0: none */
    int priority;                    /* higher first: lower ones wait, or make way. One that has
                                        waited 4,096 steps counts among the most urgent */
    bool gather;                     /* until its prompt is read nobody decodes: for measurements
                                        of a whole batch */
    uint64_t salt;                   /* requests of other salts share no prefixes */
    uint64_t client;                 /* whose request it is: clients of one priority get their
                                        turns; 0: a common one */
};

enum event_kind { EVENT_LOGITS, EVENT_PROGRESS, EVENT_PROMPT, EVENT_TOKEN, EVENT_DONE };

struct engine_event {                /* valid during the call only */
    enum event_kind kind;
    uint64_t id;
    /* EVENT_LOGITS: those that follow the token at `position` */
    const float *logits; int vocab;
    int position;                    /* in prompt and answer; of PROMPT and TOKEN: the token's; of
                                        PROGRESS: how many tokens are read, or were known */
    /* EVENT_PROMPT: text is what the token alone decodes to, control tokens shown; logprob of the
     * first one is NAN, and it has no alternatives.
     * EVENT_TOKEN: text may be empty (a character or a stop string is not complete yet) */
    int token;
    struct str text;
    struct str piece;                /* the token's own bytes, see engine_token_text */
    float logprob;                   /* from the model's own logits: no temperature, no penalty */
    const struct token_prob *top; int n_top;
    /* EVENT_DONE: text holds what was still held back */
    enum finish finish;
    const char *error;               /* FINISH_ERROR: a sentence */
    struct str stop;                 /* the stop string that ended it, or empty */
    /* EVENT_PROGRESS and EVENT_TOKEN: until now, EVENT_DONE: of all */
    int n_prompt, n_cached, n_generated;
    double queue_s, prefill_s, decode_s, first_token_s;   /* first_token: since submit */
};
typedef void engine_emit(void *to, const struct engine_event *);

/* Loads the checkpoint; options are copied, the device opened. engine_close frees all of it. */
struct engine *engine_open(const struct engine_options *, struct err *);
void engine_close(struct engine *);

/* Any thread. The prompt's ids are copied; emit is called on the thread that steps, and must not
 * step, submit or wait. 0: refused, the err says why (ERR_MEMORY: the queue is full). */
uint64_t engine_submit(struct engine *, const int *ids, int n_ids, const struct generate_options *,
                       engine_emit *, void *to, struct err *);
/* Any thread. The request ends with FINISH_CANCELLED before the next step, wherever it is;
 * nothing happens when it is over, or never was. */
void engine_cancel(struct engine *, uint64_t id);
/* Any thread. It was let in and not sent back to wait; false too when it is over. */
bool engine_runs(struct engine *, uint64_t id);
/* Runs one batch. Rows that ran; 0 when idle; -1: the device failed, err says how, every request
 * has ended with FINISH_ERROR, and no other is taken. */
int  engine_step(struct engine *, struct err *);
/* Waits until there is work, engine_stop was called, or so many seconds passed. */
void engine_wait(struct engine *, double seconds);
/* Any thread. The engine_wait that waits now, or else the next one, returns at once. */
void engine_stop(struct engine *);
/* Makes a running request give up its memory and wait to be resumed, as happens when memory
 * runs out. On the thread that steps. False: it does not run. */
bool engine_preempt(struct engine *, uint64_t id);
/* Steps until request `id` is done. */
bool engine_finish(struct engine *, uint64_t id, struct err *);

const struct tokenizer *engine_tokenizer(const struct engine *);     /* NULL with no_tokenizer */
/* NULL: the checkpoint has no template; the err says where it was looked for. */
const struct chat *engine_chat(const struct engine *, struct err *);
/* generation_config.json over our defaults. */
struct sample_params engine_sampling(const struct engine *);
bool engine_is_eos(const struct engine *, int token);
/* Any thread. Appends the bytes that the token adds to a text, which may be a part of a
 * character; control tokens as they are spelt. Nothing with no_tokenizer. */
void engine_token_text(const struct engine *, int token, struct buf *);

struct engine_info {
    const char *family, *quantization;       /* "qwen3"; "affine 4-bit g64" or "bf16" */
    const char *kv;                  /* what keys and values are kept as: "bf16" */
    char device[96];
    int context, vocab, n_layers, dim;
    int context_train;               /* what the model was made for; context may be less */
    int requests_max, rows_max;      /* running at a time; of a step */
    int64_t params;                  /* values in the weights, however they are stored */
    size_t weights_bytes, cache_bytes;
    double load_s;
    int waiting, running; uint64_t preempted, tokens_reused;
};
struct engine_info engine_info(const struct engine *);       /* any thread */

struct engine_stats {                /* since open, but for those of now */
    int waiting, running;            /* now */
    uint64_t preempted, restarted;
    uint64_t tokens_prompt;          /* of requests that have started; */
    uint64_t tokens_cached;          /* so many of them found in the cache */
    uint64_t tokens_generated;
    uint64_t steps, rows, sequences; /* sequences: of all steps together */
    double step_s;                   /* all steps together */
    int pages_used, pages;           /* now: held by running requests; of the largest group */
    int page_tokens;
    size_t cache_used_bytes, cache_bytes;    /* the share that pages_used is of pages */
    double heartbeat_s;              /* clock_s() when the engine's thread last began a step or a
                                        wait, or ended one */
    bool stepping;                   /* it is inside of a step */
    bool failed;                     /* the device did; known before any request is told */
};
/* Any thread; as of the last step. Never waits for a step. */
struct engine_stats engine_stats(struct engine *);

/* JSON for `inspect` and `arch`. kv: as in engine_options. */
bool engine_inspect(const char *dir, int context, const char *kv, struct buf *json, struct err *);
void engine_families(struct buf *json);
/* The exactness contract on a real checkpoint: runs each check, reports it by line(name, ok,
 * detail). False when one failed. */
bool engine_selftest(const struct engine_options *,
                     void (*line)(void *to, const char *name, bool ok, const char *detail),
                     void *to, struct err *);
