#include "tensor/cpu/onednn_gemm.hpp"

#include <fmt/format.h>
#include <omp.h>

#include <cstring>
#include <mutex>
#include <oneapi/dnnl/dnnl.hpp>
#include <unordered_map>
#include <utility>

#include "tensor/convert.hpp"
#include "tensor/cpu/epilogue.hpp"
#include "tensor/error.hpp"
#include "tensor/gemm.hpp"

namespace nibble {
namespace {

const dnnl::engine& engine() {
  static const dnnl::engine instance(dnnl::engine::kind::cpu, 0);
  return instance;
}

int effective_isa() { return static_cast<int>(dnnl::get_effective_cpu_isa()); }

bool contains(int isa, dnnl::cpu_isa part) { return (isa & static_cast<int>(part)) == static_cast<int>(part); }

enum class Addend : int64_t { none, destination, other };

/// Everything a primitive depends on.
struct Key {
  int64_t m, n, k;
  int64_t stride_a, stride_b, stride_c, stride_addend;
  int64_t transpose_a, transpose_b;
  int64_t type_in, type_out;
  Addend addend;
  int64_t threads;

  bool operator==(const Key&) const = default;
};

struct KeyHash {
  size_t operator()(const Key& key) const {
    uint64_t hash = 0xcbf29ce484222325u;
    for (const int64_t word :
         {key.m, key.n, key.k, key.stride_a, key.stride_b, key.stride_c, key.stride_addend, key.transpose_a,
          key.transpose_b, key.type_in, key.type_out, static_cast<int64_t>(key.addend), key.threads})
      hash = (hash ^ static_cast<uint64_t>(word)) * 0x9E3779B97F4A7C15u, hash ^= hash >> 29;
    return hash;
  }
};

dnnl::memory::data_type dnnl_type(DType type) {
  using dnnl_types = dnnl::memory::data_type;
  switch (type) {
    case DType::bf16:
      return dnnl_types::bf16;
    case DType::i8:
      return dnnl_types::s8;
    case DType::i32:
      return dnnl_types::s32;
    default:
      return dnnl_types::f32;
  }
}

dnnl::memory::desc describe(int64_t rows, int64_t cols, int64_t stride, bool transposed, DType type) {
  return {{rows, cols}, dnnl_type(type), transposed ? dnnl::memory::dims{1, stride} : dnnl::memory::dims{stride, 1}};
}

struct Primitive {
  dnnl::memory::desc a, b, c, addend, scratchpad;
  dnnl::matmul matmul;
};

/// `threads` is fixed when a primitive is made: oneDNN cuts its work for the team that it sees then.
class ThreadCountScope {
 public:
  explicit ThreadCountScope(int threads) : before_(omp_get_max_threads()) { omp_set_num_threads(threads); }
  ~ThreadCountScope() { omp_set_num_threads(before_); }

 private:
  int before_;
};

Primitive make_primitive(const Key& key) {
  const auto in = static_cast<DType>(key.type_in), out = static_cast<DType>(key.type_out);
  Primitive primitive;
  primitive.a = describe(key.m, key.k, key.stride_a, key.transpose_a, in);
  primitive.b = describe(key.k, key.n, key.stride_b, key.transpose_b, in);
  primitive.c = describe(key.m, key.n, key.stride_c, false, out);
  dnnl::post_ops operations;
  if (key.addend == Addend::destination) operations.append_sum(1.0f);
  if (key.addend == Addend::other) {
    primitive.addend = describe(key.m, key.n, key.stride_addend, false, DType::f32);
    operations.append_binary(dnnl::algorithm::binary_add, primitive.addend);
  }
  dnnl::primitive_attr attributes;
  attributes.set_post_ops(operations);
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  const ThreadCountScope scope(static_cast<int>(key.threads));
#if DNNL_VERSION_MAJOR >= 3
  const dnnl::matmul::primitive_desc description(engine(), primitive.a, primitive.b, primitive.c, attributes);
#else
  const dnnl::matmul::primitive_desc description(dnnl::matmul::desc(primitive.a, primitive.b, primitive.c), attributes,
                                                 engine());
#endif
  primitive.scratchpad = description.scratchpad_desc();
  primitive.matmul = dnnl::matmul(description);
  return primitive;
}

bool library_has_bf16() {
  static const bool available = [] {
    try {
      make_primitive({64, 64, 64, 64, 64, 64, 0, 0, 0, int64_t(DType::bf16), int64_t(DType::f32), Addend::none, 1});
      return true;
    } catch (const dnnl::error&) {
      return false;
    }
  }();
  return available;
}

/// Memory that a primitive needs while it runs; grows, and is kept for the thread's next product.
void* thread_scratch(size_t bytes) {
  thread_local Buffer scratch;
  if (scratch.bytes() < bytes) scratch = Buffer(bytes, "GEMM scratch");
  return scratch.data();
}

/// Memory for packed matrices that a product takes beside its operands: these and the result with elements of four
/// bytes, sums before they are finished, and part of them. Grows, and is kept for the thread's next product.
enum class Beside { a, b, c, part };
Tensor beside(DType type, int64_t rows, int64_t cols, Beside which) {
  thread_local Buffer memory[4];
  Buffer& buffer = memory[static_cast<int>(which)];
  const size_t bytes = bytes_of(type, rows, cols);
  if (buffer.bytes() < bytes) buffer = Buffer(bytes, "widened GEMM operands");
  return {type, buffer.data(), rows, cols};
}
Tensor wide_like(const Tensor& x, Beside which) { return beside(DType::f32, x.rows, x.cols, which); }

}  // namespace

struct GemmCache::Entries {
  std::mutex mutex;
  std::unordered_map<Key, Primitive, KeyHash> primitives;

