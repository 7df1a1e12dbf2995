#include "quant/format_measurement.hpp"

#include <algorithm>
#include <array>
#include <cmath>

#include "quant/quantize.hpp"
#include "tensor/fill.hpp"

namespace nibble {
namespace {

/// Phases of the deviation over an octave: the k-th sixteen rows of a part are multiplied by 2^((k + 1/2) / 8).
constexpr int64_t phases = 8, rows_of_phase = sample_part_rows / phases;

/// Sums over some elements; those of an octave in units of their deviation.
struct Sums {
  double squared_error = 0, squared = 0, squared_operand = 0, product = 0;
  double elements = 0, clipped = 0, masked = 0, blocks = 0, fours = 0;
  double squared_steps = 0;  ///< over elements

  Sums& operator+=(const Sums& other) {
    for (const auto member :
         {&Sums::squared_error, &Sums::squared, &Sums::squared_operand, &Sums::product, &Sums::elements, &Sums::clipped,
          &Sums::masked, &Sums::blocks, &Sums::fours, &Sums::squared_steps})
      this->*member += other.*member;
    return *this;
  }
};

using Part = std::array<Sums, phases>;

Sums total(const Part& part) {
  Sums sum;
  for (const Sums& phase : part) sum += phase;
  return sum;
}

/// The memory and the work of one part of the sample.
class PartMeasurement {
 public:
  PartMeasurement(Stream& stream, uint32_t number)
      : stream_(stream), number_(number), x_(DType::f32, sample_part_rows, reference_cols) {
    fill_normal(stream, RandomStream(1, Purpose::initialization, number), 1, x_);
  }

  float largest() const { return tensor_statistic(stream_, {.values = x_}, {}); }

  Part measure(const QuantizerRow& row, float sample_largest) const {
    Part part;
    if (!row.octave) {
      part[0] = measure(row.quantizer, x_, 0, 1, sample_largest);
      return part;
    }
    for (int64_t phase = 0; phase < phases; ++phase) {
      const Tensor rows = x_.view().slice_rows(phase * rows_of_phase, rows_of_phase);
      const float deviation = std::exp2((static_cast<float>(phase) + 0.5f) / phases);
      part[static_cast<size_t>(phase)] = measure(row.quantizer, rows, phase, deviation, sample_largest);
    }
    return part;
  }

 private:
  Sums measure(const Quantizer& quantizer, const Tensor& x, int64_t phase, float deviation,
               float sample_largest) const {
    const Operand source{.values = x, .factor = deviation};
    const auto stream_of = [&](Purpose purpose) {
      return RandomStream(1, purpose, number_, static_cast<uint32_t>(phase));
    };
    const Quantization how{.quantizer = quantizer,
                           .rounding = stream_of(Purpose::rounding),
                           .scale_rounding = stream_of(Purpose::scale_rounding)};
    const float statistic = deviation * sample_largest;
    const OwnedTensor values(DType::f32, x.rows, x.cols), row_scale(DType::f32, 1, x.rows);
    QuantizationCounts counts;
    const Operand quantized = quantize(stream_, source, how, statistic, values, row_scale, {}, &counts);
    const OperandError error = operand_error(stream_, source, how, quantized);
    const double square = double{deviation} * deviation;
    Sums sums{.squared_error = error.squared_error / square,
              .squared = error.squared / square,
              .squared_operand = error.squared_operand / square,
              .product = error.product / square,
              .elements = static_cast<double>(error.elements),
              .clipped = static_cast<double>(counts.clipped),
              .masked = static_cast<double>(counts.masked)};
    for (int64_t i = 0; i < x.rows; ++i) {
      const double step = quantizer.extent == Extent::row ? row_scale.view().as<float>()[i] : double{quantized.factor};
      sums.squared_steps += step * step * static_cast<double>(x.cols);
    }
    if (quantizer.choice == BlockChoice::four_over_six) count_fours(source, how, statistic, sums);
    return sums;
  }

  /// A block that chose four has another scale than without a choice.
  void count_fours(const Operand& source, const Quantization& how, float statistic, Sums& sums) const {
    Quantization plain = how;
    plain.quantizer.choice = BlockChoice::none;
    const Tensor& x = source.values;
    const int64_t blocks = x.cols / how.quantizer.group;
    const OwnedTensor values(DType::f32, x.rows, x.cols), chosen(DType::u8, x.rows, blocks),
        six(DType::u8, x.rows, blocks);
    quantize(stream_, source, how, statistic, values, {}, {.scales = chosen});
    quantize(stream_, source, plain, statistic, values, {}, {.scales = six});
    for (int64_t i = 0; i < x.rows * blocks; ++i)
      sums.fours += chosen.view().as<uint8_t>()[i] != six.view().as<uint8_t>()[i];
    sums.blocks = static_cast<double>(x.rows * blocks);
  }

