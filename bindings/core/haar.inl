// SPDX-License-Identifier: Apache-2.0
// Haar, 16 blocks at a time. Pixels (a, b, c, d) and bands (LL, LH, HL, HH) go into each other by one sum. Level 1 is the
// finest; LL of a level lies in a buffer, where the next level takes its place.

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
inline void spread(Quad& q) {
    for (int k = 0; k < kLanes; ++k) q.a[k] = q.b[k] = q.c[k] = q.d[k] = q.a[k] * 0.5;
}

inline void mean(Quad& q) {
    for (int k = 0; k < kLanes; ++k) q.a[k] = ((q.a[k] + q.c[k]) + (q.b[k] + q.d[k])) * 0.5;
}

// Two rows of 32 pixels.
inline void gather(const double* top, const double* bottom, Quad& q) {
    for (int k = 0; k < kLanes; ++k) {
        q.a[k] = top[2 * k], q.b[k] = top[2 * k + 1];
        q.c[k] = bottom[2 * k], q.d[k] = bottom[2 * k + 1];
    }
}

inline void scatter(const Quad& q, double* top, double* bottom) {
    for (int k = 0; k < kLanes; ++k) {
        top[2 * k] = q.a[k], top[2 * k + 1] = q.b[k];
        bottom[2 * k] = q.c[k], bottom[2 * k + 1] = q.d[k];
    }
}

inline void load(const Planes& p, int64_t at, const Run& run, double* to) {
    reading(p, [&](const auto* data, auto read) { load_row(data + at + run.offset[0], run, read, to); });
}

inline void store(const Planes& p, int64_t at, const Run& run, const double* from) {
    writing<double>(p, [&](auto* data, auto write) { store_row(data + at + run.offset[0], run, write, from); });
}

// What a plane holds, and so where the numbers of a block lie.
enum class Holds { pixels, bands };

// Of a plane, the numbers of 16 neighbouring blocks in every row of blocks of a level with h x w blocks.
struct Blocks {
    const Planes& p;
    const int64_t base, h;
    Run first, second;  // of pixels: 16 columns each; of bands: low and high
    bool both;          // whether there is a second run
    bool dense;         // whether the numbers of a row are neighbours: 32 pixels, or 16 of each band

    Blocks(const Planes& planes, Holds holds, int64_t plane, int64_t j, int64_t rows, int64_t w)
        : p(planes), base(plane_offset(planes, plane)), h(rows) {
        if (holds == Holds::pixels) {
            first = columns_from(p, 2 * j);
            both = 2 * j + kLanes < p.columns;
            second = both ? columns_from(p, 2 * j + kLanes) : first;
            dense = both && second.count == kLanes && first.contiguous && second.contiguous && second.offset[0] == first.offset[0] + kLanes;
            return;
        }
        both = p.columns > w;  // else LL alone
        first = columns_from(p, j);
        second = both ? columns_from(p, w + j) : first;
        const int64_t left = w - j;
        first.count = second.count = static_cast<int>(left < kLanes ? left : kLanes);
        dense = both && left >= kLanes && first.contiguous && second.contiguous;
    }

    void load_pixels(int64_t i, Quad& q) const {
        if (dense) {
            return reading(p, [&](const auto* data, auto read) {
                const auto *const top = data + base + row_offset(p, 2 * i) + first.offset[0], *const bottom = top + below(i);
                for (int k = 0; k < kLanes; ++k) q.a[k] = read(top[2 * k]), q.b[k] = read(top[2 * k + 1]);
                for (int k = 0; k < kLanes; ++k) q.c[k] = read(bottom[2 * k]), q.d[k] = read(bottom[2 * k + 1]);
            });
        }
        double row[2][2 * kLanes];
        for (int r = 0; r < 2; ++r) {
            const int64_t line = base + row_offset(p, 2 * i + r);
            load(p, line, first, row[r]);
            if (both) load(p, line, second, row[r] + kLanes);
            else clear(row[r] + kLanes, kLanes);
        }
        gather(row[0], row[1], q);
    }

