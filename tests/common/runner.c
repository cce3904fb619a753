/* SPDX-License-Identifier: Apache-2.0 */
/* runner: a case's parts one by one, then its fused call, on fresh device memory each; every output
 * is compared whole, so that bytes nobody may touch are compared too. */
#include "runner.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "reference.h"

/* One run of a problem: its backend and the device copies of everything. */
typedef struct run {
  const tt_problem *p;
  const tt_backend *backend;
  tailcut_handle handle;
  const char *step; /* for messages */
  int failed;
  unsigned carries; /* TT_OPTION_ bits of the step's arguments */
  int refused;      /* the backend has none of one of them: nothing may be written */
  int tight;        /* arrays end where readable memory ends */
  tailcut_batch batch;
  tailcut_tokens tokens;
  tailcut_reference reference;
  tailcut_rule rule;
  tailcut_merge_options merge;
  void *roles, *in_scores, *in_flags;
  tailcut_selection selection;
  tailcut_rows rows[TT_ARRAYS];
  tailcut_rotation rotations[TT_ARRAYS];
} run;

static void complain(run *r, const char *what, const char *detail) {
  r->failed++;
  printf("FAILED %s on %s, %s: %s %s\n", r->p->row->name, r->backend->name, r->step, what, detail);
}

/* Before a step: a tailcut_call, with a mask where there is one. */
static void begin(run *r, const char *step, int32_t call, int mask) {
  r->step = step;
  r->carries = tt_options_of(r->p, call);
  if (mask) r->carries |= TT_OPTION_MASK & ~r->backend->refuses;
  if (!mask) r->carries &= ~(unsigned)TT_OPTION_MASK; /* nor where the row asks for one */
  r->refused = (r->carries & r->backend->refuses) != 0;
}

static void expect_status(run *r, tailcut_status status) {
  if (status == (r->refused ? TAILCUT_ERROR_UNSUPPORTED : TAILCUT_OK)) return;
  complain(r, tailcut_status_string(status),
           r->refused ? "is not UNSUPPORTED" : tailcut_last_error());
}

static void *up(run *r, const tt_block *block, size_t misalign) {
  if (block->data == NULL) return NULL;
  return tt_upload(r->backend, block->data, block->bytes,
                   r->tight && misalign == 0 ? TT_TIGHT : misalign);
}

/* Compares an output with what it must be: after a refused call, what it was before. nan_equal:
 * fp32 whose NaN may have any payload. */
static void compare(run *r, const char *name, const tt_block *block, const void *device,
                    int nan_equal) {
  char detail[160];
  const uint8_t *want = r->refused ? block->data : block->want;
  const uint8_t *open = r->refused ? NULL : block->open;
  uint8_t *got = tt_host(block->bytes);
  tt_download(r->backend, got, device, block->bytes);
  for (size_t i = 0; i < block->bytes; i++) {
    if (!ref_differs(got, want, open, i)) continue;
    if (nan_equal) {
      float a, b;
      memcpy(&a, got + i / 4 * 4, 4);
      memcpy(&b, want + i / 4 * 4, 4);
      if (a != a && b != b) continue;
    }
    snprintf(detail, sizeof detail, "differs at byte %zu of %zu (word %zu): %02x, expected %02x", i,
             block->bytes, i / 4, got[i], want[i]);
    complain(r, name, detail);
    break;
  }
  free(got);
}

static tailcut_limits limits_of(const run *r, int with_dim) {
  tailcut_limits l = TAILCUT_LIMITS_INITIALIZER;
  l.segments = r->batch.segments;
  l.max_tokens = r->batch.max_tokens;
  l.total_tokens = r->batch.total_tokens;
  l.dim = with_dim ? r->tokens.dim : 0;
  l.groups = r->batch.groups;
  if (r->reference.source == TAILCUT_REFERENCE_NOVELTY) {
    l.window = r->reference.window ? r->reference.window : 64;
  } else if (r->p->row->merge) {
    l.window = r->merge.window ? r->merge.window : 64;
  }
  return l;
}

