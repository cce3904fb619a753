/* SPDX-License-Identifier: Apache-2.0 */
/*
 * select: the k best-ranked candidates of a group without the order of all of them.
 *
 * Strategy: candidates are counted in bins of their curve values p, best first, with sums. What
 * lies in the bins before a rank is then known, and only bins in which something is to be decided
 * are sorted (rank.c). TOPK, RATIO, THRESHOLD: the bin of rank k. OTSU over the whole curve: the
 * bins that can hold its winner, found by groups of STEP bins, then one by one; every rank in them
 * is tried as detect.c does it. Where that is all of them, all are sorted: as before, a little
 * later.
 *
 * Bound of a bin (OTSU): let it hold ranks k in (a, b], values in (low, low + w]. d(k) = N * (sum
 * of the head) - k * total never bends upwards, so it is under its tangents at the bin's ends. They
 * meet at k* = a + x, x = sum(p - low) / w, at the height U = d(a) + x * (N * (low + w) - total).
 * Along a line B = d^2 / (k * (N - k)) bends upwards, so on each tangent its greatest values are at
 * the ends: B(a), B(b) and B* = U^2 / (k* * (N - k*)). A bin is left out when B* is below the best
 * value known by SLACK at least and B(b) is below it. B(a) is the bin before's: behind a, B has
 * fallen towards B* by at least SLACK's share of 2^-20, far more than a rounding.
 *
 * Precision: offsets, counts, sums and d are integers. Limits: LEAST finite scores or more, at a
 * scale that fp32 has; others are sorted. A cut of 576: 1.6 us instead of 6.9 (Zen 3 at 2.4 GHz).
 */
#include "../detectors.h"
#include "cpu.h"

enum {
  LEAST = 64,
  LEAST_BINS = 64,
  STEP = 8,
  MOST_PIECES = TC_MOST_BINS / STEP,
  COUNT_SHIFT = 42 /* the sum is below: of 2^20 offsets up to 2^21 */
};
#define SLACK (1.0 + 0x1p-20)

int tc_can_select(const tailcut_rule *rule, int32_t m) {
  if (m < LEAST || rule->spread != 0.0) return 0;
  switch (rule->detector) {
    case TAILCUT_OTSU:
      return rule->search_lo == 0.0 && rule->search_hi == 1.0;
    case TAILCUT_THRESHOLD:
    case TAILCUT_TOPK:
    case TAILCUT_RATIO:
      return 1;
    default:
      return 0;
  }
}

/* Two tables: neighbours often share a bin, and the second would wait for the first. */
static void count_offsets(tc_bins *bins) {
  uint64_t even[TC_MOST_BINS], odd[TC_MOST_BINS], sum = 0;
  const int32_t m = bins->m, shift = bins->shift;
  memset(even, 0, sizeof *even * (size_t)bins->count);
  memset(odd, 0, sizeof *odd * (size_t)bins->count);
  for (int32_t i = 0; i + 1 < m; i += 2) {
    const uint32_t x = (uint32_t)bins->offset[i], y = (uint32_t)bins->offset[i + 1];
    even[x >> shift] += (uint64_t)1 << COUNT_SHIFT | x;
    odd[y >> shift] += (uint64_t)1 << COUNT_SHIFT | y;
  }
  if (m % 2 != 0) {
    const uint32_t x = (uint32_t)bins->offset[m - 1];
    even[x >> shift] += (uint64_t)1 << COUNT_SHIFT | x;
  }
  for (int32_t j = 0; j < bins->count; j++) {
    bins->before[j] = sum;
    sum += even[j] + odd[j];
  }
  bins->before[bins->count] = sum;
}

int tc_bins_fill(tc_bins *bins, const tailcut_rule *rule) {
  const int32_t m = bins->m;
  float least, greatest;
  if (!bins->kernels->extremes(bins->scores, m, &least, &greatest)) return 0;
  const float largest = greatest > -least ? greatest : -least;
  const int automatic = rule->scale == TAILCUT_SCALE_AUTO;
  const int32_t e = automatic ? tc_scale_exponent(tc_float_bits(largest) & 0x7FFFFFFFu) : 0;
  if (e < 30 - 127) return 0; /* the factor is too large for fp32 */
  const double factor = tc_scale_factor(e);
  const int32_t top = tc_curve_value(tc_quantise(greatest, factor));
  const int32_t range = top - tc_curve_value(tc_quantise(least, factor));
  int32_t limit = LEAST_BINS;
  while (limit < TC_MOST_BINS && limit < m / 8) limit *= 2;
  bins->kernels->offsets(bins->scores, m, (float)factor, top, bins->offset);
  bins->shift = 0;
  while (range >> bins->shift >= limit) bins->shift++;
  bins->count = (range >> bins->shift) + 1;
  count_offsets(bins);
  bins->first = bins->end = -1;
  return 1;
}

/* What ranks before bin j: how many, and the sum of their offsets. */
static int32_t head_of(const tc_bins *bins, int32_t j) {
  return (int32_t)(bins->before[j] >> COUNT_SHIFT);
}
static int64_t sum_of(const tc_bins *bins, int32_t j) {
  return (int64_t)(bins->before[j] & (((uint64_t)1 << COUNT_SHIFT) - 1));
}

