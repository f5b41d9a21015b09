/* openai.h - what the chat and completions formats of OpenAI share, and the readers of their
 * requests, which need no engine and so can be tested and fuzzed alone. */
#pragma once
#include "api/params.h"

enum { MODEL_NAME_MAX = 256, TOP_LOGPROBS_MAX = 20, MESSAGES_MAX = 4096, TOOL_LIST_MAX = 256 };

/* In call->wire_flags: whether log probabilities are asked for, and with how many alternatives,
 * which may be none although the engine needs at least one to give any. */
enum { WIRE_LOGPROBS = 1, WIRE_TOP_SHIFT = 8 };
void openai_ask_logprobs(struct call *, int n_top);
int  openai_top(const struct call *);

/* A 400 with the code "unsupported_value": what was asked for is right, but not offered here.
 * Returns false. */
bool fault_unsupported(struct fault *, const char *param, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* "invalid_request_error" for 400, ... */
const char *openai_type(int status);

/* Whether one of our names is this; the first is the model's id. models.c */
bool models_have(const struct server *, struct str name);
/* Reads "model" and refuses another one than ours if the server is strict. */
bool openai_model(struct call *, struct fields *);
/* The name for the reply: the request's own, or ours. Valid as long as the call. */
struct str openai_model_name(const struct call *);

/* ---- parts of replies, appended ---- */

/* {"id":...,"object":...,"created":...,"model":...,"system_fingerprint":... without the end. */
void openai_head(struct buf *, const struct call *, const char *object);
/* {"prompt_tokens":...}; a prompt counts once, however many choices continue it. */
void openai_usage(struct buf *, const struct call *);
/* llama-server's {"cache_n":...}: of one choice that is over, or of all. */
void openai_timings(struct buf *, const struct call *, const struct choice *);
/* ,"prompt_progress":{"total":...}: how far the choice's prompt is read. */
void openai_progress(struct buf *, const struct choice *);
/* A log probability as JSON can say it: -9999 stands for none. */
void openai_logprob(struct buf *, float);
/* Appends the chat format's entry for a token to a list. */
void openai_token(struct buf *list, const struct call *, const struct engine_event *);
/* "token":...,"logprob":...,"bytes":[...] */
void openai_entry(struct buf *, struct str piece, float logprob);
/* Whether the token belongs to the answer: the end of the text does not. */
bool openai_shows(const struct call *, int token);

/* ---- requests ---- */

/* A chat request's dialog: messages are made plain (roles, parts, old names) inside the request's
 * own JSON, tools and variables are new. */
struct chat_in { struct dialog dialog; struct json_object *tools, *vars; };
/* Sets logprobs and tools in the call too. Faults stick in the fields. */
void chat_read(struct call *, struct fields *, struct chat_in *);
void chat_in_free(struct chat_in *);
/* Template variables from reasoning_effort, enable_thinking, chat_template_kwargs, ... over those
 * of `base`, a JSON object or NULL. */
struct json_object *chat_vars(struct fields *, const char *base);
/* The functions of "tools" or "functions", unless tool_choice is none; NULL: there are none. */
struct json_object *chat_tools(struct fields *);

/* Everything of a completions request but the prompt. */
void completions_read(struct call *, struct fields *);
/* The prompt's shape: how many there are; 0 with a fault. */
enum { PROMPT_TEXT = 1, PROMPT_TEXTS, PROMPT_IDS, PROMPT_LISTS };
int  completions_prompts(struct fields *, int *kind);
