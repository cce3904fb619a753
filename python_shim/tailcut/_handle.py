# SPDX-License-Identifier: Apache-2.0
"""Handles (one per device and number of threads, made when first needed) and the memory of
calls."""
from __future__ import annotations

import json
import os
import threading
from ctypes import byref, c_size_t, c_void_p
from typing import Any

import numpy as np

from . import _abi
from ._abi import DeviceKind
from ._arrays import CPU, view
from ._making import Maker
from ._errors import unknown_value
from ._load import check, library, new

_lock = threading.Lock()
_handles: dict[tuple[int, int, int], "Handle"] = {}


class Handle:
    """A device and its settings, as tailcut_create makes it; calls without one use a cached handle
    of their arrays' device with one thread. May be used by several threads at once, and in a child
    after fork (CPU)."""

    def __init__(self, device: str | tuple[int, int] = "cpu", threads: int = 1) -> None:
        """`device`: "cpu", "cuda" or "cuda:1". `threads`: of the CPU; 0 is all cores."""
        self.device = device_of(device)
        self.threads = threads
        self._pointer = None
        self._destroy = library().tailcut_destroy
        self._memory = threading.local()
        pointer = c_void_p()
        check(library().tailcut_create(byref(pointer), new(
            _abi.config, version=_abi.VERSION_NUMBER, device_kind=self.device[0],
            device_index=self.device[1],
            threads=threads)))
        self._pointer = pointer.value

    def __del__(self) -> None:
        if getattr(self, "_pointer", None):
            self._destroy(self._pointer)

    def __reduce__(self) -> tuple[type, tuple[tuple[int, int], int]]:
        return type(self), (self.device, self.threads)  # a copy is another, with the same settings

    @property
    def info(self) -> dict[str, Any]:
        """What runs behind it: backend, simd, threads; on CUDA the device's name."""
        found: dict[str, Any] = json.loads(library().tailcut_handle_info(self._pointer))
        return found

    def workspace_size(self, call: int, segments: int, max_tokens: int, total_tokens: int, dim: int,
                       groups: int,
                       q_heads: int = 0, head_dim: int = 0, window: int = 0) -> int:
        memory = self._memory
        try:
            limits, size = memory.limits
        except AttributeError:
            limits, size = memory.limits = new(_abi.limits), c_size_t()
        limits.segments, limits.max_tokens, limits.total_tokens = segments, max_tokens, total_tokens
        limits.dim, limits.groups, limits.q_heads, limits.head_dim = dim, groups, q_heads, head_dim
        limits.window = window
        check(library().tailcut_workspace_size(self._pointer, call, limits, size))
        return int(size.value)

    def workspace(self, size: int, making: Maker, stream: int) -> tuple[int, Any]:
        """(address, what holds it): memory of the calling thread's own on the CPU, used again by
        its next call; fresh memory of the arrays' library on a device."""
        if self.device != CPU:
            return self.fresh_workspace(size, making, stream)
        memory = self._memory
        if getattr(memory, "size", -1) < size:
            memory.held = self.fresh_workspace(size + size // 2, making, stream)
            memory.size = size
        return memory.held  # type: ignore[no-any-return]

    def fresh_workspace(self, size: int, making: Maker, stream: int) -> tuple[int, Any]:
        """The same, for one owner."""
        align = _abi.WORKSPACE_ALIGNMENT
        if self.device == CPU:
            holder: Any = np.empty(size + align, np.uint8)
            start = holder.__array_interface__["data"][0]
        else:
            holder = making.empty((size + align,), "u1")
            start = view(holder, "workspace").data
        address = (start + align - 1) & -align
        check(library().tailcut_workspace_init(self._pointer, address, size, stream))
        return address, holder


def device_of(device: str | tuple[int, int]) -> tuple[int, int]:
    """(DeviceKind, index) of "cpu", "cuda" or "cuda:1"."""
    if isinstance(device, tuple):
        return device
    kind, _, index = device.partition(":")
    if kind.upper() not in DeviceKind.__members__ or (index and not index.isdigit()):
        raise unknown_value(f"device is {device!r}; expected cpu, cuda or cuda:INDEX")
    return int(DeviceKind[kind.upper()]), int(index or 0)


def handle(device: str | tuple[int, int] = "cpu", threads: int = 1) -> Handle:
    """The process's handle for a device and a number of threads; made once."""
    key = (*device_of(device), threads)
    found = _handles.get(key)
    if found is None:
        with _lock:
            found = _handles.get(key)
            if found is None:
                found = _handles[key] = Handle(device, threads)
    return found


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()  # another thread may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
