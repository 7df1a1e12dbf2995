#include <xxhash.h>

#include <cstring>
#include <stdexcept>
#include <string>

#include "comm/bucket_codec.hpp"
#include "comm/code_message.hpp"
#include "comm/correlated_codec.hpp"
#include "comm/lattice_codec.hpp"
#include "comm/sparse_message.hpp"
#include "tests/fuzz/readers.hpp"

namespace nibble::fuzz {
namespace {

/// Those of the corpus.
constexpr MessageTerms terms{.source = 1, .ranks = 4, .label = 7, .length = 2000};
constexpr size_t payload_hash_at = 48, header_hash_at = 56;

/// A header and what follows it, as a rank takes them.
void use(std::span<const std::byte> message) {
  const size_t header = std::min(message.size(), message_header_bytes);
  const StreamPromise promise = read_header(message.first(header), terms, "fuzz");
  const SparseStream stream = read_payload(message.subspan(header), promise, terms, "fuzz");
  std::vector<float> values(terms.length);
  stream.write(values);
  // What was taken is written and taken again: values of bf16 are values of f32.
  const StreamMessage again = write_message(stream, Wire::f32, terms);
  std::vector<float> values_again(terms.length);
  read_payload(again.payload, read_header(again.header, terms, "fuzz"), terms, "fuzz").write(values_again);
  if (std::memcmp(values.data(), values_again.data(), values.size() * sizeof(float)) != 0)
    throw std::logic_error("a stream does not read back");
}

/// The same with both checksums as they must be.
std::vector<uint8_t> with_right_hashes(Bytes bytes) {
  std::vector<uint8_t> message(bytes.begin(), bytes.end());
  if (message.size() < message_header_bytes) return message;
  const auto put_hash = [&](size_t at, const uint8_t* from, size_t count) {
    const uint64_t hash = XXH3_64bits(from, count);
    std::memcpy(message.data() + at, &hash, sizeof hash);
  };
  put_hash(payload_hash_at, message.data() + message_header_bytes, message.size() - message_header_bytes);
  put_hash(header_hash_at, message.data(), header_hash_at);
  return message;
}

}  // namespace

// Codes without their header: what can be told from them is refused, and everything else is some values.
void read_code_message(Bytes bytes) {
  constexpr int64_t count = 300;
  constexpr int ranks = 3;
  if (bytes.empty()) bytes = Bytes(reinterpret_cast<const uint8_t*>(""), 1);
  const Codec& row = codecs()[bytes[0] % codecs().size()];
  const Codec codec = codec_named(row.name, 256, "fuzz");
  const std::span<const std::byte> message = std::as_bytes(bytes.subspan(1));
  std::vector<float> values(count);
  if (codec.rounding == Codec::Rounding::correlated) {
    CorrelatedCodec counter(codec, ranks);
    std::vector<uint16_t> counts(static_cast<size_t>(codec.padded(count)));
    const std::vector<float> ranges(static_cast<size_t>(codec.buckets_of(count)), 1.0f);
    counter.count(message, {.rank = 1}, counts);
    counter.decode(counts, ranges, {}, values);
  } else if (codec.rounding == Codec::Rounding::dithered) {
    (void)LatticeCodec(codec).decode(message, std::vector<float>(count, 0.5f), {.rank = 1}, values);
  } else {
    BucketCodec(codec).decode(message, {.rank = 1}, values);
  }
}

void read_stream_message(Bytes bytes) { use(std::as_bytes(bytes)); }

void read_stream_fields(Bytes bytes) {
  const std::vector<uint8_t> message = with_right_hashes(bytes);
  use(std::as_bytes(std::span(message)));
}

void read_code_fields(Bytes bytes) {
  constexpr int64_t count = 300;
  const Codec codec = codec_named("maxmin-4", 256, "fuzz");
  const CodeTerms terms_of_codes{
      .codec = codec, .source = {.step = 7, .first_bucket = 3, .rank = 1}, .ranks = 4, .length = count};
  const std::vector<uint8_t> whole = with_right_hashes(bytes);
  const std::span<const std::byte> message = std::as_bytes(std::span(whole));
  std::vector<float> values(count);
  if (open_codes(message, terms_of_codes)) BucketCodec(codec).decode(codes_in(message), terms_of_codes.source, values);
}

}  // namespace nibble::fuzz
