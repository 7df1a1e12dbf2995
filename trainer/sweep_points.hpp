// The points of a sweep: from axes to combinations of their values.
//
// Not for the settings that they make (sweep_plan.hpp).
#pragma once

#include <vector>

#include "trainer/sweep_file.hpp"

namespace nibble {

using SweepPoint = std::vector<SweepValue>;

/// All combinations (the last axis changes fastest), the points that were written out, or `count` random ones, which
/// depend on `seed` alone. Values that all points share have no part in their names.
/// Throws Error{configuration}: more than 10000 points, two that are one, fewer different ones than are to be
/// drawn.
std::vector<SweepPoint> points_of(const SweepFile& file);

}  // namespace nibble
