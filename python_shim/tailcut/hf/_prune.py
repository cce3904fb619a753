# SPDX-License-Identifier: Apache-2.0
"""What a caller says, and whether the model takes it."""
from __future__ import annotations

from typing import Any

from .._abi import Policy, ReferenceSource
from .._errors import conflict, out_of_range, unsupported
from .._options import Merge, Reference, RelevanceOptions, Rule
from ._families import FAMILIES, HAVE_CLS, HAVE_VIDEO
from ._hooks import Pruning, Wanted
from ._mask import check_additive


def prune(model: Any, ratio: float | None = None, *, rule: Rule | str | None = None,
          reference: Reference | str | None = None, merge: Merge | str | None = None,
          layer: int | None = None, layer_ratio: float | None = None,
          layer_rule: Rule | str | None = None, relevance: RelevanceOptions | str | None = None,
          size_bias: bool = True) -> Pruning:
    """Prunes the visual tokens of a transformers model while the context lasts:

        with tailcut.hf.prune(model, ratio=0.22, layer=2, layer_ratio=0.5) as pruned:
            tokens = model.generate(**inputs)
        pruned.counts, pruned.lengths  # of the last prompt

    model        LLaVA-1.5, LLaVA-NeXT, Qwen2.5-VL, Qwen3-VL or InternVL, with or without its head
    ratio, rule  stage 1, in front of the language model: the share of each image's tokens that
                 stays, or any Rule. With neither, the default rule finds how many; but there is no
                 stage 1 where `layer` is given and nothing of stage 1 is
    reference    what tokens are compared with: "cls", "mean", "novelty", "lag" (video: what changes
                 between frames stays; images beside it as without), or a Reference. Default: CLS
                 where the vision tower has one, else MEAN
    merge        "cos4", "mean" or a Merge: dropped tokens join kept ones instead of being lost
    size_bias    with `merge`: the language model adds the logarithm of the number of tokens that a
                 row stands for to its attention logits
    layer        stage 2, in front of this decoder layer (counted from 0, at least 1): tokens that
                 say little about the text behind the first visual token leave it, and the cache of
                 the layers before
    layer_ratio, layer_rule  how many of a sequence's visual tokens stay there
    relevance    RelevanceOptions of stage 2: MEAN_COSINE (default) or MAX_COSINE
    """
    family = getattr(getattr(model, "config", None), "model_type", None)
    if family not in FAMILIES:
        raise unsupported(f"model is a {family or type(model).__name__}; expected one of "
                          f"{', '.join(FAMILIES)}")
    base = model.base_model
    if layer is None:
        for name, value in (("layer_ratio", layer_ratio), ("layer_rule", layer_rule),
                            ("relevance", relevance)):
            if value is not None:
                raise conflict(f"{name} is given without layer")
    else:
        _check_layer(layer, base, family)
    first = None
    if layer is None or any(given is not None for given in (ratio, rule, reference, merge)):
        first = _rule(ratio, rule, "ratio", "rule", reference)
    if merge is not None and not isinstance(merge, Merge):
        merge = Merge(merge)
    if merge is not None:
        if merge.sizes_in is not None:
            raise conflict("merge.sizes_in is given, but the model's tokens stand for one each")
        if size_bias:
            check_additive(base.language_model.config)
    return Pruning(base, family, Wanted(
        first, _reference(family, reference), merge, merge is not None and size_bias, layer,
        _rule(layer_ratio, layer_rule, "layer_ratio", "layer_rule", None), _relevance(relevance)))


def _rule(ratio: float | None, rule: Rule | str | None, ratio_name: str, rule_name: str,
          reference: Reference | str | None) -> Rule:
    if ratio is not None and rule is not None:
        raise conflict(f"{ratio_name} and {rule_name} are both given; expected one")
    if ratio is not None:
        source = reference.source if isinstance(reference, Reference) else reference
        return Rule(ratio=ratio, order="low" if source in ("lag", ReferenceSource.LAG) else "high")
    made = rule if isinstance(rule, Rule) else Rule(rule)
    if made.group_k is not None:
        raise conflict(f"{rule_name}.group_k is given, but the images are not known yet; expected "
                       "k, for all of them")
    return made


def _reference(family: str, reference: Reference | str | None) -> Reference | None:
    """None: the family's own."""
    if reference is None:
        return None
    if not isinstance(reference, Reference):
        reference = Reference(ReferenceSource.ROW if reference == "cls" else reference)
    if reference.source == ReferenceSource.ROW and family not in HAVE_CLS:
        raise unsupported(f"reference is CLS, but {family} has none that fits its tokens; expected "
                          "'mean', 'novelty' or 'lag'")
    if reference.source == ReferenceSource.LAG and family not in HAVE_VIDEO:
        raise unsupported(f"reference is LAG, but {family} has no video; expected 'cls', 'mean' or "
                          "'novelty'")
    return reference


def _relevance(relevance: RelevanceOptions | str | None) -> RelevanceOptions | None:
    if relevance is None:
        return None
    if not isinstance(relevance, RelevanceOptions):
        relevance = RelevanceOptions(relevance)
    if relevance.policy == Policy.ATTENTION:
        raise unsupported("relevance is ATTENTION, which needs a layer's queries and keys; "
                          "expected MEAN_COSINE or MAX_COSINE")
    return relevance


def _check_layer(layer: int, base: Any, family: str) -> None:
    least, layers = 1, len(base.language_model.layers)
    if family == "qwen3_vl":  # deepstack features are added behind the first layers
        least = max(1, len(base.config.vision_config.deepstack_visual_indexes))
    if not least <= layer < layers:
        raise out_of_range(f"layer is {layer}; expected {least} .. {layers - 1} in this model")
