# SPDX-License-Identifier: Apache-2.0
"""pictures.py TAILCUT: what inspect and view draw: text clear of the curve, NaN and spread shown, kept and dropped patches told apart."""
import re
import struct
import sys
import xml.etree.ElementTree as ElementTree
import zlib

import numpy as np

from command import case, good, main, refused, run

SVG = "{http://www.w3.org/2000/svg}"
WIDEST = 0.68  # of a character, in font sizes, on average: wider than DejaVu Sans, which is wide


def curves():
    """Score curves of many shapes, by name."""
    rng = np.random.default_rng(2)
    rank = np.arange(300)
    found = {
        "exponential": np.exp(-rank / 40), "line": 1 - rank / 300, "concave": np.sqrt(1 - (rank / 300) ** 2), "flat": np.full(300, 0.25),
        "cliff": np.where(rank < 270, 0.9, 0.1), "early cliff": np.where(rank < 4, 0.9, 0.1), "plateau, fall, floor": 1 / (1 + np.exp((rank - 150) / 5)),
        "normal": rng.normal(size=5000), "huge": rng.normal(size=300) * 1e30, "tiny": rng.normal(size=300) * 1e-30, "negative": -np.exp(rank / 40),
        "two": np.array([1.0, -1.0]), "one": np.array([0.5]), "three": np.array([0.3, 0.2, 0.1]),
    }
    with_nan = rng.normal(size=256)
    with_nan[10:31] = np.nan
    found["nan"] = with_nan
    with_inf = rng.normal(size=600)
    with_inf[[4, 8, 9]] = np.nan, np.inf, -np.inf
    found["infinities"] = with_inf
    found["one number"] = np.where(rank == 7, 0.5, np.nan)
    found["all nan"] = np.full(30, np.nan)
    found["none"] = np.zeros(0)
    return {name: rng.permutation(s).astype(np.float32) for name, s in found.items()}


RULES = [["--detector", d] for d in ("otsu", "chord", "gap", "curvature", "iqr", "mean")] + [
    ["--detector", "threshold", "--tau", "0.21"], ["--detector", "threshold", "--tau", "-1e9"], ["--detector", "topk", "--k", "299"],
    ["--detector", "topk", "--k", "40", "--spread", "0.5"], ["--detector", "mass", "--mass", "0.5", "--spread", "1"],
    ["--order", "low"], ["--order", "low", "--detector", "chord"], ["--order", "low", "--detector", "topk", "--k", "9", "--spread", "0.4"]]


def text_box(element):
    """left, top, right, bottom: no smaller than what the text covers."""
    size = float(element.get("font-size", 12))
    length = WIDEST * size * len(element.text or "")
    x, y = float(element.get("x", 0)), float(element.get("y", 0))
    if (moved := re.match(r"translate\(([-\d.]+) ([-\d.]+)\) rotate\(-90\)", element.get("transform", ""))):
        x, y = map(float, moved.groups())
        return x - size, y - length / 2, x + 0.3 * size, y + length / 2
    left = {"start": x, "middle": x - length / 2, "end": x - length}[element.get("text-anchor", "start")]
    return left, y - 0.85 * size, left + length, y + 0.25 * size


def crosses(box, a, b):
    """The segment from a to b meets the box (Liang and Barsky)."""
    low, high = 0.0, 1.0
    for axis in (0, 1):
        step = b[axis] - a[axis]
        first, last = box[axis] - a[axis], box[axis + 2] - a[axis]
        if step == 0:
            if first > 0 or last < 0:
                return False
            continue
        first, last = sorted((first / step, last / step))
        low, high = max(low, first), min(high, last)
    return low <= high


def points_of(element):
    numbers = [float(n) for n in element.get("points").split()]
    return list(zip(numbers[::2], numbers[1::2]))


