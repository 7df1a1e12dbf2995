#include "trainer/manifest.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <limits>
#include <set>

#include "data/json_fields.hpp"
#include "tensor/error.hpp"
#include "tensor/files.hpp"
#include "trainer/directory.hpp"
#include "trainer/huggingface_config.hpp"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* file_name = "manifest.json";
constexpr const char* another = "choose another checkpoint (--resume takes the newest valid one)";
constexpr int64_t any = std::numeric_limits<int64_t>::max();
constexpr int64_t most_ranks = 1 << 20;
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
  for (const DType type :
       {DType::f32, DType::bf16, DType::f64, DType::i32, DType::i64, DType::u8, DType::u16, DType::i8})
    if (name(type) == fields.text(key)) return type;
  fields.refuse(key, "an unknown element type", "f32, bf16, f64, i32, i64, u8, u16, i8");
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

int64_t check_schema(const JsonFields& fields) {
  const int64_t schema = fields.integer("schema", 0, any);
  if (schema > checkpoint_schema)
    fields.refuse("schema", "the checkpoint was written by a newer nibble",
                  fmt::format("{} to {}", oldest_checkpoint_schema, checkpoint_schema), "update nibble");
  if (schema < oldest_checkpoint_schema)
    fields.refuse("schema", "the checkpoint was written by a nibble that is too old",
                  fmt::format("{} to {}", oldest_checkpoint_schema, checkpoint_schema),
                  "resume and save it with the nibble before this one");
  return schema;
}

json to_json(const ManifestFile& file) {
  return {{"name", file.name}, {"bytes", file.bytes}, {"xxh3", hex(file.checksum)}};
}

/// A file that must have the name: another one could lead out of the folder.
ManifestFile parse_file(const JsonFields& fields, const std::string& name) {
  if (fields.text("name") != name) fields.refuse("name", "a file's name cannot be", name);
  return {name, fields.unsigned_integer("bytes"), parse_checksum(fields, "xxh3")};
}

/// The next of the files that make the tokenizer; all but the first may be missing.
std::string parse_tokenizer_file_name(const JsonFields& fields, const CheckpointHeader& header) {
  const std::span<const char* const> names = header.tokenizer.file_names();
  const std::vector<TokenizerFile>& before = header.tokenizer_files;
  const auto seen = std::ranges::find(names, fields.text("name"));
  const auto last = before.empty() ? names.begin() : std::ranges::find(names, before.back().name) + 1;
  if (seen == names.end() || seen < last || (before.empty() && seen != names.begin()))
    fields.refuse("name", "a file's name cannot be",
                  fmt::format("a file of the tokenizer {} ({}), in this order", header.tokenizer.identity,
                              fmt::join(names, ", ")));
  return *seen;
}

json to_json(const ManifestTensor& tensor) {
  json pieces = json::array();
  for (const ManifestPiece& piece : tensor.pieces)
    pieces.push_back({{"rank", piece.rank}, {"first", piece.first}, {"count", piece.count}});
  return {{"name", tensor.name},
          {"dtype", name(tensor.dtype)},
          {"rows", tensor.rows},
          {"cols", tensor.cols},
          {"pieces", std::move(pieces)}};
}

/// All but the pieces.
ManifestTensor parse_shape(const JsonFields& fields) {
  ManifestTensor tensor{fields.text("name"),
                        parse_dtype(fields, "dtype"),
                        fields.integer("rows", 0, any),
                        fields.integer("cols", 0, any),
                        {}};
  int64_t bytes = 0;  // so that no number of an element or byte overflows
  if (__builtin_mul_overflow(tensor.rows, tensor.cols, &bytes) ||
      __builtin_mul_overflow(bytes, static_cast<int64_t>(size_of(tensor.dtype)), &bytes))
    fields.refuse("cols", "a tensor is larger than any memory", "fewer elements");
  return tensor;
}

ManifestTensor parse_tensor(const JsonFields& fields, const std::string& where, ErrorKind kind) {
  ManifestTensor tensor = parse_shape(fields);
  for (const json& item : fields.array("pieces")) {
    const JsonFields piece(item, where + ": pieces of " + excerpt(tensor.name), kind);
    tensor.pieces.push_back({static_cast<int>(piece.integer("rank", 0, most_ranks - 1)), piece.integer("first", 0, any),
                             piece.integer("count", 1, any)});
  }
  return tensor;
}

