/* server_process.h - `mlxcel serve` as a child of a test: on a free port, its log kept, and what
 * the kernel says of it. */
#pragma once
#include "../cli/program.h"
#include "client.h"

#include <dirent.h>

enum { SERVER_WORDS_MAX = 64, SERVER_SECONDS = 60 };

struct served { pid_t pid; int port; int log; char log_path[600]; };

/* Everything it has said so far. */
static inline void served_log(const struct served *s, struct buf *to) {
    struct err err = { 0 };
    buf_clear(to);
    if (!buf_read_file(to, s->log_path, (size_t)64 << 20, &err)) buf_clear(to);
}

/* The port in "http://127.0.0.1:PORT", or 0 when nothing was said yet. */
static inline int served_port(const struct served *s) {
    static const char sign[] = "http://127.0.0.1:";
    struct buf said = { 0 };
    served_log(s, &said);
    const char *at = strstr(buf_c(&said), sign);
    int port = 0;
    if (at)
        for (at += sizeof sign - 1; isdigit((unsigned char)*at); at++) port = port * 10 + *at - '0';
    /* A number cut off by a write in two halves is not taken. */
    if (at && !*at) port = 0;
    buf_free(&said);
    return port;
}

static inline bool served_alive(const struct served *s) { return !waitpid(s->pid, NULL, WNOHANG); }

/* Waits until /health says 200. */
static inline bool served_ready(struct served *s, double seconds) {
    for (double until = clock_s() + seconds; clock_s() < until; usleep(5000)) {
        if (!served_alive(s)) return false;
        if (!s->port && !(s->port = served_port(s))) continue;
        struct reply r = { 0 };
        client_ask(s->port, S("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"), &r, 5);
        bool ready = r.status == 200;
        reply_free(&r);
        if (ready) return true;
    }
    return false;
}

/* Starts the built program; `line`: its options after "serve", @H the folder `home`. `setting`:
 * one variable of the environment, NULL: none. */
static inline struct served served_start(const char *line, const char *home, const char *setting) {
    static int n_started;
    struct served s = { 0 };
    struct buf words = { 0 };
    buf_format(&words, "serve --port 0 %s", line);
    char *copy = program_line(buf_c(&words), home), *word[PROGRAM_WORDS_MAX + 1];
    program_words(copy, word);
    snprintf(s.log_path, sizeof s.log_path, "%s/serve-%d.log", home, n_started++);
    s.pid = fork();
    if (!s.pid) {
        int log = open(s.log_path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0600);
        dup2(open("/dev/null", O_RDONLY), 0);
        dup2(log, 1);
        dup2(log, 2);
        program_setting(home, setting);
        execv(word[0], word);
        _exit(127);
    }
    free(copy);
    buf_free(&words);
    return s;
}

/* Asks it to end and gives its exit status; after so many seconds it is killed: 128 + 9. */
static inline int served_stop(struct served *s, int signal_number, double seconds) {
    int status = 0;
    pid_t got = 0;
    if (s->pid <= 0) return -1;
    kill(s->pid, signal_number);
    for (double until = clock_s() + seconds; !got && clock_s() < until; usleep(2000))
        got = waitpid(s->pid, &status, WNOHANG);
    if (!got) {
        kill(s->pid, SIGKILL);
        waitpid(s->pid, &status, 0);
    }
    s->pid = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* Entries of a folder of /proc/PID: "fd", "task". */
static inline int served_count(const struct served *s, const char *what) {
    char path[64];
    int n = 0;
    snprintf(path, sizeof path, "/proc/%d/%s", (int)s->pid, what);
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));) n += e->d_name[0] != '.';
    if (d) closedir(d);
    return n;
}

/* KiB of a line of /proc/PID/status, such as "VmRSS". */
static inline long served_kib(const struct served *s, const char *key) {
    char path[64], line[256];
    long kib = 0;
    snprintf(path, sizeof path, "/proc/%d/status", (int)s->pid);
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof line, f)) {
        if (strncmp(line, key, strlen(key)) || line[strlen(key)] != ':') continue;
        for (const char *at = line; *at; at++)
            if (isdigit((unsigned char)*at)) kib = kib * 10 + *at - '0';
    }
    if (f) fclose(f);
    return kib;
}
