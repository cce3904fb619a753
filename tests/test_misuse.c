/* SPDX-License-Identifier: Apache-2.0 */
/* misuse: random calls of every kind, with up to three fields of their structs set to extremes and
 * every list that the device reads damaged. Arrays have the sizes that the header says, and end
 * where nothing can be read; structs end where their struct_size says. Whatever is wrong: the
 * status is one of the documented ones, the message begins with an argument and nothing has been
 * written; or the call succeeds, reads and writes nothing outside, and writes no input. The table
 * of cases and test_errors.c say which of the two, and what the results are. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "misuse_arrays.h"

#if !defined(CALLS) /* a longer run: -DCALLS=... -DSEED=... */
#define CALLS 3000
#define SEED 1
#endif

/* The struct as the call gets it: nothing can be read behind what its struct_size says. */
static void *pass(world *w, const void *s, size_t most) {
  size_t size;
  memcpy(&size, s, sizeof size);
  if (size < sizeof size || size > most || size % 8 != 0) size = most; /* structs are aligned */
  void *p = tt_memory_cpu.alloc(size, TT_TIGHT);
  memcpy(p, s, size);
  return w->passed[w->passes++] = p;
}
#define PASS(w, s) pass(w, &(w)->s, sizeof(w)->s)

static tailcut_rows *pass_rows(world *w) {
  const size_t most = sizeof w->rows[0], given = w->rows[0].struct_size;
  const size_t size = given < most && given >= 128 && given % 8 == 0 ? given : most;
  char *p = tt_memory_cpu.alloc(size * (size_t)w->num_rows, TT_TIGHT);
  for (int i = 0; i < w->num_rows; i++) {
    if (w->rows[i].rotation == &w->rotation[i]) w->rows[i].rotation = PASS(w, rotation[i]);
    memcpy(p + size * (size_t)i, &w->rows[i], size);
  }
  w->passed[w->passes++] = p;
  return (tailcut_rows *)(void *)p;
}

/* ---------------------------------------------------------------------------------- the call -- */

static tailcut_status call(world *w) {
  void *space = w->workspace;
  const size_t size = w->workspace_size;
  float *scores = (float *)(uintptr_t)w->scores;
  const tailcut_handle h = w->handle;
  if (w->selection.merge != NULL) w->selection.merge = PASS(w, merge_options);
  const tailcut_batch *batch = PASS(w, batch);
  const tailcut_tokens *tokens = PASS(w, tokens);
  const tailcut_reference *reference = PASS(w, reference);
  const tailcut_rule *rule = PASS(w, rule);
  const tailcut_selection *selection = PASS(w, selection);
  const tailcut_relevance_options *options = PASS(w, relevance_options);
  const tailcut_rows *rows = pass_rows(w);
  switch (w->kind) {
    case TAILCUT_CALL_SCORE:
      return tailcut_score(h, batch, tokens, reference, scores, w->flags, space, size, NULL);
    case TAILCUT_CALL_MEAN_DIRECTION:
      return tailcut_mean_direction(h, batch, tokens, w->roles, w->direction, space, size, NULL);
    case TAILCUT_CALL_CUT:
      return tailcut_cut(h, batch, scores, w->roles, w->input_flags, rule, selection, space, size,
                         NULL);
    case TAILCUT_CALL_COMPACT:
      return tailcut_compact(h, batch, w->kept, w->kept_placement, w->counts, w->new_cu, rows,
                             w->num_rows, space, size, NULL);
    case TAILCUT_CALL_MERGE:
      return tailcut_merge(h, batch, tokens, w->kept, w->kept_placement, w->counts, w->new_cu,
                           PASS(w, merge_options), rows, w->num_rows, space, size, NULL);
    case TAILCUT_CALL_RELEVANCE:
      return tailcut_relevance(h, batch, tokens, w->roles, options, scores, w->flags, space, size,
                               NULL);
    case TAILCUT_CALL_PRUNE_VISUAL:
      return tailcut_prune_visual(h, batch, tokens, reference, rule, selection, rows, w->num_rows,
                                  space, size, NULL);
    default:
      return tailcut_prune_sequence(h, batch, tokens, w->roles, options, rule, selection, rows,
                                    w->num_rows, space, size, NULL);
  }
}

