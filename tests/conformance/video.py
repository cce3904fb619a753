# SPDX-License-Identifier: Apache-2.0
"""`tailcut prune` against the rule that servers use for video.

Servers that keep what changes between frames (efficient video sampling) compare each patch with the same patch one
frame earlier, keep the first frame whole, and keep max(tokens per frame, int(N * (1 - q))) patches in all, the least
similar first, ties in order. Here that rule stands as a server has it, apart from METHOD.md and method.py; the command
has to keep the same patches with --lag, --order low, --ratio q --rounding drop-trunc and --min-keep. The last line is
`N passed, M failed`.
"""
import argparse
import os
import shlex
import subprocess
import sys
import tempfile

import numpy as np

FEATURES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../bench/features")
NEAR = 1e-6  # float32 similarities may be this far off; the rule decides nothing inside it but exact ties


def cosine_similarity(a, b, eps=1e-8):
    """Along the last axis, as torch.nn.functional.cosine_similarity has it."""
    return (a * b).sum(-1) / (np.maximum(np.sqrt((a * a).sum(-1)), eps) * np.maximum(np.sqrt((b * b).sum(-1)), eps))


def server_keeps(video, q):
    """Patches kept of a video [frames, patches, D], and the gap in dissimilarity between kept and dropped ones."""
    frames, per_frame, _ = video.shape
    dissimilarity = np.concatenate([np.full((1, per_frame), 255.0), 1 - cosine_similarity(video[1:],
                                                                                          video[:-1])]).reshape(-1)
    order = np.argsort(-dissimilarity, kind="stable")
    retained = max(per_frame, int(frames * per_frame * (1 - q)))
    gap = dissimilarity[order[retained - 1]] - dissimilarity[order[retained]] if retained < len(order) else np.inf
    return np.sort(order[:retained]), gap


def tailcut_keeps(args, tokens, per_frame, q, cu, dtype):
    """Kept indices of each segment."""
    with tempfile.TemporaryDirectory(prefix="tailcut-video-") as place:
        paths = {name: os.path.join(place, f"{name}.npy") for name in ("tokens", "cu", "kept", "counts")}
        np.save(paths["tokens"], tokens)
        argv = [args.tailcut, "prune", "--tokens", paths["tokens"], "--lag", str(per_frame), "--order", "low",
                "--ratio", repr(q), "--rounding", "drop-trunc", "--min-keep", str(per_frame),
                "--kept", paths["kept"], "--counts", paths["counts"], "--device", args.device]
        if cu is not None:
            np.save(paths["cu"], cu)
            argv += ["--cu-seqlens", paths["cu"]]
        argv += ["--dtype", "bf16"] if dtype == "bf16" else []
        done = subprocess.run(argv, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{shlex.join(argv)}: exit status {done.returncode}: {done.stderr.strip()}")
        return np.split(np.load(paths["kept"]), np.cumsum(np.load(paths["counts"]))[:-1])


def signs(rng, frames, per_frame, dim):
    """Rows of +-1 with a norm of a power of two: similarities are exact in any float, and full of ties."""
    video = np.repeat(rng.choice([-1.0, 1.0], (1, per_frame, dim)), frames, 0)
    for t in range(1, frames):  # each frame the one before it with a few signs turned; some patches stand still
        moved = rng.random((per_frame, 1)) < 0.6
        video[t] = np.where(moved & (rng.random((per_frame, dim)) < rng.choice([0.05, 0.3])), -video[t - 1],
                            video[t - 1])
    return video


def scenes():
    """(name, videos, dtype of the file). A scene's videos are its segments, of the same patches per frame."""
    rng = np.random.default_rng(21)
    for per_frame, dim, frames in ((1, 4, (9,)), (12, 16, (1,)), (12, 64, (6,)), (16, 256, (4, 4)), (35, 64, (2, 1, 7)),
                                   (256, 1024, (5,))):
        yield f"signs-{per_frame}x{dim}", [signs(rng, t, per_frame, dim) for t in frames], "f16"
    for dtype in ("f32", "f16", "bf16"):
        drift = [np.cumsum(rng.normal(size=(t, 24, 96)) * rng.uniform(0.05, 1, (t, 24, 1)), 0) for t in (8, 3)]
        yield f"drift-{dtype}", drift, dtype
    photographs = np.stack([np.load(os.path.join(FEATURES, name))[1:] for name in sorted(os.listdir(FEATURES))
                            if name.endswith(".npy")])
    fades = [(1 - a) * photographs[i].astype(np.float32) + a * photographs[i + 1] for i in range(3)
             for a in (0, 0.1, 0.3, 0.6)]
    yield "photographs", [np.stack(fades)], "f32"
    yield "photographs-cut", [photographs.astype(np.float32)], "f16"


def stored(video, dtype):
    """The file's array [N, D] and the values it stands for."""
    rows = video.reshape(-1, video.shape[-1]).astype(np.float32)
    if dtype == "bf16":
        bits = (rows.view(np.uint32) >> 16).astype(np.uint16)
        return bits, (bits.astype(np.uint32) << 16).view(np.float32)
    rows = rows.astype(np.float16 if dtype == "f16" else np.float32)
    return rows, rows.astype(np.float32)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tailcut", required=True, metavar="PATH", help="the command to check")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:i")
    args = parser.parse_args()
    passed = failed = undecided = 0
    for name, videos, dtype in scenes():
        per_frame = videos[0].shape[1]
        files, values = zip(*(stored(v, dtype) for v in videos))
        cu = None if len(videos) == 1 else np.cumsum([0] + [len(f) for f in files]).astype(np.int32)
        for q in (0.0, 0.1, 0.25, 1 / 3, 0.5, 0.7, 0.75, 0.9, 0.99, 1.0):
            got = tailcut_keeps(args, np.concatenate(files), per_frame, q, cu, dtype)
            for segment, (video, rows) in enumerate(zip(videos, values)):
                # float64 is what float32 rounds: a cut inside its error is decided by the rounding, not by the rule
                want, gap = server_keeps(rows.reshape(video.shape).astype(np.float64), q)
                if not name.startswith("signs") and 0 <= gap < NEAR:
                    undecided += 1
                elif np.array_equal(got[segment], want):
                    passed += 1
                else:
                    failed += 1
                    print(f"FAILED {name}, segment {segment}, q {q}: keeps {len(got[segment])}, the server "
                          f"{len(want)}; not shared: {np.setxor1d(got[segment], want)[:10].tolist()}")
    if undecided > passed // 10:
        print(f"FAILED: {undecided} cuts lie within {NEAR} of the next patch: the scenes prove little")
        failed += 1
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
