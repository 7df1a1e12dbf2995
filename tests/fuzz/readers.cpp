#include "tests/fuzz/readers.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

namespace nibble::fuzz {
namespace {

constexpr Reader all_readers[] = {
    {"settings", ErrorKind::configuration, read_settings},
    {"overrides", ErrorKind::configuration, read_overrides},
    {"config_json", ErrorKind::checkpoint, read_config_json},
    {"metrics", ErrorKind::checkpoint, read_metrics},
    {"json_lines", ErrorKind::data, read_json_lines},
    {"text", ErrorKind::data, read_text},
    {"sentencepiece", ErrorKind::data, read_sentencepiece},
    {"tokenizer_json", ErrorKind::data, read_tokenizer_json},
    {"choice_task", ErrorKind::data, read_choice_task},
    {"point_table", ErrorKind::data, read_point_table},
    {"sweep_file", ErrorKind::configuration, read_sweep_file},
    {"safetensors", ErrorKind::checkpoint, read_safetensors},
    {"gguf", ErrorKind::checkpoint, read_gguf},
    {"weights_index", ErrorKind::checkpoint, read_weights_index},
    {"manifest_text", ErrorKind::checkpoint, read_manifest_text},
    {"manifest_fields", ErrorKind::checkpoint, read_manifest_fields},
    {"checkpoint_state", ErrorKind::checkpoint, read_checkpoint_state},
    {"token_shard", ErrorKind::data, read_token_shard},
    {"shard_contents", ErrorKind::data, read_shard_contents},
    {"stream_message", ErrorKind::communication, read_stream_message},
    {"stream_fields", ErrorKind::communication, read_stream_fields},
    {"code_message", ErrorKind::communication, read_code_message},
    {"code_fields", ErrorKind::communication, read_code_fields},
};

}  // namespace

std::span<const Reader> readers() { return all_readers; }

const Reader& find_reader(std::string_view name) {
  const auto found = std::ranges::find(all_readers, name, &Reader::name);
  if (found == std::end(all_readers)) {
    std::string names;
    for (const Reader& reader : all_readers) names += fmt::format("{}{}", names.empty() ? "" : ", ", reader.name);
    throw Error({.kind = ErrorKind::configuration,
                 .what = "no such reader",
                 .where = "command line",
                 .seen = std::string(name),
                 .allowed = names});
  }
  return *found;
}

bool fuzz_one(const Reader& reader, Bytes bytes) {
  try {
    reader.read(bytes);
    return true;
  } catch (const Error& error) {
    const ErrorDetail& detail = error.detail();
    if (error.kind() != reader.kind)
      throw std::logic_error(
          fmt::format("a {} error instead of a {} error: {}", name(error.kind()), name(reader.kind), error.what()));
    if (detail.what.empty() || detail.where.empty() || (detail.seen + detail.allowed + detail.next).empty())
      throw std::logic_error(fmt::format("an incomplete message: {}", error.what()));
    return false;
  }
}

}  // namespace nibble::fuzz
