// Every exchange of gradients that lie in the memory of devices: to the bits of the host's exchange of the same
// gradients, with what it reports and remembers.
#include <fmt/format.h>

#include <cstring>
#include <mutex>
#include <random>

#include "comm/bucket_vector.hpp"
#include "comm/wire_work.hpp"
#include "tests/comm/nccl/gpu_ranks.hpp"
#include "tests/comm/rank_threads.hpp"
#include "trainer/gpu_ranks.hpp"
#include "trainer/gradient_exchange.hpp"
#include "trainer/run_stream.hpp"
#include "trainer/state_on_host.hpp"

namespace nibble {
namespace {

using test::run_well_on_gpus;

// Before step 32, in which marina looks at a third point.
constexpr int64_t first_step = 30, end_step = 34, refused_step = 31;
constexpr int64_t bucket_sizes[] = {4096 + 700, 900, 2 * 4096};
constexpr int turns_of_player = 2;

using Change = std::function<void(GradientSettings& gradients)>;

struct Case {
  std::string name;
  Change change;
  SumGoes goes = SumGoes::to_all;
  int ranks = 4;
};

Change exchange(const std::string& name, const std::string& codec = "", const std::string& algorithm = "auto") {
  return [=](GradientSettings& s) {
    s.exchange = name;
    s.codec = codec;
    s.algorithm = algorithm;
    s.density = 0.1;
    s.full_probability = 0.3;
  };
}

Change both(const Change& one, const Change& other) {
  return [=](GradientSettings& s) {
    one(s);
    other(s);
  };
}

std::vector<Case> cases() {
  const auto hierarchical = [](GradientSettings& s) { s.hierarchical = true; };
  const auto rarely_full = [](GradientSettings& s) { s.full_probability = 1e-6; };
  const auto played = [](GradientSettings& s) { s.virtual_ranks = 3; };
  return {
      {"sparcml", exchange("sparcml", "", "split")},
      {"sparcml, bf16", both(exchange("sparcml", "", "recursive_doubling"), [](auto& s) { s.wire = "bf16"; })},
      {"sparcml, 4 bits, to owners", exchange("sparcml", "maxmin-4", "dense_split"), SumGoes::to_owner},
      {"sparcml of all", both(exchange("sparcml", "", "split"), [](auto& s) { s.select = "all"; })},
      {"sparcml where dense is cheaper", both(exchange("sparcml"), [](auto& s) { s.density = 1; })},
      {"maxmin-4", exchange("quantized")},
      {"eden-1, to owners", exchange("quantized", "eden-1"), SumGoes::to_owner},
      {"fp8 with feedback", exchange("quantized", "fp8-nearest")},
      {"correlated-4", exchange("quantized", "correlated-4")},
      {"correlated-1, to owners", exchange("quantized", "correlated-1"), SumGoes::to_owner, 3},
      {"rotated-correlated-2", exchange("quantized", "rotated-correlated-2")},
      {"marina", exchange("marina")},
      {"marina, three points", both(exchange("marina", "eden-4"), rarely_full)},
      {"marina, permutation, to owners", exchange("marina", "permutation"), SumGoes::to_owner},
      {"marina, random", exchange("marina", "random")},
      {"marina, random, to owners", both(exchange("marina", "random"), rarely_full), SumGoes::to_owner, 2},
      {"marina, rotated codes", both(exchange("marina", "eden-4"), rarely_full), SumGoes::to_owner},
      {"ef21", exchange("ef21")},
      {"ef21 of two", exchange("ef21"), SumGoes::to_all, 2},
      {"fp8 with feedback, to owners", exchange("quantized", "fp8-nearest"), SumGoes::to_owner, 2},
      {"ef21, to owners", exchange("ef21", "maxmin-4"), SumGoes::to_owner},
      {"lattice", exchange("lattice", "rotated-lattice-4")},
      {"warm-up",
       both(exchange("sparcml", "", "split"), [](auto& s) { s.warmup = StepsOrShare::steps(first_step + 2); })},
      {"hierarchical", both(exchange("sparcml", "", "split"), hierarchical)},
      {"hierarchical, correlated", both(exchange("quantized", "correlated-4"), hierarchical), SumGoes::to_owner},
      {"hierarchical, marina", both(exchange("marina"), hierarchical)},
      {"hierarchical, permutation", both(exchange("marina", "permutation"), hierarchical), SumGoes::to_owner},
      {"hierarchical, feedback", both(exchange("quantized", "fp8-nearest"), hierarchical)},
      {"by layer",
       both(
           exchange("sparcml", "", "split"),
           [](auto& s) {
             s.overrides = {{.layers = {"embedding"}, .exchange = "dense"}, {.layers = {"head"}, .exchange = "marina"}};
           })},
      {"virtual", both(exchange("quantized"), played), SumGoes::to_owner, 1},
      {"virtual, marina", both(both(exchange("marina", "permutation"), rarely_full), played), SumGoes::to_owner, 1},
      {"virtual, ef21", both(exchange("ef21"), played), SumGoes::to_owner, 1},
  };
}

/// What ranks' gradients have in common, and what each adds.
std::vector<float> gradient_of(int rank, int64_t point, int bucket) {
  std::vector<float> values(static_cast<size_t>(bucket_sizes[bucket]));
  std::mt19937 shared(static_cast<uint32_t>(100 * point + bucket)), own(static_cast<uint32_t>(7000 * rank) + shared());
  std::normal_distribution<float> normal, difference(0, 0.2f);
  for (float& value : values) value = normal(shared) + difference(own);
  return values;
}

/// A rank's gradients, buckets in pieces, in its device's memory or the host's.
class Gradients {
 public:
  Gradients(Stream& stream, const ExchangePlan& plan) : stream_(stream) {
    for (const std::vector<int64_t>& elements : plan.part_elements) {
      Parts parts;
      const int64_t bucket = std::ssize(parts_);
      memory_.emplace_back(static_cast<size_t>(2 * bucket_sizes[bucket]) * sizeof(float), "test", stream.place());
      auto* at = static_cast<float*>(memory_.back().data());
      for (const int64_t count : elements) {
        Pieces pieces;
        for (const int64_t here : {count / 3, count - count / 3}) {
          pieces.push_back(std::as_writable_bytes(std::span(at, static_cast<size_t>(here))));
          at += here + 5;
        }
        parts.push_back(pieces);
      }
      parts_.push_back(parts);
    }
  }

