# SPDX-License-Identifier: Apache-2.0
"""tailcut.servers on PyTorch: the vLLM plugin and SGLang's EVS on stand-ins of their interfaces,
against independent statements of their rules in float64."""
import sys
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import standin_vllm
import tailcut
import video
from tailcut.servers import evs, openvino
from test_servers import RATES, most_relevant, wishes

QWEN = "TailcutQwen2_5_VLForConditionalGeneration"
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SCENES = [(name, np.concatenate(videos) if name.startswith("photographs") else videos[0])
          for name, videos, dtype in video.scenes() if dtype != "f32" or name == "photographs"]


class NoWait(TorchDispatchMode):
    """Refuses what makes the host wait for a device: values that go there, and shapes that depend
    on them."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert not any(word in str(func) for word in (
            "_local_scalar_dense", "nonzero", "masked_select", "unique", "item", "equal")), func
        masks = [a for a in (args[1] if str(func) == "aten.index.Tensor" else ()) if a is not None]
        assert not any(m.dtype in (torch.bool, torch.uint8) for m in masks), func
        return func(*args, **(kwargs or {}))


def test_no_wait_refuses():
    with NoWait(), pytest.raises(AssertionError):
        torch.ones(3)[torch.tensor([True, False, True])]
    with NoWait(), pytest.raises(AssertionError):
        torch.ones(3).sum().item()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name, scene", SCENES, ids=[name for name, _ in SCENES])
def test_vllm_mask(name, scene, dtype):
    """The mask of vLLM's `evs`, made without a wait; the count that its processor reserved."""
    from tailcut.servers.vllm import compute_retention_mask
    frames, per_frame, dim = scene.shape
    rows = torch.from_numpy(scene.reshape(-1, dim)).to(dtype)
    decided = 0
    for q in RATES:
        want, gap = video.server_keeps(rows.double().numpy().reshape(scene.shape), q)
        with NoWait():
            mask = compute_retention_mask(rows, (frames, per_frame * 4, 4), spatial_merge_size=4,
                                          q=q)
        assert mask.dtype == torch.bool and mask.shape == (frames * per_frame,)
        assert mask[:per_frame].all()
        assert mask.sum() == standin_vllm.compute_retained_tokens_count(per_frame, frames, q)
        if name.startswith("signs") or gap > video.NEAR:
            decided += 1
            assert (np.flatnonzero(mask.numpy()) == want).all()
    assert decided > len(RATES) // 2


@pytest.fixture
def vllm(monkeypatch):
    return standin_vllm.install(monkeypatch)


def engine(vllm, name, tailcut_options, rate=None):
    """vLLM as far as it matters: plugin loaded, model and processor of an architecture made."""
    from tailcut.servers.vllm import register
    sys.modules.pop("tailcut.servers._vllm.models", None)
    sys.modules.pop("tailcut.servers._vllm.mixins", None)
    register()
    module, _, attribute = vllm.REGISTRY.models[name].partition(":")
    assert module not in sys.modules  # nothing but names so far
    model_class = getattr(__import__(module, fromlist=["*"]), attribute)
    config = SimpleNamespace(**vllm.TOKENS, **({"tailcut": tailcut_options} if tailcut_options
                                               else {}))
    settings = SimpleNamespace(hf_config=config, video_pruning_rate=rate)
    model = vllm.initialize_model(model_class, settings)
    processor, _info, dummy = model_class.parts
    return model, processor(vllm.Info(config, SimpleNamespace(video_pruning_rate=rate)), dummy)


def like_mean(image, count):
    """Rows that are most like the mean direction, ascending, the first of equals; float64."""
    unit = image / np.maximum(np.linalg.norm(image, axis=-1, keepdims=True), 1e-8)
    score = unit @ unit.mean(0) / np.linalg.norm(unit.mean(0))
    return sorted(np.argsort(-score, kind="stable")[:count].tolist())


