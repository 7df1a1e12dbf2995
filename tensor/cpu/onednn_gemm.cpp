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

/// c of sums (f32), which may be c.
void finish_rows(Stream& stream, const Tensor& sums, const Epilogue& epilogue, const Tensor& c) {
  const int64_t rows_per_task = std::max<int64_t>(1, 4096 / std::max<int64_t>(1, c.cols));
  parallel_for(stream, c.rows, rows_per_task, [&](int64_t begin, int64_t end) {
    finish(sums.slice_rows(begin, end - begin), epilogue.part(begin, end - begin, 0, c.cols),
           c.slice_rows(begin, end - begin));
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
  if (!product.scaling.trivial()) {
    Product sums = product;
    sums.scaling = {};
    sums.addend = {};
    // What is added last must not be overwritten before.
    if (product.c.dtype != DType::f32 || product.addend) sums.c = wide_like(product.c, WideOperand::c);
    onednn_gemm(stream, threads, sums);
    return finish_rows(stream, sums.c, {product.scaling, product.addend}, product.c);
  }
  if (product.a.dtype != DType::bf16 || library_has_bf16()) return run(stream, threads, product);
  Product wide = product;
  wide.a = wide_like(product.a, WideOperand::a);
  wide.b = wide_like(product.b, WideOperand::b);
  convert(stream, product.a, wide.a);
  convert(stream, product.b, wide.b);
  if (product.c.dtype == DType::f32) return run(stream, threads, wide);
  wide.c = wide_like(product.c, WideOperand::c);
  run(stream, threads, wide);
  convert(stream, wide.c, product.c);
}

size_t onednn_scratch_bytes(int threads, DType operands, int64_t a, int64_t b, int64_t c, int64_t scaled_c) {
  // Scratchpads (measured: 1.1 MiB for two threads), and what tasks widen: blocks of attention, 0.4 MB.
  constexpr size_t each_thread = size_t{2} << 20;
  size_t bytes = static_cast<size_t>(threads) * each_thread;
  if (operands == DType::bf16 && !library_has_bf16())
    return bytes + bytes_of(DType::f32, 1, a) + bytes_of(DType::f32, 1, b) +
           bytes_of(DType::f32, 1, std::max(c, scaled_c));
  return bytes + bytes_of(DType::f32, 1, scaled_c);
}

namespace {

int effective_isa() { return static_cast<int>(dnnl::get_effective_cpu_isa()); }

bool contains(int isa, dnnl::cpu_isa part) { return (isa & static_cast<int>(part)) == static_cast<int>(part); }

}  // namespace

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
