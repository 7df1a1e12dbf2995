// The sums of one bucket: what all ranks end with, what they remember, what they do with values that are not finite.
#include "comm/bucket_sums.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <mutex>

#include "comm/bucket_exchange.hpp"
#include "comm/bucket_vector.hpp"
#include "tests/comm/rank_threads.hpp"

namespace nibble {
namespace {

constexpr int64_t elements = 3 * 4096 + 700;

/// Multiples of 2^-10 and so small that sums of them are exact; alike on all ranks but for `spread`.
float value(int rank, int64_t element, int64_t step, float spread = 1) {
  const uint32_t shared =
      RandomStream(1, Purpose::initialization, static_cast<uint32_t>(step)).block(static_cast<uint64_t>(element))[0];
  const uint32_t own =
      RandomStream(2, Purpose::initialization, static_cast<uint32_t>(step), static_cast<uint32_t>(rank))
          .block(static_cast<uint64_t>(element))[0];
  const auto centred = [](uint32_t word) { return static_cast<float>(static_cast<int>(word >> 20) - 2048) * 0x1p-10f; };
  return centred(shared) + std::round(spread * 1024 * centred(own)) * 0x1p-10f;
}

ExchangePlan plan_of(int ranks, SumGoes goes) {
  ExchangePlan plan{.part_elements = {{}}, .group = {}, .goes = goes};
  for (int rank = 0; rank < ranks; ++rank)
    plan.part_elements[0].push_back(part_begin(elements, ranks, rank + 1, 4096) -
                                    part_begin(elements, ranks, rank, 4096));
  return plan;
}

/// One rank's sum and its memory, in which parts lie in pieces.
struct Rank {
  Rank(int ranks, int rank, SumGoes goes, const MakeBucketSum& make)
      : place(places_of(plan_of(ranks, goes), rank, 7).front()), sum(make(place)), memory(2 * elements) {
    int64_t element = 0;
    for (const int64_t count : place.part_elements) {
      Pieces pieces;
      for (int64_t done = 0; done < count;) {
        const int64_t here = std::min<int64_t>(count - done, 1000);
        pieces.push_back(std::as_writable_bytes(
            std::span(memory).subspan(static_cast<size_t>(2 * (element + done)), static_cast<size_t>(here))));
        done += here;
      }
      element += count;
      values.push_back(pieces);
    }
  }
  void fill(const std::function<float(int64_t element)>& of) {
    std::vector<float> vector(elements);
    for (int64_t i = 0; i < elements; ++i) vector[static_cast<size_t>(i)] = of(i);
    unpack(std::as_bytes(std::span(vector)), joined(values), 0);
  }
  /// What this rank gets.
  std::vector<float> result() const {
    std::vector<float> vector(elements);
    pack(joined(values), 0, std::as_writable_bytes(std::span(vector)));
    const std::span<float> part = result_of(std::span(vector), place);
    return {part.begin(), part.end()};
  }

