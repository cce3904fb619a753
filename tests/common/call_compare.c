/* SPDX-License-Identifier: Apache-2.0 */
/* call_compare: what a call must have made, by the CPU backend, and what differs from that. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "call_parts.h"
#include "reference.h"

static const char *const names[] = {
    "shape",  "tokens", "reference",   "q",           "k",     "roles",
    "scores", "flags",  "direction",   "counts",      "kept",  "new_cu_seqlens",
    "flags",  "curve",  "ranks",       "host_counts", "mask",  "group_counts",
    "groups", "slots",  "frequencies", "sizes in",    "sizes", "joins"};

static void expect_on_cpu(tt_call *c, int32_t kind) {
  if (tt_call_on(c, c->cpu, kind, HOST, c->cpu_workspace, NULL) == TAILCUT_OK) return;
  fprintf(stderr, "%s on the CPU: %s\n", c->row->name, tailcut_last_error());
  abort();
}

/* Takes the device's scores where they are near the CPU's. */
static void take_scores(tt_call *c) {
  const buffer *b = &c->buffers[SCORES];
  float *want = b->side[HOST], *got = tt_host(b->bytes);
  const double tol = dtype_of(c->row) == TAILCUT_F32 ? 2e-5 : 4e-3; /* both may be off */
  tt_download(c->backend, got, b->side[DEVICE], b->bytes);
  for (int64_t i = 0; i < c->total; i++) {
    const double size = fmax(fabs((double)want[i]), 0x1p-7);
    const double scale = c->row->policy == TAILCUT_ATTENTION ? size : 1.0;
    if (memcmp(&got[i], &want[i], 4) == 0) continue;
    if (fabs((double)got[i] - (double)want[i]) <= tol * scale) continue;
    if (c->failed++ == 0) {
      printf("FAILED %s on %s: score %d is %g, expected %g\n", c->row->name, c->backend->name,
             (int)i, (double)got[i], (double)want[i]);
    }
  }
  memcpy(want, got, b->bytes);
  free(got);
}

void tt_call_expect(tt_call *c) {
  c->failed = 0;
  if (!c->row->policy) {
    expect_on_cpu(c, c->row->kind);
    return;
  }
  expect_on_cpu(c, TAILCUT_CALL_RELEVANCE);
  take_scores(c);
  if (c->row->kind == TAILCUT_CALL_RELEVANCE) return;
  expect_on_cpu(c, TAILCUT_CALL_CUT);
  expect_on_cpu(c, TAILCUT_CALL_COMPACT);
}
/* Which bytes of a row array's destination are unspecified. */
static uint8_t *open_bytes(const tt_call *c, int i, size_t bytes) {
  const tailcut_batch batch = tt_call_batch(c, HOST);
  tailcut_rows r = tt_call_array(c, i, HOST);
  uint8_t *open = tt_host(bytes), *scratch = tt_host(bytes);
  const int64_t gap = c->in_place[i] == 2 ? gap_of(c) : 0;
  if (r.src == r.dst) r.src = scratch + gap;
  r.dst = scratch + gap;
  r.rotation = NULL;                           /* keys that turn are no more open than others, */
  r.flags &= ~TAILCUT_ROWS_MERGE, r.dtype = 0; /* nor rows that are merged */
  ref_compact(&batch, c->buffers[KEPT].side[HOST], c->row->packed ? TAILCUT_PACKED : TAILCUT_LOCAL,
              c->buffers[COUNTS].side[HOST], c->buffers[NEW_CU].side[HOST], &r, open + gap, NULL);
  free(scratch);
  return open;
}

int tt_call_compare(tt_call *c) {
  int differ = c->failed;
  for (int id = 0; id < BUFFERS; id++) {
    const buffer *b = &c->buffers[id];
    if (b->side[DEVICE] == NULL) continue;
    uint8_t *got = tt_host(b->bytes), *open = NULL;
    const uint8_t *want = b->side[HOST];
    if (id == HOST_COUNTS) {
      memcpy(got, b->side[DEVICE], b->bytes);
    } else {
      tt_download(c->backend, got, b->side[DEVICE], b->bytes);
    }
    const int same = memcmp(got, want, b->bytes) == 0;
    for (int i = 0; !same && i < c->num_rows; i++) {
      if (id == (c->in_place[i] == 2 ? MATRIX : ARRAYS + 2 * i + 1)) {
        open = open_bytes(c, i, b->bytes);
      }
    }
    for (size_t i = 0; !same && i < b->bytes; i++) {
      if (got[i] == want[i] || (open != NULL && open[i])) continue;
      printf("FAILED %s on %s: %s%s differs at byte %zu of %zu: %02x, expected %02x\n",
             c->row->name, c->backend->name, id < ARRAYS ? names[id] : "row array ",
             id < ARRAYS ? "" : (const char[]){(char)('0' + (id - ARRAYS) / 2), '\0'}, i, b->bytes,
             got[i], want[i]);
      differ++;
      break;
    }
    free(got);
    free(open);
  }
  return differ;
}

int64_t tt_call_moved(const tt_call *c, int64_t *kept) {
  const tailcut_batch batch = tt_call_batch(c, HOST);
  const int32_t *counts = c->buffers[COUNTS].side[HOST], *list = c->buffers[KEPT].side[HOST];
  int64_t moved = 0;
  *kept = 0;
  for (int32_t b = 0; counts != NULL && b < batch.segments; b++) {
    const ref_segment s = ref_segment_of(&batch, b);
    for (int32_t j = 0; j < counts[b]; j++) moved += list[s.start + j] + batch.prefix_rows != j;
    *kept += counts[b];
  }
  return moved;
}
