# SPDX-License-Identifier: Apache-2.0
"""The context manager: hooks on one model's modules, which see a forward pass where it passes from the vision tower to
the language model. No class is touched, and what was put on comes off.

    get_image_features,         an attribute of the model's own: scores the features and notes on the output which of
    get_video_features          them stay (stage 1)
    model, before and after     notes the prompt's visual tokens, finds the note
    language model, before      moves together the rows that stay: embeddings, positions, mask, deepstack features
    decoder layers, before      from `layer` on: stage 2 in the first, its shorter mask and positions in the others
    language model, after       leaves the prompt's mask with the cache, for the steps that follow
"""
from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass, field, replace
from typing import Any, Callable

import torch
from torch import Tensor

from .._abi import ReferenceSource, Policy, Role
from .._errors import conflict, out_of_range, unsupported
from .._options import Merge, Reference, RelevanceOptions, Rule
from ._families import FAMILIES, HAVE_CLS, HAVE_VIDEO, Call, flat, like
from ._layer import prune_rows
from ._mask import Prompt, cache_of, check_additive, check_padding
from ._place import Part, along_batch, kept_of, move, roles_of
from ._score import Decision, decide

_NOTE = "tailcut"  # attribute of a features' output (Decision), of a cache (Prompt), and of the model while it lasts


def prune(model: Any, ratio: float | None = None, *, rule: Rule | str | None = None,
          reference: Reference | str | None = None, merge: Merge | str | None = None, layer: int | None = None,
          layer_ratio: float | None = None, layer_rule: Rule | str | None = None,
          relevance: RelevanceOptions | str | None = None, size_bias: bool = True) -> "Pruning":
    """Prunes the visual tokens of a transformers model while the context lasts:

        with tailcut.hf.prune(model, ratio=0.22, layer=2, layer_ratio=0.5) as pruned:
            tokens = model.generate(**inputs)
        pruned.counts, pruned.lengths  # of the last prompt

    model        LLaVA-1.5, LLaVA-NeXT, Qwen2.5-VL, Qwen3-VL or InternVL, with or without its head
    ratio, rule  stage 1, in front of the language model: the share of each image's tokens that stays, or any Rule. With
                 neither, the default rule finds how many; but none of stage 1 where `layer` is given and nothing else of
                 it
    reference    what tokens are compared with: "cls", "mean", "novelty", "lag" (video: what changes between frames
                 stays; images beside it as without), or a Reference. Default: CLS where the vision tower has one
    merge        "cos4", "mean" or a Merge: dropped tokens join kept ones instead of being lost
    size_bias    with `merge`: the language model adds the logarithm of a row's size to its attention logits
    layer        stage 2, in front of this decoder layer (counted from 0, at least 1): tokens that say little about the
                 text behind the first visual token leave it, and the cache of the layers before
    layer_ratio, layer_rule  how many of a sequence's visual tokens stay there
    relevance    RelevanceOptions of stage 2: MEAN_COSINE (default) or MAX_COSINE
    """
    if layer is None:
        for name, value in (("layer_ratio", layer_ratio), ("layer_rule", layer_rule), ("relevance", relevance)):
            if value is not None:
                raise conflict(f"{name} is given without layer")
    return Pruning(model, _first_stage(ratio, rule, reference, merge, layer), _reference(model, reference),
                   merge if merge is None or isinstance(merge, Merge) else Merge(merge), size_bias, layer,
                   _rule(layer_ratio, layer_rule, "layer_ratio", "layer_rule", reference=None), relevance)


def _first_stage(ratio: float | None, rule: Rule | str | None, reference: Any, merge: Any, layer: int | None
                 ) -> Rule | None:
    if layer is not None and ratio is None and rule is None and reference is None and merge is None:
        return None
    return _rule(ratio, rule, "ratio", "rule", reference)


def _rule(ratio: float | None, rule: Rule | str | None, ratio_name: str, rule_name: str, reference: Any) -> Rule:
    if ratio is not None and rule is not None:
        raise conflict(f"{ratio_name} and {rule_name} are both given; expected one")
    if ratio is not None:
        lag = reference == "lag" or isinstance(reference, Reference) and reference.source == ReferenceSource.LAG
        return Rule(ratio=ratio, order="low" if lag else "high")
    made = rule if isinstance(rule, Rule) else Rule(rule)
    if made.group_k is not None:
        raise conflict(f"{rule_name}.group_k is given, but the images are not known yet; expected k, for all of them")
    return made


