#include <array>
#include <cstring>

#include "quant/arithmetic.hpp"
#include "quant/quantize.hpp"
#include "tensor/profile.hpp"

namespace nibble {
namespace {

/// What the codes of a format and of its block scales stand for.
struct Tables {
  std::array<float, 256> element{}, scale{};

  explicit Tables(const Quantizer& q) {
    for (int code = 0; code < q.element->codes(); ++code) element[static_cast<size_t>(code)] = q.element->value(code);
    for (uint32_t code = 0; code < 256; ++code)
      scale[code] =
          q.scale == ScaleFormat::e8m0 ? e8m0_value<float>(code) : formats::e4m3.value(static_cast<int>(code & 0x7fu));
  }
};

template <class T>
void restore_row(const Quantizer& q, const Tables& tables, const QuantizedParts& parts, int64_t i, int64_t depth,
                 T* values) {
  const auto bits = static_cast<size_t>(q.element->bits());
  const uint64_t mask = (uint64_t{1} << bits) - 1;
  const uint8_t *codes = parts.codes.row<uint8_t>(i), *scales = q.blocks() ? parts.scales.row<uint8_t>(i) : nullptr;
  for (int64_t first = 0; first < depth; first += 8, codes += bits) {
    uint64_t eight = 0;
    if (bits == 4) std::memcpy(&eight, codes, 4);
    else std::memcpy(&eight, codes, bits);
    const uint8_t scale_code = scales ? scales[first / q.group] : uint8_t{0};
    const float scale = scales ? tables.scale[scale_code] : 1.0f;
    const bool shifted = q.choice == BlockChoice::shifted && (scale_code & 0x80u) != 0;
    for (size_t j = 0; j < 8; ++j) {
      const float element = tables.element[eight >> j * bits & mask];
      values[first + static_cast<int64_t>(j)] = T((shifted ? -(element + 0.25f) : element) * scale);
    }
  }
}

}  // namespace

void restore(Stream& stream, const Quantizer& quantizer, const QuantizedParts& parts, const Tensor& values) {
  const KernelTimer timer(stream, "restore", {parts.codes, parts.scales, values});
  const Tables tables(quantizer);
  parallel_for(stream, values.rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      if (values.dtype == DType::bf16) restore_row(quantizer, tables, parts, i, values.cols, values.row<bf16>(i));
      else restore_row(quantizer, tables, parts, i, values.cols, values.row<float>(i));
  });
}

}  // namespace nibble
