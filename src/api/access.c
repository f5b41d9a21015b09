/* access.c - API keys, Host names, origins of web pages, and the number of requests a key may
 * have running.
 *
 * A key is compared with all of ours, each over its whole padded length, so the time says nothing
 * about which of them came how close. Host names are compared as names or as addresses, never as
 * text: "[::1]" and "[0:0::1]" are one host. */
#include "api/access.h"

#include "base/log.h"

#include <arpa/inet.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

enum { KEY_BYTES_MAX = 256, KEY_BYTES_GOOD = 16, NAME_MAX_BYTES = 255 };

struct key_account {
    unsigned char key[KEY_BYTES_MAX];        /* padded with zeros */
    size_t len;
    uint64_t id;                     /* 0: the account of everyone, when there are no keys */
    _Atomic int n_running;
};

enum host_kind { HOST_NAME, HOST_V4, HOST_V6 };
struct host { enum host_kind kind; unsigned char ip[16]; char name[NAME_MAX_BYTES + 1]; };

struct access {
    struct key_account everyone, *account;
    int n_accounts, key_max;
    struct host bound[LISTEN_MAX + 1], allowed[HOSTS_MAX];
    int n_bound, n_allowed;
    bool any_address, any_host;      /* bound to 0.0.0.0 or [::]; "*" is allowed */
    char *origin[ORIGINS_MAX];
    int n_origins;
    bool any_origin;
};

/* ---- hosts ---- */

/* Host and port as RFC 3986 writes them; the port must have digits when there is a colon. */
static bool host_split(struct str text, struct str *name, bool *bracketed) {
    size_t end = 0;
    uint64_t port;
    *bracketed = text.len && text.at[0] == '[';
    if (*bracketed) {
        while (end < text.len && text.at[end] != ']') end++;
        if (end == text.len) return false;
        *name = str_cut(text, 1, end++);
    } else {
        while (end < text.len && text.at[end] != ':') end++;
        *name = str_cut(text, 0, end);
    }
    if (!name->len || name->len > NAME_MAX_BYTES) return false;
    if (end == text.len) return true;
    return text.at[end] == ':' && text.len - end <= 6 &&
           str_u64(str_from(text, end + 1), 65535, &port);
}

static bool host_name(struct str text, char *out) {
    /* A dot at the end makes a name absolute, and is the same name. */
    if (text.len > 1 && text.at[text.len - 1] == '.') text.len--;
    for (size_t i = 0; i < text.len; i++) {
        char c = text.at[i];
        if (c >= 'A' && c <= 'Z') c = (char)(c - 'A' + 'a');
        if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_' ||
              c == '.'))
            return false;
        out[i] = c;
    }
    out[text.len] = 0;
    return text.len > 0;
}

/* False: no host in any spelling that a browser sends. */
static bool host_read(struct str text, struct host *h) {
    static const unsigned char mapped[12] = { [10] = 0xff, [11] = 0xff };
    struct str name;
    char terminated[NAME_MAX_BYTES + 1] = { 0 };
    bool bracketed;
    *h = (struct host){ .kind = HOST_NAME };
    if (!host_split(text, &name, &bracketed)) return false;
    memcpy(terminated, name.at, name.len);
    if (strlen(terminated) != name.len) return false;
    if (bracketed) {
        if (inet_pton(AF_INET6, terminated, h->ip) != 1) return false;
        h->kind = HOST_V6;
        if (!memcmp(h->ip, mapped, sizeof mapped)) {
            h->kind = HOST_V4;
            memmove(h->ip, h->ip + 12, 4);
            memset(h->ip + 4, 0, 12);
        }
        return true;
    }
    if (inet_pton(AF_INET, terminated, h->ip) == 1) {
        h->kind = HOST_V4;
        return true;
    }
    return host_name(name, h->name);
}

static bool host_eq(const struct host *a, const struct host *b) {
    if (a->kind != b->kind) return false;
    return a->kind == HOST_NAME ? !strcmp(a->name, b->name) : !memcmp(a->ip, b->ip, 16);
}

static bool host_loopback(const struct host *h) {
    static const unsigned char one[16] = { [15] = 1 };
    if (h->kind == HOST_V4) return h->ip[0] == 127;
    if (h->kind == HOST_V6) return !memcmp(h->ip, one, 16);
    return !strcmp(h->name, "localhost") || str_ends(str_of(h->name), ".localhost");
}

static bool host_unspecified(const struct host *h) {
    static const unsigned char none[16];
    return h->kind != HOST_NAME && !memcmp(h->ip, none, 16);
}

static bool host_among(const struct host *list, int n, const struct host *h) {
    for (int i = 0; i < n; i++)
        if (host_eq(&list[i], h)) return true;
    return false;
}

