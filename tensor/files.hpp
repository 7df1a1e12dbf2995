// Files: whole ones only. A file is replaced by a complete one or not at all, and is read with typed errors.
//
// Checksums are XXH3 (64 bits): they find accidents, they do not stop a forger.
// Not for: what stands in a file (trainer/safetensors.hpp, data/hdf5.hpp, ...).
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "tensor/error.hpp"

namespace nibble {

/// The bytes of a text.
inline std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

/// XXH3, 64 bits, of the whole span.
uint64_t checksum(std::span<const std::byte> bytes);

/// Sixteen lower-case hexadecimal digits.
std::string hex(uint64_t value);
/// The inverse of `hex`; empty for any other text.
std::optional<uint64_t> parse_hex(std::string_view text);

/// XXH3 of bytes that come in pieces.
class Checksum {
 public:
  Checksum();
  ~Checksum();
  Checksum(const Checksum&) = delete;
  Checksum& operator=(const Checksum&) = delete;

  void update(std::span<const std::byte> bytes);
  uint64_t value() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// A name beside `target` that no other process or call uses: ".NAME.PROCESS.COUNT.tmp" in the same directory.
std::filesystem::path temporary_name(const std::filesystem::path& target);

/// Whether the file name is one that `temporary_name` made for a file or folder called `target_name`.
bool is_temporary_name(std::string_view file_name, std::string_view target_name);

/// Flushes a file's contents to the disk. Throws Error{resource}.
void sync_file(const std::filesystem::path& file);

/// Flushes a directory's entries: after this a rename in it survives a power cut. Throws Error{resource}.
void sync_directory(const std::filesystem::path& directory);

/// Renames within one directory and syncs that directory; replaces a file that has the new name.
/// Throws Error{resource}.
void rename_and_sync(const std::filesystem::path& from, const std::filesystem::path& to);

/// Makes the folders above a file that is about to be written. Throws Error{resource}.
void create_folder_of(const std::filesystem::path& file);

/// A file under construction: written under a temporary name, and under its own name only when complete.
///
///   AtomicFile file("metrics.json");
///   file.write(bytes_of(text));                  // or any other writer of file.path(), such as HDF5
///   file.commit();
class AtomicFile {
 public:
  /// Creates the empty temporary beside the target. Throws Error{resource} when the directory is missing or read-only.
  explicit AtomicFile(std::filesystem::path target);
  /// Removes the temporary unless it was committed.
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  /// The temporary name, for libraries that write files themselves.
  const std::filesystem::path& path() const { return temporary_; }
  /// Appends. Throws Error{resource}: disk full, quota, input/output error.
  void write(std::span<const std::byte> bytes);
  /// Writes at a place of its own, which may lie behind the end; what nobody writes there reads as zero.
  void write_at(uint64_t offset, std::span<const std::byte> bytes);
  /// Syncs the file, renames it to the target, syncs the directory. Throws Error{resource}.
  void commit();

 private:
  std::filesystem::path target_, temporary_;
  int descriptor_ = -1;
  bool committed_ = false;
};

/// Gives a complete folder its name: syncs it, renames it within one directory, syncs that directory. A folder that has
/// the name already is removed after the new one is in place. Throws Error{resource}.
void replace_directory(const std::filesystem::path& complete, const std::filesystem::path& target);

/// A folder under construction: filled under a temporary name, and under its own name only when complete.
/// Whoever fills it syncs each file (an AtomicFile does).
class AtomicDirectory {
 public:
  /// Creates the empty temporary beside the target, and the folders above both. Throws Error{resource}.
  explicit AtomicDirectory(std::filesystem::path target);
  /// Removes the temporary with all that is in it unless it was committed.
  ~AtomicDirectory();
  AtomicDirectory(const AtomicDirectory&) = delete;
  AtomicDirectory& operator=(const AtomicDirectory&) = delete;

  /// The temporary name.
  const std::filesystem::path& path() const { return temporary_; }
  /// Gives the folder the target's name as replace_directory does. Throws Error{resource}.
  void commit();

 private:
  std::filesystem::path target_, temporary_;
  bool committed_ = false;
};

/// Removes a folder so that no part of it is ever seen under its name: renames it to a temporary name first.
/// Throws Error{resource}.
void remove_directory(const std::filesystem::path& directory);

/// Throws Error{resource}; the old file, if any, is then unchanged.
void write_file_atomically(const std::filesystem::path& path, std::span<const std::byte> bytes);
inline void write_file_atomically(const std::filesystem::path& path, std::string_view text) {
  write_file_atomically(path, bytes_of(text));
}

/// The whole file, which may be empty. Throws Error{kind}: missing, a directory, no permission, unreadable.
std::string read_file(const std::filesystem::path& path, ErrorKind kind);

struct FileChecksum {
  uint64_t bytes = 0, value = 0;
};

/// XXH3 of a whole file, which is read piece by piece: a mapped one would count as the process's memory until its end.
/// Throws Error{kind} as read_file does.
FileChecksum checksum_file(const std::filesystem::path& path, ErrorKind kind);

/// A file mapped into memory for reading. The file must not be shortened while it is mapped.
class MappedFile {
 public:
  MappedFile() = default;
  /// Throws Error{kind}: missing, not a regular file, no permission, empty.
  MappedFile(const std::filesystem::path& path, ErrorKind kind);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  std::span<const std::byte> bytes() const { return bytes_; }
  const std::filesystem::path& path() const { return path_; }
  /// Pages that were read count as the process's memory no more; they are read again when they are needed.
  void release() const;
  /// Whether an open descriptor reads the very file that was mapped, and that file has kept its length.
  bool is_same_file(int descriptor) const;

 private:
  std::filesystem::path path_;
  std::span<const std::byte> bytes_;
  uint64_t device_ = 0, inode_ = 0;
};

}  // namespace nibble
