// SPDX-License-Identifier: Apache-2.0
// The weights of forecasts and the schedule they are for: float64 on the host, in the order of reference/forecast.py, one
// rounding to float32 at the end.
#include <cmath>
#include <limits>
#include <vector>

#include "check.hpp"
#include "spectral_kernels.h"

namespace {

using namespace sk;

// T_0 ... T_degree at a step.
void chebyshev(const sk_fit& fit, double step, double* row) {
    const double tau = 2.0 * step / static_cast<double>(fit.num_steps) - 1.0;
    row[0] = 1.0;
    if (fit.degree > 0) row[1] = tau;
    for (int32_t m = 2; m <= fit.degree; ++m) row[m] = 2.0 * tau * row[m - 1] - row[m - 2];
}

// The Cholesky factor of Phi^T Phi + ridge I, by rows; false where it is singular.
bool factor(const sk_fit& fit, const double* steps, int64_t count, std::vector<double>& lower) {
    const int32_t size = fit.degree + 1;
    std::vector<double> gram(static_cast<std::size_t>(size) * size), row(size);
    lower.resize(gram.size());
    for (int64_t k = 0; k < count; ++k) {
        chebyshev(fit, steps[k], row.data());
        for (int32_t a = 0; a < size; ++a) {
            for (int32_t b = 0; b <= a; ++b) gram[a * size + b] += row[a] * row[b];
        }
    }
    for (int32_t a = 0; a < size; ++a) {
        const double diagonal = gram[a * size + a] + fit.ridge;
        for (int32_t b = 0; b <= a; ++b) {
            double rest = b < a ? gram[a * size + b] : diagonal;
            for (int32_t p = 0; p < b; ++p) rest = rest - lower[a * size + p] * lower[b * size + p];
            if (b < a) {
                lower[a * size + b] = rest / lower[b * size + b];
            } else if (rest > size * std::numeric_limits<double>::epsilon() * diagonal) {
                lower[a * size + a] = std::sqrt(rest);
            } else {
                return false;
            }
        }
    }
    return true;
}

// Both substitutions, in place.
void solve(const std::vector<double>& lower, int32_t size, double* y) {
    for (int32_t a = 0; a < size; ++a) {
        for (int32_t p = 0; p < a; ++p) y[a] = y[a] - lower[a * size + p] * y[p];
        y[a] = y[a] / lower[a * size + a];
    }
    for (int32_t a = size - 1; a >= 0; --a) {
        for (int32_t p = size - 1; p > a; --p) y[a] = y[a] - lower[p * size + a] * y[p];
        y[a] = y[a] / lower[a * size + a];
    }
}

sk_status checked_fit(const sk_fit* fit) {
    if (!fit) return SK_NULL_POINTER;
    if (fit->struct_size != static_cast<int64_t>(sizeof(sk_fit)) || fit->reserved != 0) return SK_BAD_STRUCT;
    if (fit->num_steps < 1) return SK_BAD_SIZE;
    const bool degree = fit->degree >= 0 && fit->degree <= SK_MAX_DEGREE;
    const bool ridge = fit->ridge >= 0 && fit->ridge <= std::numeric_limits<double>::max();
    return degree && ridge && fit->blend >= 0 && fit->blend <= 1 ? SK_OK : SK_BAD_OPTION;
}

// Checks and fits; make(coefficients, before, last, row) fills in a target's row of `width` weights. `before` and `last` are
// those of the line through the last two features.
template <class Make>
sk_status rows_of(const sk_fit* fit, const double* steps, int64_t count, const double* targets, int64_t target_count,
                  int64_t width, float* weights, const Make& make) {
    if (count < 1 || target_count < 0) return SK_BAD_SIZE;
    Bytes read[2], written;
    SK_TRY(checked_run(steps, count, read[0]));
    SK_TRY(checked_run(targets, target_count, read[1]));
    if (target_count > std::numeric_limits<int64_t>::max() / width) return SK_BAD_SIZE;
    SK_TRY(checked_run(weights, target_count * width, written));
    for (const Bytes& numbers : read) SK_TRY(apart(written, numbers));
    const auto end = static_cast<double>(fit->num_steps), latest = steps[count - 1];
    for (int64_t k = 1; k < count; ++k) {
        if (!(steps[k - 1] < steps[k])) return SK_BAD_STEP;
    }
    if (!(0 <= steps[0] && latest <= end)) return SK_BAD_STEP;
    for (int64_t g = 0; g < target_count; ++g) {
        if (!(latest <= targets[g] && targets[g] <= end)) return SK_BAD_STEP;
    }
    return guarded([&]() -> sk_status {
        std::vector<double> lower, c(fit->degree + 1);
        if (!factor(*fit, steps, count, lower)) return SK_SINGULAR;
        for (int64_t g = 0; g < target_count; ++g) {
            chebyshev(*fit, targets[g], c.data());
            solve(lower, fit->degree + 1, c.data());
            double before = 0, last = 1;
            if (count > 1) {
                const double q = (targets[g] - latest) / (latest - steps[count - 2]);
                before = -q;
                last = 1.0 + q;
            }
            make(c.data(), before, last, weights + g * width);
        }
        return SK_OK;
    });
}

// To three decimals, halves to even, as a decimal number would be: the window of a schedule that grew.
double to_thousandths(double value) {
    const double product = value * 1000.0, rest = std::fma(value, 1000.0, -product);
    if (product >= 0x1p52) return value;
    double whole = std::floor(product);
    const double over = product - whole - 0.5;
    if (over > -rest || (over == -rest && std::fmod(whole, 2.0) != 0)) whole += 1.0;
    return whole / 1000.0;
}

}  // namespace

