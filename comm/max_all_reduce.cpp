#include "comm/max_all_reduce.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "comm/collectives.hpp"
#include "tensor/error.hpp"

namespace nibble {

void max_all_reduce(Communicator& of, std::span<float> magnitudes) {
  Communicator& communicator = of.host();
  const size_t ranks = static_cast<size_t>(communicator.size()), rank = static_cast<size_t>(communicator.rank());
  const auto part = [&](size_t r) {
    const size_t first = magnitudes.size() * r / ranks;
    return magnitudes.subspan(first, magnitudes.size() * (r + 1) / ranks - first);
  };
  const std::span<float> own = part(rank);
  std::vector<float> theirs(own.size() * ranks);
  std::vector<Communicator::Send> sends;
  std::vector<Communicator::Receive> receives;
  Parts parts;
  for (size_t r = 0; r < ranks; ++r) {
    parts.push_back({std::as_writable_bytes(part(r))});
    if (r == rank) continue;
    sends.push_back({static_cast<int>(r), std::as_bytes(part(r))});
    receives.push_back(
        {static_cast<int>(r), std::as_writable_bytes(std::span(theirs).subspan(r * own.size(), own.size()))});
  }
  communicator.transfer(sends, receives);
  for (size_t i = 0; i < theirs.size(); ++i) {
    if (!(theirs[i] >= 0))
      throw Error({.kind = ErrorKind::communication,
                   .what = "a rank sent a magnitude that is none",
                   .where = fmt::format("from rank {}", i / own.size()),
                   .seen = fmt::format("{}", theirs[i]),
                   .allowed = "0 or more"});
    float& largest = own[i % own.size()];
    largest = std::max(largest, theirs[i]);
  }
  all_gather(communicator, parts);
}

}  // namespace nibble
