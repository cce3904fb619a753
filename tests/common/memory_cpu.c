/* SPDX-License-Identifier: Apache-2.0 */
/* memory_cpu: memory between guards. Before it a page with a pattern (and how much was mapped),
 * behind it slack with a pattern, then a page that cannot be touched. AddressSanitizer sees the
 * slack as poisoned, so that reads of it are found as well. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "memory.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#endif

enum { PAGE = 4096, PATTERN = 0x5C };

typedef struct head {
  size_t mapped; /* bytes from the head's page to the end of the untouchable one */
  size_t bytes;
} head;

static void fail(const char *what) {
  fprintf(stderr, "test memory: %s\n", what);
  abort();
}

/* The page before the one that `p` is in holds the head. */
static char *base_of(const void *p) {
  return (char *)(((uintptr_t)p & ~(uintptr_t)(PAGE - 1)) - PAGE);
}

static void *cpu_alloc(size_t bytes, size_t misalign) {
  const size_t shift = misalign == TT_TIGHT ? 0 : misalign;
  const size_t body = (bytes + shift + PAGE) / PAGE * PAGE; /* one byte of slack, unless tight */
  const size_t mapped = body + 2 * PAGE;
  char *base = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  char *end = base + PAGE + body;
  if ((void *)base == MAP_FAILED) fail("mmap failed");
  if (mprotect(end, PAGE, PROT_NONE) != 0) fail("mprotect failed");
  char *p = misalign == TT_TIGHT ? end - bytes
                                 : base + PAGE + ((body - bytes - shift) & ~(size_t)255) + shift;
  if (p >= base + 2 * PAGE) {
    /* Keep the head findable: it stands in the page before the one of p. */
    const size_t skipped = (size_t)(p - (base + PAGE)) / PAGE * PAGE;
    munmap(base, skipped);
    base += skipped;
  }
  memset(base, PATTERN, (size_t)(p - base));
  memset(p + bytes, PATTERN, (size_t)(end - (p + bytes)));
  const head h = {(size_t)(end + PAGE - base), bytes};
  memcpy(base, &h, sizeof h);
  ASAN_POISON_MEMORY_REGION(base, (size_t)(p - base));
  ASAN_POISON_MEMORY_REGION(p + bytes, (size_t)(end - (p + bytes)));
  return p;
}

static void cpu_release(void *device) {
  char *base = base_of(device);
  head h;
  if (device == NULL) return;
  ASAN_UNPOISON_MEMORY_REGION(base, (size_t)((char *)device - base));
  memcpy(&h, base, sizeof h);
  char *end = base + h.mapped - PAGE;
  ASAN_UNPOISON_MEMORY_REGION(base, h.mapped - PAGE);
  for (const char *c = base + sizeof h; c < (char *)device; c++) {
    if (*c != PATTERN) fail("bytes before an allocation were written");
  }
  for (const char *c = (char *)device + h.bytes; c < end; c++) {
    if (*c != PATTERN) fail("bytes behind an allocation were written");
  }
  munmap(base, h.mapped);
}

static void cpu_copy(void *to, const void *from, size_t bytes) {
  if (bytes > 0) memcpy(to, from, bytes);
}

static void cpu_sync(void) {}

static void *cpu_alloc_host(size_t bytes) { return cpu_alloc(bytes, 0); }

const tt_memory tt_memory_cpu = {"cpu",    cpu_alloc,      cpu_copy,    cpu_copy, cpu_release,
                                 cpu_sync, cpu_alloc_host, cpu_release, 1};
