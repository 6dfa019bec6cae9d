/* SPDX-License-Identifier: Apache-2.0 */
/* One plan, several threads at once, each with pool threads of its own asked for: the bits of one thread alone. */
#include <pthread.h>
#include <stdint.h>
#include <string.h>

#include "expect.h"
#include "spectral_kernels.h"

enum { CALLERS = 4, ROUNDS = 20, PLANES = 9, h = 20, H = 40 };

static sk_plan *plan;
static float x[PLANES][h][h], alone[PLANES][H][H], y[CALLERS][PLANES][H][H];
static const int64_t seed = 3;
static const double t = 0.4;

static sk_status expand(float (*out)[H][H]) {
    const sk_array in = sk_contiguous(x, SK_FLOAT32, 1, PLANES, h, h), to = sk_contiguous(out, SK_FLOAT32, 1, PLANES, H, H);
    sk_noise noise = sk_default_noise();
    noise.seeds = &seed;
    noise.seed_count = 1;
    return sk_expand(plan, &in, &t, 1, &noise, 1, &to, NULL);
}

static void *caller(void *argument) {
    float(*out)[H][H] = argument;
    for (int round = 0; round < ROUNDS; ++round) {
        if (expand(out) != SK_OK || memcmp(out, alone, sizeof(alone)) != 0) return argument;
        memset(out, 0, sizeof(alone));
    }
    return NULL;
}

int main(void) {
    uint64_t state = 5;
    for (int i = 0; i < PLANES * h * h; ++i) (&x[0][0][0])[i] = (float)next_random(&state);
    sk_plan_options options = sk_default_plan_options();
    options.coarse[0] = options.coarse[1] = h;
    options.fine[0] = options.fine[1] = H;
    options.threads = 1;
    EXPECT_STATUS(sk_plan_create(&plan, &options), SK_OK);
    EXPECT_STATUS(expand(alone), SK_OK);
    sk_plan_destroy(plan);
    for (int32_t threads = 2; threads <= 5; threads += 3) { /* whole planes on each thread; blocks of a plane */
        options.threads = threads;
        EXPECT_STATUS(sk_plan_create(&plan, &options), SK_OK);
        pthread_t callers[CALLERS];
        for (int n = 0; n < CALLERS; ++n) EXPECT(pthread_create(&callers[n], NULL, caller, y[n]) == 0);
        for (int n = 0; n < CALLERS; ++n) {
            void *wrong = NULL;
            EXPECT(pthread_join(callers[n], &wrong) == 0 && wrong == NULL);
        }
        sk_plan_destroy(plan);
    }
    return failures != 0;
}
