// What tests of files share: a directory that vanishes with the test, and the error that a call throws.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/error.hpp"

namespace nibble {

class TemporaryDirectoryTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "nibble_test_XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    directory_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  /// The names in a directory, hidden ones included.
  static std::vector<std::string> names_in(const std::filesystem::path& directory) {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(directory))
      names.push_back(entry.path().filename().string());
    std::sort(names.begin(), names.end());
    return names;
  }
  static void write(const std::filesystem::path& path, std::string_view bytes) {
    std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  }
  /// Replaces one byte in place: far cheaper than writing the file again.
  static void set_byte(const std::filesystem::path& path, size_t position, char value) {
    std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(static_cast<std::streamoff>(position));
    file.put(value);
  }

  std::filesystem::path directory_;
};

/// The detail of the Error that `body` throws; the test fails if it throws none.
template <class Body>
ErrorDetail error_of(Body&& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.detail();
  }
  ADD_FAILURE() << "no error was thrown";
  return {};
}

}  // namespace nibble
