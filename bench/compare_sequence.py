# SPDX-License-Identifier: Apache-2.0
"""Stage 2 for compare.py and compare_cuda.py (--sequence): the prune of one sequence inside a
layer, mean cosine to the rows of text, the best quarter of the image rows, against the same in
PyTorch: relevance, topk, sort, and a gather for each array (hidden states, M-RoPE position ids, K
and V of each layer).

Out of place on both sides, as gathers are: each call then has the same work.
"""
import ctypes

from compare import (F16, LOCAL, P, I32, SIZE, Batch, Config, Limits, Rows, Selection, Tokens, made,
                     struct)

F64, F32 = ctypes.c_double, ctypes.c_float
Rule = struct("Rule", ("detector", I32), ("scale", I32), ("k", I32), ("rounding", I32),
              ("ratio", F64), ("percent", I32), ("window", I32), ("lambda_", F64), ("mass", F64),
              ("tau", F32), ("min_keep", I32), ("max_keep", I32), ("round_to", I32),
              ("search_lo", F64), ("search_hi", F64), ("spread", F64))
TOPK, PRUNE_SEQUENCE, CANDIDATE, QUERY = 9, 7, 1, 2
HEAD = 128
# Image rows, rows of text, width, layers of K and V, heads of these: the first of targets.py's; a
# layer of LLaVA-1.5-7B; of Qwen2.5-VL-7B; of a model of 70B parameters, with all layers so far.
SIZES = [(576, 64, 4096, 2, 8), (576, 64, 4096, 2, 32), (1024, 256, 3584, 2, 4)]
LARGE = [(4096, 2048, 8192, 32, 8)]


def title(size):
    tokens, text, dim, layers, heads = size
    return (f"prune_sequence: {tokens} + {text} x {dim} f16, K and V of {layers} layers with "
            f"{heads} "
            "heads")


