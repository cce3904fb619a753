# SPDX-License-Identifier: Apache-2.0
"""Models that see an image as tiles, against the slow statement: LLaVA-NeXT (each tile against its
own CLS; padding and newlines between) and InternVL (each tile against its mean)."""
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

import slow_hf as slow  # noqa: E402
import tailcut.hf  # noqa: E402

IMAGE, STEPS, SIZE, PATCH = 120, 6, 24, 4
GRID = SIZE // PATCH
TEXT = dict(vocab_size=128, hidden_size=48, intermediate_size=64, num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2, initializer_range=0.3)
VISION = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2,
              initializer_range=0.3)


def llava_next():
    torch.manual_seed(0)
    vision = transformers.CLIPVisionConfig(image_size=SIZE, patch_size=PATCH, projection_dim=32,
                                           **VISION)
    return transformers.LlavaNextForConditionalGeneration(transformers.LlavaNextConfig(
        vision_config=vision, text_config=transformers.LlamaConfig(**TEXT), image_token_index=IMAGE,
        image_grid_pinpoints=[[SIZE, SIZE], [SIZE, 2 * SIZE], [2 * SIZE, SIZE],
                              [2 * SIZE, 2 * SIZE]])).eval()


def internvl():
    torch.manual_seed(0)
    vision = transformers.InternVLVisionConfig(image_size=32, patch_size=4,
                                               layer_scale_init_value=0.5, **VISION)
    return transformers.InternVLForConditionalGeneration(transformers.InternVLConfig(
        vision_config=vision, text_config=transformers.Qwen2Config(**TEXT), image_token_id=IMAGE,
        image_seq_length=16,
        tie_word_embeddings=False)).eval()


