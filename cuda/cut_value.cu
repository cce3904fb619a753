/* SPDX-License-Identifier: Apache-2.0 */
#include "cut.cuh"
bool tc_cut_by_value(const tailcut_rule &) { return false; }
cudaError_t tc_cut_value(const tc_cuda *, const tc_cut_args &, const tc_chain *) {
  return cudaErrorNotSupported;
}
cudaError_t tc_cut_value_load() { return cudaSuccess; }
