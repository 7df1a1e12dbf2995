// What a run learns and is judged by: files of tokens, or a synthetic language.
//
// Not for: windows (data/loader.hpp, data/synthetic_windows.hpp).
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "data/loader.hpp"
#include "data/synthetic_windows.hpp"
#include "trainer/settings.hpp"

namespace nibble {

LoaderOptions loader_options(const Settings& settings);
/// Windows of `sequence` tokens of the language that the settings describe. Throws Error{configuration} where they
/// describe none.
SyntheticWindows synthetic_windows(const Settings& settings, int64_t sequence);

/// What identifies a file of tokens in the records of a run: its hash and the number of tokens.
nlohmann::json identity_of(const TokenData& data);

/// What the data says of its token ids; opens data.train, if there is one.
TokenizerInfo tokenizer_of_data(const Settings& settings);

class RunData {
 public:
  /// Opens what the settings name. Throws as TokenData::open, Loader and SyntheticLanguage do, and Error{data} when
  /// the two files were made with different tokenizers.
  explicit RunData(const Settings& settings);
  RunData(const RunData&) = delete;
  RunData& operator=(const RunData&) = delete;

  const WindowSource& train() const { return *train_; }
  const WindowSource* validation() const { return validation_; }  ///< null: none
  const SyntheticLanguage* language() const { return synthetic_ ? &synthetic_->language() : nullptr; }
  const TokenizerInfo& tokenizer() const { return tokenizer_; }
  /// What makes the tokenizer, for checkpoints; none where its identity says all.
  std::vector<TokenizerFile> tokenizer_files() const;
  nlohmann::json identity() const;
  /// Throws Error{data} as TokenData::require_vocabulary does; of a language, Error{configuration}.
  void require_vocabulary(int64_t model_vocabulary) const;

 private:
  std::optional<TokenData> train_file_, validation_file_;
  std::unique_ptr<Loader> train_loader_, validation_loader_;
  std::unique_ptr<SyntheticWindows> synthetic_;
  TokenizerInfo tokenizer_;
  const WindowSource *train_ = nullptr, *validation_ = nullptr;
};

}  // namespace nibble
