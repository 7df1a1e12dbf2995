#include "tensor/files.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <atomic>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <new>
#include <system_error>
#include <utility>
#include <vector>

namespace nibble {
namespace {

namespace fs = std::filesystem;

/// The system's words for an error number.
std::string reason(int error) { return std::generic_category().message(error); }

std::string advice(int error) {
  switch (error) {
    case ENOSPC:
      return "free space on this disk or choose another directory";
    case EDQUOT:
      return "your quota on this file system is used up: free space or choose another directory";
    case EFBIG:
      return "the file system or `ulimit -f` forbids files of this size";
    case ENOENT:
    case ENOTDIR:
      return "check the path; the directory must exist";
    case EACCES:
    case EPERM:
    case EROFS:
      return "check the permissions (ls -l) or choose another directory";
    case EMFILE:
    case ENFILE:
      return "too many open files: see `ulimit -n`";
    default:
      return "check the disk (dmesg) or choose another directory";
  }
}

[[noreturn]] void fail(ErrorKind kind, const char* what, const fs::path& path, int error) {
  throw Error({.kind = kind, .what = what, .where = path.string(), .seen = reason(error), .next = advice(error)});
}

/// A descriptor that closes itself; for reading, where close has nothing to report.
struct Descriptor {
  int number = -1;
  ~Descriptor() {
    if (number >= 0) ::close(number);
  }
};

int open_retrying(const fs::path& path, int flags, mode_t mode = 0) {
  int descriptor;
  do {
    descriptor = ::open(path.c_str(), flags | O_CLOEXEC, mode);
  } while (descriptor < 0 && errno == EINTR);
  return descriptor;
}

/// Opens for reading and refuses what is no regular file. Returns the size in bytes.
int64_t open_regular(Descriptor& file, const fs::path& path, ErrorKind kind) {
  // O_NONBLOCK: a named pipe that nobody writes to must be refused, not waited for.
  file.number = open_retrying(path, O_RDONLY | O_NONBLOCK);
  if (file.number < 0) fail(kind, "cannot open the file", path, errno);
  struct stat status;
  if (::fstat(file.number, &status) != 0) fail(kind, "cannot examine the file", path, errno);
  if (!S_ISREG(status.st_mode))
    throw Error({.kind = kind,
                 .what = "not a file",
                 .where = path.string(),
                 .seen = S_ISDIR(status.st_mode) ? "a directory" : "a device, pipe or socket",
                 .allowed = "a regular file",
                 .next = S_ISDIR(status.st_mode) ? "name a file inside it" : "copy its contents to a file"});
  return status.st_size;
}

/// fsync by path; `flags` select file or directory.
void sync_path(const fs::path& path, int flags, const char* what) {
  Descriptor descriptor{open_retrying(path, flags)};
  if (descriptor.number < 0) fail(ErrorKind::resource, what, path, errno);
  // Some network file systems cannot sync a directory and say EINVAL; there is nothing more to be done then.
  if (::fsync(descriptor.number) != 0 && errno != EINVAL) fail(ErrorKind::resource, what, path, errno);
}

/// "runs/a/" as "runs/a".
fs::path without_trailing_slash(const fs::path& path) { return path.has_filename() ? path : path.parent_path(); }

fs::path directory_of(const fs::path& path) {
  const fs::path parent = without_trailing_slash(path).parent_path();
  return parent.empty() ? fs::path(".") : parent;
}

}  // namespace

uint64_t checksum(std::span<const std::byte> bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

std::string hex(uint64_t value) { return fmt::format("{:016x}", value); }

std::optional<uint64_t> parse_hex(std::string_view text) {
  if (text.size() != 16 || text.find_first_not_of("0123456789abcdef") != std::string_view::npos) return std::nullopt;
  uint64_t value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value, 16);
  return value;
}

struct Checksum::State {
  XXH3_state_t* xxh3 = XXH3_createState();
  State() {
    if (!xxh3) throw std::bad_alloc();
    XXH3_64bits_reset(xxh3);
  }
  ~State() { XXH3_freeState(xxh3); }
  State(const State&) = delete;
  State& operator=(const State&) = delete;
};

Checksum::Checksum() : state_(std::make_unique<State>()) {}
Checksum::~Checksum() = default;
void Checksum::update(std::span<const std::byte> bytes) {
  XXH3_64bits_update(state_->xxh3, bytes.data(), bytes.size());
}
uint64_t Checksum::value() const { return XXH3_64bits_digest(state_->xxh3); }

fs::path temporary_name(const fs::path& target) {
  static std::atomic<uint64_t> count{0};
  const std::string name = without_trailing_slash(target).filename().string();
  return directory_of(target) / fmt::format(".{}.{}.{}.tmp", name, ::getpid(), count++);
}

bool is_temporary_name(std::string_view file_name, std::string_view target_name) {
  const std::string prefix = fmt::format(".{}.", target_name);
  constexpr std::string_view suffix = ".tmp";
  if (file_name.size() < prefix.size() + suffix.size() || !file_name.starts_with(prefix) ||
      !file_name.ends_with(suffix))
    return false;
  const std::string_view numbers = file_name.substr(prefix.size(), file_name.size() - prefix.size() - suffix.size());
  const size_t dot = numbers.find('.');
  if (dot == std::string_view::npos || dot == 0 || dot + 1 == numbers.size()) return false;
  const auto digits = [](std::string_view text) {
    return std::ranges::all_of(text, [](unsigned char c) { return std::isdigit(c); });
  };
  return digits(numbers.substr(0, dot)) && digits(numbers.substr(dot + 1));
}

void sync_file(const fs::path& file) { sync_path(file, O_RDONLY, "cannot write the file to the disk"); }

void sync_directory(const fs::path& directory) {
  sync_path(directory, O_RDONLY | O_DIRECTORY, "cannot write the directory to the disk");
}

void rename_and_sync(const fs::path& from, const fs::path& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) fail(ErrorKind::resource, "cannot rename to this name", to, errno);
  sync_directory(directory_of(to));
}

