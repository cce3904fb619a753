# SPDX-License-Identifier: Apache-2.0
"""models.py NAME FOLDER: a tiny model with random weights and all that belongs to it, in FOLDER
(3 to 4 MB). NAME: llava, qwen25 (Qwen2.5-VL: M-RoPE, videos) or qwen3 (Qwen3-VL: deepstack, times
between the frames of a video)."""
import sys
from pathlib import Path

import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

TEXT = ("What happens in this video? Describe the image: the difference seconds between the first "
        "and the second picture <0.5 seconds> USER ASSISTANT")
MARKS = ["<pad>", "<s>", "</s>", "<image>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
         "<|video_pad|>"]
LANGUAGE = dict(vocab_size=512, hidden_size=128, intermediate_size=256, num_hidden_layers=3,
                num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=4096,
                pad_token_id=0, bos_token_id=1, eos_token_id=2)
VISION = dict(hidden_size=64, intermediate_size=128)
QWEN_VISION = dict(VISION, depth=3, num_heads=4, spatial_merge_size=2, temporal_patch_size=2,
                   out_hidden_size=128)


def tokenizer():
    """Bytes, and pairs of them out of TEXT."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator([TEXT] * 4, trainers.BpeTrainer(
        vocab_size=400, special_tokens=MARKS, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return hf.PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", bos_token="<s>",
                                      eos_token="</s>", additional_special_tokens=MARKS[3:])


def llava(words, number):
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**VISION, num_hidden_layers=3, num_attention_heads=4,
                                          image_size=224, patch_size=14, projection_dim=64),
        text_config=hf.LlamaConfig(**LANGUAGE, head_dim=32), image_token_index=number("<image>"),
        vision_feature_layer=-2, vision_feature_select_strategy="default")
    pictures = hf.CLIPImageProcessor(size={"shortest_edge": 224},
                                     crop_size={"height": 224, "width": 224})
    return hf.LlavaForConditionalGeneration(config), hf.LlavaProcessor(
        image_processor=pictures, tokenizer=words, patch_size=14, image_token="<image>",
        vision_feature_select_strategy="default", num_additional_image_tokens=1)


def qwen(words, number, patch, pixels, config, model, processor, videos, rope, **vision):
    """pixels: how the image processor centres and scales them, where that is not its default."""
    config = config(
        vision_config=dict(QWEN_VISION, patch_size=patch, **vision),
        text_config=dict(LANGUAGE, rope_theta=10000.0, **rope),
        image_token_id=number("<|image_pad|>"), video_token_id=number("<|video_pad|>"),
        vision_start_token_id=number("<|vision_start|>"),
        vision_end_token_id=number("<|vision_end|>"))
    sizes = dict(patch_size=patch, merge_size=2, temporal_patch_size=2)
    return model(config), processor(
        tokenizer=words, chat_template="{{ messages }}",
        image_processor=hf.Qwen2VLImageProcessor(
            size={"shortest_edge": 56 ** 2, "longest_edge": 448 ** 2}, **pixels, **sizes),
        video_processor=videos(
            size={"shortest_edge": 56 ** 2, "longest_edge": 16 * 224 ** 2}, **sizes))


def qwen25(words, number):
    rope = {"type": "mrope", "rope_type": "default", "mrope_section": [4, 6, 6]}
    return qwen(words, number, 14, {}, hf.Qwen2_5_VLConfig,
                hf.Qwen2_5_VLForConditionalGeneration, hf.Qwen2_5_VLProcessor,
                hf.Qwen2VLVideoProcessor, {"rope_scaling": rope},
                window_size=112, fullatt_block_indexes=[1], tokens_per_second=2)


def qwen3(words, number):
    rope = {"rope_type": "default", "mrope_section": [6, 5, 5], "mrope_interleaved": True}
    half = [0.5] * 3  # as its video processor has it; vLLM takes the images' for both
    return qwen(words, number, 16, dict(image_mean=half, image_std=half), hf.Qwen3VLConfig,
                hf.Qwen3VLForConditionalGeneration, hf.Qwen3VLProcessor, hf.Qwen3VLVideoProcessor,
                {"rope_scaling": rope, "head_dim": 32},
                num_position_embeddings=256, deepstack_visual_indexes=[0, 1])


def as_published(name):
    """A tensor's name in LLaVA's checkpoints, which vLLM reads; transformers 5 writes another."""
    return name.replace("vision_tower.", "vision_tower.vision_model.", 1)


def main():
    name, folder = sys.argv[1], Path(sys.argv[2])
    torch.manual_seed(4)
    words = tokenizer()
    model, processor = globals()[name](words, words.convert_tokens_to_ids)
    model.float()
    with torch.no_grad():
        for tensor, weight in model.named_parameters():
            if weight.dim() > 1:  # large enough that attention looks somewhere
                seen = "vision" in tensor or "visual" in tensor
                weight.normal_(0, 1.5 / weight[0].numel() ** 0.5 if seen
                               else 2 / weight.shape[-1] ** 0.5)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    if name == "llava":
        path = folder / "model.safetensors"
        tensors = {as_published(tensor): weight for tensor, weight in load_file(path).items()}
        save_file(tensors, path, metadata={"format": "pt"})


if __name__ == "__main__":
    main()
