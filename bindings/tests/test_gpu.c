/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The loader of GPU kernels against a fake driver: images that are damaged, GPUs that do not fit, and what a launch passes.
 * The image here holds small classes of its own; tests/test_gpu_loader.py has the real ones, beside Triton's launcher.
 */
#include <math.h>
#include <string.h>

#include "expect.h"
#include "fake_cuda.h"
#include "spectral_kernels_gpu.h"

enum { h = 4, w = 6, H = 8, W = 12, SAMPLES = 3, PLANES = 2 };

static float x[SAMPLES][PLANES][h][w], z[SAMPLES][PLANES][H][W], y[SAMPLES][PLANES][H][W];
static int stream; /* its address stands for a CUstream */

/* ---- an image */

static uint8_t image[1 << 16];
static size_t size;

static void put(const void *bytes, size_t count) {
    memcpy(image + size, bytes, count);
    size += count;
}

static void put32(uint32_t value) { put(&value, 4); }
static void put64(int64_t value) { put(&value, 8); }

static void put_text(const char *text) {
    put32((uint32_t)strlen(text));
    put(text, strlen(text));
}

static uint32_t crc32(const uint8_t *data, size_t count) {
    uint32_t crc = ~UINT32_C(0);
    for (size_t i = 0; i < count; ++i) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (UINT32_C(0xEDB88320) & (0 - (crc & 1)));
    }
    return ~crc;
}

static void begin(uint32_t kernels) {
    size = 0;
    put("skgpu\0\0\1", 8);
    put32(0);
    put32(kernels);
}

static void seal(void) {
    const uint32_t crc = crc32(image + 12, size - 12);
    memcpy(image + 8, &crc, 4);
}

typedef struct {
    const char *name, *type;
    uint32_t multiple;
} argument;

typedef struct {
    const char *name;
    int64_t least, most;
} limit;

typedef struct {
    const char *name;
    uint32_t divisor;
} factor;

/* Arguments and limits end with a null name, the grid with an empty dimension. */
static void put_kernel(const char *arch, const char *operation, const char *dtype, const char *symbol, uint32_t shared,
                       const argument *arguments, const limit *limits, const factor grid[3][4]) {
    uint8_t code[256] = {'F', 'A', 'K', 'E'};
    uint32_t count;
    put_text(arch);
    put_text(operation);
    put_text(dtype);
    put_text(symbol);
    put32(128);
    put32(shared);
    for (count = 0; arguments[count].name; ++count) {
        const char *type = arguments[count].type;
        code[5 + count] = strcmp(type, "i32") == 0 || strcmp(type, "fp32") == 0 ? 4 : 8;
    }
    code[4] = (uint8_t)count;
    put32(count);
    for (uint32_t i = 0; i < count; ++i) {
        put_text(arguments[i].name);
        put_text(arguments[i].type);
        put32(arguments[i].multiple);
    }
    for (count = 0; limits[count].name; ++count) {}
    put32(count);
    for (uint32_t i = 0; i < count; ++i) {
        put_text(limits[i].name);
        put64(limits[i].least);
        put64(limits[i].most);
    }
    for (count = 0; count < 3 && grid[count][0].name; ++count) {}
    put32(count);
    for (uint32_t i = 0; i < count; ++i) {
        uint32_t factors;
        for (factors = 0; factors < 4 && grid[i][factors].name; ++factors) {}
        put32(factors);
        for (uint32_t j = 0; j < factors; ++j) {
            put_text(grid[i][j].name);
            put32(grid[i][j].divisor);
        }
    }
    put64((int64_t)sizeof(code));
    put(code, sizeof(code));
}

static const argument product_arguments[] = {
    {"x", "*fp32", 1}, {"out", "*fp32", 1}, {"t", "i64", 1}, {"ratio", "i64", 1}, {"base_seed", "i64", 1},
    {"stream", "i64", 1}, {"out_strides[3]", "i64", 1}, {"x_strides[0]", "i64", 1}, {"x_size[0]", "i32", 1},
    {"x_size[1]", "i32", 1}, {"other_size[1]", "i32", 1}, {"corner[1]", "i32", 1}, {"per_sample", "i32", 1},
    {"rows1", "*fp32", 1}, {"columns2", "*fp32", 1}, {"other", "*fp32", 1}, {"global_scratch", "*i8", 1}, {NULL, NULL, 0}};
