/* SPDX-License-Identifier: Apache-2.0 */
/* What the rooms of the library share: the handle, the backend table, a validated call. */
#ifndef TAILCUT_INTERNAL_H_
#define TAILCUT_INTERNAL_H_

#include <stdio.h>
#include <string.h>

#include "exact.h"
#include "tailcut.h"

/* The arguments of any run call after validation: structs are whole, defaults filled in, strides
 * explicit. What a call kind does not use is zero. */
typedef struct tc_call {
  tailcut_batch batch; /* total_tokens is the number of rows, uniform or ragged */
  tailcut_tokens tokens;
  tailcut_reference reference;
  tailcut_rule rule; /* scale is UNIT or AUTO */
  tailcut_selection selection;
  tailcut_relevance_options options;
  tailcut_merge_options merge; /* window 0: dropped rows are lost */
  const uint8_t *roles;
  const float *in_scores;
  const int32_t *input_flags;
  float *out_scores;
  int32_t *out_flags;
  float *direction;
  const int32_t *kept;
  int32_t kept_placement;
  const int32_t *counts;
  const int32_t *new_cu_seqlens;
  const tailcut_rows *rows; /* raw: read entry i with tc_rows_at */
  int32_t num_rows;
  int32_t rotations;   /* of them with a rotation; those come first */
  int64_t room_local;  /* rows that a destination has room for where dst_rows is 0: per segment, */
  int64_t room_packed; /* in all */
  int64_t most_local;  /* candidates at most: of a segment, */
  int64_t most_packed; /* of the batch; no result has more rows */
  void *workspace;
  size_t workspace_size;
  void *stream;
} tc_call;

enum { TC_LAST_CALL = TAILCUT_CALL_MERGE };

typedef struct tc_backend {
  const char *name;
  int32_t device_kind;
  tailcut_status (*create)(tailcut_handle handle, const tailcut_config *config);
  void (*destroy)(tailcut_handle handle);
  size_t (*workspace_size)(tailcut_handle handle, int32_t call, const tailcut_limits *limits);
  tailcut_status (*workspace_init)(tailcut_handle handle, void *workspace, size_t size,
                                   void *stream);
  /* One entry per tailcut_call, indexed by it; [0] is unused. */
  tailcut_status (*run[TC_LAST_CALL + 1])(tailcut_handle handle, const tc_call *call);
  /* TAILCUT_DEBUG: copies device memory to the host behind what is on the stream, and waits.
   * UNSUPPORTED where the stream is being captured. */
  tailcut_status (*read)(tailcut_handle handle, void *host, const void *device, size_t bytes,
                         void *stream);
} tc_backend;

struct tailcut_handle_s {
  const tc_backend *backend;
  void *state; /* the backend's own */
  int32_t threads;
  char info[512]; /* JSON, written by the backend's create */
  int32_t log_level;
  FILE *log_file;
  int32_t debug_slots; /* TAILCUT_DEBUG=slots */
};

const tc_backend *tc_backend_find(int32_t device_kind);
extern const tc_backend tc_backend_cpu;
#if defined(TAILCUT_HAVE_CUDA)
extern const tc_backend tc_backend_cuda;
#endif

/* status.c. tc_fail keeps the message for the calling thread and returns `status`. */
#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
tailcut_status
tc_fail(tailcut_status status, const char *format, ...);
void tc_clear_error(void);

/* log.c */
enum { TC_LOG_OFF = 0, TC_LOG_ERROR = 1, TC_LOG_INFO = 2, TC_LOG_DEBUG = 3 };
tailcut_status tc_log_open(tailcut_handle handle);
void tc_log_close(tailcut_handle handle);
#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
void tc_log(tailcut_handle handle, int32_t level, const char *format, ...);

/* debug.c: TAILCUT_DEBUG; and the check of the slots of a call that is sound otherwise. */
tailcut_status tc_debug_open(tailcut_handle handle);
tailcut_status tc_debug_check_slots(tailcut_handle handle, const tc_call *call);

/* validate.c, rule.c: each copies a caller's struct of any known size over the defaults, checks it,
 * fills in what is left to default. */
tailcut_status tc_check_batch(const tailcut_batch *in, tailcut_batch *out);
tailcut_status tc_check_tokens(const tailcut_tokens *in, const tailcut_batch *batch,
                               tailcut_tokens *out);
tailcut_status tc_check_reference(const tailcut_reference *in, const tailcut_batch *batch,
                                  const tailcut_tokens *tokens, tailcut_reference *out);
/* A window of NOVELTY or merging, 0 meaning `fallback`; and that the tokens are not too wide. */
tailcut_status tc_check_window(const char *name, int32_t *window, int32_t fallback,
                               const tailcut_tokens *tokens);
tailcut_status tc_check_rule(const tailcut_rule *in, tailcut_rule *out);
tailcut_status tc_check_selection(const tailcut_selection *in, const tailcut_batch *batch,
                                  tailcut_selection *out);
tailcut_status tc_check_options(const tailcut_relevance_options *in, const tailcut_batch *batch,
                                tailcut_relevance_options *out);
/* `source`: the scores' reference in a fused call, or NULL. */
tailcut_status tc_check_merge(const char *name, const tailcut_merge_options *in,
                              const tailcut_tokens *tokens, const tailcut_reference *source,
                              tailcut_merge_options *out);
tailcut_status tc_check_limits(const tailcut_limits *in, tailcut_limits *out);
tailcut_status tc_check_config(const tailcut_config *in, tailcut_config *out);
/* sizing.c: tailcut_kept_count of a checked rule. */
int32_t tc_kept_count(const tailcut_rule *rule, int32_t n);
/* validate_rows.c: checks `rows` for the call, whose batch (and rule, where it cuts) is there, and
 * puts them into it. */
tailcut_status tc_check_rows(tc_call *call, const tailcut_rows *rows, int32_t num_rows);
/* Entry i of a call's checked rows, whole and with explicit strides and dst_rows. */
tailcut_rows tc_rows_at(const tc_call *call, int32_t i);
/* Whether entry i of a checked call of stage 1, moved segment by segment, leaves alone what is read
 * of other segments before: their tokens, and a reference that is given. */
int tc_rows_keep_apart(const tc_call *call, int32_t i);
/* The rotation of a checked entry that has one, whole. */
#define TC_MOST_ROTARY 1024
static inline tailcut_rotation tc_rotation_of(const tailcut_rows *rows) {
  tailcut_rotation rotation = TAILCUT_ROTATION_INITIALIZER;
  memcpy(&rotation, rows->rotation, rows->rotation->struct_size);
  return rotation;
}

/* The bounds of a call, as workspaces are sized by them. */
static inline tailcut_limits tc_call_limits(const tc_call *call) {
  tailcut_limits limits = TAILCUT_LIMITS_INITIALIZER;
  limits.segments = call->batch.segments;
  limits.max_tokens = call->batch.max_tokens;
  limits.total_tokens = call->batch.total_tokens;
  limits.dim = call->tokens.dim;
  limits.groups = call->batch.groups;
  limits.window = call->merge.window > 0 ? call->merge.window : call->reference.window;
  if (call->options.policy == TAILCUT_ATTENTION) {
    limits.q_heads = call->options.q_heads;
    limits.head_dim = call->options.head_dim;
  }
  return limits;
}

static inline int32_t tc_dtype_size(int32_t dtype) { return dtype == TAILCUT_F32 ? 4 : 2; }

#endif /* TAILCUT_INTERNAL_H_ */
