# SPDX-License-Identifier: Apache-2.0
"""Ways to damage the inputs of the command, for mutate.py: .npy bytes, array values, argument vectors.

A file mutation returns (bytes, verdict): REFUSE means the command must not accept it, SAME that accepting it must
give the undamaged result, ANY that either is fine.
"""
import re
import struct

import numpy as np

ANY, SAME, REFUSE = "any", "same", "refuse"
MAGIC = b"\x93NUMPY"
DESCR = ["<f4", "<f2", "<u2", "<i4", "|u1", ">f4", ">f2", ">u2", ">i4", "<f8", "<i8", "<u4", "|b1", "|i1", "<c8", "<V2",
         "|V2", "|O", "<U4", "|S4", "|V4", "f4", "=f4",
         "<f", "<f44", "", "float32", "<f4 ", "[('a','<f4')]", "<m8[s]", "x" * 300]
READABLE = {"<f4", "<f2", "<u2", "<i4", "|u1", "f4", "=f4", "|b1", "|i1", "<f", "float32", "<f4 ", ">f4", ">f2", ">u2",
            ">i4", "<f8", "<i8", "<u4", "<V2", "|V2"}
SHAPES = ["()", "(0,)", "(1,)", "(-1,)", "(-3, 4)", "(3, -4)", "(0, 0)", "(0, 7)", "(7, 0)", "(1, 1, 1, 1, 1, 1, 1, 1)",
          "(2147483647,)",
          "(2147483648, 2)", "(4294967295, 4294967297)", "(9223372036854775807,)", "(9223372036854775807, 2)",
          "(18446744073709551615,)",
          "(18446744073709551616,)", "(4611686018427387904, 4)", "(4294967296, 4294967296)",
          "(99999999999999999999999999,)", "(1048577, 1)", "(1e3,)",
          "(3.0, 4)", "('3', 4)", "(3 4)", "(3,,4)", "(,)", "(3, 4", "3, 4)", "[3, 4]", "3", "None", "(0x10,)",
          "(+3, 4)", "( 3 , 4 , )", "(3L, 4L)",
          "(" + "1, " * 200 + ")", "(" + "(" * 500]
VALUES = ["", "0", "-1", "1", "2", "3", "-0", "+1", "1.5", "0.5", "-0.08", "1e-3", "1e400", "-1e400", "nan", "inf",
          "-inf", "0x10", "1e", "1 ", " 1", "1,5",
          "2147483647", "2147483648", "4294967296", "9223372036854775807", "9223372036854775808",
          "99999999999999999999999", "0:1", "0.2:0.8", "1:0", ":",
          "0:", ":1", "0:1:2", "nan:1", "0.5:0.5", "-1:2", "otsu", "OTSU", "mean", "topk", "cuda", "cuda:0", "cuda:99",
          "cpu", "cpu:0", "cuda:", "cuda:-1", "f16",
          "bf16", "f32", "f64", "auto", "unit", "mean-cosine", "max-cosine", "attention", "high", "low", "ceil",
          "floor", "nearest", "drop-ceil", "drop-trunc",
         "drop-percent", "50", "63", "64", "100", "101", "128", "256", "512", "cos4", "COS4", "sizes.npy", "tokens.npy", "cu.npy", "groups.npy", "roles.npy", "--", "-", "--help",
          "-h", "--json", "%s%n", "a\nb", "\t", "ä\u2028", "x" * 5000,
          ".", "missing.npy", "no/such/dir/x.npy", "4x5", "0x0", "99999x99999", "-4x5", "1e308", "1e-320", "3.5e38",
          "0.9999999999999999999"]
OPTIONS = ["--tokens", "--cls", "--cls-row", "--cls-mean", "--lag", "--novelty", "--merge", "--merge-window",
           "--sizes-in", "--sizes", "--joins", "--prefix", "--cu-seqlens", "--groups",
           "--detector", "--k", "--ratio", "--percent", "--rounding",
           "--tau", "--lambda", "--mass", "--window", "--search", "--min-keep", "--max-keep", "--round-to", "--spread",
           "--order", "--dtype", "--device",
           "--threads", "--repeat", "--out", "--kept", "--counts", "--scores", "--offsets", "--flags", "--mask",
           "--group-counts", "--json", "--scale", "--hidden",
           "--roles", "--relevance", "--q", "--keys", "--causal", "--last-query",
           "--head-reduction", "--query-reduction", "--image", "--grid", "--segment",
           "--force", "-o", "--nonsense", "--det", "-x",
           "--version", "--help"]


# ---------------------------------------------------------------------------------------------- .npy files
def header_of(data):
    """(header text, array bytes) of a version 1 file."""
    size = struct.unpack("<H", data[8:10])[0]
    return data[10:10 + size].decode("latin1"), data[10 + size:]


def build(text, body, version=1, pad=True, size=None):
    encoded = text.rstrip(" \n").encode("latin1", "replace")
    prefix = 10 if version == 1 else 12
    encoded += b" " * (-(prefix + len(encoded) + 1) % 64 if pad else 0) + b"\n"
    length = len(encoded) if size is None else size
    return MAGIC + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I",
                                                     length & (0xFFFF if version == 1 else 0xFFFFFFFF)) + encoded + body


