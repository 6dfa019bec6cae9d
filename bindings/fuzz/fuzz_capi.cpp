// SPDX-License-Identifier: Apache-2.0
// The C API under any fields of any struct: for libFuzzer, or for driver.cpp where there is none. Arrays lie in buffers
// whose true size the fuzzer knows, so a call the library accepts is made only when its arrays lie inside; what it refuses
// may be anything. Sanitizers watch.
#include <spectral_kernels.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace {

struct Reader {
    const uint8_t* data;
    std::size_t left;

    template <class T>
    T take() {
        // Byte by byte: at -O2 GCC 12 gives what lay there before where a copy of 0 or 1 bytes copies none.
        unsigned char bytes[sizeof(T)] = {};
        for (std::size_t i = 0; i < sizeof(T) && left > 0; ++i, --left) bytes[i] = *data++;
        T value;
        std::memcpy(&value, bytes, sizeof(T));
        return value;
    }
    // Mostly small numbers, where the interesting limits are; sometimes any.
    int64_t number() {
        const auto kind = take<uint8_t>();
        if (kind < 250) return kind % 24 - 3;
        return take<int64_t>();
    }
    bool rarely() { return take<uint8_t>() >= 224; }
    int64_t small() { return take<uint8_t>() % 20 + 1; }
    double time() {
        const auto kind = take<uint8_t>();
        return kind < 240 ? kind / 239.0 : take<double>();
    }
};

constexpr int64_t kBytes = 1 << 16;
constexpr int kTimes = 128;  // samples times levels
constexpr int64_t kFar = INT64_C(1) << 60;  // elements; far outside of any buffer
alignas(64) uint8_t buffers[4][kBytes];

bool inside(const sk_array& a, const uint8_t* buffer) {
    if (a.samples < 1 || a.planes < 1 || a.rows < 1 || a.columns < 1 || a.patch < 1 || a.dtype < 0 || a.dtype > 3) return true;
    const int64_t width = a.dtype == SK_FLOAT64 ? 8 : a.dtype == SK_FLOAT32 ? 4 : 2;
    const auto* start = static_cast<const uint8_t*>(a.data);
    if (!start) return true;
    __int128 low = start - buffer, high = low + width;
    const auto reach = [&](int64_t size, int64_t stride) {
        __int128 step = static_cast<__int128>(size - 1) * stride;
        if (step > kFar || step < -kFar) step = step < 0 ? -kFar : kFar;
        (step < 0 ? low : high) += step * width;
    };
    reach(a.samples, a.stride[0]);
    reach(a.planes, a.stride[1]);
    reach(a.rows / a.patch > 0 ? a.rows / a.patch : 1, a.stride[2]);
    reach(a.columns / a.patch > 0 ? a.columns / a.patch : 1, a.stride[3]);
    if (a.patch > 1) {
        reach(a.patch, a.patch_stride[0]);
        reach(a.patch, a.patch_stride[1]);
    }
    return low >= 0 && high <= kBytes;
}

// What most calls have in common, so that many of them are accepted; each array then departs from it or not.
struct Shape {
    int64_t samples, planes, rows, columns;
    int32_t dtype;
};

