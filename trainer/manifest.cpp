#include "trainer/manifest.hpp"

#include <fmt/format.h>

#include <array>
#include <limits>

#include "tensor/error.hpp"
#include "tensor/files.hpp"
#include "trainer/directory.hpp"
#include "trainer/huggingface_config.hpp"
#include "trainer/json_fields.hpp"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* file_name = "manifest.json";
constexpr const char* another = "choose another checkpoint (--resume takes the newest valid one)";
constexpr const char* a_checkpoint = "a folder such as RUN/checkpoints/step_00000500";

/// A configuration text that is not UTF-8 must not prevent a save: such bytes become U+FFFD.
std::string dump(const json& object, int indent) {
  return object.dump(indent, ' ', false, json::error_handler_t::replace);
}

/// Over the text without spaces; nlohmann-json sorts the keys, so it is a function of the contents.
std::string checksum_of(const json& object) { return hex(checksum(bytes_of(dump(object, -1)))); }

uint64_t parse_checksum(const JsonFields& fields, const std::string& key) {
  const std::optional<uint64_t> value = parse_hex(fields.text(key));
  if (!value) fields.refuse(key, "not a checksum", "16 hexadecimal digits");
  return *value;
}

DType parse_dtype(const JsonFields& fields, const std::string& key) {
  for (const DType type : {DType::f32, DType::bf16, DType::f64, DType::i32, DType::i64, DType::u8, DType::u16})
    if (name(type) == fields.text(key)) return type;
  fields.refuse(key, "an unknown element type", "f32, bf16, f64, i32, i64, u8, u16");
}

json to_json(const TokenizerInfo& info) {
  return {{"identity", info.identity}, {"hash", hex(info.hash)}, {"vocabulary", info.vocabulary},
          {"bos", info.bos},           {"eos", info.eos},        {"pad", info.pad}};
}

TokenizerInfo parse_tokenizer(const JsonFields& fields) {
  const auto id = [&](const char* key) { return static_cast<int32_t>(fields.integer(key, -1, INT32_MAX)); };
  return {.identity = fields.text("identity"),
          .hash = parse_checksum(fields, "hash"),
          .vocabulary = static_cast<int32_t>(fields.integer("vocabulary", 0, INT32_MAX)),
          .bos = id("bos"),
          .eos = id("eos"),
          .pad = id("pad")};
}

void check_schema(const JsonFields& fields) {
  const int64_t schema = fields.integer("schema", 0, std::numeric_limits<int64_t>::max());
  if (schema > checkpoint_schema)
    fields.refuse("schema", "the checkpoint was written by a newer nibble",
                  fmt::format("{} to {}", oldest_checkpoint_schema, checkpoint_schema), "update nibble");
  if (schema < oldest_checkpoint_schema)
    fields.refuse("schema", "the checkpoint was written by a nibble that is too old",
                  fmt::format("{} to {}", oldest_checkpoint_schema, checkpoint_schema),
                  "resume and save it with the nibble before this one");
}

Manifest parse(const json& object, const std::string& where) {
  const JsonFields fields(object, where, ErrorKind::checkpoint);
  constexpr int64_t any = std::numeric_limits<int64_t>::max();
  Manifest manifest;
  CheckpointHeader& header = manifest.header;
  header.step = fields.integer("step", 0, any);
  header.seed = fields.unsigned_integer("seed");
  header.model = parse_huggingface_config(fields.object("model"), where + ": model");
  header.tokenizer =
      parse_tokenizer(JsonFields(fields.object("tokenizer"), where + ": tokenizer", ErrorKind::checkpoint));
  header.data = fields.object("data");
  header.tuning = fields.at("tuning");
  header.retuned = fields.flag("retuned");
  header.config_text = fields.text("config");
  manifest.ranks = fields.integer("ranks", 1, 1 << 20);
  const auto ranks = static_cast<size_t>(manifest.ranks);
  for (const json& item : fields.array("files")) {
    const JsonFields file(item, where + ": files", ErrorKind::checkpoint);
    // Names other than these could lead out of the folder.
    const size_t index = manifest.files.size();
    const std::string expected = index < ranks ? rank_file_name(static_cast<int>(index)) : tokenizer_file_name;
    if (file.text("name") != expected) file.refuse("name", "a file's name cannot be", expected);
    manifest.files.push_back({expected, file.unsigned_integer("bytes"), parse_checksum(file, "xxh3")});
  }
  if (manifest.files.size() < ranks || manifest.files.size() > ranks + 1)
    fields.refuse("files", "the number of files is not that of the ranks",
                  fmt::format("one file each rank, and {}", tokenizer_file_name));
  for (const json& item : fields.array("state")) {
    const JsonFields tensor(item, where + ": state", ErrorKind::checkpoint);
    manifest.tensors.push_back({tensor.text("name"), parse_dtype(tensor, "dtype"), tensor.integer("rows", 0, any),
                                tensor.integer("cols", 0, any)});
  }
  return manifest;
}

}  // namespace