class Sequence:
    """The tensors, tailcut's call on them with everything prepared, and PyTorch's."""

    def __init__(self, library, torch, device, size, stream, stop):
        self.torch, self.size, self.stream, self.stop = torch, size, stream, stop
        tokens, text, dim, layers, heads = size
        rows = self.rows = tokens + text
        self.k = tokens // 4
        random = torch.Generator().manual_seed(1)
        about = torch.randn((dim,), generator=random)
        lean = torch.rand((rows, 1), generator=random)
        hidden = torch.randn((rows, dim), generator=random) + lean * about
        # Position ids [3, rows]; K and V [rows, heads, 128] of each layer.
        self.arrays = [hidden.half().to(device),
                       torch.arange(3 * rows, device=device).reshape(3, rows)]
        self.arrays += [torch.randn((rows, heads, HEAD), generator=random).half().to(device)
                        for _ in range(2 * layers)]
        self.out = [torch.zeros_like(array) for array in self.arrays]
        roles = torch.full((rows,), CANDIDATE, dtype=torch.uint8)
        roles[tokens:] = QUERY
        self.roles = roles.to(device)
        self.kept = torch.zeros((rows,), dtype=torch.int32, device=device)
        self.count = torch.zeros((1,), dtype=torch.int32, device=device)
        self.prepare(ctypes.CDLL(library), device)

    def check(self, status):
        if status != 0:
            self.stop(self.lib.tailcut_last_error().decode() or f"tailcut: status {status}")

    def prepare(self, lib, device):
        lib.tailcut_last_error.restype = lib.tailcut_build_info.restype = ctypes.c_char_p
        self.lib = lib
        cuda = device.type == "cuda"
        handle, size = P(), SIZE()
        config = made(Config, lib.tailcut_version(), 2 if cuda else 1, device.index or 0,
                      1 if cuda else 0)
        self.check(lib.tailcut_create(ctypes.byref(handle), ctypes.byref(config)))
        limits = made(Limits, 1, self.rows, 0, self.size[2], 0, 0)
        self.check(lib.tailcut_workspace_size(handle, PRUNE_SEQUENCE, ctypes.byref(limits),
                                              ctypes.byref(size)))
        room = self.torch.zeros(size.value + 256, dtype=self.torch.uint8, device=device)
        workspace = (room.data_ptr() + 255) // 256 * 256
        self.check(lib.tailcut_workspace_init(handle, P(workspace), size, P(self.stream())))
        batch = made(Batch, 1, self.rows, 0, None, None, 0)
        tokens = made(Tokens, self.arrays[0].data_ptr(), F16, self.size[2], 0, 0)
        rule = Rule()
        self.check(lib.tailcut_rule_init(ctypes.byref(rule), SIZE(ctypes.sizeof(rule))))
        rule.detector, rule.k = TOPK, self.k
        selection = made(Selection, self.count.data_ptr(), self.kept.data_ptr(), LOCAL)
        rows = (Rows * len(self.arrays))()
        for row, array, out in zip(rows, self.arrays, self.out):
            planes = array.shape[0] if array.dtype == self.torch.int64 else 1
            bytes_ = array.nbytes // self.rows // planes
            lib.tailcut_rows_init(ctypes.byref(row), SIZE(ctypes.sizeof(row)))
            row.src, row.dst, row.part_bytes, row.parts = (array.data_ptr(), out.data_ptr(), bytes_,
                                                           planes)
            row.src_row_stride = row.dst_row_stride = bytes_
            row.src_part_stride = row.dst_part_stride = bytes_ * self.rows
        self.keep = batch, tokens, rule, selection, rows, room
        at = ctypes.addressof
        self.args = (handle.value, at(batch), at(tokens), self.roles.data_ptr(), None, at(rule),
                     at(selection), at(rows), len(rows), workspace, size.value)
        self.prune = lib.tailcut_prune_sequence
        self.prune.argtypes = [P] * 8 + [I32, P, SIZE, P]

    def __call__(self):
        self.check(self.prune(*self.args, self.stream()))

    def by_hand(self):
        """A function without arguments that gives (kept, arrays)."""
        torch, tokens, k, arrays = self.torch, self.size[0], self.k, self.arrays
        text = torch.arange(tokens, self.rows, device=arrays[0].device)

        def prune():
            hidden = arrays[0].float()
            norms = torch.linalg.vector_norm(hidden, dim=1).clamp_min(1e-8)
            u = (hidden[tokens:] / norms[tokens:, None]).mean(0)
            scores = hidden[:tokens] @ u / norms[:tokens]
            best = torch.sort(torch.topk(scores, k).indices).values
            kept = torch.cat((best, text))
            return kept, [a[:, kept] if a.dtype == torch.int64 else a.index_select(0, kept)
                          for a in arrays]
        return prune

    def contenders(self, compiled):
        """{name: (call, may be captured)}"""
        found = {"tailcut": (self, True),
                 "eager, gathers": (self.by_hand(), True)}
        if compiled:
            self.torch.compiler.reset()
            found["compile, gathers"] = (
                self.torch.compile(self.by_hand(), fullgraph=True, dynamic=False), True)
        return found

    def check_contenders(self, contenders, wait):
        """{name: (rows that are kept, that differ)}; drops what does not run; whether all is
        right."""
        torch = self.torch
        self()
        wait()
        count = int(self.count)
        ours = self.kept[:count].long()
        right = count == self.k + self.size[1]
        right &= all(torch.equal(out[:, :count], array[:, ours])
                     if array.dtype == torch.int64 else torch.equal(out[:count], array[ours])
                     for out, array in zip(self.out, self.arrays))
        found, dropped = {"tailcut": (count, 0)}, {}
        for name in list(contenders)[1:]:
            try:
                kept, _ = contenders[name][0]()
                wait()
            except Exception as error:  # torch.compile fails in many ways; the others still count
                dropped[name] = (str(error).splitlines() or [type(error).__name__])[0]
                del contenders[name]
                continue
            differing = len(set(kept.tolist()) ^ set(ours.tolist()))
            found[name] = len(kept), differing
            right &= differing <= self.size[0] // 50  # sums in another order: neighbours may swap
        return found, right, dropped
