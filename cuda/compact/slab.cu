/* SPDX-License-Identifier: Apache-2.0 */
/*
 * compact, slabs: rows move in place inside segments that a block can see to the end.
 *
 * Strategy: a block has a column slice of a segment and moves it as compact/slab.cuh says.
 *   slab    slices of 256 bytes, narrower ones while they do not fill the device; segments from
 *           last to first, because the rows that were scored last are still in L2
 *   staged  few images behind a cut: slices of 32 bytes, all rows of which a block has brought to
 *           shared memory when the cut is done. Reading rows before tc_wait_previous is allowed: in
 *           a call only compaction writes rows, and no two of its arrays share any
 * Precision: bytes are copied. Limits: rows of 16-byte units at aligned places, no slots, no zeroed
 * tails. A slab of any length is right; past 8,192 rows tickets serve few segments better.
 *
 * Ladder (H100, the prototypes' figures: bandwidth/compact.cuh, combined/move.cuh; this code: not
 * measured): a column sweep per thread without barriers 3x slower; slab<256,6,4> 15.5 us at 64 x
 * 576 x 2 KB, 26% kept, 52.6 at 256; one image in a chain: staged 2.4, 0.3 less than slabs there.
 * Simulated: each thread reading its rows' entries, 1.37 times the least load sectors for one
 * image; entries looked up once per block, 1.21 (64 slices read one list), 1.05 for 8, 1.03 for 64.
 * One image, PTX instructions of a warp: slab 306, staged 247.
 */
#include "common/tensor.cuh"
#include "compact/compact.cuh"
#include "compact/slab.cuh"

