/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tailcut: prune the visual tokens of multimodal language models.
 *
 * Each visual token is scored against a reference vector (the CLS token, a mean direction, the
 * text of a prompt), the scores are sorted into a long-tailed curve, the curve is cut where its
 * tail begins, the head is kept in its original order, and every row array of the model (hidden
 * states, position ids, K/V cache) is compacted to it, in place where asked.
 *
 *   parts   tailcut_score, tailcut_mean_direction, tailcut_relevance  ->  scores
 *           tailcut_cut                                               ->  counts, kept
 *           tailcut_compact, tailcut_merge                            ->  shorter arrays
 *   fused   tailcut_prune_visual    = score + cut + compact or merge  (before the language model)
 *           tailcut_prune_sequence  = relevance + cut + compact  (inside one of its layers)
 *   host    tailcut_kept_count, tailcut_workspace_size           (sizes, before any data exists)
 *
 * A fused call and its parts give the same bits, and so does every backend, SIMD level, thread
 * count, batch size and memory layout (MAX_COSINE and ATTENTION scores excepted: those are close,
 * see tailcut_relevance).
 *
 * Words. token: one row of a row-major matrix. Segment: the tokens that compete with each other
 * (one image, one video, one sequence). Group: those of them that are cut together, all where no
 * groups are given (tailcut_batch). N: the candidates of a group; k: how many of them are kept.
 * Kept indices: numbers of the kept candidates (or rows) inside their segment, ascending.
 * cu_seqlens: int32 prefix offsets [B+1] as in variable-length attention. Device memory: memory of
 * the handle's device, which for the CPU backend is ordinary memory.
 *
 * Rules that hold for every run call (those with a `stream` argument):
 *   - Arguments are checked on the host first. A call that returns anything but TAILCUT_OK for a
 *     bad argument has written nothing. tailcut_last_error() then names the argument. So it is for
 *     TAILCUT_ERROR_UNSUPPORTED, which every run call may return besides the errors listed with it:
 *     the arguments are valid, but this backend does not take one of them.
 *   - It allocates nothing, synchronises with nothing, prints nothing, never aborts, and uses no
 *     memory but the arguments and the workspace (the environment can ask for exceptions, see
 *     tailcut_create). Work goes to `stream` (a cudaStream_t; NULL is the default stream) and may
 *     be captured in a CUDA graph. On the CPU `stream` is ignored and the call has finished when it
 *     returns.
 *   - What depends on data never fails a call: it is reported per segment in `flags`.
 *   - A handle may be used by several threads at once when each call has its own workspace (and
 *     stream) and no output shared with another call. There is no other shared state.
 *   - Pointers need the alignment of their element type; strides are free. Unaligned rows of
 *     byte arrays (tailcut_rows) work, only slower.
 *   - The caller's floating-point mode (rounding, flush to zero) changes nothing and is restored.
 *
 * Structs begin with their size and have an INITIALIZER macro that also sets every default, and for
 * other languages a tailcut_<struct>_init function that does the same: always start from one of
 * them, so that a program keeps working when fields are added behind. A struct of an older header,
 * shorter than this library's, gets the defaults of the fields it lacks. Fields marked "required"
 * have no default; what a call does not use may stay as initialised.
 *
 * What is called exact here is defined in METHOD.md, which is installed beside this header
 * (share/doc/tailcut): the rules, flags and policies below carry its names.
 *
 * What newcomers trip over:
 *   - Ragged batches (cu_seqlens): leave total_tokens 0 only where segments * max_tokens rows
 *     really are a bound that your arrays have; better say the number of rows.
 *   - Ragged batches have no segment strides. K/V of [T, H, d] is one array of T rows with H parts;
 *     K/V of [B, H, T, d] is uniform. Where every head keeps rows of its own, make it a uniform
 *     batch of B*H segments with one part each.
 *   - Prefix rows (CLS, registers) are in every source array and in no result: in place, result row
 *     0 lands on the segment's first row, on top of the CLS row. `kept` counts candidates, from 0
 *     behind the prefix. max_tokens, lengths, cu_seqlens and limits count rows, prefix included;
 *     counts, k, min_keep, max_keep and tailcut_kept_count count candidates.
 *   - Result arrays may be exactly as long as what can be kept: say so in tailcut_rows.dst_rows.
 *   - The tail that ZERO_TAIL clears of a PACKED array ends where the batch's candidates would end,
 *     or with dst_rows where that is less.
 *
 * Sizes of the arrays that a caller provides, in elements; "rows" is segments * max_tokens for a
 * uniform batch and total_tokens for a ragged one:
 *   rows            scores, roles, kept, curve, ranks, mask, sizes, joins, slot tables (dst_slots
 *                   of a PACKED array: dst_rows), source row arrays, positions
 *   segments        lengths, counts, flags, input_flags, host_counts, renumber_base, new_base
 *   segments + 1    cu_seqlens, new_cu_seqlens
 *   segments * dim  direction; a reference that has a segment_stride
 *   groups          group_counts, group_k (without groups: segments)
 *   groups + 1      group_cu_seqlens
 *   see tailcut_rows.dst_rows for destination row arrays, tailcut_workspace_size for workspaces
 */
#ifndef TAILCUT_H_
#define TAILCUT_H_

#include <math.h> /* NAN: a value that is not set */
#include <stddef.h>
#include <stdint.h>

#define TAILCUT_VERSION_MAJOR 0
#define TAILCUT_VERSION_MINOR 2
#define TAILCUT_VERSION_PATCH 0
/* One number to compare: 100 for 0.1.0, 10203 for 1.2.3. */
#define TAILCUT_VERSION \
  (TAILCUT_VERSION_MAJOR * 10000 + TAILCUT_VERSION_MINOR * 100 + TAILCUT_VERSION_PATCH)

#if defined(_WIN32)
#if defined(TAILCUT_BUILD)
#define TAILCUT_API __declspec(dllexport)
#else
#define TAILCUT_API
#endif
#elif defined(TAILCUT_BUILD)
#define TAILCUT_API __attribute__((visibility("default")))
#else
#define TAILCUT_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ------------------------------------------------------------------ status, version, build -- */

/* Every call that can fail returns one of these. The hundreds are the category. */
typedef enum tailcut_status {
  TAILCUT_OK = 0,
  /* 1xx: an argument. Nothing was written. */
  TAILCUT_ERROR_NULL = 100,        /* a required pointer is NULL */
  TAILCUT_ERROR_RANGE = 101,       /* a number is outside its range */
  TAILCUT_ERROR_ENUM = 102,        /* an enum, dtype or boolean has no such value */
  TAILCUT_ERROR_STRUCT_SIZE = 103, /* struct_size not set, or not one this library knows */
  TAILCUT_ERROR_OVERLAP = 104,     /* source and destination overlap in a way that loses rows */
  TAILCUT_ERROR_ALIGNMENT = 105,   /* a pointer lacks the alignment of its element type */
  TAILCUT_ERROR_CONFLICT = 106,    /* two arguments contradict each other */
  /* 2xx: valid, but this library cannot do it. */
  TAILCUT_ERROR_UNSUPPORTED = 200, /* by this backend or build */
  TAILCUT_ERROR_NO_BACKEND = 201,  /* the device kind is not in this build */
  TAILCUT_ERROR_VERSION = 202,     /* header and library differ in their ABI */
  /* 3xx: resources. */
  TAILCUT_ERROR_MEMORY = 300,    /* tailcut_create (or TAILCUT_DEBUG) could not allocate */
  TAILCUT_ERROR_WORKSPACE = 301, /* workspace is NULL, unaligned or too small. Nothing written. */
  /* 4xx: the device. */
  TAILCUT_ERROR_NO_DEVICE = 400, /* no such device, no driver, driver too old */
  TAILCUT_ERROR_DEVICE = 401,    /* the device's runtime reported an error; see last_error */
  /* 5xx */
  TAILCUT_ERROR_INTERNAL = 500
} tailcut_status;

