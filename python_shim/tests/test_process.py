# SPDX-License-Identifier: Apache-2.0
"""Import, loader, threads, fork, and that nothing of the caller's is kept."""
import copy
import dataclasses
import gc
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest

import tailcut
from tailcut import _load, _reuse
from threads import all_at_once

PACKAGE = Path(tailcut.__file__).parent
X = np.random.default_rng(2).normal(size=(4, 60, 32)).astype(np.float32)


def python(code, **environment):
    """Runs `code` in a fresh interpreter with the package under test; returns (status, stdout,
    stderr)."""
    changed = {name: value for name, value in (os.environ | environment).items()
               if value is not None}
    changed["PYTHONPATH"] = str(PACKAGE.parent)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=changed)
    return done.returncode, done.stdout, done.stderr


def test_import_is_light():
    """Importing opens no library, imports no framework, and works where there is no native library
    at all."""
    status, said, errors = python(
        "import sys, tailcut\n"
        "print([m for m in ('torch', 'cupy', 'jax', 'transformers') if m in sys.modules], "
        "tailcut._load._library)",
        TAILCUT_LIBRARY="/nowhere/libtailcut.so")
    assert (status, said) == (0, "[] None\n"), errors


def test_loader_lists_what_it_tried(tmp_path):
    code = ("import tailcut\ntry: tailcut.version()\n"
            "except tailcut.LoadError as e: print(e.message, e.tried)")
    status, said, _ = python(code, TAILCUT_LIBRARY="/nowhere/libtailcut.so")
    assert status == 0 and "/nowhere/libtailcut.so: no such file" in said
    assert "TAILCUT_LIBRARY" in said
    copy = tmp_path / "tailcut"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns(
        "*.so", "*.dylib", "*.dll", "__pycache__"))
    status, said, _ = python(f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{code}",
                             TAILCUT_LIBRARY=None,
                             LD_LIBRARY_PATH=None)
    assert status == 0 and f"{copy}/{_load._NAME}: no such file" in said
    assert said.count("libtailcut") >= 2


def test_loader_refuses_another_abi(tmp_path):
    compiler = shutil.which("cc")
    assert compiler, "no C compiler"
    (tmp_path / "other.c").write_text("int tailcut_version(void) { return 900; }\n")
    other = tmp_path / "libother.so"
    subprocess.run([compiler, "-shared", "-fPIC", tmp_path / "other.c", "-o", other], check=True)
    with pytest.raises(tailcut.LoadError, match="it is version 0.9.0, this package needs 0.2"):
        _load._open(str(other))
    number = tailcut._abi.VERSION_NUMBER
    (tmp_path / "other.c").write_text(f"int tailcut_version(void) {{ return {number}; }}\n")
    subprocess.run([compiler, "-shared", "-fPIC", tmp_path / "other.c", "-o", tmp_path / "lib2.so"],
                   check=True)
    with pytest.raises(tailcut.LoadError, match="lacks a function"):
        _load._open(str(tmp_path / "lib2.so"))


def test_versions_agree():
    assert tailcut.version() == tailcut.__version__ == tailcut.build_info()["version"]


def test_threads():
    """Many Python threads, one handle: every call has the same bits."""
    want = tailcut.prune(X, X[:, 0])

    def work(handle):
        right = True
        for i in range(200):
            got = tailcut.prune(X, X[:, 0], handle=handle, want=("scores",) if i % 2
                                else ("scores", "mask"))
            right &= (got.kept == want.kept).all() and (got.scores == want.scores).all()
        return right

    handles = [None, tailcut.handle(threads=2)]
    assert all_at_once(work, handles * 3)
    assert tailcut.handle(threads=2) is handles[1]


def _child(queue):
    queue.put(tailcut.prune(X, X[:, 0], handle=tailcut.handle(threads=2)).kept)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_fork():
    want = tailcut.prune(X, X[:, 0], handle=tailcut.handle(threads=2)).kept
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_child, args=(queue,))
    child.start()
    assert (queue.get(timeout=60) == want).all()
    child.join(60)
    assert child.exitcode == 0


def test_nothing_is_kept():
    """No array of a call lives on in what is kept for the next."""
    x = X.copy()
    result = tailcut.prune(x, x[:, 0].copy())
    alive = [weakref.ref(array) for array in (x, result.counts, result.tokens)]
    del x, result
    gc.collect()
    assert [ref() for ref in alive] == [None] * 3


def test_results_are_plain():
    """Arrays that are made when they are read look like others: printed, copied, pickled, replaced,
    written. No call's are another's."""
    first = tailcut.prune(X, X[:, 0])
    fresh = [tailcut.prune(X, X[:, 0]) for _ in range(9)]
    copies = [copy.copy(fresh[0]), copy.deepcopy(fresh[1]), pickle.loads(pickle.dumps(fresh[2])),
              dataclasses.replace(fresh[3]), tailcut.Selection(**dataclasses.asdict(fresh[4])),
              fresh[5]]
    for got in copies:
        assert type(got) is tailcut.Selection and repr(got) == repr(first)
        for name in first.__dataclass_fields__:
            assert np.array_equal(getattr(got, name), getattr(first, name)), name
    fresh[6].kept[:], fresh[6].tokens[:], fresh[6].scores[:] = 7, 7, 7
    fresh[7].counts = None
    assert fresh[7].counts is None and repr(fresh[8]) == repr(first)
    with pytest.raises(AttributeError):
        first.keep
    with pytest.raises(AttributeError):
        tailcut.Selection.counts


