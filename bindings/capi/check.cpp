// SPDX-License-Identifier: Apache-2.0
#include "check.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <utility>

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
    for (int axis = 0; axis < 7; ++axis) axes[axis] = {std::llabs(p.stride[axis]), sizes[axis]};
    std::sort(axes.begin(), axes.end());
    int64_t reached = 0;
    for (const auto& [stride, size] : axes) {
        if (size > 1 && stride <= reached) return false;
        reached += stride * (size - 1);
    }
    return true;
}

bool empty(const Planes& p) { return p.samples == 0 || p.inner == 0; }

}  // namespace

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

sk_status apart(const Planes& output, const Planes& input) {
    if (empty(output) || empty(input)) return SK_OK;
    int64_t below[2], above[2];
    span(output, below[0], above[0]);
    span(input, below[1], above[1]);
    const uintptr_t start[2] = {reinterpret_cast<uintptr_t>(output.data), reinterpret_cast<uintptr_t>(input.data)};
    const bool disjoint = start[0] + above[0] <= start[1] + below[1] || start[1] + above[1] <= start[0] + below[0];
    return disjoint ? SK_OK : SK_OVERLAP;
}

sk_status checked_times(const double* t, int64_t count, int64_t samples, bool zero_allowed) {
    if (!t) return SK_NULL_POINTER;
    if (count != 1 && count != samples) return SK_BAD_TIME;
    for (int64_t b = 0; b < count; ++b) {
        if (!(t[b] >= 0 && t[b] <= 1) || (t[b] == 0 && !zero_allowed)) return SK_BAD_TIME;
    }
    return SK_OK;
}

sk_status checked_seeds(const int64_t* seeds, int64_t count, int64_t samples) {
    if (!seeds) return SK_NULL_POINTER;
    if (count != 1 && count != samples) return SK_BAD_SEED;
    for (int64_t b = 0; b < count; ++b) {
        if (seeds[b] < 0) return SK_BAD_SEED;
    }
    if (count == 1 && samples > 0 && seeds[0] > INT64_MAX - (samples - 1)) return SK_BAD_SEED;
    return SK_OK;
}

}  // namespace sk
