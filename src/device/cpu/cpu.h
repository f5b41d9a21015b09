/* cpu.h - what the CPU device's files share: its state, and loads from views.
 *
 * Every op here is plain C and the specification of that op. Work is split over
 * rows, heads or channels, never inside a sum, so results do not depend on the
 * number of threads. */
#pragma once
#include "base/threads.h"
#include "device/cpu/linear.h"
#include "device/device.h"

#include <math.h>
#include <string.h>

struct cpu {
    struct pool *pool;
    const struct cpu_kernels *kernels;
    struct cpu_scratch scratch;      /* of the pool; exact: F32 throughout */
    struct cpu_scratch partial;      /* of attention: parts of rows that threads share */
    struct packed *packed;           /* a payload for each model that was loaded; packed.h */
};

static inline struct cpu *cpu_of(const struct device *d) {
    return d->impl;
}

/* The calling thread's part of the scratch, for what it does without the others. */
static inline struct cpu_scratch cpu_own_scratch(const struct cpu *cpu) {
    struct cpu_scratch own = cpu->scratch;
    own.bytes /= (size_t)pool_threads(cpu->pool);
    own.at = (char *)own.at + (size_t)pool_index() * own.bytes;
    return own;
}

/* Row r (and head h) of an activation view. */
static inline float *row_f32(const struct tensor *t, int64_t r) {
    return (float *)t->at + r * t->stride[0];
}

static inline float *head_f32(const struct tensor *t, int64_t r, int64_t h) {
    return (float *)t->at + r * t->stride[0] + h * t->stride[1];
}

static inline float bf16_to_f32(uint16_t bits) {
    uint32_t u = (uint32_t)bits << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* To nearest even. NaNs keep their sign and stay NaN. */
static inline uint16_t f32_to_bf16(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    if ((u & 0x7fffffff) > 0x7f800000) return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static inline float sigmoid(float x) {
    return 1.0f / (1.0f + expf(-x));
}

/* log(1 + e^x) without overflow; above 20 it is x in F32, as in PyTorch. */
static inline float softplus(float x) {
    return x > 20.0f ? x : log1pf(expf(x));
}

/* The ops, by file. */
void cpu_embed(struct device *, struct tensor *, const struct tensor *, const struct tensor *,
               float);
void cpu_norm(struct device *, struct tensor *, const struct tensor *, const struct tensor *,
              const struct tensor *, enum norm, float);
void cpu_rope(struct device *, struct tensor *, const struct rope_args *);
void cpu_gate(struct device *, struct tensor *, const struct tensor *, const struct tensor *,
              const struct gate_args *);
void cpu_add(struct device *, struct tensor *, const struct tensor *, float);
void cpu_copy(struct device *, struct tensor *, const struct tensor *);
void cpu_scale(struct device *, struct tensor *, float, float, float);
void cpu_temperature(struct device *, struct tensor *, const struct rows *, float, float, int);
void cpu_kv_store(struct device *, const struct attend *, const struct tensor *,
                  const struct tensor *);
void cpu_attention(struct device *, struct tensor *, const struct tensor *, const struct attend *);
void cpu_conv(struct device *, struct tensor *, const struct tensor *, const struct tensor *,
              const struct tensor *, const struct rows *, const struct state_view *, enum act);
void cpu_ssm(struct device *, struct tensor *, const struct ssm_args *);
void cpu_delta(struct device *, struct tensor *, const struct delta_args *);
void cpu_route(struct device *, struct tensor *, struct tensor *, const struct tensor *,
               const struct route_args *);
void cpu_experts(struct device *, struct tensor *, const struct tensor *,
                 const struct expert_args *);

/* n values: y = act(gate) * up, or act(gate) where up is NULL. y may be either. */
void cpu_gate_values(const struct cpu_kernels *, float *y, const float *gate, const float *up,
                     int64_t n, const struct gate_args *);
float cpu_act(enum act act, float x);    /* one value through an activation without parameters */

/* The sum of (x - mean)^2 in double, in 16 lanes that are added in a fixed tree. */
double cpu_squares(const float *x, double mean, int64_t n);
