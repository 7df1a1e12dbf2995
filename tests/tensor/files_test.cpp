#include "tensor/files.hpp"

#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/tensor/temporary_directory.hpp"

namespace nibble {
namespace {

namespace fs = std::filesystem;

class FilesTest : public TemporaryDirectoryTest {};

TEST(Checksum, KnownAnswers) {
  // xxHash's own sanity test: no input, and the empty string with XXH3_64bits.
  EXPECT_EQ(checksum({}), 0x2d06800538d394c2u);
  // xxhsum -H3 of "abc".
  EXPECT_EQ(checksum(bytes_of("abc")), 0x78af5f94892f3950u);
}

TEST(Checksum, PiecesGiveTheSameAsTheWhole) {
  std::string text;
  for (int i = 0; i < 5000; ++i) text += std::to_string(i * i);
  Checksum pieces;
  for (size_t first = 0; first < text.size(); first += 777)
    pieces.update(bytes_of(std::string_view(text).substr(first, 777)));
  EXPECT_EQ(pieces.value(), checksum(bytes_of(text)));
  EXPECT_NE(pieces.value(), checksum(bytes_of(text).subspan(1)));
}

TEST(Checksum, HexHasSixteenDigits) {
  EXPECT_EQ(hex(0xab0), "0000000000000ab0");
  EXPECT_EQ(parse_hex("0000000000000ab0"), 0xab0);
  EXPECT_EQ(parse_hex(hex(~uint64_t{0})), ~uint64_t{0});
  for (const char* text : {"", "ab0", "00000000000000ab0", "0000000000000AB0", "000000000000+ab0", "0x00000000000ab0"})
    EXPECT_EQ(parse_hex(text), std::nullopt) << text;
}

TEST_F(FilesTest, AFileIsReplacedAsAWhole) {
  const fs::path path = directory_ / "file";
  write_file_atomically(path, "old");
  {
    AtomicFile file(path);
    file.write(bytes_of("new, and "));
    EXPECT_EQ(read_file(path, ErrorKind::data), "old");
    file.write(bytes_of("longer"));
    file.commit();
  }
  EXPECT_EQ(read_file(path, ErrorKind::data), "new, and longer");
  EXPECT_EQ(names_in(directory_), std::vector<std::string>{"file"});
}

TEST_F(FilesTest, AnAbandonedFileLeavesNothing) {
  const fs::path path = directory_ / "file";
  write_file_atomically(path, "old");
  {
    AtomicFile file(path);
    file.write(bytes_of("half of"));
    EXPECT_EQ(names_in(directory_).size(), 2u);
  }
  EXPECT_EQ(read_file(path, ErrorKind::data), "old");
  EXPECT_EQ(names_in(directory_), std::vector<std::string>{"file"});
}

TEST_F(FilesTest, AnotherWriterMayReplaceTheTemporary) {
  AtomicFile file(directory_ / "file");
  fs::remove(file.path());
  write(file.path(), "written by a library");
  file.commit();
  EXPECT_EQ(read_file(directory_ / "file", ErrorKind::data), "written by a library");
}

TEST_F(FilesTest, AFullDiskIsAResourceErrorAndTheOldFileStays) {
  const fs::path path = directory_ / "file";
  write_file_atomically(path, "old");
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = signal(SIGXFSZ, SIG_IGN);
  const rlimit small{.rlim_cur = 1000, .rlim_max = before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const ErrorDetail error = error_of([&] { write_file_atomically(path, std::string(5000, 'x')); });
  setrlimit(RLIMIT_FSIZE, &before);
  signal(SIGXFSZ, handler);
  EXPECT_EQ(error.kind, ErrorKind::resource);
  EXPECT_EQ(error.where, path.string());
  EXPECT_FALSE(error.next.empty());
  EXPECT_EQ(read_file(path, ErrorKind::data), "old");
  EXPECT_EQ(names_in(directory_), std::vector<std::string>{"file"});
}

TEST_F(FilesTest, WritingIntoNoDirectoryIsAResourceError) {
  EXPECT_EQ(error_of([&] { write_file_atomically(directory_ / "none" / "file", "x"); }).kind, ErrorKind::resource);
  EXPECT_EQ(error_of([&] { sync_directory(directory_ / "none"); }).kind, ErrorKind::resource);
}

TEST_F(FilesTest, ReadingRefusesWhatIsNoReadableFile) {
  const ErrorDetail missing = error_of([&] { read_file(directory_ / "none", ErrorKind::data); });
  EXPECT_EQ(missing.kind, ErrorKind::data);
  EXPECT_EQ(missing.where, (directory_ / "none").string());
  EXPECT_EQ(error_of([&] { read_file(directory_, ErrorKind::checkpoint); }).seen, "a directory");
  EXPECT_EQ(error_of([&] { MappedFile(directory_, ErrorKind::checkpoint); }).kind, ErrorKind::checkpoint);
  const fs::path pipe = directory_ / "pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_EQ(error_of([&] { read_file(pipe, ErrorKind::data); }).what, "not a file");
  EXPECT_EQ(error_of([&] { MappedFile(pipe, ErrorKind::data); }).what, "not a file");
}

TEST_F(FilesTest, AForbiddenFileIsRefused) {
  const fs::path path = directory_ / "secret";
  write(path, "x");
  fs::permissions(path, fs::perms::none);
  fs::permissions(directory_, fs::perms::all);
  // Root may read everything, so it steps down to nobody for a moment.
  const bool root = geteuid() == 0;
  ASSERT_TRUE(!root || seteuid(65534) == 0);
  const ErrorDetail read = error_of([&] { read_file(path, ErrorKind::data); });
  const ErrorDetail mapped = error_of([&] { MappedFile(path, ErrorKind::data); });
  ASSERT_TRUE(!root || seteuid(0) == 0);
  EXPECT_EQ(read.seen, "Permission denied");
  EXPECT_EQ(mapped.seen, "Permission denied");
}

TEST_F(FilesTest, EmptyFilesAreReadButNotMapped) {
  write(directory_ / "empty", "");
  EXPECT_EQ(read_file(directory_ / "empty", ErrorKind::data), "");
  EXPECT_EQ(error_of([&] { MappedFile(directory_ / "empty", ErrorKind::data); }).what, "the file is empty");
}

TEST_F(FilesTest, AFileIsSummedAsItsBytesAre) {
  for (const size_t size : {size_t{0}, size_t{5}, size_t{1} << 20, (size_t{5} << 19) + 3}) {
    std::string bytes(size, 'a');
    for (size_t i = 0; i < size; i += 1000) bytes[i] = static_cast<char>(i / 1000);
    write(directory_ / "file", bytes);
    const FileChecksum sum = checksum_file(directory_ / "file", ErrorKind::data);
    EXPECT_EQ(sum.bytes, size);
    EXPECT_EQ(sum.value, checksum(bytes_of(bytes)));
  }
  EXPECT_EQ(error_of([&] { checksum_file(directory_ / "none", ErrorKind::checkpoint); }).kind, ErrorKind::checkpoint);
}

TEST_F(FilesTest, AMappedFileMovesWithItsBytes) {
  write(directory_ / "file", "contents");
  MappedFile first(directory_ / "file", ErrorKind::data);
  MappedFile second(std::move(first));
  EXPECT_TRUE(first.bytes().empty());
  first = std::move(second);
  EXPECT_EQ(checksum(first.bytes()), checksum(bytes_of("contents")));
  EXPECT_EQ(first.path(), directory_ / "file");
}

TEST_F(FilesTest, TemporaryNamesAreTheirOwnTargetsOnly) {
  const fs::path first = temporary_name(directory_ / "step_7"), second = temporary_name(directory_ / "step_7/");
  EXPECT_NE(first, second);
  EXPECT_EQ(first.parent_path(), directory_);
  EXPECT_EQ(second.parent_path(), directory_);
  for (const fs::path& path : {first, second}) {
    EXPECT_TRUE(is_temporary_name(path.filename().string(), "step_7")) << path;
    EXPECT_FALSE(is_temporary_name(path.filename().string(), "step_77")) << path;
  }
  for (const char* name : {"step_7", ".step_7.tmp", ".step_7..tmp", ".step_7.1.tmp", ".step_7.1..tmp",
                           ".step_7.a.1.tmp", ".step_7.1.2.tmp~"})
    EXPECT_FALSE(is_temporary_name(name, "step_7")) << name;
  EXPECT_EQ(temporary_name("plain").parent_path(), fs::path("."));
}

TEST_F(FilesTest, AFolderAppearsWholeAndReplacesTheOldOne) {
  const fs::path target = directory_ / "above" / "folder";
  for (const char* contents : {"old", "new"}) {
    AtomicDirectory folder(target);
    write_file_atomically(folder.path() / contents, contents);
    EXPECT_EQ(fs::exists(target), std::string(contents) == "new");
    folder.commit();
  }
  EXPECT_EQ(names_in(target), std::vector<std::string>{"new"});
  EXPECT_EQ(names_in(directory_ / "above"), std::vector<std::string>{"folder"});
}

TEST_F(FilesTest, AnAbandonedFolderLeavesNothing) {
  {
    AtomicDirectory folder(directory_ / "folder");
    write_file_atomically(folder.path() / "file", "half");
  }
  EXPECT_TRUE(names_in(directory_).empty());
  EXPECT_EQ(error_of([&] {
              write(directory_ / "file", "");
              AtomicDirectory folder(directory_ / "file" / "folder");
            }).kind,
            ErrorKind::resource);
}

TEST_F(FilesTest, ARemovedFolderIsGone) {
  fs::create_directories(directory_ / "folder" / "deep");
  remove_directory(directory_ / "folder");
  EXPECT_TRUE(names_in(directory_).empty());
  EXPECT_EQ(error_of([&] { remove_directory(directory_ / "folder"); }).kind, ErrorKind::resource);
}

}  // namespace
}  // namespace nibble
