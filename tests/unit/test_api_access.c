/* test_api_access.c - who may ask: keys, Host names, origins, and requests of one key
 * (reliability rows SE-01, SE-05, SE-06, SE-20, SE-21, SE-23 as far as they are decided here). */
#include "api/access.h"
#include "base/log.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct access *opened(const struct server_options *o) {
    struct err err = { 0 };
    struct access *a = access_open(o, &err);
    if (!a) fail_msg("%s", err.text);
    return a;
}

/* ---- keys ---- */

static const char *const two_keys[] = { "first-key-of-sixteen", "second-key-of-sixteen" };

static void keys(void **state) {
    (void)state;
    static const struct { const char *authorization, *x, *plain; int id; } row[] = {
        { NULL, NULL, NULL, -1 },
        { "Bearer first-key-of-sixteen", NULL, NULL, 1 },
        { "bearer second-key-of-sixteen", NULL, NULL, 2 },
        { "BEARER   second-key-of-sixteen  ", NULL, NULL, 2 },
        { NULL, "first-key-of-sixteen", NULL, 1 },
        { NULL, NULL, "second-key-of-sixteen", 2 },
        /* One good key is enough, whatever else a client sends. */
        { "Bearer sk-dummy", "second-key-of-sixteen", NULL, 2 },
        { "Bearer first-key-of-sixteen", "second-key-of-sixteen", NULL, 1 },
        /* wrong in every way */
        { "Bearer ", NULL, NULL, -1 },
        { "Bearer", NULL, NULL, -1 },
        { "", "", "", -1 },
        { "Bearer first-key-of-sixtee", NULL, NULL, -1 },
        { "Bearer first-key-of-sixteenn", NULL, NULL, -1 },
        { "Bearer first-key-of-sixteem", NULL, NULL, -1 },
        { "Bearer Girst-key-of-sixteen", NULL, NULL, -1 },
        { "Bearer FIRST-KEY-OF-SIXTEEN", NULL, NULL, -1 },
        { "first-key-of-sixteen", NULL, NULL, -1 },
        { "Basic first-key-of-sixteen", NULL, NULL, -1 },
        { "Bearer first-key-of-sixteen second-key-of-sixteen", NULL, NULL, -1 },
        { NULL, "Bearer first-key-of-sixteen", NULL, -1 },
    };
    struct access *a = opened(&(struct server_options){ .key = two_keys, .n_keys = 2 });
    for (size_t i = 0; i < COUNT(row); i++) {
        struct key_account *k = access_key(a, row[i].authorization, row[i].x, row[i].plain);
        int id = k ? (int)account_id(k) : -1;
        if (id != row[i].id) fail_msg("row %zu: account %d, expected %d", i, id, row[i].id);
    }
    char *longest = mem_new(100001);
    memset(longest, 'k', 100000);
    assert_null(access_key(a, longest, longest, longest));
    free(longest);
    access_close(a);
}

static void no_keys_is_everyone(void **state) {
    (void)state;
    struct access *a = opened(&(struct server_options){ 0 });
    struct key_account *k = access_key(a, NULL, NULL, NULL);
    assert_non_null(k);
    assert_ptr_equal(k, access_key(a, "Bearer anything", NULL, NULL));
    assert_int_equal(account_id(k), 0);
    access_close(a);
}

static void bad_keys_are_refused_and_not_shown(void **state) {
    (void)state;
    static char longest[300];
    memset(longest, 'k', sizeof longest - 1);
    const char *const bad[] = { "", "with blank", "newline-secret\n", "caf\xc3\xa9", longest };
    for (size_t i = 0; i < COUNT(bad); i++) {
        struct err err = { 0 };
        struct access *a =
            access_open(&(struct server_options){ .key = &bad[i], .n_keys = 1 }, &err);
        assert_null(a);
        assert_int_equal(err.code, ERR_USAGE);
        assert_null(strstr(err.text, "secret"));
        assert_null(strstr(err.text, "kkkk"));
    }
}

