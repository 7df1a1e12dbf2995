#include "trainer/diagnosis_output.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <vector>

namespace nibble {
namespace {

constexpr std::array<ComparisonKind, 4> kinds = {
    {{"whole_to_fp32", "as it trains : fp32", "the recipe in bf16, beside the gradient in fp32",
      &GradientQuality::whole_to_fp32},
     {"whole_to_bf16", "as it trains : bf16", "the recipe in bf16, beside bf16's own gradient",
      &GradientQuality::whole_to_bf16},
     {"backward", "backward alone",
      "the recipe's backward pass behind a forward pass that is not quantized, beside the gradient in fp32",
      &GradientQuality::backward},
     {"own_forward", "behind its forward",
      "the recipe's backward pass behind its own forward pass, beside the gradient without quantizers of what that "
      "forward pass multiplied",
      &GradientQuality::own_forward}}};

template <class T>
void add_once(std::vector<T>& list, const T& value) {
  if (std::ranges::find(list, value) == list.end()) list.push_back(value);
}

/// Layers down, operands across.
std::string operand_table(const std::vector<OperandStatistic>& operands, const OperandMeasure& measure) {
  std::vector<std::string> layers, titles;
  for (const OperandStatistic& operand : operands) {
    add_once(layers, operand.place.layer);
    add_once(titles, operand_title(operand.place));
  }
  std::string text = fmt::format("\n{}: {}\n{:<20}", measure.title, measure.meaning, "");
  for (const std::string& name : titles) text += fmt::format("{:>11}", name);
  text += '\n';
  for (const std::string& layer : layers) {
    text += fmt::format("{:<20}", layer);
    for (const std::string& name : titles) {
      const auto found = std::ranges::find_if(operands, [&](const OperandStatistic& operand) {
        return operand.place.layer == layer && operand_title(operand.place) == name;
      });
      text +=
          found == operands.end() ? fmt::format("{:>11}", "") : fmt::format("{:>11.3g}", ((*found).*measure.value)());
    }
    text += '\n';
  }
  return text;
}

std::string operand_tables(const std::vector<OperandStatistic>& operands) {
  if (operands.empty()) return "no operand is quantized\n";
  std::string text;
  for (const OperandMeasure& measure : operand_measures)
    if (&measure == operand_measures.begin() ||
        std::ranges::any_of(operands, [&](const OperandStatistic& operand) { return (operand.*measure.value)() > 0; }))
      text += operand_table(operands, measure);
  return text;
}

/// From the top of the model to the embedding.
std::string depth_table(const GradientQuality& quality, const char* title,
                        std::vector<Alignment> Comparison::*alignments) {
  std::string text = fmt::format("\n{}: cosine, projection\n{:<18}", title, "");
  for (const ComparisonKind& kind : kinds) text += fmt::format("{:>21}", kind.title);
  text += '\n';
  const auto layers = std::ssize(quality.backward.weights);
  for (int64_t i = std::ssize(quality.backward.*alignments) - 1; i >= 0; --i) {
    text += fmt::format("{:<18}", i == layers ? "behind the last"
                                  : i == 0    ? "block 0, first"
                                              : fmt::format("block {}", i));
    for (const ComparisonKind& kind : kinds) {
      const Alignment& alignment = (quality.*kind.member.*alignments)[static_cast<size_t>(i)];
      text += fmt::format("{:>12.5f}{:>9.4f}", alignment.cosine, alignment.projection);
    }
    text += '\n';
  }
  return text;
}

std::string error_table(const GradientDiagnosis& diagnosis, const ComparisonKind& kind) {
  std::string text = fmt::format("\n{}: {}\n{:<24}", kind.title, kind.meaning, "draws");
  const std::vector<ErrorOfMean>& columns = (diagnosis.recipes.front().*kind.member).errors;
  for (const ErrorOfMean& column : columns) text += fmt::format("{:>11}", column.draws);
  text += '\n';
  for (const GradientQuality& quality : diagnosis.recipes) {
    text += fmt::format("{:<24}", quality.recipe);
    for (const ErrorOfMean& error : (quality.*kind.member).errors) text += fmt::format("{:>11.3g}", error.median);
    text += '\n';
  }
  return text;
}

nlohmann::ordered_json json_of(const std::vector<Alignment>& alignments) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const Alignment& alignment : alignments)
    list.push_back({{"cosine", alignment.cosine}, {"projection", alignment.projection}});
  return list;
}

nlohmann::ordered_json json_of(const Comparison& comparison) {
  nlohmann::ordered_json errors = nlohmann::ordered_json::array();
  for (const ErrorOfMean& error : comparison.errors)
    errors.push_back({{"draws", error.draws}, {"median_relative_squared_error", error.median}});
  return {{"residual_stream", json_of(comparison.residual)},
          {"block_weights", json_of(comparison.weights)},
          {"error_of_mean", errors}};
}

nlohmann::ordered_json json_of(const OperandStatistic& operand) {
  nlohmann::ordered_json json = {
      {"layer", operand.place.layer}, {"product", operand.place.product}, {"operand", operand.place.operand}};
  for (const OperandMeasure& measure : operand_measures) json[measure.key] = (operand.*measure.value)();
  return json;
}

}  // namespace

std::span<const ComparisonKind> comparison_kinds() { return kinds; }

std::string diagnosis_text(const GradientDiagnosis& diagnosis) {
  std::string text =
      fmt::format("bf16 alone: cosine {:.6f} and projection {:.5f} to the gradient in fp32, median error {:.2e}\n",
                  diagnosis.bf16.cosine, diagnosis.bf16.projection, diagnosis.bf16_error);
  for (const GradientQuality& quality : diagnosis.recipes) {
    text += fmt::format("\n== {}: loss {:.4f}, in fp32 {:.4f}\n", quality.recipe, quality.loss, diagnosis.loss);
    text += operand_tables(quality.operands);
    text += depth_table(quality, "gradient of the residual stream in front of each block", &Comparison::residual);
    text += depth_table(quality, "gradient of the matrices of each block", &Comparison::weights);
  }
  text += "\n== error of the mean over draws, |mean - g|^2 / |g|^2, median over the matrices of the blocks\n";
  text += "   (unbiased: falls as 1 / draws; biased: ends at the square of its bias)\n";
  for (const ComparisonKind& kind : kinds) text += error_table(diagnosis, kind);
  return text;
}

nlohmann::ordered_json diagnosis_json(const GradientDiagnosis& diagnosis) {
  nlohmann::ordered_json recipes = nlohmann::ordered_json::array();
  for (const GradientQuality& quality : diagnosis.recipes) {
    nlohmann::ordered_json recipe = {{"recipe", quality.recipe}, {"loss", quality.loss}};
    recipe["operands"] = nlohmann::ordered_json::array();
    for (const OperandStatistic& operand : quality.operands) recipe["operands"].push_back(json_of(operand));
    for (const ComparisonKind& kind : kinds) recipe[kind.key] = json_of(quality.*kind.member);
    recipes.push_back(std::move(recipe));
  }
  return {{"loss", diagnosis.loss},
          {"bf16",
           {{"cosine", diagnosis.bf16.cosine},
            {"projection", diagnosis.bf16.projection},
            {"median_relative_squared_error", diagnosis.bf16_error}}},
          {"recipes", recipes}};
}

}  // namespace nibble
