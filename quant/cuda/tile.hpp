// A piece of a matrix in the memory of a device's block, with its reduction axis running through it.
//
// Element (d, o), d along the reduction axis and o of `width` outer indices, is float number d * width + o; every 32 of
// them are followed by one that nobody uses, so that neither neighbours in o nor threads that each walk along d meet in
// one bank. Not for: the host's tiles (cpu/tile.hpp).
#pragma once

#include <algorithm>
#include <bit>

#include "quant/quantize.hpp"
#include "tensor/cuda/elements.hpp"

namespace nibble::cuda {

/// How a matrix is cut: strips of outer indices, and each of them into chunks of the reduction axis, whose length is a
/// multiple of 8.
struct TileShape {
  Axis axis;
  int64_t outer, depth;
  int chunk, log_width;
  int log_beside;  ///< of how many groups a warp's threads have side by side along the reduction axis (GroupsAlong)
  int64_t strips, chunks;

  TileShape(const Tensor& x, Axis reduction, int chunk_length, int logarithm)
      : axis(reduction),
        outer(reduction == Axis::cols ? x.rows : x.cols),
        depth(reduction == Axis::cols ? x.cols : x.rows),
        chunk(chunk_length),
        log_width(logarithm),
        log_beside(std::min({7 - logarithm, 5, log_groups(chunk_length)})),
        strips((outer + (int64_t{1} << logarithm) - 1) >> logarithm),
        chunks((depth + chunk_length - 1) / chunk_length) {}

  __device__ int width() const { return 1 << log_width; }
  static constexpr int64_t padded(int64_t floats) { return floats + (floats >> 5) + 1; }
  int64_t floats() const { return padded(int64_t{chunk} << log_width); }

 private:
  /// Of the groups that a chunk has, rounded up.
  static int log_groups(int chunk) {
    return std::bit_width(static_cast<unsigned>((chunk + group_elements - 1) / group_elements) - 1);
  }
};

/// The tile that a block works on.
struct TilePlace {
  int64_t outer, first;  ///< of the matrix
  int width, count;      ///< that the matrix has, of the tile's

  __device__ TilePlace(int64_t first_outer, int64_t first_inner, int wide, int deep)
      : outer(first_outer), first(first_inner), width(wide), count(deep) {}
  __device__ TilePlace(const TileShape& shape, int64_t strip, int64_t number)
      : outer(strip << shape.log_width), first(number * shape.chunk) {
    const int64_t wide = shape.outer - outer, deep = shape.depth - first;
    width = wide < shape.width() ? static_cast<int>(wide) : shape.width();
    count = deep < shape.chunk ? static_cast<int>(deep) : shape.chunk;
  }
  /// Neighbours in memory follow each other.
  __device__ static TilePlace of(const TileShape& shape, int64_t index) {
    const bool along = shape.axis == Axis::cols;
    return {shape, along ? index / shape.chunks : index % shape.strips,
            along ? index % shape.chunks : index / shape.strips};
  }
};

/// Values of one outer index, along the reduction axis.
struct SharedRows {
  using Real = float;
  using Index = int;

  float* x;
  int first, step;

  __device__ float& at(int d) const {
    const int place = first + d * step;
    return x[place + (place >> 5)];
  }
  __device__ float load(int d) const { return at(d); }
  __device__ void store(int d, float v) const { at(d) = v; }
  __device__ SharedRows from(int d) const { return {x, first + d * step, step}; }
};

__device__ inline SharedRows rows_of(float* tile, int log_width, int o) { return {tile, o, 1 << log_width}; }

/// Groups of eight neighbours along the reduction axis, which runs through rows in memory, by number. A warp's threads
/// lie side by side there, in pieces of 64 bytes at least where that is possible; when each goes over the elements of
/// its group, they meet no bank twice, unless a narrow tile has too few groups for a warp: some meet then, none idle.
class GroupsAlong {
 public:
  struct Group {
    int o, d, count;  ///< without elements where there are so many no more
  };

  __device__ GroupsAlong(const TileShape& shape, const TilePlace& place)
      : log_width_(shape.log_width), log_beside_(shape.log_beside), count_(place.count) {}

