/* serve.c - `mlxcel serve`: from settings to a running server and its end.
 *
 * It listens first, so that whoever asks while the model loads is told so, then loads, warms up
 * and serves. All signals go to one thread that waits for them: it may lock, close and log. */
#include "api/api.h"
#include "base/log.h"
#include "cli/dialog.h"
#include "cli/session.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { KEY_FILE_MAX = 1 << 20, FDS_FIRST = 3 };

struct serving {
    struct args *a;
    struct server *server;
    pthread_mutex_t lock;
    bool serving, over;              /* under the lock; before the first, a signal just ends us */
    const char *host[LISTEN_MAX], *key[KEYS_MAX], *origin[ORIGINS_MAX], *name[HOSTS_MAX];
    int n_hosts, n_keys, n_origins, n_names;
    char *owned[4 * TEXT_LIST_MAX]; int n_owned;
    char fd_name[LISTEN_MAX][16];
    struct buf keys;                 /* the key file, cut into lines */
    struct buf alias, template_vars;
    double slowdown;                 /* for the engine; 0: its default */
};

static bool add(const char **list, int *n, int max, const char *word, const char *what,
                struct err *err) {
    if (*n == max) return err_code(err, ERR_USAGE, "more than %d of %s", max, what);
    list[(*n)++] = word;
    return true;
}

/* Every option of this kind may be repeated, and may hold several with commas. */
static bool add_all(struct serving *s, const struct text_list *from, const char **list, int *n,
                    int max, const char *what, struct err *err) {
    for (int i = 0; i < from->n; i++) {
        char *at = mem_str(str_of(from->at[i]));
        s->owned[s->n_owned++] = at;
        while (*at) {
            char *end = at + strcspn(at, ",");
            bool more = *end != 0;
            *end = 0;
            while (*at == ' ') at++;
            if (!*at) return err_code(err, ERR_USAGE, "%s: an empty one", what);
            if (!add(list, n, max, at, what, err)) return false;
            at = end + more;
        }
    }
    return true;
}

/* One key a line; lines that begin with # are comments. */
static bool read_keys(struct serving *s, const char *path, struct err *err) {
    struct stat st;
    int before = s->n_keys;
    if (!buf_read_file(&s->keys, path, KEY_FILE_MAX, err)) return false;
    if (stat(path, &st) || st.st_mode & S_IROTH)
        return err_code(err, ERR_USAGE, "everyone may read the key file %s: chmod o-r", path);
    buf_c(&s->keys);
    for (char *at = s->keys.at; *at;) {
        char *end = at + strcspn(at, "\n"), *next = *end ? end + 1 : end;
        while (at < end && memchr(" \t\r", *at, 3)) at++;
        while (end > at && memchr(" \t\r", end[-1], 3)) end--;
        *end = 0;
        if (*at && *at != '#' && !add(s->key, &s->n_keys, KEYS_MAX, at, "keys", err)) return false;
        at = next;
    }
    return s->n_keys > before
        || err_code(err, ERR_USAGE, "the key file %s holds no key", path);
}

/* Sockets that systemd opened for us. The variables are for this process alone. */
static bool add_inherited(struct serving *s, struct err *err) {
    const char *pid = getenv("LISTEN_PID"), *count = getenv("LISTEN_FDS");
    uint64_t n = 0, id = 0;
    bool ours = pid && count && str_u64(str_of(pid), INT32_MAX, &id) && id == (uint64_t)getpid()
             && str_u64(str_of(count), LISTEN_MAX, &n);
    for (int i = 0; ours && i < (int)n; i++) {
        fcntl(FDS_FIRST + i, F_SETFD, FD_CLOEXEC);
        snprintf(s->fd_name[i], sizeof s->fd_name[i], "fd:%d", FDS_FIRST + i);
        if (!add(s->host, &s->n_hosts, LISTEN_MAX, s->fd_name[i], "addresses", err)) return false;
    }
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDS");
    unsetenv("LISTEN_FDNAMES");
    return true;
}

