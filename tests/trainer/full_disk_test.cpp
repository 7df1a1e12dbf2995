// A disk that gets full: a typed error that names the file, the older checkpoint stays the newest that is whole, and
// the run goes on from it. Once with a small file system of its own, where the machine allows that, and with a limit on
// the size of files, which every machine has.
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <fstream>
#include <functional>
#include <set>

#include "data/tokenize.hpp"
#include "run_program.hpp"
#include "tensor/files.hpp"
#include "tests/tensor/temporary_directory.hpp"
#include "trainer/checkpoint_load.hpp"
#include "trainer/checkpoint_save.hpp"
#include "trainer/huggingface.hpp"
#include "trainer/metrics.hpp"
#include "trainer/run_directory.hpp"

// HDF5 loses memory of a file whose last write failed; the leak sanitizer asks this function of its own name.
extern "C" const char* __lsan_default_suppressions();
extern "C" const char* __lsan_default_suppressions() { return "leak:libhdf5"; }

namespace nibble {
namespace {

namespace fs = std::filesystem;

/// While it lives no file of this process, or of one that it starts, grows beyond `bytes`.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(uint64_t bytes) {
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{.rlim_cur = bytes, .rlim_max = before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() { setrlimit(RLIMIT_FSIZE, &before_); }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  rlimit before_{};
};

class FullDisk : public TemporaryDirectoryTest {
 protected:
  FullDisk() {
    for (int64_t i = 0; i < weight_.view().size(); ++i) weight_.view().as<float>()[i] = static_cast<float>(i);
    state_.add("weight", weight_.view());
    handler_ = signal(SIGXFSZ, SIG_IGN);  // as main does
  }
  ~FullDisk() override { signal(SIGXFSZ, handler_); }

  fs::path save(const fs::path& run, int64_t step) const {
    TokenizerInfo tokenizer = make_byte_tokenizer()->info();
    tokenizer.identity = "sentencepiece:test";
    return save_checkpoint(run,
                           {.step = step,
                            .model = {.vocabulary = 11,
                                      .width = 8,
                                      .layers = 1,
                                      .heads = 2,
                                      .kv_heads = 1,
                                      .head_dim = 4,
                                      .ffn = 12,
                                      .context = 32},
                            .tokenizer = tokenizer,
                            .tokenizer_files = {{sentencepiece_file_name, std::string(5000, 'm')}},
                            .config_text = std::string(5000, '#')},
                           state_);
  }
  /// That the checkpoint is the run's newest, nothing else lies beside it, and it gives back the state.
  void expect_only(const fs::path& run, const fs::path& checkpoint) {
    std::vector<RefusedCheckpoint> refused;
    const std::optional<VerifiedCheckpoint> newest = newest_valid_checkpoint(run, refused);
    ASSERT_TRUE(newest);
    EXPECT_EQ(newest->path, checkpoint);
    EXPECT_TRUE(refused.empty());
    EXPECT_EQ(names_in(run / "checkpoints"), std::vector<std::string>{checkpoint.filename().string()});
    OwnedTensor loaded(DType::f32, weight_.view().rows, weight_.view().cols);
    StateList state;
    state.add("weight", loaded.view());
    load_checkpoint(*newest, state);
    EXPECT_EQ(std::memcmp(loaded.view().data, weight_.view().data, weight_.view().bytes()), 0);
  }

