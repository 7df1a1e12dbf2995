#include "tests/comm/collective_checks.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>

#include "tensor/stream.hpp"

namespace nibble {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

/// Equal bits; which of two NaNs a sum keeps is left to the processor.
bool same(float a, float b) {
  return (std::isnan(a) && std::isnan(b)) || std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b);
}

/// Numbers of all magnitudes, so that the order of a sum shows, and some that are no numbers.
std::vector<float> random_values(int rank, size_t count) {
  std::mt19937 random(static_cast<uint32_t>(1000 + rank));
  std::vector<float> values(count);
  const float special[] = {0.0f, -0.0f, infinity, -infinity, std::nanf(""), 1e-42f, -3e38f, 3e38f};
  for (float& value : values) {
    const uint32_t bits = static_cast<uint32_t>(random());
    value = std::ldexp(static_cast<float>(static_cast<int32_t>(bits)), static_cast<int>(bits % 13) - 40);
    if (random() % 61 == 0) value = special[bits % std::size(special)];
  }
  return values;
}

/// What `rank` contributes to a vector of `count` elements.
std::vector<float> contribution(int rank, size_t count) {
  constexpr int most_ranks = 8;
  constexpr size_t most_elements = 400'000;
  static const std::vector<std::vector<float>> all = [] {
    std::vector<std::vector<float>> made;
    for (int r = 0; r < most_ranks; ++r) made.push_back(random_values(r, most_elements));
    return made;
  }();
  const std::vector<float>& values = all.at(static_cast<size_t>(rank));
  EXPECT_LE(count, values.size());
  return {values.begin(), values.begin() + static_cast<ptrdiff_t>(count)};
}

/// Host values in memory of the communicator's messages, and back.
Buffer placed(Communicator& communicator, std::span<const float> values) {
  if (values.empty()) return {};
  Buffer memory(values.size_bytes(), "test", communicator.stream() ? Place::device : Place::host);
  if (communicator.stream()) communicator.stream()->queue().copy(memory.data(), values.data(), values.size_bytes());
  else std::memcpy(memory.data(), values.data(), values.size_bytes());
  communicator.wait();
  return memory;
}

std::vector<float> fetched(Communicator& communicator, const void* values, size_t count) {
  std::vector<float> host(count);
  if (count == 0) return host;
  if (communicator.stream()) communicator.stream()->queue().copy(host.data(), values, count * sizeof(float));
  else std::memcpy(host.data(), values, count * sizeof(float));
  communicator.wait();
  return host;
}

std::span<std::byte> bytes_in(const Buffer& memory) { return {static_cast<std::byte*>(memory.data()), memory.bytes()}; }

