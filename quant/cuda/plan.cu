#include "quant/cuda/plan.hpp"

#include <algorithm>
#include <bit>
#include <numeric>

#include "quant/cpu/tile.hpp"

namespace nibble::cuda {
namespace {

/// Values of the reduction axis that a thread quantizes under a scale that is known.
constexpr int usual_span = 32;
constexpr int largest_log_width = 5;
/// Of a block's memory: what the runtime keeps for itself, and what kernels have beside tiles.
constexpr size_t reserved = 1024;
/// Of a rotation's core, as many columns as there are at once.
constexpr int column_floats = 2048;

int64_t rounded_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

class Planner {
 public:
  Planner(const Tensor& x, const Quantization& how, bool counts, TileParts& parts, TilesOf tiles)
      : x_(x), how_(how), q_(how.quantizer), counts_(counts), parts_(parts), tiles_(tiles) {}

  std::optional<TilePlan> plan() const {
    const int64_t depth = std::max<int64_t>(how_.axis == Axis::cols ? x_.cols : x_.rows, 1);
    const int64_t order = how_.hadamard ? how_.hadamard->order : 1;
    if (tiles_ == TilesOf::whole_rows) return fitting(rounded_up(depth, 8), largest_log_width);
    if (!by_row()) return fitting(std::min(chunk_length(how_), rounded_up(depth, 8)), largest_log_width);
    // Rows that stay in the block's memory are read once.
    constexpr int narrowest = 2;
    const std::optional<TilePlan> whole = fitting(rounded_up(depth, 8), largest_log_width, narrowest);
    if (whole) return whole;
    const int64_t chunk = std::lcm(int64_t{segment}, order);
    return chunk < depth ? fitting(chunk, largest_log_width) : fitting(rounded_up(depth, 8), narrowest);
  }

 private:
  bool by_row() const { return q_.quantizes() && q_.extent == Extent::row; }
  bool square() const { return q_.quantizes() && q_.extent == Extent::square; }

  /// The widest tile of which two fit, else one.
  std::optional<TilePlan> fitting(int64_t chunk, int most, int least = 0) const {
    const int64_t outer = how_.axis == Axis::cols ? x_.rows : x_.cols;
    while (most > least && int64_t{1} << (most - 1) >= outer) --most;
    if (square()) most = least = largest_log_width;
    const size_t limit = largest_block_memory();
    for (const size_t room : {limit / 2 - reserved, limit - reserved})
      for (int log_width = most; log_width >= least; --log_width) {
        if (chunk << log_width > (int64_t{1} << 24)) continue;  // beyond any block's memory
        const TilePlan plan = of(static_cast<int>(chunk), log_width);
        if (plan.bytes <= room) return plan;
      }
    return {};
  }

  TilePlan of(int chunk, int log_width) const {
    constexpr unsigned most_threads = 256, fewest_threads = 32;
    const auto elements = static_cast<unsigned>(chunk) << log_width;
    const int width = 1 << log_width;
    TilePlan plan{.shape = TileShape(x_, how_.axis, chunk, log_width),
                  .threads = std::clamp(std::bit_floor(elements / usual_span), fewest_threads, most_threads),
                  .span = usual_span,
                  .spare = 0,
                  .row_scales = 2 * width,
                  .bytes = 0};
    int64_t spare =
        how_.hadamard && how_.hadamard->core > 1 ? std::max<int64_t>(how_.hadamard->core, column_floats) : 0;
    int64_t bytes = 0;
    if (q_.quantizes()) {
      const int block = q_.blocks() ? q_.group : usual_span;
      if (q_.blocks()) plan.span = std::max(q_.group, q_.correction_group);
      const bool chooses = q_.choice != BlockChoice::none,
                 copies = chooses || counts_ || q_.mask != MaskRule::all || q_.sparsity != Sparsity::none;
      spare = std::max(spare, TileShape::padded(int64_t{plan.threads} * block * (chooses ? 2 : copies ? 1 : 0)));
      if (by_row()) spare = std::max<int64_t>(spare, 2 * width * (chunk / segment + 1));
      bytes = place(parts_.codes, 8, q_.element->bits(), chunk, width, bytes);
      if (q_.blocks()) bytes = place(parts_.scales, q_.group, 1, chunk, width, bytes);
      bytes = place(parts_.mask, 8, 1, chunk, width, bytes);
    }
    plan.spare = static_cast<int>(spare);
    plan.bytes =
        static_cast<size_t>(plan.shape.floats() + spare + plan.row_scales) * sizeof(float) + static_cast<size_t>(bytes);
    return plan;
  }

  static int64_t place(TilePart& part, int values, int bytes, int chunk, int width, int64_t offset) {
    part.values = values;
    part.bytes = bytes;
    if (!part) return offset;
    part.offset = static_cast<int>(offset);
    part.pitch = static_cast<int>(rounded_up(int64_t{chunk} / values * bytes, 4) + 4);
    return offset + int64_t{part.pitch} * width;
  }

  const Tensor& x_;
  const Quantization& how_;
  const Quantizer& q_;
  bool counts_;
  TileParts& parts_;
  TilesOf tiles_;
};

}  // namespace

int TilePlan::blocks() const {
  return static_cast<int>(std::clamp<int64_t>(shape.strips * shape.chunks, 1, std::numeric_limits<int>::max()));
}

std::optional<TilePlan> plan_tiles(const Tensor& x, const Quantization& how, bool counts, TileParts& parts,
                                   TilesOf tiles) {
  return Planner(x, how, counts, parts, tiles).plan();
}

}  // namespace nibble::cuda
