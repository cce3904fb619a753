/* SPDX-License-Identifier: Apache-2.0 */
/* handle: create and destroy, versions, build information, the two environment variables, messages
 * per thread. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <ctype.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tailcut.h>
#include <unistd.h>

#include "cpu/kernels.h"

static const tailcut_config defaults = TAILCUT_CONFIG_INITIALIZER;

static tailcut_status create(const tailcut_config *config) {
  tailcut_handle handle = (tailcut_handle)(void *)&handle;
  const tailcut_status status = tailcut_create(&handle, config);
  cr_assert(status == TAILCUT_OK || handle == NULL, "*handle is not NULL after a failure");
  if (status == TAILCUT_OK) cr_assert_not_null(handle);
  if (status == TAILCUT_OK) cr_assert_str_eq(tailcut_last_error(), "");
  tailcut_destroy(handle);
  return status;
}

#define REFUSED(change, status, word)                                                  \
  do {                                                                                 \
    tailcut_config c = TAILCUT_CONFIG_INITIALIZER;                                     \
    change;                                                                            \
    cr_expect_eq(create(&c), status, "%s: %s", #change, tailcut_last_error());         \
    cr_expect(strstr(tailcut_last_error(), word) != NULL, "%s", tailcut_last_error()); \
  } while (0)

Test(handle, configurations) {
  tailcut_config c = TAILCUT_CONFIG_INITIALIZER;
  cr_assert_eq(create(NULL), TAILCUT_ERROR_NULL); /* it carries the version */
  cr_assert(strstr(tailcut_last_error(), "config") != NULL);
  cr_assert_eq(create(&c), TAILCUT_OK);
  for (int32_t threads = 0; threads <= 1024; threads += 256) {
    c.threads = threads;
    cr_assert_eq(create(&c), TAILCUT_OK);
  }
  c.threads = 1;
  c.version = TAILCUT_VERSION - TAILCUT_VERSION_PATCH + 99; /* another patch of the same ABI */
  cr_assert_eq(create(&c), TAILCUT_OK);
  cr_assert_eq(tailcut_create(NULL, NULL), TAILCUT_ERROR_NULL);
  cr_assert(strstr(tailcut_last_error(), "handle") != NULL);
  tailcut_destroy(NULL);
  REFUSED(c.struct_size = 0, TAILCUT_ERROR_STRUCT_SIZE, "config->struct_size");
  REFUSED(c.struct_size += 4, TAILCUT_ERROR_STRUCT_SIZE,
          "config->struct_size is 28; this library knows 24:");
  REFUSED(c.version = 0, TAILCUT_ERROR_VERSION, "config->version is not set");
  REFUSED(c.version += 10000, TAILCUT_ERROR_VERSION, "config->version is");
#if TAILCUT_VERSION_MAJOR == 0
  REFUSED(c.version += 100, TAILCUT_ERROR_VERSION, "config->version is");
  REFUSED(c.version -= 100, TAILCUT_ERROR_VERSION, "config->version is");
#endif
  REFUSED(c.version = -c.version, TAILCUT_ERROR_VERSION, "config->version is");
  REFUSED(c.device_kind = 0, TAILCUT_ERROR_ENUM, "config->device_kind");
  REFUSED(c.device_kind = 3, TAILCUT_ERROR_ENUM, "config->device_kind");
  REFUSED(c.device_index = 1, TAILCUT_ERROR_RANGE, "config->device_index is 1; expected 0");
  REFUSED(c.device_index = -1, TAILCUT_ERROR_RANGE, "config->device_index");
  REFUSED(c.threads = -1, TAILCUT_ERROR_RANGE, "config->threads");
  REFUSED(c.threads = 1025, TAILCUT_ERROR_RANGE, "config->threads");
}

Test(handle, cuda_is_refused_where_it_is_not_built) {
  tailcut_config c = TAILCUT_CONFIG_INITIALIZER;
  c.device_kind = TAILCUT_DEVICE_CUDA;
  const tailcut_status status = create(&c);
  if (strstr(tailcut_build_info(), "\"cuda\"") == NULL) {
    cr_assert_eq(status, TAILCUT_ERROR_NO_BACKEND);
    create(&c);
    cr_assert(strstr(tailcut_last_error(), "config->device_kind") != NULL);
  } else {
    /* Built, but perhaps no device here. */
    cr_assert(status == TAILCUT_OK || status == TAILCUT_ERROR_NO_DEVICE);
  }
}

