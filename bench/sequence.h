/* SPDX-License-Identifier: Apache-2.0 */
/* sequence: the case of prune_sequence, alike on every device: what a call reads and writes, in one
 * slot, in place. A sequence is `tokens` rows of an image or more, then `text` rows of a prompt;
 * hidden states, M-RoPE position ids [3, rows] int64, and K and V of `layers` layers: each [rows,
 * heads, 128], or with `paged` side by side in pages (blocks, heads, 16, 2*128), as vLLM has them,
 * by int64 slots. The rule keeps a quarter of the image rows (TOPK). */
#ifndef TAILCUT_BENCH_SEQUENCE_H_
#define TAILCUT_BENCH_SEQUENCE_H_

#include "bench.h"

/* Offsets into a slot. */
typedef struct bench_sequence {
  const bench_case *c;
  int32_t rows; /* of a sequence */
  int64_t total, pages;
  size_t hidden_bytes, kv_bytes; /* of a layer */
  size_t hidden, positions, roles, table, kv;
  size_t inputs; /* all of the above; written in place, too */
  size_t counts, kept, cu, scores;
  size_t bytes;
} bench_sequence;

enum { BENCH_MOST_LAYERS = 64, BENCH_HEAD = 128 };

void bench_sequence_lay_out(bench_sequence *s, const bench_case *c);
tailcut_limits bench_sequence_limits(const bench_sequence *s);
void bench_sequence_fill(const bench_sequence *s, char *inputs);

typedef struct bench_room {
  tailcut_handle handle;
  void *workspace;
  size_t bytes;
  void *stream;
} bench_room;
/* The call; or relevance, cut and compact one after the other. CLI_OK, or why not on stderr. */
int bench_sequence_call(const bench_sequence *s, const bench_room *room, char *slot);
int bench_sequence_parts(const bench_sequence *s, const bench_room *room, char *slot);

/* What is wrong in a slot on the host after the call; NULL: nothing. */
const char *bench_sequence_differs(const bench_sequence *s, const char *actual,
                                   const char *expected);
/* Rows that stay, and the least bytes that a call reads and writes. */
int64_t bench_sequence_kept(const bench_sequence *s, const char *expected);
double bench_sequence_bytes(const bench_sequence *s, const char *expected);

#endif /* TAILCUT_BENCH_SEQUENCE_H_ */
