#include "tests/quant/slow_linear.hpp"

#include <fmt/format.h>

#include "tests/quant/reference_rotation.hpp"

namespace nibble {
namespace {

using reference::Matrix;

/// Both gradients alike.
SlowRecipe all_four(const char* name, const char* forward, const SlowGradient& gradient, int64_t rotation = 0) {
  return {name, rotation, forward, forward, gradient, gradient};
}
SlowRecipe error_only(const std::string& name, const char* forward, const char* error, int64_t rotation = 0) {
  return {name, rotation, forward, forward, {.error = error}, {.error = error}};
}

std::vector<SlowRecipe> make_recipes() {
  const auto random = [](int64_t size) { return Rotation{size, Signs::random}; };
  const auto same = [](const char* quantizer, bool of_given = false, Rotation rotation = {}) {
    return SlowGradient{quantizer, quantizer, of_given, rotation};
  };
  const SlowGradient quartet = same("three_quarters_stochastic", false, random(32)),
                     eden16 = same("ms_eden_16", false, random(128)),
                     by_row{.error = "e5m2_by_row", .other = "e4m3_by_row"},
                     nvidia_by_input{.error = "nvfp4_stochastic"},
                     nvidia_by_weight{"nvfp4_stochastic", "nvfp4", true, random(16)},
                     nvidia_fixed{"nvfp4_stochastic", "nvfp4", true, {16, Signs::fixed}};
  std::vector<SlowRecipe> all = {
      {.name = "bf16"},
      error_only("fp8", "e4m3_by_tensor", "e5m2_by_tensor"),
      error_only("fp8-delayed", "e4m3_by_tensor", "e5m2_by_tensor"),
      all_four("fp8-row", "e4m3_by_row", by_row),
      all_four("mxfp8", "mx_e4m3_ceil", same("mx_e4m3_ceil", true)),
      all_four("mxfp6", "mx_e2m3_ceil", same("mx_e3m2_ceil", true)),
      all_four("mxfp4-rtn", "mx_e2m1_floor", same("mx_e2m1_floor", true)),
      all_four("mxint8", "mx_mxint8_floor", {}),
      all_four("mxfp4-rht-sr", "", same("three_quarters_stochastic", false, random(64))),
      all_four("quartet", "quartet_nearest", quartet, 32),
      all_four("quartet-rtn", "quartet_nearest", same("three_quarters", false, random(32)), 32),
      all_four("quartet-pma", "quartet_nearest", same("three_quarters_aligned", false, random(32)), 32),
      all_four("quartet-floor", "quartet_floor", quartet, 32),
      all_four("quartet-exact", "quartet_exact", quartet, 32),
      all_four("quartet2", "four_over_six", eden16),
      all_four("quartet2-rtn", "nvfp4", eden16),
      all_four("quartet2-eden128", "four_over_six", same("ms_eden_128", false, random(128))),
      all_four("quartet2-delayed", "four_over_six", eden16),
      {"nvfp4-nvidia", 0, "nvfp4", "nvfp4_square", nvidia_by_input, nvidia_by_weight},
      {"nvfp4-nvidia-fixed-signs", 0, "nvfp4", "nvfp4_square", nvidia_by_input, nvidia_fixed},
      {"nvfp4-nvidia-4over6", 0, "four_over_six", "four_over_six_square", nvidia_by_input, nvidia_by_weight},
      all_four("nvfp4-h16", "nvfp4", {}, 16),
      all_four("nvfp4-4over6-sr", "four_over_six", same("four_over_six_stochastic")),
      all_four("tetrajet2", "nvfp4", same("nvfp4_stochastic", false, random(32))),
      all_four("nvint4", "nvint4", {}),
      all_four("sfp4", "sfp4", {}),
      all_four("quest-fp4", "quest_fp4", {}, 128),
      {"quest-2of4-a4", 128, "quest_4", "quest_sparse"},
      {"quest-w4a16", 128, "", "quest_4"},
      {"quest-w1a1-plain", 0, "quest_1_plain", "quest_1_plain"},
      {"quest-w2a7-plain", 0, "quest_7", "quest_2"},
      {"ste-w4a8", 0, "int8_by_row", "int4_by_row"},
      {"ste-w8a16", 0, "", "int8_by_row"},
  };
  for (SlowRecipe& recipe : all) {
    recipe.signs_for_each_product = recipe.name == "mxfp4-rht-sr";
    recipe.wide = recipe.name == "sfp4" || recipe.name == "quartet-exact";
  }
  for (int bits = 1; bits <= 8; ++bits) {
    const std::string quantizer = fmt::format("quest_{}", bits);
    all.push_back({fmt::format("quest-w{0}a{0}", bits), 128, quantizer, quantizer});
  }
  for (const auto& [format, quantizer] :
       {std::pair{"int8", "int8_by_tensor"}, {"fp8", "e4m3_by_tensor"}, {"fp6", "halo_fp6"}})
    for (const int level : {0, 1, 2}) {
      all.push_back(
          error_only(fmt::format("halo{}-{}", level, format), quantizer, quantizer, level == 0 ? 0 : Rotation::full));
      all.back().by_input.left = level == 2;
    }
  return all;
}

/// What a product multiplies. Levels are values that are not yet multiplied with the scales of their rows.
struct Hat {
  Matrix values, levels{};
  std::vector<float> row_scales{};
  std::vector<uint8_t> mask{};
};

class SlowLinear {
 public:
  SlowLinear(const SlowRecipe& recipe, const LinearSpec& spec, const LinearCall& call)
      : recipe_(recipe), spec_(spec), call_(call) {}

