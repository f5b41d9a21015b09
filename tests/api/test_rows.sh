#!/bin/sh
# Every row that rows.txt lists is named by a case or a test.
set -eu
cd "$(dirname "$0")/.."
rows='\b(HT|JS|AP|CC|SE|RS)-[0-9][0-9]\b'
# "JS-01 to JS-08" stands for all of them.
named() {
    grep -rhoE "$rows( to $rows)?" --include='*.test' --include='*.c' --include='*.sh' \
        --include='*.py' . | awk '{
            split($1, a, "-")
            split($3 ? $3 : $1, b, "-")
            for (i = a[2] + 0; i <= b[2] + 0; i++) printf "%s-%02d\n", a[1], i }' | sort -u
}
listed() { grep -v '^#' api/rows.txt | grep -oE "$rows" | sort -u; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
named >"$work/named"
listed >"$work/listed"
if comm -13 "$work/named" "$work/listed" | grep .; then
    echo 'no test names these rows'
    exit 1
fi
echo "$(wc -l <"$work/listed") rows"
