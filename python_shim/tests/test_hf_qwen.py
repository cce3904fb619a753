# SPDX-License-Identifier: Apache-2.0
"""Qwen2.5-VL and Qwen3-VL against the slow statement: images and videos of different sizes, MEAN
and LAG, M-RoPE positions, deepstack features."""
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

import slow_hf as slow  # noqa: E402
import tailcut  # noqa: E402
import tailcut.hf  # noqa: E402

IMAGE, VIDEO, START, END, STEPS, PATCH = 120, 121, 122, 123, 6, 4
IDS = dict(image_token_id=IMAGE, video_token_id=VIDEO, vision_start_token_id=START,
           vision_end_token_id=END)
ROPE = dict(rope_type="default", mrope_section=[2, 2, 2])


def qwen(number, attention="sdpa"):
    torch.manual_seed(0)
    both = dict(depth=3, hidden_size=32, intermediate_size=48, num_heads=2, patch_size=PATCH,
                out_hidden_size=48,
                initializer_range=0.2)
    text = dict(vocab_size=128, hidden_size=48, intermediate_size=64, num_hidden_layers=4,
                num_attention_heads=4,
                num_key_value_heads=2, initializer_range=0.3)
    if number == 2:
        config = transformers.Qwen2_5_VLConfig(
            vision_config=both | dict(window_size=16, fullatt_block_indexes=[1]),
            attn_implementation=attention,
            text_config=text | dict(rope_parameters=ROPE), **IDS)
        return transformers.Qwen2_5_VLForConditionalGeneration(config).eval()
    config = transformers.Qwen3VLConfig(
        vision_config=both | dict(num_position_embeddings=64, deepstack_visual_indexes=[0, 1]),
        attn_implementation=attention,
        text_config=text | dict(head_dim=12, rope_parameters=ROPE), **IDS)
    return transformers.Qwen3VLForConditionalGeneration(config).eval()


