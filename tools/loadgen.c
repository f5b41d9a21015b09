/* loadgen.c - many clients of one server at once, with a ledger of what each must be told.
 *
 * Requests are drawn from a number of kinds, which differ in prompt, length and seed. First each
 * kind is asked for alone; under load every whole answer must be the same text, every answer that
 * is cut short by its client a beginning of it. Clients stream or do not, cancel, reset, vanish
 * before the answer, or read slowly. Prints one JSON object; exit 1 when the ledger does not
 * balance.
 *
 * Usage: loadgen --port N [options], see `help` below. Single-threaded: it shares the machine with
 * the server it measures. */
#include "load_reply.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { KINDS_MAX = 256, EVENTS = 256, TICK_MS = 5, SLOW_BYTES = 512 };

static const char help[] =
    "loadgen --port N: clients of one server, and a ledger of what they are told\n"
    "  --clients N      at a time (16)\n"
    "  --requests N     in all (100); --seconds S instead ends the run by time\n"
    "  --rate R         open loop: R arrivals a second, Poisson; 0: closed loop (0)\n"
    "  --kinds N        different requests (16)\n"
    "  --prompt N       tokens of a prompt (64), as ids below --vocab (1000)\n"
    "  --shared N       of them the same in all prompts (0)\n"
    "  --tokens N       of an answer, at most; at least half of it (64); --exact: all of it\n"
    "  --temp T         temperature (0.8)\n"
    "  --whole P        percent that do not stream (0)\n"
    "  --cancel P --reset P --vanish P --slow P\n"
    "                   percent that close in the middle, reset, close before the answer, read\n"
    "                   slowly (0)\n"
    "  --long N --every S   beside all that, a prompt of N tokens every S seconds, one token long\n"
    "  --idle N         connections that say nothing, beside all that\n"
    "  --pid N          the server's: its memory and CPU time are reported\n"
    "  --seed N         of the draws (1)\n"
    "  --no-ledger      nothing is asked for alone, nothing compared\n";

enum behaviour { BEHAVE_STREAM, BEHAVE_WHOLE, BEHAVE_CANCEL, BEHAVE_RESET, BEHAVE_VANISH,
                 BEHAVE_SLOW, BEHAVE_LONG };

struct settings {
    double port, clients, requests, seconds, rate, kinds, prompt, vocab, shared, tokens, exact,
           temp, whole, cancel, reset, vanish, slow, long_prompt, every, idle, pid, seed, no_ledger;
};

struct kind { struct buf ids, text; int n_max; char finish[16]; };

struct client {
    int fd;                          /* -1: none */
    bool busy, sent, watched;
    enum behaviour behaviour;
    const struct kind *kind;
    int patience;                    /* events until a cancel */
    struct buf out; size_t out_at;
    struct reply reply;
    double asked_s, first_s, last_s;
};

struct times { double *at; size_t n, cap; };

struct load {
    struct settings set;
    struct kind kind[KINDS_MAX];
    struct client *client; int n_clients;
    int epoll, n_busy;
    uint64_t random;
    int n_started, n_completed, n_cut, n_refused, n_failed, n_wrong, n_long;
    uint64_t n_tokens, n_events, n_prompt, n_cached;
    struct times first, gap, whole, long_first;
    double begin_s, end_s;
    double all_s;                    /* when the last client had its first token */
    bool quiet;                      /* the phase in which kinds are asked for alone */
};

/* ---- draws ---- */

