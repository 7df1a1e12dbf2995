#include "optim/moment.hpp"

#include <algorithm>

#include "tensor/error.hpp"

namespace nibble {
namespace {

const char* name(MomentKind kind) {
  switch (kind) {
    case MomentKind::first:
      return "first_moment";
    case MomentKind::second:
      return "second_moment";
    case MomentKind::slow:
      return "slow_moment";
    case MomentKind::momentum:
    case MomentKind::matrix_momentum:
      return "momentum";
    case MomentKind::last_gradient:
      return "last_gradient";
  }
  return "?";
}

int64_t code_block(MomentKind kind) {
  return kind == MomentKind::matrix_momentum ? linear_code_block : dynamic_code_block;
}

int64_t blocks_in(int64_t size, int64_t block) { return (size + block - 1) / block; }

template <class Memory>
Moment take(Memory& memory, MomentKind kind, const MomentSettings& settings, const OptimizedParameter& parameter,
            int64_t rows, int64_t cols) {
  Moment moment{.kind = kind,
                .precision = moment_precision(settings, *parameter.info),
                .info = parameter.info,
                .owned = parameter.owned,
                .first = parameter.first,
                .number = parameter.number,
                .seed = settings.seed};
  if (moment.precision == MomentPrecision::eight_bit && kind == MomentKind::last_gradient)
    moment.precision = MomentPrecision::bf16;
  const bool coded = moment.precision == MomentPrecision::eight_bit;
  const DType type = moment.precision == MomentPrecision::f32    ? DType::f32
                     : moment.precision == MomentPrecision::bf16 ? DType::bf16
                     : kind == MomentKind::matrix_momentum       ? DType::i8
                                                                 : DType::u8;
  moment.values = memory.take_packed(type, rows, cols);
  if (!coded) return moment;
  const int64_t blocks = blocks_in(rows * cols, code_block(kind));
  moment.scales = memory.take_packed(DType::f32, blocks, 1);
  return moment;
}

void add(StateList& list, const std::string& name, const Moment& moment, const Tensor& value, int64_t rows,
         int64_t cols, int64_t first) {
  const std::string entry = name + "/" + moment.info->name;
  if (moment.owned) list.add_run(entry, value.packed_as(1, value.size()), rows, cols, first);
  else list.add(entry, value);
}

}  // namespace

MomentPrecision moment_precision(const std::string& name) {
  const auto found = std::ranges::find(moment_precision_names, name);
  if (found == moment_precision_names.end())
    throw Error({.kind = ErrorKind::configuration,
                 .what = "an unknown precision of moments",
                 .where = "optimizer.moments",
                 .seen = name,
                 .allowed = "f32, bf16, 8-bit"});
  return static_cast<MomentPrecision>(found - moment_precision_names.begin());
}

MomentPrecision moment_precision(const MomentSettings& settings, const ParameterInfo& parameter) {
  const bool kept = parameter.size() < least_coded_elements ||
                    (parameter.kind == ParameterKind::embedding && !settings.embedding_codes);
  return settings.precision == MomentPrecision::eight_bit && kept ? MomentPrecision::f32 : settings.precision;
}

int64_t Moment::tile() const {
  constexpr int64_t without_blocks = 1024;  // eight streams of it fit the first cache
  if (precision == MomentPrecision::eight_bit) return code_block(kind);
  return precision == MomentPrecision::bf16 ? dynamic_code_block : without_blocks;
}

void Moment::state(StateList& list) const {
  const std::string prefix = std::string("optimizer/") + name(kind);
  add(list, prefix, *this, values, info->rows, info->cols, first);
  if (precision != MomentPrecision::eight_bit) return;
  const int64_t block = code_block(kind);
  add(list, prefix + "_scale", *this, scales, blocks_in(info->size(), block), 1, first / block);
}

template <class Memory>
Moment take_moment(Memory& memory, MomentKind kind, const MomentSettings& settings,
                   const OptimizedParameter& parameter) {
  return take(memory, kind, settings, parameter, parameter.master.rows, parameter.master.cols);
}
template Moment take_moment(Arena&, MomentKind, const MomentSettings&, const OptimizedParameter&);
template Moment take_moment(PinnedArena&, MomentKind, const MomentSettings&, const OptimizedParameter&);

template <class Memory>
Moment take_whole_moment(Memory& memory, MomentKind kind, const MomentSettings& settings,
                         const OptimizedParameter& parameter, bool owns) {
  Moment moment = take(memory, kind, settings, parameter, 1, owns ? parameter.info->size() : 0);
  moment.owned = true;
  moment.first = 0;
  return moment;
}
template Moment take_whole_moment(Arena&, MomentKind, const MomentSettings&, const OptimizedParameter&, bool);
template Moment take_whole_moment(PinnedArena&, MomentKind, const MomentSettings&, const OptimizedParameter&, bool);

Moment moment_over(const Tensor& values) {
  Moment moment;
  moment.values = values;
  return moment;
}

Moment part_of(const Moment& moment, int64_t first, int64_t count) {
  Moment part = moment;
  part.values = moment.values.run(first, count);
  part.first += first;
  if (moment.precision != MomentPrecision::eight_bit) return part;
  const int64_t block = code_block(moment.kind);
  part.scales = moment.scales.run(first / block, blocks_in(count, block));
  return part;
}

}  // namespace nibble