/* Inputs that no call writes. */
static void upload_inputs(run *r) {
  const tt_problem *p = r->p;
  r->batch = p->batch;
  r->tokens = p->tokens;
  r->reference = p->reference;
  int32_t *shape = up(r, &p->shape, 0);
  if (p->batch.lengths != NULL) r->batch.lengths = shape;
  if (p->batch.cu_seqlens != NULL) r->batch.cu_seqlens = shape;
  r->batch.group_cu_seqlens = up(r, &p->group_offsets, 0);
  r->rule = p->rule;
  r->rule.group_k = up(r, &p->group_k, 0);
  r->tokens.data = up(r, &p->matrix, 0);
  r->reference.data = up(r, &p->vector, 0);
  r->roles = up(r, &p->roles, 0);
  r->in_scores = up(r, &p->in_scores, 0);
  r->in_flags = up(r, &p->in_flags, 0);
  r->merge = p->merge;
  r->merge.sizes_in = up(r, &p->sizes_in, 0);
}

static void free_inputs(run *r) {
  const void *const all[] = {r->batch.lengths, r->batch.cu_seqlens,       r->tokens.data,
                             r->roles,         r->reference.data,         r->in_scores,
                             r->in_flags,      r->batch.group_cu_seqlens, r->rule.group_k,
                             r->merge.sizes_in};
  for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
    tt_free(r->backend, (void *)(uintptr_t)all[i]);
  }
}

static void new_selection(run *r, int with_scores) {
  static const tailcut_selection defaults = TAILCUT_SELECTION_INITIALIZER;
  const tt_problem *p = r->p;
  tailcut_selection *s = &r->selection;
  *s = defaults;
  s->counts = up(r, &p->counts, 0);
  s->kept = up(r, &p->kept, 0);
  s->kept_placement = p->row->packed ? TAILCUT_PACKED : TAILCUT_LOCAL;
  s->new_cu_seqlens = up(r, &p->new_cu, 0);
  s->flags = up(r, &p->flags, 0);
  s->scores = with_scores ? up(r, &p->scores, 0) : NULL;
  s->curve = up(r, &p->curve, 0);
  s->ranks = up(r, &p->ranks, 0);
  s->mask = (r->carries & TT_OPTION_MASK) ? up(r, &p->mask, 0) : NULL;
  s->group_counts = up(r, &p->group_counts, 0);
  s->host_counts = r->backend->memory->alloc_host(p->host_counts.bytes);
  memcpy(s->host_counts, p->host_counts.data, p->host_counts.bytes);
}

/* Compares what is not NULL, then frees it. */
static void finish_selection(run *r) {
  const tt_problem *p = r->p;
  const struct {
    const char *name;
    const tt_block *block;
    void *device;
  } all[] = {{"counts", &p->counts, r->selection.counts},
             {"kept", &p->kept, r->selection.kept},
             {"new_cu_seqlens", &p->new_cu, r->selection.new_cu_seqlens},
             {"flags", &p->flags, r->selection.flags},
             {"selection scores", &p->scores, r->selection.scores},
             {"curve", &p->curve, r->selection.curve},
             {"ranks", &p->ranks, r->selection.ranks},
             {"mask", &p->mask, r->selection.mask},
             {"group_counts", &p->group_counts, r->selection.group_counts}};
  for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
    if (all[i].device == NULL) continue;
    compare(r, all[i].name, all[i].block, all[i].device, 0);
    tt_free(r->backend, all[i].device);
  }
  if (r->selection.host_counts == NULL) return;
  const uint8_t *want = r->refused ? p->host_counts.data : p->host_counts.want;
  if (memcmp(r->selection.host_counts, want, p->host_counts.bytes) != 0) {
    complain(r, "host_counts", "differ");
  }
  r->backend->memory->release_host(r->selection.host_counts);
}

/* Device copies of the row arrays. The scored matrix, where it is compacted too, is the one that
 * the tokens are read from. */
