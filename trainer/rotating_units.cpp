#include "trainer/rotating_units.hpp"

namespace nibble {
namespace {

constexpr int nothing = -1;

}  // namespace

RotatingUnits::RotatingUnits(const ParameterLayout& layout) : layout_(layout) { clear(); }

void RotatingUnits::clear() { resident_.fill(nothing); }

int& RotatingUnits::resident(int unit) {
  const int place = unit == layout_.embedding_unit() ? 2
                    : unit != layout_.head_unit()    ? unit % 2
                    : layout_.tied()                 ? 3
                                                     : 2;
  return resident_[static_cast<size_t>(place)];
}

std::vector<int> RotatingUnits::come_to(int unit) {
  const bool forward = unit == layout_.embedding_unit() || unit > unit_;
  const int next = forward ? unit + 1 : unit - 1;
  unit_ = unit;
  std::vector<int> missing;
  const auto bring = [&](int which) {
    if (resident(which) == which) return;
    resident(which) = which;
    missing.push_back(which);
  };
  bring(unit);
  if (next > layout_.embedding_unit() && next < layout_.units()) bring(next);
  return missing;
}

bool share_gradient_memory(const ParameterLayout& layout, int a, int b) {
  const auto is_block = [&](int unit) { return unit != layout.embedding_unit() && unit != layout.head_unit(); };
  return is_block(a) ? is_block(b) && a % 2 == b % 2 : !is_block(b);
}

}  // namespace nibble
