#include "trainer/report_twins.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/tensor/temporary_directory.hpp"
#include "trainer/report_page.hpp"
#include "trainer/settings_output.hpp"
#include "trainer/yaml_settings.hpp"

namespace nibble {
namespace {

class ReportTwinsTest : public TemporaryDirectoryTest {
 protected:
  ReportRun run(const std::string& recipe, int seed, double loss, int width = 32, int steps = 10) {
    const std::filesystem::path folder = directory_ / std::to_string(++runs_);
    std::filesystem::create_directories(folder);
    write(folder / "config.yaml",
          "model: {width: " + std::to_string(width) +
              ", layers: 1, heads: 2}\ndata: {train: t, validation: v, sequence: 32}\nbatch: {tokens: 32}\nsteps: " +
              std::to_string(steps) + "\nprecision: {recipe: " + recipe + "}\nrun: {seed: " + std::to_string(seed) +
              ", directory: " + folder.string() + "}\n");
    write(folder / "tuning.json", "{}");
    write(folder / "metrics.jsonl", "{\"step\": 5, \"validation_loss\": 9.0}\n{\"step\": " + std::to_string(steps) +
                                        ", \"validation_loss\": " + std::to_string(loss) + "}\n");
    return read_run(folder, folder.filename().string());
  }
  int runs_ = 0;
};

TEST(StudentT, IsThatOfTheTables) {
  EXPECT_NEAR(student_t(1), 12.7062, 1e-4);
  EXPECT_NEAR(student_t(2), 4.3027, 1e-4);
  EXPECT_NEAR(student_t(9), 2.2622, 1e-4);
  EXPECT_NEAR(student_t(10), 2.2281, 1e-4);
  EXPECT_NEAR(student_t(30), 2.0423, 1e-4);
  EXPECT_NEAR(student_t(120), 1.9799, 1e-4);
  for (size_t degrees = 2; degrees < 40; ++degrees) EXPECT_LT(student_t(degrees), student_t(degrees - 1));
}

TEST_F(ReportTwinsTest, GapsArePairedBySeedAndGroupedOverSeeds) {
  const std::vector<ReportRun> runs = {run("quartet2", 1, 2.11), run("bf16", 1, 2.01),     run("bf16", 2, 2.52),
                                       run("quartet2", 2, 2.66), run("quartet2", 3, 2.42), run("bf16", 3, 2.30),
                                       run("fp8", 3, 2.31),      run("fp8", 4, 9.9)};
  const std::vector<TwinGap> gaps = twin_gaps(runs);
  ASSERT_EQ(gaps.size(), 2u);
  EXPECT_EQ(gaps[0].precision, "quartet2");
  EXPECT_EQ(gaps[0].gaps.size(), 3u);
  EXPECT_NEAR(gaps[0].mean, 0.12, 1e-12);
  EXPECT_NEAR(gaps[0].twin_loss, (2.01 + 2.52 + 2.30) / 3, 1e-12);
  ASSERT_TRUE(gaps[0].half_interval);
  // Of 0.10, 0.14, 0.12: a standard deviation of 0.02, a standard error of 0.02 / sqrt(3), t of two degrees of freedom.
  EXPECT_NEAR(*gaps[0].half_interval, 4.30265 * 0.02 / std::sqrt(3.0), 1e-6);
  EXPECT_TRUE(gaps[0].others.empty());
  EXPECT_EQ(gaps[1].precision, "fp8");
  EXPECT_EQ(gaps[1].gaps.size(), 1u);
  EXPECT_FALSE(gaps[1].half_interval);
}

TEST_F(ReportTwinsTest, ARunThatIsNamedTwiceCountsOnce) {
  const std::vector<ReportRun> runs = {run("bf16", 1, 2.0), run("quartet2", 1, 2.1), run("quartet2", 1, 2.1)};
  const std::vector<TwinGap> gaps = twin_gaps(runs);
  ASSERT_EQ(gaps.size(), 1u);
  EXPECT_EQ(gaps[0].gaps.size(), 1u);
  EXPECT_NEAR(gaps[0].twin_loss, 2.0, 1e-12);
  EXPECT_FALSE(gaps[0].half_interval);
}

TEST_F(ReportTwinsTest, RunsThatDifferInMoreAreNoPairs) {
  const std::vector<ReportRun> runs = {run("bf16", 1, 2.0, 32), run("quartet2", 1, 2.1, 64),
                                       run("bf16", 1, 2.0, 32, 20), run("quartet2", 1, 2.2, 32),
                                       run("quartet2", 1, 2.4, 32, 20)};
  const std::vector<TwinGap> gaps = twin_gaps(runs);
  ASSERT_EQ(gaps.size(), 2u);
  EXPECT_EQ(gaps[0].others, "steps: 10");
  EXPECT_NEAR(gaps[0].mean, 0.2, 1e-12);
  EXPECT_EQ(gaps[1].others, "steps: 20");
  EXPECT_NEAR(gaps[1].mean, 0.4, 1e-12);
}

TEST_F(ReportTwinsTest, ThePageShowsThem) {
  const std::vector<ReportRun> alone = {run("bf16", 1, 2.0), run("bf16", 2, 2.0)};
  EXPECT_EQ(report_page(alone).find("Gap to bf16"), std::string::npos);
  const std::vector<ReportRun> runs = {run("bf16", 1, 2.0), run("quartet2", 1, 2.1)};
  const std::string page = report_page(runs);
  EXPECT_NE(page.find("Gap to bf16"), std::string::npos);
  EXPECT_NE(page.find("+0.1000"), std::string::npos);
  EXPECT_NE(page.find("one seed: none"), std::string::npos);
}

}  // namespace
}  // namespace nibble
