/* gpu.h - what tests of the CUDA device share: devices, and memory that is NaN where nothing was
 * written. */
#pragma once
#include "draws.h"
#include "device/device.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct device cpu, f32, rounding;         /* rounding: rows may become bf16 */

/* Memory of the device, filled with NaN where there is nothing to copy. */
static inline void *there(struct device *dev, const void *from, size_t bytes) {
    void *p = dev->op->alloc(dev, bytes);
    assert_non_null(p);
    if (from) {
        dev->op->copy_in(dev, p, from, bytes);
        return p;
    }
    float *poison = mem_array(bytes / sizeof(float), sizeof(float));
    for (size_t i = 0; i < bytes / sizeof(float); i++) poison[i] = NAN;
    dev->op->copy_in(dev, p, poison, bytes);
    assert_true(dev->op->sync(dev, NULL));
    free(poison);
    return p;
}

static inline void back(struct device *dev, float *to, void *from, int64_t n) {
    struct err err = { 0 };
    dev->op->copy_out(dev, to, from, (size_t)n * sizeof *to);
    if (!dev->op->sync(dev, &err)) fail_msg("%s", err.text);
    dev->op->free(dev, from, (size_t)n * sizeof *to);
}

/* The CPU's generic kernels, and the GPU in both modes. */
static inline bool open_all(void) {
    const struct device_ops *gpu = device_find("cuda", NULL);
    const struct device_options plain = { .threads = 2, .isa = "generic" };
    const struct device_options rounded = { .rounded = true };
    cpu.op = &device_cpu;
    f32.op = rounding.op = gpu;
    return gpu && cpu.op->open(&cpu, &plain, NULL) && gpu->open(&f32, &plain, NULL) &&
           gpu->open(&rounding, &rounded, NULL);
}

/* Under compute-sanitizer tests are a hundred times as slow: GPU_BRIEF, a digit below BRIEF_PARTS,
 * takes that part of their shapes. The parts together have what goes through every kernel, once.
 * GPU_ONLY takes the tests whose name is like it. GPU_TOOL is which tool of it they run under. */
enum { BRIEF_PARTS = 6 };

static inline bool brief(void) {
    return getenv("GPU_BRIEF") != NULL;
}

static inline bool racechecked(void) {
    const char *tool = getenv("GPU_TOOL");
    return tool && !strcmp(tool, "racecheck");
}

/* Whether piece n of a test is of this part. */
static inline bool takes(size_t n) {
    return !brief() || n % BRIEF_PARTS == (size_t)(getenv("GPU_BRIEF")[0] - '0') % BRIEF_PARTS;
}

static inline int run_all(const char *name, int (*run)(void)) {
    if (!open_all()) {
        printf("%s: no GPU here, or built without CUDA=1: nothing was tested\n", name);
        return 0;
    }
    if (getenv("GPU_ONLY")) cmocka_set_test_filter(getenv("GPU_ONLY"));
    int failed = run();
    f32.op->close(&f32);
    rounding.op->close(&rounding);
    cpu.op->close(&cpu);
    return failed;
}
