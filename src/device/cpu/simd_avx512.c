/* simd_avx512.c - what is written once over 16 lanes (attention, recurrent states, gates), made for
 * AVX-512. Tiles of attention of 8 queries by two vectors take 16 of 32 registers. */
#if defined __x86_64__
#include "device/cpu/linear.h"
#include "device/cpu/vec_avx512.h"

enum { QUERIES = 8, QUERIES_OF_TWO = 8 };

#include "device/cpu/attention_simd.h"
#include "device/cpu/gate_simd.h"
#include "device/cpu/recurrent_simd.h"

const struct cpu_attention_kernels cpu_attention_avx512 = { scores, latent_scores, soften, weigh };
const struct cpu_recurrent_kernels cpu_recurrent_avx512 = { conv, ssm, delta };

bool cpu_gate_avx512(float *y, const float *g, const float *up, int64_t n, enum act act) {
    return gate(y, g, up, n, act);
}
#endif
