/* SPDX-License-Identifier: Apache-2.0 */
/* layout: what a workspace of the CUDA backend holds. */
#ifndef TAILCUT_CUDA_LAYOUT_H_
#define TAILCUT_CUDA_LAYOUT_H_

#include "cuda.h"

/* Lays a workspace out from `base` for a call of `kind`; with base NULL only counts. Returns the
 * bytes needed. */
size_t tc_cuda_lay_out(tc_cuda_space *space, void *base, const tc_cuda *device, int32_t kind,
                       const tailcut_limits *limits);

#endif /* TAILCUT_CUDA_LAYOUT_H_ */
