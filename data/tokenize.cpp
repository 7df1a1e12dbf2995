#include "data/tokenize.hpp"

#include <omp.h>

#include <exception>

#include "data/sentencepiece_training.hpp"
#include "data/shard_writer.hpp"
#include "fmt/format.h"
#include "tensor/files.hpp"

namespace nibble {
namespace {

// Documents are encoded in parallel a group at a time; a group this large keeps every thread busy.
constexpr int64_t group_bytes = int64_t{4} << 20;

/// Documents after deduplication, each with its side: training or validation.
class SplitReader {
 public:
  explicit SplitReader(const TokenizeOptions& options)
      : reader_(options.inputs, options.documents), validation_(options.validation) {
    if (options.deduplicate) deduplicator_.emplace();
  }

  bool next(Document& document, bool& validation) {
    while (reader_.next(document)) {
      // Before lines are dropped: they depend on the other documents, a document's side must not.
      validation = in_validation(document, validation_);
      if (!deduplicator_ || deduplicator_->keep(document)) return true;
    }
    return false;
  }
  const DocumentReader& reader() const { return reader_; }
  const std::optional<Deduplicator>& deduplicator() const { return deduplicator_; }

 private:
  DocumentReader reader_;
  double validation_;
  std::optional<Deduplicator> deduplicator_;
};

struct Encoded {
  std::vector<int32_t> ids;
  int64_t prompt_tokens = 0;
};

Encoded encode(const Document& document, const Tokenizer& tokenizer, bool append_eos) {
  Encoded result;
  if (tokenizer.bos() >= 0) result.ids.push_back(tokenizer.bos());
  if (document.prompt) {
    tokenizer.encode(*document.prompt, result.ids);
    result.prompt_tokens = static_cast<int64_t>(result.ids.size());
    if (document.prompt->empty()) tokenizer.encode(document.text, result.ids);
    else tokenizer.encode_continuation(document.text, result.ids);
  } else {
    tokenizer.encode(document.text, result.ids);
  }
  if (append_eos || document.prompt) {
    if (tokenizer.eos() < 0)
      throw Error({.kind = ErrorKind::data,
                   .what = "documents are to end with EOS, and the tokenizer names none",
                   .seen = tokenizer.info().identity,
                   .allowed = "\"eos_token\" in the tokenizer_config.json beside tokenizer.json",
                   .next = "put that file there, or leave --append-eos and prompts out"});
    result.ids.push_back(tokenizer.eos());
  }
  return result;
}

std::vector<Encoded> encode_group(const std::vector<Document>& documents, const Tokenizer& tokenizer, bool append_eos,
                                  int threads) {
  std::vector<Encoded> results(documents.size());
  std::vector<std::exception_ptr> failures(documents.size());
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (size_t i = 0; i < documents.size(); ++i) {
    try {
      results[i] = encode(documents[i], tokenizer, append_eos);
    } catch (...) {
      failures[i] = std::current_exception();
    }
  }
  for (size_t i = 0; i < documents.size(); ++i) {
    if (!failures[i]) continue;
    try {
      std::rethrow_exception(failures[i]);
    } catch (const Error& error) {
      ErrorDetail detail = error.detail();
      detail.where = documents[i].id + (detail.where.empty() ? "" : ", " + detail.where);
      throw Error(detail);
    }
  }
  return results;
}

ShardSummary summarise(const std::string& path, const ShardWriter& writer) {
  return {path, writer.documents(), writer.tokens(), writer.text_bytes()};
}

void require_documents(const std::string& path, const ShardWriter& writer, bool validation) {
  if (writer.documents() > 0) return;
  throw Error({.kind = ErrorKind::data,
               .what = validation ? "no document fell to validation" : "no document is left for training",
               .where = path,
               .seen = "0 documents",
               .next = "one file is one document: cut it with --split-documents 16KiB, or change --validation"});
}

}  // namespace

bool in_validation(const Document& document, double fraction) {
  Checksum hash;
  if (document.prompt) hash.update(bytes_of(*document.prompt));
  hash.update(bytes_of(document.text));
  return static_cast<double>(hash.value()) * 0x1p-64 < fraction;
}

TokenizeSummary tokenize(const TokenizeOptions& options, const Tokenizer& tokenizer) {
  const int threads = options.threads > 0 ? options.threads : omp_get_max_threads();
  SplitReader reader(options);
  ShardWriter train(options.output, tokenizer);
  std::optional<ShardWriter> validation;
  if (options.validation > 0) validation.emplace(options.validation_output, tokenizer);

  TokenizeSummary summary;
  bool more = true;
  while (more) {
    std::vector<Document> group;
    std::vector<bool> in_validation_shard;
    int64_t bytes = 0;
    Document document;
    bool validates = false;
    while (bytes < group_bytes && (more = reader.next(document, validates))) {
      summary.has_prompts |= document.prompt.has_value();
      bytes += document.bytes();
      group.push_back(std::move(document));
      in_validation_shard.push_back(validates);
      document = {};
    }
    const std::vector<Encoded> encoded = encode_group(group, tokenizer, options.append_eos, threads);
    for (size_t i = 0; i < group.size(); ++i) {
      ShardWriter& writer = in_validation_shard[i] ? *validation : train;
      writer.add(encoded[i].ids, encoded[i].prompt_tokens, static_cast<int64_t>(group[i].text.size()));
    }
    if (options.progress) options.progress(reader.reader().bytes_read(), reader.reader().total_bytes());
  }
  require_documents(options.output, train, false);
  if (validation) require_documents(options.validation_output, *validation, true);
  train.finish();
  if (validation) validation->finish();

  summary.tokenizer = tokenizer.info();
  summary.train = summarise(options.output, train);
  if (validation) summary.validation = summarise(options.validation_output, *validation);
  summary.counts = reader.reader().counts();
  if (reader.deduplicator()) summary.deduplication = reader.deduplicator()->counts();
  return summary;
}

std::string train_sentencepiece(const TokenizeOptions& options, int64_t vocabulary) {
  SplitReader reader(options);
  SentencePieceTraining training;
  Document document;
  bool validates = false;
  for (int64_t count = 0; reader.next(document, validates); ++count) {
    if (validates) continue;
    if (document.prompt) training.add(*document.prompt, document.id);
    training.add(document.text, document.id);
    if (options.progress && count % 256 == 0)
      options.progress(reader.reader().bytes_read(), reader.reader().total_bytes());
  }
  return training.train(vocabulary);
}

}  // namespace nibble