static void new_arrays(run *r) {
  const tt_problem *p = r->p;
  for (int i = 0; i < p->array_count; i++) {
    const tt_array *a = &p->arrays[i];
    tailcut_rows *rows = &r->rows[i];
    *rows = a->rows;
    rows->dst = up(r, &a->dst, a->misalign);
    rows->src = a->in_place ? rows->dst : up(r, &a->src, a->misalign);
    if (a->is_tokens) {
      tt_free(r->backend, (void *)(uintptr_t)r->tokens.data);
      r->tokens.data = rows->dst;
    }
    rows->src_slots = up(r, &a->src_slots, 0);
    rows->dst_slots = a->rows.src_slots != NULL && a->rows.dst_slots == a->rows.src_slots
                          ? rows->src_slots
                          : up(r, &a->dst_slots, 0);
    rows->renumber_base = up(r, &a->base, 0);
    if (a->rotation.struct_size == 0) continue;
    tailcut_rotation *t = &r->rotations[i];
    *t = a->rotation;
    t->positions = a->positions_in > 0 ? r->rows[a->positions_in - 1].dst : up(r, &a->positions, 0);
    t->new_base = up(r, &a->new_base, 0);
    float *angles = up(r, &a->angles, 0);
    if (t->inv_freq != NULL) t->inv_freq = angles;
    if (t->cos_sin != NULL) t->cos_sin = angles;
    rows->rotation = t;
  }
}

static void finish_arrays(run *r, int fused) {
  for (int i = 0; i < r->p->array_count; i++) {
    const tt_array *a = &r->p->arrays[i];
    tailcut_rows *rows = &r->rows[i];
    tt_block block = fused ? a->fused : a->dst;
    block.data = a->dst.data;
    compare(r, a->name, &block, rows->dst, 0);
    tt_free(r->backend, (void *)(uintptr_t)rows->renumber_base);
    if (a->rotation.struct_size != 0) {
      const tailcut_rotation *t = rows->rotation;
      if (a->positions_in == 0) tt_free(r->backend, (void *)(uintptr_t)t->positions);
      tt_free(r->backend, (void *)(uintptr_t)t->new_base);
      tt_free(r->backend, (void *)(uintptr_t)t->inv_freq);
      tt_free(r->backend, (void *)(uintptr_t)t->cos_sin);
    }
    if (rows->dst_slots != rows->src_slots) tt_free(r->backend, (void *)(uintptr_t)rows->dst_slots);
    tt_free(r->backend, (void *)(uintptr_t)rows->src_slots);
    if (!a->in_place) tt_free(r->backend, (void *)(uintptr_t)rows->src);
    if (!a->is_tokens) tt_free(r->backend, rows->dst); /* tokens: free_inputs */
  }
}

/* Scores and flags by the scoring part; MEAN also through its own part and as a given vector. */
static void run_scores(run *r) {
  const tt_problem *p = r->p;
  const tailcut_limits limits = limits_of(r, 1);
  if (p->direction.data != NULL) {
    begin(r, "tailcut_mean_direction", TAILCUT_CALL_MEAN_DIRECTION, 0);
    tt_workspace w = tt_workspace_new(r->backend, r->handle, TAILCUT_CALL_MEAN_DIRECTION, &limits);
    float *u = up(r, &p->direction, 0);
    expect_status(r, tailcut_mean_direction(r->handle, &r->batch, &r->tokens, r->roles, u, w.data,
                                            w.size, NULL));
    compare(r, "direction", &p->direction, u, 1);
    tt_workspace_free(r->backend, w);
    tt_free(r->backend, u);
  }
  const int sequence = p->row->kind == TT_SEQUENCE;
  const int32_t call = sequence ? TAILCUT_CALL_RELEVANCE : TAILCUT_CALL_SCORE;
  tt_workspace w = tt_workspace_new(r->backend, r->handle, call, &limits);
  float *scores = up(r, &p->scores, 0);
  int32_t *flags = up(r, &p->score_flags, 0);
  begin(r, sequence ? "tailcut_relevance" : "tailcut_score", call, 0);
  expect_status(r, sequence ? tailcut_relevance(r->handle, &r->batch, &r->tokens, r->roles, NULL,
                                                scores, flags, w.data, w.size, NULL)
                            : tailcut_score(r->handle, &r->batch, &r->tokens, &r->reference, scores,
                                            flags, w.data, w.size, NULL));
  compare(r, "scores", &p->scores, scores, 0);
  compare(r, "flags", &p->score_flags, flags, 0);
  tt_workspace_free(r->backend, w);
  tt_free(r->backend, scores);
  tt_free(r->backend, flags);
}

