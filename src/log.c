/* SPDX-License-Identifier: Apache-2.0 */
/* log: TAILCUT_LOG=LEVEL[:FILE], read at create. Off costs one comparison per call. */
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

tailcut_status tc_log_open(tailcut_handle handle) {
  static const char *const names[] = {"off", "error", "info", "debug"};
  const char *value = getenv("TAILCUT_LOG");
  handle->log_level = TC_LOG_OFF;
  handle->log_file = stderr;
  if (value == NULL || value[0] == '\0') return TAILCUT_OK;
  const char *colon = strchr(value, ':');
  const size_t length = colon ? (size_t)(colon - value) : strlen(value);
  for (int32_t level = TC_LOG_OFF; level <= TC_LOG_DEBUG; level++) {
    if (strlen(names[level]) != length || strncmp(value, names[level], length) != 0) continue;
    handle->log_level = level;
    if (level == TC_LOG_OFF || colon == NULL) return TAILCUT_OK;
    handle->log_file = fopen(colon + 1, "a");
    if (handle->log_file != NULL) return TAILCUT_OK;
    handle->log_level = TC_LOG_OFF;
    return tc_fail(TAILCUT_ERROR_RANGE, "TAILCUT_LOG: cannot open '%s': %s", colon + 1,
                   strerror(errno));
  }
  return tc_fail(TAILCUT_ERROR_ENUM,
                 "TAILCUT_LOG is '%s'; expected off, error, info or debug, then optionally :FILE",
                 value);
}

void tc_log_close(tailcut_handle handle) {
  if (handle->log_file != NULL && handle->log_file != stderr) fclose(handle->log_file);
  handle->log_file = NULL;
}

void tc_log(tailcut_handle handle, int32_t level, const char *format, ...) {
  va_list args;
  char line[640];
  if (handle == NULL || level > handle->log_level) return;
  va_start(args, format);
  vsnprintf(line, sizeof line, format, args);
  va_end(args);
  fprintf(handle->log_file, "tailcut: %s\n", line); /* one call: lines of threads do not mix */
  fflush(handle->log_file);
}
