/* SPDX-License-Identifier: Apache-2.0 */
/* Every status, provoked; the output stays as it was each time. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "expect.h"
#include "spectral_kernels.h"

enum { h = 4, w = 5, H = 8, W = 10 };

static _Alignas(8) float x[2][h][w], z[2][H][W], y[2][H][W], untouched[2][H][W];
static int64_t seeds[2] = {1, 2};

static sk_plan_options options_of(sk_operation operation) {
    sk_plan_options options = sk_default_plan_options();
    options.operation = (int32_t)operation;
    options.coarse[0] = h;
    options.coarse[1] = w;
    options.fine[0] = H;
    options.fine[1] = W;
    return options;
}

static sk_status create_with(sk_plan_options options) {
    sk_plan *plan = (sk_plan *)1;
    const sk_status status = sk_plan_create(&plan, &options);
    EXPECT((status == SK_OK) == (plan != NULL));
    sk_plan_destroy(plan);
    return status;
}

static void test_plans(void) {
    sk_plan_options good = options_of(SK_EXPAND);
    sk_plan *plan;
    EXPECT_STATUS(create_with(good), SK_OK);
    EXPECT_STATUS(sk_plan_create(NULL, &good), SK_NULL_POINTER);
    EXPECT_STATUS(sk_plan_create(&plan, NULL), SK_NULL_POINTER);
    EXPECT(plan == NULL);
    sk_plan_destroy(NULL);

#define WITH(field, value, expected)             \
    do {                                         \
        sk_plan_options bad = good;              \
        bad.field = (value);                     \
        EXPECT_STATUS(create_with(bad), expected); \
    } while (0)
    WITH(struct_size, 8, SK_BAD_STRUCT);
    WITH(struct_size, -1, SK_BAD_STRUCT);
    WITH(operation, 5, SK_UNKNOWN_ENUM);
    WITH(operation, -1, SK_UNKNOWN_ENUM);
    WITH(basis, 3, SK_UNKNOWN_ENUM);
    WITH(dtype, 4, SK_UNKNOWN_ENUM);
    WITH(precision, 2, SK_UNKNOWN_ENUM);
    WITH(coarse[0], 0, SK_BAD_SIZE);
    WITH(coarse[1], -3, SK_BAD_SIZE);
    WITH(coarse[1], W + 1, SK_BAD_SIZE);
    WITH(fine[0], INT64_MAX, SK_BAD_SIZE);
    WITH(fine[0], SK_MAX_SIDE + 1, SK_BAD_SIZE);
    WITH(threads, -1, SK_BAD_SIZE);
    WITH(reserved, 1, SK_BAD_STRUCT);
#undef WITH
}

/* Calls of sk_expand that differ from a good one in one thing. */
typedef struct {
    const sk_plan *plan;
    sk_array in, values, out;
    const sk_array *p_in, *p_out;
    double t[2];
    const double *p_t;
    int64_t t_count;
    sk_noise noise;
    const sk_noise *p_noise;
    double *p_aligned;
} call;

static sk_plan *plan;
static double aligned[3];

static void reset(call *c) {
    memset(c, 0, sizeof(*c));
    c->plan = plan;
    c->in = sk_contiguous(x, SK_FLOAT32, 2, 1, h, w);
    c->values = sk_contiguous(z, SK_FLOAT32, 2, 1, H, W);
    c->out = sk_contiguous(y, SK_FLOAT32, 2, 1, H, W);
    c->p_in = &c->in;
    c->p_out = &c->out;
    c->t[0] = c->t[1] = 0.5;
    c->p_t = c->t;
    c->t_count = 1;
    c->noise = sk_default_noise();
    c->noise.seeds = seeds;
    c->noise.seed_count = 1;
    c->p_noise = &c->noise;
    c->p_aligned = aligned;
    aligned[0] = aligned[1] = -1;
}

static sk_status run(const call *c) {
    return sk_expand(c->plan, c->p_in, c->p_t, c->t_count, c->p_noise, 1, c->p_out, c->p_aligned);
}

