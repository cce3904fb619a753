# SPDX-License-Identifier: Apache-2.0
"""SGLang: its EVS, with the choice made by tailcut.

    from sglang.srt.models import nano_nemotron_vl as theirs
    class NemotronH_Nano_VL_V2(TailcutEVS, theirs.NemotronH_Nano_VL_V2): pass
    EntryClass = NemotronH_Nano_VL_V2  # in a module of SGLANG_EXTERNAL_MODEL_PACKAGE

Any model with sglang.srt.multimodal.evs.EVS among its bases will do. Rate and merge size are its
evs_config's, and placeholders those that SGLang's EVS processor makes: the counts are the same.
SGLang waits for the device twice per video, to index by a mask and for the counts of the frames;
this once per request, because num_tokens_per_frame is a list on the host.

Limits: one item per call, as theirs, of any number of videos. Tested on a stand-in of EVS, and
once on sglang.srt.multimodal.evs of SGLang 0.5.23 itself, the modules that it imports left out. No
server was run.
"""
from __future__ import annotations

from typing import Any

from . import evs


class TailcutEVS:
    """Stands before a model's own class, so that EVS.__init__ finds this evs_video."""

    evs_config: Any
    original_get_video_feature: Any

    def evs_video(self, items: list[Any]) -> Any:
        """As EVS.evs_video: EVSEmbeddingResult(embedding, num_tokens_per_frame), or the features
        as they are where every video is one frame."""
        import torch
        from sglang.srt.multimodal.evs.evs_module import EVSEmbeddingResult

        if all(frames == 1 for item in items for frames, _, _ in item.thw_grids):
            return self.original_get_video_feature(items)
        if len(items) != 1:
            raise ValueError(f"items has {len(items)} elements: EVS takes one at a time")
        grids, config = items[0].thw_grids, self.evs_config
        sizes = [t * h * w // config.spatial_merge_size**2 for t, h, w in grids]
        features = self.original_get_video_feature(items).flatten(0, -2)  # they may come by tile
        kept, counts = [], []
        for video, thw in zip(features.split(sizes), grids):
            found = evs.prune(video, thw, config.spatial_merge_size, config.video_pruning_rate)
            kept.append(found.tokens)
            counts.append(found.mask.view(thw[0], -1).sum(1))
        return EVSEmbeddingResult(embedding=torch.cat(kept),
                                  num_tokens_per_frame=torch.cat(counts).tolist())
