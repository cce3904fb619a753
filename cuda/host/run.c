/* SPDX-License-Identifier: Apache-2.0 */
/* run: the steps of run calls, as launches. */
#include "host/run.h"

#include <string.h>

int tc_run_needs_resolve(const tc_cuda_run *run, int32_t most) {
  if (run->groups.groups > 0) return 1;
  return run->call->batch.cu_seqlens != NULL && run->call->batch.segments > most;
}

static void use_resolved(tc_cuda_run *run) {
  run->segments.start = run->space.start;
  run->segments.n = run->space.n;
  run->segments.tiles = run->space.tiles;
  run->segments.flags = run->resolved_flags;
}

tailcut_status tc_run_resolve(tc_cuda_run *run, int32_t *flags) {
  LAUNCH(resolve, run->device, &run->segments, &run->groups, run->call->input_flags, &run->space,
         flags);
  run->resolved_flags = flags;
  use_resolved(run);
  return TAILCUT_OK;
}

tailcut_status tc_run_resolve_beside(tc_cuda_run *run, int32_t *flags) {
  run->resolves_beside = run->call->batch.segments <= run->space.directions_group;
  if (!run->resolves_beside) return tc_run_resolve(run, flags);
  run->resolved_flags = flags;
  return TAILCUT_OK;
}

tailcut_status tc_run_directions(tc_cuda_run *run, const uint8_t *roles, int32_t first,
                                 int32_t count, int32_t *flags) {
  const tc_resolution beside = {run->groups, run->call->input_flags, run->resolved_flags};
  const int resolved = run->resolves_beside || run->segments.flags != NULL;
  LAUNCH(direction, run->device, &run->segments, &run->call->tokens, roles, first, count,
         &run->space, run->space.directions, resolved ? NULL : flags,
         run->resolves_beside ? &beside : NULL);
  if (run->resolves_beside) use_resolved(run);
  run->resolves_beside = 0;
  return TAILCUT_OK;
}

tailcut_status tc_run_score(tc_cuda_run *run, float *scores, int32_t *flags, int stores_flags) {
  const tc_call *call = run->call;
  const int32_t segments = call->batch.segments;
  if (call->reference.source == TAILCUT_REFERENCE_NOVELTY) {
    LAUNCH(novelty, run->device, &run->segments, &run->groups, &call->tokens,
           call->reference.window, scores, flags, stores_flags,
           call->merge.window > 0 ? run->space.similarities : NULL, run->space.novelty,
           run->space.lasting);
    return TAILCUT_OK;
  }
  if (call->reference.source != TAILCUT_REFERENCE_MEAN) {
    LAUNCH(score, run->device, &run->segments, &call->tokens, &call->reference, 0, segments, scores,
           flags, stores_flags);
    return TAILCUT_OK;
  }
  const int32_t group = run->space.directions_group;
  for (int32_t first = 0; first < segments; first += group) {
    const int32_t count = segments - first < group ? segments - first : group;
    const tailcut_reference directions = tc_cuda_directions(&run->space, &call->tokens);
    const tailcut_status status = tc_run_directions(run, NULL, first, count, NULL);
    if (status != TAILCUT_OK) return status;
    LAUNCH(score, run->device, &run->segments, &call->tokens, &directions, first, count, scores,
           flags, stores_flags);
  }
  return TAILCUT_OK;
}

int tc_run_packs_kept(const tc_cuda_run *run) {
  const tailcut_selection *selection = &run->call->selection;
  return selection->kept != NULL && selection->kept_placement == TAILCUT_PACKED;
}

tc_cut_args tc_run_cut_args(tc_cuda_run *run, const float *scores, int32_t *scored_flags,
                            int needs_offsets) {
  const tailcut_selection *selection = &run->call->selection;
  tc_cut_args args;
  memset(&args, 0, sizeof args);
  run->space.counts = selection->counts;
  if (selection->kept != NULL && !tc_run_packs_kept(run)) run->space.kept = selection->kept;
  if (selection->new_cu_seqlens != NULL) run->space.new_cu = selection->new_cu_seqlens;
  args.segments = run->segments;
  args.groups = run->groups;
  args.scores = scores;
  args.roles = run->call->roles;
  args.in_flags = run->segments.flags != NULL ? run->segments.flags
                  : scored_flags != NULL      ? scored_flags
                                              : run->call->input_flags;
  args.scored = run->segments.flags == NULL && scored_flags != NULL;
  args.rule = run->call->rule;
  args.out.counts = selection->counts;
  args.out.kept = run->space.kept;
  args.out.flags = selection->flags;
  if (selection->new_cu_seqlens != NULL || needs_offsets) args.out.new_cu = run->space.new_cu;
  args.out.curve = selection->curve;
  args.out.ranks = selection->ranks;
  args.out.host_counts = selection->host_counts;
  args.out.mask = selection->mask;
  args.lasting = run->space.lasting;
  args.group_kept = run->space.group_kept;
  args.group_counts =
      selection->group_counts != NULL ? selection->group_counts : run->space.group_counts;
  args.group_flags = run->resolved_flags;
  args.early = run->call->batch.segments < TC_SEVERAL;
  return args;
}

