# SPDX-License-Identifier: Apache-2.0
"""outputs.py TAILCUT: what the command writes: whole or not at all, over nothing that it reads, and nothing left behind."""
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

import numpy as np

from command import COMMAND, case, contents, good, main, refused, run, saved, tokens

PRUNE = ["prune", "--tokens", "x.npy", "--cls-mean"]
SLOW = [*PRUNE, "--repeat", "1000000", "--out", "out.npy", "--kept", "kept.npy"]  # minutes, when nobody ends it


def slow():
    """A running command whose temporaries are there."""
    process = subprocess.Popen([COMMAND, *SLOW], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    for _ in range(2000):
        if len([n for n in os.listdir(".") if ".tailcut-" in n]) == 2:
            return process
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)
    raise AssertionError("no temporaries")


@case
def over_an_input():
    """By the same path, another spelling, a symbolic link in either direction, a hard link, or standard input."""
    np.save("x.npy", tokens())
    np.save("c.npy", tokens()[0])
    np.save("cu.npy", np.array([0, 24], np.int32))
    os.mkdir("d")
    os.symlink("../x.npy", "d/link.npy")
    os.link("x.npy", "d/hard.npy")
    os.symlink("d", "e")
    for name in ("x.npy", "./x.npy", "d/../x.npy", "d/link.npy", "d/hard.npy", "e/link.npy", os.path.abspath("x.npy")):
        refused(2, ["--out", "--tokens", "never replaces an input"], *PRUNE, "--out", name)
    refused(2, ["--kept", "--cls"], "prune", "--tokens", "x.npy", "--cls", "c.npy", "--kept", "c.npy")
    refused(2, ["--counts", "--cu-seqlens"], *PRUNE, "--cu-seqlens", "cu.npy", "--counts", "cu.npy")
    refused(2, ["--out", "--tokens"], "prune", "--tokens", "d/link.npy", "--cls-mean", "--out", "x.npy")
    with open("x.npy", "rb") as stream:
        refused(2, ["--out", "--tokens"], "prune", "--tokens", "-", "--cls-mean", "--out", "d/hard.npy", stdin=stream)
    with open("d/hard.npy", "r+b") as stream:
        refused(2, ["--out", "--tokens"], *PRUNE, "--out", "-", stdout=stream)
    np.save("s.npy", tokens()[:, 0])
    refused(2, ["--kept", "--scores"], "cut", "--scores", "s.npy", "--kept", "s.npy")
    refused(2, ["--out", "--scores"], "inspect", "--scores", "s.npy", "-o", "s.npy")
    refused(2, ["--out", "--kept"], "view", "--image", "s.npy", "--grid", "1x1", "--kept", "x.npy", "-o", "x.npy")
    # The same input twice is nobody's loss.
    np.save("h.npy", np.full((4, 4), 3, np.uint8))
    good("prune", "--tokens", "x.npy", "--cls-mean", "--cu-seqlens", "cu.npy", "--out", "y.npy")


@case
def over_an_output():
    """Two outputs that are one file: existing or not, through links, or both standard output."""
    np.save("x.npy", tokens())
    np.save("old.npy", tokens())
    os.mkdir("d")
    os.symlink("d", "e")
    os.symlink("../old.npy", "d/link.npy")
    os.symlink("../new.npy", "d/dangling.npy")
    os.link("old.npy", "hard.npy")
    for a, b in (("new.npy", "new.npy"), ("new.npy", "./new.npy"), ("d/new.npy", "e/new.npy"), ("old.npy", "d/link.npy"), ("old.npy", "hard.npy"),
                 ("new.npy", "d/dangling.npy"), ("-", "-")):
        refused(2, ["--kept", "--out"], *PRUNE, "--out", a, "--kept", b)
    refused(2, ["--json", "--out", "-"], *PRUNE, "--out", "-", "--json")


@case
def standard_output():
    """One .npy, and nothing else; through a chain of pipes."""
    x = tokens()
    np.save("x.npy", x)
    good(*PRUNE, "--kept", "kept.npy", "--out", "out.npy")
    for option in ("kept", "out"):
        done = run(*PRUNE, f"--{option}", "-")
        with open(f"{option}.npy", "rb") as stream:
            assert done.stdout == stream.read() and done.stderr == b""
    chain = f"'{COMMAND}' prune --tokens - --cls-mean --scores - <x.npy | '{COMMAND}' cut --scores - --scale unit --kept - >kept2.npy"
    subprocess.run(["sh", "-c", chain], check=True)
    assert np.array_equal(np.load("kept2.npy"), np.load("kept.npy"))
    refused(1, ["/dev/null: exists and is not a regular file; standard output is -"], *PRUNE, "--out", "/dev/null")
    done = run("inspect", "--tokens", "x.npy", "--cls-mean", "-o", "-")
    assert done.stdout.startswith(b"<svg") and done.stdout.endswith(b"</svg>\n")