static void run_cut(run *r) {
  const tt_problem *p = r->p;
  const tailcut_limits limits = limits_of(r, 0);
  const int scored = p->row->kind != TT_CUT;
  tt_block scores = p->scores, flags = p->score_flags;
  tailcut_rule rule = r->rule;
  scores.data = scores.want;
  flags.data = flags.want;
  rule.scale = p->auto_scale ? p->rule.scale : TAILCUT_SCALE_UNIT;
  void *in_scores = scored ? up(r, &scores, 0) : r->in_scores;
  void *in_flags = scored ? up(r, &flags, 0) : r->in_flags;
  tt_workspace w = tt_workspace_new(r->backend, r->handle, TAILCUT_CALL_CUT, &limits);
  begin(r, "tailcut_cut", TAILCUT_CALL_CUT, 1);
  new_selection(r, 0);
  expect_status(r, tailcut_cut(r->handle, &r->batch, in_scores, r->roles, in_flags, &rule,
                               &r->selection, w.data, w.size, NULL));
  finish_selection(r);
  tt_workspace_free(r->backend, w);
  if (scored) tt_free(r->backend, in_scores);
  if (scored) tt_free(r->backend, in_flags);
}

/* By tailcut_merge where the row merges. */
static void run_compact(run *r) {
  const tt_problem *p = r->p;
  const int merges = p->row->merge != 0;
  const tailcut_limits limits = limits_of(r, merges);
  const int32_t call = merges ? TAILCUT_CALL_MERGE : TAILCUT_CALL_COMPACT;
  const int32_t placement = p->row->packed ? TAILCUT_PACKED : TAILCUT_LOCAL;
  tt_block kept = p->kept, counts = p->counts, cu = p->new_cu;
  kept.data = kept.want, counts.data = counts.want, cu.data = cu.want;
  int32_t *d_kept = up(r, &kept, 0), *d_counts = up(r, &counts, 0), *d_cu = up(r, &cu, 0);
  tt_workspace w = tt_workspace_new(r->backend, r->handle, call, &limits);
  begin(r, merges ? "tailcut_merge" : "tailcut_compact", call, 0);
  new_arrays(r);
  if (merges) {
    tailcut_merge_options options = r->merge;
    if (options.window == 0) options.window = p->row->novelty; /* as the fused call takes it */
    options.sizes_out = up(r, &p->sizes_out, 0);
    options.joins_out = up(r, &p->joins_out, 0);
    expect_status(r, tailcut_merge(r->handle, &r->batch, &r->tokens, d_kept, placement, d_counts,
                                   d_cu, &options, r->rows, p->array_count, w.data, w.size, NULL));
    compare(r, "sizes", &p->sizes_out, options.sizes_out, 0);
    compare(r, "joins", &p->joins_out, options.joins_out, 0);
    tt_free(r->backend, options.sizes_out);
    tt_free(r->backend, options.joins_out);
  } else {
    expect_status(r, tailcut_compact(r->handle, &r->batch, d_kept, placement, d_counts, d_cu,
                                     r->rows, p->array_count, w.data, w.size, NULL));
  }
  finish_arrays(r, 0);
  tt_workspace_free(r->backend, w);
  tt_free(r->backend, d_kept);
  tt_free(r->backend, d_counts);
  tt_free(r->backend, d_cu);
}

/* bare: no output but counts and the row arrays; where results are PACKED, what merging says too:
 * places that nothing else asks for. */
