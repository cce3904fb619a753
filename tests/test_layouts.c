/* SPDX-License-Identifier: Apache-2.0 */
/* layouts: K/V caches as servers lay them out, dense and paged, pruned in place with all else that
 * a sequence has: hidden states, position ids, side arrays. Strides come from tensors (tensor.h);
 * what must be where is said element by element in the tensors' own indices, from the kept lists of
 * the reference. Whole pools are compared: other sequences' pages, free ones, the dummy slot. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends.h"
#include "data.h"
#include "reference.h"
#include "tensor.h"

/* What a row is: s kept always, i image, t text, b text that may be pruned, x padding. Prompts with
 * several images; without any; nothing; and an image before and behind its question. */
static const char *const prompts[] = {"ssiiiiiiiiitttiiiiiiibtsiiiitttxx", "stts", "",
                                      "iiiiitiiiixi"};
enum { SEQUENCES = 4, LONGEST = 33, BEHIND = 3 }; /* rows of no sequence */
enum { DIM = 24, BLOCK = 4, SPARE = 3, MOST = 8 + 258 };

/* How K and V share memory: a tensor each; one, by an index; side by side, moved apart or at
 * once; there is only one. */
typedef enum sharing { APART, INDEXED, HALVES, AT_ONCE } sharing;

typedef struct layout {
  const char *name, *axes, *memory;
  sharing kv;
  int32_t layers, dtype, heads, d, slot_bytes;
} layout;

static const layout layouts[] = {
    {"[T, H, d]", "THd", "THd", APART, 2, TAILCUT_F16, 2, 8, 0},
    {"[B, H, T, d]", "BHTd", "BHTd", APART, 2, TAILCUT_BF16, 2, 16, 0},
    {"[B, H, T, d], a view of [B, T, H, d]", "BHTd", "BTHd", APART, 2, TAILCUT_F32, 3, 5, 0},
    {"[T, 2, H, d]", "T2Hd", "T2Hd", INDEXED, 2, TAILCUT_F16, 2, 8, 0},
    {"[T, H, 2*d], K and V apart", "THd", "THd", HALVES, 2, TAILCUT_F16, 3, 16, 0},
    {"[T, H, 2*d] at once", "THd", "THd", AT_ONCE, 32, TAILCUT_F32, 1, 10, 0},
    {"vLLM (blocks, heads, block, 2*d)", "PHSd", "PHSd", AT_ONCE, 2, TAILCUT_BF16, 2, 16, 8},
    {"the same, int32 slots", "PHSd", "PHSd", AT_ONCE, 32, TAILCUT_F16, 2, 10, 4},
    {"the same as (blocks, block, heads, 2*d)", "PSHd", "PHSd", HALVES, 2, TAILCUT_F16, 4, 16, 8},
    {"vLLM (2, blocks, block, heads, d)", "2PSHd", "2PSHd", INDEXED, 2, TAILCUT_F16, 2, 8, 4},
    {"the same, int64 slots", "2PSHd", "2PSHd", INDEXED, 32, TAILCUT_BF16, 2, 4, 8},
    {"vLLM latent (blocks, block, 576)", "PSd", "PSd", AT_ONCE, 2, TAILCUT_BF16, 1, 576, 8},
    {"FlashInfer NHD [pages, 2, page, H, D]", "P2SHd", "P2SHd", INDEXED, 2, TAILCUT_F16, 2, 8, 4},
    {"FlashInfer HND [pages, 2, H, page, D]", "P2HSd", "P2HSd", INDEXED, 2, TAILCUT_F32, 2, 4, 8},
    {"SGLang (slots, heads, d)", "sHd", "sHd", APART, 2, TAILCUT_F16, 2, 8, 8},
    {"the same, 32 layers", "sHd", "sHd", APART, 32, TAILCUT_BF16, 1, 6, 4},
    {"128 layers at once", "PHSd", "PHSd", AT_ONCE, 128, TAILCUT_F16, 1, 8, 8},
    {"129 layers at once", "PHSd", "PHSd", AT_ONCE, 129, TAILCUT_F16, 1, 8, 4},
    {"128 layers, K and V apart", "sHd", "sHd", APART, 128, TAILCUT_F16, 1, 4, 4},
    {"129 layers, dense", "THd", "THd", APART, 129, TAILCUT_F16, 1, 4, 0},
};
enum { LAYOUTS = sizeof layouts / sizeof layouts[0] };