Test(handle, versions_and_statuses) {
  static const int codes[] = {0,   100, 101, 102, 103, 104, 105, 106,
                              200, 201, 202, 300, 301, 400, 401, 500};
  cr_assert_eq(tailcut_version(), TAILCUT_VERSION);
  cr_assert_eq(TAILCUT_VERSION,
               TAILCUT_VERSION_MAJOR * 10000 + TAILCUT_VERSION_MINOR * 100 + TAILCUT_VERSION_PATCH);
  for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++) {
    const char *name = tailcut_status_string((tailcut_status)codes[i]);
    cr_assert_eq(strncmp(name, codes[i] ? "TAILCUT_ERROR_" : "TAILCUT_OK", codes[i] ? 14 : 11), 0);
    for (size_t j = 0; j < i; j++) {
      cr_assert_str_neq(name, tailcut_status_string((tailcut_status)codes[j]));
    }
  }
  cr_assert_str_eq(tailcut_status_string((tailcut_status)99), "unknown status");
  cr_assert_str_eq(tailcut_status_string((tailcut_status)-1), "unknown status");
}

/* A small JSON reader: returns the end of the value at p, or NULL. */
static const char *skip(const char *p) {
  while (*p == ' ') p++;
  return p;
}

static const char *json(const char *p) {
  p = skip(p);
  if (*p == '"') {
    for (p++; *p != '"'; p++) {
      if (*p == '\0' || *p == '\\' || *p < ' ') return NULL;
    }
    return p + 1;
  }
  if (*p == '{' || *p == '[') {
    const char close = *p == '{' ? '}' : ']';
    const int object = *p == '{';
    p = skip(p + 1);
    if (*p == close) return p + 1;
    for (;; p++) {
      if (object) {
        p = skip(p);
        if (*p != '"' || (p = json(p)) == NULL || *(p = skip(p)) != ':') return NULL;
        p++;
      }
      if ((p = json(p)) == NULL) return NULL;
      p = skip(p);
      if (*p == close) return p + 1;
      if (*p != ',') return NULL;
    }
  }
  if (strncmp(p, "true", 4) == 0 || strncmp(p, "null", 4) == 0) return p + 4;
  if (strncmp(p, "false", 5) == 0) return p + 5;
  if (!isdigit((unsigned char)*p) && *p != '-') return NULL;
  char *end;
  strtod(p, &end);
  return end;
}

Test(handle, build_info_is_json) {
  const char *info = tailcut_build_info(), *end = json(info);
  char version[64], simd[64];
  cr_assert(end != NULL && *end == '\0', "%s", info);
  cr_assert_eq(strchr(info, '\n'), NULL);
  cr_assert_eq(tailcut_build_info(), info, "another string the second time");
  snprintf(version, sizeof version, "\"version\": \"%d.%d.%d\"", TAILCUT_VERSION_MAJOR,
           TAILCUT_VERSION_MINOR, TAILCUT_VERSION_PATCH);
  snprintf(simd, sizeof simd, "\"simd\": \"%s\"", tc_kernels_for(tc_kernels_best())->name);
  static const char *const keys[] = {
      "\"backends\": [\"cpu\"", "\"compiler\"", "\"threads\"",
      "\"simd_built\"",         "\"machine\"",  "\"cuda_architectures\""};
  cr_assert(strstr(info, version) && strstr(info, simd), "%s", info);
  for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
    cr_assert(strstr(info, keys[i]) != NULL, "%s has no %s", info, keys[i]);
  }
}

Test(handle, handle_info_says_what_runs) {
  cr_assert_eq(tailcut_handle_info(NULL), NULL);
  for (int level = 0; level < TC_SIMD_LEVELS; level++) {
    tailcut_config c = TAILCUT_CONFIG_INITIALIZER;
    tailcut_handle handle;
    char expected[128];
    c.threads = 1;
    setenv("TAILCUT_SIMD", tc_simd_names[level], 1);
    cr_assert_eq(tailcut_create(&handle, &c), TAILCUT_OK);
    unsetenv("TAILCUT_SIMD");
    int best = (int)tc_kernels_best() < level ? (int)tc_kernels_best() : level;
    while (tc_kernels_for((tc_simd)best) == NULL) best--;
    snprintf(expected, sizeof expected, "{\"backend\": \"cpu\", \"simd\": \"%s\", \"threads\": 1}",
             tc_simd_names[best]);
    cr_assert_str_eq(tailcut_handle_info(handle), expected);
    const char *end = json(tailcut_handle_info(handle));
    cr_assert(end != NULL && *end == '\0');
    tailcut_destroy(handle);
  }
}

