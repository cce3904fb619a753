# SPDX-License-Identifier: Apache-2.0
"""tailcut.hf itself: what it leaves behind (nothing), which versions it takes, and what it refuses
by name."""
import re
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

import paths  # noqa: E402
import slow_hf as slow  # noqa: E402
import tailcut  # noqa: E402
import tailcut.hf  # noqa: E402
from tailcut import Merge, RelevanceOptions, Rule  # noqa: E402
from test_hf_llava import generate, llava, prompts  # noqa: E402


def state(model):
    """All that hooks or patches could be: attributes and hooks of each module, attributes of each
    class."""
    modules = {name: (sorted(vars(module)), {key: list(value) for key, value in vars(module).items()
                                             if key.endswith("_hooks") and isinstance(value, dict)},
                      [key for key, value in vars(module).items() if callable(value)])
               for name, module in model.named_modules()}
    kinds = {kind for module in model.modules() for kind in type(module).__mro__}
    kinds |= {transformers.cache_utils.DynamicCache, transformers.cache_utils.DynamicLayer}
    return modules, {kind: dict(vars(kind)) for kind in kinds}


def test_nothing_stays():
    """Model and classes are as they were: after the context, after an error in it, and classes in
    it too."""
    model, (made, pixels) = llava(), prompts(1, 1)
    want = generate(model, made, pixels)  # the models put hooks of their own on when they first run
    before = state(model)
    with tailcut.hf.prune(model, ratio=0.3, layer=2, layer_ratio=0.5):
        assert state(model)[1] == before[1] and state(model)[0] != before[0]
        assert generate(model, made, pixels) != want
    assert state(model) == before
    with pytest.raises(ZeroDivisionError), tailcut.hf.prune(model, ratio=0.3, merge="cos4",
                                                            layer=2):
        generate(model, made, pixels)
        1 / 0
    assert state(model) == before
    with pytest.raises(ValueError), tailcut.hf.prune(model, ratio=0.3):
        model(input_ids=made[0][None], pixel_values=pixels)  # two images for one prompt
    assert state(model) == before
    pruned = tailcut.hf.prune(model, ratio=0.3)
    assert state(model) == before
    pruned.attach()
    pruned.remove()
    pruned.remove()
    assert state(model) == before and generate(model, made, pixels) == want


def test_two_models():
    """Another model of the class is not pruned, and a model only once at a time."""
    model, other, (made, pixels) = llava(), llava(), prompts(1)
    want = generate(other, made, pixels)
    with tailcut.hf.prune(model, ratio=0.3) as pruned:
        assert generate(other, made, pixels) == want
        with pytest.raises(tailcut.ArgumentError,
                           match="model is being pruned already"), tailcut.hf.prune(model):
            pass
        with pytest.raises(tailcut.ArgumentError, match="model is being pruned already"):
            pruned.attach()
        assert generate(model, made, pixels) != want
    assert generate(model, made, pixels) == want


def test_without_images():
    """A prompt of text alone is what it is without pruning."""
    model, ids = llava(), torch.arange(3, 30)[None]
    how = dict(input_ids=ids, max_new_tokens=5, do_sample=False, pad_token_id=0, eos_token_id=None)
    want = model.generate(**how)
    with tailcut.hf.prune(model, ratio=0.3, merge="cos4", layer=1):
        assert torch.equal(model.generate(**how), want)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half(dtype):
    """What stays in halves is what the core calls say of the tower's features."""
    model, (made, pixels) = llava().to(dtype), prompts(1, 2)
    pixels = pixels.to(dtype)
    with torch.no_grad():
        states = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-2]
    want = tailcut.prune(states, "row", rule="otsu").counts.tolist()
    for more in (dict(), dict(merge="cos4", layer=2, layer_ratio=0.5)):
        with tailcut.hf.prune(model, rule="otsu", **more) as pruned:
            generate(model, made, pixels)
        assert pruned.counts["image"] == want