/* One tensor, and what must become of its memory. */
typedef struct pool {
  tt_tensor t;
  int64_t pieces, descriptors; /* as tt_describe; axis 2 or shares */
  int merged, zero_tail, renumber;
  size_t bytes;
  uint8_t *before, *want, *open;
} pool;

typedef struct problem {
  const layout *l;
  int uniform;
  tailcut_batch batch;
  int32_t shape[SEQUENCES + 1], groups[2 * 64], group_k[2 * 64];
  int64_t rows, slot[SEQUENCES * LONGEST + BEHIND]; /* -1: padding has none */
  uint8_t roles[SEQUENCES * LONGEST + BEHIND];
  tailcut_rule rule;
  int64_t base[SEQUENCES];
  int32_t narrow_base[SEQUENCES];
  pool pools[MOST];
  int count;
  int32_t counts[SEQUENCES], cu[SEQUENCES + 1], flags[SEQUENCES], group_counts[2 * 64];
  int32_t kept[SEQUENCES * LONGEST + BEHIND];
  uint8_t mask[SEQUENCES * LONGEST + BEHIND];
} problem;

static uint8_t role_of(char c) {
  return c == 's' ? 0 : c == 'i' ? 1 : c == 't' ? 2 : c == 'b' ? 3 : 5;
}

static void make_batch(problem *p) {
  static const tailcut_batch defaults = TAILCUT_BATCH_INITIALIZER;
  int32_t at = 0, groups = 0;
  p->uniform = strchr(p->l->axes, 'B') != NULL;
  p->batch = defaults;
  p->batch.segments = SEQUENCES, p->batch.max_tokens = LONGEST;
  for (int b = 0; b < SEQUENCES; b++) {
    const int32_t n = (int32_t)strlen(prompts[b]), start = p->uniform ? b * LONGEST : at;
    p->shape[b] = p->uniform ? n : at;
    for (int32_t r = 0; r < (p->uniform ? LONGEST : n); r++) {
      const uint8_t role = r < n ? role_of(prompts[b][r]) : 5;
      /* Each image, and each text between them, is a group. */
      if (r == 0 || role != p->roles[start + r - 1]) p->groups[groups++] = start + r;
      p->roles[start + r] = role;
    }
    at += n;
  }
  if (!p->uniform) p->shape[SEQUENCES] = at;
  p->rows = p->uniform ? SEQUENCES * LONGEST : at + BEHIND;
  p->groups[groups] = p->uniform ? SEQUENCES * LONGEST : at;
  p->batch.total_tokens = p->rows;
  if (p->uniform) p->batch.lengths = p->shape;
  if (!p->uniform) p->batch.cu_seqlens = p->shape;
  p->batch.group_cu_seqlens = p->groups, p->batch.groups = groups;
}

/* Distinct slots for all rows of the sequences: pages in any order, the last of a sequence in part;
 * without pages any order behind the dummy slot 0. */
