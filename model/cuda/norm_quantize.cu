// RMSNorm and quantization in one kernel: a tile of whole rows is normalised where it will be rotated and quantized.
#include "model/cuda/kernels.hpp"
#include "model/cuda/made_input.hpp"
#include "quant/cuda/kernels.hpp"
#include "quant/cuda/quantize_kernels.hpp"

namespace nibble::cuda {
namespace {

/// Tiles of whole rows.
struct NormedRows {
  static constexpr bool for_all_quantizers = false;

  Rows<float> x, gain;
  float epsilon;
  float* inverse_rms;
  MadeMatrix made;

  __device__ void fill(const TileShape& shape, const TilePlace& place, const OnTheWay& way, float* tile,
                       float* of_rows) const {
    load(shape, place, tile);
    __syncthreads();
    scale_rows(shape, place, tile, of_rows);
    __syncthreads();
    fill_tile(shape, place, way, 0.0f, tile, [&](int64_t row, int64_t col, int count, float(&values)[group_elements]) {
      const auto o = static_cast<int>(row - place.outer);
      const SharedRows from = rows_of(tile, shape.log_width, o).from(static_cast<int>(col));
      const Group g = gain.load(0, col, count);
      for (int j = 0; j < group_elements; ++j) values[j] = from.at(j) * of_rows[o] * g[j];
      made.pass(row, col, count, values);
    });
  }

 private:
  __device__ void load(const TileShape& shape, const TilePlace& place, float* tile) const {
    constexpr int ahead = 4;  // loads in flight
    const GroupsAlong groups(shape, place);
    const unsigned size = groups.size();
    for (unsigned first = threadIdx.x; first < size; first += ahead * blockDim.x) {
      Group values[ahead];
      NIBBLE_UNROLL
      for (int k = 0; k < ahead; ++k) {
        const auto [o, d, count] = groups[first + static_cast<unsigned>(k) * blockDim.x];
        const bool there = o < place.width && count > 0;
        values[k] = x.load(there ? place.outer + o : 0, there ? d : 0, there ? count : 0);
      }
      NIBBLE_UNROLL
      for (int k = 0; k < ahead; ++k) {
        const unsigned i = first + static_cast<unsigned>(k) * blockDim.x;
        const auto [o, d, count] = groups[i];
        if (count == 0) continue;
        const SharedRows to = rows_of(tile, shape.log_width, o).from(d);
        for (int j = 0; j < group_elements; ++j) to.at(j) = values[k][j];
      }
    }
  }

  /// Sixteen lanes for each row; those of a warp's other half are half a tile away, where they meet other banks.
  __device__ void scale_rows(const TileShape& shape, const TilePlace& place, float* tile, float* of_rows) const {
    const unsigned width = 1u << shape.log_width, halves = width > 1 ? 2 : 1,
                   units = (width * sum_lanes + warp_lanes - 1) / warp_lanes * warp_lanes;  // warps do not part
    const auto in_row = static_cast<int>(lane() % sum_lanes);
    for (unsigned unit = threadIdx.x; unit < units; unit += blockDim.x) {
      const unsigned number = unit / sum_lanes, row = number % halves * (width / 2) + number / halves;
      const bool there = row < width;
      const SharedRows from = rows_of(tile, shape.log_width, static_cast<int>(there ? row : 0)).from(in_row);
      const int elements = there ? of_sum_lane(place.count, in_row) : 0;
      const float sum = joined(sum_of_lane(elements, [&](int first, int k) {
        const float v = from.at(static_cast<int>(sum_lanes) * (first + k));
        return v * v;
      }));
      if (!there || in_row != 0) continue;
      of_rows[row] = inverse_rms_of(sum, place.count, epsilon);
      if (static_cast<int>(row) < place.width) inverse_rms[place.outer + row] = of_rows[row];
    }
  }
};

}  // namespace

Operand rms_norm_quantize(Stream& stream, const Tensor& x, const Tensor& gain, float epsilon, const Tensor& y,
                          const Tensor& inverse_rms, bool keeps_y, const QuantizeArguments& arguments) {
  if (is_plain(arguments.how.quantizer)) {
    const Arrangement arrangement(stream, y, arguments.how, false, {}, parts_of(arguments.parts), false,
                                  TilesOf::whole_rows);
    if (arrangement.plan)
      return launch_quantizer(stream,
                              NormedRows{Rows<float>(x), Rows<float>(gain), epsilon, inverse_rms.on_device<float>(),
                                         MadeMatrix(y, keeps_y)},
                              arrangement, arguments.how, arguments.statistic, arguments.values, arguments.scale,
                              nullptr);
  }
  cuda::rms_norm_forward(stream, x, gain, epsilon, y, inverse_rms);
  return cuda::quantize(stream, {.values = y}, arguments.how, arguments.statistic, arguments.values, arguments.scale,
                        arguments.parts, nullptr);
}

}  // namespace nibble::cuda