def texts_of(root):
    """Texts with the font size that they inherit."""
    found = []
    for parent in root.iter():
        for child in parent:
            if child.tag == SVG + "text":
                if child.get("font-size") is None and parent.get("font-size") is not None:
                    child.set("font-size", parent.get("font-size"))
                found.append(child)
    return found


@case
def text_is_clear():
    """No text meets the curve, another text or the edge of the picture, for any shape of curve and rule."""
    seen = set()
    for name, scores in curves().items():
        np.save("s.npy", scores)
        for rule in RULES:
            good("inspect", "--scores", "s.npy", *rule, "-o", "c.svg")
            root = ElementTree.parse("c.svg").getroot()
            width, height = float(root.get("width")), float(root.get("height"))
            boxes = [(text_box(t), t.text) for t in texts_of(root)]
            lines = [points_of(p) for p in root.iter(SVG + "polyline")]
            seen.update(t for _, t in boxes)
            assert np.isfinite([p for line in lines for p in line]).all(), (name, rule)
            for i, (box, text) in enumerate(boxes):
                assert 0 <= box[0] and 0 <= box[1] and box[2] <= width and box[3] <= height, (name, rule, text, box)
                if len(scores) and "no score" in text:
                    continue
                for line in lines:
                    for a, b in zip(line, line[1:]):
                        assert not crosses((box[0] - 1, box[1] - 1, box[2] + 1, box[3] + 1), a, b), (name, rule, text, box, a, b)
                for other, what in boxes[:i]:
                    narrow = [b[0] + 0.1 * (b[2] - b[0]) for b in (box, other)] + [b[2] - 0.1 * (b[2] - b[0]) for b in (box, other)]
                    apart = narrow[2] <= narrow[1] or narrow[3] <= narrow[0] or box[3] <= other[1] or other[3] <= box[1]
                    assert apart, (name, rule, text, what, box, other)
    for word in ("mean of the head", "mean of the tail", "level", "tau", "21 NaN", "score", "rank"):
        assert word in seen, word
    assert any(t.startswith("k = ") for t in seen) and any(t.startswith("spread 0.5:") for t in seen)


def shown(*argv):
    done = run("inspect", *argv)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


@case
def nan_rows():
    """NaN are counted and have a region of their own at the right, however few they are."""
    for count, n in ((1, 600), (21, 256), (30, 30), (1, 2)):
        s = np.random.default_rng(1).random(n).astype(np.float32)
        s[:count] = np.nan
        np.save("s.npy", s)
        text = shown("--scores", "s.npy", "-o", "c.svg")
        assert f"NaN: {count} of {n} scores, ranks {n - count}..{n - 1} (':')\n" in text, text
        rows = [line.split("|", 1)[1] for line in text.splitlines() if line[10:12] == " |" and line[12:].strip(" #.:|") == ""]
        assert len(rows) == 16 and all(row.rstrip().endswith(":") for row in rows), text
        root = ElementTree.parse("c.svg").getroot()
        band, = [r for r in root.iter(SVG + "rect") if r.get("class") == "nan"]
        left, right = float(band.get("x")), float(band.get("x")) + float(band.get("width"))
        assert right - left >= 8
        for line in root.iter(SVG + "polyline"):
            assert all(x <= left + 0.1 for x, _ in points_of(line))
    np.save("s.npy", np.arange(9, dtype=np.float32))
    assert "NaN" not in shown("--scores", "s.npy", "-o", "c.svg") and "nan" not in open("c.svg").read().lower()


