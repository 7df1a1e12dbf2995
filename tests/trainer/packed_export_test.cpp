// Whole exports of runs as codes: what is in the files is what training multiplied, and perplexity says so.
#include "trainer/packed_export.hpp"

#include <fmt/format.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "quant/quantizers.hpp"
#include "tests/trainer/expect_error.hpp"
#include "tests/trainer/small_run.hpp"
#include "trainer/gguf_model.hpp"
#include "trainer/huggingface.hpp"
#include "trainer/huggingface_weights.hpp"
#include "trainer/packed_matrix.hpp"
#include "trainer/safetensors.hpp"

namespace nibble::test {
namespace {

namespace fs = std::filesystem;

std::vector<float> values_of(WeightSource& source, size_t parameter) {
  const ParameterInfo& info = source.info(parameter);
  const OwnedTensor values(DType::f32, info.rows, info.cols);
  source.read(parameter, values);
  return {values.view().as<float>(), values.view().as<float>() + values.view().size()};
}

float number_of(const SafetensorsFile& file, const std::string& tensor) {
  float number;
  std::memcpy(&number, file.bytes(tensor).data(), sizeof number);
  return number;
}

class PackedExportTest : public SmallRunTest {
 protected:
  void train(std::vector<std::string> precision) {
    precision.insert(precision.end(), {"steps=2", "validation.every=2"});
    TrainingRun(settings("run", precision), {}).run();
    model_ = describe_model(find_model(path("run")));
    source_ = open_weights(model_);
  }
  /// A Hugging Face folder with weights of BF16: no training is needed.
  void make_folder() {
    const ModelConfig config{.vocabulary = 259,
                             .width = 32,
                             .layers = 2,
                             .heads = 2,
                             .kv_heads = 1,
                             .head_dim = 16,
                             .ffn = 64,
                             .context = 32};
    const ParameterLayout layout(config);
    ParameterSet weights(layout, DType::f32, DType::f32, true, "weights");
    initialize(stream_, config, layout, 5, 0.2, weights);
    export_huggingface(path("run"), config, weights, {});
    model_ = describe_model(find_model(path("run")));
    source_ = open_weights(model_);
  }
  PackedExportOptions options(const std::string& quantize) const {
    return {.quantize = quantize, .data = path("train.h5"), .tokens = 128};
  }
  ExportResult export_folder(PackedExport& packed) {
    return write_huggingface(
        path("export"), model_.config, packed.folder_groups(row_type("BF16")),
        {.overwrite = true,
         .quantization = packed.config(),
         .perplexity =
             [&](const fs::path& folder) { return packed.measure(*open_huggingface_weights(folder, model_.config)); },
         .facts = packed.facts()});
  }
  /// The folder's weights by the ordinary way in, config.json included.
  std::unique_ptr<WeightSource> read_folder() const { return open_weights(describe_model(find_model(path("export")))); }

