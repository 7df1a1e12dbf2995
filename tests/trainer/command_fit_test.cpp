// nibble fit and nibble capacity, as a user runs them.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/tensor/temporary_directory.hpp"
#include "tests/trainer/run_program.hpp"

namespace nibble {
namespace {

const std::string quartet = "'" NIBBLE_TEST_DATA "/trainer/data/scaling/quartet.csv'";

class CommandFitTest : public TemporaryDirectoryTest {};

TEST_F(CommandFitTest, TextAndPage) {
  const std::string page = (directory_ / "pages" / "fit.html").string();
  const Ended ended = nibble("fit " + quartet + " --law quartet --bootstrap 8 --plot '" + page + "'");
  ASSERT_EQ(ended.code, 0) << ended.output;
  for (const char* said : {"1.340846  ", "0.2764157  ", "24 runs, rms 1.417e-03", "of 128 starts", "8 resamples",
                           "eff_N  quartet      21   0.6452", "eff_D  mxfp4-rtn    17   0.9281"})
    expect_said(ended, said);
  std::stringstream text;
  text << std::ifstream(page).rdbuf();
  for (const char* said :
       {"Predicted against measured loss", "quartet forward, bf16 backward", "tokens per parameter", "1.340846"})
    EXPECT_NE(text.str().find(said), std::string::npos) << said;
}

TEST_F(CommandFitTest, JsonWithAKnownEntropyAndLargerRunsHeldOut) {
  const Ended ended =
      nibble("fit " + quartet + " --law quartet --bootstrap 0 --irreducible 1.34 --hold-out-above 400M --json");
  ASSERT_EQ(ended.code, 0) << ended.output;
  const nlohmann::json answer = nlohmann::json::parse(ended.output.substr(ended.output.find('{')));
  EXPECT_NEAR(answer["constants"][4]["value"].get<double>(), 1.34, 1e-12);
  EXPECT_EQ(answer["constants"][4]["fixed"], true);
  EXPECT_EQ(answer["residuals"]["runs"], 22);
  EXPECT_EQ(answer["held_out"]["runs"], 2);
  EXPECT_LT(answer["held_out"]["largest"], 0.01);
  EXPECT_EQ(answer["runs"].size(), 24 + 21 + 17);
  EXPECT_EQ(answer["efficiencies"][1]["of"], "data");
}

TEST_F(CommandFitTest, Refusals) {
  write(directory_ / "few.csv", "parameters,tokens,loss\n1M,20M,4\n2M,40M,3.8\n4M,40M,3.7\n");
  const std::string few = "fit '" + (directory_ / "few.csv").string() + "' ";
  const auto refused = [&](const std::string& arguments, const std::vector<std::string>& texts) {
    const Ended ended = nibble(arguments);
    EXPECT_EQ(ended.code, 2) << ended.output;
    for (const std::string& text : texts) expect_said(ended, text);
  };
  refused(few + "--law chinchilla",
          {"fewer runs than the law 'chinchilla' has parameters", "3 different", "at least 5"});
  refused(few + "--law chinchila", {"did you mean 'chinchilla'?"});
  refused(few + "--law chinchilla --fix gama=1", {"no such constant", "A, alpha, B, beta, E"});
  refused(few + "--law chinchilla --fix alpha", {"NAME=VALUE"});
  refused(few + "--law chinchilla --irreducible -1", {"not positive"});
  refused(few + "--law chinchilla --starts 10", {"100"});
}

TEST_F(CommandFitTest, Capacity) {
  const Ended ended = nibble("capacity --json");
  ASSERT_EQ(ended.code, 0) << ended.output;
  const nlohmann::json answer = nlohmann::json::parse(ended.output.substr(ended.output.find('{')));
  const auto of = [&](const char* list, const std::string& name) {
    for (const nlohmann::json& entry : answer[list])
      if (entry["name"] == name) return entry["capacity"].get<double>();
    return 0.0;
  };
  // The reference's predictions (F 0.41, C 1.39) from errors of its own, for weights, and for weights and inputs.
  EXPECT_NEAR(of("formats", "mxfp4 floor"), .806, 1e-3);
  EXPECT_NEAR(of("formats", "nvfp4"), .842, 1e-3);
  EXPECT_NEAR(of("formats", "nvfp4 4/6"), .857, 1e-3);
  EXPECT_NEAR(of("recipes", "quest-w1a1"), .032, 1e-3);
  EXPECT_NEAR(of("recipes", "quest-w4a4"), .672, 1e-3);
  EXPECT_NEAR(of("recipes", "quest-w8a8"), .978, 1e-3);
  const Ended olmo = nibble("capacity --constants olmo2");
  expect_said(olmo, "0.84 tanh(0.37 worth)^1.24");
  EXPECT_EQ(nibble("capacity --constants gpt").code, 2);
}

}  // namespace
}  // namespace nibble