def test_copies_of_what_holds_memory():
    handle = tailcut.Handle(threads=2)
    for made in (copy.copy(handle), copy.deepcopy(handle), pickle.loads(pickle.dumps(handle))):
        assert made is not handle and made._pointer != handle._pointer
        assert (made.device, made.threads) == (handle.device, 2)
    del made
    gc.collect()
    assert handle.info["threads"] == 2
    plan = tailcut.prune.plan(X, X[:, 0])
    for how in (copy.copy, pickle.dumps):
        with pytest.raises(TypeError, match="a Plan holds addresses"):
            how(plan)


def test_again_while_in_use():
    """A call inside another of its kind, as from a signal handler, and one after a failure."""
    _reuse._calls.known.clear()
    want, within = repr(tailcut.prune(X, X[:, 0])), []
    [form] = _reuse._calls.known.values()

    class Interrupted:
        element, one, own = form.block.element, form.block.one, form.block.place

        def place(self, words):
            words[0].value = 1  # no address
            within.append(repr(tailcut.prune(X, X[:, 0])))
            return self.own(words)

    form.block = Interrupted()
    assert repr(tailcut.prune(X, X[:, 0])) == want == within[0] and len(within) == 1
    for _ in range(2):
        with pytest.raises(tailcut.Error):
            tailcut.prune(X, X[:, 0], out=np.empty((1, 32), np.float32))
        assert repr(tailcut.prune(X, X[:, 0])) == want


@pytest.mark.parametrize("how", [{}, {"rule": tailcut.Rule(k=9)}, {"rule": "chord", "want": ()},
                                 {"out": False}, {"want": ()},
                                 {"placement": "local", "rule": tailcut.Rule(ratio=0.5)},
                                 {"zero_tail": True},
                                 {"batch": tailcut.Batch(prefix_rows=3)}, {"dim": 20}])
@pytest.mark.parametrize("source", ["given", "each", "row", "mean", "lag"])
def test_again(how, source):
    """Calls of one shape one after the other: each with its own arrays, whatever was called
    before."""
    rng = np.random.default_rng(8)
    cls = {"given": X[0, 0], "each": X[:, 0], "row": "row", "mean": None,
           "lag": tailcut.Reference("lag", lag=5)}[source]
    fixed = cls is None or not isinstance(cls, np.ndarray)
    for _ in range(4):
        x = rng.normal(size=X.shape).astype(np.float32)
        vector = cls if fixed else rng.normal(size=cls.shape).astype(np.float32)
        scored = tailcut.score(x, vector, **{name: how[name] for name in ("batch", "dim")
                                             if name in how})
        batch = how.get("batch") or (tailcut.Batch(prefix_rows=1) if source == "row" else None)
        rule = tailcut.Rule(**{**(_fields(how.get("rule"))), "scale": "unit"})
        chosen = tailcut.cut(scored.scores, rule, batch=batch, input_flags=scored.flags)
        outs = [how] if "out" in how else [how, how | {"out": np.empty((240, 32), np.float32)},
                                           how | {"out": x.copy()}]
        for options in outs:
            if options.get("out") is not False and "out" in options and options["out"].ndim == 3:
                y = options["out"]
                got = tailcut.prune(y, vector, **options)
                assert all((y[b, :n] == x[b][_rows(chosen, b, batch)]).all() for b,
                           n in enumerate(chosen.counts))
            elif options.get("placement") == "local" and "out" in options:
                continue
            else:
                got = tailcut.prune(x, vector, **options)
            kept = got.kept[got.kept >= 0] if options.get("placement") == "local" else got.kept
            assert (kept.ravel() == chosen.kept).all() and (got.counts == chosen.counts).all()
            if options.get("out") is False:
                assert got.tokens is None
            elif got.tokens.ndim == 2:
                want = np.concatenate([x[b][_rows(chosen, b, batch)] for b in range(len(x))])
                assert (got.tokens == want).all()
    plan = tailcut.prune.plan(x.copy(), vector if fixed else vector.copy(), **how)
    gc.collect()
    assert (plan().counts == chosen.counts).all()


def _fields(rule):
    if rule is None or isinstance(rule, str):
        return {"detector": rule}
    return {name: getattr(rule, name) for name in rule.__dataclass_fields__}


def _rows(chosen, b, batch):
    part = slice(chosen.cu_seqlens[b], chosen.cu_seqlens[b + 1])
    return chosen.kept[part] + (batch.prefix_rows if batch else 0)


def test_typed():
    assert (PACKAGE / "py.typed").exists()
    assert "float16, bfloat16 or float32" in tailcut.prune.__doc__
    assert "Plan" in tailcut.prune.plan.__doc__
