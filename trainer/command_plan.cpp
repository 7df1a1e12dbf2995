#include "trainer/command_plan.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "comm/world.hpp"
#include "tensor/error.hpp"
#include "trainer/plan_output.hpp"
#include "trainer/yaml_settings.hpp"

namespace nibble {
namespace {

struct Arguments {
  std::string file;
  std::vector<std::string> overrides;
  int ranks = 0;
  size_t memory = 0;
  std::string link, latency, gpu;
  bool json = false;
};

struct Unit {
  std::string_view name;
  double factor;
};

/// "1Gbit/s" with {"Gbit/s", 1e9} is 1e9.
double parse_with_unit(const std::string& option, const std::string& text, std::span<const Unit> units,
                       const std::string& example) {
  double value = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
  const std::string_view rest(end, static_cast<size_t>(text.data() + text.size() - end));
  const auto unit = std::ranges::find(units, rest, &Unit::name);
  if (failure != std::errc() || unit == units.end() || !(value > 0 && value < 1e12))
    throw Error({.kind = ErrorKind::configuration,
                 .what = "no such quantity",
                 .where = option,
                 .seen = text,
                 .allowed = "a number and a unit: " + example,
                 .next = {}});
  return value * unit->factor;
}

std::optional<ExchangeSpeed> given_speed(const Arguments& arguments) {
  constexpr Unit rates[] = {{"kbit/s", 1e3}, {"Mbit/s", 1e6}, {"Gbit/s", 1e9}};
  constexpr Unit times[] = {{"us", 1e-6}, {"ms", 1e-3}, {"s", 1}};
  if (arguments.link.empty()) return std::nullopt;
  // Of 1538 bytes that a frame of Ethernet takes, TCP carries 1448.
  constexpr double payload = 1448.0 / 1538;
  const double bytes = payload / 8 * parse_with_unit("--link", arguments.link, rates, "1Gbit/s, 100Mbit/s");
  return ExchangeSpeed{.latency = parse_with_unit("--latency", arguments.latency, times, "50us, 0.2ms"),
                       .summed_bytes_per_second = bytes,
                       .gathered_bytes_per_second = bytes};
}

void run_plan(const Arguments& arguments) {
  run_in_world([&](World& world) {
    const Settings settings = load_settings(arguments.file, arguments.overrides);
    PlanOptions options{.ranks = arguments.ranks > 0 ? arguments.ranks : world.size(), .speed = given_speed(arguments)};
    if (arguments.memory > 0) options.memory = arguments.memory;
    if (!arguments.gpu.empty()) options.gpu = datasheet_of(arguments.gpu);
    const RunPlan plan = make_plan(world, settings, options);
    if (!world.is_first()) return;
    fmt::print("{}", arguments.json ? plan_json(plan).dump(2) + "\n" : plan_text(plan));
    const auto fits = [&](const MemoryCandidate& candidate) { return plan.limits().hold(candidate); };
    if (plan.fits() || std::ranges::any_of(plan.candidates, fits)) return;
    const MemoryCandidate least = plan.candidates.empty()
                                      ? MemoryCandidate{"", total(plan.memory.table), total(plan.memory.gpu)}
                                      : plan.candidates.back();
    const bool of_gpu = least.gpu > plan.most_gpu.bytes;
    throw Error(
        {.kind = ErrorKind::resource,
         .what = fmt::format("no settings that were tried fit into the memory of a rank{}", of_gpu ? "'s GPU" : ""),
         .where = of_gpu ? plan.most_gpu.limit : plan.most.limit,
         .seen = format_bytes(of_gpu ? least.gpu : least.bytes),
         .allowed = format_bytes(of_gpu ? plan.most_gpu.bytes : plan.most.bytes),
         .next = "choose a smaller model, or more ranks with shard: parameters"});
  });
}

}  // namespace

void add_plan_command(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("plan", "What a run would take: memory, bytes between ranks, time of a step; what would fit");
  const auto arguments = std::make_shared<Arguments>();
  command->add_option("file", arguments->file, "settings of the run")->required()->type_name("FILE.yaml");
  command->add_option("--set", arguments->overrides, "a setting, over what the file says; may be given again")
      ->type_name("KEY=VALUE")
      ->expected(1)
      ->take_all();
  command->add_option("--ranks", arguments->ranks, "ranks of the run; default: those that were started")
      ->check(CLI::Range(1, 1 << 16));
  command
      ->add_option(
          "--memory", arguments->memory,
          "memory of a rank (24GiB), with run.device: cuda of its GPU; default: what this machine has left, or "
          "the datasheet says")
      ->transform(CLI::AsSizeValue(false));
  command->add_option("--gpu", arguments->gpu, "with run.device: cuda, a GPU that need not be here (h100, b200)")
      ->type_name("NAME");
  CLI::Option* link =
      command->add_option("--link", arguments->link, "bandwidth of a rank's link (1Gbit/s), instead of a measured one")
          ->type_name("RATE");
  arguments->latency = "50us";
  command->add_option("--latency", arguments->latency, "time of a small message (50us)")
      ->type_name("TIME")
      ->needs(link)
      ->capture_default_str();
  command->add_flag("--json", arguments->json, "one JSON object on standard output");
  command->callback([arguments] { run_plan(*arguments); });
}

}  // namespace nibble