/* The name of a status, such as "TAILCUT_ERROR_RANGE"; "unknown status" for other values. Never
 * NULL; static storage. */
TAILCUT_API const char *tailcut_status_string(tailcut_status status);

/* What went wrong in the calling thread's last failed call: the argument, its value, what was
 * expected. "" when that thread's last call succeeded. Valid until the thread's next tailcut
 * call. Never NULL. */
TAILCUT_API const char *tailcut_last_error(void);

/* TAILCUT_VERSION of the library that is running. */
TAILCUT_API int32_t tailcut_version(void);

/* One line of JSON: version, backends, architectures, compiler, threads, the SIMD levels built and
 * the one chosen on this machine. Static storage, same string for the process's life. */
TAILCUT_API const char *tailcut_build_info(void);

/* ------------------------------------------------------------------------------- the handle -- */

typedef enum tailcut_device_kind {
  TAILCUT_DEVICE_CPU = 1,
  TAILCUT_DEVICE_CUDA = 2 /* TAILCUT_ERROR_NO_BACKEND where the build has none */
} tailcut_device_kind;

typedef struct tailcut_config {
  size_t struct_size;
  int32_t version;      /* required: TAILCUT_VERSION of the header the caller was compiled with.
                           While the major version is 0 the minor one must be the library's,
                           later the major one; CMake's package version says the same */
  int32_t device_kind;  /* tailcut_device_kind; default CPU */
  int32_t device_index; /* CUDA ordinal; must be 0 for the CPU. Default 0 */
  int32_t threads;      /* CPU only. 1 (default): the calling thread alone. n: it and n - 1 threads
                           of the handle's own, made here and joined by tailcut_destroy; 0: as many
                           as there are cores that the process may use. At most 1024. A call takes
                           those that come at once; while the handle serves another call, after
                           fork, or on a system without POSIX threads: the calling thread alone. */
} tailcut_config;
#define TAILCUT_CONFIG_INITIALIZER \
  { sizeof(tailcut_config), TAILCUT_VERSION, TAILCUT_DEVICE_CPU, 0, 1 }

/* A handle: one device, its loaded kernels, its settings. Opaque. */
typedef struct tailcut_handle_s *tailcut_handle;

/* Makes a handle. `config` is required: it carries the version that is checked. On failure *handle
 * is NULL.
 * Environment read here and nowhere else:
 *   TAILCUT_SIMD   scalar|neon|neon-dotprod|avx2|avx2-vnni|avx512|avx512-vnni: the highest SIMD
 *                  level the CPU backend may use; a level this machine lacks means the best one
 *                  below that it has. Any other word is an error.
 *   TAILCUT_LOG    off|error|info|debug, optionally followed by :FILE (default stderr): one line
 *                  per handle (info), per failed call (error), per call (debug).
 *   TAILCUT_DEBUG  slots: each call that moves rows through slots first looks on the host whether
 *                  two of them name one row and either is written (see tailcut_rows), or one is
 *                  below -1: TAILCUT_ERROR_OVERLAP or RANGE then names the table, the rows and the
 *                  slot, and nothing has been written. It looks at the rows that are not ABSENT
 *                  and at as many results as the rule can keep; tailcut_compact at what its lists
 *                  say. Such a call may allocate (ERROR_MEMORY) and, on CUDA, waits for the stream;
 *                  on a stream that is being captured nothing is looked at (a line of TAILCUT_LOG
 *                  info says so). Not set or empty: costs nothing. Any other word is an error.
 * Errors: NULL, STRUCT_SIZE, VERSION, ENUM, RANGE, NO_BACKEND, NO_DEVICE, DEVICE, MEMORY. */
TAILCUT_API tailcut_status tailcut_create(tailcut_handle *handle, const tailcut_config *config);

/* Frees a handle; NULL is allowed. No call may be using it; on CUDA, work already enqueued may
 * still be running. */
TAILCUT_API void tailcut_destroy(tailcut_handle handle);

/* What runs behind a handle, as one line of JSON. CPU: backend, simd (the level that was chosen,
 * TAILCUT_SIMD honoured), threads. CUDA: backend, device (its index), name, architecture, sms.
 * Valid until the handle is destroyed; NULL for NULL. Leaves tailcut_last_error() alone. */
TAILCUT_API const char *tailcut_handle_info(tailcut_handle handle);

/* --------------------------------------------------------------------------- describing data -- */

typedef enum tailcut_dtype {
  TAILCUT_F16 = 1,  /* IEEE binary16 */
  TAILCUT_BF16 = 2, /* bfloat16 */
  TAILCUT_F32 = 3
} tailcut_dtype;

#define TAILCUT_MAX_SEGMENT_TOKENS 1048576 /* candidates per segment, 2^20 */

/* How rows form segments. It holds for every array of a call.
 *
 *   uniform  (cu_seqlens NULL)  Segment b has `max_tokens` rows, or lengths[b] of them when
 *                               `lengths` is given. It starts at row b * max_tokens.
 *   ragged   (cu_seqlens given) Segment b is the rows cu_seqlens[b] .. cu_seqlens[b+1]-1. Past the
 *                               last true segment repeat the final offset: those are empty.
 *
 * Arrays with one number per token (scores, curve, ranks, kept, roles, mask, sizes) are indexed by
 * that row number. What belongs to candidate i of segment b stands at start(b) + i; roles, mask and
 * sizes_in, which know rows and not candidates, have the row's own place. They have segments *
 * max_tokens (uniform) or total_tokens (ragged) elements.
 *
 * prefix_rows = p says that the first p rows of every segment are no candidates (the CLS token as
 * encoders return it, or CLS and register tokens): candidate i is then row i + p, every source
 * array has those rows, and no result has them. A segment of p rows or less has no candidates.
 *
 * Groups split segments into parts that are cut by themselves (the images of a sequence, the frames
 * of a video, the crops of a page): each has its own order, curve, k, min_keep, max_keep, round_to
 * and spread. References, kept lists, counts and compaction stay those of the segment. Group j is
 * the rows group_cu_seqlens[j] .. group_cu_seqlens[j+1]-1, in the numbers above; the offsets ascend
 * and contain the first row of every segment and the row behind its last (uniform: every
 * multiple of max_tokens, whatever `lengths` says). Rows of a group that are no candidates do not
 * count. Past the last true group repeat the final offset. tailcut_cut, tailcut_merge, the fused
 * calls and tailcut_score with source NOVELTY read groups; the other calls only check the offsets.
 *
 * Lengths and offsets are read on the device. A length below 0 or above max_tokens, an offset
 * outside 0..total_tokens, one below any earlier offset: that segment is empty, has flag
 * TAILCUT_FLAG_INVALID and nothing of it is touched. The same holds for a segment whose first row,
 * or the row behind its last, is no group offset, and for all segments where a group offset is
 * below the one before it or outside the rows. */
