/* SPDX-License-Identifier: Apache-2.0 */
/* novelty: its launcher. */
#include "cuda.h"

extern "C" size_t tc_cuda_novelty_scratch(const tc_cuda *, const tailcut_limits *) { return 0; }

extern "C" cudaError_t tc_cuda_novelty(const tc_cuda *, const tc_segments *, const tc_groups *,
                                       const tailcut_tokens *, int32_t, float *, int32_t *, int,
                                       int32_t *, char *, tc_cuda_lasting *, const tc_chain *) {
  return cudaErrorNotSupported;
}

extern "C" cudaError_t tc_cuda_load_novelty(tc_cuda *) { return cudaSuccess; }