/// Sizes of the pieces of each part: ragged, some of them empty, one part without anything, one longer than a message.
std::vector<std::vector<size_t>> ragged_sizes(int ranks) {
  std::mt19937 random(7);
  std::vector<std::vector<size_t>> sizes(static_cast<size_t>(ranks));
  for (std::vector<size_t>& part : sizes)
    for (int piece = 0; piece < 5; ++piece) part.push_back(random() % 3 == 0 ? 0 : random() % 1500);
  sizes[0].push_back(300'000);
  if (ranks > 1) sizes[1].clear();
  if (ranks > 2) sizes[2] = {0, 1, 0};
  if (ranks > 3) sizes[3] = {30'000};
  return sizes;
}

/// One rank's copy of a vector, its pieces scattered over memory.
class CutVector {
 public:
  CutVector(Communicator& communicator, std::vector<std::vector<size_t>> sizes, std::span<const float> values)
      : communicator_(communicator), sizes_(std::move(sizes)) {
    for (const std::vector<size_t>& part : sizes_)
      for (const size_t size : part) {
        pieces_.push_back(placed(communicator, values.first(size)));
        values = values.subspan(size);
      }
  }

  Parts parts() {
    Parts parts;
    size_t piece = 0;
    for (const std::vector<size_t>& part : sizes_) {
      parts.emplace_back();
      for (size_t i = 0; i < part.size(); ++i) parts.back().push_back(bytes_in(pieces_[piece++]));
    }
    return parts;
  }

  std::vector<float> values() const {
    std::vector<float> all;
    for (const Buffer& memory : pieces_) {
      const std::vector<float> piece = fetched(communicator_, memory.data(), memory.bytes() / sizeof(float));
      all.insert(all.end(), piece.begin(), piece.end());
    }
    return all;
  }

  static size_t elements(const std::vector<size_t>& part) {
    return std::accumulate(part.begin(), part.end(), size_t{0});
  }
  /// Where the part of `rank` begins.
  static size_t begin(const std::vector<std::vector<size_t>>& sizes, size_t rank) {
    size_t first = 0;
    for (size_t r = 0; r < rank; ++r) first += elements(sizes[r]);
    return first;
  }
  static size_t elements(const std::vector<std::vector<size_t>>& sizes) { return begin(sizes, sizes.size()); }

 private:
  Communicator& communicator_;
  std::vector<std::vector<size_t>> sizes_;
  std::vector<Buffer> pieces_;
};

float travelled(float value, Wire wire) { return wire == Wire::bf16 ? static_cast<float>(bf16(value)) : value; }

/// Values [first, last) in the tree of the lanes: an odd number of full binary trees, which are joined in halves.
float tree_sum(const std::vector<float>& values, size_t first, size_t last) {
  if (last - first == 1) return values[first];
  size_t full = 1;
  while ((last - first) % (2 * full) == 0) full *= 2;
  const size_t trees = (last - first) / full, left = trees == 1 ? full / 2 : trees / 2 * full;
  return tree_sum(values, first, first + left) + tree_sum(values, first + left, last);
}

struct Sums {
  std::vector<float> tree;        ///< as promised
  std::vector<float> one_by_one;  ///< in the order of the ranks, which is another tree from three ranks on
};

/// Of elements [first, first + count).
Sums sums_over_ranks(int ranks, size_t first, size_t count, Wire wire) {
  std::vector<std::vector<float>> contributions;
  for (int rank = 0; rank < ranks; ++rank) contributions.push_back(contribution(rank, first + count));
  Sums sums;
  std::vector<float> values(contributions.size());
  for (size_t i = first; i < first + count; ++i) {
    for (size_t r = 0; r < values.size(); ++r) values[r] = travelled(contributions[r][i], wire);
    sums.tree.push_back(tree_sum(values, 0, values.size()));
    sums.one_by_one.push_back(std::accumulate(values.begin() + 1, values.end(), values.front()));
  }
  return sums;
}

int64_t differences(std::span<const float> seen, std::span<const float> expected) {
  EXPECT_EQ(seen.size(), expected.size());
  int64_t wrong = 0;
  for (size_t i = 0; i < seen.size(); ++i) wrong += !same(seen[i], expected[i]);
  return wrong;
}

}  // namespace

void check_broadcast(Communicator& communicator) {
  for (int root = 0; root < communicator.size(); ++root) {
    const std::vector<float> expected = contribution(root, 1000);
    const Buffer memory = placed(communicator, contribution(communicator.rank(), 1000));
    broadcast(communicator, root, bytes_in(memory));
    EXPECT_EQ(differences(fetched(communicator, memory.data(), 1000), expected), 0) << "root " << root;
  }
}

void check_gather_of_numbers(Communicator& communicator) {
  const auto number = [](int rank, int64_t i) { return 1000.0 * rank + static_cast<double>(i) / 3; };
  for (const int64_t most : {1, 5, 40'000}) {
    std::vector<int64_t> counts;
    std::vector<double> mine, expected;
    for (int rank = 0; rank < communicator.size(); ++rank) {
      counts.push_back(rank == 1 ? 0 : most - (most > 1 ? rank % 3 : 0));
      for (int64_t i = 0; i < counts.back(); ++i) {
        expected.push_back(number(rank, i));
        if (rank == communicator.rank()) mine.push_back(number(rank, i));
      }
    }
    std::vector<double> all(expected.size());
    gather_all(communicator, mine, counts, all);
    EXPECT_EQ(all, expected);
  }
}

void check_gather_of_texts(Communicator& communicator) {
  const auto text = [](int rank) {
    return rank == 2 ? std::string() : std::string(static_cast<size_t>(rank * 7), 'a');
  };
  std::vector<std::string> expected;
  for (int rank = 0; rank < communicator.size(); ++rank) expected.push_back(text(rank));
  EXPECT_EQ(gather_all(communicator, text(communicator.rank())), expected);
}

void check_all_gather(Communicator& communicator) {
  const auto rank = static_cast<size_t>(communicator.rank());
  const std::vector<std::vector<size_t>> sizes = ragged_sizes(communicator.size());
  const size_t count = CutVector::elements(sizes);
  std::vector<float> expected;
  for (size_t r = 0; r < sizes.size(); ++r) {
    const std::vector<float> theirs = contribution(static_cast<int>(r), count);
    const auto begin = theirs.begin() + static_cast<ptrdiff_t>(CutVector::begin(sizes, r));
    expected.insert(expected.end(), begin, begin + static_cast<ptrdiff_t>(CutVector::elements(sizes[r])));
  }
  CutVector vector(communicator, sizes, contribution(static_cast<int>(rank), count));
  all_gather(communicator, vector.parts());
  EXPECT_EQ(differences(vector.values(), expected), 0);
}

void check_scatter_to_owners(Communicator& communicator, Wire wire) {
  const auto rank = static_cast<size_t>(communicator.rank());
  const std::vector<std::vector<size_t>> sizes = ragged_sizes(communicator.size());
  const size_t count = CutVector::elements(sizes), begin = CutVector::begin(sizes, rank);
  std::vector<std::vector<float>> expected;
  for (int r = 0; r < communicator.size(); ++r) expected.push_back(contribution(r, count));

  CutVector vector(communicator, sizes, expected[rank]);
  int64_t next = 0, wrong = 0;
  scatter_to_owners(communicator, vector.parts(), wire,
                    [&](int64_t first, int64_t length, std::span<const float* const> contributions) {
                      EXPECT_EQ(first, next);
                      next = first + length;
                      for (size_t r = 0; r < expected.size(); ++r) {
                        const std::vector<float> seen =
                            fetched(communicator, contributions[r], static_cast<size_t>(length));
                        for (int64_t i = 0; i < length; ++i)
                          wrong += !same(seen[static_cast<size_t>(i)],
                                         travelled(expected[r][begin + static_cast<size_t>(first + i)], wire));
                      }
                    });
  EXPECT_EQ(next, static_cast<int64_t>(CutVector::elements(sizes[rank])));
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(differences(vector.values(), expected[rank]), 0) << "the own contribution was changed";
}

void check_reduce_scatter(Communicator& communicator, Wire wire) {
  const auto rank = static_cast<size_t>(communicator.rank());
  const std::vector<std::vector<size_t>> sizes = ragged_sizes(communicator.size());
  const size_t count = CutVector::elements(sizes);
  const size_t begin = CutVector::begin(sizes, rank), length = CutVector::elements(sizes[rank]);
  const std::vector<float> before = contribution(static_cast<int>(rank), count);
  const Sums expected = sums_over_ranks(communicator.size(), begin, length, wire);

  CutVector vector(communicator, sizes, before);
  reduce_scatter(communicator, vector.parts(), wire);
  std::vector<float> after = vector.values();
  const std::span<float> own = std::span(after).subspan(begin, length);
  EXPECT_EQ(differences(own, expected.tree), 0);
  if (communicator.size() > 2 && length > 1000) {
    EXPECT_GT(differences(own, expected.one_by_one), 0) << "the order of the sum does not show";
  }
  std::copy_n(before.begin() + static_cast<ptrdiff_t>(begin), length, own.begin());
  EXPECT_EQ(differences(after, before), 0) << "parts of others were changed";
}

void check_equal_on_all_ranks(Communicator& communicator, Wire wire) {
  const std::vector<std::vector<size_t>> sizes = ragged_sizes(communicator.size());
  CutVector vector(communicator, sizes, contribution(communicator.rank(), CutVector::elements(sizes)));
  reduce_scatter(communicator, vector.parts(), wire);
  all_gather(communicator, vector.parts());
  const std::vector<float> values = vector.values();
  const std::string mine(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
  for (const std::string& theirs : gather_all(communicator, mine)) EXPECT_TRUE(theirs == mine);
}

void check_bytes_sent(Communicator& communicator, Wire wire) {
  const auto rank = static_cast<size_t>(communicator.rank());
  const std::vector<std::vector<size_t>> sizes = ragged_sizes(communicator.size());
  const size_t count = CutVector::elements(sizes), right = (rank + 1) % sizes.size();
  CutVector vector(communicator, sizes, contribution(communicator.rank(), count));

  const uint64_t before = communicator.bytes_sent();
  reduce_scatter(communicator, vector.parts(), wire);
  const uint64_t between = communicator.bytes_sent();
  all_gather(communicator, vector.parts());
  const uint64_t after = communicator.bytes_sent();
  // A contribution to every part of others; every part but the one of the neighbour that it ends with.
  EXPECT_EQ(between - before, (count - CutVector::elements(sizes[rank])) * (wire == Wire::bf16 ? 2 : 4));
  EXPECT_EQ(after - between, (count - CutVector::elements(sizes[right])) * 4);
}

}  // namespace nibble
