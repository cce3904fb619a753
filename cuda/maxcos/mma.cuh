/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mma: a tile of fp16 or bf16 rows, by tensor cores.
 *
 * Strategy: mma.sync m16n8k16 with ldmatrix (what every device from sm_80 on has). A warp reads the
 * fragments of its next step before it multiplies those of this one, across stages too. Where tiles
 * are small, WK warps share the steps of a stage and add up at the end, in order.
 * Precision: products are exact; tensor cores add in fp32, truncating, 16 columns at a time: 2e-3
 * holds to 10^5 columns.
 */
#ifndef TAILCUT_MAXCOS_MMA_CUH_
#define TAILCUT_MAXCOS_MMA_CUH_

#include "maxcos/stages.cuh"

/* A warp's share of a tile: 16 MT x 8 NT products. Of each 16 x 8, a lane holds columns
 * 2 (lane % 4) + {0, 1} of rows lane / 4 and lane / 4 + 8. */
template <class F, int DTYPE>
struct tc_maxcos_mma {
  static constexpr int MT = F::M / F::WM / 16, NT = F::N / F::WN / 8;
  static constexpr int STEPS = F::ROW_BYTES / 32 / F::WK; /* of a stage, this warp's */
  static_assert(STEPS >= 2 && STEPS % 2 == 0 && NT % 2 == 0, "fragments take turns");

  float sums[MT][NT][4];
  uint32_t a[2][MT][4], b[2][NT / 2][4];
  uint32_t lane, wm, wn, wk;

  __device__ inline tc_maxcos_mma() {
    const uint32_t warp = threadIdx.x / 32;
    lane = threadIdx.x & 31;
    wm = warp % F::WM, wn = warp / F::WM % F::WN, wk = warp / (F::WM * F::WN);
#pragma unroll
    for (int i = 0; i < MT; i++) {
#pragma unroll
      for (int j = 0; j < NT; j++) {
#pragma unroll
        for (int e = 0; e < 4; e++) sums[i][j][e] = 0.0f;
      }
    }
  }

  /* Rows of a tile that are this lane's and warp's first. */
  __device__ inline uint32_t row() const { return wm * 16 * MT + lane / 4; }
  __device__ inline uint32_t column() const { return wn * 8 * NT + 2 * (lane & 3); }

  /* The fragments of step `step` of a stage. A lane names one row of eight matrices: of a, rows 0-7
   * and 8-15 of the left half, then of the right; of b, both halves of rows 0-7, then of 8-15. */
  __device__ inline void fetch(int set, uint32_t stage, int step) {
    const uint32_t piece = 2 * (uint32_t)(step * F::WK) + 2 * wk;
    const uint32_t row_a = wm * 16 * MT + (lane & 15),
                   row_b = wn * 8 * NT + (lane & 7) + (lane >> 4 << 3);
    const uint32_t at_a = stage + F::at(row_a, piece + (lane >> 4));
    const uint32_t at_b = stage + F::M * F::ROW_BYTES + F::at(row_b, piece + (lane >> 3 & 1));
#pragma unroll
    for (int i = 0; i < MT; i++) tc_load_matrices(a[set][i], at_a + i * 16 * F::ROW_BYTES);
#pragma unroll
    for (int j = 0; j < NT / 2; j++) tc_load_matrices(b[set][j], at_b + j * 16 * F::ROW_BYTES);
  }

  __device__ inline void multiply(int set) {
#pragma unroll
    for (int i = 0; i < MT; i++) {
#pragma unroll
      for (int j = 0; j < NT; j++) {
        tc_mma<DTYPE>(sums[i][j], a[set][i], b[set][j / 2][j % 2 * 2],
                      b[set][j / 2][j % 2 * 2 + 1]);
      }
    }
  }

