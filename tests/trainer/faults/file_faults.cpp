#include "tests/trainer/faults/file_faults.hpp"

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstring>

namespace nibble::faults {
namespace {

// Plain memory: the functions below run before constructors and on every thread.
std::array<char, 4096> g_folder{}, g_only{};
Fault g_fault = Fault::none;
int g_at = 0;
std::atomic<int> g_count{0};
std::array<std::atomic<bool>, 65536> g_watched{};  // by descriptor

enum class Needs { nothing, room };

template <class Function>
Function* real(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

bool is_watched(const char* path) {
  return g_folder[0] != 0 && std::strncmp(path, g_folder.data(), std::strlen(g_folder.data())) == 0 &&
         std::strstr(path, g_only.data()) != nullptr;
}
bool is_watched(int descriptor) {
  return descriptor >= 0 && static_cast<size_t>(descriptor) < g_watched.size() &&
         g_watched[static_cast<size_t>(descriptor)];
}
/// A path relative to an open folder is below it.
bool is_watched_at(int folder, const char* path) { return path[0] == '/' ? is_watched(path) : is_watched(folder); }

int watch(int descriptor, bool watched) {
  if (descriptor >= 0 && static_cast<size_t>(descriptor) < g_watched.size())
    g_watched[static_cast<size_t>(descriptor)] = watched;
  return descriptor;
}

/// Counts an operation. Whether it must fail; errno is set then.
bool fails(Needs needs) {
  const int number = ++g_count;
  if (g_fault == Fault::disk_full && number >= g_at && needs == Needs::room) {
    errno = ENOSPC;
    return true;
  }
  if (number != g_at || g_fault == Fault::none || g_fault == Fault::disk_full) return false;
  if (g_fault == Fault::kill) raise(SIGKILL);
  errno = EIO;
  return true;
}

/// How many bytes a write is to write; 0: it fails.
size_t bytes_to_write(size_t bytes) {
  if (!fails(Needs::room)) return bytes;
  return g_fault == Fault::short_write ? bytes / 2 : 0;
}

template <class Open>
int open_watched(bool watched, int flags, Open&& open) {
  if (watched && fails((flags & O_CREAT) != 0 ? Needs::room : Needs::nothing)) return -1;
  return watch(open(), watched);
}

}  // namespace

void arm(const std::string& folder, Fault fault, int at, const std::string& only) {
  std::snprintf(g_folder.data(), g_folder.size(), "%s", folder.c_str());
  std::snprintf(g_only.data(), g_only.size(), "%s", only.c_str());
  g_fault = fault;
  g_at = at;
  g_count = 0;
}

void disarm() {
  g_folder[0] = 0;
  g_fault = Fault::none;
}

int operations() { return g_count; }

}  // namespace nibble::faults

using namespace nibble::faults;

extern "C" {

int open(const char* path, int flags, ...) {
  va_list more;
  va_start(more, flags);
  const mode_t mode = va_arg(more, mode_t);
  va_end(more);
  static const auto next = real<int(const char*, int, ...)>("open");
  return open_watched(is_watched(path), flags, [&] { return next(path, flags, mode); });
}
int open64(const char* path, int flags, ...) {
  va_list more;
  va_start(more, flags);
  const mode_t mode = va_arg(more, mode_t);
  va_end(more);
  static const auto next = real<int(const char*, int, ...)>("open64");
  return open_watched(is_watched(path), flags, [&] { return next(path, flags, mode); });
}
int openat(int folder, const char* path, int flags, ...) {
  va_list more;
  va_start(more, flags);
  const mode_t mode = va_arg(more, mode_t);
  va_end(more);
  static const auto next = real<int(int, const char*, int, ...)>("openat");
  return open_watched(is_watched_at(folder, path), flags, [&] { return next(folder, path, flags, mode); });
}
int openat64(int folder, const char* path, int flags, ...) {
  va_list more;
  va_start(more, flags);
  const mode_t mode = va_arg(more, mode_t);
  va_end(more);
  static const auto next = real<int(int, const char*, int, ...)>("openat64");
  return open_watched(is_watched_at(folder, path), flags, [&] { return next(folder, path, flags, mode); });
}

int close(int descriptor) {
  static const auto next = real<int(int)>("close");
  const bool fault = is_watched(descriptor) && fails(Needs::nothing);
  const int error = errno;
  watch(descriptor, false);
  const int result = next(descriptor);  // a failing close closes
  if (!fault) return result;
  errno = error;
  return -1;
}

ssize_t write(int descriptor, const void* bytes, size_t count) {
  static const auto next = real<ssize_t(int, const void*, size_t)>("write");
  if (!is_watched(descriptor)) return next(descriptor, bytes, count);
  const size_t most = bytes_to_write(count);
  return most == 0 && count > 0 ? -1 : next(descriptor, bytes, most);
}
ssize_t pwrite(int descriptor, const void* bytes, size_t count, off_t offset) {
  static const auto next = real<ssize_t(int, const void*, size_t, off_t)>("pwrite");
  if (!is_watched(descriptor)) return next(descriptor, bytes, count, offset);
  const size_t most = bytes_to_write(count);
  return most == 0 && count > 0 ? -1 : next(descriptor, bytes, most, offset);
}
ssize_t pwrite64(int descriptor, const void* bytes, size_t count, off64_t offset) {
  return pwrite(descriptor, bytes, count, offset);
}

int ftruncate(int descriptor, off_t size) noexcept {
  static const auto next = real<int(int, off_t)>("ftruncate");
  return is_watched(descriptor) && fails(Needs::room) ? -1 : next(descriptor, size);
}
int ftruncate64(int descriptor, off64_t size) noexcept { return ftruncate(descriptor, size); }

int fsync(int descriptor) { return is_watched(descriptor) && fails(Needs::nothing) ? -1 : 0; }
int fdatasync(int descriptor) { return fsync(descriptor); }

int rename(const char* from, const char* to) noexcept {
  static const auto next = real<int(const char*, const char*)>("rename");
  return is_watched(to) && fails(Needs::nothing) ? -1 : next(from, to);
}
int renameat2(int from_folder, const char* from, int to_folder, const char* to, unsigned flags) noexcept {
  static const auto next = real<int(int, const char*, int, const char*, unsigned)>("renameat2");
  return is_watched(to) && fails(Needs::nothing) ? -1 : next(from_folder, from, to_folder, to, flags);
}
int mkdir(const char* path, mode_t mode) noexcept {
  static const auto next = real<int(const char*, mode_t)>("mkdir");
  return is_watched(path) && fails(Needs::room) ? -1 : next(path, mode);
}
int unlink(const char* path) noexcept {
  static const auto next = real<int(const char*)>("unlink");
  return is_watched(path) && fails(Needs::nothing) ? -1 : next(path);
}
int unlinkat(int folder, const char* path, int flags) noexcept {
  static const auto next = real<int(int, const char*, int)>("unlinkat");
  return is_watched_at(folder, path) && fails(Needs::nothing) ? -1 : next(folder, path, flags);
}
int remove(const char* path) noexcept {
  static const auto next = real<int(const char*)>("remove");
  return is_watched(path) && fails(Needs::nothing) ? -1 : next(path);
}
int rmdir(const char* path) noexcept {
  static const auto next = real<int(const char*)>("rmdir");
  return is_watched(path) && fails(Needs::nothing) ? -1 : next(path);
}
}
