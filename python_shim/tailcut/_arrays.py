# SPDX-License-Identifier: Apache-2.0
"""Arrays of any library as a pointer, a shape and strides; _making.py makes new ones.

numpy's are read directly; PyTorch's and others with DLPack's C exchange through that; then
__cuda_array_interface__, __dlpack__, and at last whatever numpy can make of the object without a
copy. Nothing is imported but numpy.
"""
from __future__ import annotations

import sys
from ctypes import c_void_p
from typing import Any, Callable, Sequence

import numpy as np

from . import _dlpack
from ._abi import DeviceKind, Dtype, Status
from ._errors import Error, conflict, error, out_of_range

CPU = (int(DeviceKind.CPU), 0)

# How elements are stored: numpy's letter and bytes, and "bf2" for bfloat16.
SIZES = {"f2": 2, "bf2": 2, "f4": 4, "f8": 8, "i1": 1, "i2": 2, "i4": 4, "i8": 8, "u1": 1, "u2": 2,
         "u4": 4, "u8": 8, "b1": 1}
_FEATURES = {"f2": Dtype.F16, "bf2": Dtype.BF16, "f4": Dtype.F32}
_INT32 = np.dtype(np.int32)
_NUMPY = {code: np.dtype(code) for code in ("f4", "i4", "i8", "u1", "f2", "u2")}


class View:
    """Where an array lies. `strides` are bytes; `device` is (DeviceKind, index)."""

    __slots__ = ("data", "code", "shape", "strides", "device", "array", "read_only", "stream",
                 "keep")

    def __init__(self, data: int, code: str, shape: tuple[int, ...], strides: tuple[int, ...],
                 device: tuple[int, int],
                 array: Any, read_only: bool = False, stream: int | None = None,
                 keep: Any = None) -> None:
        self.data, self.code, self.shape, self.strides = data, code, shape, strides
        self.device = device
        self.array, self.read_only, self.stream, self.keep = array, read_only, stream, keep

    @property
    def on_host(self) -> bool:
        return self.device[0] == 1


# ------------------------------------------------------------------------------------ element types
_codes: dict[Any, str] = {}


def _numpy_code(dtype: np.dtype[Any], name: str) -> str:
    try:
        return _codes[dtype]
    except KeyError:
        pass
    if not dtype.isnative:
        raise error(Status.ERROR_UNSUPPORTED, f"{name} is {dtype}: elements in this machine's byte "
                                              f"order are expected")
    code = "bf2" if dtype.name == "bfloat16" else dtype.str[1:]
    if code not in SIZES:
        raise error(Status.ERROR_UNSUPPORTED, f"{name} is {dtype}, which no argument of tailcut is")
    _codes[dtype] = code
    return code


def _dlpack_dtype(letter: int, size: int) -> int:
    return letter | size * 8 << 8 | 1 << 16  # code, bits and one lane, as they lie in memory
                                             # (little-endian)


_DLPACK_CODES = {_dlpack_dtype(letter, size): f"{word}{size}"
                 for letter, word in ((0, "i"), (1, "u"), (2, "f"), (4, "bf"), (6, "b"))
                 for size in (1, 2, 4, 8)
                 if f"{word}{size}" in SIZES}


def features_dtype(view: View, dtype: Dtype | None, name: str) -> int:
    """The tailcut dtype of an array of features; `dtype` names that of uint16 words."""
    found = _FEATURES.get(view.code)
    if found is None and view.code == "u2" and dtype in (Dtype.BF16, Dtype.F16):
        found = dtype
    if found is None:
        raise error(Status.ERROR_ENUM, f"{name} has elements {view.code}: float16, bfloat16 or "
                                       f"float32 are expected, or "
                    "uint16 with dtype='bf16'")
    if dtype is not None and found != dtype:
        raise conflict(f"{name} has elements {view.code}, but dtype is {dtype.name}")
    return int(found)


# -------------------------------------------------------------------------------------------- views
def _array_interface(array: np.ndarray[Any, Any]) -> int:
    return array.__array_interface__["data"][0]  # type: ignore[no-any-return]


