/* simd_avx2.c - what is written once over 16 lanes (attention, recurrent states, gates), made for
 * AVX2. Tiles of attention of 6 queries by one vector take 12 of 16 registers. */
#if defined __x86_64__
#include "device/cpu/linear.h"
#include "device/cpu/vec_avx2.h"

enum { QUERIES = 6, QUERIES_OF_TWO = 2 };

#include "device/cpu/attention_simd.h"
#include "device/cpu/gate_simd.h"
#include "device/cpu/recurrent_simd.h"

const struct cpu_attention_kernels cpu_attention_avx2 = { scores, latent_scores, soften, weigh };
const struct cpu_recurrent_kernels cpu_recurrent_avx2 = { conv, ssm, delta };

bool cpu_gate_avx2(float *y, const float *g, const float *up, int64_t n, enum act act) {
    return gate(y, g, up, n, act);
}
#endif
