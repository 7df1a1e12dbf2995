#include <filesystem>
#include <string>
#include <vector>

#include "data/byte_level_tokenizer.hpp"
#include "data/choice_tasks.hpp"
#include "data/documents.hpp"
#include "data/json_fields.hpp"
#include "data/tokenizer.hpp"
#include "tests/fuzz/readers.hpp"
#include "tests/fuzz/scratch.hpp"
#include "trainer/fit_points.hpp"
#include "trainer/huggingface_config.hpp"
#include "trainer/metrics.hpp"
#include "trainer/report_page.hpp"
#include "trainer/resolve.hpp"
#include "trainer/settings_output.hpp"
#include "trainer/sweep_file.hpp"
#include "trainer/yaml_settings.hpp"

namespace nibble::fuzz {
namespace {

constexpr const char* good_settings =
    "model: {preset: tiny-byte}\ndata: {train: t.h5, sequence: 256}\nbatch: {tokens: 4096, micro: 8}\nsteps: 100\n"
    "run: {directory: runs/a}\n";

/// What follows from settings that were taken; and what is written of them must be taken again.
void use(const Settings& settings) {
  if (parse_settings(settings_yaml(settings), "resolved.yaml") != settings)
    throw std::logic_error("the settings do not read back: " + settings_yaml(settings));
  if (settings.model.from.empty()) model_config(settings, 259);
  resolve_steps(settings, 1'000'000'000);
}

void read_documents(const std::filesystem::path& path, const DocumentOptions& options) {
  DocumentReader reader({path.string()}, options);
  for (Document document; reader.next(document);) {
  }
}

}  // namespace

void read_settings(Bytes bytes) { use(parse_settings(text_of(bytes), "fuzz.yaml")); }

void read_overrides(Bytes bytes) {
  std::vector<std::string> overrides(1);
  for (const char c : text_of(bytes)) {
    if (c == '\n') overrides.emplace_back();
    else overrides.back() += c;
  }
  use(parse_settings(good_settings, "fuzz.yaml", overrides));
}

void read_config_json(Bytes bytes) {
  const nlohmann::json object = parse_json(text_of(bytes), "config.json", ErrorKind::checkpoint);
  const ModelConfig config = parse_huggingface_config(object, "config.json");
  const SpecialTokens tokens = parse_special_tokens(object, "config.json");
  const nlohmann::json written = huggingface_config(config, "bfloat16", tokens);
  if (parse_huggingface_config(written, "config.json") != config || parse_special_tokens(written, "c") != tokens)
    throw std::logic_error("config.json does not read back: " + written.dump());
}

void read_metrics(Bytes bytes) {
  for (const char* file : {"metrics.jsonl", "operands.jsonl"}) scratch().write(file, bytes);
  const ReportRun run = read_run(scratch().path(""), "fuzz");
  report_page({&run, 1});
  MetricsWriter metrics = MetricsWriter::resume(scratch().path(""), {"step", "loss"}, 1000);
  metrics.write({{"step", int64_t{1000}}, {"loss", 0.5}});
}

void read_json_lines(Bytes bytes) { read_documents(scratch().write("lines.jsonl", bytes), {}); }

void read_text(Bytes bytes) {
  const std::filesystem::path path = scratch().write("text", bytes);
  read_documents(path, {});
  read_documents(path, {.split_bytes = 16});
}

void read_tokenizer_json(Bytes bytes) {
  const ByteLevelTokenizer tokenizer({{tokenizer_json_file_name, std::string(text_of(bytes))}}, "fuzz");
  const std::vector<int32_t> ids = tokenizer.encode("some text's 123 <|end|>, \xC3\xA4\xE5\xB0\x8A and \n\tmore  ");
  tokenizer.decode(ids);
}

void read_choice_task(Bytes bytes) {
  const std::string file = scratch().write("task", bytes).string();
  nibble::read_choice_task(file, make_byte_tokenizer().get(), 259);
}

void read_point_table(Bytes bytes) {
  const bool json = !bytes.empty() && bytes.front() == '{';
  FitPoints points;
  nibble::read_point_table(scratch().write(json ? "points.jsonl" : "points.csv", bytes), points);
}

void read_sweep_file(Bytes bytes) { read_sweep(scratch().write("sweep.yaml", bytes)); }

void read_sentencepiece(Bytes bytes) {
  const auto tokenizer = make_sentencepiece_tokenizer(std::string(text_of(bytes)), "fuzz.model");
  const std::vector<int32_t> ids = tokenizer->encode("some text, \xC3\xA4\xE5\xB0\x8A and\n\tmore");
  tokenizer->decode(ids);
}

}  // namespace nibble::fuzz
