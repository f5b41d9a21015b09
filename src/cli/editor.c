/* editor.c - messages typed on a terminal, on libedit.
 *
 * Traps: libedit retries a read that a signal ended, so reading a character is done
 * here, and a Ctrl-C comes back at once. A paste arrives between ESC[200~ and
 * ESC[201~ and is inserted as it is, so that its line ends do not send it. */
#include "cli/editor.h"
#include "base/utf8.h"
#include <errno.h>
#include <fcntl.h>
#include <histedit.h>
#include <langinfo.h>
#include <locale.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HISTORY_MAX = 1000, PASTE_MAX = 16 << 20, MATCHES_MAX = 64 };

struct editor {
    EditLine *el;
    History *history;
    FILE *out;
    char *file;                      /* NULL: nothing is kept */
    editor_words *words;
    bool keep, more;                 /* more: the next line continues a message */
    bool paste;                      /* the terminal can mark pastes */
};

static volatile sig_atomic_t resized;
static void on_resize(int number) {
    (void)number;
    resized = 1;
}

static char *prompt(EditLine *el) {
    static char first[] = ">>> ", more[] = "... ";
    struct editor *e = NULL;
    el_get(el, EL_CLIENTDATA, &e);
    return e && e->more ? more : first;
}

/* One byte; 0 at the end, -1 when a signal wants us back. Signals are let in only while ppoll
 * waits: one that came between a look at the flag and a read would be slept over. */
static int read_byte(EditLine *el, unsigned char *byte) {
    struct pollfd in = { .fd = STDIN_FILENO, .events = POLLIN };
    sigset_t held, before;
    int got = -1;
    sigemptyset(&held);
    sigaddset(&held, SIGINT);
    sigaddset(&held, SIGTERM);
    sigaddset(&held, SIGWINCH);
    sigprocmask(SIG_BLOCK, &held, &before);
    while (!signal_seen()) {
        if (resized) {
            resized = 0;
            el_resize(el);
        }
        if (ppoll(&in, 1, NULL, &before) < 0) {
            if (errno == EINTR) continue;
            break;
        }
        got = (int)read(STDIN_FILENO, byte, 1);
        break;
    }
    sigprocmask(SIG_SETMASK, &before, NULL);
    return got;
}

static int read_char(EditLine *el, wchar_t *out) {
    unsigned char byte[4];
    size_t need = 1;
    for (size_t n = 0; n < need; n++) {
        int got = read_byte(el, &byte[n]);
        if (got <= 0) return got;
        if (!n && byte[0] >= 0xc2 && byte[0] < 0xf5)
            need = byte[0] < 0xe0 ? 2 : byte[0] < 0xf0 ? 3 : 4;
    }
    uint32_t cp;
    *out = utf8_next((struct str){ (const char *)byte, need }, &cp) ? (wchar_t)cp : 0xfffd;
    return 1;
}

/* Everything up to ESC[201~ goes into the line, with line ends as \n. */
static unsigned char take_paste(EditLine *el, int key) {
    static const char end[] = "\033[201~";
    struct buf text = { .max = PASTE_MAX };
    unsigned char byte;
    (void)key;
    while (read_byte(el, &byte) > 0) {
        buf_char(&text, (char)byte);
        if (str_ends(buf_view(&text), end)) {
            text.len -= sizeof end - 1;
            break;
        }
    }
    struct buf clean = { 0 };
    utf8_repair(&clean, buf_view(&text));
    size_t n = 0;
    for (size_t i = 0; i < clean.len; i++) {
        char c = clean.at[i];
        if (c == '\r' && i + 1 < clean.len && clean.at[i + 1] == '\n') continue;
        if (c == '\r') c = '\n';
        if ((unsigned char)c < 0x20 && c != '\n' && c != '\t') continue;
        clean.at[n++] = c;
    }
    clean.len = n;
    /* A final line end would only show as an empty line below the text. */
    while (clean.len && clean.at[clean.len - 1] == '\n') clean.len--;
    bool ok = !text.failed && (!clean.len || !el_insertstr(el, buf_c(&clean)));
    buf_free(&text);
    buf_free(&clean);
    return ok ? CC_REFRESH : CC_REFRESH_BEEP;
}

