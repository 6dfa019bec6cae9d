// SPDX-License-Identifier: Apache-2.0
// Exact products at a third of their operations, with the same bits. Let T = T_h + T_l and z = z_h + z_l be the slices of a
// table and of data. The contract's sum is
//
//     S = T_h z_h + (T_h z_l + T_l z_h) = T z - T_l z_l           but for one rounding,
//
// and T and z are float64 numbers as they are. A float64 product v of T and z, by whatever algorithm, has
//
//     |v - S| <= ||T_l|| ||z_l|| + (rounding + 8 u ||T||) ||z||        2-norms of rows of T and of the line z
//
// (Cauchy and Schwarz); the first product takes T_l z_l away too, in float32, whose errors are far smaller. All that
// happens to S is that it is rounded: the first product's to 38 bits of its row, the second's, weighted, to float32. Where
// both ends of the interval round to one number, that number is the contract's. The few others are computed from slices.

// How far a plain product may lie from the contract's, per unit of the 2-norm of its data; T_l z_l apart. `roundings` are
// those of S, and of weights and their sum; the relative 2^-20 here and below stands for those of norms and bounds.
inline double rounding_of(const Folded& table, double rounding, double roundings) {
    return (rounding + roundings * 0x1p-53 * table.norm) * (1 + 0x1p-20);
}

inline double grid_of(double finest) { return finest * (0x1p-52 / 1.5) * (int64_t{1} << kDataBits); }

// 2^-(B + 1), the largest low slice, per unit of the grid.
inline double largest_low(const Folded& table) { return shift_of(0, table.bits) / 0x1.8p53; }

// What a number may lie from its rounding to 38 bits, and a little less.
inline double half_unit(double finest) { return finest * ((1 - 0x1p-50) * 0x1p-53 / 1.5); }

// One bit a lane: whether it is negative, as a lane is where a comparison holds.
inline uint32_t signs(V<int64_t> lanes) {
#if defined(__AVX512DQ__)
    typedef long long L __attribute__((vector_size(64)));
    return __builtin_ia32_cvtq2mask512(reinterpret_cast<L>(lanes));
#elif defined(__AVX2__)
    return __builtin_ia32_movmskpd256(reinterpret_cast<V<double>>(lanes));
#else
    return static_cast<uint32_t>(lanes[0] < 0) | static_cast<uint32_t>(lanes[1] < 0) << 1;
#endif
}

template <class I>
inline bool nonzero(const I& bits) {
    auto any = bits[0];
    for (unsigned i = 1; i < sizeof(I) / sizeof(any); ++i) any |= bits[i];
    return any != 0;
}

// S for a row of the table and one line of data, padded(K) numbers with zeros at the end.
template <class T>
double element(const Folded& table, const T* data, double shift, double finest, int64_t row) {
    const int64_t length = padded(table.K);
    return dot_exact(table.slices + row * length, table.slices + (table.m + row) * length, data, length, shift, finest);
}

// The first product of a block [K][16], into `half` with its data and its bounds.
void first_certified(const Folded& table, const double* in, int64_t first, int64_t zero_rows, const Cut& grids, const Scratch& s,
                     const Half& half) {
    using D = V<double>;
    using F = typename Lanes<float, SK_VECTOR_BYTES / 8>::Aligned;
    using I = V<int64_t>;
    // Low slices go through float32 as if their grids were 1, so that they do not leave its range.
    alignas(64) double grid[kLanes], to_one[kLanes];
    for (int i = 0; i < kLanes; ++i) {
        grid[i] = grid_of(grids.finest[i]);
        to_one[i] = 1 / grid[i];
    }
    float *const low = reinterpret_cast<float*>(s.low), *const kept = reinterpret_cast<float*>(s.cross);
    D squares[kVectors<double>] = {};
    I remains = {};
    const auto take = [&](int32_t row, D(&z)[kVectors<double>]) {
        for (int v = 0; v < kVectors<double>; ++v) {
            D z_high, z_low;
            z[v] = at(in, row)[v];
            cut(z[v], z_high, z_low, at(grids.shift, 0)[v], at(grids.finest, 0)[v]);
            squares[v] += z[v] * z[v];
            remains |= reinterpret_cast<I>(z_low);
            reinterpret_cast<F*>(kept + row * kLanes)[v] = __builtin_convertvector(z[v], F);
            reinterpret_cast<F*>(low + row * kLanes)[v] = __builtin_convertvector(z_low * at(to_one, 0)[v], F);
        }
        return true;
    };
    enter_from(*table.plain, take, s.high);
    const int64_t length = padded(table.K), height = padded(table.m);
    clear(kept + table.K * kLanes, (length - table.K) * kLanes);
    for (int64_t k = 0; k < length; k += kLanes) transpose16(kept + k * kLanes, kLanes, half.data + first * length + k, length);
    between_doors(*table.plain, s.high, zero_rows, s.main);

    const bool one_slice = !nonzero(remains & INT64_MAX);
    float* const taken = reinterpret_cast<float*>(s.cross);
    if (!one_slice) {
        float *const slots = reinterpret_cast<float*>(s.high), *const out = reinterpret_cast<float*>(s.first);
        enter(*table.low, static_cast<const float*>(low), kLanes, slots);
        between_doors(*table.low, slots, zero_rows, out);
        leave(*table.low, out, taken);
    }
    alignas(64) double tile[kLanes * kLanes];
    for (int64_t i = 0; i < height; i += kLanes) {
        const int count = static_cast<int>(table.m - i < kLanes ? table.m - i : kLanes);
        clear(tile + count * kLanes, (kLanes - count) * kLanes);
        for (int k = 0; k < count; ++k) {
            for (int v = 0; v < kVectors<double>; ++v) {
                D y = result_of(*table.plain, s.main, i + k, v);
                if (!one_slice) y -= doubles(taken + (i + k) * kLanes + v * (SK_VECTOR_BYTES / 8)) * at(grid, 0)[v];
                at(tile, k)[v] = y;
            }
        }
        transpose16(tile, kLanes, static_cast<double*>(half.product) + first * height + i, height);
    }
    // 2^-24 a term of the float32 product, whose data are below 2^-(B + 1).
    const double per_grid = one_slice ? 0 : table.low_norm * (table.K + 16) * 0x1p-24 * __builtin_sqrt(table.K) * largest_low(table);
    for (int i = 0; i < kLanes; ++i) {
        const double norm = __builtin_sqrt(squares[i * kVectors<double> / kLanes][i % (kLanes / kVectors<double>)]);
        half.error[first + i] = (rounding_of(table, table.rounding, 2) * norm + per_grid * grid[i]) * (1 + 0x1p-20);
        half.shift[first + i] = grids.shift[i];
        half.finest[first + i] = grids.finest[i];
    }
}

