// The state of a run in host memory, where files are written from and read to.
#pragma once

#include <vector>

#include "tensor/state.hpp"
#include "tensor/stream.hpp"
#include "tensor/tensor.hpp"

namespace nibble {

/// What of a state lies on a device has a copy here; what lies on the host is the owners' memory itself.
class StateOnHost {
 public:
  /// Takes memory for the copies (in the ledger: "state of the device").
  explicit StateOnHost(const StateList& state);

  const StateList& list() const { return list_; }
  /// The copies become what the device has.
  void fetch(Stream& stream) const;
  /// What the device has becomes the copies.
  void put(Stream& stream) const;

 private:
  struct Copy {
    Tensor there;
    OwnedTensor here;
  };

  std::vector<Copy> copies_;
  StateList list_;
};

}  // namespace nibble
