// FP8 products under scales of rows and columns: which of them cuBLASLt scales, what a run remembers of that, and that
// they are the same products either way; over the double of the library.
#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tensor/coded_gemm.hpp"
#include "tensor/cuda/library_product.hpp"
#include "tensor/error.hpp"
#include "tensor/memory.hpp"
#include "tests/cuda/emulated_architecture.hpp"
#include "tests/cuda/on_device.hpp"
#include "tests/tensor/scoped_environment.hpp"

namespace nibble {
namespace {

using cuda::emulation::library_use;
using cuda::emulation::LibraryUse;
using testing::Architecture, testing::blackwell, testing::hopper;

// Of the double (emulation/cublaslt.cpp).
constexpr uint32_t first_guess = 37, in_two_parts = 38;
constexpr const char* part_of_name = ", scales of rows and columns";

/// E4M3 between 1 and 2, of either sign.
OwnedTensor codes(Stream& device, int64_t rows, int64_t depth, unsigned seed) {
  const OwnedTensor here(DType::u8, rows, depth, "test");
  std::mt19937 generator(seed);
  for (int64_t i = 0; i < here.view().size(); ++i) {
    const unsigned drawn = generator();
    here.view().as<uint8_t>()[i] = static_cast<uint8_t>(0x38u | (drawn & 7u) | (drawn & 8u) << 4);
  }
  return testing::on_device(device, here);
}

/// A product with all that goes with it.
struct RowProduct {
  Stream device{1, Place::device};
  static constexpr int64_t m = 40, n = 48, k = 160;
  OwnedTensor a = codes(device, m, k, 1), b = codes(device, n, k, 2),
              rows = testing::on_device(device, testing::drawn(DType::f32, 1, m, 3)),
              cols = testing::on_device(device, testing::drawn(DType::f32, 1, n, 4)),
              addend = testing::on_device(device, testing::drawn(DType::f32, m, n, 5));
  Scaling scaling{.factor = 0.3f, .rows = rows, .cols = cols};

  OwnedTensor of(DType type = DType::f32, const Tensor& more = {}) {
    const OwnedTensor c(type, m, n, "test", Place::device);
    const CodeMatrix of_a{.format = CodeFormat::e4m3, .codes = a}, of_b{.format = CodeFormat::e4m3, .codes = b};
    coded_gemm(device, of_a, of_b, c, more, scaling);
    return testing::on_host(device, c);
  }
  /// What the run's record says of the product that is scaled by the library; empty: nothing.
  std::string recorded() {
    for (const auto& [product, text] : chosen_gemms(device))
      if (product.find(part_of_name) != std::string::npos) return text;
    return {};
  }
};

class RowScales : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!library_use) GTEST_SKIP() << "built without cublasLt.h, or on a GPU";
    library_use() = LibraryUse();
  }
  void TearDown() override {
    if (library_use) library_use() = LibraryUse();
  }

  /// That `product` is one call of the library, which scales or does not.
  static OwnedTensor expect_one_call(bool scales, RowProduct& product, DType type, const Tensor& addend = {}) {
    const LibraryUse before = library_use();
    OwnedTensor c = product.of(type, addend);
    EXPECT_EQ(library_use().codes - before.codes, 1);
    EXPECT_EQ(library_use().under_vectors - before.under_vectors, scales ? 1 : 0);
    return c;
  }
};

/// What kernels do behind the library.
OwnedTensor by_kernels(DType type, bool adds) {
  const ScopedEnvironment scope("NIBBLE_GEMM", "kernel-scales");
  RowProduct product;
  OwnedTensor c = product.of(type, adds ? product.addend : Tensor());
  EXPECT_EQ(product.recorded(), "");
  return c;
}

TEST_F(RowScales, AreTheLibrarysOnHopper) {
  const auto kernels_hold = [] { return held_memory(Place::device)["working memory of kernels"]; };
  for (const DType type : {DType::f32, DType::bf16}) {
    const OwnedTensor expected = by_kernels(type, false);
    RowProduct product;
    EXPECT_TRUE(testing::same_bits(expect_one_call(true, product, type), expected));
    EXPECT_EQ(library_use().algorithm, first_guess);
    EXPECT_EQ(kernels_hold(), 0u) << "sums that wait for a kernel";
  }
  RowProduct by_a_kernel;
  library_use().refuses_vectors = true;
  by_a_kernel.of(DType::bf16);
  EXPECT_GT(kernels_hold(), 0u);
}

