// SPDX-License-Identifier: Apache-2.0
// The weighted sum of forecasting; the contract is reference/forecast.py.

void forecast_span(const Forecast& job, int64_t start, int64_t stop) {
    constexpr int64_t kPiece = 512;
    alignas(64) float sum[kPiece];
    Planes to, from;
    to.data = job.out;
    to.dtype = job.out_dtype;
    for (int64_t first = start; first < stop; first += kPiece) {
        const int64_t count = stop - first < kPiece ? stop - first : kPiece;
        for (int64_t g = 0; g < job.targets; ++g) {
            for (int64_t k = 0; k < job.count; ++k) {
                const float w = job.weights[g * job.count + k];
                from.data = const_cast<void*>(job.features[k]);
                from.dtype = job.dtypes[k];
                reading(from, [&](const auto* data, auto read) {
                    data += first;
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
