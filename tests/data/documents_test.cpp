#include "data/documents.hpp"

#include <gtest/gtest.h>
#include <lzma.h>
#include <sys/stat.h>
#include <zlib.h>
#include <zstd.h>

#include "tests/data/test_files.hpp"

namespace nibble {
namespace {

std::string gzip(std::string_view text) {
  std::string out(text.size() + 1000, '\0');
  z_stream stream{};
  deflateInit2(&stream, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY);
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

std::string xz(std::string_view text) {
  std::string out(text.size() + 1000, '\0');
  size_t size = 0;
  EXPECT_EQ(lzma_easy_buffer_encode(6, LZMA_CHECK_CRC64, nullptr, reinterpret_cast<const uint8_t*>(text.data()),
                                    text.size(), reinterpret_cast<uint8_t*>(out.data()), &size, out.size()),
            LZMA_OK);
  out.resize(size);
  return out;
}

std::string zst(std::string_view text) {
  std::string out(ZSTD_compressBound(text.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 3));
  return out;
}

using Compress = std::string (*)(std::string_view);
constexpr std::pair<const char*, Compress> compressions[] = {{".gz", gzip}, {".xz", xz}, {".zst", zst}};

/// Text that does not compress to nothing, larger than every buffer on the way.
std::string long_text() {
  std::string text;
  uint32_t state = 1;
  while (text.size() < 500000) {
    state = state * 1664525u + 1013904223u;
    text += std::to_string(state) + (state % 7 == 0 ? "\n" : " ");
  }
  return text;
}

std::string read_all(const std::string& file) {
  const auto source = open_source(file);
  std::string all;
  char block[1000];
  while (const size_t count = source->read(block, sizeof block)) all.append(block, count);
  return all;
}

class DocumentsTest : public TemporaryFolderTest {
 protected:
  static std::vector<Document> read(const std::vector<std::string>& inputs, const DocumentOptions& options = {},
                                    DocumentCounts* counts = nullptr) {
    DocumentReader reader(inputs, options);
    std::vector<Document> documents;
    Document document;
    while (reader.next(document)) documents.push_back(document);
    EXPECT_EQ(reader.bytes_read(), reader.total_bytes());
    if (counts != nullptr) *counts = reader.counts();
    return documents;
  }
};

TEST_F(DocumentsTest, CompressedFilesComeBackWhateverTheirName) {
  const std::string text = long_text();
  EXPECT_EQ(read_all(write("plain", text)), text);
  for (const auto& [suffix, compress] : compressions) {
    const std::string packed = compress(text);
    EXPECT_EQ(read_all(write(std::string("file") + suffix, packed)), text) << suffix;
    EXPECT_EQ(read_all(write("other_name", packed)), text) << suffix;
    EXPECT_EQ(read_all(write("twice", packed + compress("second"))), text + "second") << suffix;
    EXPECT_EQ(read_all(write("nothing", compress(""))), "") << suffix;
  }
  EXPECT_EQ(read_all(write("empty", "")), "");
}

TEST_F(DocumentsTest, TruncatedAndDamagedCompressionIsRefused) {
  const std::string text = long_text();
  for (const auto& [suffix, compress] : compressions) {
    const std::string packed = compress(text);
    for (const size_t size : {size_t{10}, packed.size() / 2, packed.size() - 1}) {
      const std::string file = write("short", std::string_view(packed).substr(0, size));
      const ErrorDetail error = error_of([&] { read_all(file); });
      EXPECT_EQ(error.kind, ErrorKind::data) << suffix << size;
      EXPECT_EQ(error.what, "the compressed file is truncated") << suffix << size;
      EXPECT_EQ(error.where, file);
    }
    std::string flipped = packed;
    flipped[packed.size() / 2] ^= 0x10;
    // Zstandard's simple interface stores no checksum, so only its structure can show the damage.
    if (std::string_view(suffix) != ".zst") {
      EXPECT_EQ(error_of([&] { read_all(write("flipped", flipped)); }).what, "the compressed file is damaged")
          << suffix;
    }
  }
  EXPECT_EQ(error_of([&] { read_all(write("rubbish", "\x28\xB5\x2F\xFD rubbish")); }).what,
            "the compressed file is damaged");
}

TEST_F(DocumentsTest, MissingFilesAndFoldersAreRefused) {
  EXPECT_EQ(error_of([&] { open_source(path("absent")); }).what, "the file does not exist");
  EXPECT_EQ(error_of([&] { open_source(path("")); }).what, "this is a folder, not a file");
  EXPECT_EQ(error_of([&] { read({path("absent.txt")}); }).kind, ErrorKind::data);
  ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
  for (const ErrorDetail& error :
       {error_of([&] { read({path("pipe")}); }), error_of([&] { open_source(path("pipe")); })}) {
    EXPECT_EQ(error.kind, ErrorKind::data);
    EXPECT_EQ(error.what, "this is not a file");
    EXPECT_EQ(error.next, "copy its contents to a file");
  }
  write("only/.hidden", "x");
  EXPECT_EQ(error_of([&] { read({path("only")}); }).what, "there is no file to read");
}

TEST_F(DocumentsTest, PathsThatCannotBeExaminedAreRefused) {
  std::filesystem::create_symlink(path("b.txt"), path("a.txt"));  // each is the other: as unreadable as it gets,
  std::filesystem::create_symlink(path("a.txt"), path("b.txt"));  // for root too
  for (const ErrorDetail& error :
       {error_of([&] { read({path("a.txt")}); }), error_of([&] { open_source(path("a.txt")); })}) {
    EXPECT_EQ(error.kind, ErrorKind::data);
    EXPECT_EQ(error.what, "cannot open the file");
  }
  EXPECT_EQ(error_of([&] { read({path("a.txt") + std::string(300, 'x')}); }).kind, ErrorKind::data);
}

TEST_F(DocumentsTest, LinesKeepTheirNumberAndLength) {
  const std::string file = write("lines", "a\n\n" + std::string(300000, 'x') + "\nlast");
  LineReader lines(file);
  std::string line;
  ASSERT_TRUE(lines.next(line));
  EXPECT_EQ(line, "a");
  ASSERT_TRUE(lines.next(line));
  EXPECT_EQ(line, "");
  ASSERT_TRUE(lines.next(line));
  EXPECT_EQ(line.size(), 300000u);
  EXPECT_TRUE(lines.terminated());
  ASSERT_TRUE(lines.next(line));
  EXPECT_EQ(line, "last");
  EXPECT_FALSE(lines.terminated());
  EXPECT_EQ(lines.where(), file + ", line 4");
  EXPECT_FALSE(lines.next(line));
  EXPECT_FALSE(lines.next(line));
}

TEST_F(DocumentsTest, ATextFileIsOneDocumentWithEveryByte) {
  for (const std::string text : {"one\r\n\ntwo", "one\n", "\n\n x", "caf\xE9 \xFF"}) {
    const auto documents = read({write("a.txt", text)});
    ASSERT_EQ(documents.size(), 1u);
    EXPECT_EQ(documents[0].text, text);
    EXPECT_EQ(documents[0].id, path("a.txt"));
    EXPECT_FALSE(documents[0].prompt.has_value());
  }
  DocumentCounts counts;
  EXPECT_TRUE(read({write("blank.txt", " \n\n"), write("empty.txt", "")}, {}, &counts).empty());
  EXPECT_EQ(counts.files, 2);
  EXPECT_EQ(counts.empty, 1);
}

TEST_F(DocumentsTest, SplittingCutsAtBlankLinesAndLosesNothing) {
  std::string text;
  for (int paragraph = 0; paragraph < 50; ++paragraph)
    text += "Paragraph " + std::to_string(paragraph) + "\nwith a second line.\n\n";
  const std::string long_paragraph(5000, 'y');
  for (int line = 0; line < 20; ++line) text += "line without blank lines after it " + std::to_string(line) + "\n";
  text += long_paragraph;
  const auto documents = read({write("a.txt", text)}, {.split_bytes = 100});
  std::string joined;
  for (const Document& document : documents) joined += document.text;
  EXPECT_EQ(joined, text);
  ASSERT_GT(documents.size(), 10u);
  EXPECT_TRUE(documents[0].text.ends_with("\n\n"));
  EXPECT_GE(documents[0].text.size(), 100u);
  EXPECT_LT(documents[0].text.size(), 200u);
  EXPECT_EQ(documents[1].id, path("a.txt") + ", part 2");
  EXPECT_TRUE(documents.back().text.ends_with(long_paragraph));
}

TEST_F(DocumentsTest, FoldersAreReadInOrderWithoutHiddenAndBinaryFiles) {
  write("in/b.txt", "b");
  write("in/a/z.md", "z");
  write("in/a.txt", "a");
  write("in/.git/config", "hidden");
  write("in/.env", "hidden");
  write("in/image.png", std::string("\x89PNG\0\0", 6));
  write("in/c.jsonl.gz", gzip("{\"text\": \"json\"}\n"));
  DocumentCounts counts;
  const auto documents = read({path("in")}, {}, &counts);
  std::vector<std::string> texts;
  for (const Document& document : documents) texts.push_back(document.text);
  EXPECT_EQ(texts, (std::vector<std::string>{"a", "z", "b", "json"}));  // '.' sorts before '/'
  EXPECT_EQ(counts.files, 4);
  EXPECT_EQ(counts.hidden, 2);
  EXPECT_EQ(counts.binary, 1);

  const auto only_text = read({path("in")}, {.extensions = {"txt", "jsonl"}}, &counts);
  EXPECT_EQ(only_text.size(), 3u);
  EXPECT_EQ(counts.other_extension, 2);
}

TEST_F(DocumentsTest, JsonLinesGiveTextsAndPairs) {
  const auto documents = read({write("a.jsonl",
                                     "{\"id\": 1, \"text\": \"W\\u00fcrde\\n\\ud83e\\udd99\"}\r\n"
                                     "\n"
                                     "{\"text\": \" \"}\n"
                                     "{\"prompt\": \"2+2=\", \"completion\": \"4\"}\n"
                                     "{\"prompt\": \"\", \"completion\": \"free\", \"score\": null}")});
  ASSERT_EQ(documents.size(), 3u);
  EXPECT_EQ(documents[0].text, "Würde\n🦙");
  EXPECT_EQ(documents[0].id, path("a.jsonl") + ", line 1");
  EXPECT_FALSE(documents[0].prompt.has_value());
  EXPECT_EQ(documents[1].prompt, "2+2=");
  EXPECT_EQ(documents[1].text, "4");
  EXPECT_EQ(documents[1].bytes(), 5);
  EXPECT_EQ(documents[2].prompt, "");
  EXPECT_EQ(documents[2].text, "free");
  EXPECT_EQ(read({write("b.jsonl", "{\"body\": \"x\", \"prompt\": \"y\"}")}, {.text_key = "body"})[0].text, "x");
}

// C4's files are c4-train.00000-of-01024.json.gz; an uncompressed .json is a text, as in any folder of sources.
TEST_F(DocumentsTest, CompressedJsonIsJsonLines) {
  EXPECT_EQ(read({write("c4.json.gz", gzip("{\"text\": \"x\"}\n{\"text\": \"y\"}\n"))})[1].text, "y");
  EXPECT_EQ(read({write("package.json", "{\"text\": \"x\"}\n")})[0].text, "{\"text\": \"x\"}\n");
}

TEST_F(DocumentsTest, HostileJsonLinesAreRefusedWithTheirLine) {
  const std::string good = "{\"text\": \"x\"}\n";
  const std::pair<std::string, std::string> cases[] = {
      {"{\"text\": \"x\"", "not valid JSON"},
      {"not json", "not valid JSON"},
      {"{\"text\": \"\xFF\"}", "not valid JSON"},
      {"{\"text\": \"\\ud800\"}", "not valid JSON"},
      {"{\"text\": 1} {}", "not valid JSON"},
      {std::string("{\"text\": \"a\0b\"}", 15), "not valid JSON"},
      {"[\"text\"]", "the line is not a JSON object"},
      {"\"text\"", "the line is not a JSON object"},
      {"{\"txt\": \"x\"}", "the key 'text' is missing"},
      {"{}", "the key 'text' is missing"},
      {"{\"text\": 7}", "the value of 'text' is not a text"},
      {"{\"text\": null}", "the value of 'text' is not a text"},
      {"{\"prompt\": \"x\"}", "the key 'completion' is missing"},
      {"{\"completion\": \"x\"}", "the key 'prompt' is missing"},
      {"{\"prompt\": [], \"completion\": \"x\"}", "the value of 'prompt' is not a text"},
      {std::string(1000000, '['), "JSON is nested too deeply"},
      {"{\"text\": \"x\", \"deep\": " + std::string(1000000, '[') + std::string(1000000, ']') + "}",
       "JSON is nested too deeply"},
      {"{\"text\": \"x\", \"text\": \"y\"}", "a key stands twice in one JSON object"},
  };
  for (const auto& [line, what] : cases) {
    const std::string file = write("hostile.jsonl", good + line + "\n" + good);
    const ErrorDetail error = error_of([&] { read({file}); });
    EXPECT_EQ(error.kind, ErrorKind::data);
    EXPECT_EQ(error.what, what) << line.substr(0, 80);
    EXPECT_EQ(error.where, file + ", line 2");
  }
  EXPECT_EQ(error_of([&] { read({write("keys.jsonl", "{\"content\": \"x\"}")}); }).seen, "keys: content");
}

}  // namespace
}  // namespace nibble
