// Levels for values that are close to standard normal, as a rotation makes them.
//
// Up to 4 bits they are those of least squared error (Lloyd 1957, Max 1960: each level the mean of its cell, each
// threshold halfway between levels). From 5 bits on they are equally spaced, so that no value searches for its level:
// 1.4 (5 bits) to 2.1 (8 bits) times the squared error, which is then below 0.4% of the square. The spacing is the one
// of least squared error.
#pragma once

#include <array>
#include <span>

namespace nibble {

/// The positive levels, ascending; the others are their negatives. `bits` 1 ... 4.
inline std::span<const float> normal_levels(int bits) {
  static constexpr std::array<float, 1> one{0.797884561f};
  static constexpr std::array<float, 2> two{0.452780035f, 1.51041761f};
  static constexpr std::array<float, 4> three{0.245094179f, 0.756005281f, 1.34390928f, 2.1519457f};
  static constexpr std::array<float, 8> four{0.12839503f, 0.388048299f, 0.656759119f, 0.942340456f,
                                             1.2562312f,  1.61804639f,  2.06901723f,  2.73258957f};
  switch (bits) {
    case 1:
      return one;
    case 2:
      return two;
    case 3:
      return three;
    default:
      return four;
  }
}

/// The spacing of 2^bits levels at odd multiples of its half, for 5 ... 8 bits.
constexpr float normal_spacing(int bits) {
  constexpr float spacings[] = {0.188138798f, 0.104063021f, 0.0568676787f, 0.0307623789f};
  return spacings[bits - 5];
}

}  // namespace nibble
