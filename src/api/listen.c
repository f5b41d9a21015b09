/* listen.c - the sockets that clients connect to: TCP addresses, Unix sockets, and descriptors
 * that were handed to us. */
#include "api/server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { BACKLOG = 4096 };

void address_text(const struct sockaddr *a, char *text, size_t size) {
    char host[INET6_ADDRSTRLEN] = "";
    if (a->sa_family == AF_INET) {
        const struct sockaddr_in *v4 = (const void *)a;
        inet_ntop(AF_INET, &v4->sin_addr, host, sizeof host);
        snprintf(text, size, "%s:%d", host, ntohs(v4->sin_port));
    } else if (a->sa_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = (const void *)a;
        inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof host);
        snprintf(text, size, "[%s]:%d", host, ntohs(v6->sin6_port));
    } else {
        snprintf(text, size, "unix");
    }
}

static int port_of(const struct sockaddr *a) {
    if (a->sa_family == AF_INET)
        return ntohs(((const struct sockaddr_in *)(const void *)a)->sin_port);
    if (a->sa_family == AF_INET6)
        return ntohs(((const struct sockaddr_in6 *)(const void *)a)->sin6_port);
    return 0;
}

static bool is_loopback(const struct sockaddr *a) {
    if (a->sa_family == AF_UNIX) return true;
    if (a->sa_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)(const void *)a)->sin_addr.s_addr) >> 24 == 127;
    if (a->sa_family != AF_INET6) return false;
    return IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)(const void *)a)->sin6_addr);
}

/* Anyone on the network could spend this machine's time. */
static bool may_bind(const struct server *s, const struct sockaddr *a, const char *host,
                     struct err *err) {
    if (is_loopback(a) || s->options.n_keys || s->options.open) return true;
    return err_code(err, ERR_USAGE, "%s can be reached from other machines: set an API key "
                    "(--api-key-file), or say --no-api-key", host);
}

/* Inherited by connections. A peer that vanished says nothing: when it owes an acknowledgement the
 * kernel gives up after the time for stalled clients, and when it owes nothing it is asked. */
static void set_limits(const struct server *s, int fd) {
    int one = 1, idle = 30, every = 10, times = 3;
    double ms = s->options.stall_s * 1e3;
    unsigned stall = ms < 1e9 ? (unsigned)ms : 1000000000;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every, sizeof every);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &times, sizeof times);
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &stall, sizeof stall);
}

/* The descriptor listens: takes its place among the listeners. */
static bool adopt(struct server *s, int fd, struct err *err) {
    struct sockaddr_storage at;
    socklen_t n = sizeof at;
    struct listener *l = &s->listener[s->n_listeners];
    if (s->n_listeners == LISTEN_MAX) {
        close(fd);
        return err_code(err, ERR_USAGE, "more than %d addresses to listen on", LISTEN_MAX);
    }
    memset(&at, 0, sizeof at);
    getsockname(fd, (struct sockaddr *)&at, &n);
    char text[96];
    address_text((struct sockaddr *)&at, text, sizeof text);
    *l = (struct listener){ .fd = fd, .port = port_of((struct sockaddr *)&at),
                            .local = at.ss_family == AF_UNIX };
    const char *path = ((const struct sockaddr_un *)(const void *)&at)->sun_path;
    if (!l->local) set_limits(s, fd);
    if (l->local) snprintf(l->address, sizeof l->address, "unix:%.100s", path);
    else snprintf(l->address, sizeof l->address, "http://%s", text);
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);     /* two threads may accept */
    s->n_listeners++;
    return true;
}

