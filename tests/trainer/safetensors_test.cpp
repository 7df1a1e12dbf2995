#include "trainer/safetensors.hpp"

#include <cmath>
#include <cstring>
#include <limits>
#include <set>

#include "tests/tensor/temporary_directory.hpp"

namespace nibble {
namespace {

namespace fs = std::filesystem;

fs::path data_file(const std::string& name) {
  return fs::path(NIBBLE_TEST_DATA) / "trainer" / "data" / "safetensors" / name;
}

/// A file with this header, padding and data, right or wrong.
std::string container(const std::string& header, size_t data_bytes) {
  const uint64_t length = header.size();
  std::string file(sizeof length, '\0');
  std::memcpy(file.data(), &length, sizeof length);
  return file + header + std::string(data_bytes, '\1');
}

class SafetensorsTest : public TemporaryDirectoryTest {
 protected:
  fs::path path() const { return directory_ / "file.safetensors"; }
  ErrorDetail refusal(const std::string& bytes) {
    write(path(), bytes);
    return error_of([&] { SafetensorsFile file(path()); });
  }
  template <class T>
  static std::vector<T> read(const SafetensorsFile& file, const std::string& name) {
    const SafetensorsEntry& entry = file.entry(name);
    std::vector<T> values(static_cast<size_t>(entry.rows() * entry.cols()));
    file.read(name, Tensor(values.data(), entry.rows(), entry.cols()));
    return values;
  }
};

// One F32 tensor "a" = [1, -2], as the reference implementation lays it out.
constexpr std::string_view known_hex =
    "38000000000000007b2261223a7b226474797065223a22463332222c227368617065223a5b325d2c22646174615f6f666673657473223a5b30"
    "2c385d7d7d20200000803f000000c0";

std::string known_bytes() {
  std::string bytes;
  for (size_t i = 0; i < known_hex.size(); i += 2)
    bytes.push_back(static_cast<char>(std::stoi(std::string(known_hex.substr(i, 2)), nullptr, 16)));
  return bytes;
}

TEST_F(SafetensorsTest, TheKnownFileIsWrittenAndRead) {
  std::vector<float> values = {1, -2};
  write_safetensors(path(), {{"a", {2}, Tensor(values.data(), 1, 2), DType::f32}}, {});
  EXPECT_EQ(read_file(path(), ErrorKind::data), known_bytes());
  EXPECT_EQ(known_bytes().size(), 72u);

  write(path(), known_bytes());
  EXPECT_EQ(read<float>(SafetensorsFile(path()), "a"), values);
}

TEST_F(SafetensorsTest, EveryElementTypeOfTheReferenceWriterIsRead) {
  const SafetensorsFile file(data_file("mixed.safetensors"));
  EXPECT_EQ(file.entries().size(), 8u);
  EXPECT_EQ(read<float>(file, "single"), (std::vector<float>{-0.5, -0.25, 0, 0.25, 0.5, 0.75}));
  const std::vector<float> brain = {-3, -1.75, -0.5, 0.75, 2, 3.25, 4.5, 5.75};
  EXPECT_EQ(read<float>(file, "brain"), brain);
  EXPECT_EQ(read<bf16>(file, "brain"), std::vector<bf16>(brain.begin(), brain.end()));
  const std::vector<float> half = read<float>(file, "half");
  EXPECT_EQ(half, (std::vector<float>{1, -2.5, 65504, 0x1p-24f, 0x1p-14f, 0, -0.0f, INFINITY}));
  EXPECT_TRUE(std::signbit(half[6]));
  EXPECT_EQ(read<float>(file, "double"), (std::vector<float>{1.0f / 3, 1e-3f}));
  EXPECT_EQ(read<double>(file, "double"), (std::vector<double>{1.0 / 3, 1e-3}));
  EXPECT_EQ(read<int64_t>(file, "ids"), (std::vector<int64_t>{1, -2, 3, int64_t{1} << 40}));
  EXPECT_EQ(read<float>(file, "scalar"), std::vector<float>{7.5});
  EXPECT_TRUE(file.entry("scalar").shape.empty());
  EXPECT_TRUE(read<float>(file, "empty").empty());
  EXPECT_EQ(file.entry("cube").shape, (std::vector<int64_t>{2, 3, 2}));
  EXPECT_EQ(file.entry("cube").rows(), 6);
  EXPECT_EQ(read<float>(file, "cube")[11], 11);
}

TEST_F(SafetensorsTest, TheBytesAreThoseOfTheReferenceWriter) {
  const SafetensorsFile reference(data_file("plain.safetensors"));
  auto single = read<float>(reference, "single"), a_single = read<float>(reference, "a single");
  auto brain = read<bf16>(reference, "brain");
  auto doubles = read<double>(reference, "double");
  auto ids = read<int64_t>(reference, "ids");
  auto bytes = read<uint8_t>(reference, "bytes");
  write_safetensors(path(), {{"bytes", {3}, Tensor(bytes.data(), 1, 3), DType::u8},
                             {"single", {2, 3}, Tensor(single.data(), 2, 3), DType::f32},
                             {"brain", {4, 2}, Tensor(brain.data(), 4, 2), DType::bf16},
                             {"a single", {1}, Tensor(a_single.data(), 1, 1), DType::f32},
                             {"double", {2, 1}, Tensor(doubles.data(), 2, 1), DType::f64},
                             {"ids", {2, 2}, Tensor(ids.data(), 2, 2), DType::i64}});
  EXPECT_EQ(read_file(path(), ErrorKind::data), read_file(data_file("plain.safetensors"), ErrorKind::data));
}

TEST_F(SafetensorsTest, PaddingIsNeitherWrittenNorTouched) {
  OwnedTensor wide(DType::f32, 5, 8);
  for (int i = 0; i < 40; ++i) wide.view().as<float>()[i] = static_cast<float>(i) + 0.001f;
  const Tensor view = wide.view().slice_cols(0, 3);
  write_safetensors(path(), {{"f", {5, 3}, view, DType::f32}, {"b", {5, 3}, view, DType::bf16}});
  const SafetensorsFile file(path());
  EXPECT_EQ(file.bytes("f").size(), 5u * 3 * 4);
  EXPECT_EQ(file.bytes("b").size(), 5u * 3 * 2);

  OwnedTensor target(DType::f32, 5, 4);
  std::fill_n(target.view().as<float>(), 20, -1.0f);
  file.read("f", target.view().slice_cols(0, 3));
  for (int i = 0; i < 5; ++i) {
    for (int j = 0; j < 3; ++j) EXPECT_EQ(target.view().row<float>(i)[j], view.row<float>(i)[j]);
    EXPECT_EQ(target.view().row<float>(i)[3], -1.0f);
  }
  file.read("b", target.view().slice_cols(0, 3));
  for (int i = 0; i < 5; ++i) {
    for (int j = 0; j < 3; ++j)
      EXPECT_EQ(target.view().row<float>(i)[j], static_cast<float>(bf16(view.row<float>(i)[j])));
    EXPECT_EQ(target.view().row<float>(i)[3], -1.0f);
  }
  std::vector<float> rows(6);
  file.read_rows("f", 3, Tensor(rows.data(), 2, 3));
  EXPECT_EQ(rows[0], view.row<float>(3)[0]);
  EXPECT_EQ(rows[5], view.row<float>(4)[2]);
}

TEST_F(SafetensorsTest, LargeTensorsPassThroughTheWriteBuffer) {
  OwnedTensor large(DType::f32, 3, 700'001);
  for (int64_t i = 0; i < large.view().size(); ++i) large.view().as<float>()[i] = static_cast<float>(i);
  OwnedTensor brain(DType::bf16, 2, 600'000);
  brain.view().as<bf16>()[1'199'999] = bf16(3.0f);
  write_safetensors(path(), {{"large", {3, 700'001}, large, DType::f32}, {"brain", {2, 600'000}, brain, DType::f32}});
  const SafetensorsFile file(path());
  const std::vector<float> values = read<float>(file, "large");
  for (size_t i = 0; i < values.size(); ++i) ASSERT_EQ(values[i], static_cast<float>(i));
  EXPECT_EQ(read<float>(file, "brain").back(), 3.0f);
}

TEST_F(SafetensorsTest, WrongReadsAreRefused) {
  write(path(), known_bytes());
  const SafetensorsFile file(path());
  std::vector<float> values(4);
  EXPECT_EQ(error_of([&] { file.read("b", Tensor(values.data(), 1, 2)); }).what, "a tensor is missing");
  for (const auto& [rows, cols] : {std::pair{1, 3}, {2, 2}, {2, 1}, {1, 1}}) {
    const ErrorDetail error = error_of([&] { file.read("a", Tensor(values.data(), rows, cols)); });
    EXPECT_EQ(error.what, "a tensor has another shape");
    EXPECT_EQ(error.seen, "[2]");
    EXPECT_NE(error.where.find("tensor a"), std::string::npos);
  }
  EXPECT_EQ(error_of([&] { file.read_rows("a", 1, Tensor(values.data(), 1, 2)); }).what, "a tensor has another shape");
  std::vector<int32_t> integers(2);
  EXPECT_EQ(error_of([&] { file.read("a", Tensor(integers.data(), 1, 2)); }).seen, "F32");
}

TEST_F(SafetensorsTest, AnUnsuitableElementTypeIsAnInternalError) {
  std::vector<int32_t> integers(2);
  EXPECT_EQ(error_of([&] {
              write_safetensors(path(), {{"a", {2}, Tensor(integers.data(), 1, 2), DType::bf16}});
            }).kind,
            ErrorKind::internal);
  EXPECT_TRUE(names_in(directory_).empty());
}

TEST_F(SafetensorsTest, HostileHeadersAreRefused) {
  struct Case {
    const char* what;  ///< of the error
    std::string header;
    size_t data_bytes;
  };
  const std::string a = R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]})";
  const Case cases[] = {
      {"not valid JSON", "{" + a, 8},
      {"not valid JSON", "{" + a + "} x", 8},
      {"not valid JSON", "{\"\xff\":1}", 0},
      {"the header is not a JSON object", " {" + a + "}", 8},
      {"the header is not a JSON object", "[]", 0},
      {"a key stands twice in one JSON object", "{" + a + "," + a + "}", 8},
      {"a key stands twice in one JSON object",
       R"({"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8},
      {"JSON is nested too deeply", R"({"a":)" + std::string(5000, '['), 8},
      {"expected a JSON object", R"({"a":3})", 8},
      {"expected a JSON object", R"({"__metadata__":[]})", 0},
      {"a field is of another type", R"({"__metadata__":{"format":1}})", 0},
      {"a tensor's name cannot be", R"({"":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8},
      {"a tensor's name cannot be", R"({"a\u0000":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8},
      {"a tensor's name cannot be",
       "{\"" + std::string(2000, 'n') + R"(":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8},
      {"a field is missing", R"({"a":{"shape":[2],"data_offsets":[0,8]}})", 8},
      {"a field is missing", R"({"a":{"dtype":"F32","data_offsets":[0,8]}})", 8},
      {"a field is missing", R"({"a":{"dtype":"F32","shape":[2]}})", 8},
      {"a field is of another type", R"({"a":{"dtype":32,"shape":[2],"data_offsets":[0,8]}})", 8},
      {"a field is of another type", R"({"a":{"dtype":"F32","shape":2,"data_offsets":[0,8]}})", 8},
      {"an unknown element type", R"({"a":{"dtype":"F33","shape":[2],"data_offsets":[0,8]}})", 8},
      {"a shape cannot be", R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", 8},
      {"a shape cannot be", R"({"a":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}})", 8},
      {"a shape cannot be", R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}})", 8},
      {"a shape cannot be", R"({"a":{"dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,8]}})", 8},
      {"a shape cannot be", R"({"a":{"dtype":"F32","shape":[1e300],"data_offsets":[0,8]}})", 8},
      {"offsets cannot be", R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0]}})", 8},
      {"offsets cannot be", R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8,16]}})", 8},
      {"offsets cannot be", R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[-8,0]}})", 8},
      {"a tensor does not lie within the file's data", R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", 8},
      {"a tensor does not lie within the file's data", R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}})", 8},
      {"a tensor does not lie within the file's data",
       R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[18446744073709551608,18446744073709551615]}})", 8},
      {"the size of a tensor is not that of its shape and element type",
       R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", 8},
      {"the size of a tensor is not that of its shape and element type",
       R"({"a":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}})", 1},
      {"bytes of the data belong to no tensor", R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})", 12},
      {"two tensors overlap", "{" + a + R"(,"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})", 12},
      {"two tensors overlap", "{" + a + R"(,"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8},
      {"the data is longer than its tensors", "{" + a + "}", 9},
      {"the data is longer than its tensors", "{}", 1},
  };
  for (const Case& one : cases) {
    const ErrorDetail error = refusal(container(one.header, one.data_bytes));
    EXPECT_EQ(error.what, one.what) << one.header.substr(0, 200);
    EXPECT_EQ(error.kind, ErrorKind::checkpoint) << one.header.substr(0, 200);
    EXPECT_NE(error.where.find(path().string()), std::string::npos) << one.header.substr(0, 200);
  }
  // The right one beside them is read, so each refusal is for its own reason.
  write(path(), container("{" + a + R"(,"b":{"dtype":"F4","shape":[4],"data_offsets":[8,10]}}   )", 10));
  EXPECT_EQ(SafetensorsFile(path()).entries().size(), 2u);
}

