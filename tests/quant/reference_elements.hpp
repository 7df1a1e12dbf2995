// The element formats as tables of all their values, and rounding by looking at every one of them.
//
// Written from the definition of each format and from nothing else, so that it can disagree with quant/. Slow on
// purpose. Not for: scales, blocks, matrices (reference_quantizers.hpp).
#pragma once

#include <vector>

namespace nibble::reference {

/// A sign and a magnitude; a magnitude's code is its place in the table.
struct Element {
  std::vector<double> magnitudes;  ///< ascending
  int sign_bit = 0;                ///< added to the code of a negative value; 0: that code is negated, as integers are
  int mantissa_bits = 0;           ///< below the leading one

  float largest() const { return static_cast<float>(magnitudes.back()); }
  /// floor(log2(largest)), the `emax` of the MX specification.
  int largest_exponent() const;
  /// The value of a code, signs of zero included.
  float value(int code) const;
  /// The code of the nearest value, of two equally near ones the even code; magnitudes above the largest saturate.
  /// x is a number (no NaN).
  int nearest(float x) const;
  /// The neighbour above |x| if uniform < p, else the one below; p is how far |x| lies on the way up. uniform in [0,
  /// 1).
  int stochastic(float x, float uniform) const;

 private:
  int with_sign(int code, float x) const;
};

/// IEEE-like with bias 2^(exponent_bits - 1) - 1 and subnormals; the codes above `largest` are left out.
Element floating_point(int exponent_bits, int mantissa_bits, double largest);
/// Multiples of a quantum from -(2^(bits-1) - 1) to 2^(bits-1) - 1.
Element integer(int bits, double quantum = 1);
/// Powers of two from 2^-127 to 2^127, without zero; nearest() is for positive numbers only.
Element power_of_two();

inline const Element e2m1 = floating_point(2, 1, 6);
inline const Element e3m2 = floating_point(3, 2, 28);
inline const Element e2m3 = floating_point(2, 3, 7.5);
inline const Element e4m3 = floating_point(4, 3, 448);
inline const Element e5m2 = floating_point(5, 2, 57344);
inline const Element e8m0 = power_of_two();
inline const Element mxint8 = integer(8, 0x1p-6);

/// QuEST's INT-b: level (k + 1/2) step for code k, from -2^(bits-1) to 2^(bits-1) - 1.
int half_odd_code(float x, float step, int bits);
float half_odd_value(int code, float step);

}  // namespace nibble::reference
