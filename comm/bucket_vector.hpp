// A bucket's values as one vector, whose parts lie one behind the other.
#pragma once

#include <span>

#include "comm/bucket_sum.hpp"
#include "comm/packed_parts.hpp"

namespace nibble {

inline Pieces joined(const Parts& parts) {
  Pieces all;
  for (const Pieces& pieces : parts)
    for (const std::span<std::byte> piece : pieces) append(all, piece);
  return all;
}

/// All values in one run, where they lie if they lie so.
inline std::span<float> gathered(const WireWork& work, const Parts& values, const BucketPlace& place) {
  return gathered(work, joined(values), [&](size_t elements) {
    return place.scratch->take(SumScratch::gathered, static_cast<int64_t>(elements));
  });
}
/// The same in the host's memory.
inline std::span<float> gathered(const Parts& values, const BucketPlace& place) {
  return gathered(WireWork(nullptr), values, place);
}

/// The parts of such a vector.
inline Parts parts_of(std::span<float> vector, const BucketPlace& place) {
  Parts parts;
  for (const int64_t count : place.part_elements) {
    parts.push_back({std::as_writable_bytes(vector.first(static_cast<size_t>(count)))});
    vector = vector.subspan(static_cast<size_t>(count));
  }
  return parts;
}

/// The elements of a whole vector that this rank gets of a sum.
template <class T>
std::span<T> result_of(std::span<T> vector, const BucketPlace& place) {
  return vector.subspan(static_cast<size_t>(place.result_begin()), static_cast<size_t>(place.result_elements()));
}

inline std::span<float> take(const BucketPlace& place, SumScratch::Use use) {
  return place.scratch->take(use, place.elements());
}

/// Puts a result where the values were; it may lie there already.
inline void put_result(const WireWork& work, std::span<const float> result, const Parts& values,
                       const BucketPlace& place) {
  if (place.goes == SumGoes::to_all) scattered(work, result, joined(values));
  else scattered(work, result, values[static_cast<size_t>(place.rank)]);
}
/// The same in the host's memory.
inline void put_result(std::span<const float> result, const Parts& values, const BucketPlace& place) {
  put_result(WireWork(nullptr), result, values, place);
}

/// What this rank remembers of the sum: the same on all ranks, or its own part.
inline void add_result_state(StateList& list, std::string name, const Tensor& result, const BucketPlace& place) {
  if (place.goes == SumGoes::to_all) list.add(std::move(name), result);
  else list.add_run(std::move(name), result, 1, place.elements(), place.result_begin());
}

}  // namespace nibble
