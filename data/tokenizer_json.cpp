#include "data/tokenizer_json.hpp"

#include <functional>
#include <unordered_map>

#include "data/byte_alphabet.hpp"
#include "data/json_fields.hpp"
#include "data/split_pattern.hpp"
#include "fmt/format.h"

namespace nibble {

const char* const gpt2_expression = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

namespace {

using nlohmann::json;

constexpr ErrorKind kind = ErrorKind::data;
constexpr int64_t largest_id = (1 << 22) - 1;  // far above any vocabulary, and a table of it is small
constexpr const char* other_tokenizer =
    "choose a model with a byte-level BPE (Llama 3, Qwen, GPT-2) or a SentencePiece tokenizer.model";

/// A part of the file: an object with a type.
class Part {
 public:
  Part(const json& object, std::string where) : where_(std::move(where)), fields_(object, where_, kind) {}

  std::string type() const { return fields_.has("type") ? fields_.text("type") : std::string(); }
  const JsonFields& fields() const { return fields_; }
  const std::string& where() const { return where_; }
  Part inner(const std::string& key) const { return {fields_.object(key), where_ + ": " + key}; }

  [[noreturn]] void refuse_type(const std::string& what, const std::string& allowed) const {
    fields_.refuse("type", what, allowed, other_tokenizer);
  }
  /// The key must be absent, null, or have this value.
  void require(const std::string& key, const json& value) const {
    if (fields_.has(key) && fields_.at(key) != value)
      fields_.refuse(key, "the tokenizer has an option that Nibble does not follow", value.dump(), other_tokenizer);
  }
  void visit(const std::string& list, const std::function<void(const Part&)>& action) const {
    for (const json& item : fields_.array(list)) action({item, where_ + ": " + list});
  }

 private:
  std::string where_;
  JsonFields fields_;
};

class Reader {
 public:
  Reader(const json& object, const std::string& where) : file_(object, where) {}

  TokenizerJson read() {
    read_model(file_.inner("model"));
    if (file_.fields().has("added_tokens"))
      file_.visit("added_tokens", [this](const Part& token) { read_added(token); });
    if (file_.fields().has("normalizer")) read_normalizer(file_.inner("normalizer"));
    read_pre_tokenizers();
    if (file_.fields().has("post_processor")) read_post_processor(file_.inner("post_processor"));
    if (file_.fields().has("decoder"))
      if (const Part decoder = file_.inner("decoder"); decoder.type() != "ByteLevel")
        decoder.refuse_type("the tokenizer's decoder is not one that Nibble reads", "\"ByteLevel\"");
    return std::move(result_);
  }

 private:
  void read_model(const Part& model) {
    if (model.fields().has("type") && model.type() != "BPE")
      model.refuse_type("the tokenizer is not a byte-pair encoding", "\"BPE\"");
    model.require("dropout", 0.0);
    model.require("continuing_subword_prefix", "");
    model.require("end_of_word_suffix", "");
    result_.ignore_merges = model.fields().flag_or("ignore_merges", false);
    read_vocabulary(model.fields());
    read_merges(model.fields());
  }

  void read_vocabulary(const JsonFields& model) {
    const json& vocabulary = model.object("vocab");
    const JsonFields ids(vocabulary, file_.where() + ": model: vocab", kind);
    for (const auto& item : vocabulary.items()) {
      if (item.key().empty()) continue;
      const auto id = static_cast<int32_t>(ids.integer(item.key(), 0, largest_id));
      if (!text_of(id).empty()) ids.refuse(item.key(), "two tokens have one id", "an id for each token");
      place(item.key(), id);
    }
    for (int byte = 0; byte < 256; ++byte)
      if (const std::string& character = byte_character(static_cast<unsigned char>(byte)); !ids_.contains(character))
        throw Error({.kind = kind,
                     .what = "the tokenizer's vocabulary lacks a byte, so it is not byte-level",
                     .where = file_.where() + ": model: vocab",
                     .seen = fmt::format("no token \"{}\" for byte 0x{:02x}", character, byte),
                     .allowed = "a token for each of the 256 bytes",
                     .next = other_tokenizer});
  }

  void read_merges(const JsonFields& model) {
    for (const json& item : model.array("merges")) {
      std::string left, right;
      if (item.is_string()) {  // until tokenizers 0.20 "a b", then ["a", "b"]
        const auto& both = item.get_ref<const std::string&>();
        const size_t space = both.find(' ');
        if (space != std::string::npos && both.find(' ', space + 1) == std::string::npos)
          left = both.substr(0, space), right = both.substr(space + 1);
      } else if (item.is_array() && item.size() == 2 && item[0].is_string() && item[1].is_string()) {
        left = item[0].get<std::string>(), right = item[1].get<std::string>();
      }
      const auto id = [&](const std::string& token) {
        const auto found = ids_.find(token);
        if (token.empty() || found == ids_.end())
          throw Error({.kind = kind,
                       .what = "a merge is not one of two tokens to a third",
                       .where = fmt::format("{}: model: merges: {}", file_.where(), result_.merges.size()),
                       .seen = excerpt(item),
                       .allowed = "\"a b\" or [\"a\", \"b\"], where a, b and ab are in the vocabulary",
                       .next = damaged_or_foreign});
        return found->second;
      };
      result_.merges.push_back({id(left), id(right), id(left + right)});
    }
  }

