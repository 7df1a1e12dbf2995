#include "comm/sparse_wire.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cstring>
#include <vector>

#include "comm/bit_stream.hpp"
#include "comm/message_header.hpp"
#include "tensor/dtype.hpp"

namespace nibble {
namespace {

constexpr int index_bits = 9, count_bits = 10;
static_assert(bucket_elements == 1 << index_bits && bucket_elements < 1 << count_bits);

int64_t elements_of_bucket(int64_t length, int64_t bucket) {
  return std::min(bucket_elements, length - bucket * bucket_elements);
}

std::vector<int> entries_by_bucket(const SparseStream& stream) {
  std::vector<int> counts(static_cast<size_t>(buckets_of(stream.length())));
  for (const SparseEntry& entry : stream.entries()) ++counts[entry.index >> index_bits];
  return counts;
}

/// The number that all buckets have, with the exception that entries_of_buckets makes; 0: they have none in common.
int common_count(const SparseStream& stream) {
  const std::vector<int> counts = entries_by_bucket(stream);
  const int most = counts.empty() ? 0 : *std::max_element(counts.begin(), counts.end());
  for (size_t bucket = 0; bucket < counts.size(); ++bucket)
    if (counts[bucket] != std::min<int64_t>(most, elements_of_bucket(stream.length(), static_cast<int64_t>(bucket))))
      return 0;
  return most;
}

void write_values(std::span<const SparseEntry> entries, Wire wire, std::byte* to) {
  for (size_t i = 0; i < entries.size(); ++i) {
    if (wire == Wire::f32) {
      std::memcpy(to + 4 * i, &entries[i].value, 4);
    } else {
      const auto half = bf16(entries[i].value);
      std::memcpy(to + 2 * i, &half, 2);
    }
  }
}

/// One value that was written as element i.
float read_value(const std::byte* from, Wire wire, size_t i) {
  if (wire == Wire::f32) {
    float value;
    std::memcpy(&value, from + 4 * i, 4);
    return value;
  }
  bf16 half;
  std::memcpy(static_cast<void*>(&half), from + 2 * i, 2);
  return static_cast<float>(half);
}

void write_packed_indices(const SparseStream& stream, int per_bucket, std::span<std::byte> bytes) {
  if (per_bucket == 0) {
    BitWriter counts(bytes);
    for (const int count : entries_by_bucket(stream)) counts.put(static_cast<uint32_t>(count), count_bits);
    counts.finish();
    bytes = bytes.subspan(bytes_of_bits(count_bits * buckets_of(stream.length())));
  }
  BitWriter indices(bytes);
  for (const SparseEntry& entry : stream.entries()) indices.put(entry.index % bucket_elements, index_bits);
  indices.finish();
}

/// Reads one stream out of bytes of which only the number is known to be right.
class StreamReader {
 public:
  StreamReader(std::span<const std::byte> bytes, const SparseForm& form, int64_t length, int64_t count,
               const std::string& where)
      : form_(form), length_(length), count_(count), where_(where) {
    check_counts(form, length, count, where);
    const size_t expected = wire_bytes(form, length, count);
    if (bytes.size() != expected)
      refuse("the bytes of a stream are not as many as its entries need", fmt::format("{} bytes", bytes.size()),
             fmt::format("{} bytes", expected));
    const size_t values = static_cast<size_t>(count) * (form.values == Wire::bf16 ? 2 : 4);
    indices_ = bytes.first(bytes.size() - values);
    values_ = bytes.data() + indices_.size();
  }

  SparseStream read() const {
    if (form_.layout == SparseLayout::dense) return read_dense();
    return SparseStream::checked(length_, form_.layout == SparseLayout::plain ? read_plain() : read_packed(), where_);
  }

 private:
  SparseStream read_dense() const {
    std::vector<float> values(static_cast<size_t>(length_));
    for (size_t i = 0; i < values.size(); ++i) values[i] = read_value(values_, form_.values, i);
    return SparseStream(std::move(values));
  }

  std::vector<SparseEntry> read_plain() const {
    std::vector<SparseEntry> entries(static_cast<size_t>(count_));
    for (size_t i = 0; i < entries.size(); ++i) {
      std::memcpy(&entries[i].index, indices_.data() + 4 * i, 4);
      entries[i].value = read_value(values_, form_.values, i);
    }
    return entries;
  }

