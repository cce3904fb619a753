# SPDX-License-Identifier: Apache-2.0
"""prune.py MODEL FOLDER whole|pruned|pieces: the vLLM plugin in vLLM's own engine on the CPU, with
a model of models.py. Prompts with images, with videos and with neither are one batch; its 12 greedy
tokens and their log-probabilities are to be those of transformers' language model, which is fed
with the rows and positions that should stay: found here in double precision, M-RoPE positions laid
out by hand. whole: without pruning. pieces: pruned, prefill in chunks of 48 tokens."""
import itertools
import os
import sys
from pathlib import Path

os.environ.update(
    VLLM_LOGGING_LEVEL="ERROR", VLLM_CPU_KVCACHE_SPACE="1", VLLM_ENABLE_V1_MULTIPROCESSING="0",
    VLLM_CPU_OMP_THREADS_BIND="nobind", VLLM_NO_USAGE_STATS="1", HF_HUB_OFFLINE="1",
    OMP_NUM_THREADS="2")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from transformers import AutoModelForImageTextToText, AutoProcessor  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "conformance"))
import video  # noqa: E402

FAMILY = {"llava": "Llava", "qwen25": "Qwen2_5_VL", "qwen3": "Qwen3VL"}
DROPPED, DROPPED_OF_VIDEOS, TOKENS = 0.6, 0.7, 12


def picture(seed, size=(300, 260)):
    squares = np.random.default_rng(seed).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    return Image.fromarray(squares).resize(size, Image.BICUBIC)