@case
def spread_ranks():
    """The ranks that a spread takes are those that prune keeps, printed and marked."""
    s = np.random.default_rng(5).permutation(200).astype(np.float32)
    order = np.argsort(-s, kind="stable")
    for k, f in ((10, 0.5), (11, 0.4), (3, 1.0), (200, 0.3), (12, 0.99)):
        np.save("s.npy", s)
        rule = ["--scores", "s.npy", "--detector", "topk", "--k", k, "--spread", f]
        good("cut", *rule, "--kept", "kept.npy")
        ranks = np.flatnonzero(np.isin(order, np.load("kept.npy")))
        t = int(f * k)
        text = shown(*rule, "-o", "c.svg")
        line, = [row for row in text.splitlines() if row.startswith("spread")]
        head, listed = line.split(", ranks ")
        assert head == f"spread {f:g}: the {k - t} best and {t} of the tail", line
        tail = [str(r) for r in ranks[k - t:]]
        assert listed.split() == (tail if t <= 12 else tail[:11] + ["..."] + tail[-1:]), (line, tail)
        marks = [row for row in text.splitlines() if "^" in row]
        assert len(marks) == 1 and 1 <= marks[0].count("^") <= t
        root = ElementTree.parse("c.svg").getroot()
        assert len(list(root.iter(SVG + "circle"))) == t
        assert f"{k} of 200 tokens kept" in "".join(t.text for t in texts_of(root))
    assert "^" not in shown("--scores", "s.npy", "--detector", "topk", "--k", 10)


@case
def lowest_kept():
    """With --order low the curve rises, the head is its low end, and the levels are where the rule has them."""
    s = np.random.default_rng(6).normal(size=500).astype(np.float32)
    s[:5] = np.nan
    np.save("s.npy", s)
    for rule in (["--detector", "mean", "--lambda", "0.5"], ["--detector", "otsu"], ["--detector", "threshold", "--tau", "-0.5"]):
        text = shown("--scores", "s.npy", "--order", "low", *rule, "-o", "c.svg")
        good("cut", "--scores", "s.npy", "--order", "low", *rule, "--kept", "kept.npy")
        kept = np.sort(s[np.load("kept.npy")])
        assert f"k = {len(kept)} of N = 500" in text and np.array_equal(kept, np.sort(s)[:len(kept)])
        said = {m[1]: float(m[2]) for m in re.finditer(r"^(level|tau|mean of the head|mean of the tail) (\S+)$", text, re.M)}
        if "otsu" in rule:
            assert abs(said["mean of the head"] - kept.mean(dtype=np.float64)) < 1e-4 < said["mean of the tail"]
        else:
            level, = said.values()
            assert kept[-1] <= level + 1e-3 and np.sort(s)[len(kept)] >= level - 1e-3, (text, level)
        assert f"score at the cut {kept[-1]:.6g}" in text
        heights = [y for line in ElementTree.parse("c.svg").getroot().iter(SVG + "polyline") for _, y in points_of(line)]
        tail, head = [points_of(line) for line in ElementTree.parse("c.svg").getroot().iter(SVG + "polyline")]
        for line in (tail, head):
            assert all(a[1] >= b[1] for a, b in zip(line, line[1:]))  # upwards: y falls
        assert head[0][1] == max(heights) and tail[-1][1] == min(heights)
        top, = [row for row in text.splitlines() if row.strip().startswith(f"{np.nanmax(s):.3g} |")]
        assert "." in top and "#" not in top


# ------------------------------------------------------------------------------------------- view
def png(width, height, grey=0):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    rows = (b"\0" + bytes([grey]) * width) * height
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(rows))
            + chunk(b"IEND", b""))


def write(name, data):
    with open(name, "wb") as stream:
        stream.write(data)


def covered(rects, x, y):
    return any(float(r.get("x")) < x < float(r.get("x")) + float(r.get("width")) and
               float(r.get("y")) < y < float(r.get("y")) + float(r.get("height")) for r in rects)


