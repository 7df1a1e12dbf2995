#include "trainer/directory.hpp"

#include "tests/tensor/temporary_directory.hpp"

namespace nibble {
namespace {

class DirectoryTest : public TemporaryDirectoryTest {};

TEST_F(DirectoryTest, EntriesAreListedAndNoneWhereNothingIs) {
  write(directory_ / "one", "");
  write(directory_ / ".two", "");
  EXPECT_EQ(list_directory(directory_, ErrorKind::data).size(), 2u);
  EXPECT_TRUE(list_directory(directory_ / "none", ErrorKind::data).empty());
  EXPECT_TRUE(exists(directory_ / "one", ErrorKind::data));
  EXPECT_FALSE(exists(directory_ / "none", ErrorKind::data));
}

TEST_F(DirectoryTest, WhatCannotBeToldIsATypedError) {
  write(directory_ / "file", "");
  EXPECT_EQ(error_of([&] { list_directory(directory_ / "file", ErrorKind::data); }).what, "cannot list the folder");
  const std::filesystem::path too_long = directory_ / std::string(300, 'x');
  const ErrorDetail error = error_of([&] { exists(too_long, ErrorKind::checkpoint); });
  EXPECT_EQ(error.kind, ErrorKind::checkpoint);
  EXPECT_EQ(error.what, "cannot look for the file");
  EXPECT_EQ(error_of([&] { list_directory(too_long, ErrorKind::data); }).kind, ErrorKind::data);
}

}  // namespace
}  // namespace nibble
