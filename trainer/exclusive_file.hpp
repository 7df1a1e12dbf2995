// Small files by which processes agree, on file systems that several hosts share: written whole and handed to the
// server, and given a name that only one of several processes can give.
//
// link(2) fails where the name is there, whatever a client's caches say; so who has won is told by its answer alone.
// Not for: what stands in them (run_lock.hpp, sweep_ledger.hpp), files that are replaced (tensor/files.hpp).
#pragma once

#include <filesystem>
#include <optional>
#include <string>

namespace nibble {

/// The file's beginning, up to `most` bytes; none where it is not there. Opening it anew makes NFS ask its server.
/// Throws Error{resource} when it cannot be read.
std::optional<std::string> read_beginning(const std::filesystem::path& path, size_t most = 4096);

/// Writes the text from the file's first byte on and sends it to the disk or the server, where others see it. `flags`
/// are open(2)'s beside O_WRONLY. Returns the error's number, or 0.
int write_through(const std::filesystem::path& path, int flags, const std::string& text);

/// Gives the file a second name, which must not be there. Returns the error's number, or 0.
int link_exclusively(const std::filesystem::path& from, const std::filesystem::path& to);

}  // namespace nibble