    void store_pixels(int64_t i, const Quad& q) const {
        if (dense) {
            return writing<double>(p, [&](auto* data, auto write) {
                auto *const top = data + base + row_offset(p, 2 * i) + first.offset[0], *const bottom = top + below(i);
                for (int k = 0; k < kLanes; ++k) top[2 * k] = write(q.a[k]), top[2 * k + 1] = write(q.b[k]);
                for (int k = 0; k < kLanes; ++k) bottom[2 * k] = write(q.c[k]), bottom[2 * k + 1] = write(q.d[k]);
            });
        }
        double row[2][2 * kLanes];
        scatter(q, row[0], row[1]);
        for (int r = 0; r < 2; ++r) {
            const int64_t line = base + row_offset(p, 2 * i + r);
            store(p, line, first, row[r]);
            if (both) store(p, line, second, row[r] + kLanes);
        }
    }

    int64_t below(int64_t i) const { return row_offset(p, 2 * i + 1) - row_offset(p, 2 * i); }

    void load_low(int64_t i, double* to) const { load(p, base + row_offset(p, i), first, to); }
    void store_low(int64_t i, const double* from) const { store(p, base + row_offset(p, i), first, from); }

    void load_high(int64_t i, Quad& q) const {
        const int64_t bottom = base + row_offset(p, h + i);
        if (dense) {
            return reading(p, [&](const auto* data, auto read) {
                const auto *const lh = data + base + row_offset(p, i) + second.offset[0];
                const auto *const hl = data + bottom + first.offset[0], *const hh = data + bottom + second.offset[0];
                for (int k = 0; k < kLanes; ++k) q.b[k] = read(lh[k]);
                for (int k = 0; k < kLanes; ++k) q.c[k] = read(hl[k]);
                for (int k = 0; k < kLanes; ++k) q.d[k] = read(hh[k]);
            });
        }
        load(p, base + row_offset(p, i), second, q.b);
        load(p, bottom, first, q.c);
        load(p, bottom, second, q.d);
    }

    void store_high(int64_t i, const Quad& q) const {
        const int64_t bottom = base + row_offset(p, h + i);
        if (dense) {
            return writing<double>(p, [&](auto* data, auto write) {
                auto *const lh = data + base + row_offset(p, i) + second.offset[0];
                auto *const hl = data + bottom + first.offset[0], *const hh = data + bottom + second.offset[0];
                for (int k = 0; k < kLanes; ++k) lh[k] = write(q.b[k]);
                for (int k = 0; k < kLanes; ++k) hl[k] = write(q.c[k]);
                for (int k = 0; k < kLanes; ++k) hh[k] = write(q.d[k]);
            });
        }
        store(p, base + row_offset(p, i), second, q.b);
        store(p, bottom, first, q.c);
        store(p, bottom, second, q.d);
    }
};

// Some coarse rows of 16 coarse columns, and what lies below them at the other levels.
struct Strip {
    const Haar& job;
    const int64_t plane, column, row, count;

    int64_t sample() const { return plane / (job.out.outer * job.out.inner); }
    int64_t at(int level, int64_t coarse) const { return coarse << (job.levels - level); }
    int64_t width(int level) const { return at(level, job.columns()); }
    // Groups of 16 columns; the last may have fewer.
    int64_t groups(int level) const {
        const int64_t left = (width(level) - at(level, column) + kLanes - 1) / kLanes, all = at(level, 1);
        return left < all ? left : all;
    }
    Blocks blocks(const Planes& p, Holds holds, int level, int64_t group) const {
        return Blocks(p, holds, plane, at(level, column) + kLanes * group, at(level, job.rows()), width(level));
    }
};

// LL of a strip: a row of the finest level is 16 << (levels - 1) numbers long, a row of the others takes its beginning.
struct Low {
    double* const data;
    const int64_t stride;
    double* at(int64_t i, int64_t group) const { return data + i * stride + kLanes * group; }
};

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

// One term, M of a plane, or of noise that is drawn where there is no plane.
struct Source {
    const Strip& strip;
    const Kind kind;
    const Planes* const p;
    const bool lowest;  // whether LL of a synthesis counts
    const Low low;
    float* const noise;  // three bands of a group of columns

