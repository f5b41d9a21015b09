/* log.h - the only place besides cli/ that writes to a terminal. */
#pragma once
#include "base/base.h"

enum log_level { LOG_ALWAYS = -1, LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };
extern enum log_level log_level;     /* LOG_WARN at start */

/* How a line looks; set before there are threads.
 *     LOG_PLAIN     mlxcel: warning: a sentence
 *     LOG_TEXT      2026-11-24T04:36:45.123Z warning: a sentence
 *     LOG_JSON      {"time":"2026-11-24T04:36:45.123Z","level":"warning","message":"a sentence"}
 *     LOG_JOURNAL   <4>a sentence; systemd's journal has the time */
enum log_form { LOG_PLAIN, LOG_TEXT, LOG_JSON, LOG_JOURNAL };
extern enum log_form log_form;

/* One line to standard error; control characters escaped, cut when it is long. */
void log_line(enum log_level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A line with names and values: name=value, or the members of the JSON object. */
struct log_field {
    const char *name;
    struct str text;                 /* at == NULL: the number, to a thousandth */
    double number;
};
enum { LOG_VALUE_MAX = 200 };        /* bytes of a text; more is cut */
void log_fields(enum log_level, const char *message, const struct log_field *, int n);
