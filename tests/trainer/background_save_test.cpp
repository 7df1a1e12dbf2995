#include "trainer/background_save.hpp"

#include <cstring>
#include <thread>

#include "tensor/memory.hpp"
#include "tests/tensor/temporary_directory.hpp"
#include "tests/trainer/checkpoint_header.hpp"
#include "trainer/checkpoint_load.hpp"

namespace nibble {
namespace {

using test::checkpoint_header;

class BackgroundSaveTest : public TemporaryDirectoryTest {
 protected:
  BackgroundSaveTest() {
    for (int64_t i = 0; i < whole_.view().size(); ++i) whole_.view().as<float>()[i] = static_cast<float>(i);
    list_.add("padded", whole_.view().slice_cols(3, 1000));
  }

  Stream stream_{2};
  OwnedTensor whole_{DType::f32, 300, 1010};
  StateList list_;
};

TEST_F(BackgroundSaveTest, WritesTheStateOfTheMomentInWhichItWasStarted) {
  BackgroundSave save(list_, 0, 1);
  for (const int64_t step : {1, 2}) {  // the memory is used again
    whole_.view().as<float>()[3] = static_cast<float>(step);
    begin_checkpoint(directory_, step, list_);
    save.start(stream_, list_, saving_path(directory_, step));
    EXPECT_TRUE(save.under_way());
    std::memset(whole_.view().data, 0, 40'000);
    const RankFile file = save.take_file();
    EXPECT_FALSE(save.under_way());
    save.commit([&] { commit_checkpoint(directory_, checkpoint_header(step), {&file, 1}); });
    EXPECT_TRUE(save.under_way());
    while (!save.idle()) std::this_thread::yield();
    save.finish();
    EXPECT_FALSE(save.under_way());
    load_checkpoint(open_checkpoint(checkpoint_path(directory_, step)), list_);
    EXPECT_EQ(whole_.view().as<float>()[3], static_cast<float>(step));
    for (int64_t i = 4; i < 1003; ++i) ASSERT_EQ(whole_.view().as<float>()[i], static_cast<float>(i));
  }
}

TEST_F(BackgroundSaveTest, TheSnapshotHoldsWhatTheRankWrites) {
  const size_t state = 300'000 * sizeof(float);
  for (const int ranks : {1, 2, 3}) {
    const MemoryTable before = held_memory();
    const BackgroundSave save(list_, 1 % ranks, ranks);
    const size_t bytes = held_memory_since(before).at("checkpoint snapshot"), share = state / ranks;
    EXPECT_LE(bytes, share + 4096 * sizeof(float));
    EXPECT_GE(bytes + 4096 * sizeof(float), share);
  }
}

TEST_F(BackgroundSaveTest, ErrorsOfItsThreadsComeToTheOwner) {
  BackgroundSave save(list_, 0, 1);
  save.start(stream_, list_, directory_ / "none");
  const ErrorDetail error = error_of([&] { save.take_file(); });
  EXPECT_EQ(error.kind, ErrorKind::resource);
  EXPECT_NE(error.where.find("rank_0000.h5"), std::string::npos) << error.where;
  save.commit([] { throw Error({.kind = ErrorKind::resource, .what = "the disk is gone"}); });
  EXPECT_EQ(error_of([&] { save.finish(); }).what, "the disk is gone");
  begin_checkpoint(directory_, 1, list_);  // and it can be used again
  save.start(stream_, list_, saving_path(directory_, 1));
  EXPECT_EQ(save.take_file().tensors.size(), 1u);
}

}  // namespace
}  // namespace nibble
