// What lies in a directory, with typed errors instead of std::filesystem's.
//
// Not for reading and writing files (tensor/files.hpp).
#pragma once

#include <filesystem>
#include <vector>

#include "tensor/error.hpp"

namespace nibble {

/// Whether there is a file or folder. Throws Error{kind} where that cannot be told (no permission, input/output error).
bool exists(const std::filesystem::path& path, ErrorKind kind);

/// The entries of a directory in no order; none when there is no such directory.
/// Throws Error{kind}: not a directory, no permission, input/output error.
std::vector<std::filesystem::path> list_directory(const std::filesystem::path& directory, ErrorKind kind);

}  // namespace nibble