  /// Primitives are never removed and map nodes never move, so the reference outlives the lock.
  const Primitive& find(const Key& key) {
    const std::lock_guard lock(mutex);
    const auto found = primitives.find(key);
    return found != primitives.end() ? found->second : primitives.emplace(key, make_primitive(key)).first->second;
  }
};

GemmCache::GemmCache() : entries_(std::make_unique<Entries>()) {}
GemmCache::~GemmCache() = default;

namespace {

void run(Stream& stream, int threads, const Product& product) {
  const auto& [a, transpose_a, b, transpose_b, c, addend, scaling] = product;
  if (c.rows == 0 || c.cols == 0) return;
  const Key key{c.rows,
                c.cols,
                product.depth(),
                a.stride,
                b.stride,
                c.stride,
                addend ? addend.stride : 0,
                transpose_a,
                transpose_b,
                int64_t(a.dtype),
                int64_t(c.dtype),
                !addend                 ? Addend::none
                : addend.data == c.data ? Addend::destination
                                        : Addend::other,
                threads};
  try {
    const Primitive& primitive = stream.gemms().entries().find(key);
    thread_local dnnl::stream queue(engine());
    std::unordered_map<int, dnnl::memory> arguments{
        {DNNL_ARG_SRC, {primitive.a, engine(), a.data}},
        {DNNL_ARG_WEIGHTS, {primitive.b, engine(), b.data}},
        {DNNL_ARG_DST, {primitive.c, engine(), c.data}},
        {DNNL_ARG_SCRATCHPAD, {primitive.scratchpad, engine(), thread_scratch(primitive.scratchpad.get_size())}}};
    if (key.addend == Addend::other)
      arguments.emplace(DNNL_ARG_ATTR_MULTIPLE_POST_OP(0) | DNNL_ARG_SRC_1,
                        dnnl::memory(primitive.addend, engine(), addend.data));
    primitive.matmul.execute(queue, arguments);
    queue.wait();
  } catch (const dnnl::error& error) {
    throw Error({.kind = ErrorKind::resource,
                 .what = fmt::format("oneDNN could not multiply: {}", error.what()),
                 .seen = fmt::format("[{}, {}] x [{}, {}], {} to {}", key.m, key.k, key.k, key.n, name(a.dtype),
                                     name(c.dtype))});
  }
}

/// A column as a row, in memory that is kept for the thread's next product.
Tensor transposed_column(const Tensor& column) {
  thread_local Buffer memory;
  const size_t element = size_of(column.dtype), bytes = bytes_of(column.dtype, 1, column.rows);
  if (memory.bytes() < bytes) memory = Buffer(bytes, "GEMM operand");
  for (int64_t i = 0; i < column.rows; ++i)
    std::memcpy(static_cast<char*>(memory.data()) + static_cast<size_t>(i) * element,
                static_cast<const char*>(column.data) + static_cast<size_t>(i * column.stride) * element, element);
  return {column.dtype, memory.data(), 1, column.rows};
}

int64_t rows_per_task(int64_t cols) { return std::max<int64_t>(1, 4096 / std::max<int64_t>(1, cols)); }

/// terms[i] += offset * the sum of x over the depth; x is i8 [count, depth], or with `depth_major` [depth, count].
void add_sums(Stream& stream, const Tensor& x, bool depth_major, double offset, double* terms) {
  if (!depth_major)
    return parallel_for(stream, x.rows, rows_per_task(x.cols), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        int32_t sum = 0;
        for (int64_t k = 0; k < x.cols; ++k) sum += x.row<int8_t>(i)[k];
        terms[i] += offset * sum;
      }
    });
  parallel_for(stream, x.cols, rows_per_task(x.rows), [&](int64_t begin, int64_t end) {
    for (int64_t k = 0; k < x.rows; ++k)
      for (int64_t j = begin; j < end; ++j) terms[j] += offset * x.row<int8_t>(k)[j];
  });
}

