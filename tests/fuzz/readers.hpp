// Every reader of foreign input as one function over bytes, for both drivers of the fuzzing: libFuzzer (libfuzzer.cpp)
// and our own (mutation_fuzz.cpp). A reader keeps its word when it returns, or throws a complete Error of its kind.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "tensor/error.hpp"

namespace nibble::fuzz {

using Bytes = std::span<const uint8_t>;

struct Reader {
  std::string_view name;      ///< also of its folder in corpus/ and of its libFuzzer target
  ErrorKind kind;             ///< of its errors: who would have to act
  void (*read)(Bytes bytes);  ///< reads all that the bytes hold, as the program would
};

std::span<const Reader> readers();

/// Throws Error{configuration} for a name that no reader has.
const Reader& find_reader(std::string_view name);

/// Whether the reader took the bytes (else it refused them). Throws whatever else the reader throws, and
/// std::logic_error for an Error that is of another kind or says too little.
bool fuzz_one(const Reader& reader, Bytes bytes);

// The readers, by the file that they stand in.
void read_settings(Bytes bytes);     // readers_of_text.cpp
void read_overrides(Bytes bytes);    // one on each line, as after --set
void read_config_json(Bytes bytes);  // Hugging Face
void read_metrics(Bytes bytes);      // as a report and a resume do
void read_json_lines(Bytes bytes);
void read_text(Bytes bytes);            // plain or compressed
void read_sentencepiece(Bytes bytes);   // a model, which then encodes
void read_tokenizer_json(Bytes bytes);  // a tokenizer, which then encodes
void read_choice_task(Bytes bytes);     // JSON lines, or an evaluation file of llm.c
void read_point_table(Bytes bytes);     // of `nibble fit`: CSV, or JSON lines where it begins with {
void read_sweep_file(Bytes bytes);      // its YAML, not the runs that follow
void read_safetensors(Bytes bytes);     // readers_of_models.cpp
void read_gguf(Bytes bytes);
void read_weights_index(Bytes bytes);  // model.safetensors.index.json
void read_manifest_text(Bytes bytes);
void read_manifest_fields(Bytes bytes);   // a manifest whose checksum is made right
void read_checkpoint_state(Bytes bytes);  // a script (hdf5_script.hpp) of rank_0000.h5, whose checksum is right
void read_token_shard(Bytes bytes);       // readers_of_tokens.cpp; llm.c's files too
void read_shard_contents(Bytes bytes);    // a script of a token shard whose checksum is right
void read_stream_message(Bytes bytes);    // readers_of_messages.cpp: what another rank sends
void read_stream_fields(Bytes bytes);     // the same with checksums that are made right
void read_code_message(Bytes bytes);      // the number of a codec, and codes of 300 values
void read_code_fields(Bytes bytes);       // codes behind their header, with checksums that are made right

}  // namespace nibble::fuzz
