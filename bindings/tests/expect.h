/* SPDX-License-Identifier: Apache-2.0 */
/* The smallest test harness: a condition, and where it failed. */
#ifndef SK_TEST_EXPECT_H
#define SK_TEST_EXPECT_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static int failures;

#define EXPECT(condition)                                                        \
    do {                                                                         \
        if (!(condition)) {                                                      \
            printf("%s:%d: failed: %s\n", __FILE__, __LINE__, #condition);       \
            ++failures;                                                          \
        }                                                                        \
    } while (0)

#define EXPECT_STATUS(call, expected)                                                                          \
    do {                                                                                                       \
        const sk_status status_ = (call);                                                                      \
        if (status_ != (expected)) {                                                                           \
            printf("%s:%d: %s\n    gave %d (%s), expected %d (%s)\n", __FILE__, __LINE__, #call, (int)status_, \
                   sk_status_string((int32_t)status_), (int)(expected), sk_status_string((int32_t)(expected)));                    \
            ++failures;                                                                                        \
        }                                                                                                      \
    } while (0)

/* Reproducible numbers in [-1, 1). */
static inline double next_random(uint64_t *state) {
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (double)(int64_t)(*state >> 11) * 0x1p-52 - 1.0;
}

#endif
