"""Writes src/tokens/scripts_table.h: which code points the package's UnicodeScripts keeps together.

Usage: make_scripts_table.py   (needs: pip install tokenizers)

The package is asked, code point by code point: alone, one that belongs nowhere gives no piece; behind
one of a known class, one of the same class gives one piece. So its fix-ups are in the table as well.
"""
import os

from tokenizers import pre_tokenizers

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "src", "tokens", "scripts_table.h")
HEAD = """/* scripts_table.h - Unicode's scripts as the pre-tokenizer UnicodeScripts sees them.
 *
 * Made by tools/make_scripts_table.py. Each entry is the first code point of a range << 8 and the
 * range's class; class 0 goes with whatever is around it. */
#pragma once
#include <stdint.h>

static const uint32_t script_ranges[] = {
"""


def main():
    split = pre_tokenizers.UnicodeScripts().pre_tokenize_str
    first, ranges, last = [], [], None
    for cp in range(0x110000):
        if 0xd800 <= cp < 0xe000:       # in no text
            continue
        c = chr(cp)
        if not split(c):
            now = 0
        elif last and len(split(first[last - 1] + c)) == 1:
            now = last
        else:
            now = next((i + 1 for i, r in enumerate(first) if len(split(r + c)) == 1), 0)
            if not now:
                first.append(c)
                now = len(first)
        if now != last:
            ranges.append(cp << 8 | now)
        last = now
    assert len(first) < 256
    with open(OUT, "w") as f:
        f.write(HEAD)
        for i in range(0, len(ranges), 8):
            f.write("    " + " ".join(f"{r:#x}," for r in ranges[i:i + 8]) + "\n")
        f.write("};\n")
    print(f"{len(first)} classes, {len(ranges)} ranges")


main()
