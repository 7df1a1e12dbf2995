#include "trainer/progress.hpp"

#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>

namespace nibble {
namespace {

ProgressState example() {
  return {.step = 120,
          .total_steps = 2000,
          .loss = 2.34567,
          .validation_loss = 2.5,
          .learning_rate = 1.2e-3,
          .gradient_norm = 0.8312,
          .tokens_per_second = 12345,
          .peak_share = 0.414,
          .seconds_left = 7384,
          .refused = 2};
}

/// Progress on memory with a clock that the test turns.
class Recorder {
 public:
  explicit Recorder(bool terminal, double interval) {
    stream_ = open_memstream(&text_, &size_);
    progress_ = std::make_unique<Progress>(Progress::Options{.out = stream_,
                                                             .terminal = terminal,
                                                             .interval = interval,
                                                             .width = [this] { return width; },
                                                             .clock = [this] { return now; }});
  }
  ~Recorder() {
    progress_.reset();
    std::fclose(stream_);
    std::free(text_);
  }

  void step(int64_t number, int64_t total = 100) { progress_->update({.step = number, .total_steps = total}); }
  Progress& progress() { return *progress_; }
  /// What was written since the last call.
  std::string written() {
    std::fflush(stream_);
    const std::string all(text_, size_);
    const std::string fresh = all.substr(seen_);
    seen_ = all.size();
    return fresh;
  }

  double now = 0;
  int width = 30;

 private:
  char* text_ = nullptr;
  size_t size_ = 0, seen_ = 0;
  std::FILE* stream_ = nullptr;
  std::unique_ptr<Progress> progress_;
};

TEST(Progress, LineSaysAll) {
  EXPECT_EQ(progress_line(example()),
            "step 120/2000  loss 2.3457  validation 2.5000  lr 1.20e-03  grad norm 0.831  12.3k tokens/s  41% of peak  "
            "2:03:04 left  2 refused");
}

TEST(Progress, LineLeavesOutWhatIsUnknown) {
  ProgressState state = example();
  state.validation_loss = state.peak_share = state.seconds_left = std::nullopt;
  state.refused = 0;
  EXPECT_EQ(progress_line(state), "step 120/2000  loss 2.3457  lr 1.20e-03  grad norm 0.831  12.3k tokens/s");
}

TEST(Progress, LineFitsItsWidth) {
  const std::string full = progress_line(example());
  size_t before = 0;
  for (int width = 1; width <= static_cast<int>(full.size()); ++width) {
    const std::string line = progress_line(example(), width);
    EXPECT_LE(line.size(), static_cast<size_t>(width));
    EXPECT_GE(line.size(), before) << "more room must not show less";
    before = line.size();
    EXPECT_EQ(line.substr(0, 13), std::string("step 120/2000").substr(0, std::min(13, width)));
  }
  EXPECT_EQ(progress_line(example(), static_cast<int>(full.size())), full);
  EXPECT_EQ(progress_line(example(), 29), "step 120/2000  loss 2.3457");
}

TEST(Progress, Durations) {
  EXPECT_EQ(format_duration(0), "0:00");
  EXPECT_EQ(format_duration(75.4), "1:15");
  EXPECT_EQ(format_duration(59.6), "1:00");
  EXPECT_EQ(format_duration(7384), "2:03:04");
  EXPECT_EQ(format_duration(200000), "2d 07:33");
  EXPECT_EQ(format_duration(-1), "0:00");
}

TEST(Progress, RatesOfSteadyStepsAreExact) {
  RateEstimator rate(30);
  EXPECT_EQ(rate.tokens_per_second(), 0);
  EXPECT_FALSE(rate.seconds_for(10).has_value());
  for (int step = 0; step < 100; ++step) {
    rate.add(0.5, 1000);
    EXPECT_NEAR(rate.tokens_per_second(), 2000, 1e-9);
    EXPECT_NEAR(*rate.seconds_for(10), 5, 1e-9);
  }
}

TEST(Progress, RatesForgetAndSmooth) {
  RateEstimator rate(30);
  for (int step = 0; step < 100; ++step) rate.add(1, 1000);
  rate.add(10, 1000);  // one slow step among fast ones
  EXPECT_GT(rate.tokens_per_second(), 600);
  for (int step = 0; step < 100; ++step) rate.add(2, 1000);
  EXPECT_NEAR(rate.tokens_per_second(), 500, 5);
}

TEST(Progress, ALogGetsALineEveryInterval) {
  Recorder recorder(false, 10);
  recorder.step(1);
  EXPECT_EQ(recorder.written().substr(0, 11), "step 1/100 ");
  recorder.now = 9;
  recorder.step(2);
  EXPECT_EQ(recorder.written(), "");
  recorder.now = 10;
  recorder.step(3);
  const std::string line = recorder.written();
  EXPECT_EQ(line.substr(0, 11), "step 3/100 ");
  EXPECT_EQ(line.back(), '\n');
  EXPECT_EQ(line.find_first_of("\r\x1b"), std::string::npos);
  recorder.step(100);  // the last step is always shown
  EXPECT_NE(recorder.written(), "");
  recorder.progress().finish();
  EXPECT_EQ(recorder.written(), "");
}

TEST(Progress, ATerminalsLineIsRewrittenAndNeverWraps) {
  Recorder recorder(true, 0.1);
  recorder.step(1);
  const std::string line = recorder.written();
  EXPECT_EQ(line.substr(0, 12), "\rstep 1/100 ");
  EXPECT_EQ(line.substr(line.size() - 3), "\x1b[K");
  EXPECT_LT(line.size() - 4, 30u);
  EXPECT_EQ(line.find('\n'), std::string::npos);
  recorder.progress().message("checkpoint");
  EXPECT_EQ(recorder.written(), "\r\x1b[Kcheckpoint\n");
  recorder.step(2);  // comes back at once
  EXPECT_EQ(recorder.written().substr(0, 12), "\rstep 2/100 ");
  recorder.progress().finish();
  EXPECT_EQ(recorder.written(), "\n");
}

TEST(Progress, OtherWorkShowsItsShareAfterTwoSeconds) {
  double now = 100;
  std::FILE* out = std::tmpfile();
  ASSERT_NE(out, nullptr);
  const auto written = [out] {
    std::string text(static_cast<size_t>(std::ftell(out)), '\0');
    std::rewind(out);
    text.resize(std::fread(text.data(), 1, text.size(), out));
    std::rewind(out);
    return text;
  };
  {
    WorkProgress progress("evaluating", "windows", 1, {.out = out, .interval = 10, .clock = [&] { return now; }});
    now = 101.9;
    progress.update(10, 40);
    EXPECT_EQ(written(), "");
    now = 104;
    progress.update(10, 40);
    EXPECT_EQ(written(), "evaluating: 25% of 40 windows, 2.5 windows/s, 0:12 left\n");
    now = 113.9;
    progress.update(20, 40);
    EXPECT_EQ(written(), "");
  }
  EXPECT_EQ(written(), "");
  {
    WorkProgress progress(
        "tokenizing", "MB", 1e6,
        {.out = out, .terminal = true, .interval = 0.1, .width = [] { return 30; }, .clock = [&] { return now; }});
    now += 2;
    progress.update(5'000'000, 20'500'000);
    EXPECT_EQ(written(), "\rtokenizing: 24% of 20.5 MB, 2\x1b[K");
  }
  EXPECT_EQ(written(), "\n");
  std::fclose(out);
}

}  // namespace
}  // namespace nibble