  BucketPlace place;
  BucketSumPointer sum;
  std::vector<float> memory;
  Parts values;
};

using Body = std::function<void(Communicator& ranks, Rank& rank)>;

void on_ranks(int ranks, SumGoes goes, const MakeBucketSum& make, const Body& body) {
  run_on_ranks(ranks, [&](Communicator& communicator) {
    Rank rank(ranks, communicator.rank(), goes, make);
    body(communicator, rank);
  });
}

/// |result - exact| / |exact| over what this rank gets.
double error_of(const Rank& rank, int64_t step, float spread) {
  const std::vector<float> result = rank.result();
  double error = 0, exact = 0;
  for (size_t i = 0; i < result.size(); ++i) {
    double sum = 0;
    for (int r = 0; r < rank.place.ranks(); ++r)
      sum += value(r, rank.place.result_begin() + static_cast<int64_t>(i), step, spread);
    error += (result[i] - sum) * (result[i] - sum);
    exact += sum * sum;
  }
  return exact == 0 ? error : std::sqrt(error / exact);  // a rank may own nothing
}

Codec codec(std::string_view name) { return codec_named(name, 1024, "test"); }

struct Kind {
  std::string name;
  MakeBucketSum make;
  double error;      ///< of one step, at most
  float spread = 1;  ///< between ranks
  bool tells_own = true;
};

std::vector<Kind> kinds() {
  const auto sparse = [](SparseAlgorithm algorithm, int64_t k, bool feedback, std::optional<Codec> codec = {}) {
    return [=](const BucketPlace& place) {
      return make_sparse_sum(
          place, {.selection = {.k = k}, .error_feedback = feedback, .algorithm = algorithm, .codec = codec});
    };
  };
  const auto quantized = [](std::string_view name) {
    return [=](const BucketPlace& place) { return make_quantized_sum(place, codec(name)); };
  };
  const MakeBucketSum dense = [](const BucketPlace& place) { return make_dense_sum(place, Wire::f32); };
  return {
      {"dense", dense, 0},
      {"sparse recursive doubling, all entries", sparse(SparseAlgorithm::recursive_doubling, 512, true), 0},
      {"sparse split, all entries", sparse(SparseAlgorithm::split, 512, true), 0},
      {"sparse split", sparse(SparseAlgorithm::split, 128, true), 0.8},
      {"dense split, 8 bits", sparse(SparseAlgorithm::dense_split, 512, false, codec("maxmin-8")), 0.02},
      {"codes, 8 bits", quantized("qsgd-8"), 0.02},
      {"codes, fp8", quantized("fp8"), 0.08},
      {"correlated", quantized("correlated-8"), 0.02, 1, false},
      {"permutation", [](const BucketPlace& place) { return make_coordinate_sum(place, 0); }, 1e-6, 0},
      {"random coordinates, all", [](const BucketPlace& place) { return make_coordinate_sum(place, 1); }, 1e-6},
      {"lattice", [](const BucketPlace& place) { return make_lattice_sum(place, codec("lattice-8")); }, 0.02},
      {"lattice, rotated", [](const BucketPlace& place) { return make_lattice_sum(place, codec("rotated-lattice-4")); },
       0.1, 0.1f},
      {"feedback", [=](const BucketPlace& place) { return make_feedback_sum(place, quantized("fp8-nearest")(place)); },
       0.08},
      {"ef21",
       [=](const BucketPlace& place) {
         return make_ef21_sum(place, sparse(SparseAlgorithm::split, 512, false)(place));
       },
       0},
      {"marina",
       [=](const BucketPlace& place) {
         return make_marina_sum(place, {.full_probability = 1}, dense(place), quantized("correlated-1")(place));
       },
       0, 1, false},
      {"warm-up",
       [=](const BucketPlace& place) { return make_warm_up_sum(100, dense(place), quantized("qsgd-2")(place)); }, 0},
  };
}

TEST(BucketSum, ComesWithinItsErrorOfTheExactSumAndIsTheSameOnAllRanks) {
  for (const Kind& kind : kinds())
    for (const int ranks : {1, 2, 3, 4, 5, 7})
      for (const SumGoes goes : {SumGoes::to_all, SumGoes::to_owner}) {
        SCOPED_TRACE(fmt::format("{}, {} ranks, {}", kind.name, ranks, goes == SumGoes::to_all ? "all" : "owner"));
        std::vector<std::vector<float>> results(static_cast<size_t>(ranks));
        std::mutex mutex;
        on_ranks(ranks, goes, kind.make, [&](Communicator& communicator, Rank& rank) {
          for (int64_t step = 0; step < 3; ++step) {
            rank.fill([&](int64_t i) { return value(rank.place.rank, i, step, kind.spread); });
            rank.sum->sum(communicator, rank.values, step, {});
            rank.sum->commit();
          }
          const std::scoped_lock lock(mutex);
          EXPECT_LE(error_of(rank, 2, kind.spread), kind.error);
          results[static_cast<size_t>(rank.place.rank)] = rank.result();
        });
        if (goes == SumGoes::to_owner) continue;
        for (const std::vector<float>& result : results) EXPECT_EQ(result, results.front());
      }
}

TEST(BucketSum, IsNotFiniteOnEveryRankThatGetsAValueWhichIsNot) {
  for (const Kind& kind : kinds())
    for (const float poison : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()})
      for (const SumGoes goes : {SumGoes::to_all, SumGoes::to_owner}) {
        SCOPED_TRACE(fmt::format("{}, {}", kind.name, poison));
        std::mutex mutex;
        int seen = 0;
        on_ranks(3, goes, kind.make, [&](Communicator& communicator, Rank& rank) {
          rank.fill([&](int64_t i) { return value(rank.place.rank, i, 0, kind.spread); });
          rank.sum->sum(communicator, rank.values, 0, {});
          rank.sum->commit();
          rank.fill([&](int64_t i) {
            return rank.place.rank == 1 && i == 5000 ? poison : value(rank.place.rank, i, 1, kind.spread);
          });
          rank.sum->sum(communicator, rank.values, 1, {});
          const std::vector<float> result = rank.result();
          const std::scoped_lock lock(mutex);
          seen += !std::ranges::all_of(result, [](float v) { return std::isfinite(v); });
        });
        EXPECT_GE(seen, goes == SumGoes::to_all ? 3 : 1);
      }
}

TEST(BucketSum, OfARefusedStepLeavesNoTrace) {
  for (const Kind& kind : kinds()) {
    SCOPED_TRACE(kind.name);
    on_ranks(3, SumGoes::to_all, kind.make, [&](Communicator& communicator, Rank& rank) {
      Rank other(3, rank.place.rank, SumGoes::to_all, kind.make);
      for (int64_t step = 0; step < 4; ++step) {
        for (Rank* one : {&rank, &other}) {
          one->fill([&](int64_t i) { return value(rank.place.rank, i, step, kind.spread); });
          one->sum->sum(communicator, one->values, step, {});
          if (one == &other || step != 2) one->sum->commit();
          else one->sum->discard();
          if (step != 2 || one == &other) continue;
          one->fill([&](int64_t i) { return value(rank.place.rank, i, step, kind.spread); });
          one->sum->sum(communicator, one->values, step, {});
          one->sum->commit();
        }
        EXPECT_EQ(rank.result(), other.result());
      }
    });
  }
}

TEST(BucketSum, TellsWhatThisRankSent) {
  for (const Kind& kind : kinds()) {
    if (!kind.tells_own) continue;
    SCOPED_TRACE(kind.name);
    std::mutex mutex;
    std::vector<double> total(elements);
    std::vector<float> result;
    on_ranks(3, SumGoes::to_all, kind.make, [&](Communicator& communicator, Rank& rank) {
      std::vector<float> own(elements);
      rank.fill([&](int64_t i) { return value(rank.place.rank, i, 0, kind.spread); });
      rank.sum->sum(communicator, rank.values, 0, own);
      const std::scoped_lock lock(mutex);
      for (size_t i = 0; i < own.size(); ++i) total[i] += own[i];
      result = rank.result();
    });
    // What an owner sends of a sum may be coded once more.
    double error = 0, exact = 0;
    for (size_t i = 0; i < total.size(); ++i) {
      error += (result[i] - total[i]) * (result[i] - total[i]);
      exact += total[i] * total[i];
    }
    EXPECT_LE(std::sqrt(error / exact), std::max(kind.error, 1e-6) * 0.75);
  }
}

TEST(FeedbackSum, SendsInTheEndWhatItHeldBack) {
  const MakeBucketSum make = [](const BucketPlace& place) {
    return make_feedback_sum(place, make_quantized_sum(place, codec("maxmin-nearest-2")));
  };
  on_ranks(2, SumGoes::to_all, make, [](Communicator& communicator, Rank& rank) {
    // Unbiased only over time: after n steps the mean is as near as a residual divided by n.
    std::vector<double> total(elements);
    constexpr int64_t steps = 64;
    for (int64_t step = 0; step < steps; ++step) {
      rank.fill([&](int64_t i) { return value(rank.place.rank, i, 0); });
      rank.sum->sum(communicator, rank.values, step, {});
      rank.sum->commit();
      const std::vector<float> result = rank.result();
      for (size_t i = 0; i < total.size(); ++i) total[i] += result[i] / steps;
    }
    double error = 0, exact = 0;
    for (size_t i = 0; i < total.size(); ++i) {
      const double sum = value(0, static_cast<int64_t>(i), 0) + value(1, static_cast<int64_t>(i), 0);
      error += (total[i] - sum) * (total[i] - sum);
      exact += sum * sum;
    }
    EXPECT_LT(std::sqrt(error / exact), 0.05);
    EXPECT_GT(rank.sum->residual_square(), 0);
  });
}

TEST(MarinaSum, OfUncompressedDifferencesIsTheGradient) {
  const MakeBucketSum make = [](const BucketPlace& place) {
    return make_marina_sum(place, {.full_probability = 0, .noise_every = 4}, make_dense_sum(place, Wire::f32),
                           make_dense_sum(place, Wire::f32));
  };
  on_ranks(3, SumGoes::to_owner, make, [](Communicator& communicator, Rank& rank) {
    const auto gradient = [&](int64_t step) { rank.fill([&](int64_t i) { return value(rank.place.rank, i, step); }); };
    for (int64_t step = 0; step < 9; ++step) {
      EXPECT_EQ(rank.sum->evaluations(step), step == 0 ? 1 : step % 4 == 0 ? 3 : 2);
      if (step > 0) {
        gradient(step - 1);
        rank.sum->keep(communicator, 0, rank.values);
        gradient(step - 1);
        if (rank.sum->evaluations(step) == 3) rank.sum->keep(communicator, 1, rank.values);
      }
      gradient(step);
      rank.sum->sum(communicator, rank.values, step, {});
      EXPECT_EQ(error_of(rank, step, 1), 0) << step;
      // x - 2 x + y is the difference itself, which counts as noise by a third.
      const DifferenceSquares squares = rank.sum->difference_squares();
      EXPECT_NEAR(squares.noise, squares.difference / 3, 1e-9 * squares.noise);
      EXPECT_EQ(squares.difference > 0, step > 0 && step % 4 == 0);
      rank.sum->commit();
    }
  });
}

TEST(HierarchicalSum, IsTheDenseOneWhereHostsSendEverything) {
  const std::vector<int> host = {0, 1, 0, 1, 1, 0};
  for (const SumGoes goes : {SumGoes::to_all, SumGoes::to_owner}) {
    const MakeBucketSum make = [&](const BucketPlace& place) {
      return make_hierarchical_sum(place, host, [](const BucketPlace& between) {
        EXPECT_EQ(between.ranks(), 2);
        return make_sparse_sum(between, {.selection = {.k = 512}});
      });
    };
    on_ranks(6, goes, make, [](Communicator& communicator, Rank& rank) {
      rank.fill([&](int64_t i) { return value(rank.place.rank, i, 0); });
      rank.sum->sum(communicator, rank.values, 0, {});
      EXPECT_EQ(error_of(rank, 0, 1), 0);
      StateList list;
      rank.sum->state(list, "exchange/");
      EXPECT_EQ(list.entries().size(), 3u);  // a seat's each
    });
  }
  EXPECT_THROW(make_hierarchical_sum({.part_elements = {1, 1, 1}}, {0, 0, 1}, {}), Error);
}

TEST(BucketExchange, PlayedByOneProcessIsThatOfItsRanks) {
  const MakeBucketSum make = [](const BucketPlace& place) { return make_sparse_sum(place, {.selection = {.k = 4}}); };
  constexpr int ranks = 3;
  std::vector<std::vector<float>> expected(3);
  on_ranks(ranks, SumGoes::to_all, make, [&](Communicator& communicator, Rank& rank) {
    for (size_t step = 0; step < expected.size(); ++step) {
      rank.fill([&](int64_t i) { return value(rank.place.rank, i, static_cast<int64_t>(step)); });
      rank.sum->sum(communicator, rank.values, static_cast<int64_t>(step), {});
      rank.sum->commit();
      if (rank.place.rank == 0) expected[step] = rank.result();
    }
  });

  ExchangePlan plan = plan_of(1, SumGoes::to_all);
  plan.turns = 2 * ranks;
  CommunicationThread alone(make_self_communicator);
  const auto exchange = make_virtual_exchange(alone, plan, ranks, 7, make);
  std::vector<float> gradient(elements), total(elements);
  for (size_t step = 0; step < expected.size(); ++step) {
    exchange->start(static_cast<int64_t>(step));
    std::ranges::fill(total, 0.0f);
    for (int turn = 0; turn < 2 * ranks; ++turn) {  // each rank's gradient in two halves
      for (int64_t i = 0; i < elements; ++i)
        gradient[static_cast<size_t>(i)] = value(turn / 2, i, static_cast<int64_t>(step)) / 2;
      exchange->begin(0, {{std::as_writable_bytes(std::span(gradient))}},
                      [&](int64_t first, int64_t count, std::span<const float* const> contributions) {
                        ASSERT_EQ(contributions.size(), 1u);
                        for (int64_t i = 0; i < count; ++i)
                          total[static_cast<size_t>(first + i)] += contributions[0][i];
                      });
      exchange->wait(0);
    }
    exchange->finish();
    EXPECT_GT(exchange->report().bytes_played, 0);
    EXPECT_GT(*exchange->report().relative_error, 0.1);
    EXPECT_LT(*exchange->report().relative_error, 2);
    EXPECT_GT(*exchange->report().residual_norm, 0);
    exchange->commit();
    EXPECT_EQ(total, expected[step]);
  }
}

}  // namespace
}  // namespace nibble
