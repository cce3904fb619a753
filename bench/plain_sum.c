/* SPDX-License-Identifier: Apache-2.0 */
/*
 * plain_sum: the yardstick of memory-bound steps: how fast this machine reads.
 *
 * The buffer's 64-bit words are added up in ascending addresses, by eight accumulators of the
 * widest registers, so that nothing but the reading costs time; every thread takes one contiguous
 * share. Bytes past the last whole 512 are left out.
 */
#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#endif

#include "bench.h"

enum { STEP = 512 };

static uint64_t sum_words(const char *p, size_t bytes) {
  const uint64_t *w = (const uint64_t *)(const void *)p;
  uint64_t a[16] = {0}, sum = 0;
  for (size_t i = 0; i < bytes / STEP * (STEP / 8); i += 16) {
    for (int e = 0; e < 16; e++) a[e] += w[i + (size_t)e];
  }
  for (int e = 0; e < 16; e++) sum += a[e];
  return sum;
}

#if defined(__x86_64__) && defined(__GNUC__)
__attribute__((target("avx2"))) static uint64_t sum_avx2(const char *p, size_t bytes) {
  __m256i a[8];
  uint64_t lanes[4], sum = 0;
  for (int r = 0; r < 8; r++) a[r] = _mm256_setzero_si256();
  for (size_t i = 0; i < bytes / STEP * STEP; i += 256) {
    for (int r = 0; r < 8; r++) {
      const __m256i v = _mm256_loadu_si256((const void *)(p + i + 32 * (size_t)r));
      a[r] = _mm256_add_epi64(a[r], v);
    }
  }
  for (int r = 1; r < 8; r++) a[0] = _mm256_add_epi64(a[0], a[r]);
  _mm256_storeu_si256((void *)lanes, a[0]);
  for (int e = 0; e < 4; e++) sum += lanes[e];
  return sum;
}

__attribute__((target("avx512f"))) static uint64_t sum_avx512(const char *p, size_t bytes) {
  __m512i a[8];
  uint64_t lanes[8], sum = 0;
  for (int r = 0; r < 8; r++) a[r] = _mm512_setzero_si512();
  for (size_t i = 0; i < bytes / STEP * STEP; i += 512) {
    for (int r = 0; r < 8; r++) {
      a[r] = _mm512_add_epi64(a[r], _mm512_loadu_si512((const void *)(p + i + 64 * (size_t)r)));
    }
  }
  for (int r = 1; r < 8; r++) a[0] = _mm512_add_epi64(a[0], a[r]);
  _mm512_storeu_si512((void *)lanes, a[0]);
  for (int e = 0; e < 8; e++) sum += lanes[e];
  return sum;
}
#endif

static uint64_t sum_share(const char *p, size_t bytes) {
#if defined(__x86_64__) && defined(__GNUC__)
  if (__builtin_cpu_supports("avx512f")) return sum_avx512(p, bytes);
  if (__builtin_cpu_supports("avx2")) return sum_avx2(p, bytes);
#endif
  return sum_words(p, bytes);
}

typedef struct job {
  const char *data;
  size_t bytes;
  _Atomic uint64_t sum;
} job;

static void sum_in_team(void *of, tc_team team) {
  job *j = of;
  const size_t size = (size_t)team.size, id = (size_t)team.id, steps = j->bytes / STEP;
  const size_t from = steps * id / size * STEP, to = steps * (id + 1) / size * STEP;
  j->sum += sum_share(j->data + from, to - from);
}

uint64_t bench_plain_sum(const void *data, size_t bytes, tc_pool *pool) {
  job j = {data, bytes, 0};
  tc_team_run(pool, sum_in_team, &j, (int64_t)bytes / 25);
  return j.sum;
}
