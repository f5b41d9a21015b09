#!/bin/sh
# Shows that each rule of tools/tidy can fail: a tree of one or two small files, and the sentence
# that must come out. And that a clean tree is clean.
set -u
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
failed=0 n=0

fresh() { rm -rf "${root:?}"/*; mkdir -p "$root/src/base"; }
# put PATH < text: a file with the comment that each must begin with.
put() {
    mkdir -p "$root/$(dirname "$1")"
    { echo '/* A file of this test. */'; cat; } >"$root/$1"
}
# wants SENTENCE: tidy finds it, and ends with 1.
wants() {
    n=$((n + 1))
    out=$(tools/tidy "$root" 2>&1)
    code=$?
    case $code$out in
    1*"$1"*) ;;
    *) failed=1; printf 'FAIL: wanted "%s" and exit 1, got %d:\n%s\n' "$1" "$code" "$out" ;;
    esac
    fresh
}
clean() {
    n=$((n + 1))
    out=$(tools/tidy "$root" 2>&1) || { failed=1; printf 'FAIL: not clean: %s\n' "$out"; }
    fresh
}
lines() { awk -v n="$1" -v s="$2" 'BEGIN { while (n-- > 0) print s }'; }

fresh
put src/base/a.c <<'END'
#include "base/a.h"
/* printf("x") and strcpy(a, b) in a comment, or "strcpy(" in a string, are no calls. */
int a(struct x *x) { x->exit(1); return f("strcpy(a, b)", '"', "\"{"); }
END
put src/base/a.h <<'END'
int a(struct x *x);                  /* says what it does */
END
clean

git -C "$root" init -q
for f in crash-12 notes.txt tests/fuzz/crash-0 a.log; do
    mkdir -p "$root/tests/fuzz"
    echo x >"$root/$f"
    git -C "$root" add -f "$f"
    wants "$f:1: left behind"
    git -C "$root" rm -q --cached "$f"
done
rm -rf "$root/.git"

lines 50 'x' | awk '{ printf "int abcdefgh;" } END { print "" }' | put src/base/a.c
wants 'a.c:2: longer than 100 columns'
printf 'int\ta;\n' | put src/base/a.c;    wants 'a.c:2: a tab'
printf 'int a; \n' | put src/base/a.c;    wants 'blanks at the end'
echo 'int a;' >"$root/src/base/a.c";      wants 'no comment that says what this file owns'
lines 1000 'int a;' | put src/base/a.c;   wants 'more than 1000 lines'
{ echo 'static int f(int a,'; echo '             int b) {'; lines 68 '    a++;'; echo '}'; } |
    put src/base/a.c;                     wants 'a.c:2: f has 71 lines'
{ echo 'int f(void) {'; lines 68 '    if (1) { g(); }'; echo '}'; } | put src/base/a.c; clean

for f in strcpy sprintf gets strtok atoi strtod strtoul sscanf alloca rand localtime system mktemp
do
    echo "int a(void) { return $f(1); }" | put src/base/a.c
    wants "a.c:2: $f is banned; use"
done
echo 'int a(void) { return strcat(1); }' | put tests/unit/test_a.c;   wants 'strcat is banned'
for f in printf fprintf puts exit getenv; do
    echo "int a(void) { $f(1); }" | put src/cache/a.c
    wants "$f outside of cli/"
    echo "int a(void) { $f(1); }" | put src/cli/a.c
    clean
done
echo '#define SAY(x) printf(x)' | put src/base/a.c;      wants 'printf outside'
echo 'typedef struct { int a; } a;' | put src/base/a.c;  wants 'typedef hides a struct'

echo 'int a(void);' | put src/base/a.h
{ echo; cat "$root/src/base/a.h"; } | sed '/A file/d' >"$root/x"
{ echo '/* A file. */'; cat "$root/x"; } >"$root/src/base/a.h"; rm "$root/x"
wants 'a.h:3: exported, and no comment'

echo '#include "model/model.h"' | put src/layers/a.c;  wants 'layers may not include model/model.h'
echo '#include "engine.h"' | put src/model/a.c;        wants 'model may not include engine.h'
echo '#include "device/device.h"' | put src/cli/a.c;   wants 'cli may not include device/device.h'
echo '#include "layers/layers.h"' | put src/engine.c
echo '#include "engine.h"' | put src/cli/a.c;          clean
echo 'int a;' | put src/attic/a.c;                     wants 'folder attic has no row'
echo '#include "base/b.h"' | put src/base/a.h
echo '#include "base/c.h"' | put src/base/b.h
echo '#include "base/a.h"' | put src/base/c.h;         wants 'which includes it'

echo '#include <cuda_runtime.h>' | put src/layers/a.c; wants 'for src/device/cuda only'
echo '#include <cuda_runtime.h>' | put src/device/cuda/a.cu; clean
echo '#include <immintrin.h>' | put src/layers/a.c;    wants 'for src/device/cpu and'
echo '#ifdef __AVX2__' | put src/layers/a.c;           wants 'instruction sets are told apart'
echo '#if defined(__ARM_NEON)' | put src/base/a.c;     wants 'instruction sets are told apart'
echo '#ifdef __AVX2__' | put src/device/cpu/a.c;       clean

mkdir -p "$root/src/families" "$root/tests/families/llama"
echo 'FAMILY(llama)' >"$root/src/families/families.def"
echo 'static bool is_llama(int a) { return a; }' | put src/layers/a.c
wants 'a.c:2: names the family llama'
mkdir -p "$root/src/families" "$root/tests/families/llama"
echo 'FAMILY(llama)' >"$root/src/families/families.def"
echo 'static bool is(int a) { return x == "Llama"; }' | put src/engine.c
wants 'names the family llama'
mkdir -p "$root/src/families"
echo 'FAMILY(qwen9)' >"$root/src/families/families.def"
wants 'families.def:1: qwen9 has no vectors'
lines 119 'int a;' | put src/families/x.c;             wants 'fewer than 120 lines'
lines 60 'int a;' | put src/families/x.c;              wants 'median family has 61 lines'

put src/device/device.h <<'END'
struct device_ops {
    void (*rope)(int x);             /* turns */
};
END
echo '/* rope */' | put tests/kernels/test_a.c;         clean
put src/device/device.h <<'END'
struct device_ops {
    void (*rope)(int x);             /* turns */
};
END
echo 'int a;' | put tests/kernels/test_a.c;             wants 'names the op rope'

mkdir -p "$root/tools"
echo 'src/base/a.c call:exit it may' >"$root/tools/tidy.allow"
echo 'int a(void) { exit(1); }' | put src/base/a.c;     clean
mkdir -p "$root/tools"
echo 'src/base/a.c call:exit it may' >"$root/tools/tidy.allow"; wants 'allows nothing'
mkdir -p "$root/tools"
echo 'src/base/a.c call:exit' >"$root/tools/tidy.allow"
echo 'int a(void) { exit(1); }' | put src/base/a.c;     wants 'needs a path, what is allowed, and'
{ echo 'int a(void) {'; lines 2100 'int b;'; } >"$root/src/base/x"
for i in 1 2 3; do head -n 900 "$root/src/base/x" | put src/base/$i.c; done
wants '0 % of the lines have comments'

[ $failed -eq 0 ] && echo "tidy: $n trees, as expected"
exit $failed
