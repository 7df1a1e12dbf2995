#include "optim/name_patterns.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

#include "tensor/error.hpp"

namespace nibble {
namespace {

std::string nearest_names(const std::string& pattern, const std::vector<ParameterInfo>& parameters) {
  std::vector<std::pair<int, size_t>> ranking;
  for (size_t i = 0; i < parameters.size(); ++i) ranking.emplace_back(pattern_distance(pattern, parameters[i].name), i);
  std::sort(ranking.begin(), ranking.end());
  std::string names;
  for (size_t i = 0; i < std::min<size_t>(3, ranking.size()); ++i)
    names += (i == 0 ? "" : ", ") + parameters[ranking[i].second].name;
  return names;
}

}  // namespace

int pattern_distance(std::string_view pattern, std::string_view name) {
  // Levenshtein's table, one row at a time: row[j] = the distance from the pattern so far to the first j characters.
  std::vector<int> row(name.size() + 1);
  std::iota(row.begin(), row.end(), 0);
  for (const char expected : pattern) {
    const bool any = expected == '*';
    int diagonal = row[0];
    if (!any) ++row[0];
    for (size_t j = 1; j <= name.size(); ++j) {
      const int above = row[j];
      row[j] = any ? std::min(above, row[j - 1])
                   : std::min({above + 1, row[j - 1] + 1, diagonal + (expected == name[j - 1] ? 0 : 1)});
      diagonal = above;
    }
  }
  return row.back();
}

std::vector<size_t> matching(const std::string& pattern, const std::vector<ParameterInfo>& parameters,
                             const std::string& where) {
  std::vector<size_t> found;
  for (size_t i = 0; i < parameters.size(); ++i)
    if (matches(pattern, parameters[i].name)) found.push_back(i);
  if (found.empty())
    throw Error({.kind = ErrorKind::configuration,
                 .what = "a pattern matches no parameter of this model",
                 .where = where,
                 .seen = pattern,
                 .allowed = "names of parameters, * for any characters",
                 .next = "nearest names: " + nearest_names(pattern, parameters)});
  return found;
}

}  // namespace nibble
