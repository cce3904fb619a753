/* SPDX-License-Identifier: Apache-2.0 */
/*
 * novelty: how much each candidate differs from those of its window that are chosen before it, and
 * the similarities that this is made of.
 *
 * Formula: METHOD.md, NOVELTY. Strategy: a block scores a window, from rows to scores, in one of
 * two forms: whole.cu, the usual rows and windows of 64, which are read once; pieces.cu, all else.
 * Only the scores of first rows wait for others, for their group's greatest value: a window's is
 * known with the first step of its loop, so each tells it then, and the last of a group to do so
 * writes those scores while the loops of other windows still run. Groups beyond the counters that
 * a workspace has get theirs from a kernel behind. One launch, else two. Precision: exact.
 */
#include "novelty/novelty.cuh"

namespace {

constexpr int WARPS = 4; /* of a block of novelty_firsts */

/* A warp scores the first rows of a group. */
__global__ void __launch_bounds__(32 * WARPS)
    novelty_firsts(const __grid_constant__ tc_novelty_args args) {
  const int32_t number = (int32_t)(blockIdx.x * WARPS + threadIdx.x / 32);
  tc_wait_previous();
  if (number >= tc_group_count(args.s, args.g)) return;
  const auto group = tc_group_at(args.s, args.g, nullptr, number);
  if (group.b < 0 || group.n <= 0) return;
  tc_score_firsts(args.news + tc_first_window(args, number, group.start),
                  tc_window_count(args, group.n), args.scores);
}

}  // namespace

extern "C" size_t tc_cuda_novelty_scratch(const tc_cuda *device, const tailcut_limits *limits) {
  const int32_t groups = limits->groups > limits->segments ? limits->groups : limits->segments;
  return tc_novelty_pieces_scratch(device, limits->window, limits->dim, limits->total_tokens,
                                   groups) +
         tc_windows_most(limits) * sizeof(tc_window_news);
}

extern "C" cudaError_t tc_cuda_novelty(const tc_cuda *device, const tc_segments *segments,
                                       const tc_groups *groups, const tailcut_tokens *tokens,
                                       int32_t window, float *scores, int32_t *flags,
                                       int stores_flags, int32_t *similarities, char *scratch,
                                       tc_cuda_lasting *lasting, const tc_chain *chain) {
  const int32_t count = tc_group_count(*segments, *groups);
  tc_novelty_args args = {};
  tc_chain behind = *chain;
  args.s = *segments;
  args.g = *groups;
  args.tokens = *tokens;
  args.window = window;
  args.width = tc_token_width(segments, tokens);
  args.scores = scores;
  args.flags = flags;
  args.stores_flags = stores_flags != 0;
  args.similarities = similarities;
  args.arrived = count <= TC_CHUNK_SEGMENTS ? lasting->blocks : nullptr;
  const int64_t windows = tc_windows_of(&args);
  const size_t used =
      tc_novelty_pieces_scratch(device, window, tokens->dim, segments->total, count);
  args.news = (tc_window_news *)(scratch + used);
  const cudaError_t error = tc_novelty_whole_takes(device, args)
                                ? tc_novelty_whole(args, (unsigned)windows, chain)
                                : tc_novelty_pieces(device, args, windows, scratch, chain);
  if (error != cudaSuccess || scores == nullptr || args.arrived != nullptr) return error;
  behind.follows = device->chains;
  return tc_launch(novelty_firsts, (unsigned)((count + WARPS - 1) / WARPS), 32 * WARPS, 0, &behind,
                   args);
}

extern "C" cudaError_t tc_cuda_load_novelty(tc_cuda *device) {
  cudaError_t error = cudaSuccess;
  tc_novelty_whole_load(device, &error);
  tc_novelty_pieces_load(device, &error);
  tc_load(novelty_firsts, &error);
  return error;
}
