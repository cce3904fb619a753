/* SPDX-License-Identifier: Apache-2.0 */
/* captured: a row of the table of calls as a CUDA graph, for builds with CUDA. A function's
 * result is the number of things that were wrong, each of which it has printed; CUDA's own errors
 * abort. */
#ifndef TAILCUT_TESTS_CAPTURED_H_
#define TAILCUT_TESTS_CAPTURED_H_

#include <cuda_runtime_api.h>

#include "calls.h"

typedef struct tt_captured {
  const tt_call_row *row;
  const tt_backend *backend;
  tailcut_handle handle;
  tt_workspace workspace;
  tt_call *call;
  cudaGraphExec_t exec;
} tt_captured;

/* Captures the call on contents of its own. Its nodes are kernels, as many as the table says, and
 * nothing has run. The capture's strictest mode is used: an allocation or a wait in the call breaks
 * it, and so does work on the default stream when the stream is a blocking one. */
int tt_captured_new(tt_captured *captured, const tt_call_row *row, const tt_backend *backend,
                    tailcut_handle handle, tt_workspace workspace, tt_random *random);
void tt_captured_free(tt_captured *captured);

/* The graph on new contents in the same memory, compared with the CPU backend. */
int tt_captured_replay(tt_captured *captured, cudaStream_t stream, tt_random *random);
/* The call itself in its place: from another current device, which must be the current one
 * afterwards; and with an error of the caller's that nobody has asked for yet, which is neither the
 * call's nor lost by it. */
int tt_captured_call(tt_captured *captured, cudaStream_t stream, tt_random *random);

void tt_cuda_ok(cudaError_t error, const char *what);
#define TT_CUDA(call) tt_cuda_ok(call, #call)

#endif /* TAILCUT_TESTS_CAPTURED_H_ */
