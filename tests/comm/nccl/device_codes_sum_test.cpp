// Quantized sums of values in the memory of devices: the host's bits, the host's bytes on the wire, and the host's
// errors for messages that no encoder wrote.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <limits>
#include <random>

#include "comm/bucket_sums.hpp"
#include "comm/bucket_vector.hpp"
#include "comm/code_message.hpp"
#include "comm/device_communicator.hpp"
#include "comm/wire_work.hpp"
#include "tensor/memory.hpp"
#include "tests/comm/nccl/device_ranks.hpp"

namespace nibble {
namespace {

enum class Where { host, nccl, staged };

/// A host's communicator that remembers what it sends, and may change it before.
class Watched final : public Communicator {
 public:
  using Change = std::function<void(std::vector<std::byte>& message)>;

  explicit Watched(std::shared_ptr<Communicator> inner) : inner_(std::move(inner)) {}
  ~Watched() override = default;

  void watch(const Change& change = {}) {
    watching_ = true;
    change_ = change;
  }
  const std::vector<std::vector<std::byte>>& sent() const { return sent_; }

  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  void abandon() override { inner_->abandon(); }

 private:
  void do_start(std::span<const Send> sends, std::span<const Receive> receives) override {
    std::vector<Send> changed(sends.begin(), sends.end());
    if (watching_)
      for (Send& send : changed) {
        std::vector<std::byte>& message = messages_.emplace_back(send.bytes.begin(), send.bytes.end());
        if (change_ && !message.empty()) change_(message);
        send.bytes = message;
        sent_.push_back(message);
      }
    inner_->start(changed, receives);
  }
  void do_finish() override { inner_->finish(); }

  std::shared_ptr<Communicator> inner_;
  bool watching_ = false;
  Change change_;
  std::deque<std::vector<std::byte>> messages_;
  std::vector<std::vector<std::byte>> sent_;
};

struct Case {
  std::string codec;
  int64_t bucket = 64;
  std::vector<int64_t> parts;
  SumGoes goes = SumGoes::to_all;
  std::function<void(int rank, std::vector<float>& values)> spoil{};
  int liar = -1;                           ///< rank that changes what it sends
  std::function<Watched::Change()> lie{};  ///< how, each time anew

  int ranks() const { return static_cast<int>(parts.size()); }
};

struct Outcome {
  std::vector<float> values, own;
  std::vector<std::vector<std::byte>> sent;
  std::string error;
};

std::vector<float> gradient(int64_t count, int rank, int step) {
  std::mt19937 shared(static_cast<uint32_t>(step)), own(static_cast<uint32_t>(100 * step + rank));
  std::normal_distribution<float> normal, difference(0, 0.3f);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(shared) + difference(own);
  return values;
}

constexpr int steps = 2;

/// A vector in pieces, in the memory of a stream.
class Vector {
 public:
  Vector(Stream& stream, const BucketPlace& place)
      : stream_(stream),
        memory_(static_cast<size_t>(2 * place.elements() + 1) * sizeof(float), "test", stream.place()) {
    auto* at = static_cast<float*>(memory_.data()) + 1;
    for (const int64_t count : place.part_elements) {
      Pieces pieces;
      const int64_t cut = place.number == 0 ? count / 3 : 0;
      for (const int64_t here : {cut, count - cut}) {
        pieces.push_back(std::as_writable_bytes(std::span(at, static_cast<size_t>(here))));
        at += here + (cut > 0 ? 3 : 0);
      }
      parts.push_back(pieces);
    }
  }
  void set(const std::vector<float>& values) const {
    WireWork(on_device()).unpack(std::as_bytes(std::span(values)), joined(parts), 0);
    stream_.wait();
  }
  std::vector<float> get() const {
    std::vector<float> values(bytes_of(joined(parts)) / sizeof(float));
    WireWork(on_device()).pack(joined(parts), 0, std::as_writable_bytes(std::span(values)));
    stream_.wait();
    return values;
  }

  Parts parts;

 private:
  Stream* on_device() const { return stream_.on_device() ? &stream_ : nullptr; }

