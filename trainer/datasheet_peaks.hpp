// What makers say of their GPUs: dense products, without sparsity. H100 and H200 on SXM
// boards multiply alike.
#pragma once

#include <optional>
#include <string_view>

namespace nibble {

/// TFLOP/s, and GB/s of memory; 0: the GPU has no such products.
struct DatasheetPeaks {
  std::string_view name;  ///< that the driver's name contains
  double bf16, fp8, fp4, bandwidth;
};

/// Of the first row whose name the driver's contains.
std::optional<DatasheetPeaks> datasheet_peaks(std::string_view driver_name);

}  // namespace nibble
