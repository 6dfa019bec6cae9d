// SPDX-License-Identifier: Apache-2.0
// The Python side of the compiled core: arrays come in over DLPack, shapes are compared once more, nothing is computed.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <optional>
#include <stdexcept>
#include <string>
#include <variant>
#include <vector>

#include "bases.hpp"
#include "forecast.hpp"
#include "haar.hpp"
#include "noise.hpp"
#include "planes.hpp"
#include "pyramid.hpp"
#include "table.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using Array = nb::ndarray<nb::device::cpu>;
using ReadOnly = nb::ndarray<nb::ro, nb::device::cpu>;
using Run = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;  // of elements, in any number of dimensions
using Rows = nb::ndarray<const double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Weights = std::variant<Rows, std::array<double, 3>>;  // [1, 3] or [samples, 3], or three numbers for all samples
using Seeds = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using SeedSource = std::variant<std::monostate, int64_t, Seeds>;
using Tables = std::pair<const sk::Table*, const sk::Table*>;

[[noreturn]] void wrong(const std::string& what) { throw nb::value_error(("_native: " + what).c_str()); }

sk::Dtype dtype_of(nb::dlpack::dtype dtype) {
    const auto code = static_cast<nb::dlpack::dtype_code>(dtype.code);
    if (code == nb::dlpack::dtype_code::Bfloat && dtype.bits == 16) return sk::Dtype::bf16;
    if (code == nb::dlpack::dtype_code::Float && dtype.bits == 16) return sk::Dtype::f16;
    if (code == nb::dlpack::dtype_code::Float && dtype.bits == 32) return sk::Dtype::f32;
    if (code == nb::dlpack::dtype_code::Float && dtype.bits == 64) return sk::Dtype::f64;
    throw nb::type_error("_native: arrays must be float32, float16, bfloat16 or float64");
}

// [B, C1, C2, h/p, p, w/p, p]
template <class A>
sk::Planes planes_of(const A& array, const char* name) {
    if (array.ndim() != 7) wrong(std::string(name) + " must have 7 dimensions [B, C1, C2, h/p, p, w/p, p]");
    sk::Planes planes;
    planes.data = const_cast<void*>(static_cast<const void*>(array.data()));
    planes.dtype = dtype_of(array.dtype());
    const auto size = [&](int axis) { return static_cast<int64_t>(array.shape(axis)); };
    planes.samples = size(0);
    planes.outer = size(1);
    planes.inner = size(2);
    planes.rows = size(3) * size(4);
    planes.columns = size(5) * size(6);
    planes.patch_rows = size(4);
    planes.patch_columns = size(6);
    for (int axis = 0; axis < 7; ++axis) planes.stride[axis] = array.stride(axis);
    return planes;
}

void same_planes(const sk::Planes& a, const sk::Planes& b, const char* name) {
    if (a.samples != b.samples || a.outer != b.outer || a.inner != b.inner) {
        wrong(std::string(name) + " must have as many samples and planes as out");
    }
}

sk::Term term_of(const Tables& tables, int64_t rows, int64_t columns, const sk::Planes& out, sk::Mode mode, const char* name) {
    const sk::Folded &r = tables.first->folded(), &c = tables.second->folded();
    if (r.mode != mode || c.mode != mode) wrong("all tables must be of one precision");
    if (r.K != rows || c.K != columns || r.m != out.rows || c.m != out.columns) {
        wrong(std::string("the tables of ") + name + " do not lead from its planes to those of out");
    }
    return {&r, &c};
}

const sk::Isa& isa_of(const std::string& name) {
    if (name.empty()) {
        static const sk::Isa& best = sk::best_isa();
        return best;
    }
    const sk::Isa* const isa = sk::isa_named(name.c_str());
    if (!isa) wrong("instruction set " + name + " is unknown or cannot run here");
    return *isa;
}

sk::Kind kind_of(const std::string& name) {
    static constexpr const char* kinds[] = {"analysis", "synthesis", "up", "down", "lowpass"};
    for (int at = 0; at < 5; ++at) {
        if (name == kinds[at]) return static_cast<sk::Kind>(at);
    }
    wrong("kind must be analysis, synthesis, up, down or lowpass");
}

template <class J>
void seeds_into(const SeedSource& seeds, int64_t samples, J& job) {
    if (const auto* given = std::get_if<Seeds>(&seeds)) {
        if (static_cast<int64_t>(given->shape(0)) != samples) wrong("seeds must have one number per sample");
        job.seeds = given->data();
    } else if (const auto* base = std::get_if<int64_t>(&seeds)) {
        job.base_seed = *base;
    }
}

