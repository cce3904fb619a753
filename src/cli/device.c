/* SPDX-License-Identifier: Apache-2.0 */
/* device: the handle, and memory that it can read. On the CPU files are used where they lie. */
#define _GNU_SOURCE 1 /* POSIX names under -std=c11, the affinity mask */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#if defined(__linux__)
#include <sched.h>
#endif

#include "cli.h"

int cli_library_failed(const char *call, tailcut_status status) {
  const char *message = tailcut_last_error();
  if (message[0] == '\0') message = tailcut_status_string(status);
  return cli_fail(CLI_FAILED, "%s: %s", call, message);
}

static int32_t cores(void) {
#if defined(__linux__) && defined(CPU_COUNT)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0)
    return (int32_t)CPU_COUNT(&set);
#endif
  const long n = sysconf(_SC_NPROCESSORS_ONLN);
  return n > 0 ? (int32_t)n : 1;
}

int cli_device_open(cli_device *device, const cli_options *options) {
  tailcut_config config = TAILCUT_CONFIG_INITIALIZER;
  memset(device, 0, sizeof *device);
  device->kind = config.device_kind = options->device_kind;
  device->index = config.device_index = options->device_index;
  config.threads = options->device_kind == TAILCUT_DEVICE_CPU ? options->threads : 1;
  device->threads = config.threads > 0 ? config.threads : cores();
  const tailcut_status status = tailcut_create(&device->handle, &config);
  if (status == TAILCUT_OK) return CLI_OK;
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

static int host_memory(void **pointer, size_t bytes, const char *what) {
  *pointer = NULL;
  if (posix_memalign(pointer, TAILCUT_WORKSPACE_ALIGNMENT, bytes ? bytes : 1) == 0) return CLI_OK;
  *pointer = NULL;
  return cli_fail(CLI_FAILED, "out of memory: %zu bytes for %s", bytes, what);
}

int cli_buffer_new(cli_device *device, cli_buffer *buffer, size_t bytes, const char *what) {
  (void)device;
  memset(buffer, 0, sizeof *buffer);
  buffer->bytes = bytes;
  const int status = host_memory(&buffer->host, bytes, what);
  buffer->device = buffer->host;
  return status;
}

int cli_buffer_input(cli_device *device, cli_buffer *buffer, void *data, size_t bytes,
                     const char *what) {
  (void)device;
  (void)what;
  memset(buffer, 0, sizeof *buffer);
  buffer->bytes = bytes;
  buffer->borrowed = true;
  buffer->host = buffer->device = data;
  return CLI_OK;
}

int cli_buffer_fetch(cli_device *device, cli_buffer *buffer, size_t bytes) {
  (void)device;
  (void)buffer;
  (void)bytes;
  return CLI_OK;
}

void cli_buffer_free(cli_device *device, cli_buffer *buffer) {
  (void)device;
  if (!buffer->borrowed) free(buffer->host);
  memset(buffer, 0, sizeof *buffer);
}

int cli_device_wait(cli_device *device) {
  (void)device;
  return CLI_OK;
}
