// Embeddings give the same bits on a device as on the host: gradients are added in the order of the tokens.
#include "model/embedding.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "tests/cuda/on_device.hpp"

namespace nibble {
namespace {

using testing::Twin, testing::same_bits;

class EmbeddingOnDevice : public ::testing::Test {
 protected:
  std::vector<int32_t> drawn_ids(int64_t count, int64_t vocabulary) {
    std::vector<int32_t> ids(static_cast<size_t>(count));
    for (int32_t& id : ids) id = static_cast<int32_t>(generator() % static_cast<uint64_t>(vocabulary));
    return ids;
  }

  /// Whether both sides add `there_ids` and `here_ids` to the same bits.
  bool same_gradients(std::vector<int32_t> here_ids, std::vector<int32_t> there_ids, int64_t vocabulary, int64_t width,
                      int64_t padding) {
    const auto tokens = static_cast<int64_t>(here_ids.size());
    const Twin dx(device, DType::f32, tokens, width, padding, 1),
        dtable(device, DType::f32, vocabulary, width, padding, 2);
    const OwnedTensor ids_there = testing::on_device(device, Tensor(there_ids.data(), 1, tokens));
    EmbeddingScratch scratch;
    const Arena arena(
        "test", [&](Arena& a) { scratch = EmbeddingScratch(a, tokens); }, Place::device);
    embedding_backward(host, here_ids, dx.here, {}, dtable.here);
    embedding_backward(device, {ids_there.view().on_device<int32_t>(), there_ids.size()}, dx.there, scratch,
                       dtable.there);
    return same_bits(device, dtable);
  }

  Stream host{2}, device{2, Place::device};
  std::mt19937 generator{7};
};

TEST_F(EmbeddingOnDevice, RowsAreGathered) {
  struct Shape {
    int64_t tokens, vocabulary, width, padding;
  };
  for (const auto& [tokens, vocabulary, width, padding] :
       {Shape{1, 1, 1, 0}, Shape{70, 19, 37, 0}, Shape{33, 1000, 264, 8}, Shape{2000, 50, 8, 3}})
    for (const DType type : {DType::f32, DType::bf16}) {
      std::vector<int32_t> ids = drawn_ids(tokens, vocabulary);
      const OwnedTensor ids_there = testing::on_device(device, Tensor(ids.data(), 1, tokens));
      const Twin table(device, type, vocabulary, width, padding, 1), x(device, DType::f32, tokens, width, padding, 2);
      embedding_forward(host, ids, table.here, x.here);
      embedding_forward(device, {ids_there.view().on_device<int32_t>(), ids.size()}, table.there, x.there);
      EXPECT_TRUE(same_bits(device, x)) << tokens << " of " << vocabulary;
    }
}

TEST_F(EmbeddingOnDevice, GradientsAreAddedInOrder) {
  struct Shape {
    int64_t tokens, vocabulary, width, padding;
  };
  for (const auto& [tokens, vocabulary, width, padding] :
       {Shape{1, 1, 1, 0}, Shape{3, 2, 5, 0}, Shape{511, 19, 37, 0}, Shape{513, 1, 8, 0}, Shape{1030, 513, 36, 4},
        Shape{700, 300, 516, 0}, Shape{600, 300000, 3, 1}, Shape{2000, 262144, 4, 0}}) {
    const std::vector<int32_t> ids = drawn_ids(tokens, vocabulary);
    EXPECT_TRUE(same_gradients(ids, ids, vocabulary, width, padding)) << tokens << " of " << vocabulary;
  }
}

TEST_F(EmbeddingOnDevice, AnIdThatRepeatsThousandsOfTimes) {
  std::vector<int32_t> ids = drawn_ids(6000, 5000);
  for (int32_t& id : ids)
    if (generator() % 3 != 0) id = 4321;
  EXPECT_TRUE(same_gradients(ids, ids, 5000, 20, 0));
}

TEST_F(EmbeddingOnDevice, AnotherOrderIsSeen) {
  const std::vector<int32_t> ids = {3, 5, 3, 5, 3, 5};
  EXPECT_TRUE(same_gradients(ids, ids, 9, 64, 0));
  EXPECT_FALSE(same_gradients(ids, {3, 5, 5, 3, 3, 5}, 9, 64, 0));
}

TEST_F(EmbeddingOnDevice, TheHostNeedsNoScratch) {
  const Arena arena("test", [](Arena& a) { EmbeddingScratch(a, 1000); });
  EXPECT_EQ(arena.bytes(), 0u);
}

}  // namespace
}  // namespace nibble