sk_array array_of(Reader& in, uint8_t* buffer, const Shape& shape, bool& safe) {
    sk_array a = sk_contiguous(buffer, shape.dtype, shape.samples, shape.planes, shape.rows, shape.columns);
    const auto twist = in.rarely() ? in.take<uint8_t>() : uint8_t{0};
    if (twist & 1) a = sk_contiguous(buffer, in.take<uint8_t>() % 5, in.number(), in.number(), in.number(), in.number());
    if (twist & 2) a.data = in.take<uint8_t>() % 2 ? nullptr : buffer + in.take<uint8_t>();
    if (twist & 4) a.stride[in.take<uint8_t>() % 4] = in.number();
    if (twist & 8) a.patch = static_cast<int32_t>(in.number());
    if (twist & 16) a.patch_stride[in.take<uint8_t>() % 2] = in.number();
    if (twist & 32) a.data = buffers[in.take<uint8_t>() % 4];
    if (twist & 64) a.struct_size = in.number();
    if (twist & 128) {  // 2 x 2 tokens
        a.patch = 2;
        a.patch_stride[0] = 2;
        a.patch_stride[1] = 1;
        a.stride[3] = 4;
        a.stride[2] = static_cast<int64_t>(2 * static_cast<uint64_t>(shape.columns));  // any number: it may wrap
    }
    if (a.data) {
        const auto* const at = static_cast<const uint8_t*>(a.data);
        const auto number = (at - &buffers[0][0]) / kBytes;
        buffer = buffers[number < 0 || number > 3 ? 0 : number];
    }
    safe = safe && inside(a, buffer);
    return a;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
    Reader in{data, size};
    sk_plan_options options = sk_default_plan_options();
    options.operation = in.take<uint8_t>() % 5;
    options.basis = in.take<uint8_t>() % 3;
    options.dtype = in.take<uint8_t>() % 4;
    options.precision = in.take<uint8_t>() % 2;
    // Tables are most of the time: those of short sides, and a few long enough for a factorised transform.
    const bool long_sides = in.rarely() && in.rarely();
    for (int axis = 0; axis < 2; ++axis) {
        options.coarse[axis] = in.take<uint8_t>() % (long_sides ? 48 : 6) + 1;
        const auto factor = in.take<uint8_t>();
        options.fine[axis] = options.coarse[axis] * (factor % 4 == 0 ? 1 : factor % 4 < 3 ? 2 : 4) + (factor > 200 ? 1 : 0);
    }
    if (in.rarely()) options.operation = in.take<uint8_t>();
    if (in.rarely()) options.basis = in.take<uint8_t>();
    if (in.rarely()) options.dtype = in.take<uint8_t>();
    if (in.rarely()) options.precision = in.take<uint8_t>();
    for (int64_t* const side : {options.coarse, options.coarse + 1, options.fine, options.fine + 1}) {
        if (in.rarely()) *side = in.number();
        // Large tables are slow, not wrong; refused sizes stay as they are.
        if (*side > 96 && *side <= SK_MAX_SIDE) *side %= 96;
    }
    options.threads = in.rarely() ? in.take<uint8_t>() % 8 - 4 : 1;  // waiting for threads would be most of the time
    sk_plan* plan = nullptr;
    const sk_status made = sk_plan_create(&plan, &options);
    if ((made == SK_OK) != (plan != nullptr)) std::abort();

    bool safe = true;
    // Which of the four arrays are coarse: so, in turn, for truncation and splitting; expansion, lift and merging; others.
    const auto role = in.take<uint8_t>() % 3;
    const Shape fine{in.take<uint8_t>() % 3 + 1, in.take<uint8_t>() % 3 + 1, options.fine[0], options.fine[1], options.dtype};
    const Shape coarse{fine.samples, fine.planes, options.coarse[0], options.coarse[1], options.dtype};
    const sk_array y = array_of(in, buffers[0], role == 0 ? coarse : fine, safe), x = array_of(in, buffers[1], role == 1 ? coarse : fine, safe);
    const sk_array e = array_of(in, buffers[2], fine, safe), z = array_of(in, buffers[3], fine, safe);
    const int64_t count = in.rarely() ? in.number() : in.take<uint8_t>() % 2 ? 1 : fine.samples;
    std::vector<double> times(kTimes);
    std::vector<int64_t> seeds(kTimes);
    std::vector<uint8_t> mask(kTimes);
    for (int n = 0; n < 4; ++n) {
        times[n] = in.time();
        seeds[n] = in.rarely() ? in.number() : in.take<uint8_t>();
        mask[n] = in.take<uint8_t>() % 2;
    }
    sk_noise noise = sk_default_noise();
    const auto how = in.take<uint8_t>();
    if (how & 1) noise.values = &e;
    if (how & 2) noise.seeds = seeds.data();
    noise.seed_count = in.rarely() ? in.number() : in.take<uint8_t>() % 2 ? 1 : fine.samples;
    const int32_t resample = in.rarely() ? in.take<uint8_t>() - 1 : in.take<uint8_t>() % 3;
    const int32_t dtype = in.rarely() ? in.take<uint8_t>() : in.take<uint8_t>() % 3;
    // Pointers carry no length in C: counts that the library would read are kept within what is there.
    if (!safe || count > 32 || noise.seed_count > 32 || y.samples > 32 || x.samples > 32) {
        sk_plan_destroy(plan);
        return 0;
    }
    double aligned[32];
    std::vector<sk_status> statuses{
        sk_expand(plan, &x, times.data(), count, how & 4 ? nullptr : &noise, how & 8, &y, how & 16 ? aligned : nullptr),
        sk_truncate(plan, &x, how & 32 ? nullptr : times.data(), how & 32 ? 0 : count, how & 8, &y),
        sk_transform(plan, &x, &y),
        sk_lift(plan, &e, &x, times.data(), count, how & 8, &y),
        sk_normal(&y, seeds.data(), noise.seed_count, how, options.threads),
        sk_pyramid_split(&x, resample, &y, &z, options.threads),
        sk_pyramid_merge(&x, &e, resample, how & 8, &y, options.threads),
    };
    // As many levels as there are arrays, or a number that must be refused.
    const sk_array levels[2] = {x, how & 32 ? x : e}, noisy[2] = {y, e}, velocities[2] = {z, y};
    if (count <= 2 || count > SK_MAX_LEVELS) {
        statuses.push_back(sk_noise_levels(levels, count, times.data(), how & 64 ? mask.data() : nullptr, how & 2 ? seeds.data() : nullptr,
                                           noise.seed_count, how, noisy, velocities, options.threads));
    }
    // Runs of `length` elements, at any offsets.
    const int64_t length = in.rarely() ? in.number() : 10 * in.small(), runs = in.rarely() ? in.number() : in.small();
    uint8_t* at[4];
    for (auto& place : at) {
        const auto buffer = static_cast<int>(&place - at);
        place = buffers[in.rarely() ? in.take<uint8_t>() % 4 : buffer] + (in.rarely() ? in.take<uint8_t>() : 0);
        if (in.rarely() && in.rarely()) place = nullptr;
    }
    const bool far = length > 400, refused = length < 0 || runs < 0;
    if (refused || far || runs <= 32) {
        // What is too long for a buffer must be too long for any: only the check of sizes may look at it.
        const int64_t size = far ? INT64_MAX / 2 : length;
        const float row[32] = {1, 2, 3, 4};
        statuses.push_back(sk_update_moments(reinterpret_cast<float*>(at[0]), runs, at[1], how & 4 ? nullptr : row, size, dtype, options.threads));
        const void* const features[4] = {at[1], at[2], at[3], at[1]};
        const float weights[128] = {1, 2, 3, 4};
        if (count <= 4) {
            statuses.push_back(sk_forecast(features, count, how & 4 ? nullptr : weights, runs, size, dtype, at[0], options.threads));
        }
    }
    // Fits of few steps; at[0] has room for eight targets of the largest degree, wherever it begins.
    sk_fit fit = sk_default_fit();
    fit.num_steps = in.rarely() ? in.number() : 4 * in.small();
    fit.degree = static_cast<int32_t>(in.rarely() ? in.number() : in.take<uint8_t>() % 6);
    if (in.rarely()) fit.ridge = in.time() - 0.125;
    if (in.rarely()) fit.blend = in.time();
    if (in.rarely()) fit.reserved = in.take<uint8_t>() % 2;
    double steps[8], goals[8];
    for (int n = 0; n < 8; ++n) {
        steps[n] = in.rarely() ? in.time() : (n > 0 ? steps[n - 1] : 0) + in.small() / 8.0;
        goals[n] = static_cast<double>(fit.num_steps) * (in.rarely() ? in.time() : 1.0);
    }
    const int64_t known = in.rarely() ? in.number() : in.take<uint8_t>() % 8 + 1, asked = in.rarely() ? in.number() : in.take<uint8_t>() % 4;
    if ((known <= 8 || known > kFar) && (asked <= 8 || asked > kFar)) {
        auto* const row = reinterpret_cast<float*>(at[0]);
        const double* const goal = how & 64 ? goals : times.data();
        statuses.push_back(sk_chebyshev_weights(&fit, steps, known, goal, asked, row));
        statuses.push_back(sk_moment_weights(how & 4 ? nullptr : &fit, steps, known, goal, asked, row));
        statuses.push_back(sk_chebyshev_row(&fit, steps[3], row));
    }
    const int64_t run = in.rarely() ? in.number() : in.small();
    if (run < kBytes / 2 || run > INT64_MAX / 2 + 1) statuses.push_back(sk_evaluation_steps(run, in.time() * 8, in.number(), in.time(), at[2]));
    for (const sk_status status : statuses) {
        if (status == SK_INTERNAL || status < SK_OK || sk_status_string(status)[0] == '\0') std::abort();
    }
    sk_plan_destroy(plan);
    return 0;
}
