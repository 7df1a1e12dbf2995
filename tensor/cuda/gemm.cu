// Products on devices: cuBLASLt's, and around them what it does not do: codes laid out as it takes them, sums scaled,
// added to and rounded.
#include "tensor/gemm.hpp"

#include <algorithm>

#include "tensor/cuda/code_layout.hpp"
#include "tensor/cuda/cublaslt.hpp"
#include "tensor/cuda/elements.hpp"
#include "tensor/cuda/kernels.hpp"
#include "tensor/cuda/library_product.hpp"
#include "tensor/cuda/stream_memory.hpp"

namespace nibble::cuda {
namespace {

/// terms[i] = begin + offset * the sum of row i, whose length is a multiple of code_multiple. A warp for each row.
__global__ void sum_codes(const int8_t* x, int64_t stride, int64_t rows, int64_t depth, double begin, double offset,
                          double* terms) {
  using Word = Pack<int8_t, static_cast<int>(code_multiple)>;
  const int64_t row = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / warp_lanes;
  if (row >= rows) return;
  int32_t sum = 0;
  for (int64_t col = int64_t{lane()} * code_multiple; col < depth; col += warp_lanes * code_multiple) {
    const Word word = *reinterpret_cast<const Word*>(x + row * stride + col);
    for (int j = 0; j < static_cast<int>(code_multiple); ++j) sum += word[j];
  }
  sum = over_warp(sum, Plus{});
  if (lane() == 0) terms[row] = begin + offset * sum;
}

/// What offsets of codes add to the sums of each row and column; null: nothing.
struct OffsetTerms {
  const double *rows = nullptr, *cols = nullptr;

  /// Of a sum that stays below 2^35 with them (tensor/cpu/epilogue.hpp).
  __device__ float added(int32_t sum, int64_t row, double col) const {
    return static_cast<float>(static_cast<double>(sum) + (col + (rows ? rows[row] : 0.0)));
  }
};

/// As Scaling says, each operation rounded.
template <class Sum, class T>
struct Finish {
  const Sum* sums;
  int64_t sums_stride;
  bool sums_in_packs, cols_in_packs, adds;
  Scalar factor;
  const float *row_scales, *col_scales;
  OffsetTerms terms;
  Rows<float> addend;
  Rows<T> to;

  Finish(const Tensor& sums_there, const Product& product, const OffsetTerms& offset_terms)
      : sums(sums_there.on_device<Sum>()),
        sums_stride(sums_there.stride),
        sums_in_packs(packs_fit(sums, sums_stride)),
        cols_in_packs(packs_fit(product.scaling.cols.on_device<float>(), 0)),
        adds(product.addend),
        factor(product.scaling.factor),
        row_scales(product.scaling.rows.on_device<float>()),
        col_scales(product.scaling.cols.on_device<float>()),
        terms(offset_terms),
        addend(product.addend),
        to(product.c) {}

