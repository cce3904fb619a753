/* SPDX-License-Identifier: Apache-2.0 */
#include "cut_long.cuh"
size_t tc_cut_long_scratch(const tc_cuda *, const tailcut_limits *) { return 0; }
cudaError_t tc_cut_long(const tc_cuda *, const tc_cut_args *, char *, const tc_chain *) {
  return cudaErrorNotSupported;
}
cudaError_t tc_cut_long_load(tc_cuda *) { return cudaSuccess; }
