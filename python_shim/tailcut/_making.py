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
_INT32, _UINT8 = np.dtype(np.int32), np.dtype(np.uint8)
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
    """Arrays that are made together: first their memory, then each array when it is asked for.
    One allocation for each kind of element."""

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

    def place(self, words: Sequence[Any]) -> Any:
        """The memory; the arrays' addresses are the words' values then."""
        memory, addresses = self.allocate()
        for word, address in zip(words, addresses):
            word.value = address
        return memory

    def one(self, memory: Any, number: int, first: int | None = None) -> Any:
        """The array of that number; `first`: elements of one that has one axis."""
        (shape, _code), (code, at) = self.specs[number], self.places[number]
        piece = memory[code][at:at + _elements(shape)]
        if first is not None:
            return piece[:first]
        return piece if len(shape) == 1 else piece.reshape(shape)

    def fill(self, memory: Any, number: int, value: float) -> None:
        self.making.fill(self.one(memory, number), value)

    def element(self, memory: Any, number: int, element: int) -> int:
        """One of an array of integers on the host."""
        return int(self.one(memory, number)[element])


class _NumpyMaker(Maker):
    def block(self, specs: Sequence[Spec]) -> Block:
        return _NumpyBlock(self, specs)


class _NumpyBlock(Block):
    """Of words, 64 bytes apart at least."""

    def __init__(self, making: Maker, specs: Sequence[Spec]) -> None:
        self.making, self.specs, self.end = making, specs, 0
        self.layout: list[tuple[int, int, Any, Any]] = []  # words from, to; what else than [n] of
                                                           # int32
        self.offsets = []
        for shape, code in specs:
            plain = len(shape) == 1 and code == "i4"
            self.layout.append((self.end, self.end + _elements(shape), None if plain else shape,
                                _NUMPY[code]))
            self.offsets.append(4 * self.end)
            self.end += ((_elements(shape) * SIZES[code] + 63) & ~63) >> 2

    def place(self, words: Sequence[Any]) -> Any:
        memory = np.empty(self.end, _INT32)
        base = numpy_address(memory)
        for word, offset in zip(words, self.offsets):
            word.value = base + offset
        return memory

    def one(self, memory: Any, number: int, first: int | None = None) -> Any:
        begin, end, shape, dtype = self.layout[number]
        if first is not None:
            return memory[begin:begin + first]
        return memory[begin:end] if shape is None else np.ndarray(shape, dtype, memory, 4 * begin)

    def fill(self, memory: Any, number: int, value: float) -> None:
        _NumpyBlock.one(self, memory, number)[...] = value

    def element(self, memory: Any, number: int, element: int) -> int:
        return memory.item(self.layout[number][0] + element)  # type: ignore[no-any-return]


def _elements(shape: tuple[int, ...]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count


def _numpy_empty(shape: tuple[int, ...], code: str) -> Any:
    return np.empty(shape, _NUMPY[code])


NUMPY = _NumpyMaker(_numpy_empty)


def _from_numpy() -> Callable[[Any], Any]:
    return sys.modules["torch"].from_numpy  # type: ignore[no-any-return]


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

    def __init__(self, making: Maker, specs: Sequence[Spec]) -> None:
        super().__init__(making, specs)
        self.tensor = _from_numpy()

    def one(self, memory: Any, number: int, first: int | None = None) -> Any:
        begin, end, shape, dtype = self.layout[number]
        if shape is not None:
            return self.tensor(np.ndarray(shape, dtype, memory, 4 * begin))
        return self.tensor(memory[begin:end if first is None else begin + first])


class _TorchBlock(Block):
    """One allocation, of words: every call of PyTorch takes a microsecond or more."""

    def __init__(self, making: _TorchMaker, specs: Sequence[Spec]) -> None:
        self.making, self.specs, self.new, self.whole = making, specs, making.none.new_empty, 0
        self.offsets: list[int] = []
        self.pieces: list[tuple[int, int, Any, int, Any]] = []
        for shape, code in specs:
            elements = _elements(shape)
            words = elements * SIZES[code] + 3 >> 2
            self.offsets.append(4 * self.whole)
            self.pieces.append((self.whole, self.whole + words,
                                None if code == "i4" else making.dtypes[code],
                                elements, None if len(shape) == 1 else shape))
            self.whole += words

    def allocate(self) -> tuple[Any, list[int]]:
        memory = self.new(self.whole)
        base = torch_address(memory)
        return memory, [base + offset for offset in self.offsets]

    def one(self, memory: Any, number: int, first: int | None = None) -> Any:
        begin, end, dtype, elements, shape = self.pieces[number]
        if first is not None:
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


def _like(array: Any, code: str, shape: tuple[int, ...], making: Maker) -> Any:
    """A new array with the elements of `array`."""
    if isinstance(array, np.ndarray):
        return np.empty(shape, array.dtype)
    if making is NUMPY:
        return np.empty(shape, np.uint16 if code == "bf2" else code)
    if hasattr(array, "new_empty"):
        return array.new_empty(*shape)
    return array.__array_namespace__().empty(shape, dtype=array.dtype)


def makes_like(array: Any, code: str, shape: tuple[int, ...], making: Maker) -> tuple[
        Callable[[], tuple[Any, int]], Callable[[Any, int | None], Any]]:
    """Two functions for new arrays with the elements of `array`: one gives memory and its address,
    one makes it the array, of so many rows along axis 0 (None: all)."""
    if making is NUMPY:
        dtype, empty, at = _like(array, code, (0,), making).dtype, np.empty, numpy_address

        def of_numpy() -> tuple[Any, int]:
            made = empty(shape, dtype)
            return made, at(made)
        return of_numpy, _shorter
    if getattr(making, "by_numpy", False) and is_torch(type(array)):
        return _torch_host(array.dtype, code, shape)
    none = _like(array, code, (0,), making)

    def of_any() -> tuple[Any, int]:
        made = _like(none, code, shape, making)
        return made, torch_address(made) if is_torch(type(made)) else (
            view(made, "a new array").data)
    return of_any, _shorter


def _shorter(made: Any, rows: int | None) -> Any:
    return made if rows is None else made[:rows]


def _torch_host(kind: Any, code: str, shape: tuple[int, ...]) -> tuple[
        Callable[[], tuple[Any, int]], Callable[[Any, int | None], Any]]:
    """numpy's memory, as in _TorchHostBlock, at an address that is a multiple of 64, as PyTorch's
    are."""
    dtype = np.dtype("u2" if code == "bf2" else code)
    length, rest, tensor = _elements(shape) * dtype.itemsize + 63, shape[1:], _from_numpy()
    other = code == "bf2"

    def new() -> tuple[Any, int]:
        memory = np.empty(length, _UINT8)
        at = numpy_address(memory)
        return (memory, -at & 63), at + 63 & -64

    def finish(made: Any, rows: int | None) -> Any:
        memory, begin = made
        made = tensor(np.ndarray(shape if rows is None else (rows, *rest), dtype, memory, begin))
        return made.view(kind) if other else made
    return new, finish
