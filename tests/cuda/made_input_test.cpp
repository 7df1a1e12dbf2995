// Norms and activations that quantize, or look for the largest, as they go have the bits of separate calls on the host.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "model/made_inputs.hpp"
#include "tests/cuda/on_device.hpp"
#include "tests/cuda/small_blocks.hpp"
#include "tests/quant/quantizer_cases.hpp"

namespace nibble {
namespace {

using testing::SmallBlocks, testing::Twin, testing::same_bits;

constexpr float epsilon = 1e-5f;
constexpr DType types[] = {DType::f32, DType::bf16};

/// How a norm's or an activation's matrix is quantized.
struct How {
  const Hadamard* hadamard = nullptr;
  DType values = DType::f32;
  bool codes = true;  ///< where the quantizer has some
  bool keeps = true;
  int64_t padding = 0;
};

class MadeInputOnDevice : public ::testing::TestWithParam<QuantizerCase> {
 protected:
  struct Made {
    Tensor y;
    std::optional<Scalar> largest;
  };
  Twin twin(DType type, int64_t rows, int64_t cols, int64_t padding = 0) {
    return Twin(device, type, rows, cols, padding, ++seed);
  }
  std::optional<Twin> twin_if(bool there, DType type, int64_t rows, int64_t cols, int64_t padding = 0) {
    return there ? std::optional(twin(type, rows, cols, padding)) : std::nullopt;
  }
  static bool plain(const Quantizer& q) { return q.rounding == Rounding::nearest && q.correction_group == 0; }

  /// input(here) makes y on that side, as a LinearInput. Returns whether the device wrote y, too.
  template <class Input>
  bool expect_same(const Quantizer& q, const How& with, const Twin& y, const Input& input) {
    const int64_t rows = y.here.rows, depth = y.here.cols;
    const bool codes = with.codes && q.packable();
    const Twin values = twin(with.values, rows, depth, with.padding);
    const std::optional<Twin> scale = twin_if(q.extent == Extent::row, DType::f32, 1, rows),
                              code = twin_if(codes, DType::u8, rows, codes ? depth / 8 * q.element->bits() : 0),
                              scales = twin_if(codes && q.blocks(), DType::u8, rows, q.blocks() ? depth / q.group : 0),
                              mask = twin_if(q.mask != MaskRule::all, DType::u8, rows, depth / 8);
    const auto arguments = [&](bool here) {
      const auto side = [&](const std::optional<Twin>& one) { return !one ? Tensor() : here ? one->here : one->there; };
      return QuantizeArguments{.how = {.quantizer = q,
                                       .hadamard = with.hadamard,
                                       .rounding = RandomStream(3, Purpose::rounding, 1, 2),
                                       .scale_rounding = RandomStream(3, Purpose::scale_rounding, 1, 2),
                                       .part = 4},
                               .statistic = 2.5f,
                               .values = here ? values.here : values.there,
                               .scale = side(scale),
                               .parts = {.codes = side(code), .scales = side(scales), .mask = side(mask)}};
    };
    const OwnedTensor before = testing::on_host(device, y.whole_there);
    const Operand expected = input(true)->quantize(host, with.keeps, arguments(true)),
                  seen = input(false)->quantize(device, with.keeps, arguments(false));
    EXPECT_EQ(value_of(device, seen.factor), float{expected.factor});
    EXPECT_EQ(static_cast<bool>(seen.row_scale), static_cast<bool>(expected.row_scale));
    EXPECT_TRUE(same_bits(device, values));
    EXPECT_TRUE(!scale || same_bits(device, *scale));
    EXPECT_TRUE(!code || same_bits(device, *code));
    EXPECT_TRUE(!scales || same_bits(device, *scales));
    EXPECT_TRUE(!mask || same_bits(device, *mask));
    const bool written = !same_bits(testing::on_host(device, y.whole_there), before);
    EXPECT_TRUE(!written || same_bits(device, y));
    return written;
  }

  /// Whether y was written, too.
  bool expect_same_norm(const Quantizer& q, int64_t tokens, int64_t width, DType type, const How& with) {
    const Twin x = twin(DType::f32, tokens, width, with.padding), gain = twin(DType::f32, 1, width),
               y = twin(type, tokens, width, with.padding), r = twin(DType::f32, 1, tokens);
    const bool written = expect_same(q, with, y, [&](bool here) {
      return here ? std::make_unique<NormedInput>(x.here, gain.here, epsilon, y.here, r.here)
                  : std::make_unique<NormedInput>(x.there, gain.there, epsilon, y.there, r.there);
    });
    EXPECT_TRUE(same_bits(device, r));
    return written;
  }
  bool expect_same_gates(const Quantizer& q, int64_t tokens, int64_t ffn, DType type, const How& with) {
    const Twin gate_up = twin(type, tokens, 2 * ffn, with.padding), y = twin(type, tokens, ffn, with.padding);
    return expect_same(q, with, y, [&](bool here) {
      return here ? std::make_unique<GatedInput>(gate_up.here, y.here, false)
                  : std::make_unique<GatedInput>(gate_up.there, y.there, false);
    });
  }

