// muP: the rules by hand, what they make of weights and steps, and the check that shows whether they hold.
#include "trainer/mup.hpp"

#include <cmath>
#include <utility>

#include "comm/local_world.hpp"
#include "optim/muon.hpp"
#include "tests/trainer/expect_error.hpp"
#include "tests/trainer/small_run.hpp"
#include "trainer/coordinates.hpp"
#include "trainer/gradient_exchange.hpp"
#include "trainer/resolve.hpp"
#include "trainer/run_parts.hpp"

namespace nibble {
namespace {

constexpr Mup fourfold{.ratio = 4};

// Table 3 of arXiv 2203.03466, and for orthogonal updates sqrt(rows / cols) of arXiv 2310.17813.
TEST(Mup, TheRulesOfThePapers) {
  EXPECT_EQ(fourfold.deviation(ParameterKind::embedding), 1);
  EXPECT_EQ(fourfold.deviation(ParameterKind::projection), 0.5);
  EXPECT_EQ(fourfold.deviation(ParameterKind::head), 0.25);
  using enum ParameterKind;
  const auto rates = [](ParameterKind kind) {
    std::vector<double> list;
    for (const UpdateRule rule :
         {UpdateRule::adaptive, UpdateRule::proportional, UpdateRule::moonlight, UpdateRule::orthogonal})
      list.push_back(fourfold.learning_rate(kind, rule));
    return list;
  };
  EXPECT_EQ(rates(projection), (std::vector<double>{0.25, 1, 0.5, 1}));
  EXPECT_EQ(rates(head), (std::vector<double>{0.25, 0.25, 0.25, 0.25}));
  EXPECT_EQ(rates(embedding), (std::vector<double>{1, 4, 1, 1}));
  EXPECT_EQ(rates(norm), (std::vector<double>{1, 4, 1, 1}));
  // What moonlight's scale grows by is what its rate shrinks by.
  EXPECT_DOUBLE_EQ(muon_scale(MuonScale::moonlight, 256, 512) * rates(projection)[2],
                   muon_scale(MuonScale::moonlight, 64, 128));
}

class MupTest : public test::SmallRunTest {
 protected:
  /// Masters before and after the first step of a run that is never clipped.
  std::pair<std::vector<std::vector<float>>, std::vector<std::vector<float>>> first_step(
      const std::vector<std::string>& overrides) const {
    std::vector<std::string> all = overrides;
    all.insert(all.end(), {"schedule.name=constant", "schedule.warmup=0", "optimizer.clip=0", "precision.recipe=fp32",
                           "optimizer.no_decay=[]"});
    const Settings run = settings("run", all);
    const TokenData data = TokenData::open(run.data.train);
    const Loader loader(data, loader_options(run));
    Stream stream(1);
    const std::unique_ptr<World> world = make_local_world();
    const ModelConfig config = model_config(run, data.tokenizer().vocabulary);
    RunParts parts = make_run_parts(stream, *world, run, config, 2, exchange_maker(run, {}));
    parts.step->fill_masters(new_weights(stream, run, *parts.model));
    const auto masters = [&] {
      std::vector<std::vector<float>> values;
      for (size_t i = 0; i < parts.step->weights().size(); ++i) {
        const Tensor weight = parts.step->weights()[i];
        std::vector<float>& own = values.emplace_back();
        for (int64_t r = 0; r < weight.rows; ++r)
          own.insert(own.end(), weight.row<float>(r), weight.row<float>(r) + weight.cols);
      }
      return values;
    };
    const auto before = masters();
    parts.step->run(0, loader.batch(0, run.batch.tokens / run.data.sequence));
    return {before, masters()};
  }
  ParameterLayout layout() const { return ParameterLayout(model_config(settings("run"), 259)); }
};

double rms(const std::vector<float>& values) {
  double squares = 0;
  for (const float value : values) squares += double{value} * double{value};
  return std::sqrt(squares / static_cast<double>(values.size()));
}

// Adam's first step moves each weight by its learning rate; without gradients, decay alone moves them.
TEST_F(MupTest, ChangesFirstWeightsAndRates) {
  const std::vector<std::string> pure = {"optimizer.weight_decay=0", "optimizer.epsilon=1e-12"};
  std::vector<std::string> with_mup = pure;
  with_mup.push_back("model.mup_base_width=8");
  const auto plain = first_step(pure).first;
  const auto [scaled, scaled_after] = first_step(with_mup);
  const std::vector<ParameterInfo> parameters = layout().parameters();
  ASSERT_EQ(parameters.size(), plain.size());
  for (size_t i = 0; i < plain.size(); ++i) {
    const ParameterKind kind = parameters[i].kind;
    EXPECT_NEAR(rms(scaled[i]) / rms(plain[i]), fourfold.deviation(kind), 1e-6) << parameters[i].name;
    const double rate = 1e-2 * fourfold.learning_rate(kind, UpdateRule::adaptive);
    double largest = 0;
    for (size_t j = 0; j < scaled[i].size(); ++j)
      largest = std::max(largest, std::abs(double{scaled_after[i][j]} - double{scaled[i][j]}));
    EXPECT_NEAR(largest, rate, 1e-3 * rate) << parameters[i].name;
  }
}

TEST_F(MupTest, WeightsDecayAlikeAtEveryWidth) {
  for (const std::string optimizer : {"adamw", "muon", "sgd"}) {
    const std::vector<std::string> how = {"optimizer.name=" + optimizer, "model.mup_base_width=8"};
    std::vector<std::string> still = how;
    still.push_back("optimizer.weight_decay=0");
    const auto [before, with_decay] = first_step(how);
    const auto [same, without] = first_step(still);
    for (size_t i = 0; i < before.size(); ++i)
      for (size_t j = 0; j < before[i].size(); ++j)
        ASSERT_NEAR(without[i][j] - with_decay[i][j], 1e-2 * 0.1 * before[i][j], 1e-7) << optimizer << i;
  }
}

TEST_F(MupTest, CoordinatesShowWhetherWidthMatters) {
  const std::vector<int64_t> widths = {32, 64, 128};
  for (const std::string optimizer : {"adamw", "muon"}) {
    const auto check = [&](const std::string& base) {
      int64_t told = 0;
      const CoordinateCheck result = check_coordinates(
          settings("unused", {"optimizer.name=" + optimizer, "precision.recipe=fp32", "model.mup_base_width=" + base,
                              "data.validation=", "validation.every=0"}),
          widths, 4, [&] { ++told; });
      EXPECT_EQ(told, 12);
      EXPECT_EQ(result.coordinates.size(), 4u);  // of two blocks
      EXPECT_EQ(result.coordinates.back().changes.front().size(), 5u);
      EXPECT_EQ(result.coordinates.back().changes.front().front(), 0);
      return result;
    };
    const CoordinateCheck plain = check("0"), scaled = check("32");
    EXPECT_TRUE(scaled.independent_of_width()) << coordinates_text(scaled);
    EXPECT_FALSE(plain.independent_of_width()) << coordinates_text(plain);
    EXPECT_GT(plain.exponent(plain.coordinates.back()), 0.4);
    EXPECT_NE(coordinates_page(scaled, "title").find("block 1"), std::string::npos);
  }
  EXPECT_FALSE(std::filesystem::exists(path("unused")));
}

TEST(Coordinates, ExponentsOfPowers) {
  CoordinateCheck check{.widths = {10, 20, 80}, .coordinates = {{"grows", {{0, 3}, {0, 6}, {0, 24}}}}};
  EXPECT_NEAR(check.exponent(check.coordinates[0]), 1, 1e-12);
  EXPECT_FALSE(check.independent_of_width());
  check.coordinates[0].changes = {{0, 2}, {0, 2}, {0, 2}};
  EXPECT_TRUE(check.independent_of_width());
  check.coordinates[0].changes[1] = {0, NAN};
  EXPECT_FALSE(check.independent_of_width());
}

TEST_F(MupTest, OtherWidthsHaveTheirSidesInProportion) {
  const Settings wide = at_width(settings("run", {"model.heads=4", "model.kv_heads=2"}), 259, 96);
  const ModelConfig config = model_config(wide, 259);
  EXPECT_EQ(config.width, 96);
  EXPECT_EQ(config.heads, 12);
  EXPECT_EQ(config.kv_heads, 6);
  EXPECT_EQ(config.head_dim, 8);
  EXPECT_EQ(config.ffn, 192);
}

TEST_F(MupTest, WrongInput) {
  expect_error(ErrorKind::configuration, {"heads", "40", "multiples of 16"},
               [&] { at_width(settings("run"), 259, 40); });
  for (const std::vector<int64_t>& widths : {std::vector<int64_t>{32}, {32, 32}})
    expect_error(ErrorKind::configuration, {"--widths", "two widths"},
                 [&] { check_coordinates(settings("run"), widths, 1); });
  expect_error(ErrorKind::configuration, {"model.mup_base_width", "model.tied", "set model.tied=false"}, [&] {
    settings("run", {"model.mup_base_width=16", "model.tied=true"});
  });
  for (const std::string name : {"optimizer.name=shampoo", "optimizer.groups=[{match: '*mlp*', name: shampoo}]"})
    expect_error(ErrorKind::configuration, {"model.mup_base_width", "optimizer.shampoo.grafting", "sgd"}, [&] {
      settings("run", {"model.mup_base_width=16", name, "optimizer.shampoo.grafting=sgd"});
    });
}

}  // namespace
}  // namespace nibble
