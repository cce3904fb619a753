/* SPDX-License-Identifier: Apache-2.0 */
/* cpu_handles: the handles that the CPU's scenes are run on. */
#define _GNU_SOURCE 1 /* POSIX names under -std=c11 */
#include <stdlib.h>
#include <string.h>

#include "bench.h"

int bench_cpu_open(bench_cpu *cpu, const tailcut_limits *limits, int32_t first, int32_t last,
                   int32_t threads) {
  const char *level = getenv("TAILCUT_SIMD");
  char *saved = level != NULL ? strdup(level) : NULL;
  int status = CLI_OK;
  for (int h = 0; h < BENCH_HANDLES && status == CLI_OK; h++) {
    tailcut_config config = TAILCUT_CONFIG_INITIALIZER;
    config.threads = h == BENCH_ALL ? threads : 1;
    if (h == BENCH_SCALAR) setenv("TAILCUT_SIMD", "scalar", 1);
    status = bench_done(tailcut_create(&cpu->handle[h], &config));
    if (h == BENCH_SCALAR && saved == NULL) unsetenv("TAILCUT_SIMD");
    if (h == BENCH_SCALAR && saved != NULL) setenv("TAILCUT_SIMD", saved, 1);
    for (int32_t k = first; k <= last && status == CLI_OK; k++) {
      size_t bytes = 0;
      status = bench_done(tailcut_workspace_size(cpu->handle[h], k, limits, &bytes));
      if (bytes > cpu->bytes[h]) cpu->bytes[h] = bytes;
    }
    if (status != CLI_OK) break;
    cpu->workspace[h] = bench_allocate(cpu->bytes[h]);
    status =
        bench_done(tailcut_workspace_init(cpu->handle[h], cpu->workspace[h], cpu->bytes[h], NULL));
  }
  free(saved);
  return status;
}

void bench_cpu_close(bench_cpu *cpu) {
  for (int h = 0; h < BENCH_HANDLES; h++) {
    tailcut_destroy(cpu->handle[h]);
    free(cpu->workspace[h]);
  }
}
