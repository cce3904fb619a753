# SPDX-License-Identifier: Apache-2.0
"""Video: what changes between frames stays. The rule by itself on features, then inside Qwen2.5-VL
(in small, random weights and no download)."""
import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

import tailcut.hf
from tailcut import Reference, Rule

torch.manual_seed(0)
frames, height, width = 6, 8, 8  # patches; a token is 2 x 2 of them
frame = height * width // 4

# By itself: a still scene through which something moves, a token further in every frame. Each token
# is compared with the one a frame before: what the thing covers has changed, and what it leaves.
video = torch.randn(frame, 64).repeat(frames, 1)
covered = [t * frame + t for t in range(1, frames)]
left = [t * frame + t - 1 for t in range(2, frames)]
video[covered] = torch.randn(len(covered), 64)
rule = Rule(k=frame + len(covered) + len(left), order="low")
kept = tailcut.prune(video, Reference("lag", lag=frame), rule=rule).kept.tolist()
print("kept behind the first frame:", kept[frame:])
assert kept == [*range(frame), *sorted(covered + left)]

# In a model: its grid says how many tokens a frame has.
VIDEO = 992
config = Qwen2_5_VLConfig(
    vision_config=dict(depth=2, hidden_size=32, intermediate_size=64, num_heads=2, patch_size=4,
                       out_hidden_size=64, window_size=16, fullatt_block_indexes=[1]),
    text_config=dict(vocab_size=1000, hidden_size=64, intermediate_size=128, num_hidden_layers=3,
                     num_attention_heads=4, num_key_value_heads=2,
                     rope_parameters=dict(rope_type="default", mrope_section=[2, 3, 3]),
                     bos_token_id=None, eos_token_id=None),
    image_token_id=991, video_token_id=VIDEO, vision_start_token_id=993, vision_end_token_id=994)
model = Qwen2_5_VLForConditionalGeneration(config).eval()
ids = torch.tensor([[1, 5, 6, 993, *[VIDEO] * (frames * frame), 994, *range(10, 20)]])
inputs = dict(input_ids=ids, attention_mask=torch.ones_like(ids),
              mm_token_type_ids=2 * (ids == VIDEO).int(),
              pixel_values_videos=torch.randn(frames * height * width, 3 * 2 * 4 * 4),
              video_grid_thw=torch.tensor([[frames, height, width]]))
with tailcut.hf.prune(model, ratio=0.3, reference="lag") as pruned:
    model.generate(**inputs, max_new_tokens=8, do_sample=False, pad_token_id=0, eos_token_id=None)
print(f"in Qwen2.5-VL: {pruned.counts['video'][0]} of {frames * frame} tokens, "
      f"{pruned.lengths[0][0]} rows of {ids.shape[1]}")
assert pruned.counts["video"] == [29]
