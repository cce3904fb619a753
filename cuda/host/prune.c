/* SPDX-License-Identifier: Apache-2.0 */
/* prune: prune_visual: a batch of images in one launch, a few in two, anything else as a chain
 * of score, cut and compact; row arrays that do not ride along are compacted behind.
 * prune_sequence: the same chain with relevance in score's place. */
#include "host/run.h"

#define TC_FUSED_LEAST 16 /* images from which on one launch is faster than the chain */
#define TC_REST_LEAST 3   /* and cut and slabs in one kernel faster than in two */

typedef enum fusion { FUSE_NOTHING, FUSE_REST, FUSE_ALL } fusion;

/* In place, rows of whole 16-byte units at aligned places. */
static int may_ride(const tc_call *call, const tailcut_rows *r) {
  uint64_t bits =
      (uint64_t)(uintptr_t)r->dst | (uint64_t)r->dst_row_stride | (uint64_t)r->part_bytes;
  if (call->batch.cu_seqlens == NULL) bits |= (uint64_t)r->dst_segment_stride;
  return r->placement == TAILCUT_LOCAL && r->src == r->dst && r->flags == 0 && r->parts == 1 &&
         r->src_slots == NULL && r->dst_slots == NULL && bits % 16 == 0;
}

static int scores_ride(const tc_call *call) {
  const tailcut_tokens *t = &call->tokens;
  const tailcut_reference *r = &call->reference;
  const int given = r->source == TAILCUT_REFERENCE_GIVEN && r->dtype == t->dtype;
  uint64_t bits =
      (uint64_t)(uintptr_t)t->data | (uint64_t)(t->row_stride * 2) | (uint64_t)t->dim * 2;
  if (call->batch.cu_seqlens == NULL) bits |= (uint64_t)(t->segment_stride * 2);
  if (given) bits |= (uint64_t)(uintptr_t)r->data | (uint64_t)(r->segment_stride * 2);
  return call->roles == NULL && t->dtype != TAILCUT_F32 &&
         (given || r->source == TAILCUT_REFERENCE_ROW) && bits % 16 == 0 && t->dim <= TC_FUSED_DIM;
}

/* Whether a cut by value of single images of up to TC_FUSED_ROWS candidates is all there is to do
 * between scores and rows. */
static int cut_fuses(const tc_cuda *device, const tc_call *call) {
  const tailcut_batch *batch = &call->batch;
  const int64_t most = (int64_t)batch->max_tokens - batch->prefix_rows;
  return device->fuses && batch->segments >= TC_REST_LEAST &&
         batch->segments <= TC_CHUNK_SEGMENTS && most > 0 && most <= TC_FUSED_ROWS &&
         batch->group_cu_seqlens == NULL && call->merge.window == 0 &&
         call->rotations == 0 && /* those arrays go before all others */
         !(call->rule.spread > 0.0) && call->selection.curve == NULL &&
         call->selection.ranks == NULL && tc_cuda_cuts_by_value(&call->rule);
}

/* Which kernels go in one, and the row arrays that do so with them. In one launch a call is its
 * parts one after the other for an image by itself only: rows are moved image by image, so they
 * must leave alone what is read of other images. */
static fusion choose(tc_cuda_run *run, tc_fused_call *fused) {
  const tc_call *call = run->call;
  const tailcut_batch *batch = &call->batch;
  fused->num_rows = 0;
  if (!cut_fuses(run->device, call)) return FUSE_NOTHING;
  /* Tiles are dealt to every image as to the longest. */
  const int64_t most = batch->max_tokens - batch->prefix_rows;
  const int dense = batch->cu_seqlens == NULL || batch->total_tokens >= batch->segments * most / 2;
  const int all = batch->segments >= TC_FUSED_LEAST;
  if (all && !(dense && scores_ride(call))) return FUSE_NOTHING;
  for (int32_t i = 0; i < call->num_rows && i < 64 && fused->num_rows < TC_FUSED_ARRAYS; i++) {
    const tailcut_rows r = tc_rows_at(call, i);
    if (!may_ride(call, &r) || (all && !tc_rows_keep_apart(call, i))) continue;
    run->moved |= (uint64_t)1 << i;
    fused->rows[fused->num_rows++] = r;
  }
  return fused->num_rows == 0 ? FUSE_NOTHING : all ? FUSE_ALL : FUSE_REST;
}

/* Whether the cut tells compact what stays by marks. */
static int stages(const tc_cuda_run *run) {
  const tc_call *call = run->call;
  tailcut_rows rows[TC_FUSED_ARRAYS];
  if (call->num_rows > TC_FUSED_ARRAYS || tc_run_packs_kept(call) || call->merge.window > 0) {
    return 0;
  }
  for (int32_t i = 0; i < call->num_rows; i++) rows[i] = tc_rows_at(call, i);
  return tc_cuda_compact_stages(run->device, &run->segments, rows, call->num_rows);
}

tailcut_status tc_run_prune(tc_cuda_run *run) {
  const tc_call *call = run->call;
  const int counts = tc_run_counts_candidates(call); /* of more images than are fused */
  int32_t *const flags = run->space.flags;
  float *scores = call->selection.scores != NULL ? call->selection.scores : run->space.scores;
  tc_fused_call fused;
  tailcut_status status = TAILCUT_OK;
  const fusion form = choose(run, &fused);
  if (form != FUSE_ALL) {
    status = tc_run_scores(run, scores, flags, counts || tc_run_scores_need_resolve(run));
  }
  if (status == TAILCUT_OK && call->merge.window > 0) status = tc_run_similarities(run);
  if (status != TAILCUT_OK) return status;
  if (form == FUSE_NOTHING) {
    status = tc_run_cut(run, scores, flags, stages(run));
    if (status != TAILCUT_OK) return status;
  } else {
    fused.call = call;
    fused.cut = tc_run_cut_args(run, scores, flags);
    fused.scores = form == FUSE_ALL ? scores : NULL;
    fused.flags = flags;
    LAUNCH(fused, run->device, &fused);
  }
  return tc_run_compact(run);
}
