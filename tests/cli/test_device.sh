#!/bin/sh
# Devices that are not there, or not any more: --device cuda says what is missing, auto goes on
# without, and a server whose device is lost answers that it is.
set -u
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp "$MLXCEL" "$work/mlxcel"
failed=0

# expect NAME WORDS [CODE]: the last run failed with exit code 6, or CODE, and these words.
expect() {
    if [ "$code" != "${3:-6}" ] || ! grep -q "$2" "$work/err"; then
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

# Objects that a compiler makes here, as others than this build's would be, or its GPU.
object() { # C
    printf '%s\n' "$1" | ${CC:-cc} -shared -fPIC -Isrc -D_GNU_SOURCE -x c - -o "$work/mlxcel-cuda.so" \
        2>"$work/log" || { cat "$work/log"; exit 1; }
}
entry='#include "device/device.h"
static const char *why(void) { return REASON; }
const struct cuda_entry mlxcel_cuda = { sizeof(struct device_ops) + MORE, sizeof(struct tensor),
                                        (const struct device_ops *)0, why };'
object "#define MORE 8
#define REASON 0
$entry"
ask cuda
expect 'an object of another build' 'mlxcel-cuda.so is from another build than this program'
object "#define MORE 0
#define REASON \"the NVIDIA driver is for CUDA 11.4, but CUDA 13.0 is needed\"
$entry"
ask cuda
expect 'an old driver' 'device cuda: the NVIDIA driver is for CUDA 11.4, but CUDA 13.0 is needed; there is: cpu'
ask auto
grep -q 'the CPU is taken, the NVIDIA driver is for CUDA 11.4' "$work/err" && [ "$code" = 0 ] ||
    { echo "auto beside an old driver: exit $code, $(cat "$work/err")"; failed=1; }

# Sanitizers want to be in the program alone, and not in an object beside it.
case $MLXCEL_BUILD in *san*) exit $failed ;; esac

# The true object, where nvcc has made one (scripts/check does), beside drivers that are of no use: a
# library that is all the driver there is says which.
for so in "$MLXCEL_BUILD/mlxcel-cuda.so" build/check-cuda/mlxcel-cuda.so; do
    [ -f "$so" ] || continue
    [ -z "$(find src/device/device.h src/device/cuda/cuda.cu -newer "$so")" ] || continue
    cat >"$work/driver.c" <<'END'
#include <stdlib.h>
#include <string.h>
static int is(const char *what) { return !strcmp(getenv("DRIVER"), what); }
static int nothing(void) { return 0; }
int cuDriverGetVersion(int *version) { *version = is("old") ? 11040 : 99000; return 0; }
int cuInit(unsigned flags) { (void)flags; return is("bare") ? 100 : is("broken") ? 999 : 0; }
int cuGetProcAddress_v2(const char *name, void **at, int version, unsigned long long flags,
                        int *status) {
    (void)version, (void)flags;
    *at = !strcmp(name, "cuInit") ? (void *)cuInit
        : !strcmp(name, "cuDriverGetVersion") ? (void *)cuDriverGetVersion
        : !strcmp(name, "cuGetProcAddress") ? (void *)cuGetProcAddress_v2 : (void *)nothing;
    if (status) *status = 0;
    return 0;
}
END
    ${CC:-cc} -shared -fPIC "$work/driver.c" -o "$work/libcuda.so.1" || exit 1
    cp "$so" "$work/mlxcel-cuda.so"
    for is in 'old/is for CUDA 11.4, but CUDA [0-9.]* is needed' \
              'bare/there is an NVIDIA driver here, but no GPU' \
              'broken/the NVIDIA driver does not start'; do
        export DRIVER="${is%%/*}"
        export LD_LIBRARY_PATH="$work"
        ask cuda
        expect "a driver that is $DRIVER" "device cuda: .*${is#*/}.*; there is: cpu"
        [ "$(wc -l <"$work/err")" = 1 ] || { echo "more than a sentence: $(cat "$work/err")"; failed=1; }
        ask auto
        grep -q "the CPU is taken, .*${is#*/}" "$work/err" && [ "$code" = 0 ] ||
            { echo "auto, a driver that is $DRIVER: exit $code, $(cat "$work/err")"; failed=1; }
        unset LD_LIBRARY_PATH
    done
    break
done

