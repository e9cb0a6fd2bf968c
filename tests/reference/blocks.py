#!/usr/bin/env python3
"""An independent reference for numbers in fewer bits (proto/src/weights/blocks.rs), in exact fractions.

It prints, for the values below, the bytes of each encoding in hexadecimal, which the tests of blocks.rs
hold. Only the standard library is used: every f32 is taken as the fraction that it is, a scale is found
among all bf16 of at least 0 by bisection, and a quotient is rounded by `round`, which takes the even one
of two.

    python3 blocks.py
"""

import struct
from fractions import Fraction

BLOCK = {"int8": 256, "int4": 64}
MAX = {"int8": 127, "int4": 7}


def f32(value):
    """The f32 nearest to a number, as Python holds it."""
    return struct.unpack("<f", struct.pack("<f", value))[0]


def bf16(bits):
    return struct.unpack("<f", struct.pack("<I", bits << 16))[0]


def least_scale(values, top):
    """The least bf16 of at least the greatest magnitude over `top`."""
    need = max(abs(Fraction(v)) for v in values) / top
    low, high = 0, 0x7F7F
    while low < high:
        middle = (low + high) // 2
        if Fraction(bf16(middle)) >= need:
            high = middle
        else:
            low = middle + 1
    return low


def by_blocks(values, kind):
    out = b""
    for first in range(0, len(values), BLOCK[kind]):
        block = values[first : first + BLOCK[kind]]
        bits = least_scale(block, MAX[kind])
        scale = Fraction(bf16(bits))
        codes = [round(Fraction(v) / scale) if scale else 0 for v in block]
        out += struct.pack("<H", bits)
        if kind == "int8":
            out += struct.pack(f"<{len(codes)}b", *codes)
        else:
            codes += [0] * (len(codes) % 2)
            pairs = zip(codes[::2], codes[1::2])
            out += bytes((low & 15) | (high & 15) << 4 for low, high in pairs)
    return out


def as_bf16(values):
    """The nearest of all bf16, found among the two neighbours of the cut-off one."""
    out = b""
    for value in values:
        (bits,) = struct.unpack("<I", struct.pack("<f", value))
        cut = bits >> 16
        gaps = [(abs(Fraction(bf16(c)) - Fraction(value)), c & 1, c) for c in (cut, cut + 1)]
        out += struct.pack("<H", min(gaps)[2])
    return out


def numbers(count):
    """Values of both signs over three orders of magnitude, from a generator that any language has."""
    state, values = 1, []
    for _ in range(count):
        state = (state * 1664525 + 1013904223) % 2**32
        sign = -1 if state >> 31 else 1
        values.append(f32(sign * (state >> 8 & 0xFFFF) / 65536 * 10.0 ** -(state >> 24 & 3)))
    return values


CASES = {
    "halves": [7.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5],
    "zeros": [0.0, -0.0, 0.0],
    "denormal": [f32(1e-45), f32(-3e-45), f32(2e-40)],
    "numbers": numbers(70),
}

for name, values in CASES.items():
    print(name)
    print("  bf16", as_bf16(values).hex())
    for kind in BLOCK:
        print(f"  {kind}", by_blocks(values, kind).hex())
