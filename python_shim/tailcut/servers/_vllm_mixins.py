# SPDX-License-Identifier: Apache-2.0
"""What a processor or a model of vLLM does otherwise; each class stands before vLLM's own."""
from dataclasses import replace

import torch

from .. import kept_count
from ..torch import prune
from .vllm import compute_retention_mask, options


def pruned(images, config, dim=None):
    rule, reference = options(config)
    if hasattr(images, "dim"):  # [images, N, D]
        return prune(images, reference, rule=rule).tokens
    return tuple(prune(image, reference, rule=rule, dim=dim).tokens for image in images)


class Placeholders:
    """As many for an image as the rule keeps."""

    def _get_prompt_updates(self, *args, **kwargs):
        rule, _ = options(self.info.get_hf_config())

        def shorter(update):
            def replacement(item):
                whole = update.replacement(item)
                return whole[:kept_count(rule, len(whole))]
            return replace(update, replacement=replacement)
        return [shorter(update) if update.modality == "image" else update
                for update in super()._get_prompt_updates(*args, **kwargs)]


class Video:
    """compute_retention_mask is another while the model calls it, and no longer."""

    def _postprocess_video_embeds_evs(self, *args, **kwargs):
        call = super()._postprocess_video_embeds_evs
        names = call.__func__.__globals__
        theirs = names["compute_retention_mask"]
        names["compute_retention_mask"] = compute_retention_mask
        try:
            return call(*args, **kwargs)
        finally:
            names["compute_retention_mask"] = theirs


class Positions:
    """M-RoPE positions as if nothing had been pruned. vLLM lays out whole grids, which run into
    what follows where there are fewer placeholders, and loses count of short media afterwards.
    Here text is right at once, and media are when their rows come, `channels` behind them. These
    are float32 until then: vLLM's positions take their type, and bfloat16 ends at 256."""
    channels = 4  # three positions, the width of the grid

    def is_media(self, ids):
        return (ids == self.config.image_token_id) | (ids == self.config.video_token_id)

    def grown(self, of, tokens):
        """How far an image or a video, `tokens` in the prompt, moves what follows."""
        ((_, t, h, w, pace),) = self.iter_mm_grid_thw([of])
        return max(int((t - 1) * pace) + 1, h, w)

    def _postprocess_image_embeds_evs(self, images, *args, **kwargs):
        return super()._postprocess_image_embeds_evs(
            tuple(image.float() for image in images), *args, **kwargs)

    def _postprocess_video_embeds_evs(self, videos, *args, **kwargs):
        return super()._postprocess_video_embeds_evs(
            tuple(video.float() for video in videos), *args, **kwargs)

    def get_mrope_input_positions(self, input_tokens, mm_features):
        parts, done, base = [], 0, 0
        for of in sorted(mm_features, key=lambda of: of.mm_position.offset):
            at = of.mm_position
            text, end = at.offset - done, at.offset + at.length
            parts += [torch.arange(base, base + text), torch.full((at.length,), base + text)]
            base += text + self.grown(of, input_tokens[at.offset:end])
            done = end
        text = len(input_tokens) - done
        positions = torch.cat([*parts, torch.arange(base, base + text)]).repeat(3, 1)
        return positions, base + text - len(input_tokens)

    def recompute_mrope_positions(self, input_ids, multimodal_embeddings, mrope_positions,
                                  num_computed_tokens):
        ids, made = torch.as_tensor(input_ids), mrope_positions.clone()
        if not multimodal_embeddings:  # vLLM asks for every request of a step
            return (), made, int(made.max()) + 1 - len(ids)
        media, n = self.is_media(ids), self.channels
        rows = torch.cat([of[:, -n:][:, :3] for of in multimodal_embeddings]).T
        rows = rows.long().to(made.device)
        here = num_computed_tokens + media[num_computed_tokens:].nonzero()[:rows.shape[1], 0]
        text = torch.where(media, 0, torch.arange(len(ids))).cummax(0).values[here]
        made[:, here] = rows + made[0, text] + 1
        return (tuple(of[:, :-n].to(self.visual.dtype) for of in multimodal_embeddings), made,
                int(made.max()) + 1 - len(ids))


class Frames(Positions):
    """The same where a video's frames have their times between them: what comes as its rows is all
    between its outer marks, times and inner marks too, and vLLM takes the outer for the inner."""
    channels = 5  # three positions, which are starts, which are of the video

    def is_media(self, ids):
        starts = ids == self.config.vision_start_token_id
        depth = (starts.long() - (ids == self.config.vision_end_token_id).long()).cumsum(0)
        return (depth > 0) & ~(starts & (depth == 1))

    def _get_expanded_positions(self, *args, **kwargs):
        return super()._get_expanded_positions(*args, **kwargs).float()

    def is_row(self, tokens):
        ids = self.config.image_token_id, self.config.video_token_id
        return [token in ids for token in tokens]

    def grid(self, of):
        t, h, w = of.data[f"{of.modality}_grid_thw"].data.tolist()
        merge = self.visual.spatial_merge_size
        return t, h // merge, w // merge

    def grown(self, of, tokens):
        t, h, w = self.grid(of)
        return len(tokens) - sum(self.is_row(tokens)) + t * max(h, w)

    def get_mrope_input_positions(self, input_tokens, mm_features):
        whole = sum(t * h * w for t, h, w in map(self.grid, mm_features))
        if sum(self.is_row(input_tokens)) == whole:  # so it asks for the positions of a whole video
            return super(Positions, self).get_mrope_input_positions(input_tokens, mm_features)
        return super().get_mrope_input_positions(input_tokens, mm_features)
