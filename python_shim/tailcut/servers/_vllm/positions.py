# SPDX-License-Identifier: Apache-2.0
"""M-RoPE positions of pruned prompts in vLLM; the class stands before vLLM's own."""
import torch


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