    // Before `high` may be called for a group of a level.
    void draw(int level, int64_t group) const {
        if (p || kind != Kind::synthesis) return;
        const Haar& job = strip.job;
        const int64_t sample = strip.sample(), h = strip.at(level, job.rows()), w = strip.width(level);
        const int64_t i = strip.at(level, strip.row), rows = strip.at(level, strip.count);
        const int64_t j = strip.at(level, strip.column) + kLanes * group;
        const auto seed = static_cast<uint64_t>(job.seeds ? job.seeds[sample] : job.base_seed + sample);
        const auto plane = static_cast<uint32_t>(strip.plane % (job.out.outer * job.out.inner));
        draw_lines(seed, job.stream, plane, i, i + rows, w + j, noise);
        draw_lines(seed, job.stream, plane, h + i, h + i + rows, j, noise + rows * kLanes);
        draw_lines(seed, job.stream, plane, h + i, h + i + rows, w + j, noise + 2 * rows * kLanes);
    }

    // The four pixels, or LL of the next finer level, of row r of the strip.
    void synthesise(int level, const Blocks& blocks, int64_t group, int64_t r, Quad& q) const {
        __builtin_memcpy(q.a, low.at(r, group), sizeof(q.a));
        if (kind != Kind::synthesis) return spread(q);
        if (p) {
            blocks.load_high(strip.at(level, strip.row) + r, q);
        } else {
            const int64_t step = strip.at(level, strip.count) * kLanes;
            const float* const band = noise + r * kLanes;
            for (int k = 0; k < kLanes; ++k) q.b[k] = band[k], q.c[k] = band[step + k], q.d[k] = band[2 * step + k];
        }
        exchange(q);
    }

    // LL of level 1: of pixels, or from the coarsest level through all between.
    void prepare() const {
        const int levels = strip.job.levels;
        if (kind == Kind::lowpass) {
            reduce_pixels();
            for (int level = 2; level <= levels; ++level) reduce(level, nullptr);
        } else if (p && lowest) {
            const Blocks blocks = strip.blocks(*p, Holds::bands, levels, 0);
            for (int64_t r = 0; r < strip.count; ++r) blocks.load_low(strip.row + r, low.at(r, 0));
        } else {
            for (int64_t r = 0; r < strip.count; ++r) clear(low.at(r, 0), kLanes);
        }
        Quad q;
        for (int level = levels; level > 1; --level) {
            for (int64_t group = strip.groups(level); group-- > 0;) {
                const Blocks blocks = strip.blocks(p ? *p : strip.job.out, Holds::bands, level, group);
                draw(level, group);
                for (int64_t r = strip.at(level, strip.count); r-- > 0;) {
                    synthesise(level, blocks, group, r, q);
                    scatter(q, low.at(2 * r, 2 * group), low.at(2 * r + 1, 2 * group));
                }
            }
        }
    }

    void reduce_pixels() const {
        Quad q;
        for (int64_t group = 0; group < strip.groups(1); ++group) {
            const Blocks blocks = strip.blocks(*p, Holds::pixels, 1, group);
            for (int64_t r = 0; r < strip.at(1, strip.count); ++r) {
                blocks.load_pixels(strip.at(1, strip.row) + r, q);
                mean(q);
                __builtin_memcpy(low.at(r, group), q.a, sizeof(q.a));
            }
        }
    }

    // LL of a level from that of the next finer one; high bands are stored with a factor.
    void reduce(int level, const double* alpha) const {
        Quad q;
        for (int64_t group = 0; group < strip.groups(level); ++group) {
            const Blocks to = strip.blocks(strip.job.out, Holds::bands, level, group);
            for (int64_t r = 0; r < strip.at(level, strip.count); ++r) {
                gather(low.at(2 * r, 2 * group), low.at(2 * r + 1, 2 * group), q);
                if (alpha) store_details(level, to, r, *alpha, q);
                else mean(q);
                __builtin_memcpy(low.at(r, group), q.a, sizeof(q.a));
            }
        }
    }

    void store_details(int level, const Blocks& to, int64_t r, double alpha, Quad& q) const {
        exchange(q);
        for (int k = 0; k < kLanes; ++k) q.b[k] = q.b[k] * alpha + 0.0, q.c[k] = q.c[k] * alpha + 0.0, q.d[k] = q.d[k] * alpha + 0.0;
        to.store_high(strip.at(level, strip.row) + r, q);
    }
};