tailcut_status tc_run_cut(tc_cuda_run *run, const float *scores, int32_t *scored_flags,
                          int needs_offsets) {
  tc_cut_args args = tc_run_cut_args(run, scores, scored_flags, needs_offsets);
  args.out.marks = run->marks;
  args.out.no_list = run->marks != NULL && run->call->selection.kept == NULL;
  LAUNCH(cut, run->device, &args, run->space.cut);
  return TAILCUT_OK;
}

/* The kept list as a row array: what it holds is made, not moved. */
static tailcut_rows packed_kept(const tc_call *call) {
  tailcut_rows r = TAILCUT_ROWS_INITIALIZER;
  r.dst = call->selection.kept;
  r.part_bytes = r.dst_row_stride = r.src_row_stride = 4;
  r.parts = 1;
  r.placement = TAILCUT_PACKED;
  r.flags = TC_ROWS_KEPT;
  r.dst_rows = call->batch.total_tokens;
  return r;
}

/* Array i in the pass of those that turn, or of all others: there what has turned or been merged
 * still has its tail. 0: it has nothing to do in this pass. */
static int rows_of_pass(const tc_call *call, int32_t i, int turning, tailcut_rows *r) {
  *r = tc_rows_at(call, i);
  if (turning) return r->rotation != NULL;
  if (r->rotation == NULL && !(r->flags & TAILCUT_ROWS_MERGE)) return 1;
  if (!(r->flags & TAILCUT_ROWS_ZERO_TAIL)) return 0;
  r->rotation = NULL;
  r->flags = TAILCUT_ROWS_ZERO_TAIL | TC_ROWS_TAIL;
  return 1;
}

/* Launches arrays as they come, and the last of them. */
static tailcut_status compact_pass(tc_cuda_run *run, int turning, uint64_t done, int packs_kept,
                                   const int32_t *kept, int32_t kept_placement,
                                   const int32_t *counts, const int32_t *new_cu) {
  const tc_call *call = run->call;
  const int32_t all = call->num_rows + packs_kept;
  tailcut_rows rows[TC_ROWS_PER_LAUNCH];
  int32_t count = 0;
  for (int32_t i = 0; i < all; i++) {
    if (i == call->num_rows) {
      rows[count++] = packed_kept(call);
    } else if (i >= 64 || !(done >> i & 1)) {
      count += rows_of_pass(call, i, turning, &rows[count]);
    }
    if (count == 0 || (count < TC_ROWS_PER_LAUNCH && i < all - 1)) continue;
    LAUNCH(compact, run->device, &run->segments, kept, kept_placement, run->marks, counts, new_cu,
           rows, count, run->space.compact, run->space.lasting);
    count = 0;
  }
  return TAILCUT_OK;
}

tailcut_status tc_run_compact(tc_cuda_run *run, uint64_t done, int packs_kept, const int32_t *kept,
                              int32_t kept_placement, const int32_t *counts,
                              const int32_t *new_cu) {
  if (run->call->rotations > 0) {
    const tailcut_status status =
        compact_pass(run, 1, done, 0, kept, kept_placement, counts, new_cu);
    if (status != TAILCUT_OK) return status;
  }
  if (run->call->merge.window > 0) {
    const tailcut_status status = tc_run_merge(run, kept, counts, new_cu);
    if (status != TAILCUT_OK) return status;
  }
  return compact_pass(run, 0, done, packs_kept, kept, kept_placement, counts, new_cu);
}

tailcut_status tc_run_can_turn(const tc_call *call) {
  for (int32_t i = 0; i < call->num_rows && call->rotations > 0; i++) {
    const tailcut_rows r = tc_rows_at(call, i);
    if (r.rotation == NULL) continue;
    if (r.part_bytes > TC_LONGEST_TURNED) {
      return tc_fail(TAILCUT_ERROR_UNSUPPORTED,
                     "rows[%d].part_bytes is %lld; expected at most %d with a rotation on CUDA",
                     (int)i, (long long)r.part_bytes, TC_LONGEST_TURNED);
    }
    if (r.parts > TC_MOST_TURNED) {
      return tc_fail(TAILCUT_ERROR_UNSUPPORTED,
                     "rows[%d].parts is %d; expected at most %d with a rotation on CUDA", (int)i,
                     (int)r.parts, TC_MOST_TURNED);
    }
  }
  return TAILCUT_OK;
}

int tc_run_counts_candidates(const tc_call *call) {
  if (call->batch.cu_seqlens == NULL && call->batch.lengths == NULL) return 0;
  if (call->batch.segments <= TC_CHUNK_SEGMENTS) return 0;
  for (int32_t i = 0; i < call->num_rows; i++) {
    const tailcut_rows r = tc_rows_at(call, i);
    if (r.placement == TAILCUT_PACKED && (r.flags & TAILCUT_ROWS_ZERO_TAIL)) return 1;
  }
  return 0;
}
