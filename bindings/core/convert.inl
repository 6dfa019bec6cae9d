// SPDX-License-Identifier: Apache-2.0
// Element types. Loads widen exactly; stores round float32 to nearest even, and every NaN becomes the same quiet NaN.

inline uint32_t bits_of(float x) {
    uint32_t bits;
    __builtin_memcpy(&bits, &x, 4);
    return bits;
}

inline float float_of(uint32_t bits) {
    float x;
    __builtin_memcpy(&x, &bits, 4);
    return x;
}

inline float widen(uint16_t half, bool brain) {
    if (brain) return float_of(static_cast<uint32_t>(half) << 16);
    const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16, rest = half & 0x7FFFu;
    // Exponent bias 15 -> 127 by a product with 2^112, which is exact and makes subnormal numbers normal.
    const float scaled = float_of(rest << 13) * 0x1p112f;
    const uint32_t special = rest >= 0x7C00u ? 0x7F800000u : 0u;
    return float_of((bits_of(scaled) | special) | sign);
}

inline uint16_t to_brain(float x) {
    const uint32_t bits = bits_of(x);
    const uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
    return static_cast<uint16_t>(x != x ? 0x7FC0u : rounded);
}

inline uint16_t to_half(float x) {
    const uint32_t bits = bits_of(x), sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7FFFFFFFu;
    // Normal results: round the mantissa in place. Subnormal results: adding 1/2 aligns the last bit with 2^-24.
    const uint32_t normal = (magnitude - 0x38000000u + 0xFFFu + ((magnitude >> 13) & 1u)) >> 13;
    const uint32_t small = bits_of(float_of(magnitude) + 0.5f) - 0x3F000000u;
    const uint32_t finite = magnitude < 0x38800000u ? small : normal;
    const uint32_t result = magnitude >= 0x477FF000u ? 0x7C00u : finite;
    return static_cast<uint16_t>(x != x ? 0x7E00u : sign | result);
}

inline float canonical(float x) { return x != x ? float_of(0x7FC00000u) : x; }

// Calls run(pointer, read) or run(pointer, write) with the element type known, once for many elements.
template <class F>
inline void reading(const Planes& planes, F&& run) {
    const auto same = [](auto v) { return v; };
    switch (planes.dtype) {
        case Dtype::f32: return run(static_cast<const float*>(planes.data), same);
        case Dtype::f64: return run(static_cast<const double*>(planes.data), same);
        case Dtype::f16: return run(static_cast<const uint16_t*>(planes.data), [](uint16_t v) { return widen(v, false); });
        case Dtype::bf16: return run(static_cast<const uint16_t*>(planes.data), [](uint16_t v) { return widen(v, true); });
    }
}

template <class T, class F>
inline void writing(const Planes& planes, F&& run) {
    switch (planes.dtype) {
        case Dtype::f32: return run(static_cast<float*>(planes.data), [](T v) { return canonical(static_cast<float>(v)); });
        case Dtype::f64: return run(static_cast<double*>(planes.data), [](T v) { return static_cast<double>(v); });
        case Dtype::f16: return run(static_cast<uint16_t*>(planes.data), [](T v) { return to_half(static_cast<float>(v)); });
        case Dtype::bf16: return run(static_cast<uint16_t*>(planes.data), [](T v) { return to_brain(static_cast<float>(v)); });
    }
}

// Up to 16 columns of a row: where they lie, and whether they are neighbours.
struct Run {
    int64_t offset[kLanes];
    int count;
    bool contiguous;
};

template <class T, int Count>
struct Lanes {
    typedef T Aligned __attribute__((vector_size(Count * sizeof(T)), may_alias));
    typedef T Type __attribute__((vector_size(Count * sizeof(T)), aligned(sizeof(T)), may_alias));
};

// 16 numbers at neighbouring addresses.
inline void widen_row(const float* from, double* to) {
    constexpr int lanes = SK_VECTOR_BYTES / 8;
    for (int i = 0; i < kLanes; i += lanes) *reinterpret_cast<Lanes<double, lanes>::Type*>(to + i) = doubles(from + i);
}
inline void widen_row(const float* from, float* to) { __builtin_memcpy(to, from, kLanes * sizeof(float)); }
inline void widen_row(const double* from, double* to) { __builtin_memcpy(to, from, kLanes * sizeof(double)); }

// float64 or float32 to float32 with one quiet NaN. No wider than what transpose16 writes: a load across two stores that
// are still on their way waits for both.
template <class T>
inline void round_row(const T* from, float* to) {
    constexpr int lanes = SK_VECTOR_BYTES == 64 ? 8 : 4;
    using F = typename Lanes<float, lanes>::Aligned;
    for (int i = 0; i < kLanes; i += lanes) {
        const F y = __builtin_convertvector(*reinterpret_cast<const typename Lanes<T, lanes>::Type*>(from + i), F);
        *reinterpret_cast<typename Lanes<float, lanes>::Type*>(to + i) = y == y ? y : F{} + float_of(0x7FC00000u);
    }
}

// One row of a run as T; the rest of the 16 lanes are zero.
template <class T, class E, class F>
inline void load_row(const E* __restrict from, const Run& run, F read, T* __restrict to) {
    if (run.contiguous && run.count == kLanes) {
        if constexpr (sizeof(E) >= sizeof(float) && sizeof(E) <= sizeof(T)) return widen_row(from, to);
        for (int i = 0; i < kLanes; ++i) to[i] = static_cast<T>(read(from[i]));
        return;
    }
    for (int i = 0; i < run.count; ++i) to[i] = static_cast<T>(read(from[run.offset[i] - run.offset[0]]));
    for (int i = run.count; i < kLanes; ++i) to[i] = 0;
}

template <class T, class E, class F>
inline void store_row(E* __restrict to, const Run& run, F write, const T* __restrict from) {
    if (run.contiguous && run.count == kLanes) {
        if constexpr (sizeof(E) == sizeof(float)) return round_row(from, to);
        for (int i = 0; i < kLanes; ++i) to[i] = write(from[i]);
        return;
    }
    for (int i = 0; i < run.count; ++i) to[run.offset[i] - run.offset[0]] = write(from[i]);
}
