/* SPDX-License-Identifier: Apache-2.0 */
/* rotation: keys that turn while their rows are compacted. Quarter turns known by hand; every dtype
 * and pairing against long double, within one unit in the last place, where the products cancel,
 * overflow and vanish too; rows that keep their position keep their bits; positions in an array
 * that the same call renumbers. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "backends.h"
#include "data.h"
#include "question.h"
#include "reference.h"

enum { ROWS = 40, MOST_DIM = 64 };

/* One segment of ROWS rows, in place or to other memory. */
typedef struct keys {
  int32_t dim, k; /* values of a row; rows kept */
  int32_t kept[ROWS];
  int64_t positions[ROWS], base;
  tailcut_rotation t; /* angles: host */
  const float *angles;
  int in_place;
  int32_t renumbers; /* the call renumbers the positions too: 1 behind the keys, 2 before them */
  uint8_t before[ROWS * MOST_DIM * 4], after[ROWS * MOST_DIM * 4];
  int64_t positions_after[ROWS];
} keys;

static keys new_keys(int32_t dim, int32_t dtype) {
  static const tailcut_rotation defaults = TAILCUT_ROTATION_INITIALIZER;
  keys x;
  memset(&x, 0, sizeof x);
  x.dim = dim;
  x.t = defaults;
  x.t.dtype = dtype, x.t.rotary_dim = dim, x.t.position_bytes = 8;
  for (int32_t i = 0; i < ROWS; i++) x.positions[i] = i;
  return x;
}

/* Compacts them on a backend; 0 where it had to refuse that, and did. */
static int compact(const tt_backend *backend, tailcut_handle handle, keys *x) {
  tailcut_batch batch = TAILCUT_BATCH_INITIALIZER;
  tailcut_rows rows[2] = {TAILCUT_ROWS_INITIALIZER, TAILCUT_ROWS_INITIALIZER};
  tailcut_limits limits = TAILCUT_LIMITS_INITIALIZER;
  tailcut_rotation t = x->t;
  const int32_t size = (int32_t)tt_size(t.dtype), at = x->renumbers == 2;
  const size_t bytes = (size_t)(ROWS * x->dim * size);
  const size_t angles = (size_t)t.rotary_dim * (t.table_rows ? (size_t)t.table_rows * 4 : 2);
  limits.segments = batch.segments = 1, limits.max_tokens = batch.max_tokens = ROWS;
  void *src = tt_upload(backend, x->before, bytes, 0);
  void *dst = x->in_place ? src : tt_upload(backend, NULL, bytes, 0);
  void *positions = tt_upload(backend, x->positions, sizeof x->positions, 0);
  void *base = tt_upload(backend, &x->base, 8, 0);
  float *table = tt_upload(backend, x->angles, angles, 0);
  void *kept = tt_upload(backend, x->kept, sizeof x->kept, 0);
  void *counts = tt_upload(backend, &x->k, 4, 0);
  t.positions = positions, t.new_base = base;
  if (t.table_rows) t.cos_sin = table;
  if (!t.table_rows) t.inv_freq = table;
  rows[at].src = src, rows[at].dst = dst, rows[at].part_bytes = x->dim * size;
  rows[at].rotation = &t;
  rows[1 - at].dst = positions, rows[1 - at].part_bytes = 8;
  rows[1 - at].flags = TAILCUT_ROWS_RENUMBER, rows[1 - at].renumber_base = base;
  tt_workspace w = tt_workspace_new(backend, handle, TAILCUT_CALL_COMPACT, &limits);
  const int refused = (backend->refuses & TT_OPTION_ROTATION) != 0;
  cr_assert_eq(tailcut_compact(handle, &batch, kept, TAILCUT_LOCAL, counts, NULL, rows,
                               x->renumbers ? 2 : 1, w.data, w.size, NULL),
               refused ? TAILCUT_ERROR_UNSUPPORTED : TAILCUT_OK, "%s", tailcut_last_error());
  tt_download(backend, x->after, dst, bytes);
  tt_download(backend, x->positions_after, positions, sizeof x->positions);
  if (!x->in_place) tt_free(backend, dst);
  void *const all[] = {src, positions, base, table, kept, counts};
  for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) tt_free(backend, all[i]);
  tt_workspace_free(backend, w);
  return !refused;
}

/* ---------------------------------------------------------------------------- quarter turns -- */

