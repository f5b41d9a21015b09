"""MLX affine quantization and the safetensors format, in numpy.

Owns the arithmetic of quantizing (as MLX does it), the bit layout, bf16, and reading and writing one
safetensors file. w = q * scale + bias for each group of the last axis; the q of a row are a
little-endian bit stream, seen as u32."""
import json
import struct

import numpy as np


def to_bf16(x):
    """f32 to the upper 16 bits, rounded to nearest even."""
    u = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((u + 0x7FFF + ((u >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(u):
    return (u.astype(np.uint32) << 16).view(np.float32)


def quantize(w, bits, group):
    """[out, in] f32 to (q u32 [out, in*bits/32], scales, biases as bf16 bits [out, in/group])."""
    out, width = w.shape
    g = w.astype(np.float32).reshape(out, width // group, group)
    top, low = g.max(-1), g.min(-1)
    steps = np.float32(2**bits - 1)
    side = np.abs(low) > np.abs(top)
    scale = np.maximum((top - low) / steps, np.float32(1e-7))
    scale = np.where(side, scale, -scale)
    edge = np.where(side, low, top)
    q0 = np.rint(edge / scale)
    some = q0 != 0
    scale = np.where(some, edge / np.where(some, q0, 1), scale).astype(np.float32)
    bias = np.where(some, edge, 0).astype(np.float32)
    q = np.clip(np.rint((g - bias[..., None]) / scale[..., None]), 0, steps).astype(np.uint8)
    stream = np.unpackbits(q.reshape(out, width, 1), axis=-1, bitorder="little")[..., :bits]
    packed = np.packbits(stream.reshape(out, -1), axis=-1, bitorder="little")
    return np.ascontiguousarray(packed).view("<u4"), to_bf16(scale), to_bf16(bias)


def dequantize(packed, scales, biases, bits, group):
    """The inverse, to f32; scales and biases are bf16 bits."""
    out = packed.shape[0]
    stream = np.unpackbits(np.ascontiguousarray(packed).view(np.uint8), axis=-1, bitorder="little")
    q = stream.reshape(out, -1, bits)
    q = (q.astype(np.uint32) << np.arange(bits, dtype=np.uint32)).sum(-1).astype(np.float32)
    q = q.reshape(out, -1, group)
    w = q * from_bf16(scales)[..., None] + from_bf16(biases)[..., None]
    return w.reshape(out, -1).astype(np.float32)


SIZES = {"F32": 4, "BF16": 2, "U32": 4, "F16": 2}


def write_safetensors(path, tensors, metadata):
    """tensors: {name: (dtype, array)}; a BF16 array holds u16 bits. Data in the order of the names."""
    header, at = {"__metadata__": metadata}, 0
    for name in sorted(tensors):
        dtype, a = tensors[name]
        header[name] = {"dtype": dtype, "shape": list(a.shape), "data_offsets": [at, at + a.nbytes]}
        assert a.nbytes == a.size * SIZES[dtype]
        at += a.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for name in sorted(tensors):
            f.write(np.ascontiguousarray(tensors[name][1]).tobytes())


def read_safetensors(path):
    """{name: (dtype, array)} as written."""
    data = open(path, "rb").read()
    n = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + n])
    kinds = {"F32": np.float32, "BF16": np.uint16, "U32": np.uint32, "F16": np.float16}
    out = {}
    for name, t in header.items():
        if name != "__metadata__":
            a, b = t["data_offsets"]
            out[name] = (t["dtype"], np.frombuffer(data[8 + n + a:8 + n + b], kinds[t["dtype"]]).reshape(t["shape"]))
    return out
