// SPDX-License-Identifier: Apache-2.0
// Levels of a pyramid, a line at a time, in float32, or in float64 for itself. Lines that lie in memory as numbers of that
// kind are read and written where they are; others pass through buffers in the first cache.

namespace {

// A result may replace an operand, element by element.
#if defined(__clang__)
#define SK_IVDEP _Pragma("clang loop vectorize(assume_safety)")
#else
#define SK_IVDEP _Pragma("GCC ivdep")
#endif

inline float finished(float v) { return canonical(v + 0.0f); }
inline double finished(double v) { return v + 0.0; }

inline bool neighbours(const Planes& p) { return p.patch_columns == 1 && p.stride[5] == 1; }

template <class T>
inline bool plain(const Planes& p) {
    return neighbours(p) && p.dtype == (sizeof(T) == sizeof(float) ? Dtype::f32 : Dtype::f64);
}

// What is computed in float64 is float64 in memory too.
template <class T, class F>
inline void reading_as(const Planes& p, F&& run) {
    if constexpr (sizeof(T) == sizeof(float)) return reading(p, run);
    else run(static_cast<const double*>(p.data), [](double v) { return v; });
}

template <class T, class F>
inline void writing_as(const Planes& p, F&& run) {
    if constexpr (sizeof(T) == sizeof(float)) return writing<float>(p, run);
    else run(static_cast<double*>(p.data), [](double v) { return v; });
}

// Not inline: one copy will do for all uses, of which there are many.
template <class T>
__attribute__((noinline)) void load_line(const Planes& p, int64_t at, T* to) {
    reading_as<T>(p, [&](const auto* data, auto read) {
        data += at;
        if (neighbours(p)) {
            for (int64_t j = 0; j < p.columns; ++j) to[j] = static_cast<T>(read(data[j]));
        } else {
            for (int64_t j = 0; j < p.columns; ++j) to[j] = static_cast<T>(read(data[column_offset(p, j)]));
        }
    });
}

template <class T>
__attribute__((noinline)) void store_line(const Planes& p, int64_t at, const T* from) {
    writing_as<T>(p, [&](auto* data, auto write) {
        data += at;
        if (neighbours(p)) {
            for (int64_t j = 0; j < p.columns; ++j) data[j] = write(from[j]);
        } else {
            for (int64_t j = 0; j < p.columns; ++j) data[column_offset(p, j)] = write(from[j]);
        }
    });
}

template <class T>
inline const T* line_at(const Planes& p, int64_t at, T* buffer) {
    if (plain<T>(p)) return static_cast<const T*>(p.data) + at;
    load_line(p, at, buffer);
    return buffer;
}

// Computes a line, number by number, where it lies or in the buffer and from there. The buffer may be an operand.
template <class T, class F>
inline void put_line(const Planes& p, int64_t at, T* buffer, F&& number) {
    T* const to = plain<T>(p) ? static_cast<T*>(p.data) + at : buffer;
    SK_IVDEP
    for (int64_t j = 0; j < p.columns; ++j) to[j] = finished(number(j));
    if (to == buffer) store_line(p, at, to);
}

// The values that a line has once it is stored, in place.
template <class T>
__attribute__((noinline)) void round_line(Dtype dtype, int64_t count, T* line) {
    const auto each = [&](auto round) {
        SK_IVDEP
        for (int64_t j = 0; j < count; ++j) line[j] = static_cast<T>(round(line[j] + T(0)));
    };
    if (dtype == Dtype::f16) return each([](T v) { return widen(to_half(static_cast<float>(v)), false); });
    if (dtype == Dtype::bf16) return each([](T v) { return widen(to_brain(static_cast<float>(v)), true); });
    each([](T v) { return v; });
}

// Nearest: pixel j of the coarse line fills `block` pixels.
template <class T>
__attribute__((noinline)) const T* widened_line(const T* from, int64_t coarse, int64_t fine, int64_t block, T* to) {
    if (block == 1) return from;
    if (block == 2) {
        SK_IVDEP
        for (int64_t j = 0; j < fine / 2; ++j) to[2 * j] = to[2 * j + 1] = from[j];
        if (fine % 2) to[fine - 1] = from[coarse - 1];
        return to;
    }
    for (int64_t j = 0; j < coarse; ++j) {
        for (int64_t at = j * block; at < fine && at < (j + 1) * block; ++at) to[at] = from[j];
    }
    return to;
}

// Means of `block` neighbours of a line of sums over `rows` rows; the last block may be smaller.
template <class T>
inline void block_means(const T* sums, int64_t fine, int64_t coarse, int64_t block, int64_t rows, T* to) {
    const int64_t whole = fine / block, pixels = rows * block;
    const auto divide = [&](auto scaled) {
        if (block == 2) {
            SK_IVDEP
            for (int64_t j = 0; j < whole; ++j) to[j] = scaled(sums[2 * j] + sums[2 * j + 1]);
            return;
        }
        for (int64_t j = 0; j < whole; ++j) {
            T total = sums[j * block];
            for (int64_t b = 1; b < block; ++b) total += sums[j * block + b];
            to[j] = scaled(total);
        }
    };
    const auto count = static_cast<T>(pixels);
    if ((pixels & (pixels - 1)) == 0) {
        divide([inverse = T(1) / count](T total) { return total * inverse; });  // exact, as the division would be
    } else {
        divide([count](T total) { return total / count; });
    }
    if (whole < coarse) {
        T total = sums[whole * block];
        for (int64_t at = whole * block + 1; at < fine; ++at) total += sums[at];
        to[whole] = total / static_cast<T>(rows * (fine - whole * block));
    }
}

// Row i of the means of blocks of f rows.
template <class T>
__attribute__((noinline)) void area_line(const Planes& x, int64_t from, int64_t i, int64_t f, int64_t w, T* sums, T* buffer, T* to) {
    const int64_t W = x.columns, top = i * f, bottom = top + f < x.rows ? top + f : x.rows;
    const T* line = line_at(x, from + row_offset(x, top), sums);
    for (int64_t row = top + 1; row < bottom; ++row) {
        const T* const next = line_at(x, from + row_offset(x, row), buffer);
        SK_IVDEP
        for (int64_t j = 0; j < W; ++j) sums[j] = line[j] + next[j];
        line = sums;
    }
    block_means(line, W, w, (W - 1) / w + 1, bottom - top, to);
}

template <class T>
void split_area(const Split& job, int64_t plane, int64_t first, int64_t last, T* memory) {
    const Planes &x = job.x, &detail = job.detail, &coarse = job.coarse;
    const int64_t H = x.rows, W = x.columns, w = coarse.columns, f = (H - 1) / coarse.rows + 1, g = (W - 1) / w + 1;
    T *const sums = memory, *const buffer = sums + W, *const mean = buffer + W, *const wide = mean + W;
    const int64_t from = plane_offset(x, plane), to = plane_offset(detail, plane), low = plane_offset(coarse, plane);
    for (int64_t i = first; i < last; ++i) {
        area_line(x, from, i, f, w, sums, buffer, mean);
        round_line(coarse.dtype, w, mean);
        store_line(coarse, low + row_offset(coarse, i), mean);
        const T* const up = widened_line(mean, w, W, g, wide);
        for (int64_t row = i * f; row < H && row < (i + 1) * f; ++row) {
            const T* const fine = line_at(x, from + row_offset(x, row), buffer);
            put_line(detail, to + row_offset(detail, row), buffer, [=](int64_t j) { return fine[j] - up[j]; });
        }
    }
}

// The two rows that row i of n reads of m, and their weights.
template <class T>
struct Pair {
    int64_t top, bottom;
    T rest, weight;

