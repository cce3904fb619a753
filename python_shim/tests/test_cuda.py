# SPDX-License-Identifier: Apache-2.0
"""The CUDA backend through the package: device arrays by __cuda_array_interface__ and the array
API, the same bits as the CPU. Run where TAILCUT_TEST_CUDA is set, on a GPU or under a simulator;
conftest.py leaves it out elsewhere."""
import ctypes

import numpy as np
import pytest

import ask
import tailcut
from tailcut import Batch, Rows, RowsFlag, Rule, _reuse


def _runtime():
    for name in ("libcudart.so.13", "libcudart.so.12", "libcudart.so"):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise AssertionError("TAILCUT_TEST_CUDA is set, but there is no libcudart")


CUDART = _runtime()
for _name, _types in {"cudaMalloc": [ctypes.c_void_p, ctypes.c_size_t],
                      "cudaFree": [ctypes.c_void_p],
                      "cudaMemcpy": [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t,
                                     ctypes.c_int],
                      "cudaDeviceSynchronize": []}.items():
    getattr(CUDART, _name).argtypes = _types


class Device:
    """An array in device memory, as a small library might have it."""

    def __init__(self, memory, shape, strides, dtype, offset=0):
        self.memory, self.shape, self.strides = memory, shape, strides
        self.dtype, self.offset = np.dtype(dtype), offset

    @classmethod
    def empty(cls, shape, dtype):
        pointer = ctypes.c_void_p()
        size = max(int(np.prod(shape)) * np.dtype(dtype).itemsize, 1)
        assert CUDART.cudaMalloc(ctypes.byref(pointer), size) == 0
        return cls(Memory(pointer.value, size), tuple(shape), np.empty(shape, dtype).strides, dtype)

    @classmethod
    def of(cls, array):
        """A copy of a numpy array, its gaps included."""
        base = array if array.base is None or not isinstance(array.base, np.ndarray) else array.base
        base = np.ascontiguousarray(base)
        made = cls.empty((base.nbytes,), np.uint8)
        assert CUDART.cudaMemcpy(made.memory.pointer, base.ctypes.data, base.nbytes, 1) == 0
        return cls(made.memory, array.shape, array.strides, array.dtype,
                   array.ctypes.data - base.ctypes.data)

    @property
    def __cuda_array_interface__(self):
        return {"shape": self.shape, "strides": self.strides, "typestr": self.dtype.str,
                "version": 3,
                "data": (self.memory.pointer + self.offset, False)}

    def __array_namespace__(self):
        return Space

    def __getitem__(self, piece):
        first, end, _ = piece.indices(self.shape[0])
        return Device(self.memory, (end - first, *self.shape[1:]), self.strides, self.dtype,
                      self.offset + first * self.strides[0])

    def __setitem__(self, everything, value):
        assert everything is Ellipsis
        filled = np.full(self.shape, value, self.dtype)
        assert CUDART.cudaMemcpy(self.memory.pointer + self.offset, filled.ctypes.data,
                                 filled.nbytes, 1) == 0

    def reshape(self, shape):
        return Device(self.memory, shape, np.empty(shape, self.dtype).strides, self.dtype,
                      self.offset)

    def numpy(self):
        whole = np.empty(self.memory.size, np.uint8)
        assert CUDART.cudaDeviceSynchronize() == 0
        assert CUDART.cudaMemcpy(whole.ctypes.data, self.memory.pointer, whole.nbytes, 2) == 0
        return np.ndarray(self.shape, self.dtype, whole, self.offset, self.strides)


class Memory:
    def __init__(self, pointer, size):
        self.pointer, self.size = pointer, size

    def __del__(self):
        CUDART.cudaFree(self.pointer)


class Space:
    float32, int32, int64, uint8 = np.float32, np.int32, np.int64, np.uint8
    empty = staticmethod(lambda shape, dtype: Device.empty(shape, dtype))


