#!/bin/sh
# A stop while libmicrohttpd's thread looks at its listening socket: that thread and the one that
# stops both take it out of the epoll set, and the library aborts unless the later one finds a
# descriptor that is sound. A stand-in for epoll_ctl lets them meet.
set -u
# Sanitizers want to be in the program alone, and not in an object beside it.
case $MLXCEL_BUILD in *san*) exit 0 ;; esac
work=$(mktemp -d)
server=
trap 'kill -9 $server 2>/dev/null; rm -rf "$work"' EXIT
cat >"$work/meet.c" <<'END'
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
static atomic_int n;
/* The first of two waits until the second has come, which is late by 0.3 s. */
int epoll_ctl(int epoll, int op, int fd, struct epoll_event *e) {
    int listens = 0;
    socklen_t size = sizeof listens;
    getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size);
    if (op == EPOLL_CTL_DEL && listens && atomic_fetch_add(&n, 1) == 0) {
        for (int i = 0; i < 200 && n < 2; i++) usleep(10000);
        if (n > 1) write(2, "both\n", 5);
    } else if (op == EPOLL_CTL_DEL && listens) {
        usleep(300000);
    }
    return (int)syscall(SYS_epoll_ctl, epoll, op, fd, e);
}
END
${CC:-cc} -shared -fPIC -D_GNU_SOURCE "$work/meet.c" -o "$work/meet.so" 2>"$work/log" ||
    { cat "$work/log"; exit 1; }
LD_PRELOAD=$work/meet.so "$MLXCEL" serve --port 0 -m models/demo 2>"$work/log" &
server=$!
for i in $(seq 200); do
    port=$(sed -n 's/^listening on .*:\([0-9]*\)$/\1/p' "$work/log")
    [ -z "$port" ] || break
    sleep 0.05
done
[ -n "$port" ] || { cat "$work/log"; echo 'it does not serve'; exit 1; }
# Bytes of a client that is there already wake the library's thread. What is sent once the server is
# gone fails.
bash -c 'exec 3<>"/dev/tcp/127.0.0.1/$0" && sleep 0.2 && kill "$1"
    for i in 1 2 3 4 5 6 7 8 9 10; do
        sleep 0.02
        printf "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" >&3
    done' "$port" $server 2>/dev/null
wait $server
code=$?
[ $code = 0 ] || { cat "$work/log"; echo "the stop ended with $code"; exit 1; }
grep -q '^both$' "$work/log" || echo 'the two did not meet: nothing was tested'
