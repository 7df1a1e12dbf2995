#include "trainer/coordinates.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <set>

#include "comm/local_world.hpp"
#include "tensor/convert.hpp"
#include "tensor/error.hpp"
#include "trainer/gpu_ranks.hpp"
#include "trainer/gradient_exchange.hpp"
#include "trainer/memory.hpp"
#include "trainer/page_frame.hpp"
#include "trainer/report_figure.hpp"
#include "trainer/resolve.hpp"
#include "trainer/run_memory.hpp"
#include "trainer/run_parts.hpp"
#include "trainer/run_stream.hpp"

namespace nibble {
namespace {

double change(const Tensor& now, const Tensor& before) {
  double squares = 0;
  for (int64_t i = 0; i < now.rows; ++i)
    for (int64_t j = 0; j < now.cols; ++j) {
      const double difference = double{now.row<float>(i)[j]} - double{before.row<float>(i)[j]};
      squares += difference * difference;
    }
  return std::sqrt(squares / static_cast<double>(now.size()));
}

/// What a model computes of one micro-batch, and how far that has come since the first look.
class Looks {
 public:
  Looks(Stream& stream, Llama& model, const Batch& batch)
      : stream_(stream),
        model_(model),
        batch_(batch),
        logits_(DType::f32, model.tokens(), model.config().vocabulary, "logits", stream.place()) {}

  /// Of the embedding, each block, and the logits.
  std::vector<double> changes(const ParameterSet& weights) {
    std::vector<double> changes;
    model_.logits(weights, {batch_.inputs, batch_.targets, batch_.document_starts}, logits_,
                  [&](int64_t, const Tensor& now) { changes.push_back(change_of(changes.size(), now)); });
    changes.push_back(change_of(changes.size(), logits_));
    return changes;
  }

 private:
  /// Of a coordinate, on the host.
  double change_of(size_t coordinate, const Tensor& now) {
    OwnedTensor here(DType::f32, now.rows, now.cols);
    copy(stream_, now, here);
    stream_.wait();
    if (coordinate == first_.size()) first_.push_back(std::move(here));
    else return change(here, first_[coordinate]);
    return 0;
  }