static uint64_t draw(struct load *l) {
    uint64_t z = l->random += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static double draw_unit(struct load *l) {
    return (double)(draw(l) >> 11) * 0x1p-53;
}

static void draw_ids(struct load *l, struct buf *to, int n) {
    for (int i = 0; i < n; i++)
        buf_format(to, "%s%d", to->len ? "," : "",
                   256 + (int)(draw(l) % (uint64_t)MAX(l->set.vocab - 256, 1)));
}

static void make_kinds(struct load *l) {
    struct buf shared = { 0 };
    draw_ids(l, &shared, (int)l->set.shared);
    for (int i = 0; i < (int)l->set.kinds; i++) {
        struct kind *k = &l->kind[i];
        buf_str(&k->ids, buf_view(&shared));
        draw_ids(l, &k->ids, (int)(l->set.prompt - l->set.shared));
        k->n_max = (int)l->set.tokens;
        if (!(l->set.exact > 0)) k->n_max -= (int)(draw(l) % (uint64_t)(k->n_max / 2 + 1));
    }
    buf_free(&shared);
}

static void note(struct times *t, double s) {
    if (t->n == t->cap) {
        t->cap = t->cap * 2 + 1024;
        t->at = mem_grow(t->at, t->cap, sizeof *t->at);
    }
    t->at[t->n++] = s;
}

/* ---- requests ---- */

static void write_request(const struct load *l, struct client *c) {
    struct buf body = { 0 };
    bool stream = c->behaviour != BEHAVE_WHOLE;
    bool many = c->behaviour == BEHAVE_LONG;
    buf_format(&body, "{\"prompt\":[%s],\"max_tokens\":%d,\"temperature\":%g,\"seed\":%d,"
               "\"ignore_eos\":true", buf_c((struct buf *)(uintptr_t)&c->kind->ids),
               many ? 1 : c->kind->n_max, l->set.temp, (int)(c->kind - l->kind) + 1);
    if (stream) buf_str(&body, S(",\"stream\":true,\"stream_options\":{\"include_usage\":true}"));
    buf_char(&body, '}');
    buf_clear(&c->out);
    c->out_at = 0;
    buf_format(&c->out, "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
               "application/json\r\nContent-Length: %zu\r\n\r\n", body.len);
    buf_str(&c->out, buf_view(&body));
    buf_free(&body);
}

static int dial(const struct load *l, bool slow) {
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)l->set.port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int one = 1, small = 2048, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    if (slow) setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(fd, (struct sockaddr *)&a, sizeof a)) {
        close(fd);
        return -1;
    }
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

static void drop(struct load *l, struct client *c, bool reset) {
    struct linger now = { .l_onoff = 1 };
    if (c->fd < 0) return;
    if (reset) setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    close(c->fd);                    /* which takes it out of the epoll set */
    c->fd = -1;
    c->watched = false;
    (void)l;
}

static enum behaviour draw_behaviour(struct load *l) {
    const struct settings *s = &l->set;
    double at = draw_unit(l) * 100;
    if ((at -= s->whole) < 0) return BEHAVE_WHOLE;
    if ((at -= s->cancel) < 0) return BEHAVE_CANCEL;
    if ((at -= s->reset) < 0) return BEHAVE_RESET;
    if ((at -= s->vanish) < 0) return BEHAVE_VANISH;
    if (at - s->slow < 0) return BEHAVE_SLOW;
    return BEHAVE_STREAM;
}

static void start(struct load *l, struct client *c, const struct kind *k, enum behaviour b) {
    bool slow = b == BEHAVE_SLOW;
    if (slow) drop(l, c, false);     /* a small window has to be there from the start */
    if (c->fd < 0) c->fd = dial(l, slow);
    l->n_started++;
    if (c->fd < 0) {
        l->n_failed++;
        return;
    }
    struct epoll_event e = { .events = EPOLLIN, .data.ptr = c };
    if (!slow && !c->watched) epoll_ctl(l->epoll, EPOLL_CTL_ADD, c->fd, &e);
    c->watched = !slow;
    c->behaviour = b;
    c->kind = k;
    c->busy = true;
    c->sent = false;
    c->patience = 1 + (int)(draw(l) % (uint64_t)(k->n_max + 1));
    l->n_busy++;
    reply_clear(&c->reply);
    write_request(l, c);
    c->asked_s = clock_s();
    c->first_s = c->last_s = 0;
}

static void finish(struct load *l, struct client *c) {
    c->busy = false;
    l->n_busy--;
}

/* ---- the ledger ---- */

static void wrong(struct load *l, const struct client *c, const char *what) {
    if (l->n_wrong++ < 10)
        fprintf(stderr, "loadgen: kind %d, behaviour %d: %s\n  got  %.300s\n  want %.300s\n",
                (int)(c->kind - l->kind), (int)c->behaviour, what,
                buf_c((struct buf *)(uintptr_t)&c->reply.text),
                buf_c((struct buf *)(uintptr_t)&c->kind->text));
}

