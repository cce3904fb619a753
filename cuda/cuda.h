/* SPDX-License-Identifier: Apache-2.0 */
/* cuda: what the files of the CUDA backend share: the device's state, how segments, rows and a
 * selection look to a kernel, the workspace, one launcher per step. Read by C and by CUDA C++.
 *
 * A launcher only enqueues on its chain (it allocates nothing, synchronises with nothing) and
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
  int smem_block; /* most shared memory of a block, opted in */
  int chains;     /* kernels of a call overlap (programmatic dependent launch) */
  int fuses;      /* batches may go in one launch (tests turn it off) */
} tc_cuda;

/* Where the kernels of a call go: on which stream, and whether one is behind another of the call
 * (common/launch.cuh). run.c sets `follows` behind each launch. */
typedef struct tc_chain {
  cudaStream_t stream;
  int follows;
} tc_chain;

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

/* The groups that are cut, where they are not the segments; segments are resolved then. */
typedef struct tc_groups {
  int32_t groups;         /* 0: every segment is one group */
  const int32_t *offsets; /* [groups + 1] the caller's */
  const int32_t *segment; /* [groups] resolve's: -1 without rows or in an invalid segment */
} tc_groups;

/* What stays in a workspace from call to call, at its beginning whatever the call: all zero when a
 * call starts, left all zero by every call (tailcut_workspace_init makes it so first). */
typedef struct tc_cuda_lasting {
  uint32_t ticket;  /* work taken so far, by kernels that hand it out */
  uint32_t left;    /* blocks that will take no more */
  uint32_t arrived; /* cut: groups that are done */
  uint32_t unused;
  uint64_t merge_ticket; /* as ticket, where there may be more than 2^32 of them */
  uint32_t long_ticket;  /* as ticket, taken while kernels before may still run */
  uint32_t stages[16];   /* the cut of long groups: blocks that have done their part of each */
  uint32_t unused_too[41];
  uint32_t blocks[TC_CHUNK_SEGMENTS]; /* of a segment, those that have arrived: blocks (direction,
                                         fused), or rows of its groups that are cut */
  uint32_t moved[TC_CHUNK_SEGMENTS];  /* fused: blocks of a segment that know what is kept */
} tc_cuda_lasting;

/* What a cut may say of 32 candidates of a segment: which of them stay (bit i: the i-th), and how
 * many of the segment's before them do. tc_mark_of (segments.cuh) says which entry. */
typedef struct tc_mark {
  uint32_t stay;
  int32_t before;
} tc_mark;

/* The workspace of a call, laid out by layout.c. Pointers a call kind does not use are NULL. */
typedef struct tc_cuda_space {
  tc_cuda_lasting *lasting;
  int32_t *start, *n, *tiles; /* resolve's results */
  int32_t *flags;             /* [segments] on their way */
  int32_t *group_segment;     /* [groups] resolve's */
  int32_t *group_counts;      /* [groups] */
  int32_t *group_kept;        /* kept indices by row number, before groups are joined */
  float *scores;              /* by row number */
  int32_t *kept;              /* LOCAL kept indices by row number */
  tc_mark *marks;             /* [rows / 32 + segments] of a cut that leaves them */
  int32_t *new_cu;            /* [segments + 1] */
  float *directions;          /* [directions_group, dim] */
  int32_t *queries;           /* [directions_group] rows that these are the means of */
  float *block_sums;          /* [blocks of a group's rows, dim] */
  int32_t directions_group; /* segments whose directions are held at a time, <= TC_CHUNK_SEGMENTS */
  char *relevance;          /* scratch of MAX_COSINE or ATTENTION, as much as the greater wants */
  int32_t *similarities;    /* [rows * window] tc_cuda_novelty's, for merging */
  char *novelty;            /* scratch of NOVELTY, tc_cuda_novelty_scratch bytes */
  char *merge;              /* scratch of merging, tc_cuda_merge_scratch bytes */
  char *cut;                /* scratch of the cut, tc_cuda_cut_scratch bytes */
  char *compact;            /* scratch of compact, tc_cuda_compact_scratch bytes */
} tc_cuda_space;

/* Takes `bytes` of memory from base; with base NULL only counts them. */
static inline void *tc_cuda_take(char *base, size_t *used, size_t bytes) {
  void *p = base ? base + *used : NULL;
  *used += (bytes + TAILCUT_WORKSPACE_ALIGNMENT - 1) & ~(size_t)(TAILCUT_WORKSPACE_ALIGNMENT - 1);
  return p;
}

