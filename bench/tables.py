# SPDX-License-Identifier: Apache-2.0
"""tables.py [--check]

Writes the README's CUDA figures, between its markers, from bench/results/<gpu>/*.json, as
tailcut bench --device cuda --json and compare_cuda.py --json leave them. What no file there has says
"not measured". Of several files that have a row the newest counts; what a simulator wrote never does.
--check changes nothing and exits with status 1 when the README says something else.
"""
import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- cuda figures -->", "<!-- end -->"
BENCH, COMPARE = "tailcut bench", "compare_cuda"
NONE = "not measured"


def stop(message):
    sys.exit("tables.py: " + message)


def read_results(folder):
    """{tool: [rows, each with its file's device name and date]}, newest last."""
    found = {BENCH: [], COMPARE: []}
    for path in sorted(folder.glob("*.json")):
        try:
            with open(path, encoding="utf-8") as file:
                result = json.load(file)
            tool, device = result["tool"].replace("tailcut_bench", BENCH), result["device"]  # its name before 0.2
            rows = [dict(row, device=device["name"], date=result["date"]) for row in result["rows"]]
        except (ValueError, KeyError, TypeError) as error:
            stop(f"{path}: no result of the benchmark ({error!r})")
        if device.get("simulated") or "simulated" in device["name"]:
            print(f"tables.py: {path}: simulated, left out", file=sys.stderr)
        elif tool in found:
            found[tool] += rows
    for rows in found.values():
        rows.sort(key=lambda row: row["date"])
    return found


def pick(rows, **wanted):
    """The newest row that has these values, or None."""
    fits = [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]
    return fits[-1] if fits else None


def mark(row, text):
    return text + (" (AMBIGUOUS)" if row["ambiguous"] else "")


def bench_row(results, segments, cache, how):
    return pick(results[BENCH], name=f"prune_visual {how}", segments=segments, tokens=576, dim=1024,
                dtype="f16", l2=cache)


def both_caches(results, segments, how):
    """Microseconds per node, hot and cold."""
    parts = []
    for cache in ("hot", "cold"):
        row = bench_row(results, segments, cache, how)
        if row:
            parts.append(mark(row, f"{row['us_median']:.2f} us {cache}"))
    return ", ".join(parts) or NONE


def copy_share(results, segments):
    parts = []
    for how in ("in place", "packed"):
        row = bench_row(results, segments, "cold", how)
        if row:
            parts.append(mark(row, f"{100 * row['copy_share']:.0f}% {how} ({row['us_median']:.1f} us)"))
    return ", ".join(parts) or NONE


def times_torch(results, way, kind):
    """How many times as long the faster of PyTorch's forms takes, for one image."""
    rows = [pick(results[COMPARE], way=way, name=f"{kind}, {label}", segments=1, dtype="f16")
            for label in ("cosine_similarity", "matrix x vector")]
    rows = [row for row in rows if row]
    if not rows:
        return NONE
    best = min(rows, key=lambda row: row["ratio"])
    return mark(best, f"{best['ratio']:.1f} times as long")


def table(results):
    timed = "./run bench --device cuda --filter prune_visual/{}x576x1024/f16"
    compared = "./run bench --torch --device cuda"
    lines = [
        ("1 image, 576 x 1024 fp16, in place, a graph node", "<= 3.8 us",
         both_caches(results, 1, "in place"), timed.format(1)),
        ("the same, packed", "<= 3.8 us", both_caches(results, 1, "packed"), "same command"),
        ("8 images, in place", "<= 1.3 x 1 image's", both_caches(results, 8, "in place"),
         timed.format(8)),
        ("64 images, of the copy bandwidth", ">= 90%", copy_share(results, 64),
         timed.format(64)),
        ("256 images, of the copy bandwidth", ">= 90%", copy_share(results, 256),
         timed.format(256)),
        ("1 image in PyTorch, eager, calls on a stream", "", times_torch(results, "stream", "eager"),
         compared),
        ("1 image with torch.compile, calls on a stream", "",
         times_torch(results, "stream", "compile"), "same command"),
        ("1 image with torch.compile, in a CUDA graph", "",
         times_torch(results, "graph", "compile"), "same command"),
    ]
    text = ["| what | target (H100) | measured | command |", "|---|---|---|---|"]
    for what, target, measured, command in lines:
        shown = command if command == "same command" else f"`{command}`"
        text.append(f"| {what} | {target or '-'} | {measured} | {shown} |")
    return "\n".join(text)


def figures():
    folders = sorted(path for path in (ROOT / "bench" / "results").glob("*") if path.is_dir())
    parts = []
    for folder in folders:
        results = read_results(folder)
        rows = results[BENCH] + results[COMPARE]
        if rows:
            newest = max(rows, key=lambda row: row["date"])
            parts.append(f"{newest['device']}, {newest['date'][:10]} (`bench/results/{folder.name}`):"
                         f"\n\n{table(results)}")
    return "\n\n".join(parts) or table({BENCH: [], COMPARE: []})


def main():
    if sys.argv[1:] not in ([], ["--check"]):
        stop("usage: tables.py [--check]")
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    begin, end = text.find(BEGIN), text.find(END)
    if begin < 0 or end < begin:
        stop(f"README.md has no {BEGIN} ... {END}")
    new = f"{text[:begin]}{BEGIN}\n{figures()}\n{text[end:]}"
    if sys.argv[1:] == ["--check"]:
        if new != text:
            stop("README.md is not what bench/results says; run bench/tables.py")
    elif new != text:
        readme.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