  Stream& stream_;
  Buffer memory_;
};

/// A vector that lies in pieces and one that does not, for two steps.
void run_rank(const Case& how, Communicator& ranks, Watched& host, Stream& stream, BucketSumPointer& sum,
              Outcome& outcome) {
  BucketPlace place{.rank = ranks.rank(),
                    .part_elements = how.parts,
                    .goes = how.goes,
                    .seed = 9,
                    .first_codes = 40,
                    .memory = stream.place()};
  place.scratch = std::make_shared<SumScratch>(place.elements());
  host.watch(how.liar == ranks.rank() ? how.lie() : Watched::Change());
  const Codec codec = codec_named(how.codec, how.bucket, "test");
  for (int step = 0; step < steps; ++step) {
    place.number = step;
    sum = make_quantized_sum(place, codec);
    const Vector vector(stream, place);
    std::vector<float> values = gradient(place.elements(), ranks.rank(), step);
    if (how.spoil) how.spoil(ranks.rank(), values);
    vector.set(values);
    const Buffer own(static_cast<size_t>(place.elements()) * sizeof(float), "test", stream.place());
    const std::span<float> own_values(static_cast<float*>(own.data()), static_cast<size_t>(place.elements()));
    try {
      sum->sum(ranks, vector.parts, step, step == 1 ? own_values : std::span<float>());
    } catch (const Error& error) {
      outcome.error = error.what();
      ranks.abandon();
      return;
    }
    const std::vector<float> result = vector.get();
    outcome.values.insert(outcome.values.end(), result.begin(), result.end());
    if (step != 1) continue;
    outcome.own.resize(own_values.size());
    WireWork(stream.on_device() ? &stream : nullptr)
        .pack({std::as_writable_bytes(own_values)}, 0, std::as_writable_bytes(std::span(outcome.own)));
    stream.wait();
  }
}

std::vector<Outcome> run(const Case& how, Where where) {
  const auto count = static_cast<size_t>(how.ranks());
  std::vector<Outcome> outcomes(count);
  std::vector<BucketSumPointer> sums(count);  // what ranks have sent lies there
  std::vector<std::shared_ptr<Watched>> hosts(count);
  const auto keep = [&](const std::shared_ptr<Communicator>& host) {
    return hosts[static_cast<size_t>(host->rank())] = std::make_shared<Watched>(host);
  };
  if (where == Where::host) {
    run_on_ranks(how.ranks(), [&](Communicator& communicator) {
      const auto rank = static_cast<size_t>(communicator.rank());
      const std::shared_ptr<Watched> host = keep({&communicator, [](Communicator*) {}});
      Stream stream(1);
      run_rank(how, *host, *host, stream, sums[rank], outcomes[rank]);
    });
  } else {
    run_on_devices({.ranks = how.ranks(), .share = where == Where::staged, .faults = {.seed = 1}},
                   [&](const std::shared_ptr<Communicator>& communicator, const std::shared_ptr<Stream>& stream) {
                     const auto rank = static_cast<size_t>(communicator->rank());
                     const std::shared_ptr<Watched> host = keep(communicator);
                     const std::unique_ptr<DeviceCommunicator> ranks =
                         where == Where::staged ? make_staged_communicator(host, stream)
                                                : make_nccl_communicator(host, stream, patient);
                     run_rank(how, *ranks, *host, *stream, sums[rank], outcomes[rank]);
                     sums[rank] = nullptr;
                   });
  }
  for (size_t rank = 0; rank < count; ++rank) outcomes[rank].sent = hosts[rank]->sent();
  return outcomes;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(), [](float x, float y) {
           return (std::isnan(x) && std::isnan(y)) || std::memcmp(&x, &y, sizeof x) == 0;
         });
}

/// What the host has.
std::vector<Outcome> expect_the_hosts(const Case& how,
                                      std::initializer_list<Where> places = {Where::nccl, Where::staged}) {
  const std::vector<Outcome> expected = run(how, Where::host);
  for (const Where where : places) {
    const std::vector<Outcome> seen = run(how, where);
    for (size_t rank = 0; rank < seen.size(); ++rank) {
      SCOPED_TRACE(fmt::format("{}, {} ranks, {}, {}, rank {}", how.codec, how.ranks(),
                               how.goes == SumGoes::to_all ? "to all" : "to owner",
                               where == Where::nccl ? "nccl" : "staged", rank));
      EXPECT_EQ(seen[rank].error, expected[rank].error);
      EXPECT_TRUE(same_bits(seen[rank].values, expected[rank].values));
      EXPECT_TRUE(same_bits(seen[rank].own, expected[rank].own));
      EXPECT_TRUE(seen[rank].sent == expected[rank].sent) << "other bytes on the wire";
    }
  }
  return expected;
}

TEST(DeviceCodeSums, HaveTheHostsBitsAndBytes) {
  for (const Codec& codec : codecs()) {
    if (!codes_on_device(codec)) continue;
    for (const SumGoes goes : {SumGoes::to_all, SumGoes::to_owner})
      for (const std::vector<int64_t>& parts : {std::vector<int64_t>{150}, {200, 131}, {100, 0, 3}, {65, 300, 1}}) {
        const std::vector<Outcome> outcomes =
            expect_the_hosts({.codec = std::string(codec.name), .parts = parts, .goes = goes}, {Where::nccl});
        for (const Outcome& outcome : outcomes) {
          ASSERT_EQ(outcome.error, "");
          ASSERT_EQ(outcome.sent.empty(), parts.size() == 1);
        }
      }
  }
  for (const char* codec : {"maxmin-4", "eden-2", "fp8-nearest"})
    for (const SumGoes goes : {SumGoes::to_all, SumGoes::to_owner})
      expect_the_hosts({.codec = codec, .parts = {200, 131, 64}, .goes = goes}, {Where::staged});
}

// While others wait, so that the ledger is that of all ranks.
TEST(DeviceCodeSums, HaveTheirMemoryBeforeTheFirst) {
  for (const SumGoes goes : {SumGoes::to_all, SumGoes::to_owner})
    for (const std::vector<int64_t>& parts : {std::vector<int64_t>{200, 131}, {65, 300, 100}})
      run_on_devices({.ranks = static_cast<int>(std::ssize(parts)), .share = true},
                     [&](const std::shared_ptr<Communicator>& host, const std::shared_ptr<Stream>& stream) {
                       const std::unique_ptr<DeviceCommunicator> ranks = make_staged_communicator(host, stream);
                       BucketPlace place{.rank = host->rank(), .part_elements = parts, .goes = goes};
                       place.memory = Place::device;
                       place.scratch = std::make_shared<SumScratch>(place.elements(), Place::device);
                       const BucketSumPointer sum = make_quantized_sum(place, codec_named("maxmin-4", 64, "test"));
                       const Vector vector(*stream, place);
                       vector.set(gradient(place.elements(), host->rank(), 0));
                       barrier(*host);
                       const MemoryTable before = held_memory();
                       barrier(*host);
                       sum->sum(*ranks, vector.parts, 0, {});
                       barrier(*host);
                       EXPECT_EQ(held_memory(), before);
                       barrier(*host);
                     });
}

// More than are under way at a time, so that messages' memory is used again; of parts that have not as many of them.
TEST(DeviceCodeSums, TakeManySegments) {
  constexpr int64_t segment = 1 << 18;
  expect_the_hosts({.codec = "maxmin-4", .bucket = 1024, .parts = {3 * segment + 9, segment / 2, 2 * segment}},
                   {Where::staged});
  expect_the_hosts({.codec = "qsgd-2", .bucket = 1024, .parts = {3 * segment + 9, 3 * segment}}, {Where::nccl});
}

TEST(DeviceCodeSums, AreNoNumberWhereOneRanksValuesAreNot) {
  for (const char* codec : {"maxmin-4", "drive", "fp8"})
    for (const std::vector<int64_t>& parts : {std::vector<int64_t>{150}, {100, 100}, {100, 90, 150}})
      for (const SumGoes goes : {SumGoes::to_all, SumGoes::to_owner}) {
        const auto ranks = static_cast<int>(parts.size());
        const std::vector<Outcome> outcomes = expect_the_hosts(
            {.codec = codec, .parts = parts, .goes = goes, .spoil = [ranks](int rank, std::vector<float>& values) {
               if (rank == ranks - 1) values[70] = std::numeric_limits<float>::infinity();
             }});
        EXPECT_TRUE(std::isnan(outcomes.back().own.front()));
        if (ranks > 1) {
          EXPECT_TRUE(std::isnan(outcomes.front().values.front()));
        }
      }
}

// Each rank's values have codes, and their sum has none.
TEST(DeviceCodeSums, AreNoNumberWhereTheSumIsNotEncodable) {
  for (const char* codec : {"maxmin-8", "eden-4"}) {
    const std::vector<Outcome> outcomes =
        expect_the_hosts({.codec = codec, .parts = {100, 90, 150}, .spoil = [](int, std::vector<float>& values) {
                            for (float& value : values) value = 0x1.8p99f;
                          }});
    EXPECT_TRUE(std::isnan(outcomes.front().values.front()));
    EXPECT_FALSE(std::isnan(outcomes.front().own.front()));
  }
}

/// Codes of the first message that a rank sends are changed, and sealed as if they were right.
Case lies(const std::string& codec, int liar, const std::vector<int64_t>& parts, bool of_sum,
          const std::function<void(std::span<std::byte> codes)>& change) {
  Case how{.codec = codec, .parts = parts};
  how.liar = liar;
  how.lie = [=]() -> Watched::Change {
    return [=, seen = 0](std::vector<std::byte>& message) mutable {
      const Codec row = codec_named(codec, 64, "test");
      const auto ranks = static_cast<int>(parts.size());
      // What the rank sends first of all, or behind its codes for the others.
      if (seen++ != (of_sum ? ranks - 1 : 0)) return;
      const auto part = static_cast<size_t>(of_sum ? liar : ranks == 2 ? 0 : (liar + 1) % ranks);
      int64_t first_bucket = 0;
      for (size_t p = 0; p < part; ++p) first_bucket += row.buckets_of(parts[p]);
      CodeSource source{.seed = 9, .step = 0, .first_bucket = 40, .rank = liar};
      source = source.from_bucket(first_bucket);
      change(codes_in(std::span(message)));
      seal_codes(message, {row, of_sum ? source.of_sum() : source, ranks, parts[part]});
    };
  };
  return how;
}

TEST(DeviceCodeSums, RefuseWhatNoEncoderWroteAsTheHostDoes) {
  const auto scale = [](float value, size_t at) {
    return [=](std::span<std::byte> codes) { std::memcpy(&codes[at], &value, sizeof value); };
  };
  const auto behind = [](std::span<std::byte> codes) { codes.back() |= std::byte{0x80}; };
  const auto no_number = [](std::span<std::byte> codes) { codes[4 + 64 + 4 + 5] = std::byte{0xff}; };
  const std::vector<int64_t> two{129, 129}, three{129, 129, 129};
  const auto expect_refused = [&](const Case& how, size_t reader) {
    const std::string expected = run(how, Where::host)[reader].error;
    EXPECT_NE(expected.find("a message of gradient codes is damaged"), std::string::npos) << expected;
    // Who passes a sum on may look at it later than who gets it from him.
    const std::vector<Outcome> seen = run(how, Where::nccl);
    EXPECT_TRUE(std::ranges::any_of(seen, [&](const Outcome& outcome) { return outcome.error == expected; }))
        << seen[reader].error << "\ninstead of\n"
        << expected;
  };
  expect_refused(lies("maxmin-4", 1, two, false, scale(-1, 0)), 0);
  expect_refused(lies("maxmin-4", 1, two, false, scale(std::numeric_limits<float>::infinity(), 4)), 0);
  expect_refused(lies("eden-3", 1, two, false, scale(std::numeric_limits<float>::quiet_NaN(), 4 + 24)), 0);
  expect_refused(lies("maxmin-4", 1, two, false, behind), 0);
  expect_refused(lies("drive", 1, two, false, behind), 0);
  expect_refused(lies("fp8", 1, two, false, no_number), 0);
  expect_refused(lies("qsgd-8", 1, two, false, no_number), 0);
  expect_refused(lies("eden-3", 1, three, false, scale(-1, 0)), 2);  // to an owner, who adds
  expect_refused(lies("maxmin-4", 1, three, true, behind), 2);       // from an owner, of a sum
}

}  // namespace
}  // namespace nibble
