# SPDX-License-Identifier: Apache-2.0
"""What tailcut.servers.vllm touches of vLLM, stated anew: names, signatures, shapes and who calls
what. Models return the embeddings that they are given; the EVS rule is the independent statement of
tests/conformance/video.py."""
import inspect
import sys
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Callable

import torch

import paths  # noqa: F401
import video


TOKENS = dict(image_token_id=9, video_token_id=8, vision_start_token_id=5, vision_end_token_id=6)


@dataclass
class PromptReplacement:
    modality: str
    target: list
    replacement: Callable


def compute_retained_tokens_count(tokens_per_frame, num_frames, q):
    return max(tokens_per_frame, int(tokens_per_frame * num_frames * (1 - q)))


def compute_retention_mask(video_embeds, video_size_thw, spatial_merge_size, q):
    frames = int(video_size_thw[0])
    scene = video_embeds.reshape(frames, -1, video_embeds.shape[-1])
    kept, _ = video.server_keeps(scene.double().numpy(), q)
    mask = torch.zeros(len(video_embeds), dtype=torch.bool)
    return mask.index_fill(0, torch.from_numpy(kept), True)


class Info:
    """Of a processor: ctx.get_hf_config() as --hf-overrides left it."""

    def __init__(self, hf_config, mm_config):
        self.hf_config, self.ctx = hf_config, SimpleNamespace(get_mm_config=lambda: mm_config)

    def get_hf_config(self):
        return self.hf_config


class LlavaMultiModalProcessor:
    def __init__(self, info, dummy_inputs):
        self.info = info

    def _get_prompt_updates(self, mm_items, hf_processor_mm_kwargs, out_mm_kwargs):
        return [PromptReplacement("image", [9], lambda item: [9] * mm_items["image"][item])]


class LlavaForConditionalGeneration(torch.nn.Module):
    def __init__(self, *, vllm_config, prefix=""):
        super().__init__()
        self.config = vllm_config.hf_config

    def _process_image_input(self, image_input):
        return image_input["data"]

    def embed_multimodal(self, **kwargs):
        return self._process_image_input(kwargs)


