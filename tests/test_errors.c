/* SPDX-License-Identifier: Apache-2.0 */
/* errors: every bad argument of every run call gives its documented status and a message that
 * begins with the argument, and nothing is written. One row per mistake, tried on every call that
 * has the argument; a call without a mistake must succeed, so that each row is what fails it. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "backends.h"

enum {
  SCORE = 1 << TAILCUT_CALL_SCORE,
  DIRECTION = 1 << TAILCUT_CALL_MEAN_DIRECTION,
  CUT = 1 << TAILCUT_CALL_CUT,
  COMPACT = 1 << TAILCUT_CALL_COMPACT,
  RELEVANCE = 1 << TAILCUT_CALL_RELEVANCE,
  VISUAL = 1 << TAILCUT_CALL_PRUNE_VISUAL,
  SEQUENCE = 1 << TAILCUT_CALL_PRUNE_SEQUENCE,
  MERGE = 1 << TAILCUT_CALL_MERGE,
  ALL = 0x1FE,
  TOKENS = SCORE | DIRECTION | RELEVANCE | VISUAL | SEQUENCE | MERGE,
  REFERENCE = SCORE | VISUAL,
  RULE = CUT | VISUAL | SEQUENCE,
  LISTS = COMPACT | MERGE,
  ROWS = LISTS | VISUAL | SEQUENCE,
  STAGE2 = RELEVANCE | SEQUENCE
};

enum { SEGMENTS = 2, MOST = 5, TOTAL = SEGMENTS * MOST, DIM = 8, OUTPUTS = 12 };

/* Everything that any call takes; all valid at first. */
typedef struct args {
  const tt_backend *backend;
  tailcut_handle handle;
  tailcut_batch batch, *batch_p;
  tailcut_tokens tokens, *tokens_p;
  tailcut_reference reference, *reference_p;
  tailcut_rule rule;
  tailcut_selection selection, *selection_p;
  tailcut_relevance_options options;
  tailcut_merge_options merge;
  tailcut_rows rows[2], *rows_p;
  tailcut_rotation rotation; /* not used at first */
  int32_t num_rows, kept_placement;
  float *scores, *in_scores, *direction;
  uint8_t *roles;
  int32_t *flags, *input_flags, *kept, *counts, *new_cu;
  int32_t *some_offsets; /* valid device offsets, not used at first */
  void *heads;           /* q and k */
  void *workspace;
  size_t workspace_size;
  struct {
    void *data;
    size_t bytes;
  } outputs[OUTPUTS];
  int output_count;
  void *inputs[12];
  int input_count;
} args;

static void *input(args *a, const void *data, size_t bytes) {
  return a->inputs[a->input_count++] = tt_upload(a->backend, data, bytes, 0);
}

static void *output(args *a, size_t bytes) {
  a->outputs[a->output_count].bytes = bytes;
  return a->outputs[a->output_count++].data = tt_upload(a->backend, NULL, bytes, 0);
}

