/* SPDX-License-Identifier: Apache-2.0 */
/* overlap: whether the pieces of a row array share bytes with each other or with another
 * array's. */
#ifndef TAILCUT_OVERLAP_H_
#define TAILCUT_OVERLAP_H_

#include <stdint.h>

enum { TC_PARTS = 0, TC_ROWS = 1, TC_SEGMENTS = 2, TC_DIMS = 3 };

/* One side of an array as bytes: base + part * p + row * r + segment * s + 0..part_bytes-1. Strides
 * are not negative. */
typedef struct tc_side {
  uintptr_t base;
  int64_t part_bytes;
  struct {
    int64_t count, stride;
  } dim[TC_DIMS];
} tc_side;

/* a * b and a + b of numbers that are not negative, at most INT64_MAX. */
int64_t tc_times(int64_t a, int64_t b);
int64_t tc_plus(int64_t a, int64_t b);

/* Bytes from the base to the end of the last piece, 0 where there is none, or -1 when that does not
 * fit in 62 bits. */
int64_t tc_side_bytes(const tc_side *side);

/* The dimension whose stride lays pieces of one array on each other, or -1; *least is then the
 * least stride that would not. */
int tc_side_on_itself(const tc_side *side, int64_t *least);

/* Whether two sides, whose bytes fit in 62 bits, share no byte. Never says so where they do. */
int tc_sides_apart(const tc_side *a, const tc_side *b);

#endif /* TAILCUT_OVERLAP_H_ */
