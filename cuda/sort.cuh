/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sort: rows by key, stable, by a gang, through global memory.
 *
 * Strategy: four passes of 8 bits from the least significant. Every warp owns a run of the input;
 * it counts the digits of its run, prefix sums over digits and warps give each warp the place of
 * its first item of each digit, then the warp walks its run once more in order and places 32 items
 * at a time: lanes of one digit find each other by a match. Order inside a digit is input order, so
 * the sort is stable. Items are key << 32 | row. Limits: three barriers of the gang per pass; what a
 * pass wrote is read by other blocks of the cluster, never through the read-only cache.
 */
#ifndef TAILCUT_SORT_CUH_
#define TAILCUT_SORT_CUH_

#include "cut.cuh"

#define TC_DIGITS 256

template <int WARPS>
struct tc_sort_space {
  uint32_t places[WARPS][TC_DIGITS]; /* per warp: counts, then next places before `base` */
  uint32_t totals[TC_DIGITS];        /* of this block; peers read it */
  uint32_t base[TC_DIGITS];
  uint32_t warp_sums[TC_DIGITS / 32];
};

/* Turns the warps' counts into places. */
template <class Gang>
__device__ void tc_sort_places(Gang &gang, tc_sort_space<Gang::WARPS> &space) {
  const int d = (int)threadIdx.x;
  uint32_t earlier = 0, all = 0, upto = 0;
  __syncthreads();
  if (d < TC_DIGITS) {
    uint32_t sum = 0;
    for (int w = 0; w < Gang::WARPS; w++) {
      const uint32_t count = space.places[w][d];
      space.places[w][d] = sum;
      sum += count;
    }
    space.totals[d] = sum;
  }
  gang.sync();
  if (d < TC_DIGITS) {
    for (int c = 0; c < gang.ctas; c++) {
      const uint32_t count = *gang.peer(&space.totals[d], c);
      if (c < gang.cta) earlier += count;
      all += count;
    }
    upto = (uint32_t)tc_warp_scan((int32_t)all, gang.lane);
    if (gang.lane == 31) space.warp_sums[gang.warp] = upto;
  }
  __syncthreads();
  if (d < TC_DIGITS) {
    for (int w = 0; w < gang.warp; w++) upto += space.warp_sums[w];
    space.base[d] = upto - all + earlier;
  }
  __syncthreads();
}

/* One pass: `load` gives input item i, `to` receives the items ordered by the 8 bits at `shift`. */
template <class Gang, class Load>
__device__ void tc_sort_pass(Gang &gang, tc_sort_space<Gang::WARPS> &space, int32_t n, int shift,
                             Load load, uint64_t *to) {
  uint32_t *places = space.places[gang.warp];
  int32_t lo, hi;
  gang.run(n, &lo, &hi);
  for (int d = gang.lane; d < TC_DIGITS; d += 32) places[d] = 0;
  __syncwarp();
  for (int32_t base = lo; base < hi; base += 32) {
    const int32_t i = base + gang.lane;
    const uint32_t digit = i < hi ? (uint32_t)(load(i) >> shift) & 255 : TC_DIGITS;
    const uint32_t same = __match_any_sync(TC_FULL, digit);
    if (i < hi && (same & ((1u << gang.lane) - 1)) == 0) {
      atomicAdd(&places[digit], (uint32_t)__popc(same));
    }
  }
  tc_sort_places(gang, space);
  for (int32_t base = lo; base < hi; base += 32) {
    const int32_t i = base + gang.lane;
    const uint64_t item = i < hi ? load(i) : 0;
    const uint32_t digit = i < hi ? (uint32_t)(item >> shift) & 255 : TC_DIGITS;
    const uint32_t same = __match_any_sync(TC_FULL, digit);
    const int leader = __ffs((int)same) - 1;
    uint32_t place = 0;
    if (i < hi && gang.lane == leader) {
      place = space.base[digit] + atomicAdd(&places[digit], (uint32_t)__popc(same));
    }
    place = __shfl_sync(TC_FULL, place, leader);
    if (i < hi) to[place + (uint32_t)__popc(same & ((1u << gang.lane) - 1))] = item;
  }
  gang.sync();
}

/* Sorts the n rows of a segment into `items`; `spare` is as large. Rows that are no candidates come
 * last. Called by the whole gang; the result is visible to it. */
template <class Gang>
__device__ void tc_sort_rows(Gang &gang, tc_sort_space<Gang::WARPS> &space, const float *scores,
                             const uint8_t *roles, int32_t n, uint64_t *spare, uint64_t *items) {
  const uint64_t *from = spare;
  uint64_t *to = spare;
#pragma unroll 1
  for (int shift = 32; shift < 64; shift += 8) {
    const bool first = shift == 32;
    tc_sort_pass(
        gang, space, n, shift,
        [=](int32_t i) {
          return first ? (uint64_t)tc_load_key(scores, roles, i) << 32 | (uint32_t)i : from[i];
        },
        to);
    from = to;
    to = to == spare ? items : spare;
  }
}

#endif /* TAILCUT_SORT_CUH_ */
