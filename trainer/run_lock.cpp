#include "trainer/run_lock.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <system_error>

#include "tensor/error.hpp"
#include "tensor/files.hpp"

namespace nibble {
namespace {

std::string this_process() {
  std::array<char, 256> host{};
  ::gethostname(host.data(), host.size() - 1);
  return fmt::format("process {} on {}", ::getpid(), host.data());
}

bool overwrite(int descriptor, const std::string& text) {
  return ::ftruncate(descriptor, 0) == 0 &&
         ::pwrite(descriptor, text.data(), text.size(), 0) == static_cast<ssize_t>(text.size());
}

}  // namespace

RunLock::RunLock(const std::filesystem::path& run_directory) {
  const std::filesystem::path path = run_directory / ".lock";
  const auto fail = [&](int error) {
    if (descriptor_ >= 0) ::close(descriptor_);
    throw Error({.kind = ErrorKind::resource,
                 .what = "cannot lock the run's directory",
                 .where = path.string(),
                 .seen = std::generic_category().message(error),
                 .next = "check permissions and free space there, or choose another run.directory"});
  };
  constexpr int readable_by_all = 0666;  // less the process's umask
  descriptor_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, readable_by_all);
  if (descriptor_ < 0) fail(errno);
  if (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) fail(errno);
    ::close(descriptor_);
    std::string holder = read_file(path, ErrorKind::resource);
    if (holder.ends_with('\n')) holder.pop_back();
    throw Error({.kind = ErrorKind::configuration,
                 .what = "another process is at work in the run's directory",
                 .where = path.string(),
                 .seen = holder.empty() ? "it has not given its name yet" : holder,
                 .allowed = "one process in a run's directory",
                 .next = "wait for it or stop it (kill -INT saves first), or choose another run.directory"});
  }
  if (!overwrite(descriptor_, this_process() + "\n")) fail(errno);
}

RunLock::~RunLock() { ::close(descriptor_); }

}  // namespace nibble
