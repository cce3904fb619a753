/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fused: score, cut and compact of a batch of images in one launch; or, of a few images, cut and
 * compact in one launch behind score.
 *
 * Strategy: blocks take tickets. A ticket is a score tile of image i (16 candidates, two a warp)
 * or, LAG images later, a slab of it: a block that waits for the image's tiles, cuts for itself and
 * moves its column slice of the kept rows, which are still in L2. The cut is done once per slab,
 * which costs less than handing lists around, and hides behind other blocks' loads. The functions
 * are those of the three kernels: score.cuh, cut/short.cuh, compact/slab.cuh.
 * Order: a tile's scores are stored, the block meets, one thread adds 1 to the image's count with
 * release semantics; a slab's thread polls it with acquire semantics before the block goes on.
 * Tickets ascend, a tile has a lower one than its image's slabs, and whoever has a ticket runs: no
 * wait is for ever. An image's rows are written by its own slabs only, after all its tiles; what
 * other images read must lie elsewhere (host/prune.c). Counts are left zero by the last of an
 * image's slabs, the ticket by the last to take one. A few images do not fill the device long
 * enough for that: there a block per slab waits for score as a whole, cuts for itself and moves;
 * any score, any reference.
 * Precision: exact, as its parts. Limits: fp16 and bf16 rows of up to 1,024 elements (one launch),
 * images of up to 2,048 candidates, row arrays of 16-byte units in place; the rest is left to the
 * chain or to compact.
 * Measured: bench/NOTES.md, "fused".
 */
#include "common/sync.cuh"
#include "compact/slab.cuh"
#include "cut/short.cuh"
#include "score.cuh"