def images(dtype, sizes):
    generator = torch.Generator().manual_seed(len(sizes))
    made = [torch.randn((n, 32), generator=generator).to(dtype) for n in sizes]
    made[0][20:30] = made[0][:10]  # ties
    return made


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stacked", [False, True])
def test_vllm_llava(vllm, dtype, stacked):
    model, processor = engine(vllm, "TailcutLlavaForConditionalGeneration", {"ratio": 0.78})
    given = images(dtype, [576, 576, 576] if stacked else [576, 50, 1])
    found = model.embed_multimodal(data=torch.stack(given) if stacked else given)
    (update,) = processor._get_prompt_updates({"image": [len(image) for image in given]}, {}, {})
    for item, (image, rows) in enumerate(zip(given, found)):
        count = max(1, int(len(image) * (1 - 0.78)))
        assert len(rows) == count == len(update.replacement(item))
        assert torch.equal(rows, image[like_mean(image.double().numpy(), count)])


@pytest.mark.parametrize("dtype", DTYPES)
def test_vllm_qwen_images(vllm, dtype):
    """Positions go with their rows and are not compared."""
    model, processor = engine(vllm, QWEN, {"percent": 60}, 0.5)
    grids = torch.tensor([[1, 12, 16], [1, 8, 10]])
    given = images(dtype, [48, 20])
    found = model.embed_multimodal(data=given, image_grid_thw=grids)
    update, untouched = processor._get_prompt_updates(
        {}, {}, {"image": grids.tolist(), "video": [[4, 8, 8]]})
    assert len(untouched.replacement(0)) == 32
    for item, (image, rows, grid) in enumerate(zip(given, found, grids.tolist())):
        count = len(image) - len(image) * 60 // 100
        want = like_mean(image.double().numpy(), count)
        assert len(rows) == count == len(update.replacement(item))
        positions = vllm.positions_of(grid)[want]
        assert torch.equal(rows[:, :32], image[want])
        assert torch.equal(rows[:, 32:], positions.float())


def test_vllm_positions_of_text(vllm):
    """vLLM asks for every request of a step, those without media too."""
    model, _ = engine(vllm, QWEN, {"ratio": 0.8}, 0.7)
    tokens = [1, 2, 3, 4]
    positions, delta = model.get_mrope_input_positions(tokens, [])
    assert delta == 0 and positions.tolist() == [[0, 1, 2, 3]] * 3
    rows, again, delta = model.recompute_mrope_positions(tokens, [], positions, 0)
    assert len(rows) == 0 and delta == 0 and torch.equal(again, positions)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["Qwen2_5_VL", "Qwen3VL"])
