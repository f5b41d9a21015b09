/* attention_avx512.c - attention_simd.h over AVX-512. Tiles of 4 queries by 4 vectors leave
 * registers for what they meet. */
#if defined __x86_64__
#include "device/cpu/vec_avx512.h"

enum { QUERIES = 4, COLS = 4 };

#include "device/cpu/attention_simd.h"

const struct cpu_attention_kernels cpu_attention_avx512 = { scores, soften, weigh };
#endif