  __device__ unsigned size() const {
    const unsigned groups = (static_cast<unsigned>(count_) + group_elements - 1) / group_elements,
                   rounds = (groups + (1u << log_beside_) - 1) >> log_beside_;
    return rounds << (log_beside_ + log_width_);
  }
  __device__ Group operator[](unsigned i) const {
    const unsigned beside = i & ((1u << log_beside_) - 1), round = i >> (log_beside_ + log_width_);
    const int d = static_cast<int>(((round << log_beside_) + beside) * group_elements), left = count_ - d;
    return {static_cast<int>(i >> log_beside_ & ((1u << log_width_) - 1)), d,
            left <= 0               ? 0
            : left < group_elements ? left
                                    : group_elements};
  }

 private:
  int log_width_, log_beside_, count_;
};

/// Calls body(o, d, count) for groups of eight elements of the tile that are neighbours in memory: along d where the
/// reduction axis is, else along o.
template <class Body>
__device__ void for_each_group_of_tile(const TileShape& shape, const TilePlace& place, Body&& body) {
  if (shape.axis == Axis::rows) {
    const unsigned width = 1u << shape.log_width, groups = (width + group_elements - 1) / group_elements,
                   of_group = width / groups;
    for (unsigned i = threadIdx.x; i < groups * static_cast<unsigned>(place.count); i += blockDim.x) {
      const int o = static_cast<int>(i % groups * of_group), left = place.width - o;
      body(o, static_cast<int>(i / groups), left < static_cast<int>(of_group) ? left : static_cast<int>(of_group));
    }
    return;
  }
  const GroupsAlong groups(shape, place);
  for (unsigned i = threadIdx.x; i < groups.size(); i += blockDim.x) {
    const auto [o, d, count] = groups[i];
    if (count > 0) body(o, d, count);
  }
}

struct OnTheWay;

/// A matrix on its way into tiles (Operand).
struct TileSource {
  static constexpr bool for_all_quantizers = true;

  const void* data;
  int64_t stride;
  bool narrow, packs;
  Scalar factor;
  const float *row_scale, *col_scale;

  explicit TileSource(const Operand& x)
      : data(x.values.data),
        stride(x.values.rows > 1 ? x.values.stride : 0),
        narrow(x.values.dtype == DType::bf16),
        packs(narrow ? packs_fit(x.values.on_device<bf16>(), stride) : packs_fit(x.values.on_device<float>(), stride)),
        factor(x.factor),
        row_scale(x.row_scale.on_device<float>()),
        col_scale(x.col_scale.on_device<float>()) {}

  /// Elements [col, col + count) of a row, scaled; behind them zeros.
  __device__ void load(int64_t row, int64_t col, int count, float scale, float (&to)[group_elements]) const {
    if (narrow) load<bf16>(row, col, count, scale, to);
    else load<float>(row, col, count, scale, to);
  }

  /// Of the tile's places, threads then see what they wrote themselves. The last argument, room for two floats for each
  /// outer index, is for sources that need some.
  __device__ void fill(const TileShape& shape, const TilePlace& place, const OnTheWay& way, float* tile,
                       float* of_rows = nullptr) const;

