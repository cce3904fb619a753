/* SPDX-License-Identifier: Apache-2.0 */
/*
 * score: cosine of every candidate to its segment's reference vector, or to an earlier candidate;
 * and its relevance to the query rows, given their mean direction.
 *
 * Formulas: s = <x,c> / (max(|x|, 1e-8) * max(|c|, 1e-8)), clamped; METHOD.md, stage 1.
 * MEAN_COSINE: r = <x,u> / max(|x|, 1e-8), clamped; stage 2. Strategy: a
 * block takes 4 or 8 candidates of one segment, a warp one or two of them, and that is all it does:
 * no loop over rows, nothing staged, every load of rows and reference under way before the first
 * use, all sums of a warp through one butterfly. Blocks come and go by the hardware's scheduler,
 * which keeps more loads in flight than blocks that stay and loop. A row is read once, the
 * reference by every warp, from L1. Which kernel takes what:
 *
 *   rows                       kernel    a warp takes                      registers, blocks an SM
 *   fp16, bf16 to 1,024        SHORT     1 row; 2 of many                  64, 8; 80, 6
 *   fp16, bf16 to 1,536        MIDDLE    1 row; 2 of many                  80, 6; 124, 4
 *   longer ones, fp32          LONG      1 row, the next piece on its way  116, 4
 *   no multiples of 16 bytes   ANY       1 row, in narrow loads            64, 4
 *
 * SHORT and MIDDLE take 1 row where the reference is fp32 and theirs is not (MEAN), and for LAG.
 * Small launches let the next kernel start when they start, others when their blocks end.
 *
 * What ptxas does to loads decides (look at the SASS after every change): it sinks a predicated
 * load behind whatever waits for the others, hence clamped addresses instead of masks; and it
 * copies a piece that has two names, which waits for it, hence two pieces in turns.
 * Precision: as METHOD.md, bit for bit. Limits: ANY is simple and slow. MIDDLE with two rows of
 * more than 1,280 fp16 has 15 of its 18 loads under way before the first use.
 * Measured: bench/NOTES.md, "score".
 */
#include "score.cuh"

#include "common/launch.cuh"
#include "common/tiles.cuh"

