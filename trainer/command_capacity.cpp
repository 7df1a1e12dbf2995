#include "trainer/command_capacity.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "quant/format_measurement.hpp"
#include "trainer/capacity.hpp"
#include "trainer/progress.hpp"

namespace nibble {
namespace {

constexpr int64_t values_of_part = sample_part_rows * reference_cols;

struct Arguments {
  int64_t samples = 16 * values_of_part;
  std::string constants = published_capacity().front().name;
  bool json = false;
};

struct FormatCapacity {
  std::string name;
  double bits, error;
};

struct RecipeCapacity {
  std::string name;
  double weight_error, input_error;
};

struct Capacities {
  std::vector<FormatCapacity> formats{};
  std::vector<RecipeCapacity> recipes{};
};

/// Those that have quantizers of their own forward; of QuEST's family W = A.
std::vector<Recipe> quantizing_recipes() {
  std::vector<Recipe> all = recipes();
  for (const int bits : {1, 2, 3, 4, 5, 6, 7, 8}) all.push_back(find_recipe(fmt::format("quest-w{0}a{0}", bits)));
  std::erase_if(all, [](const Recipe& recipe) {
    return !recipe.forward.input.quantizes() && !recipe.forward.weight.quantizes();
  });
  return all;
}

/// A quantizer has the same row whatever the deviation; the table's octaves are left out.
Capacities measure_capacities(Stream& stream, int64_t parts) {
  const std::vector<Recipe> with_formats = quantizing_recipes();
  std::vector<const QuantizerRow*> rows;
  std::vector<Quantizer> quantizers;
  for (const QuantizerRow& row : quantizer_table())
    if (!row.octave) {
      rows.push_back(&row);
      quantizers.push_back(row.quantizer);
    }
  for (const Recipe& recipe : with_formats)
    quantizers.insert(quantizers.end(), {recipe.forward.weight, recipe.forward.input});
  WorkProgress progress("measuring", "M values", 1e6 / values_of_part);
  const std::vector<std::optional<double>> errors =
      gaussian_errors(stream, quantizers, parts, [&](int64_t done, int64_t of) { progress.update(done, of); });
  Capacities capacities;
  for (size_t i = 0; i < rows.size(); ++i)
    capacities.formats.push_back({std::string(rows[i]->name), quantizers[i].bits_per_element(), errors[i].value()});
  for (size_t i = 0; i < with_formats.size(); ++i) {
    const std::optional<double>&weight = errors[rows.size() + 2 * i], &input = errors[rows.size() + 2 * i + 1];
    if (weight && input) capacities.recipes.push_back({with_formats[i].name, *weight, *input});
  }
  return capacities;
}

std::string capacity_text(const Capacities& capacities, const CapacityConstants& constants) {
  std::string text = fmt::format("{:<20} {:>7} {:>11} {:>7} {:>9} {:>19}\n", "format", "bits", "error", "worth",
                                 "weights", "weights and inputs");
  for (const FormatCapacity& format : capacities.formats) {
    const double rho = capacity(format.error, constants);
    text += fmt::format("{:<20} {:>7.4g} {:>11.4g} {:>7.4f} {:>9.4f} {:>19.4f}\n", format.name, format.bits,
                        format.error, log_quarter(format.error), rho, rho * rho);
  }
  text += fmt::format("\n{:<26} {:>13} {:>13} {:>19}\n", "recipe", "weight error", "input error", "weights and inputs");
  for (const RecipeCapacity& recipe : capacities.recipes)
    text += fmt::format("{:<20} {:>13.4g} {:>13.4g} {:>19.4f}\n", recipe.name, recipe.weight_error, recipe.input_error,
                        capacity(recipe.weight_error, constants) * capacity(recipe.input_error, constants));
  return text +
         fmt::format(
             "\nbits: of memory for an element. error: E |x - q|^2 / E |x|^2 on N(0, 1). worth: log_{{1/4}} of it, "
             "in bits.\nweights, weights and inputs: the part of its parameters that a model keeps, rho = "
             "{:g} tanh({:g} worth)^{:g},\n  one factor for each (arXiv 2506.01863, {}).\n",
             constants.saturation, constants.factor, constants.power, constants.models);
}

nlohmann::ordered_json capacity_json(const Capacities& capacities, const CapacityConstants& constants) {
  nlohmann::ordered_json json = {{"L_sat", constants.saturation}, {"F", constants.factor}, {"C", constants.power}};
  json["formats"] = json["recipes"] = nlohmann::ordered_json::array();
  for (const FormatCapacity& format : capacities.formats)
    json["formats"].push_back({{"name", format.name},
                               {"bits", format.bits},
                               {"error", format.error},
                               {"capacity", capacity(format.error, constants)}});
  for (const RecipeCapacity& recipe : capacities.recipes)
    json["recipes"].push_back(
        {{"name", recipe.name},
         {"weight_error", recipe.weight_error},
         {"input_error", recipe.input_error},
         {"capacity", capacity(recipe.weight_error, constants) * capacity(recipe.input_error, constants)}});
  return json;
}

void run_capacity(const Arguments& arguments) {
  Stream stream;
  const CapacityConstants& constants = *std::ranges::find(
      published_capacity(), arguments.constants, [](const CapacityConstants& row) { return std::string(row.name); });
  const Capacities capacities = measure_capacities(stream, (arguments.samples + values_of_part - 1) / values_of_part);
  fmt::print("{}", arguments.json ? capacity_json(capacities, constants).dump(2) + "\n"
                                  : capacity_text(capacities, constants));
}

}  // namespace

void add_capacity_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "capacity", "Number formats' errors on normal values, and what of its parameters a model keeps under them");
  const auto arguments = std::make_shared<Arguments>();
  std::vector<std::string> names;
  for (const CapacityConstants& row : published_capacity()) names.emplace_back(row.name);
  command
      ->add_option("--samples", arguments->samples, "normal values to measure on, rounded up to a multiple of 262144")
      ->check(CLI::Range(16 * values_of_part, int64_t{1} << 36))
      ->capture_default_str();
  command->add_option("--constants", arguments->constants, "models whose published constants are taken")
      ->check(CLI::IsMember(names))
      ->capture_default_str();
  command->add_flag("--json", arguments->json, "one JSON object on standard output");
  command->callback([arguments] { run_capacity(*arguments); });
}

}  // namespace nibble
