// How a run begins: data, what the checkpoint of before says, parts, the run's directory.
//
// Not for: its steps (training_run.cpp).
#include "trainer/training_run.hpp"

#include <fmt/format.h>

#include <utility>

#include "comm/local_world.hpp"
#include "data/json_fields.hpp"
#include "quant/self_test.hpp"
#include "tensor/convert.hpp"
#include "tensor/error.hpp"
#include "tensor/files.hpp"
#include "tensor/gemm.hpp"
#include "trainer/branch.hpp"
#include "trainer/checkpoint_load.hpp"
#include "trainer/checkpoint_tuning.hpp"
#include "trainer/directory.hpp"
#include "trainer/exchange_comparison.hpp"
#include "trainer/gradient_exchange.hpp"
#include "trainer/link_measurement.hpp"
#include "trainer/make_optimizer.hpp"
#include "trainer/metric_columns.hpp"
#include "trainer/precision.hpp"
#include "trainer/rank_agreement.hpp"
#include "trainer/resolve.hpp"
#include "trainer/run_parts.hpp"
#include "trainer/run_stream.hpp"
#include "trainer/settings_output.hpp"
#include "trainer/state_on_host.hpp"
#include "trainer/version.hpp"
#include "trainer/yaml_settings.hpp"

namespace nibble {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> columns_of(const Settings& settings, const Llama& model) {
  std::vector<std::string> columns = metric_column_names();
  if (settings.run.updates.every == 0) return columns;
  for (const UpdateGroup& group :
       update_groups(settings.optimizer, model.layout().parameters(), mup_of(settings, model.config()))) {
    columns.push_back(update_rms_column(group.name));
    if (group.orthogonalizes) columns.push_back(orthogonality_error_column(group.name));
  }
  return columns;
}

}  // namespace

TrainingRun::TrainingRun(const Settings& settings, const TrainingRunOptions& options)
    : settings_(settings),
      options_(options),
      alone_(options.world ? nullptr : make_local_world()),
      world_(options.world ? *options.world : *alone_),
      stream_(run_stream(settings, world_)),
      tuning_(tuning_of(stream_, world_, settings.run.gpu_attention)),
      progress_(world_.is_first() ? new Progress(Progress::to_stderr(settings.run.progress))
                                  : new Progress(Progress::silent())) {  // not movable: made in place
  world_.at(0, "start");
  validate(settings_);
  data_ = std::make_unique<RunData>(settings_);
  require_same_run();
  const std::optional<VerifiedCheckpoint> checkpoint = find_checkpoint();
  link_gpus(checkpoint);
  know_links(checkpoint);
  know_products(checkpoint);
  if (checkpoint) refuse_another_run(*checkpoint);
  build(checkpoint);
  if (checkpoint) {
    const StateOnHost on_host(state());
    on_host.fetch(stream_);  // what the checkpoint does not have stays
    StateList list = on_host.list();
    using Names = std::vector<std::string_view>;
    load_checkpoint(*checkpoint, list, switches_optimizer_ ? Names{"optimizer/", "trainer/updates"} : Names());
    on_host.put(stream_);
    parts_.step->masters_changed();
    if (!is_trunk(*checkpoint)) saved_step_ = counters_.step;
    progress_->message(fmt::format("{} from {}: step {} of {}", is_trunk(*checkpoint) ? "branching" : "resuming",
                                   checkpoint->path.string(), counters_.step, total_steps_));
    if (is_trunk(*checkpoint)) judge_branch(checkpoint->header());
  }
  share_products();
  begin_directory(checkpoint.has_value());
  CheckpointSaverOptions saving = saver_options(world_, settings_);
  saving.kept_steps = options_.kept_steps;
  saving.require_ownership = options_.require_ownership ? options_.require_ownership : [this] { lock_->still_held(); };
  saver_ = std::make_unique<CheckpointSaver>(std::move(saving), state());
}

TrainingRun::~TrainingRun() = default;

void TrainingRun::require_same_run() {
  require_same(world_, ErrorKind::configuration, "the ranks have different configurations", settings_yaml(settings_),
               "give every rank the same file and the same --set");
  require_same(world_, ErrorKind::data, "the ranks have different token files", data_->identity().dump(1),
               "copy the same files to every host, or put them on a file system that all share");
  if (stream_.on_device()) require_equal_gpus(world_);
  require_same(world_, ErrorKind::configuration, "the ranks would round differently", tuning_.dump(1),
               "set run.threads, and NIBBLE_ISA=avx2 where processors differ");
}