class Qwen2_5_VLMultiModalProcessor(LlavaMultiModalProcessor):
    def _get_prompt_updates(self, mm_items, hf_processor_mm_kwargs, out_mm_kwargs):
        def replacement(modality, item):
            t, h, w = out_mm_kwargs[modality][item]
            q = self.info.ctx.get_mm_config().video_pruning_rate
            if modality == "video" and q:
                return self.video(compute_retained_tokens_count(h // 2 * (w // 2), t, q), t)
            return [9] * (t * h * w // 4)
        return [PromptReplacement(m, [9], lambda item, m=m: replacement(m, item))
                for m in ("image", "video")]

    def video(self, retained, frames):
        return [8] * retained


def positions_of(thw):
    """compute_mrope_for_media: [T*h*w, 4], the last channel the grid's width."""
    t, h, w = thw[0], thw[1] // 2, thw[2] // 2
    grid = torch.cartesian_prod(torch.arange(t), torch.arange(h), torch.arange(w)).reshape(-1, 3)
    return torch.cat([grid, torch.full((len(grid), 1), w)], dim=1)


class Qwen2_5_VLForConditionalGeneration(torch.nn.Module):
    def __init__(self, *, vllm_config, prefix=""):
        super().__init__()
        self.config, self.video_pruning_rate = vllm_config.hf_config, vllm_config.video_pruning_rate
        self.is_multimodal_pruning_enabled = bool(self.video_pruning_rate)
        self.visual = SimpleNamespace(spatial_merge_size=2, dtype=torch.float32)

    def iter_mm_grid_thw(self, mm_features):
        """Of each feature: offset, grid of its tokens, seconds per step of t."""
        for of in sorted(mm_features, key=lambda of: of.mm_position.offset):
            t, h, w = of.grid
            yield of.mm_position.offset, t, h // 2, w // 2, 1.0

    def _postprocess_image_embeds_evs(self, image_embeds_split, image_input):
        grids = image_input["image_grid_thw"].tolist()
        return tuple(torch.cat([rows, positions_of(thw)], dim=1)
                     for rows, thw in zip(image_embeds_split, grids))

    def _postprocess_video_embeds_evs(self, video_embeds_split, video_input):
        made = []
        for rows, thw in zip(video_embeds_split, video_input["video_grid_thw"].tolist()):
            mask = compute_retention_mask(rows, thw, spatial_merge_size=2,
                                          q=self.video_pruning_rate)
            made.append(torch.cat([rows[mask], positions_of(thw)[mask]], dim=1))
        return tuple(made)

    def embed_multimodal(self, **kwargs):
        if "image_grid_thw" in kwargs:
            if not self.is_multimodal_pruning_enabled:
                return kwargs["data"]
            return self._postprocess_image_embeds_evs(kwargs["data"], kwargs)
        return self._postprocess_video_embeds_evs(kwargs["data"], kwargs)


def timed(counts):
    """Tokens of a video with so many in each frame: its time, a start, the frame, an end."""
    return [token for n in counts for token in [1, 1, 1, 5] + [8] * n + [6]]


class Qwen3VLMultiModalProcessor(Qwen2_5_VLMultiModalProcessor):
    def video(self, retained, frames):
        return timed([retained] + [0] * (frames - 1))


class Qwen3VLForConditionalGeneration(Qwen2_5_VLForConditionalGeneration):
    def get_mrope_input_positions(self, input_tokens, mm_features):
        """Right for whole media: each image and frame is a grid."""
        grids = iter([positions_of((1, *of.grid[1:])) for of in mm_features
                      for _ in range(of.grid[0])])
        parts, at = [torch.full((3, 1), -1)], 0
        while at < len(input_tokens):
            rows = next(grids)[:, :3].T if input_tokens[at] in (8, 9) else torch.zeros(3, 1)
            parts.append(parts[-1].max() + 1 + rows.long())
            at += rows.shape[1]
        made = torch.cat(parts[1:], 1)
        return made, int(made.max()) + 1 - len(input_tokens)

    def _postprocess_image_embeds_evs(self, image_embeds_split, image_input):
        made = super()._postprocess_image_embeds_evs(image_embeds_split, image_input)
        return tuple(torch.nn.functional.pad(rows, (0, 1)) for rows in made)

    def _postprocess_video_embeds_evs(self, video_embeds_split, video_input):
        """Rows of all that stands between a video's outer marks."""
        made = []
        for rows, thw in zip(video_embeds_split, video_input["video_grid_thw"].tolist()):
            mask = compute_retention_mask(rows, thw, spatial_merge_size=2,
                                          q=self.video_pruning_rate)
            whole = torch.tensor(timed([len(rows) // thw[0]] * thw[0]))
            stays = whole != 8
            stays[~stays] = mask
            embeds = torch.zeros(int(stays.sum()), rows.shape[1], dtype=self.visual.dtype)
            embeds[whole[stays] == 8] = rows[mask].to(embeds.dtype)
            made.append(torch.cat([embeds, self._get_expanded_positions(whole, stays, thw)], 1))
        return tuple(made)

    def _get_expanded_positions(self, whole, stays, thw):
        feature = feature_of("video", thw, 0, len(whole))
        at, _ = self.get_mrope_input_positions(whole.tolist(), [feature])
        return torch.cat([at.T, (whole == 5)[:, None], (whole == 8)[:, None]], 1)[stays]


def feature_of(modality, grid, offset, length):
    """MultiModalFeatureSpec; `grid` is for iter_mm_grid_thw."""
    data = {f"{modality}_grid_thw": SimpleNamespace(data=torch.tensor(grid))}
    return SimpleNamespace(modality=modality, grid=tuple(grid), data=data,
                           mm_position=SimpleNamespace(offset=offset, length=length))


def initialize_model(model_class, vllm_config):
    """Of vllm.model_executor.model_loader.utils: what it looks for decides how a model is made."""
    assert {"vllm_config", "prefix"} <= set(inspect.signature(model_class.__init__).parameters)
    return model_class(vllm_config=vllm_config, prefix="")


class Registry:
    """ModelRegistry and MULTIMODAL_REGISTRY."""

    def __init__(self):
        self.models = {}

    def register_model(self, model_arch, model_cls):
        self.models[model_arch] = model_cls

    def register_processor(self, processor, *, info, dummy_inputs):
        def decorate(model):
            model.parts = processor, info, dummy_inputs
            return model
        return decorate


REGISTRY = Registry()


def install(monkeypatch):
    """Makes `import vllm` find this, for a test."""
    here = sys.modules[__name__]

    def module(name, **content):
        made = ModuleType(name)
        vars(made).update(content)
        monkeypatch.setitem(sys.modules, name, made)

    module("vllm", ModelRegistry=REGISTRY, __path__=[])
    module("vllm.multimodal", MULTIMODAL_REGISTRY=REGISTRY)
    module("vllm.model_executor", __path__=[])
    modules = {"llava": "Llava", "qwen2_5_vl": "Qwen2_5_VL", "qwen3_vl": "Qwen3VL"}
    for name, family in modules.items():
        module(f"vllm.model_executor.models.{name}", **{
            f"{family}{part}": getattr(here, f"{family}{part}", Info)
            for part in ("ForConditionalGeneration", "MultiModalProcessor", "ProcessingInfo",
                         "DummyInputsBuilder")})
    module("vllm.model_executor.models", __path__=[], **{
        name: sys.modules[f"vllm.model_executor.models.{name}"] for name in modules})
    return here