def test_base_model():
    """The model without its head."""
    model, (made, pixels) = llava(), prompts(2)
    with tailcut.hf.prune(model.model, ratio=0.3) as pruned, torch.no_grad():
        out = model.model(input_ids=made[0][None], pixel_values=pixels)
    assert pruned.counts == {"image": [25, 25]}
    assert out.last_hidden_state.shape[1] == len(made[0]) - 2 * (81 - 25) == pruned.lengths[0][0]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_size_bias(attention):
    """A row of size 4 weighs in attention as four copies of it."""
    model = llava(attention)
    layer = model.model.language_model.layers[0].self_attn
    hidden = torch.randn(1, 6, 48, generator=torch.Generator().manual_seed(1))
    copies = torch.cat([hidden[:, :3], hidden[:, 2:3].expand(1, 3, 48), hidden[:, 3:]], 1)
    cos, sin = torch.ones(1, 9, 12), torch.zeros(1, 9, 12)
    short = tailcut.hf._mask.Prompt(torch.ones(1, 6).bool(),
                                    torch.tensor([[1, 1, 4, 1, 1, 1]], dtype=torch.int32), 9, False)
    long = tailcut.hf._mask.Prompt(torch.ones(1, 9).bool(), torch.ones(1, 9, dtype=torch.int32), 9,
                                   False)
    found = layer(hidden, (cos[:, :6], sin[:, :6]),
                  attention_mask=short.mask(6, 6, torch.float32))[0]
    want = layer(copies, (cos, sin), attention_mask=long.mask(9, 9, torch.float32))[0]
    assert torch.allclose(found[:, 3:], want[:, 6:], atol=1e-6)


def test_versions():
    """The range that is stated, and what is said outside it."""
    least, below = tailcut.hf.SUPPORTED
    for version in (f"{least[0]}.{least[1]}.0", f"{least[0]}.{least[1]}.0.dev0",
                    transformers.__version__):
        tailcut.hf.check_version(version)
    for version in (f"{least[0]}.{least[1] - 1}.9", "4.57.6", f"{below[0]}.{below[1]}.0"):
        with pytest.raises(tailcut.UnsupportedError,
                           match=rf"transformers is {version}.*expects one from 5\."):
            tailcut.hf.check_version(version)
    code = ("import transformers; transformers.__version__ = '4.50.0'\n"
            "import tailcut\n"
            "try: import tailcut.hf\n"
            "except tailcut.UnsupportedError as e: assert 'transformers is 4.50.0' in str(e)\n"
            "else: raise SystemExit('imported')")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_import_is_light():
    code = ("import sys, tailcut\n"
            "assert not {'torch', 'transformers', 'tailcut.hf'} & set(sys.modules)")
    subprocess.run([sys.executable, "-c", code], check=True)


REFUSED = {
    "ratio and rule are both given": dict(ratio=0.5, rule="otsu"),
    "layer_ratio and layer_rule are both given": dict(layer=1, layer_ratio=0.5, layer_rule="otsu"),
    "layer is 4; expected 1 .. 3": dict(layer=4),
    "layer is 0; expected 1 .. 3": dict(layer=0),
    "relevance is ATTENTION": dict(layer=2, relevance=RelevanceOptions("attention")),
    "reference is LAG, but llava has no video": dict(reference="lag"),
    "merge.sizes_in is given": dict(merge=Merge(sizes_in=[1])),
    "merge.power is 'cube'": dict(merge="cube"),
    "layer_ratio is given without layer": dict(layer_ratio=0.5),
    "layer_rule is given without layer": dict(layer_rule="otsu"),
    "relevance is given without layer": dict(relevance="max_cosine"),
    "rule.group_k": dict(rule=Rule(k=3, group_k=[1])),
}


@pytest.mark.parametrize("message", REFUSED)
def test_arguments(message):
    with pytest.raises(tailcut.Error, match=message):
        tailcut.hf.prune(llava(), **REFUSED[message])


