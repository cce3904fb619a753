/* SPDX-License-Identifier: Apache-2.0 */
/* bytes: the rows of a window, of any length and at any address, read once and made to bytes, some
 * in shared memory, the others in scratch. pieces.cu says what for. */
#ifndef TAILCUT_NOVELTY_BYTES_CUH_
#define TAILCUT_NOVELTY_BYTES_CUH_

#include "novelty/quads.cuh"

constexpr int TC_PIECES_WARPS = 16;

/* How a block uses its shared memory: the bytes that stay; behind them regions, some for each
 * warp; later over all of that two pieces, and over those the triangle. */
struct tc_pieces_layout {
  int64_t windows;
  uint32_t pitch, kept, piece; /* channels of a row's bytes: all, on chip, that come back at once */
  uint32_t part, region;       /* channels of a row that are brought at once, and bytes for them */
  int32_t readers, together;   /* warps that bring rows, and rows that each brings at once */
  uint32_t end;                /* where the rest is */
  char *scratch;               /* row_bytes for each row of a block's window */
  uint32_t row_bytes;
  bool triangle; /* it is in scratch */
};

/* Brings `bytes` of a row, in elements of SIZE, on their way to shared memory (cp.async), by one
 * warp: as far behind `to`, which is at a multiple of 32, as they are behind one themselves, so
 * that whole sectors go as they are; those at its ends, of which others may have a part, by
 * elements. */
template <int SIZE>
__device__ inline void tc_bring(char *to, const char *from, uint32_t bytes) {
  const uint32_t lane = threadIdx.x & 31, skip = (uint32_t)(uintptr_t)from & 31;
  const uint32_t head = min((32 - skip) & 31, bytes), tail = (bytes - head) & 31;
  const uint32_t whole = bytes - head - tail, e = lane * SIZE, at = e < head ? e : e + whole;
  const uint32_t there = tc_shared_address(to) + skip + head;
#pragma unroll 4
  for (uint32_t i = lane * 16; i < whole; i += 512) tc_copy_16(there + i, from + head + i);
  if (e >= head + tail) return;
  if constexpr (SIZE == 4) {
    *(uint32_t *)(to + skip + at) = *(const uint32_t *)(from + at);
  } else {
    *(uint16_t *)(to + skip + at) = *(const uint16_t *)(from + at);
  }
}

/* The rows of a window, and where their bytes are: the first channels in shared memory, the others
 * in scratch. */
template <int DTYPE>
struct tc_window_rows {
  static constexpr int SIZE = tc_type<DTYPE>::size;
  typedef tc_row_quads<DTYPE, DTYPE == TAILCUT_F32 ? 2 : 1> run;
  const char *rows;
  int64_t stride; /* bytes */
  int32_t n;
  uint32_t dim;
  const tc_pieces_layout &l;
  uint32_t bytes; /* where they are in shared memory */
  char *spilled;

  __device__ inline tc_window_rows(const tc_novelty_args &args, const tc_pieces_layout &l_,
                                   const tc_window &w, const char *shared, char *scratch)
      : rows((const char *)args.tokens.data +
             tc_token_offset(args.s, args.tokens, w.b, w.start, w.first)),
        stride(args.tokens.row_stride * SIZE),
        n(w.n),
        dim((uint32_t)args.tokens.dim),
        l(l_),
        bytes(tc_shared_address(shared)),
        spilled(scratch) {}

  __device__ inline void bring(char *region, int32_t i, uint32_t from) const {
    tc_bring<SIZE>(region, rows + i * stride + (size_t)from * SIZE, min(dim - from, l.part) * SIZE);
  }
  __device__ static inline void await() {
    tc_copy_commit();
    tc_copy_wait<0>();
    __syncwarp();
  }

  /* f(x, channel) for each run of a part from channel `from` on, which lies at `at`. */
  template <bool ALIGNED, class F>
  __device__ inline void each_run(const char *at, uint32_t from, F f) const {
    const uint32_t channels = min(dim - from, l.part);
    const uint32_t whole = channels / TC_RUN_ELEMENTS * TC_RUN_ELEMENTS;
    run x;
#pragma unroll 2
    for (uint32_t c = 0; c < whole; c += TC_RUN_ELEMENTS) {
      x.template take<ALIGNED>(at + c * SIZE, TC_RUN_ELEMENTS);
      f(x, from + c);
    }
    if (whole == channels) return;
    x.template take<ALIGNED>(at + whole * SIZE, channels - whole);
    f(x, from + whole);
  }

