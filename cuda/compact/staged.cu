/* SPDX-License-Identifier: Apache-2.0 */
/*
 * compact, staged: few images in place, right behind a cut.
 *
 * Strategy: a block has a column slice of 32 bytes, all rows of which it has brought to shared
 * memory when the cut is done. Reading rows before tc_wait_previous is allowed: in a call only
 * compaction writes rows, and no two of its arrays share any. The cut leaves a tc_mark for every 32
 * candidates (which of them stay, how many before them do), so a block reads 8 bytes a word and not
 * the whole list. A warp has neighbouring candidates, hence few words.
 * Precision: bytes are copied. Limits: rows of 16-byte units at aligned places, no slots, no zeroed
 * tails; up to 3,072 candidates; a list that the call's own cut made.
 */
#include "common/tensor.cuh"
#include "compact/compact.cuh"

namespace {

constexpr int THREADS = 256, WARPS = THREADS / 32;
constexpr int COLUMNS_LOG = 1, COLUMNS = 1 << COLUMNS_LOG, LINES = 32 / COLUMNS; /* of a warp */
constexpr int MOST_SHARED = 96 << 10;
constexpr int MOST_ROWS = MOST_SHARED / (16 * COLUMNS);
static_assert(MOST_ROWS <= 32 * 32 * WARPS, "a warp's words are its lanes'");

struct staged_args {
  tc_lists lists;
  const tc_mark *marks;
  tc_arrays<TC_FEW_ARRAYS> arrays;
};

__global__ void __launch_bounds__(THREADS)
    compact_staged(const __grid_constant__ staged_args args) {
  extern __shared__ uint4 staged[]; /* the segment's candidates, the slice's units of each */
  tc_let_next_start();
  const int index = tc_array_of(args.arrays, blockIdx.x);
  const tc_row_array &a = args.arrays.array[index];
  const tc_slice_work w = tc_slice_of(a, blockIdx.x - (uint32_t)args.arrays.first[index], THREADS);
  const tc_segment segment = tc_segment_at(args.lists.s, w.b); /* not resolved: inputs only */
  const int32_t prefix_rows = args.lists.s.prefix_rows, lane = (int32_t)(threadIdx.x & 31);
  char *const at = a.dst + (tc_segment_offset(args.lists, a, w.b, segment.start) + w.offset);
  const char *from = at + (int64_t)(prefix_rows + w.line) * a.src_row_stride;
  if (w.live) {
#pragma unroll 4
    for (int32_t i = w.line; i < segment.n; i += w.lines, from += w.lines * a.src_row_stride) {
      tc_copy_16(tc_shared_address(&staged[i * COLUMNS + w.column]), from);
    }
  }
  asm volatile("cp.async.wait_all;" ::: "memory");
  __syncthreads(); /* nothing is stored before all of it is here */
  tc_wait_previous();
  /* The warp's candidates: `turns` times LINES. Behind the last one nothing stays. */
  const int32_t turns = (segment.n + WARPS * LINES - 1) / (WARPS * LINES);
  const int32_t first = (int32_t)(threadIdx.x / 32) * turns * LINES, word = first / 32 + lane;
  const int32_t end = min(first + turns * LINES, segment.n);
  uint2 own = {0, 0}; /* a tc_mark, in one access */
  if (word * 32 < end) {
    own = *(const uint2 *)(args.marks + tc_mark_of(segment.start, w.b) + word);
  }
  if (args.lists.counts[w.b] > a.dst_rows) return;
  const uint4 *staged_row = staged + w.column + (first + lane / COLUMNS) * COLUMNS;
  int32_t i = first + lane / COLUMNS;
#pragma unroll 4
  for (int32_t m = 0; m < turns; m++, i += LINES, staged_row += LINES * COLUMNS) {
    const int32_t holder = (i >> 5) - (first >> 5);
    const uint32_t stay = __shfl_sync(TC_FULL, own.x, holder), bit = 1u << (i & 31);
    const int32_t to = (int32_t)__shfl_sync(TC_FULL, own.y, holder) + __popc(stay & (bit - 1));
    if ((stay & bit) == 0 || i + prefix_rows == to || !w.live) continue;
    *(uint4 *)(at + to * a.src_row_stride) = *staged_row;
  }
}

}  // namespace

extern "C" int tc_cuda_compact_stages(const tc_cuda *device, const tc_segments *s,
                                      const tailcut_rows *rows, int32_t count) {
  int64_t blocks = 0;
  if (!device->chains || s->start != nullptr || count < 1 || count > TC_FEW_ARRAYS) return 0;
  if (tc_most_candidates(*s) > MOST_ROWS) return 0;
  for (int32_t i = 0; i < count; i++) {
    if (!tc_is_slab(*s, rows[i])) return 0;
    blocks += tc_slices(tc_describe(rows[i], s->cu_seqlens == nullptr), COLUMNS_LOG) * s->segments;
  }
  return blocks <= device->sms;
}

cudaError_t tc_compact_staged(tc_compact_call *call, const tc_mark *marks, const tailcut_rows *rows,
                              int32_t count) {
  const tc_segments &s = call->lists.s;
  staged_args args;
  args.lists = call->lists;
  args.marks = marks;
  args.arrays.count = count;
  args.arrays.first[0] = 0;
  for (int32_t i = 0; i < count; i++) {
    tc_row_array *a = &args.arrays.array[i];
    *a = tc_describe_in(call, rows[i]);
    a->columns_log = COLUMNS_LOG;
    a->slices = tc_slices(*a, COLUMNS_LOG);
    args.arrays.first[i + 1] = args.arrays.first[i] + a->slices * s.segments;
  }
  return tc_launch(compact_staged, (unsigned)args.arrays.first[count], THREADS,
                   (size_t)tc_most_candidates(s) * 16 * COLUMNS, &call->chain, args);
}

void tc_load_compact_staged(cudaError_t *error) {
  tc_load(compact_staged, error);
  if (*error != cudaSuccess) return;
  *error = cudaFuncSetAttribute(compact_staged, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                MOST_SHARED);
}
