#include "quant/format_table.hpp"

#include "quant/quantizers.hpp"

namespace nibble {
namespace {

using namespace quantizers;
using formats::e2m1, formats::e2m3, formats::e3m2, formats::e4m3, formats::e5m2, formats::int8;

constexpr Quantizer stochastic(Quantizer quantizer) {
  quantizer.rounding = Rounding::stochastic;
  return quantizer;
}
/// Rounding to nearest with MS-EDEN's 0.93 of the range, and 17/16 for what E4M3 takes of a scale.
constexpr Quantizer nvfp4_overridden() {
  Quantizer quantizer = nvfp4;
  quantizer.divisor = 6.0f / (0.93f * 17 / 16);
  return quantizer;
}

constexpr Quoted unbiased{};
/// Printed with five decimals, four where so many are not known.
constexpr Quoted five(double value) { return {value, 1e-5}; }
constexpr Quoted four(double value) { return {value, 1e-4}; }
/// Errors have four digits, and are judged by a hundredth of themselves.
constexpr Quoted error(double value) { return {value, value * 1e-3}; }

constexpr QuantizerRow rows[] = {
    // ---- Deviation 1.
    {"mxfp4 floor", mx(e2m1, MxScale::floor), error(0.01322), five(0.01957)},
    {"mxfp4 ceil", mx(e2m1, MxScale::ceil), error(0.01332), five(0.01003)},
    {"mxfp4 even", mx(e2m1, MxScale::even), error(0.01251), five(0.01033)},
    {"mxfp4 3/4", mxfp4_three_quarters(Rounding::nearest), error(0.01387), five(0.00901)},
    {"mxfp4 3/4 sr", mxfp4_three_quarters(Rounding::stochastic), error(0.02819), unbiased},
    {"mxfp4 ceil sr", stochastic(mx(e2m1, MxScale::ceil)), error(0.02711), unbiased},
    {"mxfp4 3/4 aligned", mxfp4_three_quarters(Rounding::nearest, mxfp4_alignment), error(0.01404), four(-0.0002)},
    {"quest-mxfp4 floor", quartet(QuestScale::floor), error(0.02697), five(0.06436), four(0.0728)},
    {"quest-mxfp4 nearest", quartet(QuestScale::nearest), error(0.01270), five(0.01228), five(0.00329)},
    {"quest-mxfp4 exact", quartet(QuestScale::exact), error(0.01238), five(0.01170), five(0.00261)},
    {"nvfp4", nvfp4, error(0.009042), five(0.00454)},
    {"nvfp4 4/6", four_over_six(nvfp4), error(0.007559), five(0.00338), {}, Quoted{0.452, 1e-3}},
    {"nvfp4 16x16", square(nvfp4), error(0.01239), five(0.00914)},
    {"nvfp4 16x16 4/6", square(four_over_six(nvfp4)), error(0.01238), five(0.00899), {}, Quoted{0.029, 1e-3}},
    {"nvfp4 0.988", nvfp4_overridden(), error(0.008974), five(0.00780)},
    {"nvfp4 sr 17/16", nvfp4_stochastic, error(0.02354), unbiased},
    {.name = "nvfp4 sr",
     .quantizer = stochastic(nvfp4),
     .error = error(0.01887),
     .misalignment = four(0.0034),
     .note = "biased, a control: without 17/16 of head-room it clips"},
    {.name = "nvfp4 sr 17/16 4/6",
     .quantizer = stochastic_four_over_six(),
     .error = error(0.01748),
     .misalignment = four(-0.0073),
     .note = "biased, a control; each branch rounds with draws of its own"},
    {"ms-eden 128", ms_eden(128), error(0.009715), five(0.00061)},
    {"ms-eden 32", ms_eden(32), error(0.009690), five(0.00025)},
    {"ms-eden 16", ms_eden(16), error(0.009315), five(-0.00003)},
    {"fp8 e4m3 tensor", per_tensor(e4m3), error(0.000703), five(0.00069)},
    {"fp8 e5m2 tensor", per_tensor(e5m2), error(0.002785), five(0.00270)},
    {.name = "int8 tensor",
     .quantizer = per_tensor(int8),
     .error = error(0.000157),
     .misalignment = unbiased,
     .of_the_sample = true},
    {.name = "int8 row",
     .quantizer = per_row(int8),
     .error = error(0.0000683),
     .misalignment = unbiased,
     .of_the_sample = true},
    {"mxfp8 e4m3 floor", mx(e4m3, MxScale::floor), error(0.000863), five(0.00276)},
    {"mxfp8 e4m3 ceil", mx(e4m3, MxScale::ceil), error(0.000705), five(0.00072)},
    {"mxfp8 e5m2 floor", mx(e5m2, MxScale::floor), error(0.002911), four(0.0048)},
    // Optimal for the Gaussian: what is missing of the projection is the error.
    {"quest int1", quest(1), error(0.36322), five(0.36322), Quoted{0.299, 1e-3}},
    {"quest int2", quest(2), error(0.11876), five(0.11876), four(0.0464)},
    {"quest int3", quest(3), error(0.03739), five(0.03739), four(0.0191)},
    {"quest int4", quest(4), error(0.01152), five(0.01152), five(0.00731)},
    {"quest int5", quest(5), error(0.003483), Quoted{0.003483, 1e-6}, five(0.00260)},
    {"quest int6", quest(6), error(0.001034), Quoted{0.001034, 1e-6}, Quoted{0.000866, 1e-6}},
    {"quest int7", quest(7), error(0.000302), Quoted{0.000302, 1e-6}, Quoted{0.000274, 1e-6}},
    {"quest int8", quest(8), error(0.0000867), Quoted{0.0000867, 1e-7}, Quoted{0.0000892, 1e-7}},
    {"quest int1 clip 1.25", quest(1, 1.25f), error(0.36322), five(0.36322), Quoted{0.318, 1e-3}},
    {"quest fp4", quest_fp4, error(0.0126849), five(0.0126849), five(0.00065)},
    {"quest int4 2:4", quest_int4_sparse(), error(0.2151), {}, Quoted{0.410, 1e-3}},
    {"nvint4", nvint4, error(0.00744)},
    {"sfp4", sfp4(), error(0.00664)},
    // ---- Averaged over an octave of the deviation.
    {.name = "mxfp4 floor",
     .quantizer = mx(e2m1, MxScale::floor),
     .error = error(0.01336),
     .misalignment = four(0.0218),
     .octave = true},
    {.name = "mxfp4 ceil",
     .quantizer = mx(e2m1, MxScale::ceil),
     .error = error(0.01366),
     .misalignment = four(0.0094),
     .octave = true},
    {.name = "mxfp4 even",
     .quantizer = mx(e2m1, MxScale::even),
     .error = error(0.01261),
     .misalignment = four(0.0099),
     .octave = true},
    {.name = "mxfp4 3/4",
     .quantizer = mxfp4_three_quarters(Rounding::nearest),
     .error = error(0.01366),
     .misalignment = four(0.0094),
     .octave = true},
    {.name = "mxfp4 3/4 sr",
     .quantizer = mxfp4_three_quarters(Rounding::stochastic),
     .error = error(0.02778),
     .misalignment = unbiased,
     .octave = true},
    {.name = "mxfp4 ceil sr",
     .quantizer = stochastic(mx(e2m1, MxScale::ceil)),
     .error = error(0.02778),
     .misalignment = unbiased,
     .octave = true},
    {.name = "mxfp4 3/4 aligned",
     .quantizer = mxfp4_three_quarters(Rounding::nearest, mxfp4_alignment),
     .error = error(0.01382),
     .misalignment = four(0.0002),
     .octave = true},
    {.name = "quest-mxfp4 floor",
     .quantizer = quartet(QuestScale::floor),
     .error = error(0.02229),
     .misalignment = four(0.0515),
     .masked = Quoted{0.053, 1e-3},
     .octave = true},
    {.name = "quest-mxfp4 nearest",
     .quantizer = quartet(QuestScale::nearest),
     .error = error(0.01338),
     .misalignment = four(0.0151),
     .masked = four(0.0083),
     .octave = true},
    {.name = "quest-mxfp4 exact",
     .quantizer = quartet(QuestScale::exact),
     .error = error(0.01238),
     .misalignment = four(0.0117),
     .octave = true},
    {.name = "mxfp8 e4m3 floor", .quantizer = mx(e4m3, MxScale::floor), .error = error(0.000896), .octave = true},
    {.name = "mxfp8 e4m3 ceil", .quantizer = mx(e4m3, MxScale::ceil), .error = error(0.000702), .octave = true},
    {.name = "mxfp8 e5m2 floor", .quantizer = mx(e5m2, MxScale::floor), .error = error(0.002926), .octave = true},
    // ---- Recipes use them, no reference has them.
    {.name = "fp8 e4m3 row", .quantizer = per_row(e4m3)},
    {.name = "fp8 e5m2 row", .quantizer = per_row(e5m2)},
    {.name = "halo fp6", .quantizer = halo_fp6},
    {.name = "mxfp6 e2m3 ceil", .quantizer = mx(e2m3, MxScale::ceil)},
    {.name = "mxfp6 e3m2 ceil", .quantizer = mx(e3m2, MxScale::ceil)},
    {.name = "mxint8 floor", .quantizer = mx(formats::mxint8, MxScale::floor)},
    {.name = "ste int2 row", .quantizer = per_row(formats::integer[0])},
    {.name = "ste int3 row", .quantizer = per_row(formats::integer[1])},
    {.name = "ste int4 row", .quantizer = per_row(formats::integer[2])},
    {.name = "ste int5 row", .quantizer = per_row(formats::integer[3])},
    {.name = "ste int6 row", .quantizer = per_row(formats::integer[4])},
    {.name = "ste int7 row", .quantizer = per_row(formats::integer[5])},
};

}  // namespace

std::span<const QuantizerRow> quantizer_table() { return rows; }

}  // namespace nibble