# The true objects beside chips that are of no use. The CUDA runtime takes no driver but NVIDIA's as
# soon as that has a GPU, so here another runtime stands in, of which hardly a function does anything.
for objects in "$MLXCEL_BUILD/src/device/cuda" build/check-cuda/src/device/cuda; do
    [ -f "$objects/cuda.o" ] && [ -f "$objects/../../../mlxcel-cuda.so" ] || continue
    [ -z "$(find src/device/device.h src/device/cuda/cuda.cu -newer "$objects/cuda.o")" ] || continue
    cat >"$work/runtime.c" <<'END'
#include <stdlib.h>
#include <string.h>
int cudaGetDeviceCount(int *n) { *n = 1; return 0; }
int cudaDeviceGetAttribute(int *value, int which, int device) {     /* 75, 76: the capability */
    (void)device;
    *value = which == 75 ? atoi(getenv("CHIP")) : 1;
    return 0;
}
int cudaGetDeviceProperties(char *name, int device) {
    (void)device;
    memcpy(name, "A Chip", 7);
    return 0;
}
int cudaFuncGetAttributes(void *to, const void *kernel) { (void)to, (void)kernel; return 209; }
END
    nm -u "$objects"/*.o | grep -o ' _*cuda[A-Za-z0-9_]*$' | sort -u |
        grep -v ' \(cudaGetDeviceCount\|cudaDeviceGetAttribute\|cudaGetDeviceProperties\|cudaFuncGetAttributes\)$' |
        sed 's/ *\(.*\)/int \1(void); int \1(void) { return 0; }/' >>"$work/runtime.c"
    ${CC:-cc} -shared -fPIC "$work/runtime.c" "$objects"/*.o -lstdc++ -o "$work/mlxcel-cuda.so" 2>"$work/log" ||
        { cat "$work/log"; exit 1; }
    for is in '6/6/the GPU is of compute capability 6.1, but 8.0 is needed' \
              '12/4/this build has no code for A Chip'; do
        export CHIP="${is%%/*}"
        code_is=${is#*/}
        ask cuda
        expect "a chip of capability $CHIP" "device cuda: ${is#*/*/}" "${code_is%%/*}"
        [ "$(wc -l <"$work/err")" = 1 ] || { echo "more than a sentence: $(cat "$work/err")"; failed=1; }
    done
    break
done

# A GPU that is taken away: the CPU's table, whose sync fails after some steps.
cat >"$work/lost.c" <<'END'
#include "device/device.h"
static struct device_ops ops;
static int steps;
static bool sync_lost(struct device *dev, struct err *err) {
    (void)dev;
    if (++steps < 40) return true;
    return err_code(err, ERR_DEVICE, "device cuda: a kernel failed: the GPU has fallen off the bus");
}
static const char *why(void) {
    ops = device_cpu;
    ops.name = "cuda";
    ops.sync = sync_lost;
    return 0;
}
const struct cuda_entry mlxcel_cuda = { sizeof ops, sizeof(struct tensor), &ops, why };
END
${CC:-cc} -shared -fPIC -Isrc -D_GNU_SOURCE "$work/lost.c" "$MLXCEL_BUILD/libmlxcel.a" -lm -pthread \
    -o "$work/mlxcel-cuda.so" 2>"$work/log" || { cat "$work/log"; exit 1; }
"$work/mlxcel" generate -m models/demo -p Hello -n 100 --ignore-eos --device cuda >"$work/out" 2>"$work/err"
code=$?
expect 'a GPU that is lost' 'the GPU has fallen off the bus'

"$work/mlxcel" serve -m models/demo --device cuda --port 0 2>"$work/log" >&2 &
server=$!
trap 'kill $server 2>/dev/null; rm -rf "$work"' EXIT
for i in $(seq 200); do
    port=$(sed -n 's/.*listening on .*:\([0-9]*\)$/\1/p' "$work/log" | head -1)
    [ -z "$port" ] || break
    sleep 0.05
done
"$work/mlxcel" health "127.0.0.1:$port" >"$work/out" 2>&1 ||
    { echo "health before: $(cat "$work/out")"; failed=1; }
# Several clients, whose requests all fail when the device does, and later ones at once.
"$MLXCEL_BUILD/tools/loadgen" --port "$port" --clients 4 --requests 12 --kinds 3 --tokens 60 \
    >"$work/json" 2>&1
"$work/mlxcel" health "127.0.0.1:$port" >"$work/out" 2>&1 &&
    { echo 'health says that a server without a device is well'; failed=1; }
kill -0 $server 2>/dev/null || { echo 'the server is gone'; cat "$work/log"; failed=1; }
grep -q 'fallen off the bus' "$work/log" || { echo 'no word in the log'; failed=1; }
kill $server
wait $server && { echo 'a server without a device ended well'; failed=1; }
exit $failed
