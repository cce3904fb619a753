/* SPDX-License-Identifier: Apache-2.0 */
/* warn: the flags of a run in words: a note for each kind of trouble, with the first few segments
 * that have it. Nothing failed, but the result may not be what was meant. */
#include <string.h>

#include "cli.h"

#define NAMED 5 /* segments named in a line */

static int32_t flags_of(const cli_job *job, int32_t b) {
  return ((const int32_t *)job->d_flags.host)[b];
}

static bool has_queries(const cli_job *job, int32_t b) {
  const uint8_t *roles = job->roles.data;
  for (int64_t i = job->starts[b]; i < job->starts[b + 1]; i++)
    if ((roles[i] & (TAILCUT_ROLE_QUERY | TAILCUT_ROLE_ABSENT)) == TAILCUT_ROLE_QUERY) return true;
  return false;
}

static bool invalid(const cli_job *job, int32_t b) {
  return (flags_of(job, b) & TAILCUT_FLAG_INVALID) != 0;
}

static bool bad_reference(const cli_job *job, int32_t b) {
  return (flags_of(job, b) & TAILCUT_FLAG_BAD_REFERENCE) != 0;
}

static bool no_query(const cli_job *job, int32_t b) {
  return bad_reference(job, b) && job->roles.data != NULL && !has_queries(job, b);
}

static bool bad_vector(const cli_job *job, int32_t b) {
  return bad_reference(job, b) && !no_query(job, b);
}

static bool no_score(const cli_job *job, int32_t b) {
  return (flags_of(job, b) & TAILCUT_FLAG_NO_SCORE) != 0 && !bad_reference(job, b);
}

static bool too_few(const cli_job *job, int32_t b) {
  return (flags_of(job, b) & (TAILCUT_FLAG_WHOLE | TAILCUT_FLAG_NO_SCORE)) == TAILCUT_FLAG_WHOLE &&
         !bad_reference(job, b);
}

/* What is bad about the reference, by where it came from. */
static const char *reference_text(const cli_job *job) {
  if (job->call == TAILCUT_CALL_PRUNE_SEQUENCE)
    return job->relevance.policy == TAILCUT_MEAN_COSINE
               ? "the mean direction of its query rows is bad (norm 0 or not finite)"
               : "no query row sees a candidate";
  if (job->reference.source == TAILCUT_REFERENCE_ROW)
    return "its CLS row is bad (norm 0 or not finite)";
  if (job->reference.source == TAILCUT_REFERENCE_MEAN)
    return "its mean direction is bad (norm 0 or not finite)";
  return "its reference vector is bad (norm 0 or not finite)";
}

/* "segment 3: <text>", or "segments 3, 7 and 2 more: <text>". */
static void warn(const cli_job *job, bool (*has)(const cli_job *, int32_t), const char *text) {
  char list[128];
  size_t used = 0;
  int32_t count = 0, whole = 0;
  for (int32_t b = 0; b < job->batch.segments; b++) {
    if (!has(job, b)) continue;
    whole += (flags_of(job, b) & TAILCUT_FLAG_WHOLE) != 0;
    if (count++ < NAMED)
      used += (size_t)snprintf(list + used, sizeof list - used, "%s%d", used ? ", " : "", (int)b);
  }
  if (count == 0) return;
  if (count > NAMED)
    snprintf(list + used, sizeof list - used, " and %d more", (int)(count - NAMED));
  cli_note("warning: segment%s %s: %s%s", count > 1 ? "s" : "", list, text,
           whole == 0                ? ""
           : job->rule.max_keep >= 0 ? ": kept whole, up to --max-keep"
                                     : ": kept whole");
}

static void warn_nans(const cli_job *job) {
  char list[256];
  size_t used = 0;
  int32_t count = 0;
  for (int32_t b = 0; b < job->batch.segments; b++) {
    const int32_t n = job->groups.data == NULL && no_score(job, b) ? 0 : job->nan_counts[b];
    if (n == 0 || count++ >= NAMED) continue;
    used += (size_t)snprintf(list + used, sizeof list - used, "%ssegment %d: %d score%s NaN",
                             used ? "; " : "", (int)b, (int)n, n == 1 ? " is" : "s are");
  }
  if (count > NAMED)
    snprintf(list + used, sizeof list - used, "; and %d segments more", (int)(count - NAMED));
  if (count > 0) cli_note("warning: %s", list);
}

void cli_warn_flags(const cli_job *job) {
  warn(job, invalid, "its lengths or offsets are invalid: nothing kept");
  warn(job, no_query, "it has no query rows");
  warn(job, bad_vector, reference_text(job));
  if (job->nan_counts != NULL) warn_nans(job);
  const bool groups = job->groups.data != NULL;
  warn(job, no_score,
       groups ? "it has a group without a score that is a number"
              : "not one of its scores is a number");
  warn(job, too_few,
       groups ? "it has a group with fewer than 3 scores that are numbers"
              : "it has fewer than 3 scores that are numbers");
  cli_notes_print();
}
