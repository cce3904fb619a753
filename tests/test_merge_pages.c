/* SPDX-License-Identifier: Apache-2.0 */
/* merge_pages: a server's K/V cache of (blocks, heads, block, d), found through slots, merged by
 * tailcut_prune_visual in place with an entry for each head, beside the hidden states and M-RoPE's
 * three planes of positions, in a ragged batch; each head against the same rows merged as a plain
 * array, positions and sizes against what was kept. */
#include <criterion/criterion.h>
#include <string.h>

#include "backends.h"
#include "data.h"

enum { SEGMENTS = 3, ROWS = 150, DIM = 24, HEADS = 3, HEAD_DIM = 16, BLOCK = 4, BLOCKS = 60 };
enum { CACHE = BLOCKS * HEADS * BLOCK * HEAD_DIM, HEAD_BYTES = 2 * HEAD_DIM };

typedef struct arrays {
  uint16_t hidden[ROWS * DIM], cache[CACHE], plain[HEADS][ROWS * HEAD_DIM];
  int64_t positions[3][ROWS];
  int32_t slots[ROWS], offsets[SEGMENTS + 1], counts[SEGMENTS], kept[ROWS], sizes[ROWS];
} arrays;

/* Where row i of a head stands in the cache. */
static size_t place(const arrays *a, int head, int i) {
  const int32_t slot = a->slots[i];
  return (size_t)(((slot / BLOCK * HEADS + head) * BLOCK + slot % BLOCK) * HEAD_DIM);
}

static void fill(arrays *a) {
  tt_random random = {7};
  const int32_t offsets[SEGMENTS + 1] = {0, 70, 80, ROWS};
  memcpy(a->offsets, offsets, sizeof offsets);
  tt_tokens(&random, a->hidden, TAILCUT_F16, ROWS, DIM, DIM, TT_PLAIN);
  tt_tokens(&random, a->cache, TAILCUT_F16, CACHE / HEAD_DIM, HEAD_DIM, HEAD_DIM, TT_PLAIN);
  for (int i = 0; i < ROWS; i++) {
    a->slots[i] = i * 7 % (BLOCKS * BLOCK - 3); /* no two the same */
    for (int p = 0; p < 3; p++) a->positions[p][i] = 1000 * p + i;
    for (int h = 0; h < HEADS; h++) {
      memcpy(&a->plain[h][i * HEAD_DIM], &a->cache[place(a, h, i)], HEAD_BYTES);
    }
  }
}

static tailcut_rows merged(void *array, int64_t bytes) {
  tailcut_rows r = TAILCUT_ROWS_INITIALIZER;
  r.src = r.dst = array, r.part_bytes = bytes;
  r.flags = TAILCUT_ROWS_MERGE, r.dtype = TAILCUT_F16;
  return r;
}

static void prune(const tt_backend *backend, tailcut_handle handle, arrays *device) {
  tailcut_batch batch = TAILCUT_BATCH_INITIALIZER;
  tailcut_tokens tokens = TAILCUT_TOKENS_INITIALIZER;
  tailcut_reference novelty = TAILCUT_REFERENCE_INITIALIZER;
  tailcut_rule rule = TAILCUT_RULE_INITIALIZER;
  tailcut_merge_options merge = TAILCUT_MERGE_OPTIONS_INITIALIZER;
  tailcut_selection selection = TAILCUT_SELECTION_INITIALIZER;
  tailcut_limits limits = TAILCUT_LIMITS_INITIALIZER;
  tailcut_rows rows[2 + 2 * HEADS] = {merged(device->hidden, 2 * DIM), TAILCUT_ROWS_INITIALIZER};
  batch.segments = SEGMENTS, batch.max_tokens = 80, batch.total_tokens = ROWS;
  batch.cu_seqlens = device->offsets;
  tokens.data = device->hidden, tokens.dtype = TAILCUT_F16, tokens.dim = DIM;
  novelty.source = TAILCUT_REFERENCE_NOVELTY;
  rule.detector = TAILCUT_RATIO, rule.ratio = 0.3;
  merge.sizes_out = device->sizes;
  selection.counts = device->counts, selection.kept = device->kept, selection.merge = &merge;
  rows[1].src = rows[1].dst = device->positions, rows[1].part_bytes = 8, rows[1].parts = 3;
  rows[1].src_part_stride = rows[1].dst_part_stride = 8 * ROWS;
  rows[1].src_row_stride = rows[1].dst_row_stride = 8;
  for (int h = 0; h < HEADS; h++) {
    tailcut_rows *r = &rows[2 + h];
    *r = merged(device->cache + h * BLOCK * HEAD_DIM, HEAD_BYTES);
    r->src_slots = r->dst_slots = device->slots;
    r->page_rows = BLOCK, r->page_stride = HEADS * BLOCK * HEAD_BYTES;
    rows[2 + HEADS + h] = merged(device->plain[h], HEAD_BYTES);
  }
  limits.segments = SEGMENTS, limits.max_tokens = 80, limits.total_tokens = ROWS;
  limits.dim = DIM, limits.window = 64; /* the calls' default */
  tt_workspace w = tt_workspace_new(backend, handle, TAILCUT_CALL_PRUNE_VISUAL, &limits);
  cr_assert_eq(tailcut_prune_visual(handle, &batch, &tokens, &novelty, &rule, &selection, rows,
                                    2 + 2 * HEADS, w.data, w.size, NULL),
               TAILCUT_OK, "%s", tailcut_last_error());
  tt_workspace_free(backend, w);
}

Test(merge_pages, an_entry_for_each_head) {
  int count;
  const tt_backend *backends = tt_backends(&count);
  for (int i = 0; i < count; i++) {
    static arrays was, is;
    tailcut_handle handle = tt_create(&backends[i]);
    fill(&was);
    arrays *device = tt_upload(&backends[i], &was, sizeof was, 0);
    prune(&backends[i], handle, device);
    tt_download(&backends[i], &is, device, sizeof is);
    int32_t moved = 0, stood_for = 0;
    for (int32_t b = 0; b < SEGMENTS; b++) {
      const int32_t start = was.offsets[b];
      cr_assert(is.counts[b] > 0 && is.counts[b] < was.offsets[b + 1] - start);
      for (int32_t j = start; j < start + is.counts[b]; j++) {
        stood_for += is.sizes[j];
        for (int p = 0; p < 3; p++) {
          cr_assert_eq(is.positions[p][j], 1000 * p + start + is.kept[j], "plane %d, row %d", p, j);
        }
      }
    }
    cr_assert_eq(stood_for, ROWS, "%s: nobody is lost", backends[i].name);
    for (int h = 0; h < HEADS; h++) {
      for (int r = 0; r < ROWS; r++) {
        const void *row = &is.plain[h][r * HEAD_DIM];
        cr_assert_arr_eq(&is.cache[place(&is, h, r)], row, HEAD_BYTES, "%s: head %d, row %d",
                         backends[i].name, h, r);
        moved += memcmp(row, &was.plain[h][r * HEAD_DIM], HEAD_BYTES) != 0;
      }
    }
    cr_assert_gt(moved, HEADS * 20);
    tt_free(&backends[i], device);
    tailcut_destroy(handle);
  }
}
