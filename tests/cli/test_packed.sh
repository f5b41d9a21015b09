#!/bin/sh
# Packed weights as a user meets them: where files appear, that several starts at once share one,
# and that a disk which is full, read-only or limited costs a warning and no answer.
set -u
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export HOME="$work/home" XDG_CACHE_HOME="$work/cache"
failed=0
wrong() { echo "$*"; failed=1; }

# ask MODEL OPTION...: a greedy answer in $work/out, what was said in $work/err.
ask() {
    model=$1
    shift
    "$MLXCEL" generate -m "$model" -p 'How many legs' -n 12 --temp 0 "$@" >"$work/out" 2>"$work/err" ||
        wrong "$*: exit $?, $(cat "$work/err")"
}
same() { cmp -s "$work/want" "$work/out" || wrong "$1: another answer: $(cat "$work/out")"; }
# warned NAME WORDS: one warning, of these words.
warned() {
    [ "$(grep -c 'warning' "$work/err")" = 1 ] && grep -q "$2" "$work/err" ||
        wrong "$1: one warning of '$2' is wanted: $(cat "$work/err")"
}
files() { ls "$1" 2>/dev/null | wc -l; }
inode() { ls -i "$1"/*.packed | cut -d ' ' -f 1; }

ask models/demo --packed off
cp "$work/out" "$work/want"
for place in memory auto; do
    ask models/demo --packed $place
    same "--packed $place"
done
[ "$(files "$work/cache")$(files "$work/home")" = 00 ] || wrong 'a small model left a file'

# A folder that is not there yet, by the option's variable; used again; told apart by a change.
cp -r models/demo "$work/model"
MLXCEL_PACKED=$work/a/b ask "$work/model" -v
same 'first start'
grep -q 'packed 3 MiB of weights into' "$work/err" || wrong "nothing said: $(cat "$work/err")"
first=$(inode "$work/a/b")
ask "$work/model" --packed "$work/a/b" -v
same 'second start'
grep -q 'packed' "$work/err" && wrong "packed again: $(cat "$work/err")"
[ "$(inode "$work/a/b")" = "$first" ] || wrong 'another file at the second start'
touch "$work/model/model.safetensors"
ask "$work/model" --packed "$work/a/b"
same 'a changed model'
[ "$(inode "$work/a/b")" != "$first" ] || wrong 'the file of a changed model was used'
rm -r "$work/model"
ask models/demo --packed "$work/a/b"
[ "$(files "$work/a/b")" = 1 ] || wrong "a model that is gone left: $(ls "$work/a/b")"

# Six at once.
for i in 1 2 3 4 5 6; do
    "$MLXCEL" generate -m models/demo -p 'How many legs' -n 12 --temp 0 --packed "$work/at-once" \
        >"$work/out.$i" 2>&1 &
done
wait
for i in 1 2 3 4 5 6; do
    cmp -s "$work/want" "$work/out.$i" || wrong "start $i of six: $(cat "$work/out.$i")"
done
[ "$(files "$work/at-once")" = 1 ] || wrong "six at once left: $(ls "$work/at-once")"

# No file where none can be.
ask models/demo --packed /dev/null/folder
same 'no folder'
warned 'no folder' 'packed weights: /dev/null/folder: .*used as they are'
(ulimit -f 1; ask models/demo --packed "$work/limited"; exit $failed) || failed=1
same 'a limit'
warned 'a limit' 'File too large; the weights are used as they are'
[ "$(files "$work/limited")" = 0 ] || wrong "a limit left: $(ls "$work/limited")"
mkdir "$work/disk"
# With a small file system of our own, where one may be mounted: the script goes on inside.
cat >"$work/inside" <<EOF
mount -t tmpfs -o size=2m none "$work/disk" || exit 9
"$MLXCEL" generate -m models/demo -p 'How many legs' -n 12 --temp 0 --packed "$work/disk" \
    >"$work/out" 2>"$work/err" || exit 1
ls "$work/disk" >"$work/left"
mount -o remount,ro "$work/disk" || exit 9
"$MLXCEL" generate -m models/demo -p 'How many legs' -n 12 --temp 0 --packed "$work/disk" \
    >"$work/out2" 2>"$work/err2" || exit 1
EOF
unshare -rm sh "$work/inside" 2>"$work/unshare"
case $? in
0)  same 'a full disk'
    warned 'a full disk' 'No space left on device'
    [ -s "$work/left" ] && wrong "a full disk has: $(cat "$work/left")"
    mv "$work/out2" "$work/out"; mv "$work/err2" "$work/err"
    same 'a read-only disk'
    warned 'a read-only disk' 'Read-only file system' ;;
1)  grep -q unshare "$work/unshare" && echo "no file system of our own: $(cat "$work/unshare")" ||
        wrong "on a small disk: $(cat "$work/err" "$work/err2")" ;;
*)  echo "no file system of our own: $(cat "$work/unshare")" ;;
esac

# More threads than processors: used, and told.
one=$(taskset -pc $$ | sed 's/.*: *\([0-9]*\).*/\1/')
taskset -c "$one" "$MLXCEL" generate -m models/demo -p 'How many legs' -n 12 --temp 0 -t 3 \
    >"$work/out" 2>"$work/err" || wrong "three threads on one processor: exit $?"
same 'three threads'
warned 'three threads' '3 threads, but this process may use 1 processor:'
taskset -c "$one" "$MLXCEL" bench -m models/demo -p 4 -n 2 -b 1 -r 1 -t 3 --json 2>/dev/null |
    grep -q '"device":"cpu, [a-z0-9_]*, 3 threads"' || wrong 'three threads were not used'

# The generic set, when asked for: it says so, and needs no warning.
"$MLXCEL" bench -m models/demo -p 4 -n 2 -b 1 -r 1 --isa generic --json >"$work/out" 2>"$work/err"
grep -q '"device":"cpu, generic' "$work/out" || wrong "generic: $(cat "$work/out")"
grep -q warning "$work/err" && wrong "generic: $(cat "$work/err")"
# And on a processor that has nothing better: it is told.
if [ "$(uname -m)" = x86_64 ] && command -v qemu-x86_64 >/dev/null &&
    ! nm -D "$MLXCEL" 2>/dev/null | grep -q __asan_init; then
    qemu-x86_64 -cpu Nehalem "$MLXCEL" generate -m models/demo -p 'How many legs' -n 12 --temp 0 \
        >"$work/out" 2>"$work/err" || wrong "an old processor: exit $?"
    same 'an old processor'
    warned 'an old processor' 'this processor has none of the instruction sets'
else
    echo 'no qemu-x86_64 for a program without sanitizers: no old processor was tried'
fi
exit $failed
