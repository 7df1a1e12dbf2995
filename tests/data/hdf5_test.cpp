#include "data/hdf5.hpp"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <csignal>
#include <fstream>
#include <numeric>

#include "tests/data/test_files.hpp"

namespace nibble {
namespace {

class Hdf5Test : public TemporaryFolderTest {
 protected:
  std::string path(const std::string& name = "file.h5") const { return TemporaryFolderTest::path(name); }
};

/// All elements of a vector or matrix, in row-major order.
template <class T>
std::vector<T> read_all(hdf5::File& file, const std::string& name) {
  const hdf5::DatasetInfo info = file.describe(name);
  std::vector<T> values(static_cast<size_t>(info.size()));
  file.read(name, Tensor(values.data(), info.rows(), info.cols()));
  return values;
}

TEST_F(Hdf5Test, VectorsOfEveryTypeComeBack) {
  const std::vector<int64_t> integers = {-1, 0, int64_t{1} << 62};
  const std::vector<uint8_t> bytes = {0, 255};
  const std::vector<uint16_t> words = {0, 65535};
  const std::vector<int32_t> ids = {-5, 7};
  const std::vector<float> reals = {0.5f, -3.0f};
  const std::vector<double> doubles = {1.0 / 3};
  const std::vector<bf16> halves = {bf16(1.0f), bf16(-2.5f)};
  {
    hdf5::File file = hdf5::File::create(path(), ErrorKind::data);
    file.write("integers", integers);
    file.write("bytes", bytes);
    file.write("words", words);
    file.write("deep/er/ids", ids);
    file.write("reals", reals);
    file.write("doubles", doubles);
    file.write("deep/halves", halves);
    file.write("none", std::vector<float>{});
    file.close();
  }
  hdf5::File file = hdf5::File::open(path(), ErrorKind::data);
  EXPECT_EQ(read_all<int64_t>(file, "integers"), integers);
  EXPECT_EQ(read_all<uint8_t>(file, "bytes"), bytes);
  EXPECT_EQ(read_all<uint16_t>(file, "words"), words);
  EXPECT_EQ(read_all<int32_t>(file, "deep/er/ids"), ids);
  EXPECT_EQ(read_all<float>(file, "reals"), reals);
  EXPECT_EQ(read_all<double>(file, "doubles"), doubles);
  EXPECT_EQ(read_all<bf16>(file, "deep/halves"), halves);
  EXPECT_TRUE(read_all<float>(file, "none").empty());
  EXPECT_EQ(file.describe("deep/halves").dtype, DType::bf16);
  EXPECT_EQ(file.describe("words").dtype, DType::u16);
  EXPECT_EQ(file.string_attribute("deep/halves", "dtype"), "bf16");
  const std::vector<std::string> expected = {"bytes",    "deep/er/ids", "deep/halves", "doubles",
                                             "integers", "none",        "reals",       "words"};
  EXPECT_EQ(file.datasets(), expected);
  EXPECT_TRUE(file.contains("deep/er/ids"));
  EXPECT_FALSE(file.contains("deep/er"));
  EXPECT_FALSE(file.contains("absent/ids"));
}

TEST_F(Hdf5Test, PaddingOfStridedRowsIsNeitherStoredNorOverwritten) {
  std::vector<float> padded(3 * 8, -1.0f);
  const Tensor view(DType::f32, padded.data(), 3, 5, 8);
  for (int64_t row = 0; row < 3; ++row) std::iota(view.row<float>(row), view.row<float>(row) + 5, 10.0f * row);
  {
    hdf5::File file = hdf5::File::create(path(), ErrorKind::checkpoint);
    file.write("weight", view);
  }
  hdf5::File file = hdf5::File::open(path(), ErrorKind::checkpoint);
  const std::vector<float> packed = {0, 1, 2, 3, 4, 10, 11, 12, 13, 14, 20, 21, 22, 23, 24};
  EXPECT_EQ(read_all<float>(file, "weight"), packed);
  EXPECT_EQ(file.describe("weight").shape, (std::vector<int64_t>{3, 5}));

  std::vector<float> again(3 * 7, 99.0f);
  file.read("weight", Tensor(DType::f32, again.data(), 3, 5, 7));
  EXPECT_EQ(again[7 + 4], 14.0f);
  EXPECT_EQ(again[7 + 5], 99.0f);

  std::vector<float> last_rows(10);
  file.read_range("weight", 1, Tensor(last_rows.data(), 2, 5));
  EXPECT_EQ(last_rows, std::vector<float>(packed.begin() + 5, packed.end()));
}

TEST_F(Hdf5Test, RangesFillADataset) {
  {
    hdf5::File file = hdf5::File::create(path(), ErrorKind::data);
    file.create_dataset("tokens", DType::u16, {6});
    uint16_t first[4] = {1, 2, 3, 4}, second[2] = {5, 6};
    file.write_range("tokens", 0, Tensor(first, 1, 4));
    file.write_range("tokens", 4, Tensor(second, 1, 2));
    EXPECT_THROW(file.write_range("tokens", 5, Tensor(second, 1, 2)), Error);
  }
  hdf5::File file = hdf5::File::open(path(), ErrorKind::data);
  EXPECT_EQ(read_all<uint16_t>(file, "tokens"), (std::vector<uint16_t>{1, 2, 3, 4, 5, 6}));
}

TEST_F(Hdf5Test, RunsOfElementsAreReadFromVectorsAndMatrices) {
  std::vector<float> values(35), run(35);
  std::iota(values.begin(), values.end(), 1.0f);
  hdf5::File file = hdf5::File::create(path(), ErrorKind::data);
  file.write("vector", values);
  file.write("matrix", Tensor(values.data(), 5, 7));
  for (const char* name : {"vector", "matrix"}) {
    for (int64_t first = 0; first <= 35; ++first)
      for (int64_t count = 0; count <= 35 - first; ++count) {
        std::ranges::fill(run, 0.0f);
        file.read_elements(name, first, Tensor(run.data(), 1, count));
        ASSERT_TRUE(std::equal(run.begin(), run.begin() + count, values.begin() + first)) << name << " " << first;
      }
    for (const auto& [first, count] : {std::pair<int64_t, int64_t>{-1, 2}, {35, 1}, {0, 36}, {INT64_MAX, 1}})
      EXPECT_THROW(file.read_elements(name, first, Tensor(run.data(), 1, count)), Error) << name << " " << first;
  }
}

TEST_F(Hdf5Test, OffsetsPointAtTheElementsBehindAUserBlock) {
  const std::vector<int32_t> values = {0x01020304, 0x05060708};
  {
    hdf5::File file = hdf5::File::create(path(), ErrorKind::data, 512);
    file.write("values", values);
  }
  int64_t offset = 0;
  {
    hdf5::File file = hdf5::File::open(path(), ErrorKind::data);
    offset = file.describe("values").offset;
  }
  std::ifstream raw(path(), std::ios::binary);
  raw.seekg(offset);
  std::vector<int32_t> read(2);
  raw.read(reinterpret_cast<char*>(read.data()), 8);
  EXPECT_EQ(read, values);
  EXPECT_GE(offset, 512);
}

TEST_F(Hdf5Test, EveryDatasetStartsOnACacheLine) {
  hdf5::File file = hdf5::File::create(path(), ErrorKind::data, 512);
  for (int64_t size : {1, 3, 77, 2047, 5000}) {
    const std::string name = "bytes" + std::to_string(size);
    file.write(name, std::vector<uint8_t>(static_cast<size_t>(size), 7));
    EXPECT_EQ(file.describe(name).offset % 64, 0) << size;
  }
}

TEST_F(Hdf5Test, AttributesComeBack) {
  {
    hdf5::File file = hdf5::File::create(path(), ErrorKind::data);
    file.write("x", std::vector<float>{1});
    file.set_attribute("/", "count", int64_t{-7});
    file.set_attribute("/", "count", int64_t{-8});
    file.set_attribute("x", "rate", int64_t{3});
    file.set_attribute("/", "name", std::string_view("Größe"));
    file.set_attribute("/", "empty", std::string_view(""));
    EXPECT_THROW(file.set_attribute("/", "long", std::string(70000, 'x')), Error);
    EXPECT_THROW(file.set_attribute("absent", "count", int64_t{1}), Error);
  }
  hdf5::File file = hdf5::File::open(path(), ErrorKind::data);
  EXPECT_EQ(file.integer_attribute("/", "count"), -8);
  EXPECT_EQ(file.integer_attribute("x", "rate"), 3);
  EXPECT_EQ(file.string_attribute("/", "name"), "Größe");
  EXPECT_EQ(file.string_attribute("/", "empty"), "");
  EXPECT_TRUE(file.has_attribute("x", "rate"));
  EXPECT_FALSE(file.has_attribute("x", "count"));
  EXPECT_THROW(file.integer_attribute("/", "name"), Error);
  EXPECT_THROW(file.string_attribute("/", "count"), Error);
  EXPECT_THROW(file.integer_attribute("/", "absent"), Error);
}

TEST_F(Hdf5Test, EqualContentsGiveEqualFiles) {
  for (const char* name : {"a.h5", "b.h5"}) {
    hdf5::File file = hdf5::File::create(path(name), ErrorKind::data);
    file.write("group/x", std::vector<float>{1, 2, 3});
    file.set_attribute("/", "count", int64_t{3});
  }
  EXPECT_EQ(contents(path("a.h5")), contents(path("b.h5")));
}

TEST_F(Hdf5Test, ErrorsNameTheFileAndTheObject) {
  const ErrorDetail missing = error_of([&] { hdf5::File::open(path("absent.h5"), ErrorKind::checkpoint); });
  EXPECT_EQ(missing.kind, ErrorKind::checkpoint);
  EXPECT_NE(missing.where.find("absent.h5"), std::string::npos);

  std::ofstream(path("text.h5")) << "not HDF5 at all";
  EXPECT_EQ(error_of([&] { hdf5::File::open(path("text.h5"), ErrorKind::data); }).kind, ErrorKind::data);
  EXPECT_THROW(hdf5::File::create(path("no/such/folder.h5"), ErrorKind::data), Error);
  EXPECT_THROW(hdf5::File::create(path(), ErrorKind::data, 100), Error);

  {
    hdf5::File file = hdf5::File::create(path(), ErrorKind::checkpoint);
    file.write("weight", std::vector<float>{1, 2});
    EXPECT_THROW(file.write("weight", std::vector<float>{1, 2}), Error);
  }
  hdf5::File file = hdf5::File::open(path(), ErrorKind::checkpoint);
  const ErrorDetail absent = error_of([&] { file.describe("bias"); });
  EXPECT_NE(absent.where.find("'bias'"), std::string::npos);
  EXPECT_NE(absent.seen.find("weight"), std::string::npos);
  float three[3];
  int32_t two[2];
  EXPECT_NE(error_of([&] { file.read("weight", Tensor(three, 1, 3)); }).seen.find("f32 [1, 2]"), std::string::npos);
  EXPECT_THROW(file.read("weight", Tensor(two, 1, 2)), Error);
  EXPECT_THROW(file.write("other", std::vector<float>{1}), Error);
}

TEST_F(Hdf5Test, AWriteThatDoesNotReachTheDiskIsAnErrorOfThatWrite) {
  const auto handler = signal(SIGXFSZ, SIG_IGN);
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  for (const int64_t elements : {500, 1'000'000}) {  // HDF5 holds small datasets back
    hdf5::File file = hdf5::File::create(path(), ErrorKind::resource);
    file.create_dataset("x", DType::f32, {elements});
    const OwnedTensor tensor(DType::f32, 1, elements);
    const rlimit small{.rlim_cur = 2500, .rlim_max = before.rlim_max};
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
    const ErrorDetail error = error_of([&] { file.write_range("x", 0, tensor.view()); });
    setrlimit(RLIMIT_FSIZE, &before);
    EXPECT_EQ(error.kind, ErrorKind::resource) << elements;
    EXPECT_EQ(error.what, "cannot write the dataset") << elements;
    EXPECT_NE(error.where.find(path()), std::string::npos) << elements;
    EXPECT_EQ(error.seen, "File too large") << elements;
    EXPECT_NE(error.next.find("free space"), std::string::npos) << elements;
  }
  signal(SIGXFSZ, handler);
}

TEST_F(Hdf5Test, OpensOnlyTheFileThatWasVerified) {
  {
    hdf5::File file = hdf5::File::create(path(), ErrorKind::data);
    file.write("x", std::vector<float>{1, 2});
  }
  const MappedFile verified(path(), ErrorKind::data);
  EXPECT_NO_THROW(hdf5::File::open(verified, ErrorKind::data));
  std::filesystem::copy_file(path(), path("other.h5"));  // the same bytes, but another file
  std::filesystem::rename(path("other.h5"), path());
  const ErrorDetail error = error_of([&] { hdf5::File::open(verified, ErrorKind::checkpoint); });
  EXPECT_EQ(error.kind, ErrorKind::checkpoint);
  EXPECT_EQ(error.what, "the file was replaced while it was being opened");
}

}  // namespace
}  // namespace nibble
