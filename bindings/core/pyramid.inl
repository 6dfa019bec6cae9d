// SPDX-License-Identifier: Apache-2.0
// Levels of a pyramid, a line at a time in buffers of one kind of number: float64, or float32 where the result of one
// operation on stored numbers is rounded to float32 anyway (53 >= 2 * 24 + 2 digits: the same bits).

namespace {

template <class T>
inline void load_line(const Planes& p, int64_t at, T* to) {
    reading(p, [&](const auto* data, auto read) {
        data += at;
        if (p.patch_columns == 1 && p.stride[5] == 1) {
            for (int64_t j = 0; j < p.columns; ++j) to[j] = static_cast<T>(read(data[j]));
        } else {
            for (int64_t j = 0; j < p.columns; ++j) to[j] = static_cast<T>(read(data[column_offset(p, j)]));
        }
    });
}

// Adds zero, which makes a zero positive.
template <class T>
inline void store_line(const Planes& p, int64_t at, const T* from) {
    writing<T>(p, [&](auto* data, auto write) {
        data += at;
        if (p.patch_columns == 1 && p.stride[5] == 1) {
            for (int64_t j = 0; j < p.columns; ++j) data[j] = write(from[j] + T(0));
        } else {
            for (int64_t j = 0; j < p.columns; ++j) data[column_offset(p, j)] = write(from[j] + T(0));
        }
    });
}

// A result may replace an operand, element by element.
#if defined(__clang__)
#define SK_IVDEP _Pragma("clang loop vectorize(assume_safety)")
#else
#define SK_IVDEP _Pragma("GCC ivdep")
#endif

// Values as they will be stored.
template <class T>
inline void round_line(Dtype dtype, int64_t count, const double* from, T* to) {
    const auto each = [&](auto round) {
        SK_IVDEP
        for (int64_t j = 0; j < count; ++j) to[j] = static_cast<T>(round(from[j] + 0.0));
    };
    switch (dtype) {
        case Dtype::f64: return each([](double v) { return v; });
        case Dtype::f32: return each([](double v) { return canonical(static_cast<float>(v)); });
        case Dtype::f16: return each([](double v) { return widen(to_half(static_cast<float>(v)), false); });
        case Dtype::bf16: return each([](double v) { return widen(to_brain(static_cast<float>(v)), true); });
    }
}

template <class T>
inline void subtract(int64_t count, const T* from, const T* what, T* to) {
    SK_IVDEP
    for (int64_t j = 0; j < count; ++j) to[j] = from[j] - what[j];
}

template <class T>
inline void add(int64_t count, const T* a, const T* b, T* to) {
    SK_IVDEP
    for (int64_t j = 0; j < count; ++j) to[j] = a[j] + b[j];
}

// Nearest: pixel j of the coarse line fills `block` pixels.
template <class T>
inline void widen_line(const T* from, int64_t coarse, int64_t fine, int64_t block, T* to) {
    if (block == 2) {
        for (int64_t j = 0; j < fine / 2; ++j) to[2 * j] = to[2 * j + 1] = from[j];
        if (fine % 2) to[fine - 1] = from[coarse - 1];
        return;
    }
    for (int64_t j = 0; j < coarse; ++j) {
        for (int64_t at = j * block; at < fine && at < (j + 1) * block; ++at) to[at] = from[j];
    }
}

// Means of `block` neighbours of a line of sums over `rows` rows; the last block may be smaller.
inline void block_means(const double* sums, int64_t fine, int64_t coarse, int64_t block, int64_t rows, double* to) {
    const int64_t whole = fine / block, pixels = rows * block;
    const auto divide = [&](auto scaled) {
        if (block == 2) {
            for (int64_t j = 0; j < whole; ++j) to[j] = scaled(sums[2 * j] + sums[2 * j + 1]);
            return;
        }
        for (int64_t j = 0; j < whole; ++j) {
            double total = sums[j * block];
            for (int64_t b = 1; b < block; ++b) total += sums[j * block + b];
            to[j] = scaled(total);
        }
    };
    const auto count = static_cast<double>(pixels);
    if ((pixels & (pixels - 1)) == 0) {
        divide([inverse = 1.0 / count](double total) { return total * inverse; });  // exact, as the division would be
    } else {
        divide([count](double total) { return total / count; });
    }
    if (whole < coarse) {
        double total = sums[whole * block];
        for (int64_t at = whole * block + 1; at < fine; ++at) total += sums[at];
        to[whole] = total / static_cast<double>(rows * (fine - whole * block));
    }
}

template <class T>
void split_area(const Split& job, int64_t plane, int64_t first, int64_t last, double* memory) {
    const int64_t H = job.x.rows, W = job.x.columns, w = job.coarse.columns;
    const int64_t f = (H - 1) / job.coarse.rows + 1, g = (W - 1) / w + 1;
    double *const sums = memory, *const line = sums + W, *const means = line + W;
    T *const rounded = reinterpret_cast<T*>(means + w), *const up = rounded + w, *const fine = up + W;
    const int64_t from = plane_offset(job.x, plane), to = plane_offset(job.detail, plane), low = plane_offset(job.coarse, plane);
    for (int64_t i = first; i < last; ++i) {
        const int64_t top = i * f, bottom = top + f < H ? top + f : H;
        load_line(job.x, from + row_offset(job.x, top), sums);
        for (int64_t row = top + 1; row < bottom; ++row) {
            load_line(job.x, from + row_offset(job.x, row), line);
            add(W, sums, line, sums);
        }
        block_means(sums, W, w, g, bottom - top, means);
        round_line(job.coarse.dtype, w, means, rounded);
        store_line(job.coarse, low + row_offset(job.coarse, i), rounded);
        widen_line(rounded, w, W, g, up);
        for (int64_t row = top; row < bottom; ++row) {
            load_line(job.x, from + row_offset(job.x, row), fine);
            subtract(W, fine, up, fine);
            store_line(job.detail, to + row_offset(job.detail, row), fine);
        }
    }
}

// The two rows that row i of n reads of m, and the weight of the second.
struct Pair {
    int64_t top, bottom;
    double weight;
};

inline Pair pair_of(int64_t i, int64_t m, int64_t n) {
    const int64_t position = (2 * i + 1) * m - n > 0 ? (2 * i + 1) * m - n : 0, top = position / (2 * n);
    return {top, top + 1 < m ? top + 1 : m - 1, static_cast<double>(position % (2 * n)) / static_cast<double>(2 * n)};
}

inline void blend(int64_t count, const double* a, const double* b, double weight, double* to) {
    const double rest = 1.0 - weight;
    SK_IVDEP
    for (int64_t j = 0; j < count; ++j) to[j] = rest * a[j] + weight * b[j];
}

// Interpolation along a line.
inline void interpolate(const Points& points, const double* from, double* to) {
    const int64_t m = points.given, n = points.count;
    if (points.left) {
        for (int64_t j = 0; j < n; ++j) {
            to[j] = (1.0 - points.weight[j]) * from[points.left[j]] + points.weight[j] * from[points.right[j]];
        }
        return;
    }
    if (m == 2 * n) {
        for (int64_t j = 0; j < n; ++j) to[j] = 0.5 * from[2 * j] + 0.5 * from[2 * j + 1];
        return;
    }
    to[0] = 1.0 * from[0] + 0.0 * from[m > 1 ? 1 : 0];
    for (int64_t k = 0; k < m - 1; ++k) {
        const double a = from[k], b = from[k + 1];
        to[2 * k + 1] = 0.75 * a + 0.25 * b;
        to[2 * k + 2] = 0.25 * a + 0.75 * b;
    }
    to[n - 1] = 0.75 * from[m - 1] + 0.25 * from[m - 1];
}

// Rows of a plane that are made when they are first asked for and kept while the next row needs them.
struct Kept {
    double* line[2];
    int64_t number[2] = {-1, -1};

