/* attention_avx2.c - attention_simd.h over AVX2. Tiles of 2 queries by 2 vectors are what 16
 * registers hold. */
#if defined __x86_64__
#include "device/cpu/vec_avx2.h"

enum { QUERIES = 2, COLS = 2 };

#include "device/cpu/attention_simd.h"

const struct cpu_attention_kernels cpu_attention_avx2 = { scores, soften, weigh };
#endif
