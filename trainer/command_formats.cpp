#include "trainer/command_formats.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <memory>
#include <string>
#include <vector>

#include "tensor/error.hpp"
#include "trainer/formats_output.hpp"
#include "trainer/progress.hpp"

namespace nibble {
namespace {

constexpr int64_t values_of_part = sample_part_rows * reference_cols;

struct Arguments {
  int64_t samples = reference_rows * reference_cols;
  bool json = false;
};

void run_formats(const Arguments& arguments) {
  Stream stream;
  WorkProgress progress("measuring", "M values", 1e6 / values_of_part);
  const int64_t parts = (arguments.samples + values_of_part - 1) / values_of_part;
  const std::vector<QuantizerMeasurement> measurements =
      measure(stream, quantizer_table(), parts, [&](int64_t done, int64_t of) { progress.update(done, of); });
  fmt::print("{}", arguments.json ? formats_json(measurements).dump(2) + "\n" : formats_text(measurements));
  std::vector<std::string> off;
  for (const QuantizerMeasurement& m : measurements)
    if (m.off()) off.push_back(full_name(*m.row));
  if (!off.empty())
    throw Error({.kind = ErrorKind::numerics,
                 .what = "quantizers err otherwise than they should",
                 .where = fmt::format("{} values of N(0, 1)", parts * values_of_part),
                 .seen = fmt::format("{}", fmt::join(off, "; ")),
                 .allowed = "what stands beside the stars",
                 .next = "report a defect; with NIBBLE_ISA=avx2 it shows whether the instruction set matters"});
}

}  // namespace

void add_formats_command(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("formats", "Number formats and quantizers: range, bits, and errors measured on normal values");
  const auto arguments = std::make_shared<Arguments>();
  command
      ->add_option("--samples", arguments->samples,
                   "normal values to measure on, rounded up to a multiple of 262144; fewer widen what is allowed")
      ->check(CLI::Range(16 * values_of_part, int64_t{1} << 36))
      ->capture_default_str();
  command->add_flag("--json", arguments->json, "one JSON object on standard output");
  command->callback([arguments] { run_formats(*arguments); });
}

}  // namespace nibble