typedef struct tailcut_batch {
  size_t struct_size;
  int32_t segments;          /* B >= 0. Host bound: no more than B segments are read */
  int32_t max_tokens;        /* >= 0, host bound for rows of one segment, prefix rows included; at
                                most TAILCUT_MAX_SEGMENT_TOKENS + prefix_rows */
  int64_t total_tokens;      /* ragged: host bound for cu_seqlens[B], at most INT32_MAX. 0 means
                                segments * max_tokens. Uniform: 0, or exactly that product */
  const int32_t *cu_seqlens; /* device [segments + 1], or NULL */
  const int32_t *lengths;    /* device [segments], or NULL. Uniform only */
  int32_t prefix_rows;       /* p >= 0, at most TAILCUT_MAX_SEGMENT_TOKENS; default 0 */
  const int32_t *group_cu_seqlens; /* device [groups + 1], or NULL: every segment is one group */
  int32_t groups; /* G, required with group_cu_seqlens where there are rows; 0 without it */
} tailcut_batch;
#define TAILCUT_BATCH_INITIALIZER \
  { sizeof(tailcut_batch), 0, 0, 0, NULL, NULL, 0, NULL, 0 }

/* A matrix of token features. Element d of row r of segment b (uniform) is
 * data[b * segment_stride + r * row_stride + d]; of row r of all rows (ragged) it is
 * data[r * row_stride + d]. */
typedef struct tailcut_tokens {
  size_t struct_size;
  const void *data;       /* device, required; may be NULL only when there are no rows */
  int32_t dtype;          /* tailcut_dtype, required */
  int32_t dim;            /* required, >= 1: the channels that are scored; a row may have more */
  int64_t row_stride;     /* elements; 0 means dim; >= dim otherwise */
  int64_t segment_stride; /* elements; 0 means max_tokens * row_stride. Uniform only */
} tailcut_tokens;
#define TAILCUT_TOKENS_INITIALIZER \
  { sizeof(tailcut_tokens), NULL, 0, 0, 0, 0 }

/* --------------------------------------------------------------------------------- stage 1 -- */

typedef enum tailcut_reference_source {
  TAILCUT_REFERENCE_GIVEN = 1,  /* `data`: one vector for all segments, or one each */
  TAILCUT_REFERENCE_ROW = 2,    /* the segment's first row; batch.prefix_rows must be 1 or more */
  TAILCUT_REFERENCE_MEAN = 3,   /* mean direction of the segment's own candidates, for encoders
                                  without CLS (SigLIP, Qwen-VL); see tailcut_mean_direction */
  TAILCUT_REFERENCE_LAG = 4,    /* video: candidate i is compared with candidate i - lag of its
                                  segment, the same patch one frame earlier where lag is the tokens
                                  of a frame; candidates i < lag score -1. Never a bad reference */
  TAILCUT_REFERENCE_NOVELTY = 5 /* how different a candidate is from all that are better: see
                                   tailcut_score. Never a bad reference */
} tailcut_reference_source;

/* What tokens are compared with. */
typedef struct tailcut_reference {
  size_t struct_size;
  int32_t source;         /* tailcut_reference_source; default GIVEN */
  int32_t dtype;          /* GIVEN: the tokens' dtype or TAILCUT_F32; 0 means the tokens' */
  const void *data;       /* GIVEN: required, device [dim] or [segments, dim]; otherwise NULL */
  int64_t segment_stride; /* GIVEN: elements from one segment's vector to the next, >= dim; 0
                             (default): one vector for all */
  int32_t lag;            /* LAG: required, >= 1 candidates; otherwise 0 */
  int32_t window;         /* NOVELTY: 64, 128 or 256; 0 (default) means 64. Otherwise 0 */
} tailcut_reference;
#define TAILCUT_REFERENCE_INITIALIZER \
  { sizeof(tailcut_reference), TAILCUT_REFERENCE_GIVEN, 0, NULL, 0, 0, 0 }

/* Channels at most of tokens that are scored by NOVELTY or merged by their likeness. */
#define TAILCUT_MAX_NOVELTY_DIM 131071

/* Bits of the per-segment flags. WHOLE: kept whole for a bad reference, or (THRESHOLD excepted) for
 * fewer than 3 scores that are numbers; never with TOPK and RATIO. */
#define TAILCUT_FLAG_WHOLE 1
#define TAILCUT_FLAG_NAN 2           /* some score is NaN (it ranks last) */
#define TAILCUT_FLAG_BAD_REFERENCE 4 /* norm of the reference is 0 or not finite */
#define TAILCUT_FLAG_INVALID 8       /* lengths or offsets invalid: k = 0, nothing touched */
#define TAILCUT_FLAG_NO_SCORE 16     /* there are candidates, but not one score is a number */

/* Score (part). s_i = <x_i,c> / (max(|x_i|, 1e-8) * max(|c|, 1e-8)) in fp32, clamped to [-1,1]; NaN
 * where a norm is not finite (an overflowing row is flagged, never silently pruned; written as
 * 0x7FC00000), -0 becomes +0. The summation order is fixed, so the bits are the same everywhere.
 *
 * NOVELTY has no reference vector. A group's candidates stand in windows of up to `window`
 * neighbours, and in each they are ordered by farthest point first: a candidate's score falls with
 * its cosine to the likest of those before it, from 0.5 (nothing like it) to 0 (a copy); each
 * window's first candidate scores just above all others of the group. Rows are compared as bytes,
 * so that every backend gives the same bits. A zero row scores 0. Cut by TOPK or RATIO this keeps
 * what differs, where a reference keeps what resembles.
 * Required: batch, tokens (with NOVELTY at most TAILCUT_MAX_NOVELTY_DIM channels), reference,
 * scores.
 *   scores  device f32, by row number (see tailcut_batch); candidate i of segment b at
 *           start(b) + i; elements of no candidate are not written
 *   flags   device int32 [segments] or NULL: NAN, BAD_REFERENCE and INVALID bits, to be handed to
 *           tailcut_cut as input_flags
 * `scores` must not overlap the inputs. Errors: NULL, STRUCT_SIZE, RANGE, ENUM, CONFLICT,
 * ALIGNMENT, WORKSPACE, DEVICE. */
TAILCUT_API tailcut_status tailcut_score(tailcut_handle handle, const tailcut_batch *batch,
                                         const tailcut_tokens *tokens,
                                         const tailcut_reference *reference, float *scores,
                                         int32_t *flags, void *workspace, size_t workspace_size,
                                         void *stream);

/* Mean direction (part): u = (1/T) * sum over t of t / max(|t|, 1e-8), the rows in blocks of 64
 * from the segment's first candidate (or, with roles, its first row). Required: batch, tokens,
 * direction.
 *   roles      device uint8 by row number, or NULL: rows with bit TAILCUT_ROLE_QUERY and without
 *              ABSENT only; batch.prefix_rows must then be 0. With NULL every candidate counts.
 *   direction  device f32 [segments, dim], contiguous; zeros where no row counts (T = 0) and
 *              where the segment is invalid
 * Use it as a GIVEN reference of dtype F32 with segment_stride dim: same bits as source MEAN.
 * Errors as tailcut_score. */
TAILCUT_API tailcut_status tailcut_mean_direction(tailcut_handle handle, const tailcut_batch *batch,
                                                  const tailcut_tokens *tokens,
                                                  const uint8_t *roles, float *direction,
                                                  void *workspace, size_t workspace_size,
                                                  void *stream);