def prompt(number, visuals, seed):
    """(ids, inputs) of a prompt with `visuals`: grids (t, h, w), those with t > 1 videos."""
    generator = torch.Generator().manual_seed(seed)
    text = lambda n: torch.randint(3, 100, (n,), generator=generator)  # noqa: E731
    parts, inputs = [text(3 + seed)], {}
    for t, h, w in visuals:
        kind, token = ("video", VIDEO) if t > 1 else ("image", IMAGE)
        frames, each = (t, 1) if number == 3 else (1, t)
        for frame in range(frames):  # Qwen3-VL has a timestamp in front of every frame
            parts += [text(2), torch.tensor([START]), torch.full((each * h * w // 4,), token),
                      torch.tensor([END])]
        inputs.setdefault(f"{kind}_grid_thw", []).append(torch.tensor([t, h, w]))
        pixels = torch.randn(t, h * w, 3 * 2 * PATCH ** 2, generator=generator)
        if t > 1:  # frames that change here and there
            pixels[1:] = torch.where(torch.rand(t - 1, h * w, 1, generator=generator) < 0.3,
                                     pixels[1:], pixels[:1])
        inputs.setdefault("pixel_values" + ("_videos" if t > 1 else ""),
                          []).append(pixels.flatten(0, 1))
    return torch.cat([*parts, text(4)]), {
        name: torch.stack(values) if "grid" in name else torch.cat(values)
        for name, values in inputs.items()}


def types_of(ids):
    return (ids == IMAGE).int() + 2 * (ids == VIDEO).int()


@torch.no_grad()
def slowly(model, ids, inputs, keeps=None, lag=False, layer=None, layer_keeps=None, merge=False):
    base, found, counts = model.model, {}, {}
    for kind, token, pixels in (("image", IMAGE, "pixel_values"),
                                ("video", VIDEO, "pixel_values_videos")):
        if pixels not in inputs:
            continue
        grids = inputs[f"{kind}_grid_thw"]
        out = base.visual(inputs[pixels], grid_thw=grids)
        every = [out.pooler_output, *getattr(out, "deepstack_features", [])]
        found[token], at = [], 0
        for t, h, w in grids.tolist():
            n, frame = t * h * w // 4, h * w // 4
            rows = out.pooler_output[at:at + n]
            by_lag = lag and kind == "video"
            scores = (slow.changes(rows, frame) if by_lag
                      else slow.cosines(rows, slow.mean_direction(rows)))
            kept = slow.best(scores, keeps(scores), by_lag) if keeps else list(range(n))
            sizes = [1] * n
            if merge:
                rows = rows.clone()
                rows[kept], some = slow.merged(out.pooler_output[at:at + n], rows, kept)
                for i, size in zip(kept, some):
                    sizes[i] = size
            found[token] += [(rows[i], i in set(kept), sizes[i],
                              [layer[at + i] for layer in every[1:]])
                             for i in range(n)]
            counts.setdefault(kind, []).append(len(kept))
            at += n
    order = [found[token].pop(0) for token in ids.tolist() if token in (IMAGE, VIDEO)]
    rows, kept, sizes, more = zip(*order)
    grids = {name: value for name, value in inputs.items() if "grid" in name}
    places, _deltas = base.get_rope_index(ids[None], mm_token_type_ids=types_of(ids)[None], **grids)
    made = slow.prompt_of(model, ids, places[:, 0], rows, kept, sizes, list(zip(*more)),
                          (IMAGE, VIDEO))
    return slow.greedy(model, made, STEPS, layer, layer_keeps, merge)[0], counts


def generate(model, made, **how):
    ids, mask = slow.left_padded([ids for ids, _inputs in made])
    names = {name for _ids, inputs in made for name in inputs}
    inputs = {name: torch.cat([inputs[name] for _ids, inputs in made if name in inputs])
              for name in names}
    found = model.generate(input_ids=ids, attention_mask=mask, mm_token_type_ids=types_of(ids),
                           max_new_tokens=STEPS,
                           do_sample=False, pad_token_id=0, eos_token_id=None, **inputs, **how)
    return found[:, ids.shape[1]:].tolist()


IMAGES = [[(1, 8, 12)], [(1, 12, 8), (1, 4, 8)]]
VIDEOS = [[(4, 8, 8)], [(1, 8, 8), (3, 4, 8)]]
CASES = {
    "images": (IMAGES, dict(ratio=0.3), dict(keeps=slow.share(0.3))),
    "curve": (IMAGES, dict(reference="mean"), dict(keeps=slow.otsu)),
    "video": (VIDEOS, dict(ratio=0.3), dict(keeps=slow.share(0.3))),
    "layer": (IMAGES, dict(layer=2, layer_ratio=0.4), dict(layer=2, layer_keeps=slow.share(0.4))),
    "both": (VIDEOS, dict(ratio=0.5, layer=3, layer_ratio=0.4),
             dict(keeps=slow.share(0.5), layer=3, layer_keeps=slow.share(0.4))),
    "merge": (IMAGES, dict(ratio=0.3, merge="cos4", layer=2, layer_ratio=0.5),
              dict(keeps=slow.share(0.3), merge=True, layer=2, layer_keeps=slow.share(0.5))),
}


@pytest.mark.parametrize("number", [2, 3], ids=["qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("case", CASES)
def test_greedy_tokens(case, number):
    visuals, fast, slowest = CASES[case]
    model, made = qwen(number), [prompt(number, each, seed) for seed, each in enumerate(visuals)]
    with tailcut.hf.prune(model, **fast) as pruned:
        found = generate(model, made)
    want = [slowly(model, *each, **slowest) for each in made]
    assert found == [tokens for tokens, _counts in want]
    if "keeps" in slowest:
        for kind, counts in pruned.counts.items():
            assert counts == [n for _tokens, by_kind in want for n in by_kind.get(kind, [])]
    plain = generate(model, made)
    assert all(a != b for a, b in zip(found, plain))
    if case == "video":
        assert plain == [slowly(model, *each)[0] for each in made]


@pytest.mark.parametrize("number", [2, 3], ids=["qwen2_5_vl", "qwen3_vl"])
def test_lag(number):
    """What changes between frames stays; an image beside a video is pruned as without it."""
    model, made = qwen(number), [prompt(number, [(4, 8, 8)], 0),
                                 prompt(number, [(1, 8, 8), (3, 4, 8)], 1)]
    with tailcut.hf.prune(model, ratio=0.4, reference="lag") as pruned:
        found = generate(model, made)
    want = [slowly(model, *each, keeps=slow.share(0.4), lag=True) for each in made]
    assert found == [tokens for tokens, _counts in want] and found != generate(model, made)
    assert pruned.counts == {"image": [7], "video": [26, 10]}


@pytest.mark.parametrize("number", [2, 3], ids=["qwen2_5_vl", "qwen3_vl"])
def test_steps_by_hand(number):
    """forward after forward, positions left to the model."""
    model, (ids, inputs) = qwen(number), prompt(number, [(1, 8, 12)], 0)
    with tailcut.hf.prune(model, ratio=0.3, layer=2, layer_ratio=0.5), torch.no_grad():
        want = generate(model, [(ids, inputs)])[0]
        out = model(input_ids=ids[None], mm_token_type_ids=types_of(ids)[None], use_cache=True,
                    **inputs)
        found = []
        for _ in range(STEPS):
            found.append(int(out.logits[0, -1].argmax()))
            out = model(input_ids=torch.tensor([found[-1:]]), **{slow.CACHE: out[slow.CACHE]},
                        use_cache=True)
    assert found == want


def test_refused():
    model = qwen(3)
    with pytest.raises(tailcut.ArgumentError, match="layer is 1; expected 2 .. 3"):
        tailcut.hf.prune(model, layer=1, layer_ratio=0.5)
    with pytest.raises(tailcut.UnsupportedError, match="reference is CLS"):
        tailcut.hf.prune(model, ratio=0.5, reference="cls")