def test_vllm_positions(vllm, family, dtype):
    """A prompt with two images, one of them tall, and a long video, scheduled in pieces: each token
    stands where it would stand if nothing had been pruned, after every piece that was computed,
    and once more when all is computed again."""
    model, _ = engine(vllm, f"Tailcut{family}ForConditionalGeneration", {"ratio": 0.8}, 0.7)
    model.visual.dtype = dtype
    frames, side = 300, 2
    media = [("image", (1, 20, 8)), ("video", (frames, 4, 4)), ("image", (1, 4, 6))]
    generator = torch.Generator().manual_seed(5)
    tokens, features, want, rows, base = [], [], [], [], 0
    for number, (modality, grid) in enumerate(media):
        text = [1] * (70 if number == 0 else 3) + [5]
        given = [torch.randn((grid[0] * grid[1] * grid[2] // 4, 16), generator=generator).to(dtype)]
        (made,) = model.embed_multimodal(
            data=given, **{f"{modality}_grid_thw": torch.tensor([grid])})
        at, ids = made[:, 16:19].T.long(), [9 if modality == "image" else 8] * len(made)
        grown = max(grid[0], grid[1] // 2, grid[2] // 2)
        if modality == "video":
            begins, text_of = [(frame, 0, 0) for frame in range(frames)], set()
            if family == "Qwen3VL":  # four tokens, the frame, one token
                begins = [(4 + (5 + side) * frame,) * 3 for frame in range(frames)]
                text_of = {(t + i,) * 3 for t, _, _ in begins for i in (-4, -3, -2, -1, side)}
                ids = vllm.timed([int(made[:, -1].sum())] + [0] * (frames - 1))
                grown = (5 + side) * frames
            whole = {(t, h + y, w + x) for t, h, w in begins for y in range(side)
                     for x in range(side)}
            found = list(map(tuple, at.T.tolist()))
            assert found == sorted(set(found)) and text_of <= set(found) < whole | text_of
        tokens += text
        features.append(vllm.feature_of(modality, grid, len(tokens), len(made)))
        tokens += ids + [6]
        want += [torch.arange(base, base + len(text)).expand(3, -1), base + len(text) + at,
                 torch.full((3, 1), base + len(text) + grown)]
        base += len(text) + grown + 1
        rows.append(made)
    tokens += [1] * 4
    want = torch.cat([*want, torch.arange(base, base + 4).expand(3, -1)], dim=1)
    positions, delta = model.get_mrope_input_positions(tokens, features[::-1])
    is_text = torch.ones(len(tokens), dtype=torch.bool)
    for of in features:
        is_text[of.mm_position.offset:][:of.mm_position.length] = False
    assert positions.shape == want.shape and delta == base + 4 - len(tokens)
    assert torch.equal(positions[:, is_text], want[:, is_text])
    first = features[0].mm_position.offset  # pieces: one ends inside the first image, one the video
    inside = features[1].mm_position.offset + 40
    ends = [first + 4, first + 8, inside, len(tokens)]
    for start, end in 2 * list(zip([0] + ends, ends)):
        parts = [of[max(start - f.mm_position.offset, 0):max(end - f.mm_position.offset, 0)]
                 for of, f in zip(rows, features)]
        parts = [part for part in parts if len(part)]
        plain, positions, delta = model.recompute_mrope_positions(tokens, parts, positions, start)
        assert all(torch.equal(a, b[:, :16].to(dtype)) and a.dtype == dtype
                   for a, b in zip(plain, parts))
        assert delta == base + 4 - len(tokens)
        assert torch.equal(positions[:, :end], want[:, :end])
    assert torch.equal(positions, want)
    assert model.get_mrope_input_positions([1, 2, 3], [])[0].tolist() == [[0, 1, 2]] * 3


@pytest.mark.parametrize("family", ["Qwen2_5_VL", "Qwen3VL"])
def test_vllm_videos(vllm, family):
    """Two videos of a request; vLLM's own function stands there again afterwards."""
    theirs = vllm.compute_retention_mask
    model, processor = engine(vllm, f"Tailcut{family}ForConditionalGeneration",
                              {"ratio": 0.5} if family != "Qwen3VL" else None, 0.7)
    grids = torch.tensor([[5, 8, 10], [3, 4, 4]])
    generator = torch.Generator().manual_seed(5)
    given = [torch.randn((int(t * h * w) // 4, 16), generator=generator) for t, h, w in grids]
    seen = []
    vllm.compute_retention_mask = None  # not called
    try:
        found = model.embed_multimodal(data=given, video_grid_thw=grids)
        seen.append(vllm.compute_retention_mask)
    finally:
        vllm.compute_retention_mask = theirs
    assert seen == [None]
    updates = processor._get_prompt_updates({}, {}, {"video": grids.tolist()})
    (update,) = [update for update in updates if update.modality == "video"]
    for item, (rows, kept, grid) in enumerate(zip(given, found, grids.tolist())):
        mask = theirs(rows, grid, 2, 0.7)
        assert len(kept) == len(update.replacement(item))
        if family == "Qwen3VL":
            assert torch.equal(kept[kept[:, -1] == 1, :16], rows[mask])
            continue
        assert torch.equal(kept[:, :16], rows[mask])
        assert torch.equal(kept[:, 16:], vllm.positions_of(grid)[mask].to(kept.dtype))


def test_vllm_refuses(vllm):
    with pytest.raises(ValueError, match="--video-pruning-rate"):
        engine(vllm, QWEN, {"ratio": 0.5})
    for wrong in (None, {"detector": "otsu"}):
        _, processor = engine(vllm, "TailcutLlavaForConditionalGeneration", wrong)
        with pytest.raises(ValueError, match="needs a k, ratio or percent"):
            processor._get_prompt_updates({"image": [4]}, {}, {})
    _, processor = engine(vllm, "TailcutLlavaForConditionalGeneration", {"ratio": 2})
    with pytest.raises(tailcut.ArgumentError, match="ratio"):
        processor._get_prompt_updates({"image": [4]}, {}, {})[0].replacement(0)


# ------------------------------------------------------------------------------------------ SGLang
@dataclass(kw_only=True)
class EVSEmbeddingResult:
    embedding: torch.Tensor
    num_tokens_per_frame: list


class EVS(torch.nn.Module):
    """sglang.srt.multimodal.evs.EVS as SGLang 0.5.23 has it: what it sets and what it calls."""

    def __init__(self, config):
        super().__init__()
        self.original_get_video_feature = self.get_video_feature
        self.evs_config = self.create_evs_config(config)
        if self.evs_config.video_pruning_rate > 0.0:
            self.get_video_feature = self.evs_video

    def evs_video(self, items):
        raise AssertionError("the other one is asked for")


class Model(EVS):
    """A model of theirs: the features of an item are what its `feature` says."""

    @staticmethod
    def create_evs_config(config):
        return SimpleNamespace(video_pruning_rate=config, spatial_merge_size=2)

    def get_video_feature(self, items):
        return torch.cat([item.feature for item in items])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tiles", [False, True])
def test_sglang(monkeypatch, dtype, tiles):
    from tailcut.servers.sglang import TailcutEVS
    for name in ("sglang", "sglang.srt", "sglang.srt.multimodal", "sglang.srt.multimodal.evs"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    module = ModuleType("sglang.srt.multimodal.evs.evs_module")
    module.EVSEmbeddingResult = EVSEmbeddingResult
    monkeypatch.setitem(sys.modules, module.__name__, module)

    class Fast(TailcutEVS, Model):
        pass

    grids = [(6, 8, 8), (1, 4, 8), (3, 8, 4)]
    scenes = [video.signs(np.random.default_rng(t), t, h * w // 4, 64) for t, h, w in grids]
    videos = [torch.from_numpy(scene).reshape(-1, 64).to(dtype) for scene in scenes]
    feature = torch.cat(videos)
    item = SimpleNamespace(thw_grids=grids,
                           feature=feature.reshape(-1, 8, 64) if tiles else feature)
    for q in (0.2, 0.5, 0.8, 0.95):
        found = Fast(q).get_video_feature([item])
        want = [standin_vllm.compute_retention_mask(rows, grid, 2, q)
                for rows, grid in zip(videos, grids)]
        kept = torch.cat([rows[mask] for rows, mask in zip(videos, want)])
        assert torch.equal(found.embedding, kept)
        assert found.num_tokens_per_frame == [n for mask, grid in zip(want, grids)
                                              for n in mask.reshape(grid[0], -1).sum(1).tolist()]
        assert sum(found.num_tokens_per_frame) == len(found.embedding) == sum(
            evs.retained(h * w // 4, t, q) for t, h, w in grids)
    pictures = [SimpleNamespace(thw_grids=[(1, 8, 8)], feature=videos[0][:16])] * 2
    assert torch.equal(Fast(0.5).get_video_feature(pictures), torch.cat([videos[0][:16]] * 2))
    assert torch.equal(Fast(0.0).get_video_feature([item]), item.feature)
    with pytest.raises(ValueError, match="2 elements"):
        Fast(0.5).get_video_feature([item, item])


# ---------------------------------------------------------------------------------------- OpenVINO
@pytest.mark.parametrize("dtype", DTYPES)
def test_openvino(dtype):
    visual, text = (torch.from_numpy(array).to(dtype) for array in wishes())
    for ratio in (10, 50, 78, 99):
        got = openvino.select_tokens(visual, text, ratio)
        count = openvino.rule(77, ratio).k
        assert got == most_relevant(visual.double().numpy(), text.double().numpy(), count)