static const limit product_limits[] = {{"patch", 1, 1}, {"out_size[1]", 1, W}, {NULL, 0, 0}};
static const factor product_grid[3][4] = {{{"samples", 1}, {"planes", 1}}, {{"out_size[0]", 3}}};
static const argument forecast_arguments[] = {
    {"features[0]", "*fp32", 16}, {"features[1]", "*fp32", 16}, {"weights[0]", "fp32", 1}, {"weights[1]", "fp32", 1},
    {"out", "*fp32", 16}, {"start", "i64", 16}, {"stop", "i64", 16}, {"count", "i32", 1}, {NULL, NULL, 0}};
static const limit forecast_limits[] = {{"count", 1, 2}, {NULL, 0, 0}};
static const factor forecast_grid[3][4] = {{{"elements", 32}}};
static const argument normal_arguments[] = {{"p_noise", "*fp32", 1}, {"base_seed", "i64", 1}, {"stream", "i64", 1},
                                            {"planes", "i64", 1}, {"rows", "i64", 1}, {"columns", "i64", 1}, {NULL, NULL, 0}};
static const limit no_limits[] = {{NULL, 0, 0}};
static const factor normal_grid[3][4] = {{{"samples", 1}, {"planes", 1}, {"rows", 8}, {"columns", 5}}};

static void build_image(void) {
    argument unaligned[9];
    memcpy(unaligned, forecast_arguments, sizeof(unaligned));
    for (int i = 0; i < 8; ++i) unaligned[i].multiple = 1;
    begin(8);
    put_kernel("sm_80", "expand_noise", "fp32", "ampere", 0, product_arguments, product_limits, product_grid);
    put_kernel("sm_90", "expand_noise", "fp32", "noise", 57344, product_arguments, product_limits, product_grid);
    put_kernel("sm_90", "expand_tensor", "fp32", "tensor", 49152, product_arguments, product_limits, product_grid);
    put_kernel("sm_90", "single", "fp32", "single", 0, product_arguments, product_limits, product_grid);
    put_kernel("sm_90", "lift", "fp32", "lift", 300000, product_arguments, product_limits, product_grid);
    put_kernel("sm_90", "forecast", "fp32", "aligned", 0, forecast_arguments, forecast_limits, forecast_grid);
    put_kernel("sm_90", "forecast", "fp32", "unaligned", 0, unaligned, forecast_limits, forecast_grid);
    put_kernel("sm_90", "normal", "fp32", "normal", 0, normal_arguments, no_limits, normal_grid);
    seal();
}

/* ---- tests */

static fake_cuda *cuda;
static sk_gpu_kernels *kernels;

static sk_status load(void) {
    sk_gpu_kernels *loaded = (sk_gpu_kernels *)1;
    const sk_status status = sk_gpu_kernels_create(&loaded, image, (int64_t)size);
    EXPECT((status == SK_OK) == (loaded != NULL));
    sk_gpu_kernels_destroy(loaded);
    EXPECT(cuda->modules == 0);
    return status;
}

