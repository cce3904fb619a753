/* SPDX-License-Identifier: Apache-2.0 */
/* move: bytes between global and shared memory by one warp, at the widest access that both suit. */
#ifndef TAILCUT_MOVE_CUH_
#define TAILCUT_MOVE_CUH_

#include "cluster.cuh"

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900

template <int WIDTH>
__device__ inline void tc_load_wide(char *to, const char *from, int32_t chunks, int lane) {
  const uint32_t shared = tc_shared(to);
  for (int32_t c = lane; c < chunks; c += 32) {
    tc_copy_async<WIDTH>(shared + (uint32_t)c * WIDTH, from + (int64_t)c * WIDTH);
  }
}

/* Starts to load `bytes` bytes; tc_copy_wait ends it. `to` is aligned to 16 bytes. Plain loads (of
 * what is narrower than 4 bytes, and of the last few) are no read-only ones: rows may be written in
 * place later. */
__device__ inline void tc_load_bytes(char *to, const char *from, int32_t bytes, int32_t width,
                                     int lane) {
  int32_t body = 0;
  if (width == 16) {
    body = bytes / 16 * 16;
    tc_load_wide<16>(to, from, bytes / 16, lane);
  } else if (width == 8) {
    body = bytes / 8 * 8;
    tc_load_wide<8>(to, from, bytes / 8, lane);
  } else if (width == 4) {
    body = bytes / 4 * 4;
    tc_load_wide<4>(to, from, bytes / 4, lane);
  } else if (width == 2) {
    body = bytes / 2 * 2;
    for (int32_t c = lane; c < bytes / 2; c += 32) {
      ((uint16_t *)to)[c] = ((const volatile uint16_t *)from)[c];
    }
  }
  for (int32_t c = body + lane; c < bytes; c += 32) to[c] = ((const volatile char *)from)[c];
}

template <typename T>
__device__ inline void tc_store_wide(char *to, const char *from, int32_t chunks, int lane) {
  for (int32_t c = lane; c < chunks; c += 32) {
    T value = {};
    if (from != nullptr) value = ((const T *)from)[c];
    ((T *)to)[c] = value;
  }
}

/* Stores `bytes` bytes from shared memory (aligned to 16), or zeros where `from` is NULL. */
__device__ inline void tc_store_bytes(char *to, const char *from, int32_t bytes, int32_t width,
                                      int lane) {
  if (width == 16) {
    tc_store_wide<uint4>(to, from, bytes / 16, lane);
  } else if (width == 8) {
    tc_store_wide<uint2>(to, from, bytes / 8, lane);
  } else if (width == 4) {
    tc_store_wide<uint32_t>(to, from, bytes / 4, lane);
  } else if (width == 2) {
    tc_store_wide<uint16_t>(to, from, bytes / 2, lane);
  }
  const int32_t body = width == 1 ? 0 : bytes / width * width;
  for (int32_t c = body + lane; c < bytes; c += 32) to[c] = from != nullptr ? from[c] : 0;
}

/* A renumbered position: int32 or int64, at any alignment that its array's width allows. */
__device__ inline void tc_store_position(char *to, int32_t bytes, int64_t j) {
  for (int32_t i = 0; i < bytes; i++) to[i] = (char)(j >> (8 * i)); /* little-endian */
}

#endif
#endif /* TAILCUT_MOVE_CUH_ */
