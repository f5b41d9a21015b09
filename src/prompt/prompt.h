/* prompt.h - messages to prompt text, and generated text to messages. */
#pragma once
#include "base/buf.h"
#include "tokens/tokens.h"
#include <json-c/json_object.h>

struct chat;                         /* a compiled template and the parsers that match it */

/* Finds the templates of DIR: chat_template.jinja and additional_chat_templates/NAME.jinja, else
 * chat_template.json, else tokenizer_config.json (one, or several by name), and chooses as
 * transformers does: tool_use for requests with tools, else default. `override` (NULL: none) is
 * the name of another of them, rag for one, or the text of a template. A checkpoint without a
 * template opens as NULL with a sentence in err. `tok` is looked at during the call only; NULL: of
 * no tag it is known whether it is a control token. */
struct chat *chat_open(const char *dir, const char *override, const struct tokenizer *tok,
                       struct err *);
void chat_close(struct chat *);
/* The template's text as it was read, the one for requests with tools or the other; the empty view:
 * there is none. Valid as long as the chat. */
struct str chat_source(const struct chat *, bool with_tools);

struct dialog {                      /* all borrowed for the call */
    struct json_object *messages;    /* list of {role, content, ...} as in OpenAI's API */
    struct json_object *tools;       /* NULL or a list of tools */
    struct json_object *documents;   /* NULL or a list */
    struct json_object *vars;        /* NULL or more variables: enable_thinking, date_string, ... */
    bool no_generation_prompt;       /* else the answer's opening is added */
    bool as_given;                   /* the template sees the messages as they are: nothing is
                                        parsed or joined for it (see chat_render) */
    int64_t now_s;                   /* the time that a template sees, Unix seconds; 0: now */
};

struct prompt {
    struct buf text;
    struct literal_span *span;       /* what came out of messages, tools and documents, and so can
                                        hold no control token */
    int n_spans, cap_spans;
};
void prompt_free(struct prompt *);

/* A trailing assistant message is continued (its turn is left open), unless
 * no_generation_prompt asks for the dialog as it is. Unless as_given: arguments of tool calls may
 * be JSON text, as the API sends them, or objects; lists of text parts become one text where the
 * template knows no parts; an empty list of tools is the same as none. False: the err names the
 * message or the template's line. */
bool chat_render(const struct chat *, const struct dialog *, struct prompt *, struct err *);

enum chat_kind { CHAT_TEXT, CHAT_REASONING, CHAT_TOOL_NAME, CHAT_TOOL_ARGS, CHAT_END };
struct chat_event {
    enum chat_kind kind;
    int index;                       /* of the call */
    struct str text;
    struct str id;                   /* CHAT_TOOL_NAME: the model's own of this call, printable
                                        ASCII that no call before had; or empty */
};

/* Pieces of text in, events out, in order; how the text was cut makes no difference to their sum.
 * The text must have its control tokens, as many models mark channels and calls with them. Without
 * `tools` (the request's list, kept; NULL: none) a call stays text; their schemas say what a
 * parameter between tags is, string or number. `index` counts calls.
 *
 * A call's name comes once nothing can take it back: it is complete and its arguments begin, or it
 * has none. What stops before that is given back as content, its marks included. From the name on
 * the call exists, and its arguments come in fragments that add up to one JSON object whatever
 * happens: where the text breaks, what is open is closed, a dangling comma or key is left out, and
 * what cannot be read is content. Where the text just ends, the dangling rest is dropped. */
struct chat_stream;
struct chat_stream *chat_stream_open(const struct chat *, const struct prompt *,
                                     struct json_object *tools);
/* `control`: a token of its own wrote the piece, a control token or a tag. A tag that the
 * vocabulary has as a token counts only then; whoever does not know passes true, and letters
 * decide. `last`: nothing comes after it. */
void chat_stream_push(struct chat_stream *, struct str piece, bool control, bool last,
                      void (*emit)(void *to, const struct chat_event *), void *to);
/* The same for whoever has the tokens: `token` is the next one (-1: none, or one that gives no
 * text, as an end of text), `text` what can be told by now, with control tokens in it; it may come
 * later than its tokens, where a stop string holds it back. Tags are told from letters by id. */
void chat_stream_token(struct chat_stream *, const struct tokenizer *, int token, struct str text,
                       bool last, void (*emit)(void *to, const struct chat_event *), void *to);
void chat_stream_close(struct chat_stream *);
