#include "trainer/settings_table.hpp"

#include <gtest/gtest.h>
#include <yaml-cpp/yaml.h>

#include <set>

#include "trainer/settings_output.hpp"
#include "trainer/units.hpp"
#include "trainer/yaml_settings.hpp"

namespace nibble {
namespace {

/// A configuration in which no setting has its default, and which is free of contradictions.
Settings everything_changed() {
  Settings s;
  s.model = {
      .preset = "llama-30m",
      .width = 64,
      .layers = 2,
      .heads = 4,
      .kv_heads = 2,
      .head_dim = 16,
      .ffn = 128,
      .vocab = 300,
      .context = 4096,
      .rope_theta = 500000,
      .rope_scaling = {.factor = 32, .low_frequency_factor = 2, .high_frequency_factor = 5, .original_context = 1024},
      .norm_epsilon = 1e-6,
      .tied = true,
      .qk_norm = true,
      .init_std = 0.01,
      .recompute = "block",
      .from = ""};
  s.data = {.train = "a \"quoted\" path: #1, with\ttab, \xc3\xa4 and \\",
            .validation = "null",
            .sequence = 256,
            .packing = "documents",
            .mask_documents = true};
  s.batch = {.tokens = 4096, .micro = 2, .lanes = 8};
  s.steps = 123;
  s.precision = {.recipe = "quest-w4a4",
                 .forward = "mine",
                 .backward = "quartet2",
                 .overrides = {{.layers = {"0-1", "last 1"},
                                .projections = {"qkv"},
                                .phase = "last 10%",
                                .recipe = "fp8",
                                .forward = "bf16",
                                .backward = "bf16"}},
                 .recipes = {{"mine", find_recipe("mxfp8").forward, {}}},
                 .keep_bf16 = {.first = 1, .last = 1},
                 .cage = {.strength = 10, .silence = 0.5}};
  s.optimizer = {.name = "sgd",
                 .learning_rate = 1.2e-3,
                 .weight_decay = 0,
                 .decay = "cautious",
                 .beta1 = 0.8,
                 .beta2 = 0.999,
                 .epsilon = 1e-10,
                 .momentum = 0.5,
                 .clip = 0.1,
                 .moments = "8-bit",
                 .no_decay = {"*norm*", "lm_head, and more", "true"},
                 .groups = {{.match = {"*mlp*", "lm_head.weight"}, .learning_rate = 3e-4, .moments = "bf16"},
                            {.match = {"*o_proj*"}, .name = "muon", .learning_rate = 0.02, .weight_decay = 0}},
                 .muon = {.momentum = 0.9,
                          .nesterov = false,
                          .scale = "spectral",
                          .coefficients = "tuned",
                          .steps = 3,
                          .products = "f32"},
                 .ademamix = {.beta3 = 0.999, .alpha = 5, .warmup = StepsOrShare::steps(200)},
                 .shampoo = {.every = 7, .max_side = 512, .exponent = 0.5, .epsilon = 1e-10, .grafting = "sgd"},
                 .soap = {.every = 3, .max_side = 256, .factor_beta = 0.9}};
  s.schedule = {.name = "wsd",
                .warmup = StepsOrShare::steps(20),
                .final = 0.07,
                .decay = StepsOrShare::share(0.07),
                .decay_shape = "linear"};
  s.loss.z_loss = 1e-4;
  s.gradients = {
      .exchange = "sparcml",
      .wire = "bf16",
      .codec = "maxmin-4",
      .bucket = 512,
      .density = 0.25,
      .select = "all",
      .algorithm = "dense_split",
      .error_feedback = "false",
      .warmup = StepsOrShare::share(0.1),
      .full_probability = 0.5,
      .full_batches = 3,
      .allow_noisy_difference = true,
      .hierarchical = true,
      .overrides = {{.layers = {"embedding", "0-1"}, .exchange = "marina", .codec = "drive", .density = 0.5}}};
  s.shard = "optimizer";
  s.validation = {.every = 10, .tokens = 1000000};
  s.run = {.seed = 7,
           .gpu_exchange = "staged",
           .threads = 2,
           .directory = "true",
           .branch = "runs/trunk",
           .checkpoint = {.every = 5, .interval = 1800, .keep = 2, .keep_every = 20, .background = false},
           .operands = {.every = 3},
           .updates = {.every = 4},
           .progress = 2.5,
           .max_refused = 3,
           .sample = "line\nbreak",
           .sample_tokens = 5,
           .temperature = 0};
  return s;
}

TEST(SettingsTable, EveryKeyIsThereOnceAndInItsSection) {
  std::set<std::string> keys, closed;
  std::string open;
  for (const Setting& setting : settings_table()) {
    EXPECT_TRUE(keys.insert(setting.key).second) << setting.key << " twice";
    const size_t dot = setting.key.rfind('.');
    const std::string section = dot == std::string::npos ? "" : setting.key.substr(0, dot);
    if (section != open) {
      EXPECT_TRUE(closed.insert(section).second) << section << " begins twice";
      open = section;
    }
    EXPECT_TRUE(section.empty() || is_section(section)) << section;
    EXPECT_FALSE(setting.help.empty()) << setting.key;
    EXPECT_EQ(setting.type == SettingType::choice, !setting.choices.empty()) << setting.key;
  }
}

TEST(SettingsTable, DefaultsAreAllowedValues) {
  Settings settings;
  for (const Setting& setting : settings_table()) {
    const std::set<SettingType> no_scalars = {SettingType::list, SettingType::overrides, SettingType::recipes};
    if (no_scalars.contains(setting.type)) continue;
    EXPECT_NO_THROW(assign(setting, settings, YAML::Load(format_value(setting, Settings{})).Scalar())) << setting.key;
  }
}

TEST(SettingsTable, EveryMemberIsBound) {
  // Each row must reach a member of its own: with all members changed, no row shows its default.
  const Settings defaults;
  Settings changed = everything_changed();
  changed.data.synthetic = {.vocabulary = 256, .order = 3, .zipf = 0.9, .noise = 0.3, .seed = 7};
  changed.run.gpu_graphs = true;  // these are for GPUs alone
  changed.run.gpu_attention = "cudnn";
  changed.optimizer.offload = "moments";
  const std::set<std::string> exclusive = {"tokens",
                                           "epochs",
                                           "model.from",
                                           "gradients.virtual_ranks",
                                           "weights.gather",
                                           "optimizer.qk_clip",
                                           "model.mup_base_width",
                                           "run.device"};
  for (const Setting& setting : settings_table()) {
    if (exclusive.contains(setting.key)) continue;
    EXPECT_NE(format_value(setting, defaults), format_value(setting, changed)) << setting.key;
  }
}

TEST(SettingsTable, CompleteConfigurationReadsBack) {
  const Settings changed = everything_changed();
  EXPECT_EQ(parse_settings(settings_yaml(changed), "config.yaml"), changed) << settings_yaml(changed);

  Settings other;  // the settings that exclude those above
  other.model.from = "models/llama";
  other.data.train = "train.h5";
  other.batch.tokens = 1024;
  other.epochs = 2.5;
  other.run.directory = "runs/a";
  other.run.device = "cuda";
  other.run.gpu_graphs = true;
  EXPECT_EQ(parse_settings(settings_yaml(other), "config.yaml"), other);
  other.run.device = "cpu";
  other.run.gpu_graphs = false;
  other.epochs = 0;
  other.tokens = 750000000;
  other.shard = "parameters";
  other.precision.recipe = "fp8";
  other.weights.gather = "codes";
  other.optimizer.qk_clip = 100;
  other.model.from = "";
  other.model.preset = "llama-30m";
  other.model.mup_base_width = 256;
  EXPECT_EQ(parse_settings(settings_yaml(other), "config.yaml"), other);
  other.data = {.synthetic = {.vocabulary = 256, .order = 3, .zipf = 0.9, .noise = 0.3, .seed = 7}};
  EXPECT_EQ(parse_settings(settings_yaml(other), "config.yaml"), other);
}

TEST(SettingsTable, WhatWasResolvedFollowsAsAComment) {
  const std::string plain = settings_yaml(Settings{});
  const std::string yaml = settings_yaml(Settings{}, {{"steps", "2861"}, {"threads", "2"}});
  EXPECT_EQ(yaml, plain + "\n# resolved:\n#   steps: 2861\n#   threads: 2\n");
}

TEST(SettingsTable, CompleteConfigurationExplainsEveryLine) {
  const std::string yaml = settings_yaml(Settings{});
  size_t lines = 0;
  for (size_t begin = 0, end; (end = yaml.find('\n', begin)) != std::string::npos; begin = end + 1, ++lines)
    EXPECT_NE(yaml.substr(begin, end - begin).find(" # "), std::string::npos) << yaml.substr(begin, end - begin);
  EXPECT_GT(lines, settings_table().size());
}

TEST(SettingsTable, HelpAndReferencePageHoldEveryKey) {
  const std::string help = settings_help(), page = settings_markdown();
  for (const Setting& setting : settings_table()) {
    EXPECT_NE(help.find("  " + setting.key + ": "), std::string::npos) << setting.key;
    EXPECT_NE(page.find("| `" + setting.key + "` |"), std::string::npos) << setting.key;
  }
  EXPECT_NE(page.find("## run.checkpoint: "), std::string::npos);
}

TEST(SettingsTable, NearestKeys) {
  EXPECT_EQ(nearest_key("optimizer.learning_rat"), "optimizer.learning_rate");
  EXPECT_EQ(nearest_key("optimiser.learning_rate"), "optimizer.learning_rate");
  EXPECT_EQ(nearest_key("learning_rate"), "optimizer.learning_rate");
  EXPECT_EQ(nearest_key("batch.sequence"), "data.sequence");
  EXPECT_EQ(nearest_key("optimiser"), "optimizer");
  EXPECT_EQ(nearest_key("shedule.nmae"), "schedule.name");
  EXPECT_EQ(nearest_key("quantum"), "");
}

TEST(SettingsTable, DifferencesNameTheIdentity) {
  Settings then, now;
  now.batch.micro = 4;
  now.run.progress = 60;
  const std::vector<SettingDifference> found = setting_differences(then, now);
  ASSERT_EQ(found.size(), 2u);
  EXPECT_EQ(found[0].key, "batch.micro");
  EXPECT_EQ(found[0].then, "1");
  EXPECT_EQ(found[0].now, "4");
  EXPECT_TRUE(found[0].identity);
  EXPECT_EQ(found[1].key, "run.progress");
  EXPECT_EQ(found[1].now, "1min");
  EXPECT_FALSE(found[1].identity);
  EXPECT_TRUE(setting_differences(then, then).empty());
}

}  // namespace
}  // namespace nibble
