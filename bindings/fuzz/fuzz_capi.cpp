// SPDX-License-Identifier: Apache-2.0
// libFuzzer over the C API: any fields of any struct. Arrays lie in buffers whose true size the fuzzer knows, so a call
// the library accepts is made only when its arrays lie inside; what it refuses may be anything. Sanitizers watch.
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
        T value{};
        const std::size_t count = left < sizeof(T) ? left : sizeof(T);
        std::memcpy(&value, data, count);
        data += count;
        left -= count;
        return value;
    }
    // Mostly small numbers, where the interesting limits are; sometimes any.
    int64_t number() {
        const auto kind = take<uint8_t>();
        if (kind < 250) return kind % 24 - 3;
        return take<int64_t>();
    }
    double time() {
        const auto kind = take<uint8_t>();
        return kind < 250 ? kind / 200.0 : take<double>();
    }
};

constexpr int64_t kBytes = 1 << 16;
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

sk_array array_of(Reader& in, uint8_t* buffer, bool& safe) {
    const auto shape = in.take<uint8_t>();
    sk_array a = sk_contiguous(buffer, shape % 5, in.number(), in.number(), in.number(), in.number());
    const auto twist = in.take<uint8_t>();
    if (twist & 1) a.struct_size = in.number();
    if (twist & 2) a.data = in.take<uint8_t>() % 2 ? nullptr : buffer + in.take<uint8_t>();
    if (twist & 4) a.stride[in.take<uint8_t>() % 4] = in.number();
    if (twist & 8) a.patch = static_cast<int32_t>(in.number());
    if (twist & 16) a.patch_stride[in.take<uint8_t>() % 2] = in.number();
    if (twist & 32) a.data = buffers[in.take<uint8_t>() % 4];
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
    options.operation = in.take<uint8_t>() % 6;
    options.basis = in.take<uint8_t>() % 3;
    options.dtype = in.take<uint8_t>() % 5;
    options.precision = in.take<uint8_t>() % 3;
    for (int64_t* const side : {options.coarse, options.coarse + 1, options.fine, options.fine + 1}) {
        *side = in.number();
        // Large tables are slow, not wrong; refused sizes stay as they are.
        if (*side > 64 && *side <= SK_MAX_SIDE) *side %= 64;
    }
    options.threads = in.take<uint8_t>() % 4 - (in.take<uint8_t>() == 7 ? 5 : 0);
    sk_plan* plan = nullptr;
    const sk_status made = sk_plan_create(&plan, &options);
    if ((made == SK_OK) != (plan != nullptr)) std::abort();

    bool safe = true;
    const sk_array y = array_of(in, buffers[0], safe), x = array_of(in, buffers[1], safe), e = array_of(in, buffers[2], safe);
    const int64_t count = in.number();
    std::vector<double> times(32);
    std::vector<int64_t> seeds(32);
    for (int n = 0; n < 4; ++n) {
        times[n] = in.time();
        seeds[n] = in.number();
    }
    sk_noise noise = sk_default_noise();
    const auto how = in.take<uint8_t>();
    if (how & 1) noise.values = &e;
    if (how & 2) noise.seeds = seeds.data();
    noise.seed_count = in.number();
    // Pointers carry no length in C: counts that the library would read are kept within what is there.
    if (!safe || count > 32 || noise.seed_count > 32 || y.samples > 32) {
        sk_plan_destroy(plan);
        return 0;
    }
    double aligned[32];
    const sk_status statuses[] = {
        sk_expand(plan, &x, times.data(), count, how & 4 ? nullptr : &noise, how & 8, &y, how & 16 ? aligned : nullptr),
        sk_truncate(plan, &x, how & 8, &y),
        sk_transform(plan, &x, &y),
        sk_lift(plan, &e, &x, times.data(), count, &y),
        sk_normal(&y, seeds.data(), noise.seed_count, how, options.threads),
    };
    for (const sk_status status : statuses) {
        if (status == SK_INTERNAL || status < SK_OK || sk_status_string(status)[0] == '\0') std::abort();
    }
    sk_plan_destroy(plan);
    return 0;
}
