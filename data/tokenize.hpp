// From inputs to token shards: read, deduplicate, split off validation documents, encode, write.
//
// Not for: the command line (trainer/command_tokenize.hpp).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "data/deduplicate.hpp"
#include "data/documents.hpp"
#include "data/tokenizer.hpp"

namespace nibble {

struct TokenizeOptions {
  std::vector<std::string> inputs{};
  DocumentOptions documents{};
  std::string output{};
  double validation = 0;            ///< fraction of the documents, [0, 1)
  std::string validation_output{};  ///< needed where validation > 0
  bool deduplicate = false;
  bool append_eos = false;  ///< after every document; prompt/completion pairs always end with EOS
  int threads = 0;          ///< that encode; 0: all cores
  /// Called now and then with bytes read of the bytes of all inputs.
  std::function<void(int64_t read, int64_t total)> progress{};
};

struct ShardSummary {
  std::string path;
  int64_t documents = 0, tokens = 0, text_bytes = 0;
};

struct TokenizeSummary {
  TokenizerInfo tokenizer;
  ShardSummary train;
  std::optional<ShardSummary> validation;
  DocumentCounts counts;
  std::optional<DeduplicationCounts> deduplication;
  bool has_prompts = false;
};

/// Whether a document, as it was read, belongs to validation: by a hash of its content, so that it stays on its side
/// whatever is added, moved or renamed.
bool in_validation(const Document& document, double fraction);

/// BOS, then the document; EOS after pairs of prompt and completion. Throws Error{data} as readers and tokenizers do,
/// when the tokenizer names no EOS that is needed, and when either shard would be empty; Error{resource} when the disk
/// is full. Without an exception the output files are complete; with one neither of them was touched, unless only the
/// second failed while it got its name.
///
/// Memory does not grow with the number of documents (deduplication's does) but with the largest one: about 8 bytes for
/// each of its bytes with the byte tokenizer, and about 115 inside SentencePiece (measured); `split_bytes` bounds that.
TokenizeSummary tokenize(const TokenizeOptions& options, const Tokenizer& tokenizer);

/// A SentencePiece model of `vocabulary` pieces from the inputs' training documents, deduplicated if the options say
/// so; the contents of its file.
std::string train_sentencepiece(const TokenizeOptions& options, int64_t vocabulary);

}  // namespace nibble
