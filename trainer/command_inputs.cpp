#include "trainer/command_inputs.hpp"

#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "trainer/gpu_diagnosis.hpp"
#include "trainer/input_measurement.hpp"

namespace nibble {
namespace {

struct Arguments {
  std::vector<std::string> recipes{"fp8", "fp8-row", "mxfp8", "mxfp4-rtn", "quartet", "quartet2", "quest-w4a4"};
  int64_t tokens = 8192, width = 4096;
  bool json = false;
};

nlohmann::ordered_json to_json(const InputWay& way) {
  return {{"seconds", way.seconds}, {"bytes", way.bytes}, {"gb_per_second", way.bandwidth()}};
}

void run_inputs(const Arguments& arguments) {
  std::vector<Recipe> recipes;
  for (const std::string& name : arguments.recipes) recipes.push_back(find_recipe(name));
  Stream stream(0, Place::device);
  const double copy = copy_bandwidth(stream);
  const std::vector<InputMeasurement> rows = measure_inputs(stream, recipes, arguments.tokens, arguments.width);
  if (arguments.json) {
    nlohmann::ordered_json inputs = nlohmann::ordered_json::array();
    for (const InputMeasurement& row : rows)
      inputs.push_back({{"recipe", row.recipe},
                        {"made_by", row.made_by},
                        {"separate", to_json(row.separate)},
                        {"at_once", to_json(row.at_once)}});
    const nlohmann::ordered_json answer = {
        {"tokens", arguments.tokens}, {"width", arguments.width}, {"copy_gb_per_second", copy}, {"inputs", inputs}};
    fmt::print("{}\n", answer.dump(2));
    return;
  }
  fmt::print("{} tokens, width {}; a copy moves {:.0f} GB/s\n\n", arguments.tokens, arguments.width, copy);
  fmt::print("{:<16} {:<10} {:>12} {:>7} {:>12} {:>7} {:>7}\n", "recipe", "made by", "separate us", "GB/s",
             "at once us", "GB/s", "times");
  for (const auto& [recipe, made_by, separate, at_once] : rows)
    fmt::print("{:<16} {:<10} {:>12.1f} {:>7.0f} {:>12.1f} {:>7.0f} {:>6.2f}x\n", recipe, made_by,
               1e6 * separate.seconds, separate.bandwidth(), 1e6 * at_once.seconds, at_once.bandwidth(),
               separate.seconds / at_once.seconds);
}

}  // namespace

void add_inputs_command(CLI::App& bench) {
  CLI::App* command = bench.add_subcommand(
      "inputs", "What norms and activations take on a GPU that quantize what they write, beside separate calls");
  const auto arguments = std::make_shared<Arguments>();
  command->add_option("--recipes", arguments->recipes, "whose forward row quantizes")
      ->delimiter(',')
      ->capture_default_str();
  command->add_option("--tokens", arguments->tokens, "rows of the input")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
      ->capture_default_str();
  command->add_option("--width", arguments->width, "its columns")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
      ->capture_default_str();
  command->add_flag("--json", arguments->json, "one JSON object on standard output");
  command->callback([arguments] { run_inputs(*arguments); });
}

}  // namespace nibble
