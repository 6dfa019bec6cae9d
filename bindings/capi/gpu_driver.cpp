// SPDX-License-Identifier: Apache-2.0
#include "gpu_driver.hpp"

#include <dlfcn.h>

#include "spectral_kernels_gpu.h"

namespace sk {
namespace {

thread_local int32_t last_failure = 0;

template <class F>
bool find(void* library, const char* symbol, F& function) {
    function = reinterpret_cast<F>(dlsym(library, symbol));
    return function != nullptr;
}

bool open(Driver& d) {
    void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    // Symbols of cuda.h: some functions got a second version with 64-bit sizes, and only that one is meant.
    return library && find(library, "cuInit", d.cuInit) && find(library, "cuCtxGetCurrent", d.cuCtxGetCurrent) &&
           find(library, "cuCtxGetDevice", d.cuCtxGetDevice) && find(library, "cuCtxSynchronize", d.cuCtxSynchronize) &&
           find(library, "cuDeviceGetAttribute", d.cuDeviceGetAttribute) &&
           find(library, "cuModuleLoadData", d.cuModuleLoadData) && find(library, "cuModuleUnload", d.cuModuleUnload) &&
           find(library, "cuModuleGetFunction", d.cuModuleGetFunction) &&
           find(library, "cuFuncSetAttribute", d.cuFuncSetAttribute) && find(library, "cuLaunchKernel", d.cuLaunchKernel) &&
           find(library, "cuMemAlloc_v2", d.cuMemAlloc) && find(library, "cuMemFree_v2", d.cuMemFree) &&
           find(library, "cuMemcpyHtoD_v2", d.cuMemcpyHtoD) && d.cuInit(0) == 0;
}

}  // namespace

const Driver* Driver::get() {
    static Driver driver;
    static const bool opened = open(driver);
    return opened ? &driver : nullptr;
}

sk_status driver_status(int result) {
    if (result == 0) return SK_OK;
    last_failure = result;
    return result == 2 ? SK_OUT_OF_MEMORY : SK_DRIVER_ERROR;  // CUDA_ERROR_OUT_OF_MEMORY
}

}  // namespace sk

extern "C" int32_t sk_gpu_driver_result(void) { return sk::last_failure; }