static void make_slots(problem *p, tt_random *random, tt_index *shape) {
  const int paged = strchr(p->l->axes, 'P') != NULL;
  const int32_t unit = paged ? BLOCK : 1;
  int32_t units = 0, order[SEQUENCES * LONGEST + SPARE + 1], at = 0;
  for (int b = 0; b < SEQUENCES; b++) units += ((int32_t)strlen(prompts[b]) + unit - 1) / unit;
  units += SPARE;
  for (int32_t i = 0; i < units; i++) order[i] = i + (paged ? 0 : 1);
  for (int32_t i = units - 1; i > 0; i--) {
    const int32_t j = tt_below(random, i + 1), swap = order[i];
    order[i] = order[j], order[j] = swap;
  }
  for (int64_t i = 0; i < p->rows; i++) p->slot[i] = 1 << 28; /* no row of a sequence: not read */
  for (int b = 0; b < SEQUENCES; b++) {
    const int64_t start = ref_segment_of(&p->batch, b).start;
    for (int32_t r = 0; prompts[b][r] != '\0'; r++) {
      if (r % unit == 0) at++;
      p->slot[start + r] = (int64_t)order[at - 1] * unit + r % unit;
      if (strspn(prompts[b] + r, "x") == strlen(prompts[b] + r)) p->slot[start + r] = -1;
    }
  }
  shape->of['P'] = units, shape->of['S'] = BLOCK, shape->of['s'] = units + 1;
}

static pool *add(problem *p, tt_random *random, const char *axes, const char *memory,
                 const tt_index *shape, int64_t size) {
  pool *q = &p->pools[p->count++];
  cr_assert_leq(p->count, MOST);
  q->t = tt_tensor_of(axes, memory, shape, size);
  q->pieces = 1, q->descriptors = 1;
  q->bytes = (size_t)tt_tensor_bytes(&q->t);
  q->before = tt_host(q->bytes), q->want = tt_host(q->bytes), q->open = tt_host(q->bytes);
  for (size_t i = 0; i < q->bytes; i++) q->before[i] = (uint8_t)tt_next(random);
  return q;
}

static void make_pools(problem *p, tt_random *random) {
  tt_index shape = {{0}};
  const int u = p->uniform;
  const layout *l = p->l;
  shape.of['B'] = SEQUENCES, shape.of['T'] = u ? LONGEST : p->rows;
  shape.of['2'] = 2, shape.of['H'] = l->heads, shape.of['d'] = DIM;
  make_slots(p, random, &shape);
  pool *hidden =
      add(p, random, u ? "BTd" : "Td", u ? "BTd" : "Td", &shape, (int64_t)tt_size(l->dtype));
  tt_tokens(random, hidden->before, l->dtype, p->rows, DIM, DIM, TT_PLAIN);
  /* Position ids, gathered: 1-D, M-RoPE of 3 and 4 rows; renumbered; a side array. */
  add(p, random, u ? "BT" : "T", u ? "BT" : "T", &shape, (l - layouts) % 2 ? 8 : 4);
  shape.of['H'] = 3;
  add(p, random, u ? "HBT" : "HT", u ? "HBT" : "HT", &shape, 4)->zero_tail = 1;
  add(p, random, u ? "HBT" : "HT", u ? "HBT" : "HT", &shape, 4)->renumber = 1;
  shape.of['H'] = 4;
  add(p, random, u ? "HBT" : "HT", u ? "HBT" : "HT", &shape, 8);
  add(p, random, u ? "HBT" : "HT", u ? "BTH" : "TH", &shape, 8)->renumber = 1;
  shape.of['d'] = 5;
  add(p, random, u ? "BTd" : "Td", u ? "BTd" : "Td", &shape, 1)->zero_tail = 1;
  shape.of['H'] = l->heads, shape.of['d'] = l->d;
  for (int i = 0; i < l->layers * (l->kv == APART ? 2 : 1); i++) {
    pool *q = add(p, random, l->axes, l->memory, &shape, (int64_t)tt_size(l->dtype));
    q->pieces = l->kv == HALVES ? 2 : 1;
    q->descriptors = l->kv == HALVES || l->kv == INDEXED ? 2 : 1;
    q->merged = i % 2, q->zero_tail = i % 3 == 2;
  }
}

