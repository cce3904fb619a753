# SPDX-License-Identifier: Apache-2.0
"""tailcut.servers, what needs numpy only: the video rule and OpenVINO's select_tokens against
independent statements of what the servers do, in float64."""
import os
import re
import subprocess
import sys
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import tailcut
import video
from paths import SHIM
from tailcut.servers import evs, openvino

RATES = (0.0, 0.1, 0.25, 1 / 3, 0.5, 0.7, 0.9, 0.99)
SCENES = {name: (videos, dtype) for name, videos, dtype in video.scenes()}


@pytest.mark.parametrize("name", [name for name in SCENES if not name.endswith("bf16")])
def test_evs(name):
    """The kept sets of servers, exact ties included; as many as they reserve."""
    videos, dtype = SCENES[name]
    for scene in videos:
        frames, per_frame, _ = scene.shape
        rows, values = video.stored(scene, dtype)
        for q in RATES:
            want, gap = video.server_keeps(values.reshape(scene.shape).astype(np.float64), q)
            found = evs.prune(rows, (frames, per_frame, 1), 1, q)
            assert len(want) == evs.retained(per_frame, frames, q) == found.counts[0]
            assert len(want) == len(found.tokens)
            assert found.mask.dtype == np.uint8 and found.mask[:per_frame].all()
            if name.startswith("signs") or gap > video.NEAR:
                assert (np.flatnonzero(found.mask) == want).all()
            assert (found.tokens == rows[np.flatnonzero(found.mask)]).all()
            assert evs.prune(rows, (frames, per_frame, 1), 1, q, tokens=False).tokens is None


def test_evs_counts():
    for per_frame in (1, 7, 50, 196, 256):
        for frames in (1, 2, 9, 64, 100):
            for q in [percent / 100 for percent in range(100)] + [1 / 3, 0.999]:
                kept = max(per_frame, int(per_frame * frames * (1 - q)))
                assert evs.retained(per_frame, frames, q) == kept


def test_evs_merge():
    """The grid is that of patches; a token is merge x merge of them."""
    rows = np.random.default_rng(0).normal(size=(3 * 4 * 5, 8)).astype(np.float32)
    a, b = evs.prune(rows, (3, 8, 10), 2, 0.5), evs.prune(rows, (3, 4, 5), 1, 0.5)
    assert (a.mask == b.mask).all() and a.mask[:20].all() and a.mask.sum() == 30


def most_relevant(visual, text, count):
    """Ascending tokens of each image with the highest mean cosine to the text's rows, the first of
    equals."""
    def unit(rows):
        return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-8)
    relevance = (unit(visual) @ unit(text).T).mean(-1)
    return [sorted(np.argsort(-of, kind="stable")[:count].tolist()) for of in relevance]


def wishes(dtype=np.float32):
    rng = np.random.default_rng(3)
    visual = rng.normal(size=(3, 77, 48)).astype(dtype)
    visual[1, 40:] = visual[1, :37]  # every token of the middle image twice or so: ties
    visual[2, 5] = 0
    return visual, rng.normal(size=(9, 48)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_select_tokens(dtype):
    visual, text = wishes(dtype)
    for ratio in (0, 1, 30, 49.5, 50, 78, 99, 99.9):
        count = max(1, int(Decimal(77 * (1.0 - ratio / 100.0)).quantize(Decimal(1), ROUND_HALF_UP)))
        got = openvino.select_tokens(visual, text, ratio)
        assert openvino.rule(77, ratio).k == count == len(got[0])
        assert got == most_relevant(visual.astype(np.float64), text.astype(np.float64), count)
    for tokens in range(1, 1200, 7):
        for ratio in range(100):
            exact = Decimal(tokens * (1.0 - ratio / 100.0)).quantize(Decimal(1), ROUND_HALF_UP)
            assert openvino.rule(tokens, ratio).k == max(1, exact)


def test_select_tokens_otherwise():
    visual, text = wishes()
    pairs = np.repeat(visual[:1, :32], 2, axis=1)
    (novel,) = openvino.select_tokens(pairs, text, 50, reference="novelty")
    assert sorted(token // 2 for token in novel) == list(range(32))  # no copy while there is else
    plain = openvino.select_tokens(visual, text, 75)
    assert openvino.select_tokens(visual, text, 75, spread=0.5) != plain
    for bad in (dict(pruning_ratio=100), dict(pruning_ratio=-1)):
        with pytest.raises(ValueError, match="percent"):
            openvino.select_tokens(visual, text, **bad)
    tensors = [SimpleNamespace(data=array, element_type="<Type: 'float32'>")
               for array in (visual, text)]
    assert openvino.select_tokens(*tensors, 50) == openvino.select_tokens(visual, text, 50)
    tensors[0].element_type = "<Type: 'bfloat16'>"
    with pytest.raises(ValueError, match="bfloat16"):
        openvino.select_tokens(*tensors)
    with pytest.raises(ValueError, match=r"\[B, N, D\] and \[M, D\]"):
        openvino.select_tokens(visual[0], text)


def test_plugin():
    """The entry point that vLLM looks for is in the package, and reading it brings in neither vLLM
    nor PyTorch."""
    project = (SHIM / "pyproject.toml").read_text()
    name = re.search(r'vllm.general_plugins"\]\ntailcut = "(.*):register"', project).group(1)
    code = (f"import sys, {name}, tailcut.servers.sglang, tailcut.servers.openvino\n"
            f"assert callable({name}.register)\n"
            "assert not sys.modules.keys() & {'torch', 'vllm', 'sglang', 'openvino'}")
    package = str(Path(tailcut.__file__).parent.parent)
    subprocess.run([sys.executable, "-c", code], check=True,
                   env=os.environ | {"PYTHONPATH": package})


def test_sizes():
    """A file per server, each short enough to be read before it is used; sources in C and C++ come
    with the package."""
    folder = Path(tailcut.__file__).parent / "servers"
    assert {path.name for path in folder.iterdir() if path.is_file()} >= {
        "vllm.py", "sglang.py", "openvino.py", "mtmd.c", "edge_llm.cpp"}
    for path in (*folder.glob("*.py"), *folder.glob("*.c*")):
        assert len(path.read_text().splitlines()) < 80, path