    template <class F>
    const double* row(int64_t i, F&& make) {
        const int slot = static_cast<int>(i & 1);
        if (number[slot] != i) {
            make(i, line[slot]);
            number[slot] = i;
        }
        return line[slot];
    }
};

void split_bilinear(const Split& job, int64_t plane, int64_t first, int64_t last, double* memory) {
    const int64_t H = job.x.rows, W = job.x.columns, h = job.coarse.rows, w = job.coarse.columns;
    double *const a = memory, *const b = a + W, *const fine = b + W, *const up = fine + W;
    double* const mixed = up + W;
    Kept kept{{mixed + w, mixed + 2 * w}};
    const int64_t from = plane_offset(job.x, plane), to = plane_offset(job.detail, plane), low = plane_offset(job.coarse, plane);
    const auto make = [&](int64_t i, double* line) {
        const Pair rows = pair_of(i, H, h);
        load_line(job.x, from + row_offset(job.x, rows.top), a);
        load_line(job.x, from + row_offset(job.x, rows.bottom), b);
        blend(W, a, b, rows.weight, a);
        interpolate(job.down, a, line);
        round_line(job.coarse.dtype, w, line, line);
    };
    for (int64_t r = first; r < last; ++r) {
        const Pair rows = pair_of(r, h, H);
        const double *const top = kept.row(rows.top, make), *const bottom = kept.row(rows.bottom, make);
        // Coarse row i is stored with fine row floor(i H / h), which always reads it.
        for (int64_t i = rows.top; i <= rows.bottom; ++i) {
            if (i * H / h == r) store_line(job.coarse, low + row_offset(job.coarse, i), i == rows.top ? top : bottom);
        }
        blend(w, top, bottom, rows.weight, mixed);
        interpolate(job.up, mixed, up);
        load_line(job.x, from + row_offset(job.x, r), fine);
        subtract(W, fine, up, fine);
        store_line(job.detail, to + row_offset(job.detail, r), fine);
    }
}

template <class T>
inline void finish(const Merge& job, int64_t from, int64_t to, int64_t row, const T* up, T* fine) {
    const int64_t W = job.out.columns;
    load_line(job.detail, from + row_offset(job.detail, row), fine);
    if (job.subtract) subtract(W, fine, up, fine);
    else add(W, up, fine, fine);
    store_line(job.out, to + row_offset(job.out, row), fine);
}

// Nearest, or the same size, which is blocks of one pixel.
template <class T>
void merge_area(const Merge& job, int64_t plane, int64_t first, int64_t last, double* memory) {
    const int64_t W = job.out.columns, w = job.coarse.columns;
    const int64_t f = (job.out.rows - 1) / job.coarse.rows + 1, g = (W - 1) / w + 1;
    T *const line = reinterpret_cast<T*>(memory), *const up = g == 1 ? line : line + w, *const fine = line + w + W;
    const int64_t from = plane_offset(job.detail, plane), to = plane_offset(job.out, plane), low = plane_offset(job.coarse, plane);
    for (int64_t r = first; r < last; ++r) {
        if (r == first || r % f == 0) {
            load_line(job.coarse, low + row_offset(job.coarse, r / f), line);
            if (g > 1) widen_line(line, w, W, g, up);
        }
        finish(job, from, to, r, up, fine);
    }
}

void merge_bilinear(const Merge& job, int64_t plane, int64_t first, int64_t last, double* memory) {
    const int64_t W = job.out.columns, h = job.coarse.rows, w = job.coarse.columns;
    double *const up = memory, *const fine = up + W, *const mixed = fine + W;
    Kept kept{{mixed + w, mixed + 2 * w}};
    const int64_t from = plane_offset(job.detail, plane), to = plane_offset(job.out, plane), low = plane_offset(job.coarse, plane);
    const auto make = [&](int64_t i, double* line) { load_line(job.coarse, low + row_offset(job.coarse, i), line); };
    for (int64_t r = first; r < last; ++r) {
        const Pair rows = pair_of(r, h, job.out.rows);
        const double *const top = kept.row(rows.top, make), *const bottom = kept.row(rows.bottom, make);
        blend(w, top, bottom, rows.weight, mixed);
        interpolate(job.up, mixed, up);
        finish(job, from, to, r, up, fine);
    }
}

}  // namespace

