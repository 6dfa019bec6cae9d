// SPDX-License-Identifier: Apache-2.0
// The C functions: check, fill a job, run it. No exception crosses.
#include <cmath>
#include <initializer_list>
#include <memory>
#include <vector>

#include "bases.hpp"
#include "check.hpp"
#include "forecast.hpp"
#include "haar.hpp"
#include "noise.hpp"
#include "planes.hpp"
#include "spectral_kernels.h"
#include "table.hpp"

struct sk_plan {
    sk_operation operation;
    sk::Grids grids;
    sk::Mode mode;
    int threads;
    const sk::Isa* isa;
    std::shared_ptr<const sk::Table> first[2], second[2];
    bool spectral = false;  // an expansion of tier "fast" by cosine transforms, see Job
};

namespace {

using namespace sk;

sk_status usable(const sk_plan* plan, std::initializer_list<sk_operation> operations) {
    if (!plan) return SK_NULL_POINTER;
    for (const sk_operation operation : operations) {
        if (plan->operation == operation) return SK_OK;
    }
    return SK_WRONG_PLAN;
}

Job job_of(const sk_plan& plan) {
    Job job;
    job.mode = plan.mode;
    job.spectral = plan.spectral;
    if (plan.grids.levels != 0) return job;
    job.term[0] = {&plan.first[0]->folded(), &plan.first[1]->folded()};
    if (plan.second[0]) job.term[1] = {&plan.second[0]->folded(), &plan.second[1]->folded()};
    return job;
}

// The maps of an operation's first and, where it has one, second term.
constexpr Kind kFirst[] = {Kind::up, Kind::down, Kind::analysis, Kind::synthesis, Kind::up};
constexpr Kind kSecond[] = {Kind::synthesis, Kind::synthesis, Kind::synthesis, Kind::synthesis, Kind::lowpass};

sk_status run(const sk_plan& plan, const Job& job) {
    if (plan.grids.levels != 0) {
        const Haar local{job.out,       job.x,         job.other, kFirst[plan.operation], kSecond[plan.operation], plan.grids.levels,
                         job.has_other, job.has_second, job.seeds, job.base_seed,          job.stream,              job.weights,
                         job.weight_stride};
        haar(local, *plan.isa, plan.threads);
    } else {
        plane_product(job, *plan.isa, plan.threads);
    }
    return SK_OK;
}

// weigh(t, u, weights) fills in alpha, beta and gamma at each time, u = 1 + (ratio - 1) t.
template <class Weigh>
sk_status run_at(const sk_plan& plan, Job& job, const double* t, int64_t t_count, double ratio, const Weigh& weigh) {
    std::vector<double> weights(3 * t_count);
    for (int64_t b = 0; b < t_count; ++b) weigh(t[b], 1.0 + (ratio - 1.0) * t[b], weights.data() + 3 * b);
    job.weights = weights.data();
    job.weight_stride = t_count == 1 ? 0 : 3;
    return run(plan, job);
}

}  // namespace

