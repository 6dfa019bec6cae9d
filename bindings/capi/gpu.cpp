// SPDX-License-Identifier: Apache-2.0
// The sk_gpu_* functions: the checks of the CPU's, then the values of a launch; the kernel that takes them is launched.
#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <vector>

#include "bases.hpp"
#include "check.hpp"
#include "gpu_driver.hpp"
#include "gpu_image.hpp"
#include "spectral_kernels_gpu.h"
#include "table.hpp"

#ifdef SK_GPU_IMAGE
__asm__(
    ".pushsection .rodata, \"a\"\n"
    ".balign 16\n"
    ".global sk_gpu_image, sk_gpu_image_end\n"
    ".hidden sk_gpu_image, sk_gpu_image_end\n"
    "sk_gpu_image: .incbin \"" SK_GPU_IMAGE "\"\n"
    "sk_gpu_image_end: .byte 0\n"
    ".popsection\n");
extern "C" __attribute__((visibility("hidden"))) const uint8_t sk_gpu_image[], sk_gpu_image_end[];
#endif

struct sk_gpu_kernels {
    const sk::Driver& driver;
    std::vector<sk::GpuKernel> kernels{};
    std::vector<void*> modules{};

    explicit sk_gpu_kernels(const sk::Driver& d) : driver(d) {}
    ~sk_gpu_kernels() {
        for (void* const module : modules) driver.cuModuleUnload(module);
    }
};

struct sk_gpu_plan {
    const sk_gpu_kernels& loaded;
    sk_operation operation{};
    sk::Grids grids{};
    std::array<uint64_t, 4> tables{};  // rows and columns of both terms, on the GPU

    explicit sk_gpu_plan(const sk_gpu_kernels& k) : loaded(k) {}
    ~sk_gpu_plan() {
        for (const uint64_t table : tables) {
            if (table != 0) loaded.driver.cuMemFree(table);
        }
    }
};

