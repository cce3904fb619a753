/* SPDX-License-Identifier: Apache-2.0 */
/* direction: the mean direction by hand, its blocks of 64 rows made visible, T counted over all
 * query rows, and closeness to float64. Exact bits over layouts are in the table of cases. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backends.h"
#include "data.h"

/* One segment of `rows` fp32 rows; roles may be NULL. */
static void direction(const tt_backend *backend, tailcut_handle handle, const float *tokens,
                      int32_t rows, int32_t dim, const uint8_t *roles, int32_t prefix_rows,
                      float *u) {
  tailcut_batch batch = TAILCUT_BATCH_INITIALIZER;
  tailcut_tokens t = TAILCUT_TOKENS_INITIALIZER;
  tailcut_limits limits = TAILCUT_LIMITS_INITIALIZER;
  batch.segments = limits.segments = 1;
  batch.max_tokens = limits.max_tokens = rows;
  batch.prefix_rows = prefix_rows;
  t.dtype = TAILCUT_F32;
  t.dim = limits.dim = dim;
  t.data = tt_upload(backend, tokens, (size_t)(rows * dim) * 4, TT_TIGHT);
  uint8_t *r = roles != NULL ? tt_upload(backend, roles, (size_t)rows, TT_TIGHT) : NULL;
  float *out = tt_upload(backend, NULL, (size_t)dim * 4, TT_TIGHT);
  tt_workspace w = tt_workspace_new(backend, handle, TAILCUT_CALL_MEAN_DIRECTION, &limits);
  cr_assert_eq(tailcut_mean_direction(handle, &batch, &t, r, out, w.data, w.size, NULL), TAILCUT_OK,
               "%s", tailcut_last_error());
  tt_download(backend, u, out, (size_t)dim * 4);
  tt_free(backend, (void *)(uintptr_t)t.data);
  tt_free(backend, r);
  tt_free(backend, out);
  tt_workspace_free(backend, w);
}

Test(direction, by_hand) {
  int count;
  const tt_backend *backends = tt_backends(&count);
  static const float tokens[] = {3, 4, 0, 2, -8, 0, 0, 0};
  static const uint8_t second_and_third[] = {1, 2, 0xFA, 0}, none[] = {1, 1, 0, 0xFD};
  static const uint8_t absent[] = {6, 2, 2, 7}, all_absent[] = {6, 7, 0xFE, 4};
  static const float small[] = {0x3p-30f, 0x4p-30f, 0x1p-40f, 0}, huge[] = {0x1p100f, 1, 1, 0};
  float u[2];
  for (int b = 0; b < count; b++) {
    tailcut_handle handle = tt_create(&backends[b]);
    direction(&backends[b], handle, tokens, 3, 2, NULL, 0, u);
    /* fp32: w = 0.2; 3*0.2 and 4*0.2 by fma, then the exact 0, 1 and -1, 0; thirds. */
    const float x = (fmaf(3.0f, 1.0f / 5.0f, 0.0f) - 1.0f) / 3.0f;
    const float y = (fmaf(4.0f, 1.0f / 5.0f, 0.0f) + 1.0f) / 3.0f;
    cr_assert(u[0] == x && u[1] == y, "%s: %a %a", backends[b].name, (double)u[0], (double)u[1]);
    direction(&backends[b], handle, tokens, 4, 2, second_and_third, 0, u);
    cr_assert(u[0] == -0.5f && u[1] == 0.5f);
    direction(&backends[b], handle, tokens, 4, 2, absent, 0, u);
    cr_assert(u[0] == -0.5f && u[1] == 0.5f, "absent rows are no queries");
    direction(&backends[b], handle, tokens, 4, 2, all_absent, 0, u);
    cr_assert(u[0] == 0.0f && u[1] == 0.0f, "nothing is left");
    /* Norms 5 * 2^-30 and 2^-40: both below the floor. */
    direction(&backends[b], handle, small, 2, 2, NULL, 0, u);
    const float w = 1.0f / 1e-8f;
    cr_assert_eq(u[0], fmaf(0x1p-40f, w, 0x3p-30f * w) / 2.0f, "%a", (double)u[0]);
    cr_assert_eq(u[1], 0x4p-30f * w / 2.0f);
    direction(&backends[b], handle, huge, 2, 2, NULL, 0, u);
    cr_assert(isnan(u[0]) && isnan(u[1]), "a row whose norm overflows");
    direction(&backends[b], handle, tokens, 4, 2, none, 0, u);
    cr_assert(u[0] == 0.0f && u[1] == 0.0f && !signbit(u[0]), "T = 0 gives zeros");
    direction(&backends[b], handle, tokens, 2, 2, NULL, 1, u);
    cr_assert(u[0] == 0.0f && u[1] == 1.0f, "the CLS row does not count");
    direction(&backends[b], handle, tokens, 3, 2, NULL, 2, u);
    cr_assert(u[0] == -1.0f && u[1] == 0.0f, "nor do registers");
    direction(&backends[b], handle, tokens, 3, 2, NULL, 3, u);
    cr_assert(u[0] == 0.0f && u[1] == 0.0f, "no candidates");
    direction(&backends[b], handle, tokens + 6, 1, 2, NULL, 0, u);
    cr_assert(u[0] == 0.0f && u[1] == 0.0f, "a zero row: 0 / 1e-8");
    tailcut_destroy(handle);
  }
}