def _first_field(array: np.ndarray[Any, Any]) -> int:
    """PyArray_DATA: an array object begins, behind what every object has, with that pointer.
    Compiled into each extension that uses numpy; from Python this is a tenth of
    __array_interface__'s time."""
    return _pointer_at(id(array) + _OBJECT).value or 0


_pointer_at, _OBJECT = c_void_p.from_address, object.__basicsize__


def _pick_address() -> Callable[[np.ndarray[Any, Any]], int]:
    if sys.implementation.name != "cpython":
        return _array_interface
    probes = np.arange(6, dtype=np.uint16).reshape(2, 3)[:, 1:], np.empty((0, 4)), np.array(1)
    same = all(_first_field(probe) == _array_interface(probe) for probe in probes)
    return _first_field if same else _array_interface


numpy_address = _pick_address()


def torch_address(array: Any) -> int:
    return array.data_ptr() or _of_nothing(array.shape)


def is_torch(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "torch"


def _of_numpy(array: np.ndarray[Any, Any], name: str) -> View:
    code = _codes.get(array.dtype) or _numpy_code(array.dtype, name)
    data, read_only = array.__array_interface__["data"]
    return View(data, code, array.shape, array.strides, CPU, array, read_only)


def _of_dlpack(tensor: _dlpack.Tensor, array: Any, name: str, read_only: bool = False,
               keep: Any = None) -> View:
    code = _DLPACK_CODES.get(tensor.dtype)
    if code is None:
        raise error(Status.ERROR_UNSUPPORTED,
                    f"{name} has elements (DLPack code {tensor.dtype & 255}, "
                    f"{tensor.dtype >> 8 & 255} bits) that no argument of tailcut has")
    size, shape = SIZES[code], tensor.shape
    strides = tuple([s * size for s in tensor.strides]) if tensor.strides else (
        contiguous_strides(shape, size))
    if tensor.device_type in (_dlpack.CPU, _dlpack.CUDA_HOST):
        device = CPU
    elif tensor.device_type in (_dlpack.CUDA, _dlpack.CUDA_MANAGED):
        device = (int(DeviceKind.CUDA), tensor.device)
    else:
        raise error(Status.ERROR_NO_BACKEND, f"{name} is on a device (DLPack type "
                                             f"{tensor.device_type}) that is neither "
                    "a CPU nor CUDA")
    return View(tensor.data or _of_nothing(shape), code, shape, strides, device, array, read_only,
                None, keep)


def _of_cuda_interface(array: Any, name: str) -> View:
    facts = array.__cuda_array_interface__
    code, shape = facts["typestr"][1:], tuple(facts["shape"])
    if code not in SIZES or facts["typestr"][0] == ">" or facts.get("mask") is not None:
        raise error(Status.ERROR_UNSUPPORTED, f"{name} has elements {facts['typestr']} or a mask, "
                                              f"which no argument of "
                    "tailcut has")
    strides = facts.get("strides") or contiguous_strides(shape, SIZES[code])
    device = getattr(array, "device", None)
    index = int(getattr(device, "id", device if isinstance(device, int) else 0) or 0)
    return View(facts["data"][0] or _of_nothing(shape), code, shape, tuple(strides),
                (int(DeviceKind.CUDA), index), array,
                bool(facts["data"][1]), facts.get("stream"))


def _of_nothing(shape: tuple[int, ...]) -> int:
    """An address for an array without elements, which some libraries give none: never read, only
    not NULL."""
    return 64 if 0 in shape else 0


def contiguous_strides(shape: Sequence[int], size: int) -> tuple[int, ...]:
    strides = [0] * len(shape)
    for axis in range(len(shape) - 1, -1, -1):
        strides[axis] = size
        size *= max(shape[axis], 1)
    return tuple(strides)


def strides_of(of: View) -> tuple[int, ...]:
    """Its strides; those of a contiguous array where there is no element (numpy says 0 then)."""
    return of.strides if 0 not in of.shape else contiguous_strides(of.shape, SIZES[of.code])


def without_memory(name: str, failure: Exception) -> Error:
    """What the tensors of PyTorch's transforms and tracers are, sparse ones and others."""
    said = str(failure).partition("\n")[0]
    return error(Status.ERROR_UNSUPPORTED, f"{name} has no memory that can be read ({said}). "
                                           "Where PyTorch transforms or traces: tailcut.torch")


NO_GRADIENT = " requires a gradient, and writing it has none: detach() it, or torch.no_grad()"


def writes(array: Any, name: str) -> None:
    """Before an array of the caller's is written."""
    if is_torch(type(array)):
        writes_tensor(array, name)


def writes_tensor(array: Any, name: str) -> None:
    """PyTorch finds then what it needs for gradients overwritten; in place there is none."""
    if not _torch_calls:
        torch = sys.modules["torch"]
        _torch_calls[:] = torch.is_grad_enabled, torch.autograd.graph.increment_version
    enabled, increment = _torch_calls
    if array.requires_grad and enabled():
        raise conflict(name + NO_GRADIENT)
    increment(array)


_torch_calls: list[Callable[..., Any]] = []


def view(array: Any, name: str, stream: int | None = None) -> View:
    """Where `array` lies. `name` is what errors call it."""
    if type(array) is np.ndarray:
        return _of_numpy(array, name)
    if array is None:
        raise error(Status.ERROR_NULL, f"{name} is None: an array is expected")
    try:
        tensor = _dlpack.borrow(array)
    except (RuntimeError, BufferError) as failure:
        raise without_memory(name, failure) from None
    if tensor is not None:
        return _of_dlpack(tensor, array, name)
    if isinstance(array, np.ndarray):
        return _of_numpy(array, name)
    if hasattr(array, "__cuda_array_interface__"):
        return _of_cuda_interface(array, name)
    if hasattr(array, "__dlpack__"):
        tensor, read_only, keep = _dlpack.take(array, stream)
        return _of_dlpack(tensor, array, name, read_only, keep)
    return _of_numpy(np.asarray(array), name)


def is_contiguous(of: View) -> bool:
    size = SIZES[of.code]
    if 0 in of.shape:
        return True
    for length, stride in zip(reversed(of.shape), reversed(of.strides)):
        if length > 1 and stride != size:
            return False
        size *= length
    return True


OF_LIST = object()  # what a View of an array keeps that was made of a list


def small(array: Any, code: str, name: str, device: tuple[int, int],
          length: int | None = None) -> View:
    """A contiguous array of `code` elements on `device`. Integers of the host may have another
    width: converted."""
    of_list = type(array) is not np.ndarray and isinstance(array, (list, tuple, range))
    if of_list:
        array = np.asarray(array, np.int64)
    of = view(array, name)
    if of.code != code and of.on_host and isinstance(of.array, np.ndarray) and (
            of.code[0] in "iub" and code[0] in "iu"):
        converted = of.array.astype(_NUMPY[code])
        if not np.array_equal(converted, of.array):
            raise out_of_range(f"{name} has values that {_NUMPY[code]} cannot hold")
        of = _of_numpy(converted, name)
    if of_list:
        of.keep = OF_LIST
    if of.code != code:
        raise error(Status.ERROR_ENUM, f"{name} has elements {of.code}: {_NUMPY[code]} is expected")
    if not is_contiguous(of):
        raise error(Status.ERROR_UNSUPPORTED, f"{name} is strided: a contiguous array is expected")
    if of.device != device:
        raise conflict(f"{name} is on device {of.device}, the first argument on {device}")
    if length is not None and (len(of.shape) != 1 or of.shape[0] < length):
        raise out_of_range(f"{name} has shape {list(of.shape)}: [{length}] is expected")
    return of


# --------------------------------------------------------------------------------------- streams
def stream_of(of: View, stream: int | None) -> int:
    """The stream to work on: the one given, else the one that the array's library works on, else
    the default one."""
    if stream is not None or of.on_host:
        return stream or 0
    if of.stream is not None:  # __cuda_array_interface__; 1 and 2 are handles of default streams in
                               # CUDA too
        return of.stream
    found = _dlpack.current_stream(type(of.array), _dlpack.CUDA, of.device[1])
    if found is None and type(of.array).__module__.partition(".")[0] == "cupy":
        found = sys.modules["cupy"].cuda.get_current_stream().ptr
    return found or 0