/* The directions in a space as the reference of the rows they are the means of. */
static inline tailcut_reference tc_cuda_directions(const tc_cuda_space *space,
                                                   const tailcut_tokens *tokens) {
  tailcut_reference reference = TAILCUT_REFERENCE_INITIALIZER;
  reference.source = TAILCUT_REFERENCE_MEAN;
  reference.dtype = TAILCUT_F32;
  reference.data = space->directions;
  reference.segment_stride = tokens->dim;
  return reference;
}

/* device.c. A CUDA error as a status whose message says what failed (OK for cudaSuccess). */
tailcut_status tc_cuda_status(cudaError_t error, const char *what);
/* Makes the device the thread's; leave gives it back the one before. */
tailcut_status tc_cuda_enter(const tc_cuda *device, int *previous);
void tc_cuda_leave(const tc_cuda *device, int previous);
/* For the backend's table. */
tailcut_status tc_cuda_create(tailcut_handle handle, const tailcut_config *config);
tailcut_status tc_cuda_read(tailcut_handle handle, void *host, const void *device, size_t bytes,
                            void *stream);

/* ------------------------------------------------------------------ launchers, one per step -- */

/* segments.cu: start, n (and their sum), tiles and flags (0 or INVALID, or'ed with the
 * BAD_REFERENCE and INVALID bits of input_flags [segments] where given; INVALID there makes n 0)
 * of every segment; where the batch has groups, the segment of each into group_segment, and
 * segments whose ends are no offsets of groups are INVALID. */
cudaError_t tc_cuda_resolve(const tc_cuda *device, const tc_segments *segments,
                            const tc_groups *groups, const int32_t *input_flags,
                            const tc_cuda_space *space, int32_t *flags, const tc_chain *chain);

/* score.cu: scores of segments [first, first + count), by row number, and flags |= NAN,
 * BAD_REFERENCE (atomically; flags may be NULL). source GIVEN (data of segment b at data +
 * b * segment_stride), MEAN (directions: data + (b - first) * segment_stride), ROW or LAG.
 * Nothing is written for rows that are no candidates. stores_flags: flags need not be set
 * before; BAD_REFERENCE or 0 is stored for every segment that has candidates. */
cudaError_t tc_cuda_score(const tc_cuda *device, const tc_segments *segments,
                          const tailcut_tokens *tokens, const tailcut_reference *reference,
                          int32_t first, int32_t count, float *scores, int32_t *flags,
                          int stores_flags, const tc_chain *chain);

/* score.cu: MEAN_COSINE of segments [first, first + count), whose directions and queries are in
 * the space: a score for every row, NaN where it is no candidate (such a row is not read), and
 * flags |= NAN, BAD_REFERENCE (atomically; flags may be NULL). */
cudaError_t tc_cuda_mean_cosine(const tc_cuda *device, const tc_segments *segments,
                                const tailcut_tokens *tokens, const uint8_t *roles, int32_t first,
                                int32_t count, const tc_cuda_space *space, float *scores,
                                int32_t *flags, const tc_chain *chain);

/* What is still to be resolved: resolve's arguments but for the segments and the space. */
typedef struct tc_resolution {
  tc_groups groups;
  const int32_t *input_flags;
  int32_t *flags;
} tc_resolution;

/* direction.cu: mean directions of segments [first, first + count), count <= TC_CHUNK_SEGMENTS,
 * into out [count, dim]; one launch. roles (by row number, or NULL: every candidate) say which rows
 * count: those that are queries (tc_is_query); how many goes into the space's queries. flags of
 * the segments, where not NULL, are set to 0. resolution, where not NULL (all segments, none of
 * them resolved yet): what resolve does is done in the same launch, for those behind it. */
cudaError_t tc_cuda_direction(const tc_cuda *device, const tc_segments *segments,
                              const tailcut_tokens *tokens, const uint8_t *roles, int32_t first,
                              int32_t count, const tc_cuda_space *space, float *out, int32_t *flags,
                              const tc_resolution *resolution, const tc_chain *chain);

/* maxcos.cu, attention.cu: relevance by MAX_COSINE and by ATTENTION (options: whole, on the host).
 * Segments come resolved. scores: every row of a valid segment is written, NaN (TC_NAN_BITS) where
 * it is no candidate. flags [segments], never NULL and set before by resolve: NAN and BAD_REFERENCE
 * are or'ed in; a segment that is INVALID is left alone. scratch: bytes that nothing else in the
 * call touches and that need not be zero. */
