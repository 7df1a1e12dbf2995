#include "trainer/run_data.hpp"

#include <span>

#include "tensor/files.hpp"

namespace nibble {
namespace {

TokenizerInfo token_ids_of(const SyntheticLanguage& language) {
  const std::string text = language.describe();
  return {.identity = "synthetic",
          .hash = checksum(std::as_bytes(std::span(text))),
          .vocabulary = static_cast<int32_t>(language.options().vocabulary)};
}

}  // namespace

LoaderOptions loader_options(const Settings& settings) {
  return {.sequence = settings.data.sequence,
          .packing = settings.data.packing == "documents" ? Packing::documents : Packing::stream,
          .mask_documents = settings.data.attention_within_documents(),
          .seed = static_cast<uint64_t>(settings.run.seed)};
}

SyntheticWindows synthetic_windows(const Settings& settings, int64_t sequence) {
  const SyntheticSettings& language = settings.data.synthetic;
  return SyntheticWindows({.vocabulary = language.vocabulary,
                           .order = language.order,
                           .zipf = language.zipf,
                           .noise = language.noise,
                           .seed = static_cast<uint64_t>(language.seed)},
                          sequence, static_cast<uint64_t>(settings.run.seed));
}

nlohmann::json identity_of(const TokenData& data) { return {{"hash", hex(data.hash())}, {"tokens", data.tokens()}}; }

TokenizerInfo tokenizer_of_data(const Settings& settings) {
  if (!settings.data.is_synthetic()) return TokenData::open(settings.data.train).tokenizer();
  return token_ids_of(synthetic_windows(settings, settings.data.sequence).language());
}

RunData::RunData(const Settings& settings) {
  if (settings.data.is_synthetic()) {
    synthetic_ = std::make_unique<SyntheticWindows>(synthetic_windows(settings, settings.data.sequence));
    tokenizer_ = token_ids_of(synthetic_->language());
    train_ = validation_ = synthetic_.get();
    return;
  }
  train_file_ = TokenData::open(settings.data.train);
  tokenizer_ = train_file_->tokenizer();
  train_loader_ = std::make_unique<Loader>(*train_file_, loader_options(settings));
  train_ = train_loader_.get();
  if (settings.data.validation.empty()) return;
  validation_file_ = TokenData::open(settings.data.validation);
  require_same_tokenizer(*train_file_, *validation_file_);
  validation_loader_ = std::make_unique<Loader>(*validation_file_, loader_options(settings));
  validation_ = validation_loader_.get();
}

std::vector<TokenizerFile> RunData::tokenizer_files() const {
  return train_file_ ? train_file_->tokenizer_files() : std::vector<TokenizerFile>();
}

nlohmann::json RunData::identity() const {
  if (synthetic_) return {{"train", {{"synthetic", synthetic_->language().describe()}}}};
  nlohmann::json identity = {{"train", identity_of(*train_file_)}};
  if (validation_file_) identity["validation"] = identity_of(*validation_file_);
  return identity;
}

void RunData::require_vocabulary(int64_t model_vocabulary) const {
  if (train_file_) train_file_->require_vocabulary(model_vocabulary);
  if (validation_file_) validation_file_->require_vocabulary(model_vocabulary);
  if (!synthetic_ || tokenizer_.vocabulary <= model_vocabulary) return;
  throw Error({.kind = ErrorKind::configuration,
               .what = "the language has more tokens than the model",
               .where = "data.synthetic.vocabulary",
               .seen = std::to_string(tokenizer_.vocabulary),
               .allowed = "at most " + std::to_string(model_vocabulary),
               .next = "use a model with at least that vocabulary"});
}

}  // namespace nibble
