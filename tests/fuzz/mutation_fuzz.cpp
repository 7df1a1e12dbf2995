// Our own driver of the fuzzing: replays a reader's corpus, then mutations of it. Each input runs in a process that may
// crash, hang or ask for too much memory: all of these are findings, whose input is kept and the rest goes on.
//
// mutation_fuzz --corpus DIR [--reader NAME] [--inputs N | --seconds S] [--seed N] [--findings DIR]
// Input N of a reader is the same on every machine: --seed N --inputs 1 repeats it.
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <functional>
#include <limits>
#include <new>
#include <utility>

#include "tensor/files.hpp"
#include "tests/fuzz/mutation.hpp"
#include "tests/fuzz/readers.hpp"
#include "trainer/directory.hpp"

namespace nibble::fuzz {
namespace {

namespace fs = std::filesystem;

constexpr unsigned longest_seconds = 60;             // for one input, with sanitizers on a busy machine
constexpr uint64_t most_memory = uint64_t{4} << 30;  // xz and Zstandard may ask for 1 GiB each
constexpr uint64_t batch = 2000;                     // inputs of a process

struct Arguments {
  std::string corpus, reader, findings = "fuzz-findings";
  uint64_t inputs = 0, seed = 1;
  double seconds = 0;
};

struct Counts {
  uint64_t next = 0;  ///< the input that is being read
  uint64_t taken = 0, refused = 0, findings = 0;
  bool reading = false;  ///< else it is between two inputs, or at its end
};

using MakeInput = std::function<std::string(uint64_t)>;

void keep(const Arguments& arguments, const Reader& reader, uint64_t number, const std::string& input,
          const std::string& why) {
  const fs::path path = fs::path(arguments.findings) / fmt::format("{}-{}", reader.name, number);
  create_folder_of(path);
  write_file_atomically(path, input);
  fmt::print("FINDING {} input {}: {}\n  kept in {}\n", reader.name, number, why.substr(0, 300), path.string());
  std::fflush(stdout);
}

/// Reads inputs up to `end`; the counts are shared with the process that waits.
void read_inputs(const Arguments& arguments, const Reader& reader, const MakeInput& make, uint64_t end,
                 Counts& counts) {
  for (; counts.next < end; ++counts.next) {
    const std::string input = make(counts.next);
    alarm(longest_seconds);
    counts.reading = true;
    try {
      ++(fuzz_one(reader, {reinterpret_cast<const uint8_t*>(input.data()), input.size()}) ? counts.taken
                                                                                          : counts.refused);
    } catch (const std::exception& error) {
      ++counts.findings;
      keep(arguments, reader, counts.next, input, error.what());
    }
    counts.reading = false;
  }
  alarm(0);
}

/// Reads inputs [counts.next, end) in processes of their own.
void run(const Arguments& arguments, const Reader& reader, const MakeInput& make, uint64_t end, Counts& counts) {
  while (counts.next < end) {
    std::fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
#ifndef __SANITIZE_ADDRESS__  // whose shadow is larger than any limit
      const rlimit limit{most_memory, most_memory};
      setrlimit(RLIMIT_AS, &limit);
#endif
      read_inputs(arguments, reader, make, std::min(end, counts.next + batch), counts);
      std::exit(0);  // with the leaks that a sanitizer has found
    }
    int status = 0;
    waitpid(child, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) continue;
    ++counts.findings;
    const std::string why = !WIFSIGNALED(status)          ? "the process ended itself"
                            : WTERMSIG(status) == SIGALRM ? fmt::format("no end within {} s", longest_seconds)
                                                          : fmt::format("signal {}", WTERMSIG(status));
    if (!std::exchange(counts.reading, false)) {
      fmt::print("FINDING {} before input {}: at the end of a process: {}\n", reader.name, counts.next, why);
      continue;
    }
    keep(arguments, reader, counts.next, make(counts.next), why);
    ++counts.next;
  }
}

std::vector<std::string> read_corpus(const fs::path& folder) {
  std::vector<fs::path> paths = list_directory(folder, ErrorKind::configuration);
  std::ranges::sort(paths);
  std::vector<std::string> files;
  for (const fs::path& path : paths) files.push_back(read_file(path, ErrorKind::configuration));
  if (files.empty())
    throw Error({.kind = ErrorKind::configuration,
                 .what = "the corpus of a reader is empty",
                 .where = folder.string(),
                 .next = "give the folder tests/fuzz/corpus"});
  return files;
}

/// Replays the corpus and reads mutations; the counts of both.
Counts fuzz(const Arguments& arguments, const Reader& reader, double seconds) {
  const std::vector<std::string> corpus = read_corpus(fs::path(arguments.corpus) / reader.name);
  void* shared = mmap(nullptr, sizeof(Counts), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) throw std::bad_alloc();
  Counts& counts = *new (shared) Counts;
  run(
      arguments, reader, [&](uint64_t number) { return corpus[number]; }, corpus.size(), counts);

  counts.next = arguments.seed;
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  const MakeInput mutated = [&](uint64_t number) { return mutate(corpus, number); };
  if (seconds > 0)
    while (std::chrono::steady_clock::now() < end) run(arguments, reader, mutated, counts.next + 100, counts);
  else run(arguments, reader, mutated, arguments.seed + arguments.inputs, counts);
  const Counts result = counts;
  munmap(shared, sizeof(Counts));
  return result;
}

int run_all(const Arguments& arguments) {
  std::vector<const Reader*> chosen;
  for (const Reader& reader : readers())
    if (arguments.reader.empty()) chosen.push_back(&reader);
  if (!arguments.reader.empty()) chosen.push_back(&find_reader(arguments.reader));
  Counts total;
  for (const Reader* reader : chosen) {
    const auto begin = std::chrono::steady_clock::now();
    const Counts counts = fuzz(arguments, *reader, arguments.seconds / static_cast<double>(chosen.size()));
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
    fmt::print("{:18} taken {:7}  refused {:7}  findings {:3}  {:6.1f} s\n", reader->name, counts.taken, counts.refused,
               counts.findings, taken.count());
    total.taken += counts.taken;
    total.refused += counts.refused;
    total.findings += counts.findings;
  }
  fmt::print("fuzz: {} inputs, {} findings\n", total.taken + total.refused + total.findings, total.findings);
  return total.findings == 0 ? 0 : 1;
}

}  // namespace
}  // namespace nibble::fuzz

int main(int argc, char** argv) {
  nibble::fuzz::Arguments arguments;
  CLI::App app("Reads damaged input with every reader.");
  app.add_option("--corpus", arguments.corpus, "folder with a folder of files for each reader")->required();
  app.add_option("--reader", arguments.reader, "one reader instead of all");
  app.add_option("--inputs", arguments.inputs, "mutations for each reader, after its corpus");
  app.add_option("--seconds", arguments.seconds, "time for mutations, shared by the readers, instead of their number");
  app.add_option("--seed", arguments.seed, "number of the first mutation");
  app.add_option("--findings", arguments.findings, "folder for the inputs that a reader did not survive");
  CLI11_PARSE(app, argc, argv);
  try {
    return nibble::fuzz::run_all(arguments);
  } catch (const nibble::Error& error) {
    fmt::print(stderr, "{}\n", error.what());
    return error.exit_code();
  }
}
