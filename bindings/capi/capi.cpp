// SPDX-License-Identifier: Apache-2.0
// The C functions: check, fill a job, run it. No exception crosses.
#include <cmath>
#include <initializer_list>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <thread>
#include <vector>

#include "bases.hpp"
#include "check.hpp"
#include "forecast.hpp"
#include "noise.hpp"
#include "planes.hpp"
#include "spectral_kernels.h"
#include "table.hpp"

struct sk_plan {
    sk_operation operation;
    sk::Mode mode;
    int64_t coarse[2], fine[2];
    int threads;
    const sk::Isa* isa;
    std::optional<sk::Table> first[2], second[2];

    double ratio() const {
        const auto area = [](const int64_t(&size)[2]) { return static_cast<double>(size[0] * size[1]); };
        return std::sqrt(area(fine) / area(coarse));
    }
};

namespace {

using namespace sk;

#define SK_TRY(call)                                              \
    if (const sk_status status_ = (call); status_ != SK_OK) {     \
        return status_;                                           \
    }

template <class F>
sk_status guarded(F&& body) noexcept {
    try {
        return body();
    } catch (const std::bad_alloc&) {
        return SK_OUT_OF_MEMORY;
    } catch (const std::length_error&) {
        return SK_OUT_OF_MEMORY;
    } catch (...) {
        return SK_INTERNAL;
    }
}

int threads_of(int32_t asked) {
    if (asked > 0) return asked < 1024 ? asked : 1024;
    const unsigned here = std::thread::hardware_concurrency();
    return here > 0 ? static_cast<int>(here) : 1;
}

sk_status usable(const sk_plan* plan, std::initializer_list<sk_operation> operations) {
    if (!plan) return SK_NULL_POINTER;
    for (const sk_operation operation : operations) {
        if (plan->operation == operation) return SK_OK;
    }
    return SK_WRONG_PLAN;
}

// An input or output of a plan: its dtype and plane size, and the batch of `like` when there is one.
sk_status fits(const sk_plan& plan, const Planes& p, const int64_t (&size)[2], const Planes* like) {
    if ((p.dtype == Dtype::f64) != (plan.mode == Mode::f64)) return SK_WRONG_DTYPE;
    if (p.rows != size[0] || p.columns != size[1]) return SK_WRONG_SHAPE;
    if (like && (p.samples != like->samples || p.inner != like->inner)) return SK_WRONG_SHAPE;
    return SK_OK;
}

Job job_of(const sk_plan& plan) {
    Job job;
    job.mode = plan.mode;
    job.term[0] = {&plan.first[0]->folded(), &plan.first[1]->folded()};
    if (plan.second[0]) job.term[1] = {&plan.second[0]->folded(), &plan.second[1]->folded()};
    return job;
}

sk_status run(const sk_plan& plan, const Job& job) {
    plane_product(job, *plan.isa, plan.threads);
    return SK_OK;
}

// y = alpha times the first term.
sk_status single_term(const sk_plan* plan, const sk_array* x, const sk_array* y, double alpha, bool down) {
    Job job = job_of(*plan);
    SK_TRY(checked(y, true, job.out));
    SK_TRY(checked(x, false, job.x));
    SK_TRY(fits(*plan, job.x, plan->fine, nullptr));
    SK_TRY(fits(*plan, job.out, down ? plan->coarse : plan->fine, &job.x));
    SK_TRY(apart(job.out, job.x));
    const double weights[3] = {alpha, 0, 0};
    job.weights = weights;
    return run(*plan, job);
}

}  // namespace

