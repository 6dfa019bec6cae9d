// SPDX-License-Identifier: Apache-2.0
// The weighted sum of forecasting and the update of moments; the contract is reference/forecast.py.

// A run of memory as the accessors see it.
inline Planes flat(const void* data, Dtype dtype) {
    Planes p;
    p.data = const_cast<void*>(data);
    p.dtype = dtype;
    return p;
}

// Pieces of this many elements keep accumulators and features in the first cache.
constexpr int64_t kPiece = 512;

// The piece after this one: a processor foresees one long stream, not the next piece of many.
template <class E>
inline void prefetch_next(const E* piece) {
    for (int64_t i = 0; i < kPiece; i += 64 / sizeof(E)) __builtin_prefetch(piece + kPiece + i);
}

void forecast_span(const Forecast& job, int64_t start, int64_t stop) {
    alignas(64) float sum[kPiece];
    const Planes to = flat(job.out, job.out_dtype);
    for (int64_t first = start; first < stop; first += kPiece) {
        const int64_t count = stop - first < kPiece ? stop - first : kPiece;
        for (int64_t g = 0; g < job.targets; ++g) {
            for (int64_t k = 0; k < job.count; ++k) {
                const float w = job.weights[g * job.count + k];
                reading(flat(job.features[k], job.dtypes[k]), [&](const auto* data, auto read) {
                    data += first;
                    if (g == 0) prefetch_next(data);
                    if (k == 0) {
                        for (int64_t i = 0; i < count; ++i) sum[i] = static_cast<float>(read(data[i])) * w;
                    } else {
                        for (int64_t i = 0; i < count; ++i) sum[i] = sum[i] + static_cast<float>(read(data[i])) * w;
                    }
                });
            }
            writing<float>(to, [&](auto* data, auto write) {
                data += g * job.size + first;
                for (int64_t i = 0; i < count; ++i) data[i] = write(sum[i]);
            });
        }
    }
}

void moments_span(const Moments& job, int64_t start, int64_t stop) {
    alignas(64) float values[kPiece];
    const Planes from = flat(job.feature, job.dtype);
    for (int64_t first = start; first < stop; first += kPiece) {
        const int64_t count = stop - first < kPiece ? stop - first : kPiece;
        reading(from, [&](const auto* data, auto read) {
            prefetch_next(data + first);
            for (int64_t i = 0; i < count; ++i) values[i] = static_cast<float>(read(data[first + i]));
        });
        for (int64_t m = 0; m < job.count; ++m) {
            float* const moment = job.moments + m * job.size + first;
            const float factor = job.row[m];
            prefetch_next(moment);
            for (int64_t i = 0; i < count; ++i) moment[i] = canonical(moment[i] + factor * values[i]);
        }
    }
}