static void test_images(void) {
    sk_gpu_kernels *loaded;
    EXPECT_STATUS(load(), SK_OK);
    EXPECT_STATUS(sk_gpu_kernels_create(NULL, image, (int64_t)size), SK_NULL_POINTER);
    EXPECT_STATUS(sk_gpu_kernels_create(&loaded, NULL, 1), SK_NULL_POINTER);
    EXPECT_STATUS(sk_gpu_kernels_create(&loaded, image, -1), SK_BAD_SIZE);
    EXPECT_STATUS(sk_gpu_kernels_create(&loaded, image, 0), SK_BAD_IMAGE);
    sk_gpu_kernels_destroy(NULL);
    for (size_t length = size - 1; length > 0; length -= length > 40 ? 37 : 1) {
        EXPECT_STATUS(sk_gpu_kernels_create(&loaded, image, (int64_t)length), SK_BAD_IMAGE);
    }
    image[size / 2] ^= 1; /* the checksum */
    EXPECT_STATUS(load(), SK_BAD_IMAGE);
    image[size / 2] ^= 1;
    image[7] = 2; /* a later format */
    EXPECT_STATUS(load(), SK_BAD_IMAGE);
    image[7] = 1;
    /* Whatever byte is wrong under a right checksum: a status, and no access outside (a sanitizer would see it). */
    uint64_t random = 1;
    for (int i = 0; i < 2000; ++i) {
        const size_t at = 12 + (size_t)((next_random(&random) + 1) / 2 * (double)(size - 12));
        const uint8_t kept = image[at];
        image[at] = (uint8_t)(256 * (next_random(&random) + 1) / 2);
        seal();
        loaded = NULL;
        const sk_status status = sk_gpu_kernels_create(&loaded, image, (int64_t)size);
        EXPECT(status == SK_OK || status == SK_BAD_IMAGE || status == SK_DRIVER_ERROR);
        sk_gpu_kernels_destroy(loaded);
        image[at] = kept;
    }
    seal();
    EXPECT(cuda->modules == 0);

    const struct {
        argument argument;
        factor factor;
        const char *dtype;
        sk_status status;
    } cases[] = {
        {{"x", "*fp32", 1}, {"samples", 1}, "fp32", SK_OK},
        {{"nothing", "i64", 1}, {"samples", 1}, "fp32", SK_BAD_IMAGE},
        {{"x", "i64", 1}, {"samples", 1}, "fp32", SK_BAD_IMAGE},
        {{"t", "*fp64", 1}, {"samples", 1}, "fp32", SK_BAD_IMAGE},
        {{"t", "fp64", 1}, {"samples", 1}, "fp32", SK_BAD_IMAGE},
        {{"weights[0]", "i32", 1}, {"samples", 1}, "fp32", SK_BAD_IMAGE},
        {{"weights[64]", "fp32", 1}, {"samples", 1}, "fp32", SK_BAD_IMAGE},
        {{"x_size[2]", "i32", 1}, {"samples", 1}, "fp32", SK_BAD_IMAGE},
        {{"x_size[-1]", "i32", 1}, {"samples", 1}, "fp32", SK_BAD_IMAGE},
        {{"x_size[", "i32", 1}, {"samples", 1}, "fp32", SK_BAD_IMAGE},
        {{"x_size", "i32", 1}, {"samples", 1}, "fp32", SK_BAD_IMAGE},
        {{"x[0]", "*fp32", 1}, {"samples", 1}, "fp32", SK_BAD_IMAGE},
        {{"x", "*fp32", 0}, {"samples", 1}, "fp32", SK_BAD_IMAGE},
        {{"x", "*fp32", 1}, {"samples", 0}, "fp32", SK_BAD_IMAGE},
        {{"x", "*fp32", 1}, {"samples", 1}, "fp64", SK_BAD_IMAGE},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); ++i) {
        const argument arguments[2] = {cases[i].argument, {NULL, NULL, 0}};
        const factor grid[3][4] = {{cases[i].factor}};
        begin(1);
        put_kernel("sm_90", "single", cases[i].dtype, "case", 0, arguments, no_limits, grid);
        seal();
        EXPECT_STATUS(load(), cases[i].status);
    }
    build_image();
}

static void test_gpus(void) {
    const struct {
        int32_t major, minor;
        sk_status status;
    } cases[] = {{9, 0, SK_OK}, {9, 1, SK_WRONG_GPU}, {8, 0, SK_OK}, {8, 9, SK_OK}, {7, 5, SK_WRONG_GPU}, {10, 0, SK_WRONG_GPU}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); ++i) {
        cuda->major = cases[i].major;
        cuda->minor = cases[i].minor;
        EXPECT_STATUS(load(), cases[i].status);
    }
    cuda->major = 9;
    cuda->minor = 0;
    cuda->has_context = 0;
    EXPECT_STATUS(load(), SK_NO_CONTEXT);
    cuda->has_context = 1;
    EXPECT(sk_gpu_driver_result() == 0 || sk_gpu_driver_result() == 200);
    /* Every driver call of loading, failing in turn; nothing stays behind. */
    int calls = 0;
    for (cuda->failure = 719;; ++calls) {
        cuda->fail_after = calls;
        const sk_status status = load();
        if (cuda->fail_after >= 0) break;
        EXPECT_STATUS(status, SK_DRIVER_ERROR);
        EXPECT(sk_gpu_driver_result() == 719);
    }
    EXPECT(calls > 8);
    cuda->fail_after = 0;
    cuda->failure = 2; /* CUDA_ERROR_OUT_OF_MEMORY */
    EXPECT_STATUS(load(), SK_OUT_OF_MEMORY);
    cuda->fail_after = -1;
}