Test(rotation, quarter_turns_are_exact) {
  /* Rows of a table: cosines of two angles, then sines. The second angle is the first's triple. */
  static const float table[5 * 4] = {2, 2, 0,      0, /**/ 0, 0, 2,      -2, /**/ -2, -2,
                                     0, 0, /**/ 0, 0, -2,     2, /**/ 2, 2,  0,       0};
  static const float row[4] = {3, 5, 7, 11};
  /* From position 0 to 1, from 3 to 2, from 1 to 3, from 2 to 2, from 5 (no row) to 4. */
  static const int64_t from[5] = {0, 3, 1, 2, 5};
  static const float neox[5][4] = {
      {-7, 11, 3, -5}, {7, -11, -3, 5}, {-3, -5, -7, -11}, {3, 5, 7, 11}, {3, 5, 7, 11}};
  static const float interleaved[5][4] = {
      {-5, 3, 11, -7}, {5, -3, -11, 7}, {-3, -5, -7, -11}, {3, 5, 7, 11}, {3, 5, 7, 11}};
  static const int64_t to[5] = {1, 2, 3, 2, 4};
  ON_EVERY_BACKEND(backend, handle) {
    for (int32_t kind = 0; kind < 12; kind++) {
      const int32_t dtype = 1 + kind % 3, pairing = 1 + kind / 3 % 2;
      for (int32_t turn = 0; turn < 5; turn++) {
        keys x = new_keys(4, dtype);
        x.in_place = kind / 6;
        x.t.pairing = pairing, x.t.table_rows = 5, x.angles = table;
        x.k = 1, x.kept[0] = turn % 2 ? 6 : 0; /* row 0 stays where it is, and turns */
        x.positions[x.kept[0]] = from[turn], x.base = to[turn];
        for (int32_t i = 0; i < ROWS * 4; i++) tt_put(x.before, dtype, (size_t)i, row[i % 4]);
        if (!compact(backend, handle, &x)) continue;
        const float *want = pairing == TAILCUT_ROPE_NEOX ? neox[turn] : interleaved[turn];
        for (size_t i = 0; i < 4; i++) {
          cr_expect_eq(tt_get(x.after, dtype, i), want[i], "%s, dtype %d, pairing %d, turn %d: %g",
                       backend->name, dtype, pairing, turn, (double)tt_get(x.after, dtype, i));
        }
      }
    }
  }
}

/* The second row of the table is half a unit in the last place off 1: x0 - x1/2 ulp is a tie. */
Test(rotation, ties_go_to_even) {
  static const float ulps[3] = {0x1p-10f, 0x1p-7f, 0x1p-23f};
  ON_EVERY_BACKEND(backend, handle) {
    for (int32_t dtype = TAILCUT_F16; dtype <= TAILCUT_F32; dtype++) {
      const float ulp = ulps[dtype - 1];
      const float table[4] = {1, 0, 1, ulp / 2}, x0[2] = {1, 1 + ulp}, y0[2] = {1, 1 + 2 * ulp};
      for (int32_t odd = 0; odd < 2; odd++) {
        keys x = new_keys(2, dtype);
        x.t.table_rows = 2, x.angles = table, x.k = 1, x.base = 1;
        tt_put(x.before, dtype, 0, x0[odd]);
        tt_put(x.before, dtype, 1, -1);
        if (!compact(backend, handle, &x)) continue;
        cr_expect_eq(tt_get(x.after, dtype, 0), y0[odd], "%s, dtype %d", backend->name, dtype);
        cr_expect_eq(tt_get(x.after, dtype, 1), ulp / 2 - 1, "%s, dtype %d", backend->name, dtype);
      }
    }
  }
}

/* --------------------------------------------------------------------------------- accuracy -- */

/* One unit in the last place at v. */
static long double ulp_at(long double v, int32_t dtype) {
  const int fraction = dtype == TAILCUT_F16 ? 10 : dtype == TAILCUT_BF16 ? 7 : 23;
  const int least = dtype == TAILCUT_F16 ? -14 : -126;
  const int exponent = v != 0 ? ilogbl(v) : least;
  return ldexpl(1, (exponent > least ? exponent : least) - fraction);
}

static void fill(keys *x, tt_random *random) {
  const int32_t half = x->t.rotary_dim / 2, neox = x->t.pairing == TAILCUT_ROPE_NEOX;
  for (int32_t r = 0; r < ROWS; r++) {
    const int sort = r % 5;
    for (int32_t d = 0; d < x->dim; d++) {
      double v = tt_normal(random);
      if (sort == 1) v *= x->t.dtype == TAILCUT_F16 ? 6e4 : 3e38;   /* overflows */
      if (sort == 2) v *= x->t.dtype == TAILCUT_F16 ? 1e-7 : 1e-40; /* denormals */
      tt_put(x->before, x->t.dtype, (size_t)(r * x->dim + d), (float)v);
    }
    /* Keys of which one product all but cancels the other. */
    for (int32_t i = 0; i < half && sort == 3; i++) {
      const int32_t at = r * x->dim + x->t.rotary_offset;
      const int32_t re = at + (neox ? i : 2 * i), im = at + (neox ? i + half : 2 * i + 1);
      const double angle =
          x->t.table_rows ? (double)(r + i) : (double)x->angles[i] * (double)(r - 7);
      tt_put(x->before, x->t.dtype, (size_t)re, (float)(3.0 * sin(angle)));
      tt_put(x->before, x->t.dtype, (size_t)im, (float)(3.0 * cos(angle)));
    }
  }
}

