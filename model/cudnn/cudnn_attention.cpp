// The only file that includes cuDNN's frontend, which takes minutes to compile.
#include "model/cudnn/cudnn_attention.hpp"

#include <cudnn_frontend.h>
#include <fmt/format.h>

#include <array>
#include <cassert>
#include <cmath>
#include <map>
#include <memory>
#include <unordered_map>

#include "tensor/cuda/stream_memory.hpp"
#include "tensor/error.hpp"
#include "tensor/imagined_device.hpp"

namespace nibble::cuda {
namespace {

namespace fe = cudnn_frontend;
using Attributes = fe::graph::Tensor_attributes;
using TensorOfGraph = std::shared_ptr<Attributes>;

enum class Direction : uint8_t { forward, backward };

/// What a graph's tensors are called when it runs.
enum Id : int64_t { query = 1, key, value, output, statistics, doutput, dquery, dkey, dvalue };

[[noreturn]] void fail(const std::string& what, const std::string& where, const std::string& seen) {
  throw Error({.kind = ErrorKind::resource,
               .what = "cuDNN fails: " + what,
               .where = where,
               .seen = seen,
               .next = "set run.gpu_attention=own"});
}

void check(fe::error_t error, const char* what, const AttentionShape& shape) {
  if (error.is_good()) return;
  fail(what,
       fmt::format("attention of {} x {} tokens, {} heads of {} channels, {} of them for keys", shape.sequences,
                   shape.length, shape.heads, shape.head_dim, shape.kv_heads),
       error.get_message());
}

void check(cudnnStatus_t status, const char* what) {
  if (status != CUDNN_STATUS_SUCCESS) fail(what, "attention", cudnnGetErrorString(status));
}

int64_t packed_width(const AttentionShape& shape) { return shape.query_width() + 2 * shape.kv_width(); }

/// Heads side by side in rows of `width` elements and what an arena adds: [sequences, heads, T, hd].
Attributes& lay_out_heads(Attributes& tensor, Id id, const AttentionShape& shape, int64_t heads, int64_t width) {
  const int64_t row = padded_stride(DType::bf16, width);
  return tensor.set_uid(id)
      .set_dim({shape.sequences, heads, shape.length, shape.head_dim})
      .set_stride({shape.length * row, shape.head_dim, row, 1});
}

/// Log-sum-exps: [sequences, heads, T, 1] without gaps, all that cuDNN before 9.26 reads in a backward pass.
Attributes& lay_out_statistics(Attributes& tensor, const AttentionShape& shape) {
  return tensor.set_uid(statistics)
      .set_data_type(fe::DataType_t::FLOAT)
      .set_dim({shape.sequences, shape.heads, shape.length, 1})
      .set_stride({shape.heads * shape.length, shape.length, 1, 1});
}

struct QueriesKeysValues {
  TensorOfGraph queries, keys, values;

  void lay_out(const AttentionShape& shape, Id of_queries, Id of_keys, Id of_values) const {
    lay_out_heads(*queries, of_queries, shape, shape.heads, packed_width(shape));
    lay_out_heads(*keys, of_keys, shape, shape.kv_heads, packed_width(shape));
    lay_out_heads(*values, of_values, shape, shape.kv_heads, packed_width(shape));
  }
};

TensorOfGraph input(fe::graph::Graph& graph) { return graph.tensor(Attributes()); }

QueriesKeysValues inputs(fe::graph::Graph& graph, const AttentionShape& shape) {
  const QueriesKeysValues made{input(graph), input(graph), input(graph)};
  made.lay_out(shape, query, key, value);
  return made;
}

template <class Options>
Options options(const AttentionShape& shape) {
  Options made;
  made.set_attn_scale(1.0f / std::sqrt(static_cast<float>(shape.head_dim)))
      .set_diagonal_alignment(fe::DiagonalAlignment_t::TOP_LEFT)
      .set_diagonal_band_right_bound(0);
  return made;
}

void describe_forward(fe::graph::Graph& graph, const AttentionShape& shape) {
  const QueriesKeysValues in = inputs(graph, shape);
  auto [y, log_sum_exp] =
      graph.sdpa(in.queries, in.keys, in.values, options<fe::graph::SDPA_attributes>(shape).set_generate_stats(true));
  lay_out_heads(y->set_output(true), output, shape, shape.heads, shape.query_width());
  lay_out_statistics(log_sum_exp->set_output(true), shape);
}

void describe_backward(fe::graph::Graph& graph, const AttentionShape& shape) {
  const QueriesKeysValues in = inputs(graph, shape);
  const TensorOfGraph y = input(graph), dy = input(graph), log_sum_exp = input(graph);
  lay_out_heads(*y, output, shape, shape.heads, shape.query_width());
  lay_out_heads(*dy, doutput, shape, shape.heads, shape.query_width());
  lay_out_statistics(*log_sum_exp, shape);
  const auto [dqueries, dkeys, dvalues] =
      graph.sdpa_backward(in.queries, in.keys, in.values, y, dy, log_sum_exp,
                          options<fe::graph::SDPA_backward_attributes>(shape).set_deterministic_algorithm(true));
  for (const TensorOfGraph& gradient : {dqueries, dkeys, dvalues}) gradient->set_output(true);
  QueriesKeysValues{dqueries, dkeys, dvalues}.lay_out(shape, dquery, dkey, dvalue);
}

std::unique_ptr<fe::graph::Graph> describe(const AttentionShape& shape, Direction direction) {
  auto graph = std::make_unique<fe::graph::Graph>();
  graph->set_io_data_type(fe::DataType_t::BFLOAT16)
      .set_intermediate_data_type(fe::DataType_t::FLOAT)
      .set_compute_data_type(fe::DataType_t::FLOAT)
      .set_cuda_graph_retention(fe::CudaGraphRetention_t::NONE);  // what the stream keeps outlives its CUDA graphs
  if (direction == Direction::forward) describe_forward(*graph, shape);
  else describe_backward(*graph, shape);
  return graph;
}

/// Where each tensor of a graph lies.
using Places = std::unordered_map<int64_t, void*>;

/// Adds those of queries, keys and values, which lie in one tensor of rows.
void add(Places& places, const AttentionShape& shape, const Tensor& packed, Id queries, Id keys, Id values) {
  assert(packed.dtype == DType::bf16 && packed.stride == padded_stride(DType::bf16, packed_width(shape)));
  places.emplace(queries, packed.data);
  places.emplace(keys, packed.slice_cols(shape.query_width(), shape.kv_width()).data);
  places.emplace(values, packed.slice_cols(shape.query_width() + shape.kv_width(), shape.kv_width()).data);
}

/// Of a stream.
class CudnnAttention final : public LibraryState {
 public:
  explicit CudnnAttention(Queue& queue) {
    cudnnHandle_t made = nullptr;
    check(cudnnCreate(&made), "its beginning");
    handle_.reset(made);
    if (imagined_device()) return;  // only asked what it works in
    check(cudnnSetStream(made, static_cast<cudaStream_t>(handle(queue))), "its beginning");
  }