static sk_gpu_plan *plan_of(sk_operation operation) {
    sk_gpu_plan *plan = NULL;
    sk_plan_options options = sk_default_plan_options();
    options.operation = (int32_t)operation;
    options.coarse[0] = h;
    options.coarse[1] = w;
    options.fine[0] = H;
    options.fine[1] = W;
    EXPECT_STATUS(sk_gpu_plan_create(&plan, kernels, &options), SK_OK);
    return plan;
}

static void test_plans(void) {
    sk_gpu_plan *plan = (sk_gpu_plan *)1;
    sk_plan_options options = sk_default_plan_options();
    options.coarse[0] = options.coarse[1] = h;
    options.fine[0] = options.fine[1] = H;
    EXPECT_STATUS(sk_gpu_plan_create(NULL, kernels, &options), SK_NULL_POINTER);
    EXPECT_STATUS(sk_gpu_plan_create(&plan, kernels, NULL), SK_NULL_POINTER);
    EXPECT_STATUS(sk_gpu_plan_create(&plan, NULL, &options), SK_NULL_POINTER);
    EXPECT(plan == NULL);
    options.operation = 9;
    EXPECT_STATUS(sk_gpu_plan_create(&plan, kernels, &options), SK_UNKNOWN_ENUM);
    options.operation = SK_EXPAND;
    options.precision = SK_FAST;
    EXPECT_STATUS(sk_gpu_plan_create(&plan, kernels, &options), SK_NO_KERNEL);
    options.precision = SK_EXACT;
    options.dtype = SK_FLOAT64;
    EXPECT_STATUS(sk_gpu_plan_create(&plan, kernels, &options), SK_NO_KERNEL);
    options.dtype = SK_FLOAT32;
    cuda->failure = 719;
    for (int calls = 0; calls < 9; ++calls) { /* four tables, each allocated and copied, then one wait */
        cuda->fail_after = calls;
        EXPECT_STATUS(sk_gpu_plan_create(&plan, kernels, &options), SK_DRIVER_ERROR);
        EXPECT(plan == NULL && cuda->allocations == 0);
    }
    cuda->fail_after = -1;
    EXPECT_STATUS(sk_gpu_plan_create(&plan, kernels, &options), SK_OK);
    EXPECT(cuda->allocations == 4);
    sk_gpu_plan_destroy(plan);
    sk_gpu_plan_destroy(NULL);
    EXPECT(cuda->allocations == 0);
}

/* The last launch's argument i, of so many bytes. */
static uint64_t passed(int i, int bytes) {
    const fake_launch *launch = &cuda->launches[cuda->launch_count - 1];
    EXPECT(i < launch->argument_count && launch->argument_bytes[i] == bytes);
    return launch->arguments[i];
}

static uint64_t bits_of(double value) {
    uint64_t bits;
    memcpy(&bits, &value, 8);
    return bits;
}

static int launched(const char *symbol, int count, uint32_t grid_x, uint32_t grid_y) {
    const fake_launch *launch = &cuda->launches[cuda->launch_count - 1];
    const int right = cuda->launch_count == count && strcmp(launch->symbol, symbol) == 0 && launch->grid[0] == grid_x &&
                      launch->grid[1] == grid_y && launch->grid[2] == 1 && launch->block[0] == 128 &&
                      launch->block[1] == 1 && launch->block[2] == 1 && launch->stream == &stream;
    if (!right && cuda->launch_count > 0) {
        printf("%d launches, last %s grid %u %u %u\n", (int)cuda->launch_count, launch->symbol, launch->grid[0], launch->grid[1], launch->grid[2]);
    }
    return right;
}