def on_host(result):
    """A Selection of device arrays, packed arrays cut to size, in host arrays."""
    total = int(result.cu_seqlens.numpy()[-1])
    for name in result.__dataclass_fields__:
        array = getattr(result, name)
        if isinstance(array, Device):
            array = array.numpy()
            setattr(result, name, array[:total] if name in ("kept", "sizes", "tokens") else array)
    return result


@pytest.mark.parametrize("seed", range(40))
def test_method(seed):
    request, form, one_cls = ask.case_of(seed)
    call, given, how = ask.arguments(request, form, seed % 3, one_cls,
                                     lambda a: Device.of(a) if a.size else Device.empty(
        a.shape, a.dtype))
    for make in (call, lambda *a, **k: call.plan(*a, **k)()):
        ask.check(request, ask.outputs(request, on_host(make(*given, **how))))


def test_rows_in_place_and_padded():
    rng = np.random.default_rng(1)
    x, keys = (rng.normal(size=shape).astype(np.float16)
               for shape in ((3, 40, 24), (3, 2, 40, 8)))
    positions = np.zeros((3, 40), np.int64)
    want = tailcut.prune(x, "row", rule=Rule(k=9), rows=[Rows(keys, token_axis=2)])
    on = [Device.of(array) for array in (x, keys, positions)]
    got = tailcut.prune(on[0], "row", rule=Rule(k=9), out=on[0], rows=[
        Rows(on[1], on[1], token_axis=2), Rows(None, on[2], flags=RowsFlag.RENUMBER, token_axis=1,
                                               placement="local")])
    assert (got.kept.numpy()[:27] == want.kept).all()
    assert (got.scores.numpy()[:, :39] == want.scores[:, :39]).all()
    assert (on[0].numpy()[:, :9].reshape(27, 24) == want.tokens).all()
    assert (on[1].numpy()[:, :, :9].transpose(1, 0, 2, 3).reshape(2, 27, 8) == want.rows[0]).all()
    assert (on[2].numpy()[:, :9] == np.arange(9)).all()
    padded = tailcut.prune(Device.of(x), "row", rule=Rule(k=9), placement="local")
    assert padded.tokens.shape == (3, 9, 24)
    assert (padded.tokens.numpy().reshape(27, 24) == want.tokens).all()


def test_wrong_device():
    x = np.ones((5, 8), np.float32)
    with pytest.raises(tailcut.ArgumentError, match="reference is on device"):
        tailcut.prune(Device.of(x), x[0])
    with pytest.raises(tailcut.ArgumentError, match="batch.cu_seqlens is on device"):
        tailcut.prune(Device.of(x), "mean", batch=Batch(cu_seqlens=[0, 5]))
    with pytest.raises(tailcut.ArgumentError, match="the handle is for device"):
        tailcut.prune(Device.of(x), "mean", handle=tailcut.handle("cpu"))


def test_again():
    """Calls that take an earlier one's arguments, on arrays of the same kind."""
    for seed in range(3):
        rng = np.random.default_rng(seed)
        x, cls = rng.normal(size=(3, 40, 24)).astype(np.float32), rng.normal(size=24).astype("f4")
        on = Device.of(x), Device.of(cls)
        want = tailcut.prune(x, cls, rule=Rule(tau=0.0))
        got = tailcut.prune(*on, rule=Rule(tau=0.0))
        scores = tailcut.score(*on)
        moved = tailcut.compact([on[0]], got.kept, got.counts, got.cu_seqlens)[0]
        total = len(want.kept)
        for one in (got.tokens, moved):
            assert (one.numpy()[:total] == want.tokens).all()
        assert (got.kept.numpy()[:total] == want.kept).all()
        assert (scores.scores.numpy() == want.scores).all()
    known = [made for key, made in _reuse._calls.known.items() if made.setup.device[0] == 2]
    assert len(known) >= 3 and all(not made.on_host for made in known)