  Stream& stream_;
  Llama& model_;
  const Batch& batch_;
  OwnedTensor logits_;
  std::vector<OwnedTensor> first_;  ///< by coordinate
};

/// By step, then by coordinate.
std::vector<std::vector<double>> changes_of(const Settings& settings, const RunData& data, int64_t steps,
                                            const std::function<void()>& step_done) {
  const ModelConfig config = model_config(settings, data.tokenizer().vocabulary);
  const std::unique_ptr<World> world = make_local_world();
  Stream stream = run_stream(settings, *world);
  std::optional<GpuRanks> gpus;
  if (stream.on_device()) gpus.emplace(*world, stream, settings.run.gpu_exchange, "");
  require_memory(stream, *world, settings, config, resident_memory().all, available_memory(), false);
  RunParts parts =
      make_run_parts(stream, *world, settings, config, steps, exchange_maker(settings, {.host = host_numbers(*world)}));
  const int64_t sequences = settings.batch.tokens / settings.data.sequence;
  begin_weights(stream, *parts.model, *parts.step, data.train().batch(0, settings.batch.micro),
                new_weights(stream, settings, *parts.model));
  const Batch fixed = data.train().batch(steps * sequences, settings.batch.micro);
  Looks looks(stream, *parts.model, fixed);
  std::vector<std::vector<double>> changes = {looks.changes(parts.step->weights())};
  for (int64_t step = 0; step < steps; ++step) {
    parts.step->run(step, data.train().batch(step * sequences, sequences));
    changes.push_back(looks.changes(parts.step->weights()));
    if (step_done) step_done();
  }
  return changes;
}

std::string coordinate_name(size_t i, size_t count) {
  if (i == 0) return "embedding";
  return i + 1 == count ? "logits" : fmt::format("block {}", i - 1);
}

}  // namespace

double CoordinateCheck::exponent(const Coordinate& coordinate) const {
  const auto n = static_cast<double>(widths.size());
  double x = 0, y = 0, xx = 0, xy = 0;
  for (size_t i = 0; i < widths.size(); ++i) {
    const double a = std::log(static_cast<double>(widths[i])), b = std::log(coordinate.changes[i].back());
    x += a;
    y += b;
    xx += a * a;
    xy += a * b;
  }
  return (n * xy - x * y) / (n * xx - x * x);
}

bool CoordinateCheck::independent_of_width() const {
  return std::ranges::all_of(coordinates, [&](const Coordinate& coordinate) {
    return std::abs(exponent(coordinate)) <= flat;  // false for NaN
  });
}

Settings at_width(const Settings& settings, int64_t vocabulary, int64_t width) {
  const ModelConfig own = model_config(settings, vocabulary);
  const auto scaled = [&](const char* side, int64_t value) {
    if (value * width % own.width == 0) return value * width / own.width;
    throw Error({.kind = ErrorKind::configuration,
                 .what = "the width leaves no whole number of " + std::string(side),
                 .where = "--widths",
                 .seen = fmt::format("{}: {} {} at width {}", width, value, side, own.width),
                 .allowed = fmt::format("multiples of {}", own.width / std::gcd(own.width, value))});
  };
  Settings other = settings;
  other.model.preset = "none";
  other.model.width = width;
  other.model.layers = own.layers;
  other.model.heads = scaled("heads", own.heads);
  other.model.kv_heads = scaled("key and value heads", own.kv_heads);
  other.model.head_dim = own.head_dim;
  other.model.ffn = scaled("rows of the feed-forward layer", own.ffn);
  other.model.vocab = own.vocabulary;
  return other;
}

CoordinateCheck check_coordinates(const Settings& settings, const std::vector<int64_t>& widths, int64_t steps,
                                  const std::function<void()>& step_done) {
  if (std::set(widths.begin(), widths.end()).size() < std::max<size_t>(2, widths.size()) || steps < 1)
    throw Error({.kind = ErrorKind::configuration,
                 .what = "too few widths or steps to compare",
                 .where = "--widths, --steps",
                 .seen = fmt::format("widths {}, {} steps", fmt::join(widths, ", "), steps),
                 .allowed = "two widths or more, each once, and at least one step"});
  Settings still = settings;
  still.schedule = {.name = "constant", .warmup = StepsOrShare::steps(0)};
  still.run.checkpoint.background = false;  // nothing is saved
  still.data.validation.clear();            // nor read
  const RunData data(still);
  std::vector<Settings> of_widths;
  for (const int64_t width : widths) of_widths.push_back(at_width(still, data.tokenizer().vocabulary, width));
  CoordinateCheck check{.widths = widths, .coordinates = {}};
  for (size_t i = 0; i < widths.size(); ++i) {
    const std::vector<std::vector<double>> changes = changes_of(of_widths[i], data, steps, step_done);
    check.coordinates.resize(changes.front().size());
    for (size_t c = 0; c < check.coordinates.size(); ++c) {
      check.coordinates[c].name = coordinate_name(c, check.coordinates.size());
      std::vector<double>& by_step = check.coordinates[c].changes.emplace_back();
      for (const std::vector<double>& after : changes) by_step.push_back(after[c]);
    }
  }
  return check;
}

std::string coordinates_text(const CoordinateCheck& check) {
  std::string text = fmt::format("{:<12}", "width");
  for (const int64_t width : check.widths) text += fmt::format("{:>11}", width);
  text += fmt::format("{:>11}\n", "exponent");
  for (const Coordinate& coordinate : check.coordinates) {
    text += fmt::format("{:<12}", coordinate.name);
    for (const std::vector<double>& by_step : coordinate.changes) text += fmt::format("{:>11.4g}", by_step.back());
    text += fmt::format("{:>+11.2f}\n", check.exponent(coordinate));
  }
  return text + (check.independent_of_width()
                     ? fmt::format("\nno change depends on the width by more than a power of {}\n", check.flat)
                     : fmt::format("\nchanges depend on the width by more than a power of {}\n", check.flat));
}

std::string coordinates_page(const CoordinateCheck& check, const std::string& title) {
  Html html;
  begin_page(html, title);
  html.open("header");
  html.element("h1", title);
  html.close();
  html.open("section");
  Figure figure{.title = "Change of what the model computes",
                .note = "root mean square, on a batch that is not trained on, after the last step",
                .x_label = "width",
                .x_begin = static_cast<double>(std::ranges::min(check.widths)),
                .x_end = static_cast<double>(std::ranges::max(check.widths)),
                .magnitudes = true,
                .x_magnitudes = true};
  std::vector<std::string> names;
  for (const Coordinate& coordinate : check.coordinates) {
    Curve curve{.name = coordinate.name, .color = names.size(), .dots = true};
    for (size_t i = 0; i < check.widths.size(); ++i) {
      curve.x.push_back(static_cast<double>(check.widths[i]));
      curve.y.push_back(coordinate.changes[i].back());
    }
    figure.curves.push_back(std::move(curve));
    names.push_back(coordinate.name);
  }
  draw_legend(html, names);
  html.open("div", {{"class", "figures"}});
  draw(html, figure);
  return finish_page(html);
}

}  // namespace nibble