static void test_expand(void) {
    sk_gpu_plan *plan = plan_of(SK_EXPAND);
    sk_array in = sk_contiguous(x, SK_FLOAT32, SAMPLES, PLANES, h, w);
    sk_array values = sk_contiguous(z, SK_FLOAT32, SAMPLES, PLANES, H, W);
    sk_array out = sk_contiguous(y, SK_FLOAT32, SAMPLES, PLANES, H, W);
    int64_t seeds[SAMPLES] = {7, 100, INT64_MAX};
    double t[SAMPLES] = {0.25, 0.5, 1.0}, aligned[SAMPLES] = {-1, -1, -1};
    sk_noise noise = sk_default_noise();
    noise.seeds = seeds;
    noise.seed_count = 1;
    noise.stream = 0xFFFFFFFFu;
    EXPECT_STATUS(sk_gpu_expand(plan, &in, t, 1, &noise, 1, &out, aligned, &stream), SK_OK);
    EXPECT(launched("noise", 1, SAMPLES * PLANES, 3));
    EXPECT(cuda->launches[0].shared_bytes == 57344 && cuda->launches[0].most_shared == 57344);
    EXPECT(passed(0, 8) == (uintptr_t)x && passed(1, 8) == (uintptr_t)y);
    EXPECT(passed(2, 8) == bits_of(0.25) && passed(3, 8) == bits_of(2.0));
    EXPECT(passed(4, 8) == 7 && passed(5, 8) == 0xFFFFFFFFu);
    EXPECT(passed(6, 8) == W && passed(7, 8) == PLANES * h * w);
    EXPECT(passed(8, 4) == h && passed(9, 4) == w && passed(10, 4) == W && passed(11, 4) == w && passed(12, 4) == PLANES);
    EXPECT(passed(16, 8) == 0);
    EXPECT(aligned[0] == 0.4 && aligned[1] == -1);
    const float *rows1 = (const float *)(uintptr_t)passed(13, 8); /* [2, H, h] */
    float sum = 0;
    for (int j = 0; j < h; ++j) sum += rows1[j] + rows1[H * h + j];
    EXPECT(fabsf(sum - sqrtf((float)h / H)) < 1e-6f); /* a constant stays one */

    /* Times or seeds of their own: one launch per sample; without alignment the ratio is 1. */
    EXPECT_STATUS(sk_gpu_expand(plan, &in, t, SAMPLES, &noise, 0, &out, aligned, &stream), SK_OK);
    EXPECT(launched("noise", 1 + SAMPLES, PLANES, 3));
    EXPECT(passed(0, 8) == (uintptr_t)x[2] && passed(1, 8) == (uintptr_t)y[2]);
    EXPECT(passed(2, 8) == bits_of(1.0) && passed(3, 8) == bits_of(1.0) && passed(4, 8) == 9);
    EXPECT(aligned[0] == 0.25 && aligned[2] == 1.0);
    noise.seed_count = SAMPLES;
    EXPECT_STATUS(sk_gpu_expand(plan, &in, t, 1, &noise, 1, &out, NULL, &stream), SK_OK);
    EXPECT(launched("noise", 1 + 2 * SAMPLES, PLANES, 3));
    EXPECT(passed(2, 8) == bits_of(0.25) && passed(4, 8) == INT64_MAX);

    noise = sk_default_noise();
    noise.values = &values;
    cuda->launch_count = 0;
    EXPECT_STATUS(sk_gpu_expand(plan, &in, t, 1, &noise, 1, &out, NULL, &stream), SK_OK);
    EXPECT(launched("tensor", 1, SAMPLES * PLANES, 3));
    EXPECT(passed(15, 8) == (uintptr_t)z);
    EXPECT(cuda->launches[0].shared_bytes == 49152 && cuda->launches[0].most_shared == 0);
    t[0] = 0;
    EXPECT_STATUS(sk_gpu_expand(plan, &in, t, 1, NULL, 1, &out, NULL, &stream), SK_OK);
    EXPECT(launched("noise", 2, SAMPLES * PLANES, 3));
    t[0] = 0.25;

    /* What is refused launches nothing: as on a CPU, and for want of a kernel. */
    cuda->launch_count = 0;
    EXPECT_STATUS(sk_gpu_expand(NULL, &in, t, 1, &noise, 1, &out, NULL, &stream), SK_NULL_POINTER);
    EXPECT_STATUS(sk_gpu_expand(plan, &in, t, 1, NULL, 1, &out, NULL, &stream), SK_NO_NOISE);
    EXPECT_STATUS(sk_gpu_expand(plan, &values, t, 1, &noise, 1, &out, NULL, &stream), SK_WRONG_SHAPE);
    EXPECT_STATUS(sk_gpu_expand(plan, &in, t, 1, &noise, 1, &values, NULL, &stream), SK_OVERLAP);
    EXPECT_STATUS(sk_gpu_truncate(plan, &values, NULL, 0, 1, &in, &stream), SK_WRONG_PLAN);
    out.dtype = SK_FLOAT16;
    EXPECT_STATUS(sk_gpu_expand(plan, &in, t, 1, &noise, 1, &out, NULL, &stream), SK_NO_KERNEL);
    in.dtype = values.dtype = SK_FLOAT16;
    EXPECT_STATUS(sk_gpu_expand(plan, &in, t, 1, &noise, 1, &out, NULL, &stream), SK_NO_KERNEL);
    in.dtype = values.dtype = out.dtype = SK_FLOAT32;
    in.patch = 2;
    in.patch_stride[0] = in.patch_stride[1] = 1;
    EXPECT_STATUS(sk_gpu_expand(plan, &in, t, 1, &noise, 1, &out, NULL, &stream), SK_NO_KERNEL);
    in.patch = 1;
    cuda->fail_after = 0;
    cuda->failure = 719;
    EXPECT_STATUS(sk_gpu_expand(plan, &in, t, 1, &noise, 1, &out, NULL, &stream), SK_DRIVER_ERROR);
    EXPECT(sk_gpu_driver_result() == 719);
    cuda->fail_after = -1;
    in.samples = out.samples = values.samples = 0;
    EXPECT_STATUS(sk_gpu_expand(plan, &in, t, 1, &noise, 1, &out, NULL, &stream), SK_OK);
    EXPECT(cuda->launch_count == 0);
    sk_gpu_plan_destroy(plan);
}