namespace {

using namespace sk;

// CUdevice_attribute and CUfunction_attribute of cuda.h.
constexpr int kComputeMajor = 75, kComputeMinor = 76, kMostSharedBytes = 97, kDynamicSharedBytes = 8;
constexpr uint32_t kSharedWithoutAsking = 48 << 10;

sk_status load(sk_gpu_kernels& loaded, const uint8_t* image, std::size_t size) {
    const Driver& driver = loaded.driver;
    void* context = nullptr;
    if (driver.cuCtxGetCurrent(&context) != 0 || !context) return SK_NO_CONTEXT;
    int device = 0, major = 0, minor = 0, most_shared = 0;
    SK_TRY(driver_status(driver.cuCtxGetDevice(&device)));
    SK_TRY(driver_status(driver.cuDeviceGetAttribute(&major, kComputeMajor, device)));
    SK_TRY(driver_status(driver.cuDeviceGetAttribute(&minor, kComputeMinor, device)));
    SK_TRY(driver_status(driver.cuDeviceGetAttribute(&most_shared, kMostSharedBytes, device)));
    SK_TRY(read_image(image, size, loaded.kernels));
    std::erase_if(loaded.kernels, [&](const GpuKernel& k) { return !k.runs_on(major, minor); });
    if (loaded.kernels.empty()) return SK_WRONG_GPU;
    // A smaller chip of the same generation may lack the shared memory of some classes; the others still serve.
    std::erase_if(loaded.kernels, [&](const GpuKernel& k) { return k.shared_bytes > static_cast<uint32_t>(most_shared); });
    loaded.modules.reserve(loaded.kernels.size());
    for (GpuKernel& kernel : loaded.kernels) {
        // The driver reads the length of the code from the code; a copy of its own keeps it aligned.
        Aligned<uint8_t> code(kernel.code_size);
        std::memcpy(code.data.get(), kernel.code, kernel.code_size);
        void* module = nullptr;
        SK_TRY(driver_status(driver.cuModuleLoadData(&module, code.data.get())));
        loaded.modules.push_back(module);
        SK_TRY(driver_status(driver.cuModuleGetFunction(&kernel.function, module, kernel.symbol.c_str())));
        if (kernel.shared_bytes > kSharedWithoutAsking) {
            const auto bytes = static_cast<int>(kernel.shared_bytes);
            SK_TRY(driver_status(driver.cuFuncSetAttribute(kernel.function, kDynamicSharedBytes, bytes)));
        }
        kernel.code = nullptr;
    }
    return SK_OK;
}

// The first kernel of the operation that takes these values; null without one.
const GpuKernel* choose(const sk_gpu_kernels& loaded, const char* operation, Dtype dtype, const Slots& values) {
    for (const GpuKernel& kernel : loaded.kernels) {
        if (kernel.operation == operation && kernel.dtype == dtype && kernel.takes(values)) return &kernel;
    }
    return nullptr;
}

sk_status launch(const sk_gpu_kernels& loaded, const GpuKernel& kernel, Slots& values, void* stream) {
    std::array<uint32_t, 3> grid{1, 1, 1};
    constexpr int64_t most[3] = {INT32_MAX, 65535, 65535};
    for (std::size_t axis = 0; axis < kernel.grid.size(); ++axis) {
        int64_t blocks = 1;
        for (const auto& [slot, divisor] : kernel.grid[axis]) {
            const int64_t value = values.of[slot];
            if (value <= 0) return SK_OK;  // nothing to do
            if (__builtin_mul_overflow(blocks, (value - 1) / divisor + 1, &blocks)) return SK_BAD_SIZE;
        }
        if (blocks > most[axis]) return SK_BAD_SIZE;
        grid[axis] = static_cast<uint32_t>(blocks);
    }
    std::vector<void*> arguments;
    arguments.reserve(kernel.arguments.size());
    for (const GpuKernel::Argument& argument : kernel.arguments) {
        int64_t& value = values.of[argument.slot];
        if (argument.type == GpuKernel::Type::i32 && value != static_cast<int32_t>(value)) return SK_BAD_SIZE;
        arguments.push_back(&value);  // little-endian: the low half is the 32-bit value
    }
    return driver_status(loaded.driver.cuLaunchKernel(kernel.function, grid[0], grid[1], grid[2], kernel.threads, 1, 1,
                                                      kernel.shared_bytes, stream, arguments.data(), nullptr));
}

int64_t address(const void* pointer) { return static_cast<int64_t>(reinterpret_cast<uintptr_t>(pointer)); }

int64_t width_of(Dtype dtype) { return dtype == Dtype::f32 ? 4 : 2; }

void describe(const Planes& planes, int pointer, int strides, int size, Slots& values) {
    values.of[pointer] = address(planes.data);
    std::copy(planes.stride, planes.stride + 7, values.of + strides);
    values.of[size] = planes.rows;
    values.of[size + 1] = planes.columns;
}

// The weights of a plane product: one ratio, and one time or one per sample.
struct Times {
    const double* t;
    int64_t count;
    double ratio;
};

// A plane product on the whole batch, or sample by sample where they differ in more than their seed's last step.
sk_status run(const sk_gpu_plan& plan, const char* operation, const Job& job, const Times& times, void* stream) {
    const Dtype dtype = job.out.dtype;
    if (job.x.dtype != dtype || (job.has_other && job.other.dtype != dtype)) return SK_NO_KERNEL;
    const int64_t samples = job.out.samples;
    if (samples == 0 || job.out.inner == 0) return SK_OK;
    Slots values;
    describe(job.x, kX, kXStrides, kXSize, values);
    describe(job.x, kOther, kOtherStrides, kOtherSize, values);
    describe(job.out, kOut, kOutStrides, kOutSize, values);
    if (job.has_other) {
        describe(job.other, kOther, kOtherStrides, kOtherSize, values);
    } else if (plan.operation == SK_EXPAND) {  // noise lies nowhere, but has a size
        values.of[kOtherSize] = job.out.rows;
        values.of[kOtherSize + 1] = job.out.columns;
    }
    values.of[kSeeds] = values.of[kTimes] = values.of[kX];  // not read
    for (int i = 0; i < 4; ++i) values.of[kTables + i] = static_cast<int64_t>(plan.tables[i]);
    values.of[kCorner] = plan.grids.coarse[0];
    values.of[kCorner + 1] = plan.grids.coarse[1];
    values.of[kBaseSeed] = job.base_seed;
    values.of[kStream] = job.stream;
    values.of[kRatio] = std::bit_cast<int64_t>(times.ratio);
    values.of[kPlanes] = job.out.inner;
    values.of[kPatch] = std::max({job.out.patch_rows, job.x.patch_rows, job.has_other ? job.other.patch_rows : 1});
    const GpuKernel* const kernel = choose(plan.loaded, operation, dtype, values);
    if (!kernel) return SK_NO_KERNEL;
    const bool together = times.count == 1 && !job.seeds;
    values.of[kSamples] = together ? samples : 1;
    for (int64_t b = 0; b < (together ? 1 : samples); ++b) {
        values.of[kTime] = std::bit_cast<int64_t>(times.t[times.count == 1 ? 0 : b]);
        if (!together) values.of[kBaseSeed] = job.seeds ? job.seeds[b] : job.base_seed + b;
        SK_TRY(launch(plan.loaded, *kernel, values, stream));
        values.of[kX] += job.x.stride[0] * width_of(dtype);
        values.of[kOther] += (job.has_other ? job.other : job.x).stride[0] * width_of(dtype);
        values.of[kOut] += job.out.stride[0] * width_of(dtype);
    }
    return SK_OK;
}

sk_status usable(const sk_gpu_plan* plan, std::initializer_list<sk_operation> operations) {
    if (!plan) return SK_NULL_POINTER;
    return std::find(operations.begin(), operations.end(), plan->operation) == operations.end() ? SK_WRONG_PLAN : SK_OK;
}

constexpr double kClean = 0;

sk_status upload(const Driver& driver, Basis basis, Kind kind, int64_t fine, int64_t coarse, uint64_t& table) {
    Values values = table_values(basis, kind, fine, coarse);
    std::vector<double> low(values.data.size());
    split_table(values.K, values.data, low);
    std::vector<float> slices(values.data.begin(), values.data.end());
    slices.insert(slices.end(), low.begin(), low.end());
    SK_TRY(driver_status(driver.cuMemAlloc(&table, slices.size() * sizeof(float))));
    return driver_status(driver.cuMemcpyHtoD(table, slices.data(), slices.size() * sizeof(float)));
}

}  // namespace