#define REFUSED(change, expected)                           \
    do {                                                    \
        call c;                                             \
        reset(&c);                                          \
        change;                                             \
        EXPECT_STATUS(run(&c), expected);                   \
        EXPECT(memcmp(y, untouched, sizeof(y)) == 0);       \
        EXPECT(aligned[0] == -1 && aligned[1] == -1);       \
    } while (0)

/* The same memory as numbers of another type; these bytes of y are small and positive as either. */
static double *const y_times = (double *)(void *)y;
static int64_t *const y_seeds = (int64_t *)(void *)y;

static void test_expand(void) {
    REFUSED(c.plan = NULL, SK_NULL_POINTER);
    REFUSED(c.p_in = NULL, SK_NULL_POINTER);
    REFUSED(c.p_out = NULL, SK_NULL_POINTER);
    REFUSED(c.p_t = NULL, SK_NULL_POINTER);
    REFUSED(c.in.data = NULL, SK_NULL_POINTER);
    REFUSED(c.out.data = NULL, SK_NULL_POINTER);
    REFUSED(c.in.struct_size = 1, SK_BAD_STRUCT);
    REFUSED(c.noise.struct_size = 0, SK_BAD_STRUCT);
    REFUSED(c.out.dtype = 4, SK_UNKNOWN_ENUM);
    REFUSED(c.in.dtype = -1, SK_UNKNOWN_ENUM);
    REFUSED(c.in.samples = -1, SK_BAD_SIZE);
    REFUSED(c.in.planes = INT64_MAX, SK_BAD_SIZE);
    REFUSED(c.in.rows = 0, SK_BAD_SIZE);
    REFUSED(c.in.stride[0] = INT64_MAX, SK_BAD_SIZE);
    REFUSED(c.in.stride[0] = INT64_MIN, SK_BAD_SIZE);
    REFUSED(c.in.stride[2] = INT64_MAX / 8, SK_BAD_SIZE);
    REFUSED(c.in.patch = 0, SK_BAD_PATCH);
    REFUSED(c.in.patch = 3, SK_BAD_PATCH);
    REFUSED(c.in.rows = h - 1, SK_WRONG_SHAPE);
    REFUSED(c.out.columns = W - 1, SK_WRONG_SHAPE);
    REFUSED(c.in.samples = 1, SK_WRONG_SHAPE);
    REFUSED(c.in.dtype = SK_FLOAT64, SK_WRONG_DTYPE);
    REFUSED(c.out.dtype = SK_FLOAT64, SK_WRONG_DTYPE);
    REFUSED(c.in.data = (char *)x + 1, SK_MISALIGNED);
    REFUSED(c.out.data = (char *)y + 2, SK_MISALIGNED);
    REFUSED(c.in.data = y, SK_OVERLAP);
    REFUSED(c.in.data = &y[1][H - 1][W - 1], SK_OVERLAP);
    REFUSED(c.out.stride[0] = 0, SK_OVERLAP);
    REFUSED(c.out.stride[2] = W - 1, SK_OVERLAP);
    REFUSED(c.t[0] = -0.1, SK_BAD_TIME);
    REFUSED(c.t[0] = 1.5, SK_BAD_TIME);
    REFUSED(c.t[0] = NAN, SK_BAD_TIME);
    REFUSED(c.t_count = 3, SK_BAD_TIME);
    REFUSED(c.t_count = -1, SK_BAD_TIME);
    REFUSED((c.t_count = 2, c.t[1] = INFINITY), SK_BAD_TIME);
    int64_t bad[2] = {-1, 0};
    REFUSED(c.noise.seeds = bad, SK_BAD_SEED);
    bad[0] = INT64_MAX;
    REFUSED(c.noise.seeds = bad, SK_BAD_SEED); /* sample 1 would have the seed 2^63 */
    REFUSED(c.noise.seed_count = 3, SK_BAD_SEED);
    REFUSED(c.p_noise = NULL, SK_NO_NOISE);
    REFUSED(c.noise.seeds = NULL, SK_NO_NOISE);
    REFUSED(c.noise.values = &c.values, SK_NO_NOISE); /* both */
    REFUSED((c.noise.seeds = NULL, c.noise.values = &c.values, c.values.rows = H - 1), SK_WRONG_SHAPE);
    REFUSED((c.noise.seeds = NULL, c.noise.values = &c.values, c.values.data = y), SK_OVERLAP);
    REFUSED(c.noise.reserved = 1, SK_BAD_STRUCT);
    /* Numbers beside the arrays: where they lie, and how many there can be. */
    REFUSED(c.p_t = (const double *)(const void *)((const char *)c.t + 4), SK_MISALIGNED);
    REFUSED(c.noise.seeds = (const int64_t *)(const void *)((const char *)seeds + 4), SK_MISALIGNED);
    REFUSED(c.p_aligned = (double *)(void *)((char *)aligned + 4), SK_MISALIGNED);
    REFUSED(c.p_t = y_times, SK_OVERLAP);
    REFUSED(c.noise.seeds = y_seeds, SK_OVERLAP);
    REFUSED(c.p_aligned = y_times + 3, SK_OVERLAP);
    REFUSED(c.p_aligned = (double *)(void *)x, SK_OVERLAP);
    REFUSED((c.noise.seeds = NULL, c.noise.values = &c.values, c.p_aligned = (double *)(void *)z), SK_OVERLAP);
    REFUSED(c.p_aligned = (double *)(void *)seeds, SK_OVERLAP);
    REFUSED((c.t_count = 2, c.p_aligned = c.t + 1), SK_OVERLAP); /* the second time would be lost */
    /* More planes than the noise has numbers for, where no memory is that they could overlap; nothing of them is touched. */
    REFUSED((c.in.samples = c.out.samples = 1, c.in.planes = c.out.planes = (INT64_C(1) << 32) + 1, c.in.data = (void *)64,
             c.in.stride[1] = 0, c.out.data = (void *)(uintptr_t)(UINT64_C(1) << 62)), SK_BAD_SIZE);
    REFUSED((c.in.planes = c.out.planes = 0, c.in.samples = c.out.samples = c.t_count = INT64_MAX), SK_BAD_SIZE);
    REFUSED((c.in.planes = c.out.planes = 0, c.in.samples = c.out.samples = c.noise.seed_count = INT64_MAX), SK_BAD_SIZE);

    call c;
    reset(&c);
    c.out.samples = c.in.samples = 0; /* nothing to do is no mistake */
    EXPECT_STATUS(run(&c), SK_OK);
    EXPECT(memcmp(y, untouched, sizeof(y)) == 0);
    reset(&c);
    EXPECT_STATUS(run(&c), SK_OK);
    EXPECT(memcmp(y, untouched, sizeof(y)) != 0);
    EXPECT(aligned[0] > 0.5 && aligned[1] == -1);
    c.t_count = 2;
    c.p_aligned = c.t; /* in place */
    EXPECT_STATUS(run(&c), SK_OK);
    EXPECT(c.t[0] == aligned[0] && c.t[1] == aligned[0]);
    c.t_count = 1;
    c.p_aligned = NULL;
    c.p_noise = NULL;
    c.t[0] = 0;
    EXPECT_STATUS(run(&c), SK_OK);
    c.in.stride[1] = c.out.stride[1] = INT64_MIN; /* of an axis of one: never taken */
    EXPECT_STATUS(run(&c), SK_OK);
    c.in.stride[1] = c.in.stride[0] = 0; /* the same plane twice, and backwards: inputs may */
    c.in.data = &x[0][h - 1][0];
    c.in.stride[2] = -w;
    EXPECT_STATUS(run(&c), SK_OK);
    EXPECT(memcmp(y[0], y[1], sizeof(y[0])) == 0);
}