static void test_others(void) {
    const sk_array low = sk_contiguous(x, SK_FLOAT32, SAMPLES, PLANES, h, w);
    const sk_array high = sk_contiguous(z, SK_FLOAT32, SAMPLES, PLANES, H, W);
    const sk_array out = sk_contiguous(y, SK_FLOAT32, SAMPLES, PLANES, H, W);
    sk_gpu_plan *down = plan_of(SK_TRUNCATE), *analysis = plan_of(SK_ANALYSIS), *lift = plan_of(SK_LIFT);
    const double t = 0.5, times[SAMPLES] = {0, 0.25, 0.75};
    cuda->launch_count = 0;
    EXPECT_STATUS(sk_gpu_truncate(down, &high, NULL, 0, 1, &low, &stream), SK_OK);
    EXPECT(launched("single", 1, SAMPLES * PLANES, 2));
    EXPECT(passed(0, 8) == (uintptr_t)z && passed(1, 8) == (uintptr_t)x);
    EXPECT(passed(2, 8) == bits_of(0.0) && passed(3, 8) == bits_of(2.0) && passed(8, 4) == H);
    EXPECT_STATUS(sk_gpu_truncate(down, &high, NULL, 0, 0, &low, &stream), SK_OK);
    EXPECT(passed(3, 8) == bits_of(1.0));
    EXPECT_STATUS(sk_gpu_truncate(down, &high, &t, 1, 1, &low, &stream), SK_OK);
    EXPECT(launched("single", 3, SAMPLES * PLANES, 2));
    EXPECT(passed(2, 8) == bits_of(0.5) && passed(3, 8) == bits_of(2.0));
    EXPECT_STATUS(sk_gpu_truncate(down, &high, times, SAMPLES, 1, &low, &stream), SK_OK);
    EXPECT(launched("single", 3 + SAMPLES, PLANES, 2));
    EXPECT(passed(2, 8) == bits_of(0.75) && passed(0, 8) == (uintptr_t)z[2] && passed(1, 8) == (uintptr_t)x[2]);
    EXPECT_STATUS(sk_gpu_truncate(down, &high, &t, 1, 0, &low, &stream), SK_BAD_TIME);
    EXPECT_STATUS(sk_gpu_truncate(down, &high, NULL, 1, 1, &low, &stream), SK_NULL_POINTER);
    EXPECT_STATUS(sk_gpu_transform(analysis, &high, &out, &stream), SK_OK);
    EXPECT(launched("single", 4 + SAMPLES, SAMPLES * PLANES, 3));
    EXPECT(passed(3, 8) == bits_of(1.0));
    EXPECT_STATUS(sk_gpu_transform(down, &high, &out, &stream), SK_WRONG_PLAN);
    /* Its class wants more shared memory than this GPU has. */
    EXPECT_STATUS(sk_gpu_lift(lift, &high, &low, &t, 1, 1, &out, &stream), SK_NO_KERNEL);
    EXPECT_STATUS(sk_gpu_lift(analysis, &high, &low, &t, 1, 1, &out, &stream), SK_WRONG_PLAN);
    EXPECT_STATUS(sk_gpu_lift(lift, &low, &high, &t, 1, 1, &out, &stream), SK_WRONG_SHAPE);
    sk_gpu_plan_destroy(down);
    sk_gpu_plan_destroy(analysis);
    sk_gpu_plan_destroy(lift);

    int64_t seeds[SAMPLES] = {5, 6, 70};
    sk_array noise = sk_contiguous(y, SK_FLOAT32, SAMPLES, PLANES, H, W);
    cuda->launch_count = 0;
    EXPECT_STATUS(sk_gpu_normal(kernels, &noise, seeds, 1, 3, &stream), SK_OK);
    EXPECT(launched("normal", 1, SAMPLES * PLANES * 1 * 3, 1));
    EXPECT(passed(0, 8) == (uintptr_t)y && passed(1, 8) == 5 && passed(2, 8) == 3);
    EXPECT(passed(3, 8) == PLANES && passed(4, 8) == H && passed(5, 8) == W);
    EXPECT_STATUS(sk_gpu_normal(kernels, &noise, seeds, SAMPLES, 3, &stream), SK_OK);
    EXPECT(launched("normal", 1 + SAMPLES, PLANES * 1 * 3, 1));
    EXPECT(passed(0, 8) == (uintptr_t)y[2] && passed(1, 8) == 70);
    EXPECT_STATUS(sk_gpu_normal(NULL, &noise, seeds, 1, 3, &stream), SK_NULL_POINTER);
    EXPECT_STATUS(sk_gpu_normal(kernels, &noise, seeds, 2, 3, &stream), SK_BAD_SEED);
    noise.planes = 1; /* not contiguous any more */
    EXPECT_STATUS(sk_gpu_normal(kernels, &noise, seeds, 1, 3, &stream), SK_NO_KERNEL);
}

