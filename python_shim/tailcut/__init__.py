# SPDX-License-Identifier: Apache-2.0
"""tailcut: prune the visual tokens of multimodal language models.

    import tailcut
    kept = tailcut.prune(features, cls)     # [B, N, D] and [B, D] of numpy, PyTorch, CuPy, JAX, ...
    kept.tokens, kept.kept, kept.cu_seqlens

Parts: score, mean_direction, relevance -> cut -> compact, or merge, which loses nothing. Fused:
prune (before the language model), prune_sequence (inside one of its layers). Every call `f` has
`f.plan(...)`: the same, prepared to run often. kept_count sizes buffers before there is data. A
failed call raises tailcut.Error with the library's status and message. Results have no gradient:
those of tailcut.torch have.

Importing this opens no library: that happens in the first call (TAILCUT_LIBRARY names another one).
"""
from ._abi import (VERSION, Detector, DeviceKind, Dtype, Flag, Order, Placement, Policy, Power,
                   Reduction, ReferenceSource, Role, RopePairing, Rounding, RowsFlag, Scale, Status)
from ._calls import compact, cut, kept_count, mean_direction, merge, prune, score
from ._errors import ArgumentError, Error, LoadError, UnsupportedError
from ._handle import Handle, handle
from ._load import build_info, version
from ._options import Batch, Merge, Reference, RelevanceOptions, Rule
from ._plan import Plan
from ._results import Merged, Scores, Selection
from ._rows import Rotation, Rows
from ._sequence import prune_sequence, relevance

__version__ = ".".join(map(str, VERSION))
__all__ = [
    "ArgumentError", "Batch", "Detector", "DeviceKind", "Dtype", "Error", "Flag", "Handle",
    "LoadError", "Merge", "Merged", "Order", "Placement", "Plan", "Policy", "Power", "Reduction",
    "Reference", "ReferenceSource", "RelevanceOptions", "Role", "RopePairing", "Rotation",
    "Rounding", "Rows", "RowsFlag", "Rule", "Scale", "Scores", "Selection", "Status",
    "UnsupportedError", "build_info", "compact", "cut", "handle", "kept_count", "mean_direction",
    "merge", "prune", "prune_sequence", "relevance", "score", "version",
]
