// Which weights are packed, and which of them with training's codes; what config.json says of it.
#include "trainer/packing_plan.hpp"

#include <gtest/gtest.h>

#include "tests/trainer/expect_error.hpp"
#include "trainer/packed_config.hpp"

namespace nibble {
namespace {

ModelConfig shape(int64_t width = 64) {
  return {.vocabulary = 32, .width = width, .layers = 3, .heads = 2, .kv_heads = 1, .head_dim = 32, .ffn = 128};
}
const ParameterLayout layout(shape());

PackingPlan plan(const Precision& precision, PackedFormat format) { return plan_packing(layout, precision, format); }

TEST(PackingPlan, PacksTheCodesOfTraining) {
  const struct {
    const char* recipe;
    PackedFormat format;
  } cases[] = {
      {"quartet2", PackedFormat::nvfp4},  {"nvfp4-nvidia", PackedFormat::nvfp4}, {"mxfp4-rtn", PackedFormat::mxfp4},
      {"fp8", PackedFormat::fp8},         {"fp8-delayed", PackedFormat::fp8},    {"fp8-row", PackedFormat::fp8},
      {"halo0-int8", PackedFormat::int8}, {"ste-w8a8", PackedFormat::int8},      {"ste-w8a16", PackedFormat::int8}};
  for (const auto& [recipe, format] : cases) {
    const PackingPlan packed = plan(find_recipe(recipe), format);
    EXPECT_EQ(packed.packed(), 12) << recipe;
    EXPECT_EQ(packed.trained(), 12) << recipe;
    EXPECT_EQ(packed.buffers[static_cast<size_t>(layout.qkv(1))]->quantizer, find_recipe(recipe).forward.weight);
    EXPECT_FALSE(packed.buffers[static_cast<size_t>(layout.embedding())]);
    EXPECT_FALSE(packed.buffers[static_cast<size_t>(layout.head())]);
    EXPECT_EQ(trained_format(layout, find_recipe(recipe)), format) << recipe;
  }
}

TEST(PackingPlan, RoundsWhatTrainingMultipliedOtherwise) {
  const struct {
    const char *recipe, *because;
  } cases[] = {{"bf16", "bf16 does not quantize weights"},
               {"quartet", "Hadamard transform"},
               {"quest-w4a4", "Hadamard transform"},
               {"lsq-w4a4", "elements and scales of lsq-w4a4"},
               {"sfp4", "elements and scales of sfp4"},
               {"nvint4", "elements and scales of nvint4"},
               {"fp8", "fp8 trains fp8"}};
  for (const auto& [recipe, because] : cases) {
    const PackingPlan packed = plan(find_recipe(recipe), PackedFormat::nvfp4);
    EXPECT_EQ(packed.packed(), 12) << recipe;
    EXPECT_EQ(packed.trained(), 0) << recipe;
    EXPECT_NE(packed.rounded_because().find(because), std::string::npos) << packed.rounded_because();
    EXPECT_EQ(packed.buffers[static_cast<size_t>(layout.qkv(1))]->quantizer, default_quantizer(PackedFormat::nvfp4));
  }
  EXPECT_EQ(plan(find_recipe("fp32"), PackedFormat::int8).working, DType::f32);
}

TEST(PackingPlan, LeavesAloneWhatTheRunDid) {
  const Precision kept(find_recipe("quartet2"),
                       {{.first_layer = 2, .recipe = find_recipe("bf16")},
                        {.end_layer = 1, .of = {Projection::down}, .recipe = find_recipe("mxfp4-rtn")}});
  const PackingPlan packed = plan(kept, PackedFormat::nvfp4);
  EXPECT_EQ(packed.packed(), 8);
  EXPECT_EQ(packed.trained(), 7);
  EXPECT_EQ(packed.rounded_because(), "mxfp4-rtn trains mxfp4");
  EXPECT_FALSE(packed.buffers[static_cast<size_t>(layout.gate_up(2))]);
}

TEST(PackingPlan, SaysWhyThereAreNoCodesOfTraining) {
  const auto refused = [](const Precision& precision, const std::vector<std::string>& texts) {
    expect_error(ErrorKind::configuration, texts, [&] { trained_format(layout, precision); });
  };
  refused(find_recipe("bf16"), {"bf16 does not quantize weights", "quartet2", "--quantize nvfp4"});
  refused(find_recipe("quartet"), {"Hadamard transform", "rounded to nearest"});
  refused(find_recipe("quest-w4a4"), {"Hadamard transform"});
  refused({find_recipe("quartet2"), {{.first_layer = 2, .recipe = find_recipe("fp8")}}},
          {"nvfp4 and fp8 stand beside each other"});
  EXPECT_EQ(trained_format(layout, {find_recipe("quartet2"), {{.first_layer = 2, .recipe = find_recipe("bf16")}}}),
            PackedFormat::nvfp4);
}

TEST(PackingPlan, RefusesWidthsThatBlocksDoNotDivide) {
  const ParameterLayout narrow(shape(48));
  expect_error(ErrorKind::configuration, {"mxfp4", "layers.0.qkv", "48 input features", "a multiple of 32"},
               [&] { plan_packing(narrow, find_recipe("bf16"), PackedFormat::mxfp4); });
  EXPECT_EQ(plan_packing(narrow, find_recipe("bf16"), PackedFormat::nvfp4).packed(), 12);
}

TEST(PackedConfig, NamesSchemesAndWhatIsLeftAlone) {
  const Precision kept(find_recipe("quartet2"),
                       {{.first_layer = 2, .of = {Projection::qkv}, .recipe = find_recipe("bf16")}});
  const nlohmann::ordered_json config = packed_config(layout, plan(kept, PackedFormat::nvfp4), false);
  EXPECT_EQ(
      config.dump(),
      R"({"quant_method":"compressed-tensors","format":"nvfp4-pack-quantized","quantization_status":"compressed",)"
      R"("config_groups":{"group_0":{"targets":["Linear"],"weights":{"num_bits":4,"type":"float","symmetric":true,)"
      R"("strategy":"tensor_group","group_size":16,"dynamic":false,"scale_dtype":"torch.float8_e4m3fn"},)"
      R"("input_activations":null,"output_activations":null,"format":"nvfp4-pack-quantized"}},)"
      R"("ignore":["lm_head","model.layers.2.self_attn.q_proj","model.layers.2.self_attn.k_proj",)"
      R"("model.layers.2.self_attn.v_proj"],"kv_cache_scheme":null})");
}

TEST(PackedConfig, SaysHowActivationsAreQuantized) {
  const auto first = [](const char* recipe, PackedFormat format) {
    const PackingPlan packed = plan(find_recipe(recipe), format);
    return packed_config(layout, packed, true)["config_groups"]["group_0"];
  };
  const auto nvfp4 = first("quartet2", PackedFormat::nvfp4)["input_activations"];
  EXPECT_EQ(nvfp4["strategy"], "tensor_group");
  EXPECT_EQ(nvfp4["dynamic"], "local");
  const auto mxfp4 = first("mxfp4-rtn", PackedFormat::mxfp4)["input_activations"];
  EXPECT_EQ(mxfp4["strategy"], "group");
  EXPECT_EQ(mxfp4["group_size"], 32);
  EXPECT_EQ(mxfp4["dynamic"], true);
  EXPECT_EQ(first("fp8", PackedFormat::fp8)["weights"]["strategy"], "tensor");
  EXPECT_EQ(first("fp8", PackedFormat::fp8)["input_activations"]["strategy"], "tensor");
  EXPECT_EQ(first("fp8-row", PackedFormat::fp8)["weights"]["strategy"], "channel");
  EXPECT_EQ(first("fp8-row", PackedFormat::fp8)["input_activations"]["strategy"], "token");
  EXPECT_EQ(first("ste-w8a8", PackedFormat::int8)["input_activations"]["type"], "int");
  EXPECT_TRUE(first("ste-w8a16", PackedFormat::int8)["input_activations"].is_null());
  EXPECT_TRUE(first("bf16", PackedFormat::fp8)["input_activations"].is_null());
}

TEST(PackedConfig, HasAGroupForEachScheme) {
  const Precision mixed(find_recipe("fp8"), {{.first_layer = 1, .recipe = find_recipe("fp8-row")}});
  const auto groups = packed_config(layout, plan(mixed, PackedFormat::fp8), false)["config_groups"];
  ASSERT_EQ(groups.size(), 2u);
  EXPECT_EQ(groups["group_0"]["targets"].size(), 7u);
  EXPECT_EQ(groups["group_0"]["targets"][0], "model.layers.0.self_attn.q_proj");
  EXPECT_EQ(groups["group_1"]["targets"].size(), 14u);
}

}  // namespace
}  // namespace nibble