/* On a GPU with more shared memory than any has today. */
static void test_lift(void) {
    sk_gpu_kernels *const usual = kernels;
    const int32_t most = cuda->most_shared;
    cuda->most_shared = 300000;
    EXPECT_STATUS(sk_gpu_kernels_create(&kernels, image, (int64_t)size), SK_OK);
    sk_gpu_plan *lift = plan_of(SK_LIFT);
    const sk_array low = sk_contiguous(x, SK_FLOAT32, SAMPLES, PLANES, h, w), high = sk_contiguous(z, SK_FLOAT32, SAMPLES, PLANES, H, W);
    const sk_array out = sk_contiguous(y, SK_FLOAT32, SAMPLES, PLANES, H, W);
    const double t = 0.5, zero = 0;
    cuda->launch_count = 0;
    EXPECT_STATUS(sk_gpu_lift(lift, &high, &low, &t, 1, 1, &out, &stream), SK_OK);
    EXPECT(launched("lift", 1, SAMPLES * PLANES, 3));
    EXPECT(passed(0, 8) == (uintptr_t)x && passed(1, 8) == (uintptr_t)y && passed(15, 8) == (uintptr_t)z);
    EXPECT(passed(2, 8) == bits_of(0.5) && passed(3, 8) == bits_of(2.0));
    EXPECT_STATUS(sk_gpu_lift(lift, &high, &low, &t, 1, 0, &out, &stream), SK_OK);
    EXPECT(launched("lift", 2, SAMPLES * PLANES, 3));
    EXPECT(passed(2, 8) == bits_of(0.5) && passed(3, 8) == bits_of(1.0)); /* u = 1, t' = t */
    EXPECT_STATUS(sk_gpu_lift(lift, &high, &low, &zero, 1, 0, &out, &stream), SK_BAD_TIME);
    EXPECT(cuda->launch_count == 2);
    sk_gpu_plan_destroy(lift);
    sk_gpu_kernels_destroy(kernels);
    kernels = usual;
    cuda->most_shared = most;
}