TEST_F(RowScales, GoWithResidualsOfTheResultsType) {
  const OwnedTensor expected = by_kernels(DType::f32, true), narrow = by_kernels(DType::bf16, true);
  RowProduct product;
  EXPECT_TRUE(testing::same_bits(expect_one_call(true, product, DType::f32, product.addend), expected));
  EXPECT_TRUE(testing::same_bits(expect_one_call(false, product, DType::bf16, product.addend), narrow));
}

TEST_F(RowScales, GoWithAFactorOfTheDevice) {
  const OwnedTensor expected = by_kernels(DType::f32, false), added = by_kernels(DType::f32, true);
  RowProduct product;
  const OwnedTensor here(DType::f32, 1, 1, "test");
  here.view().as<float>()[0] = product.scaling.factor;
  const OwnedTensor there = testing::on_device(product.device, here);
  product.scaling.factor = number_in(there);
  EXPECT_TRUE(testing::same_bits(expect_one_call(true, product, DType::f32), expected));
  EXPECT_TRUE(testing::same_bits(expect_one_call(false, product, DType::f32, product.addend), added))
      << "a number of the host's beside one of the device's";
}

TEST_F(RowScales, AreAKernelsWhereTheLibraryHasNoModeForThem) {
  const OwnedTensor expected = by_kernels(DType::f32, false);
  const auto expect_a_kernel = [&](const char* why) {
    SCOPED_TRACE(why);
    RowProduct product;
    const int before = library_use().choices;
    EXPECT_TRUE(testing::same_bits(expect_one_call(false, product, DType::f32), expected));
    EXPECT_EQ(product.recorded(), "none");
    product.of();
    return library_use().choices - before;
  };
  for (const int architecture : {blackwell, 120}) {
    const Architecture emulated(architecture);
    EXPECT_EQ(expect_a_kernel("on Blackwell"), 1) << "the sums'";
  }
  library_use().version = cuda::outer_vector_version - 1;
  EXPECT_EQ(expect_a_kernel("CUDA 12.8"), 1);
  library_use().version = 0;
  library_use().refuses_vectors = true;
  EXPECT_EQ(expect_a_kernel("the heuristic refuses"), 2) << "asked once";
}

TEST_F(RowScales, AreAKernelsWhereTheLibraryDoesNotMultiplyWhatItProposed) {
  const OwnedTensor expected = by_kernels(DType::f32, false), added = by_kernels(DType::f32, true);
  library_use().proposes_in_vain = true;
  for (const bool tune : {false, true}) {
    RowProduct product;
    choose_gemms(product.device, {}, tune);
    EXPECT_TRUE(testing::same_bits(product.of(), expected));
    EXPECT_EQ(product.recorded(), "none");
    const int choices = library_use().choices;
    EXPECT_TRUE(testing::same_bits(product.of(), expected));
    EXPECT_EQ(library_use().choices, choices) << "asked once";
    EXPECT_TRUE(testing::same_bits(product.of(DType::f32, product.addend), added));
    EXPECT_EQ(library_use().under_vectors, 0);
  }
}

TEST_F(RowScales, ThatTheLibraryAppliedBeforeAreNoKernelsLater) {
  RowProduct begun;
  begun.of();
  const auto expect_failure = [](RowProduct& product) {
    library_use().proposes_in_vain = true;
    try {
      product.of();
      ADD_FAILURE() << "multiplied";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::resource);
      EXPECT_NE(error.detail().next.find("NIBBLE_GEMM=kernel-scales"), std::string::npos);
      EXPECT_NE(error.detail().next.find("--retune"), std::string::npos);
    }
    product.device.wait();
    library_use().proposes_in_vain = false;
  };
  expect_failure(begun);
  RowProduct resumed;
  choose_gemms(resumed.device, chosen_gemms(begun.device), false);
  expect_failure(resumed);
}

TEST_F(RowScales, AloneAreRecordedWithoutAnAlgorithm) {
  RowProduct product;
  library_use().refuses_vectors = true;
  product.of();
  GemmRecord record = chosen_gemms(product.device);
  ASSERT_EQ(record.size(), 2u);
  EXPECT_NO_THROW(choose_gemms(product.device, record, false));
  for (auto& [name, text] : record) text = "none";
  EXPECT_THROW(choose_gemms(product.device, record, false), Error);
}