/* --------------------------------------------------------------------------- where to cut -- */

/* How k is found on the curve p of the N' scores that are not NaN, best first. Sums and products
 * are integers: p_r is the score scaled by a power of two and rounded to 20 bits (GAP, CURVATURE:
 * q, 30 bits). Ties take the smallest rank. */
typedef enum tailcut_detector {
  TAILCUT_OTSU = 1,      /* best two-class split: greatest between-class variance (default) */
  TAILCUT_CHORD = 2,     /* farthest point from the line between the curve's ends */
  TAILCUT_GAP = 3,       /* largest drop between neighbours */
  TAILCUT_CURVATURE = 4, /* largest second difference over +-window ranks */
  TAILCUT_IQR = 5,       /* outliers: above Q3 + 1.5 (Q3 - Q1) */
  TAILCUT_MEAN = 6,      /* above mean + lambda * standard deviation */
  TAILCUT_MASS = 7,      /* smallest head with the share `mass` of the total above the minimum */
  TAILCUT_THRESHOLD = 8, /* scores >= tau */
  TAILCUT_TOPK = 9,      /* k given */
  TAILCUT_RATIO = 10     /* k from N by `ratio` and `rounding` */
} tailcut_detector;

/* RATIO's k from N, in double: the roundings that servers use. */
typedef enum tailcut_rounding {
  TAILCUT_CEIL = 1,        /* ceil(N * ratio - 1e-9) (default) */
  TAILCUT_FLOOR = 2,       /* trunc(N * ratio) */
  TAILCUT_NEAREST = 3,     /* rint(N * ratio) */
  TAILCUT_DROP_CEIL = 4,   /* N - ceil(N * ratio - 1e-9), ratio being the dropped share */
  TAILCUT_DROP_TRUNC = 5,  /* trunc(N * (1 - ratio)), ratio being the dropped share */
  TAILCUT_DROP_PERCENT = 6 /* N - N * percent div 100 */
} tailcut_rounding;

/* The word for a detector, as the command takes it: "otsu", "chord", ...; NULL for any other
 * number. Static storage. */
TAILCUT_API const char *tailcut_detector_name(int32_t detector);

/* Which end of the curve is kept. */
typedef enum tailcut_order {
  TAILCUT_HIGH = 1, /* the highest scores (default) */
  TAILCUT_LOW = 2   /* the lowest: every score, and tau, is negated where it enters order, curve and
                       THRESHOLD (tau is then the greatest score kept). Scores and curve are
                       reported as they are; NaN ranks last all the same */
} tailcut_order;

typedef enum tailcut_scale {
  TAILCUT_SCALE_DEFAULT = 0, /* AUTO in tailcut_cut and for ATTENTION, UNIT in the rest */
  TAILCUT_SCALE_UNIT = 1,    /* scores are cosines in [-1,1]; others saturate */
  TAILCUT_SCALE_AUTO = 2     /* the power of two that just covers the group's finite scores */
} tailcut_scale;

/* A rule: a detector, its parameters, and what holds afterwards for every detector, in this
 * order: raise to min_keep, lower to max_keep, round up to a multiple of round_to, lower to
 * max_keep and N. It holds for each group by itself. The NaN and -1 of the initialiser mean not
 * set. */
typedef struct tailcut_rule {
  size_t struct_size;
  int32_t detector; /* tailcut_detector; default OTSU */
  int32_t scale;    /* tailcut_scale */
  int32_t k;        /* TOPK: >= 1, required */
  int32_t rounding; /* RATIO: tailcut_rounding */
  double ratio;     /* RATIO: 0..1, required unless rounding is DROP_PERCENT */
  int32_t percent;  /* RATIO with DROP_PERCENT: 0..100, required */
  int32_t window;   /* CURVATURE: >= 0; 0 (default) means max(1, N' div 16) */
  double lambda;    /* MEAN: finite, default 1 */
  double mass;      /* MASS: 0 < mass <= 1, default 0.9 */
  float tau;        /* THRESHOLD: finite, required */
  int32_t min_keep; /* >= 0, default 1. A segment without candidates keeps 0 all the same */
  int32_t max_keep; /* >= min_keep; -1 (default) means N */
  int32_t round_to; /* >= 1, default 1; takes the next-best tokens, never pads */
  double search_lo; /* OTSU, CHORD, GAP, CURVATURE: ranks considered, as shares of N', */
  double search_hi; /* 0 <= lo < hi <= 1; default 0 and 1 */
  double spread;    /* 0..1, default 0: this share of the k tokens is taken evenly from the tail
                        instead of from the head (k does not change) */
  const int32_t *group_k; /* TOPK: device [groups], or [segments] without groups: k of each, below
                             0 counting as 0 and `k` being the most; NULL (default): k for all */
  int32_t order;          /* tailcut_order; default HIGH */
} tailcut_rule;
/* Not set; constant expressions. */
#define TAILCUT_UNSET_DOUBLE ((double)NAN)
#define TAILCUT_UNSET_FLOAT ((float)NAN)
#define TAILCUT_RULE_INITIALIZER                                                                   \
  {                                                                                                \
    sizeof(tailcut_rule), TAILCUT_OTSU, TAILCUT_SCALE_DEFAULT, -1, TAILCUT_CEIL,                   \
        TAILCUT_UNSET_DOUBLE, -1, 0, 1.0, 0.9, TAILCUT_UNSET_FLOAT, 1, -1, 1, 0.0, 1.0, 0.0, NULL, \
        TAILCUT_HIGH                                                                               \
  }

/* Where result j of a segment is put: at the segment's own start + j, or behind the results of
 * the segments before it. */
typedef enum tailcut_placement {
  TAILCUT_LOCAL = 1, /* start(b) + j */
  TAILCUT_PACKED = 2 /* new_cu_seqlens[b] + j */
} tailcut_placement;

/* How much a dropped row counts in the kept row that it joins, which counts 1. */
typedef enum tailcut_power {
  TAILCUT_MERGE_MEAN = 0, /* 1 */
  TAILCUT_MERGE_COS4 = 4  /* the fourth power of their cosine where that is positive, else 0 */
} tailcut_power;

/* Merging: see tailcut_merge. The arrays may be NULL, and none may overlap another array of the
 * call: sizes_out not sizes_in either. */
typedef struct tailcut_merge_options {
  size_t struct_size;
  int32_t power;           /* tailcut_power; default COS4 */
  int32_t window;          /* 64, 128 or 256; 0 (default) means that of source NOVELTY, from which
                              it must not differ, and 64 with any other */
  const int32_t *sizes_in; /* device int32 by row number: how many tokens a row stands for already,
                              less than 1 counting as 1; NULL (default): 1 each */
  int32_t *sizes_out;      /* device int32 by row number of the result, placed as `kept` is, or
                              NULL: how many tokens each kept row stands for. Sums wrap. Elements
                              of no kept row are not written */
  int32_t *joins_out;      /* device int32 by row number, candidate i's at start(b) + i, or NULL:
                              what it joins, itself where it is kept, -1 where it is lost.
                              With it a map of all patches can be made from the kept ones again */
} tailcut_merge_options;
#define TAILCUT_MERGE_OPTIONS_INITIALIZER \
  { sizeof(tailcut_merge_options), TAILCUT_MERGE_COS4, 0, NULL, NULL, NULL }