/* Where row r of sequence b is. */
static void place(const problem *p, int32_t b, int32_t r, tt_index *at) {
  const int64_t number = ref_segment_of(&p->batch, b).start + r, slot = p->slot[number];
  at->of['B'] = b, at->of['T'] = p->uniform ? r : number;
  at->of['s'] = slot, at->of['P'] = slot / BLOCK, at->of['S'] = slot % BLOCK;
}

static int is_there(const problem *p, const pool *q, int32_t b, int32_t r) {
  const int by_slots = strchr(q->t.axes, 'S') != NULL || strchr(q->t.axes, 's') != NULL;
  return !by_slots || p->slot[ref_segment_of(&p->batch, b).start + r] >= 0;
}

/* Element by element: result row j of each sequence is source row kept[j]. */
static void expect(const problem *p, pool *q) {
  memcpy(q->want, q->before, q->bytes);
  for (int32_t b = 0; b < SEQUENCES; b++) {
    const ref_segment s = ref_segment_of(&p->batch, b);
    for (int32_t j = 0; j < s.n; j++) {
      tt_index from = {{0}}, to = {{0}};
      place(p, b, j, &to);
      if (!is_there(p, q, b, j)) continue;
      if (j < p->counts[b]) place(p, b, p->kept[s.start + j], &from);
      for (int64_t kv = 0; kv < tt_length(&q->t, '2'); kv++) {
        for (int64_t h = 0; h < tt_length(&q->t, 'H'); h++) {
          for (int64_t e = 0; e < tt_length(&q->t, 'd'); e++) {
            from.of['2'] = to.of['2'] = kv, from.of['H'] = to.of['H'] = h;
            from.of['d'] = to.of['d'] = e;
            const size_t size = (size_t)q->t.size;
            const int64_t x = tt_element(&q->t, &to), y = tt_element(&q->t, &from);
            const int64_t wide = p->base[b] + j;
            const int32_t narrow = p->narrow_base[b] + j;
            if (j >= p->counts[b]) {
              memset(q->want + x, 0, size);
              if (!q->zero_tail) memset(q->open + x, 1, size);
            } else if (q->renumber) {
              memcpy(q->want + x, size == 8 ? (const void *)&wide : (const void *)&narrow, size);
            } else {
              memcpy(q->want + x, q->before + y, size);
            }
          }
        }
      }
    }
  }
}

static tailcut_tokens tokens_of(const problem *p, const void *data) {
  tailcut_tokens t = TAILCUT_TOKENS_INITIALIZER;
  t.data = data, t.dtype = p->l->dtype, t.dim = DIM;
  return t;
}

static void make(problem *p, int number) {
  static const tailcut_rule rule = TAILCUT_RULE_INITIALIZER;
  tailcut_selection want = TAILCUT_SELECTION_INITIALIZER;
  tt_random random = {1000 + (uint64_t)number};
  float scores[SEQUENCES * LONGEST + BEHIND] = {0};
  int32_t flags[SEQUENCES] = {0};
  memset(p, 0, sizeof *p);
  p->l = &layouts[number];
  p->rule = rule;
  make_batch(p);
  make_pools(p, &random);
  /* Each image its own floor, and with TOPK its own k; every other problem by its curve. */
  p->rule.min_keep = 2;
  if (number % 2) p->rule.round_to = 2;
  if (number % 2 == 0) p->rule.detector = TAILCUT_TOPK, p->rule.k = 6;
  for (int32_t g = 0; g < p->batch.groups; g++) p->group_k[g] = 1 + g % 7;
  if (number % 2 == 0) p->rule.group_k = p->group_k;
  for (int b = 0; b < SEQUENCES; b++) {
    p->narrow_base[b] = 100 * b - 7, p->base[b] = ((int64_t)1 << 40) * b + 5;
  }
  const tailcut_tokens tokens = tokens_of(p, p->pools[0].before);
  ref_relevance(&p->batch, &tokens, p->roles, scores, flags);
  want.counts = p->counts, want.kept = p->kept, want.new_cu_seqlens = p->cu;
  want.flags = p->flags, want.mask = p->mask, want.group_counts = p->group_counts;
  ref_cut(&p->batch, scores, p->roles, flags, &p->rule, 0, &want);
  cr_assert(p->counts[0] > 14 && p->counts[0] < 31 && p->counts[1] == 4 && p->counts[3] < 11);
  for (int i = 0; i < p->count; i++) expect(p, &p->pools[i]);
}

