/* SPDX-License-Identifier: Apache-2.0 */
/* data: random and spiked inputs, reproducible from a seed. */
#ifndef TAILCUT_TESTS_DATA_H_
#define TAILCUT_TESTS_DATA_H_

#include <stddef.h>
#include <stdint.h>

typedef struct tt_random {
  uint64_t state;
} tt_random;
uint64_t tt_next(tt_random *random);
int32_t tt_below(tt_random *random, int32_t n); /* 0..n-1; n >= 1 */
double tt_uniform(tt_random *random);           /* [0,1) */
double tt_normal(tt_random *random);            /* mean 0, deviation 1 */

/* fp32 to a tailcut_dtype at index i of an array, rounded to nearest even, and back, by integer
 * arithmetic alone (independent of the library and of the floating-point mode). */
void tt_put(void *array, int32_t dtype, size_t i, float value);
float tt_get(const void *array, int32_t dtype, size_t i);
size_t tt_size(int32_t dtype);

typedef enum tt_spikes {
  TT_PLAIN = 0,
  TT_TIES = 1,       /* many equal rows */
  TT_HUGE = 2,       /* norms that overflow fp32 */
  TT_TINY = 4,       /* denormals; norms that underflow */
  TT_NOT_FINITE = 8, /* some NaN and infinite elements */
  TT_ZERO_ROWS = 16,
  TT_MASSIVE = 32 /* a channel far above all others in some rows, and in all */
} tt_spikes;

/* rows x dim tokens that share a direction to a random degree, so that the sorted cosines form a
 * curve; rows are `stride` elements apart and what lies between them is NaN. */
void tt_tokens(tt_random *random, void *tokens, int32_t dtype, int64_t rows, int32_t dim,
               int64_t stride, unsigned spikes);

#endif /* TAILCUT_TESTS_DATA_H_ */