static void compare(const keys *x, const char *backend, long double *worst) {
  const size_t size = tt_size(x->t.dtype), row_bytes = (size_t)x->dim * size;
  for (int32_t j = 0; j < x->k; j++) {
    long double exact[MOST_DIM];
    const uint8_t *before = x->before + (size_t)x->kept[j] * row_bytes;
    const uint8_t *after = x->after + (size_t)j * row_bytes;
    const int turned = ref_turn(&x->t, 0, x->kept[j], x->kept[j], j, before, exact);
    for (int32_t d = 0; d < x->dim; d++) {
      const int32_t i = d - x->t.rotary_offset;
      if (!turned || i < 0 || i >= x->t.rotary_dim) {
        cr_expect_eq(memcmp(after + (size_t)d * size, before + (size_t)d * size, size), 0,
                     "%s: row %d, value %d does not turn", backend, j, d);
        continue;
      }
      const long double got = (long double)tt_get(after, x->t.dtype, (size_t)d), want = exact[i];
      const long double ulp = ulp_at(want, x->t.dtype);
      const long double most = x->t.dtype == TAILCUT_F16    ? 65504
                               : x->t.dtype == TAILCUT_BF16 ? 0x1.FEp127L
                                                            : 0x1.FFFFFEp127L;
      if (isnan(want)) {
        static const uint8_t nan[3][4] = {{0, 0x7E}, {0xC0, 0x7F}, {0, 0, 0xC0, 0x7F}};
        cr_expect_eq(memcmp(after + (size_t)d * size, nan[x->t.dtype - 1], size), 0,
                     "%s: row %d, value %d", backend, j, d);
        continue;
      }
      if (fabsl(want) > most) {
        cr_expect(isinf(got) || fabsl(got) == most, "%s: row %d, value %d", backend, j, d);
        continue;
      }
      const long double error = fabsl(got - want) / ulp;
      *worst = error > *worst ? error : *worst;
      cr_expect(error <= 1, "%s, dtype %d: row %d, value %d is %Lg, expected %Lg: %Lg ulp", backend,
                x->t.dtype, j, d, got, want, error);
    }
  }
}

Test(rotation, within_one_ulp) {
  static float frequencies[MOST_DIM / 2], table[60 * MOST_DIM];
  ON_EVERY_BACKEND(backend, handle) {
    tt_random random = {7};
    long double worst = 0;
    for (int32_t kind = 0; kind < 48; kind++) {
      static const int32_t dims[] = {2, 16, 26, 64};
      keys x = new_keys(dims[kind / 12], 1 + kind % 3);
      x.t.pairing = 1 + kind / 3 % 2;
      x.in_place = kind % 2;
      x.t.rotary_offset = kind / 12 == 2 ? 4 : 0;
      x.t.rotary_dim = x.dim - x.t.rotary_offset - (kind / 12 == 2 ? 6 : 0);
      const int32_t half = x.t.rotary_dim / 2, by_table = kind / 6 % 2;
      for (int32_t i = 0; i < half; i++) {
        frequencies[i] = (float)pow(1e6, -(double)i / half);
        for (int32_t p = 0; p < 60; p++) {
          table[p * 2 * half + i] = (float)(0.7 * cos(p * (double)frequencies[i]));
          table[p * 2 * half + half + i] = (float)(0.7 * sin(p * (double)frequencies[i]));
        }
      }
      x.angles = by_table ? table : frequencies;
      x.t.table_rows = by_table ? 60 : 0;
      x.base = by_table ? 3 : 1000000;
      for (int32_t r = 0; r < ROWS; r++) {
        x.positions[r] = r % 7 == 6 ? x.base + r / 2 : by_table ? r : tt_below(&random, 2000000);
        if (r % 2) x.kept[x.k++] = r;
      }
      x.t.positions = x.positions,
      x.t.new_base = &x.base; /* for the reference: compact has its own */
      if (by_table) x.t.cos_sin = table;
      if (!by_table) x.t.inv_freq = frequencies;
      fill(&x, &random);
      if (compact(backend, handle, &x)) compare(&x, backend->name, &worst);
    }
    printf("%s: at most %.3Lf ulp\n", backend->name, worst);
  }
}

