/* SPDX-License-Identifier: Apache-2.0 */
/* device: the handle, and memory that it can read. On the CPU files are used where they lie; on
 * CUDA they are copied there and results back, on the default stream. */
#define _GNU_SOURCE 1 /* POSIX names under -std=c11, the affinity mask */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#if defined(__linux__)
#include <sched.h>
#endif
#if defined(TAILCUT_HAVE_CUDA)
#include <cuda_runtime_api.h>
#endif

#include "cli.h"

int cli_library_failed(const char *call, tailcut_status status) {
  const char *message = tailcut_last_error();
  if (message[0] == '\0') message = tailcut_status_string(status);
  return cli_fail(CLI_FAILED, "%s: %s", call, message);
}

int32_t cli_cores(void) {
#if defined(__linux__) && defined(CPU_COUNT)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0)
    return (int32_t)CPU_COUNT(&set);
#endif
  const long n = sysconf(_SC_NPROCESSORS_ONLN);
  return n > 0 ? (int32_t)n : 1;
}

/* ---------------------------------------------------------------------- memory of the device -- */

#if defined(TAILCUT_HAVE_CUDA)
static int cuda_failed(const char *what, cudaError_t error) {
  return cli_fail(CLI_FAILED, "%s: %s (%s)", what, cudaGetErrorName(error),
                  cudaGetErrorString(error));
}

static int device_select(const cli_device *device) {
  const cudaError_t error = cudaSetDevice(device->index);
  return error == cudaSuccess ? CLI_OK : cuda_failed("cudaSetDevice", error);
}

static int device_allocate(void **pointer, size_t bytes, const char *what) {
  const cudaError_t error = cudaMalloc(pointer, bytes ? bytes : 1);
  if (error == cudaSuccess) return CLI_OK;
  *pointer = NULL;
  return cli_fail(CLI_FAILED, "out of device memory: %zu bytes for %s (%s)", bytes, what,
                  cudaGetErrorName(error));
}

static int device_copy(void *to, const void *from, size_t bytes, int to_device) {
  const cudaError_t error =
      bytes == 0 ? cudaSuccess
                 : cudaMemcpy(to, from, bytes,
                              to_device ? cudaMemcpyHostToDevice : cudaMemcpyDeviceToHost);
  return error == cudaSuccess ? CLI_OK : cuda_failed("cudaMemcpy", error);
}

static int device_wait(void) {
  const cudaError_t error = cudaDeviceSynchronize();
  return error == cudaSuccess ? CLI_OK : cuda_failed("the device", error);
}

static void device_free(void *pointer) { cudaFree(pointer); }
#else
/* Never reached: without CUDA in the build there is no handle of another kind than the CPU. */
static int no_cuda(void) { return cli_fail(CLI_FAILED, "this build has no CUDA"); }
static int device_select(const cli_device *device) { return (void)device, no_cuda(); }
static int device_allocate(void **pointer, size_t bytes, const char *what) {
  return (void)pointer, (void)bytes, (void)what, no_cuda();
}
static int device_copy(void *to, const void *from, size_t bytes, int to_device) {
  return (void)to, (void)from, (void)bytes, (void)to_device, no_cuda();
}
static int device_wait(void) { return no_cuda(); }
static void device_free(void *pointer) { (void)pointer; }
#endif

static int on_device(const cli_device *device) { return device->kind != TAILCUT_DEVICE_CPU; }

/* -------------------------------------------------------------------------------- the handle -- */

int cli_device_open(cli_device *device, const cli_options *options) {
  tailcut_config config = TAILCUT_CONFIG_INITIALIZER;
  memset(device, 0, sizeof *device);
  device->kind = config.device_kind = options->device_kind;
  device->index = config.device_index = options->device_index;
  config.threads = options->device_kind == TAILCUT_DEVICE_CPU ? options->threads : 1;
  device->threads = config.threads > 0 ? config.threads : cli_cores();
  const tailcut_status status = tailcut_create(&device->handle, &config);
  if (status == TAILCUT_OK) return on_device(device) ? device_select(device) : CLI_OK;
  device->handle = NULL;
  char name[32];
  const char *message = tailcut_last_error();
  return cli_fail(CLI_FAILED, "--device %s: %s", cli_device_name(device, name),
                  message[0] ? message : tailcut_status_string(status));
}

void cli_device_close(cli_device *device) {
  tailcut_destroy(device->handle);
  device->handle = NULL;
}

const char *cli_device_name(const cli_device *device, char text[32]) {
  if (device->kind == TAILCUT_DEVICE_CUDA)
    snprintf(text, 32, "cuda:%d", (int)device->index);
  else
    snprintf(text, 32, "cpu");
  return text;
}

/* ------------------------------------------------------------------------------- the buffers -- */

static int host_memory(void **pointer, size_t bytes, const char *what) {
  *pointer = NULL;
  if (posix_memalign(pointer, TAILCUT_WORKSPACE_ALIGNMENT, bytes ? bytes : 1) == 0) return CLI_OK;
  *pointer = NULL;
  return cli_fail(CLI_FAILED, "out of memory: %zu bytes for %s", bytes, what);
}

int cli_buffer_new(cli_device *device, cli_buffer *buffer, size_t bytes, const char *what) {
  memset(buffer, 0, sizeof *buffer);
  buffer->bytes = bytes;
  if (on_device(device)) return device_allocate(&buffer->device, bytes, what);
  const int status = host_memory(&buffer->host, bytes, what);
  buffer->device = buffer->host;
  return status;
}

int cli_buffer_input(cli_device *device, cli_buffer *buffer, void *data, size_t bytes,
                     const char *what) {
  memset(buffer, 0, sizeof *buffer);
  buffer->bytes = bytes;
  buffer->borrowed = true;
  buffer->host = buffer->device = data;
  if (!on_device(device)) return CLI_OK;
  const int status = device_allocate(&buffer->device, bytes, what);
  return status == CLI_OK ? device_copy(buffer->device, data, bytes, 1) : status;
}

/* Results come to the host when they are asked for: until then they have no memory there. */
int cli_buffer_fetch(cli_device *device, cli_buffer *buffer, size_t bytes) {
  if (!on_device(device) || buffer->device == NULL) return CLI_OK;
  if (buffer->host == NULL) {
    const int status = host_memory(&buffer->host, buffer->bytes, "a result");
    if (status != CLI_OK) return status;
  }
  return device_copy(buffer->host, buffer->device, bytes, 0);
}

void cli_buffer_free(cli_device *device, cli_buffer *buffer) {
  if (on_device(device) && buffer->device != NULL) device_free(buffer->device);
  if (!buffer->borrowed) free(buffer->host);
  memset(buffer, 0, sizeof *buffer);
}

int cli_device_wait(cli_device *device) { return on_device(device) ? device_wait() : CLI_OK; }