namespace {

constexpr int THREADS = TC_COMPACT_THREADS, TILE_ROWS = THREADS / 32 * 2;
constexpr int LAG = 12; /* images between a tile and its slabs */
constexpr int WIDE_SLICE = 256, NARROW_SLICE = 128;
constexpr int ARRAYS = TC_FUSED_ARRAYS;

struct fused_array {
  char *rows;
  int64_t row, segment; /* strides in bytes */
  int64_t row_bytes, dst_rows;
};

struct fused_args {
  tc_cut_args cut;
  const char *rows; /* candidate 0 of segment 0 */
  const char *reference;
  int64_t row_bytes, segment_bytes, reference_bytes; /* strides; ragged: segment is a row's */
  float *scores;
  int32_t *flags;
  uint32_t dim;
  int32_t images;
  int32_t tiles, slabs; /* of an image */
  int32_t ragged, reference_by_row;
  int32_t slice[ARRAYS + 1]; /* slabs before each array's */
  fused_array array[ARRAYS];
};

/* What a ticket stands for. */
struct work {
  int32_t image, part; /* part: tile, or slab */
  bool scores;
};

__device__ inline work deal(const fused_args &args, uint32_t ticket) {
  const uint32_t tiles = (uint32_t)args.tiles, slabs = (uint32_t)args.slabs;
  const uint32_t ahead = (uint32_t)min(LAG, args.images), first = ahead * tiles;
  const uint32_t both = ((uint32_t)args.images - ahead) * (tiles + slabs);
  uint32_t image, part;
  if (ticket < first) {
    image = ticket / tiles;
    return {(int32_t)image, (int32_t)(ticket - image * tiles), true};
  }
  ticket -= first;
  if (ticket < both) {
    image = ticket / (tiles + slabs);
    part = ticket - image * (tiles + slabs);
    if (part >= slabs) return {(int32_t)(image + ahead), (int32_t)(part - slabs), true};
    return {(int32_t)image, (int32_t)part, false};
  }
  ticket -= both;
  image = ticket / slabs;
  return {(int32_t)(args.images - (int32_t)ahead + (int32_t)image),
          (int32_t)(ticket - image * slabs), false};
}

template <int DTYPE>
__device__ inline void score_tile(const fused_args &args, int32_t b, int32_t tile) {
  const tc_segment segment = tc_segment_at(args.cut.segments, b);
  const int32_t i = tile * TILE_ROWS + (int32_t)(threadIdx.x / 32) * 2, live = segment.n - i;
  if (live > 0) {
    const uint64_t number = (uint32_t)(args.ragged ? segment.start : b);
    const uint64_t reference_number = (uint32_t)(args.reference_by_row ? segment.start : b);
    const tc_scored found = tc_score_short<DTYPE, DTYPE, 2, false>(
        args.rows + number * args.segment_bytes + (uint64_t)(uint32_t)i * args.row_bytes,
        args.row_bytes, args.reference + reference_number * args.reference_bytes, args.dim, live,
        args.scores + ((uint32_t)segment.start + (uint32_t)i));
    if (i == 0 && found.judge) args.flags[b] = found.bad ? TAILCUT_FLAG_BAD_REFERENCE : 0;
  }
  tc_delay(2);
  if (tile * TILE_ROWS >= segment.n) return; /* the whole block: nobody waits for it */
  __syncthreads();
  if (threadIdx.x == 0) tc_add_release(&args.cut.lasting->blocks[b], 1);
}

/* The cut of image b and its slab: a column slice of SLICE bytes of one array. moved: counts the
 * image's slabs that know what is kept; the last one clears `arrived`. NULL: nobody waits. */
template <class S, int SLICE>
__device__ inline void cut_and_move(const fused_args &args, tc_short_memory<S> &space,
                                    int32_t *list, int32_t b, int32_t slab, uint32_t *arrived,
                                    uint32_t *moved) {
  const tc_cut_group c = tc_cut_open(args.cut, b);
  const int32_t k = tc_short_cut<false>(space, args.cut, c, slab == 0, list);
  __syncthreads(); /* the list is whole */
  if (moved != nullptr && threadIdx.x == 0 && atomicAdd(moved, 1u) == (uint32_t)args.slabs - 1) {
    *arrived = 0; /* every slab has seen it */
    *moved = 0;
  }
  if (slab == 0) {
    for (int32_t j = (int32_t)threadIdx.x; j < k; j += THREADS) c.kept[j] = list[j];
    tc_block<S::WARPS> block(space.value.block);
    tc_cut_done(block, args.cut);
  }
  int index = 0;
  while (slab >= args.slice[index + 1]) index++;
  const fused_array &a = args.array[index];
  const int64_t from = args.ragged ? c.group.start * a.row : b * a.segment;
  tc_slab_of_list<SLICE>(a.rows + from, a.row, a.row_bytes, args.cut.segments.prefix_rows,
                         slab - args.slice[index], list, k <= a.dst_rows ? k : 0);
}

template <class S>
__device__ inline void move_slab(const fused_args &args, tc_short_memory<S> &space, int32_t *list,
                                 int32_t b, int32_t slab) {
  uint32_t *arrived = &args.cut.lasting->blocks[b];
  const tc_segment segment = tc_segment_at(args.cut.segments, b);
  const uint32_t tiles = (uint32_t)((segment.n + TILE_ROWS - 1) / TILE_ROWS);
  tc_short_prepare(space.value);
  tc_delay(3);
  if (threadIdx.x == 0) {
    while (tc_load_acquire(arrived) != tiles) {
    }
  }
  __syncthreads();
  cut_and_move<S, WIDE_SLICE>(args, space, list, b, slab, arrived, &args.cut.lasting->moved[b]);
}

template <int DTYPE, class S>
__global__ void __launch_bounds__(THREADS, S::ITEMS > 4 ? 2 : 3)
    fused(const __grid_constant__ fused_args args) {
  __shared__ tc_short_memory<S> space;
  __shared__ int32_t list[S::ROWS];
  __shared__ uint32_t taken;
  tc_wait_previous();
  if (threadIdx.x == 0) {
    uint32_t *ticket = &args.cut.lasting->ticket;
    taken = atomicAdd(ticket, 1u);
    if (taken == gridDim.x - 1) *ticket = 0;
  }
  __syncthreads();
  const work w = deal(args, taken);
  if (w.scores) {
    score_tile<DTYPE>(args, w.image, w.part);
  } else {
    move_slab<S>(args, space, list, w.image, w.part);
  }
}

/* Behind score: a block per slab, which cuts for itself. */
template <class S>
__global__ void __launch_bounds__(THREADS, 2) fused_rest(const __grid_constant__ fused_args args) {
  __shared__ tc_short_memory<S> space;
  __shared__ int32_t list[S::ROWS];
  const int32_t b = (int32_t)blockIdx.x / args.slabs, slab = (int32_t)blockIdx.x % args.slabs;
  tc_short_prepare(space.value);
  tc_wait_previous();
  cut_and_move<S, NARROW_SLICE>(args, space, list, b, slab, nullptr, nullptr);
}

/* ------------------------------------------------------------------------------------ host -- */

typedef tc_short_shape<THREADS, 3, 8> small;
typedef tc_short_shape<THREADS, 8, 9> large;
typedef void (*fused_kernel)(fused_args);
static_assert(large::ROWS == TC_FUSED_ROWS, "what host/prune.c counts on");
static_assert(TC_SHORT_RUNS * TC_RUN_ELEMENTS == TC_FUSED_DIM, "the same");
const fused_kernel KERNELS[2][2] = {{fused<TAILCUT_F16, small>, fused<TAILCUT_F16, large>},
                                    {fused<TAILCUT_BF16, small>, fused<TAILCUT_BF16, large>}};
const fused_kernel REST[2] = {fused_rest<small>, fused_rest<large>};

/* The arrays, in slices of `bytes`. */
void slice_arrays(const tc_fused_call &fused, int bytes, fused_args *args) {
  for (int32_t i = 0; i < fused.num_rows; i++) {
    const tailcut_rows &r = fused.rows[i];
    args->array[i] = {(char *)r.dst, r.dst_row_stride, r.dst_segment_stride, r.part_bytes,
                      r.dst_rows};
    args->slice[i + 1] = args->slice[i] + (int32_t)((r.part_bytes + bytes - 1) / bytes);
  }
  args->slabs = args->slice[fused.num_rows];
}

/* What is scored, of what, and in how many tiles. */
void deal_scores(const tc_fused_call &fused, int32_t most, fused_args *args) {
  const tailcut_tokens &tokens = fused.call->tokens;
  const tailcut_reference &reference = fused.call->reference;
  const int64_t size = tc_dtype_size(tokens.dtype);
  const bool row_source = reference.source == TAILCUT_REFERENCE_ROW;
  args->row_bytes = tokens.row_stride * size;
  args->segment_bytes = args->ragged ? args->row_bytes : tokens.segment_stride * size;
  args->rows = (const char *)tokens.data + args->cut.segments.prefix_rows * args->row_bytes;
  args->reference = (const char *)(row_source ? tokens.data : reference.data);
  args->reference_bytes = row_source ? args->segment_bytes : reference.segment_stride * size;
  args->reference_by_row = row_source && args->ragged;
  args->scores = fused.scores;
  args->flags = fused.flags;
  args->dim = (uint32_t)tokens.dim;
  args->tiles = (most + TILE_ROWS - 1) / TILE_ROWS;
}

}  // namespace

extern "C" cudaError_t tc_cuda_fused(const tc_cuda *, const tc_fused_call *fused,
                                     const tc_chain *chain) {
  const tc_segments &s = fused->cut.segments;
  const int32_t most = s.max_tokens - s.prefix_rows;
  const bool scores = fused->scores != nullptr, is_large = most > small::ROWS;
  fused_args args = {};
  args.cut = fused->cut;
  args.ragged = s.cu_seqlens != nullptr;
  args.images = s.segments;
  slice_arrays(*fused, scores ? WIDE_SLICE : NARROW_SLICE, &args);
  if (scores) deal_scores(*fused, most, &args);
  const fused_kernel kernel =
      scores ? KERNELS[fused->call->tokens.dtype == TAILCUT_BF16][is_large] : REST[is_large];
  return tc_launch(kernel, (unsigned)(s.segments * (args.tiles + args.slabs)), THREADS, 0, chain,
                   args);
}

extern "C" cudaError_t tc_cuda_load_fused(tc_cuda *) {
  cudaError_t error = cudaSuccess;
  tc_load(KERNELS, &error);
  tc_load(REST, &error);
  return error;
}
