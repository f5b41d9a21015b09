/* log.c - the only place besides cli/ that writes to a terminal.
 *
 * A line is put together first and written at once, so that threads do not cut each other's. What
 * comes from outside is escaped: a client can neither begin a line nor move a terminal's cursor. */
#include "base/log.h"
#include "base/utf8.h"

#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum log_level log_level = LOG_WARN;
enum log_form log_form = LOG_PLAIN;

/* A stamp in UTC, whatever the locale and the zone. */
static void put_time(struct buf *to) {
    struct timespec now;
    struct tm t;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &t);
    buf_format(to, "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ", t.tm_year + 1900, t.tm_mon + 1,
               t.tm_mday, t.tm_hour, t.tm_min, t.tm_sec, (int)(now.tv_nsec / 1000000));
}

static const char *level_name(enum log_level level) {
    return level == LOG_ERROR ? "error" : level == LOG_WARN ? "warning"
           : level == LOG_DEBUG ? "debug" : "info";
}

/* Quoted as JSON has it; bytes that are no UTF-8 become U+FFFD. C1 controls, which some terminals
 * obey, are escaped as well. */
static void put_quoted(struct buf *to, struct str text) {
    struct buf valid = { 0 };
    size_t n = utf8_complete(str_cut(text, 0, LOG_VALUE_MAX));
    utf8_repair(&valid, str_cut(text, 0, n));
    if (n < text.len) buf_str(&valid, S("..."));
    size_t from = 0;
    buf_char(to, '"');
    for (size_t i = 0; i <= valid.len; i++) {
        bool c1 = i + 1 < valid.len && (unsigned char)valid.at[i] == 0xc2
               && (unsigned char)valid.at[i + 1] < 0xa0;
        if (!c1 && i < valid.len) continue;
        struct buf part = { 0 };
        buf_json(&part, (struct str){ valid.at + from, i - from });
        buf_str(to, str_cut(buf_view(&part), 1, part.len - 1));
        buf_free(&part);
        if (c1) buf_format(to, "\\u%04x", (unsigned char)valid.at[++i]);
        from = i + 1;
    }
    buf_char(to, '"');
    buf_free(&valid);
}

/* A word may stand for itself; what could be taken for something else is quoted. */
static void put_word(struct buf *to, struct str text) {
    bool plain = text.len && text.len <= LOG_VALUE_MAX;
    for (size_t i = 0; i < text.len && plain; i++)
        plain = text.at[i] > ' ' && text.at[i] < 0x7f && !strchr("\"=\\", text.at[i]);
    if (plain) buf_str(to, text);
    else put_quoted(to, text);
}

/* To a thousandth, with a point in every locale. */
static void put_number(struct buf *to, double v) {
    uint64_t n = v > 0 ? (uint64_t)(MIN(v, 1e12) * 1000 + 0.5) : 0;
    buf_format(to, "%llu", (unsigned long long)(n / 1000));
    if (n % 1000) buf_format(to, ".%03d", (int)(n % 1000));
}

static void put_head(struct buf *to, enum log_level level) {
    static const int priority[] = { 3, 4, 6, 7 };
    const char *name = level_name(level);
    bool bare = level == LOG_INFO || level == LOG_ALWAYS;
    if (log_form == LOG_JOURNAL) {
        buf_format(to, "<%d>", priority[MAX(level == LOG_ALWAYS ? LOG_INFO : level, 0)]);
    } else if (log_form == LOG_JSON) {
        buf_str(to, S("{\"time\":\""));
        put_time(to);
        buf_format(to, "\",\"level\":\"%s\",\"message\":", name);
    } else {
        if (log_form == LOG_TEXT) put_time(to);
        else buf_str(to, S("mlxcel:"));
        buf_format(to, " %s%s", bare ? "" : name, bare ? "" : ": ");
    }
}

/* Whether a line can be written without waiting. A pipe that is ready takes 4,096 bytes, which is
 * more than a line has. */
static bool ready(void) {
    struct pollfd p = { .fd = STDERR_FILENO, .events = POLLOUT };
    return log_form == LOG_PLAIN || poll(&p, 1, 0) == 1;
}

/* A server must not stand still because nobody reads its log: then lines are lost, and told of. */
static void write_line(struct buf *line) {
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static uint64_t n_lost;
    buf_str(line, log_form == LOG_JSON ? S("}\n") : S("\n"));
    pthread_mutex_lock(&lock);
    if (n_lost && ready()) {
        struct buf lost = { 0 };
        put_head(&lost, LOG_WARN);
        buf_format(&lost, log_form == LOG_JSON ? "\"%llu log lines were lost\"}\n"
                   : "%llu log lines were lost\n", (unsigned long long)n_lost);
        fwrite(lost.at, 1, lost.len, stderr);
        buf_free(&lost);
        n_lost = 0;
    }
    if (ready()) fwrite(line->at, 1, line->len, stderr);
    else n_lost++;
    pthread_mutex_unlock(&lock);
    buf_free(line);
}

void log_line(enum log_level level, const char *format, ...) {
    char text[1024];
    struct buf line = { 0 };
    if (level > log_level) return;
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    put_head(&line, level);
    if (log_form == LOG_JSON) {
        struct buf valid = { 0 };
        utf8_repair(&valid, str_of(text));
        buf_json(&line, buf_view(&valid));
        buf_free(&valid);
    } else {
        for (char *c = text; *c; c++)
            if ((unsigned char)*c < 0x20 || *c == 0x7f) *c = '?';
        buf_str(&line, str_of(text));
    }
    write_line(&line);
}

void log_fields(enum log_level level, const char *message, const struct log_field *field, int n) {
    struct buf line = { 0 };
    bool json = log_form == LOG_JSON;
    if (level > log_level) return;
    put_head(&line, level);
    if (json) buf_json(&line, str_of(message));
    else buf_str(&line, str_of(message));
    for (int i = 0; i < n; i++) {
        const struct log_field *f = &field[i];
        buf_format(&line, json ? ",\"%s\":" : " %s=", f->name);
        if (!f->text.at) put_number(&line, f->number);
        else if (json) put_quoted(&line, f->text);
        else put_word(&line, f->text);
    }
    write_line(&line);
}
