#include "tensor/cuda/library_product.hpp"

#include <algorithm>

namespace nibble::cuda {
namespace {

/// Of a matrix with one row, the next one's distance means nothing.
int64_t stride_of(const Tensor& x) { return x.rows > 1 ? x.stride : std::max<int64_t>(x.cols, 1); }

uint32_t alignment_of(const void* data) {
  const auto address = reinterpret_cast<uintptr_t>(data);
  uint32_t alignment = library_alignment;
  while (address % alignment != 0) alignment /= 2;
  return alignment;
}

LibraryType type_of(DType type) {
  return type == DType::bf16 ? LibraryType::bf16 : type == DType::f32 ? LibraryType::f32 : LibraryType::i8;
}
LibraryType type_of(CodeFormat format) {
  return format == CodeFormat::e4m3   ? LibraryType::e4m3
         : format == CodeFormat::e5m2 ? LibraryType::e5m2
                                      : LibraryType::e2m1;
}

}  // namespace

size_t LibraryProductHash::operator()(const LibraryProduct& p) const {
  uint64_t hash = 0xcbf29ce484222325u;
  const auto small = static_cast<int64_t>(p.type_a) | static_cast<int64_t>(p.type_b) << 4 |
                     static_cast<int64_t>(p.result) << 8 | static_cast<int64_t>(p.block_scales) << 12 |
                     static_cast<int64_t>(p.addend) << 16 | int64_t{p.transpose_a} << 24 |
                     int64_t{p.transpose_b} << 25 | int64_t{p.factor_on_device} << 26 | int64_t{p.vector_scales} << 27;
  const auto alignments = int64_t{p.alignment_a} | int64_t{p.alignment_b} << 8 | int64_t{p.alignment_c} << 16 |
                          int64_t{p.alignment_d} << 24;
  for (const int64_t word : {p.m, p.n, p.k, p.stride_a, p.stride_b, p.stride_c, p.stride_d, small, alignments})
    hash = (hash ^ static_cast<uint64_t>(word)) * 0x9E3779B97F4A7C15u, hash ^= hash >> 29;
  return hash;
}

LibraryProduct library_product(const Product& product) {
  const Tensor &a = product.b, &b = product.a, &d = product.c, &c = product.addend ? product.addend : d;
  const LibraryType type = type_of(a.dtype);
  return {.type_a = type,
          .type_b = type,
          .result = d.dtype,
          .transpose_a = product.transpose_b,
          .transpose_b = product.transpose_a,
          .m = d.cols,
          .n = d.rows,
          .k = product.depth(),
          .stride_a = stride_of(a),
          .stride_b = stride_of(b),
          .stride_c = stride_of(c),
          .stride_d = stride_of(d),
          .alignment_a = alignment_of(a.data),
          .alignment_b = alignment_of(b.data),
          .alignment_c = alignment_of(c.data),
          .alignment_d = alignment_of(d.data),
          .addend = !product.addend    ? LibraryAddend::none
                    : c.data == d.data ? LibraryAddend::destination
                                       : LibraryAddend::other,
          .factor_on_device = product.scaling.factor.on_device()};
}

LibraryProduct library_product(const Product& product, const CodePair& pair) {
  LibraryProduct result = library_product(product);
  result.type_a = type_of(pair.b);
  result.type_b = type_of(pair.a);
  result.block_scales = pair.scales;
  result.vector_scales = product.scaling.rows || product.scaling.cols;
  const int in_a_byte = 8 / bits_of(pair.a);
  for (int64_t* const length : {&result.k, &result.stride_a, &result.stride_b}) *length *= in_a_byte;
  return result;
}

/// The end of a name.
static constexpr std::string_view of_vector_scales = ", scales of rows and columns";

std::string name(const LibraryProduct& p) {
  static constexpr const char* types[] = {"f32", "bf16", "i8", "e4m3", "e5m2", "e2m1"};
  static constexpr const char* scales[] = {"", ", e8m0 scales", ", e4m3 scales"};
  const auto list = [](auto... numbers) {
    std::string text;
    ((text += ' ' + std::to_string(numbers)), ...);
    return text;
  };
  std::string text =
      std::to_string(p.n) + 'x' + std::to_string(p.m) + 'x' + std::to_string(p.k) + ' ' + (p.transpose_b ? 'T' : 'N') +
      (p.transpose_a ? 'T' : 'N') + ' ' + types[static_cast<size_t>(p.type_b)] +
      (p.coded() ? std::string(" ") + types[static_cast<size_t>(p.type_a)] : "") + '>' +
      std::string(nibble::name(p.result)) + scales[static_cast<size_t>(p.block_scales)] + ", strides" +
      list(p.stride_b, p.stride_a, p.stride_d) + ", aligned" + list(p.alignment_b, p.alignment_a, p.alignment_d);
  if (p.addend == LibraryAddend::destination) text += ", added to c";
  if (p.addend == LibraryAddend::other)
    text += ", addend's stride" + list(p.stride_c) + " aligned" + list(p.alignment_c);
  if (p.factor_on_device) text += ", factor on the device";
  if (p.vector_scales) text += of_vector_scales;
  return text;
}

bool names_vector_scales(std::string_view name) { return name.ends_with(of_vector_scales); }

bool library_finishes(const Product& product) {
  const Scaling& scaling = product.scaling;
  if (product.a.dtype == DType::i8 || scaling.rows || scaling.cols || product.depth() == 0) return false;
  return !product.addend || (scaling.trivial() && product.c.dtype == DType::f32);
}

bool library_may_scale(const Product& product, const CodePair& pair) {
  const auto begins_well = [](const Tensor& scales) {
    return scales && alignment_of(scales.data) == library_alignment;
  };
  const Scaling& scaling = product.scaling;
  const bool adds_well = !product.addend || (product.c.dtype == DType::f32 && !scaling.factor.on_device());
  return pair.scales == BlockScales::none && begins_well(scaling.rows) && begins_well(scaling.cols) && adds_well &&
         product.depth() > 0;
}

CodeRows code_rows(const Tensor& x, bool depth_first, bool pads_rows) {
  const int64_t rows = depth_first ? x.cols : x.rows, depth = depth_first ? x.rows : x.cols;
  CodeRows result{.rows = pads_rows ? multiple_of(code_multiple, rows) : rows,
                  .depth = multiple_of(code_multiple, depth),
                  .stride = stride_of(x)};
  result.copied = depth_first || result.rows != rows || result.depth != depth || result.stride % code_multiple != 0 ||
                  alignment_of(x.data) < code_multiple;
  if (result.copied) result.stride = multiple_of(library_alignment, depth);
  return result;
}

}  // namespace nibble::cuda
