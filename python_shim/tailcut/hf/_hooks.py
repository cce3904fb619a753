# SPDX-License-Identifier: Apache-2.0
"""The context manager: hooks on one model's modules, which see a forward pass where it passes from
the vision tower to the language model. No class is touched, and what was put on comes off.

    get_image_features,     attributes of the model's own: score the features and note on the output
    get_video_features      which of them stay (stage 1)
    model, before, after    notes the prompt's visual tokens and finds the note
    language model, before  moves together what stays: embeddings, positions, deepstack features
    decoder layers, before  from `layer` on: stage 2 in the first; its mask and positions in all
    language model, after   leaves the prompt's mask with the cache, for the steps that follow
"""
from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._abi import ReferenceSource, Role
from .._errors import conflict, unsupported
from .._options import Merge, Reference, RelevanceOptions, Rule
from ._families import FAMILIES, Call, flat, like
from ._layer import prune_rows
from ._mask import Prompt, cache_of, check_padding
from ._place import Part, along_batch, kept_of, move, roles_of
from ._score import Decision, decide

#: an attribute of features' outputs (a Decision), of caches (a Prompt), of the model while it lasts
_NOTE = "tailcut"


class Wanted(NamedTuple):
    """The arguments of `prune`."""

    rule: Rule | None             #: None: no stage 1
    reference: Reference | None   #: None: the family's own
    merge: Merge | None
    biased: bool                  #: sizes go into attention
    layer: int | None             #: None: no stage 2
    layer_rule: Rule
    relevance: RelevanceOptions | None


@dataclass
class _Forward:
    """A forward pass with visual tokens, on its way through the model."""

    visual: dict[str, Tensor]           #: by kind, bool [B, T]: its placeholders
    decisions: dict[str, Decision] = field(default_factory=dict)
    roles: Tensor | None = None         #: of the rows that the layers see
    prompt: Prompt | None = None
    late: dict[str, Any] = field(default_factory=dict)  #: arguments of layers from stage 2 on