  __device__ void operator()(int64_t row, int64_t col, int count) const {
    Sum loaded[group_elements];
    load_group(sums + row * sums_stride + col, sums_in_packs, count, loaded);
    const float by = factor.read(), by_row = row_scales ? row_scales[row] : 1.0f;
    Group group;
    for (int j = 0; j < group_elements; ++j) {
      if constexpr (std::is_same_v<Sum, int32_t>) {
        const double of_col = terms.cols && j < count ? terms.cols[col + j] : 0.0;
        group[j] = terms.rows || terms.cols ? terms.added(loaded[j], row, of_col) : static_cast<float>(loaded[j]);
      } else {
        group[j] = loaded[j];
      }
      group[j] = group[j] * by * by_row;
    }
    if (col_scales) {
      float by_col[group_elements];
      load_group(col_scales + col, cols_in_packs, count, by_col);
      for (int j = 0; j < group_elements; ++j) group[j] *= by_col[j];
    }
    if (adds) {
      const Group more = addend.load(row, col, count);
      for (int j = 0; j < group_elements; ++j) group[j] += more[j];
    }
    to.store(row, col, count, group);
  }
};

void finish(Stream& stream, const Tensor& sums, const Product& product, const OffsetTerms& terms) {
  const auto from = [&](auto sum) {
    with_float_type(product.c.dtype, [&](auto type) {
      for_each_group(stream, product.c.rows, product.c.cols,
                     Finish<decltype(sum), decltype(type)>(sums, product, terms));
    });
  };
  if (sums.dtype == DType::i32) from(int32_t{});
  else from(float{});
}

CublasLt& library(Stream& stream) {
  std::unique_ptr<LibraryState>& kept = stream.memory().products;
  if (!kept) kept = std::make_unique<CublasLt>(stream.queue(), stream.memory().architecture());
  return static_cast<CublasLt&>(*kept);
}

CublasLt::Addresses addresses_of(const Product& product) {
  return {.a = product.b.data,
          .b = product.a.data,
          .c = product.addend ? product.addend.data : product.c.data,
          .d = product.c.data};
}

void multiply(Stream& stream, const Product& product) {
  library(stream).multiply(library_product(product), product.scaling.factor, addresses_of(product));
}

/// An operand in i8, laid out at `memory` unless it is good where it lies.
Tensor lay_out(Stream& stream, const Tensor& x, bool depth_first, const CodeRows& wanted, uint8_t* memory) {
  if (!wanted.copied) return {DType::i8, x.data, wanted.rows, wanted.depth, wanted.stride, Place::device};
  lay_out_bytes(stream, reinterpret_cast<const uint8_t*>(x.on_device<int8_t>()), x.stride, depth_first,
                depth_first ? x.cols : x.rows, depth_first ? x.rows : x.cols, memory, wanted.rows, wanted.stride);
  return {DType::i8, memory, wanted.rows, wanted.depth, wanted.stride, Place::device};
}

size_t bytes_of(const CodeRows& codes) { return codes.copied ? static_cast<size_t>(codes.rows * codes.stride) : 0; }

/// The terms of `rows` rows of codes, if their offset is one.
const double* terms_of(Stream& stream, const Tensor& codes, int64_t rows, double begin, double offset, double* terms) {
  constexpr unsigned threads = 256, rows_of_block = threads / warp_lanes;
  if (offset == 0) return nullptr;
  launch(stream.queue(), {static_cast<unsigned>((rows + rows_of_block - 1) / rows_of_block)}, {threads}, 0, sum_codes,
         codes.on_device<int8_t>(), codes.stride, rows, codes.cols, begin, offset, terms);
  return terms;
}

/// Where sums of codes may be c, they are.
bool holds_code_sums(const Tensor& c) {
  return c.dtype == DType::f32 && c.cols % code_multiple == 0 && (c.rows == 1 || c.stride % code_multiple == 0);
}

void multiply_i8(Stream& stream, const Product& product) {
  const int64_t m = product.c.rows, n = product.c.cols, depth = product.depth();
  const CodeRows a = code_rows(product.a, product.transpose_a, false),
                 b = code_rows(product.b, !product.transpose_b, true);
  const size_t a_bytes = bytes_of(a), b_bytes = bytes_of(b);
  const auto terms_at = static_cast<size_t>(multiple_of(sizeof(double), static_cast<int64_t>(a_bytes + b_bytes)));
  auto* const memory =
      stream.memory().working<uint8_t>(StreamMemory::copies, terms_at + static_cast<size_t>(m + n) * sizeof(double));
  Product sums{.a = lay_out(stream, product.a, product.transpose_a, a, memory),
               .b = lay_out(stream, product.b, !product.transpose_b, b, memory + a_bytes),
               .transpose_b = true,
               .c = {}};
  const bool in_c = !product.addend && holds_code_sums(product.c);
  sums.c =
      in_c ? Tensor(DType::i32, product.c.data, m, n, product.c.stride, Place::device)
           : Tensor(DType::i32, stream.memory().working<int32_t>(StreamMemory::sums, static_cast<size_t>(m * b.rows)),
                    m, b.rows, b.rows, Place::device);
  multiply(stream, sums);
  const double a_offset = product.scaling.a_offset, b_offset = product.scaling.b_offset;
  auto* const terms = reinterpret_cast<double*>(memory + terms_at);
  finish(stream, sums.c, product,
         {.rows = terms_of(stream, sums.a, m, static_cast<double>(depth) * a_offset * b_offset, b_offset, terms),
          .cols = terms_of(stream, sums.b, n, 0, a_offset, terms + m)});
}

/// `multiplied` writes the sums, to c where it may.
template <class Multiplied>
void multiply_and_finish(Stream& stream, const Product& product, bool c_holds_sums, Multiplied&& multiplied) {
  Product sums = product;
  sums.scaling = {};
  sums.addend = {};
  if (product.c.dtype != DType::f32 || product.addend || !c_holds_sums) {
    const int64_t m = product.c.rows, n = product.c.cols;
    sums.c = Tensor(DType::f32, stream.memory().working<float>(StreamMemory::sums, static_cast<size_t>(m * n)), m, n, n,
                    Place::device);
  }
  if (product.depth() == 0) cuda::fill(stream, sums.c, 0);
  else multiplied(sums);
  finish(stream, sums.c, product, {});
}

/// Whether the library reads or writes it in pieces of 16 bytes.
bool in_whole_pieces(const Tensor& x) {
  const auto address = reinterpret_cast<uintptr_t>(x.data);
  return address % library_alignment == 0 &&
         (x.rows <= 1 || static_cast<size_t>(x.stride) * size_of(x.dtype) % library_alignment == 0);
}

}  // namespace

void gemm(Stream& stream, const Tensor& a, Transpose transpose_a, const Tensor& b, Transpose transpose_b,
          const Tensor& c, const Tensor& addend, const Scaling& scaling) {
  const Product product{a, transpose_a == Transpose::yes, b, transpose_b == Transpose::yes, c, addend, scaling};
  if (c.size() == 0) return;
  if (library_finishes(product)) multiply(stream, product);
  else if (a.dtype == DType::i8 && product.depth() > 0) multiply_i8(stream, product);
  else multiply_and_finish(stream, product, true, [&](const Product& sums) { multiply(stream, sums); });
}

void coded_gemm(Stream& stream, const CodeMatrix& a, const CodeMatrix& b, const Tensor& c, const Tensor& addend,
                const Scaling& scaling) {
  const Product product{a.codes, false, b.codes, true, c, addend, scaling};
  if (c.size() == 0) return;
  const CodePair pair{a.format, b.format, a.block_scales};
  const auto multiplied = [&](const Product& part) {
    CublasLt::Addresses addresses = addresses_of(part);
    addresses.a_scales = part.scaling.cols ? part.scaling.cols.data : b.scales.data;
    addresses.b_scales = part.scaling.rows ? part.scaling.rows.data : a.scales.data;
    return library(stream).multiply(library_product(part, pair), part.scaling.factor, addresses);
  };
  const bool whole = in_whole_pieces(c),
             all_of_it = whole && in_whole_pieces(addend) &&
                         (library_finishes(product) || (library_may_scale(product, pair) && !kernels_scale(stream)));
  if (!all_of_it || !multiplied(product)) multiply_and_finish(stream, product, whole, multiplied);
}

std::string gemm_library(const Stream& stream, DType operands) {
  const bool codes = operands == DType::u8;
  return CublasLt::version() + (codes && widens_codes(stream)    ? ", codes widened to bf16"
                                : codes && kernels_scale(stream) ? ", row scales by kernels"
                                                                 : "");
}

void choose_gemms(Stream& stream, const GemmRecord& known, bool tune) { library(stream).choose(known, tune); }

GemmRecord chosen_gemms(Stream& stream) { return library(stream).chosen(); }

}  // namespace nibble::cuda
