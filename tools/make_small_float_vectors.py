"""Writes tests/unit/small_float_vectors.h: what ml_dtypes and MLX make of small floats.

Usage: make_small_float_vectors.py   (needs: pip install ml_dtypes numpy 'mlx[cpu]')

Every code of e4m3 and e8m0 as the bits of a float, floats rounded to e4m3 and e2m1, and what
mlx.core.quantize and dequantize give for the weights of test_quant.c.
"""
import os

import ml_dtypes
import mlx.core as mx
import numpy as np

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "unit",
                   "small_float_vectors.h")
ROWS, COLS = 8, 256
MASK = (1 << 64) - 1


def weights():
    """make_weights of test_quant.c."""
    w = np.zeros(ROWS * COLS, np.float32)
    for i in range(ROWS * COLS):
        x = (i + 1) * 0x9E3779B97F4A7C15 & MASK
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & MASK
        x = (x ^ x >> 27) * 0x94D049BB133111EB & MASK
        x ^= x >> 31
        s = sum(x >> k & 0xFFFF for k in (0, 16, 32, 48))
        v = (s - 131070) * 2.0**-20
        row = i // COLS
        v = {1: 0, 2: 0.5, 3: -0.25, 4: abs(v), 5: -abs(v), 6: v * 4096, 7: v * 2.0**-20}.get(row, v)
        w[i] = v
    return w.astype(ml_dtypes.bfloat16).astype(np.float32).reshape(ROWS, COLS)


def table(out, kind, name, values, form):
    out.append(f"static const {kind} {name}[] = {{")
    line = "   "
    for v in values:
        word = " " + form % v + ","
        if len(line) + len(word) > 98:
            out.append(line)
            line = "   "
        line += word
    out.extend([line, "};"])


def bits(dtype):
    return np.arange(256, dtype=np.uint8).view(dtype).astype(np.float32).view(np.uint32)


def rounded():
    """Floats around every border between two codes, with their codes."""
    e4 = np.arange(127, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    middle = (e4[1:] + e4[:-1]) / 2
    some = np.concatenate([middle, np.nextafter(middle, np.float32(0)),
                           np.nextafter(middle, np.float32(1e9)), -middle[::7]]).astype(np.float32)
    codes = some.astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
    f4 = np.array([0, 0.25, 0.3, 0.5, 0.75, 1.25, 1.3, 1.75, 2.5, 2.6, 3.5, 5, 5.1, 6, -0.25, -0.75, -5],
                  np.float32)
    return some, codes, f4, f4.astype(ml_dtypes.float4_e2m1fn).view(np.uint8) & 15


def main():
    mx.set_default_device(mx.cpu)
    out = ["/* small_float_vectors.h - what ml_dtypes %s and MLX %s make of small floats."
           % (ml_dtypes.__version__, mx.__version__), " *",
           " * Made by tools/make_small_float_vectors.py. */", "#pragma once", "#include <stdint.h>", ""]
    table(out, "uint32_t", "e4m3_bits", bits(ml_dtypes.float8_e4m3fn), "0x%08x")
    table(out, "uint32_t", "e8m0_bits", bits(ml_dtypes.float8_e8m0fnu), "0x%08x")
    some, codes, f4, f4_codes = rounded()
    table(out, "uint32_t", "to_e4m3", some.view(np.uint32), "0x%08x")
    table(out, "uint8_t", "as_e4m3", codes, "0x%02x")
    table(out, "uint32_t", "to_e2m1", f4.view(np.uint32), "0x%08x")
    table(out, "uint8_t", "as_e2m1", f4_codes, "0x%02x")
    w = mx.array(weights())
    table(out, "uint8_t", "mxfp4_all_scales", np.array(mx.quantize(w, mode="mxfp4")[1]).reshape(-1),
          "0x%02x")
    for mode in ("mxfp4", "nvfp4", "mxfp8"):         # the first row
        q, s = mx.quantize(w, mode=mode)
        back = np.array(mx.dequantize(q, s, mode=mode, dtype=mx.float32)).astype(np.float32)[0]
        table(out, "uint8_t", mode + "_row", np.array(q).view(np.uint8)[0], "0x%02x")
        table(out, "uint8_t", mode + "_scales", np.array(s)[0], "0x%02x")
        table(out, "uint32_t", mode + "_values", back.view(np.uint32), "0x%08x")
    with open(OUT, "w") as f:
        f.write("\n".join(out) + "\n")


main()
