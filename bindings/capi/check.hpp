// SPDX-License-Identifier: Apache-2.0
// What the C functions ask of their arguments, as statuses; nothing here touches the memory of an array.
#pragma once

#include <new>
#include <stdexcept>

#include "job.hpp"
#include "spectral_kernels.h"

#define SK_TRY(call)                                              \
    if (const sk_status status_ = (call); status_ != SK_OK) {     \
        return status_;                                           \
    }

namespace sk {

// The body of a C function: no exception crosses.
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

// As many as asked for, 0 for as many as the machine has.
int threads_of(int32_t asked);

// Everything about one array that does not depend on others; fills `planes`.
sk_status checked(const sk_array* array, bool output, Planes& planes);

// The memory from an array's first byte to its last, or of a run of numbers; empty when there are none.
struct Bytes {
    uintptr_t begin = 0, end = 0;

    Bytes() = default;
    Bytes(const Planes& array);
};

// SK_OVERLAP when the memory of an output and of something else touch.
sk_status apart(const Bytes& output, const Bytes& other);

// `count` numbers of `width` bytes one after the other: times, seeds, weights.
sk_status checked_run(const void* numbers, int64_t count, int64_t width, Bytes& run);

template <class T>
sk_status checked_run(const T* numbers, int64_t count, Bytes& run) {
    return checked_run(numbers, count, static_cast<int64_t>(sizeof(T)), run);
}

// One for all samples or one per sample.
sk_status checked_times(const double* t, int64_t count, int64_t samples, bool zero_allowed, Bytes& run);
sk_status checked_seeds(const int64_t* seeds, int64_t count, int64_t samples, Bytes& run);

// What a plan is made for, on a CPU or a GPU.
struct Grids {
    int64_t coarse[2] = {}, fine[2] = {};
    bool f64 = false;
    int levels = 0;  // of Haar where both sides change by the same power of two up to 2^kHaarLevels: no tables
    double ratio() const;
};

sk_status checked_options(const sk_plan_options* options, Grids& grids);

// The arrays of one call against a plan and against each other; they fill all of a job but tables and weights. Null is
// fine for `aligned`, and so is `t` itself.
sk_status checked_expand(const Grids& grids, const sk_array* x, const double* t, int64_t t_count, const sk_noise* noise,
                         const sk_array* y, const double* aligned, Job& job);
sk_status checked_single(const Grids& grids, const sk_array* x, const sk_array* y, bool down, Job& job);
// Null is fine for `t` where there are none.
sk_status checked_truncate(const Grids& grids, const sk_array* x, const double* t, int64_t t_count, bool normalizes,
                           const sk_array* y, Job& job);
sk_status checked_lift(const Grids& grids, const sk_array* z, const sk_array* v, const double* t, int64_t t_count,
                       const sk_array* y, Job& job);

// Whether the noise can number the rows, columns and planes.
sk_status numbered(const sk_array& array);

sk_status checked_normal(const sk_array* y, const int64_t* seeds, int64_t seed_count, Planes& out);

// The features and the target of a forecast; nothing to do is SK_OK, and so is a target that lies nowhere.
sk_status checked_forecast(const void* const* features, int64_t count, const float* weights, int64_t targets, int64_t size,
                           int32_t dtype, void* out);

// Aligned times: r t / (1 + (r - 1) t), or t itself.
void align(const Grids& grids, const double* t, int64_t t_count, bool aligns, double* aligned);

}  // namespace sk