static void make(args *a, const tt_backend *backend, tailcut_handle handle) {
  static const tailcut_batch batch = TAILCUT_BATCH_INITIALIZER;
  static const tailcut_tokens tokens = TAILCUT_TOKENS_INITIALIZER;
  static const tailcut_reference reference = TAILCUT_REFERENCE_INITIALIZER;
  static const tailcut_rule rule = TAILCUT_RULE_INITIALIZER;
  static const tailcut_selection selection = TAILCUT_SELECTION_INITIALIZER;
  static const tailcut_relevance_options options = TAILCUT_RELEVANCE_OPTIONS_INITIALIZER;
  static const tailcut_merge_options merge = TAILCUT_MERGE_OPTIONS_INITIALIZER;
  static const tailcut_rows rows = TAILCUT_ROWS_INITIALIZER;
  static const uint8_t zeros[4096] = {0}, roles[TOTAL] = {1, 1, 1, 2, 0, 1, 1, 1, 1, 2};
  static const int32_t kept[TOTAL] = {0, 2, 9, 9, 9, 1}, counts[SEGMENTS] = {2, 1};
  static const int32_t new_cu[SEGMENTS + 1] = {0, 2, 3}, offsets[SEGMENTS + 1] = {0, 5, 10};
  memset(a, 0, sizeof *a);
  a->backend = backend;
  a->handle = handle;
  a->batch = batch, a->batch.segments = SEGMENTS, a->batch.max_tokens = MOST;
  a->tokens = tokens, a->tokens.dim = DIM, a->tokens.dtype = TAILCUT_F16;
  a->tokens.data = input(a, zeros, TOTAL * DIM * 2);
  a->reference = reference, a->reference.data = input(a, zeros, 64);
  a->rule = rule;
  a->options = options;
  a->merge = merge, a->merge.sizes_out = output(a, TOTAL * 4);
  a->kept_placement = TAILCUT_LOCAL;
  a->scores = output(a, TOTAL * 4);
  a->direction = output(a, SEGMENTS * DIM * 4);
  a->flags = output(a, SEGMENTS * 4);
  a->selection = selection;
  a->selection.counts = output(a, SEGMENTS * 4);
  a->selection.kept = output(a, TOTAL * 4);
  a->selection.new_cu_seqlens = output(a, SEGMENTS * 4 + 4);
  a->selection.flags = output(a, SEGMENTS * 4);
  a->selection.curve = output(a, TOTAL * 4);
  a->selection.ranks = output(a, TOTAL * 4);
  a->in_scores = input(a, zeros, TOTAL * 4);
  a->roles = input(a, roles, TOTAL);
  a->input_flags = input(a, zeros, SEGMENTS * 4);
  a->kept = input(a, kept, sizeof kept);
  a->counts = input(a, counts, sizeof counts);
  a->new_cu = input(a, new_cu, sizeof new_cu);
  a->some_offsets = input(a, offsets, sizeof offsets);
  a->heads = input(a, zeros, 2048);
  /* One array in place, one PACKED. */
  a->rows[0] = rows, a->rows[0].part_bytes = 8;
  a->rows[0].src = a->rows[0].dst = output(a, TOTAL * 8);
  a->rows[1] = rows, a->rows[1].part_bytes = 4, a->rows[1].placement = TAILCUT_PACKED;
  a->rows[1].src = input(a, zeros, TOTAL * 4);
  a->rows[1].dst = output(a, TOTAL * 4);
  a->num_rows = 2;
  a->batch_p = &a->batch, a->tokens_p = &a->tokens, a->reference_p = &a->reference;
  a->selection_p = &a->selection, a->rows_p = a->rows;
  tailcut_limits limits = TAILCUT_LIMITS_INITIALIZER;
  limits.segments = SEGMENTS, limits.max_tokens = MOST, limits.dim = DIM;
  limits.q_heads = 2, limits.head_dim = 4, limits.window = 64;
  for (int32_t call = 1; call <= TAILCUT_CALL_MERGE; call++) {
    size_t size;
    cr_assert_eq(tailcut_workspace_size(handle, call, &limits, &size), TAILCUT_OK);
    if (size > a->workspace_size) a->workspace_size = size;
  }
  a->workspace = tt_upload(backend, NULL, a->workspace_size, 0);
  cr_assert_eq(tailcut_workspace_init(handle, a->workspace, a->workspace_size, NULL), TAILCUT_OK);
}

static void drop(args *a) {
  for (int i = 0; i < a->input_count; i++) tt_free(a->backend, a->inputs[i]);
  for (int i = 0; i < a->output_count; i++) tt_free(a->backend, a->outputs[i].data);
}

static tailcut_status call(int32_t kind, args *a) {
  void *w = a->workspace;
  const size_t size = a->workspace_size;
  switch (kind) {
    case TAILCUT_CALL_SCORE:
      return tailcut_score(a->handle, a->batch_p, a->tokens_p, a->reference_p, a->scores, a->flags,
                           w, size, NULL);
    case TAILCUT_CALL_MEAN_DIRECTION:
      return tailcut_mean_direction(a->handle, a->batch_p, a->tokens_p, a->roles, a->direction, w,
                                    size, NULL);
    case TAILCUT_CALL_CUT:
      return tailcut_cut(a->handle, a->batch_p, a->in_scores, a->roles, a->input_flags, &a->rule,
                         a->selection_p, w, size, NULL);
    case TAILCUT_CALL_COMPACT:
      return tailcut_compact(a->handle, a->batch_p, a->kept, a->kept_placement, a->counts,
                             a->new_cu, a->rows_p, a->num_rows, w, size, NULL);
    case TAILCUT_CALL_MERGE:
      return tailcut_merge(a->handle, a->batch_p, a->tokens_p, a->kept, a->kept_placement,
                           a->counts, a->new_cu, &a->merge, a->rows_p, a->num_rows, w, size, NULL);
    case TAILCUT_CALL_RELEVANCE:
      return tailcut_relevance(a->handle, a->batch_p, a->tokens_p, a->roles, &a->options, a->scores,
                               a->flags, w, size, NULL);
    case TAILCUT_CALL_PRUNE_VISUAL:
      return tailcut_prune_visual(a->handle, a->batch_p, a->tokens_p, a->reference_p, &a->rule,
                                  a->selection_p, a->rows_p, a->num_rows, w, size, NULL);
    default:
      return tailcut_prune_sequence(a->handle, a->batch_p, a->tokens_p, a->roles, &a->options,
                                    &a->rule, a->selection_p, a->rows_p, a->num_rows, w, size,
                                    NULL);
  }
}

