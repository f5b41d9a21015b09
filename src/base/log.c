/* log.c - the only place besides cli/ that writes to a terminal. */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>

enum log_level log_level = LOG_WARN;

void log_line(enum log_level level, const char *format, ...) {
    static const char *const word[] = { "error: ", "warning: ", "", "debug: " };
    char text[1024];
    if (level > log_level) return;
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    for (char *c = text; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f) *c = '?';
    fprintf(stderr, "mlxcel: %s%s\n", word[level], text);
}
