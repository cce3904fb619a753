# SPDX-License-Identifier: Apache-2.0
"""tables.py [--check | --summary FILE... | --join FILE PART...]

Writes the README's CUDA figures, between its markers, from bench/results/<gpu>/*.json, as
tailcut bench --device cuda --json and compare_cuda.py --json leave them. What no file there has
says "not measured". Of several files that have a row the newest counts; what a simulator wrote
never does. --check changes nothing and exits with status 1 when the README says something else.
--summary only prints the targets (targets.py) beside what these files have measured. --join makes
one file of several runs of one tool.
"""
import json
import pathlib
import sys

import targets
from targets import BENCH, COMPARE

ROOT = pathlib.Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- cuda figures -->", "<!-- end -->"
NONE = "not measured"
LEGEND = ("Nodes of a CUDA graph; 576 x 1024 fp16 where no\nother size is named; a hot L2 for up "
          "to "
          "8 images and for cuts, else a cold one; x: times as long as tailcut.")


def stop(message):
    sys.exit("tables.py: " + message)


def read_results(paths):
    """{tool: [rows, each with its file's device name and date]}, newest last."""
    found = {BENCH: [], COMPARE: []}
    for path in sorted(paths):
        try:
            with open(path, encoding="utf-8") as file:
                result = json.load(file)
            tool = result["tool"].replace("tailcut_bench", BENCH)  # its name before 0.2
            device = result["device"]
            rows = [dict(row, device=device["name"], date=result["date"]) for row in result["rows"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
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


def measured(results, target):
    """The row that counts, or None: of several the one that the target's fastest rival gave."""
    rows = [pick(results[target.tool], **wanted) for wanted in target.rows]
    if target.base:
        base = pick(results[target.tool], **target.base)
        rows = [dict(row, ratio=row["us_median"] / base["us_median"])
                for row in rows if row and base]
    return min((row for row in rows if row), key=target.value, default=None)


def figure(results, target):
    row = measured(results, target)
    if row is None:
        return NONE
    return mark(row, target.text(target.value(row)))


def bounds(target):
    if target.must is None:
        return "-"
    least = "<=" if target.unit == targets.US else ">="
    return f"{least} {target.bound(target.must)}"


def table(results):
    lines = ["| what | must (H100) | stretch | measured | command |", "|---|---|---|---|---|"]
    last = None
    for target in targets.TARGETS:
        shown = f"`{target.command}`" if target.command else "-"
        if target.command and target.command == last:
            shown = "same command"
        last = target.command
        lines.append(f"| {target.what} | {bounds(target)} | {target.bound(target.stretch)} "
                     f"| {figure(results, target)} | {shown} |")
    return "\n".join(lines)


def summary(results):
    """Lines of text, and how many musts hold, fail and were not measured."""
    lines = [f"{'':4} {'what':60} {'measured':>22} {'must':>11} {'stretch':>9}"]
    held = {"yes": 0, "NO": 0, "-": 0}
    for target in targets.TARGETS:
        row = measured(results, target)
        word = "-"
        if row is not None and target.must is not None:
            word = "yes" if target.holds(target.value(row), target.must) else "NO"
        held[word] += target.must is not None
        if word == "yes" and target.stretch and target.holds(target.value(row), target.stretch):
            word = "yes+"
        lines.append(f"{word:4} {target.what:60} {figure(results, target):>22} "
                     f"{bounds(target):>11} {target.bound(target.stretch):>9}")
    lines.append(f"{held['yes']} targets hold (yes+: the stretch too), {held['NO']} do not, "
                 f"{held['-']} were not measured")
    return "\n".join(lines)


def figures():
    folders = sorted(path for path in (ROOT / "bench" / "results").glob("*")
                     if path.is_dir() and path.name != "quality")  # quality/report.py's
    parts = []
    for folder in folders:
        results = read_results(folder.glob("*.json"))
        rows = results[BENCH] + results[COMPARE]
        if rows:
            newest = max(rows, key=lambda row: row["date"])
            where = f"{newest['device']}, {newest['date'][:10]} (`bench/results/{folder.name}`)"
            parts.append(f"{where}. {LEGEND}\n\n{table(results)}")
    return "\n\n".join(parts) or table({BENCH: [], COMPARE: []})


def join(to, *parts):
    results = [json.loads(pathlib.Path(part).read_text(encoding="utf-8")) for part in parts]
    whole = dict(results[0], rows=[row for result in results for row in result["rows"]])
    pathlib.Path(to).write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


def main():
    if sys.argv[1:2] == ["--summary"] and len(sys.argv) > 2:
        print(summary(read_results([pathlib.Path(name) for name in sys.argv[2:]])))
        return
    if sys.argv[1:2] == ["--join"] and len(sys.argv) > 3:
        join(*sys.argv[2:])
        return
    if sys.argv[1:] not in ([], ["--check"]):
        stop("usage: tables.py [--check | --summary FILE... | --join FILE PART...]")
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
