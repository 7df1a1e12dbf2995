#include "trainer/datasheet_peaks.hpp"

#include <algorithm>
#include <cctype>

#include "tensor/error.hpp"

namespace nibble {
namespace {

// H100 and H200, SXM, NVL and PCIe: NVIDIA's datasheets (bf16 and FP8 with sparsity: PCIe 1513 and 3026 TFLOP/s, NVL
// 1671 and 3341); B200 and GB200, one GPU of them: the Blackwell datasheet's HGX B200 and GB200 NVL72. Rates that these
// give with sparsity are halved, and what links carry both ways together. Two GPUs of a GB200 share its 900 GB/s of
// NVLink-C2C: NCCL finds 5 links of 44.7 GB/s at each GPU of a GB300, which is built alike, and 10 on a GH200.
constexpr DatasheetPeaks table[] = {
    {"H100 PCIe", 756.5, 1513, 0, 2000, 90, 80, 64}, {"H100 NVL", 835.5, 1670.5, 0, 3900, 90, 94, 64},
    {"H100", 989.4, 1978.9, 0, 3350, 90, 80, 64},    {"H200 NVL", 835.5, 1670.5, 0, 4800, 90, 141, 64},
    {"H200", 989.4, 1978.9, 0, 4800, 90, 141, 64},   {"GB200", 2500, 5000, 10000, 8000, 100, 186, 225},
    {"B200", 2250, 4500, 9000, 7700, 100, 180, 64},
};

/// "H100-NVL" is "h100 nvl".
std::string plain(std::string_view name) {
  std::string text;
  for (const char letter : name)
    text += letter == '-' || letter == '_' ? ' ' : static_cast<char>(std::tolower(static_cast<unsigned char>(letter)));
  return text;
}

}  // namespace

std::optional<DatasheetPeaks> datasheet_peaks(std::string_view driver_name) {
  for (const DatasheetPeaks& row : table)
    if (driver_name.find(row.name) != std::string_view::npos) return row;
  return std::nullopt;
}

DatasheetPeaks datasheet_of(const std::string& name) {
  std::string names;
  for (const DatasheetPeaks& row : table) {
    if (plain(row.name) == plain(name)) return row;
    names += (names.empty() ? "" : ", ") + std::string(row.name);
  }
  throw Error({.kind = ErrorKind::configuration,
               .what = "of this GPU no datasheet is known here",
               .where = "--gpu",
               .seen = name,
               .allowed = names,
               .next = "name one of these, or plan where the GPU is"});
}

}  // namespace nibble
