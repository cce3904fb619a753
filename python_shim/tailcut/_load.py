# SPDX-License-Identifier: Apache-2.0
"""Finds and opens the native library, when it is first needed.

In this order: the file that TAILCUT_LIBRARY names and no other where it is set; the package's own
(a wheel brings it); the build tree of a checkout (build/lib); the system's (ldconfig,
LD_LIBRARY_PATH). A library of another ABI is refused: before 1.0 the minor version must be the
same, later the major one.
"""
from __future__ import annotations

import ctypes
import os
import sys
import threading
from ctypes.util import find_library
from pathlib import Path
from typing import Any, Iterator

from . import _abi
from ._abi import Status
from ._errors import LoadError, error

OVERRIDE = "TAILCUT_LIBRARY"
_NAME = {"darwin": "libtailcut.dylib", "win32": "tailcut.dll"}.get(sys.platform, "libtailcut.so")
_lock = threading.Lock()
_library: ctypes.CDLL | None = None
_defaults: dict[type, bytes] = {}  # the initialised bytes of each struct
_bare: dict[str, Any] = {}  # functions that take converted arguments


def _candidates() -> Iterator[str]:
    named = os.environ.get(OVERRIDE)
    if named:
        yield named
        return
    package = Path(__file__).resolve().parent
    yield str(package / _NAME)
    checkout = package.parent.parent
    if (checkout / "include" / "tailcut.h").exists():
        yield str(checkout / "build" / "lib" / _NAME)
    yield find_library("tailcut") or _NAME


def _abi_of(version: int) -> tuple[int, ...]:
    major, minor = version // 10000, version // 100 % 100
    return (major,) if major else (major, minor)


def _open(path: str) -> ctypes.CDLL:
    """The library at `path` with its signatures set, or LoadError with the reason alone."""
    if os.sep in path and not os.path.exists(path):
        raise LoadError("no such file")
    try:
        library = ctypes.CDLL(path)  # releases the GIL during calls
    except OSError as failure:
        raise LoadError(str(failure)) from None
    try:
        library.tailcut_version.restype = ctypes.c_int32
        version = library.tailcut_version()
        if _abi_of(version) != _abi_of(_abi.VERSION_NUMBER):
            raise LoadError(f"it is version {version // 10000}.{version // 100 % 100}."
                            f"{version % 100}, this package "
                            f"needs {'.'.join(map(str, _abi.VERSION[:2]))}")
        for name, (result, arguments) in _abi.FUNCTIONS.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except AttributeError as failure:
        raise LoadError(f"it lacks a function: {failure}") from None
    for struct in _abi.STRUCTS:
        made = struct()
        extra = (_abi.VERSION_NUMBER,) if struct is _abi.config else ()
        if getattr(library, f"{struct.__name__}_init")(made, ctypes.sizeof(struct),
                                                       *extra) != Status.OK:
            raise LoadError(f"it does not know a {struct.__name__} of "
                            f"{ctypes.sizeof(struct)} bytes")
        _defaults[struct] = bytes(made)
    return library


def library() -> ctypes.CDLL:
    """The native library; opened by the first call."""
    global _library
    if _library is None:
        with _lock:
            if _library is None:
                _library = _find()
    return _library


def _find() -> ctypes.CDLL:
    tried = []
    for path in _candidates():
        try:
            return _open(path)
        except LoadError as failure:
            tried.append(f"{path}: {failure.message}")
    raise LoadError("no native tailcut library that fits; tried:"
                    + "".join(f"\n  {line}" for line in tried)
                    + f"\n{OVERRIDE}=PATH names one", tuple(tried))


def new(struct: type, **fields: Any) -> Any:
    """A struct as its INITIALIZER macro makes it, then `fields`."""
    if not _defaults:
        library()
    made = struct.from_buffer_copy(_defaults[struct])  # type: ignore[attr-defined]
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def new_array(struct: type, count: int) -> Any:
    """`count` of them, one behind the other."""
    if not _defaults:
        library()
    kind: Any = struct
    return (kind * count).from_buffer_copy(_defaults[struct] * count)


def laid_out(function: Any, arguments: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """A function of the library and its first arguments, converted once and for all: a call with
    them takes a quarter of the time, as nothing is checked. Further ones are converted too."""
    bare = _bare.get(function.__name__)
    if bare is None:
        address = ctypes.cast(function, ctypes.c_void_p).value
        bare = _bare[function.__name__] = ctypes.CFUNCTYPE(ctypes.c_int32)(address)  # type: ignore
    made = []
    for kind, value in zip(function.argtypes, arguments):
        given = kind.from_param(value)
        made.append(ctypes.byref(given) if isinstance(given, ctypes.Array) else given)
    return bare, tuple(made)


def fail(status: int) -> None:
    """Raises what the calling thread's last call said."""
    said = library().tailcut_last_error().decode(errors="replace")
    raise error(status, said or library().tailcut_status_string(status).decode())


def check(status: int) -> None:
    if status:
        fail(status)


def version() -> str:
    """The version of the native library."""
    number = library().tailcut_version()
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def build_info() -> dict[str, Any]:
    """What the native library was built with and runs on: version, backends, architectures,
    compiler, SIMD levels."""
    import json
    info: dict[str, Any] = json.loads(library().tailcut_build_info())
    return info


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()  # another thread may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