static void check_whole(struct load *l, struct client *c) {
    const struct reply *r = &c->reply;
    bool compare = !l->quiet && !(l->set.no_ledger > 0) && c->behaviour != BEHAVE_LONG;
    if (r->stream && !r->done) wrong(l, c, "no [DONE]");
    if (!r->finished) wrong(l, c, "no finish_reason");
    if (compare && !str_eq(buf_view(&r->text), buf_view(&c->kind->text)))
        wrong(l, c, "another text than alone");
    if (compare && strcmp(r->finish, c->kind->finish)) wrong(l, c, "another finish_reason");
    if (c->behaviour != BEHAVE_LONG && r->n_generated != c->kind->n_max)
        wrong(l, c, "another number of tokens than were asked for");
}

static void check_cut(struct load *l, const struct client *c) {
    struct str text = buf_view(&c->reply.text), all = buf_view(&c->kind->text);
    if (l->set.no_ledger > 0) return;
    if (!str_eq(text, str_cut(all, 0, text.len))) wrong(l, c, "not a beginning of the text alone");
}

static void over(struct load *l, struct client *c) {
    struct reply *r = &c->reply;
    double now = clock_s();
    finish(l, c);
    if (r->closes || r->status != 200 || c->behaviour == BEHAVE_SLOW) drop(l, c, false);
    if (r->status == 503 || r->status == 429) {
        l->n_refused++;
        return;
    }
    if (r->status != 200 || r->broken) {
        if (l->n_failed++ < 5)
            fprintf(stderr, "loadgen: status %d%s: %.300s\n", r->status,
                    r->broken ? ", a broken stream" : "", buf_c(&r->body));
        return;
    }
    check_whole(l, c);
    l->n_completed++;
    l->n_tokens += (uint64_t)r->n_generated;
    l->n_prompt += (uint64_t)r->n_prompt;
    l->n_cached += (uint64_t)r->n_cached;
    if (c->behaviour == BEHAVE_LONG) l->n_long++;
    else note(&l->whole, now - c->asked_s);
}

/* ---- input and output ---- */

static void send_some(struct load *l, struct client *c) {
    while (c->out_at < c->out.len) {
        ssize_t n = send(c->fd, c->out.at + c->out_at, c->out.len - c->out_at, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) return;
        if (n <= 0) {
            l->n_failed++;
            drop(l, c, false);
            finish(l, c);
            return;
        }
        c->out_at += (size_t)n;
    }
    c->sent = true;
    if (c->behaviour != BEHAVE_VANISH) return;
    drop(l, c, draw(l) & 1);
    l->n_cut++;
    finish(l, c);
}

static void see_events(struct load *l, struct client *c, int n_before) {
    const struct reply *r = &c->reply;
    double now = clock_s();
    if (r->n_text == n_before) return;
    l->n_events += (uint64_t)(r->n_text - n_before);
    if (!(c->first_s > 0)) {
        c->first_s = now;
        note(c->behaviour == BEHAVE_LONG ? &l->long_first : &l->first, now - c->asked_s);
        if (c->behaviour != BEHAVE_LONG) l->all_s = now;
    } else if (c->behaviour != BEHAVE_SLOW) {
        note(&l->gap, now - c->last_s);
    }
    c->last_s = now;
}

static void read_some(struct load *l, struct client *c) {
    char bytes[16384];
    bool slow = c->behaviour == BEHAVE_SLOW, cuts = c->behaviour == BEHAVE_CANCEL ||
                                                    c->behaviour == BEHAVE_RESET;
    while (c->busy) {
        int before = c->reply.n_text;
        ssize_t n = recv(c->fd, bytes, slow ? SLOW_BYTES : sizeof bytes, 0);
        if (n < 0 && errno == EAGAIN) return;
        if (n <= 0) {
            if (l->n_failed++ < 5)
                fprintf(stderr, "loadgen: closed by the server after %d events, status %d\n",
                        c->reply.n_events, c->reply.status);
            drop(l, c, false);
            finish(l, c);
            return;
        }
        reply_take(&c->reply, bytes, (size_t)n);
        see_events(l, c, before);
        if (c->reply.part == PART_OVER || c->reply.broken) {
            over(l, c);
        } else if (cuts && c->reply.n_text >= c->patience) {
            check_cut(l, c);
            drop(l, c, c->behaviour == BEHAVE_RESET);
            l->n_cut++;
            finish(l, c);
        }
        /* A short read was all there is, and epoll tells of what comes later. */
        if (slow || n < (ssize_t)sizeof bytes) return;
    }
}