def _reference(model: Any, reference: Reference | str | None) -> Reference | None:
    """None: the family's own."""
    kind = _family(model)
    if reference == "cls":
        reference = Reference(ReferenceSource.ROW)
    elif isinstance(reference, str):
        reference = Reference(reference)
    if reference is None:
        return None
    if reference.source == ReferenceSource.ROW and kind not in HAVE_CLS:
        raise unsupported(f"reference is CLS, but {kind} has none that fits its tokens; expected 'mean', 'novelty' or 'lag'")
    if reference.source == ReferenceSource.LAG and kind not in HAVE_VIDEO:
        raise unsupported(f"reference is LAG, but {kind} has no video; expected 'cls', 'mean' or 'novelty'")
    return reference


def _family(model: Any) -> str:
    kind = getattr(getattr(model, "config", None), "model_type", None)
    if kind not in FAMILIES:
        raise unsupported(f"model is a {kind or type(model).__name__}; expected one of {', '.join(FAMILIES)}")
    return str(kind)


@dataclass
class _Forward:
    """A forward pass with visual tokens on its way through the model."""

    visual: dict[str, Tensor]  #: by kind, bool [B, T]: its placeholders
    decisions: dict[str, Decision] = field(default_factory=dict)
    roles: Tensor | None = None                 #: of the rows that the layers see
    prompt: Prompt | None = None
    late: dict[str, Any] | None = None          #: arguments of the layers from stage 2 on