std::vector<ManifestTensor> parse_state(const JsonFields& fields, int64_t schema, int64_t ranks,
                                        const std::string& where) {
  std::vector<ManifestTensor> tensors;
  std::set<std::string> names;
  for (const json& item : fields.array("state")) {
    const JsonFields entry(item, where + ": state", ErrorKind::checkpoint);
    ManifestTensor tensor;
    if (schema == 1) {
      tensor = parse_shape(entry);
      if (tensor.size() > 0) tensor.pieces = {{.rank = 0, .first = 0, .count = tensor.size()}};
    } else {
      tensor = parse_tensor(entry, where, ErrorKind::checkpoint);
      if (const std::string fault = fault_of_pieces(tensor, ranks); !fault.empty())
        entry.refuse("pieces", "the pieces of a tensor are not the tensor: " + fault,
                     fmt::format("each of {} elements in one file", tensor.size()));
    }
    if (!names.insert(tensor.name).second) entry.refuse("name", "two tensors have one name", "another name");
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

Manifest parse(const json& object, const std::string& where) {
  const JsonFields fields(object, where, ErrorKind::checkpoint);
  const int64_t schema = check_schema(fields);
  Manifest manifest;
  CheckpointHeader& header = manifest.header;
  header.step = fields.integer("step", 0, any);
  header.total_steps = fields.integer_or("total_steps", 0, 0, any);
  header.seed = fields.unsigned_integer("seed");
  header.model = parse_huggingface_config(fields.object("model"), where + ": model");
  header.tokenizer =
      parse_tokenizer(JsonFields(fields.object("tokenizer"), where + ": tokenizer", ErrorKind::checkpoint));
  header.data = fields.object("data");
  header.tuning = fields.at("tuning");
  header.retuned = fields.flag("retuned");
  header.config_text = fields.text("config");
  manifest.ranks = fields.integer("ranks", 1, schema == 1 ? 1 : most_ranks);
  const auto ranks = static_cast<size_t>(manifest.ranks);
  for (const json& item : fields.array("files")) {
    const JsonFields file(item, where + ": files", ErrorKind::checkpoint);
    const size_t index = manifest.files.size();
    const std::string name =
        index < ranks ? rank_file_name(static_cast<int>(index)) : parse_tokenizer_file_name(file, header);
    manifest.files.push_back(parse_file(file, name));
    if (index >= ranks) header.tokenizer_files.push_back({name, {}});
  }
  if (manifest.files.size() < ranks)
    fields.refuse("files", "the number of files is not that of the ranks", "one file each rank, and the tokenizer's");
  manifest.tensors = parse_state(fields, schema, manifest.ranks, where);
  return manifest;
}

/// In pieces, whose pages are given back: a mapped file counts as the process's memory, and a checkpoint is large.
uint64_t checksum_of(const MappedFile& file) {
  constexpr size_t piece = size_t{64} << 20;
  Checksum sum;
  for (std::span<const std::byte> rest = file.bytes(); !rest.empty();) {
    sum.update(rest.first(std::min(piece, rest.size())));
    rest = rest.subspan(std::min(piece, rest.size()));
    file.release();
  }
  return sum.value();
}

}  // namespace

std::string rank_file_name(int rank) { return fmt::format("rank_{:04}.h5", rank); }

std::string to_text(const RankFile& file) {
  json object = {{"file", to_json(file.file)}, {"state", json::array()}};
  for (const ManifestTensor& tensor : file.tensors) object["state"].push_back(to_json(tensor));
  return dump(object, -1);
}

RankFile parse_rank_file(const std::string& text) {
  const std::string where = "what a rank says of its file";
  constexpr ErrorKind kind = ErrorKind::communication;
  const json object = parse_json(text, where, kind);
  const JsonFields fields(object, where, kind);
  const JsonFields file(fields.object("file"), where, kind);
  RankFile parsed{parse_file(file, file.text("name")), {}};
  for (const json& item : fields.array("state"))
    parsed.tensors.push_back(parse_tensor(JsonFields(item, where, kind), where, kind));
  return parsed;
}

std::string fault_of_pieces(const ManifestTensor& tensor, int64_t ranks) {
  std::set<int> seen;
  int64_t next = 0;
  for (const ManifestPiece& piece : tensor.pieces) {
    if (piece.rank >= ranks) return fmt::format("there is no rank {}", piece.rank);
    if (!seen.insert(piece.rank).second) return fmt::format("rank {} has two", piece.rank);
    if (piece.first != next) return fmt::format("one begins at {}, not at {}", piece.first, next);
    if (piece.count > tensor.size() - next) return fmt::format("one ends beyond {}", tensor.size());
    next += piece.count;
  }
  return next == tensor.size() ? "" : fmt::format("they end at {} of {}", next, tensor.size());
}

void write_manifest(const fs::path& checkpoint, const Manifest& manifest) {
  const CheckpointHeader& header = manifest.header;
  json object = {{"schema", checkpoint_schema},
                 {"step", header.step},
                 {"total_steps", header.total_steps},
                 {"seed", header.seed},
                 {"model", huggingface_config(header.model, "float32")},
                 {"tokenizer", to_json(header.tokenizer)},
                 {"data", header.data},
                 {"tuning", header.tuning},
                 {"retuned", header.retuned},
                 {"config", header.config_text},
                 {"ranks", manifest.ranks},
                 {"files", json::array()},
                 {"state", json::array()}};
  for (const ManifestFile& file : manifest.files) object["files"].push_back(to_json(file));
  for (const ManifestTensor& tensor : manifest.tensors) object["state"].push_back(to_json(tensor));
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
  check_schema(fields);  // before the checksum: another schema may have another one
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
    if (const uint64_t actual = checksum_of(mapped); actual != file.checksum)
      throw Error({.kind = ErrorKind::checkpoint,
                   .what = "a file of the checkpoint is damaged: its checksum is wrong",
                   .where = mapped.path().string(),
                   .seen = hex(actual),
                   .allowed = hex(file.checksum),
                   .next = another});
  }
}

}  // namespace nibble