/* Row 0 is (1,0), all others (2^-25, 1), whose norm is 1: inside the first block 2^-25 is lost to
 * the 1; a block of its own keeps it. So u shows where blocks begin, and that they begin at the
 * segment's first row whether it is a query or not. */
Test(direction, blocks_of_64_rows) {
  int count;
  const tt_backend *backends = tt_backends(&count);
  float tokens[200][2], u[2];
  uint8_t roles[200];
  for (int b = 0; b < count; b++) {
    tailcut_handle handle = tt_create(&backends[b]);
    for (int32_t rows = 64; rows <= 200; rows += 4) {
      for (int32_t first = 0; first < 64; first += 9) { /* the row that is (1,0); none before */
        for (int32_t r = 0; r < rows; r++) {
          tokens[r][0] = r == first ? 1.0f : 0x1p-25f;
          tokens[r][1] = r == first ? 0.0f : 1.0f;
          roles[r] = r < first ? TAILCUT_ROLE_CANDIDATE : TAILCUT_ROLE_QUERY;
        }
        const int32_t later = rows > 64 ? rows - 64 : 0;
        float sum = 1.0f;
        for (int32_t begin = 0; begin < later; begin += 64) {
          sum += (float)(later - begin < 64 ? later - begin : 64) * 0x1p-25f;
        }
        direction(&backends[b], handle, &tokens[0][0], rows, 2, roles, 0, u);
        cr_assert_eq(u[0], sum / (float)(rows - first), "%s: %d rows from %d: %a, expected %a",
                     backends[b].name, rows, first, (double)u[0],
                     (double)(sum / (float)(rows - first)));
      }
    }
    tailcut_destroy(handle);
  }
}

Test(direction, close_to_float64) {
  static const int32_t dims[] = {1, 3, 64, 300, 1024};
  int count;
  const tt_backend *backends = tt_backends(&count);
  tt_random random = {31};
  float *tokens = tt_host(150 * 1024 * 4), u[1024];
  double want[1024];
  for (size_t i = 0; i < sizeof dims / sizeof dims[0]; i++) {
    const int32_t dim = dims[i], rows = 1 + tt_below(&random, 150);
    tt_tokens(&random, tokens, TAILCUT_F32, rows, dim, dim, TT_PLAIN);
    memset(want, 0, sizeof want);
    for (int32_t r = 0; r < rows; r++) {
      double square = 0;
      for (int32_t d = 0; d < dim; d++) square += pow((double)tokens[r * dim + d], 2);
      for (int32_t d = 0; d < dim; d++) {
        want[d] += (double)tokens[r * dim + d] / sqrt(square) / rows;
      }
    }
    for (int b = 0; b < count; b++) {
      tailcut_handle handle = tt_create(&backends[b]);
      direction(&backends[b], handle, tokens, rows, dim, NULL, 0, u);
      for (int32_t d = 0; d < dim; d++) {
        cr_assert(fabs((double)u[d] - want[d]) < 1e-6, "%s dim %d: %g, %g", backends[b].name, dim,
                  (double)u[d], want[d]);
      }
      tailcut_destroy(handle);
    }
  }
  free(tokens);
}
