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

/* One pass: items [0, m) of `from` to where their digit's range in `to` begins and ends. The first
 * half goes up from the beginnings, the second down from the ends: stable, and two chains of
 * dependent counter updates instead of one where many items share a digit. */
static void scatter(const uint64_t *from, uint64_t *to, int32_t m, int shift,
                    const uint32_t *counts) {
  uint32_t begins[256], ends[256], sum = 0;
  for (int d = 0; d < 256; d++) {
    begins[d] = sum;
    sum += counts[d];
    ends[d] = sum;
  }
  int32_t i = 0, j = m - 1;
  for (; i < j; i++, j--) {
    const uint64_t low = from[i], high = from[j];
    to[begins[low >> shift & 255]++] = low;
    to[--ends[high >> shift & 255]] = high;
  }
  if (i == j) to[begins[from[i] >> shift & 255]] = from[i];
}

int32_t tc_rank(const float *scores, const int32_t *list, int32_t m, int low, uint64_t *items,
                uint64_t *spare, const uint64_t **sorted) {
  uint32_t counts[4][256], odd[256]; /* odd: the top byte of every second item */
  int32_t usable = 0;
  memset(counts, 0, sizeof counts);
  memset(odd, 0, sizeof odd);
  for (int32_t i = 0; i < m; i++) {
    const uint32_t key = tc_key(tc_ordered(scores[list ? list[i] : i], low));
    usable += key != TC_KEY_NAN;
    items[i] = (uint64_t)key << 32 | (uint32_t)i;
    counts[0][key & 255]++;
    counts[1][key >> 8 & 255]++;
    counts[2][key >> 16 & 255]++;
    (i & 1 ? odd : counts[3])[key >> 24]++;
  }
  *sorted = items;
  if (m <= 40) {
    insertion_sort(items, m); /* items are distinct: the index breaks ties */
    return usable;
  }
  for (int d = 0; d < 256; d++) counts[3][d] += odd[d];
  for (int pass = 0; pass < 4; pass++) {
    const int shift = 32 + 8 * pass;
    if (counts[pass][items[0] >> shift & 255] == (uint32_t)m) continue;
    scatter(items, spare, m, shift, counts[pass]);
    uint64_t *swap = items;
    items = spare;
    spare = swap;
  }
  *sorted = items;
  return usable;
}
