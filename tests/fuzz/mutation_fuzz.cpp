// Mutated files against every reader of foreign input: a reader returns or throws Error; anything else is a defect.
//
// Usage: mutation_fuzz SECONDS [SEED]. Deterministic but for where the time ends; a finding prints its seed and leaves
// the file. Run with the sanitize preset (launch/test --all). Not for: files behind a checksum that matches, which only
// Nibble itself writes.
#include <fmt/format.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "data/documents.hpp"
#include "data/token_data.hpp"
#include "data/tokenize.hpp"
#include "tensor/error.hpp"
#include "tensor/files.hpp"
#include "tensor/random.hpp"
#include "trainer/checkpoint.hpp"
#include "trainer/huggingface_config.hpp"
#include "trainer/safetensors.hpp"
#include "trainer/yaml_settings.hpp"

namespace nibble {
namespace {

namespace fs = std::filesystem;

/// Random numbers of one mutation.
class Dice {
 public:
  explicit Dice(uint64_t seed) : random_(seed, Purpose::sampling) {}
  uint64_t below(uint64_t bound) { return bound == 0 ? 0 : random_.word(drawn_++) % bound; }

 private:
  RandomStream random_;
  uint64_t drawn_ = 0;
};

/// One to eight edits: bits, bytes, numbers at their limits, pieces cut, doubled or moved, the end lost.
std::string mutate(std::string bytes, Dice& dice) {
  static const std::vector<std::string> words = {"\xff\xff\xff\xff\xff\xff\xff\x7f", std::string(8, '\0'), "-1", "1e999", "[[[[",
                                                 "{\"a\":", "\"", "9223372036854775807", "null", "\n", "\x80", ": *a"};
  const uint64_t edits = 1 + dice.below(8);
  for (uint64_t edit = 0; edit < edits && !bytes.empty(); ++edit) {
    const size_t at = dice.below(bytes.size()), length = 1 + dice.below(std::min<size_t>(64, bytes.size() - at));
    switch (dice.below(6)) {
      case 0: bytes[at] = static_cast<char>(bytes[at] ^ (1 << dice.below(8))); break;
      case 1: bytes[at] = static_cast<char>(dice.below(256)); break;
      case 2: bytes.erase(at, length); break;
      case 3: bytes.insert(at, bytes.substr(dice.below(bytes.size()), length)); break;
      case 4: bytes.insert(at, words[dice.below(words.size())]); break;
      default: bytes.resize(at); break;
    }
  }
  return bytes;
}

struct Target {
  std::string name;
  fs::path seed;  ///< a good file
  std::function<void(const fs::path&)> read;
};

void read_documents(const fs::path& path) {
  DocumentReader reader({path.string()}, {});
  for (Document document; reader.next(document);) {
  }
}

/// Good files of every kind, made by Nibble or taken from the tests' fixtures.
std::vector<Target> targets(const fs::path& work) {
  const fs::path fixtures = NIBBLE_TEST_DATA;
  const auto write = [&](const char* name, const std::string& text) {
    write_file_atomically(work / name, text);
    return work / name;
  };
  const fs::path lines = write("seed.jsonl", "{\"text\": \"one \\u00e9\"}\n{\"prompt\": \"a\", \"completion\": \"b\"}\n");
  const fs::path shard = work / "seed.h5";
  tokenize({.inputs = {write("seed.txt", "some text that becomes tokens\n").string()}, .output = shard.string()}, *make_byte_tokenizer());
  std::string llmc(1024 + 40, '\1');
  const int32_t header[] = {20240520, 1, 20};
  std::fill_n(llmc.begin(), 1024, '\0');
  std::copy_n(reinterpret_cast<const char*>(header), sizeof header, llmc.begin());

  const auto open_tokens = [](const fs::path& path) { TokenData::open(path.string()); };
  const auto open_config = [](const fs::path& path) {
    const fs::path folder = path.parent_path() / "model";
    fs::create_directories(folder);
    fs::copy_file(path, folder / "config.json", fs::copy_options::overwrite_existing);
    read_huggingface_config(folder);
  };
  return {{"jsonl", lines, read_documents},
          {"token shard", shard, open_tokens},
          {"llm.c", write("seed.bin", llmc), open_tokens},
          {"settings", fixtures.parent_path() / "configs/llama-30m.yaml", [](const fs::path& path) { load_settings(path); }},
          {"config.json", fixtures / "model/data/llama/mha/config.json", open_config},
          {"safetensors", fixtures / "trainer/data/safetensors/mixed.safetensors",
           [](const fs::path& path) {
             const SafetensorsFile file(path);
             for (const auto& [name, entry] : file.entries()) file.bytes(name);
           }},
          {"SentencePiece", fixtures / "data/data/small.model", [](const fs::path& path) { make_tokenizer(path.string())->encode("a b"); }}};
}

/// Whether the reader kept its word.
bool survives(const Target& target, const fs::path& path, uint64_t seed) {
  try {
    target.read(path);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::internal) return true;
    fmt::print("{}: seed {}: {}\n", target.name, seed, error.what());
    return false;
  } catch (const std::exception& error) {
    fmt::print("{}: seed {}: not an Error: {}\n", target.name, seed, error.what());
    return false;
  }
  return true;
}

int run(double seconds, uint64_t seed) {
  std::string name = (fs::temp_directory_path() / "nibble_fuzz_XXXXXX").string();
  if (!mkdtemp(name.data())) return 1;
  const fs::path work = name;
  const std::vector<Target> all = targets(work);
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  uint64_t files = 0, failures = 0;
  for (; std::chrono::steady_clock::now() < end; ++seed)
    for (const Target& target : all) {
      Dice dice(seed);
      const fs::path path = work / ("mutated" + target.seed.extension().string());
      write_file_atomically(path, mutate(read_file(target.seed, ErrorKind::data), dice));
      ++files;
      if (survives(target, path, seed)) continue;
      ++failures;
      fs::copy_file(path, fmt::format("{}.{}", path.string(), seed), fs::copy_options::overwrite_existing);
    }
  fmt::print("fuzz: {} passed, {} failed\n", files - failures, failures);
  if (failures == 0) fs::remove_all(work);
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace nibble

int main(int argc, char** argv) {
  return nibble::run(argc > 1 ? std::atof(argv[1]) : 10, argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1);
}
