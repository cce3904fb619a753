# SPDX-License-Identifier: Apache-2.0
"""tailcut/_abi.py against include/tailcut.h: any drift fails. A C program that includes the header
prints what the compiler makes of it; names of fields, values and arguments are read from the
header's text."""
import ctypes
import re
import shutil
import subprocess

import pytest

from paths import HEADER
from tailcut import _abi, _load

CTYPES = {"int32_t": ctypes.c_int32, "int64_t": ctypes.c_int64, "size_t": ctypes.c_size_t,
          "double": ctypes.c_double,
          "float": ctypes.c_float, "const char *": ctypes.c_char_p, "void": None,
          "tailcut_handle": ctypes.c_void_p,
          "tailcut_status": ctypes.c_int32}
STRUCTS = {struct.__name__: struct for struct in _abi.STRUCTS}


@pytest.fixture(scope="module")
def text():
    """The header without comments, macros on one line."""
    return re.sub(r"/\*.*?\*/", " ", HEADER.read_text(), flags=re.S).replace("\\\n", " ")


def fields_of(body):
    """[(name, ctype)] of a C struct's body."""
    found = []
    for line in filter(None, (re.sub(r"\s+", " ", part).strip() for part in body.split(";"))):
        kind, name = re.fullmatch(r"(.*[ *])(\w+)", line).groups()
        found.append((name, ctypes.c_void_p if "*" in kind else CTYPES[kind.strip()]))
    return found


def argument_type(declaration):
    """The ctypes type of `const tailcut_batch *batch`."""
    kind = re.sub(r"\w+$", "", declaration.strip()).strip()
    pointee = re.sub(r"^const |\s*\*$", "", kind).strip()
    if "*" not in kind:
        return CTYPES[kind]
    if pointee in STRUCTS:
        return ctypes.POINTER(STRUCTS[pointee])
    if pointee == "tailcut_handle":
        return ctypes.POINTER(ctypes.c_void_p)
    return ctypes.POINTER(ctypes.c_size_t) if pointee == "size_t" else ctypes.c_void_p


def test_fields(text):
    header = {name: fields_of(body)
              for body, name in re.findall(r"typedef struct tailcut_\w+ \{(.*?)\} (tailcut_\w+);",
                                           text, re.S)}
    assert {name: list(struct._fields_) for name, struct in STRUCTS.items()} == header


def test_functions(text):
    header = {}
    for kind, name, arguments in re.findall(r"TAILCUT_API ([\w *]+?)\s*(tailcut_\w+)\(([^)]*)\);",
                                            text):
        types = () if arguments.strip() == "void" else (
            tuple(map(argument_type, arguments.split(","))))
        header[name] = (CTYPES[kind.strip()], types)
    assert header == _abi.FUNCTIONS


def test_enum_names(text):
    header = {}
    for body, name in re.findall(r"typedef enum tailcut_\w+ \{(.*?)\} (tailcut_\w+);", text, re.S):
        header[name] = dict(re.findall(r"(TAILCUT_\w+)\s*=\s*(\d+)", body))
    ours = {name: {prefix + member.name: str(int(member)) for member in kind}
            for name, (kind, prefix) in _abi.ENUMS.items()}
    assert ours == header


def test_flag_names(text):
    macros = dict(re.findall(r"#define (TAILCUT_(?:FLAG|ROLE|ROWS)_\w+) (\d+)\b", text))
    assert {prefix + member.name: str(int(member)) for kind, prefix in _abi.FLAGS.items()
            for member in kind} == {
        name: value for name, value in macros.items() if not name.endswith("INITIALIZER")}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """What the compiler says: {what: number or bytes}."""
    compiler = shutil.which("cc")
    assert compiler, "no C compiler"
    lines = []
    for name, struct in STRUCTS.items():
        lines.append(f'  printf("{name}: %zu\\n", sizeof({name}));')
        for field, _kind in struct._fields_:
            lines.append(f'  printf("{name}.{field}: %zu %zu\\n", offsetof({name}, {field}), '
                         f'sizeof (({name} *)0)->{field});')
        lines.append(f'  {{ {name} made; memset(&made, 0, sizeof made);')
        lines.append(f'    {name} set = {name.upper()}_INITIALIZER;')
        lines += [f'    made.{field} = set.{field};' for field, _kind in struct._fields_]
        lines.append(f'    show("{name} default", &made, sizeof made); }}')
    for name, (kind, prefix) in _abi.ENUMS.items():
        lines += [f'  printf("{prefix}{member.name}: %d\\n", (int){prefix}{member.name});'
                  for member in kind]
        lines.append(f'  printf("sizeof {name}: %zu\\n", sizeof({name}));')
    for macro in ("TAILCUT_VERSION", "TAILCUT_MAX_SEGMENT_TOKENS", "TAILCUT_MAX_NOVELTY_DIM",
                  "TAILCUT_WORKSPACE_ALIGNMENT"):
        lines.append(f'  printf("{macro}: %d\\n", {macro});')
    place = tmp_path_factory.mktemp("abi")
    (place / "abi.c").write_text(
        "#include <stdio.h>\n#include <string.h>\n#include <tailcut.h>\n"
        "static void show(const char *name, const void *p, size_t n) {\n  printf(\"%s: \", name);\n"
        "  for (size_t i = 0; i < n; i++) printf(\"%02x\", ((const unsigned char *)p)[i]);\n  "
        "printf(\"\\n\");\n}\n"
        "int main(void) {\n" + "\n".join(lines) + "\n  return 0;\n}\n")
    subprocess.run([compiler, "-std=c11", "-I", HEADER.parent, "abi.c", "-o", "abi"], cwd=place,
                   check=True)
    printed = subprocess.run([place / "abi"], check=True, capture_output=True, text=True).stdout
    return dict(line.split(": ") for line in printed.splitlines())


def test_layout(compiled):
    for name, struct in STRUCTS.items():
        assert compiled[name] == str(ctypes.sizeof(struct)), name
        for field, _kind in struct._fields_:
            at = getattr(struct, field)
            assert compiled[f"{name}.{field}"] == f"{at.offset} {at.size}", f"{name}.{field}"


def test_values(compiled):
    for name, (kind, prefix) in _abi.ENUMS.items():
        assert compiled[f"sizeof {name}"] == "4"
        for member in kind:
            assert compiled[prefix + member.name] == str(int(member)), member
    assert int(compiled["TAILCUT_VERSION"]) == _abi.VERSION_NUMBER
    assert int(compiled["TAILCUT_MAX_SEGMENT_TOKENS"]) == _abi.MAX_SEGMENT_TOKENS
    assert int(compiled["TAILCUT_MAX_NOVELTY_DIM"]) == _abi.MAX_NOVELTY_DIM
    assert int(compiled["TAILCUT_WORKSPACE_ALIGNMENT"]) == _abi.WORKSPACE_ALIGNMENT


def test_defaults(compiled):
    """What the library writes into a struct is what the header's macro does."""
    for name, struct in STRUCTS.items():
        made = _load.new(struct)
        clean = struct()  # padding has no value
        for field, _kind in struct._fields_:
            setattr(clean, field, getattr(made, field))
        assert bytes(clean).hex() == compiled[f"{name} default"], name


def test_rule_defaults():
    """Rule() is the initialiser's rule: its written defaults say nothing else."""
    import tailcut
    assert bytes(tailcut.Rule()._host_struct()) == bytes(_load.new(_abi.rule))