/* Completes the command at the start of a line. Several candidates are listed below it. */
static unsigned char complete_command(struct editor *e, struct str typed) {
    const char *match[MATCHES_MAX];
    int n = 0;
    bool file;
    char *word = mem_str(typed);
    for (int i = 0; n < MATCHES_MAX; i++) {
        const char *w = e->words(i, &file);
        if (!w) break;
        if (str_starts(str_of(w), word)) match[n++] = w;
    }
    free(word);
    if (!n) return CC_ERROR;
    size_t common = strlen(match[0]);
    for (int i = 1; i < n; i++)
        while (strncmp(match[0], match[i], common) != 0) common--;
    struct buf rest = { 0 };
    buf_str(&rest, str_cut(str_of(match[0]), typed.len, common));
    if (n == 1) buf_char(&rest, ' ');
    if (rest.len) {
        el_insertstr(e->el, buf_c(&rest));
        buf_free(&rest);
        return CC_REFRESH;
    }
    buf_free(&rest);
    fputc('\n', e->out);
    for (int i = 0; i < n; i++) fprintf(e->out, "%s ", match[i]);
    fputc('\n', e->out);
    return CC_REDISPLAY;
}

static unsigned char tab(EditLine *el, int key) {
    struct editor *e = NULL;
    el_get(el, EL_CLIENTDATA, &e);
    const LineInfo *line = el_line(el);
    struct str before = { line->buffer, (size_t)(line->cursor - line->buffer) };
    if (!e || e->more || !str_starts(before, "/")) {
        el_insertstr(el, "\t");
        return CC_REFRESH;
    }
    const char *space = memchr(before.at, ' ', before.len);
    if (!space) return complete_command(e, before);
    struct str command = { before.at, (size_t)(space - before.at) };
    bool file = false;
    for (int i = 0;; i++) {
        const char *w = e->words(i, &file);
        if (!w) return CC_ERROR;
        if (str_is(command, w)) return file ? _el_fn_complete(el, key) : CC_ERROR;
    }
}

/* Makes every folder above `path`; what cannot be made shows when the file is opened. */
static void make_parents(const char *path) {
    char *copy = mem_str(str_of(path));
    for (char *at = copy + 1; *at; at++) {
        if (*at != '/') continue;
        *at = 0;
        mkdir(copy, 0700);
        *at = '/';
    }
    free(copy);
}

static char *history_path(void) {
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    struct buf path = { 0 };
    if (state && state[0] == '/')
        buf_format(&path, "%s/mlxcel/history", state);
    else if (home && home[0] == '/')
        buf_format(&path, "%s/.local/state/mlxcel/history", home);
    char *copy = path.len ? mem_str(buf_view(&path)) : NULL;
    buf_free(&path);
    return copy;
}

static void bind_keys(struct editor *e) {
    /* wchar-free el_set: names and keys are ASCII. A person's .editrc has the last word. */
    el_set(e->el, EL_EDITOR, "emacs");
    el_set(e->el, EL_ADDFN, "mlxcel-tab", "complete a command or path", tab);
    el_set(e->el, EL_ADDFN, "mlxcel-paste", "insert pasted text", take_paste);
    el_set(e->el, EL_BIND, "\t", "mlxcel-tab", NULL);
    el_set(e->el, EL_BIND, "^R", "em-inc-search-prev", NULL);
    el_source(e->el, NULL);
    el_set(e->el, EL_BIND, "\033[200~", "mlxcel-paste", NULL);
}