static void drop(problem *p) {
  for (int i = 0; i < p->count; i++) {
    free(p->pools[i].before), free(p->pools[i].want), free(p->pools[i].open);
  }
}

/* --------------------------------------------------------------------------- on the backends -- */

/* Device memory of one call. */
typedef struct device {
  const tt_backend *backend;
  void *all[32];
  int count;
  char *pools[MOST];
} device;

static void *up(device *d, const void *data, size_t bytes) {
  cr_assert_lt(d->count, 32);
  return d->all[d->count++] = tt_upload(d->backend, data, bytes, TT_TIGHT);
}

static void down(device *d, const void *from, const void *want, size_t bytes, const char *what,
                 const problem *p) {
  void *got = tt_host(bytes);
  tt_download(d->backend, got, from, bytes);
  cr_expect(memcmp(got, want, bytes) == 0, "%s: %s on %s", p->l->name, what, d->backend->name);
  free(got);
}

static int32_t fill_rows(const problem *p, device *d, tailcut_rows *rows) {
  int32_t n = 0;
  void *slots = NULL;
  if (p->l->slot_bytes != 0) {
    const size_t bytes = (size_t)p->l->slot_bytes;
    char *table = tt_host((size_t)p->rows * bytes);
    for (int64_t i = 0; i < p->rows; i++) {
      const int32_t narrow = (int32_t)p->slot[i];
      memcpy(table + (size_t)i * bytes,
             bytes == 8 ? (const void *)&p->slot[i] : (const void *)&narrow, bytes);
    }
    slots = up(d, table, (size_t)p->rows * bytes);
    free(table);
  }
  for (int i = 0; i < p->count; i++) {
    const pool *q = &p->pools[i];
    d->pools[i] = tt_upload(d->backend, q->before, q->bytes, 0);
    for (int64_t which = 0; which < q->descriptors; which++) {
      tailcut_rows r = tt_describe(&q->t, d->pools[i], q->pieces, which, slots, q->merged);
      if (r.src_slots != NULL) r.slot_bytes = p->l->slot_bytes;
      if (q->zero_tail) r.flags = TAILCUT_ROWS_ZERO_TAIL;
      if (q->renumber) {
        r.flags = TAILCUT_ROWS_RENUMBER, r.src = NULL;
        r.renumber_base = q->t.size == 8 ? up(d, p->base, sizeof p->base)
                                         : up(d, p->narrow_base, sizeof p->narrow_base);
      }
      rows[n++] = r;
    }
  }
  return n;
}

/* Every byte of every pool. */
static void check_pools(const problem *p, device *d) {
  for (int i = 0; i < p->count; i++) {
    const pool *q = &p->pools[i];
    uint8_t *got = tt_host(q->bytes);
    size_t bad = 0, first = 0;
    tt_download(d->backend, got, d->pools[i], q->bytes);
    for (size_t at = q->bytes; at-- > 0;) {
      if (got[at] == q->want[at] || q->open[at]) continue;
      bad++, first = at;
    }
    cr_expect_eq(bad, 0, "%s: %zu bytes of pool %d (%s) on %s are wrong, the first is %zu",
                 p->l->name, bad, i, q->t.axes, d->backend->name, first);
    free(got);
    tt_free(d->backend, d->pools[i]);
  }
}

