#include "trainer/exclusive_file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "tensor/error.hpp"

namespace nibble {
namespace {

namespace fs = std::filesystem;

constexpr int readable_by_all = 0666;  // less the process's umask

[[noreturn]] void fail(const fs::path& path, int error) {
  throw Error({.kind = ErrorKind::resource,
               .what = "cannot read a file by which processes agree",
               .where = path.string(),
               .seen = std::generic_category().message(error),
               .next = "check permissions there, or choose another directory"});
}

}  // namespace

std::optional<std::string> read_beginning(const fs::path& path, size_t most) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0 && (errno == ENOENT || errno == ESTALE)) return std::nullopt;
  if (descriptor < 0) fail(path, errno);
  std::string text(most, '\0');
  const ssize_t size = ::pread(descriptor, text.data(), text.size(), 0);
  const int error = errno;
  ::close(descriptor);
  if (size < 0 && error == ESTALE) return std::nullopt;
  if (size < 0) fail(path, error);
  text.resize(static_cast<size_t>(size));
  return text;
}

int write_through(const fs::path& path, int flags, const std::string& text) {
  const int descriptor = ::open(path.c_str(), O_WRONLY | O_CLOEXEC | flags, readable_by_all);
  if (descriptor < 0) return errno;
  const ssize_t written = ::pwrite(descriptor, text.data(), text.size(), 0);
  int error = written < 0 ? errno : written < static_cast<ssize_t>(text.size()) ? ENOSPC : 0;
  if (error == 0 && ::fsync(descriptor) != 0) error = errno;
  if (::close(descriptor) != 0 && error == 0) error = errno;
  return error;
}

int link_exclusively(const fs::path& from, const fs::path& to) {
  if (::link(from.c_str(), to.c_str()) == 0) return 0;
  const int error = errno;
  struct stat status {};  // the answer of an NFS server may be lost after it has done what was asked
  return ::stat(from.c_str(), &status) == 0 && status.st_nlink == 2 ? 0 : error;
}

}  // namespace nibble
