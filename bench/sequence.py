#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws bench/pictures/sequence.svg: which rows of a sequence stay in stage 2.

  python3 bench/sequence.py [--tailcut build/bin/tailcut] [-o FILE | --check]

The sequence: a system prompt, the features of three photographs, a question. There is no language
model here, so the question's rows are the CLS row of the second photograph: a question about it.
`tailcut prune-seq` chooses by mean cosine to them, with its default rule; `tailcut view` draws the
patches. Needs Python alone. --check: the committed picture is what is drawn today.
"""
import argparse
import ast
import os
import re
import struct
import subprocess
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
IMAGES, ASKED = ("clock", "coffee", "flower"), "coffee"
PATCHES, ROW = 256, 768  # bytes: 384 channels of fp16
SYSTEM, QUESTION = 24, 24
KEPT, CANDIDATE, QUERY = b"\0", b"\1", b"\2"
SIDE, GAP, LEFT, CELL = 224, 12, 62, 0.79
COLOURS = {"text": "#4c78c8", "kept": "#2f9e5b", "dropped": "#d8dce2"}


def read(path):
    with open(path, "rb") as file:
        data = file.read()
    size = struct.unpack("<H", data[8:10])[0]
    return ast.literal_eval(data[10:10 + size].decode())["shape"], data[10 + size:]


def write(path, descr, shape, data):
    head = str({"descr": descr, "fortran_order": False, "shape": shape})
    head += " " * (-(len(head) + 11) % 64) + "\n"
    with open(path, "wb") as file:
        file.write(b"\x93NUMPY\1\0" + struct.pack("<H", len(head)) + head.encode() + data)


def integers(data):
    return list(struct.unpack(f"<{len(data) // 4}i", data))


def prune(tailcut, scratch):
    """The rows that stay, and the role of each row."""
    features = {name: read(os.path.join(HERE, "features", name + ".npy"))[1] for name in IMAGES}
    question = features[ASKED][:ROW]
    rows = b"\0" * (SYSTEM * ROW) + b"".join(features[name][ROW:] for name in IMAGES)
    rows += question * QUESTION
    roles = KEPT * SYSTEM + CANDIDATE * (PATCHES * len(IMAGES)) + QUERY * QUESTION
    hidden, who, kept = (os.path.join(scratch, name) for name in ("h.npy", "r.npy", "k.npy"))
    write(hidden, "<f2", (len(roles), ROW // 2), rows)
    write(who, "|u1", (len(roles),), roles)
    subprocess.run([tailcut, "prune-seq", "--hidden", hidden, "--roles", who, "--relevance",
                    "mean-cosine", "--kept", kept], check=True)
    return integers(read(kept)[1]), roles


def photograph(tailcut, scratch, name, patches, x, y):
    """What `tailcut view` draws, as a part of the picture."""
    kept, out = os.path.join(scratch, name + ".npy"), os.path.join(scratch, name + ".svg")
    write(kept, "<i4", (len(patches),), struct.pack(f"<{len(patches)}i", *patches))
    subprocess.run([tailcut, "view", "--image", os.path.join(HERE, "features", name + ".png"),
                    "--grid", "16x16", "--kept", kept, "-o", out], check=True)
    with open(out, encoding="ascii") as file:
        drawn = file.read()
    drawn = drawn.replace("<svg ", f'<svg x="{x}" y="{y}" ', 1)
    return re.sub(r'(id="|url\(#|href="#)(kept|outline)', rf"\1{name}-\2", drawn)


def strip(kinds, y):
    """Runs of rows of one kind, as rectangles."""
    found, at = [], 0
    while at < len(kinds):
        end = at
        while end < len(kinds) and kinds[end] == kinds[at]:
            end += 1
        found.append(f'<rect x="{LEFT + at * CELL:.2f}" y="{y}" width="{(end - at) * CELL:.2f}" '
                     f'height="26" fill="{COLOURS[kinds[at]]}"/>')
        at = end
    return found


def draw(tailcut, scratch):
    kept, roles = prune(tailcut, scratch)
    stays = set(kept)
    before = ["text" if role != CANDIDATE[0] else "kept" if row in stays else "dropped"
              for row, role in enumerate(roles)]
    after = [before[row] for row in kept]
    width = 2 * GAP + 3 * SIDE + 2 * GAP
    height = GAP + SIDE + 132
    top = GAP + SIDE + 26
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
             f'width="{width}" height="{height}" font-family="sans-serif" font-size="12">',
             f'<rect width="{width}" height="{height}" rx="8" fill="#ffffff"/>']
    for i, name in enumerate(IMAGES):
        first = SYSTEM + i * PATCHES
        patches = [row - first for row in kept if first <= row < first + PATCHES]
        x = GAP + i * (SIDE + GAP)
        lines.append(photograph(tailcut, scratch, name, patches, x, GAP))
        lines.append(f'<text x="{x}" y="{GAP + SIDE + 16}" fill="#57606a">image {i + 1}: '
                     f"{len(patches)} of {PATCHES} stay</text>")
    for label, kinds, y in (("before", before, top), ("after", after, top + 44)):
        lines.append(f'<text x="{GAP}" y="{y + 12}" fill="#1f2328">{label}</text>')
        lines.append(f'<text x="{GAP}" y="{y + 26}" fill="#57606a">{len(kinds)}</text>')
        lines += strip(kinds, y)
    for i in range(1, len(IMAGES)):
        x = LEFT + (SYSTEM + i * PATCHES) * CELL
        lines.append(f'<rect x="{x - 0.75:.2f}" y="{top - 3}" width="1.5" height="32" '
                     'fill="#1f2328"/>')
    x = LEFT
    for kind, words, wide in (("text", "system prompt and question", 212),
                              ("kept", "image rows that stay", 166), ("dropped", "that leave", 0)):
        lines.append(f'<rect x="{x}" y="{top + 82}" width="12" height="12" '
                     f'fill="{COLOURS[kind]}"/>')
        lines.append(f'<text x="{x + 18}" y="{top + 92}" fill="#57606a">{words}</text>')
        x += wide
    return "\n".join(lines) + "\n</svg>\n"


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--tailcut", default=os.path.join(HERE, "../build/bin/tailcut"))
    parser.add_argument("-o", default=os.path.join(HERE, "pictures/sequence.svg"))
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        picture = draw(options.tailcut, scratch)
    if options.check:
        with open(options.o, encoding="ascii") as file:
            if file.read() != picture:
                raise SystemExit(f"{options.o}: not what is drawn today")
        return
    with open(options.o, "w", encoding="ascii") as file:
        file.write(picture)


if __name__ == "__main__":
    main()
