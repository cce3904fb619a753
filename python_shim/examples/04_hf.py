# SPDX-License-Identifier: Apache-2.0
"""A Hugging Face model: LLaVA-1.5 in small, random weights and no download. A real one is pruned by
the same two lines."""
import torch
from transformers import (CLIPVisionConfig, LlamaConfig, LlavaConfig,
                          LlavaForConditionalGeneration)

import tailcut.hf

torch.manual_seed(0)
IMAGE, TOKENS = 999, 576
vision = CLIPVisionConfig(hidden_size=64, intermediate_size=128, num_hidden_layers=3,
                          num_attention_heads=4, image_size=336, patch_size=14)
text = LlamaConfig(vocab_size=1000, hidden_size=128, intermediate_size=256, num_hidden_layers=6,
                   num_attention_heads=4, num_key_value_heads=2)
model = LlavaForConditionalGeneration(
    LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE)).eval()

# Two prompts of different lengths, padded on the left; the second has two images.
first = [1, *range(10, 20), *[IMAGE] * TOKENS, *range(30, 50)]
second = [1, *[IMAGE] * TOKENS, 5, *[IMAGE] * TOKENS, *range(60, 75)]
pad = len(second) - len(first)
inputs = dict(input_ids=torch.tensor([[0] * pad + first, second]),
              attention_mask=torch.tensor([[0] * pad + [1] * len(first), [1] * len(second)]),
              pixel_values=torch.randn(3, 3, 336, 336))
options = dict(max_new_tokens=8, do_sample=False, pad_token_id=0, eos_token_id=None)

with tailcut.hf.prune(model, ratio=0.22, layer=2, layer_ratio=0.5) as pruned:
    tokens = model.generate(**inputs, **options)
print("kept of each image:", pruned.counts["image"])
print("rows of each prompt after stage 1, after stage 2:", *pruned.lengths)
assert pruned.counts["image"] == [127, 127, 127]
assert pruned.lengths[0] == [len(first) - 449, len(second) - 2 * 449]

# Dropped tokens join kept ones, and the language model is told how many each stands for.
with tailcut.hf.prune(model, ratio=0.22, reference="novelty", merge="cos4"):
    model.generate(**inputs, **options)

# Behind the context the model is as it was.
assert model.generate(**inputs, **options).shape == tokens.shape