std::string rank_file_name(int rank) { return fmt::format("rank_{:04}.h5", rank); }

void write_manifest(const fs::path& checkpoint, const Manifest& manifest) {
  const CheckpointHeader& header = manifest.header;
  json object = {{"schema", checkpoint_schema},
                 {"step", header.step},
                 {"seed", header.seed},
                 {"model", huggingface_config(header.model, DType::f32)},
                 {"tokenizer", to_json(header.tokenizer)},
                 {"data", header.data},
                 {"tuning", header.tuning},
                 {"retuned", header.retuned},
                 {"config", header.config_text},
                 {"ranks", manifest.ranks},
                 {"files", json::array()},
                 {"state", json::array()}};
  for (const ManifestFile& file : manifest.files)
    object["files"].push_back({{"name", file.name}, {"bytes", file.bytes}, {"xxh3", hex(file.checksum)}});
  for (const ManifestTensor& tensor : manifest.tensors)
    object["state"].push_back(
        {{"name", tensor.name}, {"dtype", name(tensor.dtype)}, {"rows", tensor.rows}, {"cols", tensor.cols}});
  object["checksum"] = checksum_of(object);
  write_file_atomically(checkpoint / file_name, dump(object, 1) + "\n");
}

Manifest read_manifest(const fs::path& checkpoint) {
  const fs::path path = checkpoint / file_name;
  if (!exists(checkpoint, ErrorKind::checkpoint))
    throw Error({.kind = ErrorKind::checkpoint,
                 .what = "there is no such checkpoint",
                 .where = checkpoint.string(),
                 .seen = "no such folder",
                 .allowed = a_checkpoint,
                 .next = another});
  std::error_code error;
  if (fs::is_directory(checkpoint, error) && !exists(path, ErrorKind::checkpoint))
    throw Error({.kind = ErrorKind::checkpoint,
                 .what = "not a checkpoint: there is no manifest",
                 .where = checkpoint.string(),
                 .seen = fmt::format("no {}", file_name),
                 .allowed = a_checkpoint,
                 .next = another});
  json object = parse_json(read_file(path, ErrorKind::checkpoint), path.string(), ErrorKind::checkpoint);
  const JsonFields fields(object, path.string(), ErrorKind::checkpoint);
  check_schema(fields);
  const std::string stored = fields.text("checksum");
  object.erase("checksum");
  if (const std::string actual = checksum_of(object); actual != stored)
    throw Error({.kind = ErrorKind::checkpoint,
                 .what = "the manifest is damaged: its checksum is wrong",
                 .where = path.string(),
                 .seen = actual,
                 .allowed = excerpt(stored),
                 .next = another});
  return parse(object, path.string());
}

void verify_files(const fs::path& checkpoint, const Manifest& manifest) {
  for (const ManifestFile& file : manifest.files) {
    if (!exists(checkpoint / file.name, ErrorKind::checkpoint))
      throw Error({.kind = ErrorKind::checkpoint,
                   .what = "a file of the checkpoint is missing",
                   .where = (checkpoint / file.name).string(),
                   .seen = "no such file",
                   .allowed = fmt::format("{}, {} bytes", file.name, file.bytes),
                   .next = another});
    const MappedFile mapped(checkpoint / file.name, ErrorKind::checkpoint);
    if (mapped.bytes().size() != file.bytes)
      throw Error({.kind = ErrorKind::checkpoint,
                   .what = "a file of the checkpoint has another size",
                   .where = mapped.path().string(),
                   .seen = fmt::format("{} bytes", mapped.bytes().size()),
                   .allowed = fmt::format("{} bytes", file.bytes),
                   .next = another});
    if (const uint64_t actual = checksum(mapped.bytes()); actual != file.checksum)
      throw Error({.kind = ErrorKind::checkpoint,
                   .what = "a file of the checkpoint is damaged: its checksum is wrong",
                   .where = mapped.path().string(),
                   .seen = hex(actual),
                   .allowed = hex(file.checksum),
                   .next = another});
  }
}

}  // namespace nibble
