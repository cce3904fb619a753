/* SPDX-License-Identifier: Apache-2.0 */
/* cpu_sequence: prune_sequence on the CPU, in place, on one thread and on all cores. The oracle is
 * the parts at the scalar level on one thread. */
#include <stdlib.h>
#include <string.h>

#include "cpu/cpu.h"
#include "sequence.h"

enum { TIMED = 2 };

typedef struct world world;

typedef struct timed {
  world *w;
  int handle;
} timed;

struct world {
  bench_sequence s;
  bench_cpu cpu;
  char *inputs, *expected, *actual;
  timed timed[TIMED];
};

static uint64_t sink; /* keeps the plain sum from being left out */

static bench_room room_of(const world *w, int handle) {
  return (bench_room){w->cpu.handle[handle], w->cpu.workspace[handle], w->cpu.bytes[handle], NULL};
}

static int call_it(void *of) {
  const timed *t = of;
  const bench_room room = room_of(t->w, t->handle);
  return bench_sequence_call(&t->w->s, &room, t->w->actual);
}

static int restore(void *of) {
  const timed *t = of;
  memcpy(t->w->actual, t->w->inputs, t->w->s.inputs);
  return CLI_OK;
}

static int sum_it(void *of) {
  const timed *t = of;
  const tc_cpu *cpu = t->w->cpu.handle[t->handle]->state; /* its threads do the sum, too */
  sink += bench_plain_sum(t->w->inputs + t->w->s.hidden, t->w->s.hidden_bytes, cpu->pool);
  return CLI_OK;
}

static int check(world *w) {
  const bench_room oracle = room_of(w, BENCH_SCALAR);
  memcpy(w->expected, w->inputs, w->s.inputs);
  int status = bench_sequence_parts(&w->s, &oracle, w->expected);
  for (int i = 0; i < TIMED && status == CLI_OK; i++) {
    memset(w->actual + w->s.inputs, 0xA5, w->s.bytes - w->s.inputs);
    restore(&w->timed[i]);
    status = call_it(&w->timed[i]);
    const char *wrong = bench_sequence_differs(&w->s, w->actual, w->expected);
    if (status == CLI_OK && wrong != NULL) return bench_failed(w->s.c, wrong);
  }
  return status;
}

static void add_rows(bench_scene *scene, int32_t threads) {
  world *w = scene->data;
  for (int i = 0; i < (threads > 1 ? TIMED : 1); i++) {
    bench_row *sum = &scene->row[scene->rows++], *call = &scene->row[scene->rows++];
    *sum = (bench_row){.name = "plain_sum",
                       .threads = i == 0 ? 1 : threads,
                       .bytes = (double)w->s.hidden_bytes,
                       .call = sum_it,
                       .of = &w->timed[i],
                       .yardstick = -1};
    *call = *sum;
    call->name = "prune_sequence";
    call->bytes = bench_sequence_bytes(&w->s, w->expected);
    call->call = call_it, call->reset = restore;
    call->yardstick = scene->rows - 2;
  }
}

int bench_cpu_sequence_open(bench_scene *scene) {
  world *w = calloc(1, sizeof *w);
  if (w == NULL) return CLI_FAILED;
  scene->data = w;
  bench_sequence_lay_out(&w->s, scene->what);
  w->timed[0] = (timed){w, BENCH_ONE}, w->timed[1] = (timed){w, BENCH_ALL};
  w->inputs = bench_allocate(w->s.inputs);
  w->expected = bench_allocate(w->s.bytes);
  w->actual = bench_allocate(w->s.bytes);
  bench_sequence_fill(&w->s, w->inputs);
  const int32_t threads = scene->threads > 0 ? scene->threads : tc_team_cores();
  const tailcut_limits limits = bench_sequence_limits(&w->s);
  int status =
      bench_cpu_open(&w->cpu, &limits, TAILCUT_CALL_CUT, TAILCUT_CALL_PRUNE_SEQUENCE, threads);
  if (status == CLI_OK) status = check(w);
  if (status != CLI_OK) return status;
  scene->kept = bench_sequence_kept(&w->s, w->expected);
  add_rows(scene, threads);
  return CLI_OK;
}

void bench_cpu_sequence_close(bench_scene *scene) {
  world *w = scene->data;
  bench_cpu_close(&w->cpu);
  free(w->inputs), free(w->expected), free(w->actual);
  free(w);
}
