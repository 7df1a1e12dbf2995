#include "tests/quant/quantizer_cases.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace nibble {
namespace {

using namespace quantizers;
using namespace reference;

/// An element format, here and in the reference.
struct Format {
  const ElementFormat& format;
  const Element& element;
};
const Element reference_int4 = integer(4), reference_int8 = integer(8);

QuantizerCase absmax(const Format& of, bool by_row) {
  return {fmt::format("{}_by_{}", of.format.name, by_row ? "row" : "tensor"),
          by_row ? per_row(of.format) : per_tensor(of.format), [&element = of.element, by_row](const Matrix& x, auto&) {
            return quantize_absmax(x, element, by_row ? whole_row : whole_tensor);
          }};
}

QuantizerCase mx_case(const Format& of, MxScale scale, ExponentRule rule, const char* rule_name) {
  return {fmt::format("mx_{}_{}", of.format.name, rule_name), mx(of.format, scale),
          [&element = of.element, rule](const Matrix& x, auto&) {
            return quantize_mx(x, {.element = element, .rule = rule});
          }};
}

QuantizerCase three_quarters(const char* name, Rounding rounding, float gain) {
  return {name, mxfp4_three_quarters(rounding, gain), [=](const Matrix& x, const Uniforms& uniforms) {
            MxQuantizer quantizer{.shrink = 0.75f, .compensation = gain / 0.75f};
            if (rounding == Rounding::stochastic) quantizer.uniforms = uniforms.elements;
            return quantize_mx(x, quantizer);
          }};
}

QuantizerCase nv_case(const char* name, const Quantizer& quantizer, const NvQuantizer& nv) {
  return {name, quantizer, [=](const Matrix& x, const Uniforms& uniforms) {
            NvQuantizer with_uniforms = nv;
            if (quantizer.rounding == Rounding::stochastic)
              with_uniforms.uniforms = uniforms.elements, with_uniforms.uniforms_of_four = uniforms.of_four;
            return quantize_nv(x, with_uniforms);
          }};
}

QuantizerCase eden(int group) {
  return {fmt::format("ms_eden_{}", group), ms_eden(group),
          [group](const Matrix& x, const Uniforms& uniforms) { return quantize_ms_eden(x, group, uniforms.scales); }};
}

QuantizerCase quartet_case(const char* name, QuestScale scale, DeviationRule rule) {
  return {name, quartet(scale), [rule](const Matrix& x, auto&) { return quantize_quest_mxfp4(x, rule); }};
}

QuantizerCase quest_case(int bits, float one_bit_clip = 1.30f) {
  return {fmt::format("quest_{}{}", bits, bits == 1 && one_bit_clip != 1.30f ? "_plain" : ""),
          quest(bits, one_bit_clip),
          [=](const Matrix& x, auto&) { return quantize_quest_integer(x, bits, bits == 1 ? one_bit_clip : 0); }};
}

std::vector<QuantizerCase> make_cases() {
  const Format of_e2m1{formats::e2m1, e2m1}, of_e2m3{formats::e2m3, e2m3}, of_e3m2{formats::e3m2, e3m2},
      of_e4m3{formats::e4m3, e4m3}, of_e5m2{formats::e5m2, e5m2}, of_int4{formats::int4, reference_int4},
      of_int8{formats::int8, reference_int8}, of_mxint8{formats::mxint8, mxint8};
  std::vector<QuantizerCase> cases;
  for (const Format& of : {of_e2m1, of_e3m2, of_e4m3, of_e5m2, of_int4, of_int8})
    for (const bool by_row : {false, true}) cases.push_back(absmax(of, by_row));
  cases.push_back(
      {"halo_fp6", halo_fp6, [](const Matrix& x, auto&) { return quantize_absmax(x, e3m2, whole_tensor, 0.75f); }});
  for (const Format& of : {of_e2m1, of_e2m3, of_e3m2, of_e4m3, of_e5m2, of_mxint8}) {
    cases.push_back(mx_case(of, MxScale::floor, ExponentRule::floor, "floor"));
    cases.push_back(mx_case(of, MxScale::ceil, ExponentRule::ceil, "ceil"));
    cases.push_back(mx_case(of, MxScale::even, ExponentRule::even, "even"));
  }
  cases.push_back(three_quarters("three_quarters", Rounding::nearest, 1));
  cases.push_back(three_quarters("three_quarters_stochastic", Rounding::stochastic, 1));
  cases.push_back(three_quarters("three_quarters_aligned", Rounding::nearest, mxfp4_alignment));
  cases.push_back(quartet_case("quartet_floor", QuestScale::floor, DeviationRule::floor));
  cases.push_back(quartet_case("quartet_nearest", QuestScale::nearest, DeviationRule::nearest));
  cases.push_back(quartet_case("quartet_exact", QuestScale::exact, DeviationRule::exact));
  const NvQuantizer choice{.largest_scale = 256, .four_over_six = true};
  cases.push_back(nv_case("nvfp4", nvfp4, {}));
  cases.push_back(nv_case("nvfp4_square", square(nvfp4), {.extent = square_16}));
  cases.push_back(nv_case("four_over_six", four_over_six(nvfp4), choice));
  cases.push_back(nv_case("four_over_six_square", square(four_over_six(nvfp4)),
                          {.extent = square_16, .largest_scale = 256, .four_over_six = true}));
  cases.push_back(nv_case("nvfp4_stochastic", nvfp4_stochastic, {.scale_override = 17.0f / 16}));
  cases.push_back(nv_case("four_over_six_stochastic", stochastic_four_over_six(),
                          {.largest_scale = 256, .scale_override = 17.0f / 16, .four_over_six = true}));
  cases.push_back(eden(16));
  cases.push_back(eden(128));
  cases.push_back(nv_case("nvint4", nvint4, {.element = integer(4)}));
  cases.push_back(nv_case("sfp4", sfp4(), {.largest_scale = 256, .four_over_six = true, .shifts = {-0.25f}}));
  for (int bits = 1; bits <= 8; ++bits) cases.push_back(quest_case(bits));
  cases.push_back(quest_case(1, 1.25f));
  cases.push_back({"quest_fp4", quest_fp4, [](const Matrix& x, auto&) { return quantize_quest_e2m1(x); }});
  cases.push_back(
      {"quest_sparse", quest_int4_sparse(), [](const Matrix& x, auto&) { return quantize_quest_sparse(x); }});
  return cases;
}

}  // namespace

const std::vector<QuantizerCase>& quantizer_cases() {
  static const std::vector<QuantizerCase> cases = make_cases();
  return cases;
}

const QuantizerCase& quantizer_case(const std::string& name) {
  return *std::ranges::find(quantizer_cases(), name, &QuantizerCase::name);
}

}  // namespace nibble
