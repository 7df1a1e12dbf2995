// A temporary folder for each test, and the error that a call throws.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "tensor/error.hpp"

namespace nibble {

/// Everything that a test writes lies below `path("")` and vanishes with the test.
class TemporaryFolderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "nibble_data_XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string path(const std::string& name) const { return (folder_ / name).string(); }

  std::string write(const std::string& name, std::string_view contents) const {
    const std::filesystem::path file = folder_ / name;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file, std::ios::binary).write(contents.data(), static_cast<std::streamsize>(contents.size()));
    return file.string();
  }

  static std::string contents(const std::string& file) {
    std::ifstream in(file, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(in), {});
  }

 private:
  std::filesystem::path folder_;
};

inline std::string fixture(const std::string& name) { return std::string(NIBBLE_TEST_DATA) + "/data/data/" + name; }

/// The Error that `body` throws; a failure of the test when it throws none.
template <class Body>
ErrorDetail error_of(Body&& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.detail();
  }
  ADD_FAILURE() << "no Error was thrown";
  return {};
}

}  // namespace nibble
