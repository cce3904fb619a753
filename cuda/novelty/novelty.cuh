/* SPDX-License-Identifier: Apache-2.0 */
/* novelty: what the kernels that score windows share: which window a block has, rows as bytes, the
 * farthest-point loop, the scores of first rows. novelty.cu says how all fits together.
 *
 * A key is a similarity and what names the place it was found at, (p + 2^20) << 9 | 9 bits: 31, so
 * that the least key is the next row of METHOD.md's step 5, ties and all, and so that no key is
 * TC_NO_KEY, which stands for rows that take no part, or no part any more. */
#ifndef TAILCUT_NOVELTY_CUH_
#define TAILCUT_NOVELTY_CUH_

#include "common/delay.cuh"
#include "common/dot.cuh"
#include "common/launch.cuh"
#include "common/tensor.cuh"
#include "common/windows.cuh"

#define TC_NO_KEY 0xFFFFFFFFu
#define TC_KEY_SHIFT 9
#define TC_UNIT (1 << 20) /* p of equal rows */

/* What a row is to its window. */
enum tc_row_state : uint8_t { TC_ROW_LIVE, TC_ROW_ZERO, TC_ROW_NOT_FINITE, TC_ROW_ABSENT };

/* What a window says to its group, by the window's number. */
struct tc_window_news {
  int32_t first;    /* row number of the first row that is not blank; -1: there is none */
  int32_t greatest; /* value of the others; 0 where there are none */
};

struct tc_novelty_args {
  tc_segments s;
  tc_groups g;
  tc_tiles t;
  tailcut_tokens tokens;
  int32_t window;
  int32_t n;     /* candidates of every segment, where that needs no look; else -1 */
  int32_t width; /* widest load that fits the rows */
  float *scores;
  int32_t *flags;
  int32_t *similarities;
  tc_window_news *news;
  uint32_t *arrived; /* windows of a group that have told their news; NULL: nobody counts them */
  bool stores_flags;
};

/* ------------------------------------------------------------------------------------- bytes -- */

/* METHOD.md's mean square of a row. */
__device__ inline float tc_mean_square(float square, uint32_t dim) {
  return __fdiv_rn(square, (float)dim);
}

__device__ inline tc_row_state tc_state_of(float r) {
  return r == 0.0f ? TC_ROW_ZERO : r <= 3.402823466e38f ? TC_ROW_LIVE : TC_ROW_NOT_FINITE;
}

/* s of the power of two that makes a live row's root mean square 16 to 32, 2^s. */
__device__ inline int32_t tc_shift_of(float r) {
  const bool tiny = r < 1.17549435e-38f; /* subnormal */
  const int32_t e = (int32_t)(__float_as_uint(tiny ? r * 4294967296.0f : r) >> 23);
  return 4 - ((e - (tiny ? 159 : 127)) >> 1);
}

/* The low bytes of four words. */
__device__ inline uint32_t tc_low_bytes(uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  return __byte_perm(__byte_perm(a, b, 0x0040), __byte_perm(c, d, 0x0040), 0x5410);
}

/* x * factor, rounded to an integer, in the low byte: 3 * 2^22 + an integer is exact, and rounds
 * once. A NaN becomes a number: its row is blank. */
__device__ inline uint32_t tc_byte_of(float x, float factor) {
  const float origin = 12582912.0f;
  const float v = __fmaf_rn(x, factor, origin);
  return __float_as_uint(fminf(fmaxf(v, origin - 127.0f), origin + 127.0f));
}

/* p + 2^20 of two rows whose bytes' product is g, given the roots of their own products. */
__device__ inline uint32_t tc_similarity(int32_t g, float root_i, float root_j) {
  float c = __fdiv_rn((float)g, __fmul_rn(root_i, root_j));
  c = c > 1.0f ? 1.0f : c < -1.0f ? -1.0f : c;
  return (uint32_t)(__float2int_rn(c * (float)TC_UNIT) + TC_UNIT);
}