static void run(const problem *p, const tt_backend *backend, int fused) {
  static tailcut_rows rows[MOST];
  const size_t cells = 4 * (size_t)p->rows, groups = 4 * (size_t)p->batch.groups;
  tailcut_handle handle = tt_create(backend);
  tailcut_batch batch = p->batch;
  tailcut_rule rule = p->rule;
  tailcut_selection s = TAILCUT_SELECTION_INITIALIZER;
  tailcut_limits limits = TAILCUT_LIMITS_INITIALIZER;
  device d = {.backend = backend};
  limits.segments = SEQUENCES, limits.max_tokens = LONGEST, limits.total_tokens = p->rows;
  limits.dim = DIM, limits.groups = batch.groups;
  const void *shape = up(&d, p->shape, 4 * (SEQUENCES + (p->uniform ? 0 : 1)));
  if (p->uniform) batch.lengths = shape;
  if (!p->uniform) batch.cu_seqlens = shape;
  batch.group_cu_seqlens = up(&d, p->groups, groups + 4);
  if (rule.group_k != NULL) rule.group_k = up(&d, p->group_k, groups);
  const uint8_t *roles = up(&d, p->roles, (size_t)p->rows);
  s.counts = up(&d, fused ? NULL : p->counts, sizeof p->counts);
  s.kept = up(&d, fused ? NULL : p->kept, cells);
  s.new_cu_seqlens = up(&d, NULL, sizeof p->cu);
  s.flags = up(&d, NULL, sizeof p->flags);
  s.mask = up(&d, NULL, (size_t)p->rows);
  s.group_counts = up(&d, NULL, groups);
  const int32_t n = fill_rows(p, &d, rows);
  tt_workspace w = tt_workspace_new(
      backend, handle, fused ? TAILCUT_CALL_PRUNE_SEQUENCE : TAILCUT_CALL_COMPACT, &limits);
  const tailcut_tokens tokens = tokens_of(p, d.pools[0]);
  const tailcut_status status =
      fused ? tailcut_prune_sequence(handle, &batch, &tokens, roles, NULL, &rule, &s, rows, n,
                                     w.data, w.size, NULL)
            : tailcut_compact(handle, &batch, s.kept, TAILCUT_LOCAL, s.counts, NULL, rows, n,
                              w.data, w.size, NULL);
  cr_assert_eq(status, TAILCUT_OK, "%s on %s: %s", p->l->name, backend->name, tailcut_last_error());
  check_pools(p, &d);
  if (fused) {
    down(&d, s.counts, p->counts, sizeof p->counts, "counts", p);
    down(&d, s.new_cu_seqlens, p->cu, sizeof p->cu, "new_cu_seqlens", p);
    down(&d, s.flags, p->flags, sizeof p->flags, "flags", p);
    down(&d, s.group_counts, p->group_counts, groups, "group_counts", p);
    for (int b = 0; b < SEQUENCES; b++) {
      const ref_segment at = ref_segment_of(&p->batch, b);
      down(&d, s.kept + at.start, p->kept + at.start, 4 * (size_t)p->counts[b], "kept", p);
      down(&d, s.mask + at.start, p->mask + at.start, (size_t)at.n, "mask", p);
    }
  }
  for (int i = 0; i < d.count; i++) tt_free(backend, d.all[i]);
  tt_workspace_free(backend, w);
  tailcut_destroy(handle);
}

/* The call and the part; a sound call is sound to TAILCUT_DEBUG too. */
Test(layouts, in_place) {
  static problem p;
  int count;
  const tt_backend *backends = tt_backends(&count);
  for (int n = 0; n < LAYOUTS; n++) {
    make(&p, n);
    for (int i = 0; i < count; i++) {
      /* A simulated device is slow: its other forms share the layouts. */
      if (i > 0 && backends[i].device_kind == TAILCUT_DEVICE_CUDA && n % (count - 1) != i - 1) {
        continue;
      }
      setenv("TAILCUT_DEBUG", (n + i) % 2 ? "slots" : "", 1);
      run(&p, &backends[i], 1);
      run(&p, &backends[i], 0);
    }
    drop(&p);
  }
}