TEST_F(RowScales, AreAKernelsWhereTheyAreNotWhatTheModeTakes) {
  RowProduct product;
  const OwnedTensor longer(DType::f32, 1, RowProduct::m + 1, "test", Place::device);
  const Tensor rows = product.scaling.rows, cols = product.scaling.cols;
  for (const auto& [of_rows, of_cols] :
       {std::pair<Tensor, Tensor>{rows, {}}, {Tensor(), cols}, {longer.view().slice_cols(1, RowProduct::m), cols}}) {
    product.scaling.rows = of_rows;
    product.scaling.cols = of_cols;
    expect_one_call(false, product, DType::f32);
  }
  EXPECT_EQ(product.recorded(), "");
}

TEST_F(RowScales, OfARunThatGoesOnAreScaledAsTheyWere) {
  RowProduct tuned;
  choose_gemms(tuned.device, {}, true);
  const OwnedTensor expected = tuned.of();
  EXPECT_EQ(library_use().algorithm, in_two_parts);
  const GemmRecord record = chosen_gemms(tuned.device);
  EXPECT_EQ(record.size(), 1u);

  RowProduct resumed;
  choose_gemms(resumed.device, record, false);
  const int choices = library_use().choices;
  EXPECT_TRUE(testing::same_bits(expect_one_call(true, resumed, DType::f32), expected));
  EXPECT_EQ(library_use().choices, choices);
  EXPECT_EQ(chosen_gemms(resumed.device), record);
}

TEST_F(RowScales, OfARecordThatSaysNothingOfThemAreAskedForAnew) {
  GemmRecord record;
  {
    const ScopedEnvironment scope("NIBBLE_GEMM", "kernel-scales");
    RowProduct older;
    older.of();
    record = chosen_gemms(older.device);
  }
  ASSERT_EQ(record.size(), 1u);
  RowProduct resumed;
  choose_gemms(resumed.device, record, false);
  expect_one_call(true, resumed, DType::f32);
  EXPECT_EQ(chosen_gemms(resumed.device).size(), 2u);
}

TEST_F(RowScales, ThatAKernelAppliedAreNotTheLibrarysLater) {
  library_use().refuses_vectors = true;
  RowProduct begun;
  const OwnedTensor expected = begun.of();
  const GemmRecord record = chosen_gemms(begun.device);
  EXPECT_EQ(record.size(), 2u);
  library_use().refuses_vectors = false;
  RowProduct resumed;
  choose_gemms(resumed.device, record, false);
  const int choices = library_use().choices;
  EXPECT_TRUE(testing::same_bits(expect_one_call(false, resumed, DType::f32), expected));
  EXPECT_EQ(library_use().choices, choices);
}

TEST_F(RowScales, WhoseAlgorithmIsGoneAreRefused) {
  RowProduct begun;
  begun.of();
  const GemmRecord record = chosen_gemms(begun.device);
  const auto expect_refused = [&](const char* why) {
    SCOPED_TRACE(why);
    RowProduct resumed;
    choose_gemms(resumed.device, record, false);
    try {
      resumed.of();
      ADD_FAILURE() << "multiplied";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::checkpoint);
      EXPECT_NE(error.detail().where.find(part_of_name), std::string::npos);
      EXPECT_NE(error.detail().next.find("--retune"), std::string::npos);
    }
    resumed.device.wait();
  };
  library_use().refused = first_guess;
  expect_refused("another algorithm");
  library_use().refused = 0;
  library_use().version = cuda::outer_vector_version - 1;
  expect_refused("an older library");
  library_use().version = 0;
  const Architecture emulated(blackwell);
  expect_refused("another GPU");
}

TEST_F(RowScales, AreToldFromOthersWhereKernelsMustApplyThem) {
  const Stream device(1, Place::device);
  const std::string usual = gemm_library(device, DType::u8);
  const ScopedEnvironment scope("NIBBLE_GEMM", "kernel-scales");
  EXPECT_NE(gemm_library(device, DType::u8), usual);
  EXPECT_EQ(gemm_library(device, DType::bf16), usual);
}

}  // namespace
}  // namespace nibble
