// Everything a run can be told, as plain structs; the initialisers are the defaults.
//
// trainer/settings_table.hpp binds a key, a range and a line of help to each member; from that table come YAML, --set,
// --help and the complete configuration. Not for what follows from settings and data together (trainer/resolve.hpp).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "model/config.hpp"
#include "optim/weight_decay.hpp"
#include "quant/recipe.hpp"

namespace nibble {

/// A number of optimizer steps, or a share of all steps ("2k" or "10%").
struct StepsOrShare {
  double value = 0;  ///< steps, or a share in [0, 1]
  bool is_share = false;

  static StepsOrShare steps(int64_t count) { return {static_cast<double>(count), false}; }
  static StepsOrShare share(double part) { return {part, true}; }

  /// Steps out of `total`; a share is rounded to the nearest step.
  int64_t of(int64_t total) const;

  bool operator==(const StepsOrShare&) const = default;
};

/// Dimensions that are 0 come from the preset, or are derived from the others (trainer/resolve.hpp).
struct ModelSettings {
  std::string preset = "none";
  int64_t width = 0;
  int64_t layers = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t ffn = 0;
  int64_t vocab = 0;
  int64_t context = 0;
  double rope_theta = 10000;
  RopeScaling rope_scaling{.factor = 0};  ///< factor 0: none
  double norm_epsilon = 1e-5;
  bool tied = false;
  bool qk_norm = false;
  double init_std = 0.02;
  int64_t mup_base_width = 0;
  std::string recompute = "none";
  std::string from{};

  bool operator==(const ModelSettings&) const = default;
};

/// A language that is made up in place of files (data/synthetic_language.hpp).
struct SyntheticSettings {
  int64_t vocabulary = 0;  ///< 0: none
  int64_t order = 2;
  double zipf = 1;
  double noise = 0.1;
  int64_t seed = 1;

  bool operator==(const SyntheticSettings&) const = default;
};

struct DataSettings {
  std::string train{};
  std::string validation{};
  int64_t sequence = 512;
  std::string packing = "stream";
  bool mask_documents = false;
  SyntheticSettings synthetic{};

  bool is_synthetic() const { return synthetic.vocabulary > 0; }
  /// Whether attention stays within a document: asked for, or implied by the packing.
  bool attention_within_documents() const { return mask_documents || packing == "documents"; }

  bool operator==(const DataSettings&) const = default;
};

struct BatchSettings {
  int64_t tokens = 0;
  int64_t micro = 1;
  int64_t lanes = 4;

  bool operator==(const BatchSettings&) const = default;
};

struct CagePullSettings {
  double strength = 0;
  double silence = 0.8;

  bool operator==(const CagePullSettings&) const = default;
};

/// Blocks that multiply bf16, whatever else is said.
struct KeptBlocks {
  int64_t first = 0, last = 0;

  bool operator==(const KeptBlocks&) const = default;
};

/// Another recipe for some layers, some projections, some steps (trainer/precision.hpp has the words).
struct PrecisionOverride {
  std::vector<std::string> layers{};       ///< "3", "0-1", "first 2", "last 4"; empty: all
  std::vector<std::string> projections{};  ///< empty: all
  std::string phase{};                     ///< "last 10%", "first 500", "10% to 50%"; empty: all steps
  std::string recipe{};                    ///< empty: the run's
  std::string forward{}, backward{};       ///< empty: the recipe's

  bool operator==(const PrecisionOverride&) const = default;
};

struct PrecisionSettings {
  std::string recipe = "bf16";
  std::string forward{}, backward{};  ///< empty: the recipe's
  std::vector<PrecisionOverride> overrides{};
  std::vector<Recipe> recipes{};  ///< that the run brings itself, wherever they were written out
  KeptBlocks keep_bf16{};
  CagePullSettings cage;

  bool operator==(const PrecisionSettings&) const = default;
};

/// Parameters with an optimizer of their own (trainer/make_optimizer.hpp); what is empty is as everywhere.
struct OptimizerGroup {
  std::vector<std::string> match{};  ///< patterns of names
  std::string name{};
  std::optional<double> learning_rate{}, weight_decay{};
  std::string moments{};

  bool operator==(const OptimizerGroup&) const = default;
};

/// Of muon, normuon and mars-m.
struct OrthogonalSettings {
  double momentum = 0.95;
  bool nesterov = true;
  std::string scale = "moonlight";
  std::string coefficients = "classic";
  int64_t steps = 5;
  std::string products = "bf16";

  bool operator==(const OrthogonalSettings&) const = default;
};

struct SlowMomentSettings {
  double beta3 = 0.9999;
  double alpha = 8;
  StepsOrShare warmup = StepsOrShare::share(1);

