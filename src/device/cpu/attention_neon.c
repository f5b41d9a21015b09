/* attention_neon.c - attention_simd.h over NEON. Tiles of 2 queries by 2 vectors take 24 of 32
 * registers. */
#if defined __aarch64__
#include "device/cpu/vec_neon.h"

enum { QUERIES = 2, COLS = 2 };

#include "device/cpu/attention_simd.h"

const struct cpu_attention_kernels cpu_attention_neon = { scores, soften, weigh };
#endif
