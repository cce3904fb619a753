/* SPDX-License-Identifier: Apache-2.0 */
/* backends: every test runs on each backend of this list, through the same few functions. */
#ifndef TAILCUT_TESTS_BACKENDS_H_
#define TAILCUT_TESTS_BACKENDS_H_

#include <stddef.h>
#include <stdint.h>
#include <tailcut.h>

#include "memory.h"

/* Options that a backend may refuse as UNSUPPORTED. */
enum {
  TT_OPTION_GROUPS = 1, /* with group_counts */
  TT_OPTION_LAG = 2,
  TT_OPTION_LOW = 4,
  TT_OPTION_GROUP_K = 8,
  TT_OPTION_MASK = 16,
  TT_OPTION_BASE = 32,     /* renumber_base */
  TT_OPTION_ROTATION = 64, /* keys that turn */
  TT_OPTION_NOVELTY = 128,
  TT_OPTION_MERGE = 256 /* tailcut_merge, selection.merge */
};

/* A backend as it is tested: a device kind with one of its settings. On the CPU these are the SIMD
 * levels that this machine has, with several thread counts. */
typedef struct tt_backend {
  char name[24];       /* "cpu-scalar-1", "cpu-avx512-3", "cuda-device" */
  int32_t device_kind; /* tailcut_device_kind */
  int32_t threads;
  const char *simd; /* what TAILCUT_SIMD is set to while the handle is made; NULL: not set */
  unsigned refuses; /* TT_OPTION_ bits: tests see that these are refused, and nothing written */
  const tt_memory *memory;
  int form; /* CUDA: what the handle believes of its device, one of tt_form */
} tt_backend;

/* The kernels differ by what a device can do; one device tests them all. */
typedef enum tt_form {
  TT_FORM_DEVICE = 0, /* as it is */
  TT_FORM_CHAIN,      /* no batch in one launch */
  TT_FORM_SM_80       /* and kernels that do not overlap */
} tt_form;

/* The list, in a fixed order; [0] is the oracle (scalar, one thread) where the CPU is tested.
 * TAILCUT_TEST_BACKENDS=cpu|cuda or the name of one picks (default cpu); cuda-simulated: without
 * sm-80, which is the chain where no launches ever overlap. Aborts with a message when there is
 * nothing to test: never empty. */
const tt_backend *tt_backends(int *count);

/* A handle of a backend; aborts with the library's message on failure. */
tailcut_handle tt_create(const tt_backend *backend);

/* Device memory holding `bytes` bytes of host data (NULL: filled with TT_POISON). The address is a
 * multiple of 256 plus `misalign` bytes, or TT_TIGHT: see memory.h. */
#define TT_POISON 0xA5
void *tt_upload(const tt_backend *backend, const void *data, size_t bytes, size_t misalign);
/* Copies device memory to the host, after everything enqueued on the default stream. */
void tt_download(const tt_backend *backend, void *host, const void *device, size_t bytes);
/* Aborts when bytes around the allocation were written. NULL is allowed. */
void tt_free(const tt_backend *backend, void *device);

/* A workspace of exactly the size the library asks for, initialised. */
typedef struct tt_workspace {
  void *data;
  size_t size;
} tt_workspace;
tt_workspace tt_workspace_new(const tt_backend *backend, tailcut_handle handle, int32_t call,
                              const tailcut_limits *limits);
/* 1: they are left as they were allocated, so that a checker of reads of memory that nobody wrote
 * sees the library's. 0: they are full of TT_POISON, so that such reads give wrong results. */
extern int tt_bare_workspaces;
void tt_workspace_free(const tt_backend *backend, tt_workspace workspace);

/* Memory of the host that is there: aborts when there is none. Zeroed. */
void *tt_host(size_t bytes);

#endif /* TAILCUT_TESTS_BACKENDS_H_ */
