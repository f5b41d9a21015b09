/* native.h - what llama-server's own formats share: /completion, /props and /slots. */
#pragma once
#include "api/openai.h"

enum { NATIVE_PROBS_MAX = 64, NATIVE_FIELDS_MAX = 64 };

/* {"n_predict":...}, named and ordered as llama-server does it. `call` NULL: what a request gets
 * that says nothing. `whole`: with what the client wrote itself, stop texts and the like, which
 * nobody else may see. */
void native_settings(struct buf *, const struct server *, const struct call *, bool whole);

/* The prompt of /completion: a text, a list of ids and texts, or a list of prompts, of which an
 * object's "prompt_string" is one too. Adds all of them, with their texts as echoes if `echo`. */
bool native_prompts(struct call *, struct fields *, bool echo);

/* {"supports_tools":true,...}; chat NULL: nothing is known. caps.c */
void native_caps(struct buf *, const struct chat *);

/* "response_fields", a list of texts: of a reply only these members, "a/b" under the name "b". The
 * JSON is replaced. */
void native_pick(struct buf *json, struct json_object *fields);
