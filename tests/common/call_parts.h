/* SPDX-License-Identifier: Apache-2.0 */
/* call_parts: what a call of calls.h is made of, for the files that make it, fill it and compare it. */
#ifndef TAILCUT_TESTS_CALL_PARTS_H_
#define TAILCUT_TESTS_CALL_PARTS_H_

#include "calls.h"

/* The arrays of a call. */
enum {
  SHAPE,
  MATRIX,
  VECTOR,
  QUERIES,
  KEYS,
  ROLES,
  SCORES,
  FLAGS,
  DIRECTIONS,
  COUNTS,
  KEPT,
  NEW_CU,
  OUT_FLAGS,
  CURVE,
  RANKS,
  HOST_COUNTS,
  MASK,
  GROUP_COUNTS,
  GROUPS,
  SLOTS,
  FREQUENCIES,
  SIZES_IN,
  SIZES,
  JOINS,
  ARRAYS /* two for each row array: source and destination */
};
enum {
  MOST_LAYERS = 70,
  MOST_ROWS = 9 + 2 * MOST_LAYERS,
  BUFFERS = ARRAYS + 2 * MOST_ROWS,
  HOST = 0,
  DEVICE = 1
};

typedef struct buffer {
  void *side[2]; /* host, device; NULL: no such argument */
  size_t bytes;
} buffer;

struct tt_call {
  const tt_call_row *row;
  const tt_backend *backend;
  tailcut_handle cpu;
  tt_workspace cpu_workspace;
  buffer buffers[BUFFERS];
  tailcut_rows rows[MOST_ROWS]; /* without pointers */
  int in_place[MOST_ROWS];      /* 1: its own memory; 2: the matrix; 3: from the matrix */
  int32_t num_rows;
  int64_t total;
  int failed; /* the device's scores are far from the CPU's */
  int first_layer;
  int positions;                 /* 1 + the array of renumbered positions; 0: there is none */
  tailcut_rotation rotations[2]; /* host, device: of keys that turn */
};

enum { Q_HEADS = 4, K_HEADS = 2, HEAD_DIM = 16 };
enum { ROTARY_DIM = 12 };

static inline int32_t dtype_of(const tt_call_row *row) {
  return row->dtype ? row->dtype : TAILCUT_F16;
}
static inline int32_t size_of(const tt_call *c) { return (int32_t)tt_size(dtype_of(c->row)); }

/* Bytes before the first segment's rows, and from segment to segment, of the scored matrix. */
static inline int64_t gap_of(const tt_call *c) { return c->row->gap * c->row->dim * size_of(c); }
static inline int64_t pitch_of(const tt_call *c) {
  return (int64_t)(c->row->max_tokens + c->row->gap) * c->row->dim * size_of(c);
}

/* Its arguments on one side. */
tailcut_batch tt_call_batch(const tt_call *call, int side);
tailcut_rows tt_call_array(const tt_call *call, int i, int side);

/* The call, or the part of it that is of this kind. */
tailcut_status tt_call_on(const tt_call *call, tailcut_handle handle, int32_t kind, int side,
                          tt_workspace workspace, void *stream);

#endif /* TAILCUT_TESTS_CALL_PARTS_H_ */
