/* SPDX-License-Identifier: Apache-2.0 */
/* data: synthetic tokens and memory for them. */
#include <stdlib.h>
#include <string.h>

#include "bench.h"

static uint32_t next_random(uint64_t *state) {
  *state = *state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(*state >> 32);
}

void bench_fill_tokens(void *tokens, int32_t dtype, int64_t rows, int64_t dim) {
  const bool single = dtype == TAILCUT_F32;
  const uint32_t sign = single ? 0x80000000u : 0x8000u;
  const uint32_t mask = single ? 0x807FFFFFu : dtype == TAILCUT_F16 ? 0x83FFu : 0x807Fu;
  const uint32_t base = single ? 0x3F000000u : dtype == TAILCUT_F16 ? 0x3800u : 0x3F00u;
  uint32_t *wide = tokens;
  uint16_t *narrow = tokens;
  uint64_t state = 1;
  for (int64_t r = 0; r < rows; r++) {
    const bool head = r > 0 && next_random(&state) % 4 == 0;
    uint64_t agree = 0; /* a bit per element: two random ones or-ed agree in three of four */
    for (int64_t d = 0; d < dim; d++) {
      if (head && d % 32 == 0) agree = next_random(&state) | next_random(&state);
      uint32_t v = (next_random(&state) & mask) | base;
      if (head && (agree >> d % 32 & 1)) v = (v & ~sign) | ((single ? wide[d] : narrow[d]) & sign);
      if (single) {
        wide[r * dim + d] = v;
      } else {
        narrow[r * dim + d] = (uint16_t)v;
      }
    }
  }
}

void *bench_allocate(size_t bytes) {
  const size_t rounded = (bytes + 4095) / 4096 * 4096 + 4096;
  void *p = aligned_alloc(4096, rounded);
  if (p == NULL) {
    exit(cli_fail(CLI_FAILED, "bench: cannot allocate %zu bytes", rounded));
  }
  memset(p, 0xA5, rounded); /* touched, and poison for outputs */
  return p;
}