@case
def standard_output_that_fails():
    """A full device or a reader that has gone: an error, and the other outputs are not replaced."""
    np.save("x.npy", tokens(4000, 64))
    with open("/dev/full", "wb") as full:
        refused(1, ["tailcut: "], *PRUNE, "--out", "-", "--kept", "kept.npy", stdout=full)
    reading, writing = os.pipe()
    os.close(reading)
    refused(1, ["tailcut: "], *PRUNE, "--out", "-", "--kept", "kept.npy", stdout=writing)
    os.close(writing)


@case
def links_and_modes():
    """A link stays and its target is replaced; an existing file keeps its mode and owner, a new one honours umask."""
    np.save("x.npy", tokens())
    os.mkdir("d")
    np.save("d/target.npy", np.zeros(1))
    os.chmod("d/target.npy", 0o640)
    if os.geteuid() == 0:
        os.chown("d/target.npy", 1234, 4321)
    os.symlink("d/target.npy", "link.npy")
    os.symlink("link.npy", "twice.npy")
    os.symlink("d/made.npy", "dangling.npy")
    old = os.umask(0o027)
    good(*PRUNE, "--out", "twice.npy", "--kept", "dangling.npy", "--counts", "new.npy")
    os.umask(old)
    assert os.readlink("twice.npy") == "link.npy" and os.readlink("link.npy") == "d/target.npy" and os.readlink("dangling.npy") == "d/made.npy"
    assert np.load("d/target.npy").shape[1] == 16 and np.load("d/made.npy").ndim == 1
    info = os.stat("d/target.npy")
    assert info.st_mode & 0o7777 == 0o640 and (os.geteuid() != 0 or (info.st_uid, info.st_gid) == (1234, 4321))
    assert os.stat("new.npy").st_mode & 0o7777 == 0o640 and os.stat("d/made.npy").st_mode & 0o7777 == 0o640
    for mode in (0o600, 0o666, 0o4755):
        os.chmod("new.npy", mode)
        good(*PRUNE, "--counts", "new.npy")
        assert os.stat("new.npy").st_mode & 0o7777 == mode
    os.symlink("loop.npy", "loop.npy")
    refused(1, ["loop.npy"], *PRUNE, "--out", "loop.npy")
    os.symlink("no/such/folder.npy", "nowhere.npy")
    refused(1, ["nowhere.npy"], *PRUNE, "--out", "nowhere.npy")
    os.mkfifo("fifo")
    for name in ("d", "d/", "no/such.npy", "fifo"):
        refused(1, [name], *PRUNE, "--out", name)
    name = "n" * 251 + ".npy"  # as long as a name may be
    good(*PRUNE, "--out", name)
    assert os.path.exists(name)


@case
def interrupted():
    """SIGTERM, SIGINT and SIGHUP end it by that signal and leave the folder as it was."""
    np.save("x.npy", tokens())
    np.save("out.npy", np.zeros(1))
    before = contents()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        process = slow()
        process.send_signal(number)
        assert process.wait(20) == -number and process.stderr.read() == b""
        assert contents() == before


@case
def killed():
    """What SIGKILL leaves has the output's name and the process in its own, and the next run says so once, until it is removed."""
    np.save("x.npy", tokens())
    np.save("out.npy", np.zeros(1))
    process = slow()
    during = sorted(n for n in os.listdir(".") if ".tailcut-" in n)
    assert during == [f".{n}.npy.tailcut-{process.pid}-0.tmp" for n in ("kept", "out")], during
    assert good(*PRUNE, "--out", "out.npy") == ""  # it runs: nothing to say
    process.kill()
    process.wait()
    process.stderr.close()
    assert sorted(n for n in os.listdir(".") if ".tailcut-" in n) == during
    text = good(*PRUNE, "--out", "out.npy")
    assert text.count("\n") == 1 and during[1] in text and str(process.pid) in text and "killed" in text, text
    assert good(*PRUNE, "--counts", "other.npy") == ""
    text = good(*PRUNE, "--out", os.path.abspath("out.npy"), "--kept", "kept.npy")
    assert text.count("\n") == 2 and during[0] in text and during[1] in text, text
    refused(1, ["missing.npy"], "prune", "--tokens", "missing.npy", "--cls-mean", "--out", "out.npy")
    for name in during:
        os.unlink(name)
    # Names that only look like it.
    for name in (".out.npy.tailcut-x-0.tmp", ".out.npy.tailcut-99999999-0.tmpx", f".out.npy.tailcut-{os.getpid()}-0.tmp", ".out.npy.tailcut-1-0.tmp"):
        open(name, "w").close()
    assert good(*PRUNE, "--out", "out.npy") == ""