size_t tc_cuda_maxcos_scratch(const tc_cuda *device, const tailcut_limits *limits);
cudaError_t tc_cuda_maxcos(const tc_cuda *device, const tc_segments *segments,
                           const tailcut_tokens *tokens, const uint8_t *roles, float *scores,
                           int32_t *flags, char *scratch, tc_cuda_lasting *lasting,
                           const tc_chain *chain);
size_t tc_cuda_attention_scratch(const tc_cuda *device, const tailcut_limits *limits);
cudaError_t tc_cuda_attention(const tc_cuda *device, const tc_segments *segments,
                              const uint8_t *roles, const tailcut_relevance_options *options,
                              float *scores, int32_t *flags, char *scratch,
                              tc_cuda_lasting *lasting, const tc_chain *chain);

/* novelty/: scores of NOVELTY, and the similarities that merging wants. similarities
 * [total * window]: at row number r and place j of r's window, r * window + j, is p_rj (METHOD.md),
 * TC_NO_SIMILARITY where r or the row at j is blank, or j is r itself; entries past the window's
 * length are unspecified. scores or similarities may be NULL: not wanted. flags and stores_flags as
 * tc_cuda_score's. window: 64, 128 or 256. scratch: bytes that nothing else in the call touches and
 * that need not be zero. */
#define TC_NO_SIMILARITY INT32_MIN
size_t tc_cuda_novelty_scratch(const tc_cuda *device, const tailcut_limits *limits);
cudaError_t tc_cuda_novelty(const tc_cuda *device, const tc_segments *segments,
                            const tc_groups *groups, const tailcut_tokens *tokens, int32_t window,
                            float *scores, int32_t *flags, int stores_flags, int32_t *similarities,
                            char *scratch, tc_cuda_lasting *lasting, const tc_chain *chain);

/* merge/: the kept lists of a call of tailcut_merge made sound: an entry that is not followed
 * becomes -1, so that compact follows the others and no more. In `tidy`, by row number, LOCAL
 * (TC_KEPT_TIDIED says so); where the results of candidates are, for tc_cuda_merge, in scratch. */
#define TC_KEPT_TIDIED 3
size_t tc_cuda_merge_scratch(const tc_cuda *device, const tailcut_limits *limits);
cudaError_t tc_cuda_merge_tidy(const tc_cuda *device, const tc_segments *segments,
                               const int32_t *kept, int32_t kept_placement, const int32_t *counts,
                               const int32_t *new_cu, const tailcut_limits *limits, int32_t *tidy,
                               char *scratch, const tc_chain *chain);

/* merge/: merges the dropped rows of arrays (num_rows whole descriptors) into the kept ones, and
 * writes sizes_out and joins_out of the options (whole). similarities: tc_cuda_novelty's, with
 * options.window. kept: LOCAL; a cut's lists are sound, those from outside are TIDIED. new_cu may
 * be NULL where nothing is PACKED. sizes_placement: of sizes_out. limits: what scratch was sized
 * by. */
typedef struct tc_merge_call {
  tc_segments segments;
  tc_groups groups;
  tailcut_merge_options options;
  tailcut_limits limits;
  const int32_t *similarities, *kept, *counts, *new_cu;
  int32_t tidied, sizes_placement;
  char *scratch;
  tc_cuda_lasting *lasting;
} tc_merge_call;
cudaError_t tc_cuda_merge(const tc_cuda *device, const tc_merge_call *call,
                          const tailcut_rows *rows, int32_t num_rows, const tc_chain *chain);

/* cut.cu: what a cut reports of every segment (and group). Members that are NULL are not wanted;
 * counts and kept are always given. kept: LOCAL, segment-local indices by row number. */
#define TC_CUT_SHORT 8192 /* candidates (with roles: rows) that one block cuts */
typedef struct tc_cuda_cut_out {
  int32_t *counts, *kept, *flags, *new_cu;
  float *curve;
  int32_t *ranks;
  int32_t *host_counts;
  uint8_t *mask;
  int32_t *group_counts;
  tc_mark *marks;  /* by short cuts of segments only, */
  int32_t no_list; /* which then need not write kept */
} tc_cuda_cut_out;

