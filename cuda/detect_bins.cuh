/* SPDX-License-Identifier: Apache-2.0 */
/*
 * detect_bins: k from the bins of an unsorted curve: OTSU, CHORD, IQR, MEAN, MASS.
 *
 * Formulas: curve.h; what must be compared is what detect.cuh compares, rank by rank, but only ranks
 * that can win are looked at.
 *   OTSU  value B(k) = d(k)^2 / (k (N-k)), d(k) = N S_k - k S. Within a run of equal p, d is affine and
 *         B strictly convex (B'' >= 8 B / N^2, far above rounding): only the run's ends, or those the
 *         search range cuts, can be best. Bound of a bin with k in [a,b], p in [pl,ph]: d is concave
 *         with d(0) = d(N) = 0, the tangents of slopes N ph - S at a and N pl - S at b meet at
 *         k* = a + (sum of the offsets)/1023 at height U = d(a) + (k* - a)(N ph - S), and L^2/(k(N-k))
 *         is convex for affine L >= 0, so B <= max(B(a), B(b), U^2 / (k* (N - k*))), here with room
 *         for rounding. A bin stays when its bound reaches the best B at a bin's end.
 *   CHORD distance |v(r)|, v affine and strictly falling within a run of equal p: run ends again.
 *         Bounds of a bin from its p in [pl,ph] at its first and last rank; a bin stays when its upper
 *         bound reaches the best lower one.
 *   MASS  the share is reached in one bin, then in one run of equal p, then at a rank: by bisection.
 *   IQR   the bins of the two quartiles; MEAN: sums only. Then values above the fence are counted.
 * Where k ends a run of equal p, as it mostly does, the cut is also a value: what stays is what has
 * that p or a greater one, and nobody needs to look for the k-th row.
 * Precision: exact, the same bits as the CPU.
 */
#ifndef TAILCUT_DETECT_BINS_CUH_
#define TAILCUT_DETECT_BINS_CUH_

#include "bins.cuh"

#define TC_NO_VALUE INT32_MIN

/* A gang at work on one segment by bins. */
template <class Gang>
struct tc_bins_job {
  Gang &gang;
  tc_bins &bins;
  const tc_rows_view &rows;
  uint32_t *values;
  int32_t slots;
  double factor;
  int32_t n, all; /* N', N */
  tc_range range;
  int32_t p_first, p_last;
  int32_t least; /* result: the k best are those with p >= least; or TC_NO_VALUE */

  __device__ int32_t p(uint32_t key) const {
    return tc_curve_value(tc_quantise(tc_key_score(key), factor));
  }
  template <class Visit>
  __device__ void visit(int32_t marked, Visit f) {
    tc_bins_visit(
        gang, bins, rows, marked, values, slots, [this](uint32_t key) { return p(key); }, f);
  }
  /* k of the best rank that any thread has found; its note is `least`. */
  __device__ int32_t chosen(tc_best best) {
    best = gang.reduce(best, tc_best_none(), tc_best_join());
    if (best.value == 0) return all;
    least = best.note;
    return best.rank + 1;
  }
  /* Number of values that are `from` or greater. */
  __device__ int32_t count(int32_t from) {
    int32_t k = 0;
    rows.each([&](uint32_t key) { k += key < TC_KEY_UNUSABLE && p(key) >= from; });
    least = from;
    return gang.sum(k);
  }
};

/* The best of a block's threads, in each of them. */
template <class T, class Op>
__device__ T tc_block_best(T v, T *warp_bests, Op op) {
  v = tc_warp_reduce(v, op);
  if ((threadIdx.x & 31) == 0) warp_bests[threadIdx.x >> 5] = v;
  __syncthreads();
  for (int w = 0; w < TC_LONG_WARPS; w++) v = op(v, warp_bests[w]);
  __syncthreads();
  return v;
}

struct tc_larger {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a > b ? a : b;
  }
};