// Gives the number of rows.
template <class J>
int64_t weights_into(const Weights& weights, J& job) {
    if (const auto* one = std::get_if<std::array<double, 3>>(&weights)) {
        job.weights = one->data();
        return 1;
    }
    const Rows& rows = std::get<Rows>(weights);
    const auto count = static_cast<int64_t>(rows.shape(0));
    if (rows.shape(1) != 3 || (count != 1 && count != job.out.samples)) wrong("weights must be three numbers, [1, 3] or one row per sample");
    job.weights = rows.data();
    job.weight_stride = count == 1 ? 0 : 3;
    return count;
}

void plane_product(Array out, ReadOnly x, std::optional<ReadOnly> other, Tables first, std::optional<Tables> second,
                   std::pair<int64_t, int64_t> corner, SeedSource seeds, uint32_t stream,
                   const Weights& weights, int threads, bool spectral, const std::string& isa_name) {
    sk::Job job;
    job.mode = first.first->folded().mode;
    job.out = planes_of(out, "out");
    job.x = planes_of(x, "x");
    same_planes(job.x, job.out, "x");
    job.spectral = spectral;
    sk::Planes corner_planes = job.out;
    corner_planes.rows = corner.first;
    corner_planes.columns = corner.second;
    if (spectral && !second) wrong("a spectral product needs a second term");
    if (spectral && (corner.first > job.out.rows || corner.second > job.out.columns)) wrong("the corner must lie inside out");
    job.term[0] = term_of(first, job.x.rows, job.x.columns, spectral ? corner_planes : job.out, job.mode, "x");
    if (other) {
        job.has_other = true;
        job.other = planes_of(*other, "other");
        same_planes(job.other, job.out, "other");
    }
    if (second) {
        job.has_second = true;
        const sk::Folded &r = second->first->folded(), &c = second->second->folded();
        job.term[1] = term_of(*second, other ? job.other.rows : r.K, other ? job.other.columns : c.K, job.out, job.mode, "other");
        if (!other && std::holds_alternative<std::monostate>(seeds)) wrong("a second term needs other or seeds");
    }
    seeds_into(seeds, job.out.samples, job);
    const int64_t weight_rows = weights_into(weights, job);
    if (job.has_other && (job.other.rows != job.out.rows || job.other.columns != job.out.columns)) {
        for (int64_t b = 0; b < weight_rows; ++b) {
            if (job.weights[3 * b + 2] != 0) wrong("gamma needs other to be as large as out");
        }
    }
    job.corner_rows = corner.first;
    job.corner_columns = corner.second;
    job.stream = stream;
    const sk::Isa& isa = isa_of(isa_name);
    nb::gil_scoped_release unlocked;
    sk::plane_product(job, isa, threads);
}

void haar(Array out, ReadOnly x, std::optional<ReadOnly> other, const std::string& kind, const std::string& second,
          int levels, SeedSource seeds, uint32_t stream, const Weights& weights, int threads, const std::string& isa_name) {
    if (levels < 1 || levels > sk::kHaarLevels) wrong("levels must be 1 to " + std::to_string(sk::kHaarLevels));
    sk::Haar job;
    job.kind = kind_of(kind);
    job.levels = levels;
    job.out = planes_of(out, "out");
    job.x = planes_of(x, "x");
    same_planes(job.x, job.out, "x");
    const int64_t rows = job.rows() << levels, columns = job.columns() << levels;
    const auto sized = [&](const sk::Planes& planes, bool coarse, const char* name) {
        const int64_t factor = coarse ? int64_t{1} << levels : 1;
        if (planes.rows * factor != rows || planes.columns * factor != columns) {
            wrong(std::string(name) + " does not have the size that this kind of Haar gives");
        }
    };
    sized(job.x, job.kind == sk::Kind::up, "x");
    sized(job.out, job.kind == sk::Kind::down, "out");
    if (other) {
        job.has_other = true;
        job.other = planes_of(*other, "other");
        same_planes(job.other, job.out, "other");
        sized(job.other, false, "other");
    }
    if (!second.empty()) {
        job.has_second = true;
        job.second = kind_of(second);
        if (job.second != sk::Kind::synthesis && job.second != sk::Kind::lowpass) wrong("second must be synthesis or lowpass");
        if (!other && (job.second != sk::Kind::synthesis || std::holds_alternative<std::monostate>(seeds))) {
            wrong("a second term needs other, or seeds for a synthesis");
        }
    }
    if ((other || job.has_second) && (job.kind == sk::Kind::down || job.kind == sk::Kind::analysis)) {
        wrong("other and a second term need pixels as output");
    }
    seeds_into(seeds, job.out.samples, job);
    job.stream = stream;
    weights_into(weights, job);
    const sk::Isa& isa = isa_of(isa_name);
    nb::gil_scoped_release unlocked;
    sk::haar(job, isa, threads);
}