static void test_forecast(void) {
    _Alignas(64) static float features[3][100], targets[2][100];
    const float weights[4] = {1.5f, -2.0f, 0.25f, 4.0f};
    const void *table[3] = {features[0] + 4, features[1], features[2]};
    uint32_t pattern;
    cuda->launch_count = 0;
    EXPECT_STATUS(sk_gpu_forecast(kernels, table, 2, weights, 1, 70, SK_FLOAT32, targets, &stream), SK_OK);
    EXPECT(cuda->launch_count == 2); /* 64 elements with 16-byte loads, then 6 */
    EXPECT(strcmp(cuda->launches[0].symbol, "aligned") == 0 && cuda->launches[0].grid[0] == 2);
    EXPECT(cuda->launches[0].arguments[5] == 0 && cuda->launches[0].arguments[6] == 64);
    EXPECT(launched("unaligned", 2, 1, 1));
    EXPECT(passed(0, 8) == (uintptr_t)table[0] && passed(1, 8) == (uintptr_t)table[1]);
    memcpy(&pattern, &weights[1], 4);
    EXPECT(passed(3, 4) == pattern);
    EXPECT(passed(5, 8) == 64 && passed(6, 8) == 70 && passed(7, 4) == 2);
    /* The second target of an odd size begins unaligned. */
    cuda->launch_count = 0;
    EXPECT_STATUS(sk_gpu_forecast(kernels, table, 2, weights, 2, 33, SK_FLOAT32, targets, &stream), SK_OK);
    EXPECT(cuda->launch_count == 4 && strcmp(cuda->launches[2].symbol, "unaligned") == 0);
    EXPECT(passed(4, 8) == (uintptr_t)((float *)targets + 33));
    memcpy(&pattern, &weights[2], 4);
    EXPECT(passed(2, 4) == pattern);
    /* One feature of two: the second pointer repeats the first. */
    EXPECT_STATUS(sk_gpu_forecast(kernels, table, 1, weights, 1, 16, SK_FLOAT32, targets, &stream), SK_OK);
    EXPECT(passed(1, 8) == (uintptr_t)table[0] && passed(7, 4) == 1);
    cuda->launch_count = 0;
    EXPECT_STATUS(sk_gpu_forecast(kernels, table, 3, weights, 1, 70, SK_FLOAT32, targets, &stream), SK_NO_KERNEL);
    EXPECT_STATUS(sk_gpu_forecast(kernels, table, 2, weights, 1, 70, SK_FLOAT16, targets, &stream), SK_NO_KERNEL);
    EXPECT_STATUS(sk_gpu_forecast(kernels, table, 2, weights, 1, 70, SK_FLOAT64, targets, &stream), SK_WRONG_DTYPE);
    EXPECT_STATUS(sk_gpu_forecast(kernels, table, 2, weights, 1, 70, SK_FLOAT32, features, &stream), SK_OVERLAP);
    EXPECT_STATUS(sk_gpu_forecast(NULL, table, 2, weights, 1, 70, SK_FLOAT32, targets, &stream), SK_NULL_POINTER);
    EXPECT_STATUS(sk_gpu_forecast(kernels, NULL, 2, weights, 1, 70, SK_FLOAT32, targets, &stream), SK_NULL_POINTER);
    EXPECT_STATUS(sk_gpu_forecast(kernels, table, 2, weights, 1, 0, SK_FLOAT32, targets, &stream), SK_OK);
    EXPECT(cuda->launch_count == 0);
}

int main(void) {
    cuda = fake_cuda_state();
    build_image();
    test_images();
    test_gpus();
    EXPECT_STATUS(sk_gpu_kernels_create(&kernels, image, (int64_t)size), SK_OK);
    test_plans();
    test_expand();
    test_others();
    test_lift();
    test_forecast();
    sk_gpu_kernels_destroy(kernels);
    EXPECT(cuda->modules == 0 && cuda->allocations == 0);
    return failures != 0;
}
