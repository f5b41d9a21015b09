#!/bin/sh
# `mlxcel tokenize -m FILE.gguf` for a vocabulary of each kind, against the ids in cases.json, there
# and back; a file without a vocabulary is refused with a sentence and the exit code for it.
set -u
program=${MLXCEL:-build/mlxcel}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
text='The quick brown fox jumps over the lazy dog, and the dog doesn'"'"'t mind at all.'
wrong=0 n=0
fail() { echo "$*"; wrong=1; }

for folder in tests/tokens/gguf-*; do
    file=$folder/vocab.gguf
    line=$(grep -F "{\"text\":\"$text\"" "$folder/cases.json") || fail "$folder: no such case"
    ids=$(printf %s "$line" | sed 's/.*"ids":\[\([0-9,]*\)\].*/\1/')
    bos=$(printf %s "$line" | sed -n 's/.*"bos":\[\([0-9,]*\)\].*/\1/p')
    got=$(printf %s "$text" | $program tokenize -m "$file" --json --no-bos)
    [ "$got" = "{\"ids\":[$ids]}" ] || fail "$file: $got, not $ids"
    got=$(printf %s "$text" | $program tokenize -m "$file" --json)
    [ "$got" = "{\"ids\":[${bos:-$ids}]}" ] || fail "$file: $got, not ${bos:-$ids}"
    got=$($program tokenize -m "$file" --decode --ids "$ids")
    case $folder in
    *bert) [ -n "$got" ] || fail "$file: nothing decoded" ;;
    *) [ "$got" = "$text" ] || fail "$file: decoded \"$got\"" ;;
    esac
    n=$((n + 1))
done
[ $n -eq 6 ] || fail "$n vocabularies, not 6"

# The metadata is that there is no vocabulary.
{
    printf 'GGUF\003\000\000\000\000\000\000\000\000\000\000\000\001\000\000\000\000\000\000\000'
    printf '\024\000\000\000\000\000\000\000tokenizer.ggml.model\010\000\000\000'
    printf '\004\000\000\000\000\000\000\000none'
} >"$work/none.gguf"
echo | $program tokenize -m "$work/none.gguf" >"$work/out" 2>"$work/err"
code=$?
[ $code -eq 4 ] || fail "a file without a vocabulary: exit $code, not 4"
grep -q 'none.gguf: the GGUF file has no vocabulary' "$work/err" || fail "$(cat "$work/err")"
[ -s "$work/out" ] && fail "a file without a vocabulary: $(cat "$work/out")"

printf 'not a model' >"$work/text.gguf"
echo | $program tokenize -m "$work/text.gguf" 2>"$work/err" >/dev/null && fail 'text was opened'
grep -q 'not a GGUF file' "$work/err" || fail "$(cat "$work/err")"
exit $wrong
