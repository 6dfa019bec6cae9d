// SPDX-License-Identifier: Apache-2.0
// Cosines in double-double arithmetic (some 104 bits) from angles within an eighth of a turn, rounded once. No entry
// depends on a C library, and entries equal by symmetry have equal bits.
#include "bases.hpp"

#include <algorithm>
#include <cmath>

#include "table.hpp"

namespace sk {
namespace {

// The unevaluated sum of a number and its rounding error.
struct Pair {
    double high, low;
};

Pair two_sum(double a, double b) {
    const double s = a + b, t = s - a;
    return {s, (a - (s - t)) + (b - t)};
}

Pair normalised(double a, double b) {
    const double s = a + b;
    return {s, b - (s - a)};
}

Pair operator+(Pair a, Pair b) {
    const Pair s = two_sum(a.high, b.high), t = two_sum(a.low, b.low);
    const Pair u = normalised(s.high, s.low + t.high);
    return normalised(u.high, u.low + t.low);
}

Pair operator*(Pair a, Pair b) {
    const double p = a.high * b.high;
    return normalised(p, std::fma(a.high, b.high, -p) + (a.high * b.low + a.low * b.high));
}

Pair operator-(Pair a) { return {-a.high, -a.low}; }

Pair operator/(Pair a, double b) {
    const double q = a.high / b;
    const Pair rest = a + -(Pair{q, 0} * Pair{b, 0});
    const double r = rest.high / b;
    const Pair rest2 = rest + -(Pair{r, 0} * Pair{b, 0});
    return Pair{q, 0} + normalised(r, rest2.high / b);
}

// sqrt(a / b): one Newton step on the rounded root doubles its digits.
Pair root_of_ratio(double a, double b) {
    const Pair x = Pair{a, 0} / b;
    const double r = std::sqrt(x.high);
    const Pair rest = x + -(Pair{r, 0} * Pair{r, 0});
    return normalised(r, (rest.high + rest.low) / (2 * r));
}

constexpr Pair kPi{0x1.921fb54442d18p+1, 0x1.1a62633145c07p-53};

// cos or sin of pi a / (2 n) for 0 <= a <= n / 2 by their series.
Pair series(int64_t a, int64_t n, bool sine) {
    const Pair angle = kPi * Pair{static_cast<double>(a), 0} / static_cast<double>(2 * n), square = angle * angle;
    Pair terms[20], term = sine ? angle : Pair{1, 0};
    int count = 0;
    for (int k = sine ? 1 : 0; count < 20 && std::fabs(term.high) > 0x1p-120; k += 2, ++count) {
        terms[count] = term;
        term = -(term * square) / static_cast<double>((k + 1) * (k + 2));
    }
    Pair sum{0, 0};
    while (count > 0) sum = sum + terms[--count];  // smallest first
    return sum;
}

// sqrt(numerator / n) cos(pi a / (2 n)) for a = 0..n.
std::vector<double> quarter_cosines(int64_t n, double numerator) {
    const Pair weight = root_of_ratio(numerator, static_cast<double>(n));
    std::vector<double> values(n + 1, 0.0);
    for (int64_t a = 0; a < n; ++a) values[a] = (weight * (2 * a <= n ? series(a, n, false) : series(n - a, n, true))).high;
    return values;
}

// The entry for the angle pi a / (2 n), any integer a, from those of the first quarter turn.
double entry(const std::vector<double>& values, int64_t n, int64_t a) {
    a = ((a % (4 * n)) + 4 * n) % (4 * n);
    a = std::min(a, 4 * n - a);
    return a <= n ? values[a] : -values[2 * n - a];
}

Values analysis(Basis basis, int64_t n) {
    Values t{n, n, std::vector<double>(static_cast<std::size_t>(n) * n)};
    const std::vector<double> values = quarter_cosines(n, 2);
    const double level = root_of_ratio(1, static_cast<double>(n)).high;
    for (int64_t k = 0; k < n; ++k) {
        for (int64_t j = 0; j < n; ++j) {
            double v;
            if (k == 0) {
                v = level;
            } else if (basis == Basis::dct) {
                v = entry(values, n, (2 * j + 1) * k);
            } else if (n % 2 == 0 && k == n - 1) {
                v = j % 2 == 0 ? level : -level;
            } else {
                v = entry(values, n, 4 * ((k + 1) / 2) * j - (k % 2 == 0 ? n : 0));
            }
            t.data[k * n + j] = v;
        }
    }
    return t;
}

// Means, then differences of blocks from the largest to pairs; entries +-sqrt(1 / block), correctly rounded.
Values haar_analysis(int64_t fine, int64_t coarse) {
    Values t{fine, fine, std::vector<double>(static_cast<std::size_t>(fine) * fine)};
    const auto fill = [&](int64_t row, int64_t from, int64_t to, double value) {
        for (int64_t j = from; j < to; ++j) t.data[row * fine + j] = value;
    };
    int64_t block = fine / coarse, row = 0;
    for (; row < coarse; ++row) fill(row, row * block, (row + 1) * block, std::sqrt(1.0 / static_cast<double>(block)));
    for (; block > 1; block /= 2) {
        const double value = std::sqrt(1.0 / static_cast<double>(block));
        for (int64_t at = 0; at < fine; at += block, ++row) {
            fill(row, at, at + block / 2, value);
            fill(row, at + block / 2, at + block, -value);
        }
    }
    return t;
}

Values transposed(const Values& t) {
    Values result{t.K, t.m, std::vector<double>(t.data.size())};
    for (int64_t i = 0; i < t.m; ++i) {
        for (int64_t j = 0; j < t.K; ++j) result.data[j * t.m + i] = t.data[i * t.K + j];
    }
    return result;
}

constexpr int kSlices = 3;

// Three slices of values on the grid of the largest one, B bits each.
void split(const double* from, int64_t count, int64_t step, int bits, double* const (&to)[kSlices]) {
    double largest = 0;
    for (int64_t i = 0; i < count; ++i) largest = std::max(largest, std::fabs(from[i * step]));
    int exponent = 0;
    std::frexp(largest == 0 ? 0.5 : largest, &exponent);
    for (int64_t i = 0; i < count; ++i) {
        double rest = from[i * step], shift = std::ldexp(1.5, exponent + 52 - bits);
        for (int s = 0; s < kSlices; ++s) {
            const double part = (rest + shift) - shift;
            to[s][i * step] = part;
            rest -= part;
            shift = std::ldexp(shift, -bits);
        }
    }
}

// a @ b, rounded only where the slices meet: d_0 + (d_1 + d_2), d_s = sum of a_i @ b_(s - i).
Values exact_product(const Values& a, const Values& b) {
    const int bits = bits_for(a.K);
    const std::size_t size_a = a.data.size(), size_b = b.data.size(), size = static_cast<std::size_t>(a.m) * b.K;
    std::vector<double> slices_a(kSlices * size_a), slices_b(kSlices * size_b), sums(kSlices * size);
    double* const of_a[kSlices] = {slices_a.data(), slices_a.data() + size_a, slices_a.data() + 2 * size_a};
    split(a.data.data(), static_cast<int64_t>(size_a), 1, bits, of_a);
    for (int64_t j = 0; j < b.K; ++j) {
        double* const column[kSlices] = {slices_b.data() + j, slices_b.data() + size_b + j, slices_b.data() + 2 * size_b + j};
        split(b.data.data() + j, b.m, b.K, bits, column);
    }
    // All sums are exact, so any order will do: the pieces of b that a cache holds meet every row of a.
    constexpr int64_t kDeep = 32, kWide = 512;
    for (int64_t first = 0; first < a.K; first += kDeep) {
        const int64_t last = std::min(first + kDeep, a.K);
        for (int64_t left = 0; left < b.K; left += kWide) {
            const int64_t width = std::min(kWide, b.K - left);
            for (int64_t n = 0; n < kSlices * a.m; ++n) {
                const int64_t i = n / kSlices, s = n % kSlices;
                double* const sum = sums.data() + s * size + i * b.K + left;
                for (int64_t p = 0; p <= s; ++p) {
                    for (int64_t k = first; k < last; ++k) {
                        const double factor = slices_a[p * size_a + i * a.K + k];
                        const double* const row = slices_b.data() + (s - p) * size_b + k * b.K + left;
                        for (int64_t j = 0; j < width; ++j) sum[j] += factor * row[j];
                    }
                }
            }
        }
    }
    Values result{a.m, b.K, std::vector<double>(size)};
    for (std::size_t i = 0; i < size; ++i) result.data[i] = sums[i] + (sums[size + i] + sums[2 * size + i]);
    return result;
}

}  // namespace

Values table_values(Basis basis, Kind kind, int64_t fine, int64_t coarse) {
    Values t = basis == Basis::haar ? haar_analysis(fine, coarse) : analysis(basis, fine);
    if (kind == Kind::analysis) return t;
    if (kind == Kind::synthesis) return transposed(t);
    t.m = coarse;
    t.data.resize(static_cast<std::size_t>(coarse) * fine);
    if (kind == Kind::lowpass) return exact_product(transposed(t), t);
    Values up = basis == Basis::haar ? transposed(t) : exact_product(transposed(t), analysis(basis, coarse));
    return kind == Kind::up ? up : transposed(up);
}

}  // namespace sk