/* What create logs at level info, by way of a file. */
static char *logged(const char *simd, const char *level) {
  static char text[4096];
  char path[] = "/tmp/tailcut-test-XXXXXX", value[64];
  const int fd = mkstemp(path);
  cr_assert_geq(fd, 0);
  snprintf(value, sizeof value, "%s:%s", level, path);
  setenv("TAILCUT_LOG", value, 1);
  if (simd != NULL) setenv("TAILCUT_SIMD", simd, 1);
  tailcut_handle handle = NULL;
  cr_assert_eq(tailcut_create(&handle, &defaults), TAILCUT_OK, "%s", tailcut_last_error());
  tailcut_batch bad = TAILCUT_BATCH_INITIALIZER;
  bad.segments = -5;
  tailcut_score(handle, &bad, NULL, NULL, NULL, NULL, NULL, 0, NULL);
  tailcut_destroy(handle);
  const ssize_t n = read(fd, text, sizeof text - 1);
  text[n > 0 ? n : 0] = '\0';
  close(fd);
  unlink(path);
  unsetenv("TAILCUT_LOG");
  unsetenv("TAILCUT_SIMD");
  return text;
}

Test(handle, simd_is_lowered_by_the_environment) {
  cr_assert(strstr(logged(NULL, "info"), tc_kernels_for(tc_kernels_best())->name) != NULL);
  for (int wanted = 0; wanted < TC_SIMD_LEVELS; wanted++) {
    int level = wanted < (int)tc_kernels_best() ? wanted : (int)tc_kernels_best();
    while (tc_kernels_for((tc_simd)level) == NULL) level--;
    const char *text = logged(tc_simd_names[wanted], "info");
    cr_assert(strstr(text, tc_kernels_for((tc_simd)level)->name) != NULL, "%s: %s",
              tc_simd_names[wanted], text);
  }
  setenv("TAILCUT_SIMD", "sse9", 1);
  cr_assert_eq(create(&defaults), TAILCUT_ERROR_ENUM);
  create(&defaults);
  cr_assert(strstr(tailcut_last_error(), "TAILCUT_SIMD") != NULL);
  setenv("TAILCUT_SIMD", "", 1);
  cr_assert_eq(create(&defaults), TAILCUT_OK);
}

Test(handle, log_levels) {
  const char *text = logged(NULL, "off");
  cr_assert_str_eq(text, "");
  text = logged(NULL, "error");
  cr_assert(strstr(text, "batch->segments is -5") != NULL && strstr(text, "threads") == NULL);
  text = logged(NULL, "info");
  cr_assert(strstr(text, "batch->segments is -5") != NULL && strstr(text, "threads") != NULL);
  text = logged(NULL, "debug");
  cr_assert(strstr(text, "threads") != NULL);
  for (const char *line = text; *line != '\0'; line = strchr(line, '\n') + 1) {
    cr_assert_eq(strncmp(line, "tailcut: ", 9), 0, "%s", line);
  }
  setenv("TAILCUT_LOG", "loud", 1);
  cr_assert_eq(create(&defaults), TAILCUT_ERROR_ENUM);
  setenv("TAILCUT_LOG", "info:/nonexistent/directory/log", 1);
  cr_assert_eq(create(&defaults), TAILCUT_ERROR_RANGE);
  create(&defaults);
  cr_assert(strstr(tailcut_last_error(), "/nonexistent/directory/log") != NULL);
}

/* Returns `seen` when all is as it must be. */
static void *other_thread(void *seen) {
  if (strcmp(tailcut_last_error(), "") != 0) return NULL;
  tailcut_kept_count(NULL, -7);
  return strstr(tailcut_last_error(), "-7") != NULL ? seen : NULL;
}

Test(handle, messages_belong_to_threads) {
  pthread_t thread;
  void *result = NULL;
  int seen;
  tailcut_kept_count(NULL, -3);
  cr_assert_eq(pthread_create(&thread, NULL, other_thread, &seen), 0);
  pthread_join(thread, &result);
  cr_assert_eq(result, (void *)&seen, "the other thread saw another message");
  cr_assert(strstr(tailcut_last_error(), "-3") != NULL, "%s", tailcut_last_error());
  tailcut_kept_count(NULL, 3);
  cr_assert_str_eq(tailcut_last_error(), "");
}
