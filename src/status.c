/* SPDX-License-Identifier: Apache-2.0 */
/* status: names of the status codes and the calling thread's last message. */
#include <stdarg.h>
#include <stdio.h>

#include "internal.h"

static _Thread_local char tc_message[512];

TAILCUT_API const char *tailcut_status_string(tailcut_status status) {
  switch (status) {
#define TC_NAME(code) \
  case code:          \
    return #code
    TC_NAME(TAILCUT_OK);
    TC_NAME(TAILCUT_ERROR_NULL);
    TC_NAME(TAILCUT_ERROR_RANGE);
    TC_NAME(TAILCUT_ERROR_ENUM);
    TC_NAME(TAILCUT_ERROR_STRUCT_SIZE);
    TC_NAME(TAILCUT_ERROR_OVERLAP);
    TC_NAME(TAILCUT_ERROR_ALIGNMENT);
    TC_NAME(TAILCUT_ERROR_CONFLICT);
    TC_NAME(TAILCUT_ERROR_UNSUPPORTED);
    TC_NAME(TAILCUT_ERROR_NO_BACKEND);
    TC_NAME(TAILCUT_ERROR_VERSION);
    TC_NAME(TAILCUT_ERROR_MEMORY);
    TC_NAME(TAILCUT_ERROR_WORKSPACE);
    TC_NAME(TAILCUT_ERROR_NO_DEVICE);
    TC_NAME(TAILCUT_ERROR_DEVICE);
    TC_NAME(TAILCUT_ERROR_INTERNAL);
#undef TC_NAME
  }
  return "unknown status";
}

TAILCUT_API const char *tailcut_last_error(void) { return tc_message; }

void tc_clear_error(void) { tc_message[0] = '\0'; }

tailcut_status tc_fail(tailcut_status status, const char *format, ...) {
  va_list args;
  va_start(args, format);
  vsnprintf(tc_message, sizeof tc_message, format, args);
  va_end(args);
  return status;
}
