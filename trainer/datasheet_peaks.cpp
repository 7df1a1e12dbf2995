#include "trainer/datasheet_peaks.hpp"

namespace nibble {
namespace {

// H100 and H200, SXM, NVL and PCIe: NVIDIA's datasheets; B200 and GB200, one GPU of them: the Blackwell datasheet's HGX
// B200 and GB200 NVL72. Rates that these give with sparsity are halved.
constexpr DatasheetPeaks table[] = {
    {"H100 PCIe", 756, 1513, 0, 2000},    {"H100 NVL", 835.5, 1670.5, 0, 3900}, {"H100", 989.4, 1978.9, 0, 3350},
    {"H200 NVL", 835.5, 1670.5, 0, 4800}, {"H200", 989.4, 1978.9, 0, 4800},     {"GB200", 2500, 5000, 10000, 8000},
    {"B200", 2250, 4500, 9000, 7700},
};

}  // namespace

std::optional<DatasheetPeaks> datasheet_peaks(std::string_view driver_name) {
  for (const DatasheetPeaks& row : table)
    if (driver_name.find(row.name) != std::string_view::npos) return row;
  return std::nullopt;
}

}  // namespace nibble
