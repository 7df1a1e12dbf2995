#include "comm/coded_blocks.hpp"

#include <algorithm>
#include <limits>

#include "comm/bucket_codec.hpp"

namespace nibble {

void CodedBlocks::encode(std::span<const float> values, int64_t first, std::span<std::byte> coded) const {
  const CodeTerms terms = terms_of(first, std::ssize(values));
  const bool has_codes = encodable(values);
  if (has_codes) BucketCodec(codec_, isa_).encode(values, terms.source, codes_in(coded));
  seal_codes(coded, terms, has_codes);
}

void CodedBlocks::decode(std::span<const std::byte> coded, int64_t first, std::span<float> values) const {
  const CodeTerms terms = terms_of(first, std::ssize(values));
  if (open_codes(coded, terms)) BucketCodec(codec_, isa_).decode(codes_in(coded), terms.source, values);
  else std::ranges::fill(values, std::numeric_limits<float>::quiet_NaN());
}

CodeTerms CodedBlocks::terms_of(int64_t first, int64_t length) const {
  return {.codec = codec_, .source = source_.from_bucket(first / codec_.bucket), .length = length};
}

}  // namespace nibble