sk::Resample resample_of(const std::string& name) {
    if (name == "area") return sk::Resample::area;
    if (name == "bilinear") return sk::Resample::bilinear;
    if (name == "none") return sk::Resample::same;
    wrong("resample must be area, bilinear or none");
}

// One dtype and as many planes everywhere; sizes that follow each other.
void check_level(const sk::Planes& coarse, const sk::Planes& fine, const sk::Planes& beside, sk::Resample resample) {
    same_planes(coarse, fine, "coarse");
    same_planes(beside, fine, "detail");
    if (coarse.dtype != fine.dtype || beside.dtype != fine.dtype) wrong("all levels must have one dtype");
    if (beside.rows != fine.rows || beside.columns != fine.columns) wrong("detail must be as large as the fine level");
    if (fine.rows == 0 || fine.columns == 0) return;
    const int64_t pairs[2][2] = {{fine.rows, coarse.rows}, {fine.columns, coarse.columns}};
    for (const auto& [large, small] : pairs) {
        if (small < 1 || small > large || large > INT32_MAX) wrong("coarse must be smaller than the fine level");
        if (resample == sk::Resample::area && !sk::blocks_fit(large, small)) wrong("blocks do not lead from the fine to the coarse size");
        if (resample == sk::Resample::same && large != small) wrong("without resampling both levels must have one size");
    }
}

void pyramid_split(ReadOnly x, Array coarse, Array detail, const std::string& resample, int threads, const std::string& isa_name) {
    sk::Split job;
    job.resample = resample_of(resample);
    if (job.resample == sk::Resample::same) wrong("resample must be area or bilinear");
    job.x = planes_of(x, "x");
    job.coarse = planes_of(coarse, "coarse");
    job.detail = planes_of(detail, "detail");
    check_level(job.coarse, job.x, job.detail, job.resample);
    const sk::Isa& isa = isa_of(isa_name);
    nb::gil_scoped_release unlocked;
    sk::split(job, isa, threads);
}

void pyramid_merge(ReadOnly coarse, ReadOnly detail, Array out, const std::string& resample, bool subtract, int threads,
                   const std::string& isa_name) {
    sk::Merge job;
    job.resample = resample_of(resample);
    job.subtract = subtract;
    job.coarse = planes_of(coarse, "coarse");
    job.detail = planes_of(detail, "detail");
    job.out = planes_of(out, "out");
    check_level(job.coarse, job.out, job.detail, job.resample);
    const sk::Isa& isa = isa_of(isa_name);
    nb::gil_scoped_release unlocked;
    sk::merge(job, isa, threads);
}

void noise_levels(const std::vector<ReadOnly>& levels, const std::vector<Array>& noisy, const std::vector<Array>& velocities,
                  Rows times, std::optional<nb::ndarray<const uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>> mask,
                  SeedSource seeds, uint32_t stream, int threads, const std::string& isa_name) {
    const std::size_t count = levels.size();
    if (count == 0 || noisy.size() != count || velocities.size() != count) wrong("there must be as many results as levels");
    std::vector<sk::NoiseLevel> jobs(count);
    for (std::size_t s = 0; s < count; ++s) {
        sk::NoiseLevel& job = jobs[s];
        job.x = planes_of(levels[s], "levels");
        job.noisy = planes_of(noisy[s], "noisy");
        job.velocity = planes_of(velocities[s], "velocities");
        for (const sk::Planes* const result : {&job.noisy, &job.velocity}) {
            same_planes(job.x, *result, "a level");
            if (result->rows != job.x.rows || result->columns != job.x.columns) wrong("results must be as large as their levels");
        }
        const auto samples = static_cast<std::size_t>(job.x.samples);
        if (times.shape(0) != samples || times.shape(1) != count) wrong("times must be [samples, levels]");
        if (mask && (mask->shape(0) != samples || mask->shape(1) != count)) wrong("mask must be [samples, levels]");
        job.times = times.data() + s;
        job.shown = mask ? mask->data() + s : nullptr;
        job.step = static_cast<int64_t>(count);
        seeds_into(seeds, job.x.samples, job);
        job.stream = stream + static_cast<uint32_t>(s);
    }
    const sk::Isa& isa = isa_of(isa_name);
    nb::gil_scoped_release unlocked;
    sk::noise_levels(jobs.data(), static_cast<int64_t>(count), isa, threads);
}

