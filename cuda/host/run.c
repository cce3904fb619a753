/* SPDX-License-Identifier: Apache-2.0 */
/* run: the steps of run calls, as launches. */
#include "host/run.h"

/* ---------------------------------------------------------------------------------- segments -- */

int tc_run_needs_resolve(const tc_cuda_run *run, int32_t most) {
  if (run->groups.groups > 0) return 1;
  return run->call->batch.cu_seqlens != NULL && run->call->batch.segments > most;
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

static void use_resolved(tc_cuda_run *run, int32_t *flags) {
  run->segments.start = run->space.start;
  run->segments.n = run->space.n;
  run->segments.tiles = run->space.tiles;
  run->segments.flags = run->resolved_flags = flags;
}

tailcut_status tc_run_resolve(tc_cuda_run *run, int32_t *flags) {
  LAUNCH(resolve, run->device, &run->segments, &run->groups, run->call->input_flags, &run->space,
         flags);
  use_resolved(run, flags);
  return TAILCUT_OK;
}

/* ------------------------------------------------------------------------------------ scores -- */

static int begins_with_directions(const tc_call *call) {
  return call->roles != NULL ? call->options.policy == TAILCUT_MEAN_COSINE
                             : call->reference.source == TAILCUT_REFERENCE_MEAN;
}

int tc_run_scores_need_resolve(const tc_cuda_run *run) {
  const int directions = begins_with_directions(run->call);
  const int32_t group = run->space.directions_group;
  if (run->call->roles != NULL && !directions) return 1;
  return tc_run_needs_resolve(run, directions && group < TC_FEW_SEGMENTS ? group : TC_FEW_SEGMENTS);
}

/* A group of segments at a time: their directions, then every candidate against its segment's. If
 * one launch makes them all, resolve's work goes beside them: it then finds more than
 * TC_FEW_SEGMENTS itself, for once, in place of a launch that nothing can overlap. */
static tailcut_status score_by_directions(tc_cuda_run *run, float *scores, int32_t *flags,
                                          int resolves) {
  const tc_call *call = run->call;
  const int32_t segments = call->batch.segments, group = run->space.directions_group;
  const tailcut_reference directions = tc_cuda_directions(&run->space, &call->tokens);
  const tc_resolution resolution = {run->groups, call->input_flags, flags};
  const int beside = resolves && segments <= group, stores_flags = flags != NULL && !resolves;
  if (resolves && !beside) {
    const tailcut_status status = tc_run_resolve(run, flags);
    if (status != TAILCUT_OK) return status;
  }
  for (int32_t first = 0; first < segments; first += group) {
    const int32_t count = segments - first < group ? segments - first : group;
    LAUNCH(direction, run->device, &run->segments, &call->tokens, call->roles, first, count,
           &run->space, run->space.directions, call->roles != NULL && stores_flags ? flags : NULL,
           beside ? &resolution : NULL);
    if (beside) use_resolved(run, flags);
    if (call->roles != NULL) {
      LAUNCH(mean_cosine, run->device, &run->segments, &call->tokens, call->roles, first, count,
             &run->space, scores, flags);
    } else {
      LAUNCH(score, run->device, &run->segments, &call->tokens, &directions, first, count, scores,
             flags, stores_flags);
    }
  }
  return TAILCUT_OK;
}

tailcut_status tc_run_scores(tc_cuda_run *run, float *scores, int32_t *flags, int resolves) {
  const tc_call *call = run->call;
  const int stores_flags = flags != NULL && !resolves;
  if (begins_with_directions(call)) return score_by_directions(run, scores, flags, resolves);
  if (resolves) {
    const tailcut_status status = tc_run_resolve(run, flags);
    if (status != TAILCUT_OK) return status;
  }
  if (call->roles != NULL && call->options.policy == TAILCUT_MAX_COSINE) {
    LAUNCH(maxcos, run->device, &run->segments, &call->tokens, call->roles, scores, flags,
           run->space.relevance, run->space.lasting);
  } else if (call->roles != NULL) {
    LAUNCH(attention, run->device, &run->segments, call->roles, &call->options, scores, flags,
           run->space.relevance, run->space.lasting);
  } else if (call->reference.source == TAILCUT_REFERENCE_NOVELTY) {
    LAUNCH(novelty, run->device, &run->segments, &run->groups, &call->tokens,
           call->reference.window, scores, flags, stores_flags,
           call->merge.window > 0 ? run->space.similarities : NULL, run->space.novelty,
           run->space.lasting);
  } else {
    LAUNCH(score, run->device, &run->segments, &call->tokens, &call->reference, 0,
           call->batch.segments, scores, flags, stores_flags);
  }
  return TAILCUT_OK;
}

/* --------------------------------------------------------------------------------------- cut -- */

/* Fewer segments than this: each kernel lets the next one start at once, to wait beside it. */
#define TC_SEVERAL 8

int tc_run_packs_kept(const tc_call *call) {
  return call->selection.kept != NULL && call->selection.kept_placement == TAILCUT_PACKED;
}

/* Whether anybody asks where a segment's result begins among PACKED ones. */
static int needs_offsets(const tc_call *call) {
  if (call->selection.new_cu_seqlens != NULL || tc_run_packs_kept(call)) return 1;
  if (call->merge.sizes_out != NULL && call->selection.kept_placement == TAILCUT_PACKED) return 1;
  for (int32_t i = 0; i < call->num_rows; i++) {
    if (tc_rows_at(call, i).placement == TAILCUT_PACKED) return 1;
  }
  return 0;
}

tc_cut_args tc_run_cut_args(tc_cuda_run *run, const float *scores, const int32_t *scored_flags) {
  const tc_call *call = run->call;
  const tailcut_selection *selection = &call->selection;
  const tc_cuda_space *space = &run->space;
  tc_cut_args args = {.segments = run->segments,
                      .groups = run->groups,
                      .scores = scores,
                      .roles = call->roles,
                      .in_flags = run->segments.flags,
                      .rule = call->rule,
                      .lasting = space->lasting,
                      .group_kept = space->group_kept,
                      .group_counts = space->group_counts,
                      .group_flags = run->resolved_flags,
                      .early = call->batch.segments < TC_SEVERAL};
  if (run->segments.flags == NULL) {
    args.scored = scored_flags != NULL;
    args.in_flags = args.scored ? scored_flags : call->input_flags;
  }
  if (selection->group_counts != NULL) args.group_counts = selection->group_counts;
  args.out.counts = selection->counts;
  args.out.kept = space->kept;
  if (selection->kept != NULL && !tc_run_packs_kept(call)) args.out.kept = selection->kept;
  if (needs_offsets(call)) args.out.new_cu = space->new_cu;
  if (selection->new_cu_seqlens != NULL) args.out.new_cu = selection->new_cu_seqlens;
  args.out.flags = selection->flags;
  args.out.curve = selection->curve;
  args.out.ranks = selection->ranks;
  args.out.host_counts = selection->host_counts;
  args.out.mask = selection->mask;
  run->lists.s = run->segments;
  run->lists.kept = args.out.kept;
  run->lists.counts = args.out.counts;
  run->lists.new_cu = args.out.new_cu;
  run->lists.placement = TAILCUT_LOCAL;
  return args;
}

tailcut_status tc_run_cut(tc_cuda_run *run, const float *scores, const int32_t *scored_flags,
                          int marks) {
  tc_cut_args args = tc_run_cut_args(run, scores, scored_flags);
  if (marks) run->lists.marks = args.out.marks = run->space.marks;
  args.out.no_list = marks && run->call->selection.kept == NULL;
  LAUNCH(cut, run->device, &args, run->space.cut);
  return TAILCUT_OK;
}

/* -------------------------------------------------------------------------------- compaction -- */

tailcut_status tc_run_take_lists(tc_cuda_run *run) {
  const tc_call *call = run->call;
  if (tc_run_needs_resolve(run, TC_FEW_SEGMENTS) || tc_run_counts_candidates(call)) {
    const tailcut_status status = tc_run_resolve(run, run->space.flags);
    if (status != TAILCUT_OK) return status;
  }
  run->lists = (tc_lists){.s = run->segments,
                          .kept = call->kept,
                          .placement = call->kept_placement,
                          .counts = call->counts,
                          .new_cu = call->new_cu_seqlens};
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
static tailcut_status compact_pass(tc_cuda_run *run, int turning) {
  const tc_call *call = run->call;
  const int32_t all = call->num_rows + (!turning && tc_run_packs_kept(call));
  tailcut_rows rows[TC_ROWS_PER_LAUNCH];
  int32_t count = 0;
  for (int32_t i = 0; i < all; i++) {
    if (i == call->num_rows) {
      rows[count++] = packed_kept(call);
    } else if (i >= 64 || !(run->moved >> i & 1)) {
      count += rows_of_pass(call, i, turning, &rows[count]);
    }
    if (count == 0 || (count < TC_ROWS_PER_LAUNCH && i < all - 1)) continue;
    LAUNCH(compact, run->device, &run->lists, rows, count, run->space.compact, run->space.lasting);
    count = 0;
  }
  return TAILCUT_OK;
}

tailcut_status tc_run_compact(tc_cuda_run *run) {
  tailcut_status status = TAILCUT_OK;
  if (run->call->rotations > 0) status = compact_pass(run, 1);
  if (status == TAILCUT_OK && run->call->merge.window > 0) status = tc_run_merge(run);
  return status == TAILCUT_OK ? compact_pass(run, 0) : status;
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
