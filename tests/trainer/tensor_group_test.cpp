#include "trainer/tensor_group.hpp"

#include <algorithm>

#include "tests/tensor/temporary_directory.hpp"
#include "trainer/row_type.hpp"
#include "trainer/safetensors.hpp"

namespace nibble {
namespace {

class TensorGroups : public TemporaryDirectoryTest {
 protected:
  std::filesystem::path path() const { return directory_ / "model.safetensors"; }
};

/// Codes and scales of a matrix, whose bytes come in turns.
TensorGroup codes_and_scales(int64_t rows, uint64_t codes_said) {
  return {.tensors = {{"m.codes", "U8", {rows, 3}, codes_said}, {"m.scale", "F32", {rows}, 4 * uint64_t(rows)}},
          .write = [rows](std::span<const ByteSink> sinks) {
            for (int64_t row = 0; row < rows; ++row) {
              const auto scale = static_cast<float>(row);
              sinks[1](std::as_bytes(std::span(&scale, 1)));
              const std::byte code = std::byte(row % 251);
              for (int i = 0; i < 3; ++i) sinks[0](std::span(&code, 1));
            }
          }};
}

TEST_F(TensorGroups, TensorsThatAreMadeTogetherLieWhereTheContainerPutsThem) {
  const int64_t rows = 600'000;  // more than is buffered
  const std::vector<TensorGroup> groups = {
      codes_and_scales(rows, 3 * uint64_t(rows)),
      {.tensors = {{"a", "F32", {1}, 4}, {"empty", "U8", {0}, 0}}, .write = [](std::span<const ByteSink> sinks) {
         const float one = 1;
         sinks[0](std::as_bytes(std::span(&one, 1)));
       }}};
  EXPECT_EQ(groups[0].bytes(), 7 * uint64_t(rows));
  AtomicFile file(path());
  uint64_t last = 0;
  write_safetensors(file, groups, {{"format", "pt"}, {"x", "00"}}, [&](uint64_t done, uint64_t of) {
    EXPECT_GE(done, last);
    EXPECT_EQ(of, 7 * uint64_t(rows) + 4);
    last = done;
  });
  EXPECT_EQ(last, 7 * uint64_t(rows) + 4);
  file.commit();
  replace_safetensors_metadata(path(), {{"format", "pt"}, {"x", "42"}});

  const SafetensorsFile read(path());
  EXPECT_EQ(read.metadata().at("x"), "42");
  EXPECT_LT(read.entry("a").begin, read.entry("m.scale").begin);  // the reference writer's order
  EXPECT_LT(read.entry("m.scale").begin, read.entry("m.codes").begin);
  EXPECT_EQ(read.entry("empty").begin, read.entry("empty").end);
  const std::span<const std::byte> codes = read.bytes("m.codes");
  for (int64_t row = 0; row < rows; ++row)
    ASSERT_TRUE(std::ranges::all_of(codes.subspan(3 * static_cast<size_t>(row), 3), [&](std::byte code) {
      return code == std::byte(row % 251);
    })) << row;
  const OwnedTensor scales(DType::f32, 1, rows);
  read.read("m.scale", scales);
  for (int64_t row = 0; row < rows; ++row) ASSERT_EQ(scales.view().as<float>()[row], static_cast<float>(row));
}

TEST_F(TensorGroups, ATensorThatIsGivenOtherBytesThanItSaidIsADefect) {
  for (const uint64_t said : {29, 31}) {
    AtomicFile file(path());
    const std::vector<TensorGroup> groups = {codes_and_scales(10, said)};
    const ErrorDetail error = error_of([&] { write_safetensors(file, groups); });
    EXPECT_EQ(error.kind, ErrorKind::internal);
    EXPECT_EQ(error.where, "m.codes");
  }
  EXPECT_TRUE(names_in(directory_).empty());
}

TEST_F(TensorGroups, MetadataKeepItsLength) {
  write_safetensors(path(), {}, {{"x", "0"}});
  EXPECT_EQ(error_of([&] { replace_safetensors_metadata(path(), {{"x", "0123456789"}}); }).kind, ErrorKind::internal);
  EXPECT_EQ(SafetensorsFile(path()).metadata().at("x"), "0");
}

TEST(RowType, RowsThatAreNoWholeBlocksAreRefused) {
  const ModelConfig config{
      .vocabulary = 5, .width = 6, .layers = 1, .heads = 1, .kv_heads = 1, .head_dim = 2, .ffn = 4, .context = 8};
  const ParameterLayout layout(config);
  const ParameterSet weights(layout, DType::f32, DType::f32, true, "weights");
  const std::unique_ptr<WeightSource> source = held_weights(config, weights);
  RowType blocks = row_type("F32");
  blocks.block = 4;
  blocks.block_bytes = 16;
  const ErrorDetail error = error_of([&] { encode_rows(*source, 0, "x", {5, 6}, blocks); });
  EXPECT_EQ(error.kind, ErrorKind::configuration);
  EXPECT_EQ(error.seen, "6 columns");
}

}  // namespace
}  // namespace nibble