def film(seed, frames):
    """[frames, 140, 168, 3]: a picture for three frames each, and noise."""
    still = np.stack([picture(seed + i // 3, (168, 140)) for i in range(frames)]).astype(np.int16)
    noise = np.random.default_rng(seed).integers(-12, 12, still.shape)
    return np.clip(still + noise, 0, 255).astype(np.uint8)


def about(frames):
    return dict(fps=2.0, duration=len(frames) / 2, total_num_frames=len(frames),
                frames_indices=list(range(len(frames))))


def prompts(name):
    """(text, images, videos)"""
    if name == "llava":
        image = "<image>"
    else:
        image, clip = (f"<|vision_start|><|{kind}_pad|><|vision_end|>" for kind in
                       ("image", "video"))
        yield f"USER: {clip} What happens in this video? ASSISTANT:", [], [film(1, 8)]
        yield f"{clip} and {clip} difference", [], [film(11, 8), film(40, 12)]
    yield f"USER: {image} What is in this picture? ASSISTANT:", [picture(1)], []
    yield (f"USER: {image} and {image} the difference ASSISTANT:",
           [picture(2), picture(3, (200, 420))], [])
    yield "Describe the image", [], []


# -------------------------------------------------------------------------------------- the engine
def served(name, folder, mode):
    """Of each prompt: how long it is, (token, log-probability) of what follows."""
    from vllm import LLM, SamplingParams
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner
    load = CPUModelRunner.load_model

    def load_model(runner, *args, **kwargs):
        """vLLM 0.32 sets this flag where the runner is a GPU's: on a CPU its own EVS fails too."""
        load(runner, *args, **kwargs)
        config = runner.model_config.multimodal_config
        runner.is_multimodal_pruning_enabled = config.is_multimodal_pruning_enabled()
    CPUModelRunner.load_model = load_model

    settings = {}
    if mode != "whole":
        settings["hf_overrides"] = {
            "architectures": [f"Tailcut{FAMILY[name]}ForConditionalGeneration"],
            "tailcut": {"ratio": DROPPED}}
    if mode != "whole" and name != "llava":
        settings["video_pruning_rate"] = DROPPED_OF_VIDEOS
    if mode == "pieces":
        settings.update(max_num_batched_tokens=48, enable_chunked_prefill=True)
    else:
        settings["max_num_batched_tokens"] = 4096
    llm = LLM(folder, dtype="float32", enforce_eager=True, max_model_len=2048, max_num_seqs=4,
              limit_mm_per_prompt={"image": 2, **({} if name == "llava" else {"video": 2})},
              enable_prefix_caching=False, mm_processor_cache_gb=0, **settings)
    asked = []
    for text, images, videos in prompts(name):
        clips = [(clip, dict(about(clip), video_backend="", do_sample_frames=False))
                 for clip in videos]
        media = {kind: of for kind, of in (("image", images), ("video", clips)) if of}
        asked.append({"prompt": text, **({"multi_modal_data": media} if media else {})})
    done = llm.generate(asked, SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True,
                                              logprobs=1))
    for one in done:
        (answer,) = one.outputs
        yield len(one.prompt_token_ids), [
            (token, of[token].logprob) for token, of in zip(answer.token_ids, answer.logprobs)]


# ----------------------------------------------------------------------------------- the reference
def like_mean(rows, count):
    rows = rows.double()
    norm = rows.norm(dim=1)
    score = rows @ (rows / norm[:, None]).mean(0) / norm
    return torch.argsort(score, descending=True, stable=True)[:count]


def grids(name, batch, kind):
    """(t, h, w) in tokens of each image or video."""
    for t, h, w in batch.get(f"{kind}_grid_thw", torch.empty(0, 3, dtype=int)).tolist():
        yield t, h // 2, w // 2


def positions(name, batch, config):
    """[3, tokens], and the position of what follows. Behind a grid: behind its greatest position,
    where vLLM has it too (transformers 5 passes over that of time)."""
    if name == "llava":
        tokens = batch["input_ids"].shape[1]
        return torch.arange(tokens).expand(3, -1), tokens
    images, videos = (list(grids(name, batch, kind)) for kind in ("image", "video"))
    pace = [1] * len(videos)
    if name == "qwen25":
        pace = [config.vision_config.tokens_per_second * float(seconds)
                for seconds in batch.get("second_per_grid_ts", [])]
    if name == "qwen3":  # each frame is a grid of its own
        videos, pace = [(1, h, w) for t, h, w in videos for _ in range(t)], itertools.repeat(1)
    parts, base = [], 0
    next_grid = {1: zip(images, itertools.repeat(1)), 2: zip(videos, pace)}
    for kind, tokens in itertools.groupby(batch["mm_token_type_ids"][0].tolist()):
        if kind == 0:
            part = torch.arange(len(list(tokens))).expand(3, -1)
        else:
            (t, h, w), seconds = next(next_grid[kind])
            part = torch.stack(torch.meshgrid((torch.arange(t) * seconds).long(), torch.arange(h),
                                              torch.arange(w), indexing="ij")).reshape(3, -1)
        parts.append(part + base)
        base = int(parts[-1].max()) + 1
    return torch.cat(parts, 1), base


def features(name, model, batch, kind):
    """[tokens, D] of all images or videos, the same of each deepstack layer behind it."""
    if name == "llava":
        found = model.get_image_features(pixel_values=batch["pixel_values"])
    elif kind == "image":
        found = model.get_image_features(batch["pixel_values"], batch["image_grid_thw"])
    else:
        found = model.get_video_features(batch["pixel_values_videos"], batch["video_grid_thw"])
    deepstack = getattr(found, "deepstack_features", None) or []
    return [torch.cat([rows.reshape(-1, rows.shape[-1]) for rows in layer])
            for layer in (found.pooler_output, *deepstack)]


def stays(name, kind, rows, grid, mode):
    """Which of an image's or a video's rows."""
    if mode == "whole" or (name == "qwen3" and kind == "image"):
        return torch.arange(len(rows))
    if kind == "image":
        return like_mean(rows, max(1, int(len(rows) * (1 - DROPPED))))
    kept, _ = video.server_keeps(rows.double().numpy().reshape(grid[0], grid[1] * grid[2], -1),
                                 DROPPED_OF_VIDEOS)
    return torch.from_numpy(kept)


@torch.no_grad()
def expected(name, folder, mode):
    """What `served` should give."""
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor, config = AutoProcessor.from_pretrained(folder), model.config
    embed = model.get_input_embeddings()
    for text, images, videos in prompts(name):
        given = dict(images=images) if images else {}
        if videos:
            given.update(videos=[torch.from_numpy(clip).permute(0, 3, 1, 2) for clip in videos],
                         videos_kwargs=dict(do_sample_frames=False,
                                            video_metadata=[about(clip) for clip in videos]))
        batch = processor(text=[text], return_tensors="pt", **given)
        (ids,) = batch["input_ids"]
        rows, keep, deep = embed(ids), torch.ones(len(ids), dtype=torch.bool), None
        at, end = positions(name, batch, config)
        visual = torch.zeros_like(keep)
        for kind, of in (("image", images), ("video", videos)):
            if not of:
                continue
            token = config.image_token_id if kind == "image" else config.video_token_id
            here = (ids == token).nonzero()[:, 0]
            first, *layers = features(name, model.model, batch, kind)
            rows[here], visual[here] = first, True
            deep = [torch.zeros_like(rows).index_copy(0, here, layer) for layer in layers]
            whole = torch.cat([first, *layers], 1)  # so vLLM compares them
            sizes = list(grids(name, batch, kind)) or [(1, 16, 16)] * len(of)
            for grid, part, where in zip(sizes, whole.split([t * h * w for t, h, w in sizes]),
                                         here.split([t * h * w for t, h, w in sizes])):
                keep[where] = False
                keep[where[stays(name, kind, part, grid, mode)]] = True
        at = at[:, keep]
        if name == "llava":
            at, end = torch.arange(int(keep.sum())), int(keep.sum())
        extra = {}
        if deep:
            extra = dict(visual_pos_masks=visual[keep][None],
                         deepstack_visual_embeds=[layer[keep & visual] for layer in deep])
        new, cache, answer = rows[keep], None, []
        for step in range(TOKENS):
            out = model.model.language_model(
                inputs_embeds=new[None], past_key_values=cache, use_cache=True,
                position_ids=at[None] if name == "llava" else at[:, None], **extra)
            likely = model.lm_head(out.last_hidden_state[0, -1]).log_softmax(-1)
            token = int(likely.argmax())
            answer.append((token, float(likely[token])))
            new, cache, extra = embed(torch.tensor([token])), out.past_key_values, {}
            at = torch.full((1,) if name == "llava" else (3, 1), end + step)
        yield int(keep.sum()), answer


def main():
    name, folder, mode = sys.argv[1:]
    wrong = False
    for (length, found), (kept, want) in zip(list(served(name, folder, mode)),
                                             expected(name, folder, mode), strict=True):
        equal = length == kept and [token for token, _ in found] == [token for token, _ in want]
        apart = max(abs(a - b) for (_, a), (_, b) in zip(found, want))
        wrong |= not equal or apart > 1e-3
        print(f"{name} {mode}: prompt of {length} tokens (expected {kept}), greedy tokens "
              f"{'equal' if equal else f'DIFFER: {found} {want}'}, log-probabilities differ by "
              f"{apart:.2g}", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