  /* All tiles of the rows. Behind the barrier of a stage's last step everybody has read it: the
   * next step's copies go there. */
  template <bool ALIGNED>
  __device__ inline void run(const tc_maxcos_item &item, const tc_maxcos_lists &lists,
                             char *memory) {
    const uint32_t stages = tc_shared_address(memory);
    tc_maxcos_loader<F, 2, ALIGNED> loader(item, lists, stages);
    const int32_t tiles = tc_maxcos_tiles<F, 2>(item.dim);
#pragma unroll
    for (int s = 0; s < F::STAGES - 1; s++) loader.load(s);
    tc_copy_wait<F::STAGES - 2>();
    __syncthreads();
    int stage = 0, free_stage = F::STAGES - 1;
    fetch(0, stages, 0);
#pragma unroll 1
    for (int32_t tile = 0; tile < tiles; tile++) {
      const uint32_t here = stages + (uint32_t)stage * F::STAGE;
      stage = stage + 1 == F::STAGES ? 0 : stage + 1;
#pragma unroll
      for (int step = 0; step < STEPS; step++) {
        if (step < STEPS - 1) {
          fetch((step + 1) & 1, here, step + 1);
        } else {
          tc_copy_wait<F::STAGES - 2>();
          __syncthreads();
          fetch(0, stages + (uint32_t)stage * F::STAGE, 0);
        }
        if (step == 0) {
          loader.load(free_stage);
          free_stage = free_stage + 1 == F::STAGES ? 0 : free_stage + 1;
        }
        multiply(step & 1);
      }
    }
    tc_copy_wait<0>();
    if (F::WK > 1) join(memory);
  }

  /* Adds up what WK warps have, in order, through the stages, which nobody reads any more. */
  __device__ inline void join(char *stages) {
    constexpr int VALUES = 4 * MT * NT, SHARE = F::WM * F::WN * 32 * VALUES;
    static_assert((F::WK - 1) * SHARE * 4 <= TC_MAXCOS_SHARED, "room");
    float *slot = (float *)stages + (wn * F::WM + wm) * 32 * VALUES + lane;
    __syncthreads();
    if (wk > 0) {
#pragma unroll
      for (int v = 0; v < VALUES; v++) {
        slot[(wk - 1) * SHARE + 32 * v] = sums[v / 4 / NT][v / 4 % NT][v % 4];
      }
    }
    __syncthreads();
    if (wk > 0) return;
#pragma unroll
    for (int v = 0; v < VALUES; v++) {
      float &sum = sums[v / 4 / NT][v / 4 % NT][v % 4];
#pragma unroll
      for (int k = 1; k < F::WK; k++) sum = __fadd_rn(sum, slot[(k - 1) * SHARE + 32 * v]);
    }
  }

  __device__ inline void keep_best(const tc_maxcos_item &item, const tc_maxcos_lists &lists) const {
    float best[2 * MT]; /* of rows row(), row() + 8, .. */
    int32_t self[2 * MT];
    if (wk > 0) return;
#pragma unroll
    for (int r = 0; r < 2 * MT; r++) {
      best[r] = tc_bits_float(TC_NAN_BITS);
      self[r] = lists.candidate[row() + 8 * r];
    }
#pragma unroll
    for (int c = 0; c < 2 * NT; c++) {
      const uint32_t column = this->column() + 8 * (c / 2) + c % 2;
#pragma unroll
      for (int r = 0; r < 2 * MT; r++) {
        const float v = sums[r / 2][c / 2][2 * (r % 2) + c % 2];
        best[r] = tc_maxcos_better(best[r], v, lists, column, self[r]);
      }
    }
#pragma unroll
    for (int r = 0; r < 2 * MT; r++) {
      best[r] = fmaxf(best[r], __shfl_xor_sync(TC_FULL, best[r], 1));
      best[r] = fmaxf(best[r], __shfl_xor_sync(TC_FULL, best[r], 2));
    }
    if ((lane & 3) != 0) return;
#pragma unroll
    for (int r = 0; r < 2 * MT; r++) {
      if ((int32_t)row() + 8 * r < item.candidates) atomicMin(item.best + self[r], tc_key(best[r]));
    }
  }
};

#endif /* TAILCUT_MAXCOS_MMA_CUH_ */