class Pruning:
    """What `prune` gives: a context manager, or attach() and remove(). One pass at a time."""

    def __init__(self, base: Any, family: str, wanted: Wanted) -> None:
        self.counts: dict[str, list[int]] = {}
        """By "image" and "video": tokens kept of each one (or tile) that was last encoded."""
        self.lengths: list[list[int]] = []
        """Rows of each sequence of the last prompt: after stage 1, after stage 2."""
        self._base, self._family, self._wanted = base, family, wanted
        self._signature = inspect.signature(base.forward)
        self._handles: list[Any] = []
        self._patched: list[str] = []
        self._forward: _Forward | None = None
        self._inside = False

    # ------------------------------------------------------------------------------- on and off
    def attach(self) -> "Pruning":
        base, language, layer = self._base, self._base.language_model, self._wanted.layer
        if _NOTE in vars(base):
            raise conflict("model is being pruned already; expected one context at a time")
        vars(base)[_NOTE] = self
        if self._wanted.rule is not None:
            for kind in ("image", "video"):
                self._wrap(kind, f"get_{kind}_features")
        before = [(base, self._enter), (language, self._prompt)]
        if layer is not None:
            before += [(module, functools.partial(self._layer, number))
                       for number, module in enumerate(language.layers) if number >= layer]
        self._handles = [module.register_forward_pre_hook(hook, with_kwargs=True)
                         for module, hook in before]
        self._handles += [language.register_forward_hook(self._leave_prompt),
                          base.register_forward_hook(self._leave, always_call=True)]
        return self

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        for name in self._patched:
            delattr(self._base, name)
        if self._handles:
            del vars(self._base)[_NOTE]
        self._handles, self._patched, self._forward = [], [], None

    def __enter__(self) -> "Pruning":
        return self.attach()

    def __exit__(self, *_: Any) -> None:
        self.remove()

    # ---------------------------------------------------------------------------------- stage 1
    def _wrap(self, kind: str, name: str) -> None:
        own = getattr(self._base, name, None)
        if own is None:
            return
        signature = inspect.signature(own)

        @functools.wraps(own)
        def features(*args: Any, **kwargs: Any) -> Any:
            if self._inside:  # Qwen3-VL's get_video_features calls get_image_features
                return own(*args, **kwargs)
            self._inside = True
            try:
                output = own(*args, **(kwargs | {"return_dict": True}))
            finally:
                self._inside = False
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            self._decide(Call(self._base, kind, output, bound.arguments))
            return output

        setattr(self._base, name, features)
        self._patched.append(name)

    def _decide(self, call: Call) -> None:
        rule, reference, merge = self._wanted[:3]
        assert rule is not None
        if call.kind == "image" and reference is not None and (
                reference.source == ReferenceSource.LAG):
            rule, reference = replace(rule, order="high"), None
        old = call.output.pooler_output
        decision, features = decide(FAMILIES[self._family](call), flat(old), rule, reference, merge)
        if merge is not None:
            call.output.pooler_output = like(features, old)
        setattr(call.output, _NOTE, decision)
        self.counts[call.kind] = decision.counts
        if self._forward is not None:
            self._forward.decisions[call.kind] = decision

    # -------------------------------------------------------------------------------- the model
    def _enter(self, module: Any, args: Any, kwargs: Any) -> Any:
        given = self._signature.bind_partial(*args, **kwargs).arguments
        given |= given.pop("kwargs", {})
        encoded = given.get("mm_encoder_outputs") or {}
        outputs = {kind: output for kind, output in encoded.items() if output is not None}
        pixels = {"image": given.get("pixel_values"), "video": given.get("pixel_values_videos")}
        kinds = [kind for kind in pixels if kind in outputs or pixels[kind] is not None]
        self._forward = None
        if not kinds:
            return self._positions(given, args, kwargs)
        ids = given.get("input_ids")
        if ids is None:
            raise conflict("input_ids is missing; expected with images, as it says where they are")
        self._forward = _Forward({
            kind: ids == getattr(module.config, f"{kind}_token_id") for kind in kinds})
        for kind, output in outputs.items():
            decision = getattr(output, _NOTE, None)
            if decision is None and self._wanted.rule is not None:
                raise conflict(f"mm_encoder_outputs[{kind!r}] was not made by this model's "
                               f"get_{kind}_features inside the context (prefill_chunk_size makes "
                               "new ones); expected pixel_values")
            if decision is not None:
                self._forward.decisions[kind] = decision
        self.lengths = []
        return None

    def _positions(self, given: dict[str, Any], args: Any, kwargs: Any) -> Any:
        """A step behind a pruned prompt whose caller leaves positions to the model, which would
        count the cache's rows."""
        cache = cache_of(given)
        prompt = getattr(cache, _NOTE, None)
        if prompt is None or given.get("position_ids") is not None or not cache.get_seq_length():
            return None
        tokens = given["inputs_embeds"] if given.get("input_ids") is None else given["input_ids"]
        mask = given.get("attention_mask")
        if mask is None:
            start = cache.get_seq_length() + prompt.dropped
            positions = torch.full((len(tokens), 1), start, device=tokens.device)
        else:
            positions = mask.long().cumsum(1)[:, -1:] - 1
        deltas = getattr(self._base, "rope_deltas", None)
        if deltas is not None:
            positions = (positions + deltas.to(positions.device)).expand(3, -1, -1)
        return args, kwargs | {"position_ids": positions}

    def _leave(self, _module: Any, _args: Any, _output: Any) -> None:
        self._forward = None

    # ----------------------------------------------------------------------- the language model
    def _prompt(self, _module: Any, args: Any, kwargs: Any) -> Any:
        cache, embeds = cache_of(kwargs), kwargs.get("inputs_embeds")
        held = 0 if cache is None else int(cache.get_seq_length())
        before = getattr(cache, _NOTE, None) if held else None
        if self._forward is None:
            if before is None or embeds is None:
                return None
            return args, kwargs | {"attention_mask": _next_mask(before, held, embeds)}
        if before is not None:
            raise unsupported("cache holds a pruned prompt; expected a new one for new images")
        if getattr(cache, "is_compileable", False):
            raise unsupported(f"cache is a {type(cache).__name__}; expected a DynamicCache, whose "
                              "length is the prompt's")
        return args, kwargs | self._pruned(self._forward, kwargs, embeds, cache, held)

    def _pruned(self, forward: _Forward, kwargs: Any, embeds: Tensor, cache: Any, held: int
                ) -> dict[str, Any]:
        """What changes in the language model's arguments; `held`: rows that the cache has."""
        batch, tokens = embeds.shape[:2]
        given = check_padding(kwargs.get("attention_mask"), tokens)
        if given is None:
            given = embeds.new_ones(batch, held + tokens, dtype=torch.bool)
        given = given.to(embeds.device)
        present = given[:, -tokens:]
        keep, sizes = _rows_kept(forward, present)
        roles = roles_of(functools.reduce(torch.logical_or, forward.visual.values()), present)
        positions = kwargs.get("position_ids")
        if positions is None:
            positions = torch.arange(held, held + tokens, device=embeds.device)
        planes = along_batch(positions, batch)
        there, (rows, roles, sizes, *placed) = move(kept_of(keep, roles), [
            Part(embeds), Part(roles, int(Role.ABSENT)), Part(sizes, 1), *planes])
        self.lengths.append(there.sum(1).tolist())
        there = torch.cat([given[:, :held], there], 1)
        if self._wanted.biased:
            sizes = torch.nn.functional.pad(sizes, (held, 0), value=1)
        forward.roles = roles
        forward.prompt = Prompt(there, sizes if self._wanted.biased else None, held + tokens,
                                not bool(there.all()))
        mask = forward.prompt.mask(rows.shape[1], there.shape[1], embeds.dtype)
        if mask is None and cache is None:
            mask = there.long()  # without either, gaps in positions would read as packed sequences
        changed: dict[str, Any] = {
            "inputs_embeds": rows, "attention_mask": mask,
            "position_ids": placed[0] if len(placed) == 1 else torch.stack(placed)}
        visual = kwargs.get("visual_pos_masks")
        if visual is not None:
            changed["visual_pos_masks"] = roles == int(Role.CANDIDATE)
            changed["deepstack_visual_embeds"] = [
                each[keep[visual].to(each.device)] for each in kwargs["deepstack_visual_embeds"]]
        return changed

    def _leave_prompt(self, _module: Any, _args: Any, output: Any) -> None:
        cache = cache_of(output)
        if self._forward is not None and cache is not None:
            setattr(cache, _NOTE, self._forward.prompt)

    # ---------------------------------------------------------------------------------- stage 2
    def _layer(self, number: int, _module: Any, args: Any, kwargs: Any) -> Any:
        forward = self._forward
        if forward is None or forward.prompt is None or forward.roles is None:
            return None
        if number != self._wanted.layer:
            return args, kwargs | forward.late
        hidden = args[0] if args else kwargs["hidden_states"]
        hidden, forward.late, forward.prompt = prune_rows(
            hidden, forward.roles, forward.prompt, kwargs, number, self._wanted.layer_rule,
            self._wanted.relevance, self._base.language_model.config)
        self.lengths.append(forward.prompt.present.sum(1).tolist())
        kwargs = kwargs | forward.late
        return ((hidden, *args[1:]), kwargs) if args else ((), kwargs | {"hidden_states": hidden})