static void a_key_has_a_limit_of_its_own(void **state) {
    (void)state;
    struct access *a =
        opened(&(struct server_options){ .key = two_keys, .n_keys = 2, .key_max = 2 });
    struct key_account *one = access_key(a, NULL, two_keys[0], NULL);
    struct key_account *two = access_key(a, NULL, two_keys[1], NULL);
    assert_true(account_begin(a, one));
    assert_true(account_begin(a, one));
    assert_false(account_begin(a, one));
    assert_true(account_begin(a, two));
    account_end(a, one);
    assert_true(account_begin(a, one));
    assert_false(account_begin(a, one));
    access_close(a);

    a = opened(&(struct server_options){ .key_max = 1 });
    struct key_account *all = access_key(a, NULL, NULL, NULL);
    for (int i = 0; i < 100; i++) assert_true(account_begin(a, all));
    access_close(a);
}

/* ---- hosts ---- */

static void hosts(void **state) {
    (void)state;
    static const char *const bound[] = { "127.0.0.1", "192.168.7.9", "fd00::5", "unix:/tmp/s" };
    static const char *const allowed[] = { "llm.example.com", "10.0.0.7" };
    static const struct { const char *host; bool ok; } row[] = {
        { NULL, true },
        { "localhost", true }, { "localhost:8080", true }, { "LocalHost:1", true },
        { "localhost.", true }, { "app.localhost:99", true },
        { "127.0.0.1", true }, { "127.0.0.1:65535", true }, { "127.9.8.7", true },
        { "[::1]", true }, { "[::1]:8080", true }, { "[0:0:0::1]", true },
        { "[::ffff:127.0.0.1]", true },
        { "192.168.7.9", true }, { "[fd00::5]:80", true }, { "[FD00:0::5]", true },
        { "llm.example.com", true }, { "LLM.example.com:443", true }, { "10.0.0.7:1", true },
        /* SE-05: names that an attacker can make point here */
        { "evil.example", false }, { "localhost.evil.example", false },
        { "127.0.0.1.evil.example", false }, { "evil.example:8080", false },
        { "notlocalhost", false }, { "xllm.example.com", false }, { "example.com", false },
        { "192.168.7.8", false }, { "0.0.0.0", false }, { "[::]", false }, { "[::2]", false },
        { "128.0.0.1", false }, { "127.1", false }, { "2130706433", false },
        { "0177.0.0.1", false },
        /* no host in any spelling */
        { "", false }, { ":8080", false }, { "localhost:", false }, { "localhost:x", false },
        { "localhost:80x", false }, { "localhost:65536", false }, { "localhost:000080", false },
        { "localhost:-1", false }, { "localhost :80", false }, { "localhost/", false },
        { "evil.example#localhost", false }, { "user@localhost", false }, { "[::1", false },
        { "[::1]x", false }, { "::1", false }, { "[localhost]", false }, { "localhost,x", false },
        { "127.0.0.1:80:80", false }, { ".", false }, { "[]", false },
    };
    struct access *a = opened(&(struct server_options){
        .host = bound, .n_hosts = 4, .allowed_host = allowed, .n_allowed_hosts = 2 });
    for (size_t i = 0; i < COUNT(row); i++)
        if (access_host(a, row[i].host, false) != row[i].ok)
            fail_msg("Host: %s", row[i].host ? row[i].host : "(none)");
    char longest[400];
    memset(longest, 'a', sizeof longest - 1);
    longest[sizeof longest - 1] = 0;
    assert_false(access_host(a, longest, false));
    access_close(a);
}