def test_models_refused():
    with pytest.raises(tailcut.UnsupportedError,
                       match="model is a llama; expected one of llava, llava_next, "):
        tailcut.hf.prune(llava().model.language_model)
    with pytest.raises(tailcut.UnsupportedError, match="model is a int"):
        tailcut.hf.prune(3)
    model = llava()
    model.model.language_model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(tailcut.UnsupportedError,
                       match="attn_implementation is 'flash_attention_2'; expected 'sdpa'"):
        tailcut.hf.prune(model, merge="cos4")
    tailcut.hf.prune(model, merge="cos4", size_bias=False)


def test_calls_refused():
    """What cannot be right inside the context says so."""
    model, (made, pixels) = llava(), prompts(1, 1)
    ids, mask = slow.left_padded(made)
    given = dict(input_ids=ids, pixel_values=pixels)
    cases = {
        "attention_mask pads on the right": given | dict(attention_mask=mask.flip(1)),
        "attention_mask is a prepared one": given | dict(attention_mask=torch.zeros(2, 1, 8, 8)),
        "input_ids is missing": dict(inputs_embeds=torch.zeros(2, 8, 48), pixel_values=pixels),
        r"mm_encoder_outputs\['image'\] was not made": dict(
            input_ids=ids, mm_encoder_outputs={"image": model.get_image_features(pixels)}),
    }
    with tailcut.hf.prune(model, ratio=0.3, layer=1), torch.no_grad():
        for message, call in cases.items():
            with pytest.raises(tailcut.Error, match=message):
                model(**call)
        how = dict(input_ids=ids[:1], pixel_values=pixels[:1], max_new_tokens=4, do_sample=False,
                   pad_token_id=0,
                   eos_token_id=None)
        with pytest.raises(tailcut.Error, match="cache is a StaticCache"):
            model.generate(**how, cache_implementation="static", disable_compile=True)
        version = tuple(map(int, transformers.__version__.split(".")[:2]))
        if version >= (5, 23):  # before, chunks had no images at all
            with pytest.raises(tailcut.Error, match="was not made"):
                model.generate(**how, prefill_chunk_size=32)
        out = model.generate(**how, return_dict_in_generate=True)
        del how["pixel_values"]
        longer = torch.cat([out.sequences, torch.arange(3, 120)[None]], 1)
        with pytest.raises(tailcut.Error, match="tokens come behind a pruned prompt"):
            model.generate(**how | {"input_ids": longer, slow.CACHE: out[slow.CACHE]})
        with pytest.raises(tailcut.Error, match="2 tokens come behind a pruned prompt"):
            model(input_ids=torch.tensor([[5, 6]]), **{slow.CACHE: out[slow.CACHE]})
        with pytest.raises(tailcut.Error, match="pruned prompt of 1 sequences, but 2 are given"):
            model(input_ids=torch.tensor([[5], [6]]), **{slow.CACHE: out[slow.CACHE]})
        with pytest.raises(tailcut.Error, match="cache holds a pruned prompt; expected a new one"):
            model(input_ids=ids[:1], pixel_values=pixels[:1], **{slow.CACHE: out[slow.CACHE]})


def test_relevance():
    """MAX_COSINE of stage 2 is the core's."""
    model, (made, pixels) = llava(), prompts(1)
    found = {}
    for relevance in (None, "mean_cosine", "max_cosine"):
        with tailcut.hf.prune(model, layer=2, layer_ratio=0.2, relevance=relevance):
            found[relevance] = generate(model, made, pixels)
    assert found[None] == found["mean_cosine"] != found["max_cosine"]


def test_readme():
    """README's two lines, and its versions."""
    text = (paths.SHIM / "README.md").read_text()
    (code,) = (block for block in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
               if "tailcut.hf" in block)
    model, (made, pixels) = llava(), prompts(1)
    names = {"model": model, "inputs": dict(input_ids=made[0][None], pixel_values=pixels,
                                            do_sample=False, pad_token_id=0, eos_token_id=None)}
    exec(code, names)
    assert names["tokens"].shape[0] == 1 and names["pruned"].counts == {"image": [18]}
    assert not vars(model.model).get("tailcut")
    least, below = tailcut.hf.SUPPORTED
    assert f"transformers {least[0]}.{least[1]} or newer, below {below[0]}" in text