  std::vector<SparseEntry> read_packed() const {
    const int64_t buckets = buckets_of(length_);
    const size_t counts_bytes = form_.per_bucket > 0 ? 0 : bytes_of_bits(count_bits * buckets);
    BitReader counts(indices_.first(counts_bytes)), indices(indices_.subspan(counts_bytes));
    std::vector<SparseEntry> entries(static_cast<size_t>(count_));
    int64_t next = 0;
    for (int64_t bucket = 0; bucket < buckets; ++bucket) {
      const int64_t elements = elements_of_bucket(length_, bucket);
      const int64_t here =
          form_.per_bucket > 0 ? std::min<int64_t>(form_.per_bucket, elements) : int64_t{counts.get(count_bits)};
      if (here > elements || here > count_ - next)
        refuse("a bucket of a stream has too many entries", fmt::format("bucket {} has {} entries", bucket, here),
               fmt::format("{}", std::min(elements, count_ - next)));
      for (const int64_t end = next + here; next < end; ++next)
        entries[static_cast<size_t>(next)] = {static_cast<uint32_t>(bucket * bucket_elements) + indices.get(index_bits),
                                              read_value(values_, form_.values, static_cast<size_t>(next))};
    }
    if (next != count_)
      refuse("the buckets of a stream have too few entries", fmt::format("{} entries", next),
             fmt::format("{}", count_));
    if (!counts.padding_is_zero() || !indices.padding_is_zero())
      refuse("the bits behind the packed indices of a stream are not zero", "a bit that is set");
    return entries;
  }

  [[noreturn]] void refuse(const char* what, std::string seen, std::string allowed = {}) const {
    refuse_message(what, where_, std::move(seen), std::move(allowed));
  }

  SparseForm form_;
  int64_t length_, count_;
  const std::string& where_;
  std::span<const std::byte> indices_;
  const std::byte* values_ = nullptr;
};

}  // namespace

void check_counts(const SparseForm& form, int64_t length, int64_t count, const std::string& where) {
  const auto fits = [&] {
    if (length < 0 || length > int64_t{1} << 32 || count < 0 || count > length) return false;
    if (form.layout == SparseLayout::dense && count != length) return false;
    if (form.per_bucket == 0) return true;
    return form.layout == SparseLayout::packed && form.per_bucket > 0 && form.per_bucket <= bucket_elements &&
           count == entries_of_buckets(length, form.per_bucket);
  };
  if (!fits())
    refuse_message("a stream cannot have so many entries", where,
                   fmt::format("{} entries, {} in each bucket, of {} elements", count, form.per_bucket, length));
}

SparseForm shortest_form(const SparseStream& stream, Wire values) {
  if (stream.dense()) return {.layout = SparseLayout::dense, .values = values};
  const SparseForm plain{.layout = SparseLayout::plain, .values = values};
  const SparseForm packed{.layout = SparseLayout::packed, .values = values, .per_bucket = common_count(stream)};
  const auto bytes = [&](const SparseForm& form) { return wire_bytes(form, stream.length(), stream.count()); };
  return bytes(packed) < bytes(plain) ? packed : plain;
}

void encode(const SparseStream& stream, const SparseForm& form, std::span<std::byte> bytes) {
  assert(bytes.size() == wire_bytes(form, stream.length(), stream.count()));
  assert(stream.dense() == (form.layout == SparseLayout::dense));
  const size_t values = static_cast<size_t>(stream.count()) * (form.values == Wire::bf16 ? 2 : 4);
  std::byte* const to = bytes.data() + (bytes.size() - values);
  if (stream.dense()) {
    const std::span<const float> all = stream.values();
    if (form.values == Wire::f32 && !all.empty()) std::memcpy(to, all.data(), all.size_bytes());
    if (form.values == Wire::f32) return;
    for (size_t i = 0; i < all.size(); ++i) {
      const auto half = bf16(all[i]);
      std::memcpy(to + 2 * i, &half, 2);
    }
    return;
  }
  if (form.layout == SparseLayout::packed)
    write_packed_indices(stream, form.per_bucket, bytes.first(bytes.size() - values));
  else
    for (size_t i = 0; i < stream.entries().size(); ++i)
      std::memcpy(bytes.data() + 4 * i, &stream.entries()[i].index, 4);
  write_values(stream.entries(), form.values, to);
}

SparseStream decode(std::span<const std::byte> bytes, const SparseForm& form, int64_t length, int64_t count,
                    const std::string& where) {
  return StreamReader(bytes, form, length, count, where).read();
}

}  // namespace nibble
