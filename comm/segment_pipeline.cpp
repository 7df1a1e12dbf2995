#include "comm/segment_pipeline.hpp"

#include <algorithm>

namespace nibble {
namespace {

/// Segments that are under way where everybody adds, and where owners do.
constexpr size_t window = 4, turns = 2;

size_t index(int i) { return static_cast<size_t>(i); }

/// Memory of earlier sums stays.
void make_room(std::vector<std::vector<std::vector<std::byte>>>& messages, size_t at_once, int ranks) {
  messages.resize(std::max(messages.size(), at_once));
  for (std::vector<std::vector<std::byte>>& by_rank : messages) by_rank.resize(index(ranks));
}

}  // namespace

// In step s the codes of segment s leave, those of s - 1 are added and their sum leaves, and the sums of s - 2 are
// taken: transfers end in the order in which they began.
void SegmentPipeline::sum_at_owners(Communicator& communicator, SumGoes goes) {
  const int ranks = communicator.size(), rank = communicator.rank();
  size_t most = 0;
  for (int part = 0; part < ranks; ++part) most = std::max(most, segments(part));
  for (std::vector<Messages>* messages : {&codes_, &outgoing_, &sums_}) make_room(*messages, turns, ranks);
  for (size_t step = 0; step < most + turns; ++step) {
    if (step < most) start_codes(communicator, step);
    if (step >= 1 && step <= most) {
      const size_t arrived = step - 1;
      for (int distance = 1; distance < ranks; ++distance) communicator.finish();
      if (arrived < segments(rank)) add(rank, arrived, codes_[arrived % turns]);
      if (goes == SumGoes::to_all) start_sums(communicator, arrived);
      else if (arrived < segments(rank)) keep_sum(rank, arrived);
    }
    if (step >= turns && goes == SumGoes::to_all) {
      const size_t arrived = step - turns;
      communicator.finish();
      for (int part = 0; part < ranks; ++part)
        if (arrived < segments(part)) decode_sum(part, arrived, sums_[arrived % turns][index(part)]);
    }
  }
}

void SegmentPipeline::start_codes(Communicator& communicator, size_t segment) {
  const int ranks = communicator.size(), rank = communicator.rank();
  Messages &incoming = codes_[segment % turns], &outgoing = outgoing_[segment % turns];
  const auto encoded = [&](int part, Message& message) {
    message.resize(segment < segments(part) ? bytes_of_codes(part, segment) : 0);
    if (!message.empty()) encode(part, segment, message);
  };
  // A part is encoded while those before it travel.
  for (int distance = 1; distance < ranks; ++distance) {
    const int to = (rank + distance) % ranks, from = (rank + ranks - distance) % ranks;
    encoded(to, outgoing[index(to)]);
    incoming[index(from)].resize(segment < segments(rank) ? bytes_of_codes(rank, segment) : 0);
    const Communicator::Send send{to, outgoing[index(to)]};
    const Communicator::Receive receive{from, incoming[index(from)]};
    communicator.start({&send, 1}, {&receive, 1});
  }
  encoded(rank, incoming[index(rank)]);
}

void SegmentPipeline::start_sums(Communicator& communicator, size_t segment) {
  const int ranks = communicator.size(), rank = communicator.rank();
  Messages& messages = sums_[segment % turns];
  for (int part = 0; part < ranks; ++part)
    messages[index(part)].resize(segment < segments(part) ? bytes_of_sum(part, segment) : 0);
  if (segment < segments(rank)) encode_sum(rank, segment, messages[index(rank)]);
  std::vector<Communicator::Send> sends;
  std::vector<Communicator::Receive> receives;
  for (int distance = 1; distance < ranks; ++distance) {
    const int to = (rank + distance) % ranks, from = (rank + ranks - distance) % ranks;
    sends.push_back({to, messages[index(rank)]});
    receives.push_back({from, messages[index(from)]});
  }
  communicator.start(sends, receives);
}

void SegmentPipeline::sum_everywhere(Communicator& communicator) {
  const int ranks = communicator.size(), rank = communicator.rank();
  struct Place {
    int part;
    size_t segment;
  };
  std::vector<Place> places;
  for (int part = 0; part < ranks; ++part)
    for (size_t segment = 0; segment < segments(part); ++segment) places.push_back({part, segment});
  make_room(codes_, window, ranks);
  size_t started = 0;
  for (size_t finished = 0; finished < places.size(); ++finished) {
    for (; started < std::min(places.size(), finished + window); ++started) {
      const auto [part, segment] = places[started];
      Messages& messages = codes_[started % window];
      for (Message& message : messages) message.resize(bytes_of_codes(part, segment));
      encode(part, segment, messages[index(rank)]);
      std::vector<Communicator::Send> sends;
      std::vector<Communicator::Receive> receives;
      for (int distance = 1; distance < ranks; ++distance) {
        const int to = (rank + distance) % ranks, from = (rank + ranks - distance) % ranks;
        sends.push_back({to, messages[index(rank)]});
        receives.push_back({from, messages[index(from)]});
      }
      communicator.start(sends, receives);
    }
    communicator.finish();
    const auto [part, segment] = places[finished];
    add(part, segment, codes_[finished % window]);
    keep_sum(part, segment);
  }
}

}  // namespace nibble