static void hosts_of_other_sockets(void **state) {
    (void)state;
    static const char *const any4[] = { "0.0.0.0" }, *const any6[] = { "::" },
        *const star[] = { "*" }, *const bad[] = { "a b" };
    const char *const *const lists[] = { any4, any6 };
    for (size_t i = 0; i < COUNT(lists); i++) {
        /* Every address is one of ours then, but no name is. */
        struct access *a = opened(&(struct server_options){ .host = lists[i], .n_hosts = 1 });
        assert_true(access_host(a, "203.0.113.5:8080", false));
        assert_true(access_host(a, "[2001:db8::1]", false));
        assert_false(access_host(a, "evil.example", false));
        access_close(a);
    }
    struct access *a = opened(&(struct server_options){ 0 });
    assert_true(access_host(a, "whatever.example", true));       /* a Unix socket */
    assert_false(access_host(a, "whatever example", true));
    access_close(a);
    a = opened(&(struct server_options){ .allowed_host = star, .n_allowed_hosts = 1 });
    assert_true(access_host(a, "evil.example", false));
    assert_false(access_host(a, "evil.example:x", false));
    access_close(a);
    struct err err = { 0 };
    assert_null(access_open(&(struct server_options){ .allowed_host = bad, .n_allowed_hosts = 1 },
                            &err));
    assert_non_null(strstr(err.text, "a b"));
}

/* ---- origins ---- */

static void loopback_pages_by_default(void **state) {
    (void)state;
    static const char *const yes[] = {
        "http://localhost", "https://localhost:3000", "http://127.0.0.1:8080", "http://127.0.0.9",
        "http://[::1]:5173", "http://app.localhost",
    };
    static const char *const no[] = {
        "null", "", "http://", "http://evil.example", "http://localhost.evil.example",
        "http://evil.example/localhost", "http://localhost:80:80", "http://localhost/",
        "http://localhost@evil.example", "file://", "file://localhost", "ftp://localhost",
        "localhost", "http:localhost", "http://127.0.0.1.evil.example", "javascript://localhost",
        "http://localhost:x", "http://0.0.0.0",
    };
    struct access *a = opened(&(struct server_options){ 0 });
    assert_null(access_origin(a, NULL));
    for (size_t i = 0; i < COUNT(yes); i++) assert_ptr_equal(access_origin(a, yes[i]), yes[i]);
    for (size_t i = 0; i < COUNT(no); i++)
        if (access_origin(a, no[i])) fail_msg("Origin: %s", no[i]);
    access_close(a);
}

static void listed_pages(void **state) {
    (void)state;
    static const char *const list[] = { "https://chat.example.com/", "chrome-extension://*" };
    struct access *a = opened(&(struct server_options){ .origin = list, .n_origins = 2 });
    assert_non_null(access_origin(a, "https://chat.example.com"));
    assert_non_null(access_origin(a, "https://CHAT.example.com"));
    assert_non_null(access_origin(a, "chrome-extension://abcdef"));
    assert_null(access_origin(a, "chrome-extension://"));
    assert_null(access_origin(a, "http://chat.example.com"));
    assert_null(access_origin(a, "https://chat.example.com.evil.example"));
    assert_null(access_origin(a, "https://chat.example.com:444"));
    assert_null(access_origin(a, "http://localhost"));       /* the list says it all */
    access_close(a);
    static const char *const any[] = { "*" };
    a = opened(&(struct server_options){ .origin = any, .n_origins = 1 });
    assert_string_equal(access_origin(a, "http://evil.example"), "*");
    access_close(a);
    static const char *const bad[] = { "null", "example.com", "https://", "https://a/b", "" };
    for (size_t i = 0; i < COUNT(bad); i++) {
        struct err err = { 0 };
        assert_null(access_open(&(struct server_options){ .origin = &bad[i], .n_origins = 1 },
                                &err));
        assert_int_equal(err.code, ERR_USAGE);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys),
        cmocka_unit_test(no_keys_is_everyone),
        cmocka_unit_test(bad_keys_are_refused_and_not_shown),
        cmocka_unit_test(a_key_has_a_limit_of_its_own),
        cmocka_unit_test(hosts),
        cmocka_unit_test(hosts_of_other_sockets),
        cmocka_unit_test(loopback_pages_by_default),
        cmocka_unit_test(listed_pages),
    };
    log_level = LOG_ERROR;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