static void run_fused(run *r, int bare) {
  const tt_problem *p = r->p;
  const tailcut_limits limits = limits_of(r, 1);
  const int sequence = p->row->kind == TT_SEQUENCE;
  const int32_t call = sequence ? TAILCUT_CALL_PRUNE_SEQUENCE : TAILCUT_CALL_PRUNE_VISUAL;
  tt_workspace w = tt_workspace_new(r->backend, r->handle, call, &limits);
  begin(r, bare ? "fused, counts only" : "fused", call, !bare);
  if (bare) {
    static const tailcut_selection defaults = TAILCUT_SELECTION_INITIALIZER;
    r->selection = defaults;
    r->selection.counts = up(r, &p->counts, 0);
    if (p->row->packed) r->selection.kept_placement = TAILCUT_PACKED;
  } else {
    new_selection(r, 1);
  }
  new_arrays(r);
  tailcut_merge_options merge = r->merge;
  const int told = p->row->merge && (!bare || p->row->packed);
  merge.sizes_out = told ? up(r, &p->sizes_out, 0) : NULL;
  merge.joins_out = told ? up(r, &p->joins_out, 0) : NULL;
  if (p->row->merge) r->selection.merge = &merge;
  expect_status(
      r, sequence
             ? tailcut_prune_sequence(r->handle, &r->batch, &r->tokens, r->roles, NULL, &r->rule,
                                      &r->selection, r->rows, p->array_count, w.data, w.size, NULL)
             : tailcut_prune_visual(r->handle, &r->batch, &r->tokens, &r->reference, &r->rule,
                                    &r->selection, r->rows, p->array_count, w.data, w.size, NULL));
  finish_selection(r);
  if (merge.sizes_out != NULL) compare(r, "sizes", &p->sizes_out, merge.sizes_out, 0);
  if (merge.joins_out != NULL) compare(r, "joins", &p->joins_out, merge.joins_out, 0);
  tt_free(r->backend, merge.joins_out);
  tt_free(r->backend, merge.sizes_out);
  finish_arrays(r, 1);
  tt_workspace_free(r->backend, w);
}

static void run_parts(run *r) {
  upload_inputs(r);
  if (r->p->row->kind != TT_CUT) run_scores(r);
  run_cut(r);
  run_compact(r);
  free_inputs(r);
}

int tt_run_problem(const tt_problem *p, const tt_backend *backend, tailcut_handle handle) {
  run r = {.p = p, .backend = backend, .handle = handle};
  for (int pass = 0; pass < 2; pass++) { /* the second with nothing readable behind any array */
    if (pass == 1 && p->row->heavy) break;
    r.tight = pass;
    /* Not what would be the same launches on the same addresses again: no part asks whether batches
     * go in one launch. */
    if (backend->form != TT_FORM_CHAIN && (pass == 0 || backend->memory->tight)) run_parts(&r);
    if (p->row->kind == TT_CUT) continue;
    upload_inputs(&r);
    run_fused(&r, pass);
    free_inputs(&r);
  }
  return r.failed;
}

int tt_run_case(const tt_case *c, const tt_backend *backends, const tailcut_handle *handles,
                int count) {
  tt_problem *p = tt_problem_new(c);
  int failures = 0;
  for (int i = 0; i < count; i++) failures += tt_run_problem(p, &backends[i], handles[i]) != 0;
  tt_problem_free(p);
  return failures;
}

tt_outcome tt_run_cases(unsigned kinds, int heavy, const tt_backend *backends, int count) {
  tt_outcome o = {0, 0, 0, 0, 0};
  tailcut_handle *handles = tt_host(sizeof *handles * (size_t)count);
  for (int i = 0; i < count; i++) handles[i] = tt_create(&backends[i]);
  for (int n = 0; n < tt_case_count(); n++) {
    const tt_case *c = tt_case_at(n);
    if (!(c->kind & kinds) || (heavy == 2 && !c->heavy)) continue;
    if (c->heavy && !heavy) {
      printf("not run: %s: heavy\n", c->name);
      o.left_out += count;
      continue;
    }
    tt_problem *p = tt_problem_new(c);
    const unsigned options = tt_options_of(
        p, c->kind == TT_SEQUENCE ? TAILCUT_CALL_PRUNE_SEQUENCE : TAILCUT_CALL_PRUNE_VISUAL);
    for (int i = 0; i < count; i++) {
      o.failures += tt_run_problem(p, &backends[i], handles[i]) != 0;
      o.refused += (options & backends[i].refuses) != 0;
      o.runs++;
    }
    o.cases++;
    tt_problem_free(p);
  }
  for (int i = 0; i < count; i++) tailcut_destroy(handles[i]);
  free(handles);
  printf(
      "%d cases, %d runs on %d backends (%d with calls that must be refused), %d failed, "
      "%d not run\n",
      o.cases, o.runs, count, o.refused, o.failures, o.left_out);
  fflush(stdout);
  return o;
}
