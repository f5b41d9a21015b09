/* processor.h - whether this processor, and the system with it, has what files of an instruction
 * set are compiled for. Elsewhere than on x86-64: no. */
#pragma once
#include "base/base.h"

bool processor_has_avx2(void);       /* *_avx2.c: AVX2, FMA, F16C and BMI2 */
bool processor_has_avx512(void);     /* *_avx512.c: and F, BW, VL, DQ, VBMI and VNNI */
