# SPDX-License-Identifier: Apache-2.0
"""report.py [--check]

Writes the README's tables of the quality bench, between their markers, and the picture
bench/pictures/quality.svg, from bench/results/quality/quality.json, which quality.py leaves.
--check changes nothing and exits with status 1 when they say something else. Needs Python alone.
"""
import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
BEGIN, END = "<!-- quality figures -->", "<!-- end of quality -->"
LAYERS, SHARE, SHARES = (4, 6, 8, 10), 0.22, (0.5, 0.33, 0.22, 0.11)
RULES = {"cosine": "cosine to CLS", "spread": "cosine, spread 0.5", "random": "random",
         "grid": "grid", "pooling": "pooling", "novelty": "novelty"}
HOWS = {"drop": "dropped", "merge": "merged, sizes used", "sizes": "dropped, sizes used",
        "nosize": "merged, sizes not used"}
LINES = (("cosine", "drop", "#b5495b"), ("spread", "drop", "#d98a2b"),
         ("random", "drop", "#8c959f"), ("grid", "drop", "#57606a"), ("novelty", "drop", "#4c78c8"),
         ("random", "merge", "#8c959f"), ("novelty", "merge", "#2f9e5b"))
WIDTH, HEIGHT, LEFT, TOP = 250, 220, 44, 34


class Results:
    def __init__(self, path):
        self.all = json.loads(path.read_text(encoding="utf-8"))
        self.rows = {(row["rule"], row["how"], row["layer"], row["share"]): row
                     for row in self.all["rows"]}

    def has(self, rule, how, share=SHARE):
        return all((rule, how, layer, share) in self.rows for layer in LAYERS)

    def figures(self, rule, how, key, share=SHARE):
        return " ".join(f"{self.rows[rule, how, layer, share][key]:.3f}" for layer in LAYERS)


def rows_of(results):
    return [(rule, how) for rule in RULES for how in HOWS if results.has(rule, how)]


def tables(results):
    whole = results.all
    kinds = {kind: whole["kinds"].count(kind) for kind in ("photograph", "document", "texture")}
    kept = results.rows["novelty", "merge", 6, SHARE]["kept"]
    what = ", ".join(f"{n} {kind}s" for kind, n in kinds.items())
    lines = [f"{len(whole['images'])} images ({what}), {kept} of {whole['patches']} patches kept "
             f"(22%),\nafter layers 4, 6, 8, 10 of {whole['layers']} (counted from 0); random: "
             f"{whole['seeds']} seeds.\n{whole['date'][:10]}, `./run bench --quality`.", "",
             "| rule | the other patches | CLS, mean | CLS, worst image | dense | retrieval |",
             "|---|---|---|---|---|---|"]
    for rule, how in rows_of(results):
        values = [results.figures(rule, how, key)
                  for key in ("cls", "cls_worst", "dense", "retrieval")]
        lines.append(f"| {RULES[rule]} | {HOWS[how]} | {' | '.join(values)} |")
    lines += ["", "CLS, mean, by the share that is kept:", "",
              f"| rule | the other patches | {' | '.join(f'{share:.0%}' for share in SHARES)} |",
              "|---|---|" + "---|" * len(SHARES)]
    for rule, how in rows_of(results):
        if all(results.has(rule, how, share) for share in SHARES):
            values = [results.figures(rule, how, "cls", share) for share in SHARES]
            lines.append(f"| {RULES[rule]} | {HOWS[how]} | {' | '.join(values)} |")
    return "\n".join(lines)


def panel(results, x0, title, axis, places, key, low):
    """One diagram: `places` are (label, key of results.rows without rule and how)."""
    def x(i):
        return x0 + LEFT + 8 + i * (WIDTH - LEFT - 24) / (len(places) - 1)

    def y(value):
        return TOP + (1 - max(value, low)) / (1 - low) * HEIGHT

    def text(at, height, words, place="middle", colour="#57606a"):
        return (f'<text x="{at:.1f}" y="{height:.1f}" text-anchor="{place}" '
                f'fill="{colour}">{words}</text>')

    parts = [text(x0 + LEFT, 20, title, "start", "#1f2328")]
    for i in range(6):
        value = low + (1 - low) * i / 5
        parts.append(f'<path d="M{x0 + LEFT} {y(value):.1f}H{x0 + WIDTH}" stroke="#d8dce2"/>')
        parts.append(text(x0 + LEFT - 6, y(value) + 4, f"{value:.2f}", "end"))
    for i, (label, _place) in enumerate(places):
        parts.append(text(x(i), TOP + HEIGHT + 18, label))
    parts.append(text(x0 + (LEFT + WIDTH) / 2, TOP + HEIGHT + 36, axis))
    for rule, how, colour in LINES:
        points = [(x(i), y(results.rows[rule, how, layer, share][key]))
                  for i, (_label, (layer, share)) in enumerate(places)]
        dash = ' stroke-dasharray="5 4"' if how == "drop" else ""
        line = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" '
                     f'stroke-width="2"{dash}/>')
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2.5" fill="{colour}"/>'
                  for a, b in points]
    return parts


def picture(results):
    step, width, height = WIDTH + 26, 3 * (WIDTH + 26), TOP + HEIGHT + 100
    layers = [(str(layer), (layer, SHARE)) for layer in range(4, 11)]
    shares = [(f"{share:.0%}", (6, share)) for share in SHARES]
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
             f'width="{width}" height="{height}" font-family="sans-serif" font-size="11">',
             f'<rect width="{width}" height="{height}" rx="8" fill="#ffffff"/>']
    lines += panel(results, 0, "CLS, mean", "22% kept after layer", layers, "cls", 0.75)
    lines += panel(results, step, "CLS, worst image", "22% kept after layer", layers, "cls_worst",
                   0.0)
    lines += panel(results, 2 * step, "CLS, mean", "kept after layer 6", shares, "cls", 0.75)
    for i, (rule, how, colour) in enumerate(LINES):
        x, y = LEFT + (i % 4) * 190, TOP + HEIGHT + 62 + 20 * (i // 4)
        dash = ' stroke-dasharray="5 4"' if how == "drop" else ""
        lines.append(f'<path d="M{x} {y - 4}h24" stroke="{colour}" stroke-width="2"{dash}/>')
        lines.append(f'<text x="{x + 30}" y="{y}" fill="#1f2328">{RULES[rule]}, '
                     f'{HOWS[how].split(",")[0]}</text>')
    return "\n".join(lines) + "\n</svg>\n"


def main():
    if sys.argv[1:] not in ([], ["--check"]):
        raise SystemExit("usage: report.py [--check]")
    results = Results(ROOT / "bench/results/quality/quality.json")
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    begin, end = text.find(BEGIN), text.find(END)
    if begin < 0 or end < begin:
        raise SystemExit(f"report.py: README.md has no {BEGIN} ... {END}")
    wanted = {readme: f"{text[:begin]}{BEGIN}\n{tables(results)}\n{text[end:]}",
              ROOT / "bench/pictures/quality.svg": picture(results)}
    for path, content in wanted.items():
        if path.is_file() and path.read_text(encoding="utf-8") == content:
            continue
        if sys.argv[1:]:
            raise SystemExit(f"{path}: not what bench/results/quality says; run report.py")
        path.write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
