/* SPDX-License-Identifier: Apache-2.0 */
/* tensor: what tiles of rows in shared memory are filled and multiplied with, on every device from
 * sm_80 on: cp.async, ldmatrix, mma.sync. */
#ifndef TAILCUT_TENSOR_CUH_
#define TAILCUT_TENSOR_CUH_

#include "common/dot.cuh"

__device__ inline uint32_t tc_shared_address(const void *p) {
  return (uint32_t)__cvta_generic_to_shared(p);
}

/* 16 bytes on their way from global memory, past L1. */
__device__ inline void tc_copy_16(uint32_t to, const void *from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}

/* The first `bytes` of 16 bytes, elements of SIZE, to shared memory, zeros behind them; below 1:
 * only zeros. WIDE: `from` is a multiple of 16, bytes is 16 or more where it is not below 1, and
 * they are on their way. */
template <int SIZE, bool WIDE>
__device__ inline void tc_copy_quad(uint32_t to, const char *from, int32_t bytes) {
  if constexpr (WIDE) {
    asm volatile(
        "{\n"
        ".reg .pred none;\n"
        "setp.lt.s32 none, %2, 1;\n"
        "cp.async.cg.shared.global.L2::128B [%0], [%1], 16, none;\n"
        "}" ::"r"(to),
        "l"(from), "r"(bytes)
        : "memory");
  } else {
    uint32_t w[4] = {};
#pragma unroll
    for (int at = 0; at < 16; at += SIZE) {
      if (at >= bytes) continue;
      w[at / 4] |= SIZE == 4 ? *(const uint32_t *)(from + at) : tc_load_16(from + at) << at % 4 * 8;
    }
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(w[0]), "r"(w[1]),
                 "r"(w[2]), "r"(w[3])
                 : "memory");
  }
}

/* Ends a group of this thread's cp.async; waits until all groups but the last PENDING are there. */
__device__ inline void tc_copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int PENDING>
__device__ inline void tc_copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

/* Four matrices of 8 x 8 16-bit values; each lane's address names one row of 16 bytes. */
__device__ inline void tc_load_matrices(uint32_t (&r)[4], uint32_t from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(from)
               : "memory");
}

/* c += a b, 16 x 8 x 16, of fp16 or bf16 in fp32. */
template <int DTYPE>
__device__ inline void tc_mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  if constexpr (DTYPE == TAILCUT_F16) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

/* c += a b, 16 x 8 x 32, of signed bytes in integers. */
__device__ inline void tc_mma_bytes(int32_t (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                    uint32_t b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#endif /* TAILCUT_TENSOR_CUH_ */