bool access_host(const struct access *a, const char *text, bool local) {
    struct host h;
    /* Only HTTP/1.0 leaves it out, which no browser speaks; and a page of a foreign name, which
     * is what this is for, comes from a browser. */
    if (!text) return true;
    if (!host_read(str_of(text), &h)) return false;
    if (local || a->any_host || host_loopback(&h)) return true;
    /* A name can be made to point at us by whoever owns it; an address cannot. */
    if (h.kind != HOST_NAME && a->any_address) return true;
    return host_among(a->bound, a->n_bound, &h) || host_among(a->allowed, a->n_allowed, &h);
}

/* An address that the server was told to bind, with a port or without. */
static void host_bound(struct access *a, const char *text) {
    struct str s = str_of(text);
    struct host h;
    char bracketed[64];
    if (str_starts(s, "unix:") || str_starts(s, "fd:")) return;
    if (memchr(s.at, ':', s.len) && s.at[0] != '[' && s.len < sizeof bracketed - 2) {
        /* More than one colon: IPv6 as people write it on a command line. */
        const char *first = memchr(s.at, ':', s.len);
        if (strchr(first + 1, ':')) {
            bracketed[0] = '[';
            memcpy(bracketed + 1, s.at, s.len);
            memcpy(bracketed + 1 + s.len, "]", 2);
            s = str_of(bracketed);
        }
    }
    if (!host_read(s, &h)) return;
    a->any_address |= host_unspecified(&h);
    if (a->n_bound < (int)COUNT(a->bound)) a->bound[a->n_bound++] = h;
}

static bool hosts_open(struct access *a, const struct server_options *o, struct err *err) {
    char self[NAME_MAX_BYTES + 1] = { 0 };
    for (int i = 0; i < o->n_hosts && i < LISTEN_MAX; i++) host_bound(a, o->host[i]);
    /* The machine's own name: nobody outside decides where it points. */
    if (!gethostname(self, sizeof self - 1)) host_bound(a, self);
    if (o->n_allowed_hosts > HOSTS_MAX)
        return err_code(err, ERR_USAGE, "more than %d allowed host names", HOSTS_MAX);
    for (int i = 0; i < o->n_allowed_hosts; i++) {
        if (!strcmp(o->allowed_host[i], "*")) a->any_host = true;
        else if (host_read(str_of(o->allowed_host[i]), &a->allowed[a->n_allowed])) a->n_allowed++;
        else return err_code(err, ERR_USAGE, "\"%s\" is not a host name", o->allowed_host[i]);
    }
    return true;
}

/* ---- origins ---- */

/* The host part of scheme://host[:port]; false: nothing but that is an origin. */
static bool origin_host(struct str text, struct str *scheme, struct str *host) {
    size_t i = 0;
    while (i < text.len && text.at[i] != ':') i++;
    *scheme = str_cut(text, 0, i);
    *host = str_from(text, i + 3);
    return i && str_starts(str_from(text, i), "://") && host->len;
}

static bool origin_loopback(struct str text) {
    struct str scheme, rest;
    struct host h;
    return origin_host(text, &scheme, &rest) && (str_is(scheme, "http") || str_is(scheme, "https"))
           && host_read(rest, &h) && host_loopback(&h);
}

const char *access_origin(const struct access *a, const char *origin) {
    if (!origin) return NULL;
    if (a->any_origin) return "*";
    /* "null" is what a sandboxed frame of any page sends, so it is never somebody. */
    if (!a->n_origins) return origin_loopback(str_of(origin)) ? origin : NULL;
    for (int i = 0; i < a->n_origins; i++) {
        struct str listed = str_of(a->origin[i]);
        if (str_ends(listed, "://*")) {
            listed.len--;
            if (strlen(origin) > listed.len && !strncasecmp(origin, listed.at, listed.len))
                return origin;
        } else if (!strcasecmp(origin, a->origin[i])) {
            return origin;
        }
    }
    return NULL;
}

static bool origins_open(struct access *a, const struct server_options *o, struct err *err) {
    if (o->n_origins > ORIGINS_MAX)
        return err_code(err, ERR_USAGE, "more than %d origins", ORIGINS_MAX);
    for (int i = 0; i < o->n_origins; i++) {
        struct str text = str_of(o->origin[i]), scheme, host;
        if (str_is(text, "*")) {
            a->any_origin = true;
            continue;
        }
        /* People copy the address of a page; an origin has no slash at its end. */
        if (text.len && text.at[text.len - 1] == '/') text.len--;
        if (!origin_host(text, &scheme, &host) || memchr(host.at, '/', host.len))
            return err_code(err, ERR_USAGE, "\"%s\" is not an origin such as https://example.com",
                            o->origin[i]);
        a->origin[a->n_origins++] = mem_str(text);
    }
    return true;
}