static void take_workspace(world *w) {
  tailcut_limits l = TAILCUT_LIMITS_INITIALIZER;
  const tailcut_relevance_options *o = &w->relevance_options;
  size_t size = 0;
  l.segments = w->batch.segments, l.max_tokens = w->batch.max_tokens;
  l.total_tokens = w->batch.total_tokens, l.groups = w->batch.groups, l.dim = w->tokens.dim;
  l.window = w->merge_options.window != 0 ? w->merge_options.window : w->reference.window;
  if (l.window == 0) l.window = 64;
  if (o->policy == TAILCUT_ATTENTION) l.q_heads = o->q_heads, l.head_dim = o->head_dim;
  const tailcut_status status = tailcut_workspace_size(w->handle, w->kind, &l, &size);
  if (w->huge || status != TAILCUT_OK || size > 16 * CAP) return;
  w->workspace_size = size;
  w->workspace = tt_upload(w->backend, NULL, size, TT_TIGHT);
  cr_assert_eq(tailcut_workspace_init(w->handle, w->workspace, size, NULL), TAILCUT_OK);
}

static int is_argument(const char *message) {
  static const char *const names[] = {
      "batch", "tokens",   "reference",      "rule",      "selection", "options",
      "rows",  "num_rows", "scores",         "flags",     "direction", "input_flags",
      "kept",  "counts",   "new_cu_seqlens", "workspace", "roles",     "kept_placement"};
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    const size_t length = strlen(names[i]);
    if (strncmp(message, names[i], length) == 0 && strchr(" -[_", message[length])) return 1;
  }
  return 0;
}

static int check(world *w, tailcut_status status) {
  int bad = 0;
  if (status != TAILCUT_OK) {
    bad = !is_argument(tailcut_last_error()) ||
          !((status >= TAILCUT_ERROR_NULL && status <= TAILCUT_ERROR_CONFLICT) ||
            status == TAILCUT_ERROR_UNSUPPORTED || status == TAILCUT_ERROR_WORKSPACE);
  }
  for (int i = 0; i < w->used; i++) {
    const piece *p = &w->pieces[i];
    if (status == TAILCUT_OK && (p->written || w->alias)) continue;
    uint8_t *now = tt_host(p->bytes);
    tt_download(w->backend, now, p->data, p->bytes);
    if (memcmp(now, p->was, p->bytes) != 0) bad |= 2;
    free(now);
  }
  return bad;
}

static int run(world *w, int number) {
  const int spoiled = ONE_IN(4) ? 0 : 1 + BELOW(3);
  w->kind = 1 + number % TAILCUT_CALL_MERGE;
  const int merges =
      w->kind == TAILCUT_CALL_MERGE || (w->kind == TAILCUT_CALL_PRUNE_VISUAL && ONE_IN(2));
  choose_batch(w);
  choose_values(w);
  choose_rule(w);
  for (int i = 0; i < ARRAYS; i++) choose_array(w, i, merges);
  w->num_rows = BELOW(ARRAYS + 1);
  w->kept_placement = 1 + BELOW(2);
  for (int i = 0; i < spoiled; i++) spoil_number(w);
  if (ONE_IN(8)) spoil_size(w);
  take_all(w, merges);
  take_workspace(w);
  for (int i = 0; i < spoiled - 1; i++) spoil_pointer(w);
  if (w->workspace == NULL && !w->huge && ONE_IN(2)) w->workspace = w->wall;
  const tailcut_status status = call(w);
  const int bad = check(w, status);
  if (bad) {
    printf("call %d (kind %d, spoiled %d): %s, '%s', %s\n", number, w->kind, spoiled,
           tailcut_status_string(status), tailcut_last_error(),
           bad & 2 ? "something was written" : "no documented error");
  }
  if (w->workspace_size > 0) tt_free(w->backend, w->workspace);
  for (int i = 0; i < w->used; i++) tt_free(w->backend, w->pieces[i].data), free(w->pieces[i].was);
  while (w->passes > 0) tt_memory_cpu.release(w->passed[--w->passes]);
  return bad ? -1 : status == TAILCUT_OK;
}

Test(misuse, random_calls) {
  int count, ok = 0, bad = 0;
  const tt_backend *backends = tt_backends(&count);
  const int calls = backends[0].device_kind == TAILCUT_DEVICE_CPU ? CALLS : CALLS / 10;
  tailcut_handle handles[16];
  for (int i = 0; i < count; i++) handles[i] = tt_create(&backends[i]);
  void *wall = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  for (int number = 0; number < calls; number++) {
    const int i = number / TAILCUT_CALL_MERGE % count;
    world w = {.backend = &backends[i], .handle = handles[i], .wall = wall};
    w.random.state = (uint64_t)number * 1000003 + SEED;
    const int result = run(&w, number);
    ok += result == 1, bad += result < 0;
  }
  for (int i = 0; i < count; i++) tailcut_destroy(handles[i]);
  munmap(wall, 4096);
  printf("%d of %d calls succeeded\n", ok, calls);
  cr_assert_eq(bad, 0, "%d calls", bad);
  cr_assert(ok > calls / 5 && ok < calls * 4 / 5, "%d of %d calls succeeded", ok, calls);
}
