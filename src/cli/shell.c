/* shell.c - a person's editor and clipboard. */
#include "cli/shell.h"
#include <errno.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

enum { COPY_MAX = 74994 };           /* what xterm takes; others take more */

static bool write_all(int fd, const char *at, size_t n) {
    while (n) {
        ssize_t done = write(fd, at, n);
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) return false;
        at += done;
        n -= (size_t)done;
    }
    return true;
}

/* The editor may have options, so a shell splits it; the path is passed as an argument. */
static bool run_editor(char *path, struct err *err) {
    const char *visual = getenv("VISUAL"), *editor = getenv("EDITOR");
    const char *use = visual && *visual ? visual : editor && *editor ? editor : "vi";
    struct buf line = { 0 };
    buf_format(&line, "%s \"$1\"", use);
    char *argv[] = { "sh", "-c", mem_str(buf_view(&line)), "mlxcel", path, NULL };
    buf_free(&line);
    pid_t child;
    int status = 0;
    /* Ctrl-C belongs to the editor while it runs. */
    int failed = posix_spawn(&child, "/bin/sh", NULL, NULL, argv, environ);
    free(argv[2]);
    if (failed) return err_set(err, "cannot start %s: %s", use, strerror(failed));
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR) return err_set(err, "%s: %s", use, strerror(errno));
    signal_clear();
    if (WIFEXITED(status) && !WEXITSTATUS(status)) return true;
    return err_set(err, "%s did not end well; nothing was sent", use);
}

bool shell_edit(struct buf *text, struct err *err) {
    const char *folder = getenv("TMPDIR");
    struct buf name = { 0 };
    buf_format(&name, "%s/mlxcel-XXXXXX", folder && *folder ? folder : "/tmp");
    char *path = mem_str(buf_view(&name));
    buf_free(&name);
    int fd = mkstemp(path);
    bool ok = fd >= 0 && write_all(fd, text->at, text->len);
    if (!ok) err_set(err, "cannot write %s: %s", path, strerror(errno));
    if (fd >= 0) close(fd);
    ok = ok && run_editor(path, err);
    if (ok) {
        buf_clear(text);
        ok = buf_read_file(text, path, INPUT_MAX, err);
    }
    if (fd >= 0) unlink(path);
    free(path);
    return ok;
}

static void base64(struct buf *out, struct str s) {
    static const char digit[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < s.len; i += 3) {
        size_t n = MIN(s.len - i, 3);
        uint32_t v = 0;
        for (size_t k = 0; k < 3; k++) v = v << 8 | (k < n ? (unsigned char)s.at[i + k] : 0);
        for (size_t k = 0; k < 4; k++) buf_char(out, k <= n ? digit[v >> (18 - 6 * k) & 63] : '=');
    }
}

bool shell_copy(struct str text, struct err *err) {
    const char *type = getenv("TERM");
    if (!isatty(STDERR_FILENO) || !type || !*type || !strcmp(type, "dumb"))
        return err_set(err, "this terminal has no clipboard");
    if (text.len > COPY_MAX)
        return err_set(err, "the answer is longer than a terminal's clipboard takes");
    struct buf out = { 0 };
    buf_str(&out, S("\033]52;c;"));
    base64(&out, text);
    buf_char(&out, '\a');
    bool ok = write_all(STDERR_FILENO, out.at, out.len);
    buf_free(&out);
    return ok || err_set(err, "cannot write to the terminal: %s", strerror(errno));
}
