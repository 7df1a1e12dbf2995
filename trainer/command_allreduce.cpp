#include "trainer/command_allreduce.hpp"

#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "comm/world.hpp"
#include "trainer/exchange_comparison.hpp"
#include "trainer/link_measurement.hpp"
#include "trainer/memory.hpp"
#include "trainer/model_gradient.hpp"
#include "trainer/units.hpp"

namespace nibble {
namespace {

struct Arguments {
  std::string elements = "16M";
  std::string exchanges =
      "dense,dense-bf16,top-0.39%,top-0.78%,top-3.1%,top-10%,top-0.78%-maxmin-4,maxmin-8,maxmin-4,"
      "eden-4,eden-1,correlated-1";
  int repeats = 5;
  double correlation = 0;
  std::string model, data;
  bool json = false;
};

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, ',');) parts.push_back(part);
  return parts;
}

std::string gigabits(double bytes_per_second) { return fmt::format("{:.3g} Gbit/s", 8e-9 * bytes_per_second); }

struct Comparison {
  int ranks = 1;
  int64_t elements = 0;
  LinkCost link;
  std::vector<SumMeasurement> sums{};
  SumMeasurement half{};  ///< dense in bf16
};

void print_table(const Comparison& all) {
  fmt::print("{} ranks, {} floats ({}); links of {:.0f} us and {}\n\n", all.ranks, all.elements,
             format_bytes(static_cast<size_t>(all.elements) * sizeof(float)), 1e6 * all.link.latency,
             gigabits(1 / all.link.per_byte));
  fmt::print("{:<28} {:>9} {:>7} {:>12} {:>10} {:>9} {:>9} {:>14}  {}\n", "exchange", "ms", "times", "from streams",
             "CPU ms", "MB sent", "error", "break-even", "way");
  const double dense = all.sums.front().seconds;
  for (const SumMeasurement& sum : all.sums) {
    const std::optional<double> rate = break_even_rate(sum, all.half);
    fmt::print("{:<28} {:>9.2f} {:>6.2f}x {:>12} {:>10.2f} {:>9.3f} {:>9.2g} {:>14}  {}\n", sum.name, 1e3 * sum.seconds,
               dense / sum.seconds,
               sum.seconds_from_streams > 0 ? fmt::format("{:.2f}", 1e3 * sum.seconds_from_streams) : "",
               1e3 * sum.processor_seconds, 1e-6 * sum.bytes, sum.error,
               sum.name.starts_with("dense") ? ""
               : rate                        ? gigabits(*rate)
                                             : "always",
               sum.way);
  }
  fmt::print(
      "\nms: from the gradient in memory to its sum in memory on the slowest rank, selection and residual included;\n"
      "times: against {}; break-even: the link on which it takes as long as dense-bf16, by its CPU time and "
      "bytes\n",
      all.sums.front().name);
}

void print_json(const Comparison& all) {
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (const SumMeasurement& sum : all.sums) {
    const std::optional<double> rate = break_even_rate(sum, all.half);
    rows.push_back({{"exchange", sum.name},
                    {"way", sum.way},
                    {"seconds", sum.seconds},
                    {"seconds_from_streams", sum.seconds_from_streams},
                    {"processor_seconds", sum.processor_seconds},
                    {"bytes_sent", sum.bytes},
                    {"error", sum.error},
                    {"break_even_bytes_per_second", rate ? nlohmann::ordered_json(*rate) : nullptr}});
  }
  const nlohmann::ordered_json answer = {{"ranks", all.ranks},
                                         {"elements", all.elements},
                                         {"latency_seconds", all.link.latency},
                                         {"bytes_per_second", 1 / all.link.per_byte},
                                         {"exchanges", rows}};
  fmt::print("{}\n", answer.dump(2));
}

void run(const Arguments& arguments) {
  run_in_world([&](World& world) {
    if (world.size() == 1)
      throw Error({.kind = ErrorKind::configuration,
                   .what = "one rank has nobody to exchange with",
                   .where = "nibble bench allreduce",
                   .seen = "1 rank",
                   .allowed = "2 and more",
                   .next = "launch/mpirun -np 4 nibble bench allreduce"});
    Comparison all{.ranks = world.size(), .elements = parse_count(arguments.elements), .link = slowest_link(world)};
    ComparisonOptions options{
        .elements = all.elements, .repeats = arguments.repeats, .correlation = arguments.correlation};
    if (!arguments.model.empty())
      options.gradient = gradient_of_model(arguments.model, arguments.data, world.rank(), all.elements);
    const auto sum_of = [&](const std::string& name, const LinkCost& link) {
      return compared_sum(name, world.size(), all.elements, link);
    };
    std::vector<ComparedSum> sums;
    for (const std::string& name : split(arguments.exchanges)) sums.push_back(sum_of(name, all.link));
    sums.push_back(sum_of("dense-bf16", all.link));  // what break-even refers to
    world.thread().run([&](Communicator& ranks) {
      for (ComparedSum& sum : sums)
        if (sum.chosen) sum = sum_of(sum.name, with_computing(ranks, *sum.sparse, all.link));
      all.sums = compare_sums(ranks, sums, options);
    });
    all.half = all.sums.back();
    all.sums.pop_back();
    if (!world.is_first()) return;
    if (arguments.json) print_json(all);
    else print_table(all);
  });
}

}  // namespace

void add_allreduce_command(CLI::App& bench) {
  CLI::App* command = bench.add_subcommand(
      "allreduce", "Sums of gradients between the ranks that were started: time, bytes, error, break-even link");
  const auto arguments = std::make_shared<Arguments>();
  command->add_option("--elements", arguments->elements, "floats of the vector (16M)")->capture_default_str();
  command
      ->add_option("--exchanges", arguments->exchanges,
                   "dense, dense-bf16, top-1%, top-1%-split, top-1%-recursive-doubling, top-1%-CODEC, CODEC (as "
                   "gradients.codec); the first is what the others are compared with")
      ->type_name("NAME,...")
      ->capture_default_str();
  command->add_option("--repeats", arguments->repeats, "of each, in turn")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command->add_option("--correlation", arguments->correlation, "of the ranks' gradients: how much supports overlap")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  CLI::Option* const model = command->add_option(
      "--model", arguments->model, "sum its gradients, of each rank on text of its own, instead of random numbers");
  CLI::Option* const data = command->add_option("--data", arguments->data, "token file for --model");
  model->needs(data)->type_name("DIR|CHECKPOINT");
  data->needs(model)->type_name("FILE");
  command->add_flag("--json", arguments->json, "one JSON object on standard output");
  command->callback([arguments] { run(*arguments); });
}

}  // namespace nibble
