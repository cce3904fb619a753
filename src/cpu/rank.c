/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rank: order by score descending, ties by index ascending, NaN last.
 *
 * Strategy: keys are monotone bits of the score (curve.h); items hold key and index in 64 bits.
 * Few items: insertion sort. More: stable radix sort on the key's four bytes, passes whose byte
 * is the same everywhere skipped. Exact, O(n), no branch on data in the passes.
 */
#include "cpu.h"

static void insertion_sort(uint64_t *items, int32_t m) {
  for (int32_t i = 1; i < m; i++) {
    const uint64_t item = items[i];
    int32_t j = i;
    for (; j > 0 && items[j - 1] > item; j--) items[j] = items[j - 1];
    items[j] = item;
  }
}

int32_t tc_rank(const float *scores, const int32_t *list, int32_t m, uint64_t *items,
                uint64_t *spare, const uint64_t **sorted) {
  uint32_t counts[4][256];
  int32_t usable = 0;
  for (int32_t i = 0; i < m; i++) {
    const uint32_t key = tc_key(scores[list ? list[i] : i]);
    usable += key != TC_KEY_NAN;
    items[i] = (uint64_t)key << 32 | (uint32_t)i;
  }
  *sorted = items;
  if (m <= 40) {
    insertion_sort(items, m); /* items are distinct: the index breaks ties */
    return usable;
  }
  memset(counts, 0, sizeof counts);
  for (int32_t i = 0; i < m; i++) {
    const uint32_t key = (uint32_t)(items[i] >> 32);
    counts[0][key & 255]++;
    counts[1][key >> 8 & 255]++;
    counts[2][key >> 16 & 255]++;
    counts[3][key >> 24]++;
  }
  for (int pass = 0; pass < 4; pass++) {
    const int shift = 32 + 8 * pass;
    uint32_t sum = 0;
    if (counts[pass][items[0] >> shift & 255] == (uint32_t)m) continue;
    for (int d = 0; d < 256; d++) {
      const uint32_t c = counts[pass][d];
      counts[pass][d] = sum;
      sum += c;
    }
    for (int32_t i = 0; i < m; i++) spare[counts[pass][items[i] >> shift & 255]++] = items[i];
    uint64_t *swap = items;
    items = spare;
    spare = swap;
  }
  *sorted = items;
  return usable;
}
