/* SPDX-License-Identifier: Apache-2.0 */
/* device: a handle, and memory that the program and the handle's device both see, zeroed: CUDA's
 * managed memory where the build has CUDA (TAILCUT_HAVE_CUDA) and it is asked for, else ordinary
 * memory. (A server has device memory and a stream of its own.) */
#ifndef TAILCUT_EXAMPLES_DEVICE_H_
#define TAILCUT_EXAMPLES_DEVICE_H_

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tailcut.h>
#if defined(TAILCUT_HAVE_CUDA)
#include <cuda_runtime_api.h>
#endif

#define OK(call) \
  ((call) == TAILCUT_OK || (fprintf(stderr, "%s\n", tailcut_last_error()), exit(1), 0))

/* The program's argument: cuda, or nothing. */
static int32_t device_kind(int argc, char **argv) {
  return argc > 1 && strcmp(argv[1], "cuda") == 0 ? TAILCUT_DEVICE_CUDA : TAILCUT_DEVICE_CPU;
}

static tailcut_handle device_open(int32_t kind) {
  tailcut_config config = TAILCUT_CONFIG_INITIALIZER;
  tailcut_handle handle = NULL;
  config.device_kind = kind;
  OK(tailcut_create(&handle, &config));
  return handle;
}

static void *device_memory(int32_t kind, size_t bytes) {
  const size_t rounded = (bytes + TAILCUT_WORKSPACE_ALIGNMENT) / TAILCUT_WORKSPACE_ALIGNMENT *
                         TAILCUT_WORKSPACE_ALIGNMENT;
  void *memory = NULL;
#if defined(TAILCUT_HAVE_CUDA)
  if (kind == TAILCUT_DEVICE_CUDA &&
      cudaMallocManaged(&memory, rounded, cudaMemAttachGlobal) != cudaSuccess) {
    exit(1);
  }
#endif
  (void)kind;
  if (memory == NULL) memory = aligned_alloc(TAILCUT_WORKSPACE_ALIGNMENT, rounded);
  return memory != NULL ? memset(memory, 0, rounded) : (exit(1), NULL);
}

static void *device_workspace(tailcut_handle handle, int32_t kind, int32_t call,
                              const tailcut_limits *limits, size_t *size) {
  OK(tailcut_workspace_size(handle, call, limits, size));
  void *workspace = device_memory(kind, *size);
  OK(tailcut_workspace_init(handle, workspace, *size, NULL));
  return workspace;
}

/* Waits for all that was enqueued. */
static void device_wait(int32_t kind) {
#if defined(TAILCUT_HAVE_CUDA)
  if (kind == TAILCUT_DEVICE_CUDA && cudaDeviceSynchronize() != cudaSuccess) exit(1);
#endif
  (void)kind;
}

static void device_close(int32_t kind, tailcut_handle handle, void *one, void *other) {
  tailcut_destroy(handle);
#if defined(TAILCUT_HAVE_CUDA)
  if (kind == TAILCUT_DEVICE_CUDA) cudaFree(one), cudaFree(other);
#endif
  if (kind == TAILCUT_DEVICE_CPU) free(one), free(other);
}

#endif /* TAILCUT_EXAMPLES_DEVICE_H_ */
