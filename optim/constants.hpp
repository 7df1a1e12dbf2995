// The constants of an optimizer, looked at before it takes them.
#pragma once

#include <fmt/format.h>

#include <cmath>
#include <cstdint>
#include <string>

#include "tensor/error.hpp"

namespace nibble {

/// Each throws Error{configuration} that names the optimizer and its setting. Conditions are written so that NaN is
/// refused too.
class OptimizerConstants {
 public:
  /// `usual`: values that a message may recommend.
  explicit OptimizerConstants(const char* optimizer, const char* usual = "") : optimizer_(optimizer), usual_(usual) {}

  /// What a running mean keeps of the step before.
  void memory(const char* key, double value) const {
    if (!(value >= 0 && value < 1)) refuse(key, value, "at least 0, below 1");
  }
  void not_negative(const char* key, double value) const {
    if (!(value >= 0 && std::isfinite(value))) refuse(key, value, "0 or a positive number");
  }
  /// What is added in f32 to what is divided by.
  void positive(const char* key, double value) const {
    if (!(static_cast<float>(value) > 0 && std::isfinite(value)))
      refuse(key, value, "a positive number that float32 holds");
  }

  void at_least_one(const char* key, int64_t value) const {
    if (value < 1) refuse(key, static_cast<double>(value), "at least 1");
  }

 private:
  [[noreturn]] void refuse(const char* key, double seen, const char* allowed) const {
    throw Error({.kind = ErrorKind::configuration,
                 .what = fmt::format("a constant of {} is out of range", optimizer_),
                 .where = fmt::format("optimizer.{}", key),
                 .seen = fmt::format("{}", seen),
                 .allowed = allowed,
                 .next = usual_});
  }

  const char* optimizer_;
  const char* usual_;
};

}  // namespace nibble