/* ------------------------------------------------------------------------------------ points -- */

/* Of a window whose similarities are there: `words` has ROWS rows of each lane: row(k) is the
 * number of this lane's k-th, load(key) their similarities, as keys, to the row that `key` names;
 * TC_NO_KEY at that row itself, at blank rows and at absent ones. */

__device__ inline int32_t tc_value_of(uint32_t key) {
  return 2 * TC_UNIT - (int32_t)(key >> TC_KEY_SHIFT);
}

template <int ROWS>
__device__ inline uint32_t tc_least(const uint32_t (&keys)[ROWS]) {
  uint32_t least = keys[0];
#pragma unroll
  for (int k = 1; k < ROWS; k++) least = min(least, keys[k]);
  return __reduce_min_sync(TC_FULL, least);
}

/* Step 5 by one warp: the values of all rows behind the first, into scores by place. steps: live
 * rows but the first. */
template <class Words>
__device__ inline void tc_farthest(const Words &words, uint32_t first, int32_t steps,
                                   float *scores) {
  constexpr int ROWS = Words::ROWS;
  uint32_t nearest[ROWS], chosen[ROWS];
  words.load(first, nearest);
#pragma unroll
  for (int k = 0; k < ROWS; k++) chosen[k] = TC_NO_KEY;
#pragma unroll 4
  for (int32_t step = 0; step < steps; step++) {
    const uint32_t key = tc_least(nearest);
    uint32_t similar[ROWS];
    words.load(key, similar);
#pragma unroll
    for (int k = 0; k < ROWS; k++) {
      if (nearest[k] == key) chosen[k] = key;
      nearest[k] = max(nearest[k], similar[k]);
    }
  }
#pragma unroll
  for (int k = 0; k < ROWS; k++) {
    if (chosen[k] != TC_NO_KEY) {
      scores[words.row(k)] = (float)tc_value_of(chosen[k]) * 0x1p-22f;
    }
  }
}

/* Step 6 by one warp: the scores of a group's first rows, from the news of its windows. */
__device__ inline void tc_score_firsts(const tc_window_news *news, uint32_t count, float *scores) {
  const uint32_t lane = threadIdx.x & 31;
  int32_t greatest = 0;
#pragma unroll 2
  for (uint32_t i = lane; i < count; i += 32) greatest = max(greatest, __ldcg(&news[i].greatest));
  const float score = (float)(1 + __reduce_max_sync(TC_FULL, greatest)) * 0x1p-22f;
#pragma unroll 2
  for (uint32_t i = lane; i < count; i += 32) {
    const int32_t row = __ldcg(&news[i].first);
    if (row >= 0) scores[row] = score;
  }
}

/* A window's news, by one warp; the last of the group to come here scores the first rows. The
 * greatest value of a window is that of the loop's first step: values never rise. */
template <class Words>
__device__ inline void tc_tell(const tc_novelty_args &args, const tc_window &w, int64_t number,
                               const Words &words, uint32_t first, int32_t place, int32_t steps) {
  tc_window_news told = {-1, 0};
  if (steps >= 0) told.first = w.start + w.first + place;
  if (steps > 0) {
    uint32_t keys[Words::ROWS];
    words.load(first, keys);
    told.greatest = tc_value_of(tc_least(keys));
  }
  const uint32_t lane = threadIdx.x & 31;
  if (lane == 0) args.news[number] = told;
  if (args.arrived == nullptr) return;
  uint32_t before = 0;
  tc_delay(1);
  if (lane == 0) {
    __threadfence(); /* our news before our arrival */
    before = atomicAdd(&args.arrived[w.group], 1u);
    __threadfence(); /* everybody's arrival before their news */
  }
  __syncwarp(); /* for all lanes */
  if (__shfl_sync(TC_FULL, before, 0) != w.count - 1) return;
  if (lane == 0) args.arrived[w.group] = 0;
  tc_score_firsts(args.news + (number - w.index), w.count, args.scores);
}

