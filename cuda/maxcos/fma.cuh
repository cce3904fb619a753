/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fma: a tile of fp32 rows.
 *
 * Strategy: 8 x 4 products or fewer per thread. Not tf32, whose 11 bits are too few for 1e-5.
 * Precision: chains of 64 fma, then added up with their errors carried along (Kahan): 4e-6 at most
 * however long the rows are, where one chain of 8,192 equal products is off by 1e-4.
 */
#ifndef TAILCUT_MAXCOS_FMA_CUH_
#define TAILCUT_MAXCOS_FMA_CUH_

#include "maxcos/stages.cuh"

/* A thread has rows y, y + 16, .. and columns x, x + 16, .. of the tile. */
template <class F>
struct tc_maxcos_fma {
  static constexpr int MT = F::M / 16, NT = F::N / 16;
  static constexpr int CHAIN = 64 * 4 / F::ROW_BYTES; /* stages of a chain of 64 products */

  float sums[MT][NT], carried[MT][NT];

  template <bool ALIGNED>
  __device__ inline void run(const tc_maxcos_item &item, const tc_maxcos_lists &lists,
                             char *memory) {
    tc_maxcos_loader<F, 4, ALIGNED> loader(item, lists, tc_shared_address(memory));
    const int32_t tiles = tc_maxcos_tiles<F, 4>(item.dim);
    const uint32_t y = threadIdx.x / 16, x = threadIdx.x % 16;
    float chain[MT][NT];
#pragma unroll
    for (int i = 0; i < MT; i++) {
#pragma unroll
      for (int j = 0; j < NT; j++) sums[i][j] = carried[i][j] = chain[i][j] = 0.0f;
    }
#pragma unroll
    for (int s = 0; s < F::STAGES - 1; s++) loader.load(s);
    int stage = 0, free_stage = F::STAGES - 1;
#pragma unroll 1
    for (int32_t tile = 0; tile < tiles; tile++) {
      tc_copy_wait<F::STAGES - 2>();
      __syncthreads(); /* this stage is there, and everybody has read the one before */
      loader.load(free_stage);
      const char *here = memory + stage * F::STAGE;
      stage = stage + 1 == F::STAGES ? 0 : stage + 1;
      free_stage = free_stage + 1 == F::STAGES ? 0 : free_stage + 1;
#pragma unroll 2
      for (uint32_t piece = 0; piece < F::PIECES; piece++) {
        float4 a[MT], b[NT];
#pragma unroll
        for (int i = 0; i < MT; i++) a[i] = *(const float4 *)(here + F::at(y + 16 * i, piece));
#pragma unroll
        for (int j = 0; j < NT; j++) {
          b[j] = *(const float4 *)(here + F::at(F::M + x + 16 * j, piece));
        }
#pragma unroll
        for (int i = 0; i < MT; i++) {
#pragma unroll
          for (int j = 0; j < NT; j++) {
            float c = chain[i][j];
            c = __fmaf_rn(a[i].x, b[j].x, c);
            c = __fmaf_rn(a[i].y, b[j].y, c);
            c = __fmaf_rn(a[i].z, b[j].z, c);
            chain[i][j] = __fmaf_rn(a[i].w, b[j].w, c);
          }
        }
      }
      if ((tile + 1) % CHAIN == 0 || tile + 1 == tiles) add(chain);
    }
    tc_copy_wait<0>();
  }

  __device__ inline void add(float (&chain)[MT][NT]) {
#pragma unroll
    for (int i = 0; i < MT; i++) {
#pragma unroll
      for (int j = 0; j < NT; j++) {
        const float v = __fsub_rn(chain[i][j], carried[i][j]);
        const float sum = __fadd_rn(sums[i][j], v);
        carried[i][j] = __fsub_rn(__fsub_rn(sum, sums[i][j]), v);
        sums[i][j] = sum;
        chain[i][j] = 0.0f;
      }
    }
  }

  __device__ inline void keep_best(const tc_maxcos_item &item, const tc_maxcos_lists &lists) const {
    const uint32_t y = threadIdx.x / 16, x = threadIdx.x % 16;
    float best[MT];
    int32_t self[MT];
#pragma unroll
    for (int i = 0; i < MT; i++) {
      best[i] = tc_bits_float(TC_NAN_BITS);
      self[i] = lists.candidate[y + 16 * i];
#pragma unroll
      for (int j = 0; j < NT; j++) {
        best[i] = tc_maxcos_better(best[i], sums[i][j], lists, x + 16 * j, self[i]);
      }
#pragma unroll
      for (int mask = 8; mask > 0; mask >>= 1) {
        best[i] = fmaxf(best[i], __shfl_xor_sync(TC_FULL, best[i], mask));
      }
    }
    if (x != 0) return;
#pragma unroll
    for (int i = 0; i < MT; i++) {
      if ((int32_t)y + 16 * i < item.candidates) atomicMin(item.best + self[i], tc_key(best[i]));
    }
  }
};

#endif /* TAILCUT_MAXCOS_FMA_CUH_ */
