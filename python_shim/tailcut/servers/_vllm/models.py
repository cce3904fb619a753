# SPDX-License-Identifier: Apache-2.0
"""The models that vllm.py names: vLLM's own with fewer image tokens, or another choice of video
tokens. Imported when vLLM asks for one of them."""
from vllm.model_executor.models import llava, qwen2_5_vl, qwen3_vl
from vllm.multimodal import MULTIMODAL_REGISTRY

from .frames import Frames
from .mixins import Placeholders, Video, pruned
from .positions import Positions


class _Llava(llava.LlavaForConditionalGeneration):
    def _process_image_input(self, image_input):
        return pruned(super()._process_image_input(image_input), self.config)


class _Qwen2_5_VL(Positions, Video, qwen2_5_vl.Qwen2_5_VLForConditionalGeneration):
    def __init__(self, *, vllm_config, prefix=""):  # vLLM looks for both names
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        if not self.is_multimodal_pruning_enabled:
            raise ValueError("--video-pruning-rate must be above 0: see tailcut.servers.vllm")

    def _postprocess_image_embeds_evs(self, images, image_input):
        """Each row's positions stand behind its channels, and are not compared."""
        rows = super()._postprocess_image_embeds_evs(images, image_input)
        return pruned(rows, self.config, images[0].shape[1])


class _Qwen3VL(Frames, Video, qwen3_vl.Qwen3VLForConditionalGeneration):
    pass


for _model, _of in ((_Llava, llava), (_Qwen2_5_VL, qwen2_5_vl), (_Qwen3VL, qwen3_vl)):
    _family = _model.__name__[1:]
    _theirs = getattr(_of, f"{_family}MultiModalProcessor")
    _processor = _theirs if _model is _Qwen3VL else type(_family, (Placeholders, _theirs), {})
    globals()[f"Tailcut{_family}ForConditionalGeneration"] = MULTIMODAL_REGISTRY.register_processor(
        _processor, info=getattr(_of, f"{_family}ProcessingInfo"),
        dummy_inputs=getattr(_of, f"{_family}DummyInputsBuilder"))(_model)
