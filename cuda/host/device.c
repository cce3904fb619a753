/* SPDX-License-Identifier: Apache-2.0 */
/* device: opens the device of a handle: what it can do, its kernels loaded, why there is none;
 * makes it the thread's; reads its memory. */
#include <stdlib.h>

#include "cuda.h"
#include "tailcut_cuda_build.h"

#define TC_CUDA_LEAST 80 /* the oldest architecture there is code for */

tailcut_status tc_cuda_status(cudaError_t error, const char *what) {
  if (error == cudaSuccess) return TAILCUT_OK;
  return tc_fail(TAILCUT_ERROR_DEVICE, "%s: %s (%s)", what, cudaGetErrorName(error),
                 cudaGetErrorString(error));
}

tailcut_status tc_cuda_enter(const tc_cuda *device, int *previous) {
  cudaError_t error = cudaGetDevice(previous);
  if (error == cudaSuccess && *previous != device->device) error = cudaSetDevice(device->device);
  return tc_cuda_status(error, "cudaSetDevice");
}

void tc_cuda_leave(const tc_cuda *device, int previous) {
  if (previous != device->device) cudaSetDevice(previous);
}

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
  int previous = 0;
  tailcut_status status = tc_cuda_enter(handle->state, &previous);
  if (status != TAILCUT_OK) return status;
  status = copy(host, device, bytes, stream);
  tc_cuda_leave(handle->state, previous);
  return status;
}

/* Why there is no device, in words that say what to do. */
static tailcut_status no_device(cudaError_t error) {
  int driver = 0, runtime = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  cudaGetLastError(); /* the caller must not find our error in the thread's state */
  if (driver == 0) {
    return tc_fail(TAILCUT_ERROR_NO_DEVICE, "no CUDA driver on this machine (%s)",
                   cudaGetErrorName(error));
  }
  if (error == cudaErrorInsufficientDriver) {
    return tc_fail(
        TAILCUT_ERROR_NO_DEVICE,
        "the CUDA driver is too old: it supports CUDA %d.%d, expected %d.%d or newer (%s)",
        driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10,
        cudaGetErrorName(error));
  }
  return tc_fail(TAILCUT_ERROR_NO_DEVICE, "no CUDA device: %s (%s)", cudaGetErrorName(error),
                 cudaGetErrorString(error));
}

static cudaError_t load_all(tc_cuda *device) {
  cudaError_t (*const loads[])(tc_cuda *) = {
#define TC_CUDA_LOAD(step) tc_cuda_load_##step,
      TC_CUDA_STEPS(TC_CUDA_LOAD)
#undef TC_CUDA_LOAD
  };
  for (size_t i = 0; i < sizeof loads / sizeof loads[0]; i++) {
    const cudaError_t error = loads[i](device);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

static cudaError_t describe(tc_cuda *device) {
  int major = 0, minor = 0;
  const struct {
    int *value;
    enum cudaDeviceAttr attribute;
  } asked[] = {
      {&major, cudaDevAttrComputeCapabilityMajor},
      {&minor, cudaDevAttrComputeCapabilityMinor},
      {&device->sms, cudaDevAttrMultiProcessorCount},
      {&device->smem_block, cudaDevAttrMaxSharedMemoryPerBlockOptin},
  };
  for (size_t i = 0; i < sizeof asked / sizeof asked[0]; i++) {
    const cudaError_t error =
        cudaDeviceGetAttribute(asked[i].value, asked[i].attribute, device->device);
    if (error != cudaSuccess) return error;
  }
  device->capability = 10 * major + minor;
  device->fuses = 1;
  device->chains = device->capability >= 90;
  return cudaSuccess;
}

static tailcut_status open_device(tc_cuda *device) {
  cudaError_t error = describe(device);
  if (error != cudaSuccess) return tc_cuda_status(error, "cudaDeviceGetAttribute");
  if (device->capability < TC_CUDA_LEAST) {
    return tc_fail(TAILCUT_ERROR_UNSUPPORTED, "CUDA device %d is sm_%d; expected sm_%d or newer",
                   device->device, device->capability, TC_CUDA_LEAST);
  }
  error = load_all(device);
  if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction ||
      error == cudaErrorUnsupportedPtxVersion) {
    cudaGetLastError();
    return tc_fail(TAILCUT_ERROR_UNSUPPORTED,
                   "CUDA device %d is sm_%d; this build has no code for it (architectures %s): %s",
                   device->device, device->capability, TAILCUT_CUDA_ARCHITECTURES,
                   cudaGetErrorName(error));
  }
  return tc_cuda_status(error, "loading kernels");
}

/* What tailcut_handle_info says. */
static void write_info(tailcut_handle handle, const tc_cuda *device) {
  struct cudaDeviceProp properties;
  char name[256];
  size_t used = 0;
  const char *p = "";
  if (cudaGetDeviceProperties(&properties, device->device) == cudaSuccess)
    p = properties.name;
  else
    cudaGetLastError();
  for (; *p != '\0' && used + 1 < sizeof name; p++)
    if (*p >= ' ' && *p <= '~' && *p != '"' && *p != '\\') name[used++] = *p;
  name[used] = '\0';
  snprintf(handle->info, sizeof handle->info,
           "{\"backend\": \"cuda\", \"device\": %d, \"name\": \"%s\", \"architecture\": "
           "\"%d.%d\", \"sms\": %d}",
           device->device, name, device->capability / 10, device->capability % 10, device->sms);
}

tailcut_status tc_cuda_create(tailcut_handle handle, const tailcut_config *config) {
  int count = 0, previous = 0;
  cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || count == 0) {
    return no_device(error != cudaSuccess ? error : cudaErrorNoDevice);
  }
  if (config->device_index >= count) {
    return tc_fail(TAILCUT_ERROR_NO_DEVICE, "config->device_index is %d; expected 0 to %d",
                   (int)config->device_index, count - 1);
  }
  tc_cuda *device = calloc(1, sizeof *device);
  if (device == NULL) {
    return tc_fail(TAILCUT_ERROR_MEMORY, "cannot allocate %zu bytes", sizeof *device);
  }
  device->device = config->device_index;
  tailcut_status status = tc_cuda_enter(device, &previous);
  if (status == TAILCUT_OK) {
    status = open_device(device);
    tc_cuda_leave(device, previous);
  }
  if (status != TAILCUT_OK) {
    free(device);
    return status;
  }
  handle->state = device;
  handle->threads = 1;
  write_info(handle, device);
  tc_log(handle, TC_LOG_INFO, "cuda:%d: sm_%d, %d SMs", device->device, device->capability,
         device->sms);
  return TAILCUT_OK;
}
