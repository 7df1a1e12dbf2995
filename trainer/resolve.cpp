#include "trainer/resolve.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <limits>
#include <ranges>
#include <string_view>
#include <vector>

#include "tensor/error.hpp"
#include "trainer/gradient_exchange.hpp"
#include "trainer/make_optimizer.hpp"
#include "trainer/precision.hpp"
#include "trainer/presets.hpp"
#include "trainer/qk_clip.hpp"
#include "trainer/run_parts.hpp"
#include "trainer/run_stream.hpp"
#include "trainer/settings_table.hpp"
#include "trainer/weight_gather.hpp"

namespace nibble {
namespace {

/// Refuses what the settings say together, with where each of them was given.
class Contradictions {
 public:
  explicit Contradictions(const SettingOrigins& origins) : origins_(origins) {}

  [[noreturn]] void refuse(const std::string& what, std::initializer_list<const char*> keys, const std::string& seen,
                           const std::string& allowed, const std::string& next) const {
    std::string where;
    for (const char* key : keys) {
      if (!where.empty()) where += ", ";
      const auto origin = origins_.find(key);
      where += origin == origins_.end() ? std::string(key) : fmt::format("{} ({})", key, origin->second);
    }
    throw Error({.kind = ErrorKind::configuration,
                 .what = what,
                 .where = where,
                 .seen = seen,
                 .allowed = allowed,
                 .next = next});
  }

  /// The same error, with where each setting was given at which one of its places begins.
  [[noreturn]] void refuse(const Error& error) const {
    ErrorDetail detail = error.detail();
    detail.where.clear();
    for (const auto part : std::views::split(error.detail().where, std::string_view(", "))) {
      const std::string place(part.begin(), part.end());
      if (!detail.where.empty()) detail.where += ", ";
      detail.where += place;
      for (const auto& [key, origin] : origins_)
        if (place.starts_with(key)) detail.where += fmt::format(" ({})", origin);
    }
    throw Error(detail);
  }