void update_moments(nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu> moments, Run feature,
                    nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu> row, int threads,
                    const std::string& isa_name) {
    sk::Moments job;
    job.count = static_cast<int64_t>(moments.shape(0));
    job.size = static_cast<int64_t>(moments.shape(1));
    if (row.shape(0) != moments.shape(0)) wrong("row must have one factor per moment");
    if (static_cast<int64_t>(feature.size()) != job.size) wrong("feature must be as long as a moment");
    job.moments = moments.data();
    job.feature = feature.data();
    job.dtype = dtype_of(feature.dtype());
    job.row = row.data();
    const sk::Isa& isa = isa_of(isa_name);
    nb::gil_scoped_release unlocked;
    sk::update_moments(job, isa, threads);
}

void normal(Array out, std::variant<int64_t, Seeds> seeds, uint32_t stream, int threads, const std::string& isa_name) {
    if (out.ndim() != 4) wrong("out must have 4 dimensions [samples, planes, rows, columns]");
    sk::Noise noise;
    noise.data = out.data();
    noise.dtype = dtype_of(out.dtype());
    for (int axis = 0; axis < 4; ++axis) {
        noise.size[axis] = static_cast<int64_t>(out.shape(axis));
        noise.stride[axis] = out.stride(axis);
    }
    if (const auto* given = std::get_if<Seeds>(&seeds)) {
        if (static_cast<int64_t>(given->shape(0)) != noise.size[0]) wrong("seeds must have one number per sample");
        noise.seeds = given->data();
    } else {
        noise.base_seed = std::get<int64_t>(seeds);
    }
    noise.stream = stream;
    const sk::Isa& isa = isa_of(isa_name);
    nb::gil_scoped_release unlocked;
    sk::draw(noise, isa, threads);
}

void forecast(Array out, const std::vector<Run>& features,
              nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu> weights, int threads,
              const std::string& isa_name) {
    if (out.ndim() != 2 || features.empty()) wrong("out must be [targets, elements], and there must be a feature");
    sk::Forecast job;
    job.targets = static_cast<int64_t>(out.shape(0));
    job.size = static_cast<int64_t>(out.shape(1));
    job.count = static_cast<int64_t>(features.size());
    job.out = out.data();
    job.out_dtype = dtype_of(out.dtype());
    if (job.size > 1 && out.stride(1) != 1) wrong("out must be contiguous");
    if (job.targets > 1 && out.stride(0) != job.size) wrong("out must be contiguous");
    if (static_cast<int64_t>(weights.shape(0)) != job.targets || static_cast<int64_t>(weights.shape(1)) != job.count) {
        wrong("weights must be [targets, features]");
    }
    job.weights = weights.data();
    std::vector<const void*> data;
    std::vector<sk::Dtype> dtypes;
    for (const Run& feature : features) {
        if (static_cast<int64_t>(feature.size()) != job.size) wrong("features must be as long as out");
        data.push_back(feature.data());
        dtypes.push_back(dtype_of(feature.dtype()));
    }
    job.features = data.data();
    job.dtypes = dtypes.data();
    const sk::Isa& isa = isa_of(isa_name);
    nb::gil_scoped_release unlocked;
    sk::forecast(job, isa, threads);
}

}  // namespace