  bool operator==(const SlowMomentSettings&) const = default;
};

struct RotatedMomentSettings {
  int64_t every = 10;
  int64_t max_side = 10000;
  double factor_beta = 0;  ///< 0: optimizer.beta2

  bool operator==(const RotatedMomentSettings&) const = default;
};

struct InverseRootSettings {
  int64_t every = 10;
  int64_t max_side = 8192;
  double exponent = 0.25;
  double epsilon = 1e-12;
  std::string grafting = "adam";

  bool operator==(const InverseRootSettings&) const = default;
};

struct OptimizerSettings {
  std::string name = "adamw";
  double learning_rate = 1e-3;
  double weight_decay = 0.1;
  std::string decay = "decoupled";
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
  double momentum = 0.9;
  double clip = 1;
  double qk_clip = 0;
  std::string moments = "f32";
  std::string offload = "none";
  std::vector<std::string> no_decay = default_no_decay;
  std::vector<OptimizerGroup> groups{};
  OrthogonalSettings muon{};
  SlowMomentSettings ademamix{};
  InverseRootSettings shampoo{};
  RotatedMomentSettings soap{};

  bool operator==(const OptimizerSettings&) const = default;
};

/// Another exchange for some layers (trainer/gradient_exchange.hpp has the words); empty and 0: as everywhere.
struct GradientOverride {
  std::vector<std::string> layers{};  ///< "embedding", "head", "3", "0-1", "first 2", "last 4"
  std::string exchange{}, codec{};
  double density = 0;

  bool operator==(const GradientOverride&) const = default;
};

struct GradientSettings {
  std::string exchange = "dense";
  std::string wire = "f32";
  std::string codec{};  ///< empty: what the exchange takes by default
  int64_t bucket = 1024;
  double density = 4.0 / 512;
  std::string select = "buckets";
  std::string algorithm = "auto";
  std::string error_feedback = "auto";
  StepsOrShare warmup = StepsOrShare::steps(0);
  double full_probability = 0;
  int64_t full_batches = 1;
  bool allow_noisy_difference = false;
  bool hierarchical = false;
  int64_t virtual_ranks = 0;
  std::vector<GradientOverride> overrides{};

  bool operator==(const GradientSettings&) const = default;
};

struct WeightSettings {
  std::string gather = "working";

  bool operator==(const WeightSettings&) const = default;
};

struct LearningRateSettings {
  std::string name = "cosine";
  StepsOrShare warmup = StepsOrShare::share(0.1);
  double final = 0.1;
  StepsOrShare decay = StepsOrShare::share(0.2);
  std::string decay_shape = "sqrt";

  bool operator==(const LearningRateSettings&) const = default;
};

struct LossSettings {
  double z_loss = 0;

  bool operator==(const LossSettings&) const = default;
};

struct ValidationSettings {
  int64_t every = 0;
  int64_t tokens = 0;

  bool operator==(const ValidationSettings&) const = default;
};

struct CheckpointSettings {
  int64_t every = 0;
  double interval = 0;  ///< seconds
  int64_t keep = 3;
  int64_t keep_every = 0;
  bool background = true;

  bool operator==(const CheckpointSettings&) const = default;
};

struct OperandSettings {
  int64_t every = 0;

  bool operator==(const OperandSettings&) const = default;
};

struct UpdateSettings {
  int64_t every = 10;

  bool operator==(const UpdateSettings&) const = default;
};

struct RunSettings {
  int64_t seed = 1;
  std::string device = "cpu";
  std::string gpu_exchange = "auto";
  bool gpu_graphs = false;
  std::string gpu_attention = "own";
  int64_t threads = 0;
  std::string directory{};
  std::string branch{};
  CheckpointSettings checkpoint{};
  OperandSettings operands{};
  UpdateSettings updates{};
  double progress = 10;  ///< seconds
  int64_t max_refused = 10;
  std::string sample{};
  int64_t sample_tokens = 200;
  double temperature = 0.8;

  bool operator==(const RunSettings&) const = default;
};

struct Settings {
  ModelSettings model{};
  DataSettings data{};
  BatchSettings batch{};
  int64_t steps = 0;
  int64_t tokens = 0;
  double epochs = 0;
  PrecisionSettings precision{};
  OptimizerSettings optimizer{};
  LearningRateSettings schedule{};
  LossSettings loss{};
  GradientSettings gradients{};
  WeightSettings weights{};
  std::string shard = "none";
  ValidationSettings validation{};
  RunSettings run{};

  bool operator==(const Settings&) const = default;
};

}  // namespace nibble
