#!/bin/sh
# docs/server.md says what the sources say, and the check of that can fail.
set -eu
tool=${MLXCEL_BUILD:-build}/tools/docs_tables
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$tool" --check docs/server.md

for change in 's/| POST | /| GET | /' 's/`--port`/`--prot`/' 's/mlxcel_requests_running/x/' \
              '/begin metrics/d'; do
    sed "$change" docs/server.md >"$work/server.md"
    if "$tool" --check "$work/server.md" 2>"$work/said"; then
        echo "not noticed: $change"
        exit 1
    fi
    grep -q 'make docs\|no lines' "$work/said"
done

# Written anew it is right again.
sed 's/`--port`/`--prot`/' docs/server.md >"$work/server.md"
"$tool" "$work/server.md"
cmp docs/server.md "$work/server.md"

# A dashboard that asks for a name nobody gives stays empty, and nobody is told why.
for name in $(grep -oh 'mlxcel_[a-z_]*' contrib/grafana.json contrib/prometheus.yml |
              sed 's/_bucket$//' | sort -u); do
    grep -q "^| .$name. |" docs/server.md || { echo "no metric $name"; exit 1; }
done
