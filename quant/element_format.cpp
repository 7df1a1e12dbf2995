#include "quant/element_format.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <list>
#include <mutex>
#include <string>

#include "tensor/error.hpp"

namespace nibble {
namespace {

[[noreturn]] void refuse(const ElementFormat& format, const char* what, const std::string& seen,
                         const std::string& allowed) {
  throw Error({.kind = ErrorKind::configuration,
               .what = what,
               .where = fmt::format("element format '{}'", format.name),
               .seen = seen,
               .allowed = allowed});
}

/// The largest magnitude must be reached by a code, and what lies below it must be exact in the kernels' f32.
void check(const ElementFormat& f) {
  constexpr int most_exponent = 60;
  if (f.name.empty()) refuse(f, "a format without a name", "", "a name of its own");
  if (f.mantissa_bits < 1 || f.exponent_bits < 0 || f.mantissa_bits > 8 || f.exponent_bits > 6 || f.bits() > 8)
    refuse(f, "bits that no code of one byte has",
           fmt::format("exponent_bits: {}, mantissa_bits: {}", f.exponent_bits, f.mantissa_bits),
           "a sign, 0 to 6 exponent bits and at least 1 mantissa bit, together at most 8");
  if (f.min_exponent < -most_exponent || f.min_exponent > most_exponent)
    refuse(f, "the exponent of the smallest normal number is out of range", std::to_string(f.min_exponent),
           fmt::format("{} to {}", -most_exponent, most_exponent));
  if (f.half_odd() && (f.offset != 0.5f || !f.fixed_point() || f.quantum() != 1))
    refuse(f, "an offset without meaning", fmt::format("{}", f.offset),
           "0.5, of integers in steps of 1: exponent_bits: 0, min_exponent = mantissa_bits");
  for (int code = 0; code < f.codes(); ++code)
    if (f.value(code) == f.max && f.max > 0) return;
  refuse(f, "the largest magnitude is no value of the format", fmt::format("{}", f.max),
         fmt::format("one of its positive values, up to {}", f.value(f.codes() / 2 - 1)));
}

/// With the text that its name is a view of.
struct Described {
  std::string name;
  ElementFormat format;
};

}  // namespace

std::span<const ElementFormat* const> element_formats() {
  using namespace formats;
  static constexpr const ElementFormat* all[] = {
      &e2m1,       &e2m3,       &e3m2,       &e4m3,       &e5m2,       &mxint8,     &integer[0],
      &integer[1], &integer[2], &integer[3], &integer[4], &integer[5], &integer[6], &quest[0],
      &quest[1],   &quest[2],   &quest[3],   &quest[4],   &quest[5],   &quest[6],   &quest[7]};
  return all;
}

const ElementFormat& lasting_format(const ElementFormat& format) {
  for (const ElementFormat* known : element_formats()) {
    if (*known == format) return *known;
    if (known->name == format.name)
      refuse(format, "the name of another format", std::string(format.name), "a name that is not taken");
  }
  check(format);
  static std::mutex mutex;
  static std::list<Described> described;
  const std::lock_guard lock(mutex);
  for (const Described& earlier : described)
    if (earlier.format == format) return earlier.format;
  Described& added = described.emplace_back(Described{std::string(format.name), format});
  added.format.name = added.name;
  return added.format;
}

}  // namespace nibble
