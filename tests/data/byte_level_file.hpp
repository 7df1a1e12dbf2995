// The fixture byte_level.json.xz, and variants of it as other models' files are.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "data/byte_level_tokenizer.hpp"
#include "data/byte_source.hpp"
#include "tests/data/test_files.hpp"

namespace nibble::test {

/// Written by `tokenizers` in Llama 3's configuration.
inline const std::string& byte_level_text() {
  static const std::string text = [] {
    const std::unique_ptr<ByteSource> source = open_source(fixture("byte_level.json.xz"));
    std::string all;
    char block[1 << 16];
    while (const size_t count = source->read(block, sizeof block)) all.append(block, count);
    return all;
  }();
  return text;
}

inline nlohmann::json byte_level_json() { return nlohmann::json::parse(byte_level_text()); }

/// "llama3", "gpt2" (ByteLevel's own expression, merges as texts), "qwen2" (NFC, single digits, merges before whole
/// pieces), "smollm" (digits first), "o200k" (cases and marks; only matches are kept). No variant but the first and
/// the last has a template.
inline nlohmann::json byte_level_variant(const std::string& name) {
  using nlohmann::json;
  json file = byte_level_json();
  const json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}};
  const auto split = [&]() -> json& { return file["pre_tokenizer"]["pretokenizers"][0]; };
  if (name == "gpt2") {
    file["pre_tokenizer"] = byte_level;
    for (json& merge : file["model"]["merges"]) merge = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
    file["post_processor"] = byte_level;
  } else if (name == "qwen2") {
    file["normalizer"] = {{"type", "NFC"}};
    split()["pattern"]["Regex"] =
        R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
    file["post_processor"] = nullptr;
  } else if (name == "smollm") {
    file["pre_tokenizer"] = {
        {"type", "Sequence"},
        {"pretokenizers", json::array({{{"type", "Digits"}, {"individual_digits", true}}, byte_level})}};
    file["post_processor"] = nullptr;
  } else if (name == "o200k") {
    split()["pattern"]["Regex"] =
        R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
        R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
        R"(\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
    split()["behavior"] = "Removed";
    split()["invert"] = true;
  }
  if (name == "gpt2" || name == "qwen2" || name == "smollm") file["model"]["ignore_merges"] = false;
  return file;
}

inline std::unique_ptr<ByteLevelTokenizer> make_byte_level(const nlohmann::json& file) {
  return std::make_unique<ByteLevelTokenizer>(std::vector<TokenizerFile>{{tokenizer_json_file_name, file.dump()}},
                                              "test");
}

}  // namespace nibble::test