/* What a selection writes. All device memory, each pointer may be NULL but `counts`; nothing may
 * overlap an input or another output, which is not checked. Where roles are given, kept, counts,
 * group_counts and new_cu_seqlens cover all kept rows, candidates or not (ABSENT rows are never
 * kept). */
typedef struct tailcut_selection {
  size_t struct_size;
  int32_t *counts;         /* required, int32 [segments]: rows kept */
  int32_t *kept;           /* int32, segment-local indices, ascending: of candidates, or of rows
                              where roles are given. [segments * max_tokens] or [total_tokens] */
  int32_t kept_placement;  /* tailcut_placement of `kept`; default LOCAL. Elements that belong to
                              no kept row are not written */
  int32_t *new_cu_seqlens; /* int32 [segments + 1]: prefix sums of counts, first 0 */
  int32_t *flags;          /* int32 [segments] */
  float *scores;           /* f32 by row number, as the scoring part writes it. Not by cut */
  float *curve;            /* f32: a group's candidates' scores in rank order (-0 as +0, NaN as
                              0x7FC00000), from where the score of its first candidate (with
                              roles: its first row) stands; for a segment that is one group, from
                              start(b) */
  int32_t *ranks;          /* int32: rank of candidate i in its group at start(b) + i (0 is best).
                              With roles: by row number, -1 for rows that are no candidates */
  int32_t *host_counts;    /* pinned host int32 [segments]: a second copy of counts; on the CPU
                              any memory */
  uint8_t *mask;           /* uint8 by row number: 1 where the row is kept, 0 elsewhere in its
                              segment (prefix rows, and rows between a uniform segment's length and
                              max_tokens: 0). Not written for invalid segments and past the last */
  int32_t *group_counts;   /* int32 [groups]: rows kept of each group; 0 in invalid segments. Needs
                              batch.group_cu_seqlens */
  const tailcut_merge_options *merge; /* host; tailcut_prune_visual only: dropped tokens are merged
                                         as by tailcut_merge. NULL (default): they are lost */
} tailcut_selection;
#define TAILCUT_SELECTION_INITIALIZER                                                         \
  {                                                                                           \
    sizeof(tailcut_selection), NULL, NULL, TAILCUT_LOCAL, NULL, NULL, NULL, NULL, NULL, NULL, \
        NULL, NULL, NULL                                                                      \
  }

/* Bits of a token's role in stage 2. 0: always kept (system prompt, specials). ABSENT: padding:
 * whatever the other bits say the row is neither candidate nor query nor key, and no result has it.
 */
#define TAILCUT_ROLE_CANDIDATE 1 /* may be pruned */
#define TAILCUT_ROLE_QUERY 2     /* text that defines relevance */
#define TAILCUT_ROLE_ABSENT 4

/* Cut (part): order, detector, clamps, spread, on scores from anywhere. Required: batch, scores,
 * selection with counts.
 *   scores       device f32 by row number; higher is better (rule.order LOW: lower)
 *   roles        device uint8 by row number, or NULL: every candidate competes. With roles, rows
 *                without the CANDIDATE bit are always kept (ABSENT ones never) and their scores are
 *                not read; the bits above 7 are ignored; batch.prefix_rows must be 0
 *   input_flags  device int32 [segments] or NULL: BAD_REFERENCE and INVALID bits of the scoring
 *                part are honoured and passed on, so that parts equal the fused call
 *   rule         NULL means the initialiser's
 *   selection    `scores` must be NULL; flags may be the same array as input_flags
 * Errors: NULL, STRUCT_SIZE, RANGE, ENUM, CONFLICT, ALIGNMENT, WORKSPACE, DEVICE. */
TAILCUT_API tailcut_status tailcut_cut(tailcut_handle handle, const tailcut_batch *batch,
                                       const float *scores, const uint8_t *roles,
                                       const int32_t *input_flags, const tailcut_rule *rule,
                                       const tailcut_selection *selection, void *workspace,
                                       size_t workspace_size, void *stream);

/* ------------------------------------------------------------------------------- compaction -- */

/* Sets all bytes of result rows k..N-1 of each segment (LOCAL), or of the rows from the last
 * result to the end of the batch's candidates (PACKED), to zero; never past dst_rows. Without it
 * they are unspecified. With roles the rows of a segment count as its candidates here. */
#define TAILCUT_ROWS_ZERO_TAIL 1
/* Instead of moving rows writes the new position renumber_base[b] + j (j: LOCAL numbering inside
 * the segment; without a base j) as an int32 or int64 (part_bytes 4 or 8) into each part of result
 * row j: renumbered position ids. Sums wrap. `src` is not read and may be NULL. */
#define TAILCUT_ROWS_RENUMBER 2
/* Where the call merges: the dropped rows of this array are merged into the kept ones, instead of
 * lost. A row is then one part of part_bytes / size values of `dtype`. Where it lies in several
 * (heads apart, in pages): an entry for each head, its src and dst at the head's first value, with
 * the same slots, pages and strides. */
#define TAILCUT_ROWS_MERGE 4

typedef enum tailcut_rope_pairing {
  TAILCUT_ROPE_NEOX = 1,       /* value i with value i + rotary_dim/2 (default; GPT-NeoX, LLaMA) */
  TAILCUT_ROPE_INTERLEAVED = 2 /* value 2i with value 2i + 1 (GPT-J) */
} tailcut_rope_pairing;

/* Re-rotates the keys of a renumbered cache while their rows are moved (rotary position embedding):
 * a key that was rotated by its old position leaves as if it had been rotated by its new one. In
 * each part of result row j the values x = [rotary_offset, rotary_offset + rotary_dim) turn, for
 * pair i of rotary_dim/2:
 *   y0 = x0 cos(a) - x1 sin(a),  y1 = x1 cos(a) + x0 sin(a)
 *   inv_freq  a = (new - old) * inv_freq[i], in double
 *   cos_sin   cos(a) = (cn co + sn so) / m, sin(a) = (sn co - cn so) / m, m = co co + so so, of the
 *             table's rows new (cn, sn) and old (co, so): what makes row new's rotation of row
 *             old's. A factor in all rows (YaRN's attention factor) cancels: K has it already
 *   new       new_base[b] + j
 *   old       positions[number of the source row]; without positions new_base[b] + the number of
 *             the source row in its segment (prefix rows count). So with neither, rows stood at
 *             0, 1, 2, ... and stand there again
 * Other values are moved as they are, and so are the bits of rows with new == old, and (cos_sin) of
 * rows one of whose positions is outside 0 .. table_rows - 1. Everything is computed in double from
 * what is given and rounded once, to nearest even (a NaN comes out as 0x7E00, 0x7FC0 or
 * 0x7FC00000), with the same bits on every backend. Below |a| = 2^40 each value is within one unit
 * in the last place (ulp) of its dtype of the exact one; f32, where the two products all but
 * cancel, within 2^-50 * (|x0| + |x1|). Positions are one number per row: the planes of M-RoPE are
 * not rotated by this.
 *
 * A call takes the arrays with a rotation before all others, whatever their order: `positions` and
 * `new_base` may be in an array that the same call compacts or renumbers (without a rotation), and
 * are read as they were. They, inv_freq and cos_sin must not overlap the dst of an array with a
 * rotation. K beside V in one row (vLLM's pages of [block, heads, 2*d]): the part is both, and
 * rotary_offset and rotary_dim say where in it K is. On CUDA parts have at most 16384 bytes, and a
 * row 65536 of them (UNSUPPORTED). */
