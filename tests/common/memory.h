/* SPDX-License-Identifier: Apache-2.0 */
/* memory: how tests get memory of a device. One table per device kind; memory_cpu.c is ordinary
 * memory between guards, memory_cuda.c (built with TAILCUT_HAVE_CUDA) is the GPU's. */
#ifndef TAILCUT_TESTS_MEMORY_H_
#define TAILCUT_TESTS_MEMORY_H_

#include <stddef.h>

/* As `misalign`: the last byte stands right before the end of the allocation, so that nothing can
 * be read behind it; the address is then aligned only as far as the size is. A device without
 * unreadable pages aligns to 256 instead. */
#define TT_TIGHT ((size_t)-1)

typedef struct tt_memory {
  const char *name;
  /* `bytes` (0 is allowed) at an address that is a multiple of 256, plus misalign. Never NULL:
   * aborts with a message. */
  void *(*alloc)(size_t bytes, size_t misalign);
  void (*upload)(void *device, const void *host, size_t bytes);
  void (*download)(void *host, const void *device, size_t bytes); /* implies sync */
  void (*release)(void *device); /* aborts when bytes around the allocation were written */
  void (*sync)(void);
  /* Host memory that the device may write to: pinned, where it needs that. */
  void *(*alloc_host)(size_t bytes);
  void (*release_host)(void *host);
  int tight; /* TT_TIGHT is a place of its own */
} tt_memory;

extern const tt_memory tt_memory_cpu;
#if defined(TAILCUT_HAVE_CUDA)
extern const tt_memory tt_memory_cuda;
#endif

#endif /* TAILCUT_TESTS_MEMORY_H_ */