def flip(rng, data, low, high, count):
    changed = bytearray(data)
    for _ in range(count):
        if high > low:
            changed[int(rng.integers(low, high))] ^= 1 << int(rng.integers(0, 8))
    return bytes(changed)


def elements(text):
    shape = re.search(r"\(([^)]*)\)", text).group(1)
    return int(np.prod([int(n) for n in shape.replace(" ", "").split(",") if n], dtype=object))


def edit_header(rng, text, body):
    """One edit of the header of a sound file."""
    kind = rng.choice(["descr", "shape", "grow", "fortran", "keys", "space", "version", "size", "long", "garbage",
                       "case"])
    if kind == "descr":
        new = str(rng.choice(DESCR))
        old = re.search(r"'descr': '([^']*)'", text).group(1)
        quoted = new if new.startswith("[") else f"'{new}'"
        verdict = SAME if new == old else ANY if new in READABLE else REFUSE
        return build(text.replace(f"'{old}'", quoted, 1), body), verdict
    if kind == "shape":
        new = str(rng.choice(SHAPES))
        verdict = REFUSE if "-" in new or re.search(r"\d{7}", new) or new.startswith("(1048577") else ANY
        return build(re.sub(r"\([^)]*\)", lambda _: new, text), body), verdict
    if kind == "grow":  # more rows than the file holds
        shape = [int(n) for n in re.search(r"\(([^)]*)\)", text).group(1).replace(" ", "").split(",") if n]
        at = int(rng.integers(0, len(shape)))
        shape[at] += int(rng.choice([1, 2, 1000, 2 ** 31, 2 ** 40, 2 ** 62]))
        grown = "(" + ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "") + ")"
        return build(re.sub(r"\([^)]*\)", grown, text), body), REFUSE if all(shape) else ANY
    if kind == "fortran":
        return build(text.replace("False",
                                  str(rng.choice(["True", "0", "1", "None", "'False'", "false", "Falsehood", ""]))),
                     body), ANY
    if kind == "keys":
        descr, fortran, shape = re.search(r"('descr': '[^']*'), ('fortran_order': \w+), ('shape': \([^)]*\))",
                                          text).groups()
        pick = rng.integers(0, 7)
        if pick < 2:
            order = [[shape, fortran, descr], [fortran, shape, descr]][pick]
            return build("{" + ", ".join(order) + (", }" if rng.random() < 0.5 else "}"), body), SAME
        if pick == 2:
            missing = [descr, fortran, shape]
            missing.pop(int(rng.integers(0, 3)))
            return build("{" + ", ".join(missing) + ", }", body), REFUSE
        more = [f"{{{descr}, {fortran}, {shape}, 'extra': 1, }}", f"{{{descr}, {fortran}, {shape}, {shape}, }}",
                f"{{{descr} {fortran} {shape}}}",
                "{" + f"{descr}, {fortran}, {shape}".replace("'", '"') + ", }"]
        return build(more[pick - 3], body), ANY
    if kind == "space":
        spaced = re.sub(r"([,:{}()])", lambda m: " " * int(rng.integers(0, 4)) + m.group(1)
                        + " " * int(rng.integers(0, 4)), text)
        return build(spaced.strip(), body, pad=bool(rng.random() < 0.5)), SAME
    if kind == "version":
        version = int(rng.choice([2, 3, 0, 4, 255]))
        return build(text, body, version), SAME if version in (2, 3) else ANY
    if kind == "size":
        return build(text, body, int(rng.choice([1, 2])),
                     size=int(rng.choice([0, 1, 10, 117, 119, 65535, 2 ** 31, 2 ** 32 - 1]))), ANY
    if kind == "long":
        return build(text.rstrip()[:-1] + " " * int(rng.choice([1000, 9000, 60000])) + "}", body), SAME
    if kind == "case":
        return build(text.upper(), body), ANY
    at = int(rng.integers(0, len(text)))
    junk = str(rng.choice(["\0", "#", "'", "\\", "{", "}", "(", ")", ",", ":", "\n", "\xff", "9" * 40]))
    return build(text[:at] + junk + text[at + int(rng.integers(0, 2)):], body), ANY


