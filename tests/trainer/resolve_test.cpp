#include "trainer/resolve.hpp"

#include <gtest/gtest.h>

#include "expect_error.hpp"

namespace nibble {
namespace {

Settings good() {
  Settings settings;
  settings.model.preset = "llama-30m";
  settings.data.train = "train.h5";
  settings.batch = {.tokens = 262144, .micro = 8};
  settings.steps = 1000;
  settings.run.directory = "runs/a";
  return settings;
}

/// Expects that a good configuration becomes contradictory by `change`.
template <class Change>
void expect_contradiction(const std::vector<std::string>& texts, Change change) {
  Settings settings = good();
  ASSERT_NO_THROW(validate(settings));
  change(settings);
  expect_error(ErrorKind::configuration, texts, [&] { validate(settings); });
}

TEST(Resolve, RequiredSettings) {
  expect_contradiction({"data.train is missing", "nibble tokenize"}, [](Settings& s) { s.data.train = ""; });
  expect_contradiction({"run.directory is missing"}, [](Settings& s) { s.run.directory = ""; });
  expect_contradiction({"batch.tokens is missing", "4096"}, [](Settings& s) { s.batch.tokens = 0; });
}

TEST(Resolve, ASyntheticLanguageHasNoFiles) {
  const auto synthetic = [](auto change) {
    return [=](Settings& s) {
      s.data.train.clear();
      s.data.synthetic.vocabulary = 256;
      s.validation.every = 10;
      EXPECT_NO_THROW(validate(s));
      change(s);
    };
  };
  const std::string what = "a synthetic language has no files";
  expect_contradiction({what, "data.train: a.h5"}, synthetic([](Settings& s) { s.data.train = "a.h5"; }));
  expect_contradiction({what, "data.validation: a.h5"}, synthetic([](Settings& s) { s.data.validation = "a.h5"; }));
  expect_contradiction({what, "data.packing: documents"}, synthetic([](Settings& s) { s.data.packing = "documents"; }));
  expect_contradiction({what, "data.mask_documents"}, synthetic([](Settings& s) { s.data.mask_documents = true; }));
  expect_contradiction({what, "epochs: 2"}, synthetic([](Settings& s) {
                         s.steps = 0;
                         s.epochs = 2;
                       }));
  expect_contradiction({"a language of one token", "data.synthetic.vocabulary"},
                       synthetic([](Settings& s) { s.data.synthetic.vocabulary = 1; }));
  expect_contradiction({"there is none", "set data.synthetic.vocabulary"},
                       [](Settings& s) { s.data.synthetic.noise = 0.2; });
  expect_contradiction({what, "run.sample: Once"}, synthetic([](Settings& s) { s.run.sample = "Once"; }));
}

TEST(Resolve, ExactlyOneLength) {
  expect_contradiction({"length of the run is missing"}, [](Settings& s) { s.steps = 0; });
  expect_contradiction({"given more than once", "steps: 1000, tokens: 1000000"},
                       [](Settings& s) { s.tokens = 1000000; });
  expect_contradiction({"given more than once"}, [](Settings& s) { s.epochs = 0.5; });
}

TEST(Resolve, Shape) {
  expect_contradiction({"model.from brings its own shape"}, [](Settings& s) { s.model.from = "models/llama"; });
  expect_contradiction({"model.from brings its own shape"},
                       [](Settings& s) { s.model = {.rope_theta = 5e5, .from = "models/llama"}; });
  expect_contradiction({"model.from: models/llama, model.init_std: 0.5", "remove model.init_std"},
                       [](Settings& s) { s.model = {.init_std = 0.5, .from = "models/llama"}; });
  Settings recomputed = good();
  recomputed.model = {.recompute = "block", .from = "models/llama"};
  EXPECT_NO_THROW(validate(recomputed));
  expect_contradiction({"the model has no shape"}, [](Settings& s) { s.model.preset = "none"; });
  expect_contradiction({"longer than the model's context"}, [](Settings& s) { s.model.context = 256; });
  expect_contradiction({"RoPE scaling"}, [](Settings& s) {
    s.model.rope_scaling = {.factor = 8, .low_frequency_factor = 4, .high_frequency_factor = 4};
  });
}

TEST(Resolve, QkClipAndQkNormExcludeEachOther) {
  expect_contradiction({"QK-norm takes out again", "optimizer.qk_clip, model.qk_norm", "optimizer.qk_clip: 100"},
                       [](Settings& s) {
                         s.model.qk_norm = true;
                         s.optimizer.qk_clip = 100;
                       });
}

TEST(Resolve, GraphsAreForGpus) {
  expect_contradiction({"only a GPU is given graphs", "run.gpu_graphs, run.device", "set run.gpu_graphs=false"},
                       [](Settings& s) { s.run.gpu_graphs = true; });
  expect_contradiction({"statistics of earlier steps", "run.gpu_graphs, precision", "true, fp8-delayed"},
                       [](Settings& s) {
                         s.run.device = "cuda";
                         s.run.gpu_graphs = true;
                         s.precision.recipe = "fp8-delayed";
                       });
}

TEST(Resolve, AttentionByCudnnIsForGpusAndBf16WithoutDocuments) {
  const auto expect_refused = [](const std::vector<std::string>& texts, auto change) {
    expect_contradiction(texts, [&](Settings& s) {
      s.run.device = "cuda";
      s.run.gpu_attention = "cudnn";
      change(s);
    });
  };
  expect_refused({"on GPUs only", "run.gpu_attention, run.device", "cudnn, cpu", "set run.gpu_attention=own"},
                 [](Settings& s) { s.run.device = "cpu"; });
  expect_refused({"crosses documents", "run.gpu_attention, data.mask_documents, data.packing", "cudnn, true, stream"},
                 [](Settings& s) { s.data.mask_documents = true; });
  expect_refused({"crosses documents", "cudnn, false, documents"}, [](Settings& s) { s.data.packing = "documents"; });
  expect_refused({"other operands", "run.gpu_attention, precision", "cudnn, f32"},
                 [](Settings& s) { s.precision.recipe = "fp32"; });
  expect_refused({"does not tell the largest logits", "run.gpu_attention, optimizer.qk_clip", "cudnn, 100"},
                 [](Settings& s) { s.optimizer.qk_clip = 100; });
}

TEST(Resolve, Batch) {
  expect_contradiction({"no whole number of micro-batches", "8 x 512 = 4096", "set batch.tokens to 8192 or 12288"},
                       [](Settings& s) { s.batch.tokens = 10000; });
  expect_contradiction({"set batch.tokens to 4096"}, [](Settings& s) { s.batch.tokens = 2048; });
  expect_contradiction({"micro-batch is too large"}, [](Settings& s) { s.batch.micro = int64_t{1} << 40; });
}

TEST(Resolve, ProductsThatOverflowAreRefusedFirst) {
  const auto huge = static_cast<int64_t>(1e15);
  expect_contradiction({"micro-batch is too large"}, [&](Settings& s) {
    s.data.sequence = huge;
    s.batch = {.tokens = 0, .micro = huge};
  });
  const auto long_run = [&](Settings& s) {
    s.batch.tokens = 4096 * (huge / 4096);
    s.steps = huge;
  };
  expect_contradiction({"longer than can be counted", "at most 1000000000000000000 tokens"}, long_run);
  Settings settings = good();
  long_run(settings);
  settings.steps = 0;
  settings.epochs = 1e15;
  expect_error(ErrorKind::configuration, {"longer than can be counted"}, [&] { resolve_steps(settings, huge / 2); });
}

TEST(Resolve, DimensionsWhoseParametersCannotBeCountedAreRefused) {
  const auto expect_refused = [](const ModelSettings& model, const std::string& text) {
    Settings settings = good();
    settings.model = model;
    expect_error(ErrorKind::configuration, {text}, [&] { model_config(settings, 259); });
  };
  constexpr int64_t large = 1 << 20;
  expect_refused({.width = 2 * large, .layers = 1, .heads = 32}, "model.width");
  expect_refused({.width = 64, .layers = large, .heads = 2}, "model.layers");
  expect_refused({.width = 64, .layers = 1, .heads = 1 << 16, .head_dim = 32}, "the heads together are too wide");
  Settings largest = good();
  largest.model = {.width = large, .layers = 1 << 16, .heads = 1 << 16, .head_dim = 16, .ffn = large};
  largest.model.vocab = (int64_t{1} << 31) - 1;
  EXPECT_GT(model_config(largest, 259).parameters(), int64_t{1} << 58);
}

TEST(Resolve, ValidationAndCheckpoints) {
  expect_contradiction({"validation without data"}, [](Settings& s) { s.validation.every = 10; });
  expect_contradiction({"never written"}, [](Settings& s) { s.run.checkpoint = {.every = 300, .keep_every = 1000}; });
  expect_contradiction({"never written"}, [](Settings& s) { s.run.checkpoint = {.keep_every = 1000}; });
}

TEST(Resolve, GatheredCodes) {
  const auto codes = [](auto&& change) {
    return [change](Settings& s) {
      s.shard = "parameters";
      s.precision.recipe = "halo2-int8";
      s.weights.gather = "codes";
      change(s);
    };
  };
  Settings settings = good();
  codes([](Settings&) {})(settings);
  EXPECT_NO_THROW(validate(settings));
  for (const char* shard : {"none", "optimizer", "gradients"})
    expect_contradiction({"only sharded parameters", "weights.gather", std::string("shard: ") + shard},
                         codes([shard](Settings& s) { s.shard = shard; }));
  for (const char* recipe : {"bf16", "fp8-row", "quest-w8a8", "lsq-w8a8", "mxfp8", "quartet2"})
    expect_contradiction({"no layer", recipe, "fp8, fp8-delayed, halo0-int8", "weights.gather=working"},
                         codes([recipe](Settings& s) { s.precision.recipe = recipe; }));
  expect_contradiction({"no layer", "halo2-int8"}, codes([](Settings& s) { s.precision.keep_bf16.last = 6; }));
  expect_contradiction({"no layer"},
                       codes([](Settings& s) { s.precision.overrides = {{.phase = "last 10%", .recipe = "fp8"}}; }));
  expect_contradiction({"run.operands.every: 5"}, codes([](Settings& s) { s.run.operands.every = 5; }));
}

TEST(Resolve, Schedule) {
  const auto wsd = [](StepsOrShare warmup, StepsOrShare decay) {
    return [=](Settings& s) { s.schedule = {.name = "wsd", .warmup = warmup, .decay = decay}; };
  };
  expect_contradiction({"the warm-up is longer than the run", "schedule.warmup", "1001 steps", "0 to 1000", "10%"},
                       [](Settings& s) { s.schedule.warmup = StepsOrShare::steps(1001); });
  expect_contradiction({"the decay is longer than the run", "schedule.decay", "1001 steps", "0 to 1000", "20%"},
                       wsd(StepsOrShare::steps(0), StepsOrShare::steps(1001)));
  expect_contradiction({"warm-up and decay overlap", "warm-up 100 + decay 901 of 1000 steps", "at most 1000"},
                       wsd(StepsOrShare::share(0.1), StepsOrShare::steps(901)));
  Settings overlapping = good();
  wsd(StepsOrShare::steps(500), StepsOrShare::steps(501))(overlapping);
  expect_error(
      ErrorKind::configuration, {"schedule.warmup (run.yaml:3:10), schedule.decay (--set schedule.decay=501)"}, [&] {
        validate(overlapping, {{"schedule.warmup", "run.yaml:3:10"}, {"schedule.decay", "--set schedule.decay=501"}});
      });
  Settings cosine = good();  // the decay belongs to wsd alone
  cosine.schedule.decay = StepsOrShare::steps(901);
  EXPECT_NO_THROW(validate(cosine));
}

TEST(Resolve, ContradictionsSayWhereBothSidesCameFrom) {
  Settings settings = good();
  settings.batch.tokens = 1000;
  expect_error(ErrorKind::configuration, {"batch.tokens (run.yaml:3:10)", "batch.micro (--set batch.micro=8)"}, [&] {
    validate(settings, {{"batch.tokens", "run.yaml:3:10"}, {"batch.micro", "--set batch.micro=8"}});
  });
}

TEST(Resolve, Steps) {
  Settings settings = good();
  EXPECT_EQ(resolve_steps(settings, 0), 1000);
  settings.steps = 0;
  settings.tokens = 750000000;
  EXPECT_EQ(resolve_steps(settings, 0), 2861);  // the papers' 30M run
  settings.tokens = 0;
  settings.epochs = 1.5;
  EXPECT_EQ(resolve_steps(settings, 10 * 262144 + 5), 15);
}

TEST(Resolve, StepsThatAreNone) {
  Settings settings = good();
  settings.steps = 0;
  settings.tokens = 262143;
  expect_error(ErrorKind::configuration, {"fewer tokens than one step takes"}, [&] { validate(settings); });
  settings.tokens = 0;
  settings.epochs = 1;
  EXPECT_NO_THROW(validate(settings));  // the data is not known yet
  expect_error(ErrorKind::configuration, {"no sensible number of steps"}, [&] { resolve_steps(settings, 1000); });
  settings.schedule.warmup = StepsOrShare::steps(11);
  expect_error(ErrorKind::configuration, {"warm-up is longer"}, [&] { resolve_steps(settings, 10 * 262144); });
}

TEST(Resolve, ExplicitDimensionsReplaceThePresets) {
  Settings settings = good();
  settings.model.layers = 3;
  settings.model.kv_heads = 1;
  const ModelConfig config = model_config(settings, 259);
  EXPECT_EQ(config, (ModelConfig{.vocabulary = 32000,
                                 .width = 640,
                                 .layers = 3,
                                 .heads = 5,
                                 .kv_heads = 1,
                                 .head_dim = 128,
                                 .ffn = 1792,
                                 .context = 512,
                                 .rope_theta = 10000,
                                 .rope_scaling = {},
                                 .norm_epsilon = 1e-5,
                                 .tied = false}));
}

TEST(Resolve, DimensionsFollowFromTheOthers) {
  Settings settings = good();
  settings.model = {.width = 256, .layers = 2, .heads = 4, .rope_scaling = {.factor = 8}};
  const ModelConfig config = model_config(settings, 259);
  EXPECT_EQ(config.kv_heads, 4);
  EXPECT_EQ(config.head_dim, 64);
  EXPECT_EQ(config.ffn, 768);
  EXPECT_EQ(config.vocabulary, 259);
  ASSERT_TRUE(config.rope_scaling.has_value());
  EXPECT_EQ(*config.rope_scaling, RopeScaling{});
}

TEST(Resolve, VocabularyMustHoldTheTokens) {
  Settings settings = good();
  settings.model.vocab = 256;
  expect_error(ErrorKind::configuration, {"smaller than the tokenizer's", "model.vocab", "259"},
               [&] { model_config(settings, 259); });
  settings.model.vocab = 0;
  expect_error(ErrorKind::configuration, {"model.preset"}, [&] { model_config(settings, 50000); });
}

}  // namespace
}  // namespace nibble
