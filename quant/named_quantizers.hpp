// The quantizers of quantizers.hpp by name, for settings and listings.
#pragma once

#include <span>
#include <string_view>

#include "quant/quantizer.hpp"

namespace nibble {

struct NamedQuantizer {
  std::string_view name;
  Quantizer quantizer{};
};

/// In the order of quantizers.hpp.
std::span<const NamedQuantizer> named_quantizers();

}  // namespace nibble
