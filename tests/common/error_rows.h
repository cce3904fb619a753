/* SPDX-License-Identifier: Apache-2.0 */
/* error_rows: the mistakes of test_errors.c, one per row: the calls that must refuse it, the
 * status, how the message begins (the argument, and where it was left out "is not set"), what is
 * wrong. */
#ifndef TAILCUT_TESTS_ERROR_ROWS_H_
#define TAILCUT_TESTS_ERROR_ROWS_H_

typedef struct mistake {
  int calls;
  tailcut_status status;
  const char *begin, *code;
} mistake;

#define ODD(pointer) (void *)((uintptr_t)(pointer) + 1)
#define HALF(pointer) (void *)((uintptr_t)(pointer) + 2)

/* Options of a valid ATTENTION call. */
static inline void use_attention(args *a) {
  a->options.policy = TAILCUT_ATTENTION, a->options.dtype = TAILCUT_F16;
  a->options.q = a->options.k = a->heads;
  a->options.q_heads = 2, a->options.k_heads = 1, a->options.head_dim = 4;
}

static inline void use_lse(args *a) {
  use_attention(a);
  a->options.lse = (const float *)a->heads;
}

static inline void use_offsets(args *a) {
  a->batch.cu_seqlens = a->some_offsets;
  a->batch.total_tokens = TOTAL;
}

static inline void use_groups(args *a) {
  a->batch.group_cu_seqlens = a->some_offsets;
  a->batch.groups = SEGMENTS;
}

static inline void use_lag(args *a) {
  a->reference.source = TAILCUT_REFERENCE_LAG, a->reference.data = NULL;
  a->reference.lag = 2;
}

static inline void use_novelty(args *a) {
  a->reference.source = TAILCUT_REFERENCE_NOVELTY, a->reference.data = NULL;
}

/* Array 1 is merged; of a call that merges nothing but this. */
static inline void use_merge(args *a) {
  a->selection.merge = &a->merge;
  a->rows[1].flags = TAILCUT_ROWS_MERGE, a->rows[1].dtype = TAILCUT_F16;
}

/* Array 1 through slots into pages of 4 rows. */
static inline void use_slots(args *a) {
  a->rows[1].dst_slots = a->some_offsets;
  a->rows[1].page_rows = 4, a->rows[1].page_stride = 16;
}

/* Array 0 as K/V [B, H, T, d]: two heads of 4 bytes, rows of a head one after the other. */
static inline void use_heads(args *a, int64_t src_segment_stride, int64_t dst_segment_stride) {
  tailcut_rows *r = &a->rows[0];
  r->part_bytes = 4, r->parts = 2;
  r->src_part_stride = r->dst_part_stride = 4 * MOST, r->src_row_stride = r->dst_row_stride = 4;
  r->src_segment_stride = src_segment_stride, r->dst_segment_stride = dst_segment_stride;
}

/* Array 0 as rows of two pairs of fp16 keys, in place. */
static inline void use_rotation(args *a) {
  static const tailcut_rotation rotation = TAILCUT_ROTATION_INITIALIZER;
  a->rotation = rotation;
  a->rotation.dtype = TAILCUT_F16, a->rotation.rotary_dim = 4;
  a->rotation.inv_freq = (const float *)a->heads;
  a->rows[0].rotation = &a->rotation;
}

static inline void use_table(args *a) {
  use_rotation(a);
  a->rotation.inv_freq = NULL, a->rotation.cos_sin = (const float *)a->heads;
  a->rotation.table_rows = 9;
}

