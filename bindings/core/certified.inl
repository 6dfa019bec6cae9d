// SPDX-License-Identifier: Apache-2.0
// The second exact product at a third of its operations, with the same bits. Let T = T_h + T_l and z = z_h + z_l be the
// slices of a table and of data. The contract's sum is
//
//     S = T_h z_h + (T_h z_l + T_l z_h) = T z - T_l z_l           but for one rounding,
//
// and T and z are float64 numbers as they are. So the plain float64 product v of T and z has
//
//     |v - S| <= ||T_l|| ||z_l|| + (depth + 1) u ||T|| ||z||       u = 2^-53; 2-norms of a row of T, of a line of data
//
// by Cauchy and Schwarz, `depth` the additions an entry meets. Where both ends of that interval round to the same float32,
// that float32 is the answer. The few other elements are computed from their slices.

// Weights far from where float64 under- or overflows.
inline bool sane(double weight) {
    const double magnitude = weight < 0 ? -weight : weight;
    return magnitude > 0x1p-100 && magnitude < 0x1p100;
}

// One line of 16 of a product: how it is cut, and how far v may lie from S.
struct Line {
    const Folded* table = nullptr;
    const double* data = nullptr;
    int64_t stride = 0;
    double* turned = nullptr;  // the data, lane by lane: memory for it, filled when it is first needed
    alignas(64) double shift[kLanes], finest[kLanes], error[kLanes];
};

// S for lane `lane` and row `row` of the table: sums of slices, exact in any order.
inline double element(const Line& line, int lane, int64_t row) {
    const Folded& table = *line.table;
    const float* const high = table.slices + row * table.K;
    const float* const low = high + static_cast<int64_t>(table.m) * table.K;
    const double* const z = line.turned + lane * padded(table.K);
    using D = Lanes<double, 4>::Aligned;
    const D c = D{} + line.shift[lane], f = D{} + line.finest[lane];
    const auto four = [](const float* from) { return __builtin_convertvector(*reinterpret_cast<const Lanes<float, 4>::Type*>(from), D); };
    D mains = {}, crosses = {}, others = {};
    int64_t k = 0;
    for (; k + 4 <= table.K; k += 4) {
        D a = *reinterpret_cast<const Lanes<double, 4>::Type*>(z + k), z_high, z_low;
        cut(a, z_high, z_low, c, f);
        const D h = four(high + k);
        mains += h * z_high;
        crosses += h * z_low;
        others += four(low + k) * z_high;
    }
    crosses += others;
    double main = (mains[0] + mains[1]) + (mains[2] + mains[3]), cross = (crosses[0] + crosses[1]) + (crosses[2] + crosses[3]);
    for (; k < table.K; ++k) {
        double a = z[k], z_high, z_low;
        cut(a, z_high, z_low, line.shift[lane], line.finest[lane]);
        main += high[k] * z_high;
        cross += high[k] * z_low + low[k] * z_high;
    }
    return main + cross;
}

// v = T z for a block, into `result` [m][16].
inline void approximate(const Scratch& s, double* result, Line& line) {
    using D = V<double>;
    const Folded& table = *line.table;
    int64_t bits[kLanes];
    largest(line.data, line.stride, table.K, bits);
    shifts(bits, table.bits, line.shift, line.finest);
    D squares[kVectors<double>] = {}, low_squares[kVectors<double>] = {};
    for (int32_t n = 0; n < table.door_in_count; ++n) {
        const Door& door = table.doors_in[n];
        for (int v = 0; v < kVectors<double>; ++v) {
            const D c = *(at(line.shift, 0) + v), f = *(at(line.finest, 0) + v);
            const auto kept = [&](int32_t row) {
                D a = vectors(line.data + row * line.stride)[v], high, low;
                cut(a, high, low, c, f);
                squares[v] += a * a;
                low_squares[v] += low * low;
                return a;
            };
            const D a = kept(door.a);
            if (door.q < 0) {
                at(s.high, door.p)[v] = a;
                continue;
            }
            const D b = kept(door.b);
            at(s.high, door.p)[v] = a + b;
            at(s.high, door.q)[v] = a - b;
        }
    }
    // A relative 2^-20 stands for the rounding of the norms themselves; 8 u for that of the weights and their sum.
    const double rounding = (table.depth + 8) * 0x1p-53 * table.norm;
    for (int i = 0; i < kLanes; ++i) {
        const double all = squares[i * kVectors<double> / kLanes][i % (kLanes / kVectors<double>)];
        const double low = low_squares[i * kVectors<double> / kLanes][i % (kLanes / kVectors<double>)];
        line.error[i] = (table.low_norm * __builtin_sqrt(low) + rounding * __builtin_sqrt(all)) * (1 + 0x1p-20);
    }
    butterflies(table.in_ops, table.in_count, s.high);
    for (int32_t n = 0; n < table.leaf_count; ++n) {
        const Leaf& leaf = table.leaves[n];
        gemm_whole(table.whole + leaf.offset / 2, s.high + leaf.in * kLanes, leaf.K, leaf.m / kRowsExact, 0, s.main + leaf.out * kLanes);
    }
    butterflies(table.out_ops, table.out_count, s.main);
    leave(table, s.main, result);
}

// y = alpha (S_0 + beta S_1) for a block of 16 rows, settled element by element.
struct Certificate {
    double alpha, beta;
    int64_t left;  // elements that may still be computed from their slices before the whole block is the better way
    Line line[2];
    bool turned = false;

    void turn() {
        if (turned) return;
        turned = true;
        for (int term = 0; term < (beta == 0 ? 1 : 2); ++term) {
            const Line& of = line[term];
            const int64_t length = padded(of.table->K);
            for (int64_t k = 0; k < length; k += kLanes) transpose16(of.data + k * of.stride, of.stride, of.turned + k, length);
        }
    }

    // Makes the elements of a transposed tile, columns [first, first + count), ones that round as the contract's do.
    // False when they are too many.
    bool settle(double* tile, int lanes, int64_t first, int count) {
        for (int i = 0; i < lanes; ++i) {
            double* const row = tile + i * kLanes;
            double error = line[0].error[i];
            if (beta != 0) error += (beta < 0 ? -beta : beta) * line[1].error[i];
            error *= alpha < 0 ? -alpha : alpha;
            using I = Lanes<int32_t, 4>::Aligned;
            using F = Lanes<float, 4>::Aligned;
            I differ[kLanes / 4], any = {};
            for (int k = 0; k < kLanes / 4; ++k) {
                const Lanes<double, 4>::Aligned y = reinterpret_cast<const Lanes<double, 4>::Aligned*>(row)[k];
                differ[k] = reinterpret_cast<I>(__builtin_convertvector(y - error, F)) ^ reinterpret_cast<I>(__builtin_convertvector(y + error, F));
                any |= differ[k];
            }
            if ((any[0] | any[1] | any[2] | any[3]) == 0) continue;
            for (int k = 0; k < count; ++k) {
                if (differ[k / 4][k % 4] == 0) continue;
                if (--left < 0) return false;
                turn();
                double sum = element(line[0], i, first + k);
                if (beta != 0) sum = sum + beta * element(line[1], i, first + k);
                row[k] = alpha * sum + 0.0;
            }
        }
        return true;
    }
};
