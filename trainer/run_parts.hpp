// From settings to the options of the parts that they configure.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "model/llama.hpp"
#include "optim/schedule.hpp"
#include "trainer/checkpoint_saver.hpp"
#include "trainer/run_data.hpp"
#include "trainer/run_directory.hpp"
#include "trainer/settings.hpp"
#include "trainer/train_step.hpp"

namespace nibble {

LlamaOptions llama_options(const Settings& settings);
/// What the parts of a run are sharded to: a compressed exchange takes a rank's gradient of the whole step, so
/// gradients stay whole then; ranks that are played take each micro-batch's.
Shard shard_of(const Settings& settings);
Wire wire_of(const Settings& settings);
/// By rank, hosts numbered.
std::vector<int> host_numbers(const World& world);
/// `steps` of the whole run.
ScheduleSettings schedule_settings(const Settings& settings, int64_t steps);

/// Where a run stands, besides the state of its parts.
struct RunCounters {
  int64_t step = 0;         ///< steps done, refused ones included
  int64_t loss_tokens = 0;  ///< tokens that counted in steps that were not refused
  int64_t refused = 0, refused_in_a_row = 0;

  void state(StateList& list);
};

/// What a run trains and trains with. The memory of large parts is not touched before something is written there.
struct RunParts {
  std::unique_ptr<Llama> model;
  std::unique_ptr<TrainStep> step;
};

/// How the checkpoints of such a run are saved, on this rank.
CheckpointSaverOptions saver_options(World& world, const Settings& settings);

/// `steps` of the whole run. `stream` and `world` must outlive the parts. Throws Error{configuration} for an impossible
/// shape or ranks that do not divide the work, Error{resource} when the system has no addresses left.
RunParts make_run_parts(Stream& stream, World& world, const Settings& settings, const ModelConfig& config,
                        int64_t steps, const MakeExchange& make_exchange);

/// Overwrites the whole f32 matrix of a parameter, packed, with what it begins with.
using WriteParameter = std::function<void(size_t parameter, const Tensor& whole)>;
/// New weights, as initialize_parameter draws them.
WriteParameter new_weights(Stream& stream, const Settings& settings, const Llama& model);

/// Fills the masters with what `write` gives; but steps that quantizers learn suit `first`, the run's first
/// micro-batch. All ranks call it with the same, and must multiply alike once `before_steps` was called, which comes
/// where steps are learned, before they are found.
void begin_weights(Stream& stream, Llama& model, TrainStep& step, const Batch& first, const WriteParameter& write,
                   const std::function<void()>& before_steps = {});

/// Throws Error{data} when the model's tokenizer is known and is not the one that made the tokens in `where`.
void require_tokenizer(const ModelDescription& model, const TokenizerInfo& of_tokens, const std::string& where);

/// The settings of the run that a checkpoint is of; empty for a Hugging Face folder.
std::optional<Settings> settings_of(const ModelSource& source);

/// Windows as in the model's own run; of a Hugging Face model, and with `sequence` above 0, of so many tokens.
LoaderOptions window_options(const ModelDescription& model, int64_t sequence, uint64_t seed);

/// The recipe named `wish` if that is not empty (a row, a family's member, or one that the run brought itself), else
/// what the model's last step was trained with, bf16 for a Hugging Face folder. Throws Error{configuration} for an
/// unknown name.
Precision precision_for(const ModelSource& source, const std::string& wish);

/// One line on stderr for each newer checkpoint that was passed over because it is damaged.
void warn_of_refused(const ModelSource& source);

}  // namespace nibble
