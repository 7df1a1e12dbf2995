#include "trainer/state_on_host.hpp"

#include "tensor/convert.hpp"

namespace nibble {

StateOnHost::StateOnHost(const StateList& state) {
  for (StateList::Entry entry : state.entries()) {
    if (entry.tensor.place == Place::device) {
      copies_.push_back(
          {entry.tensor, OwnedTensor(entry.tensor.dtype, entry.tensor.rows, entry.tensor.cols, "state of the device")});
      entry.tensor = copies_.back().here;
    }
    list_.add(std::move(entry));
  }
}

void StateOnHost::fetch(Stream& stream) const {
  for (const auto& [there, here] : copies_) copy(stream, there, here);
  stream.wait();
}

void StateOnHost::put(Stream& stream) const {
  for (const auto& [there, here] : copies_) copy(stream, here, there);
  stream.wait();
}

}  // namespace nibble