namespace {

constexpr int WARPS = 4, THREADS = 32 * WARPS;
constexpr int MANY = 32; /* candidates an SM from which on a warp takes two: about 8 images */
constexpr int SOME = 16; /* up to which the next kernel's blocks are no burden: 2,048 on 132 */

enum form { SHORT, SHORT_TWO, MIDDLE, MIDDLE_TWO, LONG, ANY }; /* TWO: rows a warp */

/* How rows are dealt to blocks. */
struct dealing {
  tc_segments s;
  tc_tiles t;
  int32_t n;           /* of every segment, where that needs no look; else -1 */
  uint32_t per, magic; /* evenly: blocks of a segment; unit / per = umulhi(unit, magic) >> shift */
  int32_t shift;
  int32_t parts_log; /* not evenly: blocks of a tile */
};

struct score_args : dealing {
  const char *rows;                        /* candidate 0 of segment 0 */
  const char *reference;                   /* segment 0's */
  uint64_t row_bytes;                      /* from one row to the next */
  uint64_t segment_bytes, reference_bytes; /* from one segment's, or (ragged) row's, to the next */
  uint64_t lag_bytes;
  const uint8_t *roles;   /* relevance: by row number; else NULL */
  const int32_t *queries; /* relevance: query rows of segments reference_first .. */
  float *scores;
  int32_t *flags;
  uint32_t dim;
  int32_t reference_dtype;
  int32_t reference_first; /* MEAN: the segment whose reference is at `reference` */
  int32_t lag;             /* 0: not LAG */
  bool ragged, reference_by_row, early, stores_flags;
};

/* Which rows a block takes: from candidate `first` of segment b on; n 0: none. */
struct place {
  int32_t b, start, n, first;
};

__device__ inline place even_place(const dealing &args, int rows) {
  const uint32_t unit = blockIdx.x;
  const uint32_t index = args.magic != 0 ? __umulhi(unit, args.magic) >> args.shift : unit;
  place at = {args.t.first + (int32_t)index, 0, 0, (int32_t)(unit - index * args.per) * rows};
  at.start = at.b * args.s.max_tokens;
  at.n = args.n;
  return at;
}

/* Start and length of the segment that has been found; by whole warps. */
__device__ inline place with_segment(const dealing &args, place at) {
  const tc_segment segment = tc_segment_at(args.s, at.b);
  at.start = segment.start;
  at.n = segment.n;
  return at;
}

/* The place in a tile that must be searched for; by a whole warp. */
__device__ inline place tile_place(const dealing &args, int rows) {
  const int64_t tile = blockIdx.x >> args.parts_log;
  const int32_t part = (int32_t)(blockIdx.x & ((1u << args.parts_log) - 1));
  int32_t index = 0, b = -1;
  __builtin_assume(args.t.deal != TC_EVENLY);
  if (tile < tc_tiles_total(args.t, args.s)) b = tc_tile_find(args.t, args.s, tile, &index);
  const place at = {b, 0, 0, index * TC_BLOCK + part * rows};
  return b < 0 ? at : with_segment(args, at);
}

/* Where finding out takes a look at lengths, offsets or resolve's results. Not inlined: it is half
 * of the code, and uniform batches do without. By value, in registers: behind a reference each use
 * would be a load. */
__device__ __noinline__ place search_place(const dealing args, int rows) {
  __shared__ place found;
  if (args.t.deal == TC_EVENLY) return with_segment(args, even_place(args, rows));
  if (threadIdx.x < 32) {
    const place at = tile_place(args, rows);
    if (threadIdx.x == 0) found = at;
  }
  __syncthreads();
  return found;
}

__device__ inline void report(const score_args &args, const place &at, bool judges,
                              const tc_scored &found) {
  if (args.flags == nullptr) return;
  int32_t *flags = args.flags + at.b;
  if (args.stores_flags) {
    if (judges && found.judge) *flags = found.bad ? TAILCUT_FLAG_BAD_REFERENCE : 0;
    return;
  }
  if (found.nan) atomicOr(flags, TAILCUT_FLAG_NAN);
  if (judges && found.judge && found.bad) atomicOr(flags, TAILCUT_FLAG_BAD_REFERENCE);
}

template <int DTYPE, int REF, form FORM, int BYTES, int BLOCKS>
__global__ void __launch_bounds__(THREADS, BLOCKS) score(const __grid_constant__ score_args args) {
  constexpr int R = FORM == SHORT_TWO || FORM == MIDDLE_TWO ? 2 : 1;
  constexpr bool RELEVANCE = R == 1 && (REF == TAILCUT_F32 || FORM == ANY);
  const bool roles = RELEVANCE && args.roles != nullptr;
  const bool by_inputs = roles && args.s.start == nullptr; /* which rows are wanted */
  if (args.early) tc_let_next_start();
  if (!by_inputs) tc_wait_previous();
  const place at = args.n >= 0 ? even_place(args, R * WARPS) : search_place(args, R * WARPS);
  const int32_t i = at.first + (int32_t)(threadIdx.x / 32) * R;
  const int32_t live = at.n - i;
  const bool scored = !roles || (live > 0 && tc_is_candidate(args.roles[at.start + i]));
  if (RELEVANCE) tc_wait_previous(); /* if it has been called before: over at once */
  if (live <= 0) return;
  /* All of these are counts: multiplied without signs. */
  const uint32_t number = args.ragged ? at.start : at.b;
  const uint32_t reference_number = args.reference_by_row ? at.start : at.b - args.reference_first;
  const char *row = args.rows + number * args.segment_bytes + (uint32_t)i * args.row_bytes;
  const char *reference = args.reference + reference_number * args.reference_bytes;
  float *scores = args.scores + ((uint32_t)at.start + (uint32_t)i);
  tc_score_kind kind = TC_COSINE;
  if (RELEVANCE && roles) {
    if (!scored) {
      if ((threadIdx.x & 31) == 0) *scores = tc_bits_float(TC_NAN_BITS);
      return;
    }
    kind = args.queries[reference_number] > 0 ? TC_RELEVANCE : TC_UNASKED;
  }
  if (args.lag > 0) {
    reference = row - args.lag_bytes;
    if (i < args.lag) {
      const tc_scored none = {false, false, (threadIdx.x & 31) == 0};
      if (none.judge) *scores = -1.0f;
      report(args, at, i == 0, none);
      return;
    }
  }
  tc_scored found;
  if constexpr (FORM == LONG) {
    found = tc_score_long<DTYPE, REF>(row, reference, args.dim, scores, kind);
  } else if constexpr (FORM == ANY) {
    found =
        tc_score_any<DTYPE, BYTES>(row, reference, args.reference_dtype, args.dim, scores, kind);
  } else {
    constexpr bool LONGER = FORM == MIDDLE || FORM == MIDDLE_TWO;
    found = tc_score_short<DTYPE, REF, R, LONGER>(row, args.row_bytes, reference, args.dim, live,
                                                  scores, kind);
  }
  report(args, at, i == 0 || kind != TC_COSINE, found);
}

typedef void (*score_kernel)(score_args);

struct choice {
  score_kernel kernel;
  int rows, resident; /* rows a warp; blocks an SM holds */
};

#define QUADS(type, ref, form, rows, blocks) \
  { score<type, ref, form, 16, blocks>, rows, blocks }
#define NARROW(type, bytes) \
  { score<type, type, ANY, bytes, 4>, 1, 4 }
#define HALF(type)                                                                 \
  {                                                                                \
    {QUADS(type, type, SHORT, 1, 8), QUADS(type, type, SHORT_TWO, 2, 6),           \
     QUADS(type, TAILCUT_F32, SHORT, 1, 6)},                                       \
        {QUADS(type, type, MIDDLE, 1, 6), QUADS(type, type, MIDDLE_TWO, 2, 4),     \
         QUADS(type, TAILCUT_F32, MIDDLE, 1, 4)},                                  \
        {QUADS(type, type, LONG, 1, 4), {}, QUADS(type, TAILCUT_F32, LONG, 1, 4)}, \
        {NARROW(type, 8), NARROW(type, 4), NARROW(type, 2)},                       \
  }

/* By dtype and length (short, middle, long): one row a warp, two, one with a reference of fp32.
 * Then what takes the rest, by width of loads: 8, 4, 2 bytes. */
const choice CHOICES[3][4][3] = {
    HALF(TAILCUT_F16),
    HALF(TAILCUT_BF16),
    {{},
     {},
     {QUADS(TAILCUT_F32, TAILCUT_F32, LONG, 1, 4)},
     {NARROW(TAILCUT_F32, 8), NARROW(TAILCUT_F32, 4)}},
};

choice choose(const tc_segments *s, const tailcut_tokens *tokens, const score_args &args,
              bool many) {
  const choice(&of)[4][3] = CHOICES[tokens->dtype - 1];
  const bool alike = args.reference_dtype == tokens->dtype;
  const int row = tc_token_width(s, tokens);
  int reference = 16; /* LAG's are rows */
  if (args.lag == 0) {
    reference = tc_widest((uint64_t)(uintptr_t)args.reference | args.reference_bytes);
  }
  if (row < 16 || reference < 16 || tokens->dim * (int64_t)tc_dtype_size(tokens->dtype) % 16 != 0) {
    const int width = alike && reference < row ? reference : row;
    return of[3][width >= 8 ? 0 : width == 4 ? 1 : 2];
  }
  const int runs = (int)(((int64_t)tokens->dim + TC_RUN_ELEMENTS - 1) / TC_RUN_ELEMENTS);
  const bool is_long = tokens->dtype == TAILCUT_F32 || runs > TC_MIDDLE_RUNS;
  /* Two rows share one reference: with LAG each has its own. */
  const bool two = many && alike && args.lag == 0 && !is_long;
  return of[is_long ? 2 : runs > TC_SHORT_RUNS][two ? 1 : alike ? 0 : 2];
}

/* unit / per for units below 2^31 as a multiplication and a shift. */
void divide_by(uint32_t per, uint32_t *magic, int32_t *shift) {
  *magic = 0; /* by 1 */
  *shift = 0;
  if (per == 1) return;
  while (per > 2u << *shift) ++*shift;
  *magic = (uint32_t)(((uint64_t)1 << (32 + *shift)) / per + 1);
}

/* What a call gives: to args, whose roles, queries, scores, flags and stores_flags are there. */
cudaError_t launch(const tc_cuda *device, const tc_segments *segments, const tailcut_tokens *tokens,
                   const tailcut_reference *reference, int32_t first, int32_t count,
                   score_args args, const tc_chain *chain) {
  const int64_t size = tc_dtype_size(tokens->dtype);
  const bool ragged = segments->cu_seqlens != nullptr;
  const int32_t source = reference->source;
  const int64_t most = segments->max_tokens - (int64_t)segments->prefix_rows;
  args.s = *segments;
  args.t = tc_tiles_of(*segments, first, count);
  args.ragged = ragged;
  args.row_bytes = tokens->row_stride * size;
  args.segment_bytes = ragged ? args.row_bytes : tokens->segment_stride * size;
  args.rows = (const char *)tokens->data + segments->prefix_rows * args.row_bytes;
  args.reference_dtype = tokens->dtype;
  if (source == TAILCUT_REFERENCE_LAG) {
    args.lag = reference->lag;
    args.lag_bytes = reference->lag * args.row_bytes;
  } else if (source == TAILCUT_REFERENCE_ROW) {
    args.reference = (const char *)tokens->data;
    args.reference_bytes = args.segment_bytes;
    args.reference_by_row = ragged;
  } else {
    args.reference_dtype = reference->dtype;
    args.reference = (const char *)reference->data;
    args.reference_bytes = reference->segment_stride * tc_dtype_size(reference->dtype);
    args.reference_first = source == TAILCUT_REFERENCE_MEAN ? first : 0;
  }
  args.dim = (uint32_t)tokens->dim;
  const bool known = !ragged && segments->lengths == nullptr && segments->start == nullptr;
  args.n = known ? (int32_t)(most > 0 ? most : 0) : -1;

  const int64_t even = most > 0 ? count * most : 0;
  const int64_t candidates = ragged && segments->total < even ? segments->total : even;
  /* A few blocks in vain cost less than a search in each. */
  if (count == 1 || (ragged && even - candidates <= candidates / 8)) args.t.deal = TC_EVENLY;
  const bool many = candidates > MANY * device->sms;
  const choice chosen = choose(segments, tokens, args, many);
  const int rows = chosen.rows * WARPS;
  int64_t blocks;
  if (args.t.deal == TC_EVENLY) {
    const int64_t longest = ragged && segments->total < most ? segments->total : most;
    args.per = (uint32_t)(longest > 0 ? (longest + rows - 1) / rows : 1);
    divide_by(args.per, &args.magic, &args.shift);
    blocks = most > 0 ? (int64_t)count * args.per : 1;
  } else {
    while (rows << args.parts_log < TC_BLOCK) args.parts_log++;
    blocks = args.t.bound << args.parts_log;
  }
  if (blocks > INT32_MAX) return cudaErrorInvalidConfiguration; /* 2^27 segments */
  args.early = blocks <= chosen.resident * device->sms && candidates <= SOME * device->sms;
  return tc_launch(chosen.kernel, (unsigned)blocks, THREADS, 0, chain, args);
}

}  // namespace