static bool listen_unix(struct server *s, const char *path, struct err *err) {
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    struct stat st;
    if (strlen(path) >= sizeof a.sun_path)
        return err_code(err, ERR_USAGE, "unix:%s: the path is too long", path);
    memcpy(a.sun_path, path, strlen(path));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    /* A socket that nobody answers on was left by a crash. */
    if (!lstat(path, &st) && S_ISSOCK(st.st_mode)) {
        if (!connect(fd, (struct sockaddr *)&a, sizeof a)) {
            close(fd);
            return err_set(err, "unix:%s: another server listens there", path);
        }
        unlink(path);
        close(fd);
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    }
    mode_t before = umask(0177);       /* only its owner may connect */
    bool ok = fd >= 0 && !bind(fd, (struct sockaddr *)&a, sizeof a) && !listen(fd, BACKLOG);
    int why = errno;
    umask(before);
    if (!ok) {
        if (fd >= 0) close(fd);
        return err_set(err, "unix:%s: %s", path,
                       why == EADDRINUSE ? "there is a file, and it is not a socket"
                       : why == ENOENT ? "the folder does not exist" : strerror(why));
    }
    if (!adopt(s, fd, err)) return false;
    s->listener[s->n_listeners - 1].unlink_path = mem_str(str_of(path));
    return true;
}

static const char *tcp_reason(int why) {
    if (why == EADDRINUSE) return "another program listens there; choose another --port";
    if (why == EACCES) return "not allowed; choose a --port above 1023";
    if (why == EADDRNOTAVAIL) return "this machine does not have that address";
    return strerror(why);
}

static bool listen_address(struct server *s, const struct addrinfo *a, const char *host,
                           struct err *err) {
    int one = 1;
    if (!may_bind(s, a->ai_addr, host, err)) return false;
    int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return err_set(err, "%s: %s", host, strerror(errno));
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (a->ai_family == AF_INET6) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
    if (bind(fd, a->ai_addr, a->ai_addrlen) || listen(fd, BACKLOG)) {
        int why = errno;
        close(fd);
        return err_set(err, "%s port %d: %s", host, s->options.port, tcp_reason(why));
    }
    return adopt(s, fd, err);
}

static bool listen_tcp(struct server *s, const char *host, struct err *err) {
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE }, *found = NULL;
    char port[16], name[256];
    size_t n = strlen(host);
    bool bracket = n > 2 && host[0] == '[' && host[n - 1] == ']';
    snprintf(name, sizeof name, "%.*s", (int)(bracket ? n - 2 : n), host + bracket);
    snprintf(port, sizeof port, "%d", s->options.port);
    int code = getaddrinfo(name, port, &hints, &found);
    if (code) return err_code(err, ERR_USAGE, "--host %s: %s", host, gai_strerror(code));
    bool ok = true;
    for (const struct addrinfo *a = found; a && ok; a = a->ai_next)
        ok = listen_address(s, a, host, err);
    freeaddrinfo(found);
    return ok;
}

static bool listen_handed(struct server *s, const char *number, struct err *err) {
    uint64_t fd;
    int listens = 0;
    socklen_t n = sizeof listens;
    bool ok = str_u64(str_of(number), 1 << 20, &fd) &&
              !getsockopt((int)fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &n) && listens;
    if (!ok) return err_code(err, ERR_USAGE, "fd:%s: not a listening socket", number);
    return adopt(s, (int)fd, err);
}

static bool listen_one(struct server *s, const char *host, struct err *err) {
    size_t n = strlen(host);
    if (str_starts(str_of(host), "unix:")) return listen_unix(s, host + 5, err);
    if (n > 5 && !strcmp(host + n - 5, ".sock")) return listen_unix(s, host, err);
    if (str_starts(str_of(host), "fd:")) return listen_handed(s, host + 3, err);
    return listen_tcp(s, host, err);
}

bool listen_open(struct server *s, struct err *err) {
    if (!s->options.n_hosts) return listen_one(s, "127.0.0.1", err);
    for (int i = 0; i < s->options.n_hosts; i++)
        if (!listen_one(s, s->options.host[i], err)) return false;
    return true;
}

void listen_close(struct server *s) {
    for (int i = 0; i < s->n_listeners; i++) {
        struct listener *l = &s->listener[i];
        if (l->unlink_path) unlink(l->unlink_path);
        free(l->unlink_path);
        if (l->fd >= 0) close(l->fd);
        *l = (struct listener){ .fd = -1 };
    }
    s->n_listeners = 0;
}
