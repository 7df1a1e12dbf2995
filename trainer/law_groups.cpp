#include "trainer/law_groups.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "tensor/error.hpp"

namespace nibble {
namespace {

bool fits_recipes_apart(const ScalingLaw& law) { return law.efficiency == FreeEfficiency::of_parameters_and_data; }

/// Why the law says nothing of a run; empty where it does.
std::string objection(const ScalingLaw& law, const FitPoint& run, const FormatFacts& formats) {
  const bool reads_bits = std::string_view(law.name) == "precision",
             reads_errors = std::string_view(law.name) == "capacity";
  const bool knows_formats = law.log_efficiency || law.log_excess;
  if (!knows_formats && law.efficiency == FreeEfficiency::none && (run.quantized_forward() || run.quantized_backward()))
    return "quantized, which this law does not know";
  if (!fits_recipes_apart(law) && !law.log_excess && run.quantized_backward())
    return fmt::format("its backward pass is quantized ({}), which this law does not know", run.backward);
  if (!run.quantized_forward()) return "";
  if (reads_bits && !(formats.bits[0] && formats.bits[1])) return "bits of its weights and inputs are not known";
  if (reads_errors && !(formats.errors[0] && formats.errors[1]))
    return "errors of its weights' and inputs' formats are not known";
  if (reads_errors && (*formats.errors[0] >= 1 || *formats.errors[1] >= 1)) return "a format's error is not below 1";
  if (law.log_excess && !(formats.exponent_bits && formats.mantissa_bits && formats.block))
    return "exponent and mantissa bits and the block of its weights are not known";
  if (law.log_excess && *formats.block < 2) return "blocks of less than two";
  return "";
}

LawPoint law_point(const ScalingLaw& law, const FitPoint& run, const FormatFacts& formats) {
  LawPoint point{
      .log_parameters = std::log(run.parameters), .log_tokens = std::log(run.tokens), .log_loss = std::log(run.loss)};
  if (!run.quantized_forward()) return point;
  for (size_t i = 0; i < 2; ++i) {
    point.bits[i] = formats.bits[i].value_or(point.bits[i]);
    if (formats.errors[i].value_or(0) > 0) point.log_quarter_error[i] = log_quarter(*formats.errors[i]);
  }
  point.rounded = law.log_excess != nullptr;
  if (!point.rounded) return point;
  point.exponent_bits = *formats.exponent_bits;
  point.mantissa_bits = *formats.mantissa_bits;
  point.log_block = std::log2(*formats.block);
  return point;
}

class Division {
 public:
  Division(const ScalingLaw& law, LawRuns& into) : law_(law), into_(into) { into_.groups.emplace_back(); }

  /// Into the group of its recipes; false where the product form is to predict it.
  bool fit(size_t place) {
    const FitPoint& run = into_.points[place];
    const bool forward = run.quantized_forward(), backward = run.quantized_backward();
    if (forward && backward && fits_recipes_apart(law_)) return false;
    LawGroup& group = forward || backward ? group_of(run) : into_.groups.front();
    group.members.push_back(place);
    return true;
  }

  /// Where all of its efficiencies are fitted.
  bool link(size_t place) {
    if (law_.efficiency == FreeEfficiency::none) return true;
    const FitPoint& run = into_.points[place];
    LawPoint& point = into_.law_points[place];
    if (run.quantized_forward()) point.parameter_efficiency = value_place({run.forward, false});
    if (run.quantized_backward()) point.data_efficiency = value_place({run.backward, true});
    return (!run.quantized_forward() || point.parameter_efficiency) &&
           (!run.quantized_backward() || point.data_efficiency);
  }

 private:
  std::optional<size_t> value_place(const EfficiencyName& name) const {
    const auto found = std::ranges::find(into_.efficiencies, name);
    if (found == into_.efficiencies.end()) return std::nullopt;
    return law_.constants.size() + static_cast<size_t>(found - into_.efficiencies.begin());
  }

