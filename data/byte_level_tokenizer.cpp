#include "data/byte_level_tokenizer.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "data/byte_alphabet.hpp"
#include "data/json_fields.hpp"
#include "data/normalization.hpp"
#include "fmt/format.h"
#include "tensor/files.hpp"

namespace nibble {
namespace {

/// "<|end|>", or {"content": "<|end|>", ...}, or nothing.
std::string special_token(const JsonFields& fields, const std::string& where, const std::string& key) {
  if (!fields.has(key)) return {};
  if (!fields.at(key).is_object()) return fields.text(key);
  return JsonFields(fields.object(key), fmt::format("{}: {}", where, key), ErrorKind::data).text("content");
}

}  // namespace

ByteLevelTokenizer::ByteLevelTokenizer(std::vector<TokenizerFile> files, const std::string& name) {
  files_ = std::move(files);
  const auto where = [&](const TokenizerFile& file) { return fmt::format("{}: {}", name, file.name); };
  json_ = parse_tokenizer_json(files_.front().contents, where(files_.front()));
  for (const TokenizerSplit& split : json_.splits)
    splits_.push_back({SplitPattern(split.expression, where(files_.front()) + ": pre_tokenizer"), split.keeps_gaps});
  for (const AddedToken& token : json_.added) {
    if (!token.normalized) added_.add(token.content, token.id);
    else added_normalized_.add(json_.nfc ? to_nfc(token.content) : token.content, token.id);
  }
  merges_ = BytePairMerges(json_.merges);

  info_.identity = fmt::format("{}{}", TokenizerInfo::huggingface_prefix, name);
  info_.vocabulary = static_cast<int32_t>(json_.tokens.size());
  info_.hash = hash();
  set_special_tokens(name);

  std::vector<const AddedToken*> added(json_.tokens.size());
  for (const AddedToken& token : json_.added) added[static_cast<size_t>(token.id)] = &token;
  for (size_t id = 0; id < json_.tokens.size(); ++id) {
    const std::string& token = json_.tokens[id];
    // An added token is its own text; one with characters outside the alphabet comes out as it is, too.
    if (added[id]) token_texts_.push_back(added[id]->special ? std::string() : token);
    else token_texts_.push_back(bytes_of_characters(token).value_or(token));
    if (!added[id] && token_texts_.back().size() == 1 && bytes_of_characters(token))
      byte_ids_[static_cast<unsigned char>(token_texts_.back()[0])] = static_cast<int32_t>(id);
  }
  find_whole_pieces();
}

void ByteLevelTokenizer::set_special_tokens(const std::string& name) {
  info_.bos = json_.before.value_or(-1);
  info_.eos = json_.after.value_or(-1);
  // The configuration says more than the map, and is read last.
  for (size_t i = files_.size() - 1; i > 0; --i) {
    const std::string where = fmt::format("{}: {}", name, files_[i].name);
    const nlohmann::json object = parse_json(files_[i].contents, where, ErrorKind::data);
    const JsonFields fields(object, where, ErrorKind::data);
    const auto set = [&](const char* key, int32_t& id) {
      const std::string content = special_token(fields, where, key);
      if (content.empty()) return;
      id = id_of(content);
      if (id < 0) fields.refuse(key, "a special token is not in the vocabulary", "a token of tokenizer.json");
    };
    set("eos_token", info_.eos);
    set("pad_token", info_.pad);
  }
}

int32_t ByteLevelTokenizer::id_of(const std::string& content) const {
  const auto added = std::ranges::find(json_.added, content, &AddedToken::content);
  if (added != json_.added.end()) return added->id;
  const auto token = std::ranges::find(json_.tokens, content);
  return token == json_.tokens.end() ? -1 : static_cast<int32_t>(token - json_.tokens.begin());
}

uint64_t ByteLevelTokenizer::hash() const {
  // Of what was read, not of the file: programs write the same tokenizer in many ways.
  nlohmann::json all = {{"tokens", json_.tokens}, {"ignore_merges", json_.ignore_merges}, {"nfc", json_.nfc}};
  for (const BytePairMerges::Merge& merge : json_.merges) all["merges"].push_back({merge.left, merge.right});
  for (const TokenizerSplit& split : json_.splits) all["splits"].push_back({split.expression, split.keeps_gaps});
  for (const AddedToken& token : json_.added) all["added"].push_back({token.id, token.content, token.normalized});
  return checksum(bytes_of(all.dump()));
}

void ByteLevelTokenizer::find_whole_pieces() {
  BytePairMerges::Scratch scratch;
  std::vector<int32_t> ids;
  std::unordered_map<std::string, int32_t, ViewHash, std::equal_to<>> found;
  for (size_t id = 0; id < json_.tokens.size(); ++id) {
    const std::optional<std::string> bytes = bytes_of_characters(json_.tokens[id]);
    if (!bytes || bytes->empty()) continue;
    ids.clear();
    if (!json_.ignore_merges) encode_piece(*bytes, ids, scratch);
    if (json_.ignore_merges || (ids.size() == 1 && ids[0] == static_cast<int32_t>(id)))
      found.emplace(*bytes, static_cast<int32_t>(id));
  }
  whole_pieces_ = std::move(found);
}

void ByteLevelTokenizer::encode(std::string_view text, std::vector<int32_t>& ids) const {
  require_utf8(text);
  BytePairMerges::Scratch scratch;
  encode_given(text, ids, scratch);
}

namespace {

/// Tells `between` the texts that `finder` finds nothing in, and adds the ids of what it finds.
template <class Between>
void around_added(const AddedTokenFinder& finder, std::string_view text, std::vector<int32_t>& ids, Between&& between) {
  size_t from = 0;
  while (!finder.empty()) {
    const auto match = finder.find(text, from);
    if (!match) break;
    if (match->begin > from) between(text.substr(from, match->begin - from));
    ids.push_back(match->id);
    from = match->end;
  }
  if (from < text.size()) between(text.substr(from));
}

}  // namespace

void ByteLevelTokenizer::encode_given(std::string_view text, std::vector<int32_t>& ids,
                                      BytePairMerges::Scratch& scratch) const {
  around_added(added_, text, ids, [&](std::string_view part) {
    if (json_.nfc) encode_normalized(to_nfc(part), ids, scratch);
    else encode_normalized(part, ids, scratch);
  });
}

void ByteLevelTokenizer::encode_normalized(std::string_view text, std::vector<int32_t>& ids,
                                           BytePairMerges::Scratch& scratch) const {
  around_added(added_normalized_, text, ids, [&](std::string_view part) { cut(part, 0, ids, scratch); });
}

void ByteLevelTokenizer::cut(std::string_view piece, size_t split, std::vector<int32_t>& ids,
                             BytePairMerges::Scratch& scratch) const {
  if (split == splits_.size()) return encode_piece(piece, ids, scratch);
  const Split& how = splits_[split];
  size_t from = 0;
  while (from < piece.size()) {
    const auto match = how.pattern.find(piece, from);
    const size_t begin = match ? match->begin : piece.size();
    if (begin > from && how.keeps_gaps) cut(piece.substr(from, begin - from), split + 1, ids, scratch);
    if (!match) break;
    cut(piece.substr(begin, match->end - begin), split + 1, ids, scratch);
    from = match->end;
  }
}

void ByteLevelTokenizer::encode_piece(std::string_view piece, std::vector<int32_t>& ids,
                                      BytePairMerges::Scratch& scratch) const {
  if (const auto whole = whole_pieces_.find(piece); whole != whole_pieces_.end()) return ids.push_back(whole->second);
  const size_t first = ids.size();
  for (const char byte : piece) ids.push_back(byte_ids_[static_cast<unsigned char>(byte)]);
  merges_.apply(ids, first, scratch);
}

}  // namespace nibble
