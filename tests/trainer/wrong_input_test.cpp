// Every kind of wrong input: an error of the right kind whose message says what, where, the value seen, the values
// allowed and what to do next. Not for the many ways to be wrong of each kind, which stand in the tests of the readers.
#include <cstring>
#include <functional>

#include "data/hdf5.hpp"
#include "data/shard_format.hpp"
#include "data/token_data.hpp"
#include "data/tokenize.hpp"
#include "tensor/files.hpp"
#include "tests/tensor/temporary_directory.hpp"
#include "trainer/checkpoint_load.hpp"
#include "trainer/checkpoint_save.hpp"
#include "trainer/huggingface_config.hpp"
#include "trainer/huggingface_weights.hpp"
#include "trainer/resolve.hpp"
#include "trainer/safetensors.hpp"
#include "trainer/yaml_settings.hpp"

namespace nibble {
namespace {

namespace fs = std::filesystem;

/// What a complete message holds.
struct Expected {
  ErrorKind kind;
  std::string what, where, seen, allowed, next;  ///< parts of the error's fields
};

void expect_complete(const Expected& expected, const std::function<void()>& action) {
  const ErrorDetail error = error_of(action);
  SCOPED_TRACE(Error(error).what());
  EXPECT_EQ(error.kind, expected.kind);
  const auto expect_part = [](const char* field, const std::string& text, const std::string& part) {
    EXPECT_FALSE(text.empty()) << field;
    EXPECT_NE(text.find(part), std::string::npos) << field << " lacks: " << part;
  };
  expect_part("what", error.what, expected.what);
  expect_part("where", error.where, expected.where);
  expect_part("seen", error.seen, expected.seen);
  expect_part("allowed", error.allowed, expected.allowed);
  expect_part("next", error.next, expected.next);
}

class WrongInput : public TemporaryDirectoryTest {};

// Settings -----------------------------------------------------------------------------------------------------------

TEST_F(WrongInput, Settings) {
  const std::string good =
      "model: {preset: tiny-byte}\ndata: {train: t.h5, sequence: 256}\nbatch: {tokens: 4096, micro: 8}\nsteps: 100\n"
      "run: {directory: runs/a}\n";
  parse_settings(good, "run.yaml");
  const auto refused = [&](const std::string& line, const Expected& expected) {
    expect_complete(expected, [&] { parse_settings(good + line, "run.yaml"); });
  };
  constexpr ErrorKind kind = ErrorKind::configuration;
  refused("quantum: 1", {kind, "unknown setting 'quantum'", "run.yaml:6:1", "quantum", "nibble settings", "remove"});
  refused("optimizer: {lerning_rate: 1}", {kind, "unknown setting 'optimizer.lerning_rate'", "run.yaml:6:13",
                                           "optimizer.lerning_rate", "", "did you mean 'optimizer.learning_rate'?"});
  refused("steps: 7", {kind, "'steps' is given twice", "run.yaml:6:1", "run.yaml:4:1", "one value", "remove"});
  refused("run.seed: one", {kind, "run.seed: not a number", "run.yaml:6:11", "one", "a whole number", "run.seed"});
  refused("optimizer.beta1: 1", {kind, "out of range", "run.yaml:6:18", "1", "below 1", "optimizer.beta1"});
  refused("run.progress: 3 weeks",
          {kind, "unknown unit 'weeks'", "run.yaml:6:15", "3 weeks", "90s, 30min", "run.progress"});
  refused("model.context: 128", {kind, "longer than the model's context", "model.context (run.yaml:6:1)",
                                 "data.sequence: 256, model.context: 128", "at most model.context", "raise"});
  refused("model.from: [" + std::string(20, '['), {kind, "nested too deeply", "run.yaml:6:", "16", "16", "brackets"});
  refused(std::string(1 << 18, '#'), {kind, "too large", "run.yaml", " bytes", "262144 bytes", "check the path"});
}

// Token shards -------------------------------------------------------------------------------------------------------

TEST_F(WrongInput, TokenShards) {
  const fs::path shard = directory_ / "tokens.h5";
  write(directory_ / "text.txt", "some text that becomes tokens");
  tokenize({.inputs = {(directory_ / "text.txt").string()}, .output = shard.string()}, *make_byte_tokenizer());
  const std::string whole = read_file(shard, ErrorKind::data);
  const auto refused = [&](const std::string& bytes, const Expected& expected) {
    write(shard, bytes);
    expect_complete(expected, [&] { TokenData::open(shard.string()); });
  };
  constexpr ErrorKind kind = ErrorKind::data;
  std::string flipped = whole;
  flipped[whole.size() / 2] = static_cast<char>(whole[whole.size() / 2] ^ 4);
  refused(flipped, {kind, "the token shard is damaged", shard.string(), "checksum ", "checksum ", "nibble tokenize"});
  refused(whole.substr(0, 600),
          {kind, "the token shard is truncated", shard.string(), "600 bytes", " bytes", "copy the file again"});
  refused("text", {kind, "not a token shard", shard.string(), "text", "nibble tokenize", "nibble tokenize"});
  expect_complete({kind, "the token file does not exist", "absent.h5", "no such file", "", "nibble tokenize"},
                  [] { TokenData::open("absent.h5"); });
  write(shard, whole);
  const TokenData data = TokenData::open(shard.string());
  expect_complete({kind, "a token id is outside the vocabulary", shard.string(), "token id 256", "0 to 99", "259 ids"},
                  [&] { data.require_vocabulary(100); });
}

TEST_F(WrongInput, ContentsOfATokenShardThatCannotBe) {
  const fs::path shard = directory_ / "tokens.h5";
  // Made by a program that knows the checksum and not what stands behind it.
  const auto refused = [&](const std::string& what, const std::vector<uint16_t>& tokens,
                           const std::vector<int64_t>& offsets, const std::vector<int64_t>& bytes,
                           const std::string& hash, const std::string& seen, const std::string& allowed) {
    {
      hdf5::File file = hdf5::File::create(shard.string(), ErrorKind::data, ShardHeader::size);
      file.write("tokens", tokens);
      file.write("document_offsets", offsets);
      file.write("document_bytes", bytes);
      file.set_attribute("/", "tokenizer", std::string_view("byte"));
      file.set_attribute("/", "tokenizer_hash", std::string_view(hash));
      for (const char* name : {"text_bytes", "bos", "eos", "pad"}) file.set_attribute("/", name, int64_t{1});
      file.set_attribute("/", "vocabulary", int64_t{10});
    }
    std::string text = read_file(shard, ErrorKind::data);
    const ShardHeader header{.file_length = text.size(),
                             .checksum = checksum(bytes_of(text).subspan(ShardHeader::size))};
    const auto front = header.encode();
    std::memcpy(text.data(), front.data(), front.size());
    write(shard, text);
    expect_complete({ErrorKind::data, what, shard.string(), seen, allowed, ""},
                    [&] { TokenData::open(shard.string()); });
  };
  const std::string hash(16, 'a');
  refused("document offsets", {1, 2, 3}, {0, 2, 2, 3}, {1, 1, 1}, hash, "4 offsets", "from 0 to 3");
  refused("'document_bytes' of the token shard has another type or length", {1, 2, 3}, {0, 3}, {1, 1}, hash, "i64 [2]",
          "i64 [1]");
  refused("negative number of bytes", {1, 2, 3}, {0, 3}, {-1}, hash, "-1", "0 or more");
  refused("tokenizer_hash", {1, 2, 3}, {0, 3}, {1}, "nonsense", "nonsense", "16 hexadecimal digits");
  refused("outside the vocabulary", {1, 2, 10}, {0, 3}, {1}, hash, "token id 10", "0 to 9");
}

// Text ---------------------------------------------------------------------------------------------------------------

TEST_F(WrongInput, TextThatIsNotUtf8IsTakenAsItsBytes) {
  std::string text = "caf\xe9 \xff\xfe\xc0\x80\xed\xa0\x80 \xf5";
  for (int byte = 1; byte < 256; ++byte) text += static_cast<char>(byte);
  const fs::path input = directory_ / "text.txt", shard = directory_ / "tokens.h5";
  write(input, text);
  tokenize({.inputs = {input.string()}, .output = shard.string()}, *make_byte_tokenizer());
  const TokenData data = TokenData::open(shard.string());
  std::vector<int32_t> ids(static_cast<size_t>(data.tokens()));
  data.copy(0, ids);
  EXPECT_EQ(make_byte_tokenizer()->decode(ids), text);
  EXPECT_EQ(data.tokens(), static_cast<int64_t>(text.size()) + 1);  // behind BOS

  const auto pieces = make_tokenizer(std::string(NIBBLE_TEST_DATA) + "/data/data/small.model");
  expect_complete({ErrorKind::data, "UTF-8", input.string() + ", byte 3", "0xe9", "UTF-8", "byte"},
                  [&] { tokenize({.inputs = {input.string()}, .output = shard.string()}, *pieces); });
}

// Models -------------------------------------------------------------------------------------------------------------

ModelConfig tiny() {
  return {
      .vocabulary = 11, .width = 8, .layers = 1, .heads = 2, .kv_heads = 1, .head_dim = 4, .ffn = 12, .context = 32};
}

TEST_F(WrongInput, Safetensors) {
  const fs::path path = directory_ / "model.safetensors";
  const auto refused = [&](const std::string& header, uint64_t length, const Expected& expected) {
    std::string bytes(sizeof length, '\0');
    std::memcpy(bytes.data(), &length, sizeof length);
    write(path, bytes + header + std::string(16, '\1'));
    expect_complete(expected, [&] { SafetensorsFile file(path); });
  };
  const auto refused_header = [&](const std::string& header, const Expected& expected) {
    refused(header, header.size(), expected);
  };
  constexpr ErrorKind kind = ErrorKind::checkpoint;
  const std::string file = path.string(), a = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]})",
                    again = "fetch or export it again";
  refused(a + "}", ~uint64_t{0},
          {kind, "the header's length cannot be", file, "18446744073709551615 bytes", "at most 100000000", again});
  refused_header(a, {kind, "not valid JSON", file, "parse error", "", "fetch or make it again"});
  refused_header(a + R"(,"b":{"dtype":"F32","shape":[3],"data_offsets":[4,16]}})",
                 {kind, "two tensors overlap", file + ": tensor b", "begins at byte 4", "byte 8, where a ends", again});
  refused_header(
      a + R"(,"b":{"dtype":"F32","shape":[1],"data_offsets":[12,16]}})",
      {kind, "belong to no tensor", file + ": tensor b", "begins at byte 12", "byte 8, where a ends", again});
  refused_header(a + R"(,"b":{"dtype":"F32","shape":[3],"data_offsets":[8,20]}})",
                 {kind, "does not lie within the file's data", file + ": tensor b", "[8,20]", "end <= 16", "again"});
  refused_header(a + R"(,"b":{"dtype":"F33","shape":[2],"data_offsets":[8,16]}})",
                 {kind, "an unknown element type", file + ": tensor b", "F33", "F32", "again"});
  refused_header(a + R"(,"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}})",
                 {kind, "a key stands twice", file, "a", "once", "again"});
  refused_header(a + R"(,"b":)" + std::string(100, '['),
                 {kind, "nested too deeply", file, "more than 64", "at most 64", "again"});
  refused_header(a + R"(,"b":{"shape":[2],"data_offsets":[8,16]}})",
                 {kind, "a field is missing", file + ": tensor b: \"dtype\"", "", "", "again"});
}