typedef struct tailcut_rotation {
  size_t struct_size;
  int32_t dtype;          /* tailcut_dtype of the array's values: required. Parts are whole values,
                             and all addresses and strides multiples of a value's size */
  int32_t pairing;        /* tailcut_rope_pairing; default NEOX */
  int32_t rotary_dim;     /* required: even, 2..1024 */
  int32_t rotary_offset;  /* first rotated value of a part; default 0 (MLA: behind the latent) */
  int32_t position_bytes; /* element size of positions and new_base: 4 (default, int32) or 8 */
  const void *positions;  /* device, old position by row number, or NULL; see above */
  const void *new_base;   /* device [segments], or NULL: 0 */
  const float *inv_freq;  /* device [rotary_dim/2]; this or cos_sin is required, not both */
  const float *cos_sin;   /* device [table_rows, rotary_dim]: the cosines of a position's
                             rotary_dim/2 angles, then their sines (as vLLM's cos_sin_cache) */
  int32_t table_rows;     /* cos_sin: required; otherwise 0 */
} tailcut_rotation;
#define TAILCUT_ROTATION_INITIALIZER \
  { sizeof(tailcut_rotation), 0, TAILCUT_ROPE_NEOX, 0, 0, 4, NULL, NULL, NULL, NULL, 0 }

/* An array with one row per token that is compacted to the kept rows. A row is `parts` pieces of
 * `part_bytes` bytes, part_stride bytes apart:
 *   hidden states [total, dim] f16     part_bytes 2*dim, parts 1
 *   K or V [B, H, T, d] f16            part_bytes 2*d, parts H, part strides T*d*2, row strides
 *                                      d*2, segment strides H*T*d*2
 *   M-RoPE positions [3, total] int64  part_bytes 8, parts 3, part strides total*8, row strides 8
 * Row r of segment b starts at base + b*segment_stride + r*row_stride (uniform) or base +
 * (start(b) + r)*row_stride (ragged). With slots, row number i of the batch (start(b) + r, or for
 * a PACKED destination the packed row) stands at base + (slot / page_rows)*page_stride +
 * (slot % page_rows)*row_stride with slot = slots[i]; -1: there is no such row, and nothing is
 * read or written for it. Negative strides are not allowed.
 *
 * A destination needs room for the rows that can be kept and no more. dst_rows says how many it
 * has: per segment where LOCAL, in all where PACKED. A segment whose count does not fit counts as 0
 * for that array. With 0 (default) a fused call without roles and groups takes what
 * tailcut_kept_count(rule, max_tokens - prefix_rows) gives, per segment or times the segments; in
 * place, and in any other call, it is as many rows as the source has candidates. (So a destination
 * of a fused call whose tail is to be zeroed beyond that must say its dst_rows.) Results never pass
 * dst_rows, so [3, k] planes, [B, H, k, d] caches, or k rows right in front of the source in one
 * arena are fine. (LOCAL in a ragged batch: a segment's results stand at its own start, so the
 * array has total_tokens - prefix_rows rows all the same.)
 *
 * In place (LOCAL): dst == src with equal strides, parts and rows that do not lie on each other,
 * and both or neither by slots (the same table into the same pages). Anything else that shares
 * bytes is refused, and so is every overlap of a PACKED one. (Slots: the extents are unknown on the
 * host; a row must then not be both a source and another row's destination.) Source and destination
 * may interleave: row by row, K beside V, plane beside plane. Where their strides have no common
 * measure to show it, the call takes them to overlap.
 *
 * Contract for paged K/V: no two slots of a call name the same row (TAILCUT_DEBUG=slots looks), and
 * a page that is rewritten has one owner and is in no shared prefix. Renumbering positions does not
 * re-rotate K: `rotation` of the arrays that hold K does. */
typedef struct tailcut_rows {
  size_t struct_size;
  const void *src;         /* device; required but with RENUMBER */
  void *dst;               /* device; required */
  int64_t part_bytes;      /* required, >= 1 */
  int32_t parts;           /* >= 1, default 1 */
  int32_t placement;       /* tailcut_placement of the result; default LOCAL */
  int32_t flags;           /* TAILCUT_ROWS_*; default 0 */
  int32_t slot_bytes;      /* element size of the slot tables: 4 (default) or 8 */
  int64_t src_part_stride; /* bytes; 0 means part_bytes */
  int64_t dst_part_stride;
  int64_t src_row_stride; /* bytes; 0 means part_bytes * parts */
  int64_t dst_row_stride;
  int64_t src_segment_stride; /* bytes; 0 means max_tokens * row stride, which does not do for
                                 [B, H, T, d]. Uniform, no slots */
  int64_t dst_segment_stride; /* bytes; 0 means max_tokens * row stride, or dst_rows * row stride
                                 where dst_rows is set and dst is not src. Uniform, no slots, LOCAL
                                 only */
  const void *src_slots;      /* device, by row number, or NULL */
  const void *dst_slots;      /* device, by row number (LOCAL) or packed row (PACKED), or NULL */
  int64_t page_rows;          /* slots: rows per page; 0 means one page for all */
  int64_t page_stride;        /* slots: bytes from page to page; required where page_rows is set */
  int64_t dst_rows;           /* rows the destination has room for; see above. 0: the default */
  const void *renumber_base;  /* RENUMBER: device [segments], int32 or int64 as part_bytes says;
                                 NULL (default): 0 */
  const tailcut_rotation *rotation; /* host: rows are K, to be re-rotated; NULL (default): moved.
                                       Not with RENUMBER and MERGE */
  int32_t dtype;                    /* MERGE: tailcut_dtype, required; otherwise 0 */
} tailcut_rows;
#define TAILCUT_ROWS_INITIALIZER                                                                  \
  {                                                                                               \
    sizeof(tailcut_rows), NULL, NULL, 0, 1, TAILCUT_LOCAL, 0, 4, 0, 0, 0, 0, 0, 0, NULL, NULL, 0, \
        0, 0, NULL, NULL, 0                                                                       \
  }

/* Compact (part): row j of the result is source row kept[j] + prefix_rows. Required: batch, kept,
 * counts; rows where num_rows is not 0.
 *   kept            device int32, segment-local and strictly increasing, placed as
 *                   kept_placement says
 *   counts          device int32 [segments]; a count that is negative or above the segment's
 *                   candidates, or an invalid segment, counts as 0. An index kept[j] that is
 *                   outside the segment, below j, or not above kept[j-1] is never followed: result
 *                   row j is left as it is (TAILCUT_ROWS_RENUMBER writes j all the same)
 *   new_cu_seqlens  device int32 [segments + 1], needed where anything is PACKED, otherwise NULL
 *   rows            `num_rows` >= 0 descriptors; the arrays must not overlap each other
 * Errors: NULL, STRUCT_SIZE, RANGE, ENUM, CONFLICT, ALIGNMENT, OVERLAP, WORKSPACE, DEVICE. */
TAILCUT_API tailcut_status tailcut_compact(tailcut_handle handle, const tailcut_batch *batch,
                                           const int32_t *kept, int32_t kept_placement,
                                           const int32_t *counts, const int32_t *new_cu_seqlens,
                                           const tailcut_rows *rows, int32_t num_rows,
                                           void *workspace, size_t workspace_size, void *stream);

