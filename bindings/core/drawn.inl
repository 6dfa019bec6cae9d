// SPDX-License-Identifier: Apache-2.0
// Deviates into memory; what they are is in noise.inl.

void noise_rows(const Noise& noise, uint64_t seed, int64_t base, uint32_t plane, int64_t group) {
    Planes to;
    to.data = noise.data;
    to.dtype = noise.dtype;
    const int64_t rows = noise.size[2], columns = noise.size[3], step = noise.stride[3];
    writing<float>(to, [&](auto* data, auto write) {
        Words words;
        float values[kLanes];
        Run run{{}, 0, step == 1};
        for (int64_t first = 0; first < columns; first += kLanes) {
            run.count = static_cast<int>(columns - first < kLanes ? columns - first : kLanes);
            for (int i = 0; i < run.count; ++i) run.offset[i] = (first + i) * step;
            philox(seed, noise.stream, plane, static_cast<uint32_t>(group), static_cast<uint32_t>(first), words);
            for (int64_t row = 4 * group; row < 4 * group + 4 && row < rows; ++row) {
                deviates(words.word[row % 4], values);
                store_row(data + base + row * noise.stride[2] + run.offset[0], run, write, values);
            }
        }
    });
}