    Pair(int64_t i, int64_t m, int64_t n) {
        const int64_t position = (2 * i + 1) * m - n > 0 ? (2 * i + 1) * m - n : 0;
        top = position / (2 * n);
        bottom = top + 1 < m ? top + 1 : m - 1;
        weight = static_cast<T>(position % (2 * n)) / static_cast<T>(2 * n);
        rest = T(1) - weight;
    }
};

// Interpolation along a line.
template <class T>
__attribute__((noinline)) const T* interpolated_line(const Points& points, const T* from, T* to) {
    const int64_t m = points.given, n = points.count;
    if (m == n) return from;
    if (points.left) {
        for (int64_t j = 0; j < n; ++j) {
            const T weight = static_cast<T>(points.weight[j]);
            to[j] = (T(1) - weight) * from[points.left[j]] + weight * from[points.right[j]];
        }
        return to;
    }
    to[0] = T(1) * from[0] + T(0) * from[m > 1 ? 1 : 0];
    SK_IVDEP
    for (int64_t k = 0; k < m - 1; ++k) {
        const T a = from[k], b = from[k + 1];
        to[2 * k + 1] = T(0.75) * a + T(0.25) * b;
        to[2 * k + 2] = T(0.25) * a + T(0.75) * b;
    }
    to[n - 1] = T(0.75) * from[m - 1] + T(0.25) * from[m - 1];
    return to;
}

// Lines that are made when they are first asked for and kept while the next row needs them.
template <class T>
struct Kept {
    T* buffer[2];
    const T* line[2] = {};
    int64_t number[2] = {-1, -1};

