#include "trainer/run_parts.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <map>

#include "comm/collectives.hpp"
#include "optim/weight_decay.hpp"
#include "tensor/convert.hpp"
#include "tensor/error.hpp"
#include "trainer/gradient_exchange.hpp"
#include "trainer/make_optimizer.hpp"
#include "trainer/mup.hpp"
#include "trainer/precision.hpp"
#include "trainer/rank_agreement.hpp"
#include "trainer/weight_gather.hpp"
#include "trainer/yaml_settings.hpp"

namespace nibble {

LlamaOptions llama_options(const Settings& settings) {
  return {.sequences = settings.batch.micro,
          .length = settings.data.sequence,
          .recompute = settings.model.recompute == "block" ? Recompute::block : Recompute::none,
          .seed = static_cast<uint64_t>(settings.run.seed),
          .graphs = settings.run.gpu_graphs,
          .attention = settings.run.gpu_attention == "cudnn" ? AttentionBy::cudnn : AttentionBy::own};
}

ScheduleSettings schedule_settings(const Settings& settings, int64_t steps) {
  const LearningRateSettings& from = settings.schedule;
  return {.kind = from.name == "constant"   ? ScheduleKind::constant
                  : from.name == "wsd"      ? ScheduleKind::wsd
                  : from.name == "onecycle" ? ScheduleKind::onecycle
                                            : ScheduleKind::cosine,
          .peak = settings.optimizer.learning_rate,
          .steps = steps,
          .warmup = from.warmup.of(steps),
          .final_fraction = from.final,
          .cooldown = from.name == "wsd" ? from.decay.of(steps) : 0,
          .cooldown_shape = from.decay_shape == "linear" ? CooldownShape::linear : CooldownShape::one_minus_sqrt};
}

Shard shard_of(const Settings& settings) {
  const Shard asked = settings.shard == "optimizer"    ? Shard::optimizer
                      : settings.shard == "gradients"  ? Shard::gradients
                      : settings.shard == "parameters" ? Shard::parameters
                                                       : Shard::none;
  if (settings.gradients.virtual_ranks > 0) return Shard::gradients;
  return compresses(settings.gradients) ? std::min(asked, Shard::optimizer) : asked;
}

std::vector<int> host_numbers(const World& world) {
  std::map<std::string, int> number;
  std::vector<int> numbers;
  for (const std::string& host : world.hosts())
    numbers.push_back(number.emplace(host, static_cast<int>(number.size())).first->second);
  return numbers;
}

Wire wire_of(const Settings& settings) { return settings.gradients.wire == "bf16" ? Wire::bf16 : Wire::f32; }

RunParts make_run_parts(Stream& stream, World& world, const Settings& settings, const ModelConfig& config,
                        int64_t steps, const MakeExchange& make_exchange) {
  RunParts parts;
  const Precision precision = precision_of(settings, steps, config.layers);
  if (gathers_codes(settings)) require_codes(precision, config.layers);
  parts.model = std::make_unique<Llama>(stream, config, precision, llama_options(settings));
  parts.step = std::make_unique<TrainStep>(
      stream, *parts.model, world,
      TrainStepOptions{.micro_batches = settings.batch.tokens / (settings.data.sequence * settings.batch.micro),
                       .lanes = settings.batch.lanes,
                       .shard = shard_of(settings),
                       .offload_masters = settings.optimizer.offload == "masters",
                       .gather_codes = gathers_codes(settings),
                       .clip = settings.optimizer.clip,
                       .cautious_decay = settings.optimizer.decay == "cautious",
                       .z_loss = settings.loss.z_loss,
                       .qk_clip = settings.optimizer.qk_clip,
                       .schedule = schedule_settings(settings, steps),
                       .cage = {.strength = settings.precision.cage.strength,
                                .silence = settings.precision.cage.silence,
                                .steps = steps},
                       .update_groups = update_groups(settings.optimizer, parts.model->layout().parameters(),
                                                      mup_of(settings, config)),
                       .updates_every = settings.run.updates.every},
      weight_decay_mask(parts.model->layout().parameters(), settings.optimizer.no_decay),
      [&](const std::vector<OptimizedParameter>& parameters, const ParameterShares& shares) {
        return make_optimizer(settings.optimizer, steps, static_cast<uint64_t>(settings.run.seed), parameters, shares,
                              mup_of(settings, config));
      },
      make_exchange);
  return parts;
}

void RunCounters::state(StateList& list) {
  list.add_scalar("trainer/step", step);
  list.add_scalar("trainer/loss_tokens", loss_tokens);
  list.add_scalar("trainer/refused", refused);
  list.add_scalar("trainer/refused_in_a_row", refused_in_a_row);
}

CheckpointSaverOptions saver_options(World& world, const Settings& settings) {
  return {.run_directory = settings.run.directory,
          .rank = world.rank(),
          .ranks = world.size(),
          .keep = settings.run.checkpoint.keep,
          .keep_every = settings.run.checkpoint.keep_every,
          .background = settings.run.checkpoint.background,
          .gather = [&world](const std::string& mine) { return gather_all(world, mine); }};
}

WriteParameter new_weights(Stream& stream, const Settings& settings, const Llama& model) {
  return [&, mup = mup_of(settings, model.config())](size_t parameter, const Tensor& whole) {
    const double deviation = settings.model.init_std * mup.deviation(model.layout().parameters()[parameter].kind);
    initialize_parameter(stream.host(), model.config(), model.layout(), parameter,
                         static_cast<uint64_t>(settings.run.seed), deviation, whole);
  };
}

void begin_weights(Stream& stream, Llama& model, TrainStep& step, const Batch& first, const WriteParameter& write,
                   const std::function<void()>& before_steps) {
  step.fill_masters(write);
  if (!model.layout().learns_steps()) return;
  if (before_steps) before_steps();
  const OwnedTensor steps = model.initial_steps(step.weights(), {first.inputs, first.targets, first.document_starts});
  step.fill_masters([&](size_t parameter, const Tensor& whole) {
    const ParameterInfo& info = model.layout().parameters()[parameter];
    if (info.kind == ParameterKind::step) convert(stream.host(), steps.view().slice_rows(info.layer, 1), whole);
    else write(parameter, whole);
  });
}

void require_tokenizer(const ModelDescription& model, const TokenizerInfo& of_tokens, const std::string& where) {
  if (!model.tokenizer || model.tokenizer->info().hash == of_tokens.hash) return;
  throw Error({.kind = ErrorKind::data,
               .what = "the tokens were not made with the model's tokenizer",
               .where = where,
               .seen = of_tokens.identity,
               .allowed = model.tokenizer->info().identity,
               .next = "run nibble tokenize with that tokenizer"});
}

std::optional<Settings> settings_of(const ModelSource& source) {
  if (!source.checkpoint) return std::nullopt;
  return parse_settings(source.checkpoint->header().config_text, source.path.string() + "/manifest.json");
}

LoaderOptions window_options(const ModelDescription& model, int64_t sequence, uint64_t seed) {
  constexpr int64_t longest_default = 512;  // a Hugging Face model may be meant for far longer ones than are needed
  const std::optional<Settings> settings = settings_of(model.source);
  LoaderOptions options = settings ? loader_options(*settings) : LoaderOptions{};
  if (!settings) options.sequence = std::min(model.config.context, longest_default);
  if (sequence > 0) options.sequence = sequence;
  options.seed = seed;
  return options;
}

Precision precision_for(const ModelSource& source, const std::string& wish) {
  const std::optional<Settings> settings = settings_of(source);
  if (!wish.empty())
    return find_recipe(wish, settings ? settings->precision.recipes : std::vector<Recipe>(), "--recipe");
  if (!settings) return find_recipe("bf16");
  const CheckpointHeader& header = source.checkpoint->header();
  const int64_t newest_step = std::max<int64_t>(header.step - 1, 0);
  return precision_of(*settings, std::max(header.total_steps, header.step), header.model.layers).at(newest_step);
}

void warn_of_refused(const ModelSource& source) {
  for (const RefusedCheckpoint& refused : source.refused)
    fmt::print(stderr, "warning: {} is passed over: {}\n", refused.path.string(), refused.reason);
}

}  // namespace nibble
