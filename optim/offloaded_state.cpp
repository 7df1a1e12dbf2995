#include "optim/offloaded_state.hpp"

#include <algorithm>
#include <cassert>
#include <utility>

#include "tensor/imagined_device.hpp"

namespace nibble {
namespace {

OptimizedParameter part_of(const OptimizedParameter& whole, int64_t first, int64_t count) {
  OptimizedParameter part = whole;
  if (whole.master) part.master = whole.master.run(first, count);
  if (whole.gradient) part.gradient = whole.gradient.run(first, count);
  part.first += first;
  part.working_first += first;
  return part;
}

OffloadedState::Piece part_of(const OffloadedState::Piece& whole, int64_t first, int64_t count) {
  OffloadedState::Piece part{.parameter = part_of(whole.parameter, first, count), .first = first};
  for (const Moment& moment : whole.moments) part.moments.push_back(part_of(moment, first, count));
  return part;
}

/// use(tensor, begins): of what passes, all masters, then all moments, so that what is one piece of memory on the host
/// is one on the device; either begin one.
template <class Use>
void for_each_on_host(std::vector<OffloadedState::Piece>& pieces, Use&& use) {
  bool begins = true;
  const auto use_if_there = [&](Tensor& tensor) {
    if (tensor.place == Place::host && tensor.size() > 0) use(tensor, std::exchange(begins, false));
  };
  for (OffloadedState::Piece& piece : pieces) use_if_there(piece.parameter.master);
  begins = true;
  for (OffloadedState::Piece& piece : pieces)
    for (Moment& moment : piece.moments) {
      use_if_there(moment.values);
      use_if_there(moment.scales);
    }
}

size_t aligned_bytes(const Tensor& tensor) { return (tensor.bytes() + alignment - 1) / alignment * alignment; }

}  // namespace

OffloadedState::OffloadedState(const std::vector<Piece>& whole, std::span<const size_t> order, int64_t most_elements)
    : begin_(whole.size()), end_(whole.size()), in_(new_queue()), out_(new_queue()) {
  assert(most_elements % block_elements == 0);
  int64_t room = 0;
  for (size_t i = 0; i < whole.size(); ++i) {
    const size_t index = order.empty() ? i : order[i];
    if (!order.empty()) room = 0;
    begin_[index] = portions_.size();
    cut(whole[index], most_elements, room);
    end_[index] = portions_.size();
  }
  size_t bytes[2] = {};
  for (size_t k = 0; k < portions_.size(); ++k) {
    size_t own = 0;
    for_each_on_host(portions_[k].pieces, [&](const Tensor& tensor, bool) { own += aligned_bytes(tensor); });
    bytes[k % 2] = std::max(bytes[k % 2], own);
  }
  Tensor buffers[2];
  memory_ = Arena(
      "portions of offloaded state",
      [&](Arena& arena) {
        for (size_t i = 0; i < 2; ++i) buffers[i] = arena.take(DType::u8, 1, static_cast<int64_t>(bytes[i]));
      },
      Place::device);
  for (size_t k = 0; k < portions_.size(); ++k) lay_out(portions_[k], static_cast<std::byte*>(buffers[k % 2].data));
}

void OffloadedState::cut(const Piece& whole, int64_t most_elements, int64_t& room) {
  for (int64_t first = 0, size = whole.size(); first < size;) {
    if (room < std::min(block_elements, size - first)) {
      portions_.emplace_back();
      room = most_elements;
    }
    const int64_t blocks = room / block_elements * block_elements;
    const int64_t count = size - first <= room ? size - first : blocks;
    portions_.back().pieces.push_back(part_of(whole, first, count));
    first += count;
    room -= count;
  }
}

void OffloadedState::lay_out(Portion& portion, std::byte* buffer) {
  for_each_on_host(portion.pieces, [&](Tensor& tensor, bool begins) {
    auto* const host = static_cast<std::byte*>(tensor.data);
    std::vector<Stretch>& stretches = portion.stretches;
    const bool goes_on = !begins && host - stretches.back().host == buffer - stretches.back().device;
    if (goes_on) stretches.back().bytes = static_cast<size_t>(host - stretches.back().host) + tensor.bytes();
    else stretches.push_back({host, buffer, tensor.bytes()});
    tensor = Tensor(tensor.dtype, buffer, tensor.rows, tensor.cols, tensor.cols, Place::device);
    buffer += aligned_bytes(tensor);
  });
}

void OffloadedState::bring(size_t portion) {
  in_->after(*out_);  // of the portion that was in its buffer, and of this one in the step before
  for (const auto& [host, device, bytes] : portions_[portion].stretches) in_->copy(device, host, bytes);
  brought_ = portion + 1;
}

void OffloadedState::pass(Stream& stream, size_t begin, size_t end, const Update& update) {
  for (size_t k = begin; k < end; ++k) {
    if (brought_ != k + 1) {
      in_->after(stream.queue());  // somebody else may have passed the same masters
      bring(k);
    }
    stream.queue().after(*in_);
    if (k + 1 < portions_.size()) bring(k + 1);
    update(portions_[k].pieces);
    out_->after(stream.queue());
    for (const auto& [host, device, bytes] : portions_[k].stretches) out_->copy(host, device, bytes);
  }
  if (end == portions_.size()) brought_ = 0;
  stream.queue().after(*out_);
}

void OffloadedState::pass(Stream& stream, size_t index, const std::function<void(const Piece&)>& update) {
  pass(stream, begin_[index], end_[index], [&](std::span<const Piece> pieces) {
    for (const Piece& piece : pieces) update(piece);
  });
}

static std::optional<OffloadedState> of_pieces(Place updates, const std::vector<OffloadedState::Piece>& whole,
                                               int64_t most_elements, std::span<const size_t> order) {
  const auto passes = [](const OffloadedState::Piece& piece) {
    const auto on_host = [](const Moment& moment) { return moment.values.place == Place::host; };
    return (piece.parameter.info && piece.parameter.master.place == Place::host) ||
           std::ranges::any_of(piece.moments, on_host);
  };
  if (updates == Place::host || std::ranges::none_of(whole, passes)) return std::nullopt;
  return std::make_optional<OffloadedState>(whole, order, most_elements);
}

std::optional<OffloadedState> offloaded_state(std::span<const OptimizedParameter> parameters,
                                              std::span<const std::vector<Moment>> moments, int64_t most_elements,
                                              std::span<const size_t> order) {
  std::vector<OffloadedState::Piece> whole;
  for (size_t i = 0; i < parameters.size(); ++i)
    whole.push_back({.parameter = parameters[i], .moments = moments.empty() ? std::vector<Moment>() : moments[i]});
  return of_pieces(masters_place(parameters), whole, most_elements, order);
}

std::optional<OffloadedState> offloaded_moments(Place updates, std::span<const Moment> moments, int64_t most_elements,
                                                std::span<const size_t> order) {
  std::vector<OffloadedState::Piece> whole;
  for (const Moment& moment : moments) whole.push_back({.moments = {moment}});
  return of_pieces(updates, whole, most_elements, order);
}

void for_each_piece(std::optional<OffloadedState>& offloaded, Stream& stream, size_t index,
                    const OffloadedState::Piece& all, const std::function<void(const OffloadedState::Piece&)>& update) {
  if (offloaded) offloaded->pass(stream, index, update);
  else update(all);
}

std::vector<OptimizedParameter> parameters_of(std::span<const OffloadedState::Piece> pieces) {
  std::vector<OptimizedParameter> parameters;
  for (const OffloadedState::Piece& piece : pieces) parameters.push_back(piece.parameter);
  return parameters;
}

}  // namespace nibble
