#include "quant/element_format.hpp"

namespace nibble {

std::span<const ElementFormat* const> element_formats() {
  using namespace formats;
  static constexpr const ElementFormat* all[] = {
      &e2m1,       &e2m3,       &e3m2,       &e4m3,       &e5m2,       &mxint8,     &integer[0],
      &integer[1], &integer[2], &integer[3], &integer[4], &integer[5], &integer[6], &quest[0],
      &quest[1],   &quest[2],   &quest[3],   &quest[4],   &quest[5],   &quest[6],   &quest[7]};
  return all;
}

}  // namespace nibble
