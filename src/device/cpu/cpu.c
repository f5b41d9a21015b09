/* cpu.c - the CPU as a device: its threads, its memory, and the table of its ops. */
#include "base/log.h"
#include "device/cpu/cpu.h"
#include "device/cpu/isa.h"
#include "device/cpu/packed.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

/* For each thread. Room for a whole prompt chunk of most models; a page costs memory when it is
 * used first. */
enum { SCRATCH_BYTES = 32 << 20, PARTIAL_BYTES = 16 << 20 };

/* Mapped, not allocated: pages that are never touched cost nothing, and come zeroed. */
static void *map(size_t bytes) {
    void *p = mmap(NULL, MAX(bytes, (size_t)1), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

/* What is slower than a user may think. */
static void tell(const struct device_options *o, const struct cpu_kernels *kernels) {
    const int here = threads_available();
    if (o->threads > here)
        log_line(LOG_WARN, "%d threads, but this process may use %d processor%s: more threads than "
                 "that are slower", o->threads, here, here == 1 ? "" : "s");
    if (!o->isa && kernels == &cpu_kernels_generic)
        log_line(LOG_WARN, "this processor has none of the instruction sets that there are kernels "
                 "for (AVX2 with FMA and F16C on x86): the generic ones are used, which are many "
                 "times slower");
}

static bool open_cpu(struct device *dev, const struct device_options *o, struct err *err) {
    const struct cpu_kernels *kernels = cpu_isa_find(o->isa, err);
    if (!kernels) return false;
    struct cpu *cpu = mem_new(sizeof *cpu);
    cpu->kernels = kernels;
    cpu->pool = pool_open(o->threads ? o->threads : threads_available());
    const size_t threads = (size_t)pool_threads(cpu->pool);
    cpu->scratch = (struct cpu_scratch){ map(threads * SCRATCH_BYTES), threads * SCRATCH_BYTES,
                                         !o->rounded };
    if (!cpu->scratch.at) {
        pool_close(cpu->pool);
        free(cpu);
        return err_code(err, ERR_MEMORY, "no memory left for the rows of a product");
    }
    cpu->partial = (struct cpu_scratch){ .at = map(PARTIAL_BYTES), .bytes = PARTIAL_BYTES };
    if (!cpu->partial.at) cpu->partial.bytes = 0;
    dev->impl = cpu;
    tell(o, kernels);
    return true;
}

static void close_cpu(struct device *dev) {
    struct cpu *cpu = cpu_of(dev);
    if (!cpu) return;
    pool_close(cpu->pool);
    munmap(cpu->scratch.at, cpu->scratch.bytes);
    if (cpu->partial.at)
        munmap(cpu->partial.at, cpu->partial.bytes);
    for (struct packed *p = cpu->packed, *next; p; p = next) {
        next = p->next;
        munmap(p->at, p->bytes);
        free(p);
    }
    free(cpu);
    dev->impl = NULL;
}

static void describe(const struct device *dev, char *text, size_t size) {
    int n = pool_threads(cpu_of(dev)->pool);
    snprintf(text, size, "cpu, %s, %d thread%s", cpu_of(dev)->kernels->name, n, n == 1 ? "" : "s");
}

static void *alloc(struct device *dev, size_t bytes) {
    (void)dev;
    return map(bytes);
}

static void release(struct device *dev, void *p, size_t bytes) {
    (void)dev;
    if (p) munmap(p, MAX(bytes, (size_t)1));
}

static bool adopt(struct device *dev, const void *at, size_t bytes) {
    (void)dev;
    (void)at;
    (void)bytes;
    return true;
}

static void copy(struct device *dev, void *to, const void *from, size_t bytes) {
    (void)dev;
    if (bytes) memmove(to, from, bytes);
}

static bool sync(struct device *dev, struct err *err) {
    (void)dev;
    (void)err;
    return true;
}

static void linear(struct device *dev, struct tensor *y, const struct linear *w,
                   const struct tensor *x) {
    const struct cpu *cpu = cpu_of(dev);
    cpu_linear(cpu->pool, cpu->kernels, &cpu->scratch, y, w, x);
}

/* Products of the same rows are one run. Gates lie where attention has its parts of rows. */
static bool products(struct device *dev, const struct products *p) {
    const struct cpu *cpu = cpu_of(dev);
    struct tensor gate = *p->y[0], *y[PRODUCTS_MAX] = { &gate, p->y[0] };
    const size_t bytes = (size_t)tensor_count(&gate) * sizeof(float);
    if (p->end == PRODUCTS_ADD || (p->end == PRODUCTS_GATE && bytes > cpu->partial.bytes))
        return false;
    gate = tensor_2d(cpu->partial.at, F32, gate.shape[0], gate.shape[1]);
    cpu_linear_many(cpu->pool, cpu->kernels, &cpu->scratch,
                    p->end == PRODUCTS_GATE ? y : p->y, p->w, p->n, p->x);
    if (p->end == PRODUCTS_GATE)
        cpu_gate(dev, p->y[0], &gate, p->y[0], &p->act);
    return true;
}

const struct device_ops device_cpu = {
    .name = "cpu", .host_memory = true, .kv_bytes = true,
    .open = open_cpu, .close = close_cpu, .describe = describe,
    .alloc = alloc, .free = release, .adopt = adopt, .pack = cpu_pack_weights,
    .copy_in = copy, .copy_out = copy,
    .move = copy, .sync = sync,
    .embed = cpu_embed, .linear = linear, .products = products, .norm = cpu_norm,
    .rope = cpu_rope, .gate = cpu_gate,
    .add = cpu_add, .copy = cpu_copy, .scale = cpu_scale, .temperature = cpu_temperature,
    .kv_store = cpu_kv_store, .attention = cpu_attention, .conv = cpu_conv, .ssm = cpu_ssm,
    .delta = cpu_delta, .route = cpu_route, .experts = cpu_experts,
};