template <class Gang>
__device__ int32_t tc_bins_otsu(tc_bins_job<Gang> &job) {
  const tc_bins &bins = job.bins;
  const tc_range range = job.range;
  const int64_t n = job.n, total = bins.sum_before(TC_BINS);
  tc_best best = tc_best_none();
  const auto offer = [&](int64_t k, int64_t sum, int32_t least) {
    const double v = tc_otsu_value(n, k, sum, total);
    if (v > 0.0) best.offer((uint64_t)__double_as_longlong(v), (int32_t)k - 1, least);
  };
  for (int j = (int)threadIdx.x; j < TC_BINS; j += TC_LONG_THREADS) {
    const int32_t a = bins.count_before(j), b = bins.count_before(j + 1);
    if (a < b && b > range.begin && b <= range.end)
      offer(b, bins.sum_before(j + 1), tc_bins::least(j));
  }
  const uint64_t floor_bits =
      tc_block_best(best.value, job.bins.warp_sums, tc_larger()); /* the same in every block */
  const double floor = __longlong_as_double((int64_t)floor_bits);
  const int32_t marked = tc_bins_mark(job.bins, [&](int32_t j) {
    const int64_t a = bins.count_before(j), b = bins.count_before(j + 1);
    /* A bin of one score has been looked at: its end. */
    if (b - a < 2 || b <= range.begin || a >= range.end) return false;
    const int64_t sa = bins.sum_before(j), least = tc_bins::least(j);
    const int64_t offsets = bins.sum_before(j + 1) - sa - (b - a) * least;
    const double x = (double)offsets / 1023.0, k = (double)a + x;
    const double u = fabs((double)(n * sa - a * total) + x * (double)(n * (least + 1023) - total)) +
                     4096.0; /* > rounding */
    if (u * u * (1.0 + 0x1p-40) >= floor * (k * ((double)n - k))) return true;
    /* An end that the search range cuts off has not been looked at, but bounds its bin. */
    const double da = fabs((double)(n * sa - a * total));
    const double db = fabs((double)(n * bins.sum_before(j + 1) - b * total));
    return da * da * (1.0 + 0x1p-40) >= floor * ((double)a * (double)(n - a)) ||
           db * db * (1.0 + 0x1p-40) >= floor * ((double)b * (double)(n - b));
  });
  job.visit(marked, [&](int32_t a, int32_t b, int64_t sum, int32_t p) {
    const int32_t lo = max(a, range.begin) + 1, hi = min(b, range.end);
    if (lo > hi) return;
    offer(lo, sum + (int64_t)(lo - a) * p, lo == b ? p : TC_NO_VALUE);
    offer(hi, sum + (int64_t)(hi - a) * p, hi == b ? p : TC_NO_VALUE);
  });
  return job.chosen(best);
}

template <class Gang>
__device__ int32_t tc_bins_chord(tc_bins_job<Gang> &job) {
  const tc_bins &bins = job.bins;
  const tc_range range = job.range;
  const int64_t n = job.n, p0 = job.p_first, last = job.p_last;
  /* v(r) of a value p at rank r, with its sign. */
  const auto signed_value = [=](int64_t r, int64_t p) {
    return (p0 - p) * (n - 1) - r * (p0 - last);
  };
  struct limits {
    int64_t a, b, pl, ph; /* ranks [a, b) of the bin within the range */
  };
  const auto limits_of = [&](int32_t j) {
    limits l = {bins.count_before(j), bins.count_before(j + 1), tc_bins::least(j), 0};
    l.ph = l.pl + 1023;
    if (l.b - l.a == 1) l.pl = l.ph = bins.sum_before(j + 1) - bins.sum_before(j);
    l.pl = max(l.pl, last);
    l.ph = min(l.ph, p0);
    l.a = max(l.a, (int64_t)range.begin);
    l.b = min(l.b, (int64_t)range.end);
    return l;
  };
  int64_t floor = 0;
  for (int j = (int)threadIdx.x; j < TC_BINS; j += TC_LONG_THREADS) {
    if (bins.count_before(j) == bins.count_before(j + 1)) continue;
    const limits l = limits_of(j);
    if (l.a >= l.b) continue;
    floor = max(floor, max(signed_value(l.a, l.ph), -signed_value(l.a, l.pl)));
    floor = max(floor, max(signed_value(l.b - 1, l.ph), -signed_value(l.b - 1, l.pl)));
  }
  floor = (int64_t)tc_block_best((uint64_t)floor, job.bins.warp_sums, tc_larger());
  const int32_t marked = tc_bins_mark(job.bins, [&](int32_t j) {
    const limits l = limits_of(j);
    return l.a < l.b && max(signed_value(l.a, l.pl), -signed_value(l.b - 1, l.ph)) >= floor;
  });
  tc_best best = tc_best_none();
  job.visit(marked, [&](int32_t a, int32_t b, int64_t, int32_t p) {
    const int32_t lo = max(a, range.begin), hi = min(b, range.end) - 1;
    if (lo > hi) return;
    const int64_t at_lo = tc_chord_value(n, lo, p0, p, last);
    const int64_t at_hi = tc_chord_value(n, hi, p0, p, last);
    if (at_lo > 0) best.offer((uint64_t)at_lo, lo, lo == b - 1 ? p : TC_NO_VALUE);
    if (at_hi > 0) best.offer((uint64_t)at_hi, hi, hi == b - 1 ? p : TC_NO_VALUE);
  });
  return job.chosen(best);
}

