/* SPDX-License-Identifier: Apache-2.0 */
/* info: what this build has, and what really runs on this machine: a handle of each device says it,
 * so that TAILCUT_SIMD and a driver that is missing show. */
#include <string.h>

#include "cli.h"

/* A handle for a device that is there. */
static tailcut_status open_device(const cli_options *options, int32_t kind, int32_t index,
                                  tailcut_handle *handle) {
  tailcut_config config = TAILCUT_CONFIG_INITIALIZER;
  config.device_kind = kind;
  config.device_index = index;
  if (kind == TAILCUT_DEVICE_CPU) config.threads = options->threads;
  return tailcut_create(handle, &config);
}

int cli_info(const cli_options *options) {
  const bool json = options->json != 0;
  tailcut_handle handle = NULL;
  const tailcut_status cpu = open_device(options, TAILCUT_DEVICE_CPU, 0, &handle);
  if (cpu != TAILCUT_OK) return cli_library_failed("cpu", cpu);
  printf(
      json ? "{\"build\": %s, \"cores\": %d, \"devices\": [%s" : "build: %s\ncores: %d\ncpu: %s\n",
      tailcut_build_info(), (int)cli_cores(), tailcut_handle_info(handle));
  tailcut_destroy(handle);
  int32_t count = 0;
  while (open_device(options, TAILCUT_DEVICE_CUDA, count, &handle) == TAILCUT_OK) {
    if (json)
      printf(", %s", tailcut_handle_info(handle));
    else
      printf("cuda:%d: %s\n", (int)count, tailcut_handle_info(handle));
    tailcut_destroy(handle);
    count++;
  }
  if (json)
    puts("]}");
  else if (count == 0)
    printf("cuda: not available: %s\n", tailcut_last_error());
  return cli_flush_stdout();
}
