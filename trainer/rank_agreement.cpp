#include "trainer/rank_agreement.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <sstream>
#include <utility>

#include "comm/collectives.hpp"

namespace nibble {
namespace {

std::pair<std::string, std::string> first_difference(const std::string& one, const std::string& other) {
  std::istringstream left(one), right(other);
  std::string a, b;
  do {
    a.clear(), b.clear();
    std::getline(left, a);
    std::getline(right, b);
  } while (a == b && left && right);
  return {a, b};
}

}  // namespace

std::vector<std::string> gather_all(World& world, const std::string& mine) {
  std::vector<std::string> all;
  world.thread().run([&](Communicator& ranks) { all = gather_all(ranks, mine); });
  return all;
}

void require_same(World& world, ErrorKind kind, const std::string& what, const std::string& text,
                  const std::string& next) {
  const std::vector<std::string> texts = gather_all(world, text);
  const auto most_common =
      std::ranges::max(texts, {}, [&](const std::string& one) { return std::ranges::count(texts, one); });
  for (size_t rank = 0; rank < texts.size(); ++rank) {
    if (texts[rank] == most_common) continue;
    const auto [seen, allowed] = first_difference(texts[rank], most_common);
    throw Error({.kind = kind,
                 .what = what,
                 .where = fmt::format("rank {} on {}", rank, world.hosts()[rank]),
                 .seen = seen,
                 .allowed = allowed + ", as on other ranks",
                 .next = next});
  }
}

std::vector<double> largest_of_all(World& world, const std::vector<double>& mine) {
  const auto ranks = static_cast<size_t>(world.size());
  const std::vector<int64_t> counts(ranks, std::ssize(mine));
  std::vector<double> all(ranks * mine.size()), largest(mine);
  world.thread().run([&](Communicator& communicator) { gather_all(communicator, mine, counts, all); });
  for (size_t i = 0; i < all.size(); ++i) largest[i % mine.size()] = std::max(largest[i % mine.size()], all[i]);
  return largest;
}

}  // namespace nibble
