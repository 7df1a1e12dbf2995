#include "tensor/gemm.hpp"

#include <fmt/format.h>
#include <omp.h>

#include <chrono>
#include <cmath>
#include <mutex>
#include <oneapi/dnnl/dnnl.hpp>
#include <unordered_map>

#include "tensor/convert.hpp"
#include "tensor/error.hpp"

namespace nibble {
namespace {

const dnnl::engine& engine() {
  static const dnnl::engine instance(dnnl::engine::kind::cpu, 0);
  return instance;
}

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
  return type == DType::bf16 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32;
}

dnnl::memory::desc describe(int64_t rows, int64_t cols, int64_t stride, bool transposed, DType type) {
  return {{rows, cols}, dnnl_type(type), transposed ? dnnl::memory::dims{1, stride} : dnnl::memory::dims{stride, 1}};
}

struct Product {
  dnnl::memory::desc a, b, c, addend, scratchpad;
  dnnl::matmul primitive;
};

/// `threads` is fixed when a primitive is made: oneDNN cuts its work for the team that it sees then.
class ThreadCountScope {
 public:
  explicit ThreadCountScope(int threads) : before_(omp_get_max_threads()) { omp_set_num_threads(threads); }
  ~ThreadCountScope() { omp_set_num_threads(before_); }

