/* simd_neon.c - what is written once over 16 lanes (attention, recurrent states, gates), made for
 * NEON. Tiles of attention of 6 queries by one vector take 24 of 32 registers. */
#if defined __aarch64__
#include "device/cpu/linear.h"
#include "device/cpu/vec_neon.h"

enum { QUERIES = 6, QUERIES_OF_TWO = 2 };

#include "device/cpu/attention_simd.h"
#include "device/cpu/gate_simd.h"
#include "device/cpu/recurrent_simd.h"

const struct cpu_attention_kernels cpu_attention_neon = { scores, latent_scores, soften, weigh };
const struct cpu_recurrent_kernels cpu_recurrent_neon = { conv, ssm, delta };

bool cpu_gate_neon(float *y, const float *g, const float *up, int64_t n, enum act act) {
    return gate(y, g, up, n, act);
}
#endif