def patches(rows, columns, width, height):
    """(kept, dropped, outline sides) as the picture v.svg has them."""
    root = ElementTree.parse("v.svg").getroot()
    clip, = root.iter(SVG + "clipPath")
    dim, = [g for g in root.iter(SVG + "g") if g.get("fill-opacity")]
    path, = [p for p in root.iter(SVG + "path") if p.get("id") == "outline"]
    w, h = width / columns, height / rows
    kept, dropped, sides = set(), set(), set()
    for r in range(rows):
        for c in range(columns):
            at = (c + 0.5) * w, (r + 0.5) * h
            if covered(list(clip), *at):
                kept.add(r * columns + c)
            if covered(list(dim), *at):
                dropped.add(r * columns + c)
    for x, y, way, end in re.findall(r"M([-\d.e+]+) ([-\d.e+]+)([HV])([-\d.e+]+)", path.get("d")):
        x, y, end = float(x), float(y), float(end)
        first, last = (x / w, end / w) if way == "H" else (y / h, end / h)
        for i in range(round(first), round(last)):
            sides.add((way, round(y / h) if way == "H" else i, i if way == "H" else round(x / w)))
    return kept, dropped, sides


@case
def told_apart():
    """Every patch is kept or dimmed; the two-toned outline runs along exactly the sides of kept regions."""
    rng = np.random.default_rng(7)
    rows, columns, width, height = 6, 8, 80, 60
    write("i.png", png(width, height))
    for share in (0, 0.1, 0.5, 0.9, 1):
        keep = rng.random((rows, columns)) < share
        np.save("kept.npy", np.flatnonzero(keep).astype(np.int32))
        assert good("view", "--image", "i.png", "--grid", f"{rows}x{columns}", "--kept", "kept.npy", "-o", "v.svg") == ""
        kept, dropped, sides = patches(rows, columns, width, height)
        assert kept == set(np.flatnonzero(keep)) and dropped == set(np.flatnonzero(~keep))
        framed = np.pad(keep, 1)
        want = {("H", r, c) for r in range(rows + 1) for c in range(columns) if framed[r, c + 1] != framed[r + 1, c + 1]}
        want |= {("V", r, c) for r in range(rows) for c in range(columns + 1) if framed[r + 1, c] != framed[r + 1, c + 1]}
        assert sides == want
    uses = [(u.get("stroke"), u.get("{http://www.w3.org/1999/xlink}href")) for u in ElementTree.parse("v.svg").getroot().iter(SVG + "use")]
    assert uses == [("#000000", "#outline"), ("#ffffff", "#outline")]  # dark on both sides, light over it inside


@case
def segments():
    """--segment with --counts picks a segment of a packed KEPT; what does not fit is refused."""
    write("i.png", png(40, 40))
    view = ["view", "--image", "i.png", "--grid", "4x4", "--kept", "kept.npy", "-o", "v.svg"]
    parts = [[1, 5], [], [0, 1, 2, 15], [7]]
    np.save("kept.npy", np.concatenate(parts).astype(np.int32))
    np.save("k.npy", np.array([len(p) for p in parts], np.int32))
    refused(1, ["kept.npy", "index 0 follows 5", "--counts", "--segment"], *view)
    for b, part in enumerate(parts):
        good(*view, "--counts", "k.npy", "--segment", b)
        assert patches(4, 4, 40, 40)[0] == set(part)
    good(*view, "--counts", "k.npy")
    assert patches(4, 4, 40, 40)[0] == set(parts[0])
    refused(1, ["--segment", "4", "k.npy"], *view, "--counts", "k.npy", "--segment", 4)
    refused(2, ["--counts"], *view, "--segment", 0)
    for counts in ([2, 0, 4], [2, 0, 4, 2], [2, -1, 5, 1], [[2, 5]]):
        np.save("bad.npy", np.array(counts, np.int32))
        refused(1, ["bad.npy"], *view, "--counts", "bad.npy", "--segment", 0)
    np.save("kept64.npy", np.array([1, 2]))
    assert "kept64.npy: int64 converted to int32" in good(*view[:-3], "kept64.npy", "-o", "v.svg")
    np.save("mask.npy", np.zeros(16, bool))
    refused(1, ["mask.npy", "bool", "np.flatnonzero"], *view[:-3], "mask.npy", "-o", "v.svg")


