// State of an optimizer that lies in pinned memory of the host and passes through a device, portion by portion: while
// one is updated in one of two buffers there, the next one comes into the other.
//
// Portions come and go on queues of their own, one each way, which a bus that carries both at a time serves together.
// They are cut where blocks of comm/partition.hpp begin, and an update is told of a part of a parameter as of a rank's
// run of it, so that not a bit differs from an update of the whole on the device. Offloading of this kind: Ren et al.,
// "ZeRO-Offload", arXiv 2101.06840, which updates on the processor instead. Not for: what is updated how (adamw.hpp).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "optim/moment.hpp"

namespace nibble {

class OffloadedState {
 public:
  /// A parameter, or a part of it, and moments of as many elements.
  struct Piece {
    OptimizedParameter parameter{};  ///< of nothing where moments pass alone
    std::vector<Moment> moments{};
    int64_t first = 0;  ///< of a part: with which of the whole one's elements it begins

    int64_t size() const { return moments.empty() ? parameter.master.size() : moments.front().values.size(); }
  };

  /// What of these lies on the host passes, in portions of so many elements at most, a multiple of block_elements;
  /// takes the device's memory for two of them. With an `order` they pass one by one and share no portion; without,
  /// they pass together.
  OffloadedState(const std::vector<Piece>& whole, std::span<const size_t> order, int64_t most_elements);

  using Update = std::function<void(std::span<const Piece>)>;
  /// Queues update(pieces), where all lies on the device, for each portion of all, and what brings it there and back.
  /// What is behind it on the stream finds the host's memory as it was updated.
  void pass(Stream& stream, const Update& update) { pass(stream, 0, portions_.size(), update); }
  /// The same for the portions of whole[index]. The next one in the order comes meanwhile, so each has its turn.
  void pass(Stream& stream, size_t index, const std::function<void(const Piece&)>& update);

 private:
  /// Neighbouring bytes, on both sides.
  struct Stretch {
    std::byte *host, *device;
    size_t bytes;
  };
  struct Portion {
    std::vector<Piece> pieces{};
    std::vector<Stretch> stretches{};  ///< what comes and goes
  };

  /// Adds to the last portion, which has `room` for so many elements, and then to new ones.
  void cut(const Piece& whole, int64_t most_elements, int64_t& room);
  /// What of its pieces lies on the host comes to lie in the buffer.
  static void lay_out(Portion& portion, std::byte* buffer);
  void bring(size_t portion);
  void pass(Stream& stream, size_t begin, size_t end, const Update& update);

  std::vector<size_t> begin_, end_;  ///< by index: its portions
  std::vector<Portion> portions_;
  Arena memory_;
  std::unique_ptr<cuda::Queue> in_, out_;
  size_t brought_ = 0;  ///< the portion before this one has come
};

/// Of what lies on the host while updates are a device's; none where nothing does. moments[i] of parameters[i], if
/// there are any.
std::optional<OffloadedState> offloaded_state(std::span<const OptimizedParameter> parameters,
                                              std::span<const std::vector<Moment>> moments, int64_t most_elements,
                                              std::span<const size_t> order = {});
/// Of moments alone, which are updated there.
std::optional<OffloadedState> offloaded_moments(Place updates, std::span<const Moment> moments, int64_t most_elements,
                                                std::span<const size_t> order);

/// update(piece) for each part of whole[index] that passes, or for `all` of it where nothing does.
void for_each_piece(std::optional<OffloadedState>& offloaded, Stream& stream, size_t index,
                    const OffloadedState::Piece& all, const std::function<void(const OffloadedState::Piece&)>& update);

std::vector<OptimizedParameter> parameters_of(std::span<const OffloadedState::Piece> pieces);

}  // namespace nibble
