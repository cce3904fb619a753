# SPDX-License-Identifier: Apache-2.0
"""LLaVA-1.5 against the slow statement: stage 1, stage 2, batches with padding, several images,
merging."""
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")
from transformers import (CLIPVisionConfig, LlamaConfig, LlavaConfig,  # noqa: E402
                          LlavaForConditionalGeneration)

import slow_hf as slow  # noqa: E402
import tailcut  # noqa: E402
import tailcut.hf  # noqa: E402

IMAGE, TOKENS, STEPS = 120, 81, 6


def llava(attention="sdpa", **changed):
    torch.manual_seed(0)
    vision = CLIPVisionConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=3,
                              num_attention_heads=2,
                              image_size=36, patch_size=4, projection_dim=32, initializer_range=0.3)
    text = LlamaConfig(vocab_size=128, hidden_size=48, intermediate_size=64, num_hidden_layers=4,
                       num_attention_heads=4,
                       num_key_value_heads=2, initializer_range=0.3)
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE,
                         image_seq_length=TOKENS,
                         attn_implementation=attention, **changed)
    return LlavaForConditionalGeneration(config).eval()


def prompts(*images):
    """(ids of each prompt, pixels): prompt i has images[i] images, with text around them."""
    generator = torch.Generator().manual_seed(3)
    text = lambda n: torch.randint(3, 100, (n,), generator=generator)  # noqa: E731
    made = []
    for number, count in enumerate(images):
        parts = [text(3 + 2 * number)]
        for _ in range(count):
            parts += [torch.full((TOKENS,), IMAGE), text(2 + number)]
        made.append(torch.cat([*parts, text(4)]))
    return made, torch.randn(sum(images), 3, 36, 36, generator=generator)


@torch.no_grad()
def slowly(model, ids, pixels, keeps=None, layer=None, layer_keeps=None, merge=False, biased=True):
    """(tokens, tokens kept of each image)."""
    base = model.model
    states = base.vision_tower(pixels, output_hidden_states=True).hidden_states[-2]
    features, kept, sizes, counts = [], [], [], []
    for state in states:
        rows = base.multi_modal_projector(state[1:])
        scores = slow.cosines(state[1:], state[0])
        chosen = slow.best(scores, keeps(scores)) if keeps else list(range(len(rows)))
        one = torch.ones(len(rows), dtype=torch.int)
        if merge:
            rows = rows.clone()
            rows[chosen], found = slow.merged(state[1:], rows, chosen)
            one[chosen] = torch.tensor(found, dtype=torch.int)
        features.append(rows)
        sizes += one.tolist()
        kept += [i in set(chosen) for i in range(len(rows))]
        counts.append(len(chosen))
    prompt = slow.prompt_of(model, ids, torch.arange(len(ids)), torch.cat(features), kept, sizes,
                            placeholders=(IMAGE,))
    return slow.greedy(model, prompt, STEPS, layer, layer_keeps, merge and biased)[0], counts


def generate(model, made, pixels, **how):
    ids, mask = slow.left_padded(made)
    found = model.generate(input_ids=ids, attention_mask=mask, pixel_values=pixels,
                           max_new_tokens=STEPS, do_sample=False,
                           pad_token_id=0, eos_token_id=None, **how)
    return found[:, ids.shape[1]:].tolist()


CASES = {
    "ratio": (dict(ratio=0.22), dict(keeps=slow.share(0.22))),
    "curve": (dict(), dict(keeps=slow.otsu)),
    "layer": (dict(layer=2, layer_ratio=0.3), dict(layer=2, layer_keeps=slow.share(0.3))),
    "both": (dict(ratio=0.4, layer=1, layer_ratio=0.5), dict(keeps=slow.share(0.4), layer=1,
                                                             layer_keeps=slow.share(0.5))),
    "curves": (dict(rule="otsu", layer=3, layer_rule="otsu"),
               dict(keeps=slow.otsu, layer=3, layer_keeps=slow.otsu)),
    "merge": (dict(ratio=0.22, merge="cos4"), dict(keeps=slow.share(0.22), merge=True)),
    "no bias": (dict(ratio=0.22, merge="cos4", size_bias=False),
                dict(keeps=slow.share(0.22), merge=True, biased=False)),
    "merge, layer": (dict(ratio=0.4, merge="cos4", layer=2, layer_ratio=0.5),
                     dict(keeps=slow.share(0.4), merge=True, layer=2, layer_keeps=slow.share(0.5))),
}


@pytest.mark.parametrize("case, attention", [*((case, "sdpa") for case in CASES), ("both", "eager"),
                                             ("merge, layer", "eager")])
