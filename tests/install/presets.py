# SPDX-License-Identifier: Apache-2.0
"""presets.py SOURCE: every build has a folder of its own, so that ./run test leaves build/ as it is."""
import json
import pathlib
import re
import sys

source = pathlib.Path(sys.argv[1])
presets = {p["name"]: p for p in
           json.loads((source / "CMakePresets.json").read_text())["configurePresets"]}


def folder(name):
    preset = presets[name]
    return preset["binaryDir"] if "binaryDir" in preset else folder(preset["inherits"])


folders = {name: folder(name).removeprefix("${sourceDir}/") for name in presets}
wrong = [f"CMakePresets.json: {a} and {b} both build in {folders[a]}/"
         for a in folders for b in folders if a < b and folders[a] == folders[b]]
if folders["release"] != "build":
    wrong.append(f"CMakePresets.json: release builds in {folders['release']}/, not in build/")

used = re.findall(r"\b(?:ctest_part|configure) ([a-z][\w-]*) (build[\w-]*)", (source / "run").read_text())
wrong += [f"run: says that {name} builds in {said}/, CMakePresets.json: {folders.get(name)}"
          for name, said in used if folders.get(name) != said]
tested = re.findall(r"\bctest_part ([a-z][\w-]*)", (source / "run").read_text())
if "ci" not in tested or "release" in tested:
    wrong.append(f"run: tests the presets {tested}")
sys.exit("\n".join(wrong) or None)