static void test_others(void) {
    sk_plan *down, *analysis, *lift;
    sk_plan_options options = options_of(SK_TRUNCATE);
    EXPECT_STATUS(sk_plan_create(&down, &options), SK_OK);
    options.operation = SK_ANALYSIS;
    EXPECT_STATUS(sk_plan_create(&analysis, &options), SK_OK);
    options.operation = SK_LIFT;
    EXPECT_STATUS(sk_plan_create(&lift, &options), SK_OK);
    const sk_array low = sk_contiguous(x, SK_FLOAT32, 2, 1, h, w), high = sk_contiguous(z, SK_FLOAT32, 2, 1, H, W);
    const sk_array out = sk_contiguous(y, SK_FLOAT32, 2, 1, H, W);
    double t = 0.5;
    EXPECT_STATUS(sk_truncate(analysis, &high, NULL, 0, 1, &low), SK_WRONG_PLAN);
    EXPECT_STATUS(sk_truncate(down, &low, NULL, 0, 1, &out), SK_WRONG_SHAPE);
    static _Alignas(8) float small[2][h][w], kept[2][h][w];
    const sk_array low_out = sk_contiguous(small, SK_FLOAT32, 2, 1, h, w);
    memset(small, 1, sizeof(small));
    memset(kept, 1, sizeof(kept));
    const double later[2] = {0, 0.5}, zeros[2] = {0, -0.0};
    t = 1.5;
    EXPECT_STATUS(sk_truncate(down, &high, &t, 1, 1, &low_out), SK_BAD_TIME);
    t = -0.5;
    EXPECT_STATUS(sk_truncate(down, &high, &t, 1, 1, &low_out), SK_BAD_TIME);
    t = NAN;
    EXPECT_STATUS(sk_truncate(down, &high, &t, 1, 1, &low_out), SK_BAD_TIME);
    t = 0.5;
    EXPECT_STATUS(sk_truncate(down, &high, &t, 1, 0, &low_out), SK_BAD_TIME); /* sets the factor of normalisation */
    EXPECT_STATUS(sk_truncate(down, &high, later, 2, 0, &low_out), SK_BAD_TIME);
    EXPECT_STATUS(sk_truncate(down, &high, later, 3, 1, &low_out), SK_BAD_TIME);
    EXPECT_STATUS(sk_truncate(down, &high, later, 0, 1, &low_out), SK_BAD_TIME);
    EXPECT_STATUS(sk_truncate(down, &high, later, -1, 1, &low_out), SK_BAD_TIME);
    EXPECT_STATUS(sk_truncate(down, &high, NULL, 1, 1, &low_out), SK_NULL_POINTER);
    EXPECT_STATUS(sk_truncate(down, &high, (const double *)(const void *)((const char *)later + 4), 1, 1, &low_out), SK_MISALIGNED);
    EXPECT_STATUS(sk_truncate(down, &high, (const double *)(const void *)small, 1, 1, &low_out), SK_OVERLAP);
    EXPECT(memcmp(small, kept, sizeof(small)) == 0);
    EXPECT_STATUS(sk_truncate(down, &high, later, 2, 1, &low_out), SK_OK);
    EXPECT_STATUS(sk_truncate(down, &high, zeros, 2, 0, &low_out), SK_OK);
    EXPECT_STATUS(sk_truncate(down, &high, NULL, 0, 1, &low_out), SK_OK);
    EXPECT_STATUS(sk_transform(down, &high, &out), SK_WRONG_PLAN);
    EXPECT_STATUS(sk_transform(analysis, &high, &high), SK_OVERLAP);
    EXPECT_STATUS(sk_transform(analysis, &high, &out), SK_OK);
    EXPECT_STATUS(sk_expand(lift, &low, &t, 1, NULL, 1, &out, NULL), SK_WRONG_PLAN);
    EXPECT_STATUS(sk_lift(down, &high, &low, &t, 1, 1, &out), SK_WRONG_PLAN);
    EXPECT_STATUS(sk_lift(lift, &low, &high, &t, 1, 1, &out), SK_WRONG_SHAPE);
    EXPECT_STATUS(sk_lift(lift, NULL, &low, &t, 1, 1, &out), SK_NULL_POINTER);
    EXPECT_STATUS(sk_lift(lift, &high, &low, &t, 1, 1, &high), SK_OVERLAP);
    memcpy(y, untouched, sizeof(y));
    EXPECT_STATUS(sk_lift(lift, &high, &low, y_times, 1, 1, &out), SK_OVERLAP);
    EXPECT_STATUS(sk_lift(lift, &high, &low, (const double *)(const void *)((const char *)&t + 1), 1, 1, &out), SK_MISALIGNED);
    EXPECT_STATUS(sk_lift(lift, &high, &low, NULL, 1, 1, &out), SK_NULL_POINTER);
    EXPECT_STATUS(sk_lift(lift, &high, &low, &t, 3, 1, &out), SK_BAD_TIME);
    t = 0;
    EXPECT_STATUS(sk_lift(lift, &high, &low, &t, 1, 1, &out), SK_BAD_TIME);
    EXPECT(memcmp(y, untouched, sizeof(y)) == 0);
    t = 1;
    EXPECT_STATUS(sk_lift(lift, &high, &low, &t, 1, 1, &out), SK_OK);
    sk_plan_destroy(down);
    sk_plan_destroy(analysis);
    sk_plan_destroy(lift);

    sk_array patched = out;
    patched.patch = 2;
    patched.patch_stride[0] = patched.patch_stride[1] = 1;
    EXPECT_STATUS(sk_normal(NULL, seeds, 1, 0, 1), SK_NULL_POINTER);
    EXPECT_STATUS(sk_normal(&out, NULL, 1, 0, 1), SK_NULL_POINTER);
    EXPECT_STATUS(sk_normal(&patched, seeds, 1, 0, 1), SK_OVERLAP);
    patched.stride[3] = 4;
    patched.stride[2] = 2 * W;
    patched.patch_stride[0] = 2;
    EXPECT_STATUS(sk_normal(&patched, seeds, 1, 0, 1), SK_BAD_PATCH);
    memcpy(y, untouched, sizeof(y));
    EXPECT_STATUS(sk_normal(&out, seeds, 3, 0, 1), SK_BAD_SEED);
    EXPECT_STATUS(sk_normal(&out, y_seeds, 1, 0, 1), SK_OVERLAP);
    EXPECT_STATUS(sk_normal(&out, (const int64_t *)(const void *)((const char *)seeds + 1), 1, 0, 1), SK_MISALIGNED);
    EXPECT(memcmp(y, untouched, sizeof(y)) == 0);
    EXPECT_STATUS(sk_normal(&out, seeds, 1, 0, -1), SK_BAD_SIZE);
    EXPECT_STATUS(sk_normal(&out, seeds, 2, 0, 0), SK_OK);
}

int main(void) {
    for (size_t i = 0; i < sizeof(y) / sizeof(float); ++i) (&y[0][0][0])[i] = (&untouched[0][0][0])[i] = (float)i;
    for (size_t i = 0; i < sizeof(x) / sizeof(float); ++i) (&x[0][0][0])[i] = (float)i - 10;
    const sk_plan_options options = options_of(SK_EXPAND);
    EXPECT_STATUS(sk_plan_create(&plan, &options), SK_OK);
    test_plans();
    test_expand();
    test_others();
    sk_plan_destroy(plan);
    /* Every status has words of its own, and so has a number that is none. SK_OUT_OF_MEMORY and SK_INTERNAL: test_memory. */
    /* Those from SK_NO_DRIVER on: test_gpu. */
    enum { NONE = SK_SINGULAR + 1 };
    for (int a = SK_OK; a <= SK_DRIVER_ERROR; ++a) {
        EXPECT(sk_status_string(a)[0] != '\0');
        for (int b = SK_OK; b < a; ++b) {
            const int neither = a >= NONE && a < SK_NO_DRIVER && b >= NONE;
            EXPECT(neither == (strcmp(sk_status_string(a), sk_status_string(b)) == 0));
        }
    }
    return failures != 0;
}