def damage_values(rng, name, array):
    """(array, verdict): contents that the command's rules forbid, or the same in a type that it converts; or None."""
    array = array.copy()
    if name in ("cu", "groups") and array.size > 1:
        at = int(rng.integers(0, array.size))
        kind = rng.integers(0, 5)
        if kind == 0:
            array[-1] += rng.choice([-1, 1, 1000, 2 ** 30])
        elif kind == 1:
            array[0] = rng.choice([-1, 1, -2 ** 31])
        elif kind == 2:
            array[at] = rng.choice([-5, 2 ** 31 - 1, -2 ** 31])
        elif kind == 3:
            array[:-1] = array[-1] + 1
        else:
            return array.astype(np.int64) + rng.choice([0, 2 ** 32, -2 ** 33]), ANY
        return array, REFUSE
    if name == "roles" and array.size:
        array.reshape(-1)[rng.integers(0, array.size)] = (byte := int(rng.choice([4, 7, 8, 128, 255])))
        return array, ANY if byte < 8 else REFUSE
    if name == "sizes":
        kind = rng.integers(0, 5)
        if kind == 0:  # any number is a size; less than 1 counts as 1
            array.reshape(-1)[rng.integers(0, array.size)] = rng.choice([0, -1, -2 ** 31, 2 ** 31 - 1])
            return array, ANY
        if kind == 1:
            return array.reshape(-1)[:-1], REFUSE
        if kind == 2:
            return array.astype(np.int64), SAME
        if kind == 3:
            return array.astype(np.int64) + 2 ** 32, REFUSE
        return array.astype(np.float32), ANY
    if name in ("tokens", "hidden", "cls", "q", "keys", "scores") and array.dtype.kind == "f":
        other = rng.choice(["f8", "i8", "i4", "c8", "?", "S4", "f8-rows", "f8-huge"])
        if other == "f8-rows":
            return array[:, None].astype(np.float64), ANY
        if other == "f8-huge":
            return array.astype(np.float64) * 1e300, ANY
        exact = other == "f8" and array.dtype == np.float32
        return array.astype(str(other)), SAME if exact else REFUSE if other in ("c8", "S4") else ANY
    return None


def damage_file(rng, name, array, save):
    """save(array) gives the sound bytes. Returns (bytes, verdict, what was done)."""
    data = save(array)
    if isinstance(array, bytes):
        kind = rng.choice(["flip", "cut", "empty", "more"])
    else:
        kind = rng.choice(["flip", "flip-header", "cut", "cut-header", "empty", "more", "header", "values"],
                          p=[.1, .15, .1, .05, .02, .03, .43, .12])
    if kind == "values":
        if (damaged := damage_values(rng, name, array)) is not None:
            return save(damaged[0]), damaged[1], "values"
        kind = "header"
    if kind == "header":
        bytes_, verdict = edit_header(rng, *header_of(data))
        return bytes_, verdict, "header"
    if kind == "flip":
        return flip(rng, data, 0, len(data), int(rng.integers(1, 9))), ANY, kind
    if kind == "flip-header":
        return flip(rng, data, 0, min(len(data), 128), int(rng.integers(1, 4))), ANY, kind
    if kind == "cut":
        size = int(rng.integers(0, len(data)))
        return data[:size], ANY if isinstance(array, bytes) else REFUSE, kind
    if kind == "cut-header":
        return data[:int(rng.integers(0, 128))], REFUSE, kind
    if kind == "empty":
        return b"", REFUSE, kind
    return data + rng.bytes(int(rng.choice([1, 4, 100, 5000]))), ANY, kind


# ---------------------------------------------------------------------------------------------- arguments
def damage_argv(rng, argv):
    """argv[0] is the subcommand. One to three edits."""
    argv = list(argv)
    for _ in range(int(rng.choice([1, 1, 2, 3]))):
        at = int(rng.integers(0, len(argv))) if argv else 0
        kind = rng.choice(["drop", "twice", "swap", "value", "value", "option", "add", "add", "add", "equals", "cut",
                           "chars", "end", "same-output", "over-input"])
        if kind == "drop" and argv:
            argv.pop(at)
        elif kind == "twice" and argv:
            argv[at:at] = argv[at:at + 2]
        elif kind == "swap" and len(argv) > 2:
            other = int(rng.integers(0, len(argv)))
            argv[at], argv[other] = argv[other], argv[at]
        elif kind == "value" and argv:
            argv[at] = str(rng.choice(VALUES))
        elif kind == "option" and argv:
            argv[at] = str(rng.choice(OPTIONS))
        elif kind == "equals":
            argv.append(f"{rng.choice(OPTIONS)}={rng.choice(VALUES)}")
        elif kind == "cut" and argv:
            argv = argv[:at]
        elif kind == "chars" and argv and argv[at]:
            spot = int(rng.integers(0, len(argv[at])))
            argv[at] = argv[at][:spot] + str(rng.choice(list("-=:.x9 \n%é"))) + argv[at][spot + 1:]
        elif kind == "end":
            argv.append(str(rng.choice(OPTIONS)))
        elif kind == "same-output":
            argv += ["--kept", "same.npy", "--counts", "same.npy"]
        elif kind == "over-input":  # the last of an option counts, so this may name an input as an output
            argv += [str(rng.choice(["--kept", "--counts", "--out", "--mask"])),
                     str(rng.choice([w for w in argv if w.endswith(".npy")] or ["x"]))]
        else:
            argv += [str(rng.choice(OPTIONS)), str(rng.choice(VALUES))]
    for i, word in enumerate(argv):  # a long --repeat is a wish, not a hang
        if word == "--repeat" and i + 1 < len(argv) and len(argv[i + 1]) > 2:
            argv[i + 1] = "3"
        elif word.startswith("--repeat=") and len(word) > 11:
            argv[i] = "--repeat=3"
    return [word.replace("\0", "") for word in argv]
