/* SPDX-License-Identifier: Apache-2.0 */
/* cuda: what the files of the CUDA backend share: the device's state, how segments, rows and a
 * selection look to a kernel, the workspace, one launcher per step. Read by C and by CUDA C++.
 *
 * A launcher only enqueues on its stream (it allocates nothing, synchronises with nothing) and
 * returns the launch's error. Everything a kernel needs to know about sizes is a host bound; true
 * lengths, counts and offsets are read on the device. */
#ifndef TAILCUT_CUDA_H_
#define TAILCUT_CUDA_H_

#include <cuda_runtime_api.h>

#include "curve.h"
#include "internal.h"

#if defined(__cplusplus)
extern "C" {
#endif

#define TC_BLOCK 64            /* rows per block of the mean direction: METHOD.md */
#define TC_CHUNK_SEGMENTS 1024 /* segments per launch where a launch keeps state per segment */
#define TC_ROWS_PER_LAUNCH 128 /* row arrays per launch of compact */

/* The state of a handle: one device. */
typedef struct tc_cuda {
  int device;
  int capability; /* 90 for sm_90 */
  int sms;
  int smem_block;  /* most shared memory of a block, opted in */
  int cluster_max; /* largest cluster the kernels may use: 1 (none), 8 or 16 */
  int fuses;       /* prune_visual may go in one launch (tests turn it off) */
} tc_cuda;

/* The segments of a batch. start, n and tiles are resolve's results, or NULL: then a kernel works
 * them out itself (segments.cuh), which is cheap for uniform batches and for few segments. */
typedef struct tc_segments {
  int32_t segments, max_tokens, prefix_rows;
  int64_t total; /* row numbers in use, uniform or ragged */
  const int32_t *cu_seqlens;
  const int32_t *lengths;
  const int32_t *start; /* [segments] first row; 0 where invalid */
  const int32_t *n;     /* [segments] candidates (with roles: rows); 0 where invalid; then their
                           sum at n[segments] */
  const int32_t *tiles; /* [segments + 1] prefix sums of ceil(n / TC_BLOCK) */
  const int32_t *flags; /* [segments] with the INVALID bit */
} tc_segments;

/* What stays in a workspace from call to call, at its beginning whatever the call: all zero when a
 * call starts, left all zero by every call (tailcut_workspace_init makes it so first). */
typedef struct tc_cuda_lasting {
  uint32_t ticket;  /* fused, pair: images or blocks taken so far */
  uint32_t arrived; /* fused, pair, cut: clusters or blocks that are done */
  uint32_t unused[62];
  uint64_t prefix[TC_CHUNK_SEGMENTS]; /* fused, pair: look-back over kept counts */
  uint32_t blocks[TC_CHUNK_SEGMENTS]; /* direction: blocks of a segment that have arrived */
} tc_cuda_lasting;

/* The workspace of a call, laid out by layout.c. Pointers a call kind does not use are NULL. */
typedef struct tc_cuda_space {
  tc_cuda_lasting *lasting;
  int32_t *start, *n, *tiles; /* resolve's results */
  int32_t *flags;             /* [segments] on their way */
  int32_t *resolved_flags;    /* [segments] resolve's, where `flags` is another's */
  float *scores;              /* by row number */
  int32_t *kept;              /* LOCAL kept indices by row number */
  int32_t *counts;            /* [segments] */
  int32_t *new_cu;            /* [segments + 1] */
  float *directions;          /* [directions_group, dim] */
  float *block_sums;          /* [blocks of a group's rows, dim] */
  int32_t directions_group; /* segments whose directions are held at a time, <= TC_CHUNK_SEGMENTS */
  char *cut;                /* scratch of the cut, tc_cuda_cut_scratch bytes */
} tc_cuda_space;

/* device.c. A CUDA error as a status whose message says what failed (OK for cudaSuccess). */
tailcut_status tc_cuda_status(cudaError_t error, const char *what);
tailcut_status tc_cuda_create(tailcut_handle handle, const tailcut_config *config);

/* ------------------------------------------------------------------ launchers, one per step -- */

/* resolve.cu: start, n (and their sum), tiles and flags (0 or INVALID, or'ed with the BAD_REFERENCE and INVALID
 * bits of input_flags [segments] where given; INVALID there makes n 0) of every segment. */
cudaError_t tc_cuda_resolve(const tc_cuda *device, const tc_segments *segments,
                            const int32_t *input_flags, int32_t *start, int32_t *n, int32_t *tiles,
                            int32_t *flags, cudaStream_t stream);

/* score.cu: scores of segments [first, first + count), by row number, and flags |= NAN,
 * BAD_REFERENCE (atomically; flags may be NULL). source GIVEN (data of segment b at data +
 * (b - first) * segment_stride for MEAN's directions, b * segment_stride otherwise: `data` is
 * already moved by the caller) or ROW. Nothing is written for rows that are no candidates.
 * stores_flags: flags need not be set before; BAD_REFERENCE or 0 is stored for every segment that
 * has candidates. */
cudaError_t tc_cuda_score(const tc_cuda *device, const tc_segments *segments,
                          const tailcut_tokens *tokens, const tailcut_reference *reference,
                          int32_t first, int32_t count, float *scores, int32_t *flags,
                          int stores_flags, cudaStream_t stream);

/* direction.cu: mean directions of segments [first, first + count), count <= TC_CHUNK_SEGMENTS,
 * into out [count, dim]; one launch. roles (by row number, or NULL: every candidate) say which rows
 * count: those that are queries (tc_is_query). */
cudaError_t tc_cuda_direction(const tc_cuda *device, const tc_segments *segments,
                              const tailcut_tokens *tokens, const uint8_t *roles, int32_t first,
                              int32_t count, const tc_cuda_space *space, float *out,
                              cudaStream_t stream);

/* cut.cu: counts, kept (LOCAL), flags, curve, ranks of every segment. NULL members of `out` are not
 * wanted; counts and kept are always given. kept holds segment-local indices by row number.
 * Resolved segments: out->flags comes in from resolve and score and goes out whole. Segments that are
 * not (at most TC_CUT_SHORT candidates each): what input_flags, if not NULL, say is honoured. */
#define TC_CUT_SHORT 4096 /* rows of a segment that one block cuts in shared memory */
typedef struct tc_cuda_cut_out {
  int32_t *counts, *kept, *flags;
  float *curve;
  int32_t *ranks;
  int32_t *host_counts;
} tc_cuda_cut_out;
size_t tc_cuda_cut_scratch(const tc_cuda *device, const tailcut_limits *limits);
cudaError_t tc_cuda_cut(const tc_cuda *device, const tc_segments *segments, const float *scores,
                        const uint8_t *roles, const int32_t *input_flags, const tailcut_rule *rule,
                        const tc_cuda_cut_out *out, char *scratch, cudaStream_t stream);
/* pack.cu: new_cu [segments + 1] = prefix sums of counts; then, where packed is given, kept indices
 * from LOCAL to PACKED placement. */
cudaError_t tc_cuda_scan(const tc_cuda *device, int32_t segments, const int32_t *counts,
                         int32_t *new_cu, cudaStream_t stream);
cudaError_t tc_cuda_pack(const tc_cuda *device, const tc_segments *segments, const int32_t *kept,
                         const int32_t *counts, const int32_t *new_cu, int32_t *packed,
                         cudaStream_t stream);

/* compact.cu: moves the kept rows of all arrays (rows: num_rows whole descriptors with explicit
 * strides on the host). new_cu may be NULL when nothing is PACKED. */
cudaError_t tc_cuda_compact(const tc_cuda *device, const tc_segments *segments, const int32_t *kept,
                            int32_t kept_placement, const int32_t *counts, const int32_t *new_cu,
                            const tailcut_rows *rows, int32_t num_rows, cudaStream_t stream);

/* What the forms of prune_visual that cut and move in one launch (fused.cu, pair.cu) leave behind.
 * Pointers that are NULL are not wanted, but counts are. */
typedef struct tc_cuda_prune_out {
  tc_cuda_cut_out cut;           /* kept: LOCAL */
  int32_t *kept_packed, *new_cu; /* new_cu is needed where lasting is */
  tc_cuda_lasting *lasting;      /* NULL: nothing depends on the counts of earlier segments. Else a
                                    launch has at most TC_CHUNK_SEGMENTS of them */
} tc_cuda_prune_out;

/* pair.cu: the second launch of a prune_visual that is made of two, where there are no clusters:
 * cut and compact of images of at most TC_PAIR_TOKENS candidates, after tc_cuda_score has stored
 * `flags`. */
#define TC_PAIR_TOKENS 2048
#define TC_PAIR_ARRAYS 8
typedef struct tc_pair_plan {
  tc_segments segments;
  int32_t first, count; /* segments of this launch */
  const float *scores;
  const int32_t *flags;
  tailcut_rule rule;
  tc_cuda_prune_out out;
  int32_t num_rows; /* <= TC_PAIR_ARRAYS */
  tailcut_rows rows[TC_PAIR_ARRAYS];
} tc_pair_plan;
cudaError_t tc_cuda_pair(const tc_cuda *device, const tc_pair_plan *plan, cudaStream_t stream);

/* <step>.cu: tc_cuda_load_<step> loads every kernel of the step (lazy loading would allocate in a run
 * call), sets attributes, lowers cluster_max to what fits the device. device.c calls them all. */
#define TC_CUDA_STEPS(X) X(resolve) X(score) X(direction) X(cut) X(pack) X(compact) X(pair) X(fused)
#define TC_CUDA_LOAD(step) cudaError_t tc_cuda_load_##step(tc_cuda *device);
TC_CUDA_STEPS(TC_CUDA_LOAD)
#undef TC_CUDA_LOAD

#if defined(__cplusplus)
}
#endif

#endif /* TAILCUT_CUDA_H_ */