def _rows_kept(forward: _Forward, present: Tensor) -> tuple[Tensor, Tensor]:
    """(bool, int32) [B, T]: rows that stay, and how many tokens each stands for."""
    keep, sizes = present.clone(), torch.ones_like(present, dtype=torch.int32)
    for kind, where in forward.visual.items():
        decision = forward.decisions.get(kind)
        if decision is None:
            continue
        order = _expanded(where, len(decision.keep), kind)
        keep[where] = decision.keep[order]
        if decision.sizes is not None:
            sizes[where] = decision.sizes[order]
    return keep, sizes


def _expanded(where: Tensor, features: int, kind: str) -> Tensor:
    """Which feature each placeholder takes. `generate` repeats a prompt's images with the prompt:
    for beams, or for several sequences."""
    counts = where.sum(1)
    total, batch = int(counts.sum()), len(counts)
    times = total // features if features else 0
    if times == 0 or total != times * features or batch % times:
        raise conflict(f"input_ids has {total} {kind} tokens, but {features} features are given")
    ends = counts[::times].cumsum(0).tolist()
    numbers = torch.arange(features, device=where.device)
    return torch.cat([numbers[start:end] for start, end in zip([0, *ends], ends)
                      for _ in range(times)])


def _next_mask(prompt: Prompt, held: int, embeds: Tensor) -> Tensor | None:
    """A token behind a pruned prompt: the mask says what stands in the cache."""
    sequences, tokens = embeds.shape[:2]
    if tokens != 1:
        raise unsupported(f"{tokens} tokens come behind a pruned prompt; expected one at a time "
                          "(no assisted decoding, no second prompt on a cache that was returned)")
    if sequences != len(prompt.present):
        raise conflict(f"cache holds a pruned prompt of {len(prompt.present)} sequences, but "
                       f"{sequences} are given")
    return prompt.mask(1, held + 1, embeds.dtype)
