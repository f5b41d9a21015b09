/* isa.h - which instruction sets this processor and its system can run. */
#pragma once
#include "device/cpu/linear.h"

/* The i-th set that runs here, best first; NULL past the last one, which is generic. */
const struct cpu_kernels *cpu_isa(int i);

/* By name; NULL: the best. NULL when there is no such set, or not on this processor. */
const struct cpu_kernels *cpu_isa_find(const char *name, struct err *);
