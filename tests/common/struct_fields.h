/* SPDX-License-Identifier: Apache-2.0 */
/* struct_fields: the binary interface of tailcut.h 0.2 where long and pointers have 64 bits: the
 * size of each struct, and each field with its offset and the version of the header that added it
 * (to a struct that came with 0.2: as if it had come with 0.1). A row that changes breaks programs
 * that are compiled already. */
#ifndef TAILCUT_TESTS_STRUCT_FIELDS_H_
#define TAILCUT_TESTS_STRUCT_FIELDS_H_

/* X(struct, INITIALIZER, size in 0.1, size in 0.2) */
#define TT_STRUCTS(X)                                                   \
  X(config, TAILCUT_CONFIG_INITIALIZER, 24, 24)                         \
  X(batch, TAILCUT_BATCH_INITIALIZER, 48, 64)                           \
  X(tokens, TAILCUT_TOKENS_INITIALIZER, 40, 40)                         \
  X(reference, TAILCUT_REFERENCE_INITIALIZER, 32, 40)                   \
  X(rule, TAILCUT_RULE_INITIALIZER, 96, 112)                            \
  X(merge_options, TAILCUT_MERGE_OPTIONS_INITIALIZER, 40, 40)           \
  X(selection, TAILCUT_SELECTION_INITIALIZER, 80, 104)                  \
  X(rotation, TAILCUT_ROTATION_INITIALIZER, 72, 72)                     \
  X(rows, TAILCUT_ROWS_INITIALIZER, 128, 160)                           \
  X(relevance_options, TAILCUT_RELEVANCE_OPTIONS_INITIALIZER, 104, 144) \
  X(limits, TAILCUT_LIMITS_INITIALIZER, 40, 48)

/* F(struct, field, offset, 1 or 2: since 0.1 or 0.2, or with its struct), in the order of the
 * header */
