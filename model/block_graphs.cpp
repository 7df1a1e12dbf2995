#include "model/block_graphs.hpp"

#include <algorithm>
#include <iterator>

namespace nibble {

BlockGraphs::BlockGraphs(Stream& stream, const Precision& precision, int64_t layers)
    : stream_(stream), parts_(static_cast<size_t>(2 * layers)) {
  for (int64_t layer = 0; layer < layers; ++layer)
    for (const Projection projection : projections)
      for (const Precision::Phase& phase : precision.phases(layer, projection)) changes_.push_back(phase.first_step);
  std::ranges::sort(changes_);
}

void BlockGraphs::run(int64_t layer, Part part, int64_t step, const std::function<void()>& work) {
  Of& of = parts_[static_cast<size_t>(2 * layer + (part == Part::backward ? 1 : 0))];
  const int64_t phase = std::distance(changes_.begin(), std::ranges::upper_bound(changes_, step));
  if (of.known_phase != phase) {
    of.graph.reset();
    of.known_phase = phase;
    return work();
  }
  if (!of.graph) of.graph = cuda::make_graph(stream_.queue());
  of.graph->run(work);
}

void BlockGraphs::forget() {
  for (Of& part : parts_) part = {};
}

}  // namespace nibble
