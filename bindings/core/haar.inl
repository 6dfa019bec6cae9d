// SPDX-License-Identifier: Apache-2.0
// A plane of Haar, 16 blocks at a time. Pixels (a, b, c, d) and bands (LL, LH, HL, HH) go into each other by one sum.

struct Quad {
    double a[kLanes], b[kLanes], c[kLanes], d[kLanes];
};

inline void exchange(Quad& q) {
    for (int k = 0; k < kLanes; ++k) {
        const double left = q.a[k] + q.c[k], right = q.b[k] + q.d[k];
        const double left_high = q.a[k] - q.c[k], right_high = q.b[k] - q.d[k];
        q.a[k] = (left + right) * 0.5 + 0.0;
        q.b[k] = (left - right) * 0.5 + 0.0;
        q.c[k] = (left_high + right_high) * 0.5 + 0.0;
        q.d[k] = (left_high - right_high) * 0.5 + 0.0;
    }
}

// 16 columns from `first` on, as many as a band of `width` has from `start` on.
inline Run band(const Planes& p, int64_t first, int64_t start, int64_t width) {
    Run run = columns_from(p, first);
    const int64_t left = width - start;
    run.count = static_cast<int>(left < kLanes ? left : kLanes);
    return run;
}

inline void load(const Planes& p, int64_t at, const Run& run, double* to) {
    reading(p, [&](const auto* data, auto read) { load_row(data + at + run.offset[0], run, read, to); });
}

inline void store(const Planes& p, int64_t at, const Run& run, const double* from) {
    writing<double>(p, [&](auto* data, auto write) { store_row(data + at + run.offset[0], run, write, from); });
}

void haar_plane(const Haar& job, int64_t plane) {
    const Planes &pixels = job.inverse ? job.out : job.x, &bands = job.inverse ? job.x : job.out;
    const int64_t h = bands.rows / 2, w = bands.columns / 2;
    const int64_t pixel_base = plane_offset(pixels, plane), band_base = plane_offset(bands, plane);
    Quad q;
    double row[2][2 * kLanes];
    for (int64_t j = 0; j < w; j += kLanes) {
        const Run near = columns_from(pixels, 2 * j), low = band(bands, j, j, w), high = band(bands, w + j, j, w);
        const bool both = 2 * j + kLanes < pixels.columns;
        const Run far = both ? columns_from(pixels, 2 * j + kLanes) : near;
        for (int64_t i = 0; i < h; ++i) {
            const int64_t top = band_base + row_offset(bands, i), bottom = band_base + row_offset(bands, h + i);
            const int64_t line[2] = {pixel_base + row_offset(pixels, 2 * i), pixel_base + row_offset(pixels, 2 * i + 1)};
            if (job.inverse) {
                load(bands, top, low, q.a);
                load(bands, top, high, q.b);
                load(bands, bottom, low, q.c);
                load(bands, bottom, high, q.d);
            } else {
                for (int r = 0; r < 2; ++r) {
                    load(pixels, line[r], near, row[r]);
                    if (both) load(pixels, line[r], far, row[r] + kLanes);
                    else clear(row[r] + kLanes, kLanes);
                }
                for (int k = 0; k < kLanes; ++k) {
                    q.a[k] = row[0][2 * k], q.b[k] = row[0][2 * k + 1];
                    q.c[k] = row[1][2 * k], q.d[k] = row[1][2 * k + 1];
                }
            }
            exchange(q);
            if (!job.inverse) {
                store(bands, top, low, q.a);
                store(bands, top, high, q.b);
                store(bands, bottom, low, q.c);
                store(bands, bottom, high, q.d);
                continue;
            }
            for (int k = 0; k < kLanes; ++k) {
                row[0][2 * k] = q.a[k], row[0][2 * k + 1] = q.b[k];
                row[1][2 * k] = q.c[k], row[1][2 * k + 1] = q.d[k];
            }
            for (int r = 0; r < 2; ++r) {
                store(pixels, line[r], near, row[r]);
                if (both) store(pixels, line[r], far, row[r] + kLanes);
            }
        }
    }
}