  LinearResults run(const Matrix& x, const Matrix& w, const Matrix& dy) const {
    const Rotation features{recipe_.rotation};
    const Matrix x_turned = rotated(x, features, {}), w_turned = rotated(w, features, {});
    const Hat x_hat = quantized(x_turned, recipe_.input, 0), w_hat = quantized(w_turned, recipe_.weight, 1);
    LinearResults results{slow_product(x_hat.values, w_hat.values), {}, {}};
    results.dx = gradient(dy, recipe_.by_input.of_given ? Hat{w_turned} : w_hat, recipe_.by_input, 2);
    results.dw = gradient(dy.transposed(), recipe_.by_weight.of_given ? Hat{x_turned} : x_hat, recipe_.by_weight, 4);
    results.dx = turned_back(masked(results.dx, x_hat.mask), features);
    results.dw = turned_back(masked(results.dw, w_hat.mask), features);
    return results;
  }

 private:
  /// error[M, depth] other[depth, N] of the carried operand, M and N those of the result; roles are `role` and the
  /// next.
  Matrix gradient(Matrix error, const Hat& other, const SlowGradient& row, uint32_t role) const {
    if (!row.other.empty() || row.rotation) {
      const uint32_t product = recipe_.signs_for_each_product ? role : 0;
      const RandomStream random(spec_.seed, Purpose::rotation_signs, static_cast<uint32_t>(call_.step),
                                spec_.id * 6 + product);
      const std::vector<float> signs =
          rotation_signs(row.rotation.signs, row.rotation.size, random, static_cast<uint64_t>(call_.micro_batch));
      return slow_product(
          quantized(rotated(error, row.rotation, signs), row.error, role).values,
          quantized(rotated(other.values.transposed(), row.rotation, signs), row.other, role + 1).values);
    }
    for (size_t i = 0; i < other.row_scales.size(); ++i)
      for (int64_t j = 0; j < error.rows; ++j) error.values[j * error.depth + i] *= other.row_scales[i];
    const Matrix& levels = other.row_scales.empty() ? other.values : other.levels;
    const Rotation left{row.left ? Rotation::full : 0};
    error = rotated(error.transposed(), left, {}).transposed();
    const Matrix result = slow_product(quantized(error, row.error, role).values, levels.transposed());
    return turned_back(result.transposed(), left).transposed();
  }

  Hat quantized(const Matrix& x, const std::string& name, uint32_t role) const {
    if (name.empty()) {
      Hat as_it_is{x};
      for (float& value : as_it_is.values.values)
        if (!recipe_.wide) value = float{bf16(value)};
      return as_it_is;
    }
    const QuantizedMatrix result = quantize_matrix(x, quantizer_case(name).quantizer,
                                                   {.seed = spec_.seed,
                                                    .step = static_cast<uint32_t>(call_.step),
                                                    .tensor = spec_.id * 6 + role,
                                                    .part = static_cast<uint32_t>(call_.micro_batch)});
    Hat hat{x, x, result.row_scales, result.mask};
    for (size_t i = 0; i < x.values.size(); ++i) {
      hat.values.values[i] = result.value(i, x.depth);
      hat.levels.values[i] = result.values[i] * result.factor;
    }
    return hat;
  }

  static Matrix rotated(const Matrix& x, const Rotation& rotation, const std::vector<float>& signs) {
    if (!rotation) return x;
    const Hadamard hadamard = Hadamard::of_order(rotation.over(x.depth), "here");
    return {x.rows, x.depth, quantize_matrix(x, {}, {.hadamard = &hadamard, .signs = signs}).values};
  }
  static Matrix turned_back(const Matrix& x, const Rotation& rotation) {
    if (!rotation) return x;
    const Hadamard hadamard = Hadamard::of_order(rotation.over(x.depth), "here");
    const std::vector<int> core(hadamard.entries.begin(), hadamard.entries.end());
    return reference::rotate_back(
        x, core.empty() ? reference::hadamard(hadamard.order) : reference::hadamard(core, hadamard.order));
  }
  static Matrix masked(Matrix x, const std::vector<uint8_t>& mask) {
    for (size_t i = 0; i < mask.size(); ++i) x.values[i] = mask[i] != 0 ? x.values[i] : 0;
    return x;
  }

  const SlowRecipe& recipe_;
  const LinearSpec& spec_;
  const LinearCall& call_;
};

}  // namespace

const std::vector<SlowRecipe>& slow_recipes() {
  static const std::vector<SlowRecipe> all = make_recipes();
  return all;
}

LinearResults slow_linear(const SlowRecipe& recipe, const LinearSpec& spec, const LinearCall& call, const Matrix& x,
                          const Matrix& w, const Matrix& dy) {
  return SlowLinear(recipe, spec, call).run(x, w, dy);
}

Matrix slow_product(const Matrix& a, const Matrix& b) {
  Matrix c{a.rows, b.rows, {}};
  for (int64_t i = 0; i < a.rows; ++i)
    for (int64_t j = 0; j < b.rows; ++j) {
      double sum = 0;
      for (int64_t k = 0; k < a.depth; ++k) sum += double{a.values[i * a.depth + k]} * b.values[j * b.depth + k];
      c.values.push_back(static_cast<float>(sum));
    }
  return c;
}

}  // namespace nibble
