#include "quant/named_quantizers.hpp"

#include "quant/quantizers.hpp"

namespace nibble {

std::span<const NamedQuantizer> named_quantizers() {
  using namespace quantizers;
  using namespace formats;
  static constexpr NamedQuantizer all[] = {
      {"fp8-e4m3", per_tensor(e4m3)},
      {"fp8-e5m2", per_tensor(e5m2)},
      {"fp8-e4m3-row", per_row(e4m3)},
      {"fp8-e5m2-row", per_row(e5m2)},
      {"int8", per_tensor(int8)},
      {"int8-row", per_row(int8)},
      {"halo-fp6", halo_fp6},
      {"mxfp8", mx(e4m3, MxScale::ceil)},
      {"mxfp6-e2m3", mx(e2m3, MxScale::ceil)},
      {"mxfp6-e3m2", mx(e3m2, MxScale::ceil)},
      {"mxfp4", mx(e2m1, MxScale::floor)},
      {"mxfp4-three-quarters", mxfp4_three_quarters(Rounding::stochastic)},
      {"mxint8", mx(formats::mxint8, MxScale::floor)},
      {"quest1", quantizers::quest(1)},
      {"quest2", quantizers::quest(2)},
      {"quest3", quantizers::quest(3)},
      {"quest4", quantizers::quest(4)},
      {"quest8", quantizers::quest(8)},
      {"quest-fp4", quest_fp4},
      {"quartet", quartet(QuestScale::nearest)},
      {"nvfp4", nvfp4},
      {"nvfp4-4over6", four_over_six(nvfp4)},
      {"nvfp4-square", square(nvfp4)},
      {"nvfp4-stochastic", nvfp4_stochastic},
      {"ms-eden", ms_eden(16)},
      {"nvint4", nvint4},
      {"sfp4", sfp4()},
  };
  return all;
}

}  // namespace nibble
