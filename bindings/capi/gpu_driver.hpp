// SPDX-License-Identifier: Apache-2.0
// The CUDA driver, opened at run time: the dozen functions that loading and launching take.
#pragma once

#include <cstddef>
#include <cstdint>

#include "spectral_kernels.h"

namespace sk {

// The types of cuda.h; its handles are pointers, its device pointers 64-bit integers.
struct Driver {
    int (*cuInit)(unsigned flags);
    int (*cuCtxGetCurrent)(void** context);
    int (*cuCtxGetDevice)(int* device);
    int (*cuCtxSynchronize)();
    int (*cuDeviceGetAttribute)(int* value, int attribute, int device);
    int (*cuModuleLoadData)(void** module, const void* code);
    int (*cuModuleUnload)(void* module);
    int (*cuModuleGetFunction)(void** function, void* module, const char* symbol);
    int (*cuFuncSetAttribute)(void* function, int attribute, int value);
    int (*cuLaunchKernel)(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                          unsigned block_z, unsigned shared_bytes, void* stream, void** arguments, void** extra);
    int (*cuMemAlloc)(uint64_t* pointer, std::size_t bytes);
    int (*cuMemFree)(uint64_t pointer);
    int (*cuMemcpyHtoD)(uint64_t to, const void* from, std::size_t bytes);

    // Null where there is no driver, or one without these functions, or no GPU. Opened once and never closed.
    static const Driver* get();
};

// The status of a CUresult; a failure is kept for sk_gpu_driver_result().
sk_status driver_status(int result);

}  // namespace sk