// What the second product of a block of 16 rows reads of one term.
struct Lines {
    const Folded *rows, *columns;
    const Half* half;
    int64_t first, height;  // first row, and rows between columns of half->product
    double* turned;         // memory for [16][padded K]: the lines one by one, filled when first needed
    bool certified;         // half->product holds bounds' worth of error
    int64_t* left;          // elements that may still be computed from their slices
    Cut grids;
    alignas(64) double error[kLanes];
    bool are_turned = false;

    double* data() const { return static_cast<double*>(half->product) + first; }

    // The contract's number for column k of row `lane`, into its place. False when there are too many of them.
    bool settle(int64_t k, int lane) {
        const float* const data_of = half->data + k * padded(rows->K);
        data()[k * height + lane] = element(*rows, data_of, half->shift[k], half->finest[k], first + lane);
        return --*left >= 0;
    }

    // Grids of the rows. Where the bounds leave open which power of two is above the largest magnitude, the largest
    // numbers are settled.
    bool find_grids(int lanes) {
        int64_t bits[kLanes];
        largest(data(), height, columns->K, bits);
        if (certified) {
            double most = 0;
            for (int64_t k = 0; k < columns->K; ++k) most = half->error[k] > most ? half->error[k] : most;
            for (int lane = 0; lane < lanes; ++lane) {
                double magnitude;
                __builtin_memcpy(&magnitude, &bits[lane], 8);
                int64_t above, below;
                const double upper = magnitude + 2 * most, lower = magnitude - 2 * most;
                __builtin_memcpy(&above, &upper, 8);
                __builtin_memcpy(&below, &lower, 8);
                if (most == 0 || above >> 52 == below >> 52) continue;
                for (int64_t k = 0; k < columns->K; ++k) {
                    const double value = data()[k * height + lane];
                    if ((value < 0 ? -value : value) >= lower && !settle(k, lane)) return false;
                }
                double exact = 0;
                for (int64_t k = 0; k < columns->K; ++k) {
                    const double value = data()[k * height + lane], positive = value < 0 ? -value : value;
                    exact = positive > exact ? positive : exact;
                }
                __builtin_memcpy(&bits[lane], &exact, 8);
            }
        }
        grids.set(bits, columns->bits);
        return true;
    }

    // The rows' data, rounded to 38 bits as the contract rounds them, by way of join(row, vectors) through the doors of a
    // float64 product, and the bound of its results. False when too many of them are open.
    template <class Join>
    bool enter_rounded(const Folded& product, double rounding, int lanes, const Join& join, double* slots) {
        using D = V<double>;
        D squares[kVectors<double>] = {}, limit[kVectors<double>];
        for (int v = 0; v < kVectors<double>; ++v) limit[v] = at(grids.finest, 0)[v] * half_unit(1);
        const auto take = [&](int32_t k, D(&z)[kVectors<double>]) {
            const double doubt = certified ? half->error[k] : 0;
            uint32_t open = 0;
            const auto round = [&](int v) {
                const D a = vectors(data() + k * height)[v], f = at(grids.finest, 0)[v];
                z[v] = (a + f) - f;
                return a - z[v];
            };
            for (int v = 0; v < kVectors<double>; ++v) {
                const D rest = round(v);
                open |= signs((rest >= limit[v] - doubt) | (rest <= doubt - limit[v])) << v * (SK_VECTOR_BYTES / 8);
            }
            open &= (1u << lanes) - 1;
            if (doubt != 0 && open != 0) {
                for (; open != 0; open &= open - 1) {
                    if (!settle(k, __builtin_ctz(open))) return false;
                }
                for (int v = 0; v < kVectors<double>; ++v) round(v);
            }
            for (int v = 0; v < kVectors<double>; ++v) squares[v] += z[v] * z[v];
            join(k, z);
            return true;
        };
        if (!enter_from(product, take, slots)) return false;
        const double dropped = columns->low_norm * __builtin_sqrt(columns->K) * largest_low(*columns);
        for (int i = 0; i < kLanes; ++i) {
            const double norm = __builtin_sqrt(squares[i * kVectors<double> / kLanes][i % (kLanes / kVectors<double>)]);
            const double grid = grid_of(grids.finest[i]);
            error[i] = norm == 0 ? 0 : (rounding_of(*columns, rounding, 8) * norm + dropped * grid) * (1 + 0x1p-20);
        }
        return true;
    }

    double exact(int lane, int64_t column) {
        const int64_t length = padded(columns->K);
        if (!are_turned) {
            for (int64_t k = 0; k < length; k += kLanes) transpose16(data() + k * height, height, turned + k, length);
            are_turned = true;
        }
        return element(*columns, turned + lane * length, grids.shift[lane], grids.finest[lane], column);
    }
};
