/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_cuda.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

static fake_cuda state = {.major = 9, .minor = 0, .most_shared = 232448, .has_context = 1, .fail_after = -1};

fake_cuda *fake_cuda_state(void) { return &state; }

typedef struct {
    int32_t count;
    uint8_t bytes[FAKE_ARGUMENTS];
    char symbol[64];
    int32_t most_shared;
} function;

/* The result of a call: success, unless the test asked for a failure here. */
static int result(void) {
    if (state.fail_after < 0 || state.fail_after-- > 0) return 0;
    return state.failure;
}

#define TRY                            \
    do {                               \
        const int result_ = result();  \
        if (result_ != 0) return result_; \
    } while (0)

int cuInit(unsigned flags) {
    (void)flags;
    return 0;
}

int cuCtxGetCurrent(void **context) {
    *context = state.has_context ? &state : NULL;
    return 0;
}

int cuCtxGetDevice(int *device) {
    TRY;
    *device = 0;
    return 0;
}

int cuCtxSynchronize(void) { return result(); }

int cuDeviceGetAttribute(int *value, int attribute, int device) {
    (void)device;
    TRY;
    *value = attribute == 75 ? state.major : attribute == 76 ? state.minor : attribute == 97 ? state.most_shared : 0;
    return 0;
}

int cuModuleLoadData(void **module, const void *code) {
    const uint8_t *bytes = code;
    TRY;
    if (memcmp(bytes, "FAKE", 4) != 0 || bytes[4] > FAKE_ARGUMENTS) return 200; /* CUDA_ERROR_INVALID_IMAGE */
    function *f = calloc(1, sizeof(*f));
    f->count = bytes[4];
    memcpy(f->bytes, bytes + 5, bytes[4]);
    *module = f;
    ++state.modules;
    return 0;
}

int cuModuleUnload(void *module) {
    free(module);
    --state.modules;
    return 0;
}

int cuModuleGetFunction(void **found, void *module, const char *symbol) {
    TRY;
    strncpy(((function *)module)->symbol, symbol, sizeof(((function *)module)->symbol) - 1);
    *found = module;
    return 0;
}

int cuFuncSetAttribute(void *f, int attribute, int value) {
    TRY;
    if (attribute == 8) ((function *)f)->most_shared = value;
    return 0;
}

int cuLaunchKernel(void *f, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                   unsigned block_z, unsigned shared_bytes, void *stream, void **arguments, void **extra) {
    const function *called = f;
    TRY;
    if (extra || state.launch_count == FAKE_LAUNCHES) return 1; /* CUDA_ERROR_INVALID_VALUE */
    fake_launch *launch = &state.launches[state.launch_count++];
    memset(launch, 0, sizeof(*launch));
    memcpy(launch->symbol, called->symbol, sizeof(launch->symbol));
    launch->grid[0] = grid_x;
    launch->grid[1] = grid_y;
    launch->grid[2] = grid_z;
    launch->block[0] = block_x;
    launch->block[1] = block_y;
    launch->block[2] = block_z;
    launch->shared_bytes = shared_bytes;
    launch->most_shared = called->most_shared;
    launch->stream = stream;
    launch->argument_count = called->count;
    for (int i = 0; i < called->count; ++i) {
        launch->argument_bytes[i] = called->bytes[i];
        memcpy(&launch->arguments[i], arguments[i], called->bytes[i]);
    }
    return 0;
}

int cuMemAlloc_v2(uint64_t *pointer, size_t bytes) {
    TRY;
    *pointer = (uint64_t)(uintptr_t)malloc(bytes);
    ++state.allocations;
    return 0;
}

int cuMemFree_v2(uint64_t pointer) {
    free((void *)(uintptr_t)pointer);
    --state.allocations;
    return 0;
}

int cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t bytes) {
    TRY;
    memcpy((void *)(uintptr_t)to, from, bytes);
    return 0;
}

/* The rest is what the launcher of Triton calls besides; the layouts are those of cuda.h. */

typedef struct {
    unsigned grid[3], block[3], shared_bytes;
    void *stream, *attributes;
    unsigned attribute_count;
} launch_config;

int cuLaunchKernelEx(const launch_config *c, void *f, void **arguments, void **extra) {
    return cuLaunchKernel(f, c->grid[0], c->grid[1], c->grid[2], c->block[0], c->block[1], c->block[2], c->shared_bytes,
                          c->stream, arguments, extra);
}

int cuFuncGetAttribute(int *value, int attribute, void *f) {
    (void)attribute;
    (void)f;
    *value = 0;
    return 0;
}

#define ACCEPTED(name) \
    int name(void);    \
    int name(void) { return 0; }

ACCEPTED(cuCtxSetCurrent)
ACCEPTED(cuCtxGetLimit)
ACCEPTED(cuCtxSetLimit)
ACCEPTED(cuDeviceGet)
ACCEPTED(cuDevicePrimaryCtxRetain)
ACCEPTED(cuDriverGetVersion)
ACCEPTED(cuFuncSetCacheConfig)
ACCEPTED(cuGetErrorString)
ACCEPTED(cuOccupancyMaxActiveClusters)
ACCEPTED(cuPointerGetAttribute)
ACCEPTED(cuStreamIsCapturing)
ACCEPTED(cuTensorMapEncodeIm2col)
ACCEPTED(cuTensorMapEncodeTiled)
