#include "trainer/datasheet_peaks.hpp"

namespace nibble {
namespace {

// H100: NVIDIA H100 Tensor Core GPU datasheet; H200: its datasheet; B200: NVIDIA Blackwell architecture brief (HGX
// B200, one of eight GPUs); RTX 5090: NVIDIA RTX Blackwell GPU architecture, appendix A, sums in fp32 where it has two
// rates. Rates that these give with sparsity are halved.
constexpr DatasheetPeaks table[] = {
    {"H100 PCIe", 756, 1513, 0, 2000}, {"H100", 989.4, 1978.9, 0, 3350},     {"H200", 989.4, 1978.9, 0, 4800},
    {"B200", 2250, 4500, 9000, 8000},  {"RTX 5090", 209.5, 419, 1676, 1792},
};

}  // namespace

std::optional<DatasheetPeaks> datasheet_peaks(std::string_view driver_name) {
  for (const DatasheetPeaks& row : table)
    if (driver_name.find(row.name) != std::string_view::npos) return row;
  return std::nullopt;
}

}  // namespace nibble
