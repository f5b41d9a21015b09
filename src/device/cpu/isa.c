/* isa.c - the sets of kernels that this processor runs, the fastest first. */
#include "device/cpu/isa.h"

#include "base/buf.h"
#include "base/processor.h"

struct isa {
    const struct cpu_kernels *kernels;
    bool (*here)(void);
};

static bool always(void) {
    return true;
}

#if defined __x86_64__
#include <asm/prctl.h>
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

static bool has_avx512_bf16(void) {
    return processor_has_avx512() && __builtin_cpu_supports("avx512bf16");
}

/* AMD's multiply two products of bf16 in the time of one of floats. Intel's take as long as four
 * for them, twice what F32 needs, and memory is no slower for it. */
static bool has_fast_bf16(void) {
    return has_avx512_bf16() && !__builtin_cpu_is("intel");
}

static bool has_slow_bf16(void) {
    return has_avx512_bf16() && !has_fast_bf16();
}

/* Tiles, and their products of bf16 and of 8 bits; a process has to ask the system for them. */
static bool has_amx(void) {
    enum { BF16_BIT = 22, TILE_BIT = 24, INT8_BIT = 25, TILE_DATA = 18 };
    const unsigned all = 1u << BF16_BIT | 1u << TILE_BIT | 1u << INT8_BIT;
    unsigned a, b, c, d;
    return has_avx512_bf16() && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & all) == all
        && syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0;
}

static const struct isa isas[] = {
    { &cpu_kernels_amx, has_amx },
    { &cpu_kernels_avx512_bf16, has_fast_bf16 },
    { &cpu_kernels_avx512, processor_has_avx512 },
    { &cpu_kernels_avx512_bf16, has_slow_bf16 },
    { &cpu_kernels_avx2, processor_has_avx2 },
    { &cpu_kernels_generic, always },
};
#elif defined __aarch64__
#include <sys/auxv.h>

static bool has_dotprod(void) {
    return getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
}

static bool has_i8mm(void) {
    return has_dotprod() && getauxval(AT_HWCAP2) & HWCAP2_I8MM;
}

/* NEON is part of the architecture. */
static const struct isa isas[] = {
    { &cpu_kernels_i8mm, has_i8mm },
    { &cpu_kernels_dotprod, has_dotprod },
    { &cpu_kernels_neon, always },
    { &cpu_kernels_generic, always },
};
#else
static const struct isa isas[] = {
    { &cpu_kernels_generic, always },
};
#endif

const struct cpu_kernels *cpu_isa(int i) {
    for (size_t j = 0; j < COUNT(isas); j++)
        if (isas[j].here() && i-- == 0)
            return isas[j].kernels;
    return NULL;
}

const struct cpu_kernels *cpu_isa_find(const char *name, struct err *e) {
    if (!name)
        return cpu_isa(0);
    const struct cpu_kernels *k;
    for (int i = 0; (k = cpu_isa(i)); i++)
        if (str_is(str_of(name), k->name))
            return k;
    struct buf have = { 0 };
    for (int i = 0; (k = cpu_isa(i)); i++)
        buf_format(&have, "%s%s", i ? ", " : "", k->name);
    err_code(e, ERR_DEVICE, "this processor does not run '%s': there is %s", name, buf_c(&have));
    buf_free(&have);
    return NULL;
}
