// Gives a model channel outliers without changing its function.
//
//   inject_outliers MODEL --output DIR [--channels 5] [--factor 20] [--seed 1] [--overwrite]
//
// The gain of both norms of every block is multiplied with the factor in a few channels, the same ones everywhere, and
// the columns of q, k, v, gate and up that read these channels are divided by it. So the inputs of these layers have
// outliers such as large models grow, which one scale for a whole tensor must cover. MODEL is a run, a checkpoint or a
// Hugging Face folder; a Hugging Face folder in f32 is written, where the factor need not be a power of two.
//
// Before anything is written, the logits of a batch of random tokens are computed with the old weights and the new
// ones; weights that give others are refused. Not for outliers at the inputs of the output and down projections: no
// gain stands before these.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "data/permutation.hpp"
#include "model/llama.hpp"
#include "tensor/caught_error.hpp"
#include "trainer/huggingface.hpp"
#include "trainer/memory.hpp"
#include "trainer/run_directory.hpp"

namespace nibble {
namespace {

struct Arguments {
  std::string model, output;
  int64_t channels = 5, seed = 1;
  float factor = 20;
  bool overwrite = false;
};

constexpr int64_t checked_tokens = 64;
/// Two roundings to f32 in each changed weight move the logits by about 1e-6.
constexpr double allowed_difference = 1e-4;

[[noreturn]] void refuse_option(std::string what, std::string where, std::string seen, std::string allowed) {
  throw Error({.kind = ErrorKind::configuration,
               .what = std::move(what),
               .where = std::move(where),
               .seen = std::move(seen),
               .allowed = std::move(allowed),
               .next = "see inject_outliers --help"});
}

/// `count` different channels of a model of this width.
std::vector<int64_t> choose_channels(const Arguments& arguments, int64_t width) {
  if (arguments.channels < 1 || arguments.channels > width)
    refuse_option("the model does not have so many channels", "--channels", fmt::to_string(arguments.channels),
                  fmt::format("1 to {}", width));
  const Permutation order(static_cast<uint64_t>(width), static_cast<uint64_t>(arguments.seed), 0);
  std::vector<int64_t> channels;
  for (int64_t i = 0; i < arguments.channels; ++i)
    channels.push_back(static_cast<int64_t>(order(static_cast<uint64_t>(i))));
  return channels;
}

/// `gain` [1, width] and the matrix [rows, width] that multiplies what the norm gives.
void move_scale(const Tensor& gain, const Tensor& matrix, const std::vector<int64_t>& channels, float factor) {
  for (const int64_t channel : channels) {
    gain.row<float>(0)[channel] *= factor;
    for (int64_t row = 0; row < matrix.rows; ++row) matrix.row<float>(row)[channel] /= factor;
  }
}

void inject(const ModelConfig& config, const ParameterLayout& layout, const ParameterSet& weights,
            const std::vector<int64_t>& channels, float factor) {
  for (int layer = 0; layer < config.layers; ++layer) {
    move_scale(weights.buffer(layout.attention_norm(layer)), weights.buffer(layout.qkv(layer)), channels, factor);
    move_scale(weights.buffer(layout.ffn_norm(layer)), weights.buffer(layout.gate_up(layer)), channels, factor);
  }
}

/// The logits [checked_tokens, vocabulary] of random tokens, in fp32.
class FixedBatch {
 public:
  FixedBatch(Stream& stream, const ModelConfig& config, uint64_t seed)
      : model_(stream, config, Precision(find_recipe("fp32")), {.length = checked_tokens, .training = false}),
        tokens_(checked_tokens) {
    const RandomStream random(seed, Purpose::sampling);
    for (size_t i = 0; i < tokens_.size(); ++i)
      tokens_[i] = static_cast<int32_t>(random.word(i) % static_cast<uint64_t>(config.vocabulary));
  }

  OwnedTensor logits(const ParameterSet& weights) {
    OwnedTensor logits(DType::f32, checked_tokens, model_.config().vocabulary);
    model_.logits(weights, {.inputs = tokens_, .targets = tokens_, .document_starts = {}}, logits);
    return logits;
  }

 private:
  Llama model_;
  std::vector<int32_t> tokens_;
};

/// |a - b| / |b|
double relative_difference(const Tensor& a, const Tensor& b) {
  double difference = 0, norm = 0;
  for (int64_t i = 0; i < b.size(); ++i) {
    const double value = b.as<float>()[i], error = a.as<float>()[i] - value;
    difference += error * error;
    norm += value * value;
  }
  return std::sqrt(difference / norm);
}

void inject_outliers(const Arguments& arguments) {
  if (!(arguments.factor > 0) || !std::isfinite(arguments.factor))
    refuse_option("a factor that is not positive and finite cannot be divided out again", "--factor",
                  fmt::to_string(arguments.factor), "above 0, such as 20");
  const LoadedModel model = load_model(arguments.model, DType::f32);
  const std::vector<int64_t> channels = choose_channels(arguments, model.config.width);
  Stream stream;
  FixedBatch batch(stream, model.config, static_cast<uint64_t>(arguments.seed));
  require_held_memory();

  const OwnedTensor before = batch.logits(model.weights);
  inject(model.config, model.layout, model.weights, channels, arguments.factor);
  const double difference = relative_difference(batch.logits(model.weights), before);
  if (!(difference <= allowed_difference))
    throw Error({.kind = ErrorKind::numerics,
                 .what = "the outliers changed what the model computes; nothing was written",
                 .where = fmt::format("{}: logits of {} random tokens", model.source.path.string(), checked_tokens),
                 .seen = fmt::format("relative difference {:.2g}", difference),
                 .allowed = fmt::format("at most {:.0e}", allowed_difference),
                 .next = "choose a factor nearer to 1"});

  ExportOptions options{.dtype = DType::f32, .overwrite = arguments.overwrite, .tokens = model.tokens};
  if (model.tokenizer) options.tokenizer_files = model.tokenizer->files();
  export_huggingface(arguments.output, model.config, model.weights, options);
  fmt::print("{}\n  from      {}\n  channels ", arguments.output, model.source.path.string());
  for (const int64_t channel : channels) fmt::print(" {}", channel);
  fmt::print(", times {}\n  logits    differ by {:.2g} (relative, {} random tokens, fp32)\n", arguments.factor,
             difference, checked_tokens);
}

int run(int count, char** texts) {
  CLI::App app("Gives a model channel outliers without changing its function.", "inject_outliers");
  Arguments arguments;
  app.add_option("model", arguments.model, "a run, one of its checkpoints, or a Hugging Face folder")->required();
  app.add_option("--output", arguments.output, "folder to write; it must not exist or be empty")->required();
  app.add_option("--channels", arguments.channels, "how many")->capture_default_str();
  app.add_option("--factor", arguments.factor, "of the gains")->capture_default_str();
  app.add_option("--seed", arguments.seed, "of the choice of channels")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_flag("--overwrite", arguments.overwrite, "replace a folder that an earlier export wrote");
  try {
    app.parse(count, texts);
  } catch (const CLI::Success& answered) {
    return app.exit(answered);
  } catch (const CLI::ParseError& error) {
    refuse_option(error.what(), "command line", "", "");
  }
  inject_outliers(arguments);
  return 0;
}

}  // namespace
}  // namespace nibble

int main(int count, char** texts) {
  try {
    return nibble::run(count, texts);
  } catch (...) {
    const nibble::Error error = nibble::caught_error();
    fmt::print(stderr, "{}\n", error.what());
    return error.exit_code();
  }
}
