/* SPDX-License-Identifier: Apache-2.0 */
/* report: what a run did, as one JSON object or as one line for people. */
#define _GNU_SOURCE 1 /* POSIX names under -std=c11 */
#include <unistd.h>

#include "cli.h"

/* The line for people: at a terminal, and where it is all that a run gives. Scripts that write
 * files get none. */
static bool wants_line(const cli_job *job) {
  const cli_options *o = job->options;
  const bool writes = o->out || o->kept || o->counts || o->offsets || o->flags || o->mask ||
                      o->group_counts || o->sizes || o->joins ||
                      (o->scores && job->call != TAILCUT_CALL_CUT);
  if (o->to_stdout) return false; /* a file goes there */
  return !writes || isatty(STDOUT_FILENO);
}

int cli_report(const cli_job *job) {
  char device[32];
  const double ratio =
      job->candidates > 0 ? (double)job->kept_total / (double)job->candidates : 0.0;
  const char *detector = tailcut_detector_name(job->rule.detector);
  cli_device_name(&job->device, device);
  if (!job->options->json) {
    if (!wants_line(job)) return CLI_OK;
    printf("%lld of %lld tokens kept (%.1f%%) in %d segment%s; %s, %s, %.1f us\n",
           (long long)job->kept_total, (long long)job->candidates, 100.0 * ratio,
           (int)job->batch.segments, job->batch.segments == 1 ? "" : "s", detector, device,
           job->us_min);
    return cli_flush_stdout();
  }
  printf("{\"segments\": %d, \"tokens\": %lld, \"kept\": %lld, \"ratio\": %.10g, ",
         (int)job->batch.segments, (long long)job->candidates, (long long)job->kept_total, ratio);
  printf("\"device\": \"%s\", \"detector\": \"%s\", \"threads\": %d, ", device, detector,
         (int)job->device.threads);
  cli_json_int32s(stdout, "counts", job->d_counts.host, job->batch.segments);
  fputs(", ", stdout);
  cli_json_int32s(stdout, "flags", job->d_flags.host, job->batch.segments);
  printf(", \"us_min\": %.3f, \"us_median\": %.3f}\n", job->us_min, job->us_median);
  return cli_flush_stdout();
}