@case
def joined_patches():
    """What joins a kept patch is tinted alike, each kept patch has a colour of its own; what is lost is dimmed; joins that do not fit
    the kept patches are refused."""
    write("i.png", png(40, 40))
    joins = np.int32([0, 0, 2, 2, 0, -1, 2, 7, 8, 8, -1, 7, 0, 0, 2, 15])
    kept = [0, 2, 7, 8, 15]
    np.save("kept.npy", np.int32(kept + kept))
    np.save("counts.npy", np.int32([5, 5]))
    other = np.where(joins == 2, 8, joins)
    other[2] = 2
    np.save("j.npy", np.concatenate([joins, other]).astype(np.int32))
    view = ["view", "--image", "i.png", "--grid", "4x4", "--kept", "kept.npy", "--counts", "counts.npy", "-o", "v.svg", "--joins"]
    for segment, want in enumerate((joins, other)):
        good(*view, "j.npy", "--segment", segment)
        root = ElementTree.parse("v.svg").getroot()
        groups = [g for g in root.iter(SVG + "g") if g.get("fill-opacity")]
        assert [i for i in range(16) if covered(list(groups[0]), i % 4 * 10 + 5, i // 4 * 10 + 5)] == list(np.flatnonzero(want < 0))
        found, spots = {}, {}
        for g in groups[1:]:
            spot, = g.iter(SVG + "ellipse")
            host = int(float(spot.get("cx")) // 10 + float(spot.get("cy")) // 10 * 4)
            spots[host] = g.get("fill")
            found[host] = [i for i in range(16) if covered(list(g.iter(SVG + "rect")), i % 4 * 10 + 5, i // 4 * 10 + 5)]
        assert found == {k: [i for i in range(16) if want[i] == k and i != k] for k in kept if (want == k).sum() > 1}
        assert len(set(spots.values())) == len(spots)
    np.save("one.npy", joins)
    refused(1, ["--segment", "1", "one.npy"], *view, "one.npy", "--segment", 1)
    for at, value in ((1, 1), (0, 2), (5, -2), (5, 16)):
        bad = joins.copy()
        bad[at] = value
        np.save("bad.npy", bad)
        refused(1, ["bad.npy", f"patch {at}"], *view, "bad.npy")
    np.save("bad.npy", joins[:15])
    refused(1, ["bad.npy", "[15]"], *view, "bad.npy")


@case
def shape_of_the_grid():
    """A grid that makes long patches is refused with both shapes and the way past; squeezed photographs pass."""
    np.save("kept.npy", np.array([0], np.int32))
    for width, height, grid, fits in ((640, 480, "24x32", True), (640, 480, "32x24", False), (640, 480, "16x16", True), (480, 640, "16x16", True),
                                      (600, 400, "16x16", True), (600, 400, "24x16", False), (1000, 100, "16x16", False), (100, 1000, "4x40", False),
                                      (100, 1000, "40x4", True), (7, 5, "1x1", True)):
        write("i.png", png(width, height))
        view = ["view", "--image", "i.png", "--grid", grid, "--kept", "kept.npy", "-o", "v.svg"]
        if fits:
            good(*view)
        else:
            refused(1, ["--grid", grid, "i.png", f"{width}x{height}", "--force"], *view)
            good(*view, "--force")


@case
def images_on_pipes():
    """The image comes in by a pipe too; the picture is the same."""
    write("i.png", png(64, 64, 9))
    np.save("kept.npy", np.array([0, 3], np.int32))
    good("view", "--image", "i.png", "--grid", "4x4", "--kept", "kept.npy", "-o", "a.svg")
    good("view", "--image", "-", "--grid", "4x4", "--kept", "kept.npy", "-o", "b.svg", data=png(64, 64, 9))
    assert open("a.svg").read() == open("b.svg").read()
    refused(1, ["(standard input)", "PNG"], "view", "--image", "-", "--grid", "4x4", "--kept", "kept.npy", "-o", "b.svg", data=b"GIF89a")


if __name__ == "__main__":
    sys.exit(main())
