/* processor.c - asks the processor what it has. The compiler's own probe is used because it also
 * asks whether the system saves the wide registers. */
#include "base/processor.h"

#if defined __x86_64__
#include <cpuid.h>

/* F16C by hand: not every compiler knows its name. */
bool processor_has_avx2(void) {
    unsigned a, b, c, d;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")
        && __builtin_cpu_supports("bmi2")
        && __get_cpuid(1, &a, &b, &c, &d) && c & bit_F16C;
}

bool processor_has_avx512(void) {
    return processor_has_avx2() && __builtin_cpu_supports("avx512f")
        && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")
        && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vbmi")
        && __builtin_cpu_supports("avx512vnni");
}
#else
bool processor_has_avx2(void) { return false; }
bool processor_has_avx512(void) { return false; }
#endif