  size_t bytes(const AttentionShape& shape, Direction direction) { return of(shape, direction).bytes; }

  void run(const AttentionShape& shape, Direction direction, Places& places, const Tensor& working) {
    const Built& built = of(shape, direction);
    assert(working.bytes() >= built.bytes);
    check(built.graph->execute(handle_.get(), places, working.data), "attention", shape);
  }

 private:
  struct Built {
    std::unique_ptr<fe::graph::Graph> graph;
    size_t bytes = 0;  ///< that it works in
  };
  struct Destroy {
    void operator()(cudnnHandle_t made) const { cudnnDestroy(made); }
  };
  using Key = std::array<int64_t, 6>;

  const Built& of(const AttentionShape& shape, Direction direction) {
    const Key wanted{shape.sequences, shape.length,   shape.heads,
                     shape.kv_heads,  shape.head_dim, static_cast<int64_t>(direction)};
    const auto found = built_.find(wanted);
    return found != built_.end() ? found->second : built_.emplace(wanted, build(shape, direction)).first->second;
  }

  Built build(const AttentionShape& shape, Direction direction) const {
    Built made{.graph = describe(shape, direction)};
    check(made.graph->build(handle_.get(), {fe::HeurMode_t::A}), "it has no kernel for this GPU", shape);
    int64_t bytes = 0;
    check(made.graph->get_workspace_size(bytes), "its working memory", shape);
    made.bytes = static_cast<size_t>(bytes);
    return made;
  }

  std::unique_ptr<std::remove_pointer_t<cudnnHandle_t>, Destroy> handle_;
  std::map<Key, Built> built_;
};

CudnnAttention& attention_of(const Stream& stream) {
  std::unique_ptr<LibraryState>& kept = stream.memory().attention;
  if (!kept) kept = std::make_unique<CudnnAttention>(stream.queue());
  return static_cast<CudnnAttention&>(*kept);
}

}  // namespace

std::string cudnn_version() {
  // As CUDNN_VERSION is made.
  const size_t number = cudnnGetVersion();
  return fmt::format("{}.{}.{}", number / 10000, number / 100 % 100, number % 100);
}

size_t cudnn_attention_bytes(const Stream& stream, const AttentionShape& shape, bool training) {
  CudnnAttention& attention = attention_of(stream);
  const size_t forward = attention.bytes(shape, Direction::forward);
  return training ? std::max(forward, attention.bytes(shape, Direction::backward)) : forward;
}

void cudnn_attention_forward(const Stream& stream, const AttentionShape& shape, const Tensor& qkv,
                             const Tensor& working, const Tensor& y, const Tensor& log_sum_exp) {
  if (shape.tokens() == 0) return;
  assert(y.stride == padded_stride(DType::bf16, shape.query_width()));
  Places places{{output, y.data}, {statistics, log_sum_exp.data}};
  add(places, shape, qkv, query, key, value);
  attention_of(stream).run(shape, Direction::forward, places, working);
}

void cudnn_attention_backward(const Stream& stream, const AttentionShape& shape, const Tensor& dy, const Tensor& qkv,
                              const Tensor& y, const Tensor& log_sum_exp, const Tensor& working, const Tensor& dqkv) {
  if (shape.tokens() == 0) return;
  assert(y.stride == padded_stride(DType::bf16, shape.query_width()) && dy.stride == y.stride);
  Places places{{output, y.data}, {doutput, dy.data}, {statistics, log_sum_exp.data}};
  add(places, shape, qkv, query, key, value);
  add(places, shape, dqkv, dquery, dkey, dvalue);
  attention_of(stream).run(shape, Direction::backward, places, working);
}

}  // namespace nibble::cuda
