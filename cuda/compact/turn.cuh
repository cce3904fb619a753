/* SPDX-License-Identifier: Apache-2.0 */
/* turn: one piece of a tile's rows in shared memory: how it comes there and goes out, and how its
 * keys turn. compact/turn.cu says which pieces there are, and when a block may store one.
 * Precision: products and sums in fp64, rounded once to the keys' type. */
#ifndef TAILCUT_COMPACT_TURN_CUH_
#define TAILCUT_COMPACT_TURN_CUH_

#include "compact/compact.cuh"
#include "turn.h"

namespace tc_turning {

constexpr int THREADS = TC_COMPACT_THREADS;
constexpr int HELD = 4; /* rows of which a thread loads a unit at a time */

/* A unit of any width in shared memory. */
__device__ inline void put_unit(char *to, const uint4 &v, int width) {
  switch (width) {
    case 16:
      *(uint4 *)to = v;
      break;
    case 8:
      *(uint2 *)to = make_uint2(v.x, v.y);
      break;
    case 4:
      *(uint32_t *)to = v.x;
      break;
    case 2:
      *(uint16_t *)to = (uint16_t)v.x;
      break;
  }
}

__device__ inline uint4 get_unit(const char *from, int width) {
  uint4 v = make_uint4(0, 0, 0, 0);
  switch (width) {
    case 16:
      v = *(const uint4 *)from;
      break;
    case 8:
      v.x = ((const uint2 *)from)->x, v.y = ((const uint2 *)from)->y;
      break;
    case 4:
      v.x = *(const uint32_t *)from;
      break;
    case 2:
      v.x = *(const uint16_t *)from;
      break;
  }
  return v;
}

/* Moves a piece of the tile's rows between global and shared memory. */
template <bool LOADS>
__device__ inline void move_piece(const tc_row_array &a, int32_t rows, int32_t units,
                                  int64_t first_part, int32_t pitch, const int64_t *at,
                                  const int64_t *dst, char *bytes) {
  const uint32_t columns = 1u << a.columns_log, column = threadIdx.x & (columns - 1);
  const int32_t line = (int32_t)(threadIdx.x >> a.columns_log), lines = THREADS >> a.columns_log;
  const int64_t stride = LOADS ? a.src_part_stride : a.dst_part_stride;
  char *const base = LOADS ? (char *)(uintptr_t)a.src : a.dst;
#pragma unroll 1
  for (uint32_t c = column; c < (uint32_t)units; c += columns) {
    const uint32_t part = c / (uint32_t)a.part_units, within = c - part * (uint32_t)a.part_units;
    char *const unit = base + (first_part + part) * stride + (int64_t)within * a.width;
    char *const here = bytes + c * a.width;
#pragma unroll 1
    for (int32_t r0 = line; r0 < rows; r0 += HELD * lines) {
      uint4 held[HELD];
      char *place[HELD];
#pragma unroll
      for (int m = 0; m < HELD; m++) {
        const int32_t r = r0 + m * lines;
        place[m] = r < rows && dst[r] >= 0 ? unit + at[r] : nullptr;
        if (LOADS || place[m] == nullptr) continue;
        held[m] = get_unit(here + r * pitch, a.width);
      }
      if (LOADS) {
        tc_load_units(held, (const char *const(&)[HELD])place, a.width);
#pragma unroll
        for (int m = 0; m < HELD; m++) {
          if (place[m] != nullptr) put_unit(here + (r0 + m * lines) * pitch, held[m], a.width);
        }
      } else {
        tc_store_units(held, place, a.width);
      }
    }
  }
}

template <int DTYPE>
__device__ inline double key_of(const char *values, int32_t i) {
  if (DTYPE == TAILCUT_F32) return (double)((const float *)values)[i];
  const uint16_t h = ((const uint16_t *)values)[i];
  if (DTYPE == TAILCUT_BF16) return (double)tc_bits_float((uint32_t)h << 16);
  return (double)__half2float(__ushort_as_half(h));
}

/* Rounded once, to nearest even. To 16 bits the way is by a float that is rounded to odd, which has
 * more than two bits to spare. */
template <int DTYPE>
__device__ inline void put_key(char *values, int32_t i, double v) {
  const bool is_nan = v != v;
  if (DTYPE == TAILCUT_F32) {
    ((uint32_t *)values)[i] = is_nan ? TC_NAN_BITS : __float_as_uint(__double2float_rn(v));
    return;
  }
  uint32_t bits = __float_as_uint(__double2float_rz(v));
  if ((double)__uint_as_float(bits) != v) bits |= 1;
  uint16_t h;
  if (DTYPE == TAILCUT_F16) {
    h = is_nan ? 0x7E00 : __half_as_ushort(__float2half_rn(__uint_as_float(bits)));
  } else {
    h = is_nan ? 0x7FC0 : (uint16_t)((bits + 0x7FFFu + (bits >> 16 & 1)) >> 16);
  }
  ((uint16_t *)values)[i] = h;
}

/* Turns the keys of a piece. Warps share rows, and parts where rows are fewer. */
template <int DTYPE>
__device__ inline void turn_piece(const tailcut_rotation &t, int32_t tile_rows, uint32_t turning,
                                  int32_t parts, int32_t part_bytes, int32_t pitch,
                                  const tc_turn *turns, char *bytes) {
  constexpr int WARPS = THREADS / 32, SIZE = DTYPE == TAILCUT_F32 ? 4 : 2;
  const int32_t warp = (int32_t)(threadIdx.x >> 5), half = t.rotary_dim / 2;
  const int32_t row = warp & (tile_rows - 1);
  const bool neox = t.pairing == TAILCUT_ROPE_NEOX;
  if ((turning >> row & 1) == 0) return;
  char *const values = bytes + row * pitch + t.rotary_offset * SIZE;
#pragma unroll 1
  for (int32_t i = (int32_t)(threadIdx.x & 31); i < half; i += 32) {
    const tc_turn turn = turns[row * half + i];
    const int32_t at0 = neox ? i : 2 * i, at1 = neox ? i + half : 2 * i + 1;
#pragma unroll 2
    for (int32_t part = warp / tile_rows; part < parts; part += WARPS / tile_rows) {
      char *const keys = values + part * part_bytes;
      const double x0 = key_of<DTYPE>(keys, at0), x1 = key_of<DTYPE>(keys, at1);
      put_key<DTYPE>(keys, at0, x0 * turn.cosine - x1 * turn.sine);
      put_key<DTYPE>(keys, at1, x1 * turn.cosine + x0 * turn.sine);
    }
  }
}

}  // namespace tc_turning

#endif /* TAILCUT_COMPACT_TURN_CUH_ */
