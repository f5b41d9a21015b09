#!/bin/sh
# The tables of the catalogue, rows.txt of each folder of tests: every row is named by a case or a
# test, and where the table says which ("| file function, file"), that test is there and names it.
set -eu
cd "$(dirname "$0")/.."
row='\b[A-Z]{2}-[0-9][0-9]\b'
# "AB-01 to AB-08" stands for all of them.
named() {
    grep -rhoE "$row( to $row)?" --include='*.test' --include='*.c' --include='*.sh' \
        --include='*.py' --exclude=test_rows.sh . | awk '{
            split($1, a, "-")
            split($3 ? $3 : $1, b, "-")
            for (i = a[2] + 0; i <= b[2] + 0; i++) printf "%s-%02d\n", a[1], i }' | sort -u
}
# A line for each row, "AB-01", and one for each proof, "AB-01 file function".
read_tables() {
    cat "$@" | grep -v '^#' | awk -F '|' '{
        for (i = 1; i <= NF; i++) {
            n = split($i, word, " ")
            if (n && word[1] ~ /^[A-Z][A-Z]-[0-9][0-9]$/) {
                row = word[1]
                print row
                continue
            }
            n = split($i, proof, ",")
            for (k = 1; k <= n; k++) if (proof[k] ~ /[^ ]/) print row, proof[k] } }'
}
proven() {
    [ -f "$2" ] || return 1
    grep -qw -e "$1" "$2" || return 1
    [ -z "${3-}" ] || grep -q "cmocka_unit_test($3)" "$2"
}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
named >"$work/named"
read_tables */rows.txt >"$work/table"
awk '{ print $1 }' "$work/table" | sort -u >"$work/rows"
good=0
if comm -13 "$work/named" "$work/rows" | grep .; then
    echo 'no test names these rows'
    good=1
fi
awk 'NF > 1' "$work/table" >"$work/proofs"
while read -r id file name; do
    proven "$id" "$file" "$name" || { echo "$id: $file $name does not prove it"; good=1; }
done <"$work/proofs"
echo "$(wc -l <"$work/rows") rows, $(wc -l <"$work/proofs") of their tests looked at"
exit $good
