// SPDX-License-Identifier: Apache-2.0
// A tensor as ggml keeps it: ne[0] is the fastest axis, nb[] are strides in bytes. The library reads and writes it in
// place, here through a view of every other row, and float16 as well as float32.
#include <spectral_kernels.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

struct Tensor {
    sk_dtype type;
    std::array<int64_t, 4> ne;  // width, height, channels, batch
    std::array<int64_t, 4> nb;
    std::vector<unsigned char> data;

    Tensor(sk_dtype type_, std::array<int64_t, 4> ne_, int64_t row_gap = 0) : type(type_), ne(ne_) {
        nb[0] = type == SK_FLOAT32 ? 4 : 2;
        nb[1] = nb[0] * ne[0] + row_gap;
        nb[2] = nb[1] * ne[1];
        nb[3] = nb[2] * ne[2];
        data.resize(static_cast<std::size_t>(nb[3] * ne[3]));
    }
    float* at(int64_t x, int64_t y, int64_t c) { return reinterpret_cast<float*>(data.data() + x * nb[0] + y * nb[1] + c * nb[2]); }
    sk_array array() {
        sk_array a = sk_contiguous(data.data(), type, ne[3], ne[2], ne[1], ne[0]);
        for (int axis = 0; axis < 4; ++axis) a.stride[axis] = nb[3 - axis] / nb[0];
        return a;
    }
};

struct Destroy {
    void operator()(sk_plan* plan) const { sk_plan_destroy(plan); }
};

bool run(Tensor& x, Tensor& y, double t) {
    sk_plan_options options = sk_default_plan_options();
    for (int axis = 0; axis < 2; ++axis) {
        options.coarse[axis] = x.ne[1 - axis];
        options.fine[axis] = y.ne[1 - axis];
    }
    sk_plan* made = nullptr;
    sk_status status = sk_plan_create(&made, &options);
    const std::unique_ptr<sk_plan, Destroy> plan(made);
    const sk_array in = x.array(), out = y.array();
    const int64_t seed = 42;
    sk_noise noise = sk_default_noise();
    noise.seeds = &seed;
    noise.seed_count = 1;
    if (status == SK_OK) status = sk_expand(plan.get(), &in, &t, 1, &noise, 1, &out, nullptr);
    if (status != SK_OK) std::fprintf(stderr, "%s\n", sk_status_string(status));
    return status == SK_OK;
}

int main() {
    Tensor plain(SK_FLOAT32, {32, 24, 4, 1}), gaps(SK_FLOAT32, {32, 24, 4, 1}, 32 * 4);
    for (int64_t c = 0; c < 4; ++c) {
        for (int64_t j = 0; j < 24; ++j) {
            for (int64_t i = 0; i < 32; ++i) *plain.at(i, j, c) = *gaps.at(i, j, c) = std::sin(0.3f * i + 0.2f * j + c);
        }
    }
    Tensor a(SK_FLOAT32, {64, 48, 4, 1}), b(SK_FLOAT32, {64, 48, 4, 1}, 12), half(SK_FLOAT16, {64, 48, 4, 1});
    if (!run(plain, a, 0.5) || !run(gaps, b, 0.5) || !run(plain, half, 0.5)) return 1;
    for (int64_t c = 0; c < 4; ++c) {
        for (int64_t j = 0; j < 48; ++j) {
            if (std::memcmp(a.at(0, j, c), b.at(0, j, c), 64 * 4) != 0) return 1;  // the same bits, whatever the strides
        }
    }
    return 0;
}
