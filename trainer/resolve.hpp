// What follows from the settings together: contradictions between them, the model's shape, the number of steps.
//
// Not for the range of a single setting (trainer/settings_table.hpp).
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "model/config.hpp"
#include "trainer/settings.hpp"

namespace nibble {

/// Where each setting that was given came from, by key: "run.yaml:3:14" or "--set batch.micro=4".
using SettingOrigins = std::map<std::string, std::string>;

/// Throws Error{configuration} for the first contradiction between settings; the full list stands in resolve.cpp.
/// Loading from YAML calls this; a program that fills Settings itself calls it too. Opens no file.
void validate(const Settings& settings, const SettingOrigins& origins = {});

/// The shape of a new model: explicit dimensions, then the preset's, then what follows from the others (kv_heads =
/// heads, head_dim = width / heads, ffn = llama_ffn(width), context = data.sequence, vocab = the tokenizer's).
/// Not for model.from, whose files carry their own shape.
/// Throws Error{configuration} when the vocabulary is smaller than the tokenizer's, a dimension is missing, or the
/// shape is refused by ModelConfig::validate.
ModelConfig model_config(const Settings& settings, int64_t tokenizer_vocabulary);

/// The number of optimizer steps, at least 1. `tokens` and `epochs` are rounded down to whole steps;
/// `epoch_tokens` is what one epoch of the training data holds, in input tokens (windows x sequence), and is read only
/// where `epochs` is set.
/// Throws Error{configuration} when that makes no whole step or warm-up and decay take more steps than there are.
int64_t resolve_steps(const Settings& settings, int64_t epoch_tokens);

}  // namespace nibble