  OwnedTensor weight_{DType::f32, 100, 160};
  StateList state_;
  void (*handler_)(int);
};

TEST_F(FullDisk, EveryFileOfACheckpointMayBeTheOneThatIsCut) {
  const fs::path run = directory_ / "run", older = save(run, 500);
  std::set<std::string> cut;  // by the name in the message
  for (uint64_t limit = 0; limit < 200'000; limit += limit < 12'000 ? 500 : 20'000) {
    const ErrorDetail error = [&] {
      const FileSizeLimit small(limit);
      try {
        save(run, 600);
      } catch (const Error& caught) {
        return caught.detail();
      }
      return ErrorDetail{};
    }();
    if (error.what.empty()) {
      EXPECT_GT(limit, weight_.view().bytes());
      EXPECT_EQ(list_checkpoints(run), (std::vector<int64_t>{500, 600}));
      break;
    }
    EXPECT_EQ(error.kind, ErrorKind::resource) << limit;
    EXPECT_FALSE(error.seen.empty()) << limit;
    EXPECT_FALSE(error.next.empty()) << limit;
    EXPECT_NE(error.where.find("step_00000600"), std::string::npos) << error.where;
    for (const char* name : {"rank_0000.h5", "tokenizer.model", "manifest.json"})
      if (error.where.find(name) != std::string::npos) cut.insert(name);
    expect_only(run, older);
  }
  EXPECT_TRUE(cut.contains("rank_0000.h5"));
}

TEST_F(FullDisk, TokensAndExportsAreThereWholeOrNotAtAll) {
  const fs::path text = directory_ / "text.txt", folder = directory_ / "out";
  write(text, std::string(5000, 'x'));
  fs::create_directories(folder);
  const ModelConfig config{
      .vocabulary = 99, .width = 8, .layers = 1, .heads = 2, .kv_heads = 1, .head_dim = 4, .ffn = 12, .context = 32};
  const ParameterLayout layout(config);
  const ParameterSet weights(layout, DType::f32, DType::f32, false, "weights");
  const std::pair<const char*, std::function<void()>> writers[] = {
      {"tokens.h5",
       [&] {
         tokenize({.inputs = {text.string()}, .output = (folder / "tokens.h5").string()}, *make_byte_tokenizer());
       }},
      {"model", [&] { export_huggingface(folder / "model", config, weights, {.overwrite = true}); }}};
  for (const auto& [name, write_it] : writers) {
    write_it();
    fs::last_write_time(folder / name, fs::last_write_time(folder / name) - std::chrono::hours(24));
    const fs::file_time_type old = fs::last_write_time(folder / name);
    int refused = 0;
    for (uint64_t limit = 0;; limit += 500) {
      ErrorDetail error;
      {
        const FileSizeLimit small(limit);
        try {
          write_it();
        } catch (const Error& caught) {
          error = caught.detail();
        }
      }
      EXPECT_EQ(names_in(folder), std::vector<std::string>{name}) << limit;
      if (error.what.empty()) break;
      ++refused;
      EXPECT_EQ(error.kind, ErrorKind::resource) << limit;
      EXPECT_NE(error.where.find(folder.string()), std::string::npos) << error.where;
      EXPECT_FALSE(error.seen.empty() || error.next.empty()) << Error(error).what();
      EXPECT_EQ(fs::last_write_time(folder / name), old) << "not the old one";
    }
    EXPECT_GT(refused, 5);
    EXPECT_NE(fs::last_write_time(folder / name), old) << "not the new one";
    fs::remove_all(folder / name);
  }
}

TEST_F(FullDisk, MetricsAreRepairedOnResume) {
  const std::vector<std::string> columns = {"step", "loss", "note"};
  const std::string note(60, 'n');  // in no event file, which so is not the first to reach the limit
  const auto write_steps = [&](MetricsWriter& metrics, int64_t first, int64_t last) {
    for (int64_t step = first; step <= last; ++step)
      metrics.write({{"step", step}, {"loss", 1.0 / static_cast<double>(step)}, {"note", note}});
  };
  const auto files = [](const fs::path& run) {
    return read_file(run / "metrics.jsonl", ErrorKind::data) + read_file(run / "metrics.csv", ErrorKind::data);
  };
  const fs::path whole = directory_ / "whole", cut = directory_ / "cut";
  fs::create_directories(whole);
  fs::create_directories(cut);
  MetricsWriter reference = MetricsWriter::create(whole, columns);
  write_steps(reference, 1, 100);
  for (const uint64_t limit : {500, 501, 777}) {  // the last row is torn in the midst
    fs::remove(cut / "metrics.jsonl");
    {
      MetricsWriter metrics = MetricsWriter::create(cut, columns);
      const FileSizeLimit small(limit);
      const ErrorDetail error = error_of([&] { write_steps(metrics, 1, 100); });
      EXPECT_EQ(error.kind, ErrorKind::resource);
      EXPECT_EQ(error.where, (cut / "metrics.jsonl").string());
      EXPECT_FALSE(error.seen.empty());
      EXPECT_FALSE(error.next.empty());
    }
    EXPECT_EQ(fs::file_size(cut / "metrics.jsonl"), limit);
    {
      const FileSizeLimit none(0);
      EXPECT_EQ(error_of([&] { MetricsWriter::resume(cut, columns, 6); }).kind, ErrorKind::resource);
    }
    EXPECT_EQ(fs::file_size(cut / "metrics.jsonl"), limit) << "a resume that fails leaves what was there";
    MetricsWriter metrics = MetricsWriter::resume(cut, columns, 6);
    write_steps(metrics, 6, 100);
    EXPECT_EQ(files(cut), files(whole)) << limit;
  }
}

TEST_F(FullDisk, ATornEventFileIsMadeAnew) {
  const auto write_steps = [](MetricsWriter& metrics, int64_t first, int64_t last) {
    for (int64_t step = first; step <= last; ++step) metrics.write({{"step", step}, {"loss", 0.5}});
  };
  const auto event_file = [&] {
    fs::path newest;
    for (const std::string& name : names_in(directory_))
      if (name.find("tfevents") != std::string::npos) newest = directory_ / name;
    return newest;
  };
  {
    MetricsWriter metrics = MetricsWriter::create(directory_, {"step", "loss"});
    const FileSizeLimit small(500);
    const ErrorDetail error = error_of([&] { write_steps(metrics, 1, 100); });
    EXPECT_EQ(error.kind, ErrorKind::resource);
    EXPECT_EQ(error.where, event_file().string());
  }
  EXPECT_EQ(fs::file_size(event_file()), 500u) << "not torn";
  {
    MetricsWriter metrics = MetricsWriter::resume(directory_, {"step", "loss"}, 6);
    write_steps(metrics, 6, 100);
  }
  const uint64_t resumed = fs::file_size(event_file());
  fs::remove(directory_ / "metrics.jsonl");
  MetricsWriter whole = MetricsWriter::create(directory_, {"step", "loss"});
  write_steps(whole, 1, 100);
  EXPECT_EQ(resumed, fs::file_size(event_file()));
}

// A file system of its own --------------------------------------------------------------------------------------------

constexpr int not_permitted = 77;

/// What `body` gives in a process of its own that alone sees a file system of `bytes` at `where`.
int on_small_disk(const fs::path& where, size_t bytes, const std::function<int()>& body) {
  const pid_t child = fork();
  if (child == 0) {
    if (unshare(CLONE_NEWNS) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) _exit(not_permitted);
    mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr);
    if (mount("tmpfs", where.c_str(), "tmpfs", 0, ("size=" + std::to_string(bytes)).c_str()) != 0) _exit(not_permitted);
    _exit(body());
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST_F(FullDisk, AnyRoomThatIsTooLittleLeavesTheOlderCheckpoint) {
  const fs::path disk = directory_ / "disk", run = disk / "run", filler = disk / "filler";
  fs::create_directories(disk);
  constexpr size_t disk_bytes = 1 << 18, page = 4096;
  const int result = on_small_disk(disk, disk_bytes, [&] {
    const fs::path older = save(run, 500);
    std::set<std::string> whats;
    for (size_t room = 0;; room += page) {
      std::ofstream(filler).flush();
      fs::resize_file(filler, 0);
      const uintmax_t fill = fs::space(disk).available - room;
      std::ofstream(filler) << std::string(fill, 'x') << std::flush;
      if (fs::file_size(filler) != fill) return 2;
      try {
        save(run, 600);
        break;
      } catch (const Error& error) {
        whats.insert(error.detail().what);
        EXPECT_EQ(error.kind(), ErrorKind::resource) << error.what();
        EXPECT_NE(error.detail().where.find("checkpoints"), std::string::npos) << error.what();
        EXPECT_FALSE(error.detail().seen.empty() || error.detail().next.empty()) << error.what();
      }
      expect_only(run, older);
      if (HasFailure()) return 1;
    }
    EXPECT_EQ(list_checkpoints(run), (std::vector<int64_t>{500, 600}));
    fs::remove_all(older);
    expect_only(run, checkpoint_path(run, 600));
    EXPECT_TRUE(whats.contains("the disk has no room for a checkpoint"));
    EXPECT_GT(whats.size(), 1u) << "none was cut in the midst of a file";
    return HasFailure() ? 1 : 0;
  });
  if (result == not_permitted) GTEST_SKIP() << "no file system may be mounted here";
  EXPECT_EQ(result, 0);
}

// The program ---------------------------------------------------------------------------------------------------------

TEST_F(FullDisk, ARunEndsWithAMessageAndGoesOnFromTheOlderCheckpoint) {
  std::string text;
  for (int line = 0; line < 100; ++line) text += "line " + std::to_string(line * 7919 % 1000) + " of a text\n";
  const fs::path input = directory_ / "text.txt", tokens = directory_ / "train.h5", settings = directory_ / "run.yaml";
  write(input, text);
  tokenize({.inputs = {input.string()}, .output = tokens.string()}, *make_byte_tokenizer());
  write(settings, "model: {width: 32, layers: 1, heads: 2, ffn: 64}\ndata: {train: " + tokens.string() +
                      ", sequence: 16}\nbatch: {tokens: 64, lanes: 2}\nsteps: 6\n"
                      "schedule: {name: constant}\nrun: {threads: 1, checkpoint: {every: 3}}\n");
  const auto train = [&](const std::string& run, const std::string& more) {
    return nibble("train '" + settings.string() + "' --set run.directory='" + (directory_ / run).string() + "' " +
                  more);
  };
  const auto losses = [&](const std::string& run) {
    std::ifstream file(directory_ / run / "metrics.jsonl");
    std::string all;
    for (std::string line; std::getline(file, line);) {
      const nlohmann::json row = nlohmann::json::parse(line);
      all += row["step"].dump() + " " + row.value("loss", nlohmann::json()).dump() + "\n";
    }
    return all;
  };
  ASSERT_EQ(train("whole", "").code, 0);
  ASSERT_EQ(train("cut", "--set steps=3").code, 0);
  const fs::path checkpoint = directory_ / "cut/checkpoints/step_00000003";
  const uint64_t bytes = fs::file_size(checkpoint / "rank_0000.h5");

  signal(SIGXFSZ, SIG_DFL);  // so that ignoring it is the program's own doing
  const Ended full = [&] {
    const FileSizeLimit small(bytes / 2);
    return train("cut", "--resume");
  }();
  EXPECT_EQ(full.code, static_cast<int>(ErrorKind::resource));
  expect_said(full, "step_00000006");
  expect_said(full, "rank_0000.h5");
  EXPECT_EQ(names_in(directory_ / "cut/checkpoints"), std::vector<std::string>{"step_00000003"});
  EXPECT_EQ(open_checkpoint(checkpoint).header().step, 3);

  const Ended resumed = train("cut", "--resume");
  EXPECT_EQ(resumed.code, 0) << resumed.output;
  EXPECT_EQ(losses("cut"), losses("whole"));
}

}  // namespace
}  // namespace nibble
