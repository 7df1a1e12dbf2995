#include "trainer/command_kernels.hpp"

#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "trainer/exchange_kernels.hpp"
#include "trainer/memory.hpp"

namespace nibble {
namespace {

struct Arguments {
  int64_t elements = 64'000'000;
  bool json = false;
};

void run_kernels(const Arguments& arguments) {
  const int64_t elements = arguments.elements;
  Stream device(0, Place::device);
  const std::vector<KernelRate> rates = measure_exchange_kernels(device, elements);
  const double copy = rates.front().gb_per_second();
  if (arguments.json) {
    nlohmann::ordered_json rows = nlohmann::ordered_json::array();
    for (const KernelRate& rate : rates)
      rows.push_back({{"kernel", rate.kernel},
                      {"seconds", rate.seconds},
                      {"bytes", rate.bytes},
                      {"gb_per_second", rate.gb_per_second()},
                      {"share_of_copy", rate.gb_per_second() / copy}});
    fmt::print("{}\n", nlohmann::ordered_json{{"elements", elements}, {"kernels", rows}}.dump(2));
    return;
  }
  fmt::print("{} floats, {}\n\n{:<44} {:>9} {:>9} {:>11}\n", elements,
             format_bytes(static_cast<size_t>(elements) * sizeof(float)), "kernel", "ms", "GB/s", "of a copy");
  for (const KernelRate& rate : rates)
    fmt::print("{:<44} {:>9.3f} {:>9.1f} {:>10.0f}%\n", rate.kernel, 1e3 * rate.seconds, rate.gb_per_second(),
               100 * rate.gb_per_second() / copy);
}

}  // namespace

void add_kernels_command(CLI::App& bench) {
  CLI::App* command = bench.add_subcommand(
      "kernels", "Kernels of compressed exchanges on a GPU, in bytes a second beside a copy in its memory");
  const auto arguments = std::make_shared<Arguments>();
  command->add_option("--elements", arguments->elements, "floats of a vector")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 32))
      ->capture_default_str();
  command->add_flag("--json", arguments->json, "one JSON object on standard output");
  command->callback([arguments] { run_kernels(*arguments); });
}

}  // namespace nibble