extern "C" cudaError_t tc_cuda_score(const tc_cuda *device, const tc_segments *segments,
                                     const tailcut_tokens *tokens,
                                     const tailcut_reference *reference, int32_t first,
                                     int32_t count, float *scores, int32_t *flags, int stores_flags,
                                     const tc_chain *chain) {
  if (count <= 0) return cudaSuccess;
  score_args args = {};
  args.scores = scores;
  args.flags = flags;
  args.stores_flags = stores_flags != 0;
  return launch(device, segments, tokens, reference, first, count, args, chain);
}

extern "C" cudaError_t tc_cuda_mean_cosine(const tc_cuda *device, const tc_segments *segments,
                                           const tailcut_tokens *tokens, const uint8_t *roles,
                                           int32_t first, int32_t count, const tc_cuda_space *space,
                                           float *scores, int32_t *flags, const tc_chain *chain) {
  if (count <= 0) return cudaSuccess;
  const tailcut_reference reference = tc_cuda_directions(space, tokens);
  score_args args = {};
  args.roles = roles;
  args.queries = space->queries;
  args.scores = scores;
  args.flags = flags;
  return launch(device, segments, tokens, &reference, first, count, args, chain);
}

extern "C" cudaError_t tc_cuda_load_score(tc_cuda *) {
  cudaError_t error = cudaSuccess;
  for (const auto &of : CHOICES) {
    for (const auto &row : of) {
      for (const choice &one : row) tc_load(one.kernel, &error);
    }
  }
  return error;
}
