// Sums of codes, segment after segment: while the messages of some travel, others are encoded, added and decoded.
//
// A vector is cut into the ranks' parts, a part into segments of whole buckets. Codes go to a part's owner, who adds
// them and sends the sum; or to everybody, who adds them for himself.
// Not for: what messages hold (quantized_allreduce.hpp, correlated_allreduce.hpp).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <memory_resource>
#include <span>
#include <vector>

#include "comm/bucket_sum.hpp"
#include "comm/codec.hpp"
#include "comm/communicator.hpp"

namespace nibble {

/// Values of a segment: messages of one bit are so long that their latency does not count, and so short that TCP takes
/// them without a handshake; what is computed of a segment stays in a core's second-level cache.
inline constexpr int64_t segment_values = int64_t{1} << 18;
/// Whole buckets of a codec, one at least.
inline int64_t values_of_segment(const Codec& codec) {
  return std::max<int64_t>(1, segment_values / codec.bucket) * codec.bucket;
}

class SegmentPipeline {
 public:
  /// `memory`: of messages; null: any.
  explicit SegmentPipeline(std::shared_ptr<std::pmr::memory_resource> memory = nullptr) : memory_(std::move(memory)) {}
  virtual ~SegmentPipeline() = default;

 protected:
  using Message = std::pmr::vector<std::byte>;
  using Messages = std::vector<Message>;  ///< by rank

  /// So that the messages of such sums have memory before the first: of so many segments a part at most, and bytes a
  /// message.
  void reserve_at_owners(int ranks, SumGoes goes, size_t segments, size_t bytes);
  void reserve_everywhere(int ranks, size_t bytes);

  /// Ranks call these with the same parts. Every segment of every part is encoded before it is added.
  void sum_at_owners(Communicator& communicator, SumGoes goes);
  void sum_everywhere(Communicator& communicator);

  virtual size_t segments(int part) const = 0;
  virtual size_t bytes_of_codes(int part, size_t segment) const = 0;
  virtual size_t bytes_of_sum(int part, size_t segment) const = 0;
  /// This rank's codes. Messages have their size already.
  virtual void encode(int part, size_t segment, std::span<std::byte> message) = 0;
  /// The sum of all ranks' codes; what becomes of it says the next call of one of the three below.
  virtual void add(int part, size_t segment, const Messages& messages) = 0;
  virtual void keep_sum(int part, size_t segment) = 0;
  virtual void encode_sum(int part, size_t segment, std::span<std::byte> message) = 0;
  /// An owner's message, the own one too.
  virtual void decode_sum(int part, size_t segment, std::span<const std::byte> message) = 0;
  /// Returns when nothing that add or decode_sum began reads this message any more.
  virtual void release(std::span<const std::byte> /*message*/) {}

 private:
  /// Memory of earlier sums stays.
  void make_room(std::vector<Messages>& messages, size_t at_once, int ranks) const;
  void reserve(std::vector<Messages>& messages, size_t at_once, int ranks, size_t bytes) const;
  /// For a message that will be written.
  void resize(Message& message, size_t bytes);
  void start_codes(Communicator& communicator, size_t segment);
  /// visit(part, segment) for each sum that `rank` passes to the right in a step, segments that there are not, too.
  template <class Visit>
  void for_each_passed(int rank, int ranks, size_t step, Visit&& visit);
  void pass_sums(Communicator& communicator, size_t step);
  void take_sums(Communicator& communicator, size_t step);
  Message& sum_message(int part, size_t segment) { return sums_[segment % sums_.size()][static_cast<size_t>(part)]; }
  /// To be written.
  Message& new_sum_message(int part, size_t segment);

  std::shared_ptr<std::pmr::memory_resource> memory_;
  std::vector<Messages> codes_, outgoing_, sums_;  ///< of segments that are under way, in turns
};

}  // namespace nibble
