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
    const char *isa;                 /* NULL: the best; "generic", "avx2", "avx512" */
    const char *chat_template;       /* text; NULL: the checkpoint's own */
    int threads;                     /* 0: as many as this process may use */
    int context;                     /* of the longest sequence; 0: the model's, if it fits */
    int rows_max, chunk_max, requests_max, waiting_max;
    size_t cache_bytes;              /* 0: fitting context and requests_max */
    bool f32;                        /* parity mode: f32 activations, arithmetic and KV */
    bool no_reuse;                   /* never look for kept prefixes */
    bool no_tokenizer;               /* ids in, ids out */
    void (*progress)(void *to, double done);
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
    int logprobs;                    /* alternatives per token; 0: none */
    int logits_last;                 /* EVENT_LOGITS for so many last positions of the prompt, and
                                        for every position after it; 0: none */
    int priority;
    uint64_t salt;                   /* requests of other salts share no prefixes */
};

enum event_kind { EVENT_LOGITS, EVENT_TOKEN, EVENT_DONE };

struct engine_event {                /* valid during the call only */
    enum event_kind kind;
    uint64_t id;
    /* EVENT_LOGITS */
    const float *logits; int vocab, position;
    /* EVENT_TOKEN: text may be empty (a character or a stop string is not complete yet) */
    int token;
    struct str text;
    float logprob;
    const struct token_prob *top; int n_top;
    /* EVENT_DONE: text holds what was still held back */
    enum finish finish;
    const char *error;               /* FINISH_ERROR: a sentence */
    struct str stop;                 /* the stop string that ended it, or empty */
    int n_prompt, n_cached, n_generated;
    double queue_s, prefill_s, decode_s, first_token_s;   /* first_token: since submit */
};
typedef void engine_emit(void *to, const struct engine_event *);

/* Loads the checkpoint; options are copied, the device opened. engine_close frees all of it. */
struct engine *engine_open(const struct engine_options *, struct err *);
void engine_close(struct engine *);

/* Any thread. The prompt's ids are copied; emit is called on the thread that steps.
 * 0: refused, the err says why (ERR_MEMORY: the queue is full). */
uint64_t engine_submit(struct engine *, const int *ids, int n_ids, const struct generate_options *,
                       engine_emit *, void *to, struct err *);
void engine_cancel(struct engine *, uint64_t id);          /* any thread */
/* Runs one batch. Rows that ran; 0 when idle; -1: the device failed, err says how. */
int  engine_step(struct engine *, struct err *);
/* Waits until there is work, engine_stop was called, or so many seconds passed. */
void engine_wait(struct engine *, double seconds);
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

struct engine_info {
    const char *family, *quantization;       /* "qwen3"; "affine 4-bit g64" or "bf16" */
    char device[96];
    int context, vocab, n_layers, dim;
    size_t weights_bytes, cache_bytes;
    double load_s;
    int waiting, running; uint64_t preempted, tokens_reused;
};
struct engine_info engine_info(const struct engine *);

/* JSON for `inspect` and `arch`. */
bool engine_inspect(const char *dir, int context, struct buf *json, struct err *);
void engine_families(struct buf *json);
/* The exactness contract on a real checkpoint: runs each check, reports it by line(name, ok,
 * detail). False when one failed. */
bool engine_selftest(const struct engine_options *,
                     void (*line)(void *to, const char *name, bool ok, const char *detail),
                     void *to, struct err *);
