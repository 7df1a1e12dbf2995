// Quantizers give the same bits on a device as on the host, whatever they write.
#include <gtest/gtest.h>

#include <algorithm>
#include <iterator>
#include <limits>

#include "quant/learned_step.hpp"
#include "tensor/cuda/emulation/control.hpp"
#include "tensor/error.hpp"
#include "tests/cuda/on_device.hpp"
#include "tests/cuda/small_blocks.hpp"
#include "tests/quant/quantizer_cases.hpp"

namespace nibble {
namespace {

using reference::Matrix;
using testing::drawn, testing::on_device, testing::on_host, testing::same_bits, testing::SmallBlocks;

std::vector<float> random_signs(int64_t size) {
  return rotation_signs(Signs::random, size, RandomStream(1, Purpose::rotation_signs));
}

class QuantizeOnDevice : public ::testing::TestWithParam<QuantizerCase> {
 protected:
  const Quantizer& quantizer() const { return GetParam().quantizer; }
  /// No multiple of a tile's width, but of a square's where the quantizer has squares.
  int64_t outer() const { return quantizer().extent == Extent::square ? 48 : 37; }
  void expect_same(const Matrix& x, QuantizeCall call, const std::string& label) const {
    const QuantizedMatrix host = quantize_matrix(x, quantizer(), call);
    call.place = Place::device;
    EXPECT_TRUE(quantize_matrix(x, quantizer(), call) == host) << label;
  }
  void expect_same(const Matrix& x, const QuantizeCall& call) const {
    for (const Axis axis : {Axis::cols, Axis::rows}) {
      QuantizeCall along = call;
      along.axis = axis;
      expect_same(x, along, axis == Axis::rows ? "rows" : "cols");
    }
  }
};

TEST_P(QuantizeOnDevice, HasTheHostsBits) {
  const Hadamard hadamard = Hadamard::of_order(64, "here");
  const std::vector<float> signs = random_signs(64);
  expect_same(normal_matrix(outer(), 256), {.step = 2, .part = 1});
  expect_same(normal_matrix(16, 128, 2, true),
              {.from = DType::bf16, .type = DType::bf16, .hadamard = &hadamard, .signs = signs, .part = 3});
}

TEST_P(QuantizeOnDevice, CarriesInfinitiesAndNaN) {
  Matrix x = normal_matrix(16, 128);
  x.values[5] = std::numeric_limits<float>::infinity();
  x.values[3 * 128 + 40] = std::numeric_limits<float>::quiet_NaN();
  x.values[7 * 128] = 1e-44f;
  expect_same(x, {.type = DType::bf16}, "cols");
}

const auto case_name = [](const auto& one) { return one.param.name; };
INSTANTIATE_TEST_SUITE_P(Quantizers, QuantizeOnDevice, ::testing::ValuesIn(quantizer_cases()), case_name);

std::vector<QuantizerCase> cases_that(bool (*fit)(const Quantizer&)) {
  std::vector<QuantizerCase> cases;
  std::ranges::copy_if(quantizer_cases(), std::back_inserter(cases),
                       [&](const QuantizerCase& one) { return fit(one.quantizer); });
  return cases;
}

class IntegersOnDevice : public QuantizeOnDevice {};
TEST_P(IntegersOnDevice, AreTheHosts) {
  expect_same(normal_matrix(outer(), 136), {.from = DType::bf16, .type = DType::i8});
}
INSTANTIATE_TEST_SUITE_P(Quantizers, IntegersOnDevice,
                         ::testing::ValuesIn(cases_that([](const Quantizer& q) { return q.integers(); })), case_name);

class PlainScalesOnDevice : public QuantizeOnDevice {};
TEST_P(PlainScalesOnDevice, FitLengthsThatAreNoMultiplesOfAnything) {
  for (const auto& [rows, depth] : {std::pair{1, 1}, {3, 7}, {2, 133}, {70, 43}})
    expect_same(normal_matrix(rows, depth), {.type = DType::bf16});
}
INSTANTIATE_TEST_SUITE_P(Quantizers, PlainScalesOnDevice, ::testing::ValuesIn(cases_that([](const Quantizer& q) {
                           return !q.blocks() && q.mask == MaskRule::all && q.sparsity == Sparsity::none;
                         })),
                         case_name);

class RowScalesOnDevice : public QuantizeOnDevice {};
TEST_P(RowScalesOnDevice, AreFoundFirstWhereRowsDoNotFit) {
  const SmallBlocks small(6 << 10);
  const Hadamard hadamard = Hadamard::of_order(64, "here");
  expect_same(normal_matrix(5, 392), {});
  expect_same(normal_matrix(5, 448), {.from = DType::bf16, .hadamard = &hadamard, .signs = random_signs(64)});
}
INSTANTIATE_TEST_SUITE_P(Quantizers, RowScalesOnDevice,
                         ::testing::ValuesIn(cases_that([](const Quantizer& q) { return q.extent == Extent::row; })),
                         case_name);

TEST(QuantizedMatrices, ThatDifferAreSeenToDiffer) {
  const Quantizer& quantizer = quantizer_case("nvfp4_stochastic").quantizer;
  const Matrix x = normal_matrix(16, 128);
  EXPECT_FALSE(quantize_matrix(x, quantizer, {.part = 1}) ==
               quantize_matrix(x, quantizer, {.part = 2, .place = Place::device}));
}

class OperandsOnDevice : public ::testing::Test {
 protected:
  static OwnedTensor made(DType type, int64_t rows, int64_t cols) { return {type, rows, cols, "test", Place::device}; }

