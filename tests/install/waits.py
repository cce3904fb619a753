# SPDX-License-Identifier: Apache-2.0
"""waits.py FILE.ptx...

cuda/common/launch.cuh's rules, read off the compiler's output, since a simulator that runs one
kernel after the other cannot break them: on every way through a kernel griddepcontrol.wait comes
before its end, and before it no global memory is touched but by the kernels named below. Each way
is followed through branches and calls; predicates are not judged.
"""
import re
import sys

BEFORE = {  # kernel: what it does before its wait, and why that is allowed
    "score": {"reads"},  # roles, lengths and offsets: inputs (by_inputs)
    "compact_staged": {"reads", "copies"},  # inputs; rows, which compaction alone writes
    "cut_long": {"writes", "adds"},  # scratch that is its own; its ticket
    "cut_long_sorting": {"writes", "adds"},
}
ENDS_BEFORE = {"compact_tickets"}  # one warp of a block, whose others wait

ELSEWHERE = re.compile(r"\.(shared|param|local|const)\b(?!\.global)")
ACTIONS = [(r"ld(u|\.)", "reads"), (r"st\.", "writes"), (r"(atom|red)\.", "adds"),
           (r"cp\.async\.(ca|cg|bulk)", "copies")]


def functions_of(text):
    """{name: (is a kernel, [(label or None, instruction)])}"""
    found, name, body, kernel = {}, None, None, False
    text = re.sub(r"//[^\n]*|^\s*\.(loc|file)\b[^\n]*", "", text, flags=re.M)
    for part in re.finditer(r"\.(entry|func)\b[^;{]*?([A-Za-z_$][\w$]*)\s*\([^{;]*?\{|"
                            r"\$\w+:|[^;:{}]+;|\{[^;{}]*\}|[{}]", text):
        piece = part.group(0).strip()
        if part.group(1):
            kernel, name, body = part.group(1) == "entry", part.group(2), []
            depth = 1
            found[name] = kernel, body
        elif name is None:
            continue
        elif piece == "{":
            depth += 1
        elif piece == "}":
            depth -= 1
            if depth == 0:
                name = None
        else:
            body.append(piece)
    return found


def walk(functions, name, seen_calls=()):
    """(what is done before a wait, whether an end is reached without one), from the function's
    first instruction."""
    body = functions[name][1]
    labels = {piece[:-1]: i for i, piece in enumerate(body) if piece.endswith(":")}
    done, ends, seen, todo = set(), False, set(), [0]
    while todo:
        at = todo.pop()
        if at in seen:
            continue
        seen.add(at)
        if at >= len(body):
            ends = True
            continue
        match = re.match(r"(@!?%?\w+\s+)?([a-z]\S*)\s*(.*)", body[at], re.S)
        if not match:  # a label or a directive
            todo.append(at + 1)
            continue
        predicate, opcode, rest = match.groups()
        opcode = opcode.rstrip(";")
        if opcode == "griddepcontrol.wait" and not predicate:
            continue
        if opcode in ("ret", "ret.uni", "exit"):
            ends = True
            if predicate:
                todo.append(at + 1)
            continue
        if opcode.startswith("bra"):
            todo.append(labels[rest.rstrip(";").strip()])
            if predicate:
                todo.append(at + 1)
            continue
        if opcode.startswith("brx"):
            todo += labels.values()
            continue
        if opcode.startswith("call"):
            callee = re.search(r"\b([A-Za-z_$][\w$]*)\s*,?", re.sub(r"^\([^)]*\),?", "", rest))
            if callee and callee.group(1) in functions and callee.group(1) not in seen_calls:
                more, returns = walk(functions, callee.group(1), (*seen_calls, name))
                done |= more
                if not returns:
                    continue
        for pattern, action in ACTIONS:
            if re.match(pattern, opcode) and not ELSEWHERE.search(opcode):
                done.add(action)
        todo.append(at + 1)
    return done, ends


def short(name):
    """A kernel's own name: the last part of a mangled one."""
    parts, rest = [], name[3:] if name.startswith("_ZN") else name[2:]
    while (match := re.match(r"(\d+)", rest)):
        length = int(match.group(1))
        rest = rest[match.end():]
        parts.append(rest[:length])
        rest = rest[length:]
    return parts[-1] if parts else name


def main(files):
    failed, kernels, used = False, 0, set()
    for path in files:
        with open(path, encoding="ascii") as file:
            functions = functions_of(file.read())
        for name in [name for name, (kernel, _) in functions.items() if kernel]:
            done, ends = walk(functions, name)
            kernels += 1
            own = short(name)
            used |= {own} & (set(BEFORE) if done else set())
            used |= {own} & (ENDS_BEFORE if ends else set())
            wrong = sorted(done - BEFORE.get(own, set()))
            if ends and own not in ENDS_BEFORE:
                wrong.append("ends")
            if wrong:
                failed = True
                print(f"{path}: {name} {', '.join(wrong)} before griddepcontrol.wait",
                      file=sys.stderr)
    print(f"{kernels} kernels")
    for name in sorted((set(BEFORE) | ENDS_BEFORE) - used):
        failed = True
        print(f"{name} is no exception any more", file=sys.stderr)
    return 1 if failed or kernels == 0 else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
