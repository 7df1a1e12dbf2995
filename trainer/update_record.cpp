#include "trainer/update_record.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "comm/collectives.hpp"

namespace nibble {

UpdateRecord::UpdateRecord(const ParameterLayout& layout, const ShardPlan& plan, std::vector<UpdateGroup> groups,
                           int64_t every)
    : layout_(layout),
      plan_(plan),
      groups_(std::move(groups)),
      every_(every),
      meter_(every > 0 ? layout.parameters() : std::vector<ParameterInfo>()) {}

void UpdateRecord::start(int64_t step) {
  if (every_ > 0 && (step + 1) % every_ == 0) meter_.start();
}

void UpdateRecord::gather(CommunicationThread& thread) {
  const std::span<double> squares = meter_.squares(), errors = meter_.orthogonality_errors();
  std::vector<std::vector<int64_t>> blocks;
  std::vector<int64_t> counts;
  int64_t total = 0;
  for (int rank = 0; rank < plan_.ranks(); ++rank) {
    blocks.push_back(plan_.partition().blocks_of(rank));
    total += counts.emplace_back(std::ssize(blocks.back()) + std::ssize(errors));
  }
  std::vector<double> mine(errors.begin(), errors.end()), all(static_cast<size_t>(total));
  for (const int64_t block : blocks[static_cast<size_t>(plan_.rank())])
    mine.push_back(squares[static_cast<size_t>(block)]);
  thread.run([&](Communicator& ranks) { gather_all(ranks, mine, counts, all); });
  auto next = all.begin();
  for (const std::vector<int64_t>& of_rank : blocks) {
    for (double& error : errors) error = std::max(error, *next++);
    for (const int64_t block : of_rank) squares[static_cast<size_t>(block)] = *next++;
  }
}

std::vector<UpdateFigures> UpdateRecord::finish(CommunicationThread& thread, double learning_rate) {
  if (!meter_.on()) return {};
  meter_.stop();
  gather(thread);
  std::vector<UpdateFigures> figures;
  for (const UpdateGroup& group : groups_) {
    double squares = 0, error = -1;
    int64_t elements = 0;
    for (const int parameter : group.parameters) {
      const int64_t size = layout_.parameters()[static_cast<size_t>(parameter)].size();
      for (int64_t first = 0; first < size; first += block_elements) squares += meter_.squares(parameter, first);
      elements += size;
      error = std::max(error, meter_.orthogonality_errors()[static_cast<size_t>(parameter)]);
    }
    UpdateFigures& found = figures.emplace_back();
    found.group = group.name;
    found.rms = std::sqrt(squares / static_cast<double>(elements)) / (learning_rate * group.learning_rate_factor);
    if (error >= 0) found.orthogonality_error = error;
  }
  return figures;
}

}  // namespace nibble