  Stream& stream_;
  uint32_t number_;
  OwnedTensor x_;
};

/// work(part) for all parts, in turns of a few for each thread.
template <class Work>
void for_all_parts(Stream& stream, int64_t parts, const std::function<void(int64_t)>& done, Work&& work) {
  const int64_t turn = 2 * stream.threads();
  for (int64_t first = 0; first < parts; first += turn) {
    const int64_t count = std::min(turn, parts - first);
    parallel_tasks(stream, count, [&](int64_t task, int64_t) { work(first + task); });
    done(first + count);
  }
}

/// sum numerator / sum denominator over parts, and by the parts' residuals its standard error.
Estimate ratio(const std::vector<Part>& parts, double Sums::*numerator, double Sums::*denominator) {
  Sums all;
  for (const Part& part : parts) all += total(part);
  const double value = all.*numerator / (all.*denominator), count = static_cast<double>(parts.size());
  double residuals = 0;
  for (const Part& part : parts) {
    const Sums sums = total(part);
    residuals += std::pow(sums.*numerator - value * (sums.*denominator), 2);
  }
  return {value, std::sqrt(residuals * count / (count - 1)) / (all.*denominator)};
}

/// How far the ratio at single phases of an octave is from its mean: the reference drew a phase for each row.
double spread_over_phases(const std::vector<Part>& parts, double Sums::*numerator, double Sums::*denominator) {
  double sum = 0, squares = 0;
  for (size_t phase = 0; phase < phases; ++phase) {
    Sums all;
    for (const Part& part : parts) all += part[phase];
    const double value = all.*numerator / (all.*denominator);
    sum += value / phases;
    squares += value * value / phases;
  }
  return std::sqrt(std::max(0.0, squares - sum * sum));
}

class Judgement {
 public:
  Judgement(const QuantizerRow& row, const std::vector<Part>& parts) : row_(row), parts_(parts) {}

  Judged error() const {
    Judged judged{.measured = ratio(parts_, &Sums::squared_error, &Sums::squared)};
    if (row_.of_the_sample) judged.expected = ratio(parts_, &Sums::squared_steps, &Sums::squared).value / 12;
    else if (row_.error) judged.expected = row_.error->value;
    if (!judged.expected) return judged;
    judged.allowed = *judged.expected / 100;
    if (!row_.of_the_sample && sample_share() < 1) judged.allowed += 5 * judged.measured.standard_error;
    return judged;
  }

  /// Of a ratio that the reference has, or none; `complement`: of one minus the ratio.
  Judged against(const std::optional<Quoted>& quoted, double Sums::*numerator, double Sums::*denominator,
                 bool complement = false) const {
    Judged judged{.measured = ratio(parts_, numerator, denominator)};
    if (complement) judged.measured.value = 1 - judged.measured.value;
    if (!quoted) return judged;
    judged.expected = quoted->value;
    double variance = std::pow(judged.measured.standard_error, 2);
    if (quoted->resolution != 0) variance *= 1 + sample_share();  // it was measured, too
    if (quoted->resolution != 0 && row_.octave)
      variance += std::pow(spread_over_phases(parts_, numerator, denominator), 2) / reference_rows;
    judged.allowed = 5 * std::sqrt(variance) + quoted->resolution / 2;
    return judged;
  }

 private:
  /// Of the reference's size.
  double sample_share() const { return static_cast<double>(parts_.size()) * sample_part_rows / reference_rows; }

  const QuantizerRow& row_;
  const std::vector<Part>& parts_;
};

QuantizerMeasurement judge(const QuantizerRow& row, const std::vector<Part>& parts) {
  const Judgement judgement(row, parts);
  Sums all;
  for (const Part& part : parts) all += total(part);
  QuantizerMeasurement result{.row = &row,
                              .error = judgement.error(),
                              .misalignment = judgement.against(row.misalignment, &Sums::product, &Sums::squared, true),
                              .cosine = all.product / std::sqrt(all.squared * all.squared_operand)};
  result.clipped = all.clipped / all.elements;
  if (row.quantizer.mask != MaskRule::all)
    result.masked = judgement.against(row.masked, &Sums::masked, &Sums::elements);
  if (row.quantizer.choice == BlockChoice::four_over_six)
    result.fours = judgement.against(row.fours, &Sums::fours, &Sums::blocks);
  return result;
}

}  // namespace

double QuantizerMeasurement::effective_bits() const { return -0.5 * std::log2(error.measured.value); }

std::vector<QuantizerMeasurement> measure(Stream& stream, std::span<const QuantizerRow> table, int64_t parts,
                                          const std::function<void(int64_t, int64_t)>& progress) {
  const auto tell = [&](int64_t done) {
    if (progress) progress(done, parts);
  };
  std::vector<float> largest_of_parts(static_cast<size_t>(parts));
  for_all_parts(
      stream, parts, [&](int64_t) { tell(0); },
      [&](int64_t part) {
        largest_of_parts[static_cast<size_t>(part)] = PartMeasurement(stream, static_cast<uint32_t>(part)).largest();
      });
  const float largest = *std::ranges::max_element(largest_of_parts);

  std::vector<std::vector<Part>> of_rows(table.size(), std::vector<Part>(static_cast<size_t>(parts)));
  for_all_parts(stream, parts, tell, [&](int64_t part) {
    const PartMeasurement measurement(stream, static_cast<uint32_t>(part));
    for (size_t i = 0; i < table.size(); ++i)
      of_rows[i][static_cast<size_t>(part)] = measurement.measure(table[i], largest);
  });
  std::vector<QuantizerMeasurement> results;
  for (size_t i = 0; i < table.size(); ++i) results.push_back(judge(table[i], of_rows[i]));
  return results;
}

}  // namespace nibble