/* A turn of the loop: what is readable, what is still to be sent, and the slow ones. */
static void turn(struct load *l, int wait_ms) {
    struct epoll_event e[EVENTS];
    static double next_tick;
    int n = epoll_wait(l->epoll, e, EVENTS, wait_ms);
    for (int i = 0; i < n; i++) {
        struct client *c = e[i].data.ptr;
        if (c->busy) read_some(l, c);
        else if (c->fd >= 0) drop(l, c, false);      /* the server closed an idle connection */
    }
    double now = clock_s();
    if (now < next_tick) return;
    next_tick = now + TICK_MS * 1e-3;
    for (int i = 0; i < l->n_clients; i++) {
        struct client *c = &l->client[i];
        if (c->busy && !c->sent) send_some(l, c);
        if (c->busy && c->behaviour == BEHAVE_SLOW && c->sent) read_some(l, c);
    }
}

/* ---- the phases ---- */

static bool ask_alone(struct load *l) {
    struct client *c = &l->client[0];
    l->quiet = true;
    for (int i = 0; i < (int)l->set.kinds; i++) {
        struct kind *k = &l->kind[i];
        start(l, c, k, BEHAVE_WHOLE);
        if (c->fd >= 0) send_some(l, c);
        while (c->busy) turn(l, 100);
        if (l->n_failed || l->n_refused || l->n_wrong) return false;
        buf_str(&k->text, buf_view(&c->reply.text));
        memcpy(k->finish, c->reply.finish, sizeof k->finish);
    }
    l->quiet = false;
    l->n_started = l->n_completed = 0;
    l->n_tokens = l->n_events = l->n_prompt = l->n_cached = 0;
    l->first.n = l->gap.n = l->whole.n = 0;
    return true;
}

static struct client *idle_client(struct load *l, int first, int n) {
    for (int i = first; i < first + n; i++)
        if (!l->client[i].busy) return &l->client[i];
    return NULL;
}

static bool more(const struct load *l, double now) {
    if (l->set.seconds > 0) return now - l->begin_s < l->set.seconds;
    return l->n_started - l->n_long < (int)l->set.requests;
}

static void start_due(struct load *l, double now, double *next, double *next_long,
                      const struct kind *many) {
    int n = l->n_clients - 1;
    while (more(l, now) && (!(l->set.rate > 0) || now >= *next)) {
        struct client *c = idle_client(l, 0, n);
        if (!c) break;
        const struct kind *k = &l->kind[draw(l) % (uint64_t)l->set.kinds];
        start(l, c, k, draw_behaviour(l));
        if (c->busy) send_some(l, c);
        if (l->set.rate > 0) *next -= log(1 - draw_unit(l)) / l->set.rate;
    }
    struct client *last = &l->client[n];
    if (!(l->set.long_prompt > 0) || now < *next_long || last->busy || !more(l, now)) return;
    *next_long = now + l->set.every;
    start(l, last, many, BEHAVE_LONG);
    if (last->busy) send_some(l, last);
}

/* How long a turn may sleep when nothing comes: who wakes up for nothing takes time from the
 * server, on cores that are its own as well. */
static int idle_ms(const struct load *l) {
    const struct settings *s = &l->set;
    bool clocked = s->rate > 0 || s->slow > 0 || s->long_prompt > 0 || s->seconds > 0;
    for (int i = 0; i < l->n_clients && !clocked; i++)
        clocked = l->client[i].busy && !l->client[i].sent;
    return clocked ? 1 : 100;
}

static void run(struct load *l) {
    struct kind many = { .n_max = 1 };
    double next = l->begin_s = clock_s(), next_long = l->begin_s + l->set.every;
    for (double now = l->begin_s; more(l, now) || l->n_busy; now = clock_s()) {
        if (now >= next_long && !l->client[l->n_clients - 1].busy) {
            buf_clear(&many.ids);    /* a prompt that no cache knows */
            draw_ids(l, &many.ids, (int)l->set.long_prompt);
        }
        start_due(l, now, &next, &next_long, &many);
        turn(l, idle_ms(l));
    }
    l->end_s = clock_s();
    buf_free(&many.ids);
}

/* ---- what the server says of itself afterwards ---- */

