/* output.c - what leaves: text to a terminal or a pipe, whole files, and the
 * signals that end it early. */
#include "base/utf8.h"
#include "cli/cli.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool set_and_not_empty(const char *name) {
    const char *value = getenv(name);
    return value && *value;
}

static bool color_wanted(const char *choice, bool terminal) {
    const char *force = getenv("CLICOLOR_FORCE"), *type = getenv("TERM");
    if (!strcmp(choice, "always")) return true;
    if (!strcmp(choice, "never") || set_and_not_empty("NO_COLOR")) return false;
    if (force && *force && strcmp(force, "0") != 0) return true;
    return terminal && type && *type && strcmp(type, "dumb") != 0;
}

struct term term_of(const char *color) {
    struct term t = { .in = isatty(STDIN_FILENO), .out = isatty(STDOUT_FILENO),
                      .err = isatty(STDERR_FILENO) };
    t.out_color = color_wanted(color, t.out);
    t.err_color = color_wanted(color, t.err);
    return t;
}

const char *dim_on(bool color) { return color ? "\033[2m" : ""; }
const char *dim_off(bool color) { return color ? "\033[0m" : ""; }

/* A model's words must not drive the terminal: escape sequences could retitle the window, move
 * over earlier lines or fill the clipboard. A pipe gets the bytes as they are. */
static void put_harmless(FILE *out, struct str text) {
    for (size_t i = 0; i < text.len;) {
        uint32_t cp;
        int n = utf8_next(str_from(text, i), &cp);
        if (!n) {
            fputs("\xef\xbf\xbd", out);
            i++;
            continue;
        }
        if (cp == '\n' || cp == '\t' || (cp >= 0x20 && cp != 0x7f && !(cp >= 0x80 && cp < 0xa0)))
            fwrite(text.at + i, 1, (size_t)n, out);
        else if (cp != '\r')
            fprintf(out, "\\x%02x", (unsigned)cp);
        i += (size_t)n;
    }
}

void term_text(FILE *out, bool terminal, struct str text) {
    if (!text.len) return;
    if (terminal)
        put_harmless(out, text);
    else
        fwrite(text.at, 1, text.len, out);
    fflush(out);
}

bool new_file_open(struct new_file *f, const char *path, struct err *err) {
    struct buf name = { 0 };
    buf_format(&name, "%s.%ld.part", path, (long)getpid());
    *f = (struct new_file){ .path = mem_str(str_of(path)), .temporary = mem_str(buf_view(&name)) };
    buf_free(&name);
    f->fd = open(f->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (f->fd >= 0) return true;
    err_set(err, "cannot create %s: %s", f->temporary, strerror(errno));
    new_file_drop(f);
    return false;
}

bool new_file_write(struct new_file *f, const void *bytes, size_t n, struct err *err) {
    const char *at = bytes;
    while (n) {
        ssize_t done = write(f->fd, at, n);
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) return err_set(err, "cannot write %s: %s", f->temporary, strerror(errno));
        at += done;
        n -= (size_t)done;
    }
    return true;
}

bool new_file_commit(struct new_file *f, struct err *err) {
    bool ok = fsync(f->fd) == 0 || errno == EINVAL;
    if (close(f->fd)) ok = false;
    f->fd = -1;
    if (!ok) {
        err_set(err, "cannot write %s: %s", f->temporary, strerror(errno));
    } else if (rename(f->temporary, f->path)) {
        ok = err_set(err, "cannot rename %s to %s: %s", f->temporary, f->path, strerror(errno));
    } else {
        free(f->temporary);
        f->temporary = NULL;
    }
    new_file_drop(f);
    return ok;
}

void new_file_drop(struct new_file *f) {
    if (f->fd >= 0 && f->path) close(f->fd);
    if (f->temporary) unlink(f->temporary);
    free(f->temporary);
    free(f->path);
    *f = (struct new_file){ .fd = -1 };
}

static volatile sig_atomic_t seen, times;

static void note(int number) {
    seen = number;
    /* A step may take long; who presses a third time means it. */
    if (++times >= 3) _exit(128 + number);
}

int signal_seen(void) { return seen; }

void signal_clear(void) {
    seen = 0;
    times = 0;
}

/* Without SA_RESTART: a read at the prompt has to come back. */
void signal_catch(void) {
    struct sigaction act = { .sa_handler = note };
    sigemptyset(&act.sa_mask);
    sigaction(SIGINT, &act, NULL);
    sigaction(SIGTERM, &act, NULL);
}

void signal_default(void) {
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
}
