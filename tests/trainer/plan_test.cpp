// nibble plan as a user starts it.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/tensor/temporary_directory.hpp"
#include "tests/trainer/run_program.hpp"

namespace nibble {
namespace {

class PlanTest : public TemporaryDirectoryTest {
 protected:
  void SetUp() override {
    TemporaryDirectoryTest::SetUp();
    write(directory_ / "run.yaml",
          "model: {width: 48, layers: 2, heads: 3, ffn: 80, vocab: 300}\n"
          "data: {train: none, sequence: 32}\n"
          "batch: {tokens: 256, micro: 2, lanes: 4}\n"
          "steps: 2\n"
          "run: {directory: none, threads: 1}\n");
  }
  Ended plan(const std::string& arguments) const {
    return nibble("plan '" + (directory_ / "run.yaml").string() + "' " + arguments);
  }
  nlohmann::json answer(const std::string& arguments) const {
    const Ended ended = plan(arguments + " --json");
    EXPECT_EQ(ended.code, 0) << ended.output;
    return nlohmann::json::parse(ended.output.substr(ended.output.find('{')));
  }
};

TEST_F(PlanTest, FollowsRanksAndShards) {
  const nlohmann::json one = answer(""), four = answer("--ranks 4 --set shard=optimizer --link 1Gbit/s");
  EXPECT_EQ(one["bytes_sent"]["step"], 0);
  EXPECT_GT(four["bytes_sent"]["weights"], 0);
  EXPECT_GT(four["bytes_sent"]["gradients"], 0);
  EXPECT_LT(four["memory"]["rows"]["optimizer moments"], one["memory"]["rows"]["optimizer moments"].get<double>() / 2);
  EXPECT_TRUE(one["fits"]);
  EXPECT_GT(one["seconds"]["step"], 0.0);
  EXPECT_NEAR(four["links"]["gathered_bytes_per_second"].get<double>(), 117.7e6, 0.1e6);
  EXPECT_GT(four["seconds"]["communication"], 0.0);
}

TEST_F(PlanTest, FollowsTheGatherOfWeights) {
  const std::string sharded = "--ranks 4 --set shard=parameters --set precision.recipe=halo1-int8 ";
  const nlohmann::json working = answer(sharded), codes = answer(sharded + "--set weights.gather=codes");
  EXPECT_EQ(codes["bytes_sent"]["gradients"], working["bytes_sent"]["gradients"]);
  EXPECT_LT(codes["bytes_sent"]["weights"], working["bytes_sent"]["weights"]);
  EXPECT_LT(codes["memory"]["rows"]["weights"], working["memory"]["rows"]["weights"]);
  EXPECT_GT(codes["memory"]["rows"]["weights as codes"], 0);
  const Ended whole = plan("--ranks 4 --set precision.recipe=halo1-int8 --set weights.gather=codes");
  EXPECT_EQ(whole.code, 2);
  expect_said(whole, "only sharded parameters are gathered as codes");
}

TEST_F(PlanTest, NamesTheFirstSettingsThatFit) {
  const nlohmann::json all = answer("--ranks 2");
  ASSERT_GE(all["smaller"].size(), 3u);
  EXPECT_EQ(all["smaller"][0]["and"], "shard=optimizer");
  size_t before = SIZE_MAX;
  for (const nlohmann::json& candidate : all["smaller"]) {
    EXPECT_LT(candidate["bytes"].get<size_t>(), before);
    before = candidate["bytes"];
  }
  const Ended ended = plan("--ranks 4 --memory 100GiB");
  EXPECT_EQ(ended.code, 0);
  expect_said(ended, "  fits\n  and shard=optimizer");
  expect_said(ended, "as given");
  expect_said(ended, "unknown, and counted as no time: give --link");
}

TEST_F(PlanTest, PlansForGpusThatAreNotHere) {
  const std::string on_h100 = "--set run.device=cuda --gpu h100 ";
  const nlohmann::json all = answer(on_h100);
  EXPECT_EQ(all["estimated_for"], "H100");
  EXPECT_EQ(all["gpu"]["memory_of_a_rank"], 80000000000u);
  EXPECT_TRUE(all["memory_of_a_rank"].is_null()) << "the host is another machine's";
  EXPECT_EQ(all["gpu"]["rows"]["master weights"], 4 * all["parameters"].get<size_t>());
  EXPECT_GT(all["seconds"]["step"], 0.0);
  const nlohmann::json two = answer(on_h100 + "--ranks 2 --set shard=optimizer --link 400Gbit/s");
  EXPECT_LT(two["gpu"]["rows"]["optimizer moments"], all["gpu"]["rows"]["optimizer moments"].get<double>() * 0.6);
  EXPECT_GT(two["bytes_sent"]["step"], 0);

  const Ended text = plan(on_h100 + "--memory 40GiB");
  EXPECT_EQ(text.code, 0) << text.output;
  expect_said(text, "of its GPU, without what the driver takes");
  expect_said(text, "memory of a rank on its GPU: 40.00 GiB (--memory); on the host: that of another machine");
  expect_said(text, "an estimate from the datasheet of H100");
  const Ended little = plan(on_h100 + "--memory 1MiB");
  EXPECT_EQ(little.code, 7);
  expect_said(little, "no settings that were tried fit into the memory of a rank's GPU");
  const Ended unknown = plan("--set run.device=cuda --gpu h1000");
  EXPECT_EQ(unknown.code, 2);
  expect_said(unknown, "H100 PCIe, H100 NVL, H100, H200 NVL, H200, GB200, B200");
  const Ended processor = plan("--gpu h100");
  EXPECT_EQ(processor.code, 2);
  expect_said(processor, "add --set run.device=cuda");
}

TEST_F(PlanTest, ImpossibleWishesAreRefused) {
  const Ended three = plan("--ranks 3");
  EXPECT_EQ(three.code, 2);
  expect_said(three, "do not divide the lanes");
  const Ended eight = plan("--ranks 8");
  EXPECT_EQ(eight.code, 2);
  expect_said(eight, "batch.lanes");
  const Ended little = plan("--memory 1MiB");
  EXPECT_EQ(little.code, 7);
  expect_said(little, "no settings that were tried fit");
  const Ended slow = plan("--ranks 2 --link fast");
  EXPECT_EQ(slow.code, 2);
  expect_said(slow, "1Gbit/s");
  const Ended missing = nibble("plan no-such-run.yaml");
  EXPECT_EQ(missing.code, 2);
  expect_said(missing, "no-such-run.yaml");
  const Ended shapeless = plan("--set model.vocab=0");
  EXPECT_EQ(shapeless.code, 3) << shapeless.output;
}

}  // namespace
}  // namespace nibble
