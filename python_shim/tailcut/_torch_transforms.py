# SPDX-License-Identifier: Apache-2.0
"""The operators under torch.func: vmap's axis becomes segments of one call (ragged batches: a call
for each element), and grad and its kin differentiate by an autograd.Function of the gradients in
_torch_gradients.py, as what torch.library makes of them knows no transforms.
"""
from __future__ import annotations

from typing import Any, Callable, Sequence

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from ._abi import Status
from ._errors import error
from ._torch_gradients import GRADIENTS

_BY_SEGMENT = {"counts", "flags"}
_OPERATORS = ("score", "cut", "prune", "prune_merge", "merge", "compact", "prune_sequence")


# ------------------------------------------------------------------------------------------- vmap
class _Folding:
    """vmap's axis in front, and behind it the batch's where there is one: `inner` segments. Both
    become one axis and are two again in the results."""

    def __init__(self, size: int, inner: int | None) -> None:
        self.size, self.inner = size, inner

    def fold(self, array: Tensor, axis: int | None, name: str) -> Tensor:
        if axis is None and name == "cls" and array.dim() == 1:
            return array  # one for all
        array = array.movedim(axis, 0) if axis is not None else (
            array.expand(self.size, *array.shape).contiguous())
        if name in _BY_SEGMENT:
            return array.reshape(-1)
        if self.inner is None:
            return array
        if name == "cls" and array.dim() == 2:
            array = array.unsqueeze(1).expand(-1, self.inner, -1)
        return array.flatten(0, 1)

    def unfold(self, array: Tensor, name: str) -> Tensor:
        if self.inner is not None:
            return array.unflatten(0, (self.size, self.inner))
        return array.unsqueeze(1) if name in _BY_SEGMENT else array


def _each(axes: Any, values: Sequence[Any]) -> Sequence[int | None]:
    return axes if isinstance(axes, (list, tuple)) else [axes] * len(values)


def _one_by_one(op: Any, size: int, in_dims: Sequence[Any], args: Sequence[Any]) -> Any:
    def at(value: Any, axis: Any, i: int) -> Any:
        if isinstance(value, (list, tuple)):
            return [at(one, where, i) for one, where in zip(value, _each(axis, value))]
        return value.select(axis, i) if isinstance(value, Tensor) and axis is not None else value

    found = [op(*[at(value, axis, i) for value, axis in zip(args, in_dims)]) for i in range(size)]
    parts = [tree_flatten(one) for one in found]
    stacked = [torch.stack(several) for several in zip(*[flat for flat, _spec in parts])]
    return tree_unflatten(stacked, parts[0][1]), tree_unflatten([0] * len(stacked), parts[0][1])


def _batched(name: str) -> Callable[..., Any]:
    op = getattr(torch.ops.tailcut, name).default
    names = [argument.name for argument in op._schema.arguments]
    results = [result.name for result in op._schema.returns]

    def rule(info: Any, in_dims: Sequence[Any], *args: Any) -> Any:
        given = dict(zip(names, zip(args, in_dims)))
        if given["cu_seqlens"][0] is not None:
            return _one_by_one(op, info.batch_size, in_dims, args)
        like, flat = next((given[word], axes) for word, axes in (
            ("x", 2), ("scores", 1), ("kept", 1)) if word in given)
        shape = list(like[0].shape)
        if like[1] is not None:
            del shape[like[1]]
        folding = _Folding(info.batch_size, shape[0] if len(shape) > flat else None)
        folded: list[Any] = []
        for word, (value, axis) in given.items():
            if isinstance(value, Tensor):
                value = folding.fold(value, axis, word)
            elif word == "rows":
                value = [folding.fold(one, where, word)
                         for one, where in zip(value, _each(axis, value))]
            elif word == "axes" and folding.inner is None:
                value = [one + 1 if one >= 0 else one for one in value]
            folded.append(value)
        found = op(*folded)
        if isinstance(found, list):
            return [folding.unfold(one, "rows") for one in found], [0] * len(found)
        made = tuple([folding.unfold(one, word) if isinstance(one, Tensor) else
                      [folding.unfold(each, word) for each in one]
                      for one, word in zip(found, results)])
        return made, tuple([0 if isinstance(one, Tensor) else [0] * len(one) for one in made])

    return rule


for _name in _OPERATORS:
    torch.library.register_vmap(f"tailcut::{_name}", _batched(_name))


# ------------------------------------------------------------------------------------------- grad
def _nested(name: str, found: Sequence[Any]) -> Any:
    """An operator's results from tensors one behind another."""
    if name == "compact":
        return list(found)
    return (*found[:3], list(found[3:])) if name == "prune_sequence" else tuple(found)


class _Function(torch.autograd.Function):  # type: ignore[misc]
    """An operator with its name, the structure of its arguments, and these one by one."""

    generate_vmap_rule = True

    @staticmethod
    def forward(name: str, spec: Any, *flat: Any) -> tuple[Tensor, ...]:
        found = getattr(torch.ops.tailcut, name)(*tree_unflatten(list(flat), spec))
        return tuple(tree_flatten(found)[0])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.name, spec, *flat = inputs
        args = tree_unflatten(flat, spec)
        ctx.lengths = [len(one) if isinstance(one, list) else None for one in args]
        GRADIENTS[ctx.name][0](ctx, tuple(args), _nested(ctx.name, output))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        nested = _nested(ctx.name, grads)
        found = GRADIENTS[ctx.name][1](ctx, *([nested] if ctx.name == "compact" else nested))
        flat: list[Any] = []
        for one, length in zip(found, ctx.lengths):
            flat += [one] if length is None else one or [None] * length
        return None, None, *flat


_DIFFERENTIATE = torch._C._functorch.TransformType.Grad, torch._C._functorch.TransformType.Jvp


def transformed(name: str, args: Sequence[Any]) -> Any:
    """The operator where torch.func transforms it."""
    if name.endswith("_"):
        raise error(Status.ERROR_UNSUPPORTED, f"{name} works in place, which torch.func's "
                                              f"transforms cannot: {name[:-1]}")
    if name not in GRADIENTS or not any(
            level.key() in _DIFFERENTIATE for level in torch._C._functorch.get_interpreter_stack()):
        return getattr(torch.ops.tailcut, name)(*args)
    flat, spec = tree_flatten(list(args))
    return _nested(name, _Function.apply(name, spec, *flat))
