# SPDX-License-Identifier: Apache-2.0
"""Two processes of torch.distributed (gloo) that hold replicated inputs keep identical tokens, each
on another SIMD level and number of threads, without talking about it: what tensor-parallel servers
need. Run as a program, this file is one of the processes: RANK STORE THREADS."""
import os
import subprocess
import sys
from pathlib import Path

RANKS = [(1, "scalar"), (3, "")]  # threads of tailcut, TAILCUT_SIMD


def results(tailcut, torch, inputs, handle):
    """Everything that decides or carries tokens, by name."""
    from tailcut import Merge, Reference, Role, Rule

    found = {}
    for dtype, x in inputs.items():
        text = x[:, :24]
        calls = {
            "otsu": dict(cls=x[:, 0].contiguous()),
            "mean": dict(cls="mean", rule=Rule("chord", spread=0.25)),
            "row": dict(cls="row", rule=Rule(ratio=0.22)),
            "video": dict(cls=Reference("lag", lag=49), rule=Rule(
                ratio=0.7, rounding="drop-trunc", min_keep=49, order="low")),
            "novelty": dict(cls=Reference("novelty"), rule=Rule(ratio=0.3), merge=Merge())}
        for name, how in calls.items():
            got = tailcut.prune(x, how.pop("cls"), handle=handle,
                                want=("scores", "mask", "ranks"), **how)
            found |= {f"{dtype}, {name}, {field}": getattr(got, field)
                      for field in got.__dataclass_fields__
                      if isinstance(getattr(got, field), torch.Tensor)}
        roles = torch.full(x.shape[:2], Role.CANDIDATE, dtype=torch.uint8)
        roles[:, -text.shape[1]:] = Role.QUERY
        got = tailcut.prune_sequence(x, roles, rule=Rule(ratio=0.4), handle=handle)
        found |= {f"{dtype}, sequence, {field}": getattr(got, field)
                  for field in ("kept", "counts", "scores", "tokens")}
    return found


def rank(number, store, threads):
    import torch
    import torch.distributed as dist

    import tailcut

    torch.set_num_threads(threads)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=number,
                            world_size=len(RANKS))
    inputs = {}
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        x = torch.randn((3, 490, 200), generator=torch.Generator().manual_seed(number)).to(dtype)
        dist.broadcast(x, src=0)
        x[:, 300:310] = x[:, 200:210]  # ties
        inputs[str(dtype)] = x
    handle = tailcut.handle(threads=threads)
    found = results(tailcut, torch, inputs, handle)
    others = [None] * len(RANKS)
    dist.all_gather_object(others, {"info": handle.info, "found": {
        name: tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        for name, tensor in found.items()}})
    assert [other["info"]["threads"] for other in others] == [threads for threads, _ in RANKS]
    levels = [other["info"]["simd"] for other in others]
    assert levels[0] == "scalar", levels
    for other in others:
        assert other["found"].keys() == others[0]["found"].keys()
        for name, bits in other["found"].items():
            assert bits == others[0]["found"][name] and bits, name
    dist.barrier()
    dist.destroy_process_group()
    print(f"rank {number}: {len(found)} arrays are the same bits on {' and '.join(levels)}")


def test_ranks(tmp_path):
    import tailcut
    package = str(Path(tailcut.__file__).parent.parent)
    ranks = [subprocess.Popen(
        [sys.executable, __file__, str(number), str(tmp_path / "store"), str(threads)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | {"TAILCUT_SIMD": simd, "PYTHONPATH": package})
        for number, (threads, simd) in enumerate(RANKS)]
    for number, process in enumerate(ranks):
        try:
            said, _ = process.communicate(timeout=120)
        finally:
            for other in ranks:
                if process.poll() != 0:
                    other.kill()
        assert process.returncode == 0, said
        assert f"rank {number}: 135 arrays are the same bits" in said, said


if __name__ == "__main__":
    rank(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
