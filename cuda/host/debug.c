/* SPDX-License-Identifier: Apache-2.0 */
/* debug: how TAILCUT_DEBUG's checks (src/debug.c) read device memory. */
#include "cuda.h"

static tailcut_status copy(void *host, const void *device, size_t bytes, cudaStream_t stream) {
  enum cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  cudaError_t error = cudaStreamIsCapturing(stream, &capture);
  if (error == cudaErrorStreamCaptureImplicit || capture != cudaStreamCaptureStatusNone) {
    cudaGetLastError(); /* the caller must not find it in the thread's state */
    return tc_fail(TAILCUT_ERROR_UNSUPPORTED, "the stream is being captured");
  }
  if (error == cudaSuccess) {
    error = cudaMemcpyAsync(host, device, bytes, cudaMemcpyDefault, stream);
  }
  if (error == cudaSuccess) error = cudaStreamSynchronize(stream);
  return tc_cuda_status(error, "TAILCUT_DEBUG: copying from the device");
}

tailcut_status tc_cuda_read(tailcut_handle handle, void *host, const void *device, size_t bytes,
                            void *stream) {
  const tc_cuda *cuda = handle->state;
  int previous = 0;
  tailcut_status status = tc_cuda_status(cudaGetDevice(&previous), "cudaGetDevice");
  if (status != TAILCUT_OK) return status;
  status = tc_cuda_status(cudaSetDevice(cuda->device), "cudaSetDevice");
  if (status == TAILCUT_OK) status = copy(host, device, bytes, stream);
  cudaSetDevice(previous);
  return status;
}