def test_greedy_tokens(case, attention):
    """Those of the slow statement, prompt by prompt; and not those without pruning."""
    images = (1, 2)
    model, (made, pixels) = llava(attention), prompts(*images)
    fast, slowest = CASES[case]
    with tailcut.hf.prune(model, **fast) as pruned:
        found = generate(model, made, pixels)
    want, counts, at = [], [], 0
    for ids, count in zip(made, images):
        tokens, kept = slowly(model, ids, pixels[at:at + count], **slowest)
        want.append(tokens)
        counts += kept
        at += count
    assert found == want
    if "keeps" in slowest:
        assert pruned.counts["image"] == counts
    assert all(a != b for a, b in zip(found, generate(model, made, pixels)))


def test_not_pruned():
    """The slow statement itself, against generate without any of it."""
    model, (made, pixels) = llava(), prompts(2, 1)
    assert generate(model, made, pixels) == [slowly(model, ids, pixels[a:b])[0]
                                             for ids, a, b in ((made[0], 0, 2), (made[1], 2, 3))]


def test_counts_differ():
    """Where the curve decides, each image keeps its own number."""
    model, (made, pixels) = llava(), prompts(2, 1, 3)
    with tailcut.hf.prune(model) as pruned:
        generate(model, made, pixels)
    counts = pruned.counts["image"]
    assert len(set(counts)) > 2
    text = [int((ids != IMAGE).sum()) for ids in made]
    visual = [rows - n for rows, n in zip(pruned.lengths[0], text)]
    assert visual == [sum(counts[:2]), counts[2], sum(counts[3:])]


@pytest.mark.parametrize("how", [dict(num_beams=3), dict(use_cache=False)], ids=str)
def test_ways_to_generate(how):
    """A batch gives what each prompt gives alone; beams repeat images; without a cache stage 1 is
    the same."""
    model, (made, pixels) = llava(), prompts(1, 2)
    second = dict(layer=2, layer_ratio=0.5) if "num_beams" in how else {}
    with tailcut.hf.prune(model, ratio=0.3, **second):
        found = generate(model, made, pixels, **how)
        alone = [generate(model, [made[0]], pixels[:1], **how)[0],
                 generate(model, [made[1]], pixels[1:], **how)[0]]
        assert found == alone
        if "use_cache" in how:
            assert found == generate(model, made, pixels)


def test_steps_by_hand():
    """forward after forward: positions and masks that the caller does not give follow the prompt
    before pruning."""
    model, (made, pixels) = llava(), prompts(1, 2)
    ids, mask = slow.left_padded(made)
    with tailcut.hf.prune(model, ratio=0.3, layer=1, layer_ratio=0.5), torch.no_grad():
        want = torch.tensor(generate(model, made, pixels))
        places = (mask.cumsum(1) - 1).clamp(min=0)
        out = model(input_ids=ids, attention_mask=mask, pixel_values=pixels, position_ids=places,
                    use_cache=True)
        found = []
        for _ in range(STEPS):
            found.append(out.logits[:, -1].argmax(-1))
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
            out = model(input_ids=found[-1][:, None], attention_mask=mask,
                        **{slow.CACHE: out[slow.CACHE]}, use_cache=True)
    assert torch.equal(torch.stack(found, 1), want)


@pytest.mark.parametrize("merge", [None, "cos4"])
def test_behind_a_cached_prefix(merge):
    """Text that stands in the cache already: stage 1 as in one piece, stage 2 refused."""
    model, (made, pixels) = llava(), prompts(1, 2)
    ids, mask = slow.left_padded(made)
    places = (mask.cumsum(1) - 1).clamp(min=0)
    some, rest = slice(0, 3), slice(3, None)  # of the shorter prompt, padding
    with tailcut.hf.prune(model, ratio=0.3, merge=merge), torch.no_grad():
        want = model(input_ids=ids, attention_mask=mask, position_ids=places, pixel_values=pixels)
        first = model(input_ids=ids[:, some], attention_mask=mask[:, some],
                      position_ids=places[:, some], use_cache=True)
        more = dict(input_ids=ids[:, rest], position_ids=places[:, rest], attention_mask=mask,
                    pixel_values=pixels, use_cache=True)
        found = model(**more, **{slow.CACHE: first[slow.CACHE]})
        assert torch.allclose(found.logits[:, -1], want.logits[:, -1], atol=1e-4)
        after = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        last = found.logits[:, -1:].argmax(-1)
        one = [model(input_ids=last, attention_mask=after, **{slow.CACHE: out[slow.CACHE]}).logits
               for out in (want, found)]
        assert torch.allclose(*one, atol=1e-4)
    with tailcut.hf.prune(model, layer=2), torch.no_grad():
        first = model(input_ids=ids[:, some], use_cache=True)
        with pytest.raises(tailcut.ArgumentError, match="layer is 2, but the cache held 3 rows"):
            model(**more, **{slow.CACHE: first[slow.CACHE]})