/* ---- keys ---- */

/* 1 when they are equal; the time depends on neither. */
static int key_same(const struct key_account *k, const unsigned char *given, size_t len) {
    volatile unsigned differ = (unsigned)(k->len ^ len);
    for (size_t i = 0; i < KEY_BYTES_MAX; i++) differ |= (unsigned)(k->key[i] ^ given[i]);
    return differ == 0;
}

/* Which of our keys it is, from 1; 0: none. */
static int key_find(const struct access *a, struct str given) {
    unsigned char padded[KEY_BYTES_MAX] = { 0 };
    int found = 0;
    bool fits = given.len > 0 && given.len <= KEY_BYTES_MAX;
    if (fits) memcpy(padded, given.at, given.len);
    for (int i = a->n_accounts; i > 0; i--) {
        int same = key_same(&a->account[i - 1], padded, given.len) & fits;
        found = same * i + (1 - same) * found;
    }
    explicit_bzero(padded, sizeof padded);
    return found;
}

static struct str key_of_bearer(const char *authorization) {
    struct str s = str_of(authorization);
    if (s.len < 7 || strncasecmp(s.at, "Bearer ", 7)) return (struct str){ 0 };
    s = str_from(s, 7);
    while (s.len && s.at[0] == ' ') s = str_from(s, 1);
    while (s.len && s.at[s.len - 1] == ' ') s.len--;
    return s;
}

struct key_account *access_key(struct access *a, const char *authorization,
                               const char *x_api_key, const char *api_key) {
    if (!a->n_accounts) return &a->everyone;
    /* Clients that have one key for each dialect send several; one that is ours is enough. */
    int bearer = key_find(a, key_of_bearer(authorization));
    int x = key_find(a, str_of(x_api_key)), plain = key_find(a, str_of(api_key));
    int i = bearer ? bearer : x ? x : plain;
    return i ? &a->account[i - 1] : NULL;
}

uint64_t account_id(const struct key_account *k) {
    return k ? k->id : 0;
}

bool account_begin(struct access *a, struct key_account *k) {
    /* Everyone's account has the server's queue as its limit. */
    int before = atomic_fetch_add(&k->n_running, 1);
    if (!k->id || a->key_max <= 0 || before < a->key_max) return true;
    atomic_fetch_sub(&k->n_running, 1);
    return false;
}

void account_end(struct access *a, struct key_account *k) {
    (void)a;
    atomic_fetch_sub(&k->n_running, 1);
}

static bool keys_open(struct access *a, const struct server_options *o, struct err *err) {
    if (o->n_keys > KEYS_MAX) return err_code(err, ERR_USAGE, "more than %d API keys", KEYS_MAX);
    a->account = mem_array((size_t)MAX(o->n_keys, 1), sizeof *a->account);
    bool short_one = false;
    for (int i = 0; i < o->n_keys; i++) {
        struct str key = str_of(o->key[i]);
        struct key_account *k = &a->account[a->n_accounts++];
        /* The sentences number the keys; they must not show them. */
        if (!key.len) return err_code(err, ERR_USAGE, "API key %d is empty", i + 1);
        if (key.len > KEY_BYTES_MAX)
            return err_code(err, ERR_USAGE, "API key %d is longer than %d bytes", i + 1,
                            KEY_BYTES_MAX);
        for (size_t j = 0; j < key.len; j++)
            if (key.at[j] <= ' ' || key.at[j] > '~')
                return err_code(err, ERR_USAGE, "API key %d has a blank or a character that no "
                                "header can carry", i + 1);
        short_one |= key.len < KEY_BYTES_GOOD;
        memcpy(k->key, key.at, key.len);
        k->len = key.len;
        k->id = (uint64_t)i + 1;
    }
    if (short_one)
        log_line(LOG_WARN, "an API key has fewer than %d characters and can be guessed",
                 KEY_BYTES_GOOD);
    return true;
}

struct access *access_open(const struct server_options *o, struct err *err) {
    struct access *a = mem_new(sizeof *a);
    a->key_max = o->key_max;
    if (keys_open(a, o, err) && hosts_open(a, o, err) && origins_open(a, o, err)) return a;
    access_close(a);
    return NULL;
}

void access_close(struct access *a) {
    if (!a) return;
    explicit_bzero(a->account, (size_t)a->n_accounts * sizeof *a->account);
    for (int i = 0; i < a->n_origins; i++) free(a->origin[i]);
    free(a->account);
    free(a);
}
