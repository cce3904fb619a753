/* SPDX-License-Identifier: Apache-2.0 */
/* kernel_table: every SIMD level that this machine has against the scalar one, bit for bit: dtypes,
 * dims around each kernel's widths, row counts, strides of any sign, odd addresses, special values;
 * rows end where readable memory ends. A header, so that it also serves programs that link nothing
 * of the test library. */
#ifndef TAILCUT_TESTS_KERNEL_TABLE_H_
#define TAILCUT_TESTS_KERNEL_TABLE_H_

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "cpu/kernels.h"

enum { KT_ROWS = 35, KT_BYTES = 1 << 20 };

typedef struct kt_state {
  uint64_t random;
  char *end; /* of the readable bytes, KT_BYTES of them */
  long checks, failures;
} kt_state;

static inline uint64_t kt_next(kt_state *t) {
  uint64_t z = (t->random += 0x9E3779B97F4A7C15u);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  return z ^ (z >> 29);
}

static inline int kt_init(kt_state *t, uint64_t seed) {
  char *p =
      mmap(NULL, KT_BYTES + 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  memset(t, 0, sizeof *t);
  t->random = seed;
  if ((void *)p == MAP_FAILED || mprotect(p + KT_BYTES, 65536, PROT_NONE) != 0) return 0;
  t->end = p + KT_BYTES;
  return 1;
}

/* Element i of an array at p: kind 0 ordinary numbers, 1 near the ends of the range, 2 any bits; in
 * fp32 also 3, numbers around 2^-30, the last digit of a curve. */
static inline void kt_fill(kt_state *t, char *p, int64_t n, int dtype, int kind) {
  static const uint32_t lowest[3] = {0x2C00, 0x3D80, 0x3D800000},
                        span[3] = {0x1800, 0x300, 0x3000000};
  for (int64_t i = 0; i < n; i++) {
    const uint64_t r = kt_next(t);
    uint32_t bits = lowest[dtype] + (uint32_t)(r >> 8) % span[dtype];
    if (kind == 1) bits = (uint32_t)(r >> 8) % span[dtype];
    if (r & 1) bits |= dtype == 2 ? 0x80000000u : 0x8000u;
    if (kind == 2) bits = (uint32_t)(r >> 16);
    if (kind == 3) bits = (bits & 0x80000000u) | (0x2F000000u + (uint32_t)(r >> 8) % 0x3000000u);
    if (dtype == 2) {
      memcpy(p + 4 * i, &bits, 4);
    } else {
      const uint16_t half = (uint16_t)bits;
      memcpy(p + 2 * i, &half, 2);
    }
  }
}

/* Equal bits, or both NaN. */
static inline void kt_same(kt_state *t, const float *a, const float *b, int64_t n,
                           const tc_kernels *level, const char *what, int dtype, int64_t dim) {
  for (int64_t i = 0; i < n; i++) {
    t->checks++;
    if (memcmp(a + i, b + i, 4) == 0 || (a[i] != a[i] && b[i] != b[i])) continue;
    if (t->failures++ < 20) {
      printf("%s %s dtype %d dim %d: element %d is %a, expected %a\n", level->name, what, dtype,
             (int)dim, (int)i, (double)a[i], (double)b[i]);
    }
  }
}

/* One combination of everything on one level. */
static inline void kt_score(kt_state *t, const tc_kernels *level, int dtype, int32_t dim,
                            int64_t rows, int64_t extra, int kind, int64_t shift) {
  const int64_t size = dtype == 2 ? 4 : 2, gap = extra == -2 ? 1 : extra < 0 ? 0 : extra * size;
  const int64_t stride = dim * size + gap, bytes = (rows - 1) * stride + dim * size;
  static float ref[8192], want[2][KT_ROWS], got[2][KT_ROWS];
  char *first = t->end - bytes - shift;
  int64_t step = stride;
  kt_fill(t, (char *)ref, dim, 2, kind == 2 ? 2 : 0);
  for (int64_t r = 0; r < rows; r++) kt_fill(t, first + r * stride, dim, dtype, kind);
  if (extra == -1) { /* backwards */
    first += (rows - 1) * stride;
    step = -stride;
  }
  tc_kernels_scalar.score_rows[dtype](first, step, rows, dim, ref, want[0], want[1]);
  memset(got, 0x5A, sizeof got);
  level->score_rows[dtype](first, step, rows, dim, ref, got[0], got[1]);
  kt_same(t, got[0], want[0], rows, level, "dots", dtype, dim);
  kt_same(t, got[1], want[1], rows, level, "squares", dtype, dim);
  memset(got, 0x5A, sizeof got);
  level->score_rows[dtype](first, step, rows, dim, ref, got[0], NULL);
  level->score_rows[dtype](first, step, rows, dim, NULL, NULL, got[1]);
  kt_same(t, got[0], want[0], rows, level, "dots alone", dtype, dim);
  kt_same(t, got[1], want[1], rows, level, "squares alone", dtype, dim);
  for (int64_t r = rows; r < KT_ROWS; r++) {
    uint32_t bits[2];
    memcpy(&bits[0], &got[0][r], 4);
    memcpy(&bits[1], &got[1][r], 4);
    if (bits[0] != 0x5A5A5A5Au || bits[1] != 0x5A5A5A5Au) t->failures++;
  }
  static float a[8192], b[8192];
  const float w = kind == 2 ? ref[0] : 0.37f;
  memcpy(a, ref, sizeof a);
  memcpy(b, ref, sizeof b);
  tc_kernels_scalar.accumulate[dtype](first, w, a, dim);
  level->accumulate[dtype](first, w, b, dim);
  kt_same(t, b, a, dim + 1 < 8192 ? dim + 1 : dim, level, "accumulate", dtype, dim);
  tc_kernels_scalar.widen[dtype](first, a, dim);
  level->widen[dtype](first, b, dim);
  kt_same(t, b, a, dim, level, "widen", dtype, dim);
}

static inline void kt_equal(kt_state *t, const void *a, const void *b, size_t bytes,
                            const tc_kernels *level, const char *what, int32_t n) {
  t->checks++;
  if (memcmp(a, b, bytes) == 0) return;
  if (t->failures++ < 20) printf("%s %s of %d differs\n", level->name, what, (int)n);
}

/* The loops of the cut on n scores that end where readable memory ends. */
static inline void kt_cut(kt_state *t, const tc_kernels *level, int32_t n, int kind, int e) {
  enum { MOST = 640 };
  const size_t bytes = 4 * (size_t)n, whole = ((size_t)n + 63) / 64 * 256;
  float *scores = (float *)(void *)(t->end - bytes), ends[2][2];
  static float cosines[2][MOST], squares[MOST];
  static int32_t offsets[2][MOST];
  static uint64_t bits[2][MOST / 64 + 1];
  const float factor = kind == 0 ? 0x1p30f : ldexpf(1.0f, e), norm = kind == 2 ? -1.0f : 0.7f;
  kt_fill(t, (char *)scores, n, 2, kind);
  kt_fill(t, (char *)squares, n, 2, kind);
  for (int32_t i = 0; i < n && kind < 2; i++)
    squares[i] = squares[i] < 0 ? -squares[i] : squares[i];
  memcpy(cosines[0], scores, bytes);
  memcpy(cosines[1], scores, bytes);
  const int nan = tc_kernels_scalar.cosines(cosines[0], squares, n, norm);
  const int same = level->cosines(cosines[1], squares, n, norm) == nan;
  kt_equal(t, cosines[1], cosines[0], same ? bytes : 0, level, "cosines", n);
  if (!same) t->failures++;
  memset(ends, 0, sizeof ends);
  const int finite = tc_kernels_scalar.extremes(scores, n, &ends[0][0], &ends[0][1]);
  if (level->extremes(scores, n, &ends[1][0], &ends[1][1]) != finite) t->failures++;
  if (!finite) return;
  if (ends[0][0] != ends[1][0] || ends[0][1] != ends[1][1]) t->failures++;
  tc_kernels_scalar.offsets(scores, n, factor, 1 << 20, offsets[0]);
  level->offsets(scores, n, factor, 1 << 20, offsets[1]);
  kt_equal(t, offsets[1], offsets[0], whole, level, "offsets", n);
  for (int i = 0; i < 3; i++) {
    const int32_t limit = i == 0 ? 0 : i == 1 ? 1 << 21 : offsets[0][n / 2];
    tc_kernels_scalar.below(offsets[0], n, limit, bits[0]);
    level->below(offsets[0], n, limit, bits[1]);
    kt_equal(t, bits[1], bits[0], whole / 32, level, "below", n);
  }
}

/* NOVELTY's loops on the n rows of a window, some of them blank. */
static inline void kt_novelty(kt_state *t, const tc_kernels *level, int dtype, int32_t dim,
                              int32_t n, int kind) {
  enum { MOST = 256 };
  const int64_t stride = dim * (dtype == 2 ? 4 : 2);
  const int32_t pitch = (n + 15) & ~15;
  static int16_t q[MOST * TC_NOVELTY_CHUNK];
  static int32_t g[2][MOST * MOST], nearest[MOST], values[2][MOST], greatest[2];
  static float factors[MOST], lengths[MOST];
  char *first = t->end - n * stride;
  for (int32_t i = 0; i < n; i++) {
    const int blank = kind == 1 && i % 5 == 2, e = (int)(kt_next(t) % 12) - 6;
    kt_fill(t, first + i * stride, dim, dtype, blank ? 2 : 0);
    factors[i] = blank ? 0.0f : ldexpf(1.0f, dtype == 2 ? e + 5 : e + 4);
  }
  for (int l = 0; l < 2; l++) {
    const tc_kernels *k = l ? level : &tc_kernels_scalar;
    memset(q, 0x5A, sizeof q);
    memset(g[l], 0x5A, sizeof g[l]);
    k->grams[dtype](first, stride, n, dim, factors, q, g[l], pitch);
  }
  for (int32_t i = 0; i < n; i++) {
    kt_equal(t, g[1] + i * pitch, g[0] + i * pitch, 4 * (size_t)n, level, "grams", dim);
  }
  for (int32_t i = n * pitch; i < MOST * MOST; i++) t->failures += g[1][i] != 0x5A5A5A5A;
  for (int32_t i = 0; i < pitch; i++) {
    lengths[i] = i < n && g[0][i * pitch + i] > 0 ? sqrtf((float)g[0][i * pitch + i]) : 1.0f;
  }
  for (int l = 0; l < 2; l++) {
    const tc_kernels *k = l ? level : &tc_kernels_scalar;
    k->words(g[l], pitch, n, lengths);
    memset(values[l], 0, sizeof values[l]);
    greatest[l] = k->farthest(g[l], pitch, n / 3, n - 1, nearest, values[l]);
  }
  kt_equal(t, g[1], g[0], 4 * (size_t)(n * pitch), level, "words", dim);
  kt_equal(t, values[1], values[0], sizeof values[0], level, "farthest", n);
  if (greatest[0] != greatest[1]) t->failures++;
}

/* n bytes that end where readable memory ends; the next ones are nowhere. */
static inline void kt_copy(kt_state *t, const tc_kernels *level, int32_t n) {
  enum { MOST = 9000 };
  static char to[2][MOST + 8];
  char *from = t->end - n;
  for (int32_t d = 0; d < n; d++) from[d] = (char)kt_next(t);
  for (int at = 0; at < 3; at++) {
    for (int l = 0; l < 2; l++) {
      memset(to[l], 0x5A, sizeof to[l]);
      (l ? level : &tc_kernels_scalar)->copy(to[l] + at, from, n, NULL, at ? from : t->end);
    }
    kt_equal(t, to[1], to[0], sizeof to[0], level, "copy", n);
  }
}

/* The mean of `count` rows of n elements, written over the one that ends where memory ends. */
static inline void kt_merge(kt_state *t, const tc_kernels *level, int dtype, int32_t n,
                            int32_t count, int kind) {
  enum { MOST = 9 };
  const int64_t bytes = n * (dtype == 2 ? 4 : 2);
  const char *rows[MOST];
  float weights[MOST], total = 0.0f;
  static char want[1 << 15];
  for (int32_t i = 0; i < count; i++) {
    char *row = t->end - (count - i) * bytes;
    kt_fill(t, row, n, dtype, kind);
    rows[i] = row;
    weights[i] = i == 0 ? 1.0f : (float)(kt_next(t) % 4096) * 0x1p-12f;
    total += weights[i];
  }
  char *dst = t->end - bytes;
  memset(want, 0x5A, sizeof want);
  tc_kernels_scalar.merge[dtype](rows, weights, count, total, want, n);
  level->merge[dtype](rows, weights, count, total, dst, n);
  kt_equal(t, dst, want, (size_t)bytes, level, "merge", n);
}

/* One level. `most`: dims above it are left out (slow emulators). */
static inline void kt_level(kt_state *t, const tc_kernels *level, int32_t most) {
  static const int32_t big[] = {254, 255, 256, 257, 258,  263,  264,  384,  500,  511,  512, 513,
                                520, 768, 777, 999, 1000, 1024, 1025, 1152, 1280, 4096, 4099};
  static const int64_t row_counts[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 33};
  static const int64_t extras[] = {0, 1, -1, 8, -2, 3};
  for (int32_t n = 1; n <= 600; n += n < 150 ? 1 : 29) {
    for (int kind = 0; kind < 4; kind++) kt_cut(t, level, n, kind, n * 7 % 226 - 98);
  }
  for (int32_t n = 0; n <= 9000; n += n < 300 ? 1 : 290) kt_copy(t, level, n);
  for (int dtype = 0; dtype < 3; dtype++) {
    for (int32_t n = 1; n <= 256; n += n < 35 ? 1 : 51) kt_novelty(t, level, dtype, 37, n, n % 2);
    for (int32_t dim = 1; dim <= 1040; dim += dim < 70 ? 1 : 97) {
      kt_novelty(t, level, dtype, dim, 2 + dim % 9, dim % 2);
    }
    kt_novelty(t, level, dtype, TC_NOVELTY_CHUNK, 6, 0);
    kt_novelty(t, level, dtype, 2 * TC_NOVELTY_CHUNK + 1, 6, 0);
    for (int32_t n = 1; n <= 4099; n += n < 300 ? 1 : 257) {
      kt_merge(t, level, dtype, n, 1 + n % 9, n % 3);
    }
    int turn = 0;
    for (int32_t dim = 1; dim <= 140; dim++) {
      for (int kind = 0; kind < 3; kind++, turn++) {
        kt_score(t, level, dtype, dim, row_counts[turn % 12], extras[turn / 3 % 6], kind,
                 turn % 5 == 4 ? turn % 7 : 0);
      }
    }
    for (size_t i = 0; i < sizeof big / sizeof big[0] && big[i] <= most; i++) {
      for (int kind = 0; kind < 3; kind++, turn++) {
        kt_score(t, level, dtype, big[i], row_counts[turn % 12], extras[turn / 3 % 6], kind,
                 turn % 4 == 3 ? turn % 9 : 0);
      }
    }
  }
}

/* Levels above scalar that were compared. */
static inline int kt_run(kt_state *t, int32_t most) {
  int levels = 0;
  for (int l = TC_SIMD_SCALAR + 1; l < TC_SIMD_LEVELS; l++) {
    const tc_kernels *level = tc_kernels_for((tc_simd)l);
    if (level == NULL) continue;
    levels++;
    kt_level(t, level, most);
  }
  return levels;
}

#endif /* TAILCUT_TESTS_KERNEL_TABLE_H_ */
