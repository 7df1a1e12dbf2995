#include "trainer/packed_format.hpp"

#include <fmt/format.h>

#include "quant/quantizers.hpp"
#include "tensor/error.hpp"

namespace nibble {

std::string_view name(PackedFormat format) {
  switch (format) {
    case PackedFormat::nvfp4:
      return "nvfp4";
    case PackedFormat::mxfp4:
      return "mxfp4";
    case PackedFormat::fp8:
      return "fp8";
    case PackedFormat::int8:
      return "int8";
  }
  return "";
}

std::optional<PackedFormat> packed_format_named(std::string_view name) {
  for (const PackedFormat format : packed_formats)
    if (nibble::name(format) == name) return format;
  return {};
}

std::optional<PackedFormat> format_of(const Quantizer& q) {
  const bool plain = q.quantizes() && q.rounding == Rounding::nearest && q.choice != BlockChoice::shifted &&
                     q.correction_group == 0 && q.sparsity == Sparsity::none && !q.learns() && q.history == 0 &&
                     q.shrink == 1 && q.gain == 1;
  if (!plain) return {};
  const bool has_f32_scale = q.scale == ScaleFormat::f32 && !q.blocks();
  if (*q.element == formats::e2m1 && q.scale == ScaleFormat::e4m3 && q.group == 16) return PackedFormat::nvfp4;
  if (*q.element == formats::e2m1 && q.scale == ScaleFormat::e8m0 && q.group == 32) return PackedFormat::mxfp4;
  if (*q.element == formats::e4m3 && has_f32_scale) return PackedFormat::fp8;
  if (*q.element == formats::int8 && has_f32_scale) return PackedFormat::int8;
  return {};
}

Quantizer default_quantizer(PackedFormat format) {
  switch (format) {
    case PackedFormat::nvfp4:
      return quantizers::nvfp4;
    case PackedFormat::mxfp4:
      return quantizers::mx(formats::e2m1, quantizers::MxScale::floor);
    case PackedFormat::fp8:
      return quantizers::per_row(formats::e4m3);
    case PackedFormat::int8:
      return quantizers::per_row(formats::int8);
  }
  return {};
}

std::string module_of(const std::string& parameter) { return parameter.substr(0, parameter.rfind(".weight")); }

std::vector<PackedTensor> packed_tensors(const Quantizer& quantizer, int64_t rows, int64_t cols) {
  const std::vector<int64_t> f32_scale =
      quantizer.extent == Extent::row ? std::vector<int64_t>{rows, 1} : std::vector<int64_t>{1};
  switch (format_of(quantizer).value()) {
    case PackedFormat::nvfp4:
      return {{"weight_packed", "U8", {rows, cols / 2}},
              {"weight_scale", "F8_E4M3", {rows, cols / quantizer.group}},
              {"weight_global_scale", "F32", {1}}};
    case PackedFormat::mxfp4:
      return {{"weight_packed", "U8", {rows, cols / 2}}, {"weight_scale", "U8", {rows, cols / quantizer.group}}};
    case PackedFormat::fp8:
      return {{"weight", "F8_E4M3", {rows, cols}}, {"weight_scale", "F32", f32_scale}};
    case PackedFormat::int8:
      return {{"weight", "I8", {rows, cols}}, {"weight_scale", "F32", f32_scale}};
  }
  return {};
}

void require_packable(PackedFormat format, int64_t cols, const std::string& where) {
  constexpr int codes_are_made_by = 8;
  const Quantizer q = default_quantizer(format);
  const int whole = q.blocks() ? q.group : codes_are_made_by;
  if (cols % whole == 0) return;
  throw Error({.kind = ErrorKind::configuration,
               .what = fmt::format("{} has blocks that do not divide the input features", name(format)),
               .where = where,
               .seen = fmt::format("{} input features", cols),
               .allowed = fmt::format("a multiple of {}", whole),
               .next = whole > codes_are_made_by
                           ? "export it as fp8 or int8, which have no blocks, or without --quantize"
                           : "export it without --quantize"});
}

}  // namespace nibble