extern "C" {

sk_fit sk_default_fit(void) {
    sk_fit fit{};
    fit.struct_size = sizeof(sk_fit);
    fit.degree = 4;
    fit.ridge = 0.1;
    fit.blend = 0.5;
    return fit;
}

sk_status sk_chebyshev_weights(const sk_fit* fit, const double* steps, int64_t count, const double* targets, int64_t target_count,
                               float* weights) {
    SK_TRY(checked_fit(fit));
    std::vector<double> row;
    SK_TRY(guarded([&] { return row.resize(fit->degree + 1), SK_OK; }));
    return rows_of(fit, steps, count, targets, target_count, count, weights, [&](const double* c, double before, double last, float* made) {
        for (int64_t k = 0; k < count; ++k) {
            chebyshev(*fit, steps[k], row.data());
            double w = 0;
            for (int32_t m = 0; m <= fit->degree; ++m) w = w + row[m] * c[m];
            const double local = k == count - 1 ? last : k == count - 2 ? before : 0.0;
            made[k] = static_cast<float>(fit->blend * w + (1.0 - fit->blend) * local);
        }
    });
}

sk_status sk_moment_weights(const sk_fit* fit, const double* steps, int64_t count, const double* targets, int64_t target_count,
                            float* weights) {
    SK_TRY(checked_fit(fit));
    const int32_t size = fit->degree + 1;
    const int64_t width = size + (count > 1 ? 2 : 1);
    return rows_of(fit, steps, count, targets, target_count, width, weights, [&](const double* c, double before, double last, float* made) {
        for (int32_t m = 0; m < size; ++m) made[m] = static_cast<float>(fit->blend * c[m]);
        if (count > 1) made[size] = static_cast<float>((1.0 - fit->blend) * before);
        made[width - 1] = static_cast<float>((1.0 - fit->blend) * last);
    });
}

sk_status sk_chebyshev_row(const sk_fit* fit, double step, float* row) {
    SK_TRY(checked_fit(fit));
    Bytes written;
    SK_TRY(checked_run(row, fit->degree + 1, written));
    if (!(0 <= step && step <= static_cast<double>(fit->num_steps))) return SK_BAD_STEP;
    return guarded([&] {
        std::vector<double> exact(fit->degree + 1);
        chebyshev(*fit, step, exact.data());
        for (int32_t m = 0; m <= fit->degree; ++m) row[m] = static_cast<float>(exact[m]);
        return SK_OK;
    });
}

sk_status sk_evaluation_steps(int64_t num_steps, double window, int64_t warmup, double flex, uint8_t* evaluated) {
    if (num_steps < 1) return SK_BAD_SIZE;
    constexpr double most = std::numeric_limits<double>::max();
    if (!(window >= 1 && window <= most && flex >= 0 && flex <= most) || warmup < 1) return SK_BAD_OPTION;
    Bytes written;
    SK_TRY(checked_run(evaluated, num_steps, written));
    int64_t skipped = 0;
    for (int64_t i = 0; i < num_steps; ++i) {
        const bool due = i >= warmup && std::fmod(static_cast<double>(skipped + 1), std::floor(window)) == 0;
        evaluated[i] = i < warmup || due;
        skipped = evaluated[i] ? 0 : skipped + 1;
        if (due) window = to_thousandths(window + flex);
    }
    return SK_OK;
}

}  // extern "C"
