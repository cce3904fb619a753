# SPDX-License-Identifier: Apache-2.0
"""method.py SOURCE: the specification (src/METHOD.md) and the project name the same things.

The lists of the header (include/tailcut.h) and of the specification are read from their texts and
compared, in both directions. What refers to a section of METHOD.md finds it; what refers to a file
of documentation finds the file.
"""
import pathlib
import re
import subprocess
import sys

source = pathlib.Path(sys.argv[1])
method = (source / "src/METHOD.md").read_text(encoding="utf-8")
header = (source / "include/tailcut.h").read_text(encoding="utf-8")
wrong = []

# Specified, and not in the header yet. Implemented? Then the line here goes.
NOT_YET = {}


def found(pattern, text, what, flags=re.S):
    match = re.search(pattern, text, flags)
    if not match:
        sys.exit(f"method.py: cannot find {what}: teach this test how it is written now")
    return match[1]


def section(title):
    return found(rf"^## {title}[^\n]*\n(.*?)(?=^## |\Z)", method, f"METHOD.md's section {title}", re.S | re.M)


# ------------------------------------------------------------------------------ what the header has

plain = re.sub(r"/\*.*?\*/", "", header, flags=re.S)


def enum(name):
    body = found(rf"typedef enum {name} {{(.*?)}} {name};", plain, f"enum {name}")
    return {key: int(value) for key, value in re.findall(r"TAILCUT_(\w+) = (\d+)", body)}


def defines(prefix):
    return {key: int(value)
            for key, value in re.findall(rf"#define TAILCUT_{prefix}_(\w+)[\s\\]+(\d+)", plain)}


def initialiser(name):
    return found(rf"#define TAILCUT_{name}_INITIALIZER(.*?)\n(?! )", plain, f"{name}_INITIALIZER")


# --------------------------------------------------------------------------- what METHOD.md defines

detectors, stage_1, stage_2 = section("Detectors"), section("Stage 1"), section("Stage 2")
rounding_text = found(r"by a named rounding(.*?)the rules servers use", detectors, "the roundings")
source_text = found(r"Where it comes from: (.*?)A reference is \*bad\*", stage_1, "the reference sources")
novelty = found(r"(\*\*NOVELTY\*\*[^\n]*)", method, "NOVELTY")
novelty_powers = found(r"powers ([^\n]*)", method, "MERGE's powers")
flag_text = found(r"Flags per segment: (.*?)\nSpread", detectors, "the flags")
flag_texts = {int(value): text for value, text in re.findall(r"(?:^|; )(\d+) ([^;]*)", flag_text)}
role_text = found(r"a role byte per token, bits:(.*?)\nRelevance", stage_2, "the roles")
roles = dict((word.upper(), int(value)) for value, word in re.findall(r"\b(\d) = (\w+) \(", role_text))

specified = {
    "detector": set(re.findall(r"`([A-Z]+)`", detectors)),
    "rounding": set(re.findall(r"\b([A-Z]{4,}(?:_[A-Z]+)?)\b", rounding_text)),
    "scale": set(re.findall(r"\bScale ([A-Z]+)\b", detectors)),
    "order": set(re.findall(r"\b(?:Order|default) ([A-Z]+)\b", stage_1)),
    "reference source": set(re.findall(r"\b([A-Z]{3,}),", source_text))
    | ({"GIVEN"} if source_text.startswith("given ") else set())
    | ({"NOVELTY"} if "a reference source" in novelty else set()),
    "merge power": set(re.findall(r"\b([A-Z]+\d?) \(\d\)", novelty_powers)),
    "policy": set(re.findall(r"^- `([A-Z_]+)`", stage_2, re.M)),
    "placement": set(re.findall(r"\b(LOCAL|PACKED)\b", method)),
}
implemented = {
    "detector": enum("tailcut_detector"),
    "rounding": enum("tailcut_rounding"),
    "scale": {key.removeprefix("SCALE_"): value for key, value in enum("tailcut_scale").items() if value},
    "order": enum("tailcut_order"),
    "reference source": {key.removeprefix("REFERENCE_"): value
                         for key, value in enum("tailcut_reference_source").items()},
    "merge power": {key.removeprefix("MERGE_"): value for key, value in enum("tailcut_power").items()},
    "policy": enum("tailcut_policy"),
    "placement": enum("tailcut_placement"),
}
for kind, names in specified.items():
    there, later = set(implemented[kind]), NOT_YET.get(kind, set())
    if not names:
        wrong.append(f"{kind}: METHOD.md has none")
    wrong += [f"{kind} {name}: in METHOD.md, not in tailcut.h" for name in sorted(names - there - later)]
    wrong += [f"{kind} {name}: in tailcut.h, not in METHOD.md" for name in sorted(there - names)]
    wrong += [f"{kind} {name}: has come (or gone): strike it from NOT_YET"
              for name in sorted(later & there | later - names)]

