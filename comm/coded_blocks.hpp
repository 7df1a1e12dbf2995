// The dense stage of a sparse sum in a codec's codes: what an owner sends of its part.
//
// Values that have no codes become NaN, on all ranks.
#pragma once

#include "comm/code_message.hpp"
#include "comm/code_source.hpp"
#include "comm/codec.hpp"
#include "comm/dense_codec.hpp"
#include "tensor/stream.hpp"

namespace nibble {

class CodedBlocks final : public DenseCodec {
 public:
  /// `source`: of the vector's first bucket; all owners share its rank. `codec` must outlive the object.
  CodedBlocks(const Codec& codec, const CodeSource& source, Isa isa) : codec_(codec), source_(source), isa_(isa) {}

  int64_t block_elements() const override { return codec_.bucket; }
  size_t bytes(int64_t count) const override { return code_message_bytes(codec_.bytes_of(count)); }
  void encode(std::span<const float> values, int64_t first, std::span<std::byte> coded) const override;
  void decode(std::span<const std::byte> coded, int64_t first, std::span<float> values) const override;

 private:
  CodeTerms terms_of(int64_t first, int64_t length) const;

  const Codec& codec_;
  CodeSource source_;
  Isa isa_;
};

}  // namespace nibble