#include "error_rows.h"

/* The argument by its whole name: rows[0].dst is not rows[0].dst_rows. */
static int begins(const char *message, const char *begin) {
  const size_t length = strlen(begin);
  if (length == 0) return message[0] != '\0';
  return strncmp(message, begin, length) == 0 && strchr(" ;", message[length]) != NULL;
}

/* "48 to 48" tells nobody anything. */
static int names_one_number_twice(const char *message) {
  const char *to = strstr(message, " to ");
  const char *from = to;
  if (to == NULL) return 0;
  while (from > message && from[-1] != ' ') from--;
  const size_t length = (size_t)(to - from);
  return strncmp(from, to + 4, length) == 0 && strchr("0123456789", to[4 + length]) == NULL;
}

static int is_untouched(const args *a) {
  uint8_t bytes[512];
  for (int i = 0; i < a->output_count; i++) {
    tt_download(a->backend, bytes, a->outputs[i].data, a->outputs[i].bytes);
    for (size_t j = 0; j < a->outputs[i].bytes; j++) {
      if (bytes[j] != TT_POISON) return 0;
    }
  }
  return 1;
}

Test(errors, every_bad_argument) {
  int count, tried = 0;
  const tt_backend *backend = tt_backends(&count); /* checks are the host's: one is enough */
  tailcut_handle handle = tt_create(backend);
  args a;
  mistake m;
  for (int32_t kind = 1; kind <= TAILCUT_CALL_MERGE; kind++) {
    make(&a, backend, handle);
    void *workspace = a.workspace;
    cr_assert_eq(call(kind, &a), TAILCUT_OK, "call %d without a mistake: %s", kind,
                 tailcut_last_error());
    cr_assert_str_eq(tailcut_last_error(), "");
    tt_free(backend, workspace);
    drop(&a);
    for (int n = 0;; n++) {
      make(&a, backend, handle);
      workspace = a.workspace;
      const int more = apply(n, &a, &m);
      if (more && (m.calls & 1 << kind)) {
        const tailcut_status status = call(kind, &a);
        const char *message = tailcut_last_error();
        cr_expect_eq(status, m.status, "call %d, %s: %s, expected %s (%s)", kind, m.code,
                     tailcut_status_string(status), tailcut_status_string(m.status), message);
        cr_expect(begins(message, m.begin), "call %d, %s: '%s' does not begin with %s", kind,
                  m.code, message, m.begin);
        cr_expect(!names_one_number_twice(message), "call %d, %s: '%s'", kind, m.code, message);
        cr_expect(is_untouched(&a), "call %d, %s: something was written", kind, m.code);
        tried++;
      }
      tt_free(backend, workspace);
      drop(&a);
      if (!more) break;
    }
  }
  tailcut_destroy(handle);
  printf("%d mistakes tried\n", tried);
  cr_assert_gt(tried, 500);
}

/* Strides that no row is reached by do not matter, however large: none may overflow either. */
Test(errors, strides_that_are_not_used) {
  int count;
  const tt_backend *backend = tt_backends(&count);
  tailcut_handle handle = tt_create(backend);
  for (int32_t kind = 1; kind <= TAILCUT_CALL_MERGE; kind++) {
    static const int32_t none[SEGMENTS + 1] = {0, 0, 0};
    args a;
    make(&a, backend, handle);
    void *workspace = a.workspace;
    use_offsets(&a);
    use_attention(&a);
    a.batch.total_tokens = 1;
    a.batch.cu_seqlens = tt_upload(backend, none, sizeof none, 0);
    a.tokens.row_stride = a.options.q_row_stride = a.options.k_row_stride = INT64_MAX / 16;
    a.rows[1].dst_slots = a.some_offsets, a.rows[1].page_rows = INT64_MAX,
    a.rows[1].page_stride = INT64_MAX;
    a.rows[1].part_bytes = 2, a.rows[1].parts = 2, a.rows[1].dst_row_stride = 4;
    a.rows[1].dst_part_stride = INT64_MAX / 8; /* parts lie in planes */
    const tailcut_status status = call(kind, &a);
    if (ROWS & 1 << kind) { /* planes and rows that meet */
      cr_expect_eq(status, TAILCUT_ERROR_OVERLAP, "call %d: %s", kind, tailcut_last_error());
    } else {
      cr_expect_eq(status, TAILCUT_OK, "call %d: %s", kind, tailcut_last_error());
    }
    tt_free(backend, (void *)(uintptr_t)a.batch.cu_seqlens);
    tt_free(backend, workspace);
    drop(&a);
  }
  tailcut_destroy(handle);
}
