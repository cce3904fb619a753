/* SPDX-License-Identifier: Apache-2.0 */
/* The smallest program that uses the library: does it compile, link, run and cut? It says so. With
 * an argument it says instead whether the library serves a program made for that TAILCUT_VERSION.
 * */
#include <stdio.h>
#include <stdlib.h>
#include <tailcut.h>

#define TOKENS 8

static int serves(int version) {
  tailcut_handle made = NULL;
  tailcut_config config = TAILCUT_CONFIG_INITIALIZER;
  config.version = version;
  const tailcut_status status = tailcut_create(&made, &config);
  tailcut_destroy(made);
  puts(status == TAILCUT_OK ? "yes" : status == TAILCUT_ERROR_VERSION ? "no" : "failed");
  return 0;
}

int main(int argc, char **argv) {
  if (argc > 1) return serves(atoi(argv[1]));
  static const float scores[TOKENS] = {0.9f, 0.1f, 0.8f, 0.1f, 0.1f, 0.1f, 0.1f, 0.1f};
  int32_t kept[TOKENS] = {0}, counts[1] = {0};
  tailcut_batch batch = TAILCUT_BATCH_INITIALIZER;
  tailcut_rule rule = TAILCUT_RULE_INITIALIZER;
  tailcut_selection selection = TAILCUT_SELECTION_INITIALIZER;
  tailcut_limits limits = TAILCUT_LIMITS_INITIALIZER;
  tailcut_handle handle = NULL;
  void *workspace = NULL;
  const tailcut_config config = TAILCUT_CONFIG_INITIALIZER;
  size_t size = 0;

  batch.segments = limits.segments = 1;
  batch.max_tokens = limits.max_tokens = TOKENS;
  selection.kept = kept;
  selection.counts = counts;
  const int ok = tailcut_create(&handle, &config) == TAILCUT_OK &&
                 tailcut_workspace_size(handle, TAILCUT_CALL_CUT, &limits, &size) == TAILCUT_OK &&
                 (workspace = aligned_alloc(TAILCUT_WORKSPACE_ALIGNMENT,
                                            (size / TAILCUT_WORKSPACE_ALIGNMENT + 1) *
                                                TAILCUT_WORKSPACE_ALIGNMENT)) != NULL &&
                 tailcut_workspace_init(handle, workspace, size, NULL) == TAILCUT_OK &&
                 tailcut_cut(handle, &batch, scores, NULL, NULL, &rule, &selection, workspace, size,
                             NULL) == TAILCUT_OK;
  if (!ok) printf("%s\n", tailcut_last_error());
  free(workspace);
  tailcut_destroy(handle);
  printf("tailcut %d keeps %d of %d tokens: %d and %d\n", (int)tailcut_version(), (int)counts[0],
         TOKENS, (int)kept[0], (int)kept[1]);
  return ok && tailcut_version() == TAILCUT_VERSION && counts[0] == 2 && kept[0] == 0 &&
                 kept[1] == 2
             ? 0
             : 1;
}
