#include "trainer/directory.hpp"

#include <system_error>

namespace nibble {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail(const char* what, const fs::path& path, const std::error_code& error, ErrorKind kind) {
  throw Error({.kind = kind,
               .what = what,
               .where = path.string(),
               .seen = error.message(),
               .next = "check the path and the permissions of the folders in it"});
}

}  // namespace

bool exists(const fs::path& path, ErrorKind kind) {
  std::error_code error;
  const bool found = fs::exists(path, error);
  if (error) fail("cannot look for the file", path, error, kind);
  return found;
}

std::vector<fs::path> list_directory(const fs::path& directory, ErrorKind kind) {
  std::vector<fs::path> entries;
  std::error_code error;
  fs::directory_iterator entry(directory, error);
  if (error == std::errc::no_such_file_or_directory) return entries;
  for (; !error && entry != fs::directory_iterator(); entry.increment(error)) entries.push_back(entry->path());
  if (error) fail("cannot list the folder", directory, error, kind);
  return entries;
}

}  // namespace nibble
