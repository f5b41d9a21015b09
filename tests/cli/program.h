/* program.h - runs the built program as a person or a script would: with a pipe or
 * with a terminal of its own. For the tests of the command line only. */
#pragma once
#include "../maker.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

enum { PROGRAM_WORDS_MAX = 48, PROGRAM_SECONDS = 60 };

struct ran { int code; struct buf out, err; };   /* code: exit status, or 128 + a signal's number */

static inline void ran_free(struct ran *r) {
    buf_free(&r->out);
    buf_free(&r->err);
}

/* $MLXCEL, or build/mlxcel. */
static inline const char *program_path(void) {
    const char *path = getenv("MLXCEL");
    return path && *path ? path : "build/mlxcel";
}

/* Cuts `line` in place: at spaces, except between quotes, which go; $H becomes `home`. */
static inline void program_words(char *line, char *word[PROGRAM_WORDS_MAX + 1]) {
    int n = 0;
    char *at = line, *to = line;
    while (*at && n < PROGRAM_WORDS_MAX) {
        while (*at == ' ') at++;
        if (!*at) break;
        word[n++] = to = at;
        for (bool quoted = false; *at && (quoted || *at != ' '); at++) {
            if (*at == '\'')
                quoted = !quoted;
            else
                *to++ = *at;
        }
        if (*at) at++;
        *to = 0;
    }
    word[n] = NULL;
}

/* `line` with every @H as the folder `home`. */
static inline char *program_line(const char *line, const char *home) {
    struct buf b = { 0 };
    buf_format(&b, "%s ", program_path());
    for (; *line; line++) {
        if (line[0] == '@' && line[1] == 'H') {
            buf_str(&b, str_of(home));
            line++;
        } else {
            buf_char(&b, *line);
        }
    }
    char *copy = mem_str(buf_view(&b));
    buf_free(&b);
    return copy;
}

/* In the child: nothing of the person who runs the tests may show through. */
static inline void program_setting(const char *home, const char *setting) {
    static const char *const gone[] = {
        "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME",
        "MLXCEL_MODEL_DIR", "NO_COLOR", "CLICOLOR_FORCE", "VISUAL", "EDITOR", "EDITRC" };
    for (size_t i = 0; i < COUNT(gone); i++) unsetenv(gone[i]);
    /* Every option can come from a variable. */
    extern char **environ;
    for (char **e = environ; *e;) {
        char name[128];
        size_t n = strcspn(*e, "=");
        bool ours = !strncmp(*e, "MLXCEL_", 7) || !strncmp(*e, "LLAMA_", 6);
        if (!ours || n >= sizeof name) {
            e++;
            continue;
        }
        memcpy(name, *e, n);
        name[n] = 0;
        unsetenv(name);              /* moves the later ones up */
    }
    setenv("HOME", home, 1);
    setenv("TERM", "xterm", 1);
    /* libedit copies the names of added functions with wcsdup and keeps them. */
    char list[600];
    snprintf(list, sizeof list, "%s/lsan", home);
    FILE *f = fopen(list, "w");
    if (f) {
        fputs("leak:wcsdup\n", f);
        fclose(f);
    }
    snprintf(list, sizeof list, "suppressions=%s/lsan:print_suppressions=0", home);
    setenv("LSAN_OPTIONS", list, 1);
    if (setting) putenv(mem_str(str_of(setting)));
}

static inline int program_status(pid_t pid) {
    int status = 0;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR) return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static inline bool program_drain(int fd, struct buf *to) {
    char piece[4096];
    ssize_t n = read(fd, piece, sizeof piece);
    if (n > 0) buf_put(to, piece, (size_t)n);
    return n > 0;
}

/* Input goes through a file, so that no pipe can fill up and block both sides. */
static inline struct ran program_run(const char *line, const char *input, const char *home,
                                     const char *setting) {
    struct ran r = { 0 };
    int out[2], err[2];
    char *copy = program_line(line, home), *word[PROGRAM_WORDS_MAX + 1];
    program_words(copy, word);
    temp_write(home, "stdin", str_of(input ? input : ""));
    if (pipe(out) || pipe(err)) abort();
    pid_t pid = fork();
    if (!pid) {
        char path[600];
        snprintf(path, sizeof path, "%s/stdin", home);
        dup2(open(path, O_RDONLY), 0);
        dup2(out[1], 1);
        dup2(err[1], 2);
        close(out[0]), close(err[0]), close(out[1]), close(err[1]);
        program_setting(home, setting);
        alarm(PROGRAM_SECONDS);
        execv(word[0], word);
        _exit(127);
    }
    close(out[1]), close(err[1]);
    struct pollfd p[2] = { { .fd = out[0], .events = POLLIN }, { .fd = err[0], .events = POLLIN } };
    for (bool open[2] = { true, true }; open[0] || open[1];) {
        if (poll(p, 2, -1) < 0 && errno != EINTR) break;
        for (int i = 0; i < 2; i++)
            if (open[i] && p[i].revents && !program_drain(p[i].fd, i ? &r.err : &r.out)) {
                open[i] = false;
                p[i].fd = -1;
            }
    }
    close(out[0]), close(err[0]);
    r.code = program_status(pid);
    free(copy);
    buf_c(&r.out), buf_c(&r.err);
    return r;
}

/* A program on a terminal of its own, and all that it has shown. */
struct terminal { int fd; pid_t pid; struct buf seen; size_t read; };

static inline struct terminal terminal_open(const char *line, const char *home,
                                            const char *setting) {
    struct terminal t = { 0 };
    char *copy = program_line(line, home), *word[PROGRAM_WORDS_MAX + 1];
    struct winsize size = { .ws_row = 50, .ws_col = 200 };
    program_words(copy, word);
    t.pid = forkpty(&t.fd, NULL, NULL, &size);
    if (t.pid < 0) abort();
    if (!t.pid) {
        program_setting(home, setting);
        alarm(PROGRAM_SECONDS);
        execv(word[0], word);
        _exit(127);
    }
    free(copy);
    return t;
}

/* Waits until `text` has come since what was found last. False: it ended or hung before. */
static inline bool terminal_finds(struct terminal *t, const char *text, int seconds) {
    for (double until = clock_s() + seconds;;) {
        const char *at = t->seen.len ? strstr(buf_c(&t->seen) + t->read, text) : NULL;
        if (at) {
            t->read = (size_t)(at - t->seen.at) + strlen(text);
            return true;
        }
        double left = until - clock_s();
        struct pollfd p = { .fd = t->fd, .events = POLLIN };
        if (left <= 0 || poll(&p, 1, (int)(left * 1000) + 1) < 0) return false;
        if (p.revents && !program_drain(t->fd, &t->seen)) return false;
    }
}

static inline void terminal_send(struct terminal *t, const char *keys) {
    if (write(t->fd, keys, strlen(keys)) != (ssize_t)strlen(keys)) abort();
}

/* Reads to the end and gives the exit status. */
static inline int terminal_close(struct terminal *t) {
    while (program_drain(t->fd, &t->seen)) continue;
    int code = program_status(t->pid);
    close(t->fd);
    buf_free(&t->seen);
    return code;
}
