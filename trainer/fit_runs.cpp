#include "trainer/fit_runs.hpp"

#include <fmt/format.h>

#include <cmath>

#include "tensor/error.hpp"
#include "tensor/files.hpp"
#include "trainer/metrics_reader.hpp"
#include "trainer/precision.hpp"
#include "trainer/report_run.hpp"
#include "trainer/resolve.hpp"
#include "trainer/settings_table.hpp"
#include "trainer/yaml_settings.hpp"

namespace nibble {
namespace {

namespace fs = std::filesystem;

/// Why a run is no point.
struct NoPoint {
  std::string why;
};

/// Steps of the whole run; those of epochs by how far the rows have come.
int64_t steps_of(const Settings& settings, const MetricTable& metrics) {
  if (settings.epochs == 0) return resolve_steps(settings, 0);
  const std::vector<double> epochs = metrics.numbers("epoch");
  if (epochs.empty()) throw NoPoint{"its metrics do not tell its length in epochs"};
  const double tokens = metrics.numbers("tokens").back();
  return resolve_steps(settings, static_cast<int64_t>(std::llround(tokens / epochs.back())));
}

/// What the recipe does not say of a pass: blocks and steps that follow others.
std::string exceptions(const PrecisionSettings& precision) {
  std::string text;
  const KeptBlocks& kept = precision.keep_bf16;
  if (kept.first + kept.last > 0) text += fmt::format(", {}+{} blocks kept", kept.first, kept.last);
  if (!precision.overrides.empty()) {
    Settings only;
    only.precision.overrides = precision.overrides;
    const std::string told = format_value(*find_setting("precision.overrides"), only);
    text += ", overrides " + hex(checksum(bytes_of(told))).substr(0, 6);
  }
  if (precision.cage.strength > 0) text += fmt::format(", CAGE {}", precision.cage.strength);
  return text;
}

FitPoint point_of(const fs::path& directory, const Settings& settings, const MetricTable& metrics) {
  if (!settings.model.from.empty()) throw NoPoint{"began with the weights of " + settings.model.from};
  if (metrics.numbers("step").empty() || metrics.numbers("tokens").empty()) throw NoPoint{"no step yet"};
  const int64_t steps = steps_of(settings, metrics);
  const double step = metrics.numbers("step").back();
  if (step < static_cast<double>(steps)) throw NoPoint{fmt::format("not finished: step {:.0f} of {}", step, steps)};
  if (metrics["validation_loss"].empty()) throw NoPoint{"no validation: set data.validation"};
  const double loss = metrics["validation_loss"].back();
  if (!std::isfinite(loss) || loss <= 0) throw NoPoint{"its validation loss at the end is not finite"};
  constexpr int64_t any_vocabulary = 1;  // embedding and head are not counted
  PassNames passes = name_passes(settings.precision);
  FitPoint point{.run = directory.filename().string(),
                 .parameters = static_cast<double>(model_config(settings, any_vocabulary).non_embedding_parameters()),
                 .tokens = metrics.numbers("tokens").back(),
                 .loss = loss,
                 .forward = std::move(passes.forward),
                 .backward = std::move(passes.backward),
                 .formats = std::move(passes.formats)};
  if (!metrics["entropy"].empty() && !metrics["validation_gap"].empty()) {
    point.entropy = metrics["entropy"].back();
    point.loss = *point.entropy + metrics["validation_gap"].back();  // the luck with its validation tokens falls out
  }
  return point;
}

}  // namespace

PassNames name_passes(const PrecisionSettings& precision) {
  const Recipe recipe = recipes_of(precision).front();
  const BackwardRecipe& backward = recipe.backward;
  const std::string plain = recipe.operands == DType::f32 ? "fp32" : "bf16", but = exceptions(precision);
  const auto name = [&](const std::string& own, bool quantizes) {
    // An override may quantize what the recipe leaves.
    if (!quantizes && precision.overrides.empty()) return plain;
    return (own.empty() ? precision.recipe : own) + but;
  };
  return {
      .forward = name(precision.forward, recipe.forward.input.quantizes() || recipe.forward.weight.quantizes()),
      .backward = name(precision.backward, backward.input.error.quantizes() || backward.input.other.quantizes() ||
                                               backward.weight.error.quantizes() || backward.weight.other.quantizes()),
      .formats = but.empty() ? std::optional(recipe.forward) : std::nullopt};
}

void read_run_point(const fs::path& directory, FitPoints& into) {
  const MetricTable metrics(metrics_path(directory));
  const std::string run = directory.filename().string();
  try {
    const fs::path file = directory / "config.yaml";
    const Settings settings = parse_settings(read_file(file, ErrorKind::configuration), file.string());
    into.points.push_back(point_of(directory, settings, metrics));
  } catch (const NoPoint& reason) {
    into.left_out.push_back({run, reason.why});
  } catch (const Error& error) {  // of the configuration
    into.left_out.push_back({run, error.detail().where + ": " + error.detail().what});
  }
}

}  // namespace nibble
