#include "trainer/checkpoint_saver.hpp"

#include <barrier>
#include <thread>

#include "tensor/files.hpp"
#include "tests/tensor/temporary_directory.hpp"
#include "tests/trainer/checkpoint_header.hpp"
#include "trainer/checkpoint.hpp"
#include "trainer/checkpoint_load.hpp"

namespace nibble {
namespace {

using test::checkpoint_header;

namespace fs = std::filesystem;

/// Ranks on threads of this process, each with 10000 of a tensor's elements and one tensor that all have.
class CheckpointSaverTest : public TemporaryDirectoryTest {
 protected:
  static constexpr int ranks = 3;

  struct Rank {
    explicit Rank(int number) {
      list.add_run("sharded", sharded.view(), 2, ranks * 5000, number * 10'000);
      list.add("replicated", replicated.view());
    }
    void fill(float value) {
      for (const Tensor& tensor : {sharded.view(), replicated.view()})
        std::fill_n(tensor.as<float>(), tensor.size(), value);
    }
    OwnedTensor sharded{DType::f32, 1, 10'000}, replicated{DType::f32, 3, 5000};
    StateList list;
  };

  /// body(saver, rank's number, rank's state, stream) on every rank; the errors that they threw, by rank.
  template <class Body>
  std::vector<ErrorDetail> on_ranks(bool background, Body&& body) {
    std::barrier<> barrier(ranks);
    std::vector<std::string> texts(ranks);
    std::vector<ErrorDetail> errors(ranks);
    std::vector<std::thread> threads;
    for (int number = 0; number < ranks; ++number)
      threads.emplace_back([&, number] {
        Rank rank(number);
        float below = 0;  // no dataset can have another one below it
        if (number == cannot_write_) rank.list.add_run("sharded/below", Tensor(&below, 1, 1), 1, 1, 0);
        Stream stream(1);
        CheckpointSaver saver({.run_directory = directory_,
                               .rank = number,
                               .ranks = ranks,
                               .keep = 2,
                               .background = background,
                               .gather =
                                   [&](const std::string& mine) {
                                     texts[static_cast<size_t>(number)] = mine;
                                     barrier.arrive_and_wait();
                                     std::vector<std::string> all = texts;
                                     barrier.arrive_and_wait();
                                     return all;
                                   },
                               .require_ownership = [this] { require_ownership_(); }},
                              rank.list);
        try {
          body(saver, number, rank, stream);
        } catch (const Error& error) {
          errors[static_cast<size_t>(number)] = error.detail();
        }
      });
    for (std::thread& thread : threads) thread.join();
    return errors;
  }
  void expect_loads(int64_t step) {
    OwnedTensor sharded(DType::f32, 2, ranks * 5000), replicated(DType::f32, 3, 5000);
    StateList list;
    list.add("sharded", sharded.view());
    list.add("replicated", replicated.view());
    load_checkpoint(open_checkpoint(checkpoint_path(directory_, step)), list);
    for (const Tensor& tensor : {sharded.view(), replicated.view()})
      for (int64_t i = 0; i < tensor.size(); ++i) ASSERT_EQ(tensor.as<float>()[i], static_cast<float>(step));
  }

  int cannot_write_ = -1;  ///< a rank
  std::function<void()> require_ownership_ = [] {};
};

TEST_F(CheckpointSaverTest, AllRanksSaveTogether) {
  for (const bool background : {true, false}) {
    const std::vector<ErrorDetail> errors =
        on_ranks(background, [&](CheckpointSaver& saver, int, Rank& rank, Stream& stream) {
          for (const int64_t step : {1, 2, 3}) {
            rank.fill(static_cast<float>(step));
            saver.start(stream, checkpoint_header(step), rank.list);
            EXPECT_EQ(saver.under_way(), background);
            rank.fill(-1);
          }
          saver.finish();
          EXPECT_FALSE(saver.under_way());
          EXPECT_TRUE(saver.idle());
        });
    for (const ErrorDetail& error : errors) EXPECT_EQ(error.what, "");
    EXPECT_EQ(names_in(directory_ / "checkpoints"), (std::vector<std::string>{"step_00000002", "step_00000003"}));
    expect_loads(2);
    expect_loads(3);
    fs::remove_all(directory_ / "checkpoints");
  }
}

TEST_F(CheckpointSaverTest, EachStageIsTakenWhenAllAreIdle) {
  const std::vector<ErrorDetail> errors = on_ranks(true, [&](CheckpointSaver& saver, int, Rank& rank, Stream& stream) {
    rank.fill(5);
    saver.start(stream, checkpoint_header(5), rank.list);
    while (!saver.idle()) std::this_thread::yield();
    EXPECT_EQ(saver.advance(), std::nullopt);
    EXPECT_TRUE(saver.under_way());
    while (!saver.idle()) std::this_thread::yield();
    EXPECT_EQ(saver.advance(), 5);
    EXPECT_FALSE(saver.under_way());
  });
  for (const ErrorDetail& error : errors) EXPECT_EQ(error.what, "");
  expect_loads(5);
}

TEST_F(CheckpointSaverTest, WhatFailsOnOneRankFailsOnAllAndLeavesTheOlderCheckpoint) {
  const auto save = [&](int64_t step) {
    return [step](CheckpointSaver& saver, int, Rank& rank, Stream& stream) {
      rank.fill(static_cast<float>(step));
      saver.start(stream, checkpoint_header(step), rank.list);
      saver.finish();
    };
  };
  on_ranks(true, save(5));
  for (const bool background : {true, false}) {
    cannot_write_ = 1;
    for (const ErrorDetail& error : on_ranks(background, save(6))) {
      EXPECT_EQ(error.kind, ErrorKind::resource);
      EXPECT_EQ(error.what, "cannot create the dataset");
      EXPECT_TRUE(error.where.starts_with("rank 1: ")) << error.where;
      EXPECT_NE(error.where.find("rank_0001.h5"), std::string::npos) << error.where;
      EXPECT_FALSE(error.seen.empty() || error.next.empty());
    }
    cannot_write_ = -1;
    for (const int good : {0, 1}) {  // refused before it begins, and before it is committed
      int calls = 0;
      require_ownership_ = [&] {
        if (calls++ == good) throw Error({.kind = ErrorKind::configuration, .what = "another owner", .where = "run"});
      };
      for (const ErrorDetail& error : on_ranks(background, save(6))) {
        EXPECT_EQ(error.kind, ErrorKind::configuration);
        EXPECT_EQ(error.what, "another owner");
        EXPECT_EQ(error.where, "rank 0: run");
      }
    }
    require_ownership_ = [] {};
    EXPECT_EQ(names_in(directory_ / "checkpoints"), std::vector<std::string>{"step_00000005"});
    expect_loads(5);
  }
  // Training may go on after it.
  int calls = 0;
  require_ownership_ = [&] {
    if (calls++ == 1) throw Error({.kind = ErrorKind::resource, .what = "no answer"});
  };
  for (const ErrorDetail& error : on_ranks(true, [&](CheckpointSaver&saver, int number, Rank&rank, Stream&stream) {
         EXPECT_THROW(save(7)(saver, number, rank, stream), Error);
         EXPECT_FALSE(saver.under_way());
         save(7)(saver, number, rank, stream);
       }))
    EXPECT_EQ(error.what, "");
  expect_loads(7);
}

}  // namespace
}  // namespace nibble