  Stream stream_{1};
  ModelDescription model_;
  std::unique_ptr<WeightSource> source_;
};

TEST_F(PackedExportTest, OfTrainingsCodesLosesNothing) {
  const struct {
    std::vector<std::string> precision;
    const char *format, *note;
  } cases[] = {{{"precision.forward=quartet2", "precision.backward=bf16"},
                "trained",
                "the nvfp4 codes that training multiplied"},
               {{"precision.recipe=mxfp4-rtn"}, "mxfp4", "the mxfp4 codes that training multiplied"},
               {{"precision.recipe=fp8"}, "fp8", "the fp8 codes that training multiplied"},
               {{"precision.recipe=ste-w8a16"}, "int8", "the int8 codes that training multiplied"}};
  for (const auto& [precision, format, note] : cases) {
    fs::remove_all(path("run"));
    train(precision);
    PackedExport packed(stream_, model_, *source_, options(format));
    EXPECT_EQ(packed.notes()[0], std::string("8 of 8 projections: ") + note);
    const ExportResult result = export_folder(packed);
    const PerplexityChange change = result.perplexity.value();
    EXPECT_EQ(change.tokens, 128);
    EXPECT_NEAR(change.after / change.before, 1, 1e-6) << format;

    const auto exported = read_folder();
    for (size_t i = 0; i < exported->parameters(); ++i) {
      const std::vector<float> read = values_of(*exported, i), multiplied = values_of(packed.source(), i);
      for (size_t j = 0; j < read.size(); ++j)
        ASSERT_FLOAT_EQ(read[j], multiplied[j]) << format << exported->info(i).name;
    }
    const SafetensorsFile file(path("export") + "/model.safetensors");
    EXPECT_EQ(file.metadata().at("nibble.perplexity.after"), fmt::format("{:.6e}", change.after));
    EXPECT_NE(file.metadata().at("nibble.quantization").find(note), std::string::npos);
    EXPECT_EQ(file.entry("model.norm.weight").dtype, "F32");
    EXPECT_EQ(file.entry("lm_head.weight").dtype, "BF16");
  }
}

TEST_F(PackedExportTest, HasOneScaleForMatricesThatAreMultipliedAsOne) {
  make_folder();
  PackedExport packed(stream_, model_, *source_, {.quantize = "nvfp4"});
  write_huggingface(path("export"), model_.config, packed.folder_groups(row_type("BF16")),
                    {.quantization = packed.config()});
  const SafetensorsFile file(path("export") + "/model.safetensors");
  const auto scale = [&](const char* module) {
    return number_of(file, fmt::format("model.layers.1.{}.weight_global_scale", module));
  };
  EXPECT_EQ(scale("self_attn.q_proj"), scale("self_attn.k_proj"));
  EXPECT_EQ(scale("self_attn.q_proj"), scale("self_attn.v_proj"));
  EXPECT_EQ(scale("mlp.gate_proj"), scale("mlp.up_proj"));
  EXPECT_NE(scale("self_attn.q_proj"), scale("mlp.gate_proj"));
  // A divisor: 448 * 6 over the largest of what is multiplied as one.
  const auto expected = [&](const std::vector<std::string>& modules) {
    float largest = 0;
    for (size_t i = 0; i < source_->parameters(); ++i)
      for (const std::string& module : modules)
        if (source_->info(i).name == fmt::format("model.layers.1.{}.weight", module))
          for (const float value : values_of(*source_, i)) largest = std::max(largest, std::fabs(value));
    return 448 * 6 / largest;
  };
  EXPECT_FLOAT_EQ(scale("self_attn.q_proj"), expected({"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}));
  EXPECT_FLOAT_EQ(scale("mlp.gate_proj"), expected({"mlp.gate_proj", "mlp.up_proj"}));
  // Else the test would not see a scale of one matrix alone.
  EXPECT_NE(scale("self_attn.q_proj"), expected({"self_attn.v_proj"}));
}

TEST_F(PackedExportTest, OfOtherWeightsSaysWhatItCosts) {
  make_folder();
  PackedExport packed(stream_, model_, *source_, options("nvfp4"));
  EXPECT_EQ(packed.notes(), (std::vector<std::string>{"8 of 8 projections: rounded to the nearest nvfp4, as bf16 does "
                                                      "not quantize weights",
                                                      "activations: not quantized"}));
  const PerplexityChange change = export_folder(packed).perplexity.value();
  EXPECT_GT(std::fabs(change.after / change.before - 1), 1e-5);
  EXPECT_LT(std::fabs(change.after / change.before - 1), 0.2);

  PackedExport unmeasured(stream_, model_, *source_, {.quantize = "nvfp4"});
  EXPECT_FALSE(unmeasured.measures());
  EXPECT_EQ(unmeasured.facts().at("nibble.perplexity"), "not measured");
}

TEST_F(PackedExportTest, SaysHowLargeActivationsAre) {
  train({"precision.forward=quartet2", "precision.backward=bf16"});
  PackedExport packed(stream_, model_, *source_, options("nvfp4"));
  export_folder(packed);
  EXPECT_EQ(packed.config()["config_groups"]["group_0"]["input_activations"]["dynamic"], "local");
  const SafetensorsFile file(path("export") + "/model.safetensors");
  const float divisor = number_of(file, "model.layers.0.self_attn.k_proj.input_global_scale");

  // The input of the first projection by hand: RMS norm of the embeddings of the 128 tokens.
  const TokenData data = TokenData::open(path("train.h5"));
  std::vector<int32_t> ids(128);
  data.copy(0, ids);
  const std::vector<float> table = values_of(packed.source(), 0), gains = values_of(packed.source(), 1);
  float largest = 0;
  for (const int32_t id : ids) {
    const float* const row = table.data() + static_cast<size_t>(id) * 32;
    double squares = 0;
    for (int j = 0; j < 32; ++j) squares += double{row[j]} * row[j];
    const double scale = 1 / std::sqrt(squares / 32 + model_.config.norm_epsilon);
    for (int j = 0; j < 32; ++j)
      largest = std::max(largest, static_cast<float>(std::fabs(row[j] * scale * gains[static_cast<size_t>(j)])));
  }
  EXPECT_NEAR(divisor * largest / (448 * 6), 1, 1e-5);

  PackedExport without_data(stream_, model_, *source_, {.quantize = "nvfp4"});
  EXPECT_TRUE(without_data.config()["config_groups"]["group_0"]["input_activations"].is_null());
  PackedExportOptions only = options("nvfp4");
  only.weights_only = true;
  PackedExport weights_only(stream_, model_, *source_, only);
  EXPECT_TRUE(weights_only.config()["config_groups"]["group_0"]["input_activations"].is_null());
  for (const TensorGroup& group : weights_only.folder_groups(row_type("BF16")))
    for (const OutputTensor& tensor : group.tensors) EXPECT_FALSE(tensor.name.ends_with("input_global_scale"));
}

TEST_F(PackedExportTest, OfGgufHasBlocks) {
  train({"precision.recipe=mxfp4-rtn"});
  for (const auto& [name, loss] : {std::pair("mxfp4", 0.0f), {"q8_0", 0.01f}, {"q4_0", 0.15f}}) {
    PackedExportOptions given = options(name);
    given.gguf = true;
    PackedExport packed(stream_, model_, *source_, given);
    const std::string file = path(fmt::format("{}.gguf", name));
    const auto groups = gguf_groups(packed.source(), [&](const ParameterInfo& info) -> const RowType& {
      return packed.matrix_type(info, row_type("F32"));
    });
    const GgufResult result = write_gguf_model(file, gguf_model_metadata(model_.config, "small", packed.main_type()),
                                               groups, {.perplexity = [&](const fs::path& written) {
                                                 return packed.measure(*open_gguf_weights(written, model_.config));
                                               }});
    if (loss == 0) EXPECT_EQ(result.perplexity->after, result.perplexity->before);
    else EXPECT_NE(result.perplexity->after, result.perplexity->before) << name;
    const auto read = open_gguf_weights(file, model_.config);
    for (size_t i = 0; i < read->parameters(); ++i) {
      const std::vector<float> exported = values_of(*read, i), given_values = values_of(packed.source(), i);
      const bool packs = read->info(i).kind == ParameterKind::projection;
      float largest = 0;
      for (const float value : given_values) largest = std::max(largest, std::fabs(value));
      for (size_t j = 0; j < exported.size(); ++j)
        ASSERT_LE(std::fabs(exported[j] - given_values[j]), packs ? loss * largest : 0) << name << read->info(i).name;
    }
  }
}

TEST_F(PackedExportTest, RefusesWhatCannotBe) {
  make_folder();
  const auto refused = [&](const PackedExportOptions& given, const std::vector<std::string>& texts) {
    expect_error(ErrorKind::configuration, texts, [&] { PackedExport(stream_, model_, *source_, given); });
  };
  refused({.quantize = "q8_0"}, {"compressed-tensors has no such", "q8_0", "nvfp4, mxfp4, fp8, int8"});
  refused({.quantize = "nvfp4", .gguf = true}, {"GGUF has no such", "nvfp4", "q8_0, q4_0, mxfp4"});
  refused({.quantize = "trained", .gguf = true}, {"GGUF has no such", "trained"});
  refused({.quantize = "trained"}, {"bf16 does not quantize weights"});
  ParameterSet broken(source_->layout(), DType::f32, DType::f32, true, "weights");
  const auto held = held_weights(model_.config, broken);
  broken[2].row<float>(3)[5] = std::numeric_limits<float>::quiet_NaN();
  PackedExport packed(stream_, model_, *held, {.quantize = "fp8"});
  expect_error(ErrorKind::numerics, {"layers.0.self_attn.q_proj", "infinite or not a number"},
               [&] { write_huggingface(path("export"), model_.config, packed.folder_groups(row_type("BF16")), {}); });
  EXPECT_FALSE(fs::exists(path("export")));
}

TEST_F(PackedExportTest, ReadsScalesInSixteenBits) {
  const OwnedTensor codes(DType::i8, 16, 32), narrow(DType::bf16, 16, 1), wide(DType::f32, 16, 1);
  for (int64_t i = 0; i < 16; ++i) {
    narrow.view().row<bf16>(i)[0] = bf16(0.013f * static_cast<float>(i + 1));
    wide.view().row<float>(i)[0] = static_cast<float>(narrow.view().row<bf16>(i)[0]);
    for (int64_t j = 0; j < 32; ++j) codes.view().row<int8_t>(i)[j] = static_cast<int8_t>(5 * i - 3 * j);
  }
  const auto read = [&](const char* name, const SafetensorsItem& scale) {
    write_safetensors(directory_ / name, {{"x.weight", {16, 32}, codes, DType::i8}, scale});
    const SafetensorsFile file(directory_ / name);
    const auto find = [&](const std::string& tensor) { return file.contains(tensor) ? &file : nullptr; };
    OwnedTensor values(DType::f32, 9, 32);
    PackedMatrix::find(find, "x.weight", 16, 32).value().read_rows(7, values);
    return std::vector<float>(values.view().as<float>(), values.view().as<float>() + 9 * 32);
  };
  const std::vector<float> expected = read("wide.safetensors", {"x.weight_scale", {16, 1}, wide, DType::f32});
  EXPECT_EQ(read("narrow.safetensors", {"x.weight_scale", {16, 1}, narrow, DType::bf16}), expected);
  EXPECT_EQ(expected[0], static_cast<float>(narrow.view().row<bf16>(7)[0]) * 35);
}

TEST_F(PackedExportTest, IsRefusedWhereAPartIsMissing) {
  const OwnedTensor codes(DType::u8, 16, 16), scales(DType::u8, 16, 1);
  const auto file_with = [&](const std::vector<SafetensorsItem>& items) {
    write_safetensors(directory_ / "part.safetensors", items);
    return SafetensorsFile(directory_ / "part.safetensors");
  };
  const auto find = [](const SafetensorsFile& file) {
    return PackedMatrix::find([&](const std::string& name) { return file.contains(name) ? &file : nullptr; },
                              "x.weight", 16, 32);
  };
  const SafetensorsItem packed{"x.weight_packed", {16, 16}, codes, DType::u8},
      scale{"x.weight_scale", {16, 1}, scales, DType::u8};
  EXPECT_EQ(find(file_with({packed, scale}))->tensors(),
            (std::vector<std::string>{"x.weight_packed", "x.weight_scale"}));
  EXPECT_FALSE(find(file_with({{"x.weight", {16, 16}, codes, DType::u8}})));
  expect_error(ErrorKind::checkpoint, {"x.", "weight_packed U8 [16, 16]", "weight_scale U8 [16, 1]"},
               [&] { find(file_with({packed})); });
  SafetensorsItem wide = scale;
  wide.shape = {1, 16};
  expect_error(ErrorKind::checkpoint, {"weight_scale U8 [1, 16]"}, [&] { find(file_with({packed, wide})); });
}

}  // namespace
}  // namespace nibble::test