  Stream host{2}, device{2, Place::device};
};

TEST_F(OperandsOnDevice, HaveScalesOfTheirOwn) {
  const OwnedTensor x = drawn(DType::bf16, 80, 48, 1), rows = drawn(DType::f32, 1, 80, 2),
                    cols = drawn(DType::f32, 1, 48, 3), factor = drawn(DType::f32, 1, 1, 4), here(DType::bf16, 80, 48);
  const OwnedTensor device_x = on_device(device, x), device_rows = on_device(device, rows),
                    device_cols = on_device(device, cols), device_factor = on_device(device, factor),
                    there = made(DType::bf16, 80, 48);
  const Operand operand{.values = x, .factor = number_in(factor), .row_scale = rows, .col_scale = cols};
  const Operand of_device{
      .values = device_x, .factor = number_in(device_factor), .row_scale = device_rows, .col_scale = device_cols};
  for (const Axis axis : {Axis::cols, Axis::rows}) {
    const Quantization how{.quantizer = quantizers::nvfp4_stochastic, .axis = axis};
    const Scalar largest = tensor_statistic(host, operand, how),
                 there_largest = tensor_statistic(device, of_device, how);
    const Operand seen = quantize(host, operand, how, largest, here),
                  there_seen = quantize(device, of_device, how, there_largest, there);
    EXPECT_EQ(value_of(device, there_largest), float{largest});
    EXPECT_EQ(value_of(device, there_seen.factor), float{seen.factor});
    EXPECT_TRUE(same_bits(on_host(device, there), here));
  }
}

TEST_F(OperandsOnDevice, NumbersStayThereUntilSomebodyAsks) {
  const OwnedTensor x = on_device(device, drawn(DType::f32, 8, 32, 1));
  const Scalar largest = tensor_statistic(device, {.values = x}, {});
  EXPECT_TRUE(largest.on_device());
  EXPECT_THROW(float{largest}, Error);
  const Scalar square = product_of(device, largest, largest);
  EXPECT_EQ(value_of(device, square), value_of(device, largest) * value_of(device, largest));
  const OwnedTensor row = made(DType::f32, 1, 3);
  keep(device, square, row, 1);
  keep(device, 2.5f, row, 2);
  const OwnedTensor seen = on_host(device, row);
  EXPECT_EQ(seen.view().as<float>()[0], 0);
  EXPECT_EQ(seen.view().as<float>()[1], value_of(device, square));
  EXPECT_EQ(seen.view().as<float>()[2], 2.5f);
}

TEST_F(OperandsOnDevice, WithoutElementsHaveTheirFactor) {
  const OwnedTensor whole = made(DType::f32, 1, 64);
  const Tensor none = whole.view().slice_rows(0, 0);
  const Quantization how{.quantizer = quantizers::per_tensor(formats::int8)};
  EXPECT_EQ(value_of(device, quantize(device, {.values = none}, how, 4, none).factor), 4.0f / 127);
  EXPECT_EQ(value_of(device, tensor_statistic(device, {.values = none}, how)), 0);
}

TEST_F(OperandsOnDevice, MayLieInRowsOfAnyWidthAndBeginAnywhere) {
  const OwnedTensor whole = drawn(DType::bf16, 50, 130, 1), whole_there = on_device(device, whole);
  const OwnedTensor here(DType::f32, 50, 131), there = made(DType::f32, 50, 131);
  const auto part = [](const Tensor& x, int64_t first) { return x.slice_rows(1, 48).slice_cols(first, 112); };
  for (const Axis axis : {Axis::cols, Axis::rows})
    for (const int64_t first : {0, 3, 8}) {
      Quantization how{.quantizer = quantizers::mx(formats::e2m1, quantizers::MxScale::floor), .axis = axis};
      how.quantizer.group = 16;  // divides both axes
      quantize(host, {.values = part(whole, first)}, how, 0, part(here, first));
      quantize(device, {.values = part(whole_there, first)}, how, 0, part(there, first));
      EXPECT_TRUE(same_bits(on_host(device, there), here)) << first;
    }
}

/// What rotations of all orders have in common, whichever way they go.
class RotationsOnDevice : public OperandsOnDevice, public ::testing::WithParamInterface<std::tuple<int64_t, size_t>> {};

TEST_P(RotationsOnDevice, GoForwardAndBack) {
  const auto [order, memory] = GetParam();
  const SmallBlocks small(memory);
  const Hadamard hadamard = Hadamard::of_order(order, "here");
  const std::vector<float> signs = random_signs(order);
  for (const Axis axis : {Axis::cols, Axis::rows}) {
    const int64_t depth = order < 300 ? 3 * order : order, rows = axis == Axis::cols ? 5 : depth,
                  cols = depth * 5 / rows;
    const OwnedTensor x = drawn(DType::bf16, rows, cols, 7), here(DType::f32, rows, cols);
    const OwnedTensor there_x = on_device(device, x), there = made(DType::f32, rows, cols);
    const Quantization how{.axis = axis, .hadamard = &hadamard, .signs = signs};
    quantize(host, {.values = x}, how, 0, here);
    quantize(device, {.values = there_x}, how, 0, there);
    EXPECT_TRUE(same_bits(on_host(device, there), here));
    EXPECT_EQ(value_of(device, tensor_statistic(device, {.values = there_x}, how)),
              float{tensor_statistic(host, {.values = x}, how)});
    unrotate(host, here, axis, &hadamard, signs, {}, here);
    unrotate(device, there, axis, &hadamard, signs, {}, there);
    EXPECT_TRUE(same_bits(on_host(device, there), here));
    if (axis == Axis::rows || depth % 8 != 0) continue;
    const OwnedTensor mask(DType::u8, rows, depth / 8), back(DType::bf16, rows, cols);
    for (int64_t i = 0; i < mask.view().size(); ++i) mask.view().as<uint8_t>()[i] = static_cast<uint8_t>(i * 37 + 11);
    const OwnedTensor there_mask = on_device(device, mask), there_back = made(DType::bf16, rows, cols);
    unrotate(host, x, axis, &hadamard, {}, mask, back);
    unrotate(device, there_x, axis, &hadamard, {}, there_mask, there_back);
    EXPECT_TRUE(same_bits(on_host(device, there_back), back));
  }
}

/// In blocks of the usual memory, and through the device's, where blocks have little.
INSTANTIATE_TEST_SUITE_P(Orders, RotationsOnDevice,
                         ::testing::Combine(::testing::Values(1, 2, 16, 12, 20, 128, 2048, 28 * 64),
                                            ::testing::Values(cuda::emulation::usual_block_memory, size_t{3} << 11)));

TEST_F(OperandsOnDevice, RowsThatAreTurnedThroughTheDevicesMemory) {
  const SmallBlocks small(6 << 10);
  const Hadamard hadamard = Hadamard::of_order(28 * 128, "here");
  const QuantizeCall call{.from = DType::bf16, .hadamard = &hadamard};
  QuantizeCall there = call;
  there.place = Place::device;
  const Matrix x = normal_matrix(3, hadamard.order);
  for (const char* name : {"quest_4", "mx_e2m1_floor", "nvfp4_square", "int8_by_tensor"}) {
    const Quantizer& quantizer = quantizer_case(name).quantizer;
    if (quantizer.extent == Extent::square) SmallBlocks::limit(40 << 10);
    EXPECT_TRUE(quantize_matrix(x, quantizer, call) == quantize_matrix(x, quantizer, there)) << name;
    SmallBlocks::limit(6 << 10);
  }
}

TEST_F(OperandsOnDevice, AreAsFarFromWhatTheyStandForAsOnTheHost) {
  // Of a tile as long as a rotation a block holds 128 elements at a time.
  for (const auto& [order, cols] : {std::pair<int64_t, int64_t>{64, 192}, {256, 512}}) {
    const Hadamard hadamard = Hadamard::of_order(order, "here");
    const OwnedTensor x = drawn(DType::bf16, order, cols, 1), here(DType::bf16, order, cols);
    const OwnedTensor there_x = on_device(device, x), there = made(DType::bf16, order, cols);
    for (const Axis axis : {Axis::cols, Axis::rows})
      for (const Hadamard* rotation : {static_cast<const Hadamard*>(nullptr), &hadamard}) {
        const Quantization how{.quantizer = quantizers::nvfp4, .axis = axis, .hadamard = rotation};
        const Operand seen = quantize(host, {.values = x}, how, 4, here),
                      there_seen = quantize(device, {.values = there_x}, how, 4, there);
        const OperandError expected = operand_error(host, {.values = x}, how, seen),
                           error = operand_error(device, {.values = there_x}, how, there_seen);
        EXPECT_EQ(error.squared_error, expected.squared_error);
        EXPECT_EQ(error.squared, expected.squared);
        EXPECT_EQ(error.squared_operand, expected.squared_operand);
        EXPECT_EQ(error.product, expected.product);
        EXPECT_EQ(error.underflows, expected.underflows);
        EXPECT_EQ(error.elements, expected.elements);
        EXPECT_GT(error.squared_error, 0);
      }
  }
}

TEST_F(OperandsOnDevice, AreSubtracted) {
  const OwnedTensor x = drawn(DType::bf16, 9, 37, 1), rows = drawn(DType::f32, 1, 9, 2),
                    from = drawn(DType::f32, 9, 37, 3);
  const OwnedTensor there_x = on_device(device, x), there_rows = on_device(device, rows),
                    there = on_device(device, from);
  subtract(host, {.values = x, .factor = 0.3f, .row_scale = rows}, from);
  subtract(device, {.values = there_x, .factor = 0.3f, .row_scale = there_rows}, there);
  EXPECT_TRUE(same_bits(on_host(device, there), from));
}

TEST_F(OperandsOnDevice, StepsAreLearned) {
  for (const auto& [rows, cols] : {std::pair{1, 1}, {5, 37}, {600, 8}})
    for (const DType type : {DType::f32, DType::bf16})
      for (const LearnedStep how : {LearnedStep::lsq, LearnedStep::pact}) {
        const Quantizer quantizer = quantizers::learned(4, how);
        const OwnedTensor x = drawn(type, rows, cols, 1), gradient = drawn(DType::f32, rows, cols, 2);
        const OwnedTensor there_x = on_device(device, x), there_gradient = on_device(device, gradient);
        const float log_step = initial_log_step(host, quantizer, x);
        const Scalar there_step = initial_log_step(device, quantizer, there_x);
        EXPECT_EQ(value_of(device, there_step), log_step);
        EXPECT_EQ(value_of(device, step_of(device, there_step)), float{step_of(host, log_step)});
        EXPECT_EQ(value_of(device, log_step_gradient(device, quantizer, there_step, there_x, there_gradient)),
                  float{log_step_gradient(host, quantizer, log_step, x, gradient)});
      }
}

}  // namespace
}  // namespace nibble
