// Files of the data tests: named within the test's own folder, and the fixtures.
#pragma once

#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "tests/tensor/temporary_directory.hpp"

namespace nibble {

/// Everything that a test writes lies below `path("")` and vanishes with the test.
class TemporaryFolderTest : public TemporaryDirectoryTest {
 protected:
  std::string path(const std::string& name) const { return (directory_ / name).string(); }

  std::string write(const std::string& name, std::string_view contents) const {
    const std::filesystem::path file = directory_ / name;
    std::filesystem::create_directories(file.parent_path());
    TemporaryDirectoryTest::write(file, contents);
    return file.string();
  }

  static std::string contents(const std::string& file) {
    std::ifstream in(file, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(in), {});
  }
};

inline std::string fixture(const std::string& name) { return std::string(NIBBLE_TEST_DATA) + "/data/data/" + name; }

}  // namespace nibble
