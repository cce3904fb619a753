/* SPDX-License-Identifier: Apache-2.0 */
/* tensor: an array of a server as its framework shows it, axes with a shape and strides, and what a
 * caller makes of these for tailcut_rows. Axes are letters:
 *   T  row: of its sequence where there is B, else row number of the batch
 *   B  sequence                    H  part: head, or plane of position ids
 *   P  page      S  row in a page  s  slot, where there are no pages
 *   2  K or V                      d  element of a head (of K, V, or both side by side) */
#ifndef TAILCUT_TESTS_TENSOR_H_
#define TAILCUT_TESTS_TENSOR_H_

#include <string.h>
#include <tailcut.h>

enum { TT_AXES = 6 };

typedef struct tt_tensor {
  const char *axes; /* in the order of the indices */
  int64_t shape[TT_AXES], stride[TT_AXES];
  int64_t size; /* bytes of an element */
} tt_tensor;

/* Indices by the letter of their axis. */
typedef struct tt_index {
  int64_t of[128];
} tt_index;

/* shape.of: the length of each axis; memory: the axes, the one that steps farthest first (`axes`
 * where the tensor is no view of another). */
static inline tt_tensor tt_tensor_of(const char *axes, const char *memory, const tt_index *shape,
                                     int64_t size) {
  tt_tensor t = {axes, {0}, {0}, size};
  int64_t step = 1;
  for (size_t i = strlen(memory); i-- > 0;) {
    const size_t a = (size_t)(strchr(axes, memory[i]) - axes);
    t.shape[a] = shape->of[(int)memory[i]];
    t.stride[a] = step;
    step *= t.shape[a];
  }
  return t;
}

static inline int64_t tt_tensor_bytes(const tt_tensor *t) {
  int64_t bytes = t->size;
  for (int i = 0; t->axes[i] != '\0'; i++) bytes *= t->shape[i];
  return bytes;
}

/* Length and stride in bytes of an axis: 1 and 0 where there is none. */
static inline int64_t tt_length(const tt_tensor *t, char axis) {
  const char *found = strchr(t->axes, axis);
  return found != NULL ? t->shape[found - t->axes] : 1;
}

static inline int64_t tt_stride(const tt_tensor *t, char axis) {
  const char *found = strchr(t->axes, axis);
  return found != NULL ? t->stride[found - t->axes] * t->size : 0;
}

/* Byte offset of an element. */
static inline int64_t tt_element(const tt_tensor *t, const tt_index *at) {
  int64_t offset = 0;
  for (int i = 0; t->axes[i] != '\0'; i++) offset += at->of[(int)t->axes[i]] * t->stride[i];
  return offset * t->size;
}

/* The descriptor, in place, of element 0..pieces-1 of what every head of a row holds, or of one of
 * `pieces` equal shares of it; `which` is that share and the index on axis 2. `slots`: the table.
 * merged: heads that lie one behind the other are one part. */
static inline tailcut_rows tt_describe(const tt_tensor *t, char *data, int64_t pieces,
                                       int64_t which, const void *slots, int merged) {
  tailcut_rows r = TAILCUT_ROWS_INITIALIZER;
  const int64_t share = tt_length(t, 'd') / pieces;
  const char row = strchr(t->axes, 'S') ? 'S' : strchr(t->axes, 's') ? 's' : 'T';
  r.src = r.dst = data + which * tt_stride(t, '2') + (pieces > 1 ? which * share * t->size : 0);
  r.part_bytes = share * t->size;
  r.parts = (int32_t)tt_length(t, 'H');
  r.src_part_stride = r.dst_part_stride = tt_stride(t, 'H');
  r.src_row_stride = r.dst_row_stride = tt_stride(t, row);
  r.src_segment_stride = r.dst_segment_stride = tt_stride(t, 'B');
  if (merged && r.src_part_stride == r.part_bytes) r.part_bytes *= r.parts, r.parts = 1;
  if (row == 'T') return r;
  r.src_slots = r.dst_slots = slots;
  if (row == 'S') r.page_rows = tt_length(t, 'S'), r.page_stride = tt_stride(t, 'P');
  return r;
}

#endif /* TAILCUT_TESTS_TENSOR_H_ */