/* Applies mistake number n; 0 when there are no more. */
static inline int apply(int n, args *a, mistake *m) {
  int i = 0;
#define X(where, what, name, ...)                                    \
  if (i++ == n) {                                                    \
    *m = (mistake){where, TAILCUT_ERROR_##what, name, #__VA_ARGS__}; \
    __VA_ARGS__;                                                     \
    return 1;                                                        \
  }
  /* clang-format off */
  X(ALL, NULL, "handle", a->handle = NULL)
  X(ALL, NULL, "batch", a->batch_p = NULL)
  X(ALL, STRUCT_SIZE, "batch->struct_size is not set", a->batch.struct_size = 0)
  X(ALL, STRUCT_SIZE, "batch->struct_size", a->batch.struct_size = 40)
  X(ALL, STRUCT_SIZE, "batch->struct_size", a->batch.struct_size -= 4)
  X(ALL, STRUCT_SIZE, "batch->struct_size", a->batch.struct_size += 8)
  X(ALL, RANGE, "batch->segments", a->batch.segments = -1)
  X(ALL, RANGE, "batch->max_tokens", a->batch.max_tokens = -1)
  X(ALL, RANGE, "batch->max_tokens", a->batch.max_tokens = TAILCUT_MAX_SEGMENT_TOKENS + 1)
  X(REFERENCE | LISTS, RANGE, "batch->max_tokens", a->batch.prefix_rows = 1,
    a->batch.max_tokens = TAILCUT_MAX_SEGMENT_TOKENS + 2)
  X(ALL, RANGE, "batch->total_tokens", a->batch.segments = 4096, a->batch.max_tokens = 1 << 20)
  X(ALL, CONFLICT, "batch->total_tokens", a->batch.total_tokens = TOTAL + 1)
  X(ALL, CONFLICT, "batch->total_tokens", a->batch.total_tokens = -1)
  X(ALL, RANGE, "batch->total_tokens", use_offsets(a), a->batch.total_tokens = -1)
  X(ALL, RANGE, "batch->total_tokens", use_offsets(a),
    a->batch.total_tokens = (int64_t)INT32_MAX + 1)
  X(ALL, RANGE, "batch->prefix_rows", a->batch.prefix_rows = TAILCUT_MAX_SEGMENT_TOKENS + 1)
  X(ALL, RANGE, "batch->prefix_rows", a->batch.prefix_rows = -1)
  X(ALL, ALIGNMENT, "batch->cu_seqlens", a->batch.cu_seqlens = HALF(a->some_offsets))
  X(ALL, ALIGNMENT, "batch->lengths", a->batch.lengths = ODD(a->some_offsets))
  X(ALL, CONFLICT, "batch->lengths", use_offsets(a), a->batch.lengths = a->some_offsets)
  X(ALL, RANGE, "batch->groups", use_groups(a), a->batch.groups = -1)
  X(ALL, RANGE, "batch->groups", use_groups(a), a->batch.groups = INT32_MAX)
  X(ALL, RANGE, "batch->groups is not set", use_groups(a), a->batch.groups = 0)
  X(ALL, NULL, "batch->group_cu_seqlens", a->batch.groups = 1)
  X(ALL, ALIGNMENT, "batch->group_cu_seqlens", use_groups(a),
    a->batch.group_cu_seqlens = HALF(a->some_offsets))
  X(ALL, WORKSPACE, "workspace", a->workspace = NULL)
  X(ALL, WORKSPACE, "workspace", a->workspace = (char *)a->workspace + 128)
  X(ALL, WORKSPACE, "workspace_size", a->workspace_size = 1)
  X(ALL, WORKSPACE, "workspace_size", a->workspace_size = 0)
  /* tokens */
  X(TOKENS, NULL, "tokens", a->tokens_p = NULL)
  X(TOKENS, STRUCT_SIZE, "tokens->struct_size", a->tokens.struct_size = 1)
  X(TOKENS, STRUCT_SIZE, "tokens->struct_size", a->tokens.struct_size = SIZE_MAX)
  X(TOKENS, ENUM, "tokens->dtype is not set", a->tokens.dtype = 0)
  X(TOKENS, ENUM, "tokens->dtype", a->tokens.dtype = 4)
  X(TOKENS, RANGE, "tokens->dim is not set", a->tokens.dim = 0)
  X(TOKENS, RANGE, "tokens->dim", a->tokens.dim = -8)
  X(TOKENS, NULL, "tokens->data", a->tokens.data = NULL)
  X(TOKENS, ALIGNMENT, "tokens->data", a->tokens.data = ODD(a->tokens.data))
  X(TOKENS, ALIGNMENT, "tokens->data", a->tokens.dtype = TAILCUT_F32,
    a->tokens.data = HALF(a->tokens.data))
  X(TOKENS, RANGE, "tokens->row_stride", a->tokens.row_stride = DIM - 1)
  X(TOKENS, RANGE, "tokens->row_stride", a->tokens.row_stride = -DIM)
  X(TOKENS, RANGE, "tokens->row_stride", a->tokens.row_stride = INT64_MAX / 4)
  X(TOKENS, RANGE, "tokens->segment_stride", a->tokens.segment_stride = -1)
  X(TOKENS, RANGE, "tokens->segment_stride", a->tokens.segment_stride = INT64_MAX / 2)
  X(TOKENS, CONFLICT, "tokens->segment_stride", use_offsets(a), a->tokens.segment_stride = 40)
  /* reference */
  X(REFERENCE, NULL, "reference", a->reference_p = NULL)
  X(REFERENCE, STRUCT_SIZE, "reference->struct_size is not set", a->reference.struct_size = 0)
  X(REFERENCE, ENUM, "reference->source is not set", a->reference.source = 0)
  X(REFERENCE, ENUM, "reference->source", a->reference.source = 6)
  X(REFERENCE, CONFLICT, "reference->data", a->reference.source = TAILCUT_REFERENCE_MEAN)
  X(REFERENCE, CONFLICT, "reference->data", a->reference.source = TAILCUT_REFERENCE_ROW,
    a->batch.prefix_rows = 1)
  X(REFERENCE, CONFLICT, "batch->prefix_rows", a->reference.source = TAILCUT_REFERENCE_ROW,
    a->reference.data = NULL)
  X(REFERENCE, ENUM, "reference->dtype", a->reference.dtype = TAILCUT_BF16)
  X(REFERENCE, ENUM, "reference->dtype", a->reference.dtype = 7)
  X(REFERENCE, NULL, "reference->data", a->reference.data = NULL)
  X(REFERENCE, ALIGNMENT, "reference->data", a->reference.data = ODD(a->reference.data))
  X(REFERENCE, ALIGNMENT, "reference->data", a->reference.dtype = TAILCUT_F32,
    a->reference.data = HALF(a->reference.data))
  X(REFERENCE, RANGE, "reference->segment_stride", a->reference.segment_stride = DIM - 1)
  X(REFERENCE, RANGE, "reference->segment_stride", a->reference.segment_stride = -DIM)
  X(REFERENCE, CONFLICT, "reference->lag", a->reference.lag = 2)
  X(REFERENCE, CONFLICT, "reference->lag", use_lag(a), a->reference.source = TAILCUT_REFERENCE_MEAN)
  X(REFERENCE, RANGE, "reference->lag is not set", use_lag(a), a->reference.lag = 0)
  X(REFERENCE, RANGE, "reference->lag", use_lag(a), a->reference.lag = -1)
  X(REFERENCE, CONFLICT, "reference->data", use_lag(a), a->reference.data = a->tokens.data)
  X(REFERENCE, CONFLICT, "reference->window", a->reference.window = 64)
  X(REFERENCE, RANGE, "reference->window", use_novelty(a), a->reference.window = 65)
  X(REFERENCE, RANGE, "reference->window", use_novelty(a), a->reference.window = -64)
  X(REFERENCE, CONFLICT, "reference->data", use_novelty(a), a->reference.data = a->tokens.data)
  X(REFERENCE, CONFLICT, "reference->lag", use_novelty(a), a->reference.lag = 1)
  X(REFERENCE, RANGE, "tokens->dim", use_novelty(a), a->tokens.dim = TAILCUT_MAX_NOVELTY_DIM + 1)
  /* what only one part takes */
  X(SCORE | RELEVANCE, NULL, "scores", a->scores = NULL)
  X(SCORE | RELEVANCE, ALIGNMENT, "scores", a->scores = ODD(a->scores))
  X(SCORE | RELEVANCE, ALIGNMENT, "flags", a->flags = HALF(a->flags))
  X(DIRECTION, NULL, "direction", a->direction = NULL)
  X(DIRECTION, ALIGNMENT, "direction", a->direction = ODD(a->direction))
  X(DIRECTION | CUT | STAGE2, CONFLICT, "batch->prefix_rows", a->batch.prefix_rows = 1)
  X(CUT, NULL, "scores", a->in_scores = NULL)
  X(CUT, ALIGNMENT, "scores", a->in_scores = HALF(a->in_scores))
  X(CUT, ALIGNMENT, "input_flags", a->input_flags = ODD(a->input_flags))
  X(CUT, CONFLICT, "selection->scores", a->selection.scores = a->scores)
  X(LISTS, NULL, "kept", a->kept = NULL)
  X(LISTS, ALIGNMENT, "kept", a->kept = ODD(a->kept))
  X(LISTS, ENUM, "kept_placement", a->kept_placement = 0)
  X(LISTS, ENUM, "kept_placement", a->kept_placement = 3)
  X(LISTS, NULL, "counts", a->counts = NULL)
  X(LISTS, ALIGNMENT, "counts", a->counts = HALF(a->counts))
  X(LISTS, ALIGNMENT, "new_cu_seqlens", a->new_cu = ODD(a->new_cu))
  X(LISTS, NULL, "new_cu_seqlens", a->new_cu = NULL)
  X(LISTS, NULL, "new_cu_seqlens", a->new_cu = NULL, a->num_rows = 1,
    a->kept_placement = TAILCUT_PACKED)
  X(STAGE2, NULL, "roles", a->roles = NULL)
  /* rule */
  X(RULE, STRUCT_SIZE, "rule->struct_size", a->rule.struct_size = 4)
  X(RULE, STRUCT_SIZE, "rule->struct_size",
    a->rule.struct_size = offsetof(tailcut_rule, group_k) + 4)
  X(RULE, ENUM, "rule->detector is not set", a->rule.detector = 0)
  X(RULE, ENUM, "rule->detector", a->rule.detector = TAILCUT_RATIO + 1)
  X(RULE, ENUM, "rule->scale", a->rule.scale = -1)
  X(RULE, ENUM, "rule->scale", a->rule.scale = 3)
  X(RULE, ENUM, "rule->rounding is not set", a->rule.rounding = 0)
  X(RULE, ENUM, "rule->rounding", a->rule.rounding = 7)
  X(RULE, ENUM, "rule->order is not set", a->rule.order = 0)
  X(RULE, ENUM, "rule->order", a->rule.order = 3)
  X(RULE, CONFLICT, "rule->group_k", a->rule.group_k = a->counts)
  X(RULE, CONFLICT, "rule->group_k", a->rule.detector = TAILCUT_RATIO, a->rule.ratio = 0.5,
    a->rule.group_k = a->counts)
  X(RULE, ALIGNMENT, "rule->group_k", a->rule.detector = TAILCUT_TOPK, a->rule.k = 2,
    a->rule.group_k = HALF(a->counts))
  X(RULE, RANGE, "rule->k is not set", a->rule.detector = TAILCUT_TOPK, a->rule.group_k = a->counts)
  X(RULE, RANGE, "rule->k is not set", a->rule.detector = TAILCUT_TOPK)
  X(RULE, RANGE, "rule->k", a->rule.detector = TAILCUT_TOPK, a->rule.k = 0)
  X(RULE, RANGE, "rule->ratio is not set", a->rule.detector = TAILCUT_RATIO)
  X(RULE, RANGE, "rule->ratio", a->rule.detector = TAILCUT_RATIO, a->rule.ratio = -0.01)
  X(RULE, RANGE, "rule->ratio", a->rule.detector = TAILCUT_RATIO, a->rule.ratio = 1.01)
  X(RULE, RANGE, "rule->percent is not set", a->rule.detector = TAILCUT_RATIO,
    a->rule.rounding = TAILCUT_DROP_PERCENT)
  X(RULE, RANGE, "rule->percent", a->rule.detector = TAILCUT_RATIO,
    a->rule.rounding = TAILCUT_DROP_PERCENT, a->rule.percent = 101)
  X(RULE, RANGE, "rule->tau is not set", a->rule.detector = TAILCUT_THRESHOLD)
  X(RULE, RANGE, "rule->tau", a->rule.detector = TAILCUT_THRESHOLD, a->rule.tau = INFINITY)
  X(RULE, RANGE, "rule->window", a->rule.window = -1)
  X(RULE, RANGE, "rule->lambda", a->rule.lambda = NAN)
  X(RULE, RANGE, "rule->lambda", a->rule.lambda = -INFINITY)
  X(RULE, RANGE, "rule->mass", a->rule.mass = 0.0)
  X(RULE, RANGE, "rule->mass", a->rule.mass = 1.0000001)
  X(RULE, RANGE, "rule->mass", a->rule.mass = NAN)
  X(RULE, RANGE, "rule->min_keep", a->rule.min_keep = -1)
  X(RULE, RANGE, "rule->max_keep", a->rule.max_keep = 0)
  X(RULE, RANGE, "rule->max_keep", a->rule.max_keep = -2)
  X(RULE, RANGE, "rule->round_to", a->rule.round_to = 0)
  X(RULE, RANGE, "rule->search_lo", a->rule.search_lo = -0.1)
  X(RULE, RANGE, "rule->search_lo", a->rule.search_lo = NAN)
  X(RULE, RANGE, "rule->search_hi", a->rule.search_hi = 1.1)
  X(RULE, RANGE, "rule->search_lo", a->rule.search_lo = 0.5, a->rule.search_hi = 0.5)
  X(RULE, RANGE, "rule->spread", a->rule.spread = -0.1)
  X(RULE, RANGE, "rule->spread", a->rule.spread = 1.1)
  X(RULE, RANGE, "rule->spread", a->rule.spread = NAN)
  /* selection */
  X(RULE, NULL, "selection", a->selection_p = NULL)
  X(RULE, STRUCT_SIZE, "selection->struct_size is not set", a->selection.struct_size = 0)
  X(RULE, NULL, "selection->counts", a->selection.counts = NULL)
  X(RULE, ENUM, "selection->kept_placement is not set", a->selection.kept_placement = 0)
  X(RULE, ENUM, "selection->kept_placement", a->selection.kept_placement = 3)
  X(RULE, ALIGNMENT, "selection->counts", a->selection.counts = ODD(a->selection.counts))
  X(RULE, ALIGNMENT, "selection->kept", a->selection.kept = ODD(a->selection.kept))
  X(RULE, ALIGNMENT, "selection->new_cu_seqlens",
    a->selection.new_cu_seqlens = ODD(a->selection.new_cu_seqlens))
  X(RULE, ALIGNMENT, "selection->flags", a->selection.flags = HALF(a->selection.flags))
  X(RULE, ALIGNMENT, "selection->scores", a->selection.scores = ODD(a->scores))
  X(RULE, ALIGNMENT, "selection->curve", a->selection.curve = ODD(a->selection.curve))
  X(RULE, ALIGNMENT, "selection->ranks", a->selection.ranks = ODD(a->selection.ranks))
  X(RULE, ALIGNMENT, "selection->host_counts", a->selection.host_counts = HALF(a->flags))
  X(RULE, CONFLICT, "selection->group_counts", a->selection.group_counts = a->flags)
  X(RULE, ALIGNMENT, "selection->group_counts", use_groups(a),
    a->selection.group_counts = HALF(a->flags))
  /* rows */
  X(ROWS, RANGE, "num_rows", a->num_rows = -1)
  X(ROWS, NULL, "rows", a->rows_p = NULL)
  X(ROWS, STRUCT_SIZE, "rows[0].struct_size is not set", a->rows[0].struct_size = 0)
  X(ROWS, STRUCT_SIZE, "rows[1].struct_size is not set", a->rows[1].struct_size = 0)
  X(ROWS, STRUCT_SIZE, "rows[1].struct_size",
    a->rows[1].struct_size = offsetof(tailcut_rows, dst_rows))
  X(ROWS, STRUCT_SIZE, "rows[0].struct_size", a->rows[0].struct_size -= 4)
  X(ROWS, STRUCT_SIZE, "rows[1].struct_size", a->rows[1].struct_size += 8)
  X(ROWS, RANGE, "rows[0].part_bytes is not set", a->rows[0].part_bytes = 0)
  X(ROWS, RANGE, "rows[1].part_bytes", a->rows[1].part_bytes = (int64_t)INT32_MAX + 1)
  X(ROWS, RANGE, "rows[0].parts", a->rows[0].parts = 0)
  X(ROWS, ENUM, "rows[0].placement", a->rows[0].placement = 0)
  X(ROWS, ENUM, "rows[1].placement", a->rows[1].placement = 3)
  X(ROWS, ENUM, "rows[1].flags", a->rows[1].flags = 8)
  X(ROWS, RANGE, "rows[0].slot_bytes", a->rows[0].slot_bytes = 2)
  X(ROWS, RANGE, "rows[0].page_rows", a->rows[0].page_rows = -1)
  X(ROWS, RANGE, "rows[0].page_stride", a->rows[0].page_stride = -1)
  X(ROWS, RANGE, "rows[0].part_bytes", a->rows[0].flags = TAILCUT_ROWS_RENUMBER,
    a->rows[0].part_bytes = 2)
  X(ROWS, NULL, "rows[0].dst", a->rows[0].dst = NULL)
  X(ROWS, NULL, "rows[1].src", a->rows[1].src = NULL)
  X(ROWS, RANGE, "rows[0].src_row_stride", a->rows[0].src_row_stride = -8)
  X(ROWS, RANGE, "rows[0].dst_part_stride", a->rows[0].dst_part_stride = -8)
  X(ROWS, RANGE, "rows[0].dst_segment_stride", a->rows[0].dst_segment_stride = -8)
  X(ROWS, RANGE, "rows[0].src_row_stride", a->rows[0].src_row_stride = INT64_MAX)
  X(ROWS, RANGE, "rows[0].src_row_stride", a->rows[0].src_row_stride = INT64_MAX / 10)
  X(ROWS, RANGE, "rows[1].src_part_stride", a->rows[1].part_bytes = 2, a->rows[1].parts = 3,
    a->rows[1].src_part_stride = INT64_MAX / 4)
  X(ROWS, RANGE, "rows[0].dst_row_stride", a->rows[0].dst_row_stride = INT64_MAX / 3)
  X(ROWS, RANGE, "rows[0].dst_row_stride", a->rows[0].dst_row_stride = INT64_MAX / 10)
  X(ROWS, RANGE, "rows[0].dst_row_stride", a->rows[0].dst_row_stride = (int64_t)1 << 62)
  X(ROWS, RANGE, "rows[0].dst_segment_stride", a->rows[0].dst_segment_stride = INT64_MAX)
  X(ROWS, RANGE, "rows[0].dst_part_stride", a->rows[0].parts = INT32_MAX,
    a->rows[0].dst_part_stride = INT64_MAX / 2)
  X(ROWS, CONFLICT, "rows[1].dst_segment_stride", a->rows[1].dst_segment_stride = 400)
  X(ROWS, CONFLICT, "rows[0].dst_segment_stride", use_offsets(a),
    a->rows[0].dst_segment_stride = 400)
  X(ROWS, CONFLICT, "rows[1].src_segment_stride", use_offsets(a),
    a->rows[1].src_segment_stride = 400)
  X(ROWS, CONFLICT, "rows[1].src_segment_stride", a->rows[1].src_slots = a->some_offsets,
    a->rows[1].src_segment_stride = 400)
  X(ROWS, OVERLAP, "rows[1].dst_row_stride", a->rows[1].dst_row_stride = 3)
  X(ROWS, OVERLAP, "rows[1].dst_part_stride", a->rows[1].part_bytes = 2, a->rows[1].parts = 2,
    a->rows[1].dst_part_stride = 1)
  X(ROWS, OVERLAP, "rows[1].dst_row_stride", a->rows[1].part_bytes = 1, a->rows[1].parts = 4,
    a->rows[1].dst_row_stride = 1)
  X(ROWS, OVERLAP, "rows[0].dst_row_stride", a->rows[0].src_row_stride = 16)
  X(ROWS, OVERLAP, "rows[0].dst_segment_stride", a->rows[0].src_segment_stride = 48)
  X(ROWS, OVERLAP, "rows[0].dst_part_stride", use_heads(a, 8 * MOST, 8 * MOST),
    a->rows[0].src_part_stride = 4 * MOST - 4)
  X(ROWS, OVERLAP, "rows[0].dst", a->rows[0].dst = (char *)a->rows[0].dst + 8)
  X(ROWS, OVERLAP, "rows[0].dst", a->rows[0].src = (char *)a->rows[0].dst + 8 * TOTAL - 1)
  X(ROWS, OVERLAP, "rows[0].dst", a->rows[0].placement = TAILCUT_PACKED)
  X(ROWS, OVERLAP, "rows[1].dst", a->rows[1].src = a->rows[1].dst)
  X(ROWS, ALIGNMENT, "rows[1].dst_slots", a->rows[1].dst_slots = HALF(a->some_offsets))
  X(ROWS, ALIGNMENT, "rows[1].src_slots", a->rows[1].src_slots = ODD(a->some_offsets))
  X(ROWS, ALIGNMENT, "rows[1].src_slots", a->rows[1].slot_bytes = 8,
    a->rows[1].src_slots = a->some_offsets + 1)
  X(ROWS, OVERLAP, "rows[1].dst_row_stride", use_slots(a), a->rows[1].dst_row_stride = 2)
  X(ROWS, OVERLAP, "rows[1].dst_row_stride", a->rows[1].dst_slots = a->some_offsets,
    a->rows[1].dst_row_stride = 2)
  X(ROWS, OVERLAP, "rows[1].page_stride", use_slots(a), a->rows[1].page_stride = 12)
  X(ROWS, RANGE, "rows[1].page_stride is not set", use_slots(a), a->rows[1].page_stride = 0)
  X(ROWS, RANGE, "rows[1].page_stride is not set", a->rows[1].src_slots = a->some_offsets,
    a->rows[1].page_rows = 4)
  X(ROWS, OVERLAP, "rows[0].dst_slots is NULL", a->rows[0].src_slots = a->some_offsets)
  X(ROWS, OVERLAP, "rows[0].src_slots is NULL", a->rows[0].dst_slots = a->some_offsets)
  X(ROWS, RANGE, "rows[1].dst_rows", a->rows[1].dst_rows = -1)
  X(ROWS, RANGE, "rows[0].dst_rows", a->rows[0].dst_rows = INT64_MIN)
  X(ROWS, RANGE, "rows[0].dst_rows", a->rows[0].src = a->in_scores, a->rows[0].dst_rows = INT64_MAX)
  X(ROWS, RANGE, "rows[0].src_segment_stride is not set", use_heads(a, 0, 8 * MOST))
  X(ROWS, OVERLAP, "rows[0].dst_segment_stride", use_heads(a, 8 * MOST, 0))
  X(ROWS, CONFLICT, "rows[1].renumber_base", a->rows[1].renumber_base = a->counts)
  X(ROWS, ALIGNMENT, "rows[1].renumber_base", a->rows[1].flags = TAILCUT_ROWS_RENUMBER,
    a->rows[1].renumber_base = HALF(a->counts))
  X(ROWS, ALIGNMENT, "rows[0].renumber_base", a->rows[0].flags = TAILCUT_ROWS_RENUMBER,
    a->rows[0].renumber_base = a->counts + 1)
  X(ROWS, CONFLICT, "rows[0].rotation", use_rotation(a), a->rows[0].flags = TAILCUT_ROWS_RENUMBER)
  X(ROWS, STRUCT_SIZE, "rows[0].rotation->struct_size is not set", use_rotation(a),
    a->rotation.struct_size = 0)
  X(ROWS, STRUCT_SIZE, "rows[0].rotation->struct_size", use_rotation(a),
    a->rotation.struct_size += 8)
  X(ROWS, ENUM, "rows[0].rotation->dtype is not set", use_rotation(a), a->rotation.dtype = 0)
  X(ROWS, ENUM, "rows[0].rotation->dtype", use_rotation(a), a->rotation.dtype = 4)
  X(ROWS, ENUM, "rows[0].rotation->pairing is not set", use_rotation(a), a->rotation.pairing = 0)
  X(ROWS, ENUM, "rows[0].rotation->pairing", use_rotation(a), a->rotation.pairing = 3)
  X(ROWS, RANGE, "rows[0].part_bytes", use_rotation(a), a->rows[0].part_bytes = 7)
  X(ROWS, RANGE, "rows[1].part_bytes", use_rotation(a), a->rows[1].rotation = &a->rotation,
    a->rows[0].rotation = NULL, a->rotation.dtype = TAILCUT_F32, a->rows[1].part_bytes = 2)
  X(ROWS, RANGE, "rows[0].rotation->rotary_dim is not set", use_rotation(a),
    a->rotation.rotary_dim = 0)
  X(ROWS, RANGE, "rows[0].rotation->rotary_dim", use_rotation(a), a->rotation.rotary_dim = 3)
  X(ROWS, RANGE, "rows[0].rotation->rotary_dim", use_rotation(a), a->rotation.rotary_dim = -2)
  X(ROWS, RANGE, "rows[0].rotation->rotary_dim", use_rotation(a), a->rotation.rotary_dim = 6)
  X(ROWS, RANGE, "rows[0].rotation->rotary_dim", use_rotation(a), a->rotation.rotary_dim = 1026)
  X(ROWS, RANGE, "rows[0].rotation->rotary_offset", use_rotation(a), a->rotation.rotary_offset = 1)
  X(ROWS, RANGE, "rows[0].rotation->rotary_offset", use_rotation(a), a->rotation.rotary_dim = 2,
    a->rotation.rotary_offset = -1)
  X(ROWS, RANGE, "rows[0].rotation->position_bytes", use_rotation(a),
    a->rotation.position_bytes = 2)
  X(ROWS, ALIGNMENT, "rows[0].rotation->positions", use_rotation(a),
    a->rotation.positions = HALF(a->kept))
  X(ROWS, ALIGNMENT, "rows[0].rotation->new_base", use_rotation(a), a->rotation.position_bytes = 8,
    a->rotation.new_base = a->some_offsets + 1)
  X(ROWS, ALIGNMENT, "rows[0].rotation->inv_freq", use_rotation(a),
    a->rotation.inv_freq = HALF(a->heads))
  X(ROWS, ALIGNMENT, "rows[0].rotation->cos_sin", use_table(a),
    a->rotation.cos_sin = ODD(a->heads))
  X(ROWS, NULL, "rows[0].rotation->inv_freq", use_rotation(a), a->rotation.inv_freq = NULL)
  X(ROWS, CONFLICT, "rows[0].rotation->cos_sin", use_table(a),
    a->rotation.inv_freq = a->rotation.cos_sin)
  X(ROWS, RANGE, "rows[0].rotation->table_rows is not set", use_table(a),
    a->rotation.table_rows = 0)
  X(ROWS, RANGE, "rows[0].rotation->table_rows", use_table(a), a->rotation.table_rows = -9)
  X(ROWS, CONFLICT, "rows[0].rotation->table_rows", use_rotation(a), a->rotation.table_rows = 9)
  X(ROWS, ALIGNMENT, "rows[0].src", use_rotation(a), a->rows[0].src = ODD(a->rows[0].src))
  X(ROWS, ALIGNMENT, "rows[0].dst", use_rotation(a), a->rows[0].dst = ODD(a->rows[0].dst),
    a->rows[0].src = a->heads)
  X(ROWS, RANGE, "rows[0].src_row_stride", use_rotation(a), a->rows[0].src = a->heads,
    a->rows[0].src_row_stride = 9)
  X(ROWS, RANGE, "rows[0].dst_row_stride", use_rotation(a), a->rows[0].src = a->heads,
    a->rows[0].dst_row_stride = 9)
  X(ROWS, RANGE, "rows[0].src_part_stride", use_rotation(a), a->rotation.rotary_dim = 2,
    a->rows[0].src = a->heads, a->rows[0].part_bytes = 4, a->rows[0].parts = 2,
    a->rows[0].src_part_stride = 5, a->rows[0].src_row_stride = 10)
  X(ROWS, RANGE, "rows[0].dst_part_stride", use_rotation(a), a->rotation.rotary_dim = 2,
    a->rows[0].src = a->heads, a->rows[0].part_bytes = 4, a->rows[0].parts = 2,
    a->rows[0].dst_part_stride = 45, a->rows[0].dst_row_stride = 4)
  X(ROWS, RANGE, "rows[0].src_segment_stride", use_rotation(a),
    a->rows[0].src_segment_stride = 41, a->rows[0].dst_segment_stride = 41,
    a->rows[0].src = a->heads)
  X(ROWS, RANGE, "rows[0].page_stride", use_rotation(a), a->rows[0].src_slots = a->some_offsets,
    a->rows[0].dst_slots = a->some_offsets, a->rows[0].page_rows = 4, a->rows[0].page_stride = 41)
  X(ROWS, OVERLAP, "rows[0].rotation->positions", use_rotation(a),
    a->rotation.positions = (char *)a->rows[0].dst + 8 * TOTAL - 4)
  X(ROWS, OVERLAP, "rows[0].rotation->new_base", use_rotation(a),
    a->rotation.new_base = a->rows[0].dst)
  X(ROWS, OVERLAP, "rows[0].rotation->inv_freq", use_rotation(a),
    a->rotation.inv_freq = (const float *)a->rows[0].dst + 1)
  X(ROWS, OVERLAP, "rows[0].rotation->cos_sin", use_table(a),
    a->rotation.cos_sin = (const float *)a->rows[0].dst - 9 * 4 + 1)
  X(ROWS, CONFLICT, "rows[1].dtype", a->rows[1].dtype = TAILCUT_F16)
  X(COMPACT | VISUAL | SEQUENCE, CONFLICT, "rows[1].flags", use_merge(a),
    a->selection.merge = NULL)
  X(MERGE | VISUAL, ENUM, "rows[1].dtype is not set", use_merge(a), a->rows[1].dtype = 0)
  X(MERGE | VISUAL, ENUM, "rows[1].dtype", use_merge(a), a->rows[1].dtype = 4)
  X(MERGE | VISUAL, RANGE, "rows[1].parts", use_merge(a), a->rows[1].part_bytes = 2,
    a->rows[1].parts = 2)
  X(MERGE | VISUAL, RANGE, "rows[1].part_bytes", use_merge(a), a->rows[1].part_bytes = 3)
  X(MERGE | VISUAL, CONFLICT, "rows[1].flags", use_merge(a),
    a->rows[1].flags |= TAILCUT_ROWS_RENUMBER)
  /* merging */
  X(CUT | SEQUENCE, CONFLICT, "selection->merge", a->selection.merge = &a->merge)
  X(MERGE, STRUCT_SIZE, "options->struct_size is not set", a->merge.struct_size = 0)
  X(MERGE, STRUCT_SIZE, "options->struct_size", a->merge.struct_size += 8)
  X(MERGE, ENUM, "options->power", a->merge.power = 3)
  X(MERGE, RANGE, "options->window", a->merge.window = 63)
  X(MERGE, ALIGNMENT, "options->sizes_in", a->merge.sizes_in = HALF(a->counts))
  X(MERGE, ALIGNMENT, "options->sizes_out", a->merge.sizes_out = ODD(a->flags))
  X(MERGE, ALIGNMENT, "options->joins_out", a->merge.joins_out = HALF(a->flags))
  X(MERGE, RANGE, "tokens->dim", a->tokens.dim = TAILCUT_MAX_NOVELTY_DIM + 1)
  X(VISUAL, STRUCT_SIZE, "selection->merge->struct_size", use_merge(a), a->merge.struct_size = 3)
  X(VISUAL, ENUM, "selection->merge->power", use_merge(a), a->merge.power = -1)
  X(VISUAL, RANGE, "selection->merge->window", use_merge(a), a->merge.window = 512)
  X(VISUAL, CONFLICT, "selection->merge->window", use_merge(a), use_novelty(a),
    a->merge.window = 128)
  X(VISUAL, ALIGNMENT, "selection->merge->sizes_in", use_merge(a),
    a->merge.sizes_in = HALF(a->counts))
  X(VISUAL, ALIGNMENT, "selection->merge->sizes_out", use_merge(a),
    a->merge.sizes_out = ODD(a->flags))
  X(VISUAL, RANGE, "tokens->dim", use_merge(a), a->tokens.dim = TAILCUT_MAX_NOVELTY_DIM + 1)
  /* options */
  X(STAGE2, STRUCT_SIZE, "options->struct_size is not set", a->options.struct_size = 0)
  X(STAGE2, ENUM, "options->policy is not set", a->options.policy = 0)
  X(STAGE2, ENUM, "options->policy", a->options.policy = 4)
  X(STAGE2, ENUM, "options->causal", use_attention(a), a->options.causal = 2)
  X(STAGE2, ENUM, "options->last_query", use_attention(a), a->options.last_query = -1)
  X(STAGE2, ENUM, "options->dtype is not set", use_attention(a), a->options.dtype = 0)
  X(STAGE2, RANGE, "options->head_dim is not set", use_attention(a), a->options.head_dim = 0)
  X(STAGE2, RANGE, "options->head_dim", use_attention(a), a->options.head_dim = 1025)
  X(STAGE2, RANGE, "options->k_heads is not set", use_attention(a), a->options.k_heads = 0)
  X(STAGE2, RANGE, "options->q_heads is not set", use_attention(a), a->options.q_heads = 0)
  X(STAGE2, CONFLICT, "options->q_heads", use_attention(a), a->options.q_heads = 3,
    a->options.k_heads = 2)
  X(STAGE2, NULL, "options->q", use_attention(a), a->options.q = NULL)
  X(STAGE2, NULL, "options->k", use_attention(a), a->options.k = NULL)
  X(STAGE2, ALIGNMENT, "options->q", use_attention(a), a->options.q = ODD(a->heads))
  X(STAGE2, ALIGNMENT, "options->k", use_attention(a), a->options.k = ODD(a->heads))
  X(STAGE2, RANGE, "options->q_row_stride", use_attention(a), a->options.q_row_stride = 3)
  X(STAGE2, RANGE, "options->k_row_stride", use_attention(a), a->options.k_row_stride = -4)
  X(STAGE2, RANGE, "options->q_head_stride", use_attention(a), a->options.q_head_stride = 3)
  X(STAGE2, RANGE, "options->k_head_stride", use_attention(a), a->options.k_head_stride = -1)
  X(STAGE2, RANGE, "options->q_segment_stride", use_attention(a), a->options.q_segment_stride = -1)
  X(STAGE2, CONFLICT, "options->q_segment_stride", use_attention(a), use_offsets(a),
    a->options.q_segment_stride = 80)
  X(STAGE2, CONFLICT, "options->k_segment_stride", use_attention(a), use_offsets(a),
    a->options.k_segment_stride = 80)
  X(STAGE2, STRUCT_SIZE, "options->struct_size",
    a->options.struct_size = offsetof(tailcut_relevance_options, head_reduction) + 4)
  X(STAGE2, ENUM, "options->head_reduction is not set", use_attention(a),
    a->options.head_reduction = 0)
  X(STAGE2, ENUM, "options->head_reduction", use_attention(a), a->options.head_reduction = 3)
  X(STAGE2, ENUM, "options->query_reduction is not set", use_attention(a),
    a->options.query_reduction = 0)
  X(STAGE2, ENUM, "options->query_reduction", use_attention(a), a->options.query_reduction = -1)
  X(STAGE2, ALIGNMENT, "options->lse", use_lse(a), a->options.lse = HALF(a->heads))
  X(STAGE2, RANGE, "options->lse_row_stride", use_lse(a), a->options.lse_row_stride = -1)
  X(STAGE2, RANGE, "options->lse_row_stride", use_lse(a), a->options.lse_row_stride = INT64_MAX)
  X(STAGE2, RANGE, "options->lse_head_stride", use_lse(a), a->options.lse_head_stride = -2)
  X(STAGE2, RANGE, "options->lse_segment_stride", use_lse(a), a->options.lse_segment_stride = -1)
  X(STAGE2, RANGE, "options->lse_segment_stride is not set", use_lse(a),
    a->options.lse_row_stride = 1, a->options.lse_head_stride = MOST)
  X(STAGE2, CONFLICT, "options->lse_segment_stride", use_lse(a), use_offsets(a),
    a->options.lse_segment_stride = 2 * MOST)
  X(STAGE2, CONFLICT, "options->lse_row_stride", use_attention(a), a->options.lse_row_stride = 2)
  X(STAGE2, CONFLICT, "options->lse_head_stride", use_attention(a), a->options.lse_head_stride = 1)
  X(STAGE2, CONFLICT, "options->lse_segment_stride", use_attention(a),
    a->options.lse_segment_stride = 2 * MOST)
  /* clang-format on */
#undef X
  return 0;
}

#endif /* TAILCUT_TESTS_ERROR_ROWS_H_ */
