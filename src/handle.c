/* SPDX-License-Identifier: Apache-2.0 */
/* handle: create and destroy, versions, build info. */
#include <stdatomic.h>
#include <stdlib.h>

#include "cpu/kernels.h"
#include "cpu/team.h"
#include "internal.h"

#define TC_STRING_(x) #x
#define TC_STRING(x) TC_STRING_(x)
#define TC_VERSION_STRING          \
  TC_STRING(TAILCUT_VERSION_MAJOR) \
  "." TC_STRING(TAILCUT_VERSION_MINOR) "." TC_STRING(TAILCUT_VERSION_PATCH)

#if defined(__clang__)
#define TC_COMPILER "clang " TC_STRING(__clang_major__) "." TC_STRING(__clang_minor__)
#elif defined(__GNUC__)
#define TC_COMPILER "gcc " TC_STRING(__GNUC__) "." TC_STRING(__GNUC_MINOR__)
#else
#define TC_COMPILER "unknown"
#endif
#if TC_THREADS
#define TC_HAS_THREADS "true"
#else
#define TC_HAS_THREADS "false"
#endif
#if defined(TAILCUT_HAVE_CUDA)
#include "tailcut_cuda_build.h" /* made by CMake: TAILCUT_CUDA_ARCHITECTURES, a list of strings */
#define TC_CUDA_BACKEND ", \"cuda\""
#define TC_CUDA_CODE TAILCUT_CUDA_ARCHITECTURES
#else
#define TC_CUDA_BACKEND ""
#define TC_CUDA_CODE ""
#endif
#if defined(__x86_64__)
#define TC_MACHINE "x86_64"
#define TC_SIMD_BUILT "\"scalar\", \"avx2\", \"avx2-vnni\", \"avx512\", \"avx512-vnni\""
#elif defined(__aarch64__)
#define TC_MACHINE "aarch64"
#define TC_SIMD_BUILT "\"scalar\", \"neon\", \"neon-dotprod\""
#else
#define TC_MACHINE "other"
#define TC_SIMD_BUILT "\"scalar\""
#endif
#define TC_INFO(simd)                                                               \
  "{\"version\": \"" TC_VERSION_STRING "\", \"backends\": [\"cpu\"" TC_CUDA_BACKEND \
  "], \"cuda_architectures\": [" TC_CUDA_CODE "], \"machine\": \"" TC_MACHINE       \
  "\", \"compiler\": \"" TC_COMPILER "\", \"threads\": " TC_HAS_THREADS             \
  ", \"simd_built\": [" TC_SIMD_BUILT "], \"simd\": \"" simd "\"}"

TAILCUT_API int32_t tailcut_version(void) { return TAILCUT_VERSION; }

TAILCUT_API const char *tailcut_build_info(void) {
  static const char *const infos[] = {
      TC_INFO("scalar"),    TC_INFO("neon"),   TC_INFO("neon-dotprod"), TC_INFO("avx2"),
      TC_INFO("avx2-vnni"), TC_INFO("avx512"), TC_INFO("avx512-vnni")};
  return infos[tc_kernels_best()];
}

TAILCUT_API tailcut_status tailcut_create(tailcut_handle *handle, const tailcut_config *config) {
  tailcut_config c;
  tc_clear_error();
  if (handle == NULL) return tc_fail(TAILCUT_ERROR_NULL, "handle is NULL");
  *handle = NULL;
  tailcut_status status = tc_check_config(config, &c);
  if (status != TAILCUT_OK) return status;
  const tc_backend *backend = tc_backend_find(c.device_kind);
  if (backend == NULL) {
    return tc_fail(TAILCUT_ERROR_NO_BACKEND,
                   "config->device_kind is %d; this build of tailcut has no such backend%s",
                   (int)c.device_kind,
                   c.device_kind == TAILCUT_DEVICE_CUDA ? " (built without CUDA)" : "");
  }
  struct tailcut_handle_s *h = calloc(1, sizeof *h);
  if (h == NULL) {
    return tc_fail(TAILCUT_ERROR_MEMORY, "cannot allocate %zu bytes", sizeof *h);
  }
  h->backend = backend;
  status = tc_log_open(h);
  if (status == TAILCUT_OK) status = tc_debug_open(h);
  if (status == TAILCUT_OK) status = backend->create(h, &c);
  if (status != TAILCUT_OK) {
    tc_log_close(h);
    free(h);
    return status;
  }
  *handle = h;
  return TAILCUT_OK;
}

TAILCUT_API const char *tailcut_handle_info(tailcut_handle handle) {
  return handle != NULL ? handle->info : NULL;
}

TAILCUT_API void tailcut_destroy(tailcut_handle handle) {
  if (handle == NULL) return;
  handle->backend->destroy(handle);
  tc_log_close(handle);
  free(handle);
}
