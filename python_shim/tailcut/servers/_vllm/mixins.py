# SPDX-License-Identifier: Apache-2.0
"""What a processor or a model of vLLM does otherwise; each class stands before vLLM's own."""
from dataclasses import replace

from ... import kept_count
from ...torch import prune
from ..vllm import compute_retention_mask, options


def pruned(images, config, dim=None):
    rule, reference = options(config)
    if hasattr(images, "dim"):  # [images, N, D]
        return prune(images, reference, rule=rule).tokens
    return tuple(prune(image, reference, rule=rule, dim=dim).tokens for image in images)


class Placeholders:
    """As many for an image as the rule keeps."""

    def _get_prompt_updates(self, *args, **kwargs):
        rule, _ = options(self.info.get_hf_config())

        def shorter(update):
            def replacement(item):
                whole = update.replacement(item)
                return whole[:kept_count(rule, len(whole))]
            return replace(update, replacement=replacement)
        return [shorter(update) if update.modality == "image" else update
                for update in super()._get_prompt_updates(*args, **kwargs)]


class Video:
    """compute_retention_mask is another while the model calls it, and no longer."""

    def _postprocess_video_embeds_evs(self, *args, **kwargs):
        call = super()._postprocess_video_embeds_evs
        names = call.__func__.__globals__
        theirs = names["compute_retention_mask"]
        names["compute_retention_mask"] = compute_retention_mask
        try:
            return call(*args, **kwargs)
        finally:
            names["compute_retention_mask"] = theirs
