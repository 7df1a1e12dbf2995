#include <filesystem>
#include <string>
#include <vector>

#include "tensor/files.hpp"
#include "tests/fuzz/hdf5_script.hpp"
#include "tests/fuzz/readers.hpp"
#include "tests/fuzz/scratch.hpp"
#include "trainer/checkpoint_load.hpp"
#include "trainer/checkpoint_save.hpp"
#include "trainer/gguf_model.hpp"
#include "trainer/huggingface.hpp"
#include "trainer/huggingface_weights.hpp"
#include "trainer/safetensors.hpp"

namespace nibble::fuzz {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// The model of the corpus: small enough to be written out in a script.
ModelConfig tiny() {
  return {.vocabulary = 3, .width = 2, .layers = 1, .heads = 1, .kv_heads = 1, .head_dim = 2, .ffn = 2, .context = 8};
}

/// A run's state: the weights and two entries of other types.
struct State {
  ParameterLayout layout{tiny()};
  ParameterSet weights{layout, DType::f32, DType::f32, true, "weights"};
  std::vector<uint8_t> codes = std::vector<uint8_t>(6);
  int64_t tokens = 0;
  StateList list;

  State() {
    for (size_t i = 0; i < weights.size(); ++i) list.add(weights_prefix + layout.parameters()[i].name, weights[i]);
    list.add("codes", Tensor(codes.data(), 3, 2));
    list.add_scalar("tokens", tokens);
  }
};

fs::path folder(const char* name) {
  const fs::path path = scratch().path(name);
  fs::create_directories(path);
  return path;
}

CheckpointHeader header() {
  return {.step = 5, .model = tiny(), .tokenizer = make_byte_tokenizer()->info(), .config_text = "model: {width: 2}\n"};
}

/// Reads a checkpoint as a resume does, and its weights as `nibble eval` does.
void use(const fs::path& checkpoint) {
  const VerifiedCheckpoint verified = open_checkpoint(checkpoint);
  State state;
  load_checkpoint(verified, state.list);
  load_checkpoint_weights(verified, ParameterLayout(verified.header().model), DType::bf16);
}

/// A folder with the checkpoint of `State`, whose manifest a reader then replaces.
const fs::path& good_checkpoint() {
  static const fs::path path = [] {
    State state;
    return save_checkpoint(scratch().path("run"), header(), state.list);
  }();
  return path;
}

}  // namespace

void read_safetensors(Bytes bytes) {
  const fs::path path = folder("model");
  scratch().write("model/model.safetensors", bytes);
  const SafetensorsFile file(path / "model.safetensors");
  for (const auto& [name, entry] : file.entries()) {
    file.bytes(name);
    if (entry.dtype != "F32" && entry.dtype != "BF16" && entry.dtype != "F16" && entry.dtype != "F64") continue;
    OwnedTensor values(DType::f32, entry.rows(), entry.cols());
    file.read(name, values.view());
  }
  import_huggingface(path, ParameterLayout(tiny()), DType::bf16);
}

void read_gguf(Bytes bytes) {
  const auto weights = open_gguf_weights(scratch().write("model.gguf", bytes), tiny());
  for (size_t i = 0; i < weights->parameters(); ++i)
    weights->read(i, OwnedTensor(DType::bf16, weights->info(i).rows, weights->info(i).cols));
}

void read_weights_index(Bytes bytes) {
  static const fs::path path = [] {
    State state;
    export_huggingface(folder("sharded"), tiny(), state.weights, {.dtype = DType::f32, .shard_bytes = 40});
    return scratch().path("sharded");
  }();
  scratch().write("sharded/model.safetensors.index.json", bytes);
  import_huggingface(path, ParameterLayout(tiny()), DType::f32);
}

void read_manifest_text(Bytes bytes) {
  folder("plain");
  scratch().write("plain/manifest.json", bytes);
  verify_files(scratch().path("plain"), read_manifest(scratch().path("plain")));
}

void read_manifest_fields(Bytes bytes) {
  // The checksums that the corpus leaves out as zeros are those of this machine's HDF5.
  constexpr const char* left_out = "0000000000000000";
  const fs::path& path = good_checkpoint();
  json object = json::parse(text_of(bytes), nullptr, false);
  std::string text(text_of(bytes));
  if (object.is_object()) {
    const std::string state = read_file(path / rank_file_name(0), ErrorKind::internal);
    if (object.contains("files") && object["files"].is_array())
      for (json& file : object["files"])
        if (file.is_object() && file.value("xxh3", json()) == left_out) {
          file["xxh3"] = hex(checksum(bytes_of(state)));
          file["bytes"] = state.size();
        }
    object.erase("checksum");
    const auto dump = [&] { return object.dump(-1, ' ', false, json::error_handler_t::replace); };
    object["checksum"] = hex(checksum(bytes_of(dump())));
    text = dump();
  }
  std::ofstream(path / "manifest.json", std::ios::binary) << text;
  use(path);
}

void read_checkpoint_state(Bytes bytes) {
  const fs::path path = folder("scripted");
  write_hdf5_script(path / rank_file_name(0), text_of(bytes), 0);
  const std::string file = read_file(path / rank_file_name(0), ErrorKind::internal);
  Manifest manifest{
      .header = header(), .files = {{rank_file_name(0), file.size(), checksum(bytes_of(file))}}, .tensors = {}};
  const State state;
  for (const StateList::Entry& entry : state.list.entries())
    manifest.tensors.push_back({entry.name, entry.tensor.dtype, entry.rows, entry.cols, {{0, 0, entry.tensor.size()}}});
  write_manifest(path, manifest);
  use(path);
}

}  // namespace nibble::fuzz
