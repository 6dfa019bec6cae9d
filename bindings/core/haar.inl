// SPDX-License-Identifier: Apache-2.0
// Haar, 16 blocks at a time. Pixels (a, b, c, d) and bands (LL, LH, HL, HH) go into each other by one sum.

namespace {

struct Quad {
    double a[kLanes], b[kLanes], c[kLanes], d[kLanes];
};

inline void exchange(Quad& q) {
    for (int k = 0; k < kLanes; ++k) {
        const double left = q.a[k] + q.c[k], right = q.b[k] + q.d[k];
        const double left_high = q.a[k] - q.c[k], right_high = q.b[k] - q.d[k];
        q.a[k] = (left + right) * 0.5;
        q.b[k] = (left - right) * 0.5;
        q.c[k] = (left_high + right_high) * 0.5;
        q.d[k] = (left_high - right_high) * 0.5;
    }
}

// Half of one value for all four pixels.
inline void spread(Quad& q, const double* from) {
    for (int k = 0; k < kLanes; ++k) q.a[k] = q.b[k] = q.c[k] = q.d[k] = from[k] * 0.5;
}

inline void mean(Quad& q) {
    for (int k = 0; k < kLanes; ++k) q.a[k] = ((q.a[k] + q.c[k]) + (q.b[k] + q.d[k])) * 0.5;
}

inline void load(const Planes& p, int64_t at, const Run& run, double* to) {
    reading(p, [&](const auto* data, auto read) { load_row(data + at + run.offset[0], run, read, to); });
}

inline void store(const Planes& p, int64_t at, const Run& run, const double* from) {
    writing<double>(p, [&](auto* data, auto write) { store_row(data + at + run.offset[0], run, write, from); });
}

// What a plane holds, and so where the numbers of a block lie.
enum class Holds { pixels, bands, means };

// 16 blocks of every row of a plane, from block j on.
struct Blocks {
    const Planes& p;
    const Holds holds;
    const int64_t base, h;
    Run first, second;  // of pixels: 16 columns each; of bands: low and high
    bool both;          // whether there is a second run

    Blocks(const Planes& planes, Holds what, int64_t plane, int64_t j, int64_t rows, int64_t width)
        : p(planes), holds(what), base(plane_offset(planes, plane)), h(rows) {
        if (what == Holds::pixels) {
            first = columns_from(p, 2 * j);
            both = 2 * j + kLanes < p.columns;
            second = both ? columns_from(p, 2 * j + kLanes) : first;
            return;
        }
        both = what == Holds::bands;
        first = columns_from(p, j);
        second = both ? columns_from(p, width + j) : first;
        const int64_t left = width - j;
        first.count = second.count = static_cast<int>(left < kLanes ? left : kLanes);
    }

    void load_from(int64_t i, Quad& q) const {
        if (holds == Holds::means) return load(p, base + row_offset(p, i), first, q.a);
        if (holds == Holds::bands) {
            const int64_t top = base + row_offset(p, i), bottom = base + row_offset(p, h + i);
            load(p, top, first, q.a);
            load(p, top, second, q.b);
            load(p, bottom, first, q.c);
            load(p, bottom, second, q.d);
            return;
        }
        double row[2][2 * kLanes];
        for (int r = 0; r < 2; ++r) {
            const int64_t line = base + row_offset(p, 2 * i + r);
            load(p, line, first, row[r]);
            if (both) load(p, line, second, row[r] + kLanes);
            else clear(row[r] + kLanes, kLanes);
        }
        for (int k = 0; k < kLanes; ++k) {
            q.a[k] = row[0][2 * k], q.b[k] = row[0][2 * k + 1];
            q.c[k] = row[1][2 * k], q.d[k] = row[1][2 * k + 1];
        }
    }

