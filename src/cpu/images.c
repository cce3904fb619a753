/* SPDX-License-Identifier: Apache-2.0 */
/*
 * images: prune_visual of a batch that no cache holds, image by image.
 *
 * Strategy: one thread scores, cuts and compacts an image, whose kept rows then need not be fetched
 * from memory again; threads meet nowhere. They take images in ascending order. Where a PACKED
 * result begins is known when all images before it are cut: a thread whose image is not that far
 * does the next one first, and waits only then. The last one or two images for each thread are left
 * to all of them together, by the steps of any call, so that nobody waits long for the last image.
 * Limits: batches below LEAST_BYTES, which a third-level cache may hold, are no slower by steps.
 */
#include "cpu.h"

enum { LEAST_BYTES = 32 << 20 /* of tokens */ };

int32_t tc_images_of(const tc_cpu *cpu, int32_t threads, const tc_call *call) {
  const int32_t segments = call->batch.segments, source = call->reference.source;
  const int64_t row = (int64_t)call->tokens.dim * tc_dtype_size(call->tokens.dtype);
  const int64_t least = cpu->images_always ? 0 : LEAST_BYTES;
  if (call->batch.total_tokens * row < least || segments < 2 * (int64_t)threads) return 0;
  if (source == TAILCUT_REFERENCE_MEAN || source == TAILCUT_REFERENCE_NOVELTY) return 0;
  if (call->batch.group_cu_seqlens != NULL || call->merge.window > 0 || call->rotations > 0) {
    return 0;
  }
  for (int32_t i = 0; i < call->num_rows; i++) {
    if (!tc_rows_keep_apart(call, i)) return 0;
  }
  return (segments / threads - 1) * threads;
}

/* What a thread knows of where results begin: images before `at` keep `sum` rows. */
typedef struct known_counts {
  int32_t at, sum;
} known_counts;

/* Whether all images before b are cut; with `wait` not before they are. */
static int are_cut(const tc_job *job, known_counts *known, int32_t b, int wait) {
  for (int looks = 0; known->at < b;) {
    if (tc_is_cut(job, known->at)) {
      known->sum += job->counts[known->at++];
    } else if (wait) {
      tc_team_relax(looks++);
    } else {
      return 0;
    }
  }
  return 1;
}

/* Image b, if it is one, goes to its place. */
static int move_image(tc_job *job, tc_team team, known_counts *known, int32_t b, int wait) {
  if (b < 0 || !are_cut(job, known, b, wait)) return b < 0;
  job->new_cu_out[b] = known->sum;
  tc_compact_segment(job, team, b);
  return 1;
}

void tc_images_team(tc_job *job, tc_team team) {
  known_counts known = {0, 0};
  int32_t b, late = -1; /* cut, and not yet in its place */
  while ((b = tc_task(job, TC_NEXT_IMAGE)) < job->images) {
    tc_score_segment(job, team, b);
    tc_cut_segment(job, team, b);
    move_image(job, team, &known, late, 1);
    late = move_image(job, team, &known, b, 0) ? -1 : b;
  }
  move_image(job, team, &known, late, 1);
}