@case
def taken_names():
    """A temporary whose name is there already (the process number came round) is no obstacle and is said."""
    np.save("x.npy", tokens())
    script = f"touch .out.npy.tailcut-$$-0.tmp; exec '{COMMAND}' {' '.join(PRUNE)} --out out.npy"
    done = subprocess.run(["sh", "-c", script], stderr=subprocess.PIPE)
    assert done.returncode == 0 and b"killed" in done.stderr and os.path.exists("out.npy")
    assert len([n for n in os.listdir(".") if ".tailcut-" in n]) == 1


@case
def all_or_none():
    """When the last output cannot be written or renamed, the first ones keep what they had."""
    np.save("x.npy", tokens())
    np.save("out.npy", np.zeros(1))
    for name in ("no/such.npy", "x.npy/y.npy"):
        refused(1, [name], *PRUNE, "--out", "out.npy", "--counts", "new.npy", "--flags", name)
    # A folder takes the place of an output while it runs: the rename fails, the others come back.
    process = slow()
    os.mkdir("kept.npy")
    process.send_signal(signal.SIGTERM)
    process.wait(20)
    process.stderr.close()
    os.rmdir("kept.npy")
    before = contents()
    repeat = "2000" if "ASAN_OPTIONS" in os.environ else "30000"  # long enough to come between
    process = subprocess.Popen([COMMAND, *PRUNE, "--repeat", repeat, "--out", "out.npy", "--counts", "new.npy", "--flags", "z.npy"],
                               stderr=subprocess.PIPE)
    while not any(n.startswith(".z.npy.tailcut-") for n in os.listdir(".")):
        assert process.poll() is None, "ended too soon"
        time.sleep(0.001)
    os.mkdir("z.npy")
    text = process.stderr.read().decode()
    assert process.wait(60) == 1 and text.count("\n") == 1 and "z.npy" in text, text
    os.rmdir("z.npy")
    assert contents() == before


@case
def disk_full():
    """A limit on the size of files stands for a full disk: one line, nothing left."""
    import resource
    np.save("x.npy", tokens(2000, 64))
    refused(1, ["out.npy"], *PRUNE, "--kept", "kept.npy", "--out", "out.npy", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536)))


def on_terminal(argv, seconds, data=None):
    """What the command writes to a terminal that is its stderr."""
    parent, child = pty.openpty()
    process = subprocess.Popen([COMMAND, *argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=child)
    os.close(child)
    text, end = b"", time.monotonic() + seconds
    while time.monotonic() < end:
        if data and process.poll() is None:
            process.stdin.write(data[:7])
            process.stdin.flush()
            data = data[7:]
        if select.select([parent], [], [], 0.05)[0]:
            try:
                text += os.read(parent, 65536)
            except OSError:  # the other end is closed
                break
    if data is not None:
        process.stdin.write(data)
    process.stdin.close()
    if data is None:
        process.terminate()
    while True:
        try:
            more = os.read(parent, 65536)
        except OSError:
            break
        text += more
    os.close(parent)
    process.stdout.close()
    return text.decode(), process.wait(60)


@case
def progress():
    """Reading and computing say so on a terminal after two seconds and clear the line; a file of stderr gets nothing."""
    np.save("x.npy", tokens())
    text, status = on_terminal([*PRUNE[:2], "-", "--cls-mean", "--out", "out.npy"], 2.8, saved(tokens(4000)))
    assert status == 0 and re.search(r"tailcut: reading standard input, .*2 s ", text), text
    assert text.endswith("\r\033[K") and "\n" not in text, text
    text, status = on_terminal(SLOW, 2.8)
    assert re.search(r"tailcut: computing, [0-9]+ of 1000000, 2 s ", text), text
    assert text.endswith("\r\033[K") and status == -signal.SIGTERM, (text, status)
    assert [n for n in os.listdir(".") if ".tailcut-" in n] == []
    text, status = on_terminal(PRUNE, 1.0)
    assert text == "" and status in (0, -signal.SIGTERM), text


@case
def progress_of_one_call():
    """A single call that takes long is told from a thread of its own."""
    rows = np.random.default_rng(1).normal(size=(40000, 64)).astype(np.float32)
    np.save("x.npy", rows)
    np.save("r.npy", np.full(40000, 3, np.uint8))
    text, _ = on_terminal(["prune-seq", "--hidden", "x.npy", "--roles", "r.npy", "--relevance", "max-cosine", "--threads", "1"], 3.5)
    assert re.search(r"tailcut: computing, [23] s ", text) and text.endswith("\r\033[K"), text


if __name__ == "__main__":
    sys.exit(main())
