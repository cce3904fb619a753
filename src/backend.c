/* SPDX-License-Identifier: Apache-2.0 */
/* backend: the table of backends in this build. Adding one is a row here and its files. */
#include "internal.h"

static const tc_backend *const tc_backends[] = {
    &tc_backend_cpu,
#if defined(TAILCUT_HAVE_CUDA)
    &tc_backend_cuda,
#endif
};

const tc_backend *tc_backend_find(int32_t device_kind) {
  for (size_t i = 0; i < sizeof tc_backends / sizeof tc_backends[0]; i++) {
    if (tc_backends[i]->device_kind == device_kind) return tc_backends[i];
  }
  return NULL;
}