/* A cut, and what its kernels get. in_flags [segments] or NULL: BAD_REFERENCE and INVALID bits that
 * are known (resolved segments: segments.flags; scored: score's, of segments that have
 * candidates and without INVALID). With groups, kernels put each group's kept indices where its
 * first candidate's would stand in group_kept, its count into group_counts, its flags into
 * group_flags [segments] (atomically); whoever is last joins a segment's (cut/cut.cuh). */
typedef struct tc_cut_args {
  tc_segments segments;
  tc_groups groups;
  const float *scores;
  const uint8_t *roles;
  const int32_t *in_flags;
  int32_t scored;
  tailcut_rule rule;
  tc_cuda_cut_out out;
  tc_cuda_lasting *lasting;
  int32_t *group_kept, *group_counts, *group_flags; /* with groups only */
  int32_t early; /* the next kernel may start at once: few blocks wait for it */
} tc_cut_args;
size_t tc_cuda_cut_scratch(const tc_cuda *device, const tailcut_limits *limits);
cudaError_t tc_cuda_cut(const tc_cuda *device, const tc_cut_args *args, char *scratch,
                        const tc_chain *chain);

/* What is kept of the segments, for compact. new_cu may be NULL where nothing is PACKED. placement:
 * of kept; TC_KEPT_TIDIED is a list of merge_tidy that was PACKED. marks: NULL, or what the call's
 * cut says in place of kept. */
typedef struct tc_lists {
  tc_segments s;
  const int32_t *kept, *counts, *new_cu;
  const tc_mark *marks;
  int32_t placement;
} tc_lists;

/* compact.cu: moves the kept rows of all arrays (rows: up to TC_ROWS_PER_LAUNCH whole descriptors
 * with explicit strides on the host). An array whose flags have TC_ROWS_KEPT has no source: element
 * j of its result is kept[j] (int32); of one with TC_ROWS_TAIL nothing but the tail is zeroed.
 * Arrays with a rotation leave their tails as they are, and go in calls before all others. scratch:
 * bytes that nothing else in the call touches and that need not be zero. */
#define TC_ROWS_KEPT (1 << 30)
#define TC_ROWS_TAIL (1 << 29)
#define TC_LONGEST_TURNED 16384 /* of arrays with a rotation: bytes of a part, */
#define TC_MOST_TURNED 65536    /* parts of a row */
size_t tc_cuda_compact_scratch(const tc_cuda *device, const tailcut_limits *limits);
cudaError_t tc_cuda_compact(const tc_cuda *device, const tc_lists *lists, const tailcut_rows *rows,
                            int32_t num_rows, char *scratch, tc_cuda_lasting *lasting,
                            const tc_chain *chain);
/* Whether compact had better move these arrays, all of them, by marks than by kept. */
int tc_cuda_compact_stages(const tc_cuda *device, const tc_segments *segments,
                           const tailcut_rows *rows, int32_t num_rows);

/* Whether a rule without spread is cut without sorting, where no curve and no ranks are asked
 * for. */
int tc_cuda_cuts_by_value(const tailcut_rule *rule);

/* fused.cu: score, cut and compact of a batch of images in one launch, or cut and compact in one
 * behind score: for calls that host/prune.c finds fit for it. */
#define TC_FUSED_ARRAYS 8
#define TC_FUSED_ROWS 2048 /* candidates of an image */
#define TC_FUSED_DIM 1024
typedef struct tc_fused_call {
  const tc_call *call;
  tc_cut_args cut; /* its scores and in_flags are what `scores` and `flags` will hold */
  float *scores;   /* NULL: score has been launched */
  int32_t *flags;  /* [segments] bad references on their way */
  int32_t num_rows;
  tailcut_rows rows[TC_FUSED_ARRAYS]; /* those that ride, whole */
} tc_fused_call;
cudaError_t tc_cuda_fused(const tc_cuda *device, const tc_fused_call *fused, const tc_chain *chain);

/* <step>.cu: tc_cuda_load_<step> loads every kernel of the step (lazy loading would allocate in a
 * run call) and sets attributes. device.c calls them all. */
#define TC_CUDA_STEPS(X) \
  X(resolve)             \
  X(score) X(novelty) X(direction) X(maxcos) X(attention) X(cut) X(merge) X(compact) X(fused)
#define TC_CUDA_LOAD(step) cudaError_t tc_cuda_load_##step(tc_cuda *device);
TC_CUDA_STEPS(TC_CUDA_LOAD)
#undef TC_CUDA_LOAD

#if defined(__cplusplus)
}
#endif

#endif /* TAILCUT_CUDA_H_ */
