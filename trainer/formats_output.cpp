#include "trainer/formats_output.hpp"

#include <fmt/format.h>

namespace nibble {
namespace {

using Json = nlohmann::ordered_json;

const char* yes_or_no(bool value) { return value ? "yes" : "no"; }

bool exact_in_bf16(const ElementFormat& format) { return format.significant_bits() <= 8; }

float smallest_normal(const ElementFormat& format) { return ElementFormat::power_of_two(format.min_exponent); }

std::string extent_text(const Quantizer& quantizer) {
  switch (quantizer.extent) {
    case Extent::tensor:
      return "tensor";
    case Extent::row:
      return "row";
    case Extent::block:
      return fmt::format("1x{}", quantizer.group);
    case Extent::square:
      return fmt::format("{0}x{0}", quantizer.group);
  }
  return "";
}

const char* scale_format_text(ScaleFormat format) {
  return format == ScaleFormat::f32 ? "f32" : format == ScaleFormat::e8m0 ? "e8m0" : "e4m3";
}

const char* statistic_text(Statistic statistic) {
  switch (statistic) {
    case Statistic::largest:
      return "amax";
    case Statistic::root_mean_square:
      return "rms";
    case Statistic::standard_deviation:
      return "deviation";
  }
  return "";
}

std::string elements_text() {
  std::string text = fmt::format("{:<8} {:>4} {:>8} {:>8} {:>10} {:>12} {:>12} {:>6} {:>6}\n", "element", "bits",
                                 "exponent", "mantissa", "largest", "normal from", "quantum", "codes", "bf16");
  for (const ElementFormat* format : element_formats())
    text += fmt::format("{:<8} {:>4} {:>8} {:>8} {:>10} {:>12} {:>12.7g} {:>6} {:>6}\n", format->name, format->bits(),
                        format->exponent_bits, format->mantissa_bits, format->max,
                        format->fixed_point() ? "-" : fmt::format("{:.7g}", smallest_normal(*format)),
                        format->quantum(), format->codes(), yes_or_no(exact_in_bf16(*format)));
  return text;
}

std::string rule_text(const Quantizer& quantizer) {
  std::string text = fmt::format("{} / {:.5g}", statistic_text(quantizer.statistic), quantizer.divisor);
  if (quantizer.scale == ScaleFormat::e8m0) text += quantizer.round_up ? ", up" : ", down";
  return text;
}

std::string rounding_text(const Quantizer& quantizer) {
  std::string text = quantizer.rounding == Rounding::stochastic ? "stochastic" : "nearest";
  if (quantizer.choice == BlockChoice::four_over_six) text += ", 4/6";
  if (quantizer.choice == BlockChoice::shifted) text += ", 4/6, shifted";
  if (quantizer.correction_group != 0) text += fmt::format(", EDEN {}", quantizer.correction_group);
  if (quantizer.shrink != 1) text += fmt::format(", x{:.4g}", quantizer.shrink);
  if (quantizer.sparsity == Sparsity::two_of_four_pairs) text += ", 2:4";
  return text;
}

std::string marked(const Judged& judged, int decimals) {
  return fmt::format("{:.{}f}{}", judged.measured.value, decimals, judged.off() ? "*" : " ");
}
std::string expected_text(const Judged& judged, int decimals) {
  return judged.expected ? fmt::format("{:.{}f}", *judged.expected, decimals) : "-";
}
std::string optional_text(const std::optional<Judged>& judged) { return judged ? marked(*judged, 6) : "- "; }

std::string measurement_line(const QuantizerMeasurement& m) {
  const Quantizer& q = m.row->quantizer;
  return fmt::format(
      "{:<27} {:>6.4g} {:<10} {:<23} {:<21} {:<4} {:>11} {:>10} {:>6.4f} {:>10} {:>9} {:>7.5f} {:>8} {:>10} {:>10}\n",
      full_name(*m.row), q.bits_per_element(), fmt::format("{} {}", scale_format_text(q.scale), extent_text(q)),
      rule_text(q), rounding_text(q), yes_or_no(q.exact_in_bf16()), marked(m.error, 8), expected_text(m.error, 8),
      m.effective_bits(), marked(m.misalignment, 6), expected_text(m.misalignment, 6), m.cosine,
      fmt::format("{:.6f}", m.clipped), optional_text(m.masked),
      m.masked && m.masked->expected ? expected_text(*m.masked, 6) : "-");
}

Json judged_json(const Judged& judged) {
  Json json = {{"measured", judged.measured.value}, {"standard_error", judged.measured.standard_error}};
  if (judged.expected)
    json.update({{"expected", *judged.expected}, {"allowed", judged.allowed}, {"off", judged.off()}});
  return json;
}

Json measurement_json(const QuantizerMeasurement& m) {
  const Quantizer& q = m.row->quantizer;
  Json json = {{"name", m.row->name},
               {"octave", m.row->octave},
               {"element", q.element->name},
               {"bits_per_element", q.bits_per_element()},
               {"extent", extent_text(q)},
               {"scale", scale_format_text(q.scale)},
               {"rule", rule_text(q)},
               {"rounding", rounding_text(q)},
               {"exact_in_bf16", q.exact_in_bf16()},
               {"error", judged_json(m.error)},
               {"effective_bits", m.effective_bits()},
               {"misalignment", judged_json(m.misalignment)},
               {"cosine", m.cosine}};
  json["clipped"] = m.clipped;
  if (m.masked) json["masked"] = judged_json(*m.masked);
  if (m.fours) json["blocks_on_four"] = judged_json(*m.fours);
  if (!m.row->note.empty()) json["note"] = m.row->note;
  json["off"] = m.off();
  return json;
}

}  // namespace

std::string full_name(const QuantizerRow& row) { return std::string(row.name) + (row.octave ? ", octave" : ""); }

std::string formats_text(const std::vector<QuantizerMeasurement>& measurements) {
  std::string text = elements_text() + "\n";
  text += fmt::format(
      "{:<27} {:>6} {:<10} {:<23} {:<21} {:<4} {:>10}  {:>10} {:>6} {:>9}  {:>9} {:>7} {:>8} {:>9}  {:>10}\n",
      "quantizer", "bits", "scale", "rule", "rounding", "bf16", "error", "expected", "worth", "1-align", "expected",
      "cosine", "clipped", "masked", "expected");
  for (const QuantizerMeasurement& m : measurements) text += measurement_line(m);
  text +=
      "\nbits: of memory for an element, scales included. bf16: whether a product of bf16 multiplies the very values.\n"
      "error: sum (x - q)^2 / sum x^2 on N(0, 1). worth: -log2(error) / 2, in bits. 1-align: 1 - <x, q> / <x, x>.\n"
      "octave: the deviation runs over all phases between two powers of two. *: off.\n";
  for (const QuantizerMeasurement& m : measurements) {
    if (m.fours)
      text += fmt::format("{}: {} of the blocks on 4, expected {}\n", full_name(*m.row), marked(*m.fours, 4),
                          expected_text(*m.fours, 4));
    if (!m.row->note.empty()) text += fmt::format("{}: {}\n", full_name(*m.row), m.row->note);
  }
  return text;
}

nlohmann::ordered_json formats_json(const std::vector<QuantizerMeasurement>& measurements) {
  Json json = {{"elements", Json::array()}, {"quantizers", Json::array()}};
  for (const ElementFormat* format : element_formats()) {
    Json element = {{"name", format->name},
                    {"bits", format->bits()},
                    {"exponent_bits", format->exponent_bits},
                    {"mantissa_bits", format->mantissa_bits},
                    {"largest", format->max},
                    {"quantum", format->quantum()},
                    {"codes", format->codes()},
                    {"exact_in_bf16", exact_in_bf16(*format)}};
    if (!format->fixed_point()) element["smallest_normal"] = smallest_normal(*format);
    json["elements"].push_back(element);
  }
  for (const QuantizerMeasurement& m : measurements) json["quantizers"].push_back(measurement_json(m));
  return json;
}

}  // namespace nibble
