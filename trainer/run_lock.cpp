#include "trainer/run_lock.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <optional>
#include <system_error>
#include <vector>

#include "tensor/error.hpp"
#include "tensor/files.hpp"
#include "trainer/directory.hpp"
#include "trainer/exclusive_file.hpp"

namespace nibble {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view prefix = ".lock.";
constexpr std::string_view prepared_suffix = ".tmp";
constexpr int missed_heartbeats = 3;

fs::path path_of(const fs::path& run, int64_t number) { return run / fmt::format("{}{:08}", prefix, number); }

/// The locks in the folder, ascending.
std::vector<int64_t> numbers_in(const fs::path& run) {
  std::vector<int64_t> numbers;
  for (const fs::path& entry : list_directory(run, ErrorKind::resource)) {
    const std::string name = entry.filename().string();
    if (!name.starts_with(prefix)) continue;
    int64_t number = 0;
    const char* end = name.data() + name.size();
    const auto [stopped, error] = std::from_chars(name.data() + prefix.size(), end, number);
    if (error == std::errc() && stopped == end && number > 0 && path_of(run, number) == entry)
      numbers.push_back(number);
  }
  std::ranges::sort(numbers);
  return numbers;
}

int64_t highest_in(const fs::path& run) {
  const std::vector<int64_t> numbers = numbers_in(run);
  return numbers.empty() ? 0 : numbers.back();
}

[[noreturn]] void fail(const fs::path& path, int error) {
  throw Error({.kind = ErrorKind::resource,
               .what = "cannot lock the run's directory",
               .where = path.string(),
               .seen = std::generic_category().message(error),
               .next = "check permissions and free space there, or choose another run.directory"});
}

[[noreturn]] void refuse(const fs::path& path, const std::optional<RunLockHolder>& holder,
                         std::chrono::milliseconds heartbeat) {
  throw Error(
      {.kind = ErrorKind::configuration,
       .what = "another process is at work in the run's directory",
       .where = path.string(),
       .seen = holder ? describe(*holder) : "it changes the lock, and does not say who it is",
       .allowed = "one process in a run's directory",
       .next = fmt::format("wait for it or stop it (kill -INT saves first; {} s after its end its lock counts no "
                           "more), or choose another run.directory",
                           missed_heartbeats * heartbeat.count() / 1000)});
}

}  // namespace

RunLock::RunLock(const fs::path& run_directory, const RunLockOptions& options)
    : directory_(run_directory), options_(options), self_(this_run_lock_holder()) {
  constexpr int most_tries = 10;  // each is lost to another process that has just taken or left the lock
  for (int i = 0; i < most_tries && number_ == 0; ++i) {
    const int64_t highest = highest_in(directory_);
    if ((highest == 0 || may_follow(highest)) && take(highest + 1)) number_ = highest + 1;
  }
  if (number_ == 0) refuse(directory_, std::nullopt, options_.heartbeat);
  remove_older();
  heart_ = std::thread([this] { beat(); });
}

RunLock::~RunLock() {
  {
    const std::lock_guard lock(mutex_);
    ends_ = true;
  }
  wake_.notify_all();
  heart_.join();
  try {
    self_.released = true;
    if (is_own_file()) write_through(path_of(directory_, number_), 0, to_text(self_));
  } catch (const Error&) {
    // It stays as that of a process that has ended.
  }
}

bool RunLock::may_follow(int64_t number) const {
  const fs::path path = path_of(directory_, number);
  const std::optional<std::string> first = read_beginning(path);
  if (!first) return false;
  const std::optional<RunLockHolder> holder = parse_run_lock_holder(*first);
  const Life life = holder ? life_of(*holder, self_) : Life::unknown;
  if (life == Life::alive) refuse(path, holder, options_.heartbeat);
  if (life == Life::gone) return true;

  options_.message(fmt::format("{} is locked by {}: waiting {} s for a sign of life", directory_.string(),
                               holder ? describe(*holder) : "an unknown process",
                               missed_heartbeats * options_.heartbeat.count() / 1000));
  using Clock = std::chrono::steady_clock;
  const Clock::time_point end = Clock::now() + missed_heartbeats * options_.heartbeat;
  while (Clock::now() < end) {
    std::this_thread::sleep_for(options_.heartbeat / 4);
    const std::optional<std::string> now = read_beginning(path);
    if (!now || highest_in(directory_) != number) return false;
    if (*now == *first) continue;
    const std::optional<RunLockHolder> changed = parse_run_lock_holder(*now);
    if (changed && changed->released) return true;
    refuse(path, changed, options_.heartbeat);
  }
  return true;
}

bool RunLock::take(int64_t number) {
  const fs::path path = path_of(directory_, number);
  const fs::path prepared = directory_ / fmt::format("{}{}{}", prefix, hex(self_.nonce), prepared_suffix);
  if (const int error = write_through(prepared, O_CREAT | O_EXCL, to_text(self_)); error != 0) {
    ::unlink(prepared.c_str());
    fail(prepared, error);
  }
  int error = link_exclusively(prepared, path);
  ::unlink(prepared.c_str());
  if (error == EPERM || error == EOPNOTSUPP || error == ENOSYS)  // a file system without second names
    error = write_through(path, O_CREAT | O_EXCL, to_text(self_));
  if (error == EEXIST || error == ENOENT) return false;  // another was first, or has removed what was prepared here
  if (error != 0) fail(path, error);
  // Somebody may have gone on to a higher number since the folder was listed.
  if (highest_in(directory_) == number) return true;
  ::unlink(path.c_str());
  return false;
}

bool RunLock::is_own_file() const {
  const std::optional<std::string> text = read_beginning(path_of(directory_, number_));
  const std::optional<RunLockHolder> holder = text ? parse_run_lock_holder(*text) : std::nullopt;
  return holder && holder->nonce == self_.nonce;
}

void RunLock::still_held() const {
  const int64_t highest = highest_in(directory_);
  if (highest <= number_ && is_own_file()) return;
  const std::optional<std::string> text = read_beginning(path_of(directory_, highest));
  const std::optional<RunLockHolder> holder = text ? parse_run_lock_holder(*text) : std::nullopt;
  throw Error({.kind = ErrorKind::configuration,
               .what = "another process has taken over the run's directory",
               .where = path_of(directory_, number_).string(),
               .seen = holder ? describe(*holder) : "the lock was removed or replaced",
               .allowed = describe(self_),
               .next =
                   "let one of them run. This one had given no sign of life for some time (stopped, or cut off from "
                   "the disk); it has saved nothing since"});
}

void RunLock::remove_older() const {
  std::error_code ignored;  // an older lock that stays harms nobody
  for (const fs::path& entry : list_directory(directory_, ErrorKind::resource)) {
    const std::string name = entry.filename().string();
    if (name.starts_with(prefix) && name.ends_with(prepared_suffix)) fs::remove(entry, ignored);
  }
  for (const int64_t number : numbers_in(directory_))
    if (number < number_) fs::remove(path_of(directory_, number), ignored);
}

void RunLock::beat() {
  std::unique_lock lock(mutex_);
  while (!wake_.wait_for(lock, options_.heartbeat, [this] { return ends_; })) {
    ++self_.heartbeats;
    try {
      if (!is_own_file()) return;
      write_through(path_of(directory_, number_), 0, to_text(self_));
    } catch (const Error&) {
      // The next one may be written; still_held tells if it comes too late.
    }
  }
}

}  // namespace nibble