/* A number of /metrics; -1: it is not there. */
static double metric(const struct load *l, const char *name) {
    static const char request[] = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    struct reply r = { 0 };
    char bytes[16384], line[128];
    int fd = dial(l, false);
    if (fd < 0) return -1;
    fcntl(fd, F_SETFL, 0);
    ssize_t n = send(fd, request, sizeof request - 1, MSG_NOSIGNAL);
    while (n > 0 && r.part != PART_OVER && !r.broken)
        if ((n = recv(fd, bytes, sizeof bytes, 0)) > 0) reply_take(&r, bytes, (size_t)n);
    close(fd);
    snprintf(line, sizeof line, "\n%s ", name);
    const char *at = r.status == 200 ? strstr(buf_c(&r.body), line) : NULL;
    double value = at ? reply_number(at, line) : -1;
    reply_free(&r);
    return value;
}

/* Those whose clients left are forgotten soon, but not at once. */
static void put_rest(const struct load *l) {
    static const char *const name[] = { "mlxcel_requests_running", "mlxcel_requests_waiting",
                                        "mlxcel_kv_cache_pages_used", "mlxcel_preemptions_total" };
    for (int i = 0; i < 100 && metric(l, name[0]) + metric(l, name[1]) > 0; i++) usleep(100000);
    for (size_t i = 0; i < COUNT(name); i++)
        printf(",\"%s\":%.0f", strchr(name[i], '_') + 1, metric(l, name[i]));
}

/* ---- the report ---- */

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void put_times(const char *name, struct times *t) {
    double none = 0, *at = t->n ? t->at : &none;
    size_t n = t->n ? t->n : 1;
    qsort(at, n, sizeof *at, by_value);
    printf(",\"%s_ms\":{\"n\":%zu,\"p50\":%.3f,\"p90\":%.3f,\"p99\":%.3f,\"max\":%.3f}", name, t->n,
           at[n / 2] * 1e3, at[n * 9 / 10] * 1e3, at[n * 99 / 100] * 1e3, at[n - 1] * 1e3);
}

static double rss_kib(int pid) {
    char path[64], line[256];
    double kib = 0;
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof line, f))
        if (!strncmp(line, "VmRSS:", 6)) kib = strtod(line + 6, NULL);
    if (f) fclose(f);
    return kib;
}

static double cpu_s(int pid) {
    char path[64], line[1024];
    double s = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *f = fopen(path, "r");
    const char *at = f && fgets(line, sizeof line, f) ? strrchr(line, ')') : NULL;
    for (int field = 2; at && field < 14; field++)
        if ((at = strchr(at + 1, ' ')) && field > 12) s = reply_number(at, " ");
    if (at && (at = strchr(at + 1, ' '))) s += reply_number(at, " ");
    if (f) fclose(f);
    return s / (double)sysconf(_SC_CLK_TCK);
}

static void report(struct load *l, double rss_before, double rss_peak, double cpu_before) {
    double took = l->end_s - l->begin_s;
    int pid = (int)l->set.pid;
    struct rusage own;
    getrusage(RUSAGE_SELF, &own);
    printf("{\"started\":%d,\"completed\":%d,\"cut\":%d,\"refused\":%d,\"failed\":%d,\"wrong\":%d,"
           "\"tokens\":%llu,\"events\":%llu,\"prompt_tokens\":%llu,\"cached_tokens\":%llu,"
           "\"seconds\":%.3f,\"tokens_per_s\":%.2f", l->n_started, l->n_completed, l->n_cut,
           l->n_refused, l->n_failed, l->n_wrong, (unsigned long long)l->n_tokens,
           (unsigned long long)l->n_events, (unsigned long long)l->n_prompt,
           (unsigned long long)l->n_cached, took, (double)l->n_tokens / took);
    /* As many requests as clients: what the batch did once all were in it. */
    if ((int)l->set.requests == l->n_clients - 1 && l->all_s < l->end_s)
        printf(",\"decode_tokens_per_s\":%.2f",
               (double)(l->n_tokens - (uint64_t)l->n_completed) / (l->end_s - l->all_s));
    put_times("first", &l->first);
    put_times("gap", &l->gap);
    put_times("whole", &l->whole);
    put_times("long_first", &l->long_first);
    put_rest(l);
    if (pid) printf(",\"rss_kib\":{\"before\":%.0f,\"peak\":%.0f,\"after\":%.0f},\"cpu_s\":%.3f",
                    rss_before, rss_peak, rss_kib(pid), cpu_s(pid) - cpu_before);
    printf(",\"own_cpu_s\":%.3f}\n", (double)(own.ru_utime.tv_sec + own.ru_stime.tv_sec) +
           (double)(own.ru_utime.tv_usec + own.ru_stime.tv_usec) * 1e-6);
}

