#!/bin/sh
# Devices that are not there: --device cuda says what is missing, auto goes on without.
set -u
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp "$MLXCEL" "$work/mlxcel"
failed=0

# expect NAME WORDS: the last run failed with exit code 6 and these words.
expect() {
    if [ "$code" != 6 ] || ! grep -q "$2" "$work/err"; then
        echo "$1: exit $code, $(cat "$work/err")"
        failed=1
    fi
}
ask() {
    "$work/mlxcel" generate -m models/demo -p Hello -n 1 --device "$1" >"$work/out" 2>"$work/err"
    code=$?
}

ask cuda
expect 'no object' 'mlxcel-cuda.so is not beside this program'
echo 'not an object' >"$work/mlxcel-cuda.so"
ask cuda
expect 'a broken object' 'cannot be loaded'
ask auto
[ "$code" = 0 ] || { echo "auto beside a broken object: exit $code, $(cat "$work/err")"; failed=1; }
cp "$MLXCEL" "$work/mlxcel-cuda.so"
ask cuda
expect 'an object of something else' 'mlxcel-cuda.so'
exit $failed