  /* The same of all parts of row i, the first of which has been brought, unless it is `gone`. */
  template <class F>
  __device__ inline void each_run_of_row(char *region, int32_t i, bool gone, F f) const {
    const uint32_t skip = (uint32_t)(uintptr_t)(rows + i * stride) & 31;
#pragma unroll 1
    for (uint32_t from = 0; from < dim; from += l.part) {
      if (from > 0 || gone) {
        __syncwarp(); /* what was there is done with */
        bring(region, i, from);
        await();
      }
      if (skip % 16 == 0) {
        each_run<true>(region + skip, from, f);
      } else {
        each_run<false>(region + skip, from, f);
      }
    }
  }

  /* A row that is there: its bytes. Returns its mean square. */
  __device__ inline float quantise(char *region, int32_t i) const {
    float square[8];
    tc_clear(square);
    each_run_of_row(region, i, false,
                    [&](const run &x, uint32_t) { x.add_squares(run::COUNT, square); });
    const float r = tc_mean_square(tc_sum<DTYPE>(square), dim);
    const int32_t shift = tc_shift_of(r);
    const uint32_t own = (threadIdx.x & 31) * run::UNIT, kept = l.kept, pitch = l.pitch;
    char *const out = spilled + ((size_t)i * (pitch - kept) + own) - kept;
    each_run_of_row(region, i, dim > l.part, [&](run &x, uint32_t first) {
      x.make_bytes(run::COUNT, shift, [&](int q, const uint32_t(&packed)[run::WORDS]) {
        const uint32_t at = (uint32_t)q * 32 * run::UNIT, channel = first + at + own;
        if (channel < kept) { /* units swap their places within 128 channels */
          tc_put_bytes(tc_byte_address(bytes, (uint32_t)i, kept, own) + (first + at), packed);
        } else if (channel < pitch) {
          memcpy(__builtin_assume_aligned(out + (first + at), sizeof packed), packed,
                 sizeof packed);
        }
      });
    });
    return r;
  }

  /* Bytes and states of all rows, by all warps that read. */
  __device__ inline void quantise_all(char *regions, uint8_t *states) const {
    const int32_t warp = (int32_t)threadIdx.x >> 5, together = l.together;
    char *const own = regions + (uint32_t)(warp * together) * l.region;
    if (warp >= l.readers) return;
#pragma unroll 1
    for (int32_t i = warp * together; i < n; i += l.readers * together) {
      const int32_t rows_here = min(together, n - i);
      __syncwarp(); /* the rows before are done with */
      for (int32_t k = 0; k < rows_here; k++) bring(own + (uint32_t)k * l.region, i + k, 0);
      await();
#pragma unroll 1
      for (int32_t k = 0; k < rows_here; k++) {
        const float r = quantise(own + (uint32_t)k * l.region, i + k);
        if ((threadIdx.x & 31) == 0) states[i + k] = tc_state_of(r);
      }
    }
  }

  /* The bytes that are not on chip, from the first-th of them on, as if they were a row's first:
   * on their way to shared memory at `to`. */
  __device__ inline void fetch(uint32_t to, uint32_t first) const {
    const uint32_t spilled_pitch = l.pitch - l.kept, lane = threadIdx.x & 31;
    const uint32_t end = min(spilled_pitch - first, l.piece);
#pragma unroll 1
    for (int32_t i = (int32_t)threadIdx.x >> 5; i < n; i += TC_PIECES_WARPS) {
      const char *const row = spilled + (size_t)i * spilled_pitch + first;
#pragma unroll 1
      for (uint32_t c = lane * 16; c < end; c += 512) {
        tc_copy_16(tc_byte_address(to, (uint32_t)i, l.piece, c), row + c);
      }
    }
  }
};

#endif /* TAILCUT_NOVELTY_BYTES_CUH_ */