void split_rows(const Split& job, int64_t plane, int64_t first, int64_t last, double* memory) {
    if (job.resample == Resample::bilinear) return split_bilinear(job, plane, first, last, memory);
    if (job.x.dtype == Dtype::f64) return split_area<double>(job, plane, first, last, memory);
    split_area<float>(job, plane, first, last, memory);
}

void merge_rows(const Merge& job, int64_t plane, int64_t first, int64_t last, double* memory) {
    if (job.resample == Resample::bilinear) return merge_bilinear(job, plane, first, last, memory);
    if (job.out.dtype == Dtype::f64) return merge_area<double>(job, plane, first, last, memory);
    merge_area<float>(job, plane, first, last, memory);
}

void noise_level(const NoiseLevel& job, int64_t plane, int64_t group) {
    const int64_t per_sample = job.x.outer * job.x.inner, sample = plane / per_sample;
    const double t = job.times[sample * job.step], rest = 1.0 - t;
    const bool shown = !job.shown || job.shown[sample * job.step] != 0;
    const auto seed = static_cast<uint64_t>(job.seeds ? job.seeds[sample] : job.base_seed + sample);
    const Planes* const parts[3] = {&job.x, &job.noisy, &job.velocity};
    int64_t base[3];
    for (int n = 0; n < 3; ++n) base[n] = plane_offset(*parts[n], plane);
    Words words;
    float drawn[kLanes];
    double x[kLanes] = {}, z[kLanes], v[kLanes];
    for (int64_t j = 0; j < job.x.columns; j += kLanes) {
        const Run from = columns_from(job.x, j), noisy = columns_from(job.noisy, j), velocity = columns_from(job.velocity, j);
        philox(seed, job.stream, static_cast<uint32_t>(plane % per_sample), static_cast<uint32_t>(group), static_cast<uint32_t>(j), words);
        for (int64_t i = 4 * group; i < 4 * group + 4 && i < job.x.rows; ++i) {
            deviates(words.word[i % 4], drawn);
            reading(job.x, [&](const auto* data, auto read) {
                load_row(data + base[0] + row_offset(job.x, i) + from.offset[0], from, read, x);
            });
            for (int k = 0; k < kLanes; ++k) {
                const double e = drawn[k];
                z[k] = (rest * x[k] + t * e) + 0.0;
                v[k] = (e - x[k]) + 0.0;
            }
            if (!shown) clear(z, kLanes);
            writing<double>(job.noisy, [&](auto* data, auto write) {
                store_row(data + base[1] + row_offset(job.noisy, i) + noisy.offset[0], noisy, write, z);
            });
            writing<double>(job.velocity, [&](auto* data, auto write) {
                store_row(data + base[2] + row_offset(job.velocity, i) + velocity.offset[0], velocity, write, v);
            });
        }
    }
}
