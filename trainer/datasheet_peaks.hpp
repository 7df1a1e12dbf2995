// What makers say of their GPUs: dense products, without sparsity, and memory. H100 and H200 on SXM boards multiply
// alike.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace nibble {

/// TFLOP/s, GB/s and GB (10^9 bytes); 0: the GPU has no such products.
struct DatasheetPeaks {
  std::string_view name;             ///< that the driver's name contains
  double bf16, fp8, fp4, bandwidth;  ///< bandwidth of its memory
  int architecture;                  ///< 90 for compute capability 9.0
  double memory;
  double host_link;  ///< from the host's memory, and as much to it at the same time
};

/// Of the first row whose name the driver's contains.
std::optional<DatasheetPeaks> datasheet_peaks(std::string_view driver_name);

/// Of the row that a user calls "h100" or "H100-NVL". Throws Error{configuration} that lists the names.
DatasheetPeaks datasheet_of(const std::string& name);

}  // namespace nibble
