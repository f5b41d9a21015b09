/* dialog.h - a request's messages as the values that a template sees. */
#pragma once
#include "prompt/prompt.h"
#include "prompt/vm.h"

/* Names the first message that is not one: false with its index in err. */
bool dialog_check(const struct dialog *, struct err *);

struct arguments {                   /* JSON texts of tool calls, parsed, in order */
    struct json_object **at;         /* NULL: not an object */
    size_t n, cap;
    size_t objects;                  /* how many are not NULL */
};
void arguments_parse(struct arguments *, const struct dialog *);
void arguments_free(struct arguments *);

/* The list of messages. `arguments` may be NULL: texts stay texts. */
struct list *dialog_messages(struct vm *, const struct dialog *, const struct arguments *);

/* When the last message is to be continued, marks the place where it ends and gives its text;
 * else NULL. */
struct text *dialog_mark_end(struct vm *, const struct dialog *, struct list *messages);
/* Cuts a rendered dialog at the mark. Fails when the text that was `said` is not all there. */
struct text *dialog_cut_at_mark(struct vm *, struct text *rendered, struct text *said);
