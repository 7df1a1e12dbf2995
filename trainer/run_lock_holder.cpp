#include "trainer/run_lock_holder.hpp"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <limits>
#include <random>
#include <sstream>

#include "comm/host_name.hpp"
#include "data/json.hpp"
#include "data/json_fields.hpp"
#include "tensor/error.hpp"
#include "tensor/files.hpp"

namespace nibble {
namespace {

using nlohmann::json;

constexpr size_t text_size = 4096;
constexpr size_t longest_name = 200;  // of a host, cluster or job: with all characters escaped they fit into the text

/// Of files in /proc, which are there or the machine has none.
std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? std::string(value).substr(0, longest_name) : std::string();
}

std::string pid_namespace() {
  std::array<char, 64> link{};
  const ssize_t size = ::readlink("/proc/self/ns/pid", link.data(), link.size());
  return size > 0 ? std::string(link.data(), static_cast<size_t>(size)) : std::string();
}

/// When a process of this pid namespace started, in clock ticks after the boot; 0 for one that has ended and was not
/// waited for; none where that cannot be read.
std::optional<uint64_t> start_of(int64_t process) {
  const std::string line = first_line(fmt::format("/proc/{}/stat", process));
  const size_t name_end = line.rfind(')');  // the name may hold spaces and brackets
  if (name_end == std::string::npos) return std::nullopt;
  // From the third field on (proc(5)): state, then 18 numbers, then the start.
  std::istringstream rest(line.substr(name_end + 1));
  std::string state, skipped;
  rest >> state;
  for (int field = 4; field < 22; ++field) rest >> skipped;
  uint64_t start = 0;
  if (!(rest >> start)) return std::nullopt;
  return state == "Z" || state == "X" ? 0 : start;
}

Life life_of_process(int64_t process, uint64_t process_start) {
  if (const std::optional<uint64_t> start = start_of(process))
    return *start == process_start ? Life::alive : Life::gone;
  // Other users' processes may be hidden from /proc.
  return ::kill(static_cast<pid_t>(process), 0) != 0 && errno == ESRCH ? Life::gone : Life::unknown;
}

}  // namespace

RunLockHolder this_run_lock_holder() {
  std::random_device random;
  const std::string cluster = environment("SLURM_CLUSTER_NAME"), job = environment("SLURM_JOB_ID");
  return {.host = host_name().substr(0, longest_name),
          .boot = first_line("/proc/sys/kernel/random/boot_id"),
          .pid_namespace = pid_namespace(),
          .process = ::getpid(),
          .process_start = start_of(::getpid()).value_or(0),
          .job = job.empty() || cluster.empty() ? job : cluster + "/" + job,
          .job_restarts = std::atoll(environment("SLURM_RESTART_COUNT").c_str()),
          .nonce = uint64_t{random()} << 32 | random(),
          .since = fmt::format("{:%Y-%m-%d %H:%M:%S} UTC", fmt::gmtime(std::time(nullptr)))};
}

std::string to_text(const RunLockHolder& holder) {
  const json object = {{"host", holder.host},
                       {"boot", holder.boot},
                       {"pid_namespace", holder.pid_namespace},
                       {"process", holder.process},
                       {"process_start", holder.process_start},
                       {"job", holder.job},
                       {"job_restarts", holder.job_restarts},
                       {"nonce", hex(holder.nonce)},
                       {"since", holder.since},
                       {"heartbeats", holder.heartbeats},
                       {"released", holder.released}};
  std::string text = object.dump(-1, ' ', false, json::error_handler_t::replace);
  text.resize(text_size - 1, ' ');
  return text + "\n";
}

std::optional<RunLockHolder> parse_run_lock_holder(std::string_view text) {
  constexpr int64_t any = std::numeric_limits<int64_t>::max();
  constexpr ErrorKind kind = ErrorKind::resource;
  try {
    const json object = parse_json(text, "the lock", kind);
    const JsonFields fields(object, "the lock", kind);
    const std::optional<uint64_t> nonce = parse_hex(fields.text("nonce"));
    if (!nonce) return std::nullopt;
    return RunLockHolder{.host = fields.text("host"),
                         .boot = fields.text("boot"),
                         .pid_namespace = fields.text("pid_namespace"),
                         .process = fields.integer("process", 1, std::numeric_limits<pid_t>::max()),
                         .process_start = fields.unsigned_integer("process_start"),
                         .job = fields.text("job"),
                         .job_restarts = fields.integer("job_restarts", 0, any),
                         .nonce = *nonce,
                         .since = fields.text("since"),
                         .heartbeats = fields.unsigned_integer("heartbeats"),
                         .released = fields.flag("released")};
  } catch (const Error&) {
    return std::nullopt;
  }
}

std::string describe(const RunLockHolder& holder) {
  return fmt::format("process {} on {}{}, since {}", holder.process, holder.host,
                     holder.job.empty() ? "" : ", job " + holder.job, holder.since);
}

Life life_of(const RunLockHolder& holder, const RunLockHolder& self) {
  if (holder.released) return Life::gone;
  const bool same_machine = !holder.boot.empty() && holder.boot == self.boot && holder.host == self.host;
  if (same_machine && !holder.pid_namespace.empty() && holder.pid_namespace == self.pid_namespace)
    return life_of_process(holder.process, holder.process_start);
  // Slurm starts a job again only when all its processes have ended.
  if (!holder.job.empty() && holder.job == self.job && holder.job_restarts < self.job_restarts) return Life::gone;
  return Life::unknown;
}

}  // namespace nibble