void TrainingRun::know_links(const std::optional<VerifiedCheckpoint>& checkpoint) {
  if (world_.size() == 1 || !compresses(settings_.gradients)) return;
  const bool chooses = measures_links(settings_.gradients);
  if (const nlohmann::json& before = checkpoint ? checkpoint->header().tuning : tuning_;
      chooses && before.contains("link") && !options_.retune) {
    const JsonFields fields(before.at("link"), "the checkpoint's tuning", ErrorKind::checkpoint);
    link_ = {.latency = fields.not_negative("latency"), .per_byte = fields.positive("per_byte")};
    if (fields.has("computing")) {
      const JsonFields factors(fields.object("computing"), "the checkpoint's tuning", ErrorKind::checkpoint);
      for (const SumWay way : all_ways)
        link_.computing[static_cast<size_t>(way)] = factors.positive(std::string(name(way)));
    }
  } else {
    link_ = slowest_link(world_);
    if (const std::optional<SparseSumOptions> sum = chosen_sum(settings_.gradients); chooses && sum)
      world_.thread().run([&](Communicator& ranks) { link_ = with_computing(ranks, *sum, link_); });
  }
  if (!chooses) return;
  nlohmann::json computing;
  for (const SumWay way : all_ways) computing[std::string(name(way))] = link_.computing[static_cast<size_t>(way)];
  tuning_["link"] = {{"latency", link_.latency}, {"per_byte", link_.per_byte}, {"computing", computing}};
}

void TrainingRun::link_gpus(const std::optional<VerifiedCheckpoint>& checkpoint) {
  if (!stream_.on_device()) return;
  std::string before;
  if (checkpoint && checkpoint->header().tuning.contains(gpu_exchange_key))
    before = JsonFields(checkpoint->header().tuning, "the checkpoint's tuning", ErrorKind::checkpoint)
                 .text(gpu_exchange_key);
  gpus_ = std::make_unique<GpuRanks>(world_, stream_, settings_.run.gpu_exchange, before);
  if (world_.size() > 1) tuning_[gpu_exchange_key] = gpus_->way();
}

void TrainingRun::know_products(const std::optional<VerifiedCheckpoint>& checkpoint) {
  if (!stream_.on_device()) return;
  GemmRecord known;
  if (checkpoint && !options_.retune && checkpoint->header().tuning.contains("products")) {
    const nlohmann::json& products = checkpoint->header().tuning.at("products");
    const JsonFields fields(products, "the checkpoint's tuning", ErrorKind::checkpoint);
    for (const auto& product : products.items()) known[product.key()] = fields.text(product.key());
  }
  choose_gemms(stream_, known, world_.is_first());
  tuning_["products"] = known;
}

void TrainingRun::share_products() {
  if (!stream_.on_device() || world_.size() == 1) return;
  const Batch any = data_->train().batch(0, settings_.batch.micro);
  parts_.step->rehearse({any.inputs, any.targets, any.document_starts});
  share_gemms(world_, stream_);
  parts_.model->products_changed();
  tuning_["products"] = chosen_gemms(stream_);
}

std::optional<VerifiedCheckpoint> TrainingRun::find_checkpoint() {
  const fs::path run = settings_.run.directory;
  if (!world_.is_first()) {
    const std::string found = gather_all(world_, "").front();
    if (found.empty()) return std::nullopt;
    return open_checkpoint(found, Verification::by_another_rank);
  }
  std::optional<VerifiedCheckpoint> newest;
  if (options_.resume) newest = newest_checkpoint();
  else if (!list_checkpoints(run).empty())
    throw Error({.kind = ErrorKind::configuration,
                 .what = "the run's directory already holds checkpoints",
                 .where = run.string(),
                 .next = "add --resume to go on, or choose another run.directory"});
  if (!newest && !settings_.run.branch.empty()) {
    ModelSource trunk = find_trunk(settings_.run.branch);
    pass_over(trunk.refused);
    newest = std::move(trunk.checkpoint);
  }
  gather_all(world_, newest ? newest->path.string() : "");
  return newest;
}