namespace {

constexpr int HELD = 6;         /* rows of which a thread holds a unit */
constexpr int LISTED = 768;     /* rows whose sources are looked up at a time: whole batches */
constexpr int STAGED_LINES = 2; /* rows in flight per thread of a staged slice */
constexpr int STAGED_BYTES = 32;
constexpr int STAGED_MOST = 96 << 10; /* shared memory of a block */

#if defined(TAILCUT_CUDA_DELAYS)
constexpr bool READ_AHEAD = false; /* what lies behind a list may never have been written */
#else
constexpr bool READ_AHEAD = true;
#endif

template <int MOST>
struct slab_args {
  tc_lists lists;
  tc_arrays<MOST> arrays;
};

/* The work of a block and the first unit of each row that is this thread's. */
struct slab_work {
  int32_t b, line, lines;
  uint32_t column;
  bool live;
  int64_t offset; /* from the row to the unit */
};

template <int MOST>
__device__ inline const tc_unit_rows &take_work(const slab_args<MOST> &args, slab_work *w) {
  const int32_t number = (int32_t)(gridDim.x - 1 - blockIdx.x);
  const int index = tc_array_of(args.arrays, number);
  const tc_unit_rows &a = args.arrays.array[index];
  const uint32_t slices = (uint32_t)((a.units - 1) >> a.columns_log) + 1;
  const uint32_t at = (uint32_t)(number - args.arrays.first[index]);
  w->b = (int32_t)(at / slices);
  w->column = threadIdx.x & ((1u << a.columns_log) - 1);
  w->line = (int32_t)(threadIdx.x >> a.columns_log);
  w->lines = TC_SLAB_THREADS >> a.columns_log;
  const uint32_t unit = (at % slices << a.columns_log) + w->column;
  w->live = unit < (uint32_t)a.units;
  w->offset = tc_unit_offset(a, a.src_part, unit);
  return a;
}

template <int MOST>
__global__ void __launch_bounds__(TC_SLAB_THREADS, 4)
    compact_slab(const __grid_constant__ slab_args<MOST> args) {
  __shared__ int32_t source[LISTED];
  slab_work w;
  const tc_unit_rows &a = take_work(args, &w);
  tc_wait_previous();
  tc_result r;
  const tc_segment segment = tc_segment_at(args.lists.s, w.b);
  if (!tc_take_result(args.lists, false, a.dst_rows, w.b, segment, &r)) return;
  const int32_t prefix_rows = args.lists.s.prefix_rows;
  char *at = a.dst + (tc_segment_offset(args.lists, a, r) + w.offset);
#pragma unroll 1
  for (int32_t first = 0; first < r.k; first += LISTED) {
    tc_entry e[LISTED / TC_SLAB_THREADS];
#pragma unroll
    for (int m = 0; m < LISTED / TC_SLAB_THREADS; m++) {
      if (first + m * TC_SLAB_THREADS >= r.k) break;
      e[m] = tc_load_entry(r.kept, first + m * TC_SLAB_THREADS + (int32_t)threadIdx.x, r.k);
    }
#pragma unroll
    for (int m = 0; m < LISTED / TC_SLAB_THREADS; m++) {
      if (first + m * TC_SLAB_THREADS >= r.k) break;
      const int32_t own = m * TC_SLAB_THREADS + (int32_t)threadIdx.x, j = first + own;
      const int32_t i = tc_judge_entry(e[m], j, r.n);
      source[own] = i < 0 || i + prefix_rows == j ? -1 : i + prefix_rows;
    }
    /* The sources of rows before were last asked for before the last batch's barrier. */
    __syncthreads();
    tc_slab<HELD>(at, a.src_row, w.live, w.line, w.lines, first, min(first + LISTED, r.k),
                  [=](int32_t j) { return source[j - first]; });
  }
}

/* A thread's next entries of a list of `length`. Two threads share an entry; of those before them a
 * warp asks for the first alone, as it has the others. */
__device__ inline void load_entries(const int32_t *kept, int32_t j, int32_t length,
                                    tc_entry (&e)[STAGED_LINES]) {
#pragma unroll
  for (int m = 0; m < STAGED_LINES; m++) {
    const int32_t to = j + m * TC_SLAB_THREADS / (STAGED_BYTES / 16);
    const bool first = (threadIdx.x & 31) < STAGED_BYTES / 16;
    e[m].i = tc_load_if(to < length, kept + to, -1);
    e[m].before = tc_load_if(to < length && to > 0 && first, kept + to - 1, -1);
  }
}

template <int MOST>
__global__ void __launch_bounds__(TC_SLAB_THREADS)
    compact_staged(const __grid_constant__ slab_args<MOST> args) {
  extern __shared__ uint4 staged[]; /* the segment's candidates, the slice's units of each */
  constexpr int columns = STAGED_BYTES / 16, lines = TC_SLAB_THREADS / columns;
  tc_let_next_start();
  slab_work w;
  const tc_unit_rows &a = take_work(args, &w);
  tc_result r;
  const tc_segment segment = tc_segment_at(args.lists.s, w.b); /* not resolved: inputs only */
  r.b = w.b;
  r.start = segment.start;
  char *at = a.dst + (tc_segment_offset(args.lists, a, r) + w.offset);
  const char *from = at + (int64_t)(args.lists.s.prefix_rows + w.line) * a.src_row;
  if (w.live) {
#pragma unroll 4
    for (int32_t i = w.line; i < segment.n; i += lines, from += lines * a.src_row) {
      tc_copy_16(tc_shared_address(&staged[i * columns + w.column]), from);
    }
  }
  asm volatile("cp.async.wait_all;" ::: "memory");
  __syncthreads(); /* nothing is stored before all of it is here */
  tc_wait_previous();
  const int32_t *const kept = args.lists.kept + segment.start; /* LOCAL: host */
  int32_t known = segment.n;
  tc_entry e[STAGED_LINES];
  if (!READ_AHEAD) {
    tc_take_result(args.lists, false, a.dst_rows, w.b, segment, &r);
    known = r.k;
  }
  /* The first entries are read before it is known how many there are: one trip to L2 less. */
  load_entries(kept, w.line, known, e);
  if (READ_AHEAD) tc_take_result(args.lists, false, a.dst_rows, w.b, segment, &r);
  const int32_t ahead = w.line % (32 / columns); /* of the warp's first line */
#pragma unroll 1
  for (int32_t j = w.line; j - ahead < r.k; j += STAGED_LINES * lines) {
    if (j != w.line) load_entries(kept, j, r.k, e);
#pragma unroll
    for (int m = 0; m < STAGED_LINES; m++) {
      const int32_t to = j + m * lines, i = e[m].i;
      const int32_t left = __shfl_up_sync(TC_FULL, i, columns);
      const int32_t before = (threadIdx.x & 31) < columns ? e[m].before : left;
      if (i <= before || i < to || i >= segment.n || to >= r.k || !w.live) continue;
      if (i + args.lists.s.prefix_rows == to) continue;
      *(uint4 *)(at + to * a.src_row) = staged[i * columns + w.column];
    }
  }
}

/* -------------------------------------------------------------------------------------- host -- */

int64_t slices_of(const tc_unit_rows &a, int columns_log) {
  return ((int64_t)(a.units - 1) >> columns_log) + 1;
}

template <int MOST>
cudaError_t launch(tc_compact_call *call, const tailcut_rows *const *rows, int32_t count) {
  const tc_cuda *device = call->device;
  const int32_t segments = call->lists.s.segments;
  slab_args<MOST> args;
  args.lists = call->lists;
  args.arrays.count = count;
  for (int32_t i = 0; i < count; i++) args.arrays.array[i] = tc_describe_units(*rows[i]);
  int columns_log = 4; /* 256 bytes */
  int64_t blocks = 0;
  for (;; columns_log--) {
    blocks = 0;
    for (int32_t i = 0; i < count; i++) {
      blocks += slices_of(args.arrays.array[i], columns_log) * segments;
    }
    if (columns_log == 1 || blocks * 4 >= device->sms * 3) break;
  }
  const size_t shared = (size_t)tc_most_candidates(call->lists.s) * STAGED_BYTES;
  const bool staged = columns_log == 1 && call->chain.follows && blocks <= device->sms &&
                      shared <= STAGED_MOST && call->lists.s.start == nullptr &&
                      !call->lists.kept_packed;
  args.arrays.first[0] = 0;
  for (int32_t i = 0; i < count; i++) {
    tc_unit_rows *a = &args.arrays.array[i];
    a->columns_log = (uint8_t)columns_log;
    args.arrays.first[i + 1] =
        args.arrays.first[i] + (int32_t)(slices_of(*a, columns_log) * segments);
  }
  return tc_launched(call,
                     tc_launch(staged ? compact_staged<MOST> : compact_slab<MOST>, (unsigned)blocks,
                               TC_SLAB_THREADS, staged ? shared : 0, &call->chain, args));
}

template <int MOST>
cudaError_t load() {
  cudaFuncAttributes attributes;
  cudaError_t error = cudaFuncGetAttributes(&attributes, compact_slab<MOST>);
  if (error != cudaSuccess) return error;
  return cudaFuncSetAttribute(compact_staged<MOST>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              STAGED_MOST);
}

}  // namespace

cudaError_t tc_compact_slabs(tc_compact_call *call, const tailcut_rows *const *rows,
                             int32_t count) {
  return count <= TC_FEW_ARRAYS ? launch<TC_FEW_ARRAYS>(call, rows, count)
                                : launch<TC_ROWS_PER_LAUNCH>(call, rows, count);
}

cudaError_t tc_load_compact_slabs() {
  const cudaError_t error = load<TC_FEW_ARRAYS>();
  return error != cudaSuccess ? error : load<TC_ROWS_PER_LAUNCH>();
}
