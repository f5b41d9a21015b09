/* health.c - `mlxcel health`: asks a running server whether it serves, for containers that
 * have no curl. Plain sockets, one GET, bounded in time and bytes. */
#include "cli/cli.h"
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

struct place { char host[256], port[16], path[256], unix_path[108]; };

static bool put(char *to, size_t size, struct str text) {
    if (text.len >= size) return false;
    if (text.len) memcpy(to, text.at, text.len);
    to[text.len] = 0;
    return true;
}

/* http://HOST[:PORT][/PATH], or what --host takes. */
static bool parse_place(struct place *p, struct str url) {
    if (str_starts(url, "http://")) url = str_from(url, 7);
    if (str_starts(url, "unix:")) return put(p->unix_path, sizeof p->unix_path, str_from(url, 5));
    if (str_ends(url, ".sock")) return put(p->unix_path, sizeof p->unix_path, url);
    const char *slash = url.len ? memchr(url.at, '/', url.len) : NULL;
    struct str path = slash ? str_from(url, (size_t)(slash - url.at)) : S("");
    struct str host = str_cut(url, 0, url.len - path.len);
    if (path.len > 1 && !put(p->path, sizeof p->path, path)) return false;
    if (str_starts(host, "[")) {
        const char *end = memchr(host.at, ']', host.len);
        if (!end) return false;
        struct str rest = str_from(host, (size_t)(end - host.at) + 1);
        if (str_starts(rest, ":") && !put(p->port, sizeof p->port, str_from(rest, 1))) return false;
        host = str_cut(host, 1, (size_t)(end - host.at));
    } else {
        const char *colon = host.len ? memchr(host.at, ':', host.len) : NULL;
        size_t n = colon ? (size_t)(colon - host.at) : host.len;
        /* A second colon: a bare IPv6 address. */
        if (colon && !memchr(colon + 1, ':', host.len - n - 1)) {
            if (!put(p->port, sizeof p->port, str_from(host, n + 1))) return false;
            host = str_cut(host, 0, n);
        }
    }
    if (str_is(host, "0.0.0.0") || !host.len) host = S("127.0.0.1");
    if (str_is(host, "::")) host = S("::1");
    return put(p->host, sizeof p->host, host);
}

static int connect_to(const struct place *p, struct err *err) {
    if (p->unix_path[0]) {
        struct sockaddr_un a = { .sun_family = AF_UNIX };
        memcpy(a.sun_path, p->unix_path, sizeof a.sun_path - 1);
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd >= 0 && !connect(fd, (struct sockaddr *)&a, sizeof a)) return fd;
        err_set(err, "no server at %s: %s", p->unix_path, strerror(errno));
        if (fd >= 0) close(fd);
        return -1;
    }
    struct addrinfo want = { .ai_socktype = SOCK_STREAM }, *list = NULL;
    int code = getaddrinfo(p->host, p->port, &want, &list), fd = -1;
    if (code) err_set(err, "%s: %s", p->host, gai_strerror(code));
    for (struct addrinfo *a = list; a && fd < 0; a = a->ai_next) {
        fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, 0);
        if (fd >= 0 && connect(fd, a->ai_addr, a->ai_addrlen)) {
            close(fd);
            fd = -1;
        }
    }
    if (fd < 0) err_set(err, "no server at %s:%s: %s", p->host, p->port, strerror(errno));
    if (list) freeaddrinfo(list);
    return fd;
}

/* The number of the status line, 0 for none in time. */
static int ask(int fd, const struct place *p, double seconds) {
    struct buf text = { .max = 4096 };
    double until = clock_s() + seconds;
    buf_format(&text, "GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", p->path);
    bool sent = send(fd, text.at, text.len, MSG_NOSIGNAL) == (ssize_t)text.len;
    uint64_t status = 0;
    buf_clear(&text);
    while (sent && text.len < 12) {
        char piece[256];
        struct pollfd ready = { .fd = fd, .events = POLLIN };
        double left = until - clock_s();
        if (left <= 0 || poll(&ready, 1, (int)(left * 1000) + 1) < 1) break;
        ssize_t n = read(fd, piece, sizeof piece);
        if (n <= 0) break;
        buf_put(&text, piece, (size_t)n);
    }
    if (text.len >= 12 && str_starts(buf_view(&text), "HTTP/1."))
        str_u64(str_cut(buf_view(&text), 9, 12), 999, &status);
    buf_free(&text);
    return (int)status;
}

int cli_health(struct args *a) {
    struct err err = { 0 };
    struct place p = { .path = "/health" };
    snprintf(p.port, sizeof p.port, "%d", a->port);
    if (a->api_prefix) snprintf(p.path, sizeof p.path, "%s/health", a->api_prefix);
    const char *url = a->n_positionals ? a->positional[0] : a->hosts.n ? a->hosts.at[0]
                    : "127.0.0.1";
    struct str place = str_of(url);
    const char *comma = a->n_positionals ? NULL : memchr(place.at, ',', place.len);
    if (comma) place.len = (size_t)(comma - place.at);
    if (!parse_place(&p, place)) {
        err_code(&err, ERR_USAGE, "'%s' is no address of a server: http://HOST:PORT or unix:PATH",
                 url);
        return cli_fail(&err);
    }
    int fd = connect_to(&p, &err);
    if (fd < 0) return cli_fail(&err);
    int status = ask(fd, &p, a->timeout_s > 0 ? a->timeout_s : 5);
    close(fd);
    if (status == 200) return 0;
    if (status)
        err_set(&err, "the server is not ready: status %d", status);
    else
        err_set(&err, "the server did not answer");
    return cli_fail(&err);
}
