// Multiple-choice questions from files: llm.c's evaluation files, and JSON lines.
//
// Not for: what a model answers (trainer/task_evaluation.hpp).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/tokenizer.hpp"

namespace nibble {

struct Choice {
  std::vector<int32_t> ids;  ///< that are scored, behind the question's context
  double length = 0;         ///< what its log-probability is divided by when normalized
};

struct ChoiceQuestion {
  std::vector<std::vector<int32_t>> contexts;  ///< ids before each choice's: BOS and the context
  std::vector<Choice> choices;                 ///< at least two
  size_t answer = 0;                           ///< the right one
};

struct ChoiceTask {
  std::string normalized_by;  ///< "bytes" or "tokens": what Choice::length counts
  std::vector<ChoiceQuestion> questions;
};

/// llm.c's files (dev/data/data_common.py: magic 20240522, GPT-2's tokens), told by their first bytes, hold ids, which
/// are taken as they are; lengths are tokens, as llm.c divides. Others are JSON lines, plain or compressed:
///
///   {"context": "The sky is", "choices": ["blue.", "made of cheese."], "answer": 0}
///
/// with "query" or "ctx" for "context", "endings" for "choices", "label" or "gold" for "answer", which is a number from
/// 0, of one digit also as a text, or a letter from "A". A space goes between a context and a choice, unless one of them has white
/// space there or the context is empty. Both are encoded together; the choice's tokens are those behind as many as the
/// context alone has (the rule of lm-evaluation-harness), and lengths are bytes of the choice.
///
/// `tokenizer` may be null for llm.c's files. Throws Error{data} with the line or the example: a damaged file, fewer
/// than two choices, an answer that is none of them, ids outside `vocabulary`, a choice without tokens or without
/// anything before it, JSON lines without a tokenizer.
ChoiceTask read_choice_task(const std::string& path, const Tokenizer* tokenizer, int64_t vocabulary);

}  // namespace nibble