  LawGroup& group_of(const FitPoint& run) {
    for (LawGroup& group : into_.groups)
      if (!group.members.empty() && &group != &into_.groups.front()) {
        const FitPoint& other = into_.points[group.members.front()];
        if (other.forward == run.forward && other.backward == run.backward) return group;
      }
    LawGroup& added = into_.groups.emplace_back();
    if (law_.efficiency == FreeEfficiency::none) return added;
    added.efficiency = into_.efficiencies.size();
    into_.efficiencies.push_back(run.quantized_forward() ? EfficiencyName{run.forward, false}
                                                         : EfficiencyName{run.backward, true});
    return added;
  }

  const ScalingLaw& law_;
  LawRuns& into_;
};

}  // namespace

std::vector<FormatFacts> formats_of(Stream& stream, const ScalingLaw& law, const std::vector<FitPoint>& runs,
                                    int64_t parts) {
  std::vector<Quantizer> operands;
  for (const FitPoint& run : runs)
    if (run.formats) operands.insert(operands.end(), {run.formats->weight, run.formats->input});
  const bool reads_errors = std::string_view(law.name) == "capacity" || law.efficiency != FreeEfficiency::none;
  const std::vector<std::optional<double>> errors =
      reads_errors ? gaussian_errors(stream, operands, parts) : std::vector<std::optional<double>>(operands.size());
  std::vector<FormatFacts> all;
  size_t next = 0;
  for (const FitPoint& run : runs) {
    FormatFacts facts;
    if (run.formats) {
      facts = format_facts(*run.formats);
      facts.errors = {errors[next], errors[next + 1]};
      next += 2;
    }
    const auto prefer = [](std::optional<double>& value, const std::optional<double>& given) {
      if (given) value = given;
    };
    for (size_t i = 0; i < 2; ++i) {
      prefer(facts.bits[i], run.given.bits[i]);
      prefer(facts.errors[i], run.given.errors[i]);
    }
    prefer(facts.exponent_bits, run.given.exponent_bits);
    prefer(facts.mantissa_bits, run.given.mantissa_bits);
    prefer(facts.block, run.given.block);
    all.push_back(facts);
  }
  return all;
}

LawRuns divide_runs(const ScalingLaw& law, const FitPoints& runs, const std::vector<FormatFacts>& formats,
                    std::optional<double> hold_out_above) {
  LawRuns divided{.left_out = runs.left_out};
  for (size_t i = 0; i < runs.points.size(); ++i) {
    const FitPoint& run = runs.points[i];
    if (const std::string why = objection(law, run, formats[i]); !why.empty()) {
      divided.left_out.push_back({run.run, why});
      continue;
    }
    divided.points.push_back(run);
    divided.formats.push_back(formats[i]);
    divided.law_points.push_back(law_point(law, run, formats[i]));
  }
  Division division(law, divided);
  std::vector<size_t> to_predict;
  for (size_t place = 0; place < divided.points.size(); ++place) {
    const bool large = hold_out_above && divided.points[place].parameters > *hold_out_above;
    if (large || !division.fit(place)) to_predict.push_back(place);
  }
  if (divided.groups.front().members.empty())
    throw Error({.kind = ErrorKind::configuration,
                 .what = "no run without quantization, by which the law's constants are fitted",
                 .where = "RUNS",
                 .seen = fmt::format("{} finished runs, {} left out", divided.points.size(), divided.left_out.size()),
                 .allowed = "runs whose forward and backward passes are bf16 or fp32",
                 .next = "train the same sizes and tokens with precision.recipe: bf16"});
  for (size_t place = 0; place < divided.points.size(); ++place) {
    const bool known = division.link(place);
    if (std::ranges::find(to_predict, place) == to_predict.end()) continue;
    if (known) divided.held_out.push_back(place);
    else
      divided.left_out.push_back({divided.points[place].run, "no runs tell the efficiency of its recipes one by one: " +
                                                                 divided.points[place].forward + " forward, " +
                                                                 divided.points[place].backward + " backward"});
  }
  return divided;
}

}  // namespace nibble
