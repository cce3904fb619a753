# SPDX-License-Identifier: Apache-2.0
"""DLPack through ctypes: where another library's array lies, without importing that library and
without a copy.

`borrow` uses the C exchange of the array's type (__dlpack_c_exchange_api__, DLPack 1.2: PyTorch has
it), which makes no object at all; `take` is the older way by __dlpack__. Struct layouts are those
of dlpack.h.
"""
from __future__ import annotations

import ctypes
import struct
from ctypes import (POINTER, PYFUNCTYPE, Structure, addressof, byref, c_char, c_int, c_int32,
                    c_int64, c_uint32, c_uint64, c_void_p, py_object)
from typing import Any

CPU, CUDA, CUDA_HOST, CUDA_MANAGED = 1, 2, 3, 13


# DLTensor: data, device type, device, ndim, dtype (code, bits, lanes), shape, strides, byte offset.
_TENSOR = struct.Struct("@PiiiIPPQ")
_SIZE = _TENSOR.size
_HEADER = 32  # of a versioned managed tensor before its DLTensor: version, context, deleter, flags
_READ_ONLY = 1


class Tensor:
    """The fields of a DLTensor. `dtype` is its code, bits and lanes in one number; strides count
    elements."""

    __slots__ = ("data", "device_type", "device", "dtype", "shape", "strides")

    def __init__(self, memory: Any) -> None:
        data, self.device_type, self.device, ndim, self.dtype, shape, strides, offset = (
            _TENSOR.unpack(memory))
        self.data = data + offset
        axes = _axes[ndim] if ndim < len(_axes) else c_int64 * ndim
        self.shape: tuple[int, ...] = tuple(axes.from_address(shape)) if ndim else ()
        self.strides: tuple[int, ...] | None = (
            tuple(axes.from_address(strides)) if ndim and strides else None)


_axes = [c_int64 * n for n in range(8)]


class _Exchange(Structure):  # DLPackExchangeAPI
    _fields_ = [("major", c_uint32), ("minor", c_uint32), ("previous", c_void_p),
                ("allocator", c_void_p),
                ("managed_from_object", c_void_p), ("object_from_managed", c_void_p),
                ("tensor_from_object", c_void_p), ("current_work_stream", c_void_p)]


_pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
_pointer_of.restype, _pointer_of.argtypes = c_void_p, [py_object, ctypes.c_char_p]
_name_of = ctypes.pythonapi.PyCapsule_GetName
_name_of.restype, _name_of.argtypes = ctypes.c_char_p, [py_object]

# They run Python code: the GIL is kept, and an exception of theirs is raised here.
_FromObject = PYFUNCTYPE(c_int, py_object, c_void_p)
_CurrentStream = PYFUNCTYPE(c_int, c_int32, c_int32, POINTER(c_void_p))

# By type: (the function that fills a DLTensor, the one that names a stream), or None.
_exchanges: dict[type, tuple[Any, Any] | None] = {}


def _exchange(kind: type) -> tuple[Any, Any] | None:
    try:
        return _exchanges[kind]
    except KeyError:
        pass
    found = None
    capsule = getattr(kind, "__dlpack_c_exchange_api__", None)
    if capsule is not None:
        at = _pointer_of(capsule, b"dlpack_exchange_api")
        while at:
            api = _Exchange.from_address(at)
            if api.major == 1 and api.tensor_from_object:
                found = _FromObject(api.tensor_from_object), _CurrentStream(api.current_work_stream)
                break
            at = api.previous
    _exchanges[kind] = found
    return found


_Memory = c_char * _SIZE


def borrow(array: Any) -> Tensor | None:
    """A view of `array` that holds while the array does; None where its type has no C exchange."""
    exchange = _exchange(type(array))
    if exchange is None:
        return None
    memory = _Memory()
    exchange[0](array, addressof(memory))
    return Tensor(memory)


def current_stream(kind: type, device_type: int, device: int) -> int | None:
    """The stream that the library of arrays of type `kind` works on; None where it does not say."""
    exchange = _exchange(kind)
    if exchange is None:
        return None
    stream = c_void_p()
    exchange[1](device_type, device, byref(stream))
    return stream.value or 0


def take(array: Any, stream: int | None) -> tuple[Tensor, bool, Any]:
    """(a view, whether it is read only, what must live as long as the view), by __dlpack__."""
    on_cuda = array.__dlpack_device__()[0] in (CUDA, CUDA_MANAGED)
    how: dict[str, Any] = {"stream": stream or 1} if on_cuda else {}  # 1: the default stream
    try:
        capsule = array.__dlpack__(max_version=(1, 0), **how)
    except TypeError:  # from before DLPack 1
        capsule = array.__dlpack__(**how)
    if _name_of(capsule) == b"dltensor_versioned":
        at = _pointer_of(capsule, b"dltensor_versioned")
        flags = c_uint64.from_address(at + _HEADER - 8).value
        return Tensor(_Memory.from_address(at + _HEADER)), bool(flags & _READ_ONLY), capsule
    return Tensor(_Memory.from_address(_pointer_of(capsule, b"dltensor"))), False, capsule