static bool read_lists(struct serving *s, struct err *err) {
    const struct args *a = s->a;
    if (!add_inherited(s, err)
        || !add_all(s, &a->hosts, s->host, &s->n_hosts, LISTEN_MAX, "--host", err)
        || !add_all(s, &a->api_keys, s->key, &s->n_keys, KEYS_MAX, "--api-key", err)
        || !add_all(s, &a->origins, s->origin, &s->n_origins, ORIGINS_MAX, "--cors-origin", err)
        || !add_all(s, &a->allowed_hosts, s->name, &s->n_names, HOSTS_MAX, "--allow-host", err))
        return false;
    /* llama-server's word for what holds here without the option. */
    if (s->n_origins == 1 && !strcmp(s->origin[0], "localhost")) s->n_origins = 0;
    if (a->api_key_file && !read_keys(s, a->api_key_file, err)) return false;
    if (s->n_keys && a->no_api_key)
        return err_code(err, ERR_USAGE, "--no-api-key and API keys exclude each other");
    for (int i = 0; i < n_options; i++)
        if (options[i].offset == offsetof(struct args, api_keys)
            && a->origin[i].from == FROM_FLAG)
            log_line(LOG_WARN, "others on this machine can read a key on the command line; see "
                               "--api-key-file");
    return true;
}

/* owner/name of the hub stays whole; of a folder the last part. */
static void choose_alias(struct serving *s) {
    const struct args *a = s->a;
    struct stat st;
    if (a->alias) buf_str(&s->alias, str_of(a->alias));
    else if (!a->model) buf_str(&s->alias, S("mlxcel-demo"));
    else if (stat(a->model, &st)) buf_str(&s->alias, str_of(a->model));
}

/* What --var, --think and their kin come to, as JSON; nothing: none was given. */
static bool read_vars(struct serving *s, struct err *err) {
    struct json_object *vars = dialog_vars(s->a, err);
    if (vars) buf_str(&s->template_vars, str_of(json_object_to_json_string(vars)));
    bool ok = vars || !err->code;
    json_object_put(vars);
    return ok;
}

/* How often systemd wants to hear of us; the variables may be meant for another process. */
static double watchdog_seconds(void) {
    const char *pid = getenv("WATCHDOG_PID"), *usec = getenv("WATCHDOG_USEC");
    uint64_t id = 0, n = 0;
    if (pid && (!str_u64(str_of(pid), INT32_MAX, &id) || id != (uint64_t)getpid())) return 0;
    return str_u64(str_of(usec), UINT64_MAX, &n) ? (double)n * 1e-6 : 0;
}

static struct server_options server_options_of(struct serving *s) {
    const struct args *a = s->a;
    choose_alias(s);
    return (struct server_options){
        .host = s->host, .n_hosts = s->n_hosts, .port = a->port, .prefix = a->api_prefix,
        .key = s->key, .n_keys = s->n_keys, .open = a->no_api_key,
        .origin = s->origin, .n_origins = s->n_origins,
        .allowed_host = s->name, .n_allowed_hosts = s->n_names,
        .alias = s->alias.len ? buf_c(&s->alias) : NULL,
        .model_path = a->model ? a->model : "built-in", .strict_model = a->strict_model,
        .template_vars = s->template_vars.len ? buf_c(&s->template_vars) : NULL,
        .reasoning_field = a->reasoning_field,
        .no_slots = a->no_slots, .no_props = a->no_props, .no_metrics = a->no_metrics,
        .connections_max = a->connections, .queue_max = a->queue, .key_max = a->key_limit,
        .body_max = a->body_max, .request_s = MAX(a->timeout_s, 0),
        .ping_s = a->ping_s < 0 ? 1e9 : a->ping_s, .drain_s = a->drain_s > 0 ? a->drain_s : 1e-3,
        .header_s = a->header_s, .body_s = a->body_s, .idle_s = a->idle_s, .stall_s = a->stall_s,
        .log_json = !strcmp(a->log_format, "json"), .quiet = a->quiet,
        .notify = getenv("NOTIFY_SOCKET"), .watchdog_s = watchdog_seconds(),
    };
}

static int open_log_file(const char *path, struct err *err) {
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY, 0600);
    if (fd < 0) err_set(err, "cannot open the log file %s: %s", path, strerror(errno));
    return fd;
}

/* Standard error becomes the file, so that it holds whatever is said from now on. */
static bool open_log(const char *path, struct err *err) {
    int fd = open_log_file(path, err);
    if (fd < 0) return false;
    bool ok = dup2(fd, STDERR_FILENO) >= 0;
    close(fd);
    return ok || err_set(err, "cannot use the log file %s: %s", path, strerror(errno));
}