/* ------------------------------------------------------------------------------- all of that -- */

/* Steps 5 and 6, flags and similarities of a window, by all warps of its block. states: of its
 * rows; words as above, with key_of(place), a key that names it, and similarity(i, j), their p. */
template <int WARPS, class Words>
__device__ inline void tc_finish_window(const tc_novelty_args &args, const tc_window &w,
                                        int64_t number, const Words &words, const uint8_t *states) {
  const int32_t warp = (int32_t)threadIdx.x >> 5, lane = (int32_t)threadIdx.x & 31;
  const int64_t at = (int64_t)w.start + w.first;
  if (warp < 2) {
    if (args.scores == nullptr) return;
    int32_t steps = -1, place = 0;
#pragma unroll 1
    for (int32_t base = 0; base < w.n; base += 32) {
      const bool live = base + lane < w.n && states[base + lane] == TC_ROW_LIVE;
      const uint32_t mask = __ballot_sync(TC_FULL, live);
      if (steps < 0 && mask != 0) place = base + __ffs(mask) - 1;
      steps += __popc(mask);
    }
    const uint32_t first = Words::key_of(place);
    if (warp == 1) {
      tc_tell(args, w, number, words, first, place, steps);
    } else if (steps > 0) {
      tc_farthest(words, first, steps, args.scores + at);
    }
    return;
  }
  if (warp == 2) {
    bool nan = false;
#pragma unroll 1
    for (int32_t i = lane; i < w.n; i += 32) {
      const uint8_t state = states[i];
      nan |= state == TC_ROW_NOT_FINITE;
      if (state != TC_ROW_LIVE && args.scores != nullptr) {
        args.scores[at + i] = state == TC_ROW_ZERO ? 0.0f : tc_bits_float(TC_NAN_BITS);
      }
    }
    if (args.flags != nullptr && !args.stores_flags && __any_sync(TC_FULL, nan) && lane == 0) {
      atomicOr(args.flags + w.b, TAILCUT_FLAG_NAN);
    }
    if (args.flags != nullptr && args.stores_flags && w.index == 0 && lane == 0) {
      args.flags[w.b] = 0;
    }
  }
  if (args.similarities == nullptr) return;
#pragma unroll 1
  for (int32_t i = warp - 2; i < w.n; i += WARPS - 2) {
    int32_t *out = args.similarities + (at + i) * args.window;
    const bool live = states[i] == TC_ROW_LIVE;
#pragma unroll 1
    for (int32_t j = lane; j < w.n; j += 32) {
      const bool both = live && i != j && states[j] == TC_ROW_LIVE;
      out[j] = both ? words.similarity(i, j) : TC_NO_SIMILARITY;
    }
  }
}

/* ------------------------------------------------------------------------------------- forms -- */

/* whole.cu, pieces.cu: the kernels, for windows 0 .. windows - 1. The first takes some calls, the
 * other all, with scratch for such a window, dim, number of rows and of groups, or greater ones. */
bool tc_novelty_whole_takes(const tc_cuda *device, const tc_novelty_args &args);
cudaError_t tc_novelty_whole(const tc_novelty_args &args, unsigned windows, const tc_chain *chain);
void tc_novelty_whole_load(const tc_cuda *device, cudaError_t *error);
size_t tc_novelty_pieces_scratch(const tc_cuda *device, int32_t window, int32_t dim, int64_t total,
                                 int64_t groups);
cudaError_t tc_novelty_pieces(const tc_cuda *device, const tc_novelty_args &args, int64_t windows,
                              char *scratch, const tc_chain *chain);
void tc_novelty_pieces_load(const tc_cuda *device, cudaError_t *error);

#endif /* TAILCUT_NOVELTY_CUH_ */