struct editor *editor_open(bool keep, editor_words *words, struct err *err) {
    /* libedit shows characters by the locale, and a plain C locale knows ASCII only. */
    if (strcmp(nl_langinfo(CODESET), "UTF-8") != 0) setlocale(LC_CTYPE, "C.UTF-8");
    struct editor *e = mem_new(sizeof *e);
    const char *type = getenv("TERM");
    HistEvent event;
    e->words = words;
    e->keep = keep;
    e->paste = type && *type && strcmp(type, "dumb") != 0;
    int copy = dup(STDERR_FILENO);
    e->out = copy < 0 ? NULL : fdopen(copy, "w");
    e->el = e->out ? el_init("mlxcel", stdin, e->out, e->out) : NULL;
    e->history = history_init();
    if (!e->el || !e->history) {
        err_set(err, "the terminal cannot be used for a chat");
        editor_close(e);
        return NULL;
    }
    el_set(e->el, EL_CLIENTDATA, e);
    el_set(e->el, EL_SIGNAL, 0);
    el_set(e->el, EL_PROMPT, prompt);
    el_set(e->el, EL_GETCFN, read_char);
    bind_keys(e);
    history(e->history, &event, H_SETSIZE, HISTORY_MAX);
    history(e->history, &event, H_SETUNIQUE, 1);
    el_set(e->el, EL_HIST, history, e->history);
    if (keep) e->file = history_path();
    if (e->file) history(e->history, &event, H_LOAD, e->file);
    struct sigaction act = { .sa_handler = on_resize };
    sigemptyset(&act.sa_mask);
    sigaction(SIGWINCH, &act, NULL);
    return e;
}

void editor_keep(struct editor *e, bool keep) { e->keep = keep; }

/* What people say to a model is theirs alone: the file is never readable by others, not even
 * while it is new. */
static void save_history(struct editor *e) {
    HistEvent event;
    make_parents(e->file);
    int fd = open(e->file, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) return;
    bool ours = !fchmod(fd, 0600);
    close(fd);
    if (ours) history(e->history, &event, H_SAVE, e->file);
}

void editor_close(struct editor *e) {
    if (!e) return;
    if (e->history && e->file && e->keep) save_history(e);
    if (e->el) el_end(e->el);
    if (e->history) history_end(e->history);
    if (e->out) fclose(e->out);
    free(e->file);
    free(e);
}

static enum line_end read_line(struct editor *e, struct buf *line) {
    int n = 0;
    /* libedit would show its prompt first, and a Ctrl-D typed in between would be lost. */
    el_set(e->el, EL_PREP_TERM, 1);
    if (e->paste) fputs("\033[?2004h", e->out);
    fflush(e->out);
    const char *text = el_gets(e->el, &n);
    if (e->paste) fputs("\033[?2004l", e->out);
    fflush(e->out);
    buf_clear(line);
    if (!text || n <= 0) {
        fputc('\n', e->out);
        fflush(e->out);
        return signal_seen() ? LINE_INTERRUPT : LINE_EOF;
    }
    buf_put(line, text, (size_t)n);
    while (line->len && (line->at[line->len - 1] == '\n' || line->at[line->len - 1] == '\r'))
        line->len--;
    return LINE_READ;
}

static const char fence[] = "\"\"\"";

/* Adds a line to the message. True: the message goes on. */
static bool goes_on(struct buf *message, struct str line, bool *fenced) {
    if (!message->len && !*fenced && str_starts(line, fence)) {
        *fenced = true;
        line = str_from(line, sizeof fence - 1);
        if (!line.len) return true;
    }
    bool ends = *fenced && str_ends(line, fence);
    if (ends) line.len -= sizeof fence - 1;
    bool slash = !*fenced && line.len && line.at[line.len - 1] == '\\';
    if (slash) line.len--;
    buf_str(message, line);
    if (ends && message->len && message->at[message->len - 1] == '\n') message->len--;
    if ((*fenced && !ends) || slash) buf_char(message, '\n');
    return slash || (*fenced && !ends);
}

enum line_end editor_read(struct editor *e, struct buf *message) {
    struct buf line = { 0 };
    HistEvent event;
    bool fenced = false;
    enum line_end end;
    buf_clear(message);
    e->more = false;
    for (;;) {
        end = read_line(e, &line);
        if (end != LINE_READ) break;
        e->more = goes_on(message, buf_view(&line), &fenced);
        if (!e->more) break;
    }
    e->more = false;
    if (end == LINE_READ && message->len && e->keep)
        history(e->history, &event, H_ENTER, buf_c(message));
    buf_free(&line);
    return end;
}