/* Standard error is systemd's journal: then that is what the variable names. */
static bool in_journal(void) {
    const char *names = getenv("JOURNAL_STREAM");
    char text[64];
    struct stat st;
    if (!names || fstat(STDERR_FILENO, &st)) return false;
    snprintf(text, sizeof text, "%llu:%llu", (unsigned long long)st.st_dev,
             (unsigned long long)st.st_ino);
    return !strcmp(names, text);
}

static void choose_log(const struct args *a) {
    static const char *const name[] = { "error", "warning", "info", "debug" };
    bool json = !strcmp(a->log_format, "json");
    log_form = json ? LOG_JSON : in_journal() && !a->log_file ? LOG_JOURNAL : LOG_TEXT;
    log_level = a->quiet ? LOG_ERROR : a->verbose ? LOG_DEBUG : LOG_INFO;
    for (int i = LOG_ERROR; a->log_level && i <= LOG_DEBUG; i++)
        if (!strcmp(a->log_level, name[i])) log_level = (enum log_level)i;
}

static void stop_signals(sigset_t *set) {
    sigemptyset(set);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGHUP);
}

/* While loading there is nothing to wait for: we close, which removes Unix sockets, and leave.
 * Once serving, the server is told; who asks a third time means now. */
static void *watch_signals(void *to) {
    struct serving *s = to;
    sigset_t set;
    stop_signals(&set);
    for (int stops = 0;;) {
        int number = 0;
        struct err err = { 0 };
        if (sigwait(&set, &number)) continue;
        pthread_mutex_lock(&s->lock);
        if (s->over) {
            pthread_mutex_unlock(&s->lock);
            return NULL;
        }
        if (number == SIGHUP) {
            if (s->a->log_file && !open_log(s->a->log_file, &err))
                log_line(LOG_ERROR, "%s", err.text);
        } else if (!s->serving) {
            server_close(s->server);
            _exit(0);
        } else if (++stops > 2) {
            _exit(128 + number);
        } else {
            server_stop(s->server);
        }
        pthread_mutex_unlock(&s->lock);
    }
}

static void on_progress(void *to, double done) {
    struct serving *s = to;
    pthread_mutex_lock(&s->lock);
    server_progress(s->server, done);
    pthread_mutex_unlock(&s->lock);
}

/* The first pass touches every weight and wakes every thread; no client should wait for that. */
static bool warm_up(struct session *s, struct err *err) {
    struct generate_options o = { .sample = s->sample, .n_max = 2, .ignore_eos = true };
    const int ids[2] = { 0, 0 };
    struct answer answer = { 0 };
    struct question q = { .ids = ids, .n_ids = (int)COUNT(ids), .options = o };
    bool ok = session_ask(s, &q, &answer, err);
    answer_free(&answer);
    return ok;
}

/* For people two short lines; for a log, which may be read much later, two of its own. */
static void banner(const struct serving *s, const struct session *session, bool plain) {
    struct engine_info i = engine_info(session->engine);
    struct buf at = { 0 }, what = { 0 };
    server_addresses(s->server, &at);
    buf_format(&what, "mlxcel %s: %s, %s, %.1f MiB, context %d, kv %s, %s", MLXCEL_VERSION,
               i.family, i.quantization, (double)i.weights_bytes / (1 << 20), i.context, i.kv,
               i.device);
    if (!s->a->quiet && plain) fprintf(stderr, "%s\n", buf_c(&what));
    if (plain) fprintf(stderr, "listening on %s\n", buf_c(&at));
    if (!plain) log_line(LOG_INFO, "%s", buf_c(&what));
    if (!plain) log_line(LOG_ALWAYS, "listening on %s", buf_c(&at));
    buf_free(&at);
    buf_free(&what);
}

static bool load_and_serve(struct serving *s, struct session *session, struct err *err) {
    const struct args *a = s->a;
    struct session_plan plan = { .running = MAX(a->parallel, 0), .waiting = MAX(a->queue, 0),
                                 .slowdown = s->slowdown, .progress = on_progress, .to = s };
    if (!session_open(session, a, &plan, err)) return false;
    if (!a->no_warmup && !warm_up(session, err)) return false;
    pthread_mutex_lock(&s->lock);
    s->serving = true;
    pthread_mutex_unlock(&s->lock);
    if (log_form == LOG_TEXT) banner(s, session, true);
    if (a->log_file && !open_log(a->log_file, err)) return false;
    if (log_form != LOG_TEXT || a->log_file) banner(s, session, false);
    return server_serve(s->server, session->engine, &session->sample, err);
}

