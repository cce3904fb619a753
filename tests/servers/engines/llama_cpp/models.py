# SPDX-License-Identifier: Apache-2.0
"""models.py LLAMA_CPP FOLDER: three tiny models with random weights for llama.cpp, in FOLDER, each
a language model and a vision tower with its projector (NAME.gguf, NAME-mmproj.gguf):

  llava   one position per token                                      200 MB in all: their
  qwen2   Qwen2-VL's, four positions (M-RoPE)                         vocabularies are llama.cpp's
  qwen3   Qwen3-VL's, M-RoPE, and deepstack: an image's rows are      own, of whole size
          three times as wide, a part for each of the first layers
"""
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, f"{sys.argv[1]}/gguf-py")
import gguf  # noqa: E402

DIM, LAYERS, HEADS, KV_HEADS, INNER = 128, 3, 4, 2, 256
VISION, PATCH, SIDE = 64, 14, 224  # width of the tower, pixels
HEAD = DIM // HEADS
RANDOM = np.random.default_rng(5)


class File:
    """Tensors are random: a matrix's rows keep the size of what they multiply."""

    def __init__(self, path, architecture):
        self.gguf = gguf.GGUFWriter(path, architecture)

    def random(self, name, *shape, scale=None):
        scale = scale or shape[-1] ** -0.5
        self.gguf.add_tensor(name, (RANDOM.standard_normal(shape) * scale).astype(np.float32))

    def linear(self, name, rows, columns):
        self.random(f"{name}.weight", rows, columns)
        self.random(f"{name}.bias", rows, scale=0.1)

    def norm(self, name, width, bias=False):
        self.gguf.add_tensor(f"{name}.weight", np.ones(width, np.float32))
        if bias:
            self.gguf.add_tensor(f"{name}.bias", np.zeros(width, np.float32))

    def close(self):
        self.gguf.write_header_to_file()
        self.gguf.write_kv_data_to_file()
        self.gguf.write_tensors_to_file()
        self.gguf.close()


def copy_tokenizer(to, path):
    """Gives the number of its tokens."""
    for field in gguf.GGUFReader(path).fields.values():
        if not field.name.startswith("tokenizer."):
            continue
        if field.types[0] == gguf.GGUFValueType.ARRAY:
            to.add_array(field.name, field.contents())
        else:
            to.add_key_value(field.name, field.contents(), field.types[0])
        if field.name == "tokenizer.ggml.tokens":
            tokens = len(field.contents())
    return tokens


def language_model(path, architecture, vocabulary, sections=None, deepstack=0):
    f = File(path, architecture)
    words = copy_tokenizer(f.gguf, vocabulary)
    f.gguf.add_block_count(LAYERS)
    f.gguf.add_context_length(4096)
    f.gguf.add_embedding_length(DIM)
    f.gguf.add_feed_forward_length(INNER)
    f.gguf.add_head_count(HEADS)
    f.gguf.add_head_count_kv(KV_HEADS)
    f.gguf.add_layer_norm_rms_eps(1e-5)
    f.gguf.add_rope_freq_base(10000.0)
    f.gguf.add_rope_dimension_count(HEAD)
    f.gguf.add_vocab_size(words)
    if sections:
        f.gguf.add_rope_dimension_sections(sections)
    if deepstack:
        f.gguf.add_key_length(HEAD)
        f.gguf.add_value_length(HEAD)
        f.gguf.add_uint32(f"{architecture}.n_deepstack_layers", deepstack)
    f.random("token_embd.weight", words, DIM, scale=0.5)
    f.random("output.weight", words, DIM)
    f.norm("output_norm", DIM)
    for layer in (f"blk.{i}" for i in range(LAYERS)):
        f.norm(f"{layer}.attn_norm", DIM)
        f.norm(f"{layer}.ffn_norm", DIM)
        for part, rows, scale in (("q", DIM, 0.15), ("k", KV_HEADS * HEAD, 0.15),
                                  ("v", KV_HEADS * HEAD, None)):
            f.random(f"{layer}.attn_{part}.weight", rows, DIM, scale=scale)
            if architecture == "qwen2vl":
                f.random(f"{layer}.attn_{part}.bias", rows, scale=0.1)
        if architecture == "qwen3vl":
            f.norm(f"{layer}.attn_q_norm", HEAD)
            f.norm(f"{layer}.attn_k_norm", HEAD)
        f.random(f"{layer}.attn_output.weight", DIM, DIM)
        f.random(f"{layer}.ffn_gate.weight", INNER, DIM)
        f.random(f"{layer}.ffn_up.weight", INNER, DIM)
        f.random(f"{layer}.ffn_down.weight", DIM, INNER)
    f.close()


