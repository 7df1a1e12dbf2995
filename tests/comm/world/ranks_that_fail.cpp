// A program for mpirun whose ranks do nothing but wait for each other, until one of them comes to grief:
//
//   ranks_that_fail STEPS DEADLINE_MS [FAULT RANK STEP]      FAULT: kill, stop, throw (RANK may be "all"), hang,
//   terminate
//
// Silence is found after DEADLINE_MS. Rank 0 prints "all steps done" at the end.
#include <fmt/format.h>
#include <signal.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "comm/collectives.hpp"
#include "comm/world.hpp"
#include "tensor/caught_error.hpp"

namespace nibble {
namespace {

using std::chrono::milliseconds;

void come_to_grief(const std::string& fault) {
  if (fault == "kill") raise(SIGKILL);
  if (fault == "stop") raise(SIGSTOP);
  if (fault == "terminate") {
    raise(SIGTERM);
    while (true) std::this_thread::sleep_for(milliseconds(1000));
  }
  throw Error({.kind = ErrorKind::data, .what = "the token file is broken", .where = "tokens.h5"});
}

void run_steps(World& world, const std::vector<std::string>& arguments) {
  const int64_t steps = std::stoll(arguments[0]);
  for (int64_t step = 1; step <= steps; ++step) {
    world.at(step, "forward pass");
    std::this_thread::sleep_for(milliseconds(2));
    world.at(step, "backward pass");
    if (arguments.size() == 5 && step == std::stoll(arguments[4]) &&
        (arguments[3] == "all" || arguments[3] == std::to_string(world.rank()))) {
      constexpr milliseconds for_the_news_to_spread(300);
      std::this_thread::sleep_for(for_the_news_to_spread);
      come_to_grief(arguments[2]);
    }
    world.thread().run(barrier);
  }
  if (world.is_first()) fmt::print("all steps done by {} ranks\n", world.size());
}

int run(const std::vector<std::string>& arguments) {
  try {
    LivenessOptions options;
    options.deadline = milliseconds(std::stoll(arguments.at(1)));
    options.beat = options.deadline / 20;
    run_in_world([&](World& world) { run_steps(world, arguments); }, {.liveness = options});
    return 0;
  } catch (...) {
    const Error error = caught_error();
    fmt::print(stderr, "{}\n", error.what());
    return error.exit_code();
  }
}

}  // namespace
}  // namespace nibble

int main(int count, char** arguments) { return nibble::run({arguments + 1, arguments + count}); }