/* What is closed would be given to a socket, and then written to by whoever logs. */
static void fill_standard(void) {
    for (int fd = 0; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) < 0) _exit(ERR_FAILED);
}

static bool print_settings(struct args *a, struct err *err) {
    struct session_plan plan = { .running = 1, .no_tokenizer = true };
    struct session session = { 0 };
    struct buf out = { 0 };
    bool ok = session_open(&session, a, &plan, err);
    if (ok) settings_print(&out, a, CMD_SERVE, &session.sample);
    fwrite(out.at ? out.at : "", 1, out.len, stdout);
    buf_free(&out);
    session_close(&session);
    return ok;
}

static bool read_slowdown(struct serving *s, struct err *err) {
    float x = s->a->slowdown;
    if (!option_given(s->a, &s->a->slowdown)) return true;
    if (x != 0 && !(x >= 1 && x <= 1000))
        return err_code(err, ERR_USAGE, "--slowdown: 1 to 1000, or 0 for no limit");
    s->slowdown = x > 0 ? (double)x : -1;
    return true;
}

/* None of these can be left out: a client that never ends a request would hold its place. */
static bool check_times(const struct args *a, struct err *err) {
    const struct { const char *name; double seconds; } limit[] = {
        { "--header-timeout", a->header_s }, { "--body-timeout", a->body_s },
        { "--idle-timeout", a->idle_s }, { "--stall-timeout", a->stall_s },
    };
    for (size_t i = 0; i < COUNT(limit); i++)
        if (!(limit[i].seconds > 0))
            return err_code(err, ERR_USAGE, "%s: more than 0 seconds", limit[i].name);
    return true;
}

/* What would only be seen once the model is loaded, or never. */
static bool check_paths(const struct args *a, struct err *err) {
    struct str prefix = str_of(a->api_prefix);
    if (prefix.len && (prefix.at[0] != '/' || str_ends(prefix, "/")))
        return err_code(err, ERR_USAGE, "--api-prefix begins with a slash and does not end with "
                        "one, as /llm does; not '%s'", a->api_prefix);
    int fd = a->log_file ? open_log_file(a->log_file, err) : -1;
    if (a->log_file && fd < 0) return false;
    if (fd >= 0) close(fd);
    return true;
}

static bool serve(struct serving *s, struct err *err) {
    struct session session = { 0 };
    struct buf dir = { 0 };
    pthread_t watcher;
    sigset_t set;
    /* A model that is not there is told of before any port is taken. */
    bool ok = check_paths(s->a, err) && check_times(s->a, err) && read_slowdown(s, err) &&
              read_lists(s, err) && read_vars(s, err) && model_find(s->a->model, &dir, err);
    buf_free(&dir);
    if (!ok) return false;
    stop_signals(&set);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGUSR1, SIG_IGN);
    signal(SIGUSR2, SIG_IGN);
    struct server_options o = server_options_of(s);
    s->server = server_open(&o, err);
    unsetenv("NOTIFY_SOCKET");
    unsetenv("WATCHDOG_USEC");
    unsetenv("WATCHDOG_PID");
    if (!s->server) return false;
    int failed = pthread_create(&watcher, NULL, watch_signals, s);
    if (failed) {
        server_close(s->server);
        return err_set(err, "cannot start a thread: %s", strerror(failed));
    }
    ok = load_and_serve(s, &session, err);
    pthread_mutex_lock(&s->lock);
    s->over = true;
    pthread_mutex_unlock(&s->lock);
    pthread_kill(watcher, SIGTERM);
    pthread_join(watcher, NULL);
    server_close(s->server);
    session_close(&session);
    return ok;
}

int cli_serve(struct args *a) {
    struct err err = { 0 };
    struct serving s = { .a = a, .lock = PTHREAD_MUTEX_INITIALIZER };
    model_from_words(a, true);
    fill_standard();
    choose_log(a);
    bool ok = a->print_config ? print_settings(a, &err) : serve(&s, &err);
    for (int i = 0; i < s.n_owned; i++) free(s.owned[i]);
    buf_free(&s.keys);
    buf_free(&s.alias);
    buf_free(&s.template_vars);
    return ok ? 0 : cli_fail(&err);
}
