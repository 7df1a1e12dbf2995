// Tensors on their way into a file: sizes are known beforehand, bytes come piece by piece.
//
// Who encodes weights says what tensors stand for them; who knows a container (safetensors.hpp, gguf.hpp) says where
// each lies. Not for: either of them, or for reading.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "tensor/files.hpp"

namespace nibble {

/// Takes the bytes of one tensor, in order; the pieces may have any length.
using ByteSink = std::function<void(std::span<const std::byte>)>;

struct OutputTensor {
  std::string name;
  std::string dtype;           ///< as the container spells it: "BF16", "F8_E4M3", "U8"; of GGUF "BF16", "Q8_0"
  std::vector<int64_t> shape;  ///< row-major; of GGUF that of the elements, whatever blocks they are stored in
  uint64_t bytes = 0;
};

/// Tensors whose bytes are made in one go, since they are made of the same weights: codes and scales of one matrix, or
/// of all matrices that share a scale.
struct TensorGroup {
  std::vector<OutputTensor> tensors;
  /// Gives each tensor its bytes, through the sink of the same number; their order among each other is free. Called
  /// once, when the file is written.
  std::function<void(std::span<const ByteSink> sinks)> write;

  uint64_t bytes() const;
};

/// Told the bytes that were written and how many there are.
using BytesProgress = std::function<void(uint64_t done, uint64_t of)>;

/// Has the groups make their bytes, in order, and puts each tensor's at its offset: `offsets` has one for each tensor
/// of each group. Throws Error{internal} for a tensor that is given more or fewer bytes than it said.
void write_groups(AtomicFile& file, std::span<const TensorGroup> groups, std::span<const uint64_t> offsets,
                  const BytesProgress& progress = {});

}  // namespace nibble