  const Parts& of(int bucket) const { return parts_[static_cast<size_t>(bucket)]; }

  void fill(int bucket, const std::vector<float>& values) const {
    WireWork(on_device()).unpack(std::as_bytes(std::span(values)), joined(of(bucket)), 0);
    stream_.wait();
  }
  /// The parts from `first` on that a rank gets.
  void append(std::vector<float>& to, const Pieces& pieces) const {
    std::vector<float> values(bytes_of(pieces) / sizeof(float));
    WireWork(on_device()).pack(pieces, 0, std::as_writable_bytes(std::span(values)));
    stream_.wait();
    to.insert(to.end(), values.begin(), values.end());
  }

 private:
  Stream* on_device() const { return stream_.on_device() ? &stream_ : nullptr; }

  Stream& stream_;
  std::vector<Buffer> memory_;
  std::vector<Parts> parts_;
};

/// What a rank has of an exchange.
struct Outcome {
  std::string description;
  std::vector<float> sums;
  std::vector<double> reported;
  std::string state;
  uint64_t bytes_sent = 0;
};

ExchangePlan plan_of(const Case& how, Stream& stream) {
  ExchangePlan plan{.part_elements = {}, .group = {0, 1, 2}, .groups = 3, .goes = how.goes, .memory = stream.place()};
  if (how.ranks == 1) plan.turns = 3 * turns_of_player;
  for (const int64_t elements : bucket_sizes) {
    std::vector<int64_t>& parts = plan.part_elements.emplace_back();
    for (int rank = 0; rank < how.ranks; ++rank)
      parts.push_back(elements * (rank + 1) / how.ranks - elements * rank / how.ranks);
  }
  return plan;
}

/// Sums what is folded, as owners of gradients do.
class Folded {
 public:
  Folded(const World& world, Place place)
      : work_(world.thread().stream()), total_(DType::f32, 1, bucket_sizes[2], "test", place) {}

  Consume consume() {
    return [this](int64_t first, int64_t count, std::span<const float* const> contributions) {
      float* const to = static_cast<float*>(total_.view().data) + first;
      if (begun_) work_.add(contributions[0], count, to);
      else work_.copy(contributions[0], count, to);
      begun_ = true;
    };
  }
  Pieces take(int bucket) {
    begun_ = false;
    return {{static_cast<std::byte*>(total_.view().data), static_cast<size_t>(bucket_sizes[bucket]) * sizeof(float)}};
  }