 private:
  const SettingOrigins& origins_;
};

/// The first that is given.
int64_t first_positive(std::initializer_list<int64_t> values) {
  for (const int64_t value : values)
    if (value > 0) return value;
  return 0;
}

/// Before anything multiplies the two.
void check_micro_batch(const Settings& s, const Contradictions& found) {
  constexpr int64_t most_micro_tokens = std::numeric_limits<int32_t>::max();
  if (s.batch.micro > most_micro_tokens / s.data.sequence)
    found.refuse("the micro-batch is too large", {"batch.micro", "data.sequence"},
                 fmt::format("{} x {} tokens", s.batch.micro, s.data.sequence),
                 fmt::format("at most {} tokens", most_micro_tokens), "lower batch.micro");
}

/// Beside a synthetic language no files, nor what only they have.
void check_synthetic(const Settings& s, const Contradictions& found) {
  const auto exclude = [&](const char* key, bool given, const std::string& seen, const std::string& next) {
    if (given)
      found.refuse("a synthetic language has no files, documents, end or text", {"data.synthetic.vocabulary", key},
                   fmt::format("data.synthetic.vocabulary: {}, {}: {}", s.data.synthetic.vocabulary, key, seen),
                   "one of them", next);
  };
  if (s.data.synthetic.vocabulary == 1)
    found.refuse("a language of one token has nothing to learn", {"data.synthetic.vocabulary"}, "1",
                 fmt::format("0 (none), or 2 to {}", SyntheticOptions::most_tokens),
                 "set data.synthetic.vocabulary=256");
  const std::string no_file = "remove it, or set data.synthetic.vocabulary=0";
  exclude("data.train", !s.data.train.empty(), s.data.train, no_file);
  exclude("data.validation", !s.data.validation.empty(), s.data.validation, no_file);
  exclude("data.packing", s.data.packing != "stream", s.data.packing, "set data.packing=stream");
  exclude("data.mask_documents", s.data.mask_documents, "true", "set data.mask_documents=false");
  exclude("epochs", s.epochs > 0, fmt::to_string(s.epochs), "give the run's length in steps or tokens");
  exclude("run.sample", !s.run.sample.empty(), s.run.sample, "remove run.sample");
}

void check_required(const Settings& s, const Contradictions& found) {
  if (!s.data.is_synthetic() && s.data.synthetic != SyntheticSettings{})
    found.refuse("settings of a synthetic language, and there is none",
                 {"data.synthetic.vocabulary", "data.synthetic.order", "data.synthetic.zipf", "data.synthetic.noise",
                  "data.synthetic.seed"},
                 "data.synthetic.vocabulary: 0", "a vocabulary of 2 tokens or more, or none of the others",
                 "set data.synthetic.vocabulary");
  if (s.data.is_synthetic()) check_synthetic(s, found);
  else if (s.data.train.empty())
    found.refuse(
        "data.train is missing", {"data.train"}, "no training data", "a token file",
        "make one with `nibble tokenize` and set data: {train: FILE}, or data: {synthetic: {vocabulary: 256}}");
  if (s.run.directory.empty())
    found.refuse("run.directory is missing", {"run.directory"}, "no place for the results", "a folder",
                 "set run: {directory: runs/NAME}");
  if (s.batch.tokens == 0)
    found.refuse("batch.tokens is missing", {"batch.tokens"}, "0",
                 fmt::format("a multiple of batch.micro x data.sequence = {}", s.batch.micro * s.data.sequence),
                 "set batch: {tokens: N}");
}

void check_length(const Settings& s, const Contradictions& found) {
  const int given = (s.steps > 0) + (s.tokens > 0) + (s.epochs > 0);
  if (given == 1) return;
  const char* allowed = "exactly one of steps, tokens, epochs";
  if (given == 0)
    found.refuse("the length of the run is missing", {"steps", "tokens", "epochs"}, "none of them", allowed,
                 "set for example steps: 1000");
  found.refuse("the length of the run is given more than once", {"steps", "tokens", "epochs"},
               fmt::format("steps: {}, tokens: {}, epochs: {}", s.steps, s.tokens, s.epochs), allowed,
               "remove all but one, or set the others to 0");
}

/// Beside `from` only how to compute: all else is a property of the files, and of weights that they bring.
void check_from(const Settings& s, const Contradictions& found) {
  Settings only_from;
  only_from.model = ModelSettings{.recompute = s.model.recompute, .from = s.model.from};
  for (const Setting& setting : settings_table()) {
    if (!setting.key.starts_with("model.")) continue;
    const std::string given = format_value(setting, s);
    if (given != format_value(setting, only_from))
      found.refuse("model.from brings its own shape and weights", {"model.from", setting.key.c_str()},
                   fmt::format("model.from: {}, {}: {}", s.model.from, setting.key, given),
                   "beside model.from only model.recompute", fmt::format("remove {}, or model.from", setting.key));
  }
}

void check_shape(const Settings& s, const Contradictions& found) {
  const ModelSettings& m = s.model;
  if (!m.from.empty()) check_from(s, found);
  if (m.from.empty() && m.preset == "none" && (m.width == 0 || m.layers == 0 || m.heads == 0))
    found.refuse("the model has no shape", {"model.preset", "model.width", "model.layers", "model.heads"},
                 fmt::format("width: {}, layers: {}, heads: {}", m.width, m.layers, m.heads),
                 "model.preset, or model.width, layers and heads, or model.from", "set model: {preset: llama-30m}");
  if (m.mup_base_width > 0 && m.tied)
    found.refuse("muP has other rules for the head than for the embedding", {"model.mup_base_width", "model.tied"},
                 fmt::format("mup_base_width: {}, tied: true", m.mup_base_width), "one of them",
                 "set model.tied=false, or model.mup_base_width=0");
  const bool shampoo =
      s.optimizer.name == "shampoo" ||
      std::ranges::find(s.optimizer.groups, "shampoo", &OptimizerGroup::name) != s.optimizer.groups.end();
  if (m.mup_base_width > 0 && shampoo && s.optimizer.shampoo.grafting != "adam")
    found.refuse("muP has rules for steps as long as Adam's, and Shampoo's are not",
                 {"model.mup_base_width", "optimizer.shampoo.grafting"},
                 fmt::format("mup_base_width: {}, grafting: {}", m.mup_base_width, s.optimizer.shampoo.grafting),
                 "optimizer.shampoo.grafting: adam", "set it, or model.mup_base_width=0");
  if (m.context > 0 && m.context < s.data.sequence)
    found.refuse("sequences longer than the model's context", {"model.context", "data.sequence"},
                 fmt::format("data.sequence: {}, model.context: {}", s.data.sequence, m.context),
                 "data.sequence at most model.context", "raise model.context or lower data.sequence");
  const RopeScaling& scaling = m.rope_scaling;
  if (scaling.factor > 0 && scaling.low_frequency_factor >= scaling.high_frequency_factor)
    found.refuse("RoPE scaling has no band between its frequencies",
                 {"model.rope_scaling.low_frequency_factor", "model.rope_scaling.high_frequency_factor"},
                 fmt::format("low: {}, high: {}", scaling.low_frequency_factor, scaling.high_frequency_factor),
                 "low_frequency_factor below high_frequency_factor", "Llama 3.1 has 1 and 4");
}

void check_batch(const Settings& s, const Contradictions& found) {
  const int64_t micro_tokens = s.batch.micro * s.data.sequence;
  if (s.batch.tokens % micro_tokens == 0) return;
  const int64_t below = s.batch.tokens / micro_tokens * micro_tokens;
  found.refuse("a step is no whole number of micro-batches", {"batch.tokens", "batch.micro", "data.sequence"},
               fmt::format("batch.tokens: {}, batch.micro x data.sequence = {} x {} = {}", s.batch.tokens,
                           s.batch.micro, s.data.sequence, micro_tokens),
               fmt::format("batch.tokens a multiple of {}", micro_tokens),
               below > 0 ? fmt::format("set batch.tokens to {} or {}", below, below + micro_tokens)
                         : fmt::format("set batch.tokens to {}, or lower batch.micro", micro_tokens));
}

void check_validation(const Settings& s, const Contradictions& found) {
  if (s.data.validation.empty() && !s.data.is_synthetic() && s.validation.every > 0)
    found.refuse("validation without data", {"validation.every", "data.validation"},
                 fmt::format("validation.every: {}, data.validation empty", s.validation.every),
                 "data.validation: FILE, or validation.every: 0", "name the validation tokens");
}

void check_checkpoints(const Settings& s, const Contradictions& found) {
  const CheckpointSettings& c = s.run.checkpoint;
  if (c.keep_every > 0 && (c.every == 0 || c.keep_every % c.every != 0))
    found.refuse("checkpoints that are to be kept are never written",
                 {"run.checkpoint.keep_every", "run.checkpoint.every"},
                 fmt::format("keep_every: {}, every: {}", c.keep_every, c.every), "keep_every a multiple of every",
                 "change one of them, or set keep_every to 0");
}

void check_schedule(const Settings& s, int64_t steps, const Contradictions& found) {
  try {
    validate(schedule_settings(s, steps));
  } catch (const Error& error) {
    found.refuse(error);
  }
}

/// So that a count of tokens stays a count.
void check_total(const Settings& s, int64_t steps, const Contradictions& found) {
  constexpr auto most_tokens = static_cast<int64_t>(1e18);
  if (steps > most_tokens / s.batch.tokens)
    found.refuse("the run is longer than can be counted", {"steps", "batch.tokens"},
                 fmt::format("{} steps of {} tokens", steps, s.batch.tokens),
                 fmt::format("at most {} tokens", most_tokens), "lower steps or batch.tokens");
}

/// Steps of a run whose length is not given in epochs; refuses a token budget below one step.
int64_t steps_without_data(const Settings& s, const Contradictions& found) {
  if (s.steps > 0) {
    check_total(s, s.steps, found);
    return s.steps;
  }
  const int64_t steps = s.tokens / s.batch.tokens;
  if (steps == 0)
    found.refuse("fewer tokens than one step takes", {"tokens", "batch.tokens"},
                 fmt::format("tokens: {}, batch.tokens: {}", s.tokens, s.batch.tokens), "tokens at least batch.tokens",
                 "raise tokens or lower batch.tokens");
  return steps;
}

void check_gradients(const Settings& s, const Contradictions& found) {
  try {
    check_exchange(s);
  } catch (const Error& error) {
    found.refuse(error);
  }
}

void check_optimizer(const Settings& s, const Contradictions& found) {
  try {
    require_clippable(s.model.qk_norm, s.optimizer.qk_clip);
  } catch (const Error& error) {
    found.refuse(error);
  }
}

void check_device(const Settings& s, const Contradictions& found) {
  if (s.run.gpu_graphs && !on_gpu(s))
    found.refuse("only a GPU is given graphs", {"run.gpu_graphs", "run.device"}, fmt::format("true, {}", s.run.device),
                 "run.device: cuda, or run.gpu_graphs: false", "set run.gpu_graphs=false");
  if (s.run.gpu_graphs)
    for (const Recipe& recipe : recipes_of(s.precision))
      if (recipe.delays())
        found.refuse("a graph cannot wait for statistics of earlier steps", {"run.gpu_graphs", "precision"},
                     fmt::format("true, {}", recipe.name), "recipes without them, or run.gpu_graphs: false",
                     "set run.gpu_graphs=false");
  if (s.run.gpu_attention == "own") return;
  const char* own = "set run.gpu_attention=own";
  if (!on_gpu(s))
    found.refuse("cuDNN computes attention on GPUs only", {"run.gpu_attention", "run.device"},
                 fmt::format("{}, {}", s.run.gpu_attention, s.run.device),
                 "run.device: cuda, or run.gpu_attention: own", own);
  if (s.data.attention_within_documents())
    found.refuse("cuDNN's attention crosses documents", {"run.gpu_attention", "data.mask_documents", "data.packing"},
                 fmt::format("{}, {}, {}", s.run.gpu_attention, s.data.mask_documents, s.data.packing),
                 "data.packing: stream without data.mask_documents, or run.gpu_attention: own", own);
  if (s.optimizer.qk_clip > 0)
    found.refuse("cuDNN does not tell the largest logits of its attention", {"run.gpu_attention", "optimizer.qk_clip"},
                 fmt::format("{}, {}", s.run.gpu_attention, s.optimizer.qk_clip),
                 "optimizer.qk_clip: 0, or run.gpu_attention: own", own);
  if (const DType operands = operands_of(s); operands != DType::bf16)
    found.refuse("cuDNN's attention is for other operands", {"run.gpu_attention", "precision"},
                 fmt::format("{}, {}", s.run.gpu_attention, name(operands)),
                 "a recipe with bf16 operands, or run.gpu_attention: own", own);
}

void check_offload(const Settings& s, const Contradictions& found) {
  const OptimizerSettings& optimizer = s.optimizer;
  if (optimizer.offload == "none") return;
  const auto refuse = [&](const std::string& what, const char* key, const std::string& value,
                          const std::string& allowed, const std::string& next) {
    found.refuse(what, {"optimizer.offload", key}, fmt::format("{}, {}: {}", optimizer.offload, key, value), allowed,
                 next);
  };
  if (!on_gpu(s))
    refuse("the state of a processor's optimizer is in the host's memory already", "run.device", s.run.device,
           "optimizer.offload: none, or run.device: cuda", "set optimizer.offload=none");
  std::vector<std::pair<const char*, std::string>> names = {{"optimizer.name", optimizer.name}};
  for (const OptimizerGroup& group : optimizer.groups) names.emplace_back("optimizer.groups", group.name);
  for (const auto& [key, name] : names)
    if (takes_matrices(name) && !orthogonalizes(name))
      refuse(name + " needs whole factors and bases at once, which come to the GPU in no parts", key, name,
             "adamw, sgd, ademamix, muon, normuon, mars-m", "set optimizer.offload=none");
  if (optimizer.offload != "masters") return;
  if (optimizer.qk_clip > 0)
    refuse("QK-clip changes masters where they are", "optimizer.qk_clip", fmt::format("{}", optimizer.qk_clip),
           "optimizer.offload: moments, or qk_clip: 0", "set optimizer.offload=moments");
  if (s.precision.cage.strength > 0)
    refuse("CAGE changes masters where they are", "precision.cage.strength",
           fmt::format("{}", s.precision.cage.strength), "optimizer.offload: moments, or strength: 0",
           "set optimizer.offload=moments");
}

/// With the gather of weights, which depends on their recipes.
void check_precision(const Settings& s, const Contradictions& found) {
  try {
    constexpr int64_t any_steps = 1000000;
    const Preset* preset = find_preset(s.model.preset);
    const int64_t layers = first_positive({s.model.layers, preset ? preset->layers : 0});
    check_gather(s);
    if (layers == 0) recipes_of(s.precision);
    else if (const Precision precision = precision_of(s, any_steps, layers); gathers_codes(s))
      require_codes(precision, layers);
  } catch (const Error& error) {
    found.refuse(error);
  }
}

}  // namespace

void validate(const Settings& settings, const SettingOrigins& origins) {
  const Contradictions found(origins);
  check_micro_batch(settings, found);
  check_required(settings, found);
  check_length(settings, found);
  check_shape(settings, found);
  check_precision(settings, found);
  check_batch(settings, found);
  check_gradients(settings, found);
  check_optimizer(settings, found);
  check_device(settings, found);
  check_offload(settings, found);
  check_validation(settings, found);
  check_checkpoints(settings, found);
  if (settings.epochs == 0) check_schedule(settings, steps_without_data(settings, found), found);
}

int64_t resolve_steps(const Settings& settings, int64_t epoch_tokens) {
  const SettingOrigins unknown;
  const Contradictions found(unknown);
  if (settings.epochs == 0) return steps_without_data(settings, found);
  const double steps =
      std::floor(settings.epochs * static_cast<double>(epoch_tokens) / static_cast<double>(settings.batch.tokens));
  if (!(steps >= 1 && steps < 1e15))
    found.refuse(
        "the epochs make no sensible number of steps", {"epochs", "batch.tokens"},
        fmt::format("{} epochs of {} tokens, batch.tokens: {}", settings.epochs, epoch_tokens, settings.batch.tokens),
        "at least one step", "lower batch.tokens, or train on more data");
  check_total(settings, static_cast<int64_t>(steps), found);
  check_schedule(settings, static_cast<int64_t>(steps), found);
  return static_cast<int64_t>(steps);
}

ModelConfig model_config(const Settings& settings, int64_t tokenizer_vocabulary) {
  const ModelSettings& model = settings.model;
  const Preset* named = find_preset(model.preset);
  const Preset preset = named ? *named : Preset{};
  ModelConfig config;
  config.layers = first_positive({model.layers, preset.layers});
  config.width = first_positive({model.width, preset.width});
  config.heads = first_positive({model.heads, preset.heads});
  config.kv_heads = first_positive({model.kv_heads, config.heads});
  config.head_dim =
      first_positive({model.head_dim, preset.head_dim, config.heads > 0 ? config.width / config.heads : 0});
  config.ffn = first_positive({model.ffn, preset.ffn, llama_ffn(config.width)});
  config.vocabulary = first_positive({model.vocab, preset.vocabulary, tokenizer_vocabulary});
  config.context = first_positive({model.context, settings.data.sequence});
  config.rope_theta = model.rope_theta;
  if (model.rope_scaling.factor > 0) config.rope_scaling = model.rope_scaling;
  config.norm_epsilon = model.norm_epsilon;
  config.tied = model.tied;
  config.qk_norm = model.qk_norm;
  if (config.vocabulary < tokenizer_vocabulary)
    throw Error(
        {.kind = ErrorKind::configuration,
         .what = "the model's vocabulary is smaller than the tokenizer's",
         .where = model.vocab > 0 ? "model.vocab" : "model.preset",
         .seen = fmt::format("{} token ids, the data has {}", config.vocabulary, tokenizer_vocabulary),
         .allowed = fmt::format("at least {}", tokenizer_vocabulary),
         .next = fmt::format("set model.vocab={}, or train on tokens of another tokenizer", tokenizer_vocabulary)});
  config.validate();
  return config;
}

}  // namespace nibble