/* Merge (part): compaction that loses nothing. Each candidate that is not kept joins the kept row
 * of its window that is most like it, the lower of two, and the rows of arrays that have
 * TAILCUT_ROWS_MERGE become weighted means of what they stand for. Likeness and windows are those
 * of source NOVELTY, computed from `tokens`, whatever chose the kept rows. A row that is zero or
 * not finite there, and one of whose window nothing is kept, is lost; a kept row that nobody joins
 * is copied. Weights are options.power's, times the row's size where sizes are given. Sums are
 * fp32, in ascending order of rows, divided once and rounded once; a NaN comes out as the quiet one
 * without payload. Other arrays, positions among them, are compacted. A row that is not there (slot
 * -1) joins nobody.
 *
 * A merged row stands for size tokens, and whatever attends to it afterwards must know: add
 * ln(size) to the logits of its key, in every layer that follows (as an additive attention mask
 * [.., keys], say). Without that a merged row counts as one token, and merging gains next to
 * nothing; with it, and rows that are only compacted, most is gained.
 *
 *   tokens   the matrix that the likeness is computed from, at most TAILCUT_MAX_NOVELTY_DIM
 *            channels; it may be one of the arrays, in place too
 *   options  NULL means the initialiser's
 * The rest is tailcut_compact's, but that an index kept[j] is followed only where it is above all
 * that are followed before it; its result row and size are left as they are otherwise. Required:
 * batch, tokens, kept, counts; rows where num_rows is not 0. Errors: as tailcut_compact. */
TAILCUT_API tailcut_status tailcut_merge(tailcut_handle handle, const tailcut_batch *batch,
                                         const tailcut_tokens *tokens, const int32_t *kept,
                                         int32_t kept_placement, const int32_t *counts,
                                         const int32_t *new_cu_seqlens,
                                         const tailcut_merge_options *options,
                                         const tailcut_rows *rows, int32_t num_rows,
                                         void *workspace, size_t workspace_size, void *stream);

/* Prune visual tokens (fused): score, cut and compact of stage 1. Equals the three parts called
 * one after the other. `selection` may leave everything but counts NULL; `rows` usually begins
 * with the tokens themselves, in place or PACKED. The scored matrix may be one of the arrays that
 * are compacted, and the reference may be in it; what an array writes through slots must not
 * overlap either. A PACKED row array needs no selection.new_cu_seqlens here. With selection.merge
 * the third part is tailcut_merge. rule NULL means the initialiser's. Required: batch, tokens,
 * reference, selection with counts. Errors: as the parts. */
TAILCUT_API tailcut_status tailcut_prune_visual(
    tailcut_handle handle, const tailcut_batch *batch, const tailcut_tokens *tokens,
    const tailcut_reference *reference, const tailcut_rule *rule,
    const tailcut_selection *selection, const tailcut_rows *rows, int32_t num_rows, void *workspace,
    size_t workspace_size, void *stream);

/* --------------------------------------------------------------------------------- stage 2 -- */

typedef enum tailcut_policy {
  TAILCUT_MEAN_COSINE = 1, /* mean cosine to the query rows (default; exact) */
  TAILCUT_MAX_COSINE = 2,  /* greatest cosine to a query row (close) */
  TAILCUT_ATTENTION = 3    /* attention that the query rows pay (close) */
} tailcut_policy;

/* How several values become one: NaN where one of them is NaN. */
typedef enum tailcut_reduction {
  TAILCUT_REDUCE_MEAN = 1, /* default */
  TAILCUT_REDUCE_MAX = 2
} tailcut_reduction;

/* Close: |error| <= tol for MAX_COSINE, tol * max(|exact|, 2^-7) for ATTENTION, against float64;
 * tol is 2e-3 for f16 and bf16, 1e-5 for f32. Run to run on one device the bits are equal. Products
 * of f16 and bf16 are summed in fp32 where that is within ATTENTION's tol, and else in double,
 * which takes many times as long: where |q| |k| passes 1000 * sqrt(head_dim), on the CPU of a
 * query row's head and the keys that it sees, on CUDA of a sequence's query heads and key head (and
 * 128000 / sqrt(head_dim) where head_dim is above 128).
 *
 * lse: the log-sum-exp that the layer's own attention leaves behind, in place of one computed here.
 * p is then exp(q_t . k_j / sqrt(head_dim) - lse), so that its denominators, whatever keys they are
 * over, are the caller's; the keys that are looked at stay those that row t sees. It is a natural
 * logarithm, of scaled logits: FlashAttention's softmax_lse is that; FlashInfer's lse is in base 2
 * and must be multiplied by ln 2. Where it is not finite, p is NaN for every key that row t sees.
 * Elements of rows that do not ask are not read. */
typedef struct tailcut_relevance_options {
  size_t struct_size;
  int32_t policy;     /* tailcut_policy */
  int32_t causal;     /* ATTENTION: 1: a query sees the rows up to its own; 0 (default): all */
  int32_t last_query; /* ATTENTION: 1: only the sequence's last query row (as FastV) */
  int32_t dtype;      /* ATTENTION: tailcut_dtype of q and k, required (as the next five) */
  const void *q;      /* ATTENTION: device [rows, q_heads, head_dim] */
  const void *k;      /* ATTENTION: device [rows, k_heads, head_dim] */
  int32_t q_heads;    /* a multiple of k_heads: head h reads key head h / (q_heads/k_heads) */
  int32_t k_heads;
  int32_t head_dim;           /* 1..1024. Logits are scaled by 1 / sqrt(head_dim) */
  int64_t q_row_stride;       /* elements; 0 means q_heads * head_dim */
  int64_t k_row_stride;       /* elements; 0 means k_heads * head_dim */
  int64_t q_head_stride;      /* elements; 0 means head_dim */
  int64_t k_head_stride;      /* elements; 0 means head_dim */
  int64_t q_segment_stride;   /* elements; 0 means max_tokens * row stride. Uniform only */
  int64_t k_segment_stride;   /* the same */
  int32_t head_reduction;     /* ATTENTION: tailcut_reduction of p over the heads, which is first;
                                 default MEAN */
  int32_t query_reduction;    /* ATTENTION: tailcut_reduction over the query rows, of what the heads
                                 gave; default MEAN. A row that does not see a key counts as 0 */
  const float *lse;           /* ATTENTION: device f32 [rows, q_heads], or NULL: computed here */
  int64_t lse_row_stride;     /* elements; 0 means q_heads. The next two as this: 0 without lse */
  int64_t lse_head_stride;    /* elements; 0 means 1. (FlashAttention has [q_heads, rows], and
                                 [segments, q_heads, max_tokens] where a batch is uniform) */
  int64_t lse_segment_stride; /* elements; 0 means max_tokens * row stride, which does not do for
                                 [segments, q_heads, max_tokens]. Uniform only */
} tailcut_relevance_options;
#define TAILCUT_RELEVANCE_OPTIONS_INITIALIZER                                                      \
  {                                                                                                \
    sizeof(tailcut_relevance_options), TAILCUT_MEAN_COSINE, 0, 0, 0, NULL, NULL, 0, 0, 0, 0, 0, 0, \
        0, 0, 0, TAILCUT_REDUCE_MEAN, TAILCUT_REDUCE_MEAN, NULL, 0, 0, 0                           \
  }