def packed(size):
    """The tokens of a LLaVA-NeXT image of (height, width): (tile, patch), or None for a newline;
    tile 0 is the thumbnail."""
    height, width = size
    tall, wide = SIZES[size]
    tokens = [(0, patch) for patch in range(GRID ** 2)]
    rows, columns = range(tall * GRID), range(wide * GRID)
    if width / height > wide / tall:
        pad = (len(rows) - int(round(height * len(columns) / width, 7))) // 2
        rows = rows[pad:len(rows) - pad]
    else:
        pad = (len(columns) - int(round(width * len(rows) / height, 7))) // 2
        columns = columns[pad:len(columns) - pad]
    for y in rows:
        tokens += [(1 + y // GRID * wide + x // GRID, y % GRID * GRID + x % GRID)
                   for x in columns] + [None]
    return tokens


#: images (height, width) and the tiles that the model's pinpoints give them
SIZES = {(20, 40): (1, 2), (40, 48): (2, 2), (45, 20): (2, 1), (24, 24): (1, 1)}


def next_inputs(images):
    generator = torch.Generator().manual_seed(5)
    tiles = [1 + SIZES[size][0] * SIZES[size][1] for size in images]
    return [len(packed(size)) for size in images], dict(
        pixel_values=torch.randn(len(images), max(tiles), 3, SIZE, SIZE, generator=generator),
        image_sizes=torch.tensor(images))


@torch.no_grad()
def next_features(model, inputs, keeps, merge):
    """(rows, kept, sizes, counts by tile) of all images."""
    base, rows, kept, sizes, counts = model.model, [], [], [], []
    for pixels, size in zip(inputs["pixel_values"], inputs["image_sizes"].tolist()):
        tokens = packed(tuple(size))
        tiles = 1 + max(token[0] for token in tokens if token)
        states = base.vision_tower(pixels[:tiles], output_hidden_states=True).hidden_states[-2]
        projected = base.multi_modal_projector(states[:, 1:])
        chosen = {None: 1}
        for tile in range(tiles):
            there = sorted(token[1] for token in tokens if token and token[0] == tile)
            scores = slow.cosines(states[tile, 1:][there], states[tile, 0])
            best = slow.best(scores, keeps(scores)) if keeps else range(len(there))
            counts.append(len(best))
            found = [1] * len(best)
            if merge:
                some, found = slow.merged(states[tile, 1:][there], projected[tile][there], best)
                projected[tile][[there[i] for i in best]] = some
            chosen |= {(tile, there[i]): n for i, n in zip(best, found)}
        rows += [base.image_newline if token is None else projected[token] for token in tokens]
        kept += [token in chosen for token in tokens]
        sizes += [chosen.get(token, 1) for token in tokens]
    return rows, kept, sizes, counts


def intern_inputs(images):
    """Images of several tiles, the last one a thumbnail: one run of placeholders each."""
    generator = torch.Generator().manual_seed(5)
    return [16 * tiles for tiles in images], dict(
        pixel_values=torch.randn(sum(images), 3, 32, 32, generator=generator))


@torch.no_grad()
def intern_features(model, inputs, keeps, merge):
    rows, kept, sizes, counts = [], [], [], []
    for tile in model.model.get_image_features(inputs["pixel_values"]).pooler_output:
        scores = slow.cosines(tile, slow.mean_direction(tile))
        best = slow.best(scores, keeps(scores)) if keeps else list(range(16))
        counts.append(len(best))
        one = dict.fromkeys(best, 1)
        if merge:
            tile = tile.clone()
            tile[best], found = slow.merged(tile, tile.clone(), best)
            one = dict(zip(best, found))
        rows += list(tile)
        kept += [i in one for i in range(16)]
        sizes += [one.get(i, 1) for i in range(16)]
    return rows, kept, sizes, counts


FAMILIES = {"llava_next": (llava_next, next_inputs, next_features,
                           [[(20, 40)], [(40, 48), (45, 20), (24, 24)]]),
            "internvl": (internvl, intern_inputs, intern_features, [[3], [1, 4]])}
CASES = {
    "ratio": (dict(ratio=0.3), dict(keeps=slow.share(0.3))),
    "curve": (dict(rule="otsu"), dict(keeps=slow.otsu)),
    "both": (dict(ratio=0.5, layer=2, layer_ratio=0.4),
             dict(keeps=slow.share(0.5), layer=2, layer_keeps=slow.share(0.4))),
    "merge": (dict(ratio=0.3, merge="cos4"), dict(keeps=slow.share(0.3), merge=True)),
    "plain": (None, dict()),
}


def text(count, seed):
    return torch.randint(3, 100, (count,), generator=torch.Generator().manual_seed(seed))


def prompt(tokens, seed):
    images = [part for n in tokens for part in (torch.full((n,), IMAGE), text(2, n))]
    return torch.cat([text(3 + seed, seed), *images, text(4, seed + 9)])


def slowly(model, ids, inputs, features, keeps=None, merge=False, layer=None, layer_keeps=None):
    rows, kept, sizes, counts = features(model, inputs, keeps, merge)
    made = slow.prompt_of(model, ids, torch.arange(len(ids)), rows, kept, sizes,
                          placeholders=(IMAGE,))
    return slow.greedy(model, made, STEPS, layer, layer_keeps, merge)[0], counts


def generate(model, made, inputs):
    ids, mask = slow.left_padded(made)
    found = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=STEPS,
                           do_sample=False, pad_token_id=0,
                           eos_token_id=None, **inputs)
    return found[:, ids.shape[1]:].tolist()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("case", CASES)
def test_greedy_tokens(case, family):
    make, inputs_of, features, images = FAMILIES[family]
    fast, slowest = CASES[case]
    model = make()
    # the images of all prompts in one call, and each prompt's by itself
    tokens, inputs = inputs_of([image for each in images for image in each])
    first = len(images[0])
    made = [prompt(tokens[:first], 0), prompt(tokens[first:], 1)]
    at = first if family == "llava_next" else sum(images[0])
    own = [{name: value[:at] for name, value in inputs.items()},
           {name: value[at:] for name, value in inputs.items()}]
    want = [slowly(model, ids, some, features, **slowest) for ids, some in zip(made, own)]
    if fast is None:
        found = generate(model, made, inputs)
    else:
        with tailcut.hf.prune(model, **fast) as pruned:
            found = generate(model, made, inputs)
        assert pruned.counts["image"] == [n for _tokens, counts in want for n in counts]
        assert found != generate(model, made, inputs)
    assert found == [tokens for tokens, _counts in want]