 private:
  template <class T>
  __device__ void load(int64_t row, int64_t col, int count, float scale, float (&to)[group_elements]) const {
    T elements[group_elements];
    load_group(static_cast<const T*>(data) + row * stride + col, packs, count, elements);
    for (int j = 0; j < group_elements; ++j) {
      to[j] = static_cast<float>(elements[j]) * scale;
      if (row_scale) to[j] *= row_scale[row];
      if (col_scale && j < count) to[j] *= col_scale[col + j];
    }
  }
};

/// +-1 by bits.
__device__ inline float sign_of(const uint32_t* bits, int number) {
  return (bits[number >> 5] >> (number & 31) & 1u) != 0 ? -1.0f : 1.0f;
}

/// Signs (of blocks of `order`; null: none) and a mask (null: none) are applied on the way.
struct OnTheWay {
  const uint32_t* signs = nullptr;
  int64_t order = 1;
  const uint8_t* mask = nullptr;  ///< of QuantizedParts, for Axis::cols
  int64_t mask_stride = 0;
};

/// To eight neighbours in memory: along d, from d on, where the reduction axis is, else along the outer one.
__device__ inline void apply(const OnTheWay& way, bool along, int64_t outer, int64_t d,
                             float (&values)[group_elements]) {
  if (way.mask) {
    const uint32_t passing = way.mask[outer * way.mask_stride + d / 8];
    for (int j = 0; j < group_elements; ++j)
      if ((passing >> j & 1u) == 0) values[j] = 0;
  }
  if (!way.signs) return;
  auto number = static_cast<int>(d % way.order);
  for (int j = 0; j < group_elements; ++j) {
    values[j] *= sign_of(way.signs, number);
    if (along && ++number == way.order) number = 0;
  }
}

/// load(row, col, count, values) gives elements [col, col + count) of a row of the matrix, and zeros behind them; in
/// the tile, `outside` stands where the matrix has no outer index.
template <class Load>
__device__ void fill_tile(const TileShape& shape, const TilePlace& place, const OnTheWay& way, float outside,
                          float* tile, const Load& load) {
  const bool along = shape.axis == Axis::cols;
  for_each_group_of_tile(shape, place, [&](int o, int d, int count) {
    float values[group_elements];
    const int present = along && o >= place.width ? 0 : count;
    if (present > 0) {
      const int64_t outer = place.outer + o, inner = place.first + d;
      load(along ? outer : inner, along ? inner : outer, present, values);
      apply(way, along, outer, inner, values);
    } else {
      for (float& value : values) value = outside;
    }
    const SharedRows to = rows_of(tile, shape.log_width, o).from(d);
    const int width = 1 << shape.log_width, whole = along || width >= group_elements ? group_elements : width;
    for (int j = 0; j < whole; ++j) (along ? to.at(j) : SharedRows{tile, to.first + j, 1}.at(0)) = values[j];
  });
}

__device__ inline void TileSource::fill(const TileShape& shape, const TilePlace& place, const OnTheWay& way,
                                        float* tile, float* /*of_rows*/) const {
  const float scale = factor.read();
  fill_tile(shape, place, way, 0.0f * scale, tile,
            [&](int64_t row, int64_t col, int count, float(&values)[group_elements]) {
              load(row, col, count, scale, values);
            });
}

/// Where a tile goes: f32, bf16, or i8 codes of an element format.
struct TileTarget {
  void* data = nullptr;
  int64_t stride = 0;
  DType type = DType::f32;
  bool packs = false;

  TileTarget() = default;
  explicit TileTarget(const Tensor& y) : data(y.data), stride(y.rows > 1 ? y.stride : 0), type(y.dtype) {
    if (type == DType::bf16) packs = packs_fit(y.on_device<bf16>(), stride);
    else if (type == DType::i8) packs = packs_fit(y.on_device<int8_t>(), stride);
    else packs = packs_fit(y.on_device<float>(), stride);
  }
};

/// `bits(value)` gives the T that stands for a value.
template <class T, class Rounded>
__device__ void store_tile_as(const TileTarget& to, const TileShape& shape, const TilePlace& place, float* tile,
                              Rounded&& rounded) {
  const bool along = shape.axis == Axis::cols;
  for_each_group_of_tile(shape, place, [&](int o, int d, int count) {
    if ((along && o >= place.width) || count <= 0) return;
    const SharedRows from = rows_of(tile, shape.log_width, o).from(d);
    T elements[group_elements];
    for (int j = 0; j < group_elements; ++j)
      elements[j] = j < count ? rounded(along ? from.at(j) : SharedRows{tile, from.first + j, 1}.at(0)) : T{};
    const int64_t outer = place.outer + o, inner = place.first + d;
    store_group(static_cast<T*>(to.data) + (along ? outer : inner) * to.stride + (along ? inner : outer), to.packs,
                count, elements);
  });
}

/// `integer(value)` gives the code that i8 stores.
template <class Integer>
__device__ void store_tile(const TileTarget& to, const TileShape& shape, const TilePlace& place, float* tile,
                           Integer&& integer) {
  if (to.type == DType::bf16) store_tile_as<bf16>(to, shape, place, tile, rounded_to<bf16>);
  else if (to.type == DType::i8) store_tile_as<int8_t>(to, shape, place, tile, integer);
  else store_tile_as<float>(to, shape, place, tile, rounded_to<float>);
}

/// Calls body(place) for this block's tiles, one after the other.
template <class Body>
__device__ void for_each_tile(const TileShape& shape, Body&& body) {
  const int64_t tiles = shape.strips * shape.chunks;
  for (int64_t index = blockIdx.x; index < tiles; index += gridDim.x) {
    body(TilePlace::of(shape, index));
    __syncthreads();
  }
}

}  // namespace nibble::cuda
