// Which algorithms multiply: chosen once, timed, recorded, and used again; over the double of the library.
#include <gtest/gtest.h>

#include <string>

#include "tensor/cuda/emulation/control.hpp"
#include "tensor/error.hpp"
#include "tensor/gemm.hpp"
#include "tests/cuda/on_device.hpp"

namespace nibble {
namespace {

using cuda::emulation::library_use;
using cuda::emulation::LibraryUse;

// Of the double (emulation/cublaslt.cpp).
constexpr uint32_t first_guess = 11, sums_in_two_parts = 13;

class CublasLtChoice : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!library_use) GTEST_SKIP() << "built without cublasLt.h";
    library_use() = LibraryUse();
  }
  void TearDown() override {
    if (library_use) library_use() = LibraryUse();
  }
};

/// A product of numbers whose sums depend on their order.
struct Operands {
  Stream stream{1, Place::device};
  OwnedTensor a = testing::on_device(stream, testing::drawn(DType::bf16, 32, 160, 1)),
              b = testing::on_device(stream, testing::drawn(DType::bf16, 48, 160, 2)),
              c = testing::on_device(stream, testing::drawn(DType::f32, 32, 48, 3));

  OwnedTensor product(const Tensor& addend = {}) {
    gemm(stream, a, Transpose::no, b, Transpose::yes, c, addend);
    return testing::on_host(stream, c);
  }
};

TEST_F(CublasLtChoice, IsMadeOnceForEachProduct) {
  Operands operands;
  operands.product();
  operands.product();
  EXPECT_EQ(library_use().choices, 1);
  EXPECT_EQ(library_use().algorithm, first_guess);
  operands.product(operands.c);
  EXPECT_EQ(library_use().choices, 2);
  EXPECT_EQ(chosen_gemms(operands.stream).size(), 2u);
  EXPECT_TRUE(chosen_gemms(operands.stream.host()).empty());
}

TEST_F(CublasLtChoice, IsTheFastestThatSumsInAFixedOrder) {
  Operands operands;
  choose_gemms(operands.stream, {}, true);
  operands.product();
  EXPECT_EQ(library_use().algorithm, sums_in_two_parts);
}

TEST_F(CublasLtChoice, LeavesNothingOfItsTimingInTheResult) {
  Operands plain, tuned;
  choose_gemms(tuned.stream, {}, true);
  library_use().refused = sums_in_two_parts;  // the two that are left sum in one order
  const OwnedTensor expected = plain.product(plain.c);
  EXPECT_TRUE(testing::same_bits(tuned.product(tuned.c), expected));
  EXPECT_NE(library_use().algorithm, first_guess);
}

TEST_F(CublasLtChoice, IsTheRecordsAndHasItsBits) {
  Operands tuned, guessed, resumed;
  choose_gemms(tuned.stream, {}, true);
  const OwnedTensor expected = tuned.product();
  const GemmRecord record = chosen_gemms(tuned.stream);
  ASSERT_EQ(record.size(), 1u);
  EXPECT_NE(record.begin()->second.find("split-K 2, reduction 2"), std::string::npos) << record.begin()->second;
  choose_gemms(resumed.stream, record, false);
  const int before = library_use().choices;
  EXPECT_TRUE(testing::same_bits(resumed.product(), expected));
  EXPECT_EQ(library_use().choices, before);
  EXPECT_EQ(chosen_gemms(resumed.stream), record);
  EXPECT_FALSE(testing::same_bits(guessed.product(), expected)) << "another order gave the same bits";
}

TEST_F(CublasLtChoice, OfARecordThatTheLibraryRefusesIsAnError) {
  Operands tuned, resumed;
  choose_gemms(tuned.stream, {}, true);
  tuned.product();
  choose_gemms(resumed.stream, chosen_gemms(tuned.stream), false);
  library_use().refused = sums_in_two_parts;
  try {
    resumed.product();
    ADD_FAILURE() << "multiplied";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::checkpoint);
    EXPECT_NE(error.detail().where.find("32x48x160 NT bf16>f32"), std::string::npos);
    EXPECT_NE(error.detail().next.find("--retune"), std::string::npos);
  }
}

TEST_F(CublasLtChoice, IsNoneThatReducesInPlaceWhateverARecordSays) {
  Operands operands;
  operands.product();
  GemmRecord record = chosen_gemms(operands.stream);
  record.begin()->second =
      "algorithm 14, tile 22, stages 7, split-K 2, reduction 1, swizzle 0, option 0, inner shape 0, cluster shape 0";
  choose_gemms(operands.stream, record, false);
  EXPECT_THROW(operands.product(), Error);
  record.begin()->second = "fast";
  EXPECT_THROW(choose_gemms(operands.stream, record, false), Error);
}

TEST_F(CublasLtChoice, OfUnalignedOperandsIsOneThatTakesThem) {
  Operands operands;
  library_use().refused = first_guess;
  const Tensor a = operands.a.view().slice_cols(1, 1), b = operands.b.view().slice_cols(1, 1);
  // What is left needs 16 bytes or a depth of two.
  try {
    gemm(operands.stream, a, Transpose::no, b, Transpose::yes, operands.c);
    ADD_FAILURE() << "multiplied";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::resource);
    EXPECT_NE(error.detail().where.find("aligned 2 2 16"), std::string::npos) << error.what();
  }
  library_use().refused = 0;
  EXPECT_NO_THROW(gemm(operands.stream, a, Transpose::no, b, Transpose::yes, operands.c));
  operands.stream.wait();
}

}  // namespace
}  // namespace nibble
