/* calls.h - how models write tool calls: a table of formats, and the reading of
 * one call's text. The stream (stream.c) finds where a call begins and ends. */
#pragma once
#include "base/buf.h"

enum call_body {
    CALL_AUTO,                       /* JSON, or one of the XML-like spellings */
    CALL_NAMED,                      /* name, separator, JSON arguments */
    CALL_JSON,                       /* an object or a list of objects, ended by itself */
    CALL_MISTRAL,                    /* a list as CALL_JSON, or name[ARGS]{...}, ended by itself */
    CALL_INVOKES,                    /* <invoke name="..."><parameter name="...">... */
    CALL_KEYED,                      /* [{"name": {arguments}}, ...] */
    CALL_PYTHON,                     /* [name(key="text", other=1), ...] */
    CALL_GEMMA                       /* call:name{key:<|"|>text<|"|>,...} */
};

struct call_format {
    const char *sign;                /* a template with this text makes the model write so */
    const char *open;                /* before each call; NULL: the answer begins with '{' */
    const char *separator;           /* CALL_NAMED: between name and arguments */
    const char *close;               /* NULL: the call ends where its JSON does */
    enum call_body body;
    const char *drop[2];             /* said around calls, and nothing in themselves */
};
extern const struct call_format call_formats[];            /* ends with a NULL sign */

/* gpt-oss writes calls as messages to a recipient: these are its name and its text. */
struct call_sink;
bool calls_read_to(struct str recipient, struct str body, const struct call_sink *);

struct call_sink { void (*call)(void *to, struct str name, struct str arguments); void *to; };

/* One call's text, without its markers: true when it is whole and valid, and then sink gets each
 * call in it, arguments being a JSON object. Nothing is given otherwise. */
bool calls_read(const struct call_format *, struct str body, const struct call_sink *);

/* Bytes of the JSON value (object or list) at the start of a text, white space before it
 * included; 0: it is not whole yet; SIZE_MAX: it is none. */
size_t json_length(struct str);
/* The same for a CALL_JSON or CALL_MISTRAL body. */
size_t call_length(const struct call_format *, struct str body);
