/* SPDX-License-Identifier: Apache-2.0 */
/* backends: the list of what is tested on this machine. A new backend is an entry here and a table
 * of memory functions. */
#define _GNU_SOURCE
#include "backends.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/cpu.h"
#if defined(TAILCUT_HAVE_CUDA)
#include "cuda.h"
#endif

enum { MOST = 16 };

static void die(const char *what, const char *why) {
  fprintf(stderr, "tests: %s: %s\n", what, why);
  abort();
}

static int add_cpu(tt_backend *list, int n, const char *simd, int32_t threads) {
  tt_backend *b = &list[n];
  if (n == MOST) die("too many backends", simd);
  snprintf(b->name, sizeof b->name, "cpu-%s-%d", simd, (int)threads);
  b->device_kind = TAILCUT_DEVICE_CPU;
  b->threads = threads;
  b->simd = simd;
  b->memory = &tt_memory_cpu;
  return n + 1;
}

static int list_cpu(tt_backend *list) {
  int n = 0;
  for (int level = TC_SIMD_SCALAR; level < TC_SIMD_LEVELS; level++) {
    const tc_kernels *kernels = tc_kernels_for((tc_simd)level);
    if (kernels == NULL) continue;
    n = add_cpu(list, n, kernels->name, 1);
    if (TC_THREADS) n = add_cpu(list, n, kernels->name, level == TC_SIMD_SCALAR ? 3 : 2);
  }
  const char *best = tc_kernels_for(tc_kernels_best())->name;
  if (TC_THREADS) n = add_cpu(list, n, best, 4);
  if (TC_THREADS) n = add_cpu(list, n, best, 8);
  return n;
}

static int list_cuda(tt_backend *list) {
#if defined(TAILCUT_HAVE_CUDA)
  static const char *const names[] = {"cuda-device", "cuda-chain", "cuda-sm-80"};
  for (int form = TT_FORM_DEVICE; form <= TT_FORM_SM_80; form++) {
    const tt_backend cuda = {
        .device_kind = TAILCUT_DEVICE_CUDA, .threads = 1, .memory = &tt_memory_cuda, .form = form};
    list[form] = cuda;
    snprintf(list[form].name, sizeof list[form].name, "%s", names[form]);
  }
  return TT_FORM_SM_80 + 1;
#else
  (void)list;
  return 0;
#endif
}

static void set_form(tailcut_handle handle, int form) {
#if defined(TAILCUT_HAVE_CUDA)
  if (handle->backend->device_kind != TAILCUT_DEVICE_CUDA) return;
  tc_cuda *device = handle->state;
  if (form != TT_FORM_DEVICE) device->fuses = 0;
  if (form == TT_FORM_SM_80) device->chains = 0, device->smem_block = 99 << 10; /* sm_86's */
#else
  (void)handle, (void)form;
#endif
}

const tt_backend *tt_backends(int *count) {
  static tt_backend list[MOST];
  static int n = 0;
  if (n == 0) {
    const char *wanted = getenv("TAILCUT_TEST_BACKENDS");
    if (wanted == NULL || wanted[0] == '\0') wanted = "cpu";
    if (strncmp(wanted, "cpu", 3) == 0) n = list_cpu(list);
    if (strncmp(wanted, "cuda", 4) == 0) n = list_cuda(list);
    if (strcmp(wanted, "cuda-simulated") == 0) {
      n -= n > 0;
    } else if (strcmp(wanted, "cpu") != 0 && strcmp(wanted, "cuda") != 0) { /* one by its name */
      int i = 0;
      while (i < n && strcmp(wanted, list[i].name) != 0) i++;
      if (i < n) list[0] = list[i];
      n = i < n;
    }
    if (n == 0) die("TAILCUT_TEST_BACKENDS: nothing to test in this build", wanted);
  }
  *count = n;
  return list;
}

tailcut_handle tt_create(const tt_backend *backend) {
  tailcut_config config = TAILCUT_CONFIG_INITIALIZER;
  tailcut_handle handle = NULL;
  const char *before = getenv("TAILCUT_SIMD");
  char *saved = before != NULL ? strdup(before) : NULL;
  config.device_kind = backend->device_kind;
  config.threads = backend->threads;
  if (backend->simd != NULL) setenv("TAILCUT_SIMD", backend->simd, 1);
  if (tailcut_create(&handle, &config) != TAILCUT_OK) die(backend->name, tailcut_last_error());
  set_form(handle, backend->form);
  /* All threads in every call: left to itself, a team is who happens to come. */
  if (backend->device_kind == TAILCUT_DEVICE_CPU) {
    tc_cpu *cpu = handle->state;
    tc_pool_gather_all(cpu->pool);
    cpu->images_always = backend->threads > 2 || cpu->kernels == tc_kernels_for(TC_SIMD_SCALAR);
  }
  if (saved != NULL) {
    setenv("TAILCUT_SIMD", saved, 1);
  } else {
    unsetenv("TAILCUT_SIMD");
  }
  free(saved);
  return handle;
}

void *tt_host(size_t bytes) {
  void *p = calloc(1, bytes > 0 ? bytes : 1);
  if (p == NULL) die("tt_host", "no memory");
  return p;
}

void *tt_upload(const tt_backend *backend, const void *data, size_t bytes, size_t misalign) {
  void *device = backend->memory->alloc(bytes, misalign);
  if (data != NULL) {
    backend->memory->upload(device, data, bytes);
  } else {
    void *poison = tt_host(bytes);
    memset(poison, TT_POISON, bytes);
    backend->memory->upload(device, poison, bytes);
    free(poison);
  }
  return device;
}

void tt_download(const tt_backend *backend, void *host, const void *device, size_t bytes) {
  backend->memory->download(host, device, bytes);
}

void tt_free(const tt_backend *backend, void *device) {
  if (device != NULL) backend->memory->release(device);
}

int tt_bare_workspaces;

tt_workspace tt_workspace_new(const tt_backend *backend, tailcut_handle handle, int32_t call,
                              const tailcut_limits *limits) {
  tt_workspace w = {NULL, 0};
  if (tailcut_workspace_size(handle, call, limits, &w.size) != TAILCUT_OK) {
    die("tailcut_workspace_size", tailcut_last_error());
  }
  w.data =
      tt_bare_workspaces ? backend->memory->alloc(w.size, 0) : tt_upload(backend, NULL, w.size, 0);
  if (tailcut_workspace_init(handle, w.data, w.size, NULL) != TAILCUT_OK) {
    die("tailcut_workspace_init", tailcut_last_error());
  }
  return w;
}

void tt_workspace_free(const tt_backend *backend, tt_workspace workspace) {
  tt_free(backend, workspace.data);
}
