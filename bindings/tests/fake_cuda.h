/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A CUDA driver for tests, libcuda.so.1: device memory is host memory, a launch is written down and nothing runs. A test
 * that links it has it opened by whoever opens libcuda.so.1 in that process. The code of a "cubin" for it is the text
 * "FAKE", a byte with the number of arguments, and a byte with the size of each.
 */
#ifndef SK_FAKE_CUDA_H
#define SK_FAKE_CUDA_H

#include <stdint.h>

enum { FAKE_ARGUMENTS = 160, FAKE_LAUNCHES = 64 };

typedef struct fake_launch {
    char symbol[64];
    uint32_t grid[3], block[3], shared_bytes;
    int32_t most_shared; /* the attribute of the function by then */
    void *stream;
    int32_t argument_count;
    uint8_t argument_bytes[FAKE_ARGUMENTS];
    uint64_t arguments[FAKE_ARGUMENTS]; /* each in its low bytes, zeros above */
} fake_launch;

typedef struct fake_cuda {
    int32_t major, minor, most_shared; /* of the GPU */
    int32_t has_context;
    int32_t fail_after, failure; /* the call after so many more gives this CUresult; -1: never */
    int32_t modules, allocations; /* that live */
    int32_t launch_count;
    fake_launch launches[FAKE_LAUNCHES];
} fake_cuda;

/* What the tests read and set. */
fake_cuda *fake_cuda_state(void);

#endif