std::optional<VerifiedCheckpoint> TrainingRun::newest_checkpoint() {
  const fs::path run = settings_.run.directory;
  if (exists(run, ErrorKind::resource)) hold_directory();
  std::vector<RefusedCheckpoint> refused;
  std::optional<VerifiedCheckpoint> newest = newest_valid_checkpoint(run, refused);
  pass_over(refused);
  if (!newest && !refused.empty())
    throw Error({.kind = ErrorKind::checkpoint,
                 .what = "none of the run's checkpoints is whole",
                 .where = run.string(),
                 .seen = fmt::format("{} damaged", refused.size()),
                 .next = "restore one from a copy, or start again in another run.directory"});
  if (!newest) progress_->message(fmt::format("no checkpoint in {}: starting anew", run.string()));
  return newest;
}

void TrainingRun::pass_over(const std::vector<RefusedCheckpoint>& refused) const {
  for (const RefusedCheckpoint& bad : refused)
    progress_->message(fmt::format("passing over {}: {}", bad.path.string(), bad.reason));
}

bool TrainingRun::is_trunk(const VerifiedCheckpoint& checkpoint) const {
  return checkpoint.path.parent_path() != checkpoint_path(settings_.run.directory, 0).parent_path();
}

void TrainingRun::judge_branch(const CheckpointHeader& trunk) const {
  const BranchingRates rates =
      branching_rates(trunk, parse_settings(trunk.config_text, "the trunk's manifest"), settings_, total_steps_);
  progress_->message(fmt::format("{}learning rate of step {}: {:.3g}, as the trunk would have gone on {:.3g}",
                                 rates.jump() ? "warning: it jumps at the branch: " : "", trunk.step + 1, rates.branch,
                                 rates.trunk));
}

void TrainingRun::hold_directory() {
  if (lock_ || options_.require_ownership) return;
  lock_ = std::make_unique<RunLock>(settings_.run.directory, RunLockOptions{.message = [this](const std::string& text) {
                                      progress_->message(text);
                                    }});
}

void TrainingRun::refuse_another_run(const VerifiedCheckpoint& checkpoint) {
  const CheckpointHeader& header = checkpoint.header();
  const Settings then = parse_settings(header.config_text, "the checkpoint's manifest");
  for (const SettingDifference& difference : setting_differences(then, settings_)) {
    const bool of_its_optimizer = difference.key.starts_with("optimizer.");
    if (difference.identity && of_its_optimizer && is_trunk(checkpoint)) switches_optimizer_ = true;
    else if (difference.identity)
      throw Error({.kind = ErrorKind::configuration,
                   .what = "a setting that is part of the run's identity has another value than in its checkpoint",
                   .where = difference.key,
                   .seen = difference.now,
                   .allowed = difference.then,
                   .next = fmt::format("restore it, or start another run with {}={}",
                                       of_its_optimizer ? "run.branch" : "model.from",
                                       settings_.run.branch.empty() ? settings_.run.directory : settings_.run.branch)});
    progress_->message(fmt::format("{}: {} before, {} now", difference.key, difference.then, difference.now));
  }
  if (switches_optimizer_)
    progress_->message("the optimizer begins anew: moments of zeros, and bias corrections of a first step");
  const nlohmann::json now = data_->identity();
  if (header.data.value("train", nlohmann::json()) != now["train"])
    throw Error({.kind = ErrorKind::data,
                 .what = "the run was started with other training tokens",
                 .where = settings_.data.train,
                 .seen = now["train"].dump(),
                 .allowed = header.data.value("train", nlohmann::json()).dump(),
                 .next = "go on with the file that the run was started with"});
  if (header.data != now) progress_->message("data.validation: other tokens than before");
  retuned_ = check_tuning(header.tuning, tuning_, options_.retune) || header.retuned;
}

