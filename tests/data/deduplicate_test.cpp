#include "data/deduplicate.hpp"

#include <gtest/gtest.h>

#include <cmath>

namespace nibble {
namespace {

/// `count` words, the i-th being w<first + i>.
std::string words(int first, int count) {
  std::string text;
  for (int i = first; i < first + count; ++i) text += "w" + std::to_string(i) + (i % 10 == 9 ? "\n" : " ");
  return text;
}

Document document(std::string text) { return {.id = "test", .prompt = {}, .text = std::move(text)}; }

TEST(Deduplicate, EstimatesTheJaccardSimilarityOfShingles) {
  const Deduplicator deduplicator;
  Deduplicator::Signature a, b;
  ASSERT_TRUE(deduplicator.signature(words(0, 1004), a));
  // 1000 shingles each; `shared` of them in both gives J = shared / (2000 - shared).
  for (const int shared : {0, 333, 667, 889, 1000}) {
    ASSERT_TRUE(deduplicator.signature(words(1000 - shared, 1004), b));
    const double exact = shared / (2000.0 - shared);
    const double deviation = std::sqrt(exact * (1 - exact) / Deduplicator::hashes);
    EXPECT_NEAR(Deduplicator::similarity(a, b), exact, 4 * deviation + 1e-12) << shared;
  }
  EXPECT_FALSE(deduplicator.signature("only four short words", a));
  EXPECT_TRUE(deduplicator.signature("  five\tshort\nwords   are here ", a));
}

TEST(Deduplicate, DropsDocumentsAboveTheThresholdAndKeepsThoseBelow) {
  Deduplicator deduplicator;
  Document first = document(words(0, 1004)), same = first;
  EXPECT_TRUE(deduplicator.keep(first));
  EXPECT_FALSE(deduplicator.keep(same));
  Document near = document(words(30, 1004));  // J = 970 / 1030 = 0.94
  EXPECT_FALSE(deduplicator.keep(near));
  Document far = document(words(500, 1004));  // J = 1/3
  EXPECT_TRUE(deduplicator.keep(far));
  Document spaced = document(" " + words(0, 1004) + "  \n");
  EXPECT_FALSE(deduplicator.keep(spaced));
  EXPECT_EQ(deduplicator.counts().near_duplicates, 3);
  EXPECT_EQ(deduplicator.counts().documents_before, 5);
  EXPECT_EQ(deduplicator.counts().documents_after, 2);
}

TEST(Deduplicate, DropsLongLinesOfEarlierDocumentsOnly) {
  Deduplicator deduplicator;
  const std::string notice = "Copyright by the authors of this text.\n";
  Document first = document(notice + "one\n}\n" + notice);
  EXPECT_TRUE(deduplicator.keep(first));
  EXPECT_EQ(first.text, notice + "one\n}\n" + notice);
  Document second = document("  " + notice + "two\none\n}\nCopyright by the authors of this text.");
  EXPECT_TRUE(deduplicator.keep(second));
  EXPECT_EQ(second.text, "two\none\n}\n");
  Document third = document(notice + "\n");
  EXPECT_FALSE(deduplicator.keep(third));
  // 19 bytes are short, 20 are not.
  Document short_line = document("1234567890123456789\n12345678901234567890\n");
  Document again = short_line;
  EXPECT_TRUE(deduplicator.keep(short_line));
  EXPECT_TRUE(deduplicator.keep(again));
  EXPECT_EQ(again.text, "1234567890123456789\n");

  const DeduplicationCounts& counts = deduplicator.counts();
  EXPECT_EQ(counts.lines_dropped, 4);
  EXPECT_EQ(counts.emptied, 1);
  EXPECT_EQ(counts.documents_after, 4);
  EXPECT_EQ(counts.bytes_before - counts.bytes_after, 2 + 39 + 38 + 39 + 1 + 21);
}

TEST(Deduplicate, PairsAreOnlyComparedAsAWhole) {
  Deduplicator deduplicator;
  const std::string instruction = "Translate the following sentence into German, please, word by word:\n";
  Document first{.id = "1", .prompt = instruction + words(0, 100), .text = words(1000, 100)};
  Document second{.id = "2", .prompt = instruction + words(200, 100), .text = words(1200, 100)};
  Document repeated = first;
  EXPECT_TRUE(deduplicator.keep(first));
  EXPECT_TRUE(deduplicator.keep(second));
  EXPECT_EQ(second.prompt, instruction + words(200, 100));
  EXPECT_FALSE(deduplicator.keep(repeated));
}

}  // namespace
}  // namespace nibble
