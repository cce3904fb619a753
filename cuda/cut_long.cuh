/* SPDX-License-Identifier: Apache-2.0 */
/* cut_long: groups of more than TC_CUT_SHORT rows. */
#ifndef TAILCUT_CUT_LONG_CUH_
#define TAILCUT_CUT_LONG_CUH_

#include "cut.cuh"

size_t tc_cut_long_scratch(const tc_cuda *device, const tailcut_limits *limits);
cudaError_t tc_cut_long(const tc_cuda *device, const tc_cut_args *args, char *scratch,
                        const tc_chain *chain);
cudaError_t tc_cut_long_load(tc_cuda *device);

#endif /* TAILCUT_CUT_LONG_CUH_ */
