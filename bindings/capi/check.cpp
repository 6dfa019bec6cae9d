// SPDX-License-Identifier: Apache-2.0
#include "check.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <thread>
#include <utility>

#include "haar.hpp"

namespace sk {
namespace {

constexpr int64_t kMost = int64_t{1} << 62;  // bytes between the ends of an array

int64_t width_of(Dtype dtype) { return dtype == Dtype::f64 ? 8 : dtype == Dtype::f32 ? 4 : 2; }

// The seven sizes that belong to the strides.
std::array<int64_t, 7> sizes_of(const Planes& p) {
    return {p.samples, p.outer, p.inner, p.rows / p.patch_rows, p.patch_rows, p.columns / p.patch_columns, p.patch_columns};
}

// Bytes from the data pointer to the first and past the last byte; false when they do not fit.
bool span(const Planes& p, int64_t& below, int64_t& above) {
    const auto sizes = sizes_of(p);
    const int64_t width = width_of(p.dtype);
    below = 0;
    above = width;
    for (int axis = 0; axis < 7; ++axis) {
        int64_t reach = 0;
        if (__builtin_mul_overflow(sizes[axis] - 1, p.stride[axis], &reach) || __builtin_mul_overflow(reach, width, &reach)) return false;
        int64_t& end = reach < 0 ? below : above;
        if (__builtin_add_overflow(end, reach, &end)) return false;
        if (above > kMost || below < -kMost) return false;
    }
    return true;
}

// True when every element has its own place: sorted by stride, each axis steps over all that the smaller ones reach.
bool injective(const Planes& p) {
    const auto sizes = sizes_of(p);
    std::array<std::pair<int64_t, int64_t>, 7> axes;
    // The stride of an axis of one is never taken and may be any number, also one that has no magnitude.
    for (int axis = 0; axis < 7; ++axis) axes[axis] = {sizes[axis] > 1 ? std::llabs(p.stride[axis]) : 0, sizes[axis]};
    std::sort(axes.begin(), axes.end());
    int64_t reached = 0;
    for (const auto& [stride, size] : axes) {
        if (size > 1 && stride <= reached) return false;
        reached += stride * (size - 1);
    }
    return true;
}

bool empty(const Planes& p) { return p.samples == 0 || p.inner == 0; }

// An input or output of a plan: its dtype and plane size, and the batch of `like` when there is one.
sk_status fits(const Grids& grids, const Planes& p, const int64_t (&size)[2], const Planes* like) {
    if ((p.dtype == Dtype::f64) != grids.f64) return SK_WRONG_DTYPE;
    if (p.rows != size[0] || p.columns != size[1]) return SK_WRONG_SHAPE;
    if (like && (p.samples != like->samples || p.inner != like->inner)) return SK_WRONG_SHAPE;
    return SK_OK;
}

}  // namespace

double Grids::ratio() const {
    const auto area = [](const int64_t(&size)[2]) { return static_cast<double>(size[0] * size[1]); };
    return std::sqrt(area(fine) / area(coarse));
}

sk_status checked(const sk_array* array, bool output, Planes& p) {
    if (!array) return SK_NULL_POINTER;
    if (array->struct_size != static_cast<int64_t>(sizeof(sk_array))) return SK_BAD_STRUCT;
    if (array->dtype < SK_FLOAT32 || array->dtype > SK_FLOAT64) return SK_UNKNOWN_ENUM;
    if (array->samples < 0 || array->planes < 0 || array->rows < 1 || array->columns < 1) return SK_BAD_SIZE;
    if (array->patch < 1 || array->rows % array->patch != 0 || array->columns % array->patch != 0) return SK_BAD_PATCH;
    p.data = array->data;
    p.dtype = static_cast<Dtype>(array->dtype);
    p.samples = array->samples;
    p.outer = 1;
    p.inner = array->planes;
    p.rows = array->rows;
    p.columns = array->columns;
    p.patch_rows = p.patch_columns = array->patch;
    const int64_t patch_stride[2] = {array->patch > 1 ? array->patch_stride[0] : 0, array->patch > 1 ? array->patch_stride[1] : 0};
    const int64_t strides[7] = {array->stride[0], 0, array->stride[1], array->stride[2], patch_stride[0], array->stride[3], patch_stride[1]};
    std::copy(strides, strides + 7, p.stride);
    int64_t count = 0;
    if (__builtin_mul_overflow(p.samples, p.inner, &count) || __builtin_mul_overflow(count, p.rows, &count) ||
        __builtin_mul_overflow(count, p.columns, &count) || count > kMost / 8) {
        return SK_BAD_SIZE;
    }
    if (empty(p)) return SK_OK;
    if (!p.data) return SK_NULL_POINTER;
    if (reinterpret_cast<uintptr_t>(p.data) % width_of(p.dtype) != 0) return SK_MISALIGNED;
    int64_t below = 0, above = 0;
    if (!span(p, below, above)) return SK_BAD_SIZE;
    const auto start = reinterpret_cast<uintptr_t>(p.data);
    if (start < static_cast<uintptr_t>(-below) || start + static_cast<uintptr_t>(above) < start) return SK_BAD_SIZE;
    if (output && !injective(p)) return SK_OVERLAP;
    return SK_OK;
}

Bytes::Bytes(const Planes& array) {
    if (empty(array)) return;
    int64_t below = 0, above = 0;
    span(array, below, above);
    const auto start = reinterpret_cast<uintptr_t>(array.data);
    begin = start + static_cast<uintptr_t>(below);
    end = start + static_cast<uintptr_t>(above);
}

sk_status apart(const Bytes& output, const Bytes& other) {
    if (output.begin == output.end || other.begin == other.end) return SK_OK;
    return output.end <= other.begin || other.end <= output.begin ? SK_OK : SK_OVERLAP;
}

sk_status checked_run(const void* numbers, int64_t count, int64_t width, Bytes& run) {
    if (!numbers) return SK_NULL_POINTER;
    run.begin = reinterpret_cast<uintptr_t>(numbers);
    if (run.begin % static_cast<uintptr_t>(width) != 0) return SK_MISALIGNED;
    if (count < 0 || count > kMost / width) return SK_BAD_SIZE;
    run.end = run.begin + static_cast<uintptr_t>(count * width);
    return run.end < run.begin ? SK_BAD_SIZE : SK_OK;
}

sk_status checked_times(const double* t, int64_t count, int64_t samples, bool zero_allowed, Bytes& run) {
    if (t && count != 1 && count != samples) return SK_BAD_TIME;
    SK_TRY(checked_run(t, count, run));
    for (int64_t b = 0; b < count; ++b) {
        if (!(t[b] >= 0 && t[b] <= 1) || (t[b] == 0 && !zero_allowed)) return SK_BAD_TIME;
    }
    return SK_OK;
}

int threads_of(int32_t asked) {
    if (asked > 0) return asked < 1024 ? asked : 1024;
    const unsigned here = std::thread::hardware_concurrency();
    return here > 0 ? static_cast<int>(here) : 1;
}

sk_status numbered(const sk_array& array) {
    const bool fits = array.columns <= INT64_C(1) << 32 && array.rows <= INT64_C(1) << 34 && array.planes <= INT64_C(1) << 32;
    return fits ? SK_OK : SK_BAD_SIZE;
}

sk_status checked_seeds(const int64_t* seeds, int64_t count, int64_t samples, Bytes& run) {
    if (seeds && count != 1 && count != samples) return SK_BAD_SEED;
    SK_TRY(checked_run(seeds, count, run));
    for (int64_t b = 0; b < count; ++b) {
        if (seeds[b] < 0) return SK_BAD_SEED;
    }
    if (count == 1 && samples > 0 && seeds[0] > INT64_MAX - (samples - 1)) return SK_BAD_SEED;
    return SK_OK;
}

sk_status checked_options(const sk_plan_options* options, Grids& grids) {
    if (!options) return SK_NULL_POINTER;
    if (options->struct_size != static_cast<int64_t>(sizeof(sk_plan_options)) || options->reserved != 0) return SK_BAD_STRUCT;
    if (options->operation < SK_EXPAND || options->operation > SK_LIFT || options->basis < SK_DCT || options->basis > SK_HAAR ||
        options->dtype < SK_FLOAT32 || options->dtype > SK_FLOAT64 || options->precision < SK_EXACT ||
        options->precision > SK_FAST) {
        return SK_UNKNOWN_ENUM;
    }
    const bool haar = options->basis == SK_HAAR;
    const bool square = !haar && (options->operation == SK_ANALYSIS || options->operation == SK_SYNTHESIS);
    for (int axis = 0; axis < 2; ++axis) {
        grids.fine[axis] = options->fine[axis];
        grids.coarse[axis] = square ? options->fine[axis] : options->coarse[axis];
        if (grids.coarse[axis] < 1 || grids.fine[axis] < grids.coarse[axis] || grids.fine[axis] > SK_MAX_SIDE) return SK_BAD_SIZE;
        const int64_t factor = grids.fine[axis] / grids.coarse[axis];
        if (haar && (grids.coarse[axis] * factor != grids.fine[axis] || (factor & (factor - 1)) != 0)) return SK_BAD_SIZE;
    }
    grids.levels = haar ? haar_levels(grids.fine, grids.coarse) : 0;
    grids.f64 = options->dtype == SK_FLOAT64;
    return options->threads < 0 ? SK_BAD_SIZE : SK_OK;
}

sk_status checked_expand(const Grids& grids, const sk_array* x, const double* t, int64_t t_count, const sk_noise* noise,
                         const sk_array* y, const double* aligned, Job& job) {
    SK_TRY(checked(y, true, job.out));
    SK_TRY(checked(x, false, job.x));
    SK_TRY(fits(grids, job.x, grids.coarse, nullptr));
    SK_TRY(fits(grids, job.out, grids.fine, &job.x));
    SK_TRY(apart(job.out, job.x));
    const int64_t samples = job.out.samples;
    Bytes times, seeds;
    SK_TRY(checked_times(t, t_count, samples, true, times));
    SK_TRY(apart(job.out, times));
    bool needed = false;
    for (int64_t b = 0; b < t_count; ++b) needed = needed || t[b] > 0;
    if (noise) {
        if (noise->struct_size != static_cast<int64_t>(sizeof(sk_noise)) || noise->reserved != 0) return SK_BAD_STRUCT;
        if (noise->values && noise->seeds) return SK_NO_NOISE;
        if (noise->values) {
            SK_TRY(checked(noise->values, false, job.other));
            SK_TRY(fits(grids, job.other, grids.fine, &job.out));
            SK_TRY(apart(job.out, job.other));
            job.has_other = true;
        } else if (noise->seeds) {
            SK_TRY(numbered(*y));
            SK_TRY(checked_seeds(noise->seeds, noise->seed_count, samples, seeds));
            SK_TRY(apart(job.out, seeds));
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
    if (aligned) {
        Bytes written;
        SK_TRY(checked_run(aligned, t_count, written));
        for (const Bytes& other : {Bytes(job.out), Bytes(job.x), Bytes(job.other), seeds}) SK_TRY(apart(written, other));
        if (aligned != t) SK_TRY(apart(written, times));
    }
    job.has_second = needed;
    job.corner_rows = grids.coarse[0];
    job.corner_columns = grids.coarse[1];
    return SK_OK;
}

sk_status checked_single(const Grids& grids, const sk_array* x, const sk_array* y, bool down, Job& job) {
    SK_TRY(checked(y, true, job.out));
    SK_TRY(checked(x, false, job.x));
    SK_TRY(fits(grids, job.x, grids.fine, nullptr));
    SK_TRY(fits(grids, job.out, down ? grids.coarse : grids.fine, &job.x));
    return apart(job.out, job.x);
}

sk_status checked_truncate(const Grids& grids, const sk_array* x, const double* t, int64_t t_count, bool normalizes,
                           const sk_array* y, Job& job) {
    SK_TRY(checked_single(grids, x, y, true, job));
    if (!t && t_count == 0) return SK_OK;
    Bytes times;
    SK_TRY(checked_times(t, t_count, job.out.samples, true, times));
    for (int64_t b = 0; b < t_count && !normalizes; ++b) {
        if (t[b] != 0) return SK_BAD_TIME;
    }
    return apart(job.out, times);
}

sk_status checked_lift(const Grids& grids, const sk_array* z, const sk_array* v, const double* t, int64_t t_count,
                       const sk_array* y, Job& job) {
    SK_TRY(checked(y, true, job.out));
    SK_TRY(checked(z, false, job.other));
    SK_TRY(checked(v, false, job.x));
    SK_TRY(fits(grids, job.out, grids.fine, nullptr));
    SK_TRY(fits(grids, job.other, grids.fine, &job.out));
    SK_TRY(fits(grids, job.x, grids.coarse, &job.out));
    SK_TRY(apart(job.out, job.other));
    SK_TRY(apart(job.out, job.x));
    job.has_other = job.has_second = true;
    Bytes times;
    SK_TRY(checked_times(t, t_count, job.out.samples, false, times));
    return apart(job.out, times);
}

sk_status checked_normal(const sk_array* y, const int64_t* seeds, int64_t seed_count, Planes& out) {
    SK_TRY(checked(y, true, out));
    if (y->patch != 1) return SK_BAD_PATCH;
    SK_TRY(numbered(*y));
    Bytes run;
    SK_TRY(checked_seeds(seeds, seed_count, out.samples, run));
    return apart(out, run);
}

sk_status checked_forecast(const void* const* features, int64_t count, const float* weights, int64_t targets, int64_t size,
                           int32_t dtype, void* out) {
    if (!features || !weights) return SK_NULL_POINTER;
    if (dtype < SK_FLOAT32 || dtype > SK_FLOAT64) return SK_UNKNOWN_ENUM;
    if (dtype == SK_FLOAT64) return SK_WRONG_DTYPE;
    if (count < 1 || targets < 0 || size < 0) return SK_BAD_SIZE;
    Bytes table, factors;
    SK_TRY(checked_run(features, count, table));
    if (targets > kMost / count) return SK_BAD_SIZE;
    SK_TRY(checked_run(weights, targets * count, factors));
    if (size == 0 || targets == 0) return SK_OK;
    // One run of `size` elements as the array it is: the same checks of size, alignment and overlap as everywhere.
    const auto run_of = [&](const void* data, int64_t rows) {
        return sk_contiguous(const_cast<void*>(data), dtype, 1, 1, rows, size);
    };
    Planes written;
    const sk_array target = run_of(out, targets);
    SK_TRY(checked(&target, true, written));
    SK_TRY(apart(written, table));
    SK_TRY(apart(written, factors));
    for (int64_t k = 0; k < count; ++k) {
        Planes read;
        const sk_array feature = run_of(features[k], 1);
        SK_TRY(checked(&feature, false, read));
        SK_TRY(apart(written, read));
    }
    return SK_OK;
}

void align(const Grids& grids, const double* t, int64_t t_count, bool aligns, double* aligned) {
    const double ratio = grids.ratio();
    for (int64_t b = 0; aligned && b < t_count; ++b) {
        aligned[b] = aligns ? ratio * t[b] / (1.0 + (ratio - 1.0) * t[b]) : t[b];
    }
}

}  // namespace sk