/// What the offsets of codes add to the sums of each row and column (epilogue.hpp).
void add_terms(Stream& stream, const Product& product, Epilogue& epilogue) {
  const auto zeros = [](int64_t count, Buffer& memory) {
    const size_t bytes = bytes_of(DType::f64, 1, count);
    if (memory.bytes() < bytes) memory = Buffer(bytes, "widened GEMM operands");
    std::memset(memory.data(), 0, bytes);
    return Tensor(DType::f64, memory.data(), 1, count);
  };
  thread_local Buffer rows, cols;
  epilogue.row_terms = zeros(product.c.rows, rows);
  epilogue.col_terms = zeros(product.c.cols, cols);
  const double a_offset = product.scaling.a_offset, b_offset = product.scaling.b_offset;
  for (int64_t i = 0; i < product.c.rows; ++i)
    epilogue.row_terms.as<double>()[i] = static_cast<double>(product.depth()) * a_offset * b_offset;
  add_sums(stream, product.a, product.transpose_a, b_offset, epilogue.row_terms.as<double>());
  add_sums(stream, product.b, !product.transpose_b, a_offset, epilogue.col_terms.as<double>());
}

/// oneDNN multiplies i8 exactly with VNNI alone: without, it adds pairs of products in 16 bits, with saturation.
bool library_has_exact_i8() {
  static const bool available = contains(effective_isa(), dnnl::cpu_isa::avx512_core_vnni);
  return available;
}

/// The sums (i32) of codes in f32, where they are exact over a depth of 1024: 2^10 products of up to 2^14 stay within
/// 24 bits.
void multiply_widened(Stream& stream, int threads, const Product& product) {
  constexpr int64_t exact_depth = 1024;
  const auto widened = [&](const Tensor& x, Beside which) {
    const Tensor wide = wide_like(x, which);
    parallel_for(stream, x.rows, rows_per_task(x.cols), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        for (int64_t j = 0; j < x.cols; ++j) wide.row<float>(i)[j] = x.row<int8_t>(i)[j];
    });
    return wide;
  };
  const Tensor& sums = product.c;
  for (int64_t i = 0; i < sums.rows; ++i) std::fill_n(sums.row<int32_t>(i), sums.cols, 0);
  for (int64_t first = 0; first < product.depth(); first += exact_depth) {
    const int64_t count = std::min(exact_depth, product.depth() - first);
    const auto part = [&](const Tensor& x, bool depth_major) {
      return depth_major ? x.slice_rows(first, count) : x.slice_cols(first, count);
    };
    Product wide = product;
    wide.a = widened(part(product.a, product.transpose_a), Beside::a);
    wide.b = widened(part(product.b, !product.transpose_b), Beside::b);
    wide.c = wide_like(product.c, Beside::part);
    run(stream, threads, wide);
    parallel_for(stream, sums.rows, rows_per_task(sums.cols), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        for (int64_t j = 0; j < sums.cols; ++j)
          sums.row<int32_t>(i)[j] += static_cast<int32_t>(wide.c.row<float>(i)[j]);
    });
  }
}