 private:
  WireWork work_;
  OwnedTensor total_;
  bool begun_ = false;
};

/// What the exchange needs to go on, in the host's memory.
StateOnHost state_of(GradientExchange& exchange, Stream& stream) {
  StateList list;
  exchange.state(list);
  StateOnHost state(list);
  state.fetch(stream);
  return state;
}

/// With the numbers of `kept`, whose names are the same.
void go_on_with(const StateList& kept, GradientExchange& exchange, Stream& stream) {
  StateList list;
  exchange.state(list);
  const StateOnHost state(list);
  ASSERT_EQ(state.list().entries().size(), kept.entries().size());
  for (size_t i = 0; i < kept.entries().size(); ++i) {
    const StateList::Entry &to = state.list().entries()[i], &from = kept.entries()[i];
    ASSERT_EQ(to.name, from.name);
    ASSERT_EQ(to.tensor.bytes(), from.tensor.bytes());
    if (to.tensor.bytes() > 0) std::memcpy(to.tensor.data, from.tensor.data, to.tensor.bytes());
  }
  state.put(stream);
}

/// Before which a resumed run is made anew of its state.
constexpr int64_t resumed_step = 33;

Outcome run_steps(const Case& how, World& world, Stream& stream, bool resumes) {
  Settings settings;
  settings.run.seed = 5;
  how.change(settings.gradients);
  std::vector<int> host;
  for (int rank = 0; rank < how.ranks; ++rank) host.push_back(rank / 2);
  const ExchangePlan plan = plan_of(how, stream);
  const MakeExchange make = exchange_maker(settings, {.steps = 100, .host = host});
  auto exchange = make(world.thread(), plan);
  const Gradients gradients(stream, plan);
  Folded folded(world, stream.place());
  const auto buckets = static_cast<int>(std::size(bucket_sizes));
  const uint64_t before = world.thread().totals().bytes_sent;
  Outcome outcome;
  outcome.description = exchange->description();
  for (int64_t step = first_step; step < end_step; ++step) {
    if (resumes && step == resumed_step) {
      const StateOnHost state = state_of(*exchange, stream);
      auto next = make(world.thread(), plan);
      go_on_with(state.list(), *next, stream);
      exchange = std::move(next);
    }
    exchange->start(step);
    const int points = exchange->evaluations(step);
    for (int point = 0; point < points; ++point)
      for (int bucket = 0; bucket < buckets; ++bucket) {
        for (int64_t turn = 0; turn < plan.turns; ++turn) {
          const int rank = how.ranks == 1 ? static_cast<int>(turn) : world.rank();
          gradients.fill(bucket, gradient_of(rank, 3 * step + point, bucket));
          if (point + 1 < points) exchange->keep(point, bucket, gradients.of(bucket));
          else exchange->begin(bucket, gradients.of(bucket), how.ranks == 1 ? folded.consume() : Consume());
          exchange->wait(bucket);
        }
        if (how.ranks == 1 && point + 1 == points) gradients.append(outcome.sums, folded.take(bucket));
      }
    exchange->finish();
    for (int bucket = 0; bucket < buckets && how.ranks > 1; ++bucket)
      gradients.append(outcome.sums, how.goes == SumGoes::to_all
                                         ? joined(gradients.of(bucket))
                                         : gradients.of(bucket)[static_cast<size_t>(world.rank())]);
    const ExchangeReport report = exchange->report();
    outcome.reported.insert(outcome.reported.end(),
                            {report.relative_error.value_or(-1), report.residual_norm.value_or(-1),
                             report.signal_ratio.value_or(-1), static_cast<double>(report.bytes_played)});
    if (step == refused_step) exchange->discard();
    else exchange->commit();
  }
  outcome.bytes_sent = world.thread().totals().bytes_sent - before;
  const StateOnHost state = state_of(*exchange, stream);
  for (const StateList::Entry& entry : state.list().entries())
    outcome.state += entry.name + std::string(static_cast<const char*>(entry.tensor.data), entry.tensor.bytes());
  return outcome;
}

std::vector<Outcome> on_hosts(const Case& how) {
  std::vector<Outcome> outcomes(static_cast<size_t>(how.ranks));
  std::vector<std::unique_ptr<Communicator>> communicators = make_thread_communicators(how.ranks);
  run_on_ranks(how.ranks, [&](Communicator& link) {
    const auto rank = static_cast<size_t>(link.rank());
    Stream stream(1);
    const std::unique_ptr<World> world = make_local_world(std::move(communicators[rank]));
    outcomes[rank] = run_steps(how, *world, stream, false);
  });
  return outcomes;
}

std::vector<Outcome> on_gpus(const Case& how, const std::string& links, bool resumes = false) {
  std::vector<Outcome> outcomes(static_cast<size_t>(how.ranks));
  run_well_on_gpus({.ranks = how.ranks,
                    .gpus = links == "staged" ? 1 : 0,
                    .faults = {.seed = 1, .longest_delay = std::chrono::microseconds(100)}},
                   [&](World& world) {
                     Stream stream(1, Place::device, gpu_of(world));
                     const GpuRanks gpus(world, stream, links == "hierarchical" ? "auto" : links, "");
                     if (links == "hierarchical")
                       world.thread().change(
                           [&](const std::shared_ptr<Communicator>& own) -> std::shared_ptr<Communicator> {
                             return make_hierarchical_communicator(
                                 {own, &own->host()}, std::make_shared<Stream>(1, Place::device, gpu_of(world)),
                                 {0, 0, 1, 1}, {});
                           },
                           &stream.queue());
                     outcomes[static_cast<size_t>(world.rank())] = run_steps(how, world, stream, resumes);
                   });
  return outcomes;
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

/// Links that add integers have them in bytes, not in as few bits as they need.
bool counts(const Case& how, const std::string& links) {
  Settings settings;
  how.change(settings.gradients);
  const GradientSettings& s = settings.gradients;
  const auto correlated = [](const std::string& name, const std::string& codec) {
    return codec.find("correlated") != std::string::npos || (name == "marina" && codec.empty());
  };
  return links == "nccl" && !s.hierarchical &&
         (correlated(s.exchange, s.codec) ||
          std::ranges::any_of(s.overrides, [&](const auto& rule) { return correlated(rule.exchange, rule.codec); }));
}

void expect_same(const std::vector<Outcome>& seen, const std::vector<Outcome>& expected, const Case& how,
                 const std::string& links) {
  for (size_t rank = 0; rank < seen.size(); ++rank) {
    SCOPED_TRACE(fmt::format("{}, {}, rank {}", how.name, links, rank));
    EXPECT_EQ(seen[rank].description, expected[rank].description);
    EXPECT_TRUE(same_bits(seen[rank].sums, expected[rank].sums));
    EXPECT_TRUE(same_bits(seen[rank].reported, expected[rank].reported));
    EXPECT_TRUE(seen[rank].state == expected[rank].state);
    if (counts(how, links)) {
      EXPECT_GT(seen[rank].bytes_sent, expected[rank].bytes_sent);
    } else {
      EXPECT_EQ(seen[rank].bytes_sent, expected[rank].bytes_sent);
    }
  }
}

TEST(GpuExchanges, HaveTheHostsBits) {
  for (const Case& how : cases()) {
    const std::vector<Outcome> expected = on_hosts(how);
    ASSERT_FALSE(expected.front().sums.empty());
    for (const std::string links : {"nccl", "staged", "hierarchical"}) {
      if (links != "staged" && how.ranks == 1) continue;
      if (links == "hierarchical" && how.ranks != 4) continue;
      expect_same(on_gpus(how, links), expected, how, links);
    }
  }
}

TEST(GpuExchanges, GoOnFromTheirState) {
  for (const Case& how : cases()) {
    const std::vector<Outcome> expected = on_hosts(how);
    if (expected.front().state.empty()) continue;
    const std::string links = how.ranks == 1 ? "staged" : "nccl";
    expect_same(on_gpus(how, links, true), expected, how, links);
  }
}

// Sampled elements are exact where the sum is, and what is reported of others is not nothing.
TEST(GpuExchanges, ReportTheErrorThatTheyMake) {
  const Case dense{"dense where it is cheaper", both(exchange("sparcml"), [](auto&s) { s.density = 1; })},
      rounded{"maxmin-4", exchange("quantized")};
  EXPECT_LT(on_gpus(dense, "nccl").front().reported.front(), 1e-6);
  const double error = on_gpus(rounded, "nccl").front().reported.front();
  EXPECT_GT(error, 1e-3);
  EXPECT_LT(error, 0.5);
}

}  // namespace
}  // namespace nibble