 private:
  int before_;
};

Product make_product(const Key& key) {
  const auto in = static_cast<DType>(key.type_in), out = static_cast<DType>(key.type_out);
  Product product;
  product.a = describe(key.m, key.k, key.stride_a, key.transpose_a, in);
  product.b = describe(key.k, key.n, key.stride_b, key.transpose_b, in);
  product.c = describe(key.m, key.n, key.stride_c, false, out);
  dnnl::post_ops operations;
  if (key.addend == Addend::destination) operations.append_sum(1.0f);
  if (key.addend == Addend::other) {
    product.addend = describe(key.m, key.n, key.stride_addend, false, DType::f32);
    operations.append_binary(dnnl::algorithm::binary_add, product.addend);
  }
  dnnl::primitive_attr attributes;
  attributes.set_post_ops(operations);
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  const ThreadCountScope scope(static_cast<int>(key.threads));
#if DNNL_VERSION_MAJOR >= 3
  const dnnl::matmul::primitive_desc description(engine(), product.a, product.b, product.c, attributes);
#else
  const dnnl::matmul::primitive_desc description(dnnl::matmul::desc(product.a, product.b, product.c), attributes,
                                                 engine());
#endif
  product.scratchpad = description.scratchpad_desc();
  product.primitive = dnnl::matmul(description);
  return product;
}

bool library_has_bf16() {
  static const bool available = [] {
    try {
      make_product({64, 64, 64, 64, 64, 64, 0, 0, 0, int64_t(DType::bf16), int64_t(DType::f32), Addend::none, 1});
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

void check_operands(const Tensor& a, const Tensor& b, const Tensor& c, const Tensor& addend, int64_t m, int64_t n,
                    int64_t k, int64_t k_of_b) {
  const bool types_fit =
      a.dtype == b.dtype && (c.dtype == DType::f32 || (a.dtype == DType::bf16 && c.dtype == DType::bf16));
  const bool addend_fits = !addend || (addend.dtype == DType::f32 && addend.rows == m && addend.cols == n &&
                                       (addend.data != c.data || c.dtype == DType::f32));
  if (types_fit && addend_fits && k == k_of_b && c.rows == m && c.cols == n) return;
  throw Error({.kind = ErrorKind::internal,
               .what = "GEMM operands do not fit",
               .seen = fmt::format("a {} op [{}, {}], b {} op [{}, {}], c {} [{}, {}]", name(a.dtype), m, k,
                                   name(b.dtype), k_of_b, n, name(c.dtype), c.rows, c.cols)});
}

/// Memory for packed fp32 copies of a product's operands and result; grows, and is kept for the thread's next product.
enum class WideOperand { a, b, c };
Tensor wide_like(const Tensor& x, WideOperand which) {
  thread_local Buffer memory[3];
  Buffer& buffer = memory[static_cast<int>(which)];
  const size_t bytes = bytes_of(DType::f32, x.rows, x.cols);
  if (buffer.bytes() < bytes) buffer = Buffer(bytes, "widened GEMM operands");
  return {DType::f32, buffer.data(), x.rows, x.cols};
}

}  // namespace

struct GemmCache::Entries {
  std::mutex mutex;
  std::unordered_map<Key, Product, KeyHash> products;

  /// Products are never removed and map nodes never move, so the reference outlives the lock.
  const Product& find(const Key& key) {
    const std::lock_guard lock(mutex);
    const auto found = products.find(key);
    return found != products.end() ? found->second : products.emplace(key, make_product(key)).first->second;
  }
};

GemmCache::GemmCache() : entries_(std::make_unique<Entries>()) {}
GemmCache::~GemmCache() = default;

namespace {

void run(Stream& stream, int threads, const Tensor& a, Transpose transpose_a, const Tensor& b, Transpose transpose_b,
         const Tensor& c, const Tensor& addend) {
  const bool ta = transpose_a == Transpose::yes, tb = transpose_b == Transpose::yes;
  const int64_t m = ta ? a.cols : a.rows, k = ta ? a.rows : a.cols, n = tb ? b.rows : b.cols;
  check_operands(a, b, c, addend, m, n, k, tb ? b.cols : b.rows);
  if (m == 0 || n == 0) return;
  const Key key{m,
                n,
                k,
                a.stride,
                b.stride,
                c.stride,
                addend ? addend.stride : 0,
                ta,
                tb,
                int64_t(a.dtype),
                int64_t(c.dtype),
                !addend                 ? Addend::none
                : addend.data == c.data ? Addend::destination
                                        : Addend::other,
                threads};
  try {
    const Product& product = stream.gemms().entries().find(key);
    thread_local dnnl::stream queue(engine());
    std::unordered_map<int, dnnl::memory> arguments{
        {DNNL_ARG_SRC, {product.a, engine(), a.data}},
        {DNNL_ARG_WEIGHTS, {product.b, engine(), b.data}},
        {DNNL_ARG_DST, {product.c, engine(), c.data}},
        {DNNL_ARG_SCRATCHPAD, {product.scratchpad, engine(), thread_scratch(product.scratchpad.get_size())}}};
    if (key.addend == Addend::other)
      arguments.emplace(DNNL_ARG_ATTR_MULTIPLE_POST_OP(0) | DNNL_ARG_SRC_1,
                        dnnl::memory(product.addend, engine(), addend.data));
    product.primitive.execute(queue, arguments);
    queue.wait();
  } catch (const dnnl::error& error) {
    throw Error({.kind = ErrorKind::resource,
                 .what = fmt::format("oneDNN could not multiply: {}", error.what()),
                 .seen = fmt::format("[{}, {}] x [{}, {}], {} to {}", m, k, k, n, name(a.dtype), name(c.dtype))});
  }
}

void run_or_widen(Stream& stream, int threads, const Tensor& a, Transpose transpose_a, const Tensor& b,
                  Transpose transpose_b, const Tensor& c, const Tensor& addend) {
  if (a.dtype != DType::bf16 || library_has_bf16())
    return run(stream, threads, a, transpose_a, b, transpose_b, c, addend);
  const Tensor wide_a = wide_like(a, WideOperand::a), wide_b = wide_like(b, WideOperand::b);
  convert(stream, a, wide_a);
  convert(stream, b, wide_b);
  if (c.dtype == DType::f32) return run(stream, threads, wide_a, transpose_a, wide_b, transpose_b, c, addend);
  const Tensor wide_c = wide_like(c, WideOperand::c);
  run(stream, threads, wide_a, transpose_a, wide_b, transpose_b, wide_c, addend);
  convert(stream, wide_c, c);
}

}  // namespace

void gemm(Stream& stream, const Tensor& a, Transpose transpose_a, const Tensor& b, Transpose transpose_b,
          const Tensor& c, const Tensor& addend) {
  run_or_widen(stream, stream.threads(), a, transpose_a, b, transpose_b, c, addend);
}

void gemm_in_task(Stream& stream, const Tensor& a, Transpose transpose_a, const Tensor& b, Transpose transpose_b,
                  const Tensor& c, const Tensor& addend) {
  run_or_widen(stream, 1, a, transpose_a, b, transpose_b, c, addend);
}

std::string gemm_library() {
  const dnnl_version_t* version = dnnl_version();
  std::string isa;
  switch (dnnl::get_effective_cpu_isa()) {
    case dnnl::cpu_isa::sse41:
      isa = "SSE4.1";
      break;
    case dnnl::cpu_isa::avx:
      isa = "AVX";
      break;
    case dnnl::cpu_isa::avx2:
      isa = "AVX2";
      break;
    case dnnl::cpu_isa::avx512_core:
      isa = "AVX-512";
      break;
    case dnnl::cpu_isa::avx512_core_vnni:
      isa = "AVX-512 VNNI";
      break;
    case dnnl::cpu_isa::avx512_core_bf16:
      isa = "AVX-512 bf16";
      break;
    case dnnl::cpu_isa::avx512_core_amx:
      isa = "AMX";
      break;
    default:
      isa = fmt::format("instruction set {:#x}", static_cast<int>(dnnl::get_effective_cpu_isa()));
  }
  return fmt::format("oneDNN {}.{}.{}, {}", version->major, version->minor, version->patch, isa);
}

double measure_gemm_peak(Stream& stream, DType type) {
  constexpr int64_t size = 1024;
  constexpr double budget = 0.15;  // seconds: long enough to meet a quiet moment on a busy machine
  const OwnedTensor a(type, size, size), b(type, size, size), c(DType::f32, size, size);
  const auto clock = [] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  };
  const double start = clock();
  double best = 0;
  for (int repeat = 0; repeat < 4 || clock() - start < budget; ++repeat) {
    const double begin = clock();
    gemm(stream, a, Transpose::no, b, Transpose::yes, c);
    if (repeat > 0) best = std::max(best, 2.0 * size * size * size / (clock() - begin) * 1e-12);
  }
  return best;
}

}  // namespace nibble
