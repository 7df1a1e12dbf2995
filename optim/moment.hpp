// Moments: what optimizers remember of gradients from step to step, in f32 or in fewer bits.
//
// bf16 is rounded stochastically, so that changes below half its last bit count on average. 8 bits are codes with an
// f32 scale for each block: Dettmers et al., "8-bit optimizers via block-wise quantization", arXiv 2110.02861, or for
// what is orthogonalised linear ones (arXiv 2509.23106); optim/moment_codes.hpp has them. A step computes with the
// new moment as it is before it is rounded.
// Blocks begin with the tensor and divide those of comm/partition.hpp, and what rounding draws depends on the element
// of the logical tensor alone: no number of ranks or threads changes a bit. Not for: how kernels read and write moments
// (optim/cpu/moment_tile.hpp).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "optim/optimizer.hpp"
#include "tensor/pinned_arena.hpp"
#include "tensor/random.hpp"

namespace nibble {

enum class MomentPrecision { f32, bf16, eight_bit };

/// As settings call them, in the order of MomentPrecision.
inline const std::vector<std::string> moment_precision_names = {"f32", "bf16", "8-bit"};

/// Throws Error{configuration} for another name.
MomentPrecision moment_precision(const std::string& name);

/// What a moment is, which decides on its codes. The values stand in the counters of random numbers: append only.
enum class MomentKind : uint32_t {
  first,            ///< signed dynamic codes, blocks of 256
  second,           ///< unsigned dynamic codes, blocks of 256; what is not zero never becomes zero
  slow,             ///< signed dynamic codes, blocks of 256, rounded stochastically
  momentum,         ///< of SGD: as `first`
  matrix_momentum,  ///< of what is orthogonalised: linear codes, blocks of 64
  last_gradient,    ///< no codes: bf16 instead
};

struct MomentSettings {
  MomentPrecision precision = MomentPrecision::f32;
  uint64_t seed = 0;             ///< of rounding
  bool embedding_codes = false;  ///< 8 bits for embeddings, too
  bool offloaded = false;        ///< in pinned memory of the host, where updates are a device's (offloaded_state.hpp)
  /// What passes through the device together, in elements: 16 MiB of f32, some tenths of a millisecond on a bus.
  int64_t portion = int64_t{1} << 22;
};

/// Tensors with fewer elements keep f32 where others have codes (bitsandbytes' min_8bit_size).
inline constexpr int64_t least_coded_elements = 4096;

/// What a parameter's moments are kept in: f32 instead of 8 bits where it is small, and where it is an embedding, whose
/// rows have gradients of unequal size and mostly none (arXiv 2110.02861, section 2.3), unless told otherwise.
MomentPrecision moment_precision(const MomentSettings& settings, const ParameterInfo& parameter);

/// Elements that share a scale: of dynamic codes, as in bitsandbytes, and of linear ones. arXiv 2509.23106 has blocks
/// of 2048, in which large gradients leave few codes to small ones; Newton-Schulz makes directions of such errors.
inline constexpr int64_t dynamic_code_block = 256, linear_code_block = 64;

/// The most elements of a tile.
inline constexpr int64_t largest_moment_tile = dynamic_code_block;

/// One moment of one parameter, or of a run of its elements.
struct Moment {
  MomentKind kind = MomentKind::first;
  MomentPrecision precision = MomentPrecision::f32;
  const ParameterInfo* info = nullptr;
  bool owned = false;  ///< as OptimizedParameter's, as are `first` and `number`
  int64_t first = 0;
  int number = 0;
  uint64_t seed = 0;
  Tensor values{};  ///< f32, bf16 or codes (u8; linear: i8), packed, in the master's shape
  Tensor scales{};  ///< of codes: f32, [blocks, 1], packed

  /// Elements that are unpacked and packed together: a block where there are codes.
  int64_t tile() const;
  size_t bytes() const { return values.bytes() + scales.bytes(); }
  /// What rounding draws from in one step; element e has 16 bits of block e / 8 (optim/cpu/moment_pack_body.hpp).
  RandomStream random(int64_t step) const {
    return {seed, Purpose::moment_rounding, static_cast<uint32_t>(step), static_cast<uint32_t>(number)};
  }
  /// "optimizer/first_moment/NAME", and of codes "optimizer/first_moment_scale/NAME" [blocks, 1].
  void state(StateList& list) const;
};

/// Of what this rank has of a parameter; zero. From an Arena or a PinnedArena.
template <class Memory>
Moment take_moment(Memory& memory, MomentKind kind, const MomentSettings& settings,
                   const OptimizedParameter& parameter);
/// Of the whole parameter on the rank that `owns` it; empty on others.
template <class Memory>
Moment take_whole_moment(Memory& memory, MomentKind kind, const MomentSettings& settings,
                         const OptimizedParameter& parameter, bool owns);

/// Where moments are kept: with the masters, or in pinned memory of the host.
class MomentMemory {
 public:
  MomentMemory() = default;
  /// `layout` takes them from an Arena or a PinnedArena. `place` of updates.
  template <class Layout>
  MomentMemory(const MomentSettings& settings, Place place, Layout&& layout) {
    if (settings.offloaded && place == Place::device) pinned_ = PinnedArena("pinned optimizer moments", layout);
    else arena_ = Arena("optimizer moments", layout, place);
  }

 private:
  Arena arena_;
  PinnedArena pinned_;
};

/// In f32, over memory that somebody else has taken and declares.
Moment moment_over(const Tensor& values);

/// Elements [first, first + count) of what this rank has of it; `first` a multiple of the largest block of codes.
Moment part_of(const Moment& moment, int64_t first, int64_t count);

}  // namespace nibble