AtomicFile::AtomicFile(fs::path target) : target_(std::move(target)), temporary_(temporary_name(target_)) {
  descriptor_ = open_retrying(temporary_, O_WRONLY | O_CREAT | O_EXCL, 0666);
  // A process with the same number may have been killed and left its file here.
  if (descriptor_ < 0 && errno == EEXIST && ::unlink(temporary_.c_str()) == 0)
    descriptor_ = open_retrying(temporary_, O_WRONLY | O_CREAT | O_EXCL, 0666);
  if (descriptor_ < 0) fail(ErrorKind::resource, "cannot create a file", target_, errno);
}

AtomicFile::~AtomicFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (!committed_) ::unlink(temporary_.c_str());
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail(ErrorKind::resource, "cannot write the file", target_, errno);
    if (written == 0) fail(ErrorKind::resource, "cannot write the file", target_, ENOSPC);
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
}

void AtomicFile::write_at(uint64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::pwrite(descriptor_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) fail(ErrorKind::resource, "cannot write the file", target_, written < 0 ? errno : ENOSPC);
    bytes = bytes.subspan(static_cast<size_t>(written));
    offset += static_cast<uint64_t>(written);
  }
}

void AtomicFile::commit() {
  // By path, since a library may have replaced the file that our descriptor names.
  sync_file(temporary_);
  const int closed = ::close(std::exchange(descriptor_, -1));
  if (closed != 0 && errno != EINTR) fail(ErrorKind::resource, "cannot finish the file", target_, errno);
  if (::rename(temporary_.c_str(), target_.c_str()) != 0)
    fail(ErrorKind::resource, "cannot give the file its name", target_, errno);
  committed_ = true;
  sync_directory(directory_of(target_));
}

void create_folder_of(const fs::path& file) {
  std::error_code error;
  fs::create_directories(directory_of(file), error);
  if (error) fail(ErrorKind::resource, "cannot create a directory", directory_of(file), error.value());
}

void replace_directory(const fs::path& complete, const fs::path& target) {
  sync_directory(complete);
  fs::path old;
  std::error_code error;
  // A directory cannot be renamed over a filled one, but two can change names in one step.
  if (::renameat2(AT_FDCWD, complete.c_str(), AT_FDCWD, target.c_str(), RENAME_EXCHANGE) == 0) {
    old = complete;
  } else {
    // There is no old one, or the file system cannot exchange (NFS): then the old one is away for a moment.
    if (fs::exists(target, error)) {
      old = temporary_name(target);
      rename_and_sync(target, old);
    }
    if (::rename(complete.c_str(), target.c_str()) != 0) {
      const int number = errno;
      if (!old.empty()) rename_and_sync(old, target);
      fail(ErrorKind::resource, "cannot give the directory its name", target, number);
    }
  }
  sync_directory(directory_of(target));
  if (old.empty()) return;
  fs::remove_all(old, error);
  if (error) fail(ErrorKind::resource, "cannot remove the replaced directory", old, error.value());
}