    void store_to(int64_t i, const Quad& q) const {
        if (holds == Holds::means) return store(p, base + row_offset(p, i), first, q.a);
        if (holds == Holds::bands) {
            const int64_t top = base + row_offset(p, i), bottom = base + row_offset(p, h + i);
            store(p, top, first, q.a);
            store(p, top, second, q.b);
            store(p, bottom, first, q.c);
            store(p, bottom, second, q.d);
            return;
        }
        double row[2][2 * kLanes];
        for (int k = 0; k < kLanes; ++k) {
            row[0][2 * k] = q.a[k], row[0][2 * k + 1] = q.b[k];
            row[1][2 * k] = q.c[k], row[1][2 * k + 1] = q.d[k];
        }
        for (int r = 0; r < 2; ++r) {
            const int64_t line = base + row_offset(p, 2 * i + r);
            store(p, line, first, row[r]);
            if (both) store(p, line, second, row[r] + kLanes);
        }
    }
};

inline Holds source_of(Kind kind) {
    return kind == Kind::up ? Holds::means : kind == Kind::synthesis ? Holds::bands : Holds::pixels;
}

inline Holds target_of(Kind kind) {
    return kind == Kind::down ? Holds::means : kind == Kind::analysis ? Holds::bands : Holds::pixels;
}

// M of a block, in place.
inline void mapped(Kind kind, Quad& q) {
    if (kind == Kind::analysis || kind == Kind::synthesis) return exchange(q);
    if (kind != Kind::up) mean(q);
    if (kind != Kind::down) spread(q, q.a);
}

// Rows [from, to) of noise, 16 columns from `first` on.
inline void draw_lines(uint64_t seed, uint32_t stream, uint32_t plane, int64_t from, int64_t to, int64_t first, float* into) {
    Words words;
    for (int64_t i = from; i < to;) {
        philox(seed, stream, plane, static_cast<uint32_t>(i / 4), static_cast<uint32_t>(first), words);
        for (const int64_t stop = i / 4 * 4 + 4 < to ? i / 4 * 4 + 4 : to; i < stop; ++i, into += kLanes) {
            deviates(words.word[i % 4], *reinterpret_cast<float(*)[kLanes]>(into));
        }
    }
}

}  // namespace

void haar_columns(const Haar& job, int64_t plane, int64_t first, int64_t last, float* memory) {
    const int64_t h = job.rows(), w = job.columns(), per_sample = job.out.outer * job.out.inner, sample = plane / per_sample;
    const double* const weights = job.weights + job.weight_stride * sample;
    const double alpha = weights[0], beta = weights[1], gamma = weights[2];
    const bool second = job.has_second && beta != 0, drawn = second && !job.has_other, added = job.has_other && gamma != 0;
    const Holds holds = target_of(job.kind);
    const int64_t lines = drawn ? h * kLanes : 0;  // where nothing is drawn there is no memory
    float *const low_high = memory, *const high_low = memory + lines, *const high_high = memory + 2 * lines;
    Quad q, n;
    for (int64_t j = first * kLanes; j < w && j < last * kLanes; j += kLanes) {
        const Blocks from(job.x, source_of(job.kind), plane, j, h, w), to(job.out, holds, plane, j, h, w);
        const Blocks noise = second && !drawn ? Blocks(job.other, source_of(job.second), plane, j, h, w) : from;
        const Blocks extra = added ? Blocks(job.other, holds, plane, j, h, w) : to;
        if (drawn) {
            const auto seed = static_cast<uint64_t>(job.seeds ? job.seeds[sample] : job.base_seed + sample);
            const auto number = static_cast<uint32_t>(plane % per_sample);
            draw_lines(seed, job.stream, number, 0, h, w + j, low_high);
            draw_lines(seed, job.stream, number, h, 2 * h, j, high_low);
            draw_lines(seed, job.stream, number, h, 2 * h, w + j, high_high);
        }
        for (int64_t i = 0; i < h; ++i) {
            from.load_from(i, q);
            mapped(job.kind, q);
            if (second) {
                if (drawn) {
                    for (int k = 0; k < kLanes; ++k) {
                        n.b[k] = low_high[i * kLanes + k];
                        n.c[k] = high_low[i * kLanes + k];
                        n.d[k] = high_high[i * kLanes + k];
                    }
                } else {
                    noise.load_from(i, n);
                }
                if (job.second == Kind::synthesis) clear(n.a, kLanes);
                mapped(job.second, n);
                for (int k = 0; k < kLanes; ++k) {
                    q.a[k] = q.a[k] + beta * n.a[k], q.b[k] = q.b[k] + beta * n.b[k];
                    q.c[k] = q.c[k] + beta * n.c[k], q.d[k] = q.d[k] + beta * n.d[k];
                }
            }
            for (int k = 0; k < kLanes; ++k) q.a[k] *= alpha, q.b[k] *= alpha, q.c[k] *= alpha, q.d[k] *= alpha;
            if (added) {
                extra.load_from(i, n);
                for (int k = 0; k < kLanes; ++k) {
                    q.a[k] = q.a[k] + gamma * n.a[k], q.b[k] = q.b[k] + gamma * n.b[k];
                    q.c[k] = q.c[k] + gamma * n.c[k], q.d[k] = q.d[k] + gamma * n.d[k];
                }
            }
            for (int k = 0; k < kLanes; ++k) q.a[k] += 0.0, q.b[k] += 0.0, q.c[k] += 0.0, q.d[k] += 0.0;
            to.store_to(i, q);
        }
    }
}