/* ---- the command line ---- */

static const struct { const char *name; size_t at; bool flag; } known[] = {
#define SETTING(word, field, flag) { word, offsetof(struct settings, field), flag }
    SETTING("--port", port, false), SETTING("--clients", clients, false),
    SETTING("--requests", requests, false), SETTING("--seconds", seconds, false),
    SETTING("--rate", rate, false), SETTING("--kinds", kinds, false),
    SETTING("--prompt", prompt, false), SETTING("--vocab", vocab, false),
    SETTING("--shared", shared, false), SETTING("--tokens", tokens, false),
    SETTING("--exact", exact, true), SETTING("--temp", temp, false),
    SETTING("--whole", whole, false), SETTING("--cancel", cancel, false),
    SETTING("--reset", reset, false), SETTING("--vanish", vanish, false),
    SETTING("--slow", slow, false), SETTING("--long", long_prompt, false),
    SETTING("--every", every, false), SETTING("--idle", idle, false),
    SETTING("--pid", pid, false), SETTING("--seed", seed, false),
    SETTING("--no-ledger", no_ledger, true),
#undef SETTING
};

static bool read_settings(struct settings *s, int argc, char **argv) {
    *s = (struct settings){ .clients = 16, .requests = 100, .kinds = 16, .prompt = 64,
                            .vocab = 1000, .tokens = 64, .temp = 0.8, .every = 1, .seed = 1 };
    for (int i = 1; i < argc; i++) {
        size_t k = 0;
        while (k < COUNT(known) && strcmp(argv[i], known[k].name)) k++;
        char *end = "";
        bool value = k < COUNT(known) && !known[k].flag;
        double v = !value ? 1 : i + 1 < argc ? strtod(argv[++i], &end) : NAN;
        if (k == COUNT(known) || *end || !(v >= 0)) return false;
        *(double *)(void *)((char *)s + known[k].at) = v;
    }
    return s->port > 0 && s->clients >= 1 && s->kinds >= 1 && s->kinds <= KINDS_MAX &&
           s->tokens >= 1 && s->prompt >= 1 && s->shared <= s->prompt;
}

static void allow_files(double n) {
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files)) return;
    files.rlim_cur = MIN(MAX(files.rlim_cur, (rlim_t)n + 64), files.rlim_max);
    setrlimit(RLIMIT_NOFILE, &files);
}

int main(int argc, char **argv) {
    static struct load l;
    if (!read_settings(&l.set, argc, argv)) {
        fputs(help, stderr);
        return 2;
    }
    int n_idle = (int)l.set.idle, pid = (int)l.set.pid;
    allow_files(l.set.clients + l.set.idle + 64);
    l.random = (uint64_t)l.set.seed;
    l.n_clients = (int)l.set.clients + 1;        /* the last one is for long prompts */
    l.client = mem_array((size_t)l.n_clients, sizeof *l.client);
    for (int i = 0; i < l.n_clients; i++) l.client[i].fd = -1;
    l.epoll = epoll_create1(EPOLL_CLOEXEC);
    make_kinds(&l);
    if (!(l.set.no_ledger > 0) && !ask_alone(&l)) return 1;
    double rss_before = rss_kib(pid), cpu_before = cpu_s(pid);
    int *idle = mem_array((size_t)n_idle + 1, sizeof *idle);
    for (int i = 0; i < n_idle; i++)
        if ((idle[i] = dial(&l, false)) < 0) l.n_failed++;
    run(&l);
    int n_closed = 0;
    for (int i = 0; i < n_idle; i++) {
        char byte;
        n_closed += idle[i] >= 0 && recv(idle[i], &byte, 1, MSG_DONTWAIT) == 0;
    }
    report(&l, rss_before, rss_kib(pid), cpu_before);
    free(idle);
    if (n_closed) fprintf(stderr, "loadgen: %d idle connections were closed\n", n_closed);
    return l.n_wrong || l.n_failed ? 1 : 0;
}
