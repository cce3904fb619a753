# SPDX-License-Identifier: Apache-2.0
"""The models that vllm.py names: vLLM's own with fewer image tokens, or another choice of video
tokens. Placeholders are cut to the count that the rule has on the host. Qwen2.5-VL's rows bring
M-RoPE positions behind their channels, which are pruned with them and not compared."""
from dataclasses import replace

from vllm.model_executor.models import llava, qwen2_5_vl, qwen3_vl
from vllm.multimodal import MULTIMODAL_REGISTRY

from .. import kept_count
from ..torch import prune
from .vllm import compute_retention_mask, options


def pruned(images, config, dim=None):
    rule, reference = options(config)
    if hasattr(images, "dim"):  # [images, N, D]
        return prune(images, reference, rule=rule).tokens
    return tuple(prune(image, reference, rule=rule, dim=dim).tokens for image in images)


class _Placeholders:
    """Before a processor's class."""

    def _get_prompt_updates(self, *args, **kwargs):
        rule, _ = options(self.info.get_hf_config())

        def shorter(update):
            def replacement(item):
                whole = update.replacement(item)
                return whole[:kept_count(rule, len(whole))]
            return replace(update, replacement=replacement)
        return [shorter(update) if update.modality == "image" else update
                for update in super()._get_prompt_updates(*args, **kwargs)]


class _Video:
    """Before a model's class. The function is another while the model calls it, and no longer."""

    def _postprocess_video_embeds_evs(self, *args, **kwargs):
        call = super()._postprocess_video_embeds_evs
        names = call.__func__.__globals__
        theirs = names["compute_retention_mask"]
        names["compute_retention_mask"] = compute_retention_mask
        try:
            return call(*args, **kwargs)
        finally:
            names["compute_retention_mask"] = theirs


class _Llava(llava.LlavaForConditionalGeneration):
    def _process_image_input(self, image_input):
        return pruned(super()._process_image_input(image_input), self.config)


class _Qwen2_5_VL(_Video, qwen2_5_vl.Qwen2_5_VLForConditionalGeneration):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        if not self.is_multimodal_pruning_enabled:
            raise ValueError("--video-pruning-rate must be above 0: see tailcut.servers.vllm")

    def _postprocess_image_embeds_evs(self, images, image_input):
        with_positions = super()._postprocess_image_embeds_evs(images, image_input)
        return pruned(with_positions, self.config, images[0].shape[1])


class _Qwen3VL(_Video, qwen3_vl.Qwen3VLForConditionalGeneration):
    pass


for _model, _of in ((_Llava, llava), (_Qwen2_5_VL, qwen2_5_vl), (_Qwen3VL, qwen3_vl)):
    _family = _model.__name__[1:]
    _theirs = getattr(_of, f"{_family}MultiModalProcessor")
    _processor = _theirs if _model is _Qwen3VL else type(_family, (_Placeholders, _theirs), {})
    globals()[f"Tailcut{_family}ForConditionalGeneration"] = MULTIMODAL_REGISTRY.register_processor(
        _processor, info=getattr(_of, f"{_family}ProcessingInfo"),
        dummy_inputs=getattr(_of, f"{_family}DummyInputsBuilder"))(_model)
