/* SPDX-License-Identifier: Apache-2.0 */
/* structs: what keeps programs working that were compiled with an older header. Sizes and offsets
 * are a committed table; no field stands in what was padding; each init function does what the
 * INITIALIZER does, for every size that a header gave the struct; a shorter struct gets the
 * defaults of what it lacks, and nothing behind it is read: it stands at the edge of unreadable
 * memory, or before junk. */
#include <criterion/criterion.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends.h"
#include "check.h"
#include "struct_fields.h"

#if UINTPTR_MAX == UINT64_MAX
#define FIELD(name, field, at, since)                                        \
  _Static_assert(offsetof(tailcut_##name, field) == (at), #name "." #field); \
  _Static_assert((since) == 1 || (at) >= SIZE_1_##name, #name "." #field " was padding");
#define STRUCT(name, initializer, size_1, size_2)            \
  enum { SIZE_1_##name = (size_1) };                         \
  _Static_assert(sizeof(tailcut_##name) == (size_2), #name); \
  _Static_assert(TC_MIN_SIZE_##name == (size_1), #name " of 0.1");
TT_STRUCTS(STRUCT)
TT_FIELDS(FIELD)
#endif

typedef struct known {
  const char *name;
  const void *defaults;
  size_t least, size;
  tailcut_status (*init)(void *out, size_t struct_size);
} known;

typedef struct field {
  const char *owner, *name;
  size_t at, size;
} field;

/* Constant expressions: some compilers insist. */
#define DEFAULTS(name, initializer, size_1, size_2) \
  static const tailcut_##name name##_defaults = initializer;
TT_STRUCTS(DEFAULTS)

#define INIT(name)                                            \
  static tailcut_status init_##name(void *out, size_t size) { \
    return tailcut_##name##_init(out, size);                  \
  }
INIT(batch)
INIT(tokens)
INIT(reference)
INIT(rule)
INIT(merge_options)
INIT(selection)
INIT(rotation)
INIT(rows)
INIT(relevance_options)
INIT(limits)
static tailcut_status init_config(void *out, size_t size) {
  return tailcut_config_init(out, size, TAILCUT_VERSION);
}

#define ROW(name, initializer, size_1, size_2) \
  {#name, &name##_defaults, TC_MIN_SIZE_##name, sizeof(tailcut_##name), init_##name},
static const known structs[] = {TT_STRUCTS(ROW)};
enum { STRUCTS = sizeof structs / sizeof structs[0] };

#define FIELD_ROW(name, field, at, since) \
  {#name, #field, offsetof(tailcut_##name, field), sizeof(((tailcut_##name *)0)->field)},
static const field fields[] = {TT_FIELDS(FIELD_ROW)};
enum { FIELDS = sizeof fields / sizeof fields[0], JUNK = 0xA5, STEP = sizeof(void *) };

static int is_junk(const uint8_t *bytes, size_t from, size_t to) {
  for (size_t i = from; i < to; i++) {
    if (bytes[i] != JUNK) return 0;
  }
  return 1;
}

Test(structs, init_functions_do_what_the_initialisers_do) {
  for (int s = 0; s < STRUCTS; s++) {
    const known *k = &structs[s];
    uint8_t bytes[256];
    cr_assert_eq(k->init(NULL, k->size), TAILCUT_ERROR_NULL, "%s", k->name);
    cr_assert_eq(strncmp(tailcut_last_error(), k->name, strlen(k->name)), 0, "%s",
                 tailcut_last_error());
    for (size_t size = k->least; size <= k->size; size += STEP) {
      memset(bytes, JUNK, sizeof bytes);
      cr_assert_eq(k->init(bytes, size), TAILCUT_OK, "%s, %zu: %s", k->name, size,
                   tailcut_last_error());
      cr_expect_eq(memcmp(bytes, &size, sizeof size), 0, "%s, %zu: its size", k->name, size);
      for (int f = 1; f < FIELDS; f++) {
        const field *x = &fields[f];
        if (strcmp(x->owner, k->name) != 0 || x->at == 0 || x->at >= size) continue;
        cr_expect_eq(memcmp(bytes + x->at, (const char *)k->defaults + x->at, x->size), 0,
                     "%s.%s of %zu bytes", k->name, x->name, size);
      }
      cr_expect(is_junk(bytes, size, sizeof bytes), "%s, %zu: written behind it", k->name, size);
    }
    const size_t refused[] = {
        0,           1,           k->least - STEP, k->least - 1, k->least + 1,
        k->size - 1, k->size + 1, k->size + STEP,  SIZE_MAX,     SIZE_MAX - STEP + 1};
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
      memset(bytes, JUNK, sizeof bytes);
      cr_expect_eq(k->init(bytes, refused[i]), TAILCUT_ERROR_STRUCT_SIZE, "%s, %zu", k->name,
                   refused[i]);
      cr_expect(strstr(tailcut_last_error(), k->name) != NULL, "%s", tailcut_last_error());
      cr_expect(is_junk(bytes, 0, sizeof bytes), "%s, %zu: written", k->name, refused[i]);
    }
  }
}

Test(structs, config_init_keeps_the_callers_version) {
  tailcut_config config;
  cr_assert_eq(tailcut_config_init(&config, sizeof config, 12345), TAILCUT_OK);
  cr_assert_eq(config.version, 12345);
  cr_assert_eq(config.device_kind, TAILCUT_DEVICE_CPU);
  cr_assert_eq(config.threads, 1);
}

/* ------------------------------------------------------------------ the header as it is written */

/* Blanks out comments. */
static char *header_without_comments(void) {
  FILE *file = fopen(TAILCUT_SOURCE_DIR "/include/tailcut.h", "rb");
  cr_assert_not_null(file);
  char *text = tt_host(1 << 18);
  const size_t length = fread(text, 1, (1 << 18) - 1, file);
  fclose(file);
  cr_assert_gt(length, 1000);
  cr_assert_lt(length, (1 << 18) - 1);
  for (char *open = text; (open = strstr(open, "/*")) != NULL;) {
    char *close = strstr(open, "*/");
    cr_assert_not_null(close);
    memset(open, ' ', (size_t)(close + 2 - open));
  }
  return text;
}

/* The table has every field of every struct of the header, in its order. */
Test(structs, the_table_is_the_headers) {
  char *text = header_without_comments();
  int seen = 0, found = 0;
  for (const char *p = text; (p = strstr(p, "typedef struct tailcut_")) != NULL; found++) {
    const char *name = p + strlen("typedef struct tailcut_");
    const char *open = strpbrk(name, "{;"), *close = strstr(name, "} tailcut_");
    p = name;
    if (*open == ';') { /* the handle has no fields here */
      found--;
      continue;
    }
    for (const char *end = open; (end = strchr(end + 1, ';')) != NULL && end < close; seen++) {
      const char *begin = end;
      while (isalnum((unsigned char)begin[-1]) || begin[-1] == '_') begin--;
      cr_assert_lt(seen, FIELDS, "the header has more fields than struct_fields.h");
      const size_t length = strlen(fields[seen].owner);
      cr_assert(strncmp(name, fields[seen].owner, length) == 0 && name[length] == ' ',
                "struct_fields.h: %s.%s is not where the header has %.30s", fields[seen].owner,
                fields[seen].name, name);
      cr_assert(strlen(fields[seen].name) == (size_t)(end - begin) &&
                    strncmp(begin, fields[seen].name, (size_t)(end - begin)) == 0,
                "struct_fields.h has %s.%s where the header has %.*s", fields[seen].owner,
                fields[seen].name, (int)(end - begin), begin);
    }
  }
  cr_assert_eq(seen, FIELDS, "the header has %d fields, struct_fields.h %d", seen, FIELDS);
  cr_assert_eq(found, STRUCTS);
  free(text);
}

/* --------------------------------------------------------------------------- shorter structs -- */

/* Where the shortened structs of a call stand. */
typedef enum place { TIGHT, BEFORE_JUNK } place;

static void *held[16];
static int held_count;

/* `count` structs of `size` bytes, as a header had them that knew no more. */
static const void *shorter(const void *full, int32_t count, size_t full_size, size_t size,
                           place where) {
  const size_t bytes = (size_t)count * size, room = where == TIGHT ? bytes : bytes + full_size;
  char *p = tt_memory_cpu.alloc(room, where == TIGHT ? TT_TIGHT : 0);
  memset(p, JUNK, room);
  for (int32_t i = 0; i < count; i++) {
    memcpy(p + (size_t)i * size, (const char *)full + (size_t)i * full_size, size);
    memcpy(p + (size_t)i * size, &size, sizeof size);
  }
  return held[held_count++] = p;
}

static void release_all(void) {
  while (held_count > 0) tt_memory_cpu.release(held[--held_count]);
}

enum { SEGMENTS = 2, MOST = 12, TOTAL = SEGMENTS * MOST, DIM = 16 };

typedef struct results {
  int32_t counts[SEGMENTS], kept[TOTAL], flags[SEGMENTS];
  float first[TOTAL * DIM], packed[TOTAL];
} results;

/* Without the last `less` words, as far as a header ever lacked them. */
static size_t size_of(size_t full, size_t least, int less) {
  const size_t words = (size_t)less * STEP;
  return full - least < words ? least : full - words;
}

/* The same calls of both stages; structs lack the last `less` words. */
static void run_calls(tailcut_handle handle, const tt_backend *backend, int less, place where,
                      results *visual, results *sequence) {
  static float tokens[TOTAL * DIM], reference_data[DIM], positions[TOTAL];
  uint8_t roles[TOTAL];
  for (int i = 0; i < TOTAL * DIM; i++) tokens[i] = (float)((i * 7919) % 101) - 40.0f;
  for (int i = 0; i < DIM; i++) reference_data[i] = (float)(i % 5) - 1.0f;
  for (int i = 0; i < TOTAL; i++) positions[i] = (float)i, roles[i] = (uint8_t)(1 + i % 4 / 3);
  for (int kind = 0; kind < 2; kind++) {
    results *r = kind ? sequence : visual;
    memset(r, 0, sizeof *r);
    tailcut_batch batch = TAILCUT_BATCH_INITIALIZER;
    tailcut_tokens t = TAILCUT_TOKENS_INITIALIZER;
    tailcut_reference reference = TAILCUT_REFERENCE_INITIALIZER;
    tailcut_rule rule = TAILCUT_RULE_INITIALIZER;
    tailcut_selection selection = TAILCUT_SELECTION_INITIALIZER;
    tailcut_rows rows[2] = {TAILCUT_ROWS_INITIALIZER, TAILCUT_ROWS_INITIALIZER};
    tailcut_limits limits = TAILCUT_LIMITS_INITIALIZER;
    limits.segments = batch.segments = SEGMENTS, limits.max_tokens = batch.max_tokens = MOST;
    t.data = tokens, t.dtype = TAILCUT_F32, limits.dim = t.dim = DIM;
    reference.data = reference_data;
    rule.detector = TAILCUT_TOPK, rule.k = 5;
    selection.counts = r->counts, selection.kept = r->kept, selection.flags = r->flags;
    rows[0].src = tokens, rows[0].dst = r->first, rows[0].part_bytes = DIM * 4;
    rows[1].src = positions, rows[1].dst = r->packed, rows[1].part_bytes = 4;
    rows[1].placement = TAILCUT_PACKED;
#define SHORTER(variable, name, count)             \
  shorter(variable, count, sizeof(tailcut_##name), \
          size_of(sizeof(tailcut_##name), TC_MIN_SIZE_##name, less), where)
    const int32_t call = kind ? TAILCUT_CALL_PRUNE_SEQUENCE : TAILCUT_CALL_PRUNE_VISUAL;
    size_t size = 0, whole = 0;
    cr_assert_eq(tailcut_workspace_size(handle, call, &limits, &whole), TAILCUT_OK);
    cr_assert_eq(tailcut_workspace_size(handle, call, SHORTER(&limits, limits, 1), &size),
                 TAILCUT_OK, "%s", tailcut_last_error());
    cr_assert_eq(size, whole);
    cr_assert_eq(tailcut_kept_count(SHORTER(&rule, rule, 1), MOST), 5, "%s", tailcut_last_error());
    void *workspace = tt_upload(backend, NULL, size, 0);
    cr_assert_eq(tailcut_workspace_init(handle, workspace, size, NULL), TAILCUT_OK);
    const tailcut_status status =
        kind ? tailcut_prune_sequence(handle, SHORTER(&batch, batch, 1), SHORTER(&t, tokens, 1),
                                      roles, NULL, SHORTER(&rule, rule, 1),
                                      SHORTER(&selection, selection, 1), SHORTER(rows, rows, 2), 2,
                                      workspace, size, NULL)
             : tailcut_prune_visual(handle, SHORTER(&batch, batch, 1), SHORTER(&t, tokens, 1),
                                    SHORTER(&reference, reference, 1), SHORTER(&rule, rule, 1),
                                    SHORTER(&selection, selection, 1), SHORTER(rows, rows, 2), 2,
                                    workspace, size, NULL);
    cr_assert_eq(status, TAILCUT_OK, "%d words less, %s: %s", less,
                 where == TIGHT ? "at the edge" : "before junk", tailcut_last_error());
    tt_free(backend, workspace);
    release_all();
  }
}

Test(structs, shorter_ones_get_the_defaults_of_what_they_lack) {
  int count;
  const tt_backend *backend = tt_backends(&count);
  if (backend->device_kind != TAILCUT_DEVICE_CPU) return; /* checks are the host's */
  tailcut_handle handle = tt_create(backend);
  static results visual, sequence, wanted_visual, wanted_sequence;
  run_calls(handle, backend, 0, BEFORE_JUNK, &wanted_visual, &wanted_sequence);
  cr_assert_eq(wanted_visual.counts[0], 5);
  cr_assert_eq(wanted_sequence.counts[0], 5 + 3); /* and the rows that are no candidates */
  for (int less = 1; less <= 3; less++) {
    for (int where = TIGHT; where <= BEFORE_JUNK; where++) {
      run_calls(handle, backend, less, (place)where, &visual, &sequence);
      cr_expect_eq(memcmp(&visual, &wanted_visual, sizeof visual), 0, "%d words less", less);
      cr_expect_eq(memcmp(&sequence, &wanted_sequence, sizeof sequence), 0, "%d words less", less);
    }
  }
  tailcut_destroy(handle);
}