  Stream host{2}, device{2, Place::device};
  unsigned seed = 0;
};

TEST_P(MadeInputOnDevice, IsQuantizedAsItIsMade) {
  const Quantizer& q = GetParam().quantizer;
  const int64_t tokens = q.extent == Extent::square ? 48 : 37;
  const Hadamard hadamard = Hadamard::of_order(64, "here");
  for (const DType type : types)
    for (const bool keeps : {true, false}) {
      const How with{.keeps = keeps};
      EXPECT_EQ(expect_same_norm(q, tokens, 384, type, with), keeps || !plain(q));
      EXPECT_EQ(expect_same_gates(q, tokens, 384, type, with), keeps || !plain(q));
    }
  const How rotated{.hadamard = &hadamard, .values = DType::bf16, .keeps = false, .padding = 8};
  EXPECT_EQ(expect_same_norm(q, tokens, 256, DType::bf16, rotated), !plain(q));
  EXPECT_EQ(expect_same_gates(q, tokens, 256, DType::bf16, rotated), !plain(q));
  if (q.extent == Extent::square) return;
  EXPECT_EQ(expect_same_norm(q, 1, 640, DType::bf16, {.keeps = false, .padding = 3}), !plain(q));
  EXPECT_EQ(expect_same_gates(q, 1, 640, DType::bf16, {.keeps = false, .padding = 3}), !plain(q));
  EXPECT_EQ(expect_same_norm(q, 3, 4096, DType::bf16, {.keeps = false}), !plain(q));
}

TEST_P(MadeInputOnDevice, IsMadeFirstWhereNoTileFits) {
  const Quantizer& q = GetParam().quantizer;
  if (!cuda::emulation::linked()) GTEST_SKIP() << "the blocks of GPUs have the memory that they have";
  if (q.extent == Extent::square) return;
  const Hadamard hadamard = Hadamard::of_order(4096, "here");
  const SmallBlocks small(12 << 10);
  EXPECT_TRUE(expect_same_norm(q, 3, 4096, DType::bf16, {.keeps = false}));
  EXPECT_TRUE(expect_same_gates(q, 3, 4096, DType::bf16, {.hadamard = &hadamard, .keeps = false}));
  // Rows that do not fit are read twice.
  EXPECT_EQ(expect_same_gates(q, 3, 4096, DType::bf16, {.keeps = false}), !plain(q));
}

const auto case_name = [](const auto& one) { return one.param.name; };
INSTANTIATE_TEST_SUITE_P(Quantizers, MadeInputOnDevice, ::testing::ValuesIn(quantizer_cases()), case_name);

std::vector<QuantizerCase> cases_that(bool (*fit)(const Quantizer&)) {
  std::vector<QuantizerCase> cases;
  std::ranges::copy_if(quantizer_cases(), std::back_inserter(cases),
                       [&](const QuantizerCase& one) { return fit(one.quantizer); });
  return cases;
}

class PlainScalesOfMadeInputs : public MadeInputOnDevice {};
TEST_P(PlainScalesOfMadeInputs, FitLengthsThatAreNoMultiplesOfAnything) {
  for (const auto& [tokens, width] : {std::pair{1, 1}, {3, 7}, {2, 133}, {70, 43}, {33, 1}}) {
    const How with{.values = DType::bf16, .codes = false, .keeps = false, .padding = width % 2};
    EXPECT_FALSE(expect_same_norm(GetParam().quantizer, tokens, width, DType::bf16, with));
    EXPECT_FALSE(expect_same_gates(GetParam().quantizer, tokens, width, DType::f32, with));
  }
}
INSTANTIATE_TEST_SUITE_P(Quantizers, PlainScalesOfMadeInputs, ::testing::ValuesIn(cases_that([](const Quantizer& q) {
                           return !q.blocks() && q.mask == MaskRule::all && q.sparsity == Sparsity::none &&
                                  q.rounding == Rounding::nearest;
                         })),
                         case_name);

class IntegersOfMadeInputs : public MadeInputOnDevice {};
TEST_P(IntegersOfMadeInputs, AreTheHosts) {
  const How with{.values = DType::i8, .keeps = false};
  EXPECT_FALSE(expect_same_norm(GetParam().quantizer, 37, 136, DType::bf16, with));
  EXPECT_FALSE(expect_same_gates(GetParam().quantizer, 37, 136, DType::bf16, with));
}
INSTANTIATE_TEST_SUITE_P(Quantizers, IntegersOfMadeInputs,
                         ::testing::ValuesIn(cases_that([](const Quantizer& q) { return q.integers(); })), case_name);

class LargestOfMadeInputs : public MadeInputOnDevice {
 protected:
  template <class Input>
  void expect_same(const Twin& y, const Input& input, const std::string& label) {
    const Scalar expected = input(true)->make_with_largest(host), seen = input(false)->make_with_largest(device);
    EXPECT_EQ(value_of(device, seen), float{expected}) << label;
    EXPECT_TRUE(same_bits(device, y)) << label;
  }
  void expect_same_norm(const Twin& x, DType type) {
    const int64_t tokens = x.here.rows, width = x.here.cols;
    const Twin gain = twin(DType::f32, 1, width), y = twin(type, tokens, width), r = twin(DType::f32, 1, tokens);
    expect_same(
        y,
        [&](bool here) {
          return here ? std::make_unique<NormedInput>(x.here, gain.here, epsilon, y.here, r.here)
                      : std::make_unique<NormedInput>(x.there, gain.there, epsilon, y.there, r.there);
        },
        "norm");
    EXPECT_TRUE(same_bits(device, r));
  }
  void expect_same_gates(const Twin& gate_up) {
    const Twin y = twin(gate_up.here.dtype, gate_up.here.rows, gate_up.here.cols / 2);
    expect_same(
        y,
        [&](bool here) {
          return here ? std::make_unique<GatedInput>(gate_up.here, y.here, false)
                      : std::make_unique<GatedInput>(gate_up.there, y.there, false);
        },
        "gates");
  }
};

TEST_F(LargestOfMadeInputs, IsTheMatrixs) {
  for (const auto& [tokens, width, padding] :
       {std::tuple{1, 1, 0}, {3, 7, 0}, {200, 3, 5}, {70, 264, 3}, {34, 2048, 0}, {1, 4099, 1}, {3, 8192, 8}})
    for (const DType type : types) {
      expect_same_norm(twin(DType::f32, tokens, width, padding), type);
      expect_same_gates(twin(type, tokens, 2 * width, padding));
    }
}

TEST_F(LargestOfMadeInputs, StandsAnywhereAmongManyBlocks) {
  constexpr int64_t tokens = 64 * (2 * 2048 + 1) + 1;
  for (const int64_t at : {int64_t{0}, tokens / 2, tokens - 1}) {
    Twin x = twin(DType::f32, tokens, 2), gate_up = twin(DType::bf16, 3 * 2048 * 256 / 8, 32);
    std::fill_n(x.here.as<float>(), x.here.size(), 0.0f);  // or other rows had nearly as much
    x.here.row<float>(at)[0] = 0, x.here.row<float>(at)[1] = -50;
    gate_up.here.row<bf16>(at % gate_up.here.rows)[15] = bf16(20);
    gate_up.here.row<bf16>(at % gate_up.here.rows)[31] = bf16(-30);
    copy(device, x.whole, x.whole_there);
    copy(device, gate_up.whole, gate_up.whole_there);
    device.wait();
    expect_same_norm(x, DType::bf16);
    expect_same_gates(gate_up);
  }
}

TEST_F(LargestOfMadeInputs, IsNaNWhereAnElementIs) {
  constexpr float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  const Twin gain = twin(DType::f32, 1, 40), y = twin(DType::f32, 5, 40), r = twin(DType::f32, 1, 5);
  for (const float special : {nan, infinity}) {
    Twin x = twin(DType::f32, 5, 40), gate_up = twin(DType::f32, 5, 80);
    x.here.row<float>(3)[9] = special;
    gate_up.here.row<float>(3)[9] = special;
    copy(device, x.whole, x.whole_there);
    copy(device, gate_up.whole, gate_up.whole_there);
    device.wait();
    const Scalar normed = rms_norm_with_largest(device, x.there, gain.there, epsilon, y.there, r.there);
    EXPECT_TRUE(std::isnan(value_of(device, normed)));  // infinity / infinity, too
    EXPECT_TRUE(std::isnan(rms_norm_with_largest(host, x.here, gain.here, epsilon, y.here, r.here)));
    const float gates = value_of(device, swiglu_with_largest(device, gate_up.there, y.there)),
                of_host = swiglu_with_largest(host, gate_up.here, y.here);
    EXPECT_EQ(std::isnan(gates), std::isnan(special));
    EXPECT_EQ(std::isinf(gates), std::isinf(special));
    EXPECT_EQ(std::isnan(of_host), std::isnan(special));
  }
}

TEST_F(LargestOfMadeInputs, OfNothingIsZero) {
  const Twin gain = twin(DType::f32, 1, 40), none = twin(DType::f32, 0, 40), r = twin(DType::f32, 1, 0);
  EXPECT_EQ(value_of(device, rms_norm_with_largest(device, none.there, gain.there, epsilon, none.there, r.there)), 0);
  EXPECT_EQ(value_of(device, swiglu_with_largest(device, none.there, none.there.slice_cols(0, 20))), 0);
}

}  // namespace
}  // namespace nibble
