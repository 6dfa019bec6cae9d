// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <numeric>
#include <utility>

#include "folder.hpp"
#include "table.hpp"

namespace sk {
namespace {

// Cosine transforms by the factorisation of G. Plonka and M. Tasche, "Fast and numerically stable algorithms for discrete
// cosine transforms", Linear Algebra Appl. 394 (2005): every step is orthogonal up to a factor, so errors do not grow.
struct CosineFolder : Folder {
    static constexpr int32_t kDense = 32;  // blocks below this are multiplied out

    // DCT-II of `in` into `out`, times `scale`:  [II of the sums; IV of the differences] of the folded input.
    void second(const std::vector<int32_t>& in, const std::vector<int32_t>& out, double scale, bool top) {
        const auto n = static_cast<int32_t>(in.size());
        if (n < (n % 2 == 0 ? kDense : kSmallest)) return dense(in, out, scale, Part::second, n);
        std::vector<int32_t> sums, differences, even, odd;
        for (int32_t j = 0; j < n / 2; ++j) {
            if (top) {
                in_ops.push_back({in[j], in[n - 1 - j]});
            } else {
                rotations_in.push_back({in[j], in[n - 1 - j], 1, 1, 1, -1});
            }
            sums.push_back(in[j]);
            differences.push_back(in[n - 1 - j]);
            even.push_back(out[2 * j]);
            odd.push_back(out[2 * j + 1]);
        }
        if (top) outermost_in = in_ops.size();
        if (n % 2 != 0) {
            sums.push_back(in[n / 2]);
            even.push_back(out[n - 1]);
            dense(sums, even, scale, Part::even, n);
            return dense(differences, odd, scale, Part::odd, n);
        }
        second(sums, even, scale * std::sqrt(0.5), false);
        fourth(differences, odd, scale * std::sqrt(0.5));
    }

    // DCT-IV: rotations by (2 j + 1) pi / 4 m, two DCT-II of half the size, butterflies.
    void fourth(const std::vector<int32_t>& in, const std::vector<int32_t>& out, double scale) {
        const auto m = static_cast<int32_t>(in.size()), half = m / 2;
        if (m < kDense || m % 2 != 0) return dense(in, out, scale, Part::fourth, m);
        std::vector<int32_t> first, other, to_first(half), to_other(half);
        for (int32_t j = 0; j < half; ++j) {
            const double angle = 3.14159265358979323846 * (2 * j + 1) / (4 * m), sign = j % 2 == 0 ? 1 : -1;
            const double c = std::cos(angle), s = std::sin(angle);
            rotations_in.push_back({in[j], in[m - 1 - j], c, s, sign * s, -sign * c});
            first.push_back(in[j]);
            other.push_back(in[m - 1 - j]);
        }
        to_first[0] = out[0];
        to_other[0] = out[m - 1];
        for (int32_t k = 1; k < half; ++k) {
            to_first[k] = out[2 * k];
            to_other[half - k] = out[2 * k - 1];
        }
        second(first, to_first, scale, false);
        second(other, to_other, scale, false);
        const double r = std::sqrt(0.5);
        for (int32_t k = 1; k < half; ++k) rotations_out.push_back({out[2 * k], out[2 * k - 1], r, -r, r, r});
    }

    // DCT-II, its even or its odd rows on one half of the input, or DCT-IV, of `n` points.
    enum class Part { second, even, odd, fourth };

    void dense(const std::vector<int32_t>& in, const std::vector<int32_t>& out, double scale, Part part, int32_t n) {
        Block block;
        block.m = block.K = static_cast<int32_t>(in.size());
        block.in = in;
        block.out = out;
        const double pi = 3.14159265358979323846;
        for (int32_t i = 0; i < block.m; ++i) {
            const int32_t k = part == Part::even ? 2 * i : part == Part::odd ? 2 * i + 1 : i;
            for (int32_t j = 0; j < block.K; ++j) {
                // The angle within a turn, so that no digit is lost to its size.
                const int64_t turn = part == Part::fourth ? 8 * n : 4 * n;
                const int64_t number = (part == Part::fourth ? int64_t{2 * k + 1} : int64_t{k}) * (2 * j + 1) % turn;
                const double angle = 2 * pi * static_cast<double>(number) / static_cast<double>(turn);
                const double weight = std::sqrt((part != Part::fourth && k == 0 ? 1.0 : 2.0) / n);
                block.high.push_back(scale * weight * std::cos(angle));
            }
        }
        block.low.assign(block.high.size(), 0.0);
        leaves.push_back(std::move(block));
    }

    // The inverse: every step transposed, in the opposite order.
    void transpose() {
        std::vector<Rotation<double>> in(rotations_out.rbegin(), rotations_out.rend()), out(rotations_in.rbegin(), rotations_in.rend());
        for (std::vector<Rotation<double>>* const steps : {&in, &out}) {
            for (Rotation<double>& r : *steps) std::swap(r.b, r.c);
        }
        rotations_in = std::move(in);
        rotations_out = std::move(out);
        out_ops = std::move(in_ops);
        in_ops.clear();
        outermost_in = 0;
        outermost_out = 0;
        for (Block& block : leaves) {
            Block turned = block;
            for (int32_t i = 0; i < block.m; ++i) {
                for (int32_t j = 0; j < block.K; ++j) turned.high[static_cast<std::size_t>(j) * block.m + i] = block.h(i, j);
            }
            std::swap(turned.in, turned.out);
            block = std::move(turned);
        }
    }
};

}  // namespace

Table Table::fast_dct(Mode mode, int64_t n, bool synthesis) {
    Table table;
    table.view.mode = mode;
    std::vector<int32_t> all(n);
    std::iota(all.begin(), all.end(), 0);
    CosineFolder folder;
    folder.second(all, all, 1.0, true);
    if (synthesis) folder.transpose();
    table.lay_out(n, n, folder);
    return table;
}

}  // namespace sk