    template <class F>
    const T* row(int64_t i, F&& make) {
        const int slot = static_cast<int>(i & 1);
        if (number[slot] != i) {
            line[slot] = make(i, buffer[slot]);
            number[slot] = i;
        }
        return line[slot];
    }
};

// Row r of the fine image from lines of the coarse one, in the order of `combine(fine, up)`.
template <class T, class Make, class F>
inline void put_row(const Planes& given, int64_t from, const Planes& p, int64_t to, int64_t r, int64_t h, Kept<T>& kept, Make&& make,
                    T* buffer, F&& combine) {
    if (p.rows == h) {
        const T* const up = kept.row(r, make);
        const T* const fine = line_at(given, from + row_offset(given, r), buffer);
        return put_line(p, to + row_offset(p, r), buffer, [=](int64_t j) { return combine(fine[j], up[j]); });
    }
    const Pair<T> rows(r, h, p.rows);
    const T *const top = kept.row(rows.top, make), *const bottom = kept.row(rows.bottom, make);
    const T* const fine = line_at(given, from + row_offset(given, r), buffer);
    put_line(p, to + row_offset(p, r), buffer,
             [=](int64_t j) { return combine(fine[j], rows.rest * top[j] + rows.weight * bottom[j]); });
}

template <class T>
void split_bilinear(const Split& job, int64_t plane, int64_t first, int64_t last, T* memory) {
    const Planes &x = job.x, &coarse = job.coarse;
    const int64_t H = x.rows, W = x.columns, h = coarse.rows, w = coarse.columns;
    T *const a = memory, *const b = a + W, *const mean = b + W;
    Kept<T> kept{{mean + W, mean + 2 * W}};
    const int64_t from = plane_offset(x, plane), to = plane_offset(job.detail, plane), low = plane_offset(coarse, plane);
    const auto make = [&](int64_t i, T* buffer) {
        if (H == 2 * h && W == 2 * w) {
            area_line(x, from, i, 2, w, a, b, mean);
        } else {
            const Pair<T> rows(i, H, h);
            const T* top = line_at(x, from + row_offset(x, rows.top), a);
            if (H != h) {
                const T* const bottom = line_at(x, from + row_offset(x, rows.bottom), b);
                SK_IVDEP
                for (int64_t j = 0; j < W; ++j) a[j] = rows.rest * top[j] + rows.weight * bottom[j];
                top = a;
            }
            const T* const line = interpolated_line(job.down, top, mean);
            if (line != mean) __builtin_memcpy(mean, line, w * sizeof(T));
        }
        round_line(coarse.dtype, w, mean);
        // Coarse row i is stored by the band of fine row floor(i H / h), which always reads it.
        if (const int64_t r = i * H / h; first <= r && r < last) {
            store_line(coarse, low + row_offset(coarse, i), mean);
        }
        const T* const line = interpolated_line(job.up, mean, buffer);
        if (line != buffer) __builtin_memcpy(buffer, line, W * sizeof(T));
        return buffer;
    };
    for (int64_t r = first; r < last; ++r) {
        put_row(x, from, job.detail, to, r, h, kept, make, a, [](T fine, T up) { return fine - up; });
    }
}

// Nearest, or the same size, which is blocks of one pixel.
template <class T, class F>
void merge_area(const Merge& job, int64_t plane, int64_t first, int64_t last, T* memory, F&& combine) {
    const int64_t W = job.out.columns, w = job.coarse.columns;
    const int64_t f = (job.out.rows - 1) / job.coarse.rows + 1, g = (W - 1) / w + 1;
    T *const line = memory, *const wide = line + w, *const buffer = wide + W;
    const int64_t from = plane_offset(job.detail, plane), to = plane_offset(job.out, plane), low = plane_offset(job.coarse, plane);
    const T* up = nullptr;
    for (int64_t r = first; r < last; ++r) {
        if (!up || r % f == 0) {
            up = widened_line(line_at(job.coarse, low + row_offset(job.coarse, r / f), line), w, W, g, wide);
        }
        const T* const fine = line_at(job.detail, from + row_offset(job.detail, r), buffer);
        put_line(job.out, to + row_offset(job.out, r), buffer, [=](int64_t j) { return combine(fine[j], up[j]); });
    }
}

template <class T, class F>
void merge_bilinear(const Merge& job, int64_t plane, int64_t first, int64_t last, T* memory, F&& combine) {
    const int64_t W = job.out.columns, w = job.coarse.columns;
    T *const buffer = memory, *const line = buffer + W;
    Kept<T> kept{{line + W, line + 2 * W}};
    const int64_t from = plane_offset(job.detail, plane), to = plane_offset(job.out, plane), low = plane_offset(job.coarse, plane);
    const auto make = [&](int64_t i, T* into) {
        return interpolated_line(job.up, line_at(job.coarse, low + row_offset(job.coarse, i), w == W ? into : line), into);
    };
    for (int64_t r = first; r < last; ++r) {
        put_row(job.detail, from, job.out, to, r, job.coarse.rows, kept, make, buffer, combine);
    }
}

template <class T>
void merge_lines(const Merge& job, int64_t plane, int64_t first, int64_t last, T* memory) {
    const auto combined = [&](auto combine) {
        if (job.resample == Resample::bilinear) return merge_bilinear(job, plane, first, last, memory, combine);
        merge_area(job, plane, first, last, memory, combine);
    };
    if (job.subtract) return combined([](T fine, T up) { return fine - up; });
    combined([](T fine, T up) { return up + fine; });
}

template <class T>
void split_lines(const Split& job, int64_t plane, int64_t first, int64_t last, T* memory) {
    if (job.resample == Resample::bilinear) return split_bilinear(job, plane, first, last, memory);
    split_area(job, plane, first, last, memory);
}

// 16 numbers of a level at a time.
template <class T>
void noise_lanes(const NoiseLevel& job, int64_t plane, int64_t group) {
    const int64_t per_sample = job.x.outer * job.x.inner, sample = plane / per_sample;
    const double time = job.times[sample * job.step];
    const T t = static_cast<T>(time), rest = static_cast<T>(1.0 - time);
    const bool shown = !job.shown || job.shown[sample * job.step] != 0;
    const auto seed = static_cast<uint64_t>(job.seeds ? job.seeds[sample] : job.base_seed + sample);
    const Planes* const parts[3] = {&job.x, &job.noisy, &job.velocity};
    int64_t base[3];
    for (int n = 0; n < 3; ++n) base[n] = plane_offset(*parts[n], plane);
    Words words;
    float drawn[kLanes];
    T x[kLanes] = {}, z[kLanes], v[kLanes];
    for (int64_t j = 0; j < job.x.columns; j += kLanes) {
        const Run from = columns_from(job.x, j), noisy = columns_from(job.noisy, j), velocity = columns_from(job.velocity, j);
        philox(seed, job.stream, static_cast<uint32_t>(plane % per_sample), static_cast<uint32_t>(group), static_cast<uint32_t>(j), words);
        for (int64_t i = 4 * group; i < 4 * group + 4 && i < job.x.rows; ++i) {
            deviates(words.word[i % 4], drawn);
            reading_as<T>(job.x, [&](const auto* data, auto read) {
                load_row(data + base[0] + row_offset(job.x, i) + from.offset[0], from, read, x);
            });
            for (int k = 0; k < kLanes; ++k) {
                const T e = drawn[k];
                z[k] = (rest * x[k] + t * e) + T(0);
                v[k] = (e - x[k]) + T(0);
            }
            if (!shown) clear(z, kLanes);
            writing_as<T>(job.noisy, [&](auto* data, auto write) {
                store_row(data + base[1] + row_offset(job.noisy, i) + noisy.offset[0], noisy, write, z);
            });
            writing_as<T>(job.velocity, [&](auto* data, auto write) {
                store_row(data + base[2] + row_offset(job.velocity, i) + velocity.offset[0], velocity, write, v);
            });
        }
    }
}

}  // namespace

void split_rows(const Split& job, int64_t plane, int64_t first, int64_t last, double* memory) {
    if (job.x.dtype == Dtype::f64) return split_lines(job, plane, first, last, memory);
    split_lines(job, plane, first, last, reinterpret_cast<float*>(memory));
}

void merge_rows(const Merge& job, int64_t plane, int64_t first, int64_t last, double* memory) {
    if (job.out.dtype == Dtype::f64) return merge_lines(job, plane, first, last, memory);
    merge_lines(job, plane, first, last, reinterpret_cast<float*>(memory));
}

void noise_level(const NoiseLevel& job, int64_t plane, int64_t group) {
    if (job.x.dtype == Dtype::f64) return noise_lanes<double>(job, plane, group);
    noise_lanes<float>(job, plane, group);
}