TEST_F(SafetensorsTest, ImpossibleLengthsAreRefused) {
  EXPECT_EQ(refusal("").what, "the file is empty");
  EXPECT_EQ(refusal("1234567").what, "the file is too short to be safetensors");
  for (const uint64_t length : {uint64_t{65}, uint64_t{100'000'001}, ~uint64_t{0}, ~uint64_t{0} - 7}) {
    std::string bytes = known_bytes();
    std::memcpy(bytes.data(), &length, sizeof length);
    EXPECT_EQ(refusal(bytes).what, "the header's length cannot be") << length;
  }
  for (size_t size = 0; size < known_bytes().size(); ++size) refusal(known_bytes().substr(0, size));
}

TEST_F(SafetensorsTest, AFlippedHeaderIsRefusedOrDescribesTheSameBytes) {
  const std::string original = read_file(data_file("mixed.safetensors"), ErrorKind::data);
  uint64_t header;
  std::memcpy(&header, original.data(), sizeof header);
  std::multiset<std::pair<uint64_t, uint64_t>> ranges;
  const SafetensorsFile unchanged(data_file("mixed.safetensors"));
  for (const auto& [name, entry] : unchanged.entries()) ranges.emplace(entry.begin, entry.end);
  int refused = 0;
  write(path(), original);
  for (size_t i = 0; i < sizeof header + header; ++i)
    for (const int flip : {0x01, 0x20, 0xff, 0x00}) {  // the last restores the byte
      set_byte(path(), i, static_cast<char>(original[i] ^ flip));
      try {
        const SafetensorsFile file(path());
        std::multiset<std::pair<uint64_t, uint64_t>> found;
        for (const auto& [name, entry] : file.entries()) found.emplace(entry.begin, entry.end);
        EXPECT_EQ(found, ranges) << "byte " << i << " flipped by " << flip;
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::checkpoint);
        ++refused;
      }
    }
  EXPECT_GT(refused, 1000);
}

}  // namespace
}  // namespace nibble
