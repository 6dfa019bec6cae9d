/* SPDX-License-Identifier: Apache-2.0 */
/* Allocations that fail, in making a plan and in using one: a status, and the output stays as it was. */
#include <stdint.h>
#include <string.h>
#include <sys/resource.h>

#include "expect.h"
#include "spectral_kernels.h"

enum { SIDE = 1024 };

#ifndef __has_feature
#define __has_feature(name) 0
#endif
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__linux__)
static const int own_address_space = 0;
#else
static const int own_address_space = 1;
#endif

static float x[8][8], y[SIDE][SIDE];

/* Address space of this process in bytes, from the kernel. */
static rlim_t in_use(void) {
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    EXPECT(file != NULL && fscanf(file, "%ld", &pages) == 1);
    if (file) fclose(file);
    return (rlim_t)pages * 4096;
}

int main(void) {
    if (!own_address_space) {
        printf("not run: a sanitizer owns the address space, or there is no /proc\n");
        return 0;
    }
    sk_plan_options options = sk_default_plan_options();
    options.coarse[0] = options.coarse[1] = 8;
    options.fine[0] = options.fine[1] = SIDE;
    options.threads = 1;
    sk_plan *plan = NULL, *large = (sk_plan *)1;
    EXPECT_STATUS(sk_plan_create(&plan, &options), SK_OK);
    const struct rlimit limit = {in_use() + (1 << 20), RLIM_INFINITY};
    EXPECT(setrlimit(RLIMIT_AS, &limit) == 0);
    void *volatile beyond = malloc(1 << 26);
    if (beyond) {
        printf("not run: no limit of the address space holds here, as under an emulator\n");
        free(beyond);
        sk_plan_destroy(plan);
        return failures != 0;
    }
    /* What the allocator still holds from making the plan goes too. */
    void *hoard = NULL;
    for (void **next; (next = malloc(1 << 16)) != NULL; hoard = next) *next = hoard;

    options.fine[0] = SK_MAX_SIDE;
    EXPECT_STATUS(sk_plan_create(&large, &options), SK_OUT_OF_MEMORY);
    EXPECT(large == NULL);

    const sk_array in = sk_contiguous(x, SK_FLOAT32, 1, 1, 8, 8), out = sk_contiguous(y, SK_FLOAT32, 1, 1, SIDE, SIDE);
    const int64_t seed = 1;
    const double t = 0.5;
    sk_noise noise = sk_default_noise();
    noise.seeds = &seed;
    noise.seed_count = 1;
    memset(y, 1, sizeof(y));
    EXPECT_STATUS(sk_expand(plan, &in, &t, 1, &noise, 1, &out, NULL), SK_OUT_OF_MEMORY);
    size_t written = 0;
    for (size_t i = 0; i < sizeof(y); ++i) written += ((unsigned char *)y)[i] != 1;
    EXPECT(written == 0);
    while (hoard) {
        void *const next = *(void **)hoard;
        free(hoard);
        hoard = next;
    }
    const struct rlimit free = {RLIM_INFINITY, RLIM_INFINITY};
    EXPECT(setrlimit(RLIMIT_AS, &free) == 0);
    EXPECT_STATUS(sk_expand(plan, &in, &t, 1, &noise, 1, &out, NULL), SK_OK);
    sk_plan_destroy(plan);
    return failures != 0;
}