extern "C" {

sk_status sk_gpu_kernels_create(sk_gpu_kernels** out, const void* image, int64_t size) {
    if (!out) return SK_NULL_POINTER;
    *out = nullptr;
    if (size < 0) return SK_BAD_SIZE;
    if (!image && size > 0) return SK_NULL_POINTER;
    if (!image) {
#ifdef SK_GPU_IMAGE
        image = sk_gpu_image;
        size = sk_gpu_image_end - sk_gpu_image;
#else
        return SK_BAD_IMAGE;
#endif
    }
    return guarded([&]() -> sk_status {
        const Driver* const driver = Driver::get();
        if (!driver) return SK_NO_DRIVER;
        auto loaded = std::make_unique<sk_gpu_kernels>(*driver);
        SK_TRY(load(*loaded, static_cast<const uint8_t*>(image), static_cast<std::size_t>(size)));
        *out = loaded.release();
        return SK_OK;
    });
}

void sk_gpu_kernels_destroy(sk_gpu_kernels* kernels) { delete kernels; }

sk_status sk_gpu_plan_create(sk_gpu_plan** out, const sk_gpu_kernels* kernels, const sk_plan_options* options) {
    if (!out) return SK_NULL_POINTER;
    *out = nullptr;
    if (!kernels) return SK_NULL_POINTER;
    Grids grids;
    SK_TRY(checked_options(options, grids));
    if (grids.f64 || grids.levels != 0 || options->precision != SK_EXACT) return SK_NO_KERNEL;
    return guarded([&]() -> sk_status {
        auto plan = std::make_unique<sk_gpu_plan>(*kernels);
        plan->operation = static_cast<sk_operation>(options->operation);
        plan->grids = grids;
        static constexpr Kind first[] = {Kind::up, Kind::down, Kind::analysis, Kind::synthesis, Kind::up};
        static constexpr Kind second[] = {Kind::synthesis, Kind::down, Kind::analysis, Kind::synthesis, Kind::lowpass};
        const bool two_terms = options->operation == SK_EXPAND || options->operation == SK_LIFT;
        for (int i = 0; i < (two_terms ? 4 : 2); ++i) {
            const Kind kind = (i < 2 ? first : second)[options->operation];
            SK_TRY(upload(kernels->driver, static_cast<Basis>(options->basis), kind, grids.fine[i % 2], grids.coarse[i % 2],
                          plan->tables[i]));
        }
        // The copies are done for every stream, those that do not wait for the default one too.
        SK_TRY(driver_status(kernels->driver.cuCtxSynchronize()));
        *out = plan.release();
        return SK_OK;
    });
}

void sk_gpu_plan_destroy(sk_gpu_plan* plan) { delete plan; }

sk_status sk_gpu_expand(const sk_gpu_plan* plan, const sk_array* x, const double* t, int64_t t_count, const sk_noise* noise,
                        int32_t align, const sk_array* y, double* aligned, void* stream) {
    SK_TRY(usable(plan, {SK_EXPAND}));
    return guarded([&]() -> sk_status {
        Job job;
        SK_TRY(checked_expand(plan->grids, x, t, t_count, noise, y, aligned, job));
        // With ratio 1 the first weight is 1. Where every t is 0 any noise has the weight 0.
        const char* const operation = job.has_other ? "expand_tensor" : "expand_noise";
        SK_TRY(run(*plan, operation, job, {t, t_count, align ? plan->grids.ratio() : 1.0}, stream));
        sk::align(plan->grids, t, t_count, align, aligned);
        return SK_OK;
    });
}

sk_status sk_gpu_truncate(const sk_gpu_plan* plan, const sk_array* x, const double* t, int64_t t_count, int32_t normalize,
                          const sk_array* y, void* stream) {
    SK_TRY(usable(plan, {SK_TRUNCATE}));
    return guarded([&]() -> sk_status {
        Job job;
        SK_TRY(checked_truncate(plan->grids, x, t, t_count, normalize, y, job));
        return run(*plan, "single", job, {t ? t : &kClean, t ? t_count : 1, normalize ? plan->grids.ratio() : 1.0}, stream);
    });
}

sk_status sk_gpu_transform(const sk_gpu_plan* plan, const sk_array* x, const sk_array* y, void* stream) {
    SK_TRY(usable(plan, {SK_ANALYSIS, SK_SYNTHESIS}));
    return guarded([&]() -> sk_status {
        Job job;
        SK_TRY(checked_single(plan->grids, x, y, false, job));
        return run(*plan, "single", job, {&kClean, 1, 1.0}, stream);
    });
}

sk_status sk_gpu_lift(const sk_gpu_plan* plan, const sk_array* z, const sk_array* v, const double* t, int64_t t_count, int32_t align,
                      const sk_array* y, void* stream) {
    SK_TRY(usable(plan, {SK_LIFT}));
    return guarded([&]() -> sk_status {
        Job job;
        SK_TRY(checked_lift(plan->grids, z, v, t, t_count, y, job));
        return run(*plan, "lift", job, {t, t_count, align ? plan->grids.ratio() : 1.0}, stream);
    });
}

sk_status sk_gpu_normal(const sk_gpu_kernels* kernels, const sk_array* y, const int64_t* seeds, int64_t seed_count,
                        uint32_t noise_stream, void* stream) {
    if (!kernels) return SK_NULL_POINTER;
    Planes out;
    SK_TRY(checked_normal(y, seeds, seed_count, out));
    return guarded([&]() -> sk_status {
        const sk_array whole = sk_contiguous(y->data, y->dtype, y->samples, y->planes, y->rows, y->columns);
        const bool contiguous = std::equal(whole.stride, whole.stride + 4, y->stride);
        Slots values;
        values.of[kOut] = values.of[kSeeds] = address(y->data);
        values.of[kStream] = noise_stream;
        values.of[kPlanes] = y->planes;
        values.of[kRows] = y->rows;
        values.of[kColumns] = y->columns;
        const GpuKernel* const kernel = choose(*kernels, "normal", out.dtype, values);
        if (!kernel || !contiguous) return SK_NO_KERNEL;
        const bool together = seed_count == 1;
        values.of[kSamples] = together ? y->samples : 1;
        for (int64_t b = 0; b < (together ? 1 : y->samples); ++b) {
            values.of[kBaseSeed] = seeds[b];
            SK_TRY(launch(*kernels, *kernel, values, stream));
            values.of[kOut] += y->stride[0] * width_of(out.dtype);
        }
        return SK_OK;
    });
}

sk_status sk_gpu_forecast(const sk_gpu_kernels* kernels, const void* const* features, int64_t count, const float* weights,
                          int64_t targets, int64_t size, int32_t dtype, void* out, void* stream) {
    if (!kernels) return SK_NULL_POINTER;
    SK_TRY(checked_forecast(features, count, weights, targets, size, dtype, out));
    if (size == 0 || targets == 0) return SK_OK;
    if (count > kMostFeatures) return SK_NO_KERNEL;
    return guarded([&]() -> sk_status {
        const auto kind = static_cast<Dtype>(dtype);
        // Kernels with 16-byte loads take whole multiples of 16 elements; the rest has a launch of its own.
        const int64_t body = size / 16 * 16;
        Slots values;
        values.of[kCount] = count;
        values.of[kStride] = size;
        for (int64_t k = 0; k < kMostFeatures; ++k) values.of[kFeatures + k] = address(features[k < count ? k : 0]);
        // First whether there are kernels for all parts: either everything is launched, or nothing.
        for (const bool launches : {false, true}) {
            for (int64_t g = 0; g < targets; ++g) {
                values.of[kOut] = address(out) + g * size * width_of(kind);
                for (int64_t k = 0; k < count; ++k) values.of[kWeights + k] = std::bit_cast<int32_t>(weights[g * count + k]);
                for (const auto& [start, stop] : {std::array{INT64_C(0), body}, std::array{body, size}}) {
                    if (start == stop) continue;
                    values.of[kStart] = start;
                    values.of[kStop] = stop;
                    values.of[kElements] = stop - start;
                    const GpuKernel* const kernel = choose(*kernels, "forecast", kind, values);
                    if (!kernel) return SK_NO_KERNEL;
                    if (launches) SK_TRY(launch(*kernels, *kernel, values, stream));
                }
            }
        }
        return SK_OK;
    });
}

}  // extern "C"