// Pixels come out: up, synthesis or lowpass, and a second term.
inline void to_pixels(const Strip& strip, const Source& first, const Source* second, bool added) {
    const Haar& job = strip.job;
    const double* const weights = job.weights + job.weight_stride * strip.sample();
    const double alpha = weights[0], beta = weights[1], gamma = weights[2];
    first.prepare();
    if (second) second->prepare();
    Quad q, n;
    for (int64_t group = 0; group < strip.groups(1); ++group) {
        const Blocks to = strip.blocks(job.out, Holds::pixels, 1, group), from = strip.blocks(job.x, Holds::bands, 1, group);
        const Planes& e = job.has_other ? job.other : job.out;
        const Blocks noise = strip.blocks(e, Holds::bands, 1, group), extra = strip.blocks(e, Holds::pixels, 1, group);
        if (second) second->draw(1, group);
        for (int64_t r = 0; r < strip.at(1, strip.count); ++r) {
            const int64_t i = strip.at(1, strip.row) + r;
            first.synthesise(1, from, group, r, q);
            if (second) {
                second->synthesise(1, noise, group, r, n);
                for (int k = 0; k < kLanes; ++k) {
                    q.a[k] = q.a[k] + beta * n.a[k], q.b[k] = q.b[k] + beta * n.b[k];
                    q.c[k] = q.c[k] + beta * n.c[k], q.d[k] = q.d[k] + beta * n.d[k];
                }
            }
            for (int k = 0; k < kLanes; ++k) q.a[k] *= alpha, q.b[k] *= alpha, q.c[k] *= alpha, q.d[k] *= alpha;
            if (added) {
                extra.load_pixels(i, n);
                for (int k = 0; k < kLanes; ++k) {
                    q.a[k] = q.a[k] + gamma * n.a[k], q.b[k] = q.b[k] + gamma * n.b[k];
                    q.c[k] = q.c[k] + gamma * n.c[k], q.d[k] = q.d[k] + gamma * n.d[k];
                }
            }
            for (int k = 0; k < kLanes; ++k) q.a[k] += 0.0, q.b[k] += 0.0, q.c[k] += 0.0, q.d[k] += 0.0;
            to.store_pixels(i, q);
        }
    }
}

// Means or bands come out: down or analysis.
inline void to_bands(const Strip& strip, const Source& source) {
    const Haar& job = strip.job;
    const double alpha = job.weights[job.weight_stride * strip.sample()];
    const bool details = job.kind == Kind::analysis;
    Quad q;
    if (details) {
        for (int64_t group = 0; group < strip.groups(1); ++group) {
            const Blocks from = strip.blocks(job.x, Holds::pixels, 1, group), to = strip.blocks(job.out, Holds::bands, 1, group);
            for (int64_t r = 0; r < strip.at(1, strip.count); ++r) {
                from.load_pixels(strip.at(1, strip.row) + r, q);
                source.store_details(1, to, r, alpha, q);
                __builtin_memcpy(source.low.at(r, group), q.a, sizeof(q.a));
            }
        }
    } else {
        source.reduce_pixels();
    }
    for (int level = 2; level <= job.levels; ++level) source.reduce(level, details ? &alpha : nullptr);
    const Blocks to = strip.blocks(job.out, Holds::bands, job.levels, 0);
    for (int64_t r = 0; r < strip.count; ++r) {
        for (int k = 0; k < kLanes; ++k) q.a[k] = source.low.at(r, 0)[k] * alpha + 0.0;
        to.store_low(strip.row + r, q.a);
    }
}

}  // namespace

void haar_columns(const Haar& job, int64_t plane, int64_t first, int64_t last, double* memory) {
    const int64_t h = job.rows(), w = job.columns(), step = kHaarRows >> (job.levels - 1);
    const int64_t stride = kLanes << (job.levels - 1), size = kHaarRows * stride;
    for (int64_t j = first * kLanes; j < w && j < last * kLanes; j += kLanes) {
        for (int64_t i = 0; i < h; i += step) {
            const Strip strip{job, plane, j, i, h - i < step ? h - i : step};
            float* const noise = reinterpret_cast<float*>(memory + 2 * size);
            const Source source{strip, job.kind, &job.x, true, {memory, stride}, noise};
            if (job.kind == Kind::down || job.kind == Kind::analysis) {
                to_bands(strip, source);
                continue;
            }
            const double* const weights = job.weights + job.weight_stride * strip.sample();
            const Planes* const e = job.has_other ? &job.other : nullptr;
            const Source second{strip, job.second, e, false, {memory + size, stride}, noise};
            to_pixels(strip, source, job.has_second && weights[1] != 0 ? &second : nullptr, e && weights[2] != 0);
        }
    }
}