/* Bits that arithmetic would change. */
Test(rotation, rows_that_keep_their_position_keep_their_bits) {
  static const float frequencies[2] = {1, 0.5f};
  ON_EVERY_BACKEND(backend, handle) {
    for (int32_t kind = 0; kind < 6; kind++) {
      keys x = new_keys(4, 1 + kind % 3);
      x.in_place = kind / 3;
      x.angles = frequencies;
      x.base = INT64_MAX - 3; /* new positions wrap, and so do old ones */
      for (int32_t j = 0; j < ROWS / 2; j++) {
        x.kept[j] = 2 * j;
        x.positions[2 * j] = (int64_t)((uint64_t)x.base + (uint64_t)j);
      }
      x.k = ROWS / 2;
      memset(x.before, 0xFF, sizeof x.before);                            /* NaN of one payload, */
      for (size_t i = 0; i < sizeof x.before; i += 5) x.before[i] = 0x81; /* of others */
      if (!compact(backend, handle, &x)) continue;
      const size_t row = 4 * tt_size(x.t.dtype);
      for (size_t j = 0; j < ROWS / 2; j++) {
        cr_expect_eq(memcmp(x.after + j * row, x.before + 2 * j * row, row), 0, "%s: row %zu",
                     backend->name, j);
      }
    }
  }
}

/* CUDA has room for parts of 16 KB. */
Test(rotation, parts_that_a_backend_has_no_room_for) {
  static const float frequencies[1] = {1};
  ON_EVERY_BACKEND(backend, handle) {
    for (int64_t bytes = 16384; bytes <= 16386; bytes += 2) {
      tailcut_batch batch = TAILCUT_BATCH_INITIALIZER;
      tailcut_rows r = TAILCUT_ROWS_INITIALIZER;
      tailcut_rotation t = TAILCUT_ROTATION_INITIALIZER;
      tailcut_limits limits = TAILCUT_LIMITS_INITIALIZER;
      static const int32_t kept[2] = {1}, count = 1;
      limits.segments = batch.segments = 1, limits.max_tokens = batch.max_tokens = 2;
      float *angles = tt_upload(backend, frequencies, sizeof frequencies, 0);
      void *list = tt_upload(backend, kept, sizeof kept, 0);
      void *counts = tt_upload(backend, &count, sizeof count, 0);
      t.dtype = TAILCUT_F16, t.rotary_dim = 2, t.inv_freq = angles, r.rotation = &t;
      r.src = r.dst = tt_upload(backend, NULL, (size_t)(2 * bytes), 0);
      r.part_bytes = bytes;
      tt_workspace w = tt_workspace_new(backend, handle, TAILCUT_CALL_COMPACT, &limits);
      const int room = bytes <= 16384 || backend->device_kind == TAILCUT_DEVICE_CPU;
      cr_expect_eq(tailcut_compact(handle, &batch, list, TAILCUT_LOCAL, counts, NULL, &r, 1, w.data,
                                   w.size, NULL),
                   room ? TAILCUT_OK : TAILCUT_ERROR_UNSUPPORTED, "%s: %s", backend->name,
                   tailcut_last_error());
      cr_expect_eq(strncmp(tailcut_last_error(), room ? "" : "rows[0].part_bytes", 18), 0);
      tt_workspace_free(backend, w);
      void *const all[] = {angles, list, counts, r.dst};
      for (int i = 0; i < 4; i++) tt_free(backend, all[i]);
    }
  }
}

/* -------------------------------------------------------------------- positions on their way -- */

Test(rotation, positions_may_be_renumbered_by_the_same_call) {
  static const float frequencies[8] = {1, 0.5f, 0.25f, 0.1f, 0.05f, 0.02f, 0.01f, 0.003f};
  ON_EVERY_BACKEND(backend, handle) {
    tt_random random = {5};
    for (int32_t others = 0; others <= 2; others++) { /* before and behind the keys in the list */
      keys x = new_keys(16, TAILCUT_F16);
      x.angles = frequencies, x.base = 100, x.renumbers = others;
      for (int32_t r = 0; r < ROWS; r++) {
        x.positions[r] = 3 * r - 50;
        if (r % 3 != 1) x.kept[x.k++] = r;
      }
      x.t.positions = x.positions, x.t.new_base = &x.base, x.t.inv_freq = frequencies;
      fill(&x, &random);
      if (!compact(backend, handle, &x)) continue;
      long double worst = 0;
      compare(&x, backend->name, &worst);
      cr_expect_gt(worst, 0);
      for (int32_t j = 0; j < x.k && others > 0; j++) {
        cr_expect_eq(x.positions_after[j], 100 + j, "%s: position %d", backend->name, j);
      }
    }
  }
}