AtomicDirectory::AtomicDirectory(fs::path target) : target_(std::move(target)), temporary_(temporary_name(target_)) {
  std::error_code error;
  fs::remove_all(temporary_, error);  // of a killed process that had the same number
  fs::create_directories(temporary_, error);
  if (error) fail(ErrorKind::resource, "cannot create a directory", target_, error.value());
}

AtomicDirectory::~AtomicDirectory() {
  std::error_code ignored;
  if (!committed_) fs::remove_all(temporary_, ignored);
}

void AtomicDirectory::commit() {
  replace_directory(temporary_, target_);
  committed_ = true;
}

void remove_directory(const fs::path& directory) {
  const fs::path doomed = temporary_name(directory);
  rename_and_sync(directory, doomed);
  std::error_code error;
  fs::remove_all(doomed, error);
  if (error) fail(ErrorKind::resource, "cannot remove the directory", doomed, error.value());
}

void write_file_atomically(const fs::path& path, std::span<const std::byte> bytes) {
  AtomicFile file(path);
  file.write(bytes);
  file.commit();
}

std::string read_file(const fs::path& path, ErrorKind kind) {
  Descriptor file;
  const int64_t size = open_regular(file, path, kind);
  std::string contents(static_cast<size_t>(size), '\0');
  size_t filled = 0;
  while (true) {
    // One byte beyond the end shows a file that grew, or one in /proc whose size reads as zero.
    if (filled == contents.size()) contents.resize(contents.size() + std::max<size_t>(contents.size() / 2, 4096));
    const ssize_t count = ::read(file.number, contents.data() + filled, contents.size() - filled);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail(kind, "cannot read the file", path, errno);
    if (count == 0) break;
    filled += static_cast<size_t>(count);
  }
  contents.resize(filled);
  return contents;
}

FileChecksum checksum_file(const fs::path& path, ErrorKind kind) {
  Descriptor file;
  open_regular(file, path, kind);
  FileChecksum result;
  Checksum sum;
  std::vector<std::byte> piece(size_t{1} << 20);
  while (true) {
    const ssize_t count = ::read(file.number, piece.data(), piece.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail(kind, "cannot read the file", path, errno);
    if (count == 0) break;
    sum.update(std::span(piece).first(static_cast<size_t>(count)));
    result.bytes += static_cast<uint64_t>(count);
  }
  result.value = sum.value();
  return result;
}

MappedFile::MappedFile(const fs::path& path, ErrorKind kind) : path_(path) {
  Descriptor file;
  const int64_t size = open_regular(file, path, kind);
  if (size == 0)
    throw Error({.kind = kind,
                 .what = "the file is empty",
                 .where = path.string(),
                 .seen = "0 bytes",
                 .next = "fetch or make it again; the disk may have been full when it was written"});
  void* memory = ::mmap(nullptr, static_cast<size_t>(size), PROT_READ, MAP_PRIVATE, file.number, 0);
  if (memory == MAP_FAILED) fail(kind, "cannot map the file into memory", path, errno);
  bytes_ = {static_cast<const std::byte*>(memory), static_cast<size_t>(size)};
  struct stat status;
  if (::fstat(file.number, &status) != 0) fail(kind, "cannot examine the file", path, errno);
  device_ = status.st_dev;
  inode_ = status.st_ino;
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      bytes_(std::exchange(other.bytes_, {})),
      device_(other.device_),
      inode_(other.inode_) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(bytes_, other.bytes_);
  std::swap(device_, other.device_);
  std::swap(inode_, other.inode_);
  return *this;
}

void MappedFile::release() const {
  if (!bytes_.empty()) ::madvise(const_cast<std::byte*>(bytes_.data()), bytes_.size(), MADV_DONTNEED);
}

bool MappedFile::is_same_file(int descriptor) const {
  struct stat status;
  return ::fstat(descriptor, &status) == 0 && status.st_dev == device_ && status.st_ino == inode_ &&
         static_cast<size_t>(status.st_size) == bytes_.size();
}

}  // namespace nibble
