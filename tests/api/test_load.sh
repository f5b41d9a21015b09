#!/bin/sh
# Rows CC-01, CC-04 and CC-06 of the catalogue.
# Many clients at once, who stream, wait, cancel, reset, vanish or read slowly: every whole answer
# is the one that the same request gets alone, and at the end nothing is running, nothing waits and
# no page is held. Then the same with so little memory for the cache that requests are preempted.
set -eu
work=$(mktemp -d)
server=
trap 'kill $server 2>/dev/null || true; rm -rf "$work"' EXIT

serve() { # OPTION...
    : >"$work/log"
    "$MLXCEL" serve --port 0 -q "$@" 2>"$work/log" &
    server=$!
    for i in $(seq 200); do
        port=$(sed -n 's/^listening on .*:\([0-9]*\)$/\1/p' "$work/log")
        [ -z "$port" ] || return 0
        kill -0 $server 2>/dev/null || break
        sleep 0.05
    done
    cat "$work/log" >&2
    exit 1
}
end() { # a stop that waits for nobody forgotten, and no complaint of a sanitizer
    kill $server
    wait $server || { cat "$work/log" >&2; echo "the server ended with $?" >&2; exit 1; }
    ! grep -E 'ERROR|WARNING|runtime error' "$work/log" >&2
}
load() {
    "$MLXCEL_BUILD/tools/loadgen" --port "$port" "$@" >"$work/json" || {
        cat "$work/json" "$work/log" >&2
        exit 1
    }
}
at_least() { # KEY N
    n=$(grep -o "\"$1\":[0-9]*" "$work/json" | cut -d : -f 2)
    [ "$n" -ge "$2" ] || { echo "only $n $1" >&2; cat "$work/json" >&2; exit 1; }
}
is() { # KEY N
    grep -q "\"$1\":$2[,}]" "$work/json" || { echo "not $2: $1" >&2; cat "$work/json" >&2; exit 1; }
}
# Whoever left is forgotten: nothing runs or waits, and no page is held.
idle() {
    is requests_running 0
    is requests_waiting 0
    is kv_cache_pages_used 0
}

serve --parallel 8
load --clients 32 --requests 200 --kinds 12 --prompt 70 --shared 40 --tokens 24 \
    --whole 20 --cancel 10 --reset 10 --vanish 10 --slow 5
at_least completed 100
at_least cut 20
load --clients 8 --rate 100 --requests 60 --kinds 6 --tokens 8 --idle 200
at_least completed 60
idle
end

# Four long answers side by side need more pages than there are.
serve --parallel 8 -c 512 --cache-bytes 3M
load --clients 12 --requests 36 --kinds 12 --prompt 90 --shared 0 --tokens 180 --cancel 10 \
    --reset 10 --slow 5
at_least completed 18
at_least preemptions_total 1
idle
end

echo "load: ok"
