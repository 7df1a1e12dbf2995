// Quantized and correlated sums over threads that are delayed at random.
#include "comm/quantized_allreduce.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <limits>
#include <mutex>

#include "comm/bit_packing.hpp"
#include "comm/code_message.hpp"
#include "comm/correlated_allreduce.hpp"
#include "tests/comm/code_trials.hpp"
#include "tests/comm/rank_threads.hpp"
#include "tests/trainer/expect_error.hpp"

namespace nibble {
namespace {

using namespace std::chrono_literals;
using Way = CorrelatedAllReduce::Way;

/// A vector in pieces that are cut elsewhere than parts are.
Parts parts_of(std::vector<float>& values, int ranks, bool in_pieces) {
  Parts parts;
  const auto count = values.size(), cuts = static_cast<size_t>(ranks);
  for (size_t r = 0; r < cuts; ++r) {
    const size_t first = count * r / cuts, last = count * (r + 1) / cuts;
    const std::span<float> part = std::span(values).subspan(first, last - first);
    const size_t middle = in_pieces ? part.size() / 3 : 0;
    parts.push_back({std::as_writable_bytes(part.first(middle)), std::as_writable_bytes(part.subspan(middle))});
  }
  return parts;
}

std::vector<float> contribution(int64_t count, int rank) {
  std::vector<float> values = normal_values(count, 77);
  const std::vector<float> own = normal_values(count, 100 + static_cast<uint32_t>(rank), 0.2f);
  for (size_t i = 0; i < values.size(); ++i) values[i] += own[i];
  return values;
}
std::vector<double> exact_sum(int64_t count, int ranks) {
  std::vector<double> sum(static_cast<size_t>(count));
  for (int rank = 0; rank < ranks; ++rank) {
    const std::vector<float> values = contribution(count, rank);
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += values[i];
  }
  return sum;
}

CodeSource source_of(int rank) { return {.seed = 17, .step = 5, .first_bucket = 40, .rank = rank}; }

bool reduce(Communicator& communicator, const Codec& codec, const Parts& parts, SumGoes goes, Way way = Way::cheaper) {
  const CodeSource source = source_of(communicator.rank());
  if (codec.rounding == Codec::Rounding::correlated)
    return CorrelatedAllReduce(codec, communicator.size(), Isa::avx2, way)
        .all_reduce(communicator, parts, source, goes);
  return QuantizedAllReduce(codec).all_reduce(communicator, parts, source, goes);
}

/// The results of all ranks.
std::vector<std::vector<float>> results(const Codec& codec, int64_t count, int ranks, SumGoes goes,
                                        Way way = Way::cheaper, std::vector<uint64_t>* sent = nullptr,
                                        uint64_t delays = 1) {
  std::vector<std::vector<float>> all(static_cast<size_t>(ranks));
  std::vector<uint64_t> bytes(static_cast<size_t>(ranks));
  run_on_ranks(ranks,
               [&](Communicator& communicator) {
                 const auto rank = static_cast<size_t>(communicator.rank());
                 all[rank] = contribution(count, communicator.rank());
                 EXPECT_TRUE(reduce(communicator, codec, parts_of(all[rank], ranks, delays % 2 == 1), goes, way));
                 bytes[rank] = communicator.bytes_sent();
               },
               {.seed = delays, .longest = 200us});
  if (sent) *sent = bytes;
  return all;
}

/// Of the sum, relative.
double error(const std::vector<float>& sum, int64_t count, int ranks) {
  const std::vector<double> exact = exact_sum(count, ranks);
  double miss = 0, square = 1e-300;
  for (size_t i = 0; i < exact.size(); ++i) {
    miss += (sum[i] - exact[i]) * (sum[i] - exact[i]);
    square += exact[i] * exact[i];
  }
  return miss / square;
}

std::vector<std::string> summed_codecs() {
  return {"qsgd-2",
          "qsgd-8",
          "maxmin-4",
          "maxmin-nearest-8",
          "independent-1",
          "drive",
          "eden-4",
          "eden-7",
          "fp8",
          "correlated-1",
          "correlated-4",
          "rotated-correlated-1",
          "rotated-correlated-8"};
}
double largest_error(const Codec& codec) {
  if (codec.bits == 8 || codec.bits == 7) return 2e-3;
  return codec.bits == 4 ? 0.06 : 12.0;
}

class QuantizedSum : public testing::TestWithParam<int> {
 protected:
  static int ranks() { return GetParam(); }
};

TEST_P(QuantizedSum, IsTheSameOnAllRanksAndCloseToTheSum) {
  for (const std::string& name : summed_codecs())
    for (const int64_t count : {0, 1, 3, 200, 3001}) {
      const Codec codec = codec_named(name, 64, "test");
      const std::vector<std::vector<float>> all = results(codec, count, ranks(), SumGoes::to_all);
      for (const std::vector<float>& sum : all) ASSERT_EQ(sum, all[0]) << name << " " << count;
      if (count > 1000) {
        EXPECT_LT(error(all[0], count, ranks()), largest_error(codec)) << name;
      }
    }
}

TEST_P(QuantizedSum, DoesNotDependOnWhoArrivesFirst) {
  for (const char* name : {"maxmin-4", "eden-4", "correlated-1"}) {
    const Codec codec = codec_named(name, 64, "test");
    const std::vector<float> first = results(codec, 1000, ranks(), SumGoes::to_all)[0];
    for (uint64_t delays = 2; delays < 5; ++delays)
      EXPECT_EQ(results(codec, 1000, ranks(), SumGoes::to_all, Way::cheaper, nullptr, delays)[0], first) << name;
  }
}

TEST_P(QuantizedSum, OfIntegersIsTheSameWhoeverCounts) {
  for (const char* name : {"correlated-1", "correlated-4", "rotated-correlated-2"}) {
    const Codec codec = codec_named(name, 64, "test");
    const std::vector<float> owners = results(codec, 1000, ranks(), SumGoes::to_all, Way::owners_count)[0];
    EXPECT_EQ(results(codec, 1000, ranks(), SumGoes::to_all, Way::everybody_counts)[0], owners) << name;
    EXPECT_EQ(results(codec, 1000, ranks(), SumGoes::to_all)[0], owners) << name;
  }
}

/// More segments than are under way at a time, of parts that have not as many of them.
TEST(QuantizedSumOfSegments, IsTheSameOnAllRanksAndWhoeverCounts) {
  constexpr int ranks = 3;
  constexpr int64_t count = 3 * ranks * segment_values + segment_values / 2;
  for (const char* name : {"maxmin-4", "correlated-1"}) {
    const Codec codec = codec_named(name, 1024, "test");
    const std::vector<std::vector<float>> all = results(codec, count, ranks, SumGoes::to_all, Way::owners_count);
    for (const std::vector<float>& sum : all) ASSERT_EQ(sum, all[0]) << name;
    EXPECT_LT(error(all[0], count, ranks), largest_error(codec)) << name;
    const std::vector<std::vector<float>> owned = results(codec, count, ranks, SumGoes::to_owner);
    std::vector<float> joined;
    for (int64_t owner = 0; owner < ranks; ++owner) {
      const auto held = owned[static_cast<size_t>(owner)].begin();
      joined.insert(joined.end(), held + count * owner / ranks, held + count * (owner + 1) / ranks);
    }
    EXPECT_LT(error(joined, count, ranks), largest_error(codec)) << name;
    if (codec.rounding != Codec::Rounding::correlated) continue;
    EXPECT_EQ(joined, all[0]);
    EXPECT_EQ(results(codec, count, ranks, SumGoes::to_all, Way::everybody_counts)[0], all[0]);
  }
}

/// What owners hold is decoded from the ranks' messages, added in their order; other parts stay.
TEST_P(QuantizedSum, OfOwnersIsTheSumOfWhatTheCodesStandFor) {
  const Codec codec = codec_named("maxmin-4", 64, "test");
  constexpr int64_t count = 1000;
  const std::vector<std::vector<float>> all = results(codec, count, ranks(), SumGoes::to_owner);
  BucketCodec alone(codec);
  CodeSource source = source_of(0);
  for (int owner = 0; owner < ranks(); ++owner) {
    const size_t first = static_cast<size_t>(count * owner / ranks()),
                 last = static_cast<size_t>(count * (owner + 1) / ranks());
    std::vector<float> expected(last - first);
    for (int rank = 0; rank < ranks(); ++rank) {
      const std::vector<float> values = contribution(count, rank);
      const std::span<const float> part = std::span(values).subspan(first, last - first);
      const std::vector<float> decoded =
          ranks() == 1 ? std::vector(part.begin(), part.end()) : round_trip(alone, part, source.of_rank(rank));
      for (size_t i = 0; i < expected.size(); ++i) expected[i] = rank == 0 ? decoded[i] : expected[i] + decoded[i];
    }
    for (int rank = 0; rank < ranks(); ++rank) {
      const std::span<const float> held = std::span(all[static_cast<size_t>(rank)]).subspan(first, last - first);
      const std::vector<float> before = contribution(count, rank);
      for (size_t i = 0; i < held.size(); ++i) ASSERT_EQ(held[i], rank == owner ? expected[i] : before[first + i]);
    }
    source = source.from_bucket(codec.buckets_of(static_cast<int64_t>(last - first)));
  }
}

TEST_P(QuantizedSum, SendsTheBytesOfTheFormula) {
  constexpr int64_t count = 4096;
  for (const std::string& name : summed_codecs()) {
    const Codec codec = codec_named(name, 64, "test");
    const bool correlated = codec.rounding == Codec::Rounding::correlated;
    std::vector<uint64_t> sent;
    results(codec, count, ranks(), SumGoes::to_all, Way::owners_count, &sent);
    const auto part = [&](int r) { return count * (r + 1) / ranks() - count * r / ranks(); };
    const int64_t total_buckets = [&] {
      int64_t sum = 0;
      for (int r = 0; r < ranks(); ++r) sum += codec.buckets_of(part(r));
      return sum;
    }();
    for (int rank = 0; rank < ranks(); ++rank) {
      uint64_t expected = 0;
      const auto message = [](size_t bytes) { return message_header_bytes + bytes; };
      const auto range_bytes = [&](int owner) {
        return 4 * static_cast<uint64_t>(total_buckets * (owner + 1) / ranks() - total_buckets * owner / ranks());
      };
      const auto code_bytes = [&](int r) {
        return correlated ? packed_bytes(codec.padded(part(r)), codec.bits) : codec.bytes_of(part(r));
      };
      const auto sum_bytes = [&](int r) {
        return correlated ? packed_bytes(codec.padded(part(r)), CorrelatedCodec(codec, ranks()).count_bits())
                          : codec.bytes_of(part(r));
      };
      for (int r = 0; r < ranks(); ++r) {
        // Codes to each owner and, around the ring, each part's sum but the next rank's; before that ranges likewise.
        if (r != rank) expected += message(code_bytes(r)) + (correlated ? range_bytes(r) : 0);
        if (r != (rank + 1) % ranks()) expected += message(sum_bytes(r)) + (correlated ? range_bytes(r) : 0);
      }
      if (ranks() == 2 && !correlated) expected = message(codec.bytes_of(part(0))) + message(codec.bytes_of(part(1)));
      if (ranks() == 1) expected = 0;
      EXPECT_EQ(sent[static_cast<size_t>(rank)], expected) << name << " rank " << rank;
    }
  }
}

TEST_P(QuantizedSum, IsNoNumberOnAnyRankWhenOneRanksValuesAreNot) {
  for (const std::string& name : summed_codecs())
    for (const SumGoes goes : {SumGoes::to_all, SumGoes::to_owner})
      run_on_ranks(ranks(), [&](Communicator& communicator) {
        std::vector<float> values = contribution(500, communicator.rank());
        if (communicator.rank() == ranks() - 1) values[3] = std::numeric_limits<float>::infinity();
        EXPECT_FALSE(reduce(communicator, codec_named(name, 64, "test"), parts_of(values, ranks(), true), goes));
        if (ranks() == 1) return;
        const auto rank = static_cast<size_t>(communicator.rank()), cuts = static_cast<size_t>(ranks());
        const bool everywhere = goes == SumGoes::to_all;
        const size_t first = everywhere ? 0 : 500 * rank / cuts, last = everywhere ? 500 : 500 * (rank + 1) / cuts;
        for (size_t i = first; i < last; ++i) ASSERT_TRUE(std::isnan(values[i])) << name;
      });
}

INSTANTIATE_TEST_SUITE_P(, QuantizedSum, testing::Range(1, 9),
                         [](const auto& test) { return "Of" + std::to_string(test.param) + "Ranks"; });

}  // namespace
}  // namespace nibble
