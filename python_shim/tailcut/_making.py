# SPDX-License-Identifier: Apache-2.0
"""New arrays where the inputs live: a Maker for each library, and Blocks of arrays that are made
together. numpy's serve for other libraries' host arrays.
"""
from __future__ import annotations

import sys
from typing import Any, Callable, Sequence

import numpy as np

from ._abi import Status
from ._arrays import SIZES, View, is_torch, numpy_address, torch_address, view
from ._errors import error

Spec = tuple[tuple[int, ...], str]  # a shape and an element code of SIZES
_INT32 = np.dtype(np.int32)
_NUMPY = {code: np.dtype(code) for code in ("f4", "i4", "u1")}


class Maker:
    """Makes arrays of float32, int32 and uint8 in the library and on the device of the input."""

    def __init__(self, empty: Callable[[tuple[int, ...], str], Any]) -> None:
        self.empty = empty

    def block(self, specs: Sequence[Spec]) -> "Block":
        return Block(self, specs)

    def fill(self, array: Any, value: float) -> None:
        array[...] = value


class Block:
    """Arrays that are made together: first their memory, then the arrays, where the first may be as
    short as its results. One allocation for each kind of element."""

    def __init__(self, making: Maker, specs: Sequence[Spec]) -> None:
        self.making, self.specs, self.places = making, specs, []
        self.lengths: dict[str, int] = {}  # elements by code
        for shape, code in specs:
            self.places.append((code, self.lengths.get(code, 0)))
            self.lengths[code] = self.lengths.get(code, 0) + _elements(shape)

    def allocate(self) -> tuple[Any, list[int]]:
        """(the memory, the arrays' addresses)."""
        memory = {code: self.making.empty((length,), code) for code, length in self.lengths.items()}
        bases = {code: view(array, "a new array").data for code, array in memory.items()}
        return memory, [bases[code] + first * SIZES[code] for code, first in self.places]

    def place(self, words: Any, at: Sequence[int]) -> Any:
        """The memory; the arrays' addresses go into words[at[..]]."""
        memory, addresses = self.allocate()
        for word, address in zip(at, addresses):
            words[word] = address
        return memory

    def arrays(self, memory: Any, first: int | None = None) -> list[Any]:
        """The arrays; `first`: elements of the first one, which has one axis then."""
        made = []
        for (shape, _code), (code, at) in zip(self.specs, self.places):
            piece = memory[code][at:at + _elements(shape)]
            made.append(piece if len(shape) == 1 else piece.reshape(shape))
        if first is not None:
            made[0] = made[0][:first]
        return made

    late = False  # whether `one` is worth while

    def one(self, memory: Any, number: int, first: int | None = None) -> Any:
        """The array of that number alone."""
        return self.arrays(memory, first)[number]

    def make(self) -> list[tuple[Any, int]]:
        """Arrays and addresses."""
        memory, addresses = self.allocate()
        return list(zip(self.arrays(memory), addresses))


class _OneBlock(Block):
    """One allocation: each array `offsets` bytes behind its start."""

    offsets: list[int]

    def start(self) -> tuple[Any, int]:
        """(the memory, its address)."""
        raise NotImplementedError

    def allocate(self) -> tuple[Any, list[int]]:
        memory, base = self.start()
        return memory, [base + offset for offset in self.offsets]

    def place(self, words: Any, at: Sequence[int]) -> Any:
        memory, base = self.start()
        for word, offset in zip(at, self.offsets):
            words[word] = base + offset
        return memory


class _NumpyMaker(Maker):
    def block(self, specs: Sequence[Spec]) -> Block:
        return _NumpyBlock(self, specs)


class _NumpyBlock(_OneBlock):
    """Of words, 64 bytes apart at least."""

    def __init__(self, making: Maker, specs: Sequence[Spec]) -> None:
        self.making, self.end = making, 0
        self.layout: list[tuple[int, int, Any, Any]] = []  # words from, to; what else than [n] of
                                                           # int32
        self.offsets = []
        for shape, code in specs:
            plain = len(shape) == 1 and code == "i4"
            self.layout.append((self.end, self.end + _elements(shape), None if plain else shape,
                                _NUMPY[code]))
            self.offsets.append(4 * self.end)
            self.end += ((_elements(shape) * SIZES[code] + 63) & ~63) >> 2

    def start(self) -> tuple[Any, int]:
        memory = np.empty(self.end, _INT32)
        return memory, numpy_address(memory)

    def arrays(self, memory: Any, first: int | None = None) -> list[Any]:
        made = [memory[begin:end] if shape is None else np.ndarray(shape, dtype, memory, 4 * begin)
                for begin, end, shape, dtype in self.layout]
        if first is not None:
            made[0] = memory[:first]
        return made


