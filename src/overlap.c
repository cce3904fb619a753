/* SPDX-License-Identifier: Apache-2.0 */
/*
 * overlap: see overlap.h. Arrays of up to 2^62 bytes are compared by their strides alone, which
 * decides every layout that nests (an outer stride steps over all that lies inside it); for others
 * the answer is that they overlap.
 */
#include "overlap.h"

int64_t tc_times(int64_t a, int64_t b) {
  int64_t product;
  return __builtin_mul_overflow(a, b, &product) ? INT64_MAX : product;
}

int64_t tc_plus(int64_t a, int64_t b) {
  int64_t sum;
  return __builtin_add_overflow(a, b, &sum) ? INT64_MAX : sum;
}

/* Bytes that the dimensions with a stride below `outer` span. */
static int64_t span(const tc_side *side, int64_t outer) {
  int64_t bytes = side->part_bytes;
  for (int d = 0; d < TC_DIMS; d++) {
    if (side->dim[d].count > 1 && side->dim[d].stride < outer) {
      bytes = tc_plus(bytes, tc_times(side->dim[d].count - 1, side->dim[d].stride));
    }
  }
  return bytes;
}

int64_t tc_side_bytes(const tc_side *side) {
  for (int d = 0; d < TC_DIMS; d++) {
    if (side->dim[d].count <= 0) return 0;
  }
  int64_t bytes = side->part_bytes; /* a stride of INT64_MAX counts here */
  for (int d = 0; d < TC_DIMS; d++) {
    bytes = tc_plus(bytes, tc_times(side->dim[d].count - 1, side->dim[d].stride));
  }
  return bytes > INT64_MAX / 2 ? -1 : bytes;
}

/* Pieces are apart where each stride reaches over all that the smaller ones span. Of equal strides
 * the later dimension is the one to blame. */
int tc_side_on_itself(const tc_side *side, int64_t *least) {
  int order[TC_DIMS] = {TC_PARTS, TC_ROWS, TC_SEGMENTS};
  int64_t reach = side->part_bytes;
  for (int i = 1; i < TC_DIMS; i++) {
    for (int j = i; j > 0; j--) {
      if (side->dim[order[j - 1]].stride <= side->dim[order[j]].stride) break;
      const int swap = order[j];
      order[j] = order[j - 1];
      order[j - 1] = swap;
    }
  }
  for (int i = 0; i < TC_DIMS; i++) {
    const int d = order[i];
    if (side->dim[d].count <= 1) continue;
    if (side->dim[d].stride < reach) {
      *least = reach;
      return d;
    }
    reach = tc_plus(reach, tc_times(side->dim[d].count - 1, side->dim[d].stride));
  }
  return -1;
}

static int64_t gcd(int64_t a, int64_t b) {
  while (b != 0) {
    const int64_t rest = a % b;
    a = b;
    b = rest;
  }
  return a;
}

/* Takes the strides from `outer` up to be steps from one block of memory to another: all of them
 * are multiples of one number, modulo which either side is one run of bytes. Whether those are
 * apart. */
static int interleaves(const tc_side *a, const tc_side *b, int64_t outer) {
  const uint64_t a_bytes = (uint64_t)span(a, outer), b_bytes = (uint64_t)span(b, outer);
  int64_t unit = 0;
  for (int d = 0; d < TC_DIMS; d++) {
    if (a->dim[d].count > 1 && a->dim[d].stride >= outer) unit = gcd(unit, a->dim[d].stride);
    if (b->dim[d].count > 1 && b->dim[d].stride >= outer) unit = gcd(unit, b->dim[d].stride);
  }
  if (unit == 0) return 0;
  const uint64_t modulus = (uint64_t)unit;
  const uint64_t ahead = b->base >= a->base ? (b->base - a->base) % modulus
                                            : modulus - 1 - (a->base - b->base - 1) % modulus;
  return ahead >= a_bytes && ahead + b_bytes <= modulus;
}

int tc_sides_apart(const tc_side *a, const tc_side *b) {
  const uint64_t a_bytes = (uint64_t)tc_side_bytes(a), b_bytes = (uint64_t)tc_side_bytes(b);
  if (a_bytes == 0 || b_bytes == 0) return 1;
  if (a->base + a_bytes <= b->base || b->base + b_bytes <= a->base) return 1;
  for (int d = 0; d < TC_DIMS; d++) {
    if (a->dim[d].count > 1 && interleaves(a, b, a->dim[d].stride)) return 1;
    if (b->dim[d].count > 1 && interleaves(a, b, b->dim[d].stride)) return 1;
  }
  return 0;
}
