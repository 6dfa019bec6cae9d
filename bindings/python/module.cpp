// SPDX-License-Identifier: Apache-2.0
// The Python side of the compiled core: arrays come in over DLPack, shapes are compared once more, nothing is computed.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

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
#include "table.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using Array = nb::ndarray<nb::device::cpu>;
using ReadOnly = nb::ndarray<nb::ro, nb::device::cpu>;
using Weights = nb::ndarray<const double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Seeds = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
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

void plane_product(Array out, ReadOnly x, std::optional<ReadOnly> other, Tables first, std::optional<Tables> second,
                   std::pair<int64_t, int64_t> corner, std::variant<std::monostate, int64_t, Seeds> seeds, uint32_t stream,
                   Weights weights, int threads, bool spectral, const std::string& isa_name) {
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
    if (const auto* given = std::get_if<Seeds>(&seeds)) {
        if (static_cast<int64_t>(given->shape(0)) != job.out.samples) wrong("seeds must have one number per sample");
        job.seeds = given->data();
    } else if (const auto* base = std::get_if<int64_t>(&seeds)) {
        job.base_seed = *base;
    }
    const auto rows_of_weights = static_cast<int64_t>(weights.shape(0));
    if (weights.shape(1) != 3 || (rows_of_weights != 1 && rows_of_weights != job.out.samples)) {
        wrong("weights must be [1, 3] or one row per sample");
    }
    job.weights = weights.data();
    job.weight_stride = rows_of_weights == 1 ? 0 : 3;
    if (job.has_other && (job.other.rows != job.out.rows || job.other.columns != job.out.columns)) {
        for (int64_t b = 0; b < rows_of_weights; ++b) {
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

void haar(Array out, ReadOnly x, bool inverse, int threads, const std::string& isa_name) {
    sk::Haar job;
    job.out = planes_of(out, "out");
    job.x = planes_of(x, "x");
    job.inverse = inverse;
    same_planes(job.x, job.out, "x");
    if (job.x.rows != job.out.rows || job.x.columns != job.out.columns) wrong("x must be as large as out");
    if (job.x.rows % 2 || job.x.columns % 2) wrong("both sides must be even");
    const sk::Isa& isa = isa_of(isa_name);
    nb::gil_scoped_release unlocked;
    sk::haar(job, isa, threads);
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

void forecast(Array out, const std::vector<ReadOnly>& features,
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
    for (const ReadOnly& feature : features) {
        if (feature.ndim() != 1 || static_cast<int64_t>(feature.shape(0)) != job.size || (job.size > 1 && feature.stride(0) != 1)) {
            wrong("features must be flat, contiguous and as long as out");
        }
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
            "values"_a, "mode"_a, "float64 values [m, K]; mode is exact, double or fast.");

    m.def("fast_dct", [](int64_t n, bool synthesis) {
        if (n < 1) wrong("n must be at least 1");
        return sk::Table::fast_dct(n, synthesis);
    }, "n"_a, "synthesis"_a, "The cosine transform of n points in float32, factorised.");

    m.def("plane_product", &plane_product, "out"_a.noconvert(), "x"_a.noconvert(), "other"_a.none(), "first"_a,
          "second"_a.none(), "corner"_a, "seeds"_a.none(), "stream"_a, "weights"_a, "threads"_a, "spectral"_a = false, "isa"_a = "",
          "out = alpha (M_r X M_c^T + beta (N_r E N_c^T)) + gamma E + 0 for views [B, C1, C2, h/p, p, w/p, p].");
    m.def("haar", &haar, "out"_a.noconvert(), "x"_a.noconvert(), "inverse"_a, "threads"_a, "isa"_a = "",
          "One level of Haar on 2x2 blocks, or its inverse, for views [B, C1, C2, h/p, p, w/p, p].");
    m.def("normal", &normal, "out"_a.noconvert(), "seeds"_a, "stream"_a, "threads"_a, "isa"_a = "",
          "Normal deviates into out [samples, planes, rows, columns].");
    m.def("forecast", &forecast, "out"_a.noconvert(), "features"_a, "weights"_a, "threads"_a, "isa"_a = "",
          "out[g] = sum of weights[g][k] features[k] in float32, k ascending.");
    m.def("table_values", [](const std::string& basis, const std::string& kind, int64_t fine, int64_t coarse) {
        static constexpr const char* kinds[] = {"analysis", "synthesis", "up", "down", "lowpass"};
        int at = 0;
        while (at < 5 && kind != kinds[at]) ++at;
        if (at == 5 || (basis != "dct" && basis != "fft")) wrong("unknown basis or kind");
        if (coarse < 1 || fine < coarse) wrong("fine must be at least coarse, and coarse at least 1");
        auto* values = new sk::Values(sk::table_values(basis == "dct" ? sk::Basis::dct : sk::Basis::fft,
                                                       static_cast<sk::Kind>(at), fine, coarse));
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