TEST_F(WrongInput, TensorsOfAnotherModel) {
  const fs::path path = directory_ / "model.safetensors";
  std::vector<float> values(6);
  std::vector<int64_t> integers(6);
  write_safetensors(path, {{"a", {2, 3}, Tensor(values.data(), 2, 3), DType::f32},
                           {"integers", {2, 3}, Tensor(integers.data(), 2, 3), DType::i64}});
  const SafetensorsFile file(path);
  constexpr ErrorKind kind = ErrorKind::checkpoint;
  const std::string where = path.string() + ": tensor ";
  expect_complete({kind, "a tensor is missing", where + "b", "a, integers", "", "another model"},
                  [&] { file.read("b", Tensor(values.data(), 2, 3)); });
  expect_complete({kind, "another shape", where + "a", "[2, 3]", "[3, 2]", "another model"},
                  [&] { file.read("a", Tensor(values.data(), 3, 2)); });
  expect_complete({kind, "cannot be read as f32", where + "integers", "I64", "F32, BF16, F16", "converted"},
                  [&] { file.read("integers", Tensor(values.data(), 2, 3)); });

  // A folder: one tensor missing, one too many, one of another shape; then one of another type.
  const ParameterLayout layout(tiny());
  const ParameterSet weights(layout, DType::f32, DType::f32, false, "weights");
  const auto refused = [&](const Expected& expected, const std::function<void(std::vector<SafetensorsItem>&)>& change) {
    std::vector<SafetensorsItem> items;
    for (size_t i = 0; i < weights.size(); ++i) {
      const ParameterInfo& info = layout.parameters()[i];
      items.push_back({info.name,
                       info.kind == ParameterKind::norm ? std::vector{info.cols} : std::vector{info.rows, info.cols},
                       weights[i], DType::f32});
    }
    change(items);
    write_safetensors(path, items);
    expect_complete(expected, [&] { import_huggingface(directory_, layout, DType::f32); });
  };
  const std::string folder = directory_.string(), what = "not those of the Llama", fetch = "of the same model";
  refused({kind, what, folder, "missing: model.embed_tokens.weight", "names and shapes", fetch}, [](auto& items) {
    std::erase_if(items, [](auto& item) { return item.name == "model.embed_tokens.weight"; });
  });
  refused({kind, what, folder, "unexpected: extra", "names and shapes", fetch}, [&](auto& items) {
    items.push_back({"extra", {6}, Tensor(values.data(), 1, 6), DType::f32});
  });
  refused({kind, what, folder, "of another shape: model.norm.weight [6] instead of [8]", "names and shapes", fetch},
          [&](auto& items) {
            for (SafetensorsItem& item : items)
              if (item.name == "model.norm.weight") item = {item.name, {6}, Tensor(values.data(), 1, 6), DType::f32};
          });
  std::vector<int64_t> gains(8);
  refused({kind, "cannot be read as f32", "tensor model.norm.weight", "I64", "F32", "converted"}, [&](auto& items) {
    for (SafetensorsItem& item : items)
      if (item.name == "model.norm.weight") item = {item.name, {8}, Tensor(gains.data(), 1, 8), DType::i64};
  });
}