/// Sums first, in c's memory where that has room and nothing to add in it; what becomes of them in a second pass.
void multiply_and_finish(Stream& stream, int threads, const Product& product) {
  const Tensor& c = product.c;
  const bool codes = product.a.dtype == DType::i8, in_c = c.dtype == DType::f32 && !product.addend;
  const DType type = codes ? DType::i32 : DType::f32;
  Product sums = product;
  sums.scaling = {};
  sums.addend = {};
  sums.c = in_c ? Tensor(type, c.data, c.rows, c.cols, c.stride) : beside(type, c.rows, c.cols, Beside::c);
  if (!codes) onednn_gemm(stream, threads, sums);
  else if (library_has_exact_i8()) run(stream, threads, sums);
  else multiply_widened(stream, threads, sums);
  Epilogue epilogue{.scaling = product.scaling, .addend = product.addend};
  if (product.scaling.has_offsets()) add_terms(stream, product, epilogue);
  parallel_for(stream, c.rows, rows_per_task(c.cols), [&](int64_t begin, int64_t end) {
    const int64_t rows = end - begin;
    finish(sums.c.slice_rows(begin, rows), epilogue.part(begin, rows, 0, c.cols), c.slice_rows(begin, rows));
  });
}

}  // namespace

void onednn_gemm(Stream& stream, int threads, const Product& product) {
  // oneDNN 3.9.1 with AVX-512 takes a column of bf16 that it shall transpose for contiguous, whatever its stride.
  if (product.transpose_a && product.a.cols == 1 && product.a.stride > 1) {
    Product plain = product;
    plain.a = transposed_column(product.a);
    plain.transpose_a = false;
    return onednn_gemm(stream, threads, plain);
  }
  if (product.a.dtype == DType::i8 || !product.scaling.trivial()) return multiply_and_finish(stream, threads, product);
  if (product.a.dtype != DType::bf16 || library_has_bf16()) return run(stream, threads, product);
  Product wide = product;
  wide.a = wide_like(product.a, Beside::a);
  wide.b = wide_like(product.b, Beside::b);
  convert(stream, product.a, wide.a);
  convert(stream, product.b, wide.b);
  if (product.c.dtype == DType::f32) return run(stream, threads, wide);
  wide.c = wide_like(product.c, Beside::c);
  run(stream, threads, wide);
  convert(stream, wide.c, product.c);
}

size_t onednn_scratch_bytes(int threads, DType operands, int64_t a, int64_t b, int64_t c, int64_t scaled_c) {
  // Scratchpads (measured: 1.1 MiB for two threads), what tasks widen: blocks of attention, 0.4 MB, and the terms of
  // offsets, 8 bytes a row and a column.
  constexpr size_t each_thread = size_t{2} << 20;
  const auto of = [](int64_t elements) { return bytes_of(DType::f32, 1, elements); };
  const size_t library = static_cast<size_t>(threads) * each_thread;
  if (operands == DType::i8) return library + of(c) + (library_has_exact_i8() ? 0 : of(a) + of(b) + of(c));
  if (operands == DType::bf16 && !library_has_bf16()) return library + of(a) + of(b) + of(std::max(c, scaled_c));
  return library + of(scaled_c);
}

bool onednn_has_amx() { return onednn_isa_has_amx(effective_isa()); }

bool onednn_isa_has_amx(int isa) { return contains(isa, dnnl::cpu_isa::avx512_core_amx); }

std::string onednn_isa_name(int isa) {
  static constexpr std::pair<dnnl::cpu_isa, const char*> widest_first[] = {
      {dnnl::cpu_isa::avx512_core_amx, "AMX"},
      {dnnl::cpu_isa::avx512_core_bf16, "AVX-512 bf16"},
      {dnnl::cpu_isa::avx512_core_vnni, "AVX-512 VNNI"},
      {dnnl::cpu_isa::avx512_core, "AVX-512"},
      {dnnl::cpu_isa::avx2, "AVX2"},
      {dnnl::cpu_isa::avx, "AVX"},
      {dnnl::cpu_isa::sse41, "SSE4.1"}};
  for (const auto& [part, name] : widest_first)
    if (contains(isa, part)) return name;
  return fmt::format("instruction set {:#x}", isa);
}

std::string onednn_description() {
  const dnnl_version_t* version = dnnl_version();
  return fmt::format("oneDNN {}.{}.{}, {}", version->major, version->minor, version->patch,
                     onednn_isa_name(effective_isa()));
}

}  // namespace nibble
