/* SPDX-License-Identifier: Apache-2.0 */
/* info: what this build and this machine can do. */
#include "cli.h"

int cli_info(const cli_options *options) {
  static const struct {
    const char *name;
    int32_t kind;
  } backends[] = {{"cpu", TAILCUT_DEVICE_CPU}, {"cuda", TAILCUT_DEVICE_CUDA}};
  (void)options;
  printf("%s\n", tailcut_build_info());
  for (size_t i = 0; i < sizeof backends / sizeof backends[0]; i++) {
    tailcut_config config = TAILCUT_CONFIG_INITIALIZER;
    tailcut_handle handle = NULL;
    config.device_kind = backends[i].kind;
    const tailcut_status status = tailcut_create(&handle, &config);
    printf("%s: %s%s%s\n", backends[i].name, status == TAILCUT_OK ? "ready" : "not available",
           status == TAILCUT_OK ? "" : ", ", status == TAILCUT_OK ? "" : tailcut_last_error());
    if (status == TAILCUT_OK) tailcut_destroy(handle);
  }
  return cli_flush_stdout();
}