NB_MODULE(_native, m) {
    m.doc() = "The compiled CPU core. Called by spectral_kernels.dispatch only; the bits are those of every other backend.";

    nb::class_<sk::Table>(m, "Table", "A constant matrix [m, K], folded along its symmetries and packed.")
        .def(
            "__init__",
            [](sk::Table* self, nb::ndarray<const float, nb::shape<2, -1, -1>, nb::c_contig, nb::device::cpu> slices) {
                if (slices.size() == 0) wrong("a table must not be empty");
                new (self) sk::Table(slices.shape(1), slices.shape(2), slices.data());
            },
            "slices"_a, "The two slices [2, m, K] of an exact product.")
        .def(
            "__init__",
            [](sk::Table* self, nb::ndarray<const double, nb::ndim<2>, nb::c_contig, nb::device::cpu> values,
               const std::string& mode) {
                if (values.size() == 0) wrong("a table must not be empty");
                if (mode != "exact" && mode != "double" && mode != "fast") wrong("mode must be exact, double or fast");
                const sk::Mode chosen = mode == "exact" ? sk::Mode::exact : mode == "double" ? sk::Mode::f64 : sk::Mode::f32;
                new (self) sk::Table(chosen, values.shape(0), values.shape(1), values.data());
            },
            "values"_a, "mode"_a, "float64 values [m, K]; mode is exact, double or fast.")
        .def_prop_ro(
            "bounds",
            [](const sk::Table& self) {
                const sk::Folded& table = self.folded();
                return std::tuple(table.rounding, table.quick_rounding, table.coarse_rounding);
            },
            "Exact tables: how far float64 products may lie from the table's, per unit of the 2-norm of the data: the folded "
            "one; the factorised one; analysis and synthesis one after the other. 0 where there is none.");

    m.def("fast_dct", [](int64_t n, bool synthesis, const std::string& mode) {
        if (n < 1) wrong("n must be at least 1");
        if (mode != "double" && mode != "fast") wrong("mode must be double or fast");
        return sk::Table::fast_dct(mode == "double" ? sk::Mode::f64 : sk::Mode::f32, n, synthesis);
    }, "n"_a, "synthesis"_a, "mode"_a = "fast", "The cosine transform of n points in float32 or float64, factorised.");

    m.def("plane_product", &plane_product, "out"_a.noconvert(), "x"_a.noconvert(), "other"_a.none(), "first"_a,
          "second"_a.none(), "corner"_a, "seeds"_a.none(), "stream"_a, "weights"_a, "threads"_a, "spectral"_a = false, "isa"_a = "",
          "out = alpha (M_r X M_c^T + beta (N_r E N_c^T)) + gamma E + 0 for views [B, C1, C2, h/p, p, w/p, p].");
    m.def("haar", &haar, "out"_a.noconvert(), "x"_a.noconvert(), "other"_a.none(), "kind"_a, "second"_a, "levels"_a,
          "seeds"_a.none(), "stream"_a, "weights"_a, "threads"_a, "isa"_a = "",
          "out = alpha (M X + beta N E) + gamma E + 0 by levels of Haar on blocks, for views [B, C1, C2, h/p, p, w/p, p].");
    m.def("pyramid_split", &pyramid_split, "x"_a.noconvert(), "coarse"_a.noconvert(), "detail"_a.noconvert(), "resample"_a,
          "threads"_a, "isa"_a = "", "coarse = down(x), detail = x - up(coarse), for views [B, C1, C2, h/p, p, w/p, p].");
    m.def("pyramid_merge", &pyramid_merge, "coarse"_a.noconvert(), "detail"_a.noconvert(), "out"_a.noconvert(), "resample"_a,
          "subtract"_a, "threads"_a, "isa"_a = "", "out = detail + up(coarse), or detail - up(coarse).");
    m.def("noise_levels", &noise_levels, "levels"_a, "noisy"_a, "velocities"_a, "times"_a, "mask"_a.none(), "seeds"_a.none(),
          "stream"_a, "threads"_a, "isa"_a = "", "z = (1 - t) x + t e and v = e - x for every level, e from stream + level.");
    m.def("update_moments", &update_moments, "moments"_a.noconvert(), "feature"_a.noconvert(), "row"_a, "threads"_a, "isa"_a = "",
          "moments[m] += row[m] * feature in float32.");
    m.def("normal", &normal, "out"_a.noconvert(), "seeds"_a, "stream"_a, "threads"_a, "isa"_a = "",
          "Normal deviates into out [samples, planes, rows, columns].");
    m.def("forecast", &forecast, "out"_a.noconvert(), "features"_a, "weights"_a, "threads"_a, "isa"_a = "",
          "out[g] = sum of weights[g][k] features[k] in float32, k ascending.");
    m.def("table_values", [](const std::string& basis, const std::string& kind, int64_t fine, int64_t coarse) {
        const sk::Basis of = basis == "fft" ? sk::Basis::fft : basis == "haar" ? sk::Basis::haar : sk::Basis::dct;
        if (of == sk::Basis::dct && basis != "dct") wrong("basis must be dct, fft or haar");
        if (coarse < 1 || fine < coarse) wrong("fine must be at least coarse, and coarse at least 1");
        auto* values = new sk::Values(sk::table_values(of, kind_of(kind), fine, coarse));
        nb::capsule owner(values, [](void* p) noexcept { delete static_cast<sk::Values*>(p); });
        return nb::ndarray<nb::numpy, double, nb::ndim<2>>(
            values->data.data(), {static_cast<size_t>(values->m), static_cast<size_t>(values->K)}, owner);
    }, "basis"_a, "kind"_a, "fine"_a, "coarse"_a, "The float64 table the C library builds for itself.");
    m.def("isas", [] {
        nb::list names;
        for (const char* name : {"baseline", "avx2", "avx512"}) {
            if (sk::isa_named(name)) names.append(name);
        }
        return names;
    }, "The instruction sets that can run here, narrowest first; the last one is used.");
}
