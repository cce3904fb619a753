/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_counters: a program whose work is counted from outside, by a simulator or a profiler: a
 * handle, one call of the table on fixed contents, made a number of times. counters.sh and gate.sh
 * of tests/install read the counters.
 *   cuda_counters list               lines of: row, form, launches of one call, name
 *   cuda_counters ROW FORM CALLS     the first call is checked against the CPU; prints the kept rows
 *                                    and how many of them moved
 *   cuda_counters all FORM CALLS     every listed row of that form so, but those without replays
 *   cuda_counters ROW FORM CALLS new each call on new contents, and each checked: a simulator with
 *                                    a seed gives every launch another order */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "calls.h"

/* Forms that differ in their launches for some row. */
static int listed(const tt_call_row *row, int form) {
  const int prunes =
      row->kind == TAILCUT_CALL_PRUNE_VISUAL || row->kind == TAILCUT_CALL_PRUNE_SEQUENCE;
  return form == TT_FORM_DEVICE || (prunes && row->chain != 0);
}

static int list(void) {
  for (int i = 0; i < tt_call_row_count; i++) {
    const tt_call_row *row = &tt_call_rows[i];
    for (int form = TT_FORM_DEVICE; form <= TT_FORM_SM_80; form++) {
      if (!listed(row, form)) continue;
      printf("%d %d %d %s\n", i, form, (int)tt_call_launches(row, form), row->name);
    }
  }
  return 0;
}

static const tt_backend *backend_of(int form) {
  int count;
  const tt_backend *backends = tt_backends(&count);
  for (int i = 0; i < count; i++) {
    if (backends[i].device_kind == TAILCUT_DEVICE_CUDA && backends[i].form == form) {
      return &backends[i];
    }
  }
  return NULL;
}

static int measure(const tt_call_row *row, const tt_backend *backend, tailcut_handle handle,
                   int calls, int anew) {
  const tailcut_limits limits = tt_call_limits(row);
  tt_random random = {576};
  tt_call *call = tt_call_new(row, backend);
  tt_workspace w = tt_workspace_new(backend, handle, row->kind, &limits);
  int failures = 0;
  int64_t kept = 0;
  for (int i = 0; i < calls; i++) {
    if (i == 0 || anew) tt_call_fill(call, &random);
    if (tt_call_run(call, handle, w, NULL) != TAILCUT_OK) {
      printf("%s: %s\n", row->name, tailcut_last_error());
      return 1;
    }
    if (i > 0 && !anew) continue;
    tt_call_expect(call);
    failures += tt_call_compare(call);
  }
  backend->memory->sync();
  const int64_t moved = tt_call_moved(call, &kept);
  printf("kept %lld moved %lld\n", (long long)kept, (long long)moved);
  tt_workspace_free(backend, w);
  tt_call_free(call);
  return failures;
}

int main(int argc, char **argv) {
  if (argc == 2 && strcmp(argv[1], "list") == 0) return list();
  const int anew = argc == 5 && strcmp(argv[4], "new") == 0;
  if (argc != 4 && !anew) return 2;
  const int all = strcmp(argv[1], "all") == 0;
  const int form = atoi(argv[2]), calls = atoi(argv[3]);
  const tt_backend *backend = backend_of(form);
  if (backend == NULL) return 2;
  int failures = 0, measured = 0;
  tailcut_handle handle = tt_create(backend);
  for (int i = 0; i < tt_call_row_count; i++) {
    const tt_call_row *row = &tt_call_rows[i];
    if (all ? row->replays < 0 || !listed(row, form) : i != atoi(argv[1])) continue;
    failures += measure(row, backend, handle, calls, anew);
    measured++;
  }
  tailcut_destroy(handle);
  return measured == 0 ? 2 : failures != 0;
}
