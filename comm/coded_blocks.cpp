#include "comm/coded_blocks.hpp"

#include <algorithm>
#include <limits>

#include "comm/bucket_codec.hpp"
#include "comm/code_error.hpp"

namespace nibble {

void CodedBlocks::encode(std::span<const float> values, int64_t first, std::span<std::byte> coded) const {
  const bool has_codes = encodable(values);
  coded[0] = std::byte{has_codes};
  const std::span<std::byte> codes = coded.subspan(1);
  if (has_codes) BucketCodec(codec_, isa_).encode(values, source_.from_bucket(first / codec_.bucket), codes);
  else std::ranges::fill(codes, std::byte{0});
}

void CodedBlocks::decode(std::span<const std::byte> coded, int64_t first, std::span<float> values) const {
  const CodeSource source = source_.from_bucket(first / codec_.bucket);
  if (coded[0] == std::byte{1}) return BucketCodec(codec_, isa_).decode(coded.subspan(1), source, values);
  if (coded[0] != std::byte{0}) refuse_message(source, fmt::format("status {}", static_cast<int>(coded[0])), "0 or 1");
  std::ranges::fill(values, std::numeric_limits<float>::quiet_NaN());
}

}  // namespace nibble