void TrainingRun::build(const std::optional<VerifiedCheckpoint>& checkpoint) {
  const size_t program = resident_memory().all;
  std::optional<LoadedModel> start;
  if (!checkpoint && !settings_.model.from.empty()) {
    start = load_model(settings_.model.from, DType::f32);
    if (!data_->language()) require_tokenizer(*start, data_->tokenizer(), data_->train().name());
    if (settings_.data.sequence > start->config.context) {
      progress_->message(fmt::format("the model's context grows from {} to data.sequence = {}", start->config.context,
                                     settings_.data.sequence));
      start->config.context = settings_.data.sequence;
    }
  }
  const ModelConfig config = checkpoint ? checkpoint->header().model
                             : start    ? start->config
                                        : model_config(settings_, data_->tokenizer().vocabulary);
  data_->require_vocabulary(config.vocabulary);

  require_sound(stream_.host(), recipes_of(settings_.precision),
                {config.width, config.query_width(), config.ffn, settings_.batch.micro * settings_.data.sequence});
  total_steps_ = resolve_steps(settings_, data_->train().tokens_per_epoch());
  if (checkpoint && is_trunk(*checkpoint)) require_own_steps(checkpoint->header(), total_steps_);
  sequences_per_step_ = settings_.batch.tokens / settings_.data.sequence;
  AvailableMemory most = options_.memory();
  most.bytes /= static_cast<size_t>(world_.local_size());  // the ranks of a host share it
  most.bytes += resident_memory().anonymous;  // weights to start from are in it, and given back before the first step
  memory_ = require_memory(stream_, world_, settings_, config, program, most, checkpoint.has_value(), link_);
  gemm_peak_ = measure_gemm_peak(stream_, operands_of(settings_));  // while there is memory
  if (gpus_ && world_.size() > 1 && world_.is_first())
    rehearse_matrix_products(stream_, settings_.optimizer, ParameterLayout(config).parameters());
  parts_ = make_run_parts(
      stream_, world_, settings_, config, total_steps_,
      options_.make_exchange
          ? options_.make_exchange
          : exchange_maker(settings_, {.steps = total_steps_, .host = host_numbers(world_), .link = link_}));
  if (checkpoint) return;
  const WriteParameter fresh = new_weights(stream_, settings_, *parts_.model);
  const Batch first = data_->train().batch(0, settings_.batch.micro);
  const auto write = [&](size_t parameter, const Tensor& whole) {
    if (start && parameter < start->weights.size()) convert(stream_.host(), start->weights[parameter], whole);
    else fresh(parameter, whole);  // steps of quantizers are not taken over
  };
  begin_weights(stream_, *parts_.model, *parts_.step, first, write, [this] { share_products(); });
}

StateList TrainingRun::state() {
  StateList list;
  parts_.step->state(list);
  counters_.state(list);
  return list;
}

std::string TrainingRun::resolved_config() const {
  const ModelConfig& config = parts_.model->config();
  return settings_yaml(
      settings_,
      {{"model", fmt::format("width {}, layers {}, heads {}, kv_heads {}, head_dim {}, ffn {}, vocab {}, context {}",
                             config.width, config.layers, config.heads, config.kv_heads, config.head_dim, config.ffn,
                             config.vocabulary, config.context)},
       {"parameters", std::to_string(config.parameters())},
       {"steps", std::to_string(total_steps_)},
       {"threads", std::to_string(stream_.threads())}});
}

void TrainingRun::begin_directory(bool resumed) {
  if (!world_.is_first()) return;
  const fs::path run = settings_.run.directory;
  std::error_code failure;
  fs::create_directories(run, failure);
  if (failure)
    throw Error({.kind = ErrorKind::resource,
                 .what = "cannot make the run's directory",
                 .where = run.string(),
                 .seen = failure.message(),
                 .next = "choose another run.directory"});
  hold_directory();
  if (options_.require_ownership) options_.require_ownership();
  // Step 0 has a row of its own, written again when not even the first step was saved.
  const int64_t next_step = resumed && counters_.step > 0 ? counters_.step + 1 : 0;
  const std::vector<std::string> columns = columns_of(settings_, *parts_.model);
  metrics_ = std::make_unique<MetricsWriter>(options_.resume ? MetricsWriter::resume(run, columns, next_step)
                                                             : MetricsWriter::create(run, columns));
  operands_ = std::make_unique<OperandRecord>(run, settings_.run.operands.every, next_step);
  write_file_atomically(run / "config.yaml", resolved_config());
  nlohmann::json tuning = tuning_;
  for (const auto& [library, version] : versions()) tuning["versions"][library] = version;
  write_file_atomically(run / "tuning.json", tuning.dump(2) + "\n");
  write_file_atomically(
      run / "memory.json",
      nlohmann::json{
          {"rows", memory_.table}, {"token_files", memory_.token_files}, {"peak", memory_.peak()}, {"gpu", memory_.gpu}}
              .dump(2) +
          "\n");
}

}  // namespace nibble
