#include "data/loader.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <numeric>
#include <set>

#include "data/permutation.hpp"
#include "data/shard_writer.hpp"
#include "tests/data/test_files.hpp"

namespace nibble {
namespace {

constexpr int32_t bos = 256, pad = 258;

bool same_batch(const Batch& a, const Batch& b) {
  return a.sequences == b.sequences && a.length == b.length && a.inputs == b.inputs && a.targets == b.targets &&
         a.document_starts == b.document_starts && a.loss_tokens == b.loss_tokens;
}

class LoaderTest : public TemporaryFolderTest {
 protected:
  /// One document of each length, BOS included; its other tokens count up from 0 modulo 256, over all documents.
  TokenData make(const std::vector<int>& lengths, const std::vector<int>& prompts = {}) const {
    const auto tokenizer = make_byte_tokenizer();
    ShardWriter writer(path("data.h5"), *tokenizer);
    int next = 0;
    for (size_t d = 0; d < lengths.size(); ++d) {
      std::vector<int32_t> ids = {bos};
      while (static_cast<int>(ids.size()) < lengths[d]) ids.push_back(next++ % 256);
      writer.add(ids, prompts.empty() ? 0 : prompts[d], lengths[d] - 1);
    }
    writer.finish();
    return TokenData::open(path("data.h5"));
  }
};

TEST(Permutation, IsABijectionOfEveryDomain) {
  for (const uint64_t n : {1, 2, 3, 4, 5, 16, 17, 100, 1000, 1025, 65536, 70001}) {
    const Permutation order(n, 1234, 5);
    std::vector<bool> seen(n, false);
    for (uint64_t i = 0; i < n; ++i) {
      const uint64_t element = order(i);
      ASSERT_LT(element, n);
      ASSERT_FALSE(seen[element]) << n << " " << i;
      seen[element] = true;
    }
  }
  const Permutation large(uint64_t{1} << 62, 1, 0);
  std::set<uint64_t> elements;
  for (uint64_t i = 0; i < 10000; ++i) elements.insert(large(i));
  EXPECT_EQ(elements.size(), 10000u);
  EXPECT_GT(*elements.rbegin(), uint64_t{1} << 61);
}

TEST(Permutation, PutsEachElementAtEachPlaceEquallyOften) {
  // 7 elements, 7000 epochs: each of the 49 counts is binomial with mean 1000 and deviation 29.
  std::array<std::array<int, 7>, 7> counts{};
  for (uint32_t epoch = 0; epoch < 7000; ++epoch) {
    const Permutation order(7, 99, epoch);
    for (uint64_t i = 0; i < 7; ++i) ++counts[i][order(i)];
  }
  for (const auto& row : counts)
    for (const int count : row) EXPECT_NEAR(count, 1000, 5 * 29.3);
}

TEST_F(LoaderTest, EveryWindowComesExactlyOnceInEachEpoch) {
  const TokenData data = make({4000, 6000, 51});
  const Loader loader(data, {.sequence = 16, .seed = 7});
  const int64_t windows = loader.windows_per_epoch();
  EXPECT_EQ(windows, 10050 / 16);
  EXPECT_EQ(loader.tokens_per_epoch(), windows * 16);
  EXPECT_EQ(loader.dropped_tokens(), 10050 - windows * 16);
  EXPECT_NE(loader.describe().find("628 windows of 16 tokens"), std::string::npos) << loader.describe();
  EXPECT_NE(loader.describe().find("2 tokens at the end dropped"), std::string::npos) << loader.describe();
  std::vector<std::vector<int64_t>> orders;
  for (int64_t epoch = 0; epoch < 3; ++epoch) {
    std::vector<int64_t> order;
    for (int64_t i = 0; i < windows; ++i) order.push_back(loader.window_of_sample(epoch * windows + i));
    std::vector<int64_t> sorted = order, expected(static_cast<size_t>(windows));
    std::sort(sorted.begin(), sorted.end());
    std::iota(expected.begin(), expected.end(), 0);
    EXPECT_EQ(sorted, expected);
    EXPECT_NE(order, expected);
    orders.push_back(order);
  }
  EXPECT_NE(orders[0], orders[1]);
  EXPECT_NE(orders[1], orders[2]);
  const Loader other(data, {.sequence = 16, .seed = 8}), same(data, {.sequence = 16, .seed = 7});
  int64_t moved = 0;
  for (int64_t i = 0; i < windows; ++i) {
    moved += other.window_of_sample(i) != loader.window_of_sample(i);
    EXPECT_EQ(same.window_of_sample(i), loader.window_of_sample(i));
  }
  EXPECT_GT(moved, windows * 9 / 10);
}

TEST_F(LoaderTest, StreamWindowsOverlapByOneToken) {
  const TokenData data = make({5, 6});  // 256 0 1 2 3 256 4 5 6 7 8
  const Loader loader(data, {.sequence = 5, .seed = 3});
  ASSERT_EQ(loader.windows_per_epoch(), 2);
  const Batch batch = loader.batch(0, 2);
  EXPECT_EQ(batch.sequences, 2);
  EXPECT_EQ(batch.length, 5);
  EXPECT_EQ(batch.loss_tokens, 10);
  const std::vector<std::vector<int32_t>> inputs = {{256, 0, 1, 2, 3}, {256, 4, 5, 6, 7}};
  const std::vector<std::vector<int32_t>> targets = {{0, 1, 2, 3, 256}, {4, 5, 6, 7, 8}};
  for (int64_t row = 0; row < 2; ++row) {
    const auto window = static_cast<size_t>(loader.window_of_sample(row));
    EXPECT_EQ(std::vector<int32_t>(batch.inputs.begin() + row * 5, batch.inputs.begin() + row * 5 + 5), inputs[window]);
    EXPECT_EQ(std::vector<int32_t>(batch.targets.begin() + row * 5, batch.targets.begin() + row * 5 + 5),
              targets[window]);
  }
  EXPECT_EQ(batch.document_starts, std::vector<int32_t>(10, 0));
}

TEST_F(LoaderTest, MaskedDocumentsStartWhereTheyBegin) {
  const TokenData data = make({3, 2, 6, 2});  // 256 0 1 | 256 2 | 256 3 4 5 6 7 | 256 8
  const Loader loader(data, {.sequence = 4, .mask_documents = true});
  const Batch batch = loader.evaluation_batch(0, 3);
  EXPECT_EQ(batch.inputs, (std::vector<int32_t>{256, 0, 1, 256, 2, 256, 3, 4, 5, 6, 7, 256}));
  EXPECT_EQ(batch.targets, (std::vector<int32_t>{0, 1, -1, 2, -1, 3, 4, 5, 6, 7, -1, 8}));
  EXPECT_EQ(batch.document_starts, (std::vector<int32_t>{0, 0, 0, 3, 0, 1, 1, 1, 0, 0, 0, 3}));
  EXPECT_EQ(batch.loss_tokens, 9);
}

TEST_F(LoaderTest, DocumentsThatWereCutAreCounted) {
  const TokenData data = make({5, 6, 20});  // 4, 5 and 19 predictions
  const Loader cut(data, {.sequence = 4, .packing = Packing::documents});
  EXPECT_EQ(cut.cut_documents(), 2);
  EXPECT_NE(cut.describe().find(", 2 documents longer than the sequence were cut"), std::string::npos)
      << cut.describe();
  const Loader whole(data, {.sequence = 19, .packing = Packing::documents});
  EXPECT_EQ(whole.cut_documents(), 0);
  EXPECT_EQ(whole.describe().find("cut"), std::string::npos) << whole.describe();
}

TEST_F(LoaderTest, BatchesArePureSoThatAResumedRunGoesOn) {
  const TokenData data = make({700, 300, 900});
  for (const LoaderOptions& options : {LoaderOptions{.sequence = 8, .seed = 5},
                                       LoaderOptions{.sequence = 8, .packing = Packing::documents, .seed = 5}}) {
    const Loader first(data, options), resumed(data, options);
    const int64_t late = 3 * first.windows_per_epoch() + 11;
    first.batch(0, 64);
    EXPECT_TRUE(same_batch(first.batch(late, 8), resumed.batch(late, 8)));
    // Samples do not depend on how they are grouped into batches.
    const Batch whole = first.batch(late, 8), part = first.batch(late + 3, 2);
    EXPECT_EQ(std::vector<int32_t>(whole.inputs.begin() + 24, whole.inputs.begin() + 40), part.inputs);
    EXPECT_EQ(std::vector<int32_t>(whole.targets.begin() + 24, whole.targets.begin() + 40), part.targets);
  }
}

TEST_F(LoaderTest, EvaluationPredictsEveryTokenOnceInOrder) {
  const TokenData data = make({30, 1, 25, 7});  // 63 tokens, 62 predictions
  const Loader loader(data, {.sequence = 8});
  EXPECT_EQ(loader.evaluation_windows(), 8);
  std::vector<int32_t> tokens(63), targets;
  data.copy(0, tokens);
  int64_t loss_tokens = 0;
  for (int64_t window = 0; window < 8; window += 3) {
    const Batch batch = loader.evaluation_batch(window, 3);
    EXPECT_EQ(batch.sequences, std::min<int64_t>(3, 8 - window));
    for (const int32_t target : batch.targets)
      if (target >= 0) targets.push_back(target);
    loss_tokens += batch.loss_tokens;
  }
  EXPECT_EQ(targets, std::vector<int32_t>(tokens.begin() + 1, tokens.end()));
  EXPECT_EQ(loss_tokens, 62);
  const Batch last = loader.evaluation_batch(7, 1);
  EXPECT_EQ(last.loss_tokens, 6);
  EXPECT_EQ(last.inputs[6], pad);
  EXPECT_EQ(last.inputs[7], pad);
}

TEST_F(LoaderTest, PackedDocumentsStayWholeAndAlone) {
  // Inputs (length - 1): 3, 20 (= 8 + 8 + 4), 8, 1, 0, 4, 2, 7.
  const TokenData data = make({4, 21, 9, 2, 1, 5, 3, 8});
  const Loader loader(data, {.sequence = 8, .packing = Packing::documents});
  EXPECT_EQ(loader.dropped_tokens(), 0);
  // 45 inputs: three full windows, then 7+1, 4+4, 3+2.
  ASSERT_EQ(loader.windows_per_epoch(), 6);
  EXPECT_EQ(loader.padding_tokens(), 3);
  const Batch batch = loader.evaluation_batch(0, 6);
  EXPECT_EQ(batch.loss_tokens, 45);

  // Every prediction of every document comes once: the pairs (token, next token) agree.
  std::map<std::pair<int32_t, int32_t>, int> expected, seen;
  std::vector<int32_t> tokens(static_cast<size_t>(data.tokens()));
  data.copy(0, tokens);
  for (int64_t d = 0; d < data.documents(); ++d)
    for (int64_t i = data.document_offsets()[d]; i + 1 < data.document_offsets()[d + 1]; ++i)
      ++expected[{tokens[i], tokens[i + 1]}];
  for (int64_t row = 0; row < 6; ++row) {
    int32_t start = 0;
    for (int32_t position = 0; position < 8; ++position) {
      const size_t at = static_cast<size_t>(row * 8 + position);
      if (batch.inputs[at] == bos || batch.inputs[at] == pad) {
        if (batch.inputs[at] == bos || batch.document_starts[at] == position) start = position;
      }
      EXPECT_EQ(batch.document_starts[at], start) << row << " " << position;
      if (batch.inputs[at] == pad) {
        EXPECT_EQ(batch.targets[at], -1);
      } else {
        ++seen[{batch.inputs[at], batch.targets[at]}];
      }
    }
  }
  EXPECT_EQ(seen, expected);
}

TEST_F(LoaderTest, PackingManyDocumentsWastesLittle) {
  std::vector<int> lengths;
  for (int i = 0; i < 3000; ++i) lengths.push_back(2 + i * 7919 % 90);
  const TokenData data = make(lengths);
  const Loader loader(data, {.sequence = 64, .packing = Packing::documents});
  EXPECT_LT(static_cast<double>(loader.padding_tokens()), 0.02 * static_cast<double>(loader.tokens_per_epoch()));
  int64_t loss_tokens = 0;
  for (int64_t i = 0; i < loader.windows_per_epoch(); ++i) loss_tokens += loader.batch(i, 1).loss_tokens;
  EXPECT_EQ(loss_tokens, data.tokens() - data.documents());
}

TEST_F(LoaderTest, PromptsCarryNoLoss) {
  const TokenData data = make({5, 4}, {3, 2});  // 256 0 1 |2 3   256 4 |5 6
  const Loader packed(data, {.sequence = 8, .packing = Packing::documents});
  const Batch batch = packed.evaluation_batch(0, 1);
  EXPECT_EQ(batch.inputs, (std::vector<int32_t>{256, 0, 1, 2, 256, 4, 5, pad}));
  EXPECT_EQ(batch.targets, (std::vector<int32_t>{-1, -1, 2, 3, -1, 5, 6, -1}));
  EXPECT_EQ(batch.document_starts, (std::vector<int32_t>{0, 0, 0, 0, 4, 4, 4, 7}));
  EXPECT_EQ(batch.loss_tokens, 4);
  const Loader stream(data, {.sequence = 8});
  EXPECT_EQ(stream.batch(0, 1).targets, (std::vector<int32_t>{-1, -1, 2, 3, -1, -1, 5, 6}));
}

TEST_F(LoaderTest, ImpossibleWindowsAreRefused) {
  const TokenData data = make({5, 1});
  EXPECT_EQ(error_of([&] { Loader(data, {.sequence = 6}); }).kind, ErrorKind::data);
  EXPECT_EQ(Loader(data, {.sequence = 5}).windows_per_epoch(), 1);
  EXPECT_EQ(error_of([&] { Loader(data, {.sequence = 0}); }).kind, ErrorKind::configuration);
  const TokenData single = make({1, 1});
  EXPECT_EQ(error_of([&] { Loader(single, {.sequence = 4, .packing = Packing::documents}); }).kind, ErrorKind::data);
}

}  // namespace
}  // namespace nibble