extern "C" {

int32_t sk_version(void) { return SK_VERSION_MAJOR * 10000 + SK_VERSION_MINOR * 100 + SK_VERSION_PATCH; }

const char* sk_status_string(int32_t status) {
    switch (status) {
        case SK_OK: return "success";
        case SK_NULL_POINTER: return "a pointer that must not be null is null";
        case SK_BAD_STRUCT: return "struct_size or a reserved field is not what this library knows; start from sk_default_*() or sk_contiguous()";
        case SK_UNKNOWN_ENUM: return "an enum value this library does not know";
        case SK_BAD_SIZE: return "a size is negative, zero or too large, or the coarse one does not lead to the fine one";
        case SK_BAD_PATCH: return "patch must be at least 1 and divide both sides of a plane";
        case SK_WRONG_SHAPE: return "an array does not have the plane size of the plan, or the batches differ";
        case SK_WRONG_DTYPE: return "the plan was made for another dtype; float64 needs a plan of its own";
        case SK_WRONG_PLAN: return "the plan was made for another operation";
        case SK_MISALIGNED: return "an array, or times, seeds or weights, is not aligned to its element size";
        case SK_OVERLAP: return "an output overlaps an input, another output or itself";
        case SK_BAD_TIME: return "t must be in [0, 1] (sk_lift: in (0, 1]; sk_truncate without normalisation: 0), one of it or one per sample";
        case SK_BAD_SEED: return "seeds must be 0 <= seed < 2^63, also seed + sample; one of it or one per sample";
        case SK_NO_NOISE: return "t > 0 needs noise, either from seeds or from an array";
        case SK_OUT_OF_MEMORY: return "out of memory";
        case SK_BAD_STEP: return "steps must ascend in [0, num_steps], targets lie from the last of them to num_steps";
        case SK_BAD_OPTION: return "an option of a forecast lies outside of its range: degree, ridge, blend, window, warmup or flex";
        case SK_SINGULAR: return "the steps do not determine the fit; take a larger ridge, a lower degree or more steps";
        case SK_NO_DRIVER: return "there is no CUDA driver (libcuda.so.1), or no GPU, on this machine";
        case SK_NO_CONTEXT: return "this thread has no CUDA context; make one current, for instance by cudaFree(0)";
        case SK_BAD_IMAGE: return "not an image that spectral_kernels.aot of this version wrote, or none is embedded";
        case SK_WRONG_GPU: return "no kernel of the image was compiled for this GPU";
        case SK_NO_KERNEL: return "no kernel of the image takes this dtype, size, patch or precision";
        case SK_DRIVER_ERROR: return "a call of the CUDA driver failed; sk_gpu_driver_result() says with which CUresult";
        case SK_INTERNAL: return "a defect of the library";
    }
    return "no status of this library";
}

sk_array sk_contiguous(void* data, int32_t dtype, int64_t samples, int64_t planes, int64_t rows, int64_t columns) {
    sk_array array{};
    array.struct_size = sizeof(sk_array);
    array.data = data;
    array.dtype = dtype;
    array.patch = 1;
    array.samples = samples;
    array.planes = planes;
    array.rows = rows;
    array.columns = columns;
    // Sizes that overflow are refused when the array is used; here they must only not be undefined behaviour.
    const auto product = [](int64_t a, int64_t b) { return static_cast<int64_t>(static_cast<uint64_t>(a) * static_cast<uint64_t>(b)); };
    array.stride[3] = 1;
    array.stride[2] = columns;
    array.stride[1] = product(rows, columns);
    array.stride[0] = product(planes, array.stride[1]);
    return array;
}

sk_plan_options sk_default_plan_options(void) {
    sk_plan_options options{};
    options.struct_size = sizeof(sk_plan_options);
    return options;
}

sk_noise sk_default_noise(void) {
    sk_noise noise{};
    noise.struct_size = sizeof(sk_noise);
    return noise;
}

sk_status sk_plan_create(sk_plan** out, const sk_plan_options* options) {
    if (!out) return SK_NULL_POINTER;
    *out = nullptr;
    Grids grids;
    SK_TRY(checked_options(options, grids));
    return guarded([&] {
        auto plan = std::make_unique<sk_plan>();
        plan->operation = static_cast<sk_operation>(options->operation);
        plan->grids = grids;
        plan->mode = options->dtype == SK_FLOAT64 ? Mode::f64 : options->precision == SK_FAST ? Mode::f32 : Mode::exact;
        plan->threads = threads_of(options->threads);
        plan->isa = &best_isa();
        const bool factorised = plan->mode == Mode::f32 && options->basis == SK_DCT;
        plan->spectral = factorised && plan->operation == SK_EXPAND;
        const bool square = grids.fine[0] == grids.fine[1] && grids.coarse[0] == grids.coarse[1];
        for (int axis = 0; axis < 2 && grids.levels == 0; ++axis) {
            const auto build = [&](Kind kind, std::shared_ptr<const Table> (&tables)[2]) {
                std::shared_ptr<const Table>& table = tables[axis];
                if (axis == 1 && square) {
                    table = tables[0];
                    return;
                }
                if (factorised && (kind == Kind::analysis || kind == Kind::synthesis)) {
                    const bool coarse = plan->spectral && kind == Kind::analysis;
                    const int64_t n = coarse ? grids.coarse[axis] : grids.fine[axis];
                    table = std::make_shared<const Table>(Table::fast_dct(Mode::f32, n, kind == Kind::synthesis));
                    return;
                }
                const Values values = table_values(static_cast<Basis>(options->basis), kind, grids.fine[axis], grids.coarse[axis]);
                table = std::make_shared<const Table>(plan->mode, values.m, values.K, values.data.data());
            };
            build(plan->spectral ? Kind::analysis : kFirst[plan->operation], plan->first);
            if (plan->operation == SK_EXPAND || plan->operation == SK_LIFT) build(kSecond[plan->operation], plan->second);
        }
        *out = plan.release();
        return SK_OK;
    });
}

void sk_plan_destroy(sk_plan* plan) { delete plan; }

sk_status sk_expand(const sk_plan* plan, const sk_array* x, const double* t, int64_t t_count, const sk_noise* noise,
                    int32_t align, const sk_array* y, double* aligned) {
    SK_TRY(usable(plan, {SK_EXPAND}));
    return guarded([&]() -> sk_status {
        Job job = job_of(*plan);
        SK_TRY(checked_expand(plan->grids, x, t, t_count, noise, y, aligned, job));
        job.has_second = job.has_second || job.spectral;  // the one synthesis is the second term's
        const double ratio = align ? plan->grids.ratio() : 1.0;
        SK_TRY(run_at(*plan, job, t, t_count, ratio, [&](double time, double u, double* weights) {
            weights[0] = ratio / u;
            weights[1] = time;
        }));
        sk::align(plan->grids, t, t_count, align, aligned);
        return SK_OK;
    });
}

sk_status sk_truncate(const sk_plan* plan, const sk_array* x, const double* t, int64_t t_count, int32_t normalize, const sk_array* y) {
    SK_TRY(usable(plan, {SK_TRUNCATE}));
    return guarded([&]() -> sk_status {
        Job job = job_of(*plan);
        SK_TRY(checked_truncate(plan->grids, x, t, t_count, normalize, y, job));
        const double ratio = normalize ? plan->grids.ratio() : 1.0, clean = 0;
        return run_at(*plan, job, t ? t : &clean, t ? t_count : 1, ratio, [&](double, double u, double* weights) { weights[0] = u / ratio; });
    });
}

sk_status sk_transform(const sk_plan* plan, const sk_array* x, const sk_array* y) {
    SK_TRY(usable(plan, {SK_ANALYSIS, SK_SYNTHESIS}));
    return guarded([&]() -> sk_status {
        Job job = job_of(*plan);
        SK_TRY(checked_single(plan->grids, x, y, false, job));
        const double weights[3] = {1, 0, 0};
        job.weights = weights;
        return run(*plan, job);
    });
}

sk_status sk_lift(const sk_plan* plan, const sk_array* z, const sk_array* v, const double* t, int64_t t_count, int32_t align,
                  const sk_array* y) {
    SK_TRY(usable(plan, {SK_LIFT}));
    return guarded([&]() -> sk_status {
        Job job = job_of(*plan);
        SK_TRY(checked_lift(plan->grids, z, v, t, t_count, y, job));
        const double ratio = align ? plan->grids.ratio() : 1.0;
        return run_at(*plan, job, t, t_count, ratio, [&](double time, double u, double* weights) {
            weights[2] = 1.0 / (ratio * time / u);
            weights[1] = -weights[2];
            weights[0] = u;
        });
    });
}

sk_status sk_normal(const sk_array* y, const int64_t* seeds, int64_t seed_count, uint32_t stream, int32_t threads) {
    Planes out;
    SK_TRY(checked_normal(y, seeds, seed_count, out));
    if (threads < 0) return SK_BAD_SIZE;
    return guarded([&] {
        Noise noise;
        noise.data = out.data;
        noise.dtype = out.dtype;
        const int64_t size[4] = {y->samples, y->planes, y->rows, y->columns};
        for (int axis = 0; axis < 4; ++axis) {
            noise.size[axis] = size[axis];
            noise.stride[axis] = y->stride[axis];
        }
        noise.seeds = seed_count == 1 ? nullptr : seeds;
        noise.base_seed = seed_count == 1 ? seeds[0] : 0;
        noise.stream = stream;
        draw(noise, best_isa(), threads_of(threads));
        return SK_OK;
    });
}

sk_status sk_forecast(const void* const* features, int64_t count, const float* weights, int64_t targets, int64_t size,
                      int32_t dtype, void* out, int32_t threads) {
    SK_TRY(checked_forecast(features, count, weights, targets, size, dtype, out));
    if (threads < 0) return SK_BAD_SIZE;
    if (size == 0 || targets == 0) return SK_OK;
    return guarded([&]() -> sk_status {
        const std::vector<Dtype> dtypes(count, static_cast<Dtype>(dtype));
        Forecast job;
        job.features = features;
        job.dtypes = dtypes.data();
        job.weights = weights;
        job.count = count;
        job.targets = targets;
        job.size = size;
        job.out = out;
        job.out_dtype = static_cast<Dtype>(dtype);
        forecast(job, best_isa(), threads_of(threads));
        return SK_OK;
    });
}

}  // extern "C"