#define TT_FIELDS(F)                               \
  F(config, struct_size, 0, 1)                     \
  F(config, version, 8, 1)                         \
  F(config, device_kind, 12, 1)                    \
  F(config, device_index, 16, 1)                   \
  F(config, threads, 20, 1)                        \
  F(batch, struct_size, 0, 1)                      \
  F(batch, segments, 8, 1)                         \
  F(batch, max_tokens, 12, 1)                      \
  F(batch, total_tokens, 16, 1)                    \
  F(batch, cu_seqlens, 24, 1)                      \
  F(batch, lengths, 32, 1)                         \
  F(batch, prefix_rows, 40, 1)                     \
  F(batch, group_cu_seqlens, 48, 2)                \
  F(batch, groups, 56, 2)                          \
  F(tokens, struct_size, 0, 1)                     \
  F(tokens, data, 8, 1)                            \
  F(tokens, dtype, 16, 1)                          \
  F(tokens, dim, 20, 1)                            \
  F(tokens, row_stride, 24, 1)                     \
  F(tokens, segment_stride, 32, 1)                 \
  F(reference, struct_size, 0, 1)                  \
  F(reference, source, 8, 1)                       \
  F(reference, dtype, 12, 1)                       \
  F(reference, data, 16, 1)                        \
  F(reference, segment_stride, 24, 1)              \
  F(reference, lag, 32, 2)                         \
  F(reference, window, 36, 2)                      \
  F(rule, struct_size, 0, 1)                       \
  F(rule, detector, 8, 1)                          \
  F(rule, scale, 12, 1)                            \
  F(rule, k, 16, 1)                                \
  F(rule, rounding, 20, 1)                         \
  F(rule, ratio, 24, 1)                            \
  F(rule, percent, 32, 1)                          \
  F(rule, window, 36, 1)                           \
  F(rule, lambda, 40, 1)                           \
  F(rule, mass, 48, 1)                             \
  F(rule, tau, 56, 1)                              \
  F(rule, min_keep, 60, 1)                         \
  F(rule, max_keep, 64, 1)                         \
  F(rule, round_to, 68, 1)                         \
  F(rule, search_lo, 72, 1)                        \
  F(rule, search_hi, 80, 1)                        \
  F(rule, spread, 88, 1)                           \
  F(rule, group_k, 96, 2)                          \
  F(rule, order, 104, 2)                           \
  F(merge_options, struct_size, 0, 1)              \
  F(merge_options, power, 8, 1)                    \
  F(merge_options, window, 12, 1)                  \
  F(merge_options, sizes_in, 16, 1)                \
  F(merge_options, sizes_out, 24, 1)               \
  F(merge_options, joins_out, 32, 1)               \
  F(selection, struct_size, 0, 1)                  \
  F(selection, counts, 8, 1)                       \
  F(selection, kept, 16, 1)                        \
  F(selection, kept_placement, 24, 1)              \
  F(selection, new_cu_seqlens, 32, 1)              \
  F(selection, flags, 40, 1)                       \
  F(selection, scores, 48, 1)                      \
  F(selection, curve, 56, 1)                       \
  F(selection, ranks, 64, 1)                       \
  F(selection, host_counts, 72, 1)                 \
  F(selection, mask, 80, 2)                        \
  F(selection, group_counts, 88, 2)                \
  F(selection, merge, 96, 2)                       \
  F(rotation, struct_size, 0, 1)                   \
  F(rotation, dtype, 8, 1)                         \
  F(rotation, pairing, 12, 1)                      \
  F(rotation, rotary_dim, 16, 1)                   \
  F(rotation, rotary_offset, 20, 1)                \
  F(rotation, position_bytes, 24, 1)               \
  F(rotation, positions, 32, 1)                    \
  F(rotation, new_base, 40, 1)                     \
  F(rotation, inv_freq, 48, 1)                     \
  F(rotation, cos_sin, 56, 1)                      \
  F(rotation, table_rows, 64, 1)                   \
  F(rows, struct_size, 0, 1)                       \
  F(rows, src, 8, 1)                               \
  F(rows, dst, 16, 1)                              \
  F(rows, part_bytes, 24, 1)                       \
  F(rows, parts, 32, 1)                            \
  F(rows, placement, 36, 1)                        \
  F(rows, flags, 40, 1)                            \
  F(rows, slot_bytes, 44, 1)                       \
  F(rows, src_part_stride, 48, 1)                  \
  F(rows, dst_part_stride, 56, 1)                  \
  F(rows, src_row_stride, 64, 1)                   \
  F(rows, dst_row_stride, 72, 1)                   \
  F(rows, src_segment_stride, 80, 1)               \
  F(rows, dst_segment_stride, 88, 1)               \
  F(rows, src_slots, 96, 1)                        \
  F(rows, dst_slots, 104, 1)                       \
  F(rows, page_rows, 112, 1)                       \
  F(rows, page_stride, 120, 1)                     \
  F(rows, dst_rows, 128, 2)                        \
  F(rows, renumber_base, 136, 2)                   \
  F(rows, rotation, 144, 2)                        \
  F(rows, dtype, 152, 2)                           \
  F(relevance_options, struct_size, 0, 1)          \
  F(relevance_options, policy, 8, 1)               \
  F(relevance_options, causal, 12, 1)              \
  F(relevance_options, last_query, 16, 1)          \
  F(relevance_options, dtype, 20, 1)               \
  F(relevance_options, q, 24, 1)                   \
  F(relevance_options, k, 32, 1)                   \
  F(relevance_options, q_heads, 40, 1)             \
  F(relevance_options, k_heads, 44, 1)             \
  F(relevance_options, head_dim, 48, 1)            \
  F(relevance_options, q_row_stride, 56, 1)        \
  F(relevance_options, k_row_stride, 64, 1)        \
  F(relevance_options, q_head_stride, 72, 1)       \
  F(relevance_options, k_head_stride, 80, 1)       \
  F(relevance_options, q_segment_stride, 88, 1)    \
  F(relevance_options, k_segment_stride, 96, 1)    \
  F(relevance_options, head_reduction, 104, 2)     \
  F(relevance_options, query_reduction, 108, 2)    \
  F(relevance_options, lse, 112, 2)                \
  F(relevance_options, lse_row_stride, 120, 2)     \
  F(relevance_options, lse_head_stride, 128, 2)    \
  F(relevance_options, lse_segment_stride, 136, 2) \
  F(limits, struct_size, 0, 1)                     \
  F(limits, segments, 8, 1)                        \
  F(limits, max_tokens, 12, 1)                     \
  F(limits, total_tokens, 16, 1)                   \
  F(limits, dim, 24, 1)                            \
  F(limits, q_heads, 28, 1)                        \
  F(limits, head_dim, 32, 1)                       \
  F(limits, reserved, 36, 1)                       \
  F(limits, groups, 40, 2)                         \
  F(limits, window, 44, 2)

#endif /* TAILCUT_TESTS_STRUCT_FIELDS_H_ */
