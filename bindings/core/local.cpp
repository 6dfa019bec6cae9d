// SPDX-License-Identifier: Apache-2.0
// Whatever reads a few neighbours of each element: noise, forecasting, Haar, pyramids. Every operation is rounded on its
// own, lines of a plane are widened into buffers that stay in the first cache.
#include "forecast.hpp"
#include "haar.hpp"
#include "isa.hpp"
#include "job.hpp"
#include "noise.hpp"
#include "pyramid.hpp"

namespace sk {
namespace SK_ISA {
namespace {

#include "vectors.inl"
#include "convert.inl"
#include "address.inl"
#include "noise.inl"

}  // namespace

#include "drawn.inl"
#include "forecast.inl"
#include "haar.inl"
#include "pyramid.inl"

}  // namespace SK_ISA
}  // namespace sk
