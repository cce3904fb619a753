/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_cub: prune_visual put together from CUB's parts: what tailcut's must not be slower than.
 * Read by C and by CUDA C++. */
#ifndef TAILCUT_BENCH_CUDA_CUB_H_
#define TAILCUT_BENCH_CUDA_CUB_H_

#include <cuda_runtime_api.h>
#include <stdint.h>

#if defined(__cplusplus)
extern "C" {
#endif

enum { BENCH_CUB_MOST_TOKENS = 4096 }; /* of an image: its block's */

/* From scores on, packed; enqueues. Segments of n rows, these of a multiple of 16 bytes. */
cudaError_t bench_cub_prune(int32_t segments, int32_t n, const float *scores, const void *from,
                            void *to, size_t row_bytes, int32_t *counts, int32_t *kept, int32_t *cu,
                            cudaStream_t stream);

#if defined(__cplusplus)
}
#endif

#endif /* TAILCUT_BENCH_CUDA_CUB_H_ */