def _elements(shape: tuple[int, ...]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count


def _numpy_empty(shape: tuple[int, ...], code: str) -> Any:
    return np.empty(shape, _NUMPY[code])


NUMPY = _NumpyMaker(_numpy_empty)


class _TorchMaker(Maker):
    def __init__(self, device: Any) -> None:
        torch = sys.modules["torch"]
        self.dtypes = {"f4": torch.float32, "i4": torch.int32, "u1": torch.uint8}
        self.none = torch.empty(0, dtype=torch.int32, device=device)
        super().__init__(
            lambda shape, code: torch.empty(shape, dtype=self.dtypes[code], device=device))

        try:
            torch.from_numpy(np.empty(0, _INT32))
            self.by_numpy = device.type == "cpu"
        except RuntimeError:  # it was built for another numpy
            self.by_numpy = False

    def block(self, specs: Sequence[Spec]) -> Block:
        return _TorchHostBlock(self, specs) if self.by_numpy else _TorchBlock(self, specs)


class _TorchHostBlock(_NumpyBlock):
    """numpy makes pieces of memory in a fraction of the time that PyTorch takes."""

    late = True

    def arrays(self, memory: Any, first: int | None = None) -> list[Any]:
        return [_from_numpy(array) for array in super().arrays(memory, first)]

    def one(self, memory: Any, number: int, first: int | None = None) -> Any:
        begin, end, shape, dtype = self.layout[number]
        if number == 0 and first is not None:
            end = first
        return _from_numpy(memory[begin:end] if shape is None else
                           np.ndarray(shape, dtype, memory, 4 * begin))


def _from_numpy(array: np.ndarray[Any, Any]) -> Any:
    return sys.modules["torch"].from_numpy(array)


class _TorchBlock(_OneBlock):
    """Of words, and each array when it is asked for: every call of PyTorch takes
    a microsecond or more."""

    late = True

    def __init__(self, making: _TorchMaker, specs: Sequence[Spec]) -> None:
        self.new, self.whole = making.none.new_empty, 0
        self.offsets = []
        self.pieces: list[tuple[int, int, Any, int, Any]] = []
        for shape, code in specs:
            elements = _elements(shape)
            words = elements * SIZES[code] + 3 >> 2
            self.offsets.append(4 * self.whole)
            self.pieces.append((self.whole, self.whole + words,
                                None if code == "i4" else making.dtypes[code],
                                elements, None if len(shape) == 1 else shape))
            self.whole += words

    def start(self) -> tuple[Any, int]:
        memory = self.new(self.whole)
        return memory, memory.data_ptr() or 64

    def arrays(self, memory: Any, first: int | None = None) -> list[Any]:
        return [self.one(memory, number, first) for number in range(len(self.pieces))]

    def one(self, memory: Any, number: int, first: int | None = None) -> Any:
        begin, end, dtype, elements, shape = self.pieces[number]
        if first is not None and number == 0:
            return memory[begin:begin + first]
        array = memory[begin:end]
        if dtype is not None:
            array = array.view(dtype)
            if len(array) != elements:  # bytes that are no whole words
                array = array[:elements]
        return array if shape is None else array.view(shape)


_torch_makers: dict[Any, Maker] = {}


def _torch_maker(device: Any) -> Maker:
    found = _torch_makers.get(device)
    if found is None:
        found = _torch_makers[device] = _TorchMaker(device)
    return found


def maker(of: View) -> Maker:
    """What makes the outputs of a call whose first array is `of`."""
    kind = type(of.array)
    if kind is np.ndarray:
        return NUMPY
    if is_torch(kind) or "torch" in sys.modules and (
            isinstance(of.array, sys.modules["torch"].Tensor)):
        return _torch_maker(of.array.device)
    if of.on_host:
        return NUMPY
    if not hasattr(of.array, "__array_namespace__"):
        raise error(Status.ERROR_UNSUPPORTED, f"cannot make arrays on the device of a "
                                              f"{kind.__name__}: use a library "
                    "with the array API (CuPy) or PyTorch")
    space = of.array.__array_namespace__()
    dtypes = {"f4": space.float32, "i4": space.int32, "u1": space.uint8}
    return Maker(lambda shape, code: space.empty(shape, dtype=dtypes[code]))


def like(array: Any, code: str, shape: tuple[int, ...], making: Maker) -> Any:
    """A new array with the elements of `array`."""
    if isinstance(array, np.ndarray):
        return np.empty(shape, array.dtype)
    if making is NUMPY:
        return np.empty(shape, np.uint16 if code == "bf2" else code)
    if hasattr(array, "new_empty"):
        return array.new_empty(*shape)
    return array.__array_namespace__().empty(shape, dtype=array.dtype)


def like_at(array: Any, code: str, shape: tuple[int, ...], making: Maker) -> tuple[Any, int]:
    """The same and its address."""
    made = like(array, code, shape, making)
    if making is NUMPY:
        return made, numpy_address(made)
    return made, torch_address(made) if is_torch(type(made)) else view(made, "a new array").data
