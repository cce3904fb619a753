/* SPDX-License-Identifier: Apache-2.0 */
/* calls: one run call with all its arguments, in host memory for the CPU backend and once more in a
 * device's memory, so that the same call can be made again and again on new contents in the same
 * places: what a captured graph and a counter of launches need. The CPU backend is the oracle. */
#ifndef TAILCUT_TESTS_CALLS_H_
#define TAILCUT_TESTS_CALLS_H_

#include "backends.h"
#include "cases.h"
#include "data.h"

/* Row arrays of a call. */
enum {
  TT_CALL_TOKENS = 1,      /* the scored matrix in place */
  TT_CALL_APART = 2,       /* the scored matrix, PACKED into other memory */
  TT_CALL_SMALL = 4,       /* 8 bytes a row in place, zero tail: rides along with the scored rows */
  TT_CALL_WIDE = 8,        /* twice the scored row, LOCAL to other memory: does not ride along */
  TT_CALL_SLOTS = 16,      /* through a slot table, in place: rides along */
  TT_CALL_POSITIONS = 32,  /* new positions: need no source, ride along */
  TT_CALL_TAIL = 64,       /* PACKED with a zero tail, 8 bytes a row: rides along */
  TT_CALL_WIDE_TAIL = 128, /* the same, twice the scored row: does not */
  TT_CALL_PLANES = 256     /* M-RoPE: 3 planes of positions, int64, in place */
};

typedef struct tt_call_row {
  const char *name;
  int32_t kind; /* tailcut_call */
  tt_layout layout;
  int32_t segments, max_tokens, dim;
  int32_t launches; /* kernels of one call */
  int32_t dtype;    /* default F16 */
  int32_t source;   /* tailcut_reference_source, default GIVEN; ROW has a CLS row */
  int32_t detector; /* default OTSU */
  double spread;
  int32_t gap;     /* uniform: a CLS row stands before each segment's rows and is the reference */
  int32_t packed;  /* kept indices PACKED */
  int32_t bare;    /* nothing but counts, and kept where they are PACKED */
  unsigned rows;   /* TT_CALL_ bits */
  int32_t chain;   /* kernels of one call where batches do not go in one launch. 0: as `launches` */
  int32_t replays; /* of a captured graph, default 50; -1: none */
  int32_t groups;  /* cut offsets, this many groups */
  int32_t layers;  /* K and V of so many layers in place: [T, H, d], 2 heads */
  int32_t policy;  /* of relevance, default MEAN_COSINE; others are not bare */
  int32_t turns;   /* their keys turn, from the positions that the call renumbers, where it does */
  int32_t texts;   /* a sequence's query rows behind its candidates; 0: any roles anywhere */
  int32_t window;  /* source NOVELTY: its window */
  int32_t merges;  /* the window in which dropped rows are merged into the kept ones, those of the
                      scored matrix, TT_CALL_APART and TT_CALL_WIDE; 0: they are lost */
} tt_call_row;

extern const tt_call_row tt_call_rows[];
extern const int tt_call_row_count;

/* The kernels of one call in a form of the backend. */
int32_t tt_call_launches(const tt_call_row *row, int form);

typedef struct tt_call tt_call;

/* Memory on both sides. tt_call_fill makes the contents, from a shape (lengths or offsets, invalid
 * ones among them) to the bytes that no call may touch, and uploads them. */
tt_call *tt_call_new(const tt_call_row *row, const tt_backend *backend);
void tt_call_free(tt_call *call);
void tt_call_fill(tt_call *call, tt_random *random);

/* Of a workspace for one row. */
tailcut_limits tt_call_limits(const tt_call_row *row);
/* On the device, and then on the CPU backend: where scores are only close the device's must be near
 * the CPU's, and all else is what the CPU makes of the device's. */
tailcut_status tt_call_run(const tt_call *call, tailcut_handle handle, tt_workspace workspace,
                           void *stream);
void tt_call_expect(tt_call *call);

/* The outputs and inputs that differ between the sides; each is printed. */
int tt_call_compare(tt_call *call);
/* After tt_call_expect, of LOCAL rows: how many are kept, how many of these change their place. */
int64_t tt_call_moved(const tt_call *call, int64_t *kept);

#endif /* TAILCUT_TESTS_CALLS_H_ */