class Pruning:
    """What `prune` gives: a context manager; or attach() and remove()."""

    def __init__(self, model: Any, rule: Rule | None, reference: Reference | None, merge: Merge | None, size_bias: bool,
                 layer: int | None, layer_rule: Rule, relevance: RelevanceOptions | str | None) -> None:
        self.base = model.base_model
        self.family = _family(self.base)
        self.language_model = self.base.language_model
        self.text_config = self.language_model.config
        self.rule, self.reference, self.merge = rule, reference, merge
        self.biased = merge is not None and size_bias
        self.layer, self.layer_rule = layer, layer_rule
        self.relevance = relevance if relevance is None or isinstance(relevance, RelevanceOptions) else (
            RelevanceOptions(relevance))
        if self.relevance is not None and self.relevance.policy == Policy.ATTENTION:
            raise unsupported("relevance is ATTENTION, which needs a layer's queries and keys; expected MEAN_COSINE or "
                              "MAX_COSINE")
        if merge is not None and merge.sizes_in is not None:
            raise conflict("merge.sizes_in is given, but the sizes that go in are those of the model's tokens: 1")
        if self.biased:
            check_additive(self.text_config)
        self._check_layer()
        self.counts: dict[str, list[int]] = {}  #: by "image" and "video": tokens kept of each after stage 1
        self.lengths: list[list[int]] = []      #: rows of each sequence after stage 1, and after stage 2
        self._handles: list[Any] = []
        self._patched: list[str] = []
        self._forward: _Forward | None = None
        self._inside = False
        self._signature = inspect.signature(self.base.forward)

    def _check_layer(self) -> None:
        if self.layer is None:
            return
        layers, least = len(self.language_model.layers), 1
        if self.family == "qwen3_vl":  # deepstack features are added behind the first layers
            least = max(1, len(self.base.config.vision_config.deepstack_visual_indexes))
        if not least <= self.layer < layers:
            raise out_of_range(f"layer is {self.layer}; expected {least} .. {layers - 1} in this model")

    # ----------------------------------------------------------------------------------------- on and off
    def attach(self) -> "Pruning":
        if vars(self.base).get(_NOTE) is not None:
            raise conflict("model is being pruned already; expected one context at a time")
        vars(self.base)[_NOTE] = self
        if self.rule is not None:
            for kind in ("image", "video"):
                self._wrap(kind, f"get_{kind}_features")
        before = [(self.base, self._enter), (self.language_model, self._prompt)]
        if self.layer is not None:
            before += [(module, functools.partial(self._layer, number))
                       for number, module in enumerate(self.language_model.layers) if number >= self.layer]
        for module, hook in before:
            self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
        self._handles.append(self.language_model.register_forward_hook(self._leave_prompt))
        self._handles.append(self.base.register_forward_hook(self._leave, always_call=True))
        return self

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        for name in self._patched:
            delattr(self.base, name)
        if self._handles:
            del vars(self.base)[_NOTE]
        self._handles, self._patched, self._forward = [], [], None

    def __enter__(self) -> "Pruning":
        return self.attach()

    def __exit__(self, *_: Any) -> None:
        self.remove()

    # -------------------------------------------------------------------------------------------- stage 1
    def _wrap(self, kind: str, name: str) -> None:
        own = getattr(self.base, name, None)
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
            self._decide(Call(self.base, kind, output, bound.arguments))
            return output

        setattr(self.base, name, features)
        self._patched.append(name)

    def _decide(self, call: Call) -> None:
        old = call.output.pooler_output
        rule, reference = self.rule, self.reference
        assert rule is not None
        if call.kind == "image" and reference is not None and reference.source == ReferenceSource.LAG:
            rule, reference = replace(rule, order="high"), None
        decision, features = decide(FAMILIES[self.family](call), flat(old), rule, reference, self.merge)
        if self.merge is not None:
            call.output.pooler_output = like(features, old)
        setattr(call.output, _NOTE, decision)
        self.counts[call.kind] = decision.counts
        if self._forward is not None:
            self._forward.decisions[call.kind] = decision

    # -------------------------------------------------------------------------------------------- the model
    def _enter(self, module: Any, args: Any, kwargs: Any) -> Any:
        given = self._signature.bind_partial(*args, **kwargs).arguments
        given |= given.pop("kwargs", {})
        outputs = {kind: output for kind, output in (given.get("mm_encoder_outputs") or {}).items() if output is not None}
        pixels = {"image": given.get("pixel_values"), "video": given.get("pixel_values_videos")}
        kinds = [kind for kind in ("image", "video") if kind in outputs or pixels[kind] is not None]
        self._forward = None
        if not kinds:
            return self._positions(given, args, kwargs)
        ids = given.get("input_ids")
        if ids is None:
            raise conflict("input_ids is missing; expected with images, as it says where their tokens are")
        self._forward = _Forward({kind: ids == getattr(module.config, f"{kind}_token_id") for kind in kinds})
        for kind, output in outputs.items():
            decision = getattr(output, _NOTE, None)
            if decision is None and self.rule is not None:
                raise conflict(f"mm_encoder_outputs[{kind!r}] was not made by this model's get_{kind}_features inside the "
                               "context (prefill_chunk_size makes new ones); expected pixel_values")
            if decision is not None:
                self._forward.decisions[kind] = decision
        self.lengths = []
        return None

    def _positions(self, given: dict[str, Any], args: Any, kwargs: Any) -> Any:
        """A step behind a pruned prompt whose caller leaves positions to the model: the model would count cached rows."""
        cache = cache_of(given)
        prompt = getattr(cache, _NOTE, None)
        if prompt is None or given.get("position_ids") is not None or not cache.get_seq_length():
            return None
        tokens = given["input_ids"] if given.get("input_ids") is not None else given["inputs_embeds"]
        mask = given.get("attention_mask")
        if mask is None:
            start = cache.get_seq_length() + prompt.dropped
            positions = torch.full((len(tokens), 1), start, device=tokens.device)
        else:
            positions = mask.long().cumsum(1)[:, -1:] - 1
        deltas = getattr(self.base, "rope_deltas", None)
        if deltas is not None:
            positions = (positions + deltas.to(positions.device)).expand(3, -1, -1)
        return args, kwargs | {"position_ids": positions}

    def _leave(self, _module: Any, _args: Any, _output: Any) -> None:
        self._forward = None

    # ----------------------------------------------------------------------------------- the language model
    def _prompt(self, _module: Any, args: Any, kwargs: Any) -> Any:
        cache = cache_of(kwargs)
        held = 0 if cache is None else int(cache.get_seq_length())
        before = getattr(cache, _NOTE, None) if held else None
        embeds = kwargs.get("inputs_embeds")
        if self._forward is None:
            return None if before is None or embeds is None else self._step(before, held, args, kwargs)
        if before is not None:
            raise unsupported("cache holds a pruned prompt already; expected a new one for new images")
        if getattr(cache, "is_compileable", False):
            raise unsupported(f"cache is a {type(cache).__name__}; expected a DynamicCache, whose length is the prompt's")
        batch, tokens = embeds.shape[:2]
        given = check_padding(kwargs.get("attention_mask"), tokens)
        present = torch.ones(batch, tokens, dtype=torch.bool, device=embeds.device) if given is None else (
            given[:, -tokens:].to(embeds.device))
        keep, sizes = self._rows_kept(present)
        visual = functools.reduce(torch.logical_or, self._forward.visual.values())
        roles = roles_of(visual, present)
        positions = kwargs.get("position_ids")
        if positions is None:
            positions = torch.arange(held, held + tokens, device=embeds.device)
        planes = along_batch(positions, batch)
        parts = [Part(embeds), Part(roles, int(Role.ABSENT)), *planes, *([Part(sizes, 1)] if self.biased else [])]
        found = kept_of(keep, roles)
        there, moved = move(found, parts)
        self.lengths.append(there.sum(1).tolist())
        placed = moved[2:2 + len(planes)]
        if held:
            past = there.new_ones(batch, held) if given is None else given[:, :held].to(there.device)
            there = torch.cat([past, there], 1)
        self._forward.roles = moved[1]
        self._forward.prompt = prompt = Prompt(there, self._all_sizes(moved[-1], held), held + tokens,
                                               not bool(there.all()))
        mask = prompt.mask(moved[0].shape[1], there.shape[1], embeds.dtype)
        if mask is None and cache is None:  # without either, gaps in positions would read as borders of packed sequences
            mask = there.long()
        changed = {"inputs_embeds": moved[0], "attention_mask": mask,
                   "position_ids": placed[0] if len(planes) == 1 else torch.stack(placed)}
        if kwargs.get("visual_pos_masks") is not None:
            changed["visual_pos_masks"] = moved[1] == int(Role.CANDIDATE)
            chosen = keep[kwargs["visual_pos_masks"]]
            changed["deepstack_visual_embeds"] = [each[chosen.to(each.device)]
                                                  for each in kwargs["deepstack_visual_embeds"]]
        return args, kwargs | changed

    def _all_sizes(self, sizes: Tensor, held: int) -> Tensor | None:
        return torch.nn.functional.pad(sizes, (held, 0), value=1) if self.biased else None

    def _rows_kept(self, present: Tensor) -> tuple[Tensor, Tensor]:
        """(bool, int32) [B, T]: rows that stay, and how many tokens each stands for."""
        assert self._forward is not None
        keep, sizes = present.clone(), torch.ones(present.shape, dtype=torch.int32, device=present.device)
        for kind, where in self._forward.visual.items():
            decision = self._forward.decisions.get(kind)
            if decision is None:
                continue
            order = _expanded(where, len(decision.keep), kind)
            keep[where] = decision.keep[order]
            if decision.sizes is not None:
                sizes[where] = decision.sizes[order]
        return keep, sizes

    def _step(self, prompt: Prompt, held: int, args: Any, kwargs: Any) -> Any:
        """Tokens behind a pruned prompt: the mask says what stands in the cache."""
        embeds = kwargs["inputs_embeds"]
        if embeds.shape[1] != 1:
            raise unsupported(f"{embeds.shape[1]} tokens come behind a pruned prompt; expected one at a time (no assisted "
                              "decoding, and no second prompt on a cache that was returned)")
        if len(embeds) != len(prompt.present):
            raise conflict(f"cache holds a pruned prompt of {len(prompt.present)} sequences, but {len(embeds)} are given")
        return args, kwargs | {"attention_mask": prompt.mask(1, held + 1, embeds.dtype)}

    def _leave_prompt(self, _module: Any, _args: Any, output: Any) -> None:
        cache = cache_of(output)
        if self._forward is not None and cache is not None:
            setattr(cache, _NOTE, self._forward.prompt)

    # -------------------------------------------------------------------------------------------- stage 2
    def _layer(self, number: int, _module: Any, args: Any, kwargs: Any) -> Any:
        forward = self._forward
        if forward is None or forward.prompt is None or forward.roles is None:
            return None
        if number != self.layer:
            return args, kwargs | (forward.late or {})
        hidden = args[0] if args else kwargs["hidden_states"]
        hidden, forward.late, forward.prompt = prune_rows(
            hidden, forward.roles, forward.prompt, kwargs, number, self.layer_rule, self.relevance,
            self.text_config)
        self.lengths.append(forward.prompt.present.sum(1).tolist())
        kwargs = kwargs | forward.late
        return ((hidden, *args[1:]), kwargs) if args else ((), kwargs | {"hidden_states": hidden})


def _expanded(where: Tensor, features: int, kind: str) -> Tensor:
    """Which feature each placeholder takes. `generate` repeats a prompt's images with the prompt: for beams, or for
    several sequences."""
    counts = where.sum(1)
    total, batch = int(counts.sum()), len(counts)
    times = total // features if features else 0
    if times == 0 or total != times * features or batch % times:
        raise conflict(f"input_ids has {total} {kind} tokens, but {features} features are given")
    ends = counts[::times].cumsum(0).tolist()
    numbers = torch.arange(features, device=where.device)
    return torch.cat([numbers[start:end] for start, end in zip([0, *ends], ends) for _ in range(times)])
