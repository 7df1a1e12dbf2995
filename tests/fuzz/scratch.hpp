// A folder in memory for readers that need files; gone when the process ends.
#pragma once

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "tests/fuzz/readers.hpp"

namespace nibble::fuzz {

class Scratch {
 public:
  Scratch() {
    const std::filesystem::path memory = "/dev/shm";
    std::error_code error;
    const bool usable = std::filesystem::is_directory(memory, error) && !error;
    const std::filesystem::path root = usable ? memory : std::filesystem::temp_directory_path();
    // libFuzzer's end runs no destructors, nor does a crash: whoever comes next clears up.
    const std::string prefix = "nibble_fuzz.";
    for (const auto& entry : std::filesystem::directory_iterator(root, error)) {
      const std::string name = entry.path().filename().string();
      if (name.starts_with(prefix) && !std::filesystem::exists("/proc/" + name.substr(prefix.size()), error))
        std::filesystem::remove_all(entry.path(), error);
    }
    folder_ = root / (prefix + std::to_string(::getpid()));
    std::filesystem::create_directory(folder_);
  }
  ~Scratch() {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  std::filesystem::path path(const std::string& name) const { return folder_ / name; }
  std::filesystem::path write(const std::string& name, Bytes bytes) const {
    std::ofstream file(path(name), std::ios::binary);
    file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    return path(name);
  }

 private:
  std::filesystem::path folder_;
};

/// One for the process.
inline const Scratch& scratch() {
  static const Scratch folder;
  return folder;
}

inline std::string_view text_of(Bytes bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }
inline Bytes bytes_of_text(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

}  // namespace nibble::fuzz
