#include "tensor/staging.hpp"

namespace nibble {

Staged<std::byte> Staging::take_bytes(size_t bytes) {
  const size_t whole = (bytes + alignment - 1) / alignment * alignment;
  if (halves_[current_].used + whole > halves_[current_].device.bytes()) {
    current_ = 1 - current_;
    Half& next = halves_[current_];
    queue_.wait();
    next.used = 0;
    if (whole > next.device.bytes()) {
      const size_t size = std::max(whole, least_half);
      next = {};
      next.host.reset(static_cast<std::byte*>(cuda::allocate_pinned(size)));
      next.device = Buffer(size, "staging", Place::device);
    }
  }
  Half& half = halves_[current_];
  const size_t begin = half.used;
  half.used += whole;
  return {half.host.get() + begin, static_cast<std::byte*>(half.device.data()) + begin};
}

}  // namespace nibble