/* Sorts bins [from, to); `chosen` becomes what ranks before them. */
static void sort_bins(tc_bins *bins, int32_t from, int32_t to) {
  const int32_t m = bins->m, words = (int32_t)tc_words(m);
  uint32_t best = TC_KEY_NAN, worst = 0;
  int32_t count = 0;
  bins->kernels->below(bins->offset, m, from << bins->shift, bins->chosen);
  bins->kernels->below(bins->offset, m, to << bins->shift, bins->other);
  for (int32_t w = 0; w < words; w++) {
    for (uint64_t bits = bins->other[w] & ~bins->chosen[w]; bits != 0; bits &= bits - 1) {
      const uint32_t i = (uint32_t)(64 * w + tc_lowest_bit(bits));
      const uint32_t key = tc_key(bins->scores[i]);
      best = key < best ? key : best;
      worst = key > worst ? key : worst;
      bins->items[count++] = (uint64_t)key << 32 | i;
    }
  }
  bins->sorted = tc_sort(bins->items, bins->spare, count, count, best, worst);
  bins->first = head_of(bins, from);
  bins->end = bins->first + count;
}

/* From bins [*from, *to), looked at `step` at a time, to those that can have a value of *best or
 * more, which becomes the greatest at an end of one. */
static void narrow(const tc_bins *bins, int32_t step, int32_t *from, int32_t *to, double *best) {
  const int64_t n = bins->m, total = sum_of(bins, bins->count);
  const double number = (double)n, per_width = 1.0 / (double)((int64_t)step << bins->shift);
  const int32_t begin = *from, end = *to, pieces = (end - begin + step - 1) / step;
  double heads[MOST_PIECES + 1], sums[MOST_PIECES + 1];
  double ds[MOST_PIECES + 1], values[MOST_PIECES + 1];
  for (int32_t i = 0; i <= pieces; i++) {
    const int32_t j = i < pieces ? begin + i * step : end;
    const int64_t k = head_of(bins, j), sum = sum_of(bins, j);
    heads[i] = (double)k;
    sums[i] = (double)sum;
    ds[i] = (double)(k * total - n * sum);                         /* of offsets: the same d */
    values[i] = tc_otsu_ratio(ds[i], heads[i], number - heads[i]); /* 0 / 0 at the curve's ends */
    *best = values[i] > *best ? values[i] : *best;
  }
  *from = end;
  for (int32_t i = 0; i < pieces; i++) {
    const int32_t j = begin + i * step;
    const double start = (double)((int64_t)j << bins->shift), c = heads[i + 1] - heads[i];
    const double s = (sums[i + 1] - sums[i] - c * start) * per_width; /* (n - k*) - (n - b) */
    const double u = ds[i] + (c - s) * ((double)total - number * start);
    const double room = (heads[i] + (c - s)) * (number - heads[i + 1] + s);
    if (!(u * u * SLACK > *best * room || values[i + 1] == *best)) continue;
    *from = j < *from ? j : *from;
    *to = j + step < end ? j + step : end;
  }
}

/* Leaves the bins sorted that were looked at: most often they hold the last one kept. */
static int32_t otsu(tc_bins *bins) {
  const int64_t n = bins->m, total = sum_of(bins, bins->count);
  double best = 0.0;
  int32_t from = 0, to = bins->count, k = bins->m;
  narrow(bins, STEP, &from, &to, &best);
  narrow(bins, 1 + (to - from) / (MOST_PIECES + 1), &from, &to, &best);
  sort_bins(bins, from, to);
  int64_t d = bins->first * total - n * sum_of(bins, from);
  double head = (double)bins->first, tail = (double)(n - bins->first);
  best = 0.0;
  for (int32_t r = bins->first; r < bins->end && r < bins->m - 1; r++) {
    d += total - n * bins->offset[(uint32_t)bins->sorted[r - bins->first]];
    head += 1.0;
    tail -= 1.0;
    const double value = tc_otsu_ratio((double)d, head, tail);
    if (value > best) {
      best = value;
      k = r + 1;
    }
  }
  return k;
}

static int32_t threshold(const tc_bins *bins, float tau) {
  int32_t k = 0;
  for (int32_t i = 0; i < bins->m; i++) k += bins->scores[i] >= tau;
  return k;
}

int32_t tc_bins_detect(tc_bins *bins, const tailcut_rule *rule, int32_t group) {
  int32_t k;
  switch (rule->detector) {
    case TAILCUT_OTSU:
      return otsu(bins);
    case TAILCUT_THRESHOLD:
      return threshold(bins, tc_ordered(rule->tau, rule->order == TAILCUT_LOW));
    case TAILCUT_RATIO:
      return tc_ratio_count(rule, bins->m);
    default:
      k = tc_topk_count(rule, group);
      return k < bins->m ? k : bins->m;
  }
}

void tc_bins_choose(tc_bins *bins, int32_t k) {
  if (k < bins->first || k > bins->end) {
    int32_t j = 0;
    while (head_of(bins, j) < k) j++;
    sort_bins(bins, head_of(bins, j) == k ? j : j - 1, j);
  }
  for (int32_t r = bins->first; r < k; r++) {
    tc_set_bit(bins->chosen, (int32_t)(uint32_t)bins->sorted[r - bins->first]);
  }
}