TEST_F(WrongInput, Checkpoints) {
  OwnedTensor weight(DType::f32, 4, 4);
  StateList state;
  state.add("weight", weight.view());
  const fs::path checkpoint = save_checkpoint(
      directory_ / "run", {.step = 5, .model = tiny(), .tokenizer = make_byte_tokenizer()->info(), .config_text = ""},
      state);
  const fs::path file = checkpoint / "rank_0000.h5", manifest = checkpoint / "manifest.json";
  const std::string bytes = read_file(file, ErrorKind::data), text = read_file(manifest, ErrorKind::data);
  constexpr ErrorKind kind = ErrorKind::checkpoint;
  const auto refused = [&](const Expected& expected) {
    expect_complete(expected, [&] { load_checkpoint(open_checkpoint(checkpoint), state); });
  };
  std::string flipped = bytes;
  flipped[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
  write(file, flipped);
  refused({kind, "its checksum is wrong", file.string(), "", "", "choose another checkpoint"});
  write(file, bytes.substr(0, bytes.size() / 2));
  refused({kind, "another size", file.string(), " bytes", " bytes", "choose another checkpoint"});
  fs::remove(file);
  refused({kind, "a file of the checkpoint is missing", file.string(), "no such file", "rank_0000.h5",
           "choose another checkpoint"});
  write(file, bytes);

  std::string changed = text;
  changed.replace(changed.find("\"step\": 5"), 9, "\"step\": 6");
  write(manifest, changed);
  refused({kind, "the manifest is damaged", manifest.string(), "", "", "choose another checkpoint"});
  changed = text;
  changed.replace(changed.find("\"schema\": 2"), 11, "\"schema\": 9");
  write(manifest, changed);
  refused({kind, "a newer nibble", manifest.string(), "9", "1 to 2", "update nibble"});
  write(manifest, text.substr(0, text.size() / 2));
  refused({kind, "not valid JSON", manifest.string(), "parse error", "", "again"});
  fs::remove(manifest);
  refused({kind, "there is no manifest", checkpoint.string(), "", "step_00000500", "choose another checkpoint"});
  fs::remove_all(checkpoint);
  refused({kind, "there is no such checkpoint", checkpoint.string(), "no such folder", "step_00000500",
           "choose another checkpoint"});
}

TEST_F(WrongInput, StateOfAnotherRun) {
  OwnedTensor weight(DType::f32, 4, 4), other(DType::f32, 4, 3);
  StateList state, wider, fewer;
  state.add("a", weight.view());
  state.add("b", weight.view());
  const VerifiedCheckpoint checkpoint = open_checkpoint(save_checkpoint(
      directory_ / "run", {.step = 5, .model = tiny(), .tokenizer = make_byte_tokenizer()->info(), .config_text = ""},
      state));
  constexpr ErrorKind kind = ErrorKind::checkpoint;
  const std::string where = checkpoint.path.string() + ": ";
  wider.add("a", weight.view());
  wider.add("b", other.view());
  expect_complete({kind, "another element type or shape", where + "b", "f32 [4, 4]", "f32 [4, 3]", "config.yaml"},
                  [&] { load_checkpoint(checkpoint, wider); });
  fewer.add("a", weight.view());
  expect_complete({kind, "has no use for", where + "b", "f32 [4, 4]", "", "config.yaml"},
                  [&] { load_checkpoint(checkpoint, fewer); });
  wider.add("c", other.view());
  state.add("c", other.view());
  expect_complete({kind, "lacks state", where + "c", "", "f32 [4, 3]", "config.yaml"},
                  [&] { load_checkpoint(checkpoint, state); });
}

}  // namespace
}  // namespace nibble
