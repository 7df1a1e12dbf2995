#include "comm/segment_pipeline.hpp"

#include <algorithm>

namespace nibble {
namespace {

/// Segments whose codes are under way where everybody adds, and where owners do.
constexpr size_t window = 4, turns = 2;

size_t index(int i) { return static_cast<size_t>(i); }

}  // namespace

void SegmentPipeline::make_room(std::vector<Messages>& messages, size_t at_once, int ranks) const {
  messages.resize(std::max(messages.size(), at_once));
  for (Messages& by_rank : messages)
    while (by_rank.size() < index(ranks))
      by_rank.emplace_back(memory_ ? memory_.get() : std::pmr::new_delete_resource());
}

void SegmentPipeline::reserve(std::vector<Messages>& messages, size_t at_once, int ranks, size_t bytes) const {
  make_room(messages, at_once, ranks);
  for (Messages& by_rank : messages)
    for (Message& message : by_rank) message.reserve(bytes);
}

void SegmentPipeline::reserve_at_owners(int ranks, SumGoes goes, size_t segments, size_t bytes) {
  for (std::vector<Messages>* messages : {&codes_, &outgoing_})
    reserve(*messages, std::min(turns, segments), ranks, bytes);
  if (goes == SumGoes::to_all) reserve(sums_, std::min(index(ranks), segments), ranks, bytes);
}

void SegmentPipeline::reserve_everywhere(int ranks, size_t bytes) { reserve(codes_, window, ranks, bytes); }

void SegmentPipeline::resize(Message& message, size_t bytes) {
  release(message);
  message.resize(bytes);
}

// In step t the codes of segment t leave and those of t - 1 are added. Sums go around the ring: in step t that of t - 1
// leaves its owner, those of earlier segments are passed on. A rank thus hears of sums from one other at a time, which
// spares slow links from answers that all come at once. Transfers end in the order in which they began.
void SegmentPipeline::sum_at_owners(Communicator& communicator, SumGoes goes) {
  const int ranks = communicator.size(), rank = communicator.rank();
  size_t most = 0;
  for (int part = 0; part < ranks; ++part) most = std::max(most, segments(part));
  for (std::vector<Messages>* messages : {&codes_, &outgoing_}) make_room(*messages, turns, ranks);
  make_room(sums_, index(ranks), ranks);
  const size_t steps = goes == SumGoes::to_all ? most + index(ranks) : most + 1;
  for (size_t step = 0; step < steps; ++step) {
    if (step < most) start_codes(communicator, step);
    if (step >= 1 && step <= most) {
      for (int distance = 1; distance < ranks; ++distance) communicator.finish();
      if (step - 1 < segments(rank)) {
        add(rank, step - 1, codes_[(step - 1) % turns]);
        if (goes == SumGoes::to_owner) {
          keep_sum(rank, step - 1);
        } else {
          Message& own = new_sum_message(rank, step - 1);
          encode_sum(rank, step - 1, own);
          decode_sum(rank, step - 1, own);
        }
      }
    }
    if (goes == SumGoes::to_owner) continue;
    if (step >= 2) take_sums(communicator, step - 1);
    if (step >= 1 && step + 1 < steps) pass_sums(communicator, step);
  }
}

void SegmentPipeline::start_codes(Communicator& communicator, size_t segment) {
  const int ranks = communicator.size(), rank = communicator.rank();
  Messages &incoming = codes_[segment % turns], &outgoing = outgoing_[segment % turns];
  const auto encoded = [&](int part, Message& message) {
    resize(message, segment < segments(part) ? bytes_of_codes(part, segment) : 0);
    if (!message.empty()) encode(part, segment, message);
  };
  // A part is encoded while those before it travel.
  for (int distance = 1; distance < ranks; ++distance) {
    const int to = (rank + distance) % ranks, from = (rank + ranks - distance) % ranks;
    encoded(to, outgoing[index(to)]);
    resize(incoming[index(from)], segment < segments(rank) ? bytes_of_codes(rank, segment) : 0);
    const Communicator::Send send{to, outgoing[index(to)]};
    const Communicator::Receive receive{from, incoming[index(from)]};
    communicator.start({&send, 1}, {&receive, 1});
  }
  encoded(rank, incoming[index(rank)]);
}

SegmentPipeline::Message& SegmentPipeline::new_sum_message(int part, size_t segment) {
  Message& message = sum_message(part, segment);
  resize(message, bytes_of_sum(part, segment));
  return message;
}

template <class Visit>
void SegmentPipeline::for_each_passed(int rank, int ranks, size_t step, Visit&& visit) {
  for (int round = 0; round + 1 < ranks && index(round) + 1 <= step; ++round)
    visit((rank + ranks - round) % ranks, step - 1 - index(round));
}

void SegmentPipeline::pass_sums(Communicator& communicator, size_t step) {
  const int ranks = communicator.size(), rank = communicator.rank();
  const int left = (rank + ranks - 1) % ranks, right = (rank + 1) % ranks;
  std::vector<Communicator::Send> sends;
  std::vector<Communicator::Receive> receives;
  for_each_passed(rank, ranks, step, [&](int part, size_t segment) {
    if (segment < segments(part)) sends.push_back({right, sum_message(part, segment)});
  });
  for_each_passed(left, ranks, step, [&](int part, size_t segment) {
    if (segment < segments(part)) receives.push_back({left, new_sum_message(part, segment)});
  });
  communicator.start(sends, receives);
}

void SegmentPipeline::take_sums(Communicator& communicator, size_t step) {
  const int ranks = communicator.size(), left = (communicator.rank() + ranks - 1) % ranks;
  communicator.finish();
  for_each_passed(left, ranks, step, [&](int part, size_t segment) {
    if (segment < segments(part)) decode_sum(part, segment, sum_message(part, segment));
  });
}

void SegmentPipeline::sum_everywhere(Communicator& communicator) {
  const int ranks = communicator.size(), rank = communicator.rank();
  struct Turn {
    int part;
    size_t segment;
  };
  std::vector<Turn> turns;
  for (int part = 0; part < ranks; ++part)
    for (size_t segment = 0; segment < segments(part); ++segment) turns.push_back({part, segment});
  make_room(codes_, window, ranks);
  size_t started = 0;
  for (size_t finished = 0; finished < turns.size(); ++finished) {
    for (; started < std::min(turns.size(), finished + window); ++started) {
      const auto [part, segment] = turns[started];
      Messages& messages = codes_[started % window];
      for (Message& message : messages) resize(message, bytes_of_codes(part, segment));
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
    const auto [part, segment] = turns[finished];
    add(part, segment, codes_[finished % window]);
    keep_sum(part, segment);
  }
}

}  // namespace nibble