template <class Gang>
__device__ int32_t tc_bins_mass(tc_bins_job<Gang> &job, double share) {
  const tc_bins &bins = job.bins;
  const int64_t n = job.n, last = job.p_last, weight = bins.sum_before(TC_BINS) - n * last;
  if (weight == 0) return job.all;
  const double wanted = share * (double)weight;
  const auto reached = [=](int64_t sum, int64_t k) { return (double)(sum - k * last) >= wanted; };
  const int32_t marked = tc_bins_mark(job.bins, [&](int32_t j) {
    return reached(bins.sum_before(j + 1), bins.count_before(j + 1)) &&
           !reached(bins.sum_before(j), bins.count_before(j));
  });
  tc_best best = tc_best_none(); /* one thread finds the rank */
  job.visit(marked, [&](int32_t a, int32_t b, int64_t sum, int32_t p) {
    if (reached(sum, a) || !reached(sum + (int64_t)(b - a) * p, b)) return;
    int32_t lo = a, hi = b; /* not reached at lo, reached at hi */
    while (hi - lo > 1) {
      const int32_t mid = lo + (hi - lo) / 2;
      if (reached(sum + (int64_t)(mid - a) * p, mid)) {
        hi = mid;
      } else {
        lo = mid;
      }
    }
    best.offer(1, hi - 1, hi == b ? p : TC_NO_VALUE);
  });
  return job.chosen(best);
}

template <class Gang>
__device__ int32_t tc_bins_iqr(tc_bins_job<Gang> &job) {
  const tc_bins &bins = job.bins;
  const int32_t r3 = (job.n - 1) / 4, r1 = (int32_t)(3 * (int64_t)(job.n - 1) / 4);
  const auto holds = [](int32_t a, int32_t b, int32_t r) { return a <= r && r < b; };
  const int32_t marked = tc_bins_mark(job.bins, [&](int32_t j) {
    const int32_t a = bins.count_before(j), b = bins.count_before(j + 1);
    return holds(a, b, r3) || holds(a, b, r1);
  });
  tc_moments q = {0, 0}; /* Q3, Q1: one thread each knows them */
  job.visit(marked, [&](int32_t a, int32_t b, int64_t, int32_t p) {
    if (holds(a, b, r3)) q.s1 = p;
    if (holds(a, b, r1)) q.s2 = p;
  });
  q = job.gang.sum(q);
  return job.count((int32_t)(tc_iqr_fence(q.s1, q.s2) >> 1) + 1); /* 2p > fence */
}

template <class Gang>
__device__ int32_t tc_bins_mean(tc_bins_job<Gang> &job, double lambda) {
  int64_t s2 = 0;
  job.rows.each([&](uint32_t key) {
    const int64_t p = key < TC_KEY_UNUSABLE ? job.p(key) : 0;
    s2 += p * p;
  });
  s2 = job.gang.sum(s2);
  const double t = tc_mean_threshold(job.n, job.bins.sum_before(TC_BINS), s2, lambda);
  /* p > t for integers; no p is beyond +-2^20. */
  return job.count((int32_t)floor(fmin(fmax(t, -1048577.0), 1048576.0)) + 1);
}

/* k before the clamps, as tc_detect_curve: DETECTOR is OTSU, CHORD, IQR, MEAN or MASS, the rule's. Called
 * by the whole gang. */
template <int DETECTOR, class Gang>
__device__ int32_t tc_detect_bins(tc_bins_job<Gang> &job, const tailcut_rule &rule) {
  tc_bins_fill(job.gang, job.bins, job.rows, [&](uint32_t key) { return job.p(key); });
  if constexpr (DETECTOR == TAILCUT_CHORD) return tc_bins_chord(job);
  if constexpr (DETECTOR == TAILCUT_IQR) return tc_bins_iqr(job);
  if constexpr (DETECTOR == TAILCUT_MEAN) return tc_bins_mean(job, rule.lambda);
  if constexpr (DETECTOR == TAILCUT_MASS) return tc_bins_mass(job, rule.mass);
  if constexpr (DETECTOR == TAILCUT_OTSU) return tc_bins_otsu(job);
}

#endif /* TAILCUT_DETECT_BINS_CUH_ */