# Numbers, where METHOD.md gives them; the words of a flag's name are in what METHOD.md says of it.
if implemented_roles := defines("ROLE"):
    if implemented_roles != roles:
        wrong.append(f"roles: METHOD.md has {roles}, tailcut.h {implemented_roles}")
flags = defines("FLAG")
if set(flags.values()) != set(flag_texts) or len(flags) != len(flag_texts):
    wrong.append(f"flags: METHOD.md has {sorted(flag_texts)}, tailcut.h {flags}")
for name, value in flags.items():
    for word in name.lower().split("_"):
        if word not in flag_texts.get(value, "").lower():
            wrong.append(f"flag {name} = {value}: METHOD.md says of {value}: {flag_texts.get(value)}")

powers = {name: int(value) for name, value in re.findall(r"\b([A-Z]+\d?) \((\d)\)", novelty_powers)}
if implemented["merge power"] != powers:
    wrong.append(f"merge powers: METHOD.md has {powers}, tailcut.h {implemented['merge power']}")

# Defaults.
default = {"detector": found(r"`([A-Z]+)` \(default\)", detectors, "the default detector"),
           "rounding": found(r"\b([A-Z]+) [^,;]*\(default\)", rounding_text.replace("\n", " "), "the default rounding"),
           "order": found(r"default ([A-Z]+)\)", stage_1, "the default order")}
rule = re.findall(r"TAILCUT_(\w+)", initialiser("RULE"))
wrong += [f"default {kind} {name}: the rule's initialiser has {rule}"
          for kind, name in default.items() if name not in rule]
policy = found(r"`([A-Z_]+)` \(default", stage_2, "the default policy")
if policy not in re.findall(r"TAILCUT_(\w+)", initialiser("RELEVANCE_OPTIONS")):
    wrong.append(f"default policy {policy}: not the initialiser's")

# ------------------------------------------------------------------------------ references to files

titles = re.findall(r"^## (.*)", method, re.M)
items = re.findall(r"\*\*(\w[\w ]*)\*\*", method)


def section_exists(name):
    name = name.lower()
    return any(title.lower() == name or re.match(rf"{re.escape(name)}\b", title.lower()) for title in titles) \
        or name in (item.lower() for item in items)


def project_files():
    """What git tracks or would; without git everything outside of build folders."""
    try:
        listed = subprocess.run(["git", "-C", source, "ls-files", "--cached", "--others", "--exclude-standard"],
                                capture_output=True, text=True, check=True).stdout.split("\n")
    except (OSError, subprocess.CalledProcessError):
        paths = [path.relative_to(source) for path in source.rglob("*")]
        listed = [str(path) for path in paths if not path.parts[0].startswith(("build", ".git"))]
    return [name for name in listed if (source / name).is_file()]


references = 0
for name in project_files():
    try:
        text = (source / name).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        continue
    flat = re.sub(r"\s*\n\s*(?:[*#/]+ )?", " ", text)
    for match in re.finditer(r"\bMETHOD\.md, ((?:\"[^\"]+\"(?:,? and |, )?)+|stage \d)", flat):
        for wanted in re.findall(r"\"([^\"]+)\"", match[1]) or [match[1]]:
            references += 1
            if not section_exists(wanted):
                wrong.append(f"{name}: METHOD.md has no section {wanted}")
    for wanted in re.findall(r"(?<![\w/.-])((?:[\w-]+/)*[A-Z][A-Z_]*\.md)\b", text):
        places = source / wanted, source / name / ".." / wanted, source / "src" / wanted
        if not any(place.resolve().is_file() for place in places):
            wrong.append(f"{name}: refers to {wanted}, which is not there")
if references < 5:
    wrong.append(f"only {references} references to sections of METHOD.md were found")

for line in wrong:
    print(line, file=sys.stderr)
print(f"method.py: {sum(map(len, specified.values())) + len(flags) + len(roles)} names, {references} references to sections")
sys.exit(bool(wrong))
