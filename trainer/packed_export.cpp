#include "trainer/packed_export.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "tensor/error.hpp"
#include "trainer/packed_config.hpp"
#include "trainer/packing_measurement.hpp"
#include "trainer/progress.hpp"
#include "trainer/run_parts.hpp"

namespace nibble {
namespace {

constexpr const char* trained_name = "trained";

struct GgufName {
  const char *option, *row_type;
};
constexpr GgufName gguf_names[] = {{"q8_0", "Q8_0"}, {"q4_0", "Q4_0"}, {"mxfp4", "MXFP4"}};

[[noreturn]] void refuse_format(const PackedExportOptions& options) {
  std::vector<std::string_view> folder = {trained_name}, gguf;
  for (const PackedFormat format : packed_formats) folder.push_back(name(format));
  for (const GgufName& format : gguf_names) gguf.push_back(format.option);
  throw Error({.kind = ErrorKind::configuration,
               .what = fmt::format("{} has no such quantized weights", options.gguf ? "GGUF" : "compressed-tensors"),
               .where = "--quantize",
               .seen = options.quantize,
               .allowed = fmt::format("with --format safetensors: {}; with --format gguf: {}", fmt::join(folder, ", "),
                                      fmt::join(gguf, ", "))});
}

/// The plan of a type that only rounds: all projections.
PackingPlan plan_of_blocks(const ParameterLayout& layout, DType working) {
  PackingPlan plan{.working = working, .buffers = {}};
  for (const BufferInfo& info : layout.buffers()) {
    plan.buffers.emplace_back();
    if (info.kind == ParameterKind::projection)
      plan.buffers.back() = PackedProjection{.quantizer = {}, .rounded_because = "no training has such blocks"};
  }
  return plan;
}

PackingPlan make_plan(const ParameterLayout& layout, const Precision& precision, const PackedExportOptions& options) {
  if (options.gguf && options.quantize != "mxfp4") {
    if (std::ranges::none_of(gguf_names, [&](const GgufName& known) { return options.quantize == known.option; }))
      refuse_format(options);
    return plan_of_blocks(layout, precision.operands());
  }
  if (!options.gguf && options.quantize == trained_name)
    return plan_packing(layout, precision, trained_format(layout, precision));
  const std::optional<PackedFormat> format = packed_format_named(options.quantize);
  if (!format) refuse_format(options);
  return plan_packing(layout, precision, *format);
}

}  // namespace

PackedExport::PackedExport(Stream& stream, const ModelDescription& model, WeightSource& source,
                           const PackedExportOptions& options)
    : stream_(stream),
      model_(model),
      source_(source),
      precision_(precision_for(model.source, "")),
      plan_(make_plan(source.layout(), precision_, options)),
      multiplied_(std::make_unique<MultipliedWeights>(stream, source, plan_)),
      tokens_(options.tokens) {
  format_ = options.gguf ? options.quantize : std::string(name(plan_.format));
  for (const GgufName& known : gguf_names)
    if (options.gguf && options.quantize == known.option) blocks_ = &row_type(known.row_type);
  const bool says_activations = std::ranges::any_of(
      plan_.buffers, [](const auto& projection) { return projection && projection->input.quantizes(); });
  const bool wanted = says_activations && !options.gguf && !options.weights_only;
  // NVFP4's activations have a scale that only data can tell.
  activations_ = wanted && (plan_.format != PackedFormat::nvfp4 || !options.data.empty());
  if (!options.data.empty()) measure_before(options.data);
}

void PackedExport::measure_before(const std::string& data) {
  data_ = TokenData::open(data);
  data_->require_vocabulary(model_.config.vocabulary);
  require_tokenizer(model_, data_->tokenizer(), data_->path());
  const Loader loader(*data_, window_options(model_, 0, 0));
  LoadedModel loaded = load_model(model_.source.path, DType::f32, precision_.learns());
  WorkProgress progress("perplexity before", "windows");
  const Evaluation before = evaluate_trained(stream_, loaded, precision_, loader, tokens_,
                                             [&](int64_t done, int64_t of) { progress.update(done, of); });
  before_ = PerplexityChange{.before = before.perplexity(), .tokens = before.tokens};
  if (activations_ && plan_.format == PackedFormat::nvfp4)
    input_scales_ = activation_scales(stream_, loaded, precision_, plan_, loader, tokens_);
}

std::vector<TensorGroup> PackedExport::folder_groups(const RowType& other) {
  return packed_groups(stream_, source_, plan_, other, input_scales_);
}

nlohmann::ordered_json PackedExport::config() const { return packed_config(source_.layout(), plan_, activations_); }

const RowType& PackedExport::matrix_type(const ParameterInfo& info, const RowType& other) const {
  return plan_.buffers[static_cast<size_t>(info.buffer)] ? *blocks_ : other;
}

PerplexityChange PackedExport::measure(WeightSource& exported) {
  const Loader loader(*data_, window_options(model_, 0, 0));
  WorkProgress progress("perplexity after", "windows");
  PerplexityChange change = *before_;
  change.after = evaluate_exported(stream_, exported, loader, tokens_, [&](int64_t done, int64_t of) {
                   progress.update(done, of);
                 }).perplexity();
  return change;
}

std::map<std::string, std::string> PackedExport::facts() const {
  std::map<std::string, std::string> facts = {{"nibble.quantization", fmt::format("{}", fmt::join(notes(), "; "))}};
  if (!measures()) facts["nibble.perplexity"] = "not measured";
  return facts;
}

std::vector<std::string> PackedExport::notes() const {
  const int64_t packed = plan_.packed(), trained = plan_.trained(),
                all = std::ranges::count(source_.layout().buffers(), ParameterKind::projection, &BufferInfo::kind);
  std::vector<std::string> notes;
  if (trained > 0)
    notes.push_back(fmt::format("{} of {} projections: the {} codes that training multiplied", trained, all, format_));
  if (packed > trained)
    notes.push_back(fmt::format("{} of {} projections: rounded to the nearest {}, as {}", packed - trained, all,
                                format_, plan_.rounded_because()));
  if (packed < all)
    notes.push_back(fmt::format("{} of {} projections: as they are, as in training", all - packed, all));
  notes.emplace_back(activations_ ? "activations: quantized as in training" : "activations: not quantized");
  return notes;
}

}  // namespace nibble