extern "C" {

int32_t sk_version(void) { return SK_VERSION_MAJOR * 10000 + SK_VERSION_MINOR * 100 + SK_VERSION_PATCH; }

const char* sk_status_string(int32_t status) {
    switch (status) {
        case SK_OK: return "success";
        case SK_NULL_POINTER: return "a pointer that must not be null is null";
        case SK_BAD_STRUCT: return "struct_size is not one this library knows; start from sk_default_*() or sk_contiguous()";
        case SK_UNKNOWN_ENUM: return "an enum value this library does not know";
        case SK_BAD_SIZE: return "a size is negative, zero, too large, or the fine grid is smaller than the coarse one";
        case SK_BAD_PATCH: return "patch must be at least 1 and divide both sides of a plane";
        case SK_WRONG_SHAPE: return "an array does not have the plane size of the plan, or the batches differ";
        case SK_WRONG_DTYPE: return "the plan was made for another dtype; float64 needs a plan of its own";
        case SK_WRONG_PLAN: return "the plan was made for another operation";
        case SK_MISALIGNED: return "data is not aligned to its element size";
        case SK_OVERLAP: return "the output overlaps an input or itself";
        case SK_BAD_TIME: return "t must be in [0, 1] (sk_lift: in (0, 1]), one of it or one per sample";
        case SK_BAD_SEED: return "seeds must be 0 <= seed < 2^63, also seed + sample; one of it or one per sample";
        case SK_NO_NOISE: return "t > 0 needs noise, either from seeds or from an array";
        case SK_OUT_OF_MEMORY: return "out of memory";
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
    if (!options) return SK_NULL_POINTER;
    if (options->struct_size != static_cast<int64_t>(sizeof(sk_plan_options))) return SK_BAD_STRUCT;
    if (options->operation < SK_EXPAND || options->operation > SK_LIFT || options->basis < SK_DCT || options->basis > SK_FFT ||
        options->dtype < SK_FLOAT32 || options->dtype > SK_FLOAT64 || options->precision < SK_EXACT ||
        options->precision > SK_FAST) {
        return SK_UNKNOWN_ENUM;
    }
    const bool square = options->operation == SK_ANALYSIS || options->operation == SK_SYNTHESIS;
    for (int axis = 0; axis < 2; ++axis) {
        const int64_t fine = options->fine[axis], coarse = square ? fine : options->coarse[axis];
        if (coarse < 1 || fine < coarse || fine > SK_MAX_SIDE) return SK_BAD_SIZE;
    }
    if (options->threads < 0) return SK_BAD_SIZE;
    return guarded([&] {
        auto plan = std::make_unique<sk_plan>();
        plan->operation = static_cast<sk_operation>(options->operation);
        plan->mode = options->dtype == SK_FLOAT64 ? Mode::f64 : options->precision == SK_FAST ? Mode::f32 : Mode::exact;
        plan->threads = threads_of(options->threads);
        plan->isa = &best_isa();
        static constexpr Kind first[] = {Kind::up, Kind::down, Kind::analysis, Kind::synthesis, Kind::up};
        for (int axis = 0; axis < 2; ++axis) {
            const int64_t fine = plan->fine[axis] = options->fine[axis];
            const int64_t coarse = plan->coarse[axis] = square ? fine : options->coarse[axis];
            const auto build = [&](Kind kind, std::optional<Table>& table) {
                const Values values = table_values(static_cast<Basis>(options->basis), kind, fine, coarse);
                table.emplace(plan->mode, values.m, values.K, values.data.data());
            };
            build(first[plan->operation], plan->first[axis]);
            if (plan->operation == SK_EXPAND) build(Kind::synthesis, plan->second[axis]);
            if (plan->operation == SK_LIFT) build(Kind::lowpass, plan->second[axis]);
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
        SK_TRY(checked(y, true, job.out));
        SK_TRY(checked(x, false, job.x));
        SK_TRY(fits(*plan, job.x, plan->coarse, nullptr));
        SK_TRY(fits(*plan, job.out, plan->fine, &job.x));
        SK_TRY(apart(job.out, job.x));
        const int64_t samples = job.out.samples;
        SK_TRY(checked_times(t, t_count, samples, true));
        bool needed = false;
        for (int64_t b = 0; b < t_count; ++b) needed = needed || t[b] > 0;
        std::vector<int64_t> seeds;
        if (noise) {
            if (noise->struct_size != static_cast<int64_t>(sizeof(sk_noise))) return SK_BAD_STRUCT;
            if (noise->values && noise->seeds) return SK_NO_NOISE;
            if (noise->values) {
                SK_TRY(checked(noise->values, false, job.other));
                SK_TRY(fits(*plan, job.other, plan->fine, &job.out));
                SK_TRY(apart(job.out, job.other));
                job.has_other = true;
            } else if (noise->seeds) {
                SK_TRY(checked_seeds(noise->seeds, noise->seed_count, samples));
                if (noise->seed_count == 1) {
                    job.base_seed = noise->seeds[0];
                } else {
                    job.seeds = noise->seeds;
                }
                job.stream = noise->stream;
            }
        }
        const bool given = noise && (noise->values || noise->seeds);
        if (needed && !given) return SK_NO_NOISE;
        job.has_second = needed;
        job.corner_rows = plan->coarse[0];
        job.corner_columns = plan->coarse[1];
        const double ratio = plan->ratio();
        std::vector<double> weights(3 * t_count);
        for (int64_t b = 0; b < t_count; ++b) {
            const double divisor = 1.0 + (ratio - 1.0) * t[b];
            weights[3 * b] = align ? ratio / divisor : 1.0;
            weights[3 * b + 1] = t[b];
        }
        job.weights = weights.data();
        job.weight_stride = t_count == 1 ? 0 : 3;
        SK_TRY(run(*plan, job));
        for (int64_t b = 0; aligned && b < t_count; ++b) {
            aligned[b] = align ? ratio * t[b] / (1.0 + (ratio - 1.0) * t[b]) : t[b];
        }
        return SK_OK;
    });
}

sk_status sk_truncate(const sk_plan* plan, const sk_array* x, int32_t normalize, const sk_array* y) {
    SK_TRY(usable(plan, {SK_TRUNCATE}));
    return guarded([&] { return single_term(plan, x, y, normalize ? 1.0 / plan->ratio() : 1.0, true); });
}

sk_status sk_transform(const sk_plan* plan, const sk_array* x, const sk_array* y) {
    SK_TRY(usable(plan, {SK_ANALYSIS, SK_SYNTHESIS}));
    return guarded([&] { return single_term(plan, x, y, 1.0, false); });
}

sk_status sk_lift(const sk_plan* plan, const sk_array* z, const sk_array* v, const double* t, int64_t t_count, const sk_array* y) {
    SK_TRY(usable(plan, {SK_LIFT}));
    return guarded([&]() -> sk_status {
        Job job = job_of(*plan);
        SK_TRY(checked(y, true, job.out));
        SK_TRY(checked(z, false, job.other));
        SK_TRY(checked(v, false, job.x));
        SK_TRY(fits(*plan, job.out, plan->fine, nullptr));
        SK_TRY(fits(*plan, job.other, plan->fine, &job.out));
        SK_TRY(fits(*plan, job.x, plan->coarse, &job.out));
        SK_TRY(apart(job.out, job.other));
        SK_TRY(apart(job.out, job.x));
        SK_TRY(checked_times(t, t_count, job.out.samples, false));
        job.has_other = job.has_second = true;
        const double ratio = plan->ratio();
        std::vector<double> weights(3 * t_count);
        for (int64_t b = 0; b < t_count; ++b) {
            const double divisor = 1.0 + (ratio - 1.0) * t[b], gamma = 1.0 / (ratio * t[b] / divisor);
            weights[3 * b] = divisor;
            weights[3 * b + 1] = -gamma;
            weights[3 * b + 2] = gamma;
        }
        job.weights = weights.data();
        job.weight_stride = t_count == 1 ? 0 : 3;
        return run(*plan, job);
    });
}

sk_status sk_normal(const sk_array* y, const int64_t* seeds, int64_t seed_count, uint32_t stream, int32_t threads) {
    Planes out;
    SK_TRY(checked(y, true, out));
    if (y->patch != 1) return SK_BAD_PATCH;
    if (y->columns > INT64_C(1) << 32 || y->rows > INT64_C(1) << 34 || y->planes > INT64_C(1) << 32 || threads < 0) return SK_BAD_SIZE;
    SK_TRY(checked_seeds(seeds, seed_count, out.samples));
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
    if (!features || !weights) return SK_NULL_POINTER;
    if (dtype < SK_FLOAT32 || dtype > SK_FLOAT64) return SK_UNKNOWN_ENUM;
    if (dtype == SK_FLOAT64) return SK_WRONG_DTYPE;
    if (count < 1 || targets < 0 || size < 0 || threads < 0) return SK_BAD_SIZE;
    if (size == 0 || targets == 0) return SK_OK;
    // One run of `size` elements as the array it is: the same checks of size, alignment and overlap as everywhere.
    const auto run_of = [&](const void* data, int64_t rows) {
        return sk_contiguous(const_cast<void*>(data), dtype, 1, 1, rows, size);
    };
    Planes written;
    const sk_array target = run_of(out, targets);
    SK_TRY(checked(&target, true, written));
    return guarded([&]() -> sk_status {
        for (int64_t k = 0; k < count; ++k) {
            Planes read;
            const sk_array feature = run_of(features[k], 1);
            SK_TRY(checked(&feature, false, read));
            SK_TRY(apart(written, read));
        }
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