/* Relevance (part): how much each candidate row has to do with the query rows of its sequence.
 *   MEAN_COSINE  r_v = <v,u> / max(|v|, 1e-8), u the mean direction of the query rows, clamped to
 *                [-1,1]; NaN where |v| is not finite. Bits fixed as in tailcut_score
 *   MAX_COSINE   max over query rows t but v itself of the cosine of v and t (as in tailcut_score);
 *                NaN cosines are passed over while another is left. A candidate that is the only
 *                query row scores 0
 *   ATTENTION    p = softmax(q_t . k_j / sqrt(head_dim)) at key v, the softmax over the keys of the
 *                sequence (ABSENT rows are none), reduced over the heads and then over the query
 *                rows: the mean of both, unless options say MAX. No attention map is stored
 *   tokens   NULL is allowed for ATTENTION; required otherwise
 *   roles    device uint8 by row number: required
 *   options  NULL means the initialiser's
 *   scores   device f32 by row number; NaN for rows that are no candidates
 *   flags    device int32 [segments] or NULL, as in tailcut_score. A sequence without query rows,
 *            or (causal ATTENTION) with candidates of which no query sees any, scores 0 everywhere
 *            and has a bad reference; so has one whose mean direction is 0 or not finite. A segment
 *            without candidates has no flag
 * Required: batch, roles, scores. batch.prefix_rows must be 0. Errors as tailcut_score. */
TAILCUT_API tailcut_status tailcut_relevance(tailcut_handle handle, const tailcut_batch *batch,
                                             const tailcut_tokens *tokens, const uint8_t *roles,
                                             const tailcut_relevance_options *options,
                                             float *scores, int32_t *flags, void *workspace,
                                             size_t workspace_size, void *stream);

/* Prune a sequence inside a layer (fused): relevance, cut and compact of stage 2; equals the three
 * parts. All rows that are no candidates are kept. `rows` names the hidden states, position ids
 * (gathered: original positions kept; or RENUMBER) and the K/V rows of any earlier layers.
 * options and rule NULL mean the initialisers'. Required: batch, tokens (but with ATTENTION),
 * roles, selection with counts. Errors: as the parts. */
TAILCUT_API tailcut_status tailcut_prune_sequence(
    tailcut_handle handle, const tailcut_batch *batch, const tailcut_tokens *tokens,
    const uint8_t *roles, const tailcut_relevance_options *options, const tailcut_rule *rule,
    const tailcut_selection *selection, const tailcut_rows *rows, int32_t num_rows, void *workspace,
    size_t workspace_size, void *stream);

/* --------------------------------------------------------------- sizes, before there is data -- */

/* How many of a group's n candidates `rule` keeps: exact for RATIO and for TOPK without group_k, an
 * upper bound for the rest (n, or k, then the clamps). Needs no handle and no device; rule NULL
 * means the initialiser's. Returns -1 for a bad argument (see tailcut_last_error): n must be
 * 0..TAILCUT_MAX_SEGMENT_TOKENS. */
TAILCUT_API int32_t tailcut_kept_count(const tailcut_rule *rule, int32_t n);

typedef enum tailcut_call {
  TAILCUT_CALL_SCORE = 1,
  TAILCUT_CALL_MEAN_DIRECTION = 2,
  TAILCUT_CALL_CUT = 3,
  TAILCUT_CALL_COMPACT = 4,
  TAILCUT_CALL_RELEVANCE = 5,
  TAILCUT_CALL_PRUNE_VISUAL = 6,
  TAILCUT_CALL_PRUNE_SEQUENCE = 7,
  TAILCUT_CALL_MERGE = 8
} tailcut_call;

/* Host upper bounds for a workspace. */
typedef struct tailcut_limits {
  size_t struct_size;
  int32_t segments;     /* as tailcut_batch */
  int32_t max_tokens;   /* as tailcut_batch: rows, prefix rows included */
  int64_t total_tokens; /* as tailcut_batch; 0 means segments * max_tokens */
  int32_t dim;          /* scored channels; 0 where the call has no tokens */
  int32_t q_heads;      /* ATTENTION; otherwise 0 */
  int32_t head_dim;     /* ATTENTION; otherwise 0 */
  int32_t reserved;     /* not read: headers before 0.2 have padding here */
  int32_t groups;       /* as tailcut_batch; 0 where a segment is one group */
  int32_t window;       /* NOVELTY, merging: the window, at most 256 (a call's default of 0 is 64
                           here); otherwise 0 */
} tailcut_limits;
#define TAILCUT_LIMITS_INITIALIZER \
  { sizeof(tailcut_limits), 0, 0, 0, 0, 0, 0, 0, 0, 0 }

#define TAILCUT_WORKSPACE_ALIGNMENT 256

/* Bytes of workspace that one call of kind `call` (tailcut_call) needs when nothing in it exceeds
 * `limits`: a multiple of TAILCUT_WORKSPACE_ALIGNMENT, may be 0. Never decreases when a limit
 * grows. (NOVELTY and merging of rows too long for a block of a GPU add window * dim bytes for each
 * window that runs at a time there, at most one for each multiprocessor.) */
TAILCUT_API tailcut_status tailcut_workspace_size(tailcut_handle handle, int32_t call,
                                                  const tailcut_limits *limits, size_t *size);

/* Prepares fresh device memory to be a workspace: once before its first use, on the stream of that
 * use. Every call leaves it ready for the next; a workspace may serve calls of different kinds
 * and sizes one after the other. `workspace` must be aligned to TAILCUT_WORKSPACE_ALIGNMENT; it
 * may be NULL when size is 0. */
TAILCUT_API tailcut_status tailcut_workspace_init(tailcut_handle handle, void *workspace,
                                                  size_t workspace_size, void *stream);

/* ------------------------------------------------------------------- for other languages -- */

/* Each does what the struct's INITIALIZER macro does, for a struct of `struct_size` bytes: the size
 * in the header that the caller's definition was made from (sizeof in C), which may be older than
 * this library. Errors: NULL; STRUCT_SIZE where this library knows no such size, and nothing is
 * written. `version` is the TAILCUT_VERSION of that header. */
TAILCUT_API tailcut_status tailcut_config_init(tailcut_config *config, size_t struct_size,
                                               int32_t version);
TAILCUT_API tailcut_status tailcut_batch_init(tailcut_batch *batch, size_t struct_size);
TAILCUT_API tailcut_status tailcut_tokens_init(tailcut_tokens *tokens, size_t struct_size);
TAILCUT_API tailcut_status tailcut_reference_init(tailcut_reference *reference, size_t struct_size);
TAILCUT_API tailcut_status tailcut_rule_init(tailcut_rule *rule, size_t struct_size);
TAILCUT_API tailcut_status tailcut_selection_init(tailcut_selection *selection, size_t struct_size);
TAILCUT_API tailcut_status tailcut_merge_options_init(tailcut_merge_options *merge_options,
                                                      size_t struct_size);
TAILCUT_API tailcut_status tailcut_rotation_init(tailcut_rotation *rotation, size_t struct_size);
TAILCUT_API tailcut_status tailcut_rows_init(tailcut_rows *rows, size_t struct_size);
TAILCUT_API tailcut_status tailcut_relevance_options_init(tailcut_relevance_options *options,
                                                          size_t struct_size);
TAILCUT_API tailcut_status tailcut_limits_init(tailcut_limits *limits, size_t struct_size);

#ifdef __cplusplus
}
#endif

#endif /* TAILCUT_H_ */