def vision_tower(path, projector, deepstack=()):
    f, merged = File(path, "clip"), 4 * VISION
    f.gguf.add_bool("clip.has_vision_encoder", True)
    f.gguf.add_string("clip.projector_type", projector)
    f.gguf.add_bool("clip.use_gelu", True)
    numbers = {"image_size": SIDE, "patch_size": PATCH, "embedding_length": VISION,
               "feed_forward_length": 2 * VISION, "block_count": LAYERS, "projection_dim": DIM,
               "attention.head_count": HEADS}
    if projector != "mlp":
        numbers["spatial_merge_size"] = 2
    for name, number in numbers.items():
        f.gguf.add_uint32(f"clip.vision.{name}", number)
    f.gguf.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
    f.gguf.add_array("clip.vision.image_mean", [0.48, 0.45, 0.4])
    f.gguf.add_array("clip.vision.image_std", [0.27, 0.26, 0.27])
    if deepstack:
        f.gguf.add_array("clip.vision.is_deepstack_layers", [i in deepstack for i in range(LAYERS)])
    patches = (SIDE // PATCH) ** 2
    f.random("v.patch_embd.weight", VISION, 3, PATCH, PATCH, scale=0.05)
    if projector == "mlp":
        f.random("v.class_embd", VISION, scale=1)
        f.random("v.position_embd.weight", patches + 1, VISION, scale=0.3)
        f.norm("v.pre_ln", VISION, bias=True)
    else:
        f.random("v.patch_embd.weight.1", VISION, 3, PATCH, PATCH, scale=0.05)
    if projector == "qwen3vl_merger":
        f.random("v.patch_embd.bias", VISION, scale=0.1)
        f.random("v.position_embd.weight", patches, VISION, scale=0.3)
    f.norm("v.post_ln", VISION, bias=True)
    for i in range(LAYERS):
        layer = f"v.blk.{i}"
        f.norm(f"{layer}.ln1", VISION, bias=True)
        f.norm(f"{layer}.ln2", VISION, bias=True)
        if projector == "qwen3vl_merger":
            f.linear(f"{layer}.attn_qkv", 3 * VISION, VISION)
        else:
            for part in "qkv":
                f.linear(f"{layer}.attn_{part}", VISION, VISION)
        f.linear(f"{layer}.attn_out", VISION, VISION)
        f.linear(f"{layer}.ffn_up", 2 * VISION, VISION)
        f.linear(f"{layer}.ffn_down", VISION, 2 * VISION)
        if i in deepstack:
            f.norm(f"v.deepstack.{i}.norm", merged, bias=True)
            f.linear(f"v.deepstack.{i}.fc1", merged, merged)
            f.linear(f"v.deepstack.{i}.fc2", DIM, merged)
    f.linear("mm.0", DIM, VISION if projector == "mlp" else merged)
    f.linear("mm.2", DIM, DIM)
    f.close()


def main():
    source, folder = map(Path, sys.argv[1:])
    llama, qwen = (source / f"models/ggml-vocab-{name}.gguf" for name in ("llama-spm", "qwen2"))
    language_model(folder / "llava.gguf", "llama", llama)
    vision_tower(folder / "llava-mmproj.gguf", "mlp")
    language_model(folder / "qwen2.gguf", "qwen2vl", qwen, sections=[4, 6, 6, 0])
    vision_tower(folder / "qwen2-mmproj.gguf", "qwen2vl_merger")
    language_model(folder / "qwen3.gguf", "qwen3vl", qwen, sections=[8, 4, 4, 0], deepstack=2)
    vision_tower(folder / "qwen3-mmproj.gguf", "qwen3vl_merger", deepstack=(0, 1))


if __name__ == "__main__":
    main()
