# SPDX-License-Identifier: Apache-2.0
"""positions.py for models that write times between the frames of a video: Qwen3-VL."""
from .positions import Positions


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