  void read_added(const Part& token) {
    const JsonFields& fields = token.fields();
    for (const char* key : {"single_word", "lstrip", "rstrip"}) token.require(key, false);
    AddedToken added{.id = static_cast<int32_t>(fields.integer("id", 0, largest_id)),
                     .content = fields.text("content"),
                     .special = fields.flag_or("special", false),
                     .normalized = fields.flag_or("normalized", false)};
    if (added.content.empty()) fields.refuse("content", "an added token is empty", "a text of at least one byte");
    const auto known = ids_.find(added.content);
    if (known != ids_.end() ? known->second != added.id : !text_of(added.id).empty())
      fields.refuse("id", "an added token and the vocabulary contradict each other",
                    known != ids_.end() ? std::to_string(known->second) : std::string("an id that no token has"));
    place(added.content, added.id);
    result_.added.push_back(std::move(added));
  }

  void read_normalizer(const Part& normalizer) {
    if (normalizer.type() == "Sequence") {
      normalizer.visit("normalizers", [this](const Part& part) { read_normalizer(part); });
    } else {
      if (normalizer.type() != "NFC")
        normalizer.refuse_type("the tokenizer's normalizer is not one that Nibble reads", "null or \"NFC\"");
      result_.nfc = true;
    }
  }

  void read_pre_tokenizers() {
    if (file_.fields().has("pre_tokenizer")) read_pre_tokenizer(file_.inner("pre_tokenizer"));
    if (!byte_level_)
      file_.fields().refuse("pre_tokenizer", "the tokenizer is not byte-level", "a pre_tokenizer \"ByteLevel\"",
                            other_tokenizer);
  }

  void read_pre_tokenizer(const Part& part) {
    const std::string type = part.type();
    if (type == "Sequence") return part.visit("pretokenizers", [this](const Part& each) { read_pre_tokenizer(each); });
    if (byte_level_)
      part.refuse_type("a pre_tokenizer stands behind ByteLevel", "ByteLevel as the last of the sequence");
    if (type == "ByteLevel") {
      // The crate's default is true.
      if (part.fields().flag_or("add_prefix_space", true))
        part.fields().refuse("add_prefix_space", "the tokenizer has an option that Nibble does not follow", "false",
                             other_tokenizer);
      if (part.fields().flag_or("use_regex", true)) result_.splits.push_back({gpt2_expression});
      byte_level_ = true;
    } else if (type == "Split") {
      read_split(part);
    } else if (type == "Digits") {
      result_.splits.push_back({part.fields().flag_or("individual_digits", false) ? R"(\p{N})" : R"(\p{N}+)"});
    } else {
      part.refuse_type("the tokenizer's pre_tokenizer is not one that Nibble reads",
                       "\"ByteLevel\", \"Split\", \"Digits\" or a \"Sequence\" of these");
    }
  }

  void read_split(const Part& part) {
    const Part pattern = part.inner("pattern");
    TokenizerSplit split{pattern.fields().has("String") ? SplitPattern::literal(pattern.fields().text("String"))
                                                        : pattern.fields().text("Regex")};
    const std::string& behavior = part.fields().text("behavior");
    const bool inverted = part.fields().flag_or("invert", false);
    split.keeps_gaps = behavior == "Isolated";
    if (!split.keeps_gaps && !(behavior == "Removed" && inverted))
      part.fields().refuse("behavior", "the tokenizer splits in a way that Nibble does not follow",
                           "\"Isolated\", or \"Removed\" with \"invert\": true", other_tokenizer);
    result_.splits.push_back(std::move(split));
  }

  void read_post_processor(const Part& processor) {
    const std::string type = processor.type();
    if (type == "Sequence")
      return processor.visit("processors", [this](const Part& part) { read_post_processor(part); });
    if (type == "ByteLevel") return;  // of offsets
    if (type != "TemplateProcessing")
      processor.refuse_type("the tokenizer's post_processor is not one that Nibble reads",
                            "null, \"ByteLevel\", \"TemplateProcessing\" or a \"Sequence\" of these");
    bool text_seen = false;
    processor.visit("single", [&](const Part& item) {
      if (item.fields().has("Sequence")) {
        text_seen = true;
        return;
      }
      std::optional<int32_t>& place = text_seen ? result_.after : result_.before;
      if (place)
        processor.fields().refuse("single", "the template puts several tokens on one side of the text",
                                  "at most one before it and one behind it", other_tokenizer);
      place = template_token(processor, item.inner("SpecialToken").fields().text("id"));
    });
  }

  int32_t template_token(const Part& processor, const std::string& name) const {
    const Part tokens = processor.inner("special_tokens");
    const Part token = tokens.inner(name);
    const json& ids = token.fields().array("ids");
    const bool fits = ids.size() == 1 && ids[0].is_number_unsigned() &&
                      ids[0].get<uint64_t>() < result_.tokens.size() && !result_.tokens[ids[0].get<size_t>()].empty();
    if (!fits) token.fields().refuse("ids", "a token of the template cannot be", "the id of one token");
    return ids[0].get<int32_t>();
  }

  const std::string& text_of(int32_t id) const {
    static const std::string none;
    return static_cast<size_t>(id) < result_.tokens.size() ? result_.tokens[static_cast<size_t>(id)] : none;
  }
  void place(const std::string& token, int32_t id) {
    if (static_cast<size_t>(id) >= result_.tokens.size()) result_.tokens.resize(static_cast<size_t>(id) + 1);
    result_.tokens[static_cast<size_t>(id)] = token;
    ids_[token] = id;
  }

  Part file_;
  TokenizerJson result_;
  std::unordered_map<std::string, int32_t> ids_;
  bool byte_level_ = false;
};

}  // namespace

TokenizerJson parse_tokenizer_json(std::string_view text, const std::string& where) {
  const json object = parse_json(text, where, kind);
  return Reader(object, where).read();
}

}  // namespace nibble
