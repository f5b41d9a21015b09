/* Which heads are plain, wherever the bytes of a connection are cut, and that the program's recv is
 * the one that everybody calls. */
#include "api/framing.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define GET "GET / HTTP/1.1\r\nHost: a\r\n"
#define CHUNKED "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"

/* `bad`: the first request that is not to be served; 0: all are plain. */
static const struct { struct str bytes; uint64_t heads, bad; } rows[] = {
    { S(""), 0, 0 },
    { S(GET "\r\n"), 1, 0 },
    { S("\r\n\r\n" GET "\r\n\r\n" GET "\r\n"), 2, 0 },
    { S("GET / HTTP/1.1\nHost: a\n\nGET / HTTP/1.1\nHost: a\n\n"), 2, 0 },
    { S("GET / HTTP/1.1\nHost: a\n\n" GET "\r\n"), 2, 0 },
    { S(GET "Empty:\r\nBlank:  \r\n\r\n"), 1, 0 },
    /* Ends of lines that are not of one kind. */
    { S("GET / HTTP/1.1\r\nHost: a\n\r\n"), 1, 1 },
    { S(GET "\n"), 1, 1 },
    { S("GET / HTTP/1.1\nHost: a\n\r\n"), 1, 1 },
    { S(GET "A: b\rC: d\r\n\r\n"), 1, 1 },
    { S(GET "\rX"), 1, 1 },
    /* Lines that some take for the end of the head. */
    { S("GET / HTTP/1.1\r\nHost: a\n:\r\n" GET "\r\n"), 1, 1 },
    { S("GET / HTTP/1.1\r\nHost: a\r\n:\n" GET "\r\n"), 1, 1 },
    { S(GET ":\r\n" GET "\r\n"), 1, 1 },
    { S(GET ": b\r\n\r\n"), 1, 1 },
    { S(GET "\0X: b\r\n\r\n"), 1, 1 },
    { S(GET "X: b\0c\r\n\r\n"), 1, 1 },
    { S(GET "X: b\r\n folded\r\n\r\n"), 1, 1 },
    { S(GET "X: b\r\n\tfolded\r\n\r\n"), 1, 1 },
    /* Only the second one is bad; nothing is looked at after it. */
    { S(GET "\r\n" GET ":\r\n\r\n" GET "\r\n"), 2, 2 },
    /* What looks like a head inside of a body is none. */
    { S(GET "Content-Length: 8\r\n\r\nG / \n:\n\n" GET "\r\n"), 2, 0 },
    { S(GET "content-length:\t8 \r\n\r\nG / \n:\n\n" GET ":\r\n\r\n"), 2, 2 },
    { S(GET "Content-Length: 0\r\n\r\n" GET "\r\n"), 2, 0 },
    { S(CHUNKED "3\r\n:\n:\r\n000A;x=\"y\"\r\n0123\n:\n:9a\r\n0\r\n\r\n" GET "\r\n"), 2, 0 },
    { S(CHUNKED "0\r\nA: b\r\nC: d\r\n\r\n" GET "\r\n"), 2, 0 },
    /* A body that cannot be followed: what comes after it is not served. */
    { S(GET "Content-Length: 1\r\nContent-Length: 1\r\n\r\nx"), 1, 2 },
    { S(GET "Content-Length: +1\r\n\r\nx"), 1, 2 },
    { S(GET "Content-Length: +1\r\n:\r\n\r\nx"), 1, 1 },
    { S(GET "Content-Length: 99999999999999999999\r\n\r\nx"), 1, 2 },
    { S(GET "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\nx"), 1, 2 },
    { S(GET "Transfer-Encoding: xchunked\r\n\r\n"), 1, 2 },
    { S(CHUNKED "3\nabc\r\n0\r\n\r\n"), 1, 2 },
    { S(CHUNKED "\r\n"), 1, 2 },
    { S(CHUNKED "3g\r\nabc\r\n"), 1, 2 },
    { S(CHUNKED "11111111111111111\r\n"), 1, 2 },
    { S(CHUNKED "3\r\nabcd\r\n"), 1, 2 },
    { S(CHUNKED "0\r\n:\r\n" GET "\r\n"), 1, 2 },
    { S(CHUNKED "0\r\nA: b\n\r\n" GET "\r\n"), 1, 2 },
};

static void check(size_t i, const struct framing *f) {
    if (f->n_heads != rows[i].heads || f->bad_from != rows[i].bad)
        fail_msg("row %zu: %d heads, bad from %d", i, (int)f->n_heads, (int)f->bad_from);
    assert_int_equal(framing_is_plain(f, 1), rows[i].bad != 1);
    assert_int_equal(framing_is_plain(f, 2), !rows[i].bad || rows[i].bad > 2);
}

static void test_rows(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct str all = rows[i].bytes;
        for (size_t cut = 0; cut <= all.len; cut++) {
            struct framing f = { 0 };
            framing_see(&f, all.at, cut);
            framing_see(&f, all.at + cut, all.len - cut);
            check(i, &f);
        }
        struct framing f = { 0 };
        for (size_t k = 0; k < all.len; k++) framing_see(&f, all.at + k, 1);
        check(i, &f);
    }
}

/* A header that is longer than what is kept of a line is not followed, if it is about the body. */
static void test_long_lines(void **state) {
    (void)state;
    struct framing f = { 0 }, g = { 0 };
    char blanks[200];
    memset(blanks, ' ', sizeof blanks);
    framing_see(&f, S(GET "X:").at, S(GET "X:").len);
    framing_see(&f, blanks, sizeof blanks);
    framing_see(&f, S("1\r\n\r\n" GET "\r\n").at, S("1\r\n\r\n" GET "\r\n").len);
    assert_int_equal(f.n_heads, 2);
    assert_int_equal(f.bad_from, 0);
    framing_see(&g, S(GET "Content-Length:").at, S(GET "Content-Length:").len);
    framing_see(&g, blanks, sizeof blanks);
    framing_see(&g, S("1\r\n\r\nx").at, S("1\r\n\r\nx").len);
    assert_int_equal(g.bad_from, 2);
}

static void test_recv(void **state) {
    (void)state;
    struct framing f = { 0 };
    struct str bad = S(GET ":\r\n\r\n");
    char bytes[128];
    int fd[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
    assert_true(framing_watch(fd[0], &f));
    assert_false(framing_watch(1 << 30, &f));
    assert_int_equal(send(fd[1], bad.at, bad.len, 0), bad.len);
    assert_int_equal(recv(fd[0], bytes, sizeof bytes, MSG_PEEK), bad.len);
    assert_int_equal(f.n_heads, 0);
    assert_int_equal(recv(fd[0], bytes, sizeof bytes, 0), bad.len);
    assert_memory_equal(bytes, bad.at, bad.len);
    assert_int_equal(f.bad_from, 1);
    framing_forget(fd[0]);
    f = (struct framing){ 0 };
    assert_int_equal(send(fd[1], bad.at, bad.len, 0), bad.len);
    assert_int_equal(recv(fd[0], bytes, sizeof bytes, 0), bad.len);
    assert_int_equal(f.n_heads, 0);
    close(fd[0]);
    close(fd[1]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_long_lines),
        cmocka_unit_test(test_recv),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
