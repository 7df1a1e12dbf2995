#include "data/token_data.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <numeric>
#include <utility>

#include "data/hdf5.hpp"
#include "data/shard_format.hpp"
#include "data/shard_writer.hpp"
#include "tests/data/test_files.hpp"

namespace nibble {
namespace {

using Ids = std::vector<int32_t>;

/// Thirty pieces above 65536 ids: forces wide tokens.
class WideTokenizer final : public Tokenizer {
 public:
  WideTokenizer() { info_ = {.identity = "wide", .hash = 7, .vocabulary = 70000, .bos = 0, .eos = 1, .pad = -1}; }
  using Tokenizer::encode;
  void encode(std::string_view, std::vector<int32_t>&) const override {}
};

class TokenDataTest : public TemporaryFolderTest {
 protected:
  std::string small_shard(const std::string& name = "small.h5") const {
    const auto tokenizer = make_byte_tokenizer();
    ShardWriter writer(path(name), *tokenizer);
    writer.add({256, 'a', 'b'}, 0, 2);
    writer.add({256, 'x', 'y', 'z', 257}, 0, 3);
    writer.finish();
    return path(name);
  }
  static Ids all_tokens(const TokenData& data) {
    Ids ids(static_cast<size_t>(data.tokens()));
    data.copy(0, ids);
    return ids;
  }
  template <class T>
  std::string write_llmc(const std::string& name, uint32_t magic, uint32_t version, const std::vector<T>& tokens,
                         int64_t claimed = -1) const {
    std::vector<uint32_t> header(256, 0);
    header[0] = magic;
    header[1] = version;
    header[2] = static_cast<uint32_t>(claimed < 0 ? static_cast<int64_t>(tokens.size()) : claimed);
    std::string bytes(reinterpret_cast<const char*>(header.data()), 1024);
    bytes.append(reinterpret_cast<const char*>(tokens.data()), tokens.size() * sizeof(T));
    return write(name, bytes);
  }
};

TEST_F(TokenDataTest, AShardComesBackWhole) {
  const TokenData data = TokenData::open(small_shard());
  EXPECT_EQ(data.tokens(), 8);
  EXPECT_EQ(data.documents(), 2);
  EXPECT_EQ(all_tokens(data), (Ids{256, 'a', 'b', 256, 'x', 'y', 'z', 257}));
  EXPECT_EQ(std::vector<int64_t>(data.document_offsets().begin(), data.document_offsets().end()),
            (std::vector<int64_t>{0, 3, 8}));
  EXPECT_EQ(std::vector<int64_t>(data.document_bytes().begin(), data.document_bytes().end()),
            (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(data.text_bytes(), 5);
  EXPECT_TRUE(data.loss_mask().empty());
  EXPECT_EQ(data.tokenizer(), make_byte_tokenizer()->info());
  EXPECT_EQ(data.make_tokenizer()->info().identity, "byte");
  Ids middle(3);
  data.copy(3, middle);
  EXPECT_EQ(middle, (Ids{256, 'x', 'y'}));
  EXPECT_NO_THROW(data.require_vocabulary(259));
  EXPECT_EQ(error_of([&] { data.require_vocabulary(258); }).seen, "token id 258, which pads windows");
  EXPECT_EQ(error_of([&] { data.require_vocabulary(257); }).seen, "token id 257");
}

TEST_F(TokenDataTest, WidthFollowsTheVocabularyAndTheMaskThePrompts) {
  const WideTokenizer wide;
  {
    ShardWriter writer(path("wide.h5"), wide);
    writer.add({0, 69999, 1}, 0, 1);
    writer.add({}, 0, 0);
    writer.add({0, 5, 6, 1}, 2, 1);
    writer.finish();
  }
  const TokenData data = TokenData::open(path("wide.h5"));
  EXPECT_EQ(all_tokens(data), (Ids{0, 69999, 1, 0, 5, 6, 1}));
  EXPECT_EQ(data.documents(), 2);
  EXPECT_EQ(std::vector<uint8_t>(data.loss_mask().begin(), data.loss_mask().end()),
            (std::vector<uint8_t>{1, 1, 1, 0, 0, 1, 1}));
  EXPECT_EQ(hdf5::File::open(path("wide.h5"), ErrorKind::data).describe("tokens").dtype, DType::i32);
  EXPECT_EQ(hdf5::File::open(small_shard(), ErrorKind::data).describe("tokens").dtype, DType::u16);
  EXPECT_EQ(error_of([&] { data.make_tokenizer(); }).what, "the token file does not hold its tokenizer");
}

TEST_F(TokenDataTest, LongShardsPassThroughTheSpool) {
  const auto tokenizer = make_byte_tokenizer();
  Ids document(100001);
  for (size_t i = 0; i < document.size(); ++i) document[i] = static_cast<int32_t>(i * i % 259);
  {
    ShardWriter writer(path("long.h5"), *tokenizer);
    for (int i = 0; i < 30; ++i) writer.add(document, i == 20 ? 7 : 0, 1);
    writer.finish();
    EXPECT_EQ(writer.tokens(), 30 * 100001);
  }
  const TokenData data = TokenData::open(path("long.h5"));
  Ids last(document.size());
  data.copy(29 * 100001, last);
  EXPECT_EQ(last, document);
  EXPECT_EQ(std::accumulate(data.loss_mask().begin(), data.loss_mask().end(), int64_t{0}), 30 * 100001 - 7);
  EXPECT_EQ(data.loss_mask()[20 * 100001 + 6], 0);
  EXPECT_EQ(data.loss_mask()[20 * 100001 + 7], 1);
}

TEST_F(TokenDataTest, TheSentencePieceModelTravelsInTheShard) {
  const auto tokenizer = make_tokenizer(fixture("small.model"));
  {
    ShardWriter writer(path("pieces.h5"), *tokenizer);
    writer.add(tokenizer->encode("Some words."), 0, 11);
    writer.finish();
  }
  const TokenData data = TokenData::open(path("pieces.h5"));
  const auto again = data.make_tokenizer();
  EXPECT_EQ(again->info(), tokenizer->info());
  EXPECT_EQ(again->decode(all_tokens(data)), "Some words.");
}

TEST_F(TokenDataTest, EqualDocumentsGiveEqualFilesAndNothingIsLeftBehind) {
  EXPECT_EQ(contents(small_shard("a.h5")), contents(small_shard("b.h5")));
  const auto tokenizer = make_byte_tokenizer();
  {
    ShardWriter abandoned(path("c.h5"), *tokenizer);
    abandoned.add({256, 'a'}, 0, 1);
  }
  {
    ShardWriter empty(path("d.h5"), *tokenizer);
    EXPECT_EQ(error_of([&] { empty.finish(); }).kind, ErrorKind::data);
  }
  size_t files = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(path(""))) ++files;
  EXPECT_EQ(files, 2u);
  EXPECT_EQ(error_of([&] { ShardWriter writer(path("no/folder.h5"), *tokenizer); }).kind, ErrorKind::resource);
}

TEST_F(TokenDataTest, EveryFlippedBitOfAShardIsRefused) {
  const std::string whole = contents(small_shard());
  std::string flipped = whole;
  for (size_t byte = 0; byte < whole.size(); ++byte) {
    const int bit = static_cast<int>(byte % 8);
    flipped[byte] = static_cast<char>(whole[byte] ^ (1 << bit));
    try {
      ShardHeader::verify(bytes_of(flipped), "shard");
      ADD_FAILURE() << "byte " << byte << " bit " << bit;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::data);
    }
    flipped[byte] = whole[byte];
  }
  EXPECT_NO_THROW(ShardHeader::verify(bytes_of(flipped), "shard"));
  flipped[whole.size() - 1] ^= 1;
  EXPECT_EQ(error_of([&] { TokenData::open(write("flipped.h5", flipped)); }).what, "the token shard is damaged");
  flipped[100] ^= 1;
  EXPECT_EQ(error_of([&] { TokenData::open(write("flipped.h5", flipped)); }).what,
            "the token shard's header is damaged");
}

TEST_F(TokenDataTest, EveryShorterOrLongerShardIsRefused) {
  const std::string whole = contents(small_shard());
  for (size_t size = 0; size < whole.size(); size += size < 520 ? 1 : 97)
    EXPECT_THROW(ShardHeader::verify(bytes_of(whole).first(size), "shard"), Error) << size;
  EXPECT_EQ(error_of([&] { TokenData::open(write("short.h5", whole.substr(0, 700))); }).what,
            "the token shard is truncated");
  EXPECT_EQ(error_of([&] { TokenData::open(write("short.h5", whole.substr(0, 200))); }).what,
            "the token shard is truncated");
  EXPECT_EQ(error_of([&] { TokenData::open(write("long.h5", whole + "x")); }).what, "the token shard is too long");
}

TEST_F(TokenDataTest, ANewerSchemaIsRefusedByItsNumber) {
  std::string whole = contents(small_shard());
  ShardHeader header = ShardHeader::verify(bytes_of(whole), "shard");
  header.schema = 2;
  const auto bytes = header.encode();
  std::memcpy(whole.data(), bytes.data(), bytes.size());
  const ErrorDetail error = error_of([&] { TokenData::open(write("newer.h5", whole)); });
  EXPECT_EQ(error.seen, "schema 2");
  EXPECT_EQ(error.allowed, "schema 1 to 1");
}

TEST_F(TokenDataTest, ForeignFilesAreNamed) {
  EXPECT_EQ(error_of([&] { TokenData::open(path("absent.h5")); }).what, "the token file does not exist");
  EXPECT_EQ(error_of([&] { TokenData::open(path("")); }).kind, ErrorKind::data);
  EXPECT_EQ(error_of([&] { TokenData::open(path(std::string(300, 'x'))); }).kind, ErrorKind::data);
  EXPECT_EQ(error_of([&] { TokenData::open(write("empty.h5", "")); }).kind, ErrorKind::data);
  {
    hdf5::File plain = hdf5::File::create(path("plain.h5"), ErrorKind::data);
    hdf5::File block = hdf5::File::create(path("block.h5"), ErrorKind::data, 512);
  }
  const std::pair<std::string, std::string> cases[] = {
      {contents(path("plain.h5")), "an HDF5 file without Nibble's header"},
      {contents(path("block.h5")), "an HDF5 file whose first 512 bytes are not Nibble's header"},
      {std::string("\xFD") + std::string("7zXZ\0rest", 9), "an xz-compressed file"},
      {"\x1f\x8b rest", "a gzip-compressed file"},
      {"GGUF\x03", "a GGUF model"},
      {std::string("MMIDIDX\0\0\1", 10), "a Megatron index file"},
      {std::string("\x08\0\0\0\0\0\0\0{\"a\":1} data", 21), "a safetensors file"},
      {"{\"text\": \"a\"}\n", "JSON"},
      {"Some text.\n", "text"},
      {std::string("\x01\x02\x00\xFF", 4), "binary data of unknown kind"},
  };
  for (const auto& [bytes, name] : cases) {
    const ErrorDetail error = error_of([&] { TokenData::open(write("foreign", bytes)); });
    EXPECT_EQ(error.kind, ErrorKind::data);
    EXPECT_EQ(error.what, "this is not a token shard");
    EXPECT_EQ(error.seen, name);
  }
  EXPECT_EQ(error_of([&] {
              TokenData::open(write_llmc<uint16_t>("eval.bin", 20240522, 1, {1, 2}));
            }).seen,
            "an llm.c evaluation file");
}

TEST_F(TokenDataTest, WrongContentsBehindARightHeaderAreRefused) {
  // A file with a valid checksum that no ShardWriter made: each part is checked again.
  std::map<std::string, int64_t> numbers = {{"text_bytes", 1}, {"bos", 1}, {"eos", 1}, {"pad", 1}, {"vocabulary", 10}};
  std::vector<int64_t> document_bytes;
  const auto make = [&](const std::vector<int64_t>& offsets, const std::vector<uint16_t>& tokens, bool attributes) {
    const std::string name = path("forged.h5");
    {
      hdf5::File file = hdf5::File::create(name, ErrorKind::data, 512);
      file.write("tokens", tokens);
      file.write("document_offsets", offsets);
      file.write("document_bytes",
                 document_bytes.empty() ? std::vector<int64_t>(offsets.size() - 1, 1) : document_bytes);
      if (attributes) {
        for (const auto& [attribute, value] : numbers) file.set_attribute("/", attribute, value);
        file.set_attribute("/", "tokenizer", std::string_view("byte"));
        file.set_attribute("/", "tokenizer_hash", std::string_view("0123456789abcdef"));
      }
    }
    std::string bytes = contents(name);
    ShardHeader header;
    header.file_length = bytes.size();
    header.checksum = checksum(bytes_of(bytes).subspan(512));
    const auto front = header.encode();
    std::memcpy(bytes.data(), front.data(), front.size());
    return write("forged.h5", bytes);
  };
  EXPECT_NO_THROW(TokenData::open(make({0, 3}, {1, 2, 9}, true)));
  EXPECT_EQ(error_of([&] {
              TokenData::open(make({0, 3}, {1, 2, 10}, true));
            }).what,
            "a token id is outside the vocabulary");
  for (const std::vector<int64_t>& offsets :
       {std::vector<int64_t>{0, 4}, {1, 3}, {0, 2, 2, 3}, {0, 5, 3}, {0}, {0, -1, 3}})
    EXPECT_THROW(TokenData::open(make(offsets, {1, 2, 3}, true)), Error);
  EXPECT_THROW(TokenData::open(make({0, 3}, {1, 2, 3}, false)), Error);

  const std::pair<std::string, int64_t> impossible[] = {{"bos", 10}, {"eos", -2},       {"pad", int64_t{1} << 32},
                                                        {"eos", 10}, {"vocabulary", 0}, {"text_bytes", -1}};
  for (const auto& [attribute, value] : impossible) {
    const int64_t possible = std::exchange(numbers[attribute], value);
    EXPECT_EQ(error_of([&] {
                TokenData::open(make({0, 3}, {1, 2, 3}, true));
              }).what,
              "the attribute " + attribute + " of the token shard is out of range");
    numbers[attribute] = possible;
  }
  document_bytes = {-1};
  EXPECT_EQ(error_of([&] {
              TokenData::open(make({0, 3}, {1, 2, 3}, true));
            }).what,
            "a document of the token shard has a negative number of bytes");
  document_bytes.clear();
  const TokenData forged = TokenData::open(make({0, 3}, {1, 2, 3}, true));  // bytes by name, with another hash
  EXPECT_EQ(error_of([&] { forged.make_tokenizer(); }).what,
            "the token file holds another tokenizer than the one it names");
}

TEST_F(TokenDataTest, LlmcShardsAreReadByContent) {
  const TokenData gpt2 =
      TokenData::open(write_llmc<uint16_t>("gpt2.txt", 20240520, 1, {50256, 10, 11, 50256, 12, 50256, 50255}));
  EXPECT_EQ(all_tokens(gpt2), (Ids{50256, 10, 11, 50256, 12, 50256, 50255}));
  EXPECT_EQ(std::vector<int64_t>(gpt2.document_offsets().begin(), gpt2.document_offsets().end()),
            (std::vector<int64_t>{0, 3, 5, 7}));
  EXPECT_EQ(gpt2.tokenizer().vocabulary, 50257);
  EXPECT_EQ(gpt2.text_bytes(), std::nullopt);
  EXPECT_TRUE(gpt2.document_bytes().empty());
  EXPECT_EQ(error_of([&] { gpt2.make_tokenizer(); }).kind, ErrorKind::data);

  const TokenData llama = TokenData::open(write_llmc<uint32_t>("l.bin", 20240801, 7, {5, 6, 128000, 128255}));
  EXPECT_EQ(all_tokens(llama), (Ids{5, 6, 128000, 128255}));
  EXPECT_EQ(llama.documents(), 2);
  EXPECT_EQ(llama.tokenizer().identity, "llm.c:llama3");
}

TEST_F(TokenDataTest, BadLlmcShardsAreRefused) {
  const auto what = [&](const std::string& file) { return error_of([&] { TokenData::open(file); }).what; };
  EXPECT_EQ(what(write_llmc<uint16_t>("a", 20240520, 2, {1})), "the llm.c token file has another version");
  EXPECT_EQ(what(write_llmc<uint16_t>("b", 20240520, 1, {1, 2}, 3)), "the llm.c token file is truncated");
  EXPECT_EQ(what(write_llmc<uint16_t>("c", 20240520, 1, {1, 2}, 1)), "the llm.c token file is too long");
  EXPECT_EQ(what(write_llmc<uint16_t>("d", 20240520, 1, {})), "the llm.c token file holds no token");
  EXPECT_EQ(what(write_llmc<uint16_t>("e", 20240520, 1, {50257})), "a token id is outside the vocabulary");
  EXPECT_EQ(what(write_llmc<uint32_t>("f", 20240801, 7, {0xFFFFFFFF})), "a token id is outside the vocabulary");
  const uint32_t magic = 20240520;
  EXPECT_EQ(what(write("g", std::string_view(reinterpret_cast<const char*>(&magic), 4))),
            "the llm.c token file has another version");
}

TEST_F(TokenDataTest, DifferentTokenizersAreRefused) {
  const TokenData train = TokenData::open(small_shard("train.h5")), same = TokenData::open(small_shard("same.h5"));
  EXPECT_NO_THROW(require_same_tokenizer(train, same));
  const TokenData other = TokenData::open(write_llmc<uint16_t>("other.bin", 20240520, 1, {1}));
  const ErrorDetail error = error_of([&] { require_same_tokenizer(train, other); });
  EXPECT_EQ(error.kind, ErrorKind::data);
  EXPECT_NE(error.seen.find("llm.c:gpt2"), std::string::npos);
  EXPECT_NE(error.allowed.find("byte"), std::string::npos);
}

}  // namespace
}  // namespace nibble
